//! What earlier coordinators wrote of a group, read back.

use std::collections::BTreeMap;

use protocol::messages::consumer_group_current_member_assignment_value::TopicPartitions;
use protocol::messages::*;
use protocol::time::Now;

use super::changes::{Change, partitions_of};
use super::group::{About, ClassicAbout, ConsumerGroup, Current, MemberState, Owned, Resolved};
use crate::facts::Facts;
use crate::group::ClientInfo;
use crate::shard::GroupShard;

impl GroupShard {
    pub(crate) fn replay_consumer(&mut self, group_id: &str, change: Change) {
        let deletes = match &change {
            Change::Group(value) => value.is_none(),
            Change::OldMetadata(there) => !there,
            Change::About(_, value) => value.is_none(),
            Change::Assignment(value) => value.is_none(),
            Change::Target(_, value) => value.is_none(),
            Change::Current(_, value) => value.is_none(),
            Change::Regex(_, value) => value.is_none(),
        };
        if deletes && !self.consumers.contains_key(group_id) {
            return;
        }
        if change == Change::Group(None) {
            self.consumers.remove(group_id);
            return;
        }
        // A group is of one kind; the tombstone of the other was compacted away.
        self.groups.remove(group_id);
        self.consumers.entry(group_id.to_owned()).or_insert_with(ConsumerGroup::new).apply(change);
    }

    /// All is read: members get a whole session to come to this coordinator.
    pub(crate) fn consumers_loaded(&mut self, facts: &dyn Facts, now: Now) {
        let mut wakes = Vec::new();
        for (id, group) in &mut self.consumers {
            let session_timeout_ms = facts.group_settings(id).session_timeout_ms;
            // A log that ends between the tombstones of a member and its group leaves targets of nobody.
            let members = &group.members;
            group.target.retain(|id, _| members.contains_key(id));
            group.assignment_epoch = group.assignment_epoch.min(group.epoch);
            group.drop_disputed();
            for member in group.members.values_mut() {
                let classic = member.about.classic.as_ref().map(|classic| i64::from(classic.session_timeout_ms));
                member.session_end_ms = now.mono_ms + classic.unwrap_or(session_timeout_ms);
                let waits = member.current.state == MemberState::UnrevokedPartitions && classic.is_none();
                let until = now.mono_ms + i64::from(member.about.rebalance_timeout_ms.max(0));
                member.revoke_until = waits.then_some((until, member.current.epoch));
            }
            wakes.push((id.clone(), group.next_deadline()));
        }
        for (id, at_ms) in wakes {
            self.arm_consumer(&id, at_ms);
        }
    }
}

pub(crate) fn about_of(value: &ConsumerGroupMemberMetadataValue<'_>) -> About {
    About {
        instance: value.instance_id.as_ref().map(|id| id.clone().into_owned()),
        rack: value.rack_id.as_ref().map(|id| id.clone().into_owned()),
        client: ClientInfo {
            client_id: value.client_id.clone().into_owned(),
            client_host: value.client_host.clone().into_owned(),
        },
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        topics: value.subscribed_topic_names.iter().map(|topic| topic.clone().into_owned()).collect(),
        regex: value.subscribed_topic_regex.clone().unwrap_or_default().into_owned(),
        assignor: value.server_assignor.as_ref().map(|name| name.clone().into_owned()),
        classic: value.classic_member_metadata.as_ref().map(|classic| ClassicAbout {
            session_timeout_ms: classic.session_timeout_ms,
            protocols: classic
                .supported_protocols
                .iter()
                .map(|p| (p.name.clone().into_owned(), p.metadata.to_vec()))
                .collect(),
        }),
    }
}

pub(crate) fn current_of(value: &ConsumerGroupCurrentMemberAssignmentValue) -> Current {
    let owned = |listed: &[TopicPartitions]| {
        let mut owned = Owned::new();
        for topic in listed {
            // Coordinators before 4.3 wrote no epochs.
            let epochs = topic.assignment_epochs.as_ref().filter(|epochs| epochs.len() == topic.partitions.len());
            let partitions: &mut BTreeMap<i32, i32> = owned.entry(topic.topic_id).or_default();
            for (at, partition) in topic.partitions.iter().enumerate() {
                let epoch = epochs.and_then(|epochs| epochs.get(at)).copied();
                partitions.insert(*partition, epoch.unwrap_or(value.member_epoch.max(0)));
            }
        }
        owned
    };
    Current {
        epoch: value.member_epoch,
        previous_epoch: value.previous_member_epoch,
        state: MemberState::from_i8(value.state),
        assigned: owned(&value.assigned_partitions),
        revoking: owned(&value.partitions_pending_revocation),
    }
}

pub(crate) fn target_of(value: &ConsumerGroupTargetAssignmentMemberValue) -> super::group::Partitions {
    partitions_of(value.topic_partitions.iter().map(|t| (t.topic_id, t.partitions.as_slice())))
}

pub(crate) fn resolved_of(value: &ConsumerGroupRegularExpressionValue<'_>) -> Resolved {
    Resolved {
        topics: value.topics.iter().map(|topic| topic.clone().into_owned()).collect(),
        version: value.version,
        resolved_at_ms: value.timestamp,
    }
}
