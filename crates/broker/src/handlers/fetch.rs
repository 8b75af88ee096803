//! Fetch: consumers and followers, with sessions (KIP-227), long polls, and file ranges instead of copies.

use protocol::error::ErrorCode;
use protocol::messages::fetch_request::ForgottenTopic;
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
use crate::quotas::Kind;
use crate::quotas::replication::Throttles;
use crate::replicas::Replica;
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
            (_, 0) => Isolation::HighWatermark,
            (_, 1) => Isolation::Committed,
            _ => {
                self.respond(cx.reply, &refused(&request, version, ErrorCode::UnknownServerError));
                return Ok(());
            }
        };
        let (source, is_full) = match self.fetch_source(&request, reader, version, now) {
            Ok(source) => source,
            Err(code) => {
                self.respond(cx.reply, &FetchResponse { error_code: code.into(), ..Default::default() });
                return Ok(());
            }
        };
        if let Reader::Follower { id, broker_epoch } = reader {
            self.note_follower(&request, id, broker_epoch, now);
            if let Some(connection) = cx.reply.to.conn().and_then(|conn| self.connections.get_mut(conn)) {
                connection.is_internal = true;
            }
        }
        let max_bytes = match reader {
            Reader::Follower { .. } => request.max_bytes.max(0),
            Reader::Consumer { .. } => {
                let quota = self.quotas.fetch_bytes_max(cx.client.as_deref());
                let quota = i32::try_from(quota).unwrap_or(i32::MAX);
                request.max_bytes.min(quota).clamp(0, self.config.fetch_max_bytes.max(0))
            }
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
            client: cx.client.clone(),
        };
        if request.max_wait_ms <= 0 || self.has_enough(&wait) {
            self.answer_fetch(wait, now);
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
                self.forget_in_session(id, topic, by_id);
            }
            if !by_id {
                self.renew_names(id);
            }
            for (asked, entry) in self.entries(request, by_id) {
                self.put_in_session(id, asked, entry);
            }
            if self.replicas.sessions.get_mut(id).is_some_and(|session| session.is_empty()) {
                // Kafka ends a session that has nothing left, and so does its reader.
                self.replicas.sessions.close(id);
                return Ok((FetchSource::Own(Box::new(FetchSession::new(is_follower, by_id))), true));
            }
            return Ok((FetchSource::Session(id), false));
        }
        if request.session_id != 0 {
            self.replicas.sessions.close(id);
        }
        let mut session = FetchSession::new(is_follower, by_id);
        for (asked, entry) in self.entries(request, by_id) {
            put(&mut session, &asked, entry);
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

    fn entries<'r>(&self, request: &'r FetchRequest<'_>, by_id: bool) -> Vec<(Asked<'r>, SessionEntry)> {
        let mut out = Vec::new();
        for topic in &request.topics {
            let (id, name) = match by_id {
                true => (Some(topic.topic_id), None),
                false => (self.image.topic_ids.get(topic.topic.as_ref()).copied(), Some(topic.topic.as_ref())),
            };
            for p in &topic.partitions {
                let entry = SessionEntry {
                    offset: p.fetch_offset,
                    log_start: p.log_start_offset,
                    // DIFFERS: Kafka answers a negative size with UNKNOWN_SERVER_ERROR.
                    bytes_max: p.partition_max_bytes.max(0).unsigned_abs(),
                    // Any negative epoch is none.
                    leader_epoch: p.current_leader_epoch.max(-1),
                    last_fetched_epoch: p.last_fetched_epoch,
                    sent_high_watermark: -1,
                    sent_log_start: -1,
                };
                out.push((Asked { id, name, partition: p.partition }, entry));
            }
        }
        out
    }

    fn put_in_session(&mut self, id: SessionId, asked: Asked<'_>, entry: SessionEntry) {
        if let Some(topic) = asked.id {
            self.replicas.sessions.put(id, (topic, asked.partition), entry);
        }
        let Some(session) = self.replicas.sessions.get_mut(id) else { return };
        match (asked.id, asked.name) {
            (Some(topic), Some(name)) => session.name(topic, name),
            (None, Some(name)) => session.put_missing(name, asked.partition, entry),
            (_, None) => {}
        }
    }

    fn forget_in_session(&mut self, id: SessionId, topic: &ForgottenTopic<'_>, by_id: bool) {
        let topic_id = match by_id {
            true => Some(topic.topic_id),
            false => self.image.topic_ids.get(topic.topic.as_ref()).copied(),
        };
        for partition in &topic.partitions {
            if let Some(topic_id) = topic_id {
                self.replicas.sessions.forget(id, (topic_id, *partition));
            }
            if let Some(session) = self.replicas.sessions.get_mut(id).filter(|_| !by_id) {
                session.forget_missing(&topic.topic, *partition);
            }
        }
    }

    /// A session by names follows them: topics go, come, and come again under another id.
    fn renew_names(&mut self, id: SessionId) {
        let Some(session) = self.replicas.sessions.get_mut(id) else { return };
        let is_same = |(topic, name): &(Uuid, &str)| self.image.topic_ids.get(*name) == Some(topic);
        let gone: Vec<Uuid> = session.names().filter(|named| !is_same(named)).map(|(topic, _)| topic).collect();
        for topic in gone {
            self.replicas.sessions.lose_topic(id, topic);
        }
        let Some(session) = self.replicas.sessions.get_mut(id) else { return };
        let come: Vec<(String, i32, Uuid)> = session
            .missing()
            .filter_map(|(name, partition)| Some((name.to_owned(), partition, *self.image.topic_ids.get(name)?)))
            .collect();
        for (name, partition, topic) in come {
            let Some(session) = self.replicas.sessions.get_mut(id) else { return };
            if let Some(entry) = session.forget_missing(&name, partition) {
                self.put_in_session(id, Asked { id: Some(topic), name: Some(&name), partition }, entry);
            }
        }
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
    pub(crate) fn recheck_fetch(&mut self, id: u64, now: Now) {
        let Some(wait) = self.replicas.fetches.take(id) else { return };
        if self.has_enough(&wait) {
            self.replicas.fetches.untrack(id, &wait);
            self.answer_fetch(wait, now);
        } else {
            self.replicas.fetches.put_back(id, wait);
        }
    }

    pub(crate) fn end_fetch(&mut self, id: u64, now: Now) {
        if let Some(wait) = self.replicas.fetches.remove(id) {
            self.answer_fetch(wait, now);
        }
    }

    /// Rule 25: enough bytes, or something that the reader must hear of.
    fn has_enough(&mut self, wait: &FetchWait) -> bool {
        let session = match &wait.source {
            FetchSource::Session(id) => self.replicas.sessions.get_mut(*id).map(|session| &*session),
            FetchSource::Own(session) => Some(&**session),
        };
        let Some(session) = session else { return true };
        if session.is_empty() || session.missing().next().is_some() {
            return true;
        }
        let mut bytes = 0u64;
        for (key, entry) in session.ready() {
            let Some(replica) = self.replicas.all.get_mut(&key) else { return true };
            if is_held_back(replica, wait.reader, &self.throttles) {
                continue;
            }
            let request = read_request(&entry, wait.isolation, entry.bytes_max, false);
            bytes =
                bytes.saturating_add(replica.partition.readable_bytes(&request, wait.reader, wait.min_bytes.max(1)));
            if bytes >= wait.min_bytes.max(1) {
                return true;
            }
        }
        wait.min_bytes == 0
    }

    fn answer_fetch(&mut self, wait: FetchWait, now: Now) {
        let mut answer = Answer { left: wait.max_bytes, ..Answer::default() };
        let (session, session_id) = match &wait.source {
            FetchSource::Session(id) => (self.replicas.sessions.get_mut(*id).map(|session| &*session), id.0),
            FetchSource::Own(session) => (Some(&**session), 0),
        };
        let Some(session) = session else {
            let error_code = ErrorCode::FetchSessionIdNotFound.into();
            return self.respond(wait.reply, &FetchResponse { error_code, ..Default::default() });
        };
        let missing: Vec<(String, i32)> = session.missing().map(|(name, p)| (name.to_owned(), p)).collect();
        let ready = session.ready();
        // What does not exist comes last.
        let exists = |(topic, number): &PartitionKey| {
            self.image.topics.get(topic).is_some_and(|topic| topic.partitions.contains_key(number))
        };
        let (ready, unknown): (Vec<_>, Vec<_>) = ready.into_iter().partition(|(key, _)| exists(key));
        let mut endpoints: Vec<NodeEndpoint<'static>> = Vec::new();
        for (key, entry) in ready.into_iter().chain(unknown) {
            if answer.left == 0 && answer.has_data && !wait.is_full {
                break;
            }
            let data = self.read_partition(key, &entry, &wait, &mut answer, &mut endpoints);
            if self.has_failed {
                return;
            }
            let has_records = data.records.as_ref().is_some_and(|r| !r.is_empty());
            let has_news = has_records
                || data.error_code != 0
                || data.diverging_epoch.epoch >= 0
                || data.high_watermark != entry.sent_high_watermark
                || data.log_start_offset != entry.sent_log_start;
            if let FetchSource::Session(id) = wait.source {
                if let Some(session) = self.replicas.sessions.get_mut(id) {
                    session.told(key, data.high_watermark, data.log_start_offset);
                    // What was sent must be there to be sent again, until the reader moves on; errors too.
                    if has_records {
                        session.move_back(key);
                    } else if data.error_code == 0 && !answer.held_back.contains(&key) {
                        session.settle(key);
                    }
                }
            }
            if has_news || wait.is_full {
                answer.push(key, data);
            }
        }
        let mut topics = std::mem::take(&mut answer.topics);
        if wait.reply.version < TOPIC_IDS_FROM {
            self.name_topics(&wait, &mut topics);
            topics.extend(missing.into_iter().map(|(name, partition)| FetchableTopicResponse {
                topic: name.into(),
                partitions: vec![failed(partition, ErrorCode::UnknownTopicOrPartition)],
                ..Default::default()
            }));
        }
        let throttle_time_ms = self.throttle_fetch(&wait, &answer, now);
        let response = FetchResponse {
            throttle_time_ms,
            session_id,
            responses: topics,
            node_endpoints: endpoints,
            ..Default::default()
        };
        self.respond_with_regions(wait.reply, &response, answer.regions);
    }

    /// Counts what the reader gets.
    ///
    /// DIFFERS: Kafka withholds an answer that would exceed the quota, and reads it again when the client comes back;
    /// here it is sent, and the connection rests for as long as that takes to be within the quota.
    fn throttle_fetch(&mut self, wait: &FetchWait, answer: &Answer, now: Now) -> i32 {
        match (wait.reader, &wait.client) {
            (Reader::Follower { .. }, _) => {
                if answer.throttled_bytes > 0 {
                    self.throttles.sent(answer.throttled_bytes, now);
                }
                0
            }
            (Reader::Consumer { .. }, Some(client)) => {
                self.throttle_bytes(Kind::Fetch, wait.reply.to, client, answer.bytes, now)
            }
            (Reader::Consumer { .. }, None) => 0,
        }
    }

    fn name_topics(&mut self, wait: &FetchWait, topics: &mut [FetchableTopicResponse<'static>]) {
        let session = match &wait.source {
            FetchSource::Session(id) => self.replicas.sessions.get_mut(*id).map(|session| &*session),
            FetchSource::Own(session) => Some(&**session),
        };
        for topic in topics {
            let name = session.and_then(|session| session.name_of(topic.topic_id)).unwrap_or_default();
            topic.topic = name.to_owned().into();
            topic.topic_id = Uuid::ZERO;
        }
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
        let exists = self.image.topics.get(&key.0).is_some_and(|topic| topic.partitions.contains_key(&key.1));
        let outcome = match self.replicas.all.get_mut(&key) {
            None => Err(missing),
            Some(replica) => {
                let held_back = is_held_back(replica, wait.reader, &self.throttles);
                if held_back {
                    answer.held_back.push(key);
                }
                answer.is_throttled = self.throttles.limits_leader() && replica.throttled.leading;
                let bytes_max = if held_back { 0 } else { entry.bytes_max.min(answer.left) };
                let request = read_request(entry, wait.isolation, bytes_max, !answer.has_data && !held_back);
                replica.partition.read(&request, wait.reader).map_err(|error| match error {
                    ReadFailure::Code(code) => code,
                    ReadFailure::Storage(error) => {
                        self.replicas.failures.push(error);
                        ErrorCode::KafkaStorageError
                    }
                })
            }
        };
        match outcome {
            Ok(result) => {
                let read = self.partition_data(key.1, result, wait, answer);
                read.unwrap_or_else(|error| {
                    let path = self.replicas.get(key).map(|p| p.log().dir().to_owned()).unwrap_or_default();
                    self.replicas.failures.push(storage::StorageError { path, error });
                    failed(key.1, ErrorCode::KafkaStorageError)
                })
            }
            Err(code) => {
                let mut data = failed(key.1, code);
                if exists {
                    // Whatever the reader's isolation: there was a log, and it gave nothing.
                    data.aborted_transactions = None;
                }
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
    ) -> std::io::Result<PartitionData<'static>> {
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
        data.aborted_transactions = None;
        if wait.isolation == Isolation::Committed {
            let aborted = result.aborted.iter().map(|t| AbortedTransaction {
                producer_id: t.producer_id,
                first_offset: t.first_offset,
                ..Default::default()
            });
            data.aborted_transactions = Some(aborted.collect());
        }
        let Some(plan) = result.plan else { return Ok(data) };
        answer.has_data = true;
        answer.left = answer.left.saturating_sub(plan.len);
        answer.bytes += u64::from(plan.len);
        if answer.is_throttled {
            answer.throttled_bytes += u64::from(plan.len);
        }
        data.records = Some(if plan.len <= COPY_BYTES_MAX || plan.file.raw_fd().is_none() {
            match plan.bytes() {
                Ok(bytes) => Records::Inline(bytes.into()),
                Err(error) => return Err(error),
            }
        } else {
            let id = answer.regions.len() as u64;
            answer.regions.push(Region { file: plan.file, at: plan.at, len: plan.len });
            Records::External { len: plan.len, id }
        });
        Ok(data)
    }
}

/// A partition as a request names it; the name is given only where topics go by names.
struct Asked<'r> {
    id: Option<Uuid>,
    name: Option<&'r str>,
    partition: i32,
}

/// Into a session that is not open yet.
fn put(session: &mut FetchSession, asked: &Asked<'_>, entry: SessionEntry) {
    match (asked.id, asked.name) {
        (None, Some(name)) => session.put_missing(name, asked.partition, entry),
        (None, None) => {}
        (Some(topic), name) => {
            session.put((topic, asked.partition), entry);
            if let Some(name) = name {
                session.name(topic, name);
            }
        }
    }
}

#[derive(Default)]
struct Answer {
    left: u32,
    has_data: bool,
    regions: Vec<Region>,
    topics: Vec<FetchableTopicResponse<'static>>,
    bytes: u64,
    /// Of `bytes`, those of partitions whose replication is throttled; whether the one just read is such.
    throttled_bytes: u64,
    is_throttled: bool,
    /// Partitions that have more to say, when their throttle allows it.
    held_back: Vec<PartitionKey>,
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

/// KIP-73: a follower that is not in sync gets nothing of a throttled partition while the throttle is exceeded.
fn is_held_back(replica: &Replica, reader: Reader, throttles: &Throttles) -> bool {
    let Reader::Follower { id, .. } = reader else { return false };
    throttles.leader_is_exceeded() && replica.throttled.leading && !replica.partition.state().isr.contains(&id)
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

/// A request that makes no sense. Where topics go by names, each partition has the error, too.
fn refused(request: &FetchRequest<'_>, version: i16, code: ErrorCode) -> FetchResponse<'static> {
    let topics = request.topics.iter().filter(|_| version < TOPIC_IDS_FROM).map(|topic| FetchableTopicResponse {
        topic: topic.topic.clone().into_owned().into(),
        partitions: topic.partitions.iter().map(|p| failed(p.partition, code)).collect(),
        ..Default::default()
    });
    FetchResponse { error_code: code.into(), responses: topics.collect(), ..Default::default() }
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
