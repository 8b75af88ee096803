//! One file per API, or per family of them. Each turns a request into calls of the machines and their outcome into an
//! answer; none decides anything that two APIs would have to agree on.

mod api_versions;
mod delete_records;
mod describe_client_quotas;
mod describe_cluster;
mod describe_configs;
mod describe_log_dirs;
mod fetch;
mod groups;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
pub(crate) mod security;
mod telemetry;
mod topic_partitions;
mod transactions;
mod txn_markers;
mod txn_offsets;

pub(crate) use txn_markers::MarkerWait;

use protocol::error::ErrorCode;
use replication::PartitionKey;

use crate::node::Node;

/// Topics that only the broker itself writes.
pub(crate) const INTERNAL_TOPICS: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// Where a leader can be found, for the hint in an error (KIP-951).
pub(crate) struct LeaderHint {
    pub leader: i32,
    pub epoch: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

impl Node {
    pub(crate) fn listener_name(&self, listener: Option<usize>) -> &str {
        let listener = listener.and_then(|i| self.config.listeners.get(i));
        listener.map_or(&self.config.inter_broker_listener_name, |l| &l.name)
    }

    /// Why a partition is not served here: it leads elsewhere, or it does not exist.
    pub(crate) fn missing(&self, key: PartitionKey, by_id: bool) -> ErrorCode {
        match (self.exists(key.0, key.1), by_id) {
            (true, _) => self.absence(key),
            (false, true) if !self.image.topics.contains_key(&key.0) => ErrorCode::UnknownTopicId,
            (false, _) => ErrorCode::UnknownTopicOrPartition,
        }
    }

    pub(crate) fn leader_hint(&self, key: PartitionKey, listener: Option<usize>) -> Option<LeaderHint> {
        let partition = self.image.partition(key.0, key.1)?;
        let broker = self.image.brokers.get(&partition.leader)?;
        let endpoint = broker.endpoint(self.listener_name(listener))?;
        Some(LeaderHint {
            leader: partition.leader,
            epoch: partition.leader_epoch,
            host: endpoint.host.clone(),
            port: i32::from(endpoint.port),
            rack: broker.rack.clone(),
        })
    }
}

/// The operations that a client without restrictions may do on a topic or the cluster, as the bit field of KIP-430.
pub(crate) const TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
pub(crate) const CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);
pub(crate) const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

const fn bits(operations: &[u8]) -> i32 {
    let mut out = 0;
    let mut i = 0;
    while i < operations.len() {
        out |= 1 << operations[i];
        i += 1;
    }
    out
}
