// The client of the swap stories: one process that outlives every broker it talks to, so that its idempotent producers
// go on with the same ids and sequences whoever serves them. It takes commands on standard input, one per line, and
// answers each with lines that begin with "| " and then "ok" or "failed: why".
//
// Run from source: java -cp 'libs/*' SwapClient.java host:port,…

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class SwapClient {
    static final String[] CODECS = {"none", "gzip", "snappy", "lz4", "zstd"};
    static final String FLOW = "swap-flow";
    static final String TRANSACTIONS = "swap-transactions";
    static final int PARTITIONS = 2;

    /** What a partition must hold: the offset of each record, and a digest of all that is in it. */
    static final Map<TopicPartition, TreeMap<Long, Long>> expected = new TreeMap<>(
        (a, b) -> a.toString().compareTo(b.toString()));
    static final Map<String, KafkaProducer<byte[], byte[]>> producers = new java.util.concurrent.ConcurrentHashMap<>();
    static final ConcurrentLinkedQueue<String> failures = new ConcurrentLinkedQueue<>();
    static final Random random = new Random(4711);
    static String servers;
    static Admin admin;
    static long sequence;
    static Flow flow;

    public static void main(String[] args) throws Exception {
        servers = args[0];
        Properties properties = new Properties();
        properties.put("bootstrap.servers", servers);
        properties.put("default.api.timeout.ms", "60000");
        properties.put("request.timeout.ms", "15000");
        properties.put("reconnect.backoff.max.ms", "500");
        admin = Admin.create(properties);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            String[] words = line.trim().split(" ");
            try {
                run(words);
                System.out.println("ok");
            } catch (Throwable e) {
                Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
                StackTraceElement[] at = cause.getStackTrace();
                System.out.println("failed: " + String.valueOf(cause).replace('\n', ' ')
                    + (at.length > 0 ? " at " + at[0] : ""));
            }
            System.out.flush();
        }
        // Producers that still wait for a broker would hold the process up.
        Runtime.getRuntime().halt(0);
    }

    static void run(String[] words) throws Exception {
        switch (words[0]) {
            case "topics": createTopics(); break;
            case "send": send(Integer.parseInt(words[1])); break;
            case "check": check(); break;
            case "describe": describe(); break;
            case "change": change(Integer.parseInt(words[1])); break;
            case "isr": isr(Integer.parseInt(words[1])); break;
            case "elect": elect(); break;
            case "leaders": leaders(); break;
            case "controller": say(String.valueOf(admin.describeMetadataQuorum().quorumInfo().get().leaderId())); break;
            case "transactions": transactions(Integer.parseInt(words[1])); break;
            case "commit": commit(Long.parseLong(words[1])); break;
            case "committed": committed(Long.parseLong(words[1])); break;
            case "flow": flow = new Flow(Integer.parseInt(words[1])); flow.start(); break;
            case "flowing": say(flow.acknowledged.get() + " " + flow.longest / 1_000_000); break;
            case "stop-flow": flow.finish(); break;
            default: throw new IllegalArgumentException("no command " + words[0]);
        }
    }

    static void say(String line) {
        System.out.println("| " + line);
    }

    static KafkaProducer<byte[], byte[]> producer(String codec) {
        return producers.computeIfAbsent(codec, c -> new KafkaProducer<>(producerConfig(c.equals("flow") ? "none" : c)));
    }

    static Properties producerConfig(String codec) {
        Properties p = new Properties();
        p.put("bootstrap.servers", servers);
        p.put("key.serializer", ByteArraySerializer.class.getName());
        p.put("value.serializer", ByteArraySerializer.class.getName());
        p.put("acks", "all");
        p.put("enable.idempotence", "true");
        p.put("compression.type", codec);
        p.put("linger.ms", "5");
        // A swap of all three takes a while on a small machine.
        p.put("delivery.timeout.ms", "240000");
        p.put("max.block.ms", "240000");
        p.put("request.timeout.ms", "10000");
        p.put("reconnect.backoff.max.ms", "500");
        return p;
    }

    static void createTopics() throws Exception {
        List<NewTopic> topics = new ArrayList<>();
        for (String codec : CODECS) {
            topics.add(new NewTopic("swap-" + codec, PARTITIONS, (short) 3).configs(Map.of(
                "min.insync.replicas", "2", "segment.bytes", "1048576", "retention.ms", "86400000")));
        }
        topics.add(new NewTopic(FLOW, 3, (short) 3).configs(Map.of("min.insync.replicas", "2")));
        topics.add(new NewTopic(TRANSACTIONS, 1, (short) 3).configs(Map.of("min.insync.replicas", "2")));
        admin.createTopics(topics).all().get();
        admin.incrementalAlterConfigs(Map.of(
            new ConfigResource(ConfigResource.Type.BROKER, ""),
            List.of(new AlterConfigOp(new ConfigEntry("log.cleaner.threads", "1"), AlterConfigOp.OpType.SET),
                new AlterConfigOp(new ConfigEntry("message.max.bytes", "1048588"), AlterConfigOp.OpType.SET)))).all().get();
    }

    static ProducerRecord<byte[], byte[]> record(String topic, int partition) {
        long n = sequence++;
        byte[] key = n % 7 == 0 ? null : ("key-" + n % 100).getBytes(StandardCharsets.UTF_8);
        byte[] value = n % 31 == 0 ? null : new byte[random.nextInt(n % 50 == 0 ? 20_000 : 600)];
        if (value != null) {
            // Half of it compresses well.
            random.nextBytes(value);
            Arrays.fill(value, value.length / 2, value.length, (byte) 'z');
        }
        ProducerRecord<byte[], byte[]> r =
            new ProducerRecord<>(topic, partition, System.currentTimeMillis() - n % 5, key, value);
        if (n % 3 == 0) {
            r.headers().add("n", Long.toString(n).getBytes(StandardCharsets.UTF_8)).add("null", null);
        }
        return r;
    }

    static long digest(long timestamp, byte[] key, byte[] value, Iterable<Header> headers) {
        long d = timestamp;
        d = d * 1_000_003 + Arrays.hashCode(key);
        d = d * 1_000_003 + Arrays.hashCode(value);
        for (Header h : headers) {
            d = (d * 1_000_003 + h.key().hashCode()) * 1_000_003 + Arrays.hashCode(h.value());
        }
        return d;
    }

    static void note(TopicPartition at, long offset, long digest) {
        synchronized (expected) {
            TreeMap<Long, Long> there = expected.computeIfAbsent(at, x -> new TreeMap<>());
            // Acknowledgements of a partition come in the order of sending.
            if (!there.isEmpty() && offset <= there.lastKey()) {
                failures.add(at + " offset " + offset + " was acknowledged after " + there.lastKey());
            }
            there.put(offset, digest);
        }
    }

    static void sendOne(KafkaProducer<byte[], byte[]> producer, ProducerRecord<byte[], byte[]> r, Runnable done) {
        long digest = digest(r.timestamp(), r.key(), r.value(), r.headers());
        producer.send(r, (metadata, error) -> {
            if (error != null) {
                failures.add(r.topic() + "-" + r.partition() + ": " + error);
            } else {
                note(new TopicPartition(metadata.topic(), metadata.partition()), metadata.offset(), digest);
            }
            done.run();
        });
    }

    static void send(int count) throws Exception {
        for (String codec : CODECS) {
            for (int i = 0; i < count; i++) {
                sendOne(producer(codec), record("swap-" + codec, i % PARTITIONS), () -> { });
            }
        }
        for (String codec : CODECS) {
            producer(codec).flush();
        }
        noFailures();
    }

    static void noFailures() {
        if (!failures.isEmpty()) {
            throw new IllegalStateException(failures.size() + " failures: " + failures.peek());
        }
    }

    /** Every record that was acknowledged is there at its offset, and nothing else. */
    static void check() throws Exception {
        noFailures();
        Properties p = new Properties();
        p.put("bootstrap.servers", servers);
        p.put("key.deserializer", ByteArrayDeserializer.class.getName());
        p.put("value.deserializer", ByteArrayDeserializer.class.getName());
        p.put("isolation.level", "read_committed");
        p.put("auto.offset.reset", "none");
        Set<TopicPartition> open = new TreeSet<>((a, b) -> a.toString().compareTo(b.toString()));
        synchronized (expected) {
            open.addAll(expected.keySet());
        }
        Map<TopicPartition, TreeMap<Long, Long>> found = new HashMap<>();
        open.forEach(at -> found.put(at, new TreeMap<>()));
        long count = 0;
        Map<TopicPartition, Long> ends;
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(p)) {
            consumer.assign(open);
            consumer.seekToBeginning(open);
            ends = consumer.endOffsets(open);
            long limit = System.nanoTime() + 60_000_000_000L;
            while (!open.isEmpty()) {
                if (System.nanoTime() > limit) {
                    throw new IllegalStateException("not read to the end: " + open + ", ends " + ends);
                }
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(200))) {
                    TopicPartition at = new TopicPartition(r.topic(), r.partition());
                    long digest = digest(r.timestamp(), r.key(), r.value(), r.headers());
                    if (r.offset() < ends.get(at) && found.get(at).put(r.offset(), digest) != null) {
                        throw new IllegalStateException(at + " gives offset " + r.offset() + " twice");
                    }
                    count++;
                }
                open.removeIf(at -> consumer.position(at) >= ends.get(at));
            }
        }
        for (Map.Entry<TopicPartition, TreeMap<Long, Long>> entry : found.entrySet()) {
            compare(entry.getKey(), entry.getValue(), ends.get(entry.getKey()));
        }
        say(count + " records");
    }

    static void compare(TopicPartition at, TreeMap<Long, Long> found, long end) throws Exception {
        // What is there may be acknowledged in a moment.
        long limit = System.nanoTime() + 20_000_000_000L;
        TreeMap<Long, Long> wanted;
        do {
            synchronized (expected) {
                wanted = new TreeMap<>(expected.get(at).headMap(end));
            }
            if (wanted.equals(found)) {
                return;
            }
            Thread.sleep(50);
        } while (System.nanoTime() < limit);
        noFailures();
        TreeMap<Long, Long> lost = new TreeMap<>(wanted);
        lost.keySet().removeAll(found.keySet());
        TreeMap<Long, Long> foreign = new TreeMap<>(found);
        foreign.keySet().removeAll(wanted.keySet());
        wanted.keySet().retainAll(found.keySet());
        found.keySet().retainAll(wanted.keySet());
        wanted.entrySet().removeAll(found.entrySet());
        throw new IllegalStateException(at + " up to " + end + ": " + lost.size() + " records lost "
            + some(lost) + ", " + foreign.size() + " not acknowledged " + some(foreign) + ", " + wanted.size()
            + " others than sent " + some(wanted));
    }

    static String some(TreeMap<Long, Long> offsets) {
        return offsets.keySet().stream().limit(5).collect(Collectors.toList()).toString();
    }

    /** What must not depend on who answers. */
    static void describe() throws Exception {
        say("cluster " + admin.describeCluster().clusterId().get());
        Set<String> names = new TreeSet<>(admin.listTopics().names().get());
        Map<String, TopicDescription> topics = admin.describeTopics(names).allTopicNames().get();
        for (String name : names) {
            TopicDescription t = topics.get(name);
            say("topic " + name + " " + t.topicId() + " " + t.partitions().stream().map(p -> p.partition() + ":"
                + p.replicas().stream().map(n -> n.idString()).collect(Collectors.joining(","))).collect(
                Collectors.joining(" ")));
        }
        Collection<ConfigResource> resources = new ArrayList<>();
        names.forEach(n -> resources.add(new ConfigResource(ConfigResource.Type.TOPIC, n)));
        resources.add(new ConfigResource(ConfigResource.Type.BROKER, ""));
        resources.add(new ConfigResource(ConfigResource.Type.BROKER, "1"));
        Map<ConfigResource, Config> configs = admin.describeConfigs(resources).all().get();
        for (ConfigResource resource : resources) {
            boolean all = resource.type() == ConfigResource.Type.TOPIC;
            configs.get(resource).entries().stream()
                .filter(e -> all || e.source() != ConfigEntry.ConfigSource.DEFAULT_CONFIG)
                .map(e -> "config " + resource.type() + " " + resource.name() + " " + e.name() + "=" + e.value() + " "
                    + e.source() + (e.isReadOnly() ? " read-only" : ""))
                .sorted().forEach(SwapClient::say);
        }
        FeatureMetadata features = admin.describeFeatures().featureMetadata().get();
        new TreeMap<>(features.finalizedFeatures()).forEach((name, level) -> say("feature " + name + " " + level));
        QuorumInfo quorum = admin.describeMetadataQuorum().quorumInfo().get();
        quorum.voters().stream().map(v -> "voter " + v.replicaId() + " " + v.replicaDirectoryId()).sorted()
            .forEach(SwapClient::say);
        quorum.nodes().values().stream().map(n -> "quorum node " + n.nodeId() + " " + n.endpoints()).sorted()
            .forEach(SwapClient::say);
    }

    /** Records of many kinds for the metadata log. */
    static void change(int round) throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, "swap-gzip");
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
        admin.incrementalAlterConfigs(Map.of(
            topic, List.of(
                new AlterConfigOp(new ConfigEntry("retention.ms", Long.toString(86_400_000L + round)), AlterConfigOp.OpType.SET),
                new AlterConfigOp(new ConfigEntry("max.message.bytes", "900000"),
                    round % 2 == 0 ? AlterConfigOp.OpType.SET : AlterConfigOp.OpType.DELETE)),
            broker, List.of(new AlterConfigOp(new ConfigEntry("log.cleaner.backoff.ms", Long.toString(15_000 + round)),
                AlterConfigOp.OpType.SET)))).all().get();
        for (int i = 0; i < 3; i++) {
            admin.createTopics(List.of(new NewTopic("made-" + round + "-" + i, 4, (short) 3))).all().get();
        }
        admin.createPartitions(Map.of("made-" + round + "-0", NewPartitions.increaseTo(6))).all().get();
        admin.deleteTopics(List.of("made-" + round + "-1")).all().get();
    }

    /** All partitions have so many replicas in their ISR, and a leader. */
    static void isr(int size) throws Exception {
        long limit = System.nanoTime() + 60_000_000_000L;
        for (;;) {
            String bad = null;
            try {
                Set<String> names = admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get();
                for (TopicDescription t : admin.describeTopics(names).allTopicNames().get().values()) {
                    for (var p : t.partitions()) {
                        if (p.isr().size() != size || p.leader() == null || p.leader().isEmpty()) {
                            bad = t.name() + "-" + p.partition() + " leader " + p.leader() + " isr " + p.isr();
                        }
                    }
                }
            } catch (ExecutionException e) {
                bad = e.getCause().toString();
            }
            if (bad == null) {
                return;
            }
            if (System.nanoTime() > limit) {
                throw new IllegalStateException("no ISR of " + size + " within a minute: " + bad);
            }
            Thread.sleep(100);
        }
    }

    static void elect() throws Exception {
        Map<TopicPartition, java.util.Optional<Throwable>> results =
            admin.electLeaders(ElectionType.PREFERRED, null).partitions().get();
        for (Map.Entry<TopicPartition, java.util.Optional<Throwable>> e : results.entrySet()) {
            if (e.getValue().isPresent() && !(e.getValue().get() instanceof ElectionNotNeededException)) {
                throw new IllegalStateException(e.getKey() + ": " + e.getValue().get());
            }
        }
    }

    /** The leaders of the topic that flows. */
    static void leaders() throws Exception {
        TopicDescription t = admin.describeTopics(List.of(FLOW)).allTopicNames().get().get(FLOW);
        say(t.partitions().stream().map(p -> p.leader() == null ? "none" : p.leader().idString())
            .collect(Collectors.joining(" ")));
    }

    /** Committed, aborted, committed. Only where there is a coordinator. */
    static void transactions(int round) throws Exception {
        Properties p = producerConfig("lz4");
        p.put("transactional.id", "swap-" + round);
        TopicPartition at = new TopicPartition(TRANSACTIONS, 0);
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(p)) {
            producer.initTransactions();
            for (int i = 0; i < 3; i++) {
                producer.beginTransaction();
                Map<Long, Long> sent = new TreeMap<>();
                for (int j = 0; j < 20; j++) {
                    ProducerRecord<byte[], byte[]> r = record(TRANSACTIONS, 0);
                    long digest = digest(r.timestamp(), r.key(), r.value(), r.headers());
                    sent.put(producer.send(r).get().offset(), digest);
                }
                if (i == 1) {
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                    sent.forEach((offset, digest) -> note(at, offset, digest));
                }
            }
        }
    }

    static void commit(long offset) throws Exception {
        admin.alterConsumerGroupOffsets("swap-group", Map.of(
            new TopicPartition(FLOW, 0), new OffsetAndMetadata(offset))).all().get();
    }

    static void committed(long offset) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> found =
            admin.listConsumerGroupOffsets("swap-group").partitionsToOffsetAndMetadata().get();
        OffsetAndMetadata there = found.get(new TopicPartition(FLOW, 0));
        if (there == null || there.offset() != offset) {
            throw new IllegalStateException("offset " + offset + " was committed, found is " + found);
        }
    }

    /** Records all the time, at most a thousand of them on their way. */
    static class Flow extends Thread {
        final int perSecond;
        final Semaphore underWay = new Semaphore(1_000);
        final AtomicLong acknowledged = new AtomicLong();
        volatile boolean over;
        volatile long last = System.nanoTime();
        volatile long longest;

        Flow(int perSecond) {
            this.perSecond = perSecond;
            setDaemon(true);
        }

        void done() {
            underWay.release();
            acknowledged.incrementAndGet();
            long now = System.nanoTime();
            longest = Math.max(longest, now - last);
            last = now;
        }

        @Override
        public void run() {
            KafkaProducer<byte[], byte[]> producer = producer("flow");
            long start = System.nanoTime();
            try {
                for (long i = 0; !over; i++) {
                    underWay.acquire();
                    byte[] value = ("flow " + i).getBytes(StandardCharsets.UTF_8);
                    sendOne(producer, new ProducerRecord<>(FLOW, (int) (i % 3), System.currentTimeMillis(), null, value),
                        this::done);
                    long due = start + i * 1_000_000_000L / perSecond;
                    long wait = (due - System.nanoTime()) / 1_000_000;
                    if (wait > 0) {
                        Thread.sleep(wait);
                    }
                }
            } catch (InterruptedException | RuntimeException e) {
                failures.add("the flow ended: " + e);
            }
        }

        void finish() throws Exception {
            over = true;
            join(300_000);
            producer("flow").flush();
            noFailures();
            say(acknowledged.get() + " records acknowledged, longest silence " + longest / 1_000_000 + " ms");
        }
    }
}
