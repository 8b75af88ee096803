// Seeded groups and what Apache Kafka's own assignors make of them, for the coordinator's tests to compare with:
//
//   java -cp 'target/kafka/libs/*' xtask/java/Assignors.java > crates/coordinator/src/tests/assignors.txt
//
// Each case is a few steps in the life of a group: members come and go, topics grow, subscriptions change. A step's
// assignment is where the next one begins.

import java.util.*;
import java.util.stream.Collectors;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.coordinator.group.api.assignor.*;
import org.apache.kafka.coordinator.group.assignor.*;
import org.apache.kafka.coordinator.group.modern.*;

public class Assignors {
    static final Random random = new Random(20_260_101);

    record Member(String instance, Set<Integer> topics) { }

    public static void main(String[] args) {
        for (int i = 0; i < 60; i++) {
            life(new RangeAssignor(), i % 2 == 0);
            life(new UniformAssignor(), i % 2 == 0);
        }
    }

    static Uuid id(int topic) {
        long half = 0;
        for (int i = 0; i < 8; i++) half = half << 8 | topic;
        return new Uuid(half, half);
    }

    static Set<Integer> some(int topics) {
        Set<Integer> chosen = new TreeSet<>();
        for (int t = 1; t <= topics; t++) if (random.nextInt(3) > 0) chosen.add(t);
        if (chosen.isEmpty()) chosen.add(1 + random.nextInt(topics));
        return chosen;
    }

    static void life(PartitionAssignor assignor, boolean alike) {
        int topics = 1 + random.nextInt(4);
        int[] partitions = new int[topics + 1];
        for (int t = 1; t <= topics; t++) partitions[t] = 1 + random.nextInt(8);
        TreeMap<String, Member> members = new TreeMap<>();
        Map<String, Map<Uuid, Set<Integer>>> assigned = new TreeMap<>();
        Set<Integer> all = some(topics);
        int next = 0;
        for (int step = 0; step < 4; step++) {
            int coming = step == 0 ? 1 + random.nextInt(4) : random.nextInt(3);
            for (int n = 0; n < coming; n++) {
                String name = "m" + (char) ('a' + next++);
                members.put(name, new Member(random.nextInt(4) == 0 ? "i" + random.nextInt(1000) + name : null, alike ? all : some(topics)));
            }
            if (step > 0 && members.size() > 1 && random.nextInt(2) == 0) {
                String gone = new ArrayList<>(members.keySet()).get(random.nextInt(members.size()));
                members.remove(gone);
                assigned.remove(gone);
            }
            if (step > 0 && random.nextInt(3) == 0) partitions[1 + random.nextInt(topics)] += 1 + random.nextInt(3);
            assigned = assign(assignor, topics, partitions, members, assigned);
        }
    }

    static Map<String, Map<Uuid, Set<Integer>>> assign(PartitionAssignor assignor, int topics, int[] partitions,
            TreeMap<String, Member> members, Map<String, Map<Uuid, Set<Integer>>> assigned) {
        TreeMap<String, MemberSubscriptionAndAssignmentImpl> specs = new TreeMap<>();
        Map<Uuid, Map<Integer, String>> owners = new HashMap<>();
        System.out.println("step " + assignor.name());
        for (int t = 1; t <= topics; t++) System.out.println("topic " + t + " " + partitions[t]);
        members.forEach((name, member) -> {
            Map<Uuid, Set<Integer>> old = assigned.getOrDefault(name, Map.of());
            old.forEach((topic, ps) -> ps.forEach(p -> owners.computeIfAbsent(topic, x -> new HashMap<>()).put(p, name)));
            specs.put(name, new MemberSubscriptionAndAssignmentImpl(Optional.empty(), Optional.ofNullable(member.instance()),
                member.topics().stream().map(Assignors::id).collect(Collectors.toCollection(LinkedHashSet::new)),
                new Assignment(old)));
            System.out.println("member " + name + " " + (member.instance() == null ? "-" : member.instance()) + " "
                + member.topics().stream().map(String::valueOf).collect(Collectors.joining(",")) + " " + show(old));
        });
        boolean alike = members.values().stream().map(Member::topics).distinct().count() == 1;
        GroupSpec spec = new GroupSpecImpl(specs, alike ? SubscriptionType.HOMOGENEOUS : SubscriptionType.HETEROGENEOUS, owners);
        GroupAssignment result = assignor.assign(spec, new SubscribedTopicDescriber() {
            @Override
            public int numPartitions(Uuid topic) {
                for (int t = 1; t <= topics; t++) if (id(t).equals(topic)) return partitions[t];
                return -1;
            }

            @Override
            public Set<String> racksForPartition(Uuid topic, int partition) {
                return Set.of();
            }
        });
        Map<String, Map<Uuid, Set<Integer>>> after = new TreeMap<>();
        for (String name : members.keySet()) {
            Map<Uuid, Set<Integer>> got = new TreeMap<>();
            MemberAssignment one = result.members().get(name);
            if (one != null) one.partitions().forEach((topic, ps) -> got.put(topic, new TreeSet<>(ps)));
            after.put(name, got);
            System.out.println("result " + name + " " + show(got));
        }
        return after;
    }

    static String show(Map<Uuid, Set<Integer>> assigned) {
        String text = new TreeMap<>(assigned).entrySet().stream()
            .map(e -> (e.getKey().getMostSignificantBits() & 0xff) + ":"
                + new TreeSet<>(e.getValue()).stream().map(String::valueOf).collect(Collectors.joining(".")))
            .collect(Collectors.joining(";"));
        return text.isEmpty() ? "-" : text;
    }
}
