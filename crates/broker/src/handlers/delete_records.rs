//! DeleteRecords (KIP-107): the leader moves its log's start, its followers follow.

use protocol::error::ErrorCode;
use protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use protocol::time::Now;
use protocol::wire::DecodeError;
use replication::PartitionKey;

use super::INTERNAL_TOPICS;
use crate::delete_waits::NO_LOW_WATERMARK;
use crate::node::Node;
use crate::request::Context;

/// Asks for everything below the high watermark to go.
const TO_HIGH_WATERMARK: i64 = -1;

impl Node {
    pub(crate) fn handle_delete_records(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: DeleteRecordsRequest<'_> = cx.decode(body)?;
        let mut topics = Vec::with_capacity(request.topics.len());
        let mut waiting = Vec::new();
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for wanted in &topic.partitions {
                let index = wanted.partition_index;
                let at = (topics.len(), partitions.len());
                let (low_watermark, code) = match self.delete_records(&topic.name, index, wanted.offset, now) {
                    Ok((key, offset, low)) if low < offset => {
                        waiting.push((key, at, offset));
                        (low, ErrorCode::RequestTimedOut)
                    }
                    Ok((_, _, low)) => (low, ErrorCode::None),
                    Err(code) => (NO_LOW_WATERMARK, code),
                };
                partitions.push(DeleteRecordsPartitionResult {
                    partition_index: index,
                    low_watermark,
                    error_code: code.into(),
                    ..Default::default()
                });
            }
            let name = topic.name.clone().into_owned().into();
            topics.push(DeleteRecordsTopicResult { name, partitions, ..Default::default() });
        }
        let response = DeleteRecordsResponse { topics, ..Default::default() };
        if waiting.is_empty() {
            self.respond(cx.reply, &response);
        } else {
            let deadline_ms = now.mono_ms + i64::from(request.timeout_ms.max(0));
            self.replicas.deletes.add(cx.reply, response, &waiting, deadline_ms);
        }
        Ok(())
    }

    /// The partition, its new log start, and the low watermark right after (`Partition.deleteRecordsOnLeader`).
    fn delete_records(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        now: Now,
    ) -> Result<(PartitionKey, i64, i64), ErrorCode> {
        let key = self.topic_key(topic, partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if INTERNAL_TOPICS.contains(&topic) {
            return Err(ErrorCode::InvalidTopicException);
        }
        let missing = self.missing(key, false);
        let replica = self.replicas.all.get_mut(&key).ok_or(missing)?;
        if !replica.partition.is_leader() || !self.replicas.is_published {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let policy = replica.topic_config.cleanup_policy;
        if policy.compact && !policy.delete {
            return Err(ErrorCode::PolicyViolation);
        }
        let high_watermark = replica.partition.high_watermark();
        let offset = if offset == TO_HIGH_WATERMARK { high_watermark } else { offset };
        if !(0..=high_watermark).contains(&offset) {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if let Err(error) = replica.partition.log_mut().set_log_start(offset, now) {
            self.storage_failed(error, now);
            return Err(ErrorCode::KafkaStorageError);
        }
        tracing::info!(topic, partition, offset, "records are deleted");
        self.replicas.touched.insert(key);
        Ok((key, offset, self.low_watermark(key)?))
    }
}
