// The clients of the story about consumer groups: many consumers in one process, and a producer that never stops, so
// that whoever owns a partition, whoever else believes to own it, and what became of each record is known in one place.
// Commands come on standard input, one per line; each is answered with lines that begin with "| " and then "ok" or
// "failed: why".
//
// Run from source: java -cp 'libs/*' GroupClient.java host:port,…

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicLong;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class GroupClient {
    static String servers;
    static Admin admin;
    static final Map<String, Member> members = new ConcurrentHashMap<>();
    static final Map<String, Group> groups = new ConcurrentHashMap<>();
    /** Of each partition, one more than the offset of the last record that was acknowledged. */
    static final Map<TopicPartition, Long> sent = new ConcurrentHashMap<>();
    static final Queue<String> failures = new ConcurrentLinkedQueue<>();
    static final List<Thread> flows = new CopyOnWriteArrayList<>();
    static volatile boolean flowing = true;

    /** What the members of a group did, all together. */
    static class Group {
        final Map<TopicPartition, String> owners = new HashMap<>();
        final Map<TopicPartition, BitSet> processed = new ConcurrentHashMap<>();
        final AtomicLong doubled = new AtomicLong();
        long committedAt = System.nanoTime();
        long gapMax;

        synchronized void assigned(String name, Collection<TopicPartition> partitions) {
            for (TopicPartition p : partitions) {
                String other = owners.put(p, name);
                if (other != null && !other.equals(name)) {
                    failures.add(p + " was given to " + name + " while " + other + " had it");
                }
            }
        }

        synchronized void gone(String name, Collection<TopicPartition> partitions) {
            partitions.forEach(p -> owners.remove(p, name));
        }

        synchronized void committed() {
            long now = System.nanoTime();
            gapMax = Math.max(gapMax, now - committedAt);
            committedAt = now;
        }

        void process(ConsumerRecord<byte[], byte[]> record) {
            BitSet seen = processed.computeIfAbsent(new TopicPartition(record.topic(), record.partition()), p -> new BitSet());
            synchronized (seen) {
                if (seen.get((int) record.offset())) doubled.incrementAndGet();
                seen.set((int) record.offset());
            }
        }
    }

    static class Member extends Thread implements ConsumerRebalanceListener {
        final String name;
        final Group group;
        final KafkaConsumer<byte[], byte[]> consumer;
        volatile boolean running = true;

        Member(String name, Group group, Properties properties, String topics, boolean isPattern) {
            super(name);
            this.name = name;
            this.group = group;
            this.consumer = new KafkaConsumer<>(properties);
            boolean isNew = "consumer".equals(properties.get("group.protocol"));
            if (!isPattern) consumer.subscribe(Arrays.asList(topics.split(",")), this);
            else if (isNew) consumer.subscribe(new SubscriptionPattern(topics), this);
            else consumer.subscribe(Pattern.compile(topics), this);
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            group.assigned(name, partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            try {
                consumer.commitSync(Duration.ofSeconds(5));
            } catch (Exception e) {
                System.err.println(name + " commits before it gives up: " + e);
            }
            group.gone(name, partitions);
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            System.err.println(name + " lost " + partitions);
            group.gone(name, partitions);
        }

        @Override
        public void run() {
            try {
                while (running) {
                    ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(50));
                    records.forEach(group::process);
                    if (consumer.assignment().isEmpty()) continue;
                    try {
                        consumer.commitSync(Duration.ofSeconds(10));
                        group.committed();
                    } catch (org.apache.kafka.common.errors.RetriableException | CommitFailedException
                             | org.apache.kafka.common.errors.StaleMemberEpochException e) {
                        System.err.println(name + " commits: " + e);
                    }
                }
            } catch (WakeupException e) {
                // It is to end.
            } catch (Throwable e) {
                failures.add(name + ": " + e);
                e.printStackTrace();
            } finally {
                try {
                    consumer.close(Duration.ofSeconds(10));
                } catch (Throwable e) {
                    failures.add(name + " closes: " + e);
                }
            }
        }
    }

    public static void main(String[] args) throws Exception {
        servers = args[0];
        admin = Admin.create(base(new Properties()));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            try {
                run(line.trim().split(" "));
                System.out.println("ok");
            } catch (Throwable e) {
                Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
                System.out.println("failed: " + String.valueOf(cause).replace('\n', ' '));
            }
            System.out.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    static Properties base(Properties properties) {
        properties.put("bootstrap.servers", servers);
        properties.put("reconnect.backoff.max.ms", "200");
        properties.put("default.api.timeout.ms", "30000");
        properties.put("request.timeout.ms", "15000");
        return properties;
    }

    static void run(String[] words) throws Exception {
        switch (words[0]) {
            case "topic" -> admin.createTopics(List.of(new NewTopic(words[1], Integer.parseInt(words[2]), (short) 3))).all().get();
            case "partitions" ->
                admin.createPartitions(Map.of(words[1], NewPartitions.increaseTo(Integer.parseInt(words[2])))).all().get();
            case "flow" -> flow(words[1], Integer.parseInt(words[2]));
            case "stop-flow" -> {
                flowing = false;
                for (Thread flow : flows) flow.join();
                flows.clear();
                flowing = true;
            }
            case "start" -> start(words);
            case "stop" -> {
                Member member = members.remove(words[1]);
                member.running = false;
                member.join(20_000);
                if (member.isAlive()) throw new IllegalStateException(words[1] + " does not end");
            }
            case "settle" -> settle(groups.get(words[1]), Integer.parseInt(words[2]));
            case "owners" -> {
                Group group = groups.get(words[1]);
                synchronized (group) {
                    Map<String, Long> counts = group.owners.values().stream()
                        .collect(Collectors.groupingBy(name -> name, TreeMap::new, Collectors.counting()));
                    say(String.valueOf(counts));
                }
            }
            case "gap" -> {
                Group group = groups.get(words[1]);
                synchronized (group) {
                    say(String.valueOf(group.gapMax / 1_000_000));
                    group.gapMax = 0;
                    group.committedAt = System.nanoTime();
                }
            }
            case "coordinator" -> say(String.valueOf(describe(words[1]).coordinator().id()));
            case "describe" -> {
                ConsumerGroupDescription group = describe(words[1]);
                say(group.type() + " " + group.groupState() + " " + group.members().size() + " " + group.partitionAssignor());
            }
            case "drained" -> drained(groups.get(words[1]), words[2]);
            case "check" -> {
                if (!failures.isEmpty()) throw new IllegalStateException(String.join("; ", failures));
            }
            default -> throw new IllegalArgumentException("unknown: " + words[0]);
        }
    }

    static void say(String text) {
        System.out.println("| " + text);
    }

    static ConsumerGroupDescription describe(String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).describedGroups().get(group).get(20, TimeUnit.SECONDS);
    }

    /** start NAME GROUP classic|consumer topics|pattern WHAT [key=value …] */
    static void start(String[] words) {
        Properties properties = base(new Properties());
        properties.put("group.id", words[2]);
        properties.put("group.protocol", words[3]);
        properties.put("client.id", words[1]);
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("metadata.max.age.ms", "2000");
        properties.put("key.deserializer", ByteArrayDeserializer.class);
        properties.put("value.deserializer", ByteArrayDeserializer.class);
        if (words[3].equals("classic")) {
            properties.put("heartbeat.interval.ms", "500");
            properties.put("session.timeout.ms", "10000");
        }
        for (int i = 6; i < words.length; i++) {
            String[] pair = words[i].split("=", 2);
            properties.put(pair[0], pair[1]);
        }
        Group group = groups.computeIfAbsent(words[2], name -> new Group());
        Member member = new Member(words[1], group, properties, words[5], words[4].equals("pattern"));
        members.put(words[1], member);
        member.start();
    }

    /** Every partition has an owner, as many as there are, and that stays so for a moment. */
    static void settle(Group group, int partitions) throws Exception {
        long end = System.currentTimeMillis() + 30_000;
        int quiet = 0;
        Map<TopicPartition, String> last = Map.of();
        while (quiet < 8) {
            Map<TopicPartition, String> now;
            synchronized (group) {
                now = new HashMap<>(group.owners);
            }
            long running = members.values().stream().filter(m -> m.group == group).count();
            boolean isFair = now.values().stream().distinct().count() == Math.min(running, partitions);
            quiet = now.size() == partitions && isFair && now.equals(last) ? quiet + 1 : 0;
            last = now;
            if (System.currentTimeMillis() > end) throw new IllegalStateException(now.size() + " of " + partitions + " owned: " + now);
            Thread.sleep(50);
        }
    }

    static void drained(Group group, String topic) throws Exception {
        long end = System.currentTimeMillis() + 30_000;
        while (true) {
            long missing = 0;
            long all = 0;
            for (var entry : sent.entrySet()) {
                if (!entry.getKey().topic().equals(topic)) continue;
                BitSet seen = group.processed.computeIfAbsent(entry.getKey(), p -> new BitSet());
                synchronized (seen) {
                    missing += entry.getValue() - seen.get(0, (int) (long) entry.getValue()).cardinality();
                }
                all += entry.getValue();
            }
            if (missing == 0) {
                say(all + " records, " + group.doubled.get() + " processed twice");
                return;
            }
            if (System.currentTimeMillis() > end) throw new IllegalStateException(missing + " of " + all + " records were never processed");
            Thread.sleep(50);
        }
    }

    static void flow(String topic, int perSecond) {
        Properties properties = base(new Properties());
        properties.put("key.serializer", ByteArraySerializer.class);
        properties.put("value.serializer", ByteArraySerializer.class);
        properties.put("linger.ms", "5");
        properties.put("delivery.timeout.ms", "60000");
        Thread thread = new Thread(() -> {
            try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(properties)) {
                for (long n = 0; flowing; n++) {
                    producer.send(new ProducerRecord<>(topic, String.valueOf(n).getBytes(), new byte[100]), (meta, e) -> {
                        if (e != null) failures.add("a record was not taken: " + e);
                        else sent.merge(new TopicPartition(meta.topic(), meta.partition()), meta.offset() + 1, Math::max);
                    });
                    Thread.sleep(Math.max(1, 1000 / perSecond));
                }
            } catch (Throwable e) {
                failures.add("the producer: " + e);
            }
        });
        flows.add(thread);
        thread.start();
    }
}
