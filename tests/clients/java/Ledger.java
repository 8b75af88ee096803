// The ledger with Apache Kafka's own Java clients: what is promised, see ../README.md. It is built with the jars of
// whichever version is to be tried.

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.AppInfoParser;

// What 4.x would rather have called differently is called as 3.9 knows it.
@SuppressWarnings({"removal", "deprecation"})
public class Ledger {
    static final int KEYS = 10;
    static final int PARTITIONS = 3;
    /** Old, but not so old that retention would take it. */
    static final long BASE_TIME = System.currentTimeMillis() - 3_600_000;

    final Map<String, String> args;
    final String name;
    final int records;
    final Admin admin;
    final List<String> checked = new ArrayList<>();
    final List<String> leftOut = new ArrayList<>();
    long produced;
    long redelivered;
    long silence;

    Ledger(String[] words) {
        args = new HashMap<>();
        for (String word : words) args.put(word.split("=", 2)[0], word.split("=", 2)[1]);
        name = args.get("name");
        records = Integer.parseInt(args.get("records"));
        admin = Admin.create(Map.of("bootstrap.servers", args.get("bootstrap")));
    }

    public static void main(String[] words) {
        Ledger ledger = new Ledger(words);
        ledger.play("java", Map.of(
            "ledger", () -> ledger.ledger("ledger", "classic"),
            "consumer", () -> ledger.ledger("consumer", "consumer"),
            "shapes", ledger::shapes,
            "admin", ledger::admin,
            "transactions", ledger::transactions));
    }

    /** Plays the parts that are asked for, says how it went and ends the process. */
    void play(String client, Map<String, Deed> parts) {
        String failed = "";
        try {
            for (String part : args.get("parts").split(",")) {
                if (!parts.containsKey(part)) continue;
                parts.get(part).run();
                checked.add(part);
            }
        } catch (Throwable e) {
            e.printStackTrace();
            failed = ",\"failed\":\"" + String.valueOf(e).replaceAll("[\"\\\\\\s]+", " ") + "\"";
        }
        System.out.printf("{\"client\":\"%s\",\"version\":\"%s\",\"records\":%d,\"redelivered\":%d,\"silence_ms\":%d,"
                + "\"checked\":%s,\"left_out\":%s%s}%n", client, AppInfoParser.getVersion(), produced, redelivered,
            silence, json(checked), json(leftOut), failed);
        System.out.flush();
        // Threads of clients that still wait for something would hold the process up.
        Runtime.getRuntime().halt(failed.isEmpty() ? 0 : 1);
    }

    static String json(List<String> words) {
        return words.stream().map(word -> '"' + word + '"').collect(Collectors.joining(",", "[", "]"));
    }

    // ---- the ledger itself: numbered records, a group of two members, a broker killed in the middle

    void ledger(String part, String protocol) throws Exception {
        String topic = name + "-" + part;
        String group = name + "-" + part + "-group";
        createTopic(topic, PARTITIONS);
        Book book = new Book();
        List<Member> members = List.of(new Member(topic, group, protocol, book), new Member(topic, group, protocol, book));
        members.forEach(Thread::start);
        eventually("both members have partitions", () -> members.stream().allMatch(member -> member.assigned > 0));
        numberedRecords(topic, records, "group " + group);
        eventually("all records are read", () -> book.size() >= records || members.stream().anyMatch(m -> m.failed != null));
        eventually("the group is stable with two members", () -> {
            ConsumerGroupDescription seen = describeGroup(group);
            int assigned = seen.members().stream().mapToInt(m -> m.assignment().topicPartitions().size()).sum();
            return seen.state().toString().equals("Stable") && seen.members().size() == 2 && assigned == PARTITIONS;
        });
        for (Member member : members) member.end();
        book.check(records);
        redelivered += book.again;
        Map<TopicPartition, OffsetAndMetadata> committed =
            admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        for (int p = 0; p < PARTITIONS; p++) {
            TopicPartition tp = new TopicPartition(topic, p);
            long end = offset(tp, OffsetSpec.latest());
            OffsetAndMetadata at = committed.get(tp);
            same("committed offset of " + tp, end, at == null ? 0 : at.offset());
        }
        eventually("the group is empty", () -> describeGroup(group).state().toString().equals("Empty"));
    }

    /** Record i has key i % KEYS and a value that numbers the records of its key. */
    void numberedRecords(String topic, int count, String strike) throws Exception {
        AtomicLong last = new AtomicLong(System.nanoTime());
        AtomicLong gap = new AtomicLong();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (Producer<String, String> producer = producer(Map.of("enable.idempotence", "true"))) {
            long started = System.nanoTime();
            for (int i = 0; i < count; i++) {
                pace(started, i, Integer.parseInt(args.get("rate")));
                String key = "key-" + i % KEYS;
                sent.add(producer.send(new ProducerRecord<>(topic, key, key + ":" + i / KEYS), (metadata, error) -> {
                    long now = System.nanoTime();
                    gap.accumulateAndGet(now - last.getAndSet(now), Math::max);
                }));
                if (i == count / 3 && strike != null) System.out.println("strike " + strike);
            }
            for (Future<RecordMetadata> future : sent) future.get(60, TimeUnit.SECONDS);
        }
        produced += count;
        if (strike != null) silence = Math.max(silence, gap.get() / 1_000_000);
    }

    static void pace(long started, int i, int rate) throws InterruptedException {
        long due = started + i * 1_000_000_000L / rate;
        long wait = due - System.nanoTime();
        if (wait > 0) Thread.sleep(wait / 1_000_000, (int) (wait % 1_000_000));
    }

    /** What the members have read, each record by its place. */
    static class Book {
        final Map<Integer, TreeMap<Long, String>> read = new TreeMap<>();
        long size;
        long again;

        synchronized void write(ConsumerRecord<String, String> record) {
            String before = read.computeIfAbsent(record.partition(), p -> new TreeMap<>()).put(record.offset(), record.value());
            if (before == null) size++; else again++;
            if (!record.value().startsWith(record.key() + ":")) throw new IllegalStateException("mixed up: " + record);
        }

        synchronized long size() {
            return size;
        }

        /** In the order of offsets every key counts up from 0 without a gap: nothing lost, doubled or out of order. */
        synchronized void check(long expected) {
            Map<String, Integer> next = new HashMap<>();
            read.forEach((partition, values) -> values.forEach((offset, value) -> {
                String key = value.substring(0, value.indexOf(':'));
                int number = Integer.parseInt(value.substring(value.indexOf(':') + 1));
                int due = next.getOrDefault(key, 0);
                if (number != due) {
                    throw new IllegalStateException((number < due ? "doubled or out of order: " : "lost before: ") + value
                        + " at " + partition + "/" + offset + " where " + due + " is due");
                }
                next.put(key, due + 1);
            }));
            same("records read", expected, size);
        }
    }

    class Member extends Thread {
        final Consumer<String, String> consumer;
        final Book book;
        volatile int assigned;
        volatile boolean ended;
        volatile Throwable failed;

        Member(String topic, String group, String protocol, Book book) {
            this.book = book;
            Map<String, String> config = new HashMap<>(Map.of("group.id", group, "enable.auto.commit", "false"));
            if (!protocol.equals("classic")) config.put("group.protocol", protocol);
            consumer = consumer(config);
            consumer.subscribe(List.of(topic));
        }

        @Override
        public void run() {
            try (consumer) {
                while (!ended) {
                    ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(100));
                    assigned = consumer.assignment().size();
                    records.forEach(book::write);
                    try {
                        if (!records.isEmpty()) consumer.commitSync();
                    } catch (CommitFailedException | RebalanceInProgressException e) {
                        // Others have the partitions by now and read these records again.
                        System.err.println("a commit came too late: " + e.getMessage());
                    }
                }
                consumer.commitSync();
            } catch (Throwable e) {
                e.printStackTrace();
                failed = e;
            }
        }

        void end() throws Exception {
            ended = true;
            join(30_000);
            if (failed != null) throw new IllegalStateException("a member failed", failed);
        }
    }

    // ---- every compression, headers, nulls, timestamps

    void shapes() throws Exception {
        String topic = name + "-shapes";
        createTopic(topic, 1);
        List<ProducerRecord<String, String>> sent = new ArrayList<>();
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            try (Producer<String, String> producer = producer(Map.of("compression.type", codec, "linger.ms", "100"))) {
                List<Future<RecordMetadata>> futures = new ArrayList<>();
                for (int i = 0; i < 20; i++) {
                    ProducerRecord<String, String> record = new ProducerRecord<>(topic, 0, BASE_TIME + i,
                        i % 3 == 0 ? null : "key", i % 5 == 1 ? null : (codec + " " + i + " ").repeat(40));
                    record.headers().add("number", ("h" + i).getBytes(StandardCharsets.UTF_8)).add("empty", new byte[0]);
                    if (i % 2 == 0) record.headers().add("null", null);
                    sent.add(record);
                    futures.add(producer.send(record));
                }
                for (Future<RecordMetadata> future : futures) future.get(30, TimeUnit.SECONDS);
            }
        }
        List<ConsumerRecord<String, String>> read = readAll(topic, 1, sent.size(), "read_uncommitted");
        same("records read", sent.size(), read.size());
        for (int i = 0; i < sent.size(); i++) {
            same("key", sent.get(i).key(), read.get(i).key());
            same("value", sent.get(i).value(), read.get(i).value());
            same("headers", sent.get(i).headers(), read.get(i).headers());
            same("timestamp", sent.get(i).timestamp(), read.get(i).timestamp());
        }
    }

    // ---- what an admin client does

    void admin() throws Exception {
        String topic = name + "-admin";
        createTopic(topic, PARTITIONS);
        same("nodes", 3, admin.describeCluster().nodes().get().size());
        for (TopicPartitionInfo info : describeTopic(topic).partitions()) {
            same("replicas and ISR of " + info, List.of(3, 3), List.of(info.replicas().size(), info.isr().size()));
        }
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        // The broker that is asked may have heard of the topic a moment later than another.
        eventually("min.insync.replicas is 2", () -> topicConfig(resource, "min.insync.replicas").equals("2"));
        ConfigEntry entry = new ConfigEntry("retention.ms", "3600000");
        admin.incrementalAlterConfigs(Map.of(resource, List.of(new AlterConfigOp(entry, AlterConfigOp.OpType.SET)))).all().get();
        eventually("retention.ms is set", () -> topicConfig(resource, "retention.ms").equals("3600000"));
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(PARTITIONS + 1))).all().get();
        eventually("there is one partition more", () -> describeTopic(topic).partitions().size() == PARTITIONS + 1);
        refused("a topic that exists", TopicExistsException.class, () -> createTopic(topic, 1));

        TopicPartition tp = new TopicPartition(topic, 0);
        // Times later than retention.ms allows would be deleted at some time.
        long start = System.currentTimeMillis();
        try (Producer<String, String> producer = producer(Map.of())) {
            for (int i = 0; i < 10; i++) producer.send(new ProducerRecord<>(topic, 0, start + i * 10, "k", "v" + i)).get();
        }
        same("earliest", 0L, offset(tp, OffsetSpec.earliest()));
        same("latest", 10L, offset(tp, OffsetSpec.latest()));
        same("of a time", 4L, offset(tp, OffsetSpec.forTimestamp(start + 35)));
        same("of the largest time", 9L, offset(tp, OffsetSpec.maxTimestamp()));
        long low = admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(5))).lowWatermarks().get(tp).get().lowWatermark();
        same("low watermark", 5L, low);
        same("earliest after deletion", 5L, offset(tp, OffsetSpec.earliest()));

        String group = name + "-admin-group";
        admin.alterConsumerGroupOffsets(group, Map.of(tp, new OffsetAndMetadata(7, "seven"))).all().get();
        OffsetAndMetadata at = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(tp);
        same("offset and metadata", List.of(7L, "seven"), List.of(at.offset(), at.metadata()));
        same("the group is listed", true, groups().contains(group));
        same("state", "Empty", describeGroup(group).state().toString());
        admin.deleteConsumerGroupOffsets(group, Set.of(tp)).all().get();
        admin.alterConsumerGroupOffsets(group, Map.of(tp, new OffsetAndMetadata(6))).all().get();
        admin.deleteConsumerGroups(List.of(group)).all().get();
        same("the group is listed", false, groups().contains(group));
        admin.deleteTopics(List.of(topic)).all().get();
        eventually("the topic is gone", () -> !admin.listTopics().names().get().contains(topic));
        refused("a topic that is gone", UnknownTopicOrPartitionException.class, () -> describeTopic(topic));
    }

    // ---- consume, transform and produce in transactions; every third is aborted

    void transactions() throws Exception {
        String from = name + "-tx-in";
        String to = name + "-tx-out";
        int count = records / 3;
        createTopic(from, PARTITIONS);
        createTopic(to, PARTITIONS);
        numberedRecords(from, count, null);
        int done = 0;
        int rounds = 0;
        try (Consumer<String, String> consumer = consumer(Map.of("group.id", name + "-tx", "enable.auto.commit", "false",
                "isolation.level", "read_committed", "max.poll.records", "10"));
             Producer<String, String> producer = producer(Map.of("transactional.id", name + "-tx"))) {
            producer.initTransactions();
            consumer.subscribe(List.of(from));
            while (done < count) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) continue;
                boolean isAborted = rounds++ % 3 == 2;
                if (rounds == 4) System.out.println("strike transaction " + name + "-tx");
                producer.beginTransaction();
                for (ConsumerRecord<String, String> record : records) {
                    producer.send(new ProducerRecord<>(to, record.key(), isAborted ? "aborted" : record.value()));
                }
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                records.partitions().forEach(tp -> {
                    List<ConsumerRecord<String, String>> of = records.records(tp);
                    offsets.put(tp, new OffsetAndMetadata(of.get(of.size() - 1).offset() + 1));
                });
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                Thread.sleep(50);
                if (isAborted) {
                    producer.abortTransaction();
                    for (TopicPartition tp : records.partitions()) consumer.seek(tp, records.records(tp).get(0).offset());
                } else {
                    producer.commitTransaction();
                    done += records.count();
                }
            }
        }
        Book book = new Book();
        readAll(to, PARTITIONS, count, "read_committed").forEach(book::write);
        book.check(count);
        boolean isThere = readAll(to, PARTITIONS, Integer.MAX_VALUE, "read_uncommitted").stream()
            .anyMatch(record -> record.value().equals("aborted"));
        same("aborted records are there for who wants them", true, isThere);
    }

    // ---- small things

    void createTopic(String topic, int partitions) throws Exception {
        NewTopic wanted = new NewTopic(topic, partitions, (short) 3).configs(Map.of("min.insync.replicas", "2"));
        admin.createTopics(List.of(wanted)).all().get(30, TimeUnit.SECONDS);
    }

    TopicDescription describeTopic(String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get(30, TimeUnit.SECONDS).get(topic);
    }

    ConsumerGroupDescription describeGroup(String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get(30, TimeUnit.SECONDS).get(group);
    }

    Set<String> groups() throws Exception {
        return admin.listConsumerGroups().all().get().stream().map(ConsumerGroupListing::groupId).collect(Collectors.toSet());
    }

    String topicConfig(ConfigResource resource, String key) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource).get(key).value();
    }

    long offset(TopicPartition tp, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(tp, spec)).partitionResult(tp).get(30, TimeUnit.SECONDS).offset();
    }

    Producer<String, String> producer(Map<String, String> more) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", args.get("bootstrap"), "acks", "all"));
        config.putAll(more);
        return new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
    }

    Consumer<String, String> consumer(Map<String, String> more) {
        Map<String, Object> config =
            new HashMap<>(Map.of("bootstrap.servers", args.get("bootstrap"), "auto.offset.reset", "earliest"));
        config.putAll(more);
        return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
    }

    /** From the beginning to the end that this isolation shows, and no more than so many. */
    List<ConsumerRecord<String, String>> readAll(String topic, int partitions, int most, String isolation) {
        List<ConsumerRecord<String, String>> read = new ArrayList<>();
        try (Consumer<String, String> consumer = consumer(Map.of("isolation.level", isolation))) {
            List<TopicPartition> all = new ArrayList<>();
            for (int p = 0; p < partitions; p++) all.add(new TopicPartition(topic, p));
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long until = System.nanoTime() + 30_000_000_000L;
            while (System.nanoTime() < until && read.size() <= most
                && all.stream().anyMatch(tp -> consumer.position(tp) < ends.get(tp))) {
                consumer.poll(Duration.ofMillis(200)).forEach(read::add);
            }
        }
        return read;
    }

    static void same(String what, Object expected, Object seen) {
        if (!Objects.equals(expected, seen)) throw new IllegalStateException(what + ": " + seen + " instead of " + expected);
    }

    interface Deed {
        void run() throws Exception;
    }

    static void refused(String what, Class<? extends Throwable> why, Deed deed) throws Exception {
        try {
            deed.run();
        } catch (ExecutionException e) {
            if (why.isInstance(e.getCause())) return;
            throw e;
        }
        throw new IllegalStateException(what + " is not refused");
    }

    static void eventually(String what, Callable<Boolean> holds) throws Exception {
        Exception last = null;
        for (long until = System.nanoTime() + 40_000_000_000L; System.nanoTime() < until; Thread.sleep(50)) {
            try {
                if (holds.call()) return;
                last = null;
            } catch (ExecutionException | java.util.concurrent.TimeoutException e) {
                last = e;
            }
        }
        throw new IllegalStateException("not within 40 s: " + what, last);
    }
}
