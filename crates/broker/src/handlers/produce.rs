//! Produce: records go from the frame they came in straight to the log.

use std::collections::{BTreeMap, VecDeque};

use coordinator::Producer;
use protocol::error::ErrorCode;
use protocol::messages::produce_request::TopicProduceData;
use protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use protocol::messages::{ProduceRequest, ProduceResponse};
use protocol::records::{Batch, BatchHeader, ValidationError, recompress, set_create_time, validate};
use protocol::time::Now;
use protocol::wire::{DecodeError, Uuid};
use replication::{AppendRefused, PartitionKey};
use storage::{AppendInfo, AppendOrigin};

use super::INTERNAL_TOPICS;
use crate::effect::ConnId;
use crate::node::Node;
use crate::produce_waits::ProduceWait;
use crate::quotas::Kind;
use crate::reply::ReplyTo;
use crate::request::Context;
use crate::settings;
use crate::verifying::{Asker, HeldFrame, HeldProduce, Question, Speech, Verified};

/// From here on topics go by id (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;
/// From here on partitions are added to their transaction by the leader (transaction version 2).
const ADDS_FROM: i16 = 12;
/// From here on clients know TRANSACTION_ABORTABLE.
const ABORTABLE_FROM: i16 = 11;
/// From here on an error names the new leader (KIP-951).
const LEADER_HINTS_FROM: i16 = 10;

/// One partition's records: where they are in the frame.
struct Piece {
    topic: usize,
    partition: i32,
    start: usize,
    len: usize,
}

/// What has to be asked before a transactional request is carried out.
struct Asked {
    conn: ConnId,
    question: Question,
    verified: Verified,
    keys: Vec<PartitionKey>,
}

struct Target {
    name: String,
    id: Uuid,
    /// Set if no partition of the topic can be written.
    error: Option<ErrorCode>,
}

struct Refused {
    code: ErrorCode,
    error: Option<ValidationError>,
}

impl Refused {
    /// Kafka tells where the log begins if the log, and not something before it, refused the batch; but not with these
    /// errors (`ReplicaManager.appendToLocalLog`).
    fn reached_log(&self) -> bool {
        let is_told = !matches!(
            self.code,
            ErrorCode::UnknownTopicOrPartition
                | ErrorCode::UnknownTopicId
                | ErrorCode::NotLeaderOrFollower
                | ErrorCode::MessageTooLarge
                | ErrorCode::CorruptMessage
                | ErrorCode::KafkaStorageError
                | ErrorCode::InvalidRequiredAcks
                | ErrorCode::TransactionalIdAuthorizationFailed
                | ErrorCode::InvalidTopicException
        );
        is_told && self.error.as_ref().is_none_or(|error| !error.is_shape)
    }
}

impl Refused {
    fn before_log(code: ErrorCode) -> Self {
        let error = ValidationError { code, message: None, faults: Vec::new(), is_shape: true };
        Refused { code, error: Some(error) }
    }
}

/// What no partition can be written for. Kafka counts a transaction without a name as one that nobody may write.
fn refuse_all(request: &ProduceRequest<'_>, pieces: &[Piece], frame: &[u8]) -> Option<ErrorCode> {
    let is_transactional = |piece: &Piece| {
        let bytes = frame.get(piece.start..piece.start + piece.len).unwrap_or_default();
        BatchHeader::parse(bytes).is_ok_and(|header| header.has_producer_id() && header.is_transactional())
    };
    if request.transactional_id.is_none() && pieces.iter().any(is_transactional) {
        return Some(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    (!matches!(request.acks, -1..=1)).then_some(ErrorCode::InvalidRequiredAcks)
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Refused { code, error: None }
    }
}

impl Node {
    pub(crate) fn handle_produce(
        &mut self,
        cx: &Context,
        frame: &mut [u8],
        body_at: usize,
        now: Now,
    ) -> Result<(), DecodeError> {
        let held = cx.reply.to.conn().and_then(|conn| self.transactions.verifying.produces.get_mut(&conn));
        if let Some(held) = held {
            held.behind.push_back(HeldFrame { cx: cx.clone(), frame: frame.to_vec(), body_at });
            return Ok(());
        }
        self.produce(cx, frame, body_at, None, now)
    }

    /// `verified` is what the transaction's coordinator said, if it has been asked.
    pub(crate) fn produce(
        &mut self,
        cx: &Context,
        frame: &mut [u8],
        body_at: usize,
        verified: Option<Verified>,
        now: Now,
    ) -> Result<(), DecodeError> {
        let body = frame.get(body_at..).unwrap_or_default();
        let request: ProduceRequest<'_> = cx.decode(body)?;
        let (acks, timeout_ms) = (request.acks, request.timeout_ms);
        let (targets, pieces) = self.split(cx, &request, frame);
        let refused = refuse_all(&request, &pieces, frame);
        let transactional_id = request.transactional_id.filter(|_| verified.is_none()).map(|id| id.into_owned());
        let verified = match transactional_id {
            Some(id) => match self.begin_verifications(cx, &id, &targets, &pieces, frame, now) {
                Ok(verified) => verified,
                Err(asked) => {
                    self.hold_produce(HeldFrame { cx: cx.clone(), frame: frame.to_vec(), body_at }, *asked, now);
                    return Ok(());
                }
            },
            None => verified.unwrap_or_default(),
        };
        let mut response = ProduceResponse {
            responses: targets
                .iter()
                .map(|t| TopicProduceResponse { name: t.name.clone().into(), topic_id: t.id, ..Default::default() })
                .collect(),
            ..Default::default()
        };
        let mut waiting = Vec::new();
        let mut failed = None;
        for piece in &pieces {
            let Some(target) = targets.get(piece.topic) else { continue };
            let key = (target.id, piece.partition);
            let bytes = frame.get_mut(piece.start..piece.start + piece.len).unwrap_or_default();
            let outcome = match refused.or(target.error) {
                Some(code) => Err(code.into()),
                None => self.append_produced(key, bytes, (cx.reply.version, acks), &verified, now),
            };
            let Some(topic) = response.responses.get_mut(piece.topic) else { continue };
            let part = match outcome {
                Ok(info) => {
                    if acks == -1 {
                        waiting.push((key, (piece.topic, topic.partition_responses.len()), info.last_offset + 1));
                    }
                    let log_start = self.replicas.get(key).map_or(-1, |p| p.log().log_start_offset());
                    PartitionProduceResponse {
                        index: piece.partition,
                        base_offset: info.first_offset,
                        log_append_time_ms: info.log_append_time,
                        log_start_offset: log_start,
                        ..Default::default()
                    }
                }
                Err(refused) => {
                    failed.get_or_insert(refused.code);
                    let log_start = self.replicas.get(key).filter(|_| refused.reached_log());
                    let log_start = log_start.map_or(-1, |p| p.log().log_start_offset());
                    refused_part(piece.partition, refused, log_start)
                }
            };
            topic.partition_responses.push(part);
        }
        response.throttle_time_ms = self.throttle_produce(cx, frame.len(), now);
        self.finish_produce(cx, acks, response, waiting, failed, timeout_ms, now);
        Ok(())
    }

    /// What the producer has to wait, because of its bytes or of the time that its requests took.
    fn throttle_produce(&mut self, cx: &Context, frame_bytes: usize, now: Now) -> i32 {
        let Some(client) = &cx.client else { return 0 };
        let for_bytes = self.throttle_bytes(Kind::Produce, cx.reply.to, client, frame_bytes as u64, now);
        for_bytes.max(cx.throttle_ms)
    }

    #[allow(clippy::too_many_arguments)] // One call; a struct would only name them twice.
    fn finish_produce(
        &mut self,
        cx: &Context,
        acks: i16,
        response: ProduceResponse<'static>,
        mut waiting: Vec<(PartitionKey, (usize, usize), i64)>,
        failed: Option<ErrorCode>,
        timeout_ms: i32,
        now: Now,
    ) {
        if acks == 0 {
            // There is no answer to say it in: a closed connection makes the producer look at its metadata.
            if let Some(code) = failed {
                return self.hang_up(cx.reply, format!("a produce request with acks=0 failed: {}", code.name()));
            }
            return self.respond_nothing(cx.reply);
        }
        // With one replica, or a duplicate, what is asked for is there already.
        waiting.retain(|(key, _, end)| {
            self.replicas.get(*key).is_none_or(|p| p.is_replicated(*end) != Some(ErrorCode::None))
        });
        if waiting.is_empty() {
            return self.respond_produce(cx.reply, cx.listener, response);
        }
        for (key, ..) in &waiting {
            self.replicas.touched.insert(*key);
        }
        let deadline_ms = now.mono_ms + i64::from(timeout_ms.max(0));
        let wait = ProduceWait { reply: cx.reply, response, listener: cx.listener };
        self.replicas.produces.add(wait, &waiting, deadline_ms);
    }

    /// Which of a transactional request's partitions are open to its producer; or the question to ask first.
    fn begin_verifications(
        &mut self,
        cx: &Context,
        transactional_id: &str,
        targets: &[Target],
        pieces: &[Piece],
        frame: &[u8],
        now: Now,
    ) -> Result<Verified, Box<Asked>> {
        let version = cx.reply.version;
        let speech = Speech { adds: version >= ADDS_FROM, knows_abortable: version >= ABORTABLE_FROM };
        let is_off = !settings::verifies_transactions(&self.image, &self.config);
        let mut verified = Verified { is_off, ..Default::default() };
        let Some(conn) = cx.reply.to.conn().filter(|_| speech.adds || !is_off) else { return Ok(verified) };
        let mut producer = None;
        let (mut keys, mut partitions) = (Vec::new(), Vec::new());
        for piece in pieces {
            let Some(target) = targets.get(piece.topic).filter(|target| target.error.is_none()) else { continue };
            let key = (target.id, piece.partition);
            let bytes = frame.get(piece.start..piece.start + piece.len).unwrap_or_default();
            // What is no batch is refused later.
            let Ok(header) = BatchHeader::parse(bytes) else { continue };
            if !header.has_producer_id() || !header.is_transactional() {
                continue;
            }
            let of_batch = (header.producer_id, header.producer_epoch);
            if *producer.get_or_insert(of_batch) != of_batch {
                verified.partitions.insert(key, Err(ErrorCode::InvalidProducerIdMapping));
                continue;
            }
            let Some(replica) = self.replicas.all.get_mut(&key) else { continue };
            match replica.partition.begin_verification(of_batch, header.base_sequence, speech.adds, now) {
                Ok(None) => {}
                Ok(Some(guard)) => {
                    verified.partitions.insert(key, Ok(guard));
                    keys.push(key);
                    partitions.push((target.name.clone(), piece.partition));
                }
                Err(code) => {
                    verified.partitions.insert(key, Err(code));
                }
            }
        }
        let Some((id, epoch)) = producer.filter(|_| !keys.is_empty()) else { return Ok(verified) };
        let question = Question {
            transactional_id: transactional_id.to_owned(),
            producer: Producer { id, epoch },
            speech,
            partitions,
            asker: Asker::Produce(conn),
            give_up_ms: now.mono_ms + self.config.add_partitions_to_txn_retry_backoff_max_ms,
        };
        Err(Box::new(Asked { conn, question, verified, keys }))
    }

    fn hold_produce(&mut self, first: HeldFrame, asked: Asked, now: Now) {
        let Asked { conn, question, verified, keys } = asked;
        let held = HeldProduce { first, verified, keys, behind: VecDeque::new() };
        self.transactions.verifying.produces.insert(conn, held);
        self.ask_coordinator(question, now);
    }

    /// Where each partition's records are, and which topics they are for.
    fn split(&self, cx: &Context, request: &ProduceRequest<'_>, frame: &[u8]) -> (Vec<Target>, Vec<Piece>) {
        let by_id = cx.reply.version >= TOPIC_IDS_FROM;
        let mut targets: Vec<Target> = Vec::with_capacity(request.topic_data.len());
        let mut pieces: Vec<Piece> = Vec::new();
        // A topic that is named twice is one; of a partition that is named twice, the last batch counts.
        let mut topics_at: BTreeMap<(&str, Uuid), usize> = BTreeMap::new();
        let mut pieces_at: BTreeMap<(usize, i32), usize> = BTreeMap::new();
        // A topic without partitions has no place in the answer.
        for data in request.topic_data.iter().filter(|data| !data.partition_data.is_empty()) {
            let topic = *topics_at.entry((data.name.as_ref(), data.topic_id)).or_insert_with(|| {
                targets.push(self.target(data, by_id));
                targets.len() - 1
            });
            for part in &data.partition_data {
                let bytes = part.records.as_ref().map_or(&[][..], |r| r.bytes());
                let (start, len) = place_in(frame, bytes);
                let piece = Piece { topic, partition: part.index, start, len };
                let at = *pieces_at.entry((topic, part.index)).or_insert(pieces.len());
                match pieces.get_mut(at) {
                    Some(same) => *same = piece,
                    None => pieces.push(piece),
                }
            }
        }
        (targets, pieces)
    }

    fn target(&self, data: &TopicProduceData<'_>, by_id: bool) -> Target {
        let (name, id) = if by_id {
            (self.image.topics.get(&data.topic_id).map(|t| t.name.clone()).unwrap_or_default(), Some(data.topic_id))
        } else {
            (data.name.clone().into_owned(), self.image.topic_ids.get(data.name.as_ref()).copied())
        };
        let error = match id {
            None => Some(ErrorCode::UnknownTopicOrPartition),
            Some(_) if by_id && name.is_empty() => Some(ErrorCode::UnknownTopicId),
            Some(_) if INTERNAL_TOPICS.contains(&name.as_str()) => Some(ErrorCode::InvalidTopicException),
            Some(_) => None,
        };
        Target { name, id: id.unwrap_or(Uuid::ZERO), error }
    }

    fn append_produced(
        &mut self,
        key: PartitionKey,
        bytes: &mut [u8],
        (version, acks): (i16, i16),
        verified: &Verified,
        now: Now,
    ) -> Result<AppendInfo, Refused> {
        if let Some(Err(code)) = verified.partitions.get(&key) {
            return Err(Refused::before_log(*code));
        }
        let missing = self.missing(key, version >= TOPIC_IDS_FROM);
        let Some(replica) = self.replicas.all.get_mut(&key) else { return Err(missing.into()) };
        if !replica.partition.is_leader() || !self.replicas.is_published {
            return Err(ErrorCode::NotLeaderOrFollower.into());
        }
        let path = &self.log_dirs[replica.dir].path;
        if !self.offline.has_room(&*self.disk, replica.dir, path, bytes.len(), now) {
            let error = format!("{} has no room", path.display());
            self.notice_full(&error, now);
            return Err(ErrorCode::KafkaStorageError.into());
        }
        let rules = settings::produce_rules(&replica.topic_config, version, now);
        let scratch = &mut self.scratch;
        let validated =
            validate(bytes, &rules, scratch).map_err(|error| Refused { code: error.code, error: Some(error) })?;
        if let Some(max_timestamp) = validated.max_timestamp {
            set_create_time(bytes, max_timestamp);
        }
        let origin = AppendOrigin::Client(verified.shown(key));
        let appended = match validated.recompress {
            None => replica.partition.append_as_leader(bytes, origin, acks == -1, now),
            Some(codec) => {
                let batch = Batch::parse(bytes).map_err(|_| ErrorCode::CorruptMessage)?;
                let mut other = recompress(&batch, codec, scratch).map_err(|_| ErrorCode::CorruptMessage)?;
                replica.partition.append_as_leader(&mut other, origin, acks == -1, now)
            }
        };
        match appended {
            Ok(info) => {
                self.replicas.touched.insert(key);
                Ok(info)
            }
            Err(AppendRefused::Code(code)) => Err(code.into()),
            Err(AppendRefused::Storage(error)) => {
                self.storage_failed(error, now);
                Err(ErrorCode::KafkaStorageError.into())
            }
        }
    }

    /// Sends an answer, with the new leaders' addresses where the producer asked the wrong broker.
    pub(crate) fn respond_produce(
        &mut self,
        reply: ReplyTo,
        listener: Option<usize>,
        mut response: ProduceResponse<'static>,
    ) {
        if reply.version >= LEADER_HINTS_FROM {
            let mut endpoints: Vec<NodeEndpoint<'static>> = Vec::new();
            for topic in &mut response.responses {
                let id = self.image.topic_ids.get(topic.name.as_ref()).copied().unwrap_or(topic.topic_id);
                for part in &mut topic.partition_responses {
                    if part.error_code != ErrorCode::NotLeaderOrFollower as i16 {
                        continue;
                    }
                    let Some(hint) = self.leader_hint((id, part.index), listener) else { continue };
                    part.current_leader =
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
            }
            response.node_endpoints = endpoints;
        }
        let by_id = reply.version >= TOPIC_IDS_FROM;
        for topic in &mut response.responses {
            if by_id {
                topic.name = "".into();
            } else {
                topic.topic_id = Uuid::ZERO;
            }
        }
        self.respond(reply, &response);
    }
}

/// Offset and length of `part` within `whole`, of which it is a slice; nothing else if it is not.
fn place_in(whole: &[u8], part: &[u8]) -> (usize, usize) {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    if !part.is_empty() && start.checked_add(part.len()).is_some_and(|end| end <= whole.len()) {
        (start, part.len())
    } else {
        (0, 0)
    }
}

fn refused_part(index: i32, refused: Refused, log_start_offset: i64) -> PartitionProduceResponse<'static> {
    let mut part = PartitionProduceResponse {
        index,
        error_code: refused.code.into(),
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset,
        ..Default::default()
    };
    if let Some(error) = refused.error {
        part.error_message = error.message.map(Into::into);
        part.record_errors = error
            .faults
            .into_iter()
            .map(|fault| BatchIndexAndErrorMessage {
                batch_index: fault.index,
                batch_index_error_message: Some(fault.message.into()),
                ..Default::default()
            })
            .collect();
    }
    part
}
