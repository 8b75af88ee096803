// Kafka's own log and cleaner, for `cargo xtask compaction`: makes log directories from a seed, compacts them, and looks
// at what we have made of the same ones. Commands come on standard input, one per line, and are answered by a line that
// begins with "ok" or "failed". It sits in the package of the classes that it drives, some of which are not public.
package org.apache.kafka.storage.internals.log;

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.Delayed;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.common.RequestLocal;
import org.apache.kafka.server.util.Scheduler;
import org.apache.kafka.storage.internals.utils.Throttler;
import org.apache.kafka.storage.log.metrics.BrokerTopicStats;
import org.apache.kafka.tools.DumpLogSegments;

public class Compaction {
    /** What the cleaner is told beside the topic's settings, under names of our own. */
    static final String MAP_BYTES = "map.bytes", IO_BYTES = "io.bytes", EXPIRATION = "expiration.ms";
    static final long BEGIN_MS = 1_700_000_000_000L;

    static final class Clock implements Time {
        long now;

        @Override public long milliseconds() { return now; }
        @Override public long nanoseconds() { return now * 1_000_000; }
        @Override public void sleep(long ms) { now += ms; }
        @Override public void waitObject(Object on, Supplier<Boolean> until, long deadline) { now = deadline; }
    }

    /** What is to be done once is done at once; nothing is done again and again. */
    static final class AtOnce implements Scheduler {
        @Override public void startup() { }
        @Override public void shutdown() { }
        @Override public void resizeThreadPool(int size) { }
        @Override public ScheduledFuture<?> schedule(String name, Runnable task, long delay, long period) {
            if (period < 0) task.run();
            return new Never();
        }
    }

    static final class Never implements ScheduledFuture<Void> {
        @Override public long getDelay(TimeUnit unit) { return 0; }
        @Override public int compareTo(Delayed other) { return 0; }
        @Override public boolean cancel(boolean interrupt) { return true; }
        @Override public boolean isCancelled() { return false; }
        @Override public boolean isDone() { return true; }
        @Override public Void get() { return null; }
        @Override public Void get(long timeout, TimeUnit unit) { return null; }
    }

    static final Clock clock = new Clock();

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            String[] words = line.trim().split(" ");
            Map<String, String> settings = new HashMap<>();
            for (String word : words) {
                int at = word.indexOf('=');
                if (at > 0) settings.put(word.substring(0, at), word.substring(at + 1));
            }
            try {
                File dir = new File(words[1]);
                switch (words[0]) {
                    case "make" -> answers.println("ok" + make(dir, Long.parseLong(words[2]), settings));
                    case "clean" -> answers.println("ok" + clean(dir, words, settings));
                    case "check" -> answers.println("ok" + check(dir, answers));
                    default -> answers.println("failed: no such command");
                }
            } catch (Throwable e) {
                Throwable cause = e instanceof InvocationTargetException ? e.getCause() : e;
                StackTraceElement[] at = cause.getStackTrace();
                answers.println("failed: " + String.valueOf(cause).replace('\n', ' ') + (at.length > 0 ? " at " + at[0] : ""));
            }
            answers.flush();
        }
        System.exit(0);
    }

    static UnifiedLog open(File dir, Map<String, String> settings, boolean compact, boolean wasClean) throws Exception {
        Map<String, String> topic = new HashMap<>(settings);
        for (String ours : List.of(MAP_BYTES, IO_BYTES, EXPIRATION)) topic.remove(ours);
        topic.put("cleanup.policy", compact ? "compact" : "delete");
        topic.put("retention.ms", "-1");
        topic.put("message.timestamp.after.max.ms", String.valueOf(Long.MAX_VALUE));
        int expiration = Integer.parseInt(settings.get(EXPIRATION));
        return UnifiedLog.create(dir, new LogConfig(topic), 0L, 0L, new AtOnce(), new BrokerTopicStats(), clock, 900_000,
            new ProducerStateManagerConfig(expiration, false), 600_000, new LogDirFailureChannel(1), wasClean,
            Optional.empty());
    }

    // Input.

    static final class Producer {
        final long id;
        final boolean transactional;
        short epoch;
        int sequence;
        boolean open;

        Producer(long id, boolean transactional) {
            this.id = id;
            this.transactional = transactional;
        }
    }

    /** Offsets between which the high watermark may stop, the last one being the log's end. */
    static String make(File dir, long seed, Map<String, String> settings) throws Exception {
        Random random = new Random(seed);
        clock.now = BEGIN_MS;
        UnifiedLog log = open(dir, settings, false, false);
        List<Producer> producers = new ArrayList<>();
        for (int i = 0; i < 6; i++) producers.add(new Producer(100 + i, i >= 2));
        int keys = 2 + random.nextInt(40), batches = 40 + random.nextInt(120);
        // The state of most producers is only of interest once they have stopped.
        int active = producers.size(), leaderEpoch = 0;
        StringBuilder stops = new StringBuilder();
        for (int i = 0; i < batches; i++) {
            clock.now += random.nextInt(2000);
            if (random.nextInt(batches) < 4) active = Math.max(1, active - 1);
            if (random.nextInt(25) == 0) leaderEpoch++;
            Producer producer = random.nextInt(3) == 0 ? null : producers.get(random.nextInt(active));
            append(log, producer, keys, leaderEpoch, random);
            if (random.nextInt(20) == 0) log.roll();
            if (random.nextInt(batches) < 3) stops.append(' ').append(log.logEndOffset());
        }
        if (random.nextBoolean()) {
            for (Producer producer : producers) if (producer.open) end(log, producer, leaderEpoch, random);
        }
        log.roll();
        if (random.nextBoolean()) append(log, null, keys, leaderEpoch, random);
        log.flush(true);
        log.close();
        return stops + " " + log.logEndOffset();
    }

    static void append(UnifiedLog log, Producer producer, int keys, int leaderEpoch, Random random) throws Exception {
        if (producer != null && producer.open && random.nextInt(3) == 0) {
            end(log, producer, leaderEpoch, random);
            return;
        }
        if (producer != null && !producer.open && random.nextInt(40) == 0) {
            producer.epoch++;
            producer.sequence = 0;
        }
        SimpleRecord[] records = new SimpleRecord[1 + (random.nextInt(3) == 0 ? random.nextInt(16) : random.nextInt(3))];
        for (int i = 0; i < records.length; i++) {
            String key = random.nextInt(60) == 0 ? null : random.nextInt(60) == 0 ? "" : "key " + random.nextInt(keys);
            byte[] value = new byte[random.nextInt(100)];
            random.nextBytes(value);
            Header[] headers = new Header[random.nextInt(3)];
            for (int h = 0; h < headers.length; h++) headers[h] = new RecordHeader("h" + h, h == 0 ? null : value);
            records[i] = new SimpleRecord(clock.now - random.nextInt(500), key == null ? null : key.getBytes(),
                random.nextInt(5) == 0 ? null : value, headers);
        }
        Compression compression = Compression.of(CompressionType.values()[random.nextInt(5)]).build();
        MemoryRecords batch;
        if (producer == null) {
            batch = MemoryRecords.withRecords(compression, records);
        } else if (producer.transactional) {
            batch = MemoryRecords.withTransactionalRecords(compression, producer.id, producer.epoch, producer.sequence, records);
            producer.open = true;
        } else {
            batch = MemoryRecords.withIdempotentRecords(compression, producer.id, producer.epoch, producer.sequence, records);
        }
        if (producer != null) producer.sequence += records.length;
        log.appendAsLeader(batch, leaderEpoch);
    }

    static void end(UnifiedLog log, Producer producer, int leaderEpoch, Random random) throws Exception {
        ControlRecordType type = random.nextBoolean() ? ControlRecordType.COMMIT : ControlRecordType.ABORT;
        EndTransactionMarker marker = new EndTransactionMarker(type, 3);
        // From the second version of transactions on, each one ends an epoch.
        if (random.nextBoolean()) {
            producer.epoch++;
            producer.sequence = 0;
        }
        log.appendAsLeader(MemoryRecords.withEndTransactionMarker(clock.now, producer.id, producer.epoch, marker),
            leaderEpoch, AppendOrigin.COORDINATOR, RequestLocal.noCaching(), VerificationGuard.SENTINEL, (short) 1);
        producer.open = false;
    }

    // The cleaner.

    /** clean DIR HIGH_WATERMARK NOW CHECKPOINT (-1 for none) SETTINGS; answers what was found and up to where it is clean. */
    static String clean(File dir, String[] words, Map<String, String> settings) throws Exception {
        clock.now = Long.parseLong(words[3]);
        long checkpoint = Long.parseLong(words[4]);
        UnifiedLog log = open(dir, settings, true, true);
        try {
            log.updateHighWatermark(Long.parseLong(words[2]));
            LogCleanerManager.OffsetsToClean offsets = LogCleanerManager.cleanableOffsets(log,
                checkpoint < 0 ? Optional.empty() : Optional.of(checkpoint), clock.now);
            Method delay = LogCleanerManager.class.getDeclaredMethod("maxCompactionDelay", UnifiedLog.class, long.class, long.class);
            delay.setAccessible(true);
            boolean now = (long) delay.invoke(null, log, offsets.firstDirtyOffset(), clock.now) > 0;
            LogToClean found = new LogToClean(log, offsets.firstDirtyOffset(), offsets.firstUncleanableDirtyOffset(), now);
            boolean due = found.totalBytes() > 0 && (found.needCompactionNow() && found.cleanableBytes() > 0
                || found.cleanableRatio() > log.config().minCleanableRatio);
            String said = " " + found.cleanBytes() + " " + found.cleanableBytes() + " " + due;
            if (!due) return said + " -1";
            SkimpyOffsetMap map = new SkimpyOffsetMap(Integer.parseInt(settings.get(MAP_BYTES)));
            int buffer = Integer.parseInt(settings.get(IO_BYTES));
            Throttler throttler = new Throttler(Double.MAX_VALUE, Long.MAX_VALUE, "io", "bytes", clock);
            Cleaner cleaner = new Cleaner(0, map, buffer, 1 << 20, 0.9, throttler, clock, partition -> { });
            return said + " " + cleaner.doClean(found, clock.now).getKey();
        } finally {
            log.close();
        }
    }

    // What we have made.

    /** Kafka's tool looks at every file, its indexes with and without going through their entries. */
    static String check(File dir, PrintStream answers) throws Exception {
        Map<String, String> files = new TreeMap<>();
        for (File file : dir.listFiles()) {
            String name = file.getName();
            if (name.matches("\\d{20}\\.(log|index|timeindex|txnindex|snapshot)")) files.put(name, file.getPath());
        }
        String all = String.join(",", files.values());
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        PrintStream errors = System.err;
        try (PrintStream out = new PrintStream(said)) {
            System.setOut(out);
            System.setErr(out);
            DumpLogSegments.main(new String[] {"--files", all, "--deep-iteration"});
            DumpLogSegments.main(new String[] {"--files", all, "--index-sanity-check"});
        } finally {
            System.setOut(answers);
            System.setErr(errors);
        }
        // Of what an emptied batch says the tool finds no record: that is no fault of ours if it says so of Kafka's files.
        TreeSet<String> complaints = new TreeSet<>();
        for (String line : said.toString().split("\n")) {
            if (line.matches("(?i).*(mismatch|out of order|exception|invalid: |isvalid: false|corrupt|fail|error|not found).*"))
                complaints.add(line.replace(dir.getPath(), ""));
        }
        long sane = said.toString().lines().filter(line -> line.contains("passed sanity check")).count();
        return " " + files.size() + " files, " + sane + " sane indexes, complaints: " + complaints;
    }
}
