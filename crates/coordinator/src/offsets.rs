//! Committed offsets of groups: written, read, deleted, and given up after `offsets.retention.minutes`.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitValue, OffsetDeleteRequest, OffsetDeleteResponse,
};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::group::GroupState;
use crate::records;
use crate::shard::{GroupShard, Response, Then, Token};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_timestamp: i64,
}

impl CommittedOffset {
    pub(crate) fn from_value(value: &OffsetCommitValue<'_>) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.clone().into_owned(),
            commit_timestamp: value.commit_timestamp,
        }
    }

    pub(crate) fn to_value(&self) -> OffsetCommitValue<'static> {
        OffsetCommitValue {
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.metadata.clone().into(),
            commit_timestamp: self.commit_timestamp,
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
        topics: &[OffsetTopic],
        token: Token,
        now: Now,
    ) {
        let group_id = request.group_id.clone().into_owned();
        let refused = self.check_commit(request).err();
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
                    let committed = committed(p, now);
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
        if let Some(group) = self.groups.get_mut(&group_id) {
            // A commit is a sign of life.
            if let Some(member) = group.members.get_mut(request.member_id.as_ref()) {
                member.touch(now);
            }
        }
        self.write(records, Then::Offsets { group: group_id, offsets, answer: Some((token, answer)) });
    }

    /// Who may commit: members of the generation, and anybody for a group without members.
    pub(crate) fn check_commit(&self, request: &OffsetCommitRequest<'_>) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        let Some(group) = self.groups.get(request.group_id.as_ref()) else {
            // A group that exists by its offsets only has no generations.
            return if generation < 0 { Ok(()) } else { Err(ErrorCode::IllegalGeneration) };
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
    pub fn delete_offsets(&mut self, request: &OffsetDeleteRequest<'_>, consumed: &[String], token: Token) {
        let group_id = request.group_id.clone().into_owned();
        if !self.knows(&group_id) {
            let response = OffsetDeleteResponse { error_code: ErrorCode::GroupIdNotFound.into(), ..Default::default() };
            return self.respond(token, Response::OffsetDelete(response));
        }
        let mut records = Vec::new();
        let mut offsets = Vec::new();
        let mut answer = OffsetDeleteResponse::default();
        for topic in &request.topics {
            let name = topic.name.clone().into_owned();
            let code = if consumed.contains(&name) { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
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

    /// Offsets of groups that nobody is in are given up after their time; a group that is left with nothing goes too.
    pub(crate) fn expire_offsets(&mut self, now: Now) {
        let ids: Vec<String> = self.offsets.keys().chain(self.groups.keys()).cloned().collect();
        let mut seen = std::collections::BTreeSet::new();
        for id in ids {
            if !seen.insert(id.clone()) {
                continue;
            }
            let group = self.groups.get(&id);
            if group.is_some_and(|g| g.state != GroupState::Empty || !g.pending.is_empty())
                || self.pending.has_group(&id)
            {
                continue;
            }
            let left_ms = group.map_or(i64::MIN, |g| g.state_since_ms);
            let retention_ms = self.config.retention_ms;
            let is_old = |o: &CommittedOffset| now.wall_ms - o.commit_timestamp.max(left_ms) >= retention_ms;
            let offsets = self.offsets.get(&id);
            let old: Vec<(String, i32)> = offsets
                .into_iter()
                .flat_map(Offsets::iter)
                .filter(|(_, _, o)| is_old(o))
                .map(|(topic, partition, _)| (topic.to_owned(), partition))
                .collect();
            let all = offsets.map_or(0, |o| o.iter().count());
            if old.len() == all && (all > 0 || group.is_some_and(|g| now.wall_ms - g.state_since_ms >= retention_ms)) {
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

    /// The subscriptions of a group's members, raw, for whoever can read them.
    pub fn subscriptions(&self, id: &str) -> Vec<Vec<u8>> {
        let Some(group) = self.groups.get(id).filter(|g| g.protocol_type.as_deref() == Some("consumer")) else {
            return Vec::new();
        };
        let protocol = group.protocol.clone().unwrap_or_default();
        group.members.values().map(|m| m.metadata(&protocol)).collect()
    }
}

fn committed(p: &OffsetCommitRequestPartition<'_>, now: Now) -> CommittedOffset {
    CommittedOffset {
        offset: p.committed_offset,
        leader_epoch: p.committed_leader_epoch,
        metadata: p.committed_metadata.as_deref().unwrap_or_default().to_owned(),
        commit_timestamp: now.wall_ms,
    }
}
