//! Which APIs this node answers, on which listener, in which versions. What stands here works; nothing else is
//! advertised, and a request outside of it is answered as Kafka answers an unsupported version.

use protocol::api::ApiKey;

use crate::effect::ListenerKind;
use crate::node::Node;

const B: u8 = 1;
const C: u8 = 2;
const BC: u8 = B | C;

/// (api, listeners). The versions are the codec's stable ones, which are those of Kafka 4.3.
const SERVED: &[(ApiKey, u8)] = &[
    (ApiKey::Produce, B),
    (ApiKey::Fetch, BC),
    (ApiKey::ListOffsets, B),
    (ApiKey::Metadata, B),
    (ApiKey::OffsetCommit, B),
    (ApiKey::OffsetFetch, B),
    (ApiKey::FindCoordinator, B),
    (ApiKey::JoinGroup, B),
    (ApiKey::Heartbeat, B),
    (ApiKey::LeaveGroup, B),
    (ApiKey::SyncGroup, B),
    (ApiKey::DescribeGroups, B),
    (ApiKey::ListGroups, B),
    (ApiKey::ApiVersions, BC),
    (ApiKey::CreateTopics, BC),
    (ApiKey::DeleteTopics, BC),
    (ApiKey::DeleteRecords, B),
    (ApiKey::InitProducerId, B),
    (ApiKey::OffsetForLeaderEpoch, B),
    (ApiKey::AddPartitionsToTxn, B),
    (ApiKey::AddOffsetsToTxn, B),
    (ApiKey::EndTxn, B),
    (ApiKey::WriteTxnMarkers, B),
    (ApiKey::TxnOffsetCommit, B),
    (ApiKey::DescribeConfigs, BC),
    (ApiKey::AlterConfigs, BC),
    (ApiKey::DescribeLogDirs, B),
    (ApiKey::CreatePartitions, BC),
    (ApiKey::DeleteGroups, B),
    (ApiKey::ElectLeaders, BC),
    (ApiKey::IncrementalAlterConfigs, BC),
    (ApiKey::OffsetDelete, B),
    (ApiKey::DescribeAcls, BC),
    (ApiKey::CreateAcls, BC),
    (ApiKey::DeleteAcls, BC),
    (ApiKey::CreateDelegationToken, BC),
    (ApiKey::RenewDelegationToken, BC),
    (ApiKey::ExpireDelegationToken, BC),
    (ApiKey::DescribeDelegationToken, BC),
    (ApiKey::DescribeUserScramCredentials, BC),
    (ApiKey::AlterUserScramCredentials, BC),
    (ApiKey::AlterPartitionReassignments, BC),
    (ApiKey::ListPartitionReassignments, BC),
    (ApiKey::DescribeClientQuotas, B),
    (ApiKey::AlterClientQuotas, BC),
    (ApiKey::Vote, C),
    (ApiKey::BeginQuorumEpoch, C),
    (ApiKey::EndQuorumEpoch, C),
    (ApiKey::DescribeQuorum, BC),
    (ApiKey::AlterPartition, C),
    (ApiKey::UpdateFeatures, BC),
    (ApiKey::Envelope, C),
    (ApiKey::FetchSnapshot, C),
    (ApiKey::DescribeCluster, BC),
    (ApiKey::DescribeProducers, B),
    (ApiKey::BrokerRegistration, C),
    (ApiKey::BrokerHeartbeat, C),
    (ApiKey::UnregisterBroker, BC),
    (ApiKey::DescribeTransactions, B),
    (ApiKey::ListTransactions, B),
    (ApiKey::AllocateProducerIds, C),
    (ApiKey::ControllerRegistration, C),
    (ApiKey::AssignReplicasToDirs, C),
    (ApiKey::ListConfigResources, B),
    (ApiKey::DescribeTopicPartitions, B),
    (ApiKey::AddRaftVoter, BC),
    (ApiKey::RemoveRaftVoter, BC),
    (ApiKey::ConsumerGroupHeartbeat, B),
    (ApiKey::ConsumerGroupDescribe, B),
    (ApiKey::UpdateRaftVoter, C),
];

fn listeners(kind: ListenerKind) -> u8 {
    match kind {
        ListenerKind::Broker => B,
        ListenerKind::Controller => C,
    }
}

/// The versions in which `key` is answered on such a listener.
pub fn served(key: ApiKey, kind: ListenerKind) -> Option<(i16, i16)> {
    let (_, on) = SERVED.iter().find(|(served, _)| *served == key)?;
    let versions = key.versions();
    (on & listeners(kind) != 0).then_some((*versions.start(), *versions.end()))
}

/// What an ApiVersions response lists, in key order.
fn advertised(kind: ListenerKind) -> impl Iterator<Item = (ApiKey, i16, i16)> {
    SERVED.iter().filter_map(move |(key, _)| {
        let (min, max) = served(*key, kind)?;
        // KAFKA-18659: librdkafka before 2.6 takes a produce minimum above 0 for a broker without any of the
        // versions it knows; 0 to 2 are advertised and refused.
        let min = if *key == ApiKey::Produce { 0 } else { min };
        Some((*key, min, max))
    })
}

impl Node {
    /// As [`served`], with what only some nodes offer: metrics of clients, where they are wanted.
    pub(crate) fn served(&self, key: ApiKey, kind: ListenerKind) -> Option<(i16, i16)> {
        let is_of_telemetry = matches!(key, ApiKey::GetTelemetrySubscriptions | ApiKey::PushTelemetry);
        if is_of_telemetry && self.telemetry.is_on && kind == ListenerKind::Broker {
            return Some((*key.versions().start(), *key.versions().end()));
        }
        served(key, kind)
    }

    /// What an ApiVersions response of this node lists, in key order.
    pub(crate) fn advertised(&self, kind: ListenerKind) -> Vec<(ApiKey, i16, i16)> {
        let mut all: Vec<_> = advertised(kind).collect();
        for key in [ApiKey::GetTelemetrySubscriptions, ApiKey::PushTelemetry] {
            all.extend(self.served(key, kind).map(|(min, max)| (key, min, max)));
        }
        all.sort_by_key(|(key, ..)| *key as i16);
        all
    }
}
