//! Fetch: consumers and followers, with sessions (KIP-227), long polls, and file ranges instead of copies.

use protocol::error::ErrorCode;
use protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use protocol::messages::{FetchRequest, FetchResponse};
use protocol::time::Now;
use protocol::wire::{DecodeError, Records, Uuid};
use replication::{
    FetchSession, Isolation, PartitionKey, ReadFailure, ReadRequest, ReadResult, Reader, SessionEntry, SessionId,
};

use crate::effect::Region;
use crate::fetch_waits::{FetchSource, FetchWait};
use crate::node::Node;
use crate::request::Context;

/// From here on topics go by id (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;
/// From here on the replica's id comes with its broker's epoch (KIP-903).
const REPLICA_STATE_FROM: i16 = 15;
/// From here on an error names the new leader (KIP-951).
const LEADER_HINTS_FROM: i16 = 16;
/// From here on a consumer may read from any replica (KIP-392).
const ANY_REPLICA_FROM: i16 = 11;
/// Ranges up to this size are copied into the frame: cheaper than a system call of their own.
const COPY_BYTES_MAX: u32 = 16 << 10;
/// Topic names that a session cannot hold because nobody knows them are answered at once, at most so many.
const UNKNOWN_NAMES_MAX: usize = 1_000;

/// Partitions that were asked for by a name that no topic has.
type Unknown = Vec<(String, i32)>;

impl Node {
    pub(crate) fn handle_fetch(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: FetchRequest<'_> = cx.decode(body)?;
        let version = cx.reply.version;
        let (replica_id, broker_epoch) = match version {
            ..REPLICA_STATE_FROM => (request.replica_id, -1),
            _ => (request.replica_state.replica_id, request.replica_state.replica_epoch),
        };
        let reader = match replica_id {
            id if id >= 0 => Reader::Follower { id, broker_epoch },
            _ => Reader::Consumer { from_any_replica: version >= ANY_REPLICA_FROM },
        };
        let isolation = match (reader, request.isolation_level) {
            (Reader::Follower { .. }, _) => Isolation::LogEnd,
            (_, 1) => Isolation::Committed,
            _ => Isolation::HighWatermark,
        };
        let mut unknown = Vec::new();
        let (source, is_full) = match self.fetch_source(&request, reader, version, &mut unknown, now) {
            Ok(source) => source,
            Err(code) => {
                self.respond(cx.reply, &FetchResponse { error_code: code.into(), ..Default::default() });
                return Ok(());
            }
        };
        if let Reader::Follower { id, broker_epoch } = reader {
            self.note_follower(&request, id, broker_epoch, now);
        }
        let max_bytes = match reader {
            Reader::Follower { .. } => request.max_bytes.max(0),
            Reader::Consumer { .. } => request.max_bytes.clamp(0, self.config.fetch_max_bytes.max(0)),
        };
        let wait = FetchWait {
            reply: cx.reply,
            source,
            is_full,
            reader,
            isolation,
            min_bytes: u64::from(request.min_bytes.clamp(0, max_bytes.max(1)).unsigned_abs()),
            max_bytes: max_bytes.unsigned_abs(),
            listener: cx.listener,
            deadline_ms: now.mono_ms + i64::from(request.max_wait_ms.max(0)),
        };
        let answer_now = request.max_wait_ms <= 0 || !unknown.is_empty() || self.has_enough(&wait);
        if answer_now {
            self.answer_fetch(wait, unknown);
        } else {
            self.replicas.fetches.add(wait);
        }
        Ok(())
    }

    /// Rule 24: which session the request means, brought up to date with what it says.
    fn fetch_source(
        &mut self,
        request: &FetchRequest<'_>,
        reader: Reader,
        version: i16,
        unknown: &mut Unknown,
        now: Now,
    ) -> Result<(FetchSource, bool), ErrorCode> {
        let by_id = version >= TOPIC_IDS_FROM;
        let is_follower = matches!(reader, Reader::Follower { .. });
        let id = SessionId(request.session_id);
        if request.session_epoch > 0 {
            if let Some(waiting) = self.replicas.fetches.of_session(id) {
                // The reader gave up on its last request; that one's answer would confuse the session.
                self.replicas.fetches.remove(waiting);
            }
            self.replicas.sessions.resume(id, request.session_epoch, by_id, now)?;
            for topic in &request.forgotten_topics_data {
                let topic_id =
                    if by_id { Some(topic.topic_id) } else { self.image.topic_ids.get(topic.topic.as_ref()).copied() };
                for partition in &topic.partitions {
                    if let Some(topic_id) = topic_id {
                        self.replicas.sessions.forget(id, (topic_id, *partition));
                    }
                }
            }
            for (key, entry) in self.entries(request, by_id, unknown) {
                self.replicas.sessions.put(id, key, entry);
            }
            return Ok((FetchSource::Session(id), false));
        }
        if request.session_id != 0 {
            self.replicas.sessions.close(id);
        }
        let mut session = FetchSession::new(is_follower, by_id);
        for (key, entry) in self.entries(request, by_id, unknown) {
            session.put(key, entry);
        }
        if request.session_epoch < 0 || session.is_empty() {
            return Ok((FetchSource::Own(Box::new(session)), true));
        }
        let rng = &mut self.rng;
        match self.replicas.sessions.open(session, || rng.i32(..), now) {
            Ok(id) => Ok((FetchSource::Session(id), true)),
            Err(session) => Ok((FetchSource::Own(session), true)),
        }
    }

    fn entries(
        &self,
        request: &FetchRequest<'_>,
        by_id: bool,
        unknown: &mut Unknown,
    ) -> Vec<(PartitionKey, SessionEntry)> {
        let mut out = Vec::new();
        for topic in &request.topics {
            let id = if by_id { Some(topic.topic_id) } else { self.image.topic_ids.get(topic.topic.as_ref()).copied() };
            for p in &topic.partitions {
                let Some(id) = id else {
                    if unknown.len() < UNKNOWN_NAMES_MAX {
                        unknown.push((topic.topic.clone().into_owned(), p.partition));
                    }
                    continue;
                };
                let entry = SessionEntry {
                    offset: p.fetch_offset,
                    log_start: p.log_start_offset,
                    bytes_max: p.partition_max_bytes.max(0).unsigned_abs(),
                    leader_epoch: p.current_leader_epoch,
                    last_fetched_epoch: p.last_fetched_epoch,
                    sent_high_watermark: -1,
                    sent_log_start: -1,
                };
                out.push(((id, p.partition), entry));
            }
        }
        out
    }

    /// Rule 3: the fetch says what the follower has.
    fn note_follower(&mut self, request: &FetchRequest<'_>, id: i32, broker_epoch: i64, now: Now) {
        for topic in &request.topics {
            for p in &topic.partitions {
                let key = (topic.topic_id, p.partition);
                let Some(replica) = self.replicas.all.get_mut(&key) else { continue };
                let read = ReadRequest {
                    offset: p.fetch_offset,
                    bytes_max: 0,
                    whole_first: false,
                    isolation: Isolation::LogEnd,
                    leader_epoch: p.current_leader_epoch,
                    last_fetched_epoch: p.last_fetched_epoch,
                };
                let moved = replica.partition.on_follower_fetch(&read, id, p.log_start_offset, broker_epoch, now);
                if moved || self.replicas.deletes.is_awaited(key) {
                    self.replicas.touched.insert(key);
                }
                if replica.partition.might_expand(id) {
                    self.replicas.isr_candidates.insert(key);
                }
            }
        }
    }

    /// A partition that this fetch waits for changed: answers it if that was enough.
    pub(crate) fn recheck_fetch(&mut self, id: u64) {
        let Some(wait) = self.replicas.fetches.take(id) else { return };
        if self.has_enough(&wait) {
            self.replicas.fetches.untrack(id, &wait);
            self.answer_fetch(wait, Vec::new());
        } else {
            self.replicas.fetches.put_back(id, wait);
        }
    }

    pub(crate) fn end_fetch(&mut self, id: u64) {
        if let Some(wait) = self.replicas.fetches.remove(id) {
            self.answer_fetch(wait, Vec::new());
        }
    }

    /// Rule 25: enough bytes, or something that the reader must hear of.
    fn has_enough(&mut self, wait: &FetchWait) -> bool {
        let ready = match &wait.source {
            FetchSource::Session(id) => self.replicas.sessions.get_mut(*id).map(|s| s.ready()),
            FetchSource::Own(session) => Some(session.ready()),
        };
        let Some(ready) = ready else { return true };
        if ready.is_empty() && wait.is_full && wait.min_bytes == 0 {
            return true;
        }
        let mut bytes = 0u64;
        for (key, entry) in ready {
            let Some(replica) = self.replicas.all.get_mut(&key) else { return true };
            let request = read_request(&entry, wait.isolation, entry.bytes_max, false);
            bytes =
                bytes.saturating_add(replica.partition.readable_bytes(&request, wait.reader, wait.min_bytes.max(1)));
            if bytes >= wait.min_bytes.max(1) {
                return true;
            }
        }
        wait.min_bytes == 0
    }

    fn answer_fetch(&mut self, wait: FetchWait, unknown: Unknown) {
        let version = wait.reply.version;
        let mut answer = Answer { left: wait.max_bytes, has_data: false, regions: Vec::new(), topics: Vec::new() };
        let (ready, session_id) = match &wait.source {
            FetchSource::Session(id) => match self.replicas.sessions.get_mut(*id) {
                Some(session) => (session.ready(), id.0),
                None => {
                    let error_code = ErrorCode::FetchSessionIdNotFound.into();
                    return self.respond(wait.reply, &FetchResponse { error_code, ..Default::default() });
                }
            },
            FetchSource::Own(session) => (session.ready(), 0),
        };
        let mut endpoints: Vec<NodeEndpoint<'static>> = Vec::new();
        for (key, entry) in ready {
            if answer.left == 0 && answer.has_data && !wait.is_full {
                if let FetchSource::Session(id) = wait.source {
                    if let Some(session) = self.replicas.sessions.get_mut(id) {
                        session.resume_at(key);
                    }
                }
                break;
            }
            let data = self.read_partition(key, &entry, &wait, &mut answer, &mut endpoints);
            if self.has_failed {
                return;
            }
            let has_news = data.records.as_ref().is_some_and(|r| !r.is_empty())
                || data.error_code != 0
                || data.diverging_epoch.epoch >= 0
                || data.high_watermark != entry.sent_high_watermark
                || data.log_start_offset != entry.sent_log_start;
            if let FetchSource::Session(id) = wait.source {
                if let Some(session) = self.replicas.sessions.get_mut(id) {
                    session.told(key, data.high_watermark, data.log_start_offset);
                    // What was sent must be there to be sent again, until the reader moves on; errors too.
                    if data.error_code == 0 && data.records.as_ref().is_none_or(|r| r.is_empty()) {
                        session.settle(key);
                    }
                }
            }
            if has_news || wait.is_full {
                answer.push(key, data);
            }
        }
        let topics = self.name_topics(answer.topics, unknown, version);
        let response = FetchResponse { session_id, responses: topics, node_endpoints: endpoints, ..Default::default() };
        self.respond_with_regions(wait.reply, &response, answer.regions);
    }

    fn name_topics(
        &self,
        mut topics: Vec<FetchableTopicResponse<'static>>,
        unknown: Unknown,
        version: i16,
    ) -> Vec<FetchableTopicResponse<'static>> {
        if version < TOPIC_IDS_FROM {
            for topic in &mut topics {
                let name = self.image.topics.get(&topic.topic_id).map(|t| t.name.clone()).unwrap_or_default();
                topic.topic = name.into();
                topic.topic_id = Uuid::ZERO;
            }
        }
        for (name, partition) in unknown {
            let data = failed(partition, ErrorCode::UnknownTopicOrPartition);
            topics.push(FetchableTopicResponse { topic: name.into(), partitions: vec![data], ..Default::default() });
        }
        topics
    }

    fn read_partition(
        &mut self,
        key: PartitionKey,
        entry: &SessionEntry,
        wait: &FetchWait,
        answer: &mut Answer,
        endpoints: &mut Vec<NodeEndpoint<'static>>,
    ) -> PartitionData<'static> {
        let by_id = wait.reply.version >= TOPIC_IDS_FROM;
        let missing = self.missing(key, by_id);
        let outcome = match self.replicas.all.get_mut(&key) {
            None => Err(missing),
            Some(replica) => {
                let bytes_max = entry.bytes_max.min(answer.left);
                let request = read_request(entry, wait.isolation, bytes_max, !answer.has_data);
                replica.partition.read(&request, wait.reader).map_err(|error| match error {
                    ReadFailure::Code(code) => code,
                    ReadFailure::Storage(error) => {
                        tracing::error!(%error, "a log cannot be read");
                        ErrorCode::KafkaStorageError
                    }
                })
            }
        };
        match outcome {
            Ok(result) => self.partition_data(key.1, result, wait, answer),
            Err(code) => {
                let mut data = failed(key.1, code);
                let hinted = matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch);
                if hinted && wait.reply.version >= LEADER_HINTS_FROM {
                    self.add_hint(key, wait, &mut data, endpoints);
                }
                data
            }
        }
    }

    fn add_hint(
        &self,
        key: PartitionKey,
        wait: &FetchWait,
        data: &mut PartitionData<'static>,
        endpoints: &mut Vec<NodeEndpoint<'static>>,
    ) {
        let Some(hint) = self.leader_hint(key, wait.listener) else { return };
        data.current_leader =
            LeaderIdAndEpoch { leader_id: hint.leader, leader_epoch: hint.epoch, ..Default::default() };
        if endpoints.iter().all(|e| e.node_id != hint.leader) {
            endpoints.push(NodeEndpoint {
                node_id: hint.leader,
                host: hint.host.into(),
                port: hint.port,
                rack: hint.rack.map(Into::into),
                ..Default::default()
            });
        }
    }

    fn partition_data(
        &mut self,
        index: i32,
        result: ReadResult,
        wait: &FetchWait,
        answer: &mut Answer,
    ) -> PartitionData<'static> {
        let mut data = PartitionData {
            partition_index: index,
            high_watermark: result.high_watermark,
            last_stable_offset: result.last_stable_offset,
            log_start_offset: result.log_start,
            records: Some(Records::EMPTY),
            ..Default::default()
        };
        if let Some(ends) = result.diverging {
            data.diverging_epoch =
                EpochEndOffset { epoch: ends.epoch, end_offset: ends.end_offset, ..Default::default() };
        }
        if wait.isolation == Isolation::Committed {
            let aborted = result.aborted.iter().map(|t| AbortedTransaction {
                producer_id: t.producer_id,
                first_offset: t.first_offset,
                ..Default::default()
            });
            data.aborted_transactions = Some(aborted.collect());
        }
        let Some(plan) = result.plan else { return data };
        answer.has_data = true;
        answer.left = answer.left.saturating_sub(plan.len);
        data.records = Some(if plan.len <= COPY_BYTES_MAX || plan.file.raw_fd().is_none() {
            match plan.bytes() {
                Ok(bytes) => Records::Inline(bytes.into()),
                Err(error) => {
                    tracing::error!(%error, "a segment cannot be read");
                    return failed(index, ErrorCode::KafkaStorageError);
                }
            }
        } else {
            let id = answer.regions.len() as u64;
            answer.regions.push(Region { file: plan.file, at: plan.at, len: plan.len });
            Records::External { len: plan.len, id }
        });
        data
    }
}

struct Answer {
    left: u32,
    has_data: bool,
    regions: Vec<Region>,
    topics: Vec<FetchableTopicResponse<'static>>,
}

impl Answer {
    fn push(&mut self, key: PartitionKey, data: PartitionData<'static>) {
        match self.topics.last_mut().filter(|t| t.topic_id == key.0) {
            Some(topic) => topic.partitions.push(data),
            None => self.topics.push(FetchableTopicResponse {
                topic_id: key.0,
                partitions: vec![data],
                ..Default::default()
            }),
        }
    }
}

fn read_request(entry: &SessionEntry, isolation: Isolation, bytes_max: u32, whole_first: bool) -> ReadRequest {
    ReadRequest {
        offset: entry.offset,
        bytes_max,
        whole_first,
        isolation,
        leader_epoch: entry.leader_epoch,
        last_fetched_epoch: entry.last_fetched_epoch,
    }
}

fn failed(index: i32, code: ErrorCode) -> PartitionData<'static> {
    PartitionData {
        partition_index: index,
        error_code: code.into(),
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        records: Some(Records::EMPTY),
        ..Default::default()
    }
}
