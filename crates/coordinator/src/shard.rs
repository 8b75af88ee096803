//! One partition of `__consumer_offsets`: its groups, what they wait for, and what is being written.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::*;
use protocol::time::Now;

use crate::config::GroupConfig;
use crate::consumer::ConsumerGroup;
use crate::facts::Facts;
use crate::group::{Group, GroupState};
pub(crate) use crate::machine::{Output, Producer, Proof, Ticket, Token};
use crate::offsets::{CommittedOffset, Offsets};
use crate::pending::PendingOffsets;
use crate::records::{self, Parsed, Record, ReplayError};

#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Join(JoinGroupResponse<'static>),
    Sync(SyncGroupResponse<'static>),
    Leave(LeaveGroupResponse<'static>),
    OffsetCommit(OffsetCommitResponse<'static>),
    OffsetDelete(OffsetDeleteResponse<'static>),
    TxnOffsetCommit(TxnOffsetCommitResponse<'static>),
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse<'static>),
    /// One group of a DeleteGroups.
    Deleted(ErrorCode),
}

/// A group as ListGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub group: String,
    pub protocol_type: String,
    pub state: &'static str,
    /// `classic` or `consumer`
    pub kind: &'static str,
}

/// What to do when a write is committed.
pub(crate) enum Then {
    Respond(Token, Response),
    /// The assignments of a generation take effect.
    Assign {
        group: String,
        generation: i32,
        assignments: BTreeMap<String, Vec<u8>>,
    },
    Offsets {
        group: String,
        offsets: Vec<(String, i32, Option<CommittedOffset>)>,
        answer: Option<(Token, Response)>,
    },
    Forget {
        group: String,
        answer: Option<(Token, Response)>,
    },
    /// Offsets of a transaction are in the log.
    Pending {
        producer_id: i64,
        group: String,
        token: Token,
        answer: TxnOffsetCommitResponse<'static>,
    },
    Nothing,
}

pub const CLASSIC: &str = "classic";
pub const CONSUMER: &str = "consumer";

/// Invariants: see [`Group`] and [`ConsumerGroup`]; a group is of one kind; `writes` holds exactly the tickets handed
/// out and not yet committed; `wakes` has an entry for the `wake_ms` of each group that has one.
pub struct GroupShard {
    pub(crate) config: GroupConfig,
    /// Groups of the classic protocol.
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) consumers: BTreeMap<String, ConsumerGroup>,
    /// When to look at which group. A group that has been looked at since, or is gone, may still be here.
    pub(crate) wakes: BTreeSet<(i64, String)>,
    /// Counts changes of topics that may concern an assignment.
    pub(crate) topics_version: u64,
    /// The version of the metadata that last brought topics, which regular expressions may fit.
    pub(crate) new_topics_version: i64,
    pub(crate) offsets: BTreeMap<String, Offsets>,
    pub(crate) pending: PendingOffsets,
    pub(crate) outputs: Vec<Output>,
    pub(crate) rng: fastrand::Rng,
    writes: BTreeMap<Ticket, Then>,
    /// Answers that rest on a write without being its own.
    followers: BTreeMap<Ticket, Vec<(Token, Response)>>,
    ticket_next: u64,
    pub(crate) retention_due_ms: i64,
}

impl GroupShard {
    pub fn new(config: GroupConfig, seed: u64, now: Now) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            consumers: BTreeMap::new(),
            wakes: BTreeSet::new(),
            topics_version: 0,
            new_topics_version: -1,
            offsets: BTreeMap::new(),
            pending: PendingOffsets::default(),
            outputs: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            writes: BTreeMap::new(),
            followers: BTreeMap::new(),
            ticket_next: 0,
            retention_due_ms: now.mono_ms + config.retention_check_ms,
        }
    }

    /// Takes in a committed record of an earlier coordinator.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>, now: Now) -> Result<(), ReplayError> {
        match records::parse(key, value)? {
            Parsed::Offset { key, value } => {
                let offsets = self.offsets.entry(key.group.clone().into_owned()).or_default();
                let committed = value.map(|value| CommittedOffset::from_value(&value));
                offsets.put(&key.topic, key.partition, committed);
                if offsets.is_empty() {
                    self.offsets.remove(key.group.as_ref());
                }
                self.pending.supersede(&key.group, &key.topic, key.partition, self.next_ticket());
            }
            Parsed::Group { key, value: Some(value) } => {
                self.consumers.remove(key.group.as_ref());
                self.groups.insert(key.group.into_owned(), Group::from_value(&value, now));
            }
            Parsed::Group { key, value: None } => {
                self.groups.remove(key.group.as_ref());
            }
            Parsed::Consumer { group, change } => self.replay_consumer(&group, change),
            Parsed::Other => {}
        }
        Ok(())
    }

    /// All is read: from now on members are expected to speak.
    pub fn on_loaded(&mut self, facts: &dyn Facts, now: Now) {
        self.new_topics_version = facts.version();
        let classic: Vec<(String, i64)> = self.groups.iter().map(|(id, g)| (id.clone(), g.next_deadline())).collect();
        for (id, at_ms) in classic {
            self.arm_classic(&id, at_ms);
        }
        self.consumers_loaded(facts, now);
        let too_large = self.groups.iter().filter(|(_, group)| group.members.len() > self.config.size_max);
        let too_large: Vec<String> = too_large.map(|(id, _)| id.clone()).collect();
        for id in too_large {
            self.prepare_rebalance(&id, now);
        }
    }

    /// Topics came, went, grew or moved to other racks.
    pub fn on_topics_changed(&mut self, has_new: bool, facts: &dyn Facts) {
        self.topics_version += 1;
        if has_new {
            self.new_topics_version = facts.version();
        }
    }

    /// The group is looked at no later than this.
    pub(crate) fn arm_classic(&mut self, group_id: &str, at_ms: i64) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        if at_ms < group.wake_ms {
            self.wakes.remove(&(group.wake_ms, group_id.to_owned()));
            group.wake_ms = at_ms;
            self.wakes.insert((at_ms, group_id.to_owned()));
        }
    }

    pub(crate) fn put_classic(&mut self, group_id: &str, group: Group) {
        let at_ms = group.next_deadline();
        self.groups.insert(group_id.to_owned(), group);
        self.arm_classic(group_id, at_ms);
    }

    pub(crate) fn remove_classic(&mut self, group_id: &str) -> Option<Group> {
        let group = self.groups.remove(group_id)?;
        self.wakes.remove(&(group.wake_ms, group_id.to_owned()));
        Some(group)
    }

    pub(crate) fn next_ticket(&self) -> Ticket {
        Ticket(self.ticket_next)
    }

    /// What is replayed has its place in the order of tickets, too.
    pub(crate) fn pass_ticket(&mut self) {
        self.ticket_next += 1;
    }

    pub(crate) fn write(&mut self, records: Vec<Record>, then: Then) {
        let ticket = self.next_ticket();
        self.pass_ticket();
        self.writes.insert(ticket, then);
        self.outputs.push(Output::Write(ticket, records));
    }

    pub(crate) fn write_in_transaction(&mut self, producer: Producer, proof: Proof, records: Vec<Record>, then: Then) {
        let ticket = self.next_ticket();
        self.pass_ticket();
        self.writes.insert(ticket, then);
        self.outputs.push(Output::WriteInTransaction(ticket, producer, proof, records));
    }

    pub fn on_refused(&mut self, ticket: Ticket, code: ErrorCode) {
        if let Some(then) = self.writes.remove(&ticket) {
            self.on_offsets_refused(ticket, then, code);
        }
    }

    pub(crate) fn respond(&mut self, token: Token, response: Response) {
        self.outputs.push(Output::Respond(token, response));
    }

    /// Answers once everything is committed that the answer may speak of.
    pub fn respond_settled(&mut self, token: Token, response: Response) {
        match self.writes.last_key_value() {
            Some((last, _)) if !self.config.mutations.answer_before_commit => {
                self.followers.entry(*last).or_default().push((token, response))
            }
            _ => self.respond(token, response),
        }
    }

    /// A write is committed: what waited for it happens.
    pub fn on_committed(&mut self, ticket: Ticket, now: Now) {
        self.finish_write(ticket, now);
        for (token, response) in self.followers.remove(&ticket).unwrap_or_default() {
            self.respond(token, response);
        }
    }

    fn finish_write(&mut self, ticket: Ticket, now: Now) {
        match self.writes.remove(&ticket) {
            None | Some(Then::Nothing) => {}
            Some(Then::Respond(token, response)) => self.respond(token, response),
            Some(Then::Pending { token, answer, .. }) => self.respond(token, Response::TxnOffsetCommit(answer)),
            Some(Then::Assign { group, generation, assignments }) => {
                self.on_assigned(&group, generation, assignments, now);
            }
            Some(Then::Offsets { group, offsets, answer }) => {
                let known = self.offsets.entry(group.clone()).or_default();
                for (topic, partition, offset) in offsets {
                    known.put(&topic, partition, offset);
                    self.pending.supersede(&group, &topic, partition, ticket);
                }
                if known.is_empty() {
                    self.offsets.remove(&group);
                }
                if let Some((token, response)) = answer {
                    self.respond(token, response);
                }
            }
            Some(Then::Forget { group, answer }) => {
                if self.is_empty_group(&group) {
                    self.remove_classic(&group);
                    self.consumers.remove(&group);
                }
                self.offsets.remove(&group);
                self.pending.supersede_group(&group, ticket);
                if let Some((token, response)) = answer {
                    self.respond(token, response);
                }
            }
        }
    }

    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    pub fn next_deadline(&self) -> i64 {
        self.wakes.first().map_or(i64::MAX, |(at_ms, _)| *at_ms).min(self.retention_due_ms)
    }

    /// Sessions that ended, rebalances whose time is over, offsets too old to keep.
    pub fn tick(&mut self, facts: &dyn Facts, now: Now) {
        let mut due = Vec::new();
        while let Some(wake) = self.wakes.pop_first() {
            if wake.0 > now.mono_ms {
                self.wakes.insert(wake);
                break;
            }
            due.push(wake);
        }
        for (at_ms, id) in due {
            if let Some(group) = self.groups.get_mut(&id).filter(|group| group.wake_ms == at_ms) {
                group.wake_ms = i64::MAX;
                self.expire_members(&id, now);
                self.on_phase_end(&id, now);
                let next_ms = self.groups.get(&id).map_or(i64::MAX, Group::next_deadline);
                self.arm_classic(&id, next_ms);
            } else if self.consumers.get(&id).is_some_and(|group| group.wake_ms == at_ms) {
                self.expire_consumers(&id, facts, now);
            }
        }
        if now.mono_ms >= self.retention_due_ms {
            self.retention_due_ms = now.mono_ms + self.config.retention_check_ms;
            self.expire_offsets(now);
        }
    }

    pub fn list(&self) -> Vec<Listed> {
        let classic = self.groups.iter().map(|(id, group)| Listed {
            group: id.clone(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            state: group.state.name(),
            kind: CLASSIC,
        });
        let consumers = self.consumers.iter().map(|(id, group)| Listed {
            group: id.clone(),
            protocol_type: crate::consumer::CONSUMER_PROTOCOL.to_owned(),
            state: group.state().name(),
            kind: CONSUMER,
        });
        let has_members = |id: &String| self.groups.contains_key(id) || self.consumers.contains_key(id);
        let simple = self.offsets.keys().filter(|id| !has_members(id)).map(|id| Listed {
            group: id.clone(),
            protocol_type: String::new(),
            state: GroupState::Empty.name(),
            kind: CLASSIC,
        });
        classic.chain(consumers).chain(simple).collect()
    }

    pub fn is_consumer_group(&self, id: &str) -> bool {
        self.consumers.contains_key(id)
    }

    pub fn describe(&self, id: &str) -> describe_groups_response::DescribedGroup<'static> {
        let mut described = describe_groups_response::DescribedGroup {
            group_id: id.to_owned().into(),
            group_state: "Dead".into(),
            ..Default::default()
        };
        match self.groups.get(id) {
            _ if self.consumers.contains_key(id) => {}
            Some(group) => {
                described.group_state = group.state.name().into();
                described.protocol_type = group.protocol_type.clone().unwrap_or_default().into();
                let protocol = group.protocol.clone().filter(|_| group.state == GroupState::Stable).unwrap_or_default();
                let members = group.members.iter().map(|(id, m)| describe_groups_response::DescribedGroupMember {
                    member_id: id.clone().into(),
                    group_instance_id: m.instance.clone().map(Into::into),
                    client_id: m.client.client_id.clone().into(),
                    client_host: m.client.client_host.clone().into(),
                    member_metadata: m.metadata(&protocol).into(),
                    member_assignment: m.assignment.clone().into(),
                    ..Default::default()
                });
                described.members = members.collect();
                described.protocol_data = protocol.into();
            }
            None if self.offsets.contains_key(id) => described.group_state = GroupState::Empty.name().into(),
            None => {}
        }
        described
    }

    /// Whether there is such a group, be it only by its offsets.
    pub fn knows(&self, id: &str) -> bool {
        let has_members = self.groups.contains_key(id) || self.consumers.contains_key(id);
        has_members || self.offsets.contains_key(id) || self.pending.has_group(id)
    }

    /// Whether nobody is in the group.
    pub(crate) fn is_empty_group(&self, id: &str) -> bool {
        let classic = self.groups.get(id).is_none_or(|g| g.state == GroupState::Empty && g.pending.is_empty());
        classic && self.consumers.get(id).is_none_or(|group| group.members.is_empty())
    }

    /// DeleteGroups: only without members.
    pub fn delete(&mut self, id: &str, token: Token) {
        let has_members = self.groups.get(id).is_some_and(|group| group.state != GroupState::Empty)
            || self.consumers.get(id).is_some_and(|group| !group.members.is_empty());
        let code = match self.knows(id) {
            false => ErrorCode::GroupIdNotFound,
            true if has_members => ErrorCode::NonEmptyGroup,
            true => ErrorCode::None,
        };
        if code != ErrorCode::None {
            return self.respond_settled(token, Response::Deleted(code));
        }
        let answer = Some((token, Response::Deleted(ErrorCode::None)));
        self.write(self.tombstones(id), Then::Forget { group: id.to_owned(), answer });
    }

    pub(crate) fn tombstones(&self, id: &str) -> Vec<Record> {
        let offsets = self.offsets.get(id).into_iter().flat_map(Offsets::iter);
        let mut out: Vec<Record> =
            offsets.map(|(topic, partition, _)| records::offset_record(id, topic, partition, None)).collect();
        let pending = self.pending.places_of(id).into_iter();
        let pending = pending.filter(|(topic, partition)| self.offset(id, topic, *partition).is_none());
        out.extend(pending.map(|(topic, partition)| records::offset_record(id, &topic, partition, None)));
        if self.groups.contains_key(id) {
            out.push(records::group_record(id, None));
        }
        if let Some(group) = self.consumers.get(id) {
            out.extend(self.consumer_tombstones(id, group));
        }
        out
    }

    pub fn check(&self) {
        self.groups.values().for_each(Group::check);
        self.consumers.values().for_each(ConsumerGroup::check);
        assert!(self.groups.keys().all(|id| !self.consumers.contains_key(id)), "a group of two kinds");
        assert!(self.followers.keys().all(|ticket| self.writes.contains_key(ticket)), "an answer that nobody sends");
        let mut armed = self.groups.iter().map(|(id, g)| (g.wake_ms, id));
        let mut others = self.consumers.iter().map(|(id, g)| (g.wake_ms, id));
        let is_there = |(at_ms, id): (i64, &String)| at_ms == i64::MAX || self.wakes.contains(&(at_ms, id.clone()));
        assert!(armed.all(is_there) && others.all(is_there), "a group that nobody looks at");
    }
}
