//! ConsumerGroupDescribe: a group as its members and the assignor see it.

use std::collections::BTreeMap;

use protocol::messages::consumer_group_describe_response::{Assignment, DescribedGroup, Member, TopicPartitions};
use protocol::wire::Uuid;

use super::group::ConsumerMember;
use crate::facts::Facts;
use crate::shard::GroupShard;

const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

impl GroupShard {
    /// `None` if there is no such group, or if it is not a consumer group.
    pub fn describe_consumer(&self, id: &str, facts: &dyn Facts) -> Option<DescribedGroup<'static>> {
        let group = self.consumers.get(id)?;
        let default = self.config.default_assignor().name();
        let member = |(member_id, member): (&String, &ConsumerMember)| {
            let target = group.target.get(member_id).into_iter().flatten();
            let target = target.map(|(topic, partitions)| (*topic, partitions.iter().copied()));
            describe_member(member_id, member, assignment(target, facts), facts)
        };
        Some(DescribedGroup {
            group_id: id.to_owned().into(),
            group_state: group.state().name().into(),
            group_epoch: group.epoch,
            assignment_epoch: group.assignment_epoch,
            assignor_name: group.preferred_assignor().unwrap_or(default).to_owned().into(),
            members: group.members.iter().map(member).collect(),
            ..Default::default()
        })
    }
}

fn describe_member(
    id: &str,
    member: &ConsumerMember,
    target: Assignment<'static>,
    facts: &dyn Facts,
) -> Member<'static> {
    let (about, current) = (&member.about, &member.current);
    let owned = current.assigned.iter().chain(&current.revoking);
    Member {
        member_id: id.to_owned().into(),
        instance_id: about.instance.clone().map(Into::into),
        rack_id: about.rack.clone().map(Into::into),
        member_epoch: current.epoch,
        client_id: about.client.client_id.clone().into(),
        client_host: about.client.client_host.clone().into(),
        subscribed_topic_names: about.topics.iter().map(|topic| topic.clone().into()).collect(),
        subscribed_topic_regex: Some(about.regex.clone().into()),
        assignment: assignment(owned.map(|(topic, partitions)| (*topic, partitions.keys().copied())), facts),
        target_assignment: target,
        member_type: if about.classic.is_some() { CLASSIC_MEMBER } else { CONSUMER_MEMBER },
        ..Default::default()
    }
}

/// Topics that are gone are left out: nobody could name them.
fn assignment<I: Iterator<Item = i32>>(
    topics: impl Iterator<Item = (Uuid, I)>,
    facts: &dyn Facts,
) -> Assignment<'static> {
    let mut listed: BTreeMap<Uuid, TopicPartitions<'static>> = BTreeMap::new();
    for (topic_id, partitions) in topics {
        let Some(name) = facts.topic_name(topic_id) else { continue };
        let topic_name = name.to_owned().into();
        let topic = listed.entry(topic_id).or_insert(TopicPartitions { topic_id, topic_name, ..Default::default() });
        topic.partitions.extend(partitions);
    }
    Assignment { topic_partitions: listed.into_values().collect(), ..Default::default() }
}
