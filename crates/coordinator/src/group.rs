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
#[derive(Clone, Debug, Default)]
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
        self.pending.is_empty() && self.members.values().all(|m| m.awaiting_join.is_some())
    }

    /// Whether every member knows at least one of these protocols in common with the newcomer.
    pub fn supports(&self, protocol_type: &str, protocols: &[(String, Vec<u8>)]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let same_type = self.protocol_type.as_deref() == Some(protocol_type);
        let known_by_all =
            |name: &str| self.members.values().all(|m| m.protocols.iter().any(|(known, _)| known == name));
        same_type && protocols.iter().any(|(name, _)| known_by_all(name))
    }

    /// The protocol most members prefer among those that all know.
    pub fn select_protocol(&self) -> Option<String> {
        let known_by_all =
            |name: &str| self.members.values().all(|m| m.protocols.iter().any(|(known, _)| known == name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| known_by_all(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    pub fn remove_member(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
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
        group.leader = value.leader.as_ref().map(|l| l.clone().into_owned());
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
            group.members.insert(m.member_id.clone().into_owned(), member);
        }
        let instances = group.members.iter().filter_map(|(id, m)| Some((m.instance.clone()?, id.clone())));
        group.static_members = instances.collect();
        // The record is another program's: it may name a leader who is not among the members.
        let is_member = group.leader.as_ref().is_some_and(|leader| group.members.contains_key(leader));
        if !is_member {
            group.leader = group.members.keys().next().cloned();
        }
        group.state = if group.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        group
    }

    pub fn next_deadline(&self) -> i64 {
        let sessions = self.members.values().filter(|m| !m.is_waiting()).map(|m| m.session_end_ms);
        sessions.chain(self.pending.values().copied()).min().unwrap_or(i64::MAX).min(self.phase_end_ms)
    }

    pub fn check(&self) {
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
