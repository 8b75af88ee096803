//! OffsetFetch: one group and its topics, later many groups, later topics by id.

use coordinator::CommittedOffset;
use protocol::error::ErrorCode;
use protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use protocol::wire::{DecodeError, Uuid};

use crate::node::Node;
use crate::request::Context;

/// From here on many groups are asked about at a time.
const MANY_GROUPS_FROM: i16 = 8;
/// From here on a member of a consumer group says who it is, and in which epoch.
const MEMBER_EPOCH_FROM: i16 = 9;
/// From here on topics go by id.
const TOPIC_IDS_FROM: i16 = 10;
/// From here on the whole answer can fail.
const TOP_LEVEL_ERROR_FROM: i16 = 2;

impl Node {
    pub(crate) fn handle_offset_fetch(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: OffsetFetchRequest<'_> = cx.decode(body)?;
        let version = cx.reply.version;
        if version >= MANY_GROUPS_FROM {
            let stable = request.require_stable;
            let groups = request.groups.iter().map(|group| self.fetch_group(group, version, stable)).collect();
            self.respond(cx.reply, &OffsetFetchResponse { groups, ..Default::default() });
            return Ok(());
        }
        let topics = request.topics.as_ref().map(|topics| {
            let topic =
                |t: &protocol::messages::offset_fetch_request::OffsetFetchRequestTopic<'_>| OffsetFetchRequestTopics {
                    name: t.name.clone().into_owned().into(),
                    partition_indexes: t.partition_indexes.clone(),
                    ..Default::default()
                };
            topics.iter().map(topic).collect()
        });
        let asked = OffsetFetchRequestGroup {
            group_id: request.group_id.clone(),
            topics,
            member_epoch: -1,
            ..Default::default()
        };
        let found = self.fetch_group(&asked, version, request.require_stable);
        let partition = |p: OffsetFetchResponsePartitions<'static>| OffsetFetchResponsePartition {
            partition_index: p.partition_index,
            committed_offset: p.committed_offset,
            committed_leader_epoch: if version >= 5 { p.committed_leader_epoch } else { -1 },
            metadata: p.metadata,
            error_code: p.error_code,
            ..Default::default()
        };
        let topic = |t: OffsetFetchResponseTopics<'static>| OffsetFetchResponseTopic {
            name: t.name,
            partitions: t.partitions.into_iter().map(partition).collect(),
            ..Default::default()
        };
        let response = OffsetFetchResponse {
            error_code: if version >= TOP_LEVEL_ERROR_FROM { found.error_code } else { 0 },
            topics: found.topics.into_iter().map(topic).collect(),
            ..Default::default()
        };
        self.respond(cx.reply, &response);
        Ok(())
    }

    /// `require_stable`: an offset that the end of a transaction may still change is an error (KIP-447).
    fn fetch_group(
        &mut self,
        asked: &OffsetFetchRequestGroup<'_>,
        version: i16,
        require_stable: bool,
    ) -> OffsetFetchResponseGroup<'static> {
        let group = asked.group_id.clone().into_owned();
        let checked = self.group_shard(&group).and_then(|shard| {
            let member = asked.member_id.as_deref().filter(|_| version >= MEMBER_EPOCH_FROM);
            let epoch = if version >= MEMBER_EPOCH_FROM { asked.member_epoch } else { -1 };
            shard.check_fetch(&group, member, epoch)
        });
        let (error, topics) = match checked {
            Err(code) => (code, asked.topics.as_ref().map(|t| failed_topics(t, code)).unwrap_or_default()),
            Ok(_) => {
                let topics = match &asked.topics {
                    Some(topics) => {
                        let found = topics.iter().map(|t| self.fetch_topic(&group, t, version, require_stable));
                        let (known, unknown): (Vec<_>, Vec<_>) = found.partition(|t| t.0);
                        known.into_iter().chain(unknown).map(|t| t.1).collect()
                    }
                    None => self.fetch_all(&group, version, require_stable),
                };
                (ErrorCode::None, topics)
            }
        };
        OffsetFetchResponseGroup { group_id: group.into(), topics, error_code: error.into(), ..Default::default() }
    }

    /// Whether the topic is known, which come first in the answer, and what was committed there.
    fn fetch_topic(
        &mut self,
        group: &str,
        asked: &OffsetFetchRequestTopics<'_>,
        version: i16,
        require_stable: bool,
    ) -> (bool, OffsetFetchResponseTopics<'static>) {
        let name = match version {
            TOPIC_IDS_FROM.. => self.image.topics.get(&asked.topic_id).map(|t| t.name.clone()),
            _ => Some(asked.name.clone().into_owned()),
        };
        let Some(name) = name else {
            return (false, failed_topic(asked, ErrorCode::UnknownTopicId));
        };
        let Ok(shard) = self.group_shard(group) else { return (true, failed_topic(asked, ErrorCode::NotCoordinator)) };
        let of_topic = |p: &i32| match require_stable && shard.is_unstable(group, &name, *p) {
            true => unstable(*p),
            false => found(*p, shard.offset(group, &name, *p).filter(|offset| offset.is_of(asked.topic_id))),
        };
        let partitions = asked.partition_indexes.iter().map(of_topic).collect();
        let topic = OffsetFetchResponseTopics {
            name: if version >= TOPIC_IDS_FROM { "".into() } else { name.into() },
            topic_id: asked.topic_id,
            partitions,
            ..Default::default()
        };
        (true, topic)
    }

    /// Everything that the group has committed; with ids, as far as the topics still exist.
    fn fetch_all(
        &mut self,
        group: &str,
        version: i16,
        require_stable: bool,
    ) -> Vec<OffsetFetchResponseTopics<'static>> {
        let Ok(shard) = self.group_shard(group) else { return Vec::new() };
        let offsets = shard.offsets_of(group).into_iter().map(|(topic, partition, offset)| {
            let is_unstable = require_stable && shard.is_unstable(group, &topic, partition);
            (topic, offset.topic_id, if is_unstable { unstable(partition) } else { found(partition, Some(&offset)) })
        });
        let offsets: Vec<_> = offsets.collect();
        let mut topics: Vec<(String, OffsetFetchResponseTopics<'static>)> = Vec::new();
        for (name, topic_id, part) in offsets {
            let id = self.image.topic_ids.get(&name).copied();
            let is_of = |id: Uuid| topic_id.is_zero() || topic_id == id;
            if version >= TOPIC_IDS_FROM && !id.is_some_and(is_of) {
                continue;
            }
            if let Some((_, topic)) = topics.last_mut().filter(|(known, _)| *known == name) {
                topic.partitions.push(part);
                continue;
            }
            let topic = OffsetFetchResponseTopics {
                name: if version >= TOPIC_IDS_FROM { "".into() } else { name.clone().into() },
                topic_id: if version >= TOPIC_IDS_FROM { id.unwrap_or_default() } else { Uuid::ZERO },
                partitions: vec![part],
                ..Default::default()
            };
            topics.push((name, topic));
        }
        topics.into_iter().map(|(_, topic)| topic).collect()
    }
}

fn found(partition_index: i32, offset: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions<'static> {
    match offset {
        Some(offset) => OffsetFetchResponsePartitions {
            partition_index,
            committed_offset: offset.offset,
            committed_leader_epoch: offset.leader_epoch,
            metadata: Some(offset.metadata.clone().into()),
            ..Default::default()
        },
        None => OffsetFetchResponsePartitions {
            partition_index,
            committed_offset: -1,
            committed_leader_epoch: -1,
            metadata: Some("".into()),
            ..Default::default()
        },
    }
}

fn unstable(partition_index: i32) -> OffsetFetchResponsePartitions<'static> {
    OffsetFetchResponsePartitions { error_code: ErrorCode::UnstableOffsetCommit.into(), ..found(partition_index, None) }
}

fn failed_topics(topics: &[OffsetFetchRequestTopics<'_>], code: ErrorCode) -> Vec<OffsetFetchResponseTopics<'static>> {
    topics.iter().map(|t| failed_topic(t, code)).collect()
}

fn failed_topic(topic: &OffsetFetchRequestTopics<'_>, code: ErrorCode) -> OffsetFetchResponseTopics<'static> {
    let partition = |p: &i32| OffsetFetchResponsePartitions { error_code: code.into(), ..found(*p, None) };
    OffsetFetchResponseTopics {
        name: topic.name.clone().into_owned().into(),
        topic_id: topic.topic_id,
        partitions: topic.partition_indexes.iter().map(partition).collect(),
        ..Default::default()
    }
}
