//! DescribeTopicPartitions (KIP-966): topics page by page, with eligible leader replicas.

use metadata::image::Topic;
use protocol::error::ErrorCode;
use protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use protocol::wire::DecodeError;

use super::metadata::is_valid_topic_name;
use super::{INTERNAL_TOPICS, TOPIC_OPERATIONS};
use crate::node::Node;
use crate::request::Context;

impl Node {
    pub(crate) fn handle_describe_topic_partitions(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: DescribeTopicPartitionsRequest<'_> = cx.decode(body)?;
        let listener = self.listener_name(cx.listener).to_owned();
        let mut names: Vec<String> = match request.topics.is_empty() {
            true => self.image.topic_ids.keys().cloned().collect(),
            false => request.topics.iter().map(|t| t.name.clone().into_owned()).collect(),
        };
        names.sort();
        names.dedup();
        let (first_topic, mut first_partition) =
            request.cursor.as_ref().map_or(("", 0), |c| (c.topic_name.as_ref(), c.partition_index));
        let is_foreign =
            request.cursor.is_some() && !request.topics.is_empty() && !names.iter().any(|n| n == first_topic);
        if is_foreign || first_partition < 0 {
            self.respond(cx.reply, &refused(&request));
            return Ok(());
        }
        names.retain(|name| name.as_str() >= first_topic);
        if names.first().is_none_or(|name| name != first_topic) {
            first_partition = 0;
        }
        let limit_max = self.config.max_request_partition_size_limit.max(1);
        let mut room = request.response_partition_limit.clamp(1, limit_max) as usize;
        let mut response = DescribeTopicPartitionsResponse::default();
        for name in names {
            if room == 0 {
                response.next_cursor =
                    Some(Cursor { topic_name: name.into(), partition_index: 0, ..Default::default() });
                break;
            }
            let Some(topic) = self.image.topic(&name) else {
                let known = is_valid_topic_name(&name);
                let code = if known { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
                response.topics.push(DescribeTopicPartitionsResponseTopic {
                    error_code: code.into(),
                    is_internal: INTERNAL_TOPICS.contains(&name.as_str()),
                    name: Some(name.into()),
                    topic_authorized_operations: TOPIC_OPERATIONS,
                    ..Default::default()
                });
                continue;
            };
            let (described, next) = self.describe_page(topic, &listener, std::mem::take(&mut first_partition), room);
            room -= described.partitions.len();
            response.topics.push(described);
            if let Some(partition_index) = next {
                response.next_cursor = Some(Cursor { topic_name: name.into(), partition_index, ..Default::default() });
                break;
            }
        }
        self.respond(cx.reply, &response);
        Ok(())
    }

    /// Up to `room` partitions from `first` on, and the partition that comes next if they were not all.
    fn describe_page(
        &self,
        topic: &Topic,
        listener: &str,
        first: i32,
        room: usize,
    ) -> (DescribeTopicPartitionsResponseTopic<'static>, Option<i32>) {
        let mut rest = topic.partitions.range(first..);
        let page = rest.by_ref().take(room).map(|(number, p)| {
            let (error, leader_id) = self.leader_on(p, listener);
            DescribeTopicPartitionsResponsePartition {
                error_code: error.into(),
                partition_index: *number,
                leader_id,
                leader_epoch: p.leader_epoch,
                replica_nodes: p.replicas.clone(),
                isr_nodes: p.isr.clone(),
                eligible_leader_replicas: Some(p.elr.clone()),
                last_known_elr: Some(p.last_known_elr.clone()),
                offline_replicas: self.offline_replicas(p, listener),
                ..Default::default()
            }
        });
        let partitions = page.collect();
        let described = DescribeTopicPartitionsResponseTopic {
            name: Some(topic.name.clone().into()),
            topic_id: topic.id,
            is_internal: INTERNAL_TOPICS.contains(&topic.name.as_str()),
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..Default::default()
        };
        (described, rest.next().map(|(number, _)| *number))
    }
}

/// The cursor is none that this list of topics could have led to.
fn refused(request: &DescribeTopicPartitionsRequest<'_>) -> DescribeTopicPartitionsResponse<'static> {
    let topics = request.topics.iter().map(|topic| DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::InvalidRequest.into(),
        name: Some(topic.name.clone().into_owned().into()),
        ..Default::default()
    });
    DescribeTopicPartitionsResponse { topics: topics.collect(), ..Default::default() }
}
