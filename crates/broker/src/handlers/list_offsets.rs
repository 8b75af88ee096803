//! ListOffsets: offsets by time, and the ends of a log.

use protocol::error::ErrorCode;
use protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use protocol::wire::DecodeError;
use replication::{Isolation, ReadFailure, TimestampQuery};
use storage::TimestampOffset;

use crate::node::Node;
use crate::request::Context;

/// From here on a client knows OFFSET_NOT_AVAILABLE (KIP-207).
const OFFSET_NOT_AVAILABLE_FROM: i16 = 5;
/// Replica id of tools that want to see a log as it is.
const DEBUGGING: i32 = -2;

impl Node {
    pub(crate) fn handle_list_offsets(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: ListOffsetsRequest<'_> = cx.decode(body)?;
        let isolation = match (request.replica_id, request.isolation_level) {
            (0.. | DEBUGGING, _) => Isolation::LogEnd,
            (_, 1) => Isolation::Committed,
            _ => Isolation::HighWatermark,
        };
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            let repeated = repeated(topic.partitions.iter().map(|p| p.partition_index).collect());
            partitions.extend(repeated.iter().map(|p| part(*p, cx.reply.version, Err(ErrorCode::InvalidRequest))));
            for p in topic.partitions.iter().filter(|p| repeated.binary_search(&p.partition_index).is_err()) {
                let (id, epoch) = (p.partition_index, p.current_leader_epoch);
                let outcome = match cx.reply.version {
                    version if version < knows_timestamp_from(p.timestamp) => Err(ErrorCode::UnsupportedVersion),
                    _ => self.offset_for(&topic.name, id, p.timestamp, isolation, epoch),
                };
                partitions.push(part(id, cx.reply.version, outcome));
            }
            topics.push(ListOffsetsTopicResponse {
                name: topic.name.clone().into_owned().into(),
                partitions,
                ..Default::default()
            });
        }
        self.respond(cx.reply, &ListOffsetsResponse { topics, ..Default::default() });
        Ok(())
    }

    fn offset_for(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
        isolation: Isolation,
        leader_epoch: i32,
    ) -> Result<Option<TimestampOffset>, ErrorCode> {
        let query = match timestamp {
            -1 => TimestampQuery::Latest,
            -2 => TimestampQuery::Earliest,
            -3 => TimestampQuery::MaxTimestamp,
            -4 => TimestampQuery::EarliestLocal,
            // KIP-1005 and KIP-1023: no tiered storage, so that nothing is there.
            -5 | -6 => return Ok(None),
            ..0 => return Err(ErrorCode::UnsupportedVersion),
            at => TimestampQuery::At(at),
        };
        let key = self.topic_key(topic, partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let missing = self.missing(key, false);
        let replica = self.replicas.all.get_mut(&key).ok_or(missing)?;
        replica.partition.offset_for(query, isolation, leader_epoch).map_err(|error| match error {
            ReadFailure::Code(code) => code,
            ReadFailure::Storage(error) => {
                self.replicas.failures.push(error);
                ErrorCode::KafkaStorageError
            }
        })
    }
}

/// The version that brought a negative timestamp's meaning.
fn knows_timestamp_from(timestamp: i64) -> i16 {
    match timestamp {
        -3 => 7,
        -4 => 8,
        -5 => 9,
        -6 => 11,
        _ => 0,
    }
}

/// Partitions that are named twice, each once.
fn repeated(mut partitions: Vec<i32>) -> Vec<i32> {
    partitions.sort_unstable();
    let mut repeated: Vec<i32> = partitions
        .windows(2)
        .filter_map(|pair| (pair.first() == pair.last()).then(|| pair.first().copied())?)
        .collect();
    repeated.dedup();
    repeated
}

fn part(
    partition_index: i32,
    version: i16,
    outcome: Result<Option<TimestampOffset>, ErrorCode>,
) -> ListOffsetsPartitionResponse {
    let none = ListOffsetsPartitionResponse {
        partition_index,
        timestamp: -1,
        offset: -1,
        leader_epoch: -1,
        ..Default::default()
    };
    match outcome {
        Ok(Some(found)) => ListOffsetsPartitionResponse {
            timestamp: found.timestamp,
            offset: found.offset,
            leader_epoch: if version >= 4 { found.leader_epoch.unwrap_or(-1) } else { -1 },
            ..none
        },
        Ok(None) => none,
        Err(ErrorCode::OffsetNotAvailable) if version < OFFSET_NOT_AVAILABLE_FROM => {
            ListOffsetsPartitionResponse { error_code: ErrorCode::LeaderNotAvailable.into(), ..none }
        }
        Err(code) => ListOffsetsPartitionResponse { error_code: code.into(), ..none },
    }
}
