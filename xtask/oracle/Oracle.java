import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.jar.JarFile;

import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.metadata.MetadataRecordSerde;
import org.apache.kafka.server.common.ApiMessageAndVersion;
import org.apache.kafka.storage.internals.log.AbortedTxn;

/**
 * Answers what Apache Kafka's own classes make of bytes. Questions come on standard input, answers go to standard
 * output in the same order; all numbers are big-endian.
 *
 * <p>At start: the number of messages, then of each its name, lowest and highest version and api key (-1: none). A
 * question is {@code length, op, message, version, second version, payload}; its answer {@code status, bytes left
 * unread, length, bytes}, where the bytes are an explanation if the status is not 0.
 */
public final class Oracle {
    private static final int DONE = 0;
    private static final int NOT_DECODED = 1;
    private static final int NOT_ENCODED = 2;

    /** A question that was asked wrongly, rather than answered with no. */
    private static final int FAULT = 3;

    private final List<Class<?>> classes = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        DataInputStream in = new DataInputStream(new BufferedInputStream(System.in, 1 << 20));
        DataOutputStream out = new DataOutputStream(new BufferedOutputStream(System.out, 1 << 20));
        Oracle oracle = new Oracle();
        oracle.find(args);
        oracle.hello(out);
        while (true) {
            int length;
            try {
                length = in.readInt();
            } catch (EOFException end) {
                break;
            }
            byte[] question = new byte[length];
            in.readFully(question);
            oracle.answer(ByteBuffer.wrap(question), out);
            // Whoever asks may wait for the answer to the last question that it has sent.
            if (in.available() == 0) {
                out.flush();
            }
        }
        out.flush();
    }

    /** Generated messages are known by the converter to JSON that is generated with each. */
    private void find(String[] jars) throws Exception {
        String mark = "JsonConverter.class";
        for (String jar : jars) {
            try (JarFile file = new JarFile(jar)) {
                for (String entry : (Iterable<String>) file.stream().map(e -> e.getName())::iterator) {
                    if (!entry.endsWith(mark) || entry.contains("$")) {
                        continue;
                    }
                    String name = entry.substring(0, entry.length() - mark.length()).replace('/', '.');
                    Class<?> type = Class.forName(name);
                    if (Message.class.isAssignableFrom(type)) {
                        classes.add(type);
                    }
                }
            }
        }
    }

    private void hello(DataOutputStream out) throws Exception {
        out.writeInt(classes.size());
        for (Class<?> type : classes) {
            Message message = create(type);
            out.writeUTF(type.getSimpleName());
            out.writeShort(message.lowestSupportedVersion());
            out.writeShort(message.highestSupportedVersion());
            out.writeShort(message instanceof ApiMessage api ? api.apiKey() : -1);
        }
        out.flush();
    }

    private void answer(ByteBuffer question, DataOutputStream out) throws IOException {
        Answer answer = new Answer();
        try {
            char op = (char) question.get();
            short index = question.getShort();
            short version = question.getShort();
            short second = question.getShort();
            switch (op) {
                case 'R' -> reencode(classes.get(index), question, version, second, answer);
                case 'J' -> json(classes.get(index), question, version, answer);
                case 'G' -> generate(classes.get(index), question.getLong(), version, answer);
                case 'M' -> metadataValue(question, answer);
                case 'A' -> abortedTxn(question, answer);
                case 'Q' -> file(() -> StateFiles.quorumState(rest(question), second), answer);
                case 'P' -> file(() -> StateFiles.producerSnapshot(rest(question)), answer);
                case 'H' -> headerVersions(index, version, answer);
                default -> throw new IllegalArgumentException("op " + op);
            }
        } catch (Throwable e) {
            answer.refuse(FAULT, e);
        }
        out.writeByte(answer.status);
        out.writeInt(answer.left);
        out.writeInt(answer.bytes.length);
        out.write(answer.bytes);
    }

    private static final class Answer {
        int status = DONE;
        int left;
        byte[] bytes = {};

        void refuse(int status, Throwable e) {
            Throwable cause = e instanceof InvocationTargetException && e.getCause() != null ? e.getCause() : e;
            this.status = status;
            this.bytes = cause.toString().getBytes(StandardCharsets.UTF_8);
        }
    }

    private static Message create(Class<?> type) throws ReflectiveOperationException {
        return (Message) type.getDeclaredConstructor().newInstance();
    }

    private static byte[] encode(Message message, short version) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        int size = message.size(cache, version);
        ByteBuffer buffer = ByteBuffer.allocate(size);
        message.write(new ByteBufferAccessor(buffer), cache, version);
        if (buffer.hasRemaining()) {
            throw new IllegalStateException(buffer.remaining() + " bytes fewer than announced");
        }
        return buffer.array();
    }

    /** The decoded message, or null and a refusal in the answer. */
    private static Message decode(Class<?> type, ByteBuffer bytes, short version, Answer answer) throws Exception {
        Message message = create(type);
        try {
            message.read(new ByteBufferAccessor(bytes), version);
        } catch (Throwable e) {
            answer.refuse(NOT_DECODED, e);
            return null;
        }
        answer.left = bytes.remaining();
        return message;
    }

    private static void reencode(Class<?> type, ByteBuffer bytes, short from, short to, Answer answer)
            throws Exception {
        Message message = decode(type, bytes, from, answer);
        if (message == null) {
            return;
        }
        try {
            answer.bytes = encode(message, to);
        } catch (Throwable e) {
            answer.refuse(NOT_ENCODED, e);
        }
    }

    private static void json(Class<?> type, ByteBuffer bytes, short version, Answer answer) throws Exception {
        Message message = decode(type, bytes, version, answer);
        if (message != null) {
            Class<?> converter = Class.forName(type.getName() + "JsonConverter");
            Object node = converter.getMethod("write", type, short.class, boolean.class)
                    .invoke(null, message, version, false);
            answer.bytes = node.toString().getBytes(StandardCharsets.UTF_8);
        }
    }

    private static void generate(Class<?> type, long seed, short version, Answer answer) throws Exception {
        Message message = create(type);
        new RandomValues(seed).fill(message, version);
        answer.bytes = encode(message, version);
    }

    /** A metadata record in its frame, as the value of a record of the metadata log. */
    private static void metadataValue(ByteBuffer bytes, Answer answer) {
        ApiMessageAndVersion record;
        try {
            ByteBuffer value = bytes.slice();
            record = MetadataRecordSerde.INSTANCE.read(new ByteBufferAccessor(value), value.remaining());
            answer.left = value.remaining();
        } catch (Throwable e) {
            answer.refuse(NOT_DECODED, e);
            return;
        }
        try {
            ObjectSerializationCache cache = new ObjectSerializationCache();
            ByteBuffer out = ByteBuffer.allocate(MetadataRecordSerde.INSTANCE.recordSize(record, cache));
            MetadataRecordSerde.INSTANCE.write(record, cache, new ByteBufferAccessor(out));
            answer.bytes = out.array();
        } catch (Throwable e) {
            answer.refuse(NOT_ENCODED, e);
        }
    }

    private static byte[] rest(ByteBuffer bytes) {
        byte[] rest = new byte[bytes.remaining()];
        bytes.get(rest);
        return rest;
    }

    private static void file(Callable<byte[]> rewritten, Answer answer) {
        try {
            answer.bytes = rewritten.call();
        } catch (Throwable e) {
            answer.refuse(NOT_DECODED, e);
        }
    }

    /** An entry of a transaction index, which Kafka lays out by hand: the four fields, and the entry that they make. */
    private static void abortedTxn(ByteBuffer bytes, Answer answer) throws ReflectiveOperationException {
        AbortedTxn entry = new AbortedTxn(bytes.getLong(), bytes.getLong(), bytes.getLong(), bytes.getLong());
        Field buffer = AbortedTxn.class.getDeclaredField("buffer");
        buffer.setAccessible(true);
        answer.bytes = ((ByteBuffer) buffer.get(entry)).array();
    }

    private static void headerVersions(short key, short version, Answer answer) throws IOException {
        ApiMessageType type = ApiMessageType.fromApiKey(key);
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        out.writeShort(type.requestHeaderVersion(version));
        out.writeShort(type.responseHeaderVersion(version));
        out.writeShort(type.lowestSupportedVersion());
        out.writeShort(type.highestSupportedVersion(true));
        out.writeShort(type.highestSupportedVersion(false));
        out.writeByte(type.listeners().contains(ApiMessageType.ListenerType.BROKER) ? 1 : 0);
        out.writeByte(type.listeners().contains(ApiMessageType.ListenerType.CONTROLLER) ? 1 : 0);
        answer.bytes = bytes.toByteArray();
    }
}
