// A small application of Kafka Streams with exactly_once_v2: it counts the records of each key. Every count must come out
// once, whatever dies on the way; what is promised, see ../README.md.

import java.util.*;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.Stores;

public class Streams {
    public static void main(String[] words) {
        Ledger ledger = new Ledger(words);
        ledger.play("kafka-streams", Map.of("streams", () -> count(ledger)));
    }

    static void count(Ledger ledger) throws Exception {
        String from = ledger.name + "-in";
        String to = ledger.name + "-out";
        ledger.createTopic(from, Ledger.PARTITIONS);
        ledger.createTopic(to, Ledger.PARTITIONS);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(from, Consumed.with(Serdes.String(), Serdes.String()))
            .groupByKey()
            .count(Materialized.<String, Long>as(Stores.inMemoryKeyValueStore("counts")).withCachingDisabled())
            .toStream()
            // The book counts from 0.
            .map((key, count) -> KeyValue.pair(key, key + ":" + (count - 1)))
            .to(to, Produced.with(Serdes.String(), Serdes.String()));
        Properties config = new Properties();
        config.putAll(Map.of("bootstrap.servers", ledger.args.get("bootstrap"), "application.id", ledger.name,
            "processing.guarantee", "exactly_once_v2", "replication.factor", "3", "num.stream.threads", "2",
            "commit.interval.ms", "200", "state.dir", ledger.args.get("dir"), "auto.offset.reset", "earliest"));
        List<Throwable> failed = Collections.synchronizedList(new ArrayList<>());
        try (KafkaStreams streams = new KafkaStreams(builder.build(), config)) {
            streams.setUncaughtExceptionHandler(e -> {
                failed.add(e);
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            Ledger.eventually("the application runs", () -> streams.state() == KafkaStreams.State.RUNNING || !failed.isEmpty());
            ledger.numberedRecords(from, ledger.records, "group " + ledger.name);
            Ledger.Book book = new Ledger.Book();
            Ledger.eventually("all counts are there", () -> {
                if (!failed.isEmpty()) throw new IllegalStateException("the application failed", failed.get(0));
                ledger.readAll(to, Ledger.PARTITIONS, ledger.records, "read_committed").forEach(book::write);
                return book.size() >= ledger.records;
            });
            book.check(ledger.records);
        }
    }
}
