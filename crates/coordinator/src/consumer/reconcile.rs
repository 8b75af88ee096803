//! A member's next step from what it owns towards what it shall own (`CurrentAssignmentBuilder`).

use std::collections::{BTreeMap, BTreeSet};

use protocol::wire::Uuid;

use super::group::{ConsumerGroup, Current, MemberState, Owned, Partitions};
use crate::facts::Facts;

/// What a step depends on besides the member.
pub(crate) struct Step<'a> {
    pub group: &'a ConsumerGroup,
    pub member_id: &'a str,
    pub target_epoch: i32,
    pub target: &'a Partitions,
    pub subscription_changed: bool,
    /// What the member says it owns, if it says so.
    pub owned: Option<&'a Partitions>,
    pub facts: &'a dyn Facts,
    /// See [`crate::GroupMutations`].
    pub share_partitions: bool,
}

impl Step<'_> {
    /// `None` if nothing changes.
    pub fn next(&self) -> Option<Current> {
        let member = self.group.members.get(self.member_id)?;
        let current = &member.current;
        if !self.subscription_changed && current.is_reconciled_to(self.target_epoch) {
            return None;
        }
        let next = match current.state {
            MemberState::Stable if current.epoch != self.target_epoch => self.advance(current, current.epoch),
            MemberState::Stable if self.subscription_changed => self.drop_unsubscribed(current)?,
            MemberState::Stable => return None,
            MemberState::UnrevokedPartitions if self.still_owns(&current.revoking) => {
                if !self.subscription_changed {
                    return None;
                }
                self.drop_unsubscribed(current)?
            }
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                self.advance(current, current.epoch)
            }
            // The caller has made sure that such a member owns nothing.
            MemberState::Unknown => self.advance(current, self.target_epoch),
        };
        (next != *current).then_some(next)
    }

    fn wants(&self, topic: Uuid) -> bool {
        let Some(member) = self.group.members.get(self.member_id) else { return false };
        self.facts.topic_name(topic).is_some_and(|name| self.group.subscribes(&member.about, name))
    }

    /// A member that does not say what it owns may own all of it.
    fn still_owns(&self, partitions: &Owned) -> bool {
        let Some(owned) = self.owned else { return true };
        owned.iter().any(|(topic, owned)| {
            partitions.get(topic).is_some_and(|partitions| owned.iter().any(|p| partitions.contains_key(p)))
        })
    }

    /// What the member no longer subscribes to goes at once; the assignment will follow.
    fn drop_unsubscribed(&self, current: &Current) -> Option<Current> {
        let mut next = current.clone();
        let gone: Vec<Uuid> = current.assigned.keys().copied().filter(|topic| !self.wants(*topic)).collect();
        if gone.is_empty() {
            return None;
        }
        for topic in gone {
            let partitions = next.assigned.remove(&topic).unwrap_or_default();
            next.revoking.entry(topic).or_default().extend(partitions);
        }
        next.previous_epoch = next.epoch;
        if self.still_owns(&next.revoking) {
            next.state = MemberState::UnrevokedPartitions;
        } else {
            next.revoking = current.revoking.clone();
        }
        Some(next)
    }

    fn advance(&self, current: &Current, epoch: i32) -> Current {
        let mut assigned = Owned::new();
        let mut revoking = Owned::new();
        let mut free: Vec<(Uuid, i32)> = Vec::new();
        let mut waits = false;
        let topics: BTreeSet<Uuid> = self.target.keys().chain(current.assigned.keys()).copied().collect();
        for topic in topics {
            let none = BTreeMap::new();
            let owned = current.assigned.get(&topic).unwrap_or(&none);
            let target = self.target.get(&topic).filter(|_| self.wants(topic));
            for (partition, since) in owned {
                let keeps = target.is_some_and(|target| target.contains(partition));
                let side = if keeps { &mut assigned } else { &mut revoking };
                side.entry(topic).or_default().insert(*partition, *since);
            }
            for partition in target.into_iter().flatten().filter(|p| !owned.contains_key(p)) {
                match self.group.owner(topic, *partition) {
                    Some(owner) if owner != self.member_id && !self.share_partitions => waits = true,
                    _ => free.push((topic, *partition)),
                }
            }
        }
        if !revoking.is_empty() && self.still_owns(&revoking) {
            // First it gives up, and stays in its epoch until it has.
            let state = MemberState::UnrevokedPartitions;
            return Current { epoch, previous_epoch: current.epoch, state, assigned, revoking };
        }
        for (topic, partition) in free {
            assigned.entry(topic).or_default().insert(partition, self.target_epoch);
        }
        let state = if waits { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        Current { epoch: self.target_epoch, previous_epoch: current.epoch, state, assigned, revoking: Owned::new() }
    }
}
