import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;

import org.apache.kafka.raft.ElectionState;
import org.apache.kafka.raft.FileQuorumStateStore;
import org.apache.kafka.server.common.KRaftVersion;
import org.apache.kafka.storage.internals.log.ProducerStateEntry;
import org.apache.kafka.storage.internals.log.ProducerStateManager;

/** Reads a small file as a node of Kafka's does at its start, and writes it again as that node would. */
final class StateFiles {
    private StateFiles() {
    }

    static byte[] quorumState(byte[] bytes, short kraftVersion) throws IOException {
        Path dir = Files.createTempDirectory("oracle");
        Path path = dir.resolve(FileQuorumStateStore.DEFAULT_FILE_NAME);
        try {
            Files.write(path, bytes);
            FileQuorumStateStore store = new FileQuorumStateStore(path.toFile());
            ElectionState state = store.readElectionState().orElseThrow();
            store.writeElectionState(state, KRaftVersion.fromFeatureLevel(kraftVersion));
            return Files.readAllBytes(path);
        } finally {
            Files.deleteIfExists(path);
            Files.delete(dir);
        }
    }

    static byte[] producerSnapshot(byte[] bytes) throws IOException {
        File file = File.createTempFile("oracle", ".snapshot");
        try {
            Files.write(file.toPath(), bytes);
            // Kafka writes them in the order of a hash table; ours are sorted.
            Map<Long, ProducerStateEntry> entries = new TreeMap<>();
            for (ProducerStateEntry entry : ProducerStateManager.readSnapshot(file)) {
                entries.put(entry.producerId(), entry);
            }
            ProducerStateManager.writeSnapshot(file, entries, false);
            return Files.readAllBytes(file.toPath());
        } finally {
            Files.delete(file.toPath());
        }
    }
}
