//! Members that go: they say so, or nothing is heard of them, or they do not give up what they must.

use std::collections::BTreeSet;

use protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use protocol::time::Now;

use super::changes::{Change, Changes};
use super::group::{ConsumerGroup, Current, Owned, STATIC_LEAVE_EPOCH};
use super::heartbeat::{Refusal, refuse};
use crate::facts::Facts;
use crate::shard::{GroupShard, Then};
use protocol::error::ErrorCode;

impl GroupShard {
    /// A heartbeat with the epoch -1, or -2 of a static member that will be back.
    pub(crate) fn consumer_leave(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        facts: &dyn Facts,
        now: Now,
    ) -> Result<ConsumerGroupHeartbeatResponse<'static>, Refusal> {
        let group_id = request.group_id.as_ref();
        let Some(group) = self.consumers.get(group_id) else {
            let message = match self.groups.contains_key(group_id) {
                true => format!("Group {group_id} is not a consumer group."),
                false => format!("Group {group_id} not found."),
            };
            return refuse(ErrorCode::GroupIdNotFound, message);
        };
        let id = request.member_id.as_ref();
        match request.instance_id.as_deref() {
            None if !group.members.contains_key(id) => {
                let message = format!("Member {id} is not a member of group {group_id}.");
                return refuse(ErrorCode::UnknownMemberId, message);
            }
            None => {}
            Some(instance) => match group.static_member(instance) {
                None => {
                    return refuse(ErrorCode::UnknownMemberId, format!("Instance id {instance} is unknown."));
                }
                Some((known, _)) if known != id => {
                    let message =
                        format!("Static member {id} with instance id {instance} was fenced by member {known}.");
                    return refuse(ErrorCode::FencedInstanceId, message);
                }
                Some(_) => {}
            },
        }
        let response = ConsumerGroupHeartbeatResponse {
            member_id: Some(id.to_owned().into()),
            member_epoch: request.member_epoch,
            ..Default::default()
        };
        if request.instance_id.is_some() && request.member_epoch == STATIC_LEAVE_EPOCH {
            tracing::info!(group = group_id, member = id, "static member leaves for a while");
            self.set_aside(group_id, id);
        } else {
            tracing::info!(group = group_id, member = id, "member leaves");
            self.fence_members(group_id, &BTreeSet::from([id.to_owned()]), facts, now);
        }
        Ok(response)
    }

    /// The member's partitions stay its own until its session ends.
    fn set_aside(&mut self, group_id: &str, id: &str) {
        let Some(group) = self.consumers.get_mut(group_id) else { return };
        let Some(member) = group.members.get_mut(id) else { return };
        member.revoke_until = None;
        let mut assigned = member.current.assigned.clone();
        assigned.values_mut().flat_map(|partitions| partitions.values_mut()).for_each(|epoch| *epoch = 0);
        let current = Current { epoch: STATIC_LEAVE_EPOCH, assigned, revoking: Owned::new(), ..member.current.clone() };
        let mut changes = Changes::new(group_id);
        changes.make(group, Change::Current(id.to_owned(), Some(current)));
        self.write(changes.records, Then::Nothing);
    }

    /// Removes members. What is left is assigned anew, or becomes a classic group if only such members are left.
    pub(crate) fn fence_members(&mut self, group_id: &str, ids: &BTreeSet<String>, facts: &dyn Facts, now: Now) {
        let Some(mut group) = self.consumers.remove(group_id) else { return };
        if self.downgrades_without(&group, ids) {
            return self.downgrade(group_id, group, ids, facts, now);
        }
        let mut changes = Changes::new(group_id);
        for id in ids {
            changes.drop_member(&mut group, id);
        }
        let unused: Vec<String> = group.regexes.keys().filter(|regex| !group.uses_regex(regex)).cloned().collect();
        for regex in unused {
            changes.make(&mut group, Change::Regex(regex, None));
        }
        let epoch = group.epoch.saturating_add(1);
        let hash = group.present_hash(facts);
        changes.make(&mut group, Change::Group(Some((epoch, hash))));
        group.topics_seen = Some(self.topics_version);
        tracing::info!(group = group_id, epoch, members = group.members.len(), "group epoch is bumped");
        let at_ms = group.next_deadline();
        self.put_consumer(group_id, group, at_ms, changes);
    }

    /// Fences whoever is overdue, and looks again when the next one could be.
    pub(crate) fn expire_consumers(&mut self, group_id: &str, facts: &dyn Facts, now: Now) {
        let Some(group) = self.consumers.get_mut(group_id) else { return };
        group.wake_ms = i64::MAX;
        let mut fenced = BTreeSet::new();
        for (id, member) in group.members.iter_mut().filter(|(_, member)| member.is_overdue(now)) {
            let is_past = |until_ms: Option<i64>| until_ms.is_some_and(|until_ms| until_ms <= now.mono_ms);
            let reason = if member.session_end_ms <= now.mono_ms {
                "its session ended without a heartbeat"
            } else if is_past(member.join_until_ms) {
                "it did not join again in time"
            } else if is_past(member.sync_until_ms) {
                "it did not ask for its assignment in time"
            } else if member.revoke_until.is_some_and(|(_, epoch)| epoch != member.current.epoch) {
                member.revoke_until = None;
                continue;
            } else {
                "it did not give up its partitions in time"
            };
            tracing::info!(group = group_id, member = %id, reason, "member is fenced");
            fenced.insert(id.clone());
        }
        if fenced.is_empty() {
            let at_ms = group.next_deadline();
            return self.arm_consumer(group_id, at_ms);
        }
        self.fence_members(group_id, &fenced, facts, now);
    }

    /// The group is looked at no later than this.
    pub(crate) fn arm_consumer(&mut self, group_id: &str, at_ms: i64) {
        let Some(group) = self.consumers.get_mut(group_id) else { return };
        if at_ms < group.wake_ms {
            self.wakes.remove(&(group.wake_ms, group_id.to_owned()));
            group.wake_ms = at_ms;
            self.wakes.insert((at_ms, group_id.to_owned()));
        }
    }

    /// Deletes an empty consumer group to make place for another; nothing of it is left but its offsets.
    pub(crate) fn drop_empty_consumer(&mut self, group_id: &str) {
        if self.consumers.get(group_id).is_some_and(|group| group.members.is_empty()) {
            if let Some(group) = self.consumers.remove(group_id) {
                let records = self.consumer_tombstones(group_id, &group);
                self.write(records, Then::Nothing);
            }
        }
    }

    pub(crate) fn consumer_tombstones(&self, group_id: &str, group: &ConsumerGroup) -> Vec<crate::records::Record> {
        let mut changes = Changes::new(group_id);
        changes.tombstones(group);
        changes.records
    }
}
