//! WriteTxnMarkers: a transaction's coordinator has its end written into the partitions that this broker leads.

use coordinator::{OFFSETS_TOPIC, Producer};
use protocol::error::ErrorCode;
use protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};
use protocol::time::Now;
use protocol::wire::DecodeError;
use replication::{AppendRefused, PartitionKey};

use crate::node::Node;
use crate::produce_waits::Answer;
use crate::reply::ReplyTo;
use crate::request::Context;
use crate::runtime::EndMarker;

/// A request whose markers are written and wait for their followers.
pub(crate) struct MarkerWait {
    pub reply: ReplyTo,
    pub response: WriteTxnMarkersResponse<'static>,
}

impl Answer for MarkerWait {
    /// By marker, and by partition counted over all of the marker's topics.
    fn fail(&mut self, (marker, place): (usize, usize), code: ErrorCode) {
        let marker = self.response.markers.get_mut(marker).expect("a wait names parts of its own response");
        let mut places = marker.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        places.nth(place).expect("a wait names parts of its own response").error_code = code.into();
    }
}

impl Node {
    pub(crate) fn handle_write_txn_markers(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: WriteTxnMarkersRequest<'_> = cx.decode(body)?;
        let mut response = WriteTxnMarkersResponse::default();
        let mut waiting = Vec::new();
        for (index, marker) in request.markers.iter().enumerate() {
            let end = EndMarker {
                producer: Producer { id: marker.producer_id, epoch: marker.producer_epoch },
                commit: marker.transaction_result,
                coordinator_epoch: marker.coordinator_epoch,
                transaction_version: i16::from(marker.transaction_version),
            };
            let mut topics = Vec::with_capacity(marker.topics.len());
            let mut place = 0;
            for topic in &marker.topics {
                let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
                for partition in &topic.partition_indexes {
                    let code = match self.end_transaction_in(&topic.name, *partition, &end, now) {
                        Ok((key, end_offset)) => {
                            waiting.push((key, (index, place), end_offset));
                            ErrorCode::None
                        }
                        Err(code) => code,
                    };
                    place += 1;
                    partitions.push(WritableTxnMarkerPartitionResult {
                        partition_index: *partition,
                        error_code: code.into(),
                        ..Default::default()
                    });
                }
                let name = topic.name.clone().into_owned().into();
                topics.push(WritableTxnMarkerTopicResult { name, partitions, ..Default::default() });
            }
            response.markers.push(WritableTxnMarkerResult {
                producer_id: marker.producer_id,
                topics,
                ..Default::default()
            });
        }
        waiting.retain(|(key, _, end)| {
            self.replicas.get(*key).is_none_or(|p| p.is_replicated(*end) != Some(ErrorCode::None))
        });
        if waiting.is_empty() {
            self.respond(cx.reply, &response);
            return Ok(());
        }
        let deadline_ms = now.mono_ms + self.config.request_timeout_ms;
        self.replicas.markers.add(MarkerWait { reply: cx.reply, response }, &waiting, deadline_ms);
        Ok(())
    }

    /// Answers which high watermark the marker waits for.
    fn end_transaction_in(
        &mut self,
        topic: &str,
        partition: i32,
        end: &EndMarker,
        now: Now,
    ) -> Result<(PartitionKey, i64), ErrorCode> {
        let key = self.topic_key(topic, partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let missing = self.missing(key, false);
        let appended = if topic == OFFSETS_TOPIC {
            // The group coordinator must hear of it, in the order of the log.
            self.groups.runtime.end_transaction(partition, end, &mut self.replicas, now)
        } else {
            let replica = self.replicas.all.get_mut(&key).ok_or(missing)?;
            let appended = replica.partition.append_as_leader(&mut end.batch(now), end.origin(), true, now);
            appended.map(|info| info.last_offset + 1)
        };
        match appended {
            Ok(end_offset) => {
                self.replicas.touched.insert(key);
                Ok((key, end_offset))
            }
            Err(AppendRefused::Code(code)) => Err(code),
            Err(AppendRefused::Storage(error)) => {
                self.storage_failed(error, now);
                Err(ErrorCode::KafkaStorageError)
            }
        }
    }
}
