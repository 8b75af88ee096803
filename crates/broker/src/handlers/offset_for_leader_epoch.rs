//! OffsetForLeaderEpoch (KIP-101, KIP-320): where an epoch ends, for consumers and tools.

use protocol::error::ErrorCode;
use protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use protocol::wire::DecodeError;

use crate::node::Node;
use crate::request::Context;

impl Node {
    pub(crate) fn handle_offset_for_leader_epoch(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: OffsetForLeaderEpochRequest<'_> = cx.decode(body)?;
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let answer = |p: &protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition| {
                let mut out =
                    EpochEndOffset { partition: p.partition, leader_epoch: -1, end_offset: -1, ..Default::default() };
                let key = self.topic_key(&topic.topic, p.partition);
                let found = match key {
                    None => Err(ErrorCode::UnknownTopicOrPartition),
                    Some(key) => match self.replicas.get(key) {
                        None => Err(self.missing(key, false)),
                        Some(partition) => partition.end_offset_for_epoch(p.current_leader_epoch, p.leader_epoch),
                    },
                };
                match found {
                    Ok(Some(end)) => (out.leader_epoch, out.end_offset) = (end.epoch, end.end_offset),
                    Ok(None) => {}
                    Err(code) => out.error_code = code.into(),
                }
                out
            };
            let partitions = topic.partitions.iter().map(answer).collect();
            topics.push(OffsetForLeaderTopicResult {
                topic: topic.topic.clone().into_owned().into(),
                partitions,
                ..Default::default()
            });
        }
        self.respond(cx.reply, &OffsetForLeaderEpochResponse { topics, ..Default::default() });
        Ok(())
    }
}
