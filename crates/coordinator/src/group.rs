//! One group of the classic protocol: its members, its generation, its state.

use std::collections::BTreeMap;

use protocol::messages::GroupMetadataValue;
use protocol::messages::group_metadata_value::MemberMetadata;
use protocol::time::Now;

use crate::shard::Token;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl GroupState {
    /// As ListGroups and DescribeGroups say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// Who sent a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    pub client_id: String,
    /// As Kafka shows it, with a leading slash.
    pub client_host: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub instance: Option<String>,
    pub client: ClientInfo,
    pub rebalance_timeout_ms: i64,
    pub session_timeout_ms: i64,
    /// Preferred first.
    pub protocols: Vec<(String, Vec<u8>)>,
    pub assignment: Vec<u8>,
    pub awaiting_join: Option<Token>,
    pub awaiting_sync: Option<Token>,
    pub session_end_ms: i64,
}

impl Member {
    pub fn metadata(&self, protocol: &str) -> Vec<u8> {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, data)| data.clone()).unwrap_or_default()
    }

    /// A member whose answer the coordinator owes cannot send heartbeats.
    pub fn is_waiting(&self) -> bool {
        self.awaiting_join.is_some() || self.awaiting_sync.is_some()
    }

    pub fn touch(&mut self, now: Now) {
        self.session_end_ms = now.mono_ms + self.session_timeout_ms;
    }
}

/// Invariants: a group with members has a leader among them, once a generation was completed; static members are
/// members; in `Empty` there are no members, in `Stable` every member has its assignment.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub state: GroupState,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub generation: i32,
    pub leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Instance id → member id (KIP-345).
    pub static_members: BTreeMap<String, String>,
    /// Members that were given an id and have not come back with it yet, and until when they may (KIP-394).
    pub pending: BTreeMap<String, i64>,
    /// End of the phase that is under way: of joining, or of synchronizing.
    pub phase_end_ms: i64,
    /// While an empty group gathers members: until when at the latest.
    pub initial_until_ms: Option<i64>,
    pub joined_since: bool,
    /// The assignment of this generation is being written.
    pub is_writing: bool,
    pub state_since_ms: i64,
    /// How many members know a protocol.
    protocol_counts: BTreeMap<String, usize>,
    /// How many members wait for the answer to their JoinGroup.
    joined: usize,
    /// When the group is looked at by [`crate::GroupShard::tick`]; not later than any of its deadlines.
    pub wake_ms: i64,
}

impl Group {
    pub fn new(now: Now) -> Self {
        Self {
            state: GroupState::Empty,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            phase_end_ms: i64::MAX,
            initial_until_ms: None,
            joined_since: false,
            is_writing: false,
            state_since_ms: now.wall_ms,
            protocol_counts: BTreeMap::new(),
            joined: 0,
            wake_ms: i64::MAX,
        }
    }

    pub fn set_state(&mut self, state: GroupState, now: Now) {
        self.state = state;
        self.state_since_ms = now.wall_ms;
    }

    pub fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0)
    }

    pub fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.joined == self.members.len()
    }

    fn known_by_all(&self, protocol: &str) -> bool {
        self.protocol_counts.get(protocol) == Some(&self.members.len())
    }

    /// Whether every member knows at least one of these protocols in common with the newcomer.
    pub fn supports(&self, protocol_type: &str, protocols: &[(String, Vec<u8>)]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let same_type = self.protocol_type.as_deref() == Some(protocol_type);
        same_type && protocols.iter().any(|(name, _)| self.known_by_all(name))
    }

    /// The protocol most members prefer among those that all know.
    pub fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| self.known_by_all(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    fn count(&mut self, protocols: &[(String, Vec<u8>)], is_added: bool) {
        let mut names: Vec<&String> = protocols.iter().map(|(name, _)| name).collect();
        // A protocol that a member names twice is known to one member.
        names.sort_unstable();
        names.dedup();
        for name in names {
            if is_added {
                *self.protocol_counts.entry(name.clone()).or_default() += 1;
            } else if let Some(count) = self.protocol_counts.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.protocol_counts.remove(name);
                }
            }
        }
    }

    /// Adds a member, or puts a new description in the place of the old one.
    pub fn add_member(&mut self, id: String, member: Member) -> Option<Member> {
        if let Some(instance) = &member.instance {
            self.static_members.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.joined += usize::from(member.awaiting_join.is_some());
        self.count(&member.protocols, true);
        let before = self.members.insert(id, member);
        if let Some(before) = &before {
            self.joined -= usize::from(before.awaiting_join.is_some());
            self.count(&before.protocols, false);
        }
        before
    }

    /// A member waits for the next generation; false if there is no such member.
    pub fn await_join(&mut self, id: &str, token: Token) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        self.joined += usize::from(member.awaiting_join.replace(token).is_none());
        true
    }

    /// The members that wait for this generation, with what they wait for.
    pub fn take_joins(&mut self, now: Now) -> Vec<(String, Token)> {
        self.joined = 0;
        let waiting = self.members.iter_mut().filter_map(|(id, member)| {
            member.touch(now);
            Some((id.clone(), member.awaiting_join.take()?))
        });
        waiting.collect()
    }

    pub fn assignments(&self) -> BTreeMap<String, Vec<u8>> {
        self.members.iter().map(|(id, member)| (id.clone(), member.assignment.clone())).collect()
    }

    pub fn remove_member(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.joined -= usize::from(member.awaiting_join.is_some());
        self.count(&member.protocols, false);
        if let Some(instance) = &member.instance {
            if self.static_members.get(instance).map(String::as_str) == Some(id) {
                self.static_members.remove(instance);
            }
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// The record that describes the group; assignments may be those of a generation about to begin.
    pub fn to_value(&self, assignments: &BTreeMap<String, Vec<u8>>) -> GroupMetadataValue<'static> {
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = self.members.iter().map(|(id, m)| MemberMetadata {
            member_id: id.clone().into(),
            group_instance_id: m.instance.clone().map(Into::into),
            client_id: m.client.client_id.clone().into(),
            client_host: m.client.client_host.clone().into(),
            rebalance_timeout: i32::try_from(m.rebalance_timeout_ms).unwrap_or(i32::MAX),
            session_timeout: i32::try_from(m.session_timeout_ms).unwrap_or(i32::MAX),
            subscription: m.metadata(&protocol).into(),
            assignment: assignments.get(id).cloned().unwrap_or_default().into(),
            ..Default::default()
        });
        GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default().into(),
            generation: self.generation,
            protocol: self.protocol.clone().map(Into::into),
            leader: self.leader.clone().map(Into::into),
            current_state_timestamp: self.state_since_ms,
            members: members.collect(),
            ..Default::default()
        }
    }

    /// The group as the last coordinator left it; its members get a whole session to come to this one.
    pub fn from_value(value: &GroupMetadataValue<'_>, now: Now) -> Self {
        let mut group = Group::new(now);
        group.protocol_type = Some(value.protocol_type.clone().into_owned()).filter(|t| !t.is_empty());
        group.protocol = value.protocol.as_ref().map(|p| p.clone().into_owned());
        group.generation = value.generation;
        group.state_since_ms = value.current_state_timestamp;
        let protocol = group.protocol.clone().unwrap_or_default();
        for m in &value.members {
            let mut member = Member {
                instance: m.group_instance_id.as_ref().map(|i| i.clone().into_owned()),
                client: ClientInfo {
                    client_id: m.client_id.clone().into_owned(),
                    client_host: m.client_host.clone().into_owned(),
                },
                rebalance_timeout_ms: i64::from(if m.rebalance_timeout < 0 {
                    m.session_timeout
                } else {
                    m.rebalance_timeout
                }),
                session_timeout_ms: i64::from(m.session_timeout),
                protocols: vec![(protocol.clone(), m.subscription.to_vec())],
                assignment: m.assignment.to_vec(),
                awaiting_join: None,
                awaiting_sync: None,
                session_end_ms: 0,
            };
            member.touch(now);
            group.add_member(m.member_id.clone().into_owned(), member);
        }
        // The record is another program's: it may name a leader who is not among the members, or an instance twice.
        let leader = value.leader.as_ref().map(|l| l.clone().into_owned());
        group.leader = leader.filter(|leader| group.members.contains_key(leader)).or(group.leader);
        let instances = group.members.iter().filter_map(|(id, m)| Some((m.instance.clone()?, id.clone())));
        group.static_members = instances.collect();
        group.state = if group.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        group
    }

    pub fn next_deadline(&self) -> i64 {
        let sessions = self.members.values().filter(|m| !m.is_waiting()).map(|m| m.session_end_ms);
        sessions.chain(self.pending.values().copied()).min().unwrap_or(i64::MAX).min(self.phase_end_ms)
    }

    pub fn check(&self) {
        assert!(self.wake_ms <= self.next_deadline(), "a deadline that nobody looks at");
        assert_eq!(self.joined, self.members.values().filter(|m| m.awaiting_join.is_some()).count());
        assert!(self.state != GroupState::Empty || self.members.is_empty(), "members in an empty group");
        for (instance, id) in &self.static_members {
            let member = self.members.get(id).expect("a static member is a member");
            assert_eq!(member.instance.as_ref(), Some(instance));
        }
        if let (GroupState::Stable, Some(leader)) = (self.state, &self.leader) {
            assert!(self.members.contains_key(leader), "the leader is a member");
        }
    }
}
