//! Produce: records go from the frame they came in straight to the log.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::produce_request::TopicProduceData;
use protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use protocol::messages::{ProduceRequest, ProduceResponse};
use protocol::records::{Batch, ValidationError, recompress, set_create_time, validate};
use protocol::time::Now;
use protocol::wire::{DecodeError, Uuid};
use replication::{AppendRefused, PartitionKey};
use storage::{AppendInfo, AppendOrigin, Verification};

use super::INTERNAL_TOPICS;
use crate::node::Node;
use crate::quotas::Kind;
use crate::reply::ReplyTo;
use crate::request::Context;
use crate::settings;

/// From here on topics go by id (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;
const CLIENT: AppendOrigin = AppendOrigin::Client(Verification::Open);
/// From here on an error names the new leader (KIP-951).
const LEADER_HINTS_FROM: i16 = 10;

/// One partition's records: where they are in the frame.
struct Piece {
    topic: usize,
    partition: i32,
    start: usize,
    len: usize,
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
                | ErrorCode::InvalidTopicException
        );
        is_told && self.error.as_ref().is_none_or(|error| !error.is_shape)
    }
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
        let frame_bytes = frame.len();
        let body = frame.get(body_at..).unwrap_or_default();
        let request: ProduceRequest<'_> = cx.decode(body)?;
        let (acks, timeout_ms) = (request.acks, request.timeout_ms);
        let valid_acks = matches!(acks, -1..=1);
        let (targets, pieces) = self.split(cx, &request, frame);
        drop(request);
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
            let outcome = match target.error {
                _ if !valid_acks => Err(ErrorCode::InvalidRequiredAcks.into()),
                Some(code) => Err(code.into()),
                None => self.append_produced(key, bytes, cx.reply.version, acks, now),
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
        response.throttle_time_ms = self.throttle_produce(cx, frame_bytes, now);
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
        self.replicas.produces.add(cx.reply, cx.listener, response, &waiting, deadline_ms);
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
        version: i16,
        acks: i16,
        now: Now,
    ) -> Result<AppendInfo, Refused> {
        let missing = self.missing(key, version >= TOPIC_IDS_FROM);
        let Some(replica) = self.replicas.all.get_mut(&key) else { return Err(missing.into()) };
        if !replica.partition.is_leader() || !self.replicas.is_published {
            return Err(ErrorCode::NotLeaderOrFollower.into());
        }
        let rules = settings::produce_rules(&replica.topic_config, version, now);
        let scratch = &mut self.scratch;
        let validated =
            validate(bytes, &rules, scratch).map_err(|error| Refused { code: error.code, error: Some(error) })?;
        if validated.header.is_transactional() {
            // No transaction coordinator exists here that could have begun one.
            return Err(ErrorCode::InvalidTxnState.into());
        }
        if let Some(max_timestamp) = validated.max_timestamp {
            set_create_time(bytes, max_timestamp);
        }
        let appended = match validated.recompress {
            None => replica.partition.append_as_leader(bytes, CLIENT, acks == -1, now),
            Some(codec) => {
                let batch = Batch::parse(bytes).map_err(|_| ErrorCode::CorruptMessage)?;
                let mut other = recompress(&batch, codec, scratch).map_err(|_| ErrorCode::CorruptMessage)?;
                replica.partition.append_as_leader(&mut other, CLIENT, acks == -1, now)
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
