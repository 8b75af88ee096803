// The client of the story of transactions: consume-transform-produce loops that outlive the brokers they talk to,
// producers that fence each other, and one that is too slow. It takes commands on standard input, one per line, and
// answers each with lines that begin with "| " and then "ok" or "failed: why".
//
// Run from source: java -cp 'libs/*' TransactionClient.java host:port,…

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class TransactionClient {
    static String servers;
    static final Map<String, KafkaProducer<String, String>> open = new HashMap<>();
    static final List<Pump> pumps = new ArrayList<>();
    static int written;

    public static void main(String[] args) throws Exception {
        servers = args[0];
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
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
        System.exit(0);
    }

    static void run(String[] words) throws Exception {
        switch (words[0]) {
            case "fill" -> fill(words[1], Integer.parseInt(words[2]));
            case "pump" -> {
                Pump pump = new Pump(words[1], words[2], words[3]);
                pumps.add(pump);
                pump.start();
            }
            case "await" -> await(words[1], Integer.parseInt(words[2]));
            case "stop" -> stop();
            case "check" -> check(words[1], Integer.parseInt(words[2]));
            case "begin" -> begin(words[1], words[2], Integer.parseInt(words[3]));
            case "commit" -> open.remove(words[1]).commitTransaction();
            case "fails" -> fails(words[1]);
            case "count" -> System.out.println("| " + read(words[1], "read_committed", 3_000).size());
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    static Properties properties() {
        Properties p = new Properties();
        p.put("bootstrap.servers", servers);
        p.put("request.timeout.ms", "10000");
        p.put("reconnect.backoff.max.ms", "200");
        return p;
    }

    static KafkaProducer<String, String> producer(String id, int timeoutMs) {
        Properties p = properties();
        p.put("transactional.id", id);
        p.put("transaction.timeout.ms", Integer.toString(timeoutMs));
        p.put("max.block.ms", "30000");
        p.put("linger.ms", "0");
        return new KafkaProducer<>(p, new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String group, String isolation) {
        Properties p = properties();
        if (group != null) {
            p.put("group.id", group);
        }
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "earliest");
        p.put("isolation.level", isolation);
        p.put("session.timeout.ms", "6000");
        p.put("heartbeat.interval.ms", "300");
        p.put("max.poll.records", "10");
        return new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer());
    }

    /** Numbered records, without transactions. */
    static void fill(String topic, int count) throws Exception {
        Properties p = properties();
        p.put("acks", "all");
        try (KafkaProducer<String, String> plain =
                 new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < count; i++) {
                String value = Integer.toString(i);
                plain.send(new ProducerRecord<>(topic, value, value));
            }
        }
    }

    static void begin(String id, String topic, int timeoutMs) throws Exception {
        KafkaProducer<String, String> producer = producer(id, timeoutMs);
        producer.initTransactions();
        producer.beginTransaction();
        producer.send(new ProducerRecord<>(topic, 0, "open", "open " + id)).get();
        KafkaProducer<String, String> old = open.put(id, producer);
        if (old != null) {
            open.put(id + "-old", old);
        }
    }

    /** The transaction must not commit. */
    static void fails(String id) {
        KafkaProducer<String, String> producer = open.remove(id);
        try {
            producer.commitTransaction();
        } catch (KafkaException e) {
            System.out.println("| " + e.getClass().getSimpleName());
            return;
        } finally {
            producer.close(Duration.ofSeconds(1));
        }
        throw new IllegalStateException("it committed");
    }

    /** Reads a topic whole, as far as this isolation allows. */
    static List<String> read(String topic, String isolation, long patienceMs) {
        List<String> values = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = consumer(null, isolation)) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                .map(info -> new TopicPartition(topic, info.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            long until = System.currentTimeMillis() + patienceMs;
            while (System.currentTimeMillis() < until
                && partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(100))) {
                    values.add(record.value());
                }
            }
        }
        return values;
    }

    static void await(String topic, int count) throws Exception {
        long until = System.currentTimeMillis() + 60_000;
        int seen = 0;
        while (System.currentTimeMillis() < until) {
            seen = read(topic, "read_committed", 5_000).size();
            if (seen >= count) {
                return;
            }
            Thread.sleep(200);
        }
        StringBuilder why = new StringBuilder();
        for (Pump pump : pumps) {
            why.append("; ").append(pump.id).append(": ").append(pump.last);
        }
        throw new IllegalStateException(seen + " of " + count + why);
    }

    static void stop() throws Exception {
        for (Pump pump : pumps) {
            pump.isOver = true;
        }
        for (Pump pump : pumps) {
            pump.join(40_000);
            System.out.println("| " + pump.id + ": " + pump.committed + " committed, " + pump.aborted + " aborted, "
                + pump.anew + " times anew");
        }
        pumps.clear();
    }

    /** Each number exactly once. */
    static void check(String topic, int count) {
        TreeMap<Integer, Integer> seen = new TreeMap<>();
        List<String> values = read(topic, "read_committed", 10_000);
        values.stream().filter(value -> !value.startsWith("open"))
            .forEach(value -> seen.merge(Integer.parseInt(value), 1, Integer::sum));
        List<String> wrong = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            if (seen.getOrDefault(i, 0) != 1) {
                wrong.add(i + " " + seen.getOrDefault(i, 0) + " times");
            }
        }
        if (!wrong.isEmpty() || seen.size() != count) {
            throw new IllegalStateException(seen.size() + " numbers; " + wrong);
        }
        int all = read(topic, "read_uncommitted", 10_000).size();
        System.out.println("| " + count + " once, " + (all - values.size()) + " aborted");
    }

    /** Consumes, produces and commits both in transactions, every fifth of which it gives up. */
    static class Pump extends Thread {
        final String id;
        final String from;
        final String to;
        volatile boolean isOver;
        volatile String last = "";
        int committed;
        int aborted;
        int anew;
        int turn;

        Pump(String id, String from, String to) {
            this.id = id;
            this.from = from;
            this.to = to;
            setDaemon(true);
        }

        @Override
        public void run() {
            while (!isOver) {
                try (KafkaConsumer<String, String> consumer = consumer("pump-" + from, "read_committed");
                     KafkaProducer<String, String> producer = producer(id, 10_000)) {
                    producer.initTransactions();
                    consumer.subscribe(List.of(from));
                    while (!isOver) {
                        step(consumer, producer);
                    }
                } catch (Throwable e) {
                    last = String.valueOf(e);
                    anew++;
                }
            }
        }

        void step(KafkaConsumer<String, String> consumer, KafkaProducer<String, String> producer) {
            ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
            if (records.isEmpty()) {
                return;
            }
            producer.beginTransaction();
            for (ConsumerRecord<String, String> record : records) {
                producer.send(new ProducerRecord<>(to, record.key(), record.value()));
            }
            Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
            for (TopicPartition partition : records.partitions()) {
                List<ConsumerRecord<String, String>> of = records.records(partition);
                offsets.put(partition, new OffsetAndMetadata(of.get(of.size() - 1).offset() + 1));
            }
            producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
            if (++turn % 5 == 0) {
                producer.abortTransaction();
                aborted++;
                // From where the group stands.
                Map<TopicPartition, OffsetAndMetadata> stands = consumer.committed(records.partitions());
                for (TopicPartition partition : records.partitions()) {
                    OffsetAndMetadata at = stands.get(partition);
                    consumer.seek(partition, at == null ? 0 : at.offset());
                }
            } else {
                producer.commitTransaction();
                committed++;
            }
        }
    }
}
