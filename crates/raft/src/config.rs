//! What a quorum member is told at start. Values only; where they come from is not known here.

use std::collections::BTreeMap;

use protocol::wire::Uuid;
use storage::LogConfig;

use crate::types::{Endpoint, Endpoints, KRaftVersions, ReplicaKey};

/// Largest batch of metadata records, and largest answer to a fetch apart from its first batch
/// (`KafkaRaftClient.MAX_BATCH_SIZE_BYTES`).
pub const BATCH_BYTES_MAX: usize = 8 << 20;

#[derive(Clone, Debug)]
pub struct QuorumConfig {
    pub node_id: i32,
    /// `directory.id` of the directory that holds the metadata log; never zero.
    pub directory_id: Uuid,
    pub cluster_id: String,
    /// The node has the role controller: it may be, or become, a voter. A broker alone is an observer for ever.
    pub can_be_voter: bool,
    /// `controller.quorum.auto.join.enable`: a controller that is no voter asks to become one (KIP-1186).
    pub auto_join: bool,
    /// `controller.quorum.voters`; empty in a dynamic quorum.
    pub static_voters: BTreeMap<i32, Endpoint>,
    /// `controller.quorum.bootstrap.servers`; when empty, the static voters are asked instead.
    pub bootstrap_servers: Vec<Endpoint>,
    /// The controller listener that replicas use among themselves: first of `controller.listener.names`.
    pub listener_name: String,
    /// Our own controller listeners as advertised; empty for a broker.
    pub listeners: Endpoints,
    pub kraft_versions: KRaftVersions,

    /// `controller.quorum.election.timeout.ms`: waited once to twice before an election.
    pub election_timeout_ms: i64,
    /// `controller.quorum.fetch.timeout.ms`.
    pub fetch_timeout_ms: i64,
    /// `controller.quorum.election.backoff.max.ms`.
    pub election_backoff_max_ms: i64,
    /// `controller.quorum.request.timeout.ms`.
    pub request_timeout_ms: i64,
    /// `controller.quorum.retry.backoff.ms`.
    pub retry_backoff_ms: i64,
    /// How long a leader may hold our fetch while there is nothing new.
    pub fetch_max_wait_ms: i32,
    /// `controller.quorum.fetch.max.bytes`.
    pub fetch_max_bytes: i32,
    /// `controller.quorum.fetch.snapshot.max.bytes`.
    pub fetch_snapshot_max_bytes: i32,
    /// `metadata.max.retention.bytes`; negative: no limit.
    pub retention_bytes: i64,
    /// `metadata.max.retention.ms`; negative: no limit.
    pub retention_ms: i64,
    /// Elect a new leader as soon as connections to the old one are refused, see [`crate::Quorum::on_peer_down`].
    pub elect_on_refused: bool,
    pub mutations: Mutations,
}

impl QuorumConfig {
    /// Kafka's defaults for everything that has one.
    pub fn new(node_id: i32, directory_id: Uuid, cluster_id: impl Into<String>) -> Self {
        Self {
            node_id,
            directory_id,
            cluster_id: cluster_id.into(),
            can_be_voter: false,
            auto_join: false,
            static_voters: BTreeMap::new(),
            bootstrap_servers: Vec::new(),
            listener_name: "CONTROLLER".to_owned(),
            listeners: Endpoints::default(),
            kraft_versions: KRaftVersions::SUPPORTED,
            election_timeout_ms: 1_000,
            fetch_timeout_ms: 2_000,
            election_backoff_max_ms: 1_000,
            request_timeout_ms: 2_000,
            retry_backoff_ms: 20,
            fetch_max_wait_ms: 500,
            fetch_max_bytes: 1 << 20,
            fetch_snapshot_max_bytes: 1 << 20,
            retention_bytes: 100 << 20,
            retention_ms: 7 * 24 * 3_600_000,
            elect_on_refused: true,
            mutations: Mutations::default(),
        }
    }

    pub fn key(&self) -> ReplicaKey {
        ReplicaKey::new(self.node_id, self.directory_id)
    }
}

/// The settings of the metadata log: `metadata.log.segment.bytes` and `metadata.log.segment.ms`, and no retention of
/// its own, since snapshots decide what goes (`KafkaRaftLog.createLog`).
pub fn metadata_log_config(segment_bytes: u64, segment_ms: i64) -> LogConfig {
    LogConfig {
        segment_bytes,
        segment_ms,
        retention_ms: -1,
        retention_bytes: -1,
        reserve: false,
        ..LogConfig::default()
    }
}

/// Faults planted on purpose, to prove that the checkers which watch a cluster would notice a real one. All off
/// except in the simulator's and this crate's own tests of their checkers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutations {
    /// Votes and epochs are not written to disk: a restart forgets them.
    pub vote_not_persisted: bool,
    /// Votes are granted to candidates whose log is behind.
    pub vote_ignores_log: bool,
    /// The leader counts what it has written as if it were flushed, and followers acknowledge before the flush.
    pub ack_before_flush: bool,
    /// One voter fewer than a majority is enough to commit.
    pub commit_without_majority: bool,
    /// The leader commits entries of earlier epochs before one of its own.
    pub commit_earlier_epochs: bool,
}
