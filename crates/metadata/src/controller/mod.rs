//! The active controller: it decides how the cluster changes and writes each decision as metadata records.
//!
//! A [`Controller`] lives from the moment this node leads the metadata quorum until it no longer does. It works on its
//! own, speculative image: every operation turns a request into records and an answer, applies the records to that
//! image at once, and hands both out. The caller appends the records to the quorum's log and releases the answer when
//! they are committed. If leadership is lost before that, the whole controller is thrown away and with it everything
//! that was not committed. It knows nothing of logs, sockets and threads, and reads no clock.
//!
//! Start at [`Controller::activate`]; each kind of operation has its file.

mod activation;
mod alter_partition;
mod brokers;
mod configs;
mod create_topics;
mod directories;
mod elections;
mod feature_updates;
mod partition_change;
mod partitions;
mod placement;
mod quotas;
mod reassign;
mod scram;
mod sessions;
mod topics;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_quotas;
#[cfg(test)]
mod tests_reassign;

use std::sync::Arc;

use protocol::error::ErrorCode;
use protocol::messages::*;
use protocol::time::Now;
use protocol::wire::{Str, Uuid};

pub use activation::Bootstrap;
pub use brokers::INTACT_INCARNATIONS_TAG;
pub use placement::{Placer, UsableBroker};
pub use quotas::{Bucket, MutationQuota};
use sessions::Sessions;

use crate::config::NodeConfig;
use crate::features::MetadataVersion;
use crate::image::{ConfigResource, MetadataDelta, MetadataImage};

/// A record on its way to the log.
type Record = MetadataRecord<'static>;

/// The most records that one request of a user may cause (`QuorumController.MAX_RECORDS_PER_USER_OP`).
const RECORDS_MAX_PER_OPERATION: usize = 10_000;
/// The most leader elections of one round of rebalancing or of unclean elections.
const ELECTIONS_MAX_PER_ROUND: usize = 1_000;
/// Producer ids are handed out to brokers in blocks of this size.
const PRODUCER_ID_BLOCK: i32 = 1000;

pub const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
pub const UNCLEAN_LEADER_ELECTION_ENABLE: &str = "unclean.leader.election.enable";

/// Records for the log, and the answer to release once they are committed.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerResult<T> {
    /// Encoded metadata records in log order; empty if the operation changes nothing.
    pub records: Vec<Vec<u8>>,
    pub response: T,
}

/// What a controller needs to know beside the metadata log.
#[derive(Clone, Debug)]
pub struct ControllerSettings {
    /// The static configuration of this node.
    pub node: Arc<NodeConfig>,
    /// The level of kraft.version, which lives in the quorum's control records and not in the image.
    pub kraft_version: i16,
    /// The ids of the quorum's voters: each must support a feature level before it is finalized.
    pub voters: Vec<i32>,
    /// What an empty log begins with.
    pub bootstrap: Bootstrap,
}

impl ControllerSettings {
    fn rebalance_interval_ms(&self) -> i64 {
        self.node.leader_imbalance_check_interval_seconds.saturating_mul(1000)
    }
}

/// Invariants: `image` is the committed image plus exactly the records handed out so far; every registered broker has a
/// session and nobody else has; an unfenced broker's session has a contact time.
pub struct Controller {
    settings: ControllerSettings,
    image: MetadataImage,
    sessions: Sessions,
    rng: fastrand::Rng,
    no_op_at_ms: i64,
    rebalance_at_ms: i64,
    unclean_election_at_ms: i64,
}

impl Controller {
    /// For a node whose quorum made it leader and whose log is replayed up to its end. Returns the controller and the
    /// records with which its reign begins.
    pub fn activate(
        image: MetadataImage,
        settings: ControllerSettings,
        seed: u64,
        now: Now,
    ) -> (Controller, Vec<Vec<u8>>) {
        let mut controller = Controller {
            sessions: Sessions::activate(&image, settings.node.broker_session_timeout_ms, now),
            image,
            rng: fastrand::Rng::with_seed(seed),
            no_op_at_ms: now.mono_ms + settings.node.metadata_max_idle_interval_ms,
            rebalance_at_ms: now.mono_ms + settings.rebalance_interval_ms(),
            unclean_election_at_ms: now.mono_ms + settings.node.unclean_leader_election_interval_ms,
            settings,
        };
        let records = controller.activation_records();
        (controller, records)
    }

    /// The cluster as it will be once everything handed out is committed.
    pub fn image(&self) -> &MetadataImage {
        &self.image
    }

    pub fn settings(&self) -> &ControllerSettings {
        &self.settings
    }

    /// The quorum's voters changed, or kraft.version did.
    pub fn set_quorum(&mut self, kraft_version: i16, voters: Vec<i32>) {
        self.settings.kraft_version = kraft_version;
        self.settings.voters = voters;
    }

    /// Everything that is due: sessions that ended, elections, the NoOp record by which observers see a live leader.
    pub fn tick(&mut self, now: Now) -> Vec<Vec<u8>> {
        let mut encoded = self.fence_expired(now);
        if self.settings.node.auto_leader_rebalance_enable && now.mono_ms >= self.rebalance_at_ms {
            let records = self.preferred_elections(ELECTIONS_MAX_PER_ROUND);
            let wait_ms = self.wait_after(records.len(), self.settings.rebalance_interval_ms());
            self.rebalance_at_ms = now.mono_ms + wait_ms;
            encoded.extend(self.emit(records));
        }
        if now.mono_ms >= self.unclean_election_at_ms {
            let records = self.unclean_elections(ELECTIONS_MAX_PER_ROUND);
            let wait_ms = self.wait_after(records.len(), self.settings.node.unclean_leader_election_interval_ms);
            self.unclean_election_at_ms = now.mono_ms + wait_ms;
            encoded.extend(self.emit(records));
        }
        if self.settings.node.metadata_max_idle_interval_ms > 0 && now.mono_ms >= self.no_op_at_ms {
            self.no_op_at_ms = now.mono_ms + self.settings.node.metadata_max_idle_interval_ms;
            encoded.extend(self.emit(vec![MetadataRecord::NoOp(NoOpRecord::default())]));
        }
        encoded
    }

    /// A full round is followed by another soon, so that a large cluster is not bound to the long interval.
    fn wait_after(&self, elections: usize, interval_ms: i64) -> i64 {
        const NEXT_ROUND_MS: i64 = 10;
        if elections >= ELECTIONS_MAX_PER_ROUND { NEXT_ROUND_MS } else { interval_ms }
    }

    /// When [`Controller::tick`] has something to do at the latest, in monotonic milliseconds.
    pub fn next_deadline(&self) -> i64 {
        let mut deadline = self.unclean_election_at_ms;
        if self.settings.node.metadata_max_idle_interval_ms > 0 {
            deadline = deadline.min(self.no_op_at_ms);
        }
        if self.settings.node.auto_leader_rebalance_enable {
            deadline = deadline.min(self.rebalance_at_ms);
        }
        deadline.min(self.sessions.next_expiry().unwrap_or(i64::MAX))
    }

    /// A block of ids for a broker's transaction coordinator and idempotent producers (KIP-730).
    pub fn allocate_producer_ids(
        &mut self,
        request: &AllocateProducerIdsRequest,
    ) -> ControllerResult<AllocateProducerIdsResponse> {
        if let Err(error) = self.check_broker_epoch(request.broker_id, request.broker_epoch) {
            return refused(AllocateProducerIdsResponse { error_code: error.code(), ..Default::default() });
        }
        let start = self.image.producer_ids_next;
        let Some(next) = start.checked_add(i64::from(PRODUCER_ID_BLOCK)) else {
            let error_code = ErrorCode::UnknownServerError as i16;
            return refused(AllocateProducerIdsResponse { error_code, ..Default::default() });
        };
        let record = ProducerIdsRecord {
            broker_id: request.broker_id,
            broker_epoch: request.broker_epoch,
            next_producer_id: next,
            ..Default::default()
        };
        let records = self.emit(vec![MetadataRecord::ProducerIds(record)]);
        let response = AllocateProducerIdsResponse {
            producer_id_start: start,
            producer_id_len: PRODUCER_ID_BLOCK,
            ..Default::default()
        };
        ControllerResult { records, response }
    }

    /// Applies records to the image and encodes them for the log, in the versions that metadata.version allows.
    fn emit(&mut self, records: Vec<Record>) -> Vec<Vec<u8>> {
        let mut encoded = Vec::with_capacity(records.len());
        let mut delta = MetadataDelta::default();
        for record in records {
            let version = record_version(&record, self.image.metadata_version());
            encoded.push(record.encode(version).expect("the record was built for this metadata.version"));
            self.image.apply(&record, &mut delta).expect("the record was built from this image");
        }
        encoded
    }

    /// The value that a topic's key has here: topic, then this node's dynamic one, the cluster's, the node's file.
    fn topic_config<'a>(&'a self, topic: &str, key: &str, fallback: &'a str) -> &'a str {
        let topic = self.image.config(&ConfigResource::topic(topic), key);
        let node = || self.image.config(&ConfigResource::broker(self.settings.node.node_id), key);
        let cluster = || self.image.config(&ConfigResource::all_brokers(), key);
        topic.or_else(node).or_else(cluster).unwrap_or(fallback)
    }

    /// `min.insync.replicas` as far as the topic has replicas at all (KIP-966).
    fn effective_min_isr(&self, topic: Uuid) -> usize {
        let Some(topic) = self.image.topics.get(&topic) else { return 1 };
        let fallback = self.settings.node.min_insync_replicas.to_string();
        let configured = self.topic_config(&topic.name, MIN_INSYNC_REPLICAS, &fallback).parse().unwrap_or(1usize);
        let replicas = topic.partitions.values().next().map_or(1, |p| p.replicas.len());
        configured.min(replicas)
    }

    fn unclean_election_is_enabled(&self, topic: &str) -> bool {
        let fallback = if self.settings.node.unclean_leader_election_enable { "true" } else { "false" };
        self.topic_config(topic, UNCLEAN_LEADER_ELECTION_ENABLE, fallback).eq_ignore_ascii_case("true")
    }

    /// A random id as Kafka makes them: version 4, and never one that starts with a dash when printed, because tools
    /// would take it for a flag.
    fn random_uuid(&mut self) -> Uuid {
        loop {
            let id = Uuid::from_random(self.rng.u128(..).to_be_bytes());
            if !id.is_reserved() && !id.to_string().starts_with('-') {
                return id;
            }
        }
    }

    /// Asserts the invariants of this structure and of the image; for tests and the simulator.
    pub fn check(&self) {
        self.sessions.check(&self.image);
        for topic in self.image.topics.values() {
            assert_eq!(self.image.topic_ids.get(&topic.name), Some(&topic.id), "{} has two ids", topic.name);
            for (number, p) in &topic.partitions {
                let at = format!("{}-{number}", topic.name);
                assert!(!p.replicas.is_empty(), "{at} has no replicas");
                assert_eq!(p.replicas.len(), p.directories.len(), "{at}: a directory per replica");
                assert!(p.isr.iter().all(|r| p.replicas.contains(r)), "{at}: ISR outside replicas");
                assert!(p.elr.iter().all(|r| !p.isr.contains(r)), "{at}: ISR and ELR overlap");
                assert!(!p.has_leader() || p.isr.contains(&p.leader), "{at}: leader outside ISR");
                if p.has_leader() {
                    assert!(self.image.is_active_broker(p.leader), "{at}: leader {} is not active", p.leader);
                }
            }
        }
    }
}

/// The version of each record that a level of metadata.version writes.
pub(crate) fn record_version(record: &Record, level: MetadataVersion) -> i16 {
    match record {
        MetadataRecord::RegisterBroker(_) => level.register_broker_record(),
        MetadataRecord::Partition(_) | MetadataRecord::PartitionChange(_) => level.partition_record(),
        // The lowest version that holds what the record says, as Kafka writes it.
        MetadataRecord::BrokerRegistrationChange(r) if r.cordoned_log_dirs.is_some() => 3,
        MetadataRecord::BrokerRegistrationChange(r) if !r.log_dirs.is_empty() => 2,
        MetadataRecord::BrokerRegistrationChange(r) if r.in_controlled_shutdown != 0 => 1,
        _ => 0,
    }
}

/// Why a request, or one entry of it, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    error: ErrorCode,
    message: Option<String>,
}

impl ApiError {
    fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { error, message: Some(message.into()) }
    }

    fn code(&self) -> i16 {
        self.error as i16
    }

    fn text(self) -> Option<Str<'static>> {
        self.message.map(Str::Owned)
    }
}

impl From<ErrorCode> for ApiError {
    fn from(error: ErrorCode) -> Self {
        Self { error, message: None }
    }
}

/// Error code and message of one entry of an answer.
fn outcome(result: Result<(), ApiError>) -> (i16, Option<Str<'static>>) {
    match result {
        Ok(()) => (0, None),
        Err(error) => (error.code(), error.text()),
    }
}

/// An answer that changes nothing.
fn refused<T>(response: T) -> ControllerResult<T> {
    ControllerResult { records: Vec::new(), response }
}

fn own(text: &str) -> Str<'static> {
    Str::Owned(text.to_owned())
}
