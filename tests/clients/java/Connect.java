// Kafka Connect, standalone, with its file source and file sink: lines of one file travel through a topic into another.
// Connect promises each line at least once, and in order; what is promised otherwise, see ../README.md.

import java.io.FileWriter;
import java.nio.file.*;
import java.util.*;

public class Connect {
    public static void main(String[] words) {
        Ledger ledger = new Ledger(words);
        ledger.play("kafka-connect", Map.of("connect", () -> copy(ledger)));
    }

    static void copy(Ledger ledger) throws Exception {
        Path dir = Files.createDirectories(Path.of(ledger.args.get("dir")));
        String topic = ledger.name + "-lines";
        ledger.createTopic(topic, 1);
        Path from = Files.createFile(dir.resolve("from.txt"));
        Path to = dir.resolve("to.txt");
        Path worker = properties(dir, "worker", "bootstrap.servers=" + ledger.args.get("bootstrap"),
            "key.converter=org.apache.kafka.connect.storage.StringConverter",
            "value.converter=org.apache.kafka.connect.storage.StringConverter",
            "offset.storage.file.filename=" + dir.resolve("offsets"), "offset.flush.interval.ms=500",
            "listeners=http://127.0.0.1:0");
        Path source = properties(dir, "source", "name=" + ledger.name + "-source", "tasks.max=1", "topic=" + topic,
            "connector.class=org.apache.kafka.connect.file.FileStreamSourceConnector", "file=" + from);
        Path sink = properties(dir, "sink", "name=" + ledger.name + "-sink", "tasks.max=1", "topics=" + topic,
            "connector.class=org.apache.kafka.connect.file.FileStreamSinkConnector", "file=" + to);
        Process connect = new ProcessBuilder("java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", System.getProperty("java.class.path"),
            "org.apache.kafka.connect.cli.ConnectStandalone", worker.toString(), source.toString(), sink.toString())
            .redirectOutput(ProcessBuilder.Redirect.DISCARD).redirectError(ProcessBuilder.Redirect.INHERIT).start();
        try {
            String group = "connect-" + ledger.name + "-sink";
            Ledger.eventually("the sink has joined", () -> connect.isAlive() && ledger.groups().contains(group)
                && ledger.describeGroup(group).state().toString().equals("Stable"));
            try (FileWriter lines = new FileWriter(from.toFile(), true)) {
                long started = System.nanoTime();
                for (int i = 0; i < ledger.records; i++) {
                    Ledger.pace(started, i, Integer.parseInt(ledger.args.get("rate")));
                    lines.write("line:" + i + "\n");
                    lines.flush();
                    if (i == ledger.records / 3) System.out.println("strike group " + group);
                }
            }
            ledger.produced += ledger.records;
            Ledger.eventually("all lines are there", () -> Files.readAllLines(to).contains("line:" + (ledger.records - 1)));
            Set<String> seen = new LinkedHashSet<>(Files.readAllLines(to));
            List<String> written = Files.readAllLines(from);
            Ledger.same("lines in the order of their first coming", written, new ArrayList<>(seen));
            ledger.redelivered += Files.readAllLines(to).size() - seen.size();
            connect.destroy();
            Ledger.same("it ends when it is told to", true, connect.waitFor(30, java.util.concurrent.TimeUnit.SECONDS));
            Ledger.eventually("the sink's group is empty", () -> ledger.describeGroup(group).state().toString().equals("Empty"));
        } finally {
            connect.destroyForcibly();
        }
    }

    static Path properties(Path dir, String name, String... lines) throws Exception {
        return Files.write(dir.resolve(name + ".properties"), List.of(lines));
    }
}
