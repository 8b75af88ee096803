//! One partition of `__consumer_offsets`: its groups, what they wait for, and what is being written.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::*;
use protocol::time::Now;

use crate::config::GroupConfig;
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
    /// One group of a DeleteGroups.
    Deleted(ErrorCode),
}

/// A group as ListGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub group: String,
    pub protocol_type: String,
    pub state: GroupState,
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

/// Invariants: see [`Group`]; `writes` holds exactly the tickets handed out and not yet committed.
pub struct GroupShard {
    pub(crate) config: GroupConfig,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) offsets: BTreeMap<String, Offsets>,
    pub(crate) pending: PendingOffsets,
    pub(crate) outputs: Vec<Output>,
    pub(crate) rng: fastrand::Rng,
    writes: BTreeMap<Ticket, Then>,
    ticket_next: u64,
    pub(crate) retention_due_ms: i64,
}

impl GroupShard {
    pub fn new(config: GroupConfig, seed: u64, now: Now) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            offsets: BTreeMap::new(),
            pending: PendingOffsets::default(),
            outputs: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            writes: BTreeMap::new(),
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
                self.groups.insert(key.group.into_owned(), Group::from_value(&value, now));
            }
            Parsed::Group { key, value: None } => {
                self.groups.remove(key.group.as_ref());
            }
            Parsed::Other => {}
        }
        Ok(())
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

    /// A write is committed: what waited for it happens.
    pub fn on_committed(&mut self, ticket: Ticket, now: Now) {
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
                self.groups.remove(&group);
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
        self.groups.values().map(Group::next_deadline).min().unwrap_or(i64::MAX).min(self.retention_due_ms)
    }

    /// Sessions that ended, rebalances whose time is over, offsets too old to keep.
    pub fn tick(&mut self, now: Now) {
        let due: Vec<String> =
            self.groups.iter().filter(|(_, g)| g.next_deadline() <= now.mono_ms).map(|(id, _)| id.clone()).collect();
        for group in due {
            self.expire_members(&group, now);
            self.on_phase_end(&group, now);
        }
        if now.mono_ms >= self.retention_due_ms {
            self.retention_due_ms = now.mono_ms + self.config.retention_check_ms;
            self.expire_offsets(now);
        }
    }

    pub fn list(&self) -> Vec<Listed> {
        let of_group = |(id, group): (&String, &Group)| Listed {
            group: id.clone(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            state: group.state,
        };
        let mut listed: Vec<Listed> = self.groups.iter().map(of_group).collect();
        let simple = self.offsets.keys().filter(|id| !self.groups.contains_key(*id));
        listed.extend(simple.map(|id| Listed {
            group: id.clone(),
            protocol_type: String::new(),
            state: GroupState::Empty,
        }));
        listed
    }

    pub fn describe(&self, id: &str) -> describe_groups_response::DescribedGroup<'static> {
        let mut described = describe_groups_response::DescribedGroup {
            group_id: id.to_owned().into(),
            group_state: "Dead".into(),
            ..Default::default()
        };
        match self.groups.get(id) {
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
        self.groups.contains_key(id) || self.offsets.contains_key(id) || self.pending.has_group(id)
    }

    /// DeleteGroups: only without members.
    pub fn delete(&mut self, id: &str, token: Token) {
        let code = match self.groups.get(id) {
            _ if !self.knows(id) => ErrorCode::GroupIdNotFound,
            Some(group) if group.state != GroupState::Empty => ErrorCode::NonEmptyGroup,
            _ => ErrorCode::None,
        };
        if code != ErrorCode::None {
            return self.respond(token, Response::Deleted(code));
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
        out
    }

    pub fn check(&self) {
        self.groups.values().for_each(Group::check);
    }
}
