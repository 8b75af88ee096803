//! JoinGroup, and the phase in which a group gathers its members (`GroupMetadataManager.classicGroupJoin`).

use protocol::error::ErrorCode;
use protocol::messages::join_group_response::JoinGroupResponseMember;
use protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::facts::Facts;
use crate::group::{ClientInfo, Group, GroupState, Member};
use crate::records;
use crate::shard::{GroupShard, Response, Then, Token};

/// From here on a new member is given its id before it joins (KIP-394).
const MEMBER_ID_REQUIRED_FROM: i16 = 4;
/// From here on a leader can be told to keep the assignment (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;
/// From here on the protocol's type is part of the answer.
const PROTOCOL_TYPE_FROM: i16 = 7;

/// A join as it came, owned.
struct Joining {
    instance: Option<String>,
    member: Member,
}

impl GroupShard {
    pub fn join(
        &mut self,
        request: &JoinGroupRequest<'_>,
        version: i16,
        client: ClientInfo,
        facts: &dyn Facts,
        token: Token,
        now: Now,
    ) {
        let id = request.group_id.as_ref();
        let joined = match self.consumers.get(id) {
            Some(group) if !group.members.is_empty() => self.consumer_join(request, version, client, facts, token, now),
            _ => {
                self.drop_empty_consumer(id);
                self.try_join(request, version, client, token, now)
            }
        };
        if let Err((code, member_id)) = joined {
            self.refuse_join(token, code, member_id);
        }
        let unused = self.groups.get(id).is_some_and(|g| {
            g.state == GroupState::Empty && g.members.is_empty() && g.pending.is_empty() && g.generation == 0
        });
        if unused {
            // A request that was refused leaves no group behind.
            self.remove_classic(id);
        }
    }

    /// The protocol's name is null; whoever sends the answer in a version that has no null says an empty one.
    pub(crate) fn refuse_join(&mut self, token: Token, code: ErrorCode, member_id: String) {
        let response = JoinGroupResponse {
            error_code: code.into(),
            generation_id: -1,
            protocol_name: None,
            member_id: member_id.into(),
            ..Default::default()
        };
        self.respond(token, Response::Join(response));
    }

    fn try_join(
        &mut self,
        request: &JoinGroupRequest<'_>,
        version: i16,
        client: ClientInfo,
        token: Token,
        now: Now,
    ) -> Result<(), (ErrorCode, String)> {
        let member_id = request.member_id.clone().into_owned();
        let refuse = |code: ErrorCode| Err((code, member_id.clone()));
        if request.group_id.is_empty() {
            return refuse(ErrorCode::InvalidGroupId);
        }
        let session_timeout_ms = i64::from(request.session_timeout_ms);
        let allowed = self.config.session_timeout_min_ms..=self.config.session_timeout_max_ms;
        if !allowed.contains(&session_timeout_ms) {
            return refuse(ErrorCode::InvalidSessionTimeout);
        }
        let group_id = request.group_id.clone().into_owned();
        if !self.groups.contains_key(&group_id) {
            if !member_id.is_empty() {
                return refuse(ErrorCode::UnknownMemberId);
            }
            self.groups.insert(group_id.clone(), Group::new(now));
        }
        let group = self.groups.get_mut(&group_id).expect("inserted above");
        let protocols: Vec<(String, Vec<u8>)> =
            request.protocols.iter().map(|p| (p.name.clone().into_owned(), p.metadata.to_vec())).collect();
        if !group.supports(&request.protocol_type, &protocols) {
            return refuse(ErrorCode::InconsistentGroupProtocol);
        }
        let is_known = group.members.contains_key(&member_id) || group.pending.contains_key(&member_id);
        if !is_known && group.members.len() + group.pending.len() >= self.config.size_max {
            return refuse(ErrorCode::GroupMaxSizeReached);
        }
        let rebalance = if version >= 1 { request.rebalance_timeout_ms } else { request.session_timeout_ms };
        let instance = request.group_instance_id.as_ref().map(|i| i.clone().into_owned());
        let joining = Joining {
            instance: instance.clone(),
            member: Member {
                instance,
                client,
                rebalance_timeout_ms: i64::from(rebalance),
                session_timeout_ms,
                protocols,
                assignment: Vec::new(),
                awaiting_join: Some(token),
                awaiting_sync: None,
                session_end_ms: now.mono_ms + session_timeout_ms,
            },
        };
        if group.members.is_empty() {
            group.protocol_type = Some(request.protocol_type.clone().into_owned());
        }
        if member_id.is_empty() {
            self.join_new(&group_id, joining, version, token, now)
        } else {
            self.join_known(&group_id, &member_id, joining, version, token, now)
        }
    }

    fn join_new(
        &mut self,
        group_id: &str,
        joining: Joining,
        version: i16,
        token: Token,
        now: Now,
    ) -> Result<(), (ErrorCode, String)> {
        let prefix = joining.instance.clone().unwrap_or_else(|| joining.member.client.client_id.clone());
        let mut bytes = [0; 16];
        self.rng.fill(&mut bytes);
        let new_id = format!("{prefix}-{}", hyphenated(Uuid::from_random(bytes)));
        let group = self.groups.get_mut(group_id).expect("the caller found it");
        if let Some(instance) = &joining.instance {
            if let Some(old_id) = group.static_members.get(instance).cloned() {
                return self.replace_static(group_id, &old_id, new_id, joining, version, token, now);
            }
        } else if version >= MEMBER_ID_REQUIRED_FROM {
            let until_ms = now.mono_ms + joining.member.session_timeout_ms;
            group.pending.insert(new_id.clone(), until_ms);
            self.arm_classic(group_id, until_ms);
            return Err((ErrorCode::MemberIdRequired, new_id));
        }
        self.add_member(group_id, new_id, joining, now);
        Ok(())
    }

    fn join_known(
        &mut self,
        group_id: &str,
        member_id: &str,
        joining: Joining,
        version: i16,
        token: Token,
        now: Now,
    ) -> Result<(), (ErrorCode, String)> {
        let refuse = |code: ErrorCode| Err((code, member_id.to_owned()));
        let group = self.groups.get_mut(group_id).expect("the caller found it");
        if group.pending.remove(member_id).is_some() {
            self.add_member(group_id, member_id.to_owned(), joining, now);
            return Ok(());
        }
        if let Some(instance) = &joining.instance {
            match group.static_members.get(instance) {
                None => return refuse(ErrorCode::UnknownMemberId),
                Some(id) if id != member_id => return refuse(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        let Some(member) = group.members.get_mut(member_id) else { return refuse(ErrorCode::UnknownMemberId) };
        member.touch(now);
        let session_end_ms = member.session_end_ms;
        let same = member.protocols == joining.member.protocols;
        let is_leader = group.leader.as_deref() == Some(member_id);
        let rebalances = match group.state {
            GroupState::PreparingRebalance => true,
            GroupState::CompletingRebalance => !same,
            GroupState::Stable => is_leader || !same,
            GroupState::Empty => return refuse(ErrorCode::UnknownMemberId),
        };
        if !rebalances {
            // It missed the answer of this generation.
            let response = join_response(group, member_id, version);
            self.arm_classic(group_id, session_end_ms);
            self.respond(token, Response::Join(response));
            return Ok(());
        }
        let assignment = std::mem::take(&mut member.assignment);
        group.add_member(member_id.to_owned(), Member { assignment, ..joining.member });
        self.prepare_rebalance(group_id, now);
        self.maybe_complete_join(group_id, now);
        Ok(())
    }

    fn add_member(&mut self, group_id: &str, member_id: String, joining: Joining, now: Now) {
        let group = self.groups.get_mut(group_id).expect("the caller found it");
        tracing::info!(group = group_id, member = %member_id, "member joins");
        group.add_member(member_id, joining.member);
        group.joined_since = true;
        self.prepare_rebalance(group_id, now);
        self.maybe_complete_join(group_id, now);
    }

    /// KIP-345: an instance that was started again takes over its place; without news it needs no rebalance.
    #[allow(clippy::too_many_arguments)] // One call, right above.
    fn replace_static(
        &mut self,
        group_id: &str,
        old_id: &str,
        new_id: String,
        joining: Joining,
        version: i16,
        token: Token,
        now: Now,
    ) -> Result<(), (ErrorCode, String)> {
        let group = self.groups.get_mut(group_id).expect("the caller found it");
        let led = group.leader.as_deref() == Some(old_id);
        let old = group.remove_member(old_id).expect("a static member is a member");
        if led {
            group.leader = Some(new_id.clone());
        }
        let same = old.protocols == joining.member.protocols;
        let mut member = Member { assignment: old.assignment.clone(), ..joining.member };
        let keeps_generation = group.state == GroupState::Stable && same;
        if keeps_generation {
            member.awaiting_join = None;
        }
        let session_end_ms = member.session_end_ms;
        group.add_member(new_id.clone(), member);
        self.arm_classic(group_id, session_end_ms);
        if let Some(waiting) = old.awaiting_join {
            self.refuse_join(waiting, ErrorCode::FencedInstanceId, old_id.to_owned());
        }
        if let Some(waiting) = old.awaiting_sync {
            self.refuse_sync(waiting, ErrorCode::FencedInstanceId);
        }
        if !keeps_generation {
            self.prepare_rebalance(group_id, now);
            self.maybe_complete_join(group_id, now);
            return Ok(());
        }
        let group = self.groups.get(group_id).expect("found above");
        let mut response = join_response(group, &new_id, version);
        if group.leader.as_deref() == Some(new_id.as_str()) {
            if version >= SKIP_ASSIGNMENT_FROM {
                response.skip_assignment = true;
            } else {
                // An older client that believes to lead would assign anew.
                response.leader = old_id.to_owned().into();
                response.members = Vec::new();
            }
        }
        let record = records::group_record(group_id, Some(&group.to_value(&group.assignments())));
        self.write(vec![record], Then::Respond(token, Response::Join(response)));
        Ok(())
    }

    /// A new generation is to begin: whoever waits for an assignment is told to join again.
    pub(crate) fn prepare_rebalance(&mut self, group_id: &str, now: Now) {
        let group = self.groups.get_mut(group_id).expect("the caller found it");
        if group.state == GroupState::PreparingRebalance {
            return;
        }
        let was_empty = group.state == GroupState::Empty;
        let waiting: Vec<Token> = group.members.values_mut().filter_map(|m| m.awaiting_sync.take()).collect();
        group.set_state(GroupState::PreparingRebalance, now);
        group.is_writing = false;
        let timeout_ms = group.rebalance_timeout_ms();
        if was_empty {
            let delay_ms = self.config.initial_rebalance_delay_ms;
            group.initial_until_ms = Some(now.mono_ms + timeout_ms.max(delay_ms));
            group.phase_end_ms = now.mono_ms + delay_ms;
            group.joined_since = false;
        } else {
            group.initial_until_ms = None;
            group.phase_end_ms = now.mono_ms + timeout_ms;
        }
        tracing::info!(
            group = group_id,
            generation = group.generation,
            members = group.members.len(),
            "rebalance begins"
        );
        let phase_end_ms = group.phase_end_ms;
        self.arm_classic(group_id, phase_end_ms);
        for token in waiting {
            self.refuse_sync(token, ErrorCode::RebalanceInProgress);
        }
    }

    /// Ends the joining as soon as all members are there; an empty group waits out its initial delay.
    pub(crate) fn maybe_complete_join(&mut self, group_id: &str, now: Now) {
        let Some(group) = self.groups.get(group_id) else { return };
        let is_open = group.state == GroupState::PreparingRebalance;
        let delayed = group.initial_until_ms.is_some() && self.config.initial_rebalance_delay_ms > 0;
        if is_open && !delayed && group.all_joined() {
            self.complete_join(group_id, now);
        }
    }

    /// The time of the phase is over.
    pub(crate) fn on_phase_end(&mut self, group_id: &str, now: Now) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        if now.mono_ms < group.phase_end_ms {
            return;
        }
        match (group.state, group.initial_until_ms) {
            (GroupState::PreparingRebalance, Some(until)) if group.joined_since && now.mono_ms < until => {
                // Somebody came during the delay: wait once more, but not for ever.
                group.joined_since = false;
                group.phase_end_ms = (now.mono_ms + self.config.initial_rebalance_delay_ms).min(until);
                let at_ms = group.phase_end_ms;
                self.arm_classic(group_id, at_ms);
            }
            (GroupState::PreparingRebalance, _) => self.complete_join(group_id, now),
            (GroupState::CompletingRebalance, _) => self.expire_sync(group_id, now),
            _ => group.phase_end_ms = i64::MAX,
        }
    }

    fn complete_join(&mut self, group_id: &str, now: Now) {
        let group = self.groups.get_mut(group_id).expect("the caller found it");
        let absent: Vec<String> = group
            .members
            .iter()
            .filter(|(_, m)| m.awaiting_join.is_none() && m.instance.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            tracing::info!(group = group_id, member = %id, "member did not join again in time");
            group.remove_member(&id);
        }
        let leader_is_here =
            group.leader.as_ref().and_then(|id| group.members.get(id)).is_some_and(|m| m.awaiting_join.is_some());
        if !leader_is_here {
            let joined = group.members.iter().find(|(_, m)| m.awaiting_join.is_some()).map(|(id, _)| id.clone());
            if joined.is_some() {
                group.leader = joined;
            }
        }
        group.generation = group.generation.wrapping_add(1).max(0);
        group.initial_until_ms = None;
        group.is_writing = false;
        if group.members.is_empty() {
            group.leader = None;
            group.protocol = None;
            group.set_state(GroupState::Empty, now);
            group.phase_end_ms = i64::MAX;
            tracing::info!(group = group_id, generation = group.generation, "group is empty");
            let record = records::group_record(group_id, Some(&group.to_value(&Default::default())));
            return self.write(vec![record], Then::Nothing);
        }
        group.protocol = group.select_protocol();
        group.set_state(GroupState::CompletingRebalance, now);
        group.phase_end_ms = now.mono_ms + group.rebalance_timeout_ms();
        tracing::info!(
            group = group_id,
            generation = group.generation,
            members = group.members.len(),
            leader = group.leader,
            "all members have joined"
        );
        let waiting = group.take_joins(now);
        let deadline_ms = group.next_deadline();
        self.arm_classic(group_id, deadline_ms);
        for (id, token) in waiting {
            let group = self.groups.get(group_id).expect("found above");
            let response = join_response(group, &id, i16::MAX);
            self.respond(token, Response::Join(response));
        }
    }
}

/// The answer of the present generation; the leader's has all members.
fn join_response(group: &Group, member_id: &str, version: i16) -> JoinGroupResponse<'static> {
    let protocol = group.protocol.clone().unwrap_or_default();
    let is_leader = group.leader.as_deref() == Some(member_id);
    let members = is_leader.then_some(&group.members).into_iter().flatten().map(|(id, m)| JoinGroupResponseMember {
        member_id: id.clone().into(),
        group_instance_id: m.instance.clone().map(Into::into),
        metadata: m.metadata(&protocol).into(),
        ..Default::default()
    });
    JoinGroupResponse {
        generation_id: group.generation,
        protocol_type: group.protocol_type.clone().filter(|_| version >= PROTOCOL_TYPE_FROM).map(Into::into),
        protocol_name: Some(protocol.clone().into()),
        leader: group.leader.clone().unwrap_or_default().into(),
        member_id: member_id.to_owned().into(),
        members: members.collect(),
        ..Default::default()
    }
}

/// As Java's UUID prints itself, which is what member ids end with.
fn hyphenated(id: Uuid) -> String {
    let hex: String = id.0.iter().map(|b| format!("{b:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}
