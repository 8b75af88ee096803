//! Answers to Fetch and FetchSnapshot: how a leader gives its log away.

use protocol::error::ErrorCode;
use protocol::messages::{
    FetchRequest, FetchResponse, FetchSnapshotRequest, FetchSnapshotResponse, fetch_request, fetch_response,
    fetch_snapshot_request, fetch_snapshot_response,
};
use protocol::time::Now;
use protocol::wire::Records;

use crate::config::BATCH_BYTES_MAX;
use crate::effect::{Effect, FetchToken, RequestContext};
use crate::log::Validity;
use crate::quorum::Quorum;
use crate::role::Role;
use crate::server::single;
use crate::snapshot::BOOTSTRAP_SNAPSHOT_ID;
use crate::types::{Endpoint, METADATA_PARTITION, METADATA_TOPIC, METADATA_TOPIC_ID, OffsetAndEpoch, ReplicaKey};

/// Fetches that may wait at once; beyond, they are answered without waiting. Each costs about 150 bytes.
const WAITERS_MAX: usize = 10_000;
/// Longest wait that a fetch may ask for.
const WAIT_MS_MAX: i32 = 60_000;
/// The first version that names its topic by id.
const FETCH_WITH_TOPIC_IDS: i16 = 13;
/// KIP-853: the leader's address in the answer.
const FETCH_WITH_LEADER_ENDPOINT: i16 = 17;

/// A fetch that waits for news. Kept as the request said it, since whether the log still agrees is checked anew.
#[derive(Debug)]
pub(crate) struct FetchWaiter {
    fetch: Fetch,
    pub(crate) due_ms: i64,
}

#[derive(Clone, Debug)]
struct Fetch {
    version: i16,
    listener: String,
    replica: ReplicaKey,
    epoch: i32,
    offset: i64,
    last_epoch: i32,
    high_watermark: i64,
    max_bytes: i32,
}

/// What an answer holds besides the leader.
#[derive(Debug)]
struct Answer {
    error: ErrorCode,
    validity: Validity,
    records: Vec<u8>,
    high_watermark: Option<i64>,
}

impl Answer {
    fn error(error: ErrorCode) -> Self {
        Self { error, validity: Validity::Valid, records: Vec::new(), high_watermark: None }
    }
}

impl Quorum {
    /// `None` if the fetch waits; its answer then comes as [`Effect::FetchDone`] with the same token.
    pub fn on_fetch(
        &mut self,
        ctx: RequestContext<'_>,
        request: &FetchRequest<'_>,
        token: FetchToken,
        now: Now,
    ) -> Option<FetchResponse<'static>> {
        let response = self.start_fetch(ctx, request, token, now);
        self.turn(now);
        response
    }

    /// The connection that a waiting fetch came from is gone.
    pub fn forget_fetch(&mut self, token: FetchToken) {
        self.waiters.remove(&token);
    }

    fn start_fetch(
        &mut self,
        ctx: RequestContext<'_>,
        request: &FetchRequest<'_>,
        token: FetchToken,
        now: Now,
    ) -> Option<FetchResponse<'static>> {
        let top_level = |error: ErrorCode| FetchResponse { error_code: error.into(), ..Default::default() };
        if self.has_failed() {
            return Some(top_level(ErrorCode::UnknownServerError));
        }
        if !self.is_own_cluster(request.cluster_id.as_deref()) {
            return Some(top_level(ErrorCode::InconsistentClusterId));
        }
        let is_ours = |topic: &&fetch_request::FetchTopic<'_>| match ctx.version {
            ..FETCH_WITH_TOPIC_IDS => topic.topic == METADATA_TOPIC,
            _ => topic.topic_id == METADATA_TOPIC_ID,
        };
        let partition = single(&request.topics).filter(is_ours).and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.partition == METADATA_PARTITION) else {
            return Some(top_level(ErrorCode::InvalidRequest));
        };
        let fetch = Fetch::new(ctx, request, partition);
        let is_valid =
            request.max_wait_ms >= 0 && fetch.offset >= 0 && fetch.last_epoch >= 0 && fetch.last_epoch <= fetch.epoch;
        if !is_valid {
            return Some(self.fetch_response(&fetch, Answer::error(ErrorCode::InvalidRequest)));
        }
        let answer = self.try_fetch(&fetch, Some(now));
        let is_news = answer.error != ErrorCode::None
            || !answer.records.is_empty()
            || answer.validity != Validity::Valid
            // KIP-1166: a replica that does not know the high watermark yet hears it without waiting.
            || fetch.high_watermark < answer.high_watermark.unwrap_or(-1);
        if is_news || request.max_wait_ms == 0 || self.waiters.len() >= WAITERS_MAX {
            return Some(self.fetch_response(&fetch, answer));
        }
        let due_ms = now.mono_ms + i64::from(request.max_wait_ms.min(WAIT_MS_MAX));
        self.waiters.insert(token, FetchWaiter { fetch, due_ms });
        None
    }

    /// Answers the waiting fetches for which there is news or whose time is over. An answer may raise the high
    /// watermark, which is news for all.
    pub(crate) fn answer_fetches(&mut self, now: Now) {
        loop {
            let wake_all = std::mem::take(&mut self.wake_fetches);
            let end = self.log.end().offset;
            let is_news = |waiter: &FetchWaiter| wake_all || waiter.fetch.offset < end;
            let due: Vec<FetchToken> = self
                .waiters
                .iter()
                .filter(|(_, waiter)| is_news(waiter) || waiter.due_ms <= now.mono_ms)
                .map(|(&token, _)| token)
                .collect();
            for token in due {
                let Some(waiter) = self.waiters.remove(&token) else { continue };
                // That its time is over is no sign of life of the replica.
                let alive = is_news(&waiter).then_some(now);
                let answer = self.try_fetch(&waiter.fetch, alive);
                let response = self.fetch_response(&waiter.fetch, answer);
                self.effects.push(Effect::FetchDone { token, response });
            }
            if !self.wake_fetches {
                return;
            }
        }
    }

    /// `tryCompleteFetchRequest`: what there is for a fetch at this moment. With `alive` the fetch also counts as news
    /// of the replica: that it has everything before its offset.
    fn try_fetch(&mut self, fetch: &Fetch, alive: Option<Now>) -> Answer {
        if let Some(error) = self.refuse_leader_request(fetch.epoch) {
            return Answer::error(error);
        }
        let latest = self.log.snapshots.latest().filter(|&id| id != BOOTSTRAP_SNAPSHOT_ID);
        let validity = match latest {
            // An empty replica is quicker with a snapshot than with the log.
            Some(id) if fetch.offset == 0 => Validity::Snapshot(id),
            _ => self.log.validate(OffsetAndEpoch::new(fetch.offset, fetch.last_epoch)),
        };
        let mut records = Vec::new();
        if validity == Validity::Valid {
            let max_bytes = usize::try_from(fetch.max_bytes).unwrap_or(0).min(BATCH_BYTES_MAX);
            // Uncommitted records too: a replica has to have them before they can be committed.
            match self.log.read(fetch.offset, self.log.end().offset, max_bytes) {
                Ok(bytes) => records = bytes,
                Err(error) => {
                    tracing::error!(offset = fetch.offset, %error, "cannot read the metadata log for a fetch");
                    return Answer::error(ErrorCode::UnknownServerError);
                }
            }
            if let Some(now) = alive {
                self.on_replica_fetch(fetch, now);
            }
        }
        let high_watermark = self.high_watermark();
        Answer { error: ErrorCode::None, validity, records, high_watermark }
    }

    fn on_replica_fetch(&mut self, fetch: &Fetch, now: Now) {
        let log_end = self.log.end().offset;
        // A negative id is a consumer's. Our own would be a misdirected fetch; Kafka stops at that.
        if fetch.replica.id < 0 || fetch.replica.id == self.cfg.node_id {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.on_fetch(fetch.replica, fetch.offset, log_end, &self.cfg, now) {
            self.on_leader_high_watermark();
        }
    }

    fn fetch_response(&self, fetch: &Fetch, answer: Answer) -> FetchResponse<'static> {
        use fetch_response::{EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData, SnapshotId};
        let mut partition = PartitionData {
            partition_index: METADATA_PARTITION,
            error_code: answer.error.into(),
            high_watermark: answer.high_watermark.unwrap_or(-1),
            log_start_offset: self.log.start_offset(),
            current_leader: LeaderIdAndEpoch {
                leader_id: self.election_state().leader.unwrap_or(-1),
                leader_epoch: self.epoch,
                ..Default::default()
            },
            records: Some(Records::Inline(answer.records.into())),
            ..Default::default()
        };
        match answer.validity {
            Validity::Valid => {}
            Validity::Diverging(end) => {
                partition.diverging_epoch =
                    EpochEndOffset { epoch: end.epoch, end_offset: end.offset, ..Default::default() };
            }
            Validity::Snapshot(id) => {
                partition.snapshot_id = SnapshotId { end_offset: id.offset, epoch: id.epoch, ..Default::default() };
            }
        }
        let topic = FetchableTopicResponse {
            topic: METADATA_TOPIC.into(),
            topic_id: METADATA_TOPIC_ID,
            partitions: vec![partition],
            ..Default::default()
        };
        let node = |(node_id, endpoint): (i32, Endpoint)| fetch_response::NodeEndpoint {
            node_id,
            host: endpoint.host.into(),
            port: i32::from(endpoint.port),
            ..Default::default()
        };
        let ctx = RequestContext { version: fetch.version, listener: &fetch.listener };
        let node_endpoints = self.leader_for(ctx, FETCH_WITH_LEADER_ENDPOINT).map(node).into_iter().collect();
        FetchResponse { responses: vec![topic], node_endpoints, ..Default::default() }
    }

    pub fn on_fetch_snapshot(
        &mut self,
        ctx: RequestContext<'_>,
        request: &FetchSnapshotRequest<'_>,
        now: Now,
    ) -> FetchSnapshotResponse<'static> {
        let response = self.fetch_snapshot(ctx, request, now);
        self.turn(now);
        response
    }

    fn fetch_snapshot(
        &mut self,
        ctx: RequestContext<'_>,
        request: &FetchSnapshotRequest<'_>,
        now: Now,
    ) -> FetchSnapshotResponse<'static> {
        let top_level = |error: ErrorCode| FetchSnapshotResponse { error_code: error.into(), ..Default::default() };
        if self.has_failed() {
            return top_level(ErrorCode::UnknownServerError);
        }
        if !self.is_own_cluster(request.cluster_id.as_deref()) {
            return top_level(ErrorCode::InconsistentClusterId);
        }
        let topic = single(&request.topics);
        let Some((topic, partition)) = topic.and_then(|topic| Some((topic, single(&topic.partitions)?))) else {
            return top_level(ErrorCode::InvalidRequest);
        };
        if topic.name != METADATA_TOPIC || partition.partition != METADATA_PARTITION {
            let answer = fetch_snapshot_response::PartitionSnapshot {
                index: partition.partition,
                error_code: ErrorCode::UnknownTopicOrPartition.into(),
                ..Default::default()
            };
            return self.snapshot_response(ctx, topic.name.to_string(), answer);
        }
        let mut answer = self.snapshot_answer(partition, request.max_bytes);
        if answer.error_code == i16::from(ErrorCode::None) {
            let replica = ReplicaKey::new(request.replica_id, partition.replica_directory_id);
            if let Role::Leader(leader) = &mut self.role {
                leader.on_voter_alive(replica, &self.cfg, now);
            }
        }
        answer.index = METADATA_PARTITION;
        answer.current_leader = fetch_snapshot_response::LeaderIdAndEpoch {
            leader_id: self.election_state().leader.unwrap_or(-1),
            leader_epoch: self.epoch,
            ..Default::default()
        };
        self.snapshot_response(ctx, METADATA_TOPIC.to_owned(), answer)
    }

    fn snapshot_answer(
        &self,
        partition: &fetch_snapshot_request::PartitionSnapshot,
        max_bytes: i32,
    ) -> fetch_snapshot_response::PartitionSnapshot<'static> {
        let error = |error: ErrorCode| fetch_snapshot_response::PartitionSnapshot {
            error_code: error.into(),
            ..Default::default()
        };
        if let Some(refused) = self.refuse_leader_request(partition.current_leader_epoch) {
            return error(refused);
        }
        let id = OffsetAndEpoch::new(partition.snapshot_id.end_offset, partition.snapshot_id.epoch);
        // Each voter has its own bootstrap snapshot; its content reaches the others through the log.
        let size = self.log.snapshots.size(id).filter(|_| id != BOOTSTRAP_SNAPSHOT_ID);
        let Some(size) = size else { return error(ErrorCode::SnapshotNotFound) };
        let Some(position) = u64::try_from(partition.position).ok().filter(|&at| at < size) else {
            return error(ErrorCode::PositionOutOfRange);
        };
        let len = usize::try_from(max_bytes).unwrap_or(0).min(BATCH_BYTES_MAX);
        match self.log.snapshots.read_chunk(id, position, len) {
            Ok(bytes) => fetch_snapshot_response::PartitionSnapshot {
                snapshot_id: fetch_snapshot_response::SnapshotId {
                    end_offset: id.offset,
                    epoch: id.epoch,
                    ..Default::default()
                },
                size: size as i64,
                position: partition.position,
                unaligned_records: Records::Inline(bytes.into()),
                ..Default::default()
            },
            Err(cause) => {
                tracing::error!(%id, %cause, "cannot read a snapshot");
                error(ErrorCode::UnknownServerError)
            }
        }
    }

    fn snapshot_response(
        &self,
        ctx: RequestContext<'_>,
        name: String,
        partition: fetch_snapshot_response::PartitionSnapshot<'static>,
    ) -> FetchSnapshotResponse<'static> {
        use fetch_snapshot_response::{NodeEndpoint, TopicSnapshot};
        let topic = TopicSnapshot { name: name.into(), partitions: vec![partition], ..Default::default() };
        let node = |(node_id, endpoint): (i32, Endpoint)| NodeEndpoint {
            node_id,
            host: endpoint.host.into(),
            port: endpoint.port,
            ..Default::default()
        };
        let node_endpoints = self.leader_for(ctx, 1).map(node).into_iter().collect();
        FetchSnapshotResponse { topics: vec![topic], node_endpoints, ..Default::default() }
    }
}

impl Fetch {
    fn new(ctx: RequestContext<'_>, request: &FetchRequest<'_>, partition: &fetch_request::FetchPartition) -> Self {
        let replica_id = if request.replica_id >= 0 { request.replica_id } else { request.replica_state.replica_id };
        Self {
            version: ctx.version,
            listener: ctx.listener.to_owned(),
            replica: ReplicaKey::new(replica_id, partition.replica_directory_id),
            epoch: partition.current_leader_epoch,
            offset: partition.fetch_offset,
            last_epoch: partition.last_fetched_epoch,
            high_watermark: partition.high_watermark,
            max_bytes: request.max_bytes,
        }
    }
}
