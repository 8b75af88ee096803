//! Committed offsets of groups: written, read, deleted, and given up after `offsets.retention.minutes`.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitValue, OffsetDeleteRequest, OffsetDeleteResponse,
};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::consumer::{CONSUMER_PROTOCOL, read_subscription};
use crate::group::{Group, GroupState};
use crate::records;
use crate::shard::{GroupShard, Response, Then, Token};

/// From here on a commit names the epoch of a member of a consumer group.
const MEMBER_EPOCH_FROM: i16 = 9;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_timestamp: i64,
    /// Of the topic that this was committed for; zero if that is not known. Another topic of the name has not been read.
    pub topic_id: Uuid,
}

impl CommittedOffset {
    pub(crate) fn from_value(value: &OffsetCommitValue<'_>) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.clone().into_owned(),
            commit_timestamp: value.commit_timestamp,
            topic_id: value.topic_id,
        }
    }

    /// Whether it speaks of a topic with this id; zero is any.
    pub fn is_of(&self, topic: Uuid) -> bool {
        self.topic_id.is_zero() || topic.is_zero() || self.topic_id == topic
    }

    pub(crate) fn to_value(&self) -> OffsetCommitValue<'static> {
        OffsetCommitValue {
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.metadata.clone().into(),
            commit_timestamp: self.commit_timestamp,
            topic_id: self.topic_id,
            ..Default::default()
        }
    }
}

/// One group's offsets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offsets(BTreeMap<String, BTreeMap<i32, CommittedOffset>>);

impl Offsets {
    pub fn put(&mut self, topic: &str, partition: i32, offset: Option<CommittedOffset>) {
        match offset {
            Some(offset) => {
                self.0.entry(topic.to_owned()).or_default().insert(partition, offset);
            }
            None => {
                if let Some(partitions) = self.0.get_mut(topic) {
                    partitions.remove(&partition);
                    if partitions.is_empty() {
                        self.0.remove(topic);
                    }
                }
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.0.get(topic)?.get(&partition)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, i32, &CommittedOffset)> {
        self.0.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |(p, o)| (topic.as_str(), *p, o)))
    }
}

/// A topic of an OffsetCommit as its owner resolved it: by name, whatever the request used.
pub struct OffsetTopic {
    pub name: String,
    pub id: Uuid,
    /// How many partitions the topic has.
    pub partitions: i32,
    /// Why none of the topic's offsets can be committed.
    pub error: Option<ErrorCode>,
}

impl GroupShard {
    /// `topics` has an entry for each of the request's.
    pub fn commit_offsets(
        &mut self,
        request: &OffsetCommitRequest<'_>,
        version: i16,
        topics: &[OffsetTopic],
        token: Token,
        now: Now,
    ) {
        let group_id = request.group_id.clone().into_owned();
        let refused = match self.consumers.contains_key(&group_id) {
            true => self.check_consumer_commit(request, version, topics).err(),
            false => self.check_commit(request, version).err(),
        };
        let mut offsets = Vec::new();
        let mut records = Vec::new();
        let mut answer = OffsetCommitResponse::default();
        for (asked, topic) in request.topics.iter().zip(topics) {
            let mut partitions = Vec::with_capacity(asked.partitions.len());
            for p in &asked.partitions {
                let metadata = p.committed_metadata.as_deref().unwrap_or_default();
                let code = match topic.error.or(refused) {
                    _ if topic.error.is_none() && !(0..topic.partitions).contains(&p.partition_index) => {
                        ErrorCode::UnknownTopicOrPartition
                    }
                    Some(code) => code,
                    None if metadata.len() > self.config.metadata_bytes_max => ErrorCode::OffsetMetadataTooLarge,
                    None => ErrorCode::None,
                };
                if code == ErrorCode::None {
                    let committed = committed(p, topic.id, now);
                    let value = committed.to_value();
                    records.push(records::offset_record(&group_id, &topic.name, p.partition_index, Some(&value)));
                    offsets.push((topic.name.clone(), p.partition_index, Some(committed)));
                }
                partitions.push(OffsetCommitResponsePartition {
                    partition_index: p.partition_index,
                    error_code: code.into(),
                    ..Default::default()
                });
            }
            if partitions.is_empty() {
                continue;
            }
            let name = asked.name.clone().into_owned();
            answer.topics.push(OffsetCommitResponseTopic {
                name: name.into(),
                topic_id: asked.topic_id,
                partitions,
                ..Default::default()
            });
        }
        let answer = Response::OffsetCommit(answer);
        if records.is_empty() {
            return self.respond(token, answer);
        }
        if let Some(member) = self.groups.get_mut(&group_id).and_then(|g| g.members.get_mut(&*request.member_id)) {
            // A commit is a sign of life.
            member.touch(now);
            let at_ms = member.session_end_ms;
            self.arm_classic(&group_id, at_ms);
        }
        self.write(records, Then::Offsets { group: group_id, offsets, answer: Some((token, answer)) });
    }

    /// Who may commit in a consumer group: members in their epoch; and in an older one, for partitions that the member
    /// has had since then (KIP-1251).
    pub(crate) fn check_consumer_commit(
        &self,
        request: &OffsetCommitRequest<'_>,
        version: i16,
        topics: &[OffsetTopic],
    ) -> Result<(), ErrorCode> {
        let epoch = request.generation_id_or_member_epoch;
        let Some(group) = self.consumers.get(request.group_id.as_ref()) else { return Ok(()) };
        if epoch < 0 && group.members.is_empty() {
            return Ok(());
        }
        let member = group.members.get(request.member_id.as_ref()).ok_or(ErrorCode::UnknownMemberId)?;
        let is_classic = member.about.classic.is_some();
        if !is_classic && version < MEMBER_EPOCH_FROM {
            return Err(ErrorCode::UnsupportedVersion);
        }
        let stale = if is_classic { ErrorCode::IllegalGeneration } else { ErrorCode::StaleMemberEpoch };
        match epoch.cmp(&member.current.epoch) {
            _ if self.config.mutations.ignore_member_epoch => return Ok(()),
            std::cmp::Ordering::Equal => return Ok(()),
            std::cmp::Ordering::Greater => return Err(stale),
            std::cmp::Ordering::Less if topics.is_empty() => return Err(stale),
            std::cmp::Ordering::Less => {}
        }
        let partitions = request.topics.iter().zip(topics).filter(|(_, topic)| topic.error.is_none());
        let mut partitions =
            partitions.flat_map(|(asked, topic)| asked.partitions.iter().map(|p| (topic.id, p.partition_index)));
        let is_owned =
            |(topic, partition)| member.current.epoch_of(topic, partition).is_some_and(|since| epoch >= since);
        if partitions.all(is_owned) { Ok(()) } else { Err(stale) }
    }

    /// Whether a member of a consumer group may read its offsets in this epoch; an operator names no member.
    pub fn check_fetch(&self, group: &str, member_id: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        let Some(group) = self.consumers.get(group) else { return Ok(()) };
        if member_id.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = member_id.and_then(|id| group.members.get(id)).ok_or(ErrorCode::UnknownMemberId)?;
        match member.about.classic {
            _ if epoch == member.current.epoch => Ok(()),
            Some(_) => Err(ErrorCode::IllegalGeneration),
            None => Err(ErrorCode::StaleMemberEpoch),
        }
    }

    /// Who may commit: members of the generation, and anybody for a group without members.
    pub(crate) fn check_commit(&self, request: &OffsetCommitRequest<'_>, version: i16) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        let Some(group) = self.groups.get(request.group_id.as_ref()) else {
            // A group that exists by its offsets only has no generations.
            return match generation {
                ..0 => Ok(()),
                _ if version >= MEMBER_EPOCH_FROM && !self.knows(&request.group_id) => Err(ErrorCode::GroupIdNotFound),
                _ => Err(ErrorCode::IllegalGeneration),
            };
        };
        if generation < 0 && group.state == GroupState::Empty {
            return Ok(());
        }
        if generation >= 0 || !request.member_id.is_empty() || request.group_instance_id.is_some() {
            group.check_member(&request.member_id, request.group_instance_id.as_deref(), generation)?;
        } else {
            return Err(ErrorCode::UnknownMemberId);
        }
        match group.state {
            GroupState::CompletingRebalance => Err(ErrorCode::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    pub fn offset(&self, group: &str, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.offsets.get(group)?.get(topic, partition)
    }

    /// All of a group's offsets, by topic and partition.
    pub fn offsets_of(&self, group: &str) -> Vec<(String, i32, CommittedOffset)> {
        let offsets = self.offsets.get(group).into_iter().flat_map(Offsets::iter);
        offsets.map(|(topic, partition, offset)| (topic.to_owned(), partition, offset.clone())).collect()
    }

    /// OffsetDelete (KIP-496); topics that members of the group consume are kept.
    pub fn delete_offsets(&mut self, request: &OffsetDeleteRequest<'_>, token: Token) {
        let group_id = request.group_id.clone().into_owned();
        // Nobody knows what the members of such a group are about.
        let is_other = self.groups.get(&group_id).is_some_and(|group| {
            group.state != GroupState::Empty && group.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL)
        });
        let refused = match self.knows(&group_id) {
            false => Some(ErrorCode::GroupIdNotFound),
            true => is_other.then_some(ErrorCode::NonEmptyGroup),
        };
        if let Some(code) = refused {
            let response = OffsetDeleteResponse { error_code: code.into(), ..Default::default() };
            return self.respond(token, Response::OffsetDelete(response));
        }
        let consumed = self.subscribed_topics(&group_id);
        let mut records = Vec::new();
        let mut offsets = Vec::new();
        let mut answer = OffsetDeleteResponse::default();
        for topic in &request.topics {
            let name = topic.name.clone().into_owned();
            let code =
                if consumed.contains(name.as_str()) { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            let partitions = topic
                .partitions
                .iter()
                .map(|p| OffsetDeleteResponsePartition { partition_index: p.partition_index, error_code: code.into() });
            let partitions: Vec<_> = partitions.collect();
            for p in topic.partitions.iter().filter(|_| code == ErrorCode::None) {
                if self.offset(&group_id, &name, p.partition_index).is_some() {
                    records.push(records::offset_record(&group_id, &name, p.partition_index, None));
                    offsets.push((name.clone(), p.partition_index, None));
                }
            }
            answer.topics.push(OffsetDeleteResponseTopic { name: name.into(), partitions });
        }
        let answer = Response::OffsetDelete(answer);
        match records.is_empty() {
            true => self.respond(token, answer),
            false => self.write(records, Then::Offsets { group: group_id, offsets, answer: Some((token, answer)) }),
        }
    }

    /// Offsets that nobody has renewed for their time are given up, except of topics that members consume; a group that
    /// is left with nothing and nobody goes too.
    pub(crate) fn expire_offsets(&mut self, now: Now) {
        let groups = self.groups.keys().chain(self.consumers.keys());
        let ids: BTreeSet<String> = self.offsets.keys().chain(groups).cloned().collect();
        for id in ids {
            let Some(since_ms) = self.retained_since(&id).filter(|_| !self.pending.has_group(&id)) else { continue };
            let retention_ms = self.config.retention_ms;
            let is_old = |o: &CommittedOffset| {
                now.wall_ms.saturating_sub(since_ms.unwrap_or(o.commit_timestamp)) >= retention_ms
            };
            let consumed = self.subscribed_topics(&id);
            let offsets = self.offsets.get(&id);
            let old: Vec<(String, i32)> = offsets
                .into_iter()
                .flat_map(Offsets::iter)
                .filter(|(topic, _, o)| is_old(o) && !consumed.contains(*topic))
                .map(|(topic, partition, _)| (topic.to_owned(), partition))
                .collect();
            let all = offsets.map_or(0, |o| o.iter().count());
            if old.len() == all && self.is_empty_group(&id) {
                tracing::info!(
                    group = id,
                    offsets = all,
                    "group is forgotten: its offsets are older than offsets.retention.minutes"
                );
                self.write(self.tombstones(&id), Then::Forget { group: id, answer: None });
            } else if !old.is_empty() {
                let records = old.iter().map(|(t, p)| records::offset_record(&id, t, *p, None)).collect();
                let offsets = old.into_iter().map(|(topic, partition)| (topic, partition, None)).collect();
                self.write(records, Then::Offsets { group: id, offsets, answer: None });
            }
        }
    }

    /// From when on a group's offsets age: `Some(None)` is each from its commit on, `None` not at all now.
    fn retained_since(&self, id: &str) -> Option<Option<i64>> {
        let Some(group) = self.groups.get(id) else { return Some(None) };
        match group.state {
            _ if !group.pending.is_empty() => None,
            GroupState::Empty if group.protocol_type.is_some() => Some(Some(group.state_since_ms)),
            GroupState::Empty => Some(None),
            GroupState::Stable => group.subscribed_topics().map(|_| None),
            _ => None,
        }
    }

    /// The offsets of topics that are gone go with them.
    pub fn on_topics_deleted(&mut self, topics: &BTreeMap<String, Uuid>) {
        let mut gone: BTreeMap<String, Vec<(String, i32)>> = BTreeMap::new();
        for (group, offsets) in &self.offsets {
            for (topic, id) in topics {
                let partitions = offsets.0.get(topic).into_iter().flatten().filter(|(_, o)| o.is_of(*id));
                for (partition, _) in partitions {
                    gone.entry(group.clone()).or_default().push((topic.clone(), *partition));
                }
            }
        }
        for (group, partitions) in gone {
            let records = partitions.iter().map(|(t, p)| records::offset_record(&group, t, *p, None)).collect();
            let offsets = partitions.into_iter().map(|(topic, partition)| (topic, partition, None)).collect();
            self.write(records, Then::Offsets { group, offsets, answer: None });
        }
    }

    /// What the members of a group consume, as far as that can be read.
    fn subscribed_topics(&self, id: &str) -> BTreeSet<String> {
        if let Some(group) = self.consumers.get(id) {
            return group.subscribed_topics().into_iter().map(str::to_owned).collect();
        }
        self.groups.get(id).and_then(Group::subscribed_topics).unwrap_or_default()
    }
}

impl Group {
    /// `None` if the members are no consumers, or if it cannot be read what they consume.
    pub(crate) fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL) {
            return None;
        }
        let protocol = self.protocol.clone().unwrap_or_default();
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(&protocol);
            let (_, subscription) = read_subscription(&metadata)?;
            topics.extend(subscription.topics.iter().map(|topic| topic.clone().into_owned()));
        }
        Some(topics)
    }
}

fn committed(p: &OffsetCommitRequestPartition<'_>, topic_id: Uuid, now: Now) -> CommittedOffset {
    CommittedOffset {
        topic_id,
        offset: p.committed_offset,
        leader_epoch: p.committed_leader_epoch,
        metadata: p.committed_metadata.as_deref().unwrap_or_default().to_owned(),
        commit_timestamp: now.wall_ms,
    }
}
