//! One group of the consumer protocol: its members, who owns which partition, who shall own which.

use std::collections::{BTreeMap, BTreeSet};

use protocol::time::Now;
use protocol::wire::Uuid;

use crate::facts::{Facts, metadata_hash};
use crate::group::ClientInfo;

/// Partitions by topic.
pub type Partitions = BTreeMap<Uuid, BTreeSet<i32>>;
/// Partitions by topic, each with the epoch in which its owner got it.
pub(crate) type Owned = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// The epoch of a static member that will be back.
pub(crate) const STATIC_LEAVE_EPOCH: i32 = -2;
/// The epoch of a member that is going.
pub(crate) const LEAVE_EPOCH: i32 = -1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerGroupState {
    Empty,
    Assigning,
    Reconciling,
    Stable,
}

impl ConsumerGroupState {
    /// As ListGroups and ConsumerGroupDescribe say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MemberState {
    #[default]
    Stable,
    /// It has been told to give up partitions and has not confirmed that it did.
    UnrevokedPartitions,
    /// Some of its partitions still belong to others.
    UnreleasedPartitions,
    /// Written by a newer coordinator; only a member that owns nothing can go on from here.
    Unknown,
}

impl MemberState {
    pub fn to_i8(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown => 127,
        }
    }

    pub fn from_i8(value: i8) -> Self {
        match value {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }
}

/// What a member said of itself; one record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct About {
    pub instance: Option<String>,
    pub rack: Option<String>,
    pub client: ClientInfo,
    pub rebalance_timeout_ms: i32,
    pub topics: BTreeSet<String>,
    /// Empty if there is none.
    pub regex: String,
    pub assignor: Option<String>,
    /// Of a member that speaks the classic protocol.
    pub classic: Option<ClassicAbout>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClassicAbout {
    pub session_timeout_ms: i32,
    /// Preferred first.
    pub protocols: Vec<(String, Vec<u8>)>,
}

/// How far a member has followed, and what it owns; one record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Current {
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: Owned,
    pub revoking: Owned,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            assigned: Owned::new(),
            revoking: Owned::new(),
        }
    }
}

impl Current {
    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == epoch
    }

    /// The epoch in which the member got a partition that it still has.
    pub fn epoch_of(&self, topic: Uuid, partition: i32) -> Option<i32> {
        let of = |owned: &Owned| owned.get(&topic).and_then(|partitions| partitions.get(&partition)).copied();
        of(&self.assigned).or_else(|| of(&self.revoking))
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ConsumerMember {
    pub about: About,
    pub current: Current,
    pub session_end_ms: i64,
    /// Until when partitions must have been given up, and the epoch that this is about.
    pub revoke_until: Option<(i64, i32)>,
    /// Until when a classic member must have joined again, or asked for its assignment.
    pub join_until_ms: Option<i64>,
    pub sync_until_ms: Option<i64>,
}

impl ConsumerMember {
    pub fn deadline(&self) -> i64 {
        let revoke = self.revoke_until.map(|(at, _)| at);
        let others = [revoke, self.join_until_ms, self.sync_until_ms].into_iter().flatten();
        others.fold(self.session_end_ms, i64::min)
    }

    pub fn is_overdue(&self, now: Now) -> bool {
        self.deadline() <= now.mono_ms
    }
}

/// What a regular expression stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resolved {
    pub topics: BTreeSet<String>,
    /// The version of the metadata that it was resolved against.
    pub version: i64,
    pub resolved_at_ms: i64,
}

/// Invariants: a partition is in the `assigned` or `revoking` of one member at most, and `owners` says of which; the
/// assignment epoch is not larger than the group's; static members are members; there is a target for members only.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerGroup {
    pub epoch: i32,
    pub metadata_hash: i64,
    /// There is a PartitionMetadata record, of a coordinator before 4.1.
    pub has_old_metadata: bool,
    pub assignment_epoch: i32,
    /// 0: never; the next assignment need not wait.
    pub assigned_at_ms: i64,
    pub members: BTreeMap<String, ConsumerMember>,
    pub target: BTreeMap<String, Partitions>,
    /// Instance id → member id.
    pub static_members: BTreeMap<String, String>,
    pub regexes: BTreeMap<String, Resolved>,
    owners: BTreeMap<Uuid, BTreeMap<i32, String>>,
    /// The version of the topics that the metadata hash was last compared with.
    pub topics_seen: Option<u64>,
    /// When the group is looked at by [`crate::GroupShard::tick`]; not later than any member's deadline.
    pub wake_ms: i64,
}

impl ConsumerGroup {
    pub fn new() -> Self {
        Self {
            epoch: 1,
            metadata_hash: 0,
            has_old_metadata: false,
            assignment_epoch: 1,
            assigned_at_ms: 0,
            members: BTreeMap::new(),
            target: BTreeMap::new(),
            static_members: BTreeMap::new(),
            regexes: BTreeMap::new(),
            owners: BTreeMap::new(),
            topics_seen: None,
            wake_ms: i64::MAX,
        }
    }

    pub fn state(&self) -> ConsumerGroupState {
        if self.members.is_empty() {
            ConsumerGroupState::Empty
        } else if self.epoch > self.assignment_epoch {
            ConsumerGroupState::Assigning
        } else if self.members.values().all(|m| m.current.is_reconciled_to(self.assignment_epoch)) {
            ConsumerGroupState::Stable
        } else {
            ConsumerGroupState::Reconciling
        }
    }

    pub fn owner(&self, topic: Uuid, partition: i32) -> Option<&str> {
        self.owners.get(&topic)?.get(&partition).map(String::as_str)
    }

    pub fn set_about(&mut self, id: &str, about: About) {
        if let Some(instance) = &about.instance {
            self.static_members.insert(instance.clone(), id.to_owned());
        }
        self.members.entry(id.to_owned()).or_default().about = about;
    }

    pub fn set_current(&mut self, id: &str, current: Current) {
        let member = self.members.entry(id.to_owned()).or_default();
        let before = std::mem::replace(&mut member.current, current);
        for (topic, partitions) in before.assigned.iter().chain(&before.revoking) {
            self.disown(id, *topic, partitions);
        }
        let Some(member) = self.members.get(id) else { return };
        for (topic, partitions) in member.current.assigned.iter().chain(&member.current.revoking) {
            let owners = self.owners.entry(*topic).or_default();
            for partition in partitions.keys() {
                owners.insert(*partition, id.to_owned());
            }
        }
    }

    /// Takes from the owners what belongs to this member.
    fn disown(&mut self, id: &str, topic: Uuid, partitions: &BTreeMap<i32, i32>) {
        let Some(owners) = self.owners.get_mut(&topic) else { return };
        for partition in partitions.keys() {
            if owners.get(partition).is_some_and(|owner| owner == id) {
                owners.remove(partition);
            }
        }
        if owners.is_empty() {
            self.owners.remove(&topic);
        }
    }

    /// The records may be another program's, and say that a partition has two owners: it is the last one's.
    pub fn drop_disputed(&mut self) {
        let owners = &self.owners;
        let is_of = |id: &str, topic: &Uuid, partition: &i32| {
            let owner = owners.get(topic).and_then(|partitions| partitions.get(partition));
            owner.is_some_and(|owner| owner == id)
        };
        for (id, member) in &mut self.members {
            let current = &mut member.current;
            for owned in [&mut current.assigned, &mut current.revoking] {
                owned.retain(|topic, partitions| {
                    partitions.retain(|partition, _| is_of(id, topic, partition));
                    !partitions.is_empty()
                });
            }
            // Named on both sides, it is to be given up.
            let revoking = &current.revoking;
            current.assigned.retain(|topic, partitions| {
                let given_up = revoking.get(topic);
                partitions.retain(|partition, _| !given_up.is_some_and(|given_up| given_up.contains_key(partition)));
                !partitions.is_empty()
            });
        }
    }

    pub fn remove_member(&mut self, id: &str) {
        self.set_current(id, Current::default());
        if let Some(member) = self.members.remove(id) {
            if let Some(instance) = member.about.instance {
                if self.static_members.get(&instance).is_some_and(|known| known == id) {
                    self.static_members.remove(&instance);
                }
            }
        }
    }

    pub fn static_member(&self, instance: &str) -> Option<(&str, &ConsumerMember)> {
        let id = self.static_members.get(instance)?;
        Some((id, self.members.get(id)?))
    }

    /// The topics that a member wants, by name or by regular expression.
    pub fn topics_of<'a>(&'a self, about: &'a About) -> impl Iterator<Item = &'a str> {
        let matched = self.regexes.get(&about.regex).into_iter().flat_map(|resolved| &resolved.topics);
        about.topics.iter().chain(matched).map(String::as_str)
    }

    pub fn subscribes(&self, about: &About, topic: &str) -> bool {
        about.topics.contains(topic) || self.regexes.get(&about.regex).is_some_and(|r| r.topics.contains(topic))
    }

    /// Every topic that some member wants.
    pub fn subscribed_topics(&self) -> BTreeSet<&str> {
        self.members.values().flat_map(|member| self.topics_of(&member.about)).collect()
    }

    pub fn present_hash(&self, facts: &dyn Facts) -> i64 {
        metadata_hash(&self.subscribed_topics(), facts)
    }

    pub fn uses_regex(&self, regex: &str) -> bool {
        self.members.values().any(|member| member.about.regex == regex)
    }

    /// The assignor that most members ask for.
    pub fn preferred_assignor(&self) -> Option<&str> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for assignor in self.members.values().filter_map(|member| member.about.assignor.as_deref()) {
            *votes.entry(assignor).or_default() += 1;
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name)
    }

    pub fn next_deadline(&self) -> i64 {
        self.members.values().map(ConsumerMember::deadline).min().unwrap_or(i64::MAX)
    }

    pub fn check(&self) {
        let mut owned = 0;
        for (id, member) in &self.members {
            for (topic, partitions) in member.current.assigned.iter().chain(&member.current.revoking) {
                owned += partitions.len();
                for partition in partitions.keys() {
                    assert_eq!(self.owner(*topic, *partition), Some(id.as_str()), "a partition with two owners");
                }
            }
            assert!(self.wake_ms <= member.deadline(), "nobody would notice that {id} is gone");
        }
        assert_eq!(owned, self.owners.values().map(BTreeMap::len).sum::<usize>(), "an owner that does not know");
        assert!(self.assignment_epoch <= self.epoch, "an assignment of an epoch to come");
        for (instance, id) in &self.static_members {
            let member = self.members.get(id).expect("a static member is a member");
            assert_eq!(member.about.instance.as_ref(), Some(instance));
        }
        assert!(self.target.keys().all(|id| self.members.contains_key(id)), "a target for nobody");
    }
}
