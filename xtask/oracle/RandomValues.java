import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.lang.reflect.ParameterizedType;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Random;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.RawTaggedField;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.protocol.types.Type;
import org.apache.kafka.common.record.internal.BaseRecords;
import org.apache.kafka.common.record.internal.MemoryRecords;

/**
 * Fills Kafka's messages with random values. What a version carries, and what may be null in it, is taken from the
 * schema in the message's class; where it goes, from the class's fields.
 */
final class RandomValues {
    private static final long[] EDGES = {0, 1, -1, 127, -128, 128, 16383, 16384, Short.MAX_VALUE, Integer.MAX_VALUE,
        Integer.MIN_VALUE, Long.MAX_VALUE, Long.MIN_VALUE};
    private static final int[] LENGTHS = {0, 0, 1, 2, 5, 9, 20, 126, 127, 128, 300};
    private static final int DEEP = 3;

    private final Random random;

    RandomValues(long seed) {
        random = new Random(seed);
    }

    void fill(Message message, short version) throws ReflectiveOperationException {
        Schema[] schemas = (Schema[]) message.getClass().getField("SCHEMAS").get(null);
        fill(message, schemas[version], 0);
    }

    private void fill(Object target, Schema schema, int depth) throws ReflectiveOperationException {
        for (BoundField bound : schema.fields()) {
            if (!(bound.def.type instanceof TaggedFields tagged)) {
                set(target, bound.def.name, bound.def.type, depth);
                continue;
            }
            for (Map.Entry<Integer, org.apache.kafka.common.protocol.types.Field> tag : tagged.fields().entrySet()) {
                if (random.nextInt(3) > 0) {
                    set(target, tag.getValue().name, tag.getValue().type, depth);
                }
            }
            if (random.nextInt(6) == 0) {
                unknownTags(((Message) target).unknownTaggedFields());
            }
        }
    }

    /** Far above the tags that any version of a message knows. */
    private void unknownTags(List<RawTaggedField> tags) {
        int tag = 20_000 + random.nextInt(100);
        for (int i = random.nextInt(3); i >= 0; i--) {
            tags.add(new RawTaggedField(tag, bytes()));
            tag += 1 + random.nextInt(1 << (1 + random.nextInt(27)));
        }
    }

    private void set(Object target, String name, Type type, int depth) throws ReflectiveOperationException {
        Field field = find(target.getClass(), name);
        field.setAccessible(true);
        boolean isNull = type.isNullable() && random.nextInt(4) == 0;
        if (isNull) {
            field.set(target, null);
        } else if (type.isArray()) {
            field.set(target, array(field, type.arrayElementType().get(), depth));
        } else {
            field.set(target, value(field.getType(), type, depth));
        }
    }

    /** The schema spells {@code topic_id} what the class spells {@code topicId}. */
    private static Field find(Class<?> type, String name) throws NoSuchFieldException {
        String plain = plain(name);
        for (Field field : type.getDeclaredFields()) {
            if (!Modifier.isStatic(field.getModifiers()) && plain(field.getName()).equals(plain)) {
                return field;
            }
        }
        throw new NoSuchFieldException(type + " " + name);
    }

    private static String plain(String name) {
        return name.replace("_", "").toLowerCase();
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    private Collection<?> array(Field field, Type element, int depth) throws ReflectiveOperationException {
        ParameterizedType generic = field.getGenericType() instanceof ParameterizedType list
                ? list : (ParameterizedType) field.getType().getGenericSuperclass();
        java.lang.reflect.Type argument = generic.getActualTypeArguments()[0];
        Class<?> elementClass = argument instanceof Class<?> plain ? plain : byte[].class;
        Collection out = field.getType() == List.class
                ? new ArrayList<>() : (Collection) field.getType().getDeclaredConstructor().newInstance();
        int count = random.nextInt(depth >= DEEP ? 2 : 4);
        if (!(element instanceof Schema) && random.nextInt(30) == 0) {
            count = 126 + random.nextInt(4);
        }
        for (int i = 0; i < count; i++) {
            out.add(value(elementClass, element, depth));
        }
        return out;
    }

    private Object value(Class<?> target, Type type, int depth) throws ReflectiveOperationException {
        if (type instanceof Schema schema) {
            Constructor<?> constructor = target.getDeclaredConstructor();
            constructor.setAccessible(true);
            Object struct = constructor.newInstance();
            fill(struct, schema, depth + 1);
            return struct;
        }
        if (type == Type.BOOLEAN) {
            return random.nextBoolean();
        } else if (type == Type.INT8) {
            return (byte) number();
        } else if (type == Type.INT16) {
            return (short) number();
        } else if (type == Type.UINT16) {
            return (int) (number() & 0xffff);
        } else if (type == Type.INT32) {
            return (int) number();
        } else if (type == Type.UNSIGNED_INT32) {
            return number() & 0xffff_ffffL;
        } else if (type == Type.INT64) {
            return number();
        } else if (type == Type.FLOAT64) {
            return random.nextInt(4) == 0 ? (double) number() : random.nextGaussian();
        } else if (type == Type.UUID) {
            return random.nextInt(4) == 0 ? Uuid.ZERO_UUID : new Uuid(number(), number());
        } else if (target == String.class) {
            return string();
        } else if (target == byte[].class) {
            return bytes();
        } else if (target == ByteBuffer.class) {
            return ByteBuffer.wrap(bytes());
        } else if (BaseRecords.class.isAssignableFrom(target)) {
            return MemoryRecords.readableRecords(ByteBuffer.wrap(bytes()));
        }
        throw new IllegalArgumentException(type + " in a " + target);
    }

    private long number() {
        return random.nextInt(3) == 0
                ? EDGES[random.nextInt(EDGES.length)] : random.nextLong() >> random.nextInt(64);
    }

    private byte[] bytes() {
        byte[] bytes = new byte[LENGTHS[random.nextInt(LENGTHS.length)]];
        random.nextBytes(bytes);
        return bytes;
    }

    private String string() {
        StringBuilder out = new StringBuilder();
        for (int i = LENGTHS[random.nextInt(LENGTHS.length)]; i > 0; i--) {
            out.appendCodePoint(switch (random.nextInt(12)) {
                case 0 -> random.nextInt(0x80);
                case 1 -> 0x80 + random.nextInt(0x700);
                case 2 -> 0xe000 + random.nextInt(0x1ffe);
                case 3 -> 0x10000 + random.nextInt(0x100000);
                default -> 'a' + random.nextInt(26);
            });
        }
        return out.toString();
    }
}
