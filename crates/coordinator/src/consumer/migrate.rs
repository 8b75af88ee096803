//! Groups that change their protocol while they have members: a classic group of Java-style consumers becomes a consumer
//! group with the first member that speaks the new protocol, and a classic one again when the last of those has gone.

use std::collections::{BTreeMap, BTreeSet};

use protocol::codec::decode_all;
use protocol::error::ErrorCode;
use protocol::messages::consumer_protocol_assignment::TopicPartition;
use protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use protocol::time::Now;
use protocol::wire::Writer;

use super::changes::{Changes, partitions_of};
use super::group::{About, ClassicAbout, ConsumerGroup, ConsumerMember, Current, MemberState, Owned, Partitions};
use super::heartbeat::{Refusal, refuse};
use crate::facts::Facts;
use crate::group::{Group, GroupState, Member};
use crate::records;
use crate::shard::{GroupShard, Then};

/// The type of a classic group whose members are consumers.
pub(crate) const CONSUMER_PROTOCOL: &str = "consumer";

impl GroupShard {
    /// A classic group with members, as a consumer group; it is not changed by this.
    pub(crate) fn upgraded(
        &self,
        group_id: &str,
        classic: &Group,
        facts: &dyn Facts,
    ) -> Result<ConsumerGroup, Refusal> {
        let cannot = |why: &str| {
            let message = format!("Cannot upgrade classic group {group_id} to consumer group because {why}.");
            tracing::info!(group = group_id, why, "classic group cannot become a consumer group");
            refuse(ErrorCode::GroupIdNotFound, message)
        };
        if !self.config.migration.upgrades() {
            return cannot("online upgrade is disabled");
        }
        if classic.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL) {
            return cannot("the group does not use the consumer embedded protocol");
        }
        if classic.members.len() > self.config.consumer_size_max {
            return cannot("the group size exceeds the consumer group maximum size");
        }
        let mut group = ConsumerGroup::new();
        group.epoch = classic.generation;
        group.assignment_epoch = classic.generation;
        let protocol = classic.protocol.clone().unwrap_or_default();
        for (id, member) in &classic.members {
            let Some((about, assigned)) = read_member(member, &protocol, facts) else {
                return cannot("the embedded consumer protocol is malformed or of a custom assignor");
            };
            let owned = assigned.iter().map(|(topic, partitions)| {
                (*topic, partitions.iter().map(|partition| (*partition, classic.generation)).collect())
            });
            let current = Current {
                epoch: classic.generation,
                previous_epoch: classic.generation,
                state: MemberState::Stable,
                assigned: owned.collect(),
                revoking: Owned::new(),
            };
            group.set_about(id, about);
            group.set_current(id, current);
            group.target.insert(id.clone(), assigned);
            if let Some(new) = group.members.get_mut(id) {
                new.session_end_ms = member.session_end_ms;
            }
        }
        group.metadata_hash = group.present_hash(facts);
        Ok(group)
    }

    /// The classic group is no more; who waits in it is told to join again, and finds the other one.
    pub(crate) fn replace_classic(&mut self, group_id: &str, group: &ConsumerGroup, changes: &mut Changes) {
        let Some(mut classic) = self.remove_classic(group_id) else { return };
        for (id, member) in &mut classic.members {
            if let Some(token) = member.awaiting_join.take() {
                self.refuse_join(token, ErrorCode::RebalanceInProgress, id.clone());
            }
            if let Some(token) = member.awaiting_sync.take() {
                self.refuse_sync(token, ErrorCode::RebalanceInProgress);
            }
        }
        changes.records.push(records::group_record(group_id, None));
        if !group.members.is_empty() {
            tracing::info!(group = group_id, members = group.members.len(), "classic group becomes a consumer group");
            changes.whole(group);
        }
    }

    /// Whether only classic members are left without these.
    pub(crate) fn downgrades_without(&self, group: &ConsumerGroup, leaving: &BTreeSet<String>) -> bool {
        let mut left = group.members.iter().filter(|(id, _)| !leaving.contains(*id)).peekable();
        if left.peek().is_none() || left.any(|(_, member)| member.about.classic.is_none()) {
            return false;
        }
        let count = group.members.len() - leaving.len();
        if !self.config.migration.downgrades() || count > self.config.size_max {
            tracing::info!("consumer group stays one: its members are classic, but it may not become a classic group");
            return false;
        }
        true
    }

    /// Only classic members are left: the group becomes a classic one, and its members join again.
    pub(crate) fn downgrade(
        &mut self,
        group_id: &str,
        group: ConsumerGroup,
        leaving: &BTreeSet<String>,
        facts: &dyn Facts,
        now: Now,
    ) {
        let mut records = self.consumer_tombstones(group_id, &group);
        let classic = self.classic_of(&group, leaving, facts, now);
        records.push(records::group_record(group_id, Some(&classic.to_value(&classic.assignments()))));
        tracing::info!(group = group_id, members = classic.members.len(), "consumer group becomes a classic group");
        self.write(records, Then::Nothing);
        self.put_classic(group_id, classic);
        self.prepare_rebalance(group_id, now);
        self.maybe_complete_join(group_id, now);
    }

    fn classic_of(&self, group: &ConsumerGroup, leaving: &BTreeSet<String>, facts: &dyn Facts, now: Now) -> Group {
        let mut classic = Group::new(now);
        classic.set_state(GroupState::Stable, now);
        classic.protocol_type = Some(CONSUMER_PROTOCOL.to_owned());
        classic.generation = group.epoch;
        for (id, member) in group.members.iter().filter(|(id, _)| !leaving.contains(*id)) {
            let Some(about) = &member.about.classic else { continue };
            classic.add_member(id.clone(), to_classic(member, about));
        }
        classic.protocol = classic.select_protocol();
        let protocol = classic.protocol.clone().unwrap_or_default();
        for (id, member) in &mut classic.members {
            let version = protocol_version(&member.metadata(&protocol));
            let target = group.target.get(id).unwrap_or(&super::heartbeat::NOTHING);
            member.assignment = assignment_bytes(target, version, facts);
        }
        classic
    }
}

fn to_classic(member: &ConsumerMember, about: &ClassicAbout) -> Member {
    Member {
        instance: member.about.instance.clone(),
        client: member.about.client.clone(),
        rebalance_timeout_ms: i64::from(member.about.rebalance_timeout_ms),
        session_timeout_ms: i64::from(about.session_timeout_ms),
        protocols: about.protocols.clone(),
        assignment: Vec::new(),
        awaiting_join: None,
        awaiting_sync: None,
        session_end_ms: member.session_end_ms,
    }
}

/// What a classic consumer says of itself, and its assignment by topic id.
fn read_member(member: &Member, protocol: &str, facts: &dyn Facts) -> Option<(About, Partitions)> {
    // A group that has not completed its first rebalance has not chosen a protocol.
    let chosen = member.protocols.iter().find(|(name, _)| name == protocol).or(member.protocols.first());
    let subscription = chosen.map(|(_, metadata)| metadata.clone()).unwrap_or_default();
    let (_, subscription) = read_subscription(&subscription)?;
    let assigned = match member.assignment.is_empty() {
        true => Partitions::new(),
        false => read_assignment(&member.assignment, facts)?,
    };
    let classic = ClassicAbout {
        session_timeout_ms: i32::try_from(member.session_timeout_ms).unwrap_or(i32::MAX),
        protocols: member.protocols.clone(),
    };
    let about = About {
        instance: member.instance.clone(),
        rack: subscription.rack_id.as_deref().filter(|rack| !rack.is_empty()).map(str::to_owned),
        client: member.client.clone(),
        rebalance_timeout_ms: i32::try_from(member.rebalance_timeout_ms).unwrap_or(i32::MAX),
        topics: subscription.topics.iter().map(|topic| topic.clone().into_owned()).collect(),
        classic: Some(classic),
        ..About::default()
    };
    Some((about, assigned))
}

/// The version that stands in front of an embedded message; a newer one is read as the newest known here.
pub(crate) fn protocol_version(bytes: &[u8]) -> i16 {
    bytes.first_chunk::<2>().map_or(0, |version| i16::from_be_bytes(*version))
}

pub(crate) fn read_subscription(bytes: &[u8]) -> Option<(i16, ConsumerProtocolSubscription<'_>)> {
    let version = i16::from_be_bytes(*bytes.first_chunk::<2>()?);
    let newest = *<ConsumerProtocolSubscription<'_> as protocol::codec::Message>::VERSIONS.end();
    if version < 0 {
        return None;
    }
    let mut reader = protocol::wire::Reader::new(bytes.get(2..)?);
    let read = <ConsumerProtocolSubscription<'_> as protocol::codec::Decode>::decode(&mut reader, version.min(newest));
    Some((version, read.ok()?))
}

/// `None` if it cannot be read, or holds what only its assignor understands and would be lost.
fn read_assignment(bytes: &[u8], facts: &dyn Facts) -> Option<Partitions> {
    let version = i16::from_be_bytes(*bytes.first_chunk::<2>()?);
    let newest = *<ConsumerProtocolAssignment<'_> as protocol::codec::Message>::VERSIONS.end();
    if version < 0 {
        return None;
    }
    let assignment: ConsumerProtocolAssignment<'_> = decode_all(bytes.get(2..)?, version.min(newest)).ok()?;
    if assignment.user_data.as_ref().is_some_and(|data| !data.is_empty()) {
        return None;
    }
    let known = assignment.assigned_partitions.iter().filter_map(|t| Some((facts.topic_id(&t.topic)?, t)));
    Some(partitions_of(known.map(|(id, t)| (id, t.partitions.as_slice()))))
}

/// An assignment as a classic consumer reads it.
pub(crate) fn assignment_bytes(partitions: &Partitions, version: i16, facts: &dyn Facts) -> Vec<u8> {
    let mut by_name: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partitions) in partitions {
        if let Some(name) = facts.topic_name(*topic) {
            by_name.insert(name, partitions.iter().copied().collect());
        }
    }
    let topic = |(name, partitions): (&str, Vec<i32>)| TopicPartition { topic: name.to_owned().into(), partitions };
    let message = ConsumerProtocolAssignment {
        assigned_partitions: by_name.into_iter().map(topic).collect(),
        ..Default::default()
    };
    let newest = *<ConsumerProtocolAssignment<'_> as protocol::codec::Message>::VERSIONS.end();
    let version = version.clamp(0, newest);
    let mut w = Writer::new();
    w.i16(version);
    protocol::codec::Message::encode(&message, &mut w, version);
    w.finish_inline().expect("names of topics and numbers of partitions fit their fields")
}
