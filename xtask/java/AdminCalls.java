import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionReplica;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.*;
import org.apache.kafka.common.resource.*;

/**
 * Every method of Kafka's Admin, called once or more, and what came of each: a line per call with a result that is the
 * same wherever it is asked, or the exception's class. The story compares the lines of two clusters.
 */
public class AdminCalls {
    private static final String TOPIC = "admin-calls";
    private static final int SECONDS = 20;
    private static Admin admin;
    private static final Set<String> called = new HashSet<>();

    private static void call(String method, String how, Callable<Object> body) {
        called.add(method);
        String result;
        try {
            Object value = body.call();
            result = value == null ? "done" : String.valueOf(value);
        } catch (ExecutionException error) {
            result = shown(error.getCause());
        } catch (Throwable error) {
            result = shown(error);
        }
        System.out.println(method + " " + how + ": " + result);
    }

    private static String shown(Throwable error) {
        return error.getClass().getSimpleName();
    }

    private static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(SECONDS, TimeUnit.SECONDS);
    }

    /** Once the change has reached every broker. */
    private static void settle() throws Exception {
        Thread.sleep(500);
    }

    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", args[0]);
        properties.put("default.api.timeout.ms", 15000);
        properties.put("request.timeout.ms", 10000);
        admin = Admin.create(properties);
        topics();
        configs();
        quotasAndCredentials();
        security();
        reassignments();
        cluster();
        groups();
        transactionsAndProducers();
        rest();
        forgotten();
        admin.close();
    }

    private static void topics() throws Exception {
        TopicPartition tp = new TopicPartition(TOPIC, 0);
        call("createTopics", "new", () -> get(admin.createTopics(List.of(new NewTopic(TOPIC, 2, (short) 1))).all()));
        call("createTopics", "again", () -> get(admin.createTopics(List.of(new NewTopic(TOPIC, 2, (short) 1))).all()));
        call("createTopics", "factor 9", () -> get(admin.createTopics(List.of(new NewTopic("x", 1, (short) 9))).all()));
        settle();
        call("listTopics", "", () -> new TreeSet<>(get(admin.listTopics().names())));
        call("describeTopics", "", () -> get(admin.describeTopics(List.of(TOPIC)).allTopicNames()).get(TOPIC).partitions().size());
        call("describeTopics", "unknown", () -> get(admin.describeTopics(List.of("nope")).allTopicNames()));
        call("createPartitions", "4", () -> get(admin.createPartitions(Map.of(TOPIC, NewPartitions.increaseTo(4))).all()));
        call("createPartitions", "fewer", () -> get(admin.createPartitions(Map.of(TOPIC, NewPartitions.increaseTo(1))).all()));
        settle();
        call("listOffsets", "latest", () -> get(admin.listOffsets(Map.of(tp, OffsetSpec.latest())).all()).get(tp).offset());
        call("listOffsets", "max timestamp", () -> get(admin.listOffsets(Map.of(tp, OffsetSpec.maxTimestamp())).all()).get(tp).offset());
        call("deleteRecords", "all", () -> get(admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(-1))).all()));
        call("deleteRecords", "beyond", () -> get(admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(5))).all()));
        call("electLeaders", "preferred", () -> get(admin.electLeaders(ElectionType.PREFERRED, Set.of(tp)).all()));
        call("electLeaders", "unclean, all", () -> get(admin.electLeaders(ElectionType.UNCLEAN, null).partitions()).size());
        call("deleteTopics", "unknown", () -> get(admin.deleteTopics(List.of("nope")).all()));
    }

    private static void configs() throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        ConfigResource unknown = new ConfigResource(ConfigResource.Type.TOPIC, "nope");
        ConfigResource metrics = new ConfigResource(ConfigResource.Type.CLIENT_METRICS, "sub");
        ConfigResource group = new ConfigResource(ConfigResource.Type.GROUP, "g");
        call("describeConfigs", "topic", () -> get(admin.describeConfigs(List.of(topic)).all()).get(topic).get("retention.ms").value());
        call("describeConfigs", "unknown", () -> get(admin.describeConfigs(List.of(unknown)).all()));
        call("incrementalAlterConfigs", "topic", () -> get(admin.incrementalAlterConfigs(Map.of(topic, List.of(set("retention.ms", "7777777")))).all()));
        call("incrementalAlterConfigs", "bad value", () -> get(admin.incrementalAlterConfigs(Map.of(topic, List.of(set("retention.ms", "x")))).all()));
        call("incrementalAlterConfigs", "client metrics", () -> get(admin.incrementalAlterConfigs(Map.of(metrics, List.of(set("interval.ms", "10000"), set("metrics", "org.apache.kafka."), set("match", "client_id=a.*")))).all()));
        call("incrementalAlterConfigs", "client metrics, too often", () -> get(admin.incrementalAlterConfigs(Map.of(metrics, List.of(set("interval.ms", "1")))).all()));
        call("incrementalAlterConfigs", "group", () -> get(admin.incrementalAlterConfigs(Map.of(group, List.of(set("consumer.session.timeout.ms", "50000")))).all()));
        settle();
        call("describeConfigs", "altered", () -> get(admin.describeConfigs(List.of(topic)).all()).get(topic).get("retention.ms").value());
        call("describeConfigs", "client metrics", () -> get(admin.describeConfigs(List.of(metrics)).all()).get(metrics).get("interval.ms").value());
        call("listConfigResources", "", () -> {
            Set<String> names = new TreeSet<>();
            get(admin.listConfigResources().all()).forEach(r -> names.add(r.type() + "/" + r.name()));
            names.removeIf(name -> name.startsWith("BROKER"));
            return names;
        });
        call("listClientMetricsResources", "", () -> get(admin.listClientMetricsResources().all()).size());
    }

    private static AlterConfigOp set(String key, String value) {
        return new AlterConfigOp(new ConfigEntry(key, value), AlterConfigOp.OpType.SET);
    }

    private static void quotasAndCredentials() throws Exception {
        ClientQuotaEntity alice = new ClientQuotaEntity(Map.of("user", "alice"));
        ClientQuotaEntity odd = new ClientQuotaEntity(Map.of("group", "g"));
        ClientQuotaAlteration.Op rate = new ClientQuotaAlteration.Op("producer_byte_rate", 1000.0);
        call("alterClientQuotas", "user", () -> get(admin.alterClientQuotas(List.of(new ClientQuotaAlteration(alice, List.of(rate)))).all()));
        call("alterClientQuotas", "odd entity", () -> get(admin.alterClientQuotas(List.of(new ClientQuotaAlteration(odd, List.of(rate)))).all()));
        call("alterClientQuotas", "odd key", () -> get(admin.alterClientQuotas(List.of(new ClientQuotaAlteration(alice, List.of(new ClientQuotaAlteration.Op("k", 1.0))))).all()));
        settle();
        call("describeClientQuotas", "all", () -> get(admin.describeClientQuotas(ClientQuotaFilter.all()).entities()));
        call("describeClientQuotas", "ip", () -> get(admin.describeClientQuotas(ClientQuotaFilter.containsOnly(List.of(ClientQuotaFilterComponent.ofEntityType("ip")))).entities()));
        ScramCredentialInfo info = new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096);
        call("alterUserScramCredentials", "new", () -> get(admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion("bob", info, "secret"))).all()));
        call("alterUserScramCredentials", "too few iterations", () -> get(admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion("eve", new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 1), "secret"))).all()));
        call("alterUserScramCredentials", "delete unknown", () -> get(admin.alterUserScramCredentials(List.of(new UserScramCredentialDeletion("carol", ScramMechanism.SCRAM_SHA_256))).all()));
        settle();
        call("describeUserScramCredentials", "all", () -> get(admin.describeUserScramCredentials().all()));
        call("describeUserScramCredentials", "unknown", () -> get(admin.describeUserScramCredentials(List.of("nobody")).description("nobody")));
        call("alterUserScramCredentials", "delete", () -> get(admin.alterUserScramCredentials(List.of(new UserScramCredentialDeletion("bob", ScramMechanism.SCRAM_SHA_256))).all()));
    }

    private static void security() {
        AclBinding binding = new AclBinding(new ResourcePattern(ResourceType.TOPIC, TOPIC, PatternType.LITERAL),
            new AccessControlEntry("User:alice", "*", AclOperation.READ, AclPermissionType.ALLOW));
        call("describeAcls", "", () -> get(admin.describeAcls(AclBindingFilter.ANY).values()));
        call("createAcls", "", () -> get(admin.createAcls(List.of(binding)).all()));
        call("deleteAcls", "", () -> get(admin.deleteAcls(List.of(AclBindingFilter.ANY)).all()));
        call("createDelegationToken", "", () -> get(admin.createDelegationToken().delegationToken()));
        call("renewDelegationToken", "", () -> get(admin.renewDelegationToken(new byte[] {1}).expiryTimestamp()));
        call("expireDelegationToken", "", () -> get(admin.expireDelegationToken(new byte[] {1}).expiryTimestamp()));
        call("describeDelegationToken", "", () -> get(admin.describeDelegationToken().delegationTokens()));
    }

    private static void reassignments() throws Exception {
        TopicPartition tp = new TopicPartition(TOPIC, 0);
        int broker = get(admin.describeCluster().nodes()).iterator().next().id();
        call("listPartitionReassignments", "", () -> get(admin.listPartitionReassignments().reassignments()));
        call("alterPartitionReassignments", "cancel nothing", () -> get(admin.alterPartitionReassignments(Map.of(tp, Optional.empty())).all()));
        call("alterPartitionReassignments", "where it is", () -> get(admin.alterPartitionReassignments(Map.of(tp, Optional.of(new NewPartitionReassignment(List.of(broker))))).all()));
        call("alterPartitionReassignments", "unknown broker", () -> get(admin.alterPartitionReassignments(Map.of(tp, Optional.of(new NewPartitionReassignment(List.of(99))))).all()));
        call("alterPartitionReassignments", "unknown topic", () -> get(admin.alterPartitionReassignments(Map.of(new TopicPartition("nope", 0), Optional.of(new NewPartitionReassignment(List.of(broker))))).all()));
        call("describeLogDirs", "", () -> get(admin.describeLogDirs(List.of(broker)).allDescriptions()).get(broker).size());
        TopicPartitionReplica replica = new TopicPartitionReplica(TOPIC, 0, broker);
        call("describeReplicaLogDirs", "", () -> get(admin.describeReplicaLogDirs(List.of(replica)).all()).get(replica).getFutureReplicaLogDir());
        String dir = get(admin.describeReplicaLogDirs(List.of(replica)).all()).get(replica).getCurrentReplicaLogDir();
        call("alterReplicaLogDirs", "where it is", () -> get(admin.alterReplicaLogDirs(Map.of(replica, dir)).all()));
        call("alterReplicaLogDirs", "nowhere", () -> get(admin.alterReplicaLogDirs(Map.of(replica, "/no/such/dir")).all()));
    }

    private static void cluster() throws Exception {
        call("describeCluster", "", () -> get(admin.describeCluster().nodes()).size());
        call("describeFeatures", "", () -> {
            var features = get(admin.describeFeatures().featureMetadata());
            return new TreeSet<>(features.finalizedFeatures().keySet());
        });
        call("updateFeatures", "unknown", () -> get(admin.updateFeatures(Map.of("no.feature", new FeatureUpdate((short) 1, FeatureUpdate.UpgradeType.UPGRADE)), new UpdateFeaturesOptions()).all()));
        call("describeMetadataQuorum", "", () -> get(admin.describeMetadataQuorum().quorumInfo()).voters().size());
        call("unregisterBroker", "unknown", () -> get(admin.unregisterBroker(77).all()));
        call("addRaftVoter", "", () -> get(admin.addRaftVoter(7, Uuid.fromString("AAAAAAAAAAAAAAAAAAAABw"), Set.of(new RaftVoterEndpoint("CONTROLLER", "127.0.0.1", 1))).all()));
        call("removeRaftVoter", "", () -> get(admin.removeRaftVoter(7, Uuid.fromString("AAAAAAAAAAAAAAAAAAAABw")).all()));
    }

    private static void groups() throws Exception {
        TopicPartition tp = new TopicPartition(TOPIC, 0);
        Map<TopicPartition, OffsetAndMetadata> offsets = Map.of(tp, new OffsetAndMetadata(0));
        call("alterConsumerGroupOffsets", "", () -> get(admin.alterConsumerGroupOffsets("group", offsets).all()));
        call("listConsumerGroupOffsets", "", () -> get(admin.listConsumerGroupOffsets("group").partitionsToOffsetAndMetadata()).get(tp).offset());
        call("listConsumerGroups", "", () -> get(admin.listConsumerGroups().all()).size());
        call("listGroups", "", () -> get(admin.listGroups().all()).size());
        call("describeConsumerGroups", "", () -> get(admin.describeConsumerGroups(List.of("group")).all()).get("group").groupState());
        call("describeConsumerGroups", "unknown", () -> get(admin.describeConsumerGroups(List.of("nope")).all()));
        call("describeClassicGroups", "unknown", () -> get(admin.describeClassicGroups(List.of("nope")).all()));
        call("removeMembersFromConsumerGroup", "", () -> get(admin.removeMembersFromConsumerGroup("group", new RemoveMembersFromConsumerGroupOptions(Set.of(new MemberToRemove("m")))).all()));
        call("deleteConsumerGroupOffsets", "", () -> get(admin.deleteConsumerGroupOffsets("group", Set.of(tp)).all()));
        call("deleteConsumerGroups", "", () -> get(admin.deleteConsumerGroups(List.of("group")).all()));
        call("deleteConsumerGroups", "unknown", () -> get(admin.deleteConsumerGroups(List.of("nope")).all()));
        call("describeShareGroups", "unknown", () -> get(admin.describeShareGroups(List.of("nope")).all()));
        call("listShareGroupOffsets", "unknown", () -> get(admin.listShareGroupOffsets(Map.of("nope", new ListShareGroupOffsetsSpec())).all()).size());
        call("deleteShareGroups", "unknown", () -> get(admin.deleteShareGroups(List.of("nope")).all()));
        call("deleteShareGroupOffsets", "unknown", () -> get(admin.deleteShareGroupOffsets("nope", Set.of(TOPIC)).all()));
        call("alterShareGroupOffsets", "unknown", () -> get(admin.alterShareGroupOffsets("nope", Map.of(tp, 0L)).all()));
        call("describeStreamsGroups", "unknown", () -> get(admin.describeStreamsGroups(List.of("nope")).all()));
        call("listStreamsGroupOffsets", "unknown", () -> get(admin.listStreamsGroupOffsets(Map.of("nope", new ListStreamsGroupOffsetsSpec())).all()).size());
        call("deleteStreamsGroups", "unknown", () -> get(admin.deleteStreamsGroups(List.of("nope")).all()));
        call("deleteStreamsGroupOffsets", "unknown", () -> get(admin.deleteStreamsGroupOffsets("nope", Set.of(tp)).all()));
        call("alterStreamsGroupOffsets", "unknown", () -> get(admin.alterStreamsGroupOffsets("nope", offsets).all()));
    }

    private static void transactionsAndProducers() throws Exception {
        TopicPartition tp = new TopicPartition(TOPIC, 0);
        call("describeProducers", "", () -> get(admin.describeProducers(List.of(tp)).all()).get(tp).activeProducers().size());
        call("describeTransactions", "unknown", () -> get(admin.describeTransactions(List.of("nope")).all()));
        call("listTransactions", "", () -> get(admin.listTransactions().all()).size());
        call("abortTransaction", "none", () -> get(admin.abortTransaction(new AbortTransactionSpec(tp, 5, (short) 0, 0)).all()));
        call("fenceProducers", "", () -> get(admin.fenceProducers(List.of("tx")).all()));
        call("forceTerminateTransaction", "", () -> get(admin.forceTerminateTransaction("tx").result()));
    }

    private static void rest() throws Exception {
        call("clientInstanceId", "", () -> admin.clientInstanceId(java.time.Duration.ofSeconds(3)));
        call("metrics", "", () -> admin.metrics().isEmpty());
        call("registerMetricForSubscription", "", () -> { admin.registerMetricForSubscription(metric()); return null; });
        call("unregisterMetricFromSubscription", "", () -> { admin.unregisterMetricFromSubscription(metric()); return null; });
        call("deleteTopics", "", () -> get(admin.deleteTopics(List.of(TOPIC)).all()));
    }

    private static org.apache.kafka.common.metrics.KafkaMetric metric() {
        return (org.apache.kafka.common.metrics.KafkaMetric) admin.metrics().values().iterator().next();
    }

    /** Methods of the interface that nothing above has called. */
    private static void forgotten() {
        Set<String> all = new TreeSet<>();
        for (Method method : Admin.class.getMethods()) {
            if (!Modifier.isStatic(method.getModifiers())) {
                all.add(method.getName());
            }
        }
        all.removeAll(called);
        all.remove("close");
        System.out.println("forgotten: " + all);
    }
}
