//! SyncGroup and Heartbeat: the assignment of a generation, and the lives of its members.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::{HeartbeatRequest, SyncGroupRequest, SyncGroupResponse};
use protocol::time::Now;

use crate::facts::Facts;
use crate::group::{Group, GroupState};
use crate::records;
use crate::shard::{GroupShard, Response, Then, Token};

impl GroupShard {
    pub fn sync(&mut self, request: &SyncGroupRequest<'_>, facts: &dyn Facts, token: Token, now: Now) {
        let synced = match self.consumers.contains_key(request.group_id.as_ref()) {
            true => self.consumer_sync(request, facts, token, now),
            false => self.try_sync(request, token, now),
        };
        if let Err(code) = synced {
            self.refuse_sync(token, code);
        }
    }

    pub(crate) fn refuse_sync(&mut self, token: Token, code: ErrorCode) {
        let response = SyncGroupResponse { error_code: code.into(), ..Default::default() };
        self.respond(token, Response::Sync(response));
    }

    fn try_sync(&mut self, request: &SyncGroupRequest<'_>, token: Token, now: Now) -> Result<(), ErrorCode> {
        let group_id = request.group_id.as_ref();
        let member_id = request.member_id.as_ref();
        let group = self.groups.get_mut(group_id).ok_or(ErrorCode::UnknownMemberId)?;
        group.check_member(member_id, request.group_instance_id.as_deref(), request.generation_id)?;
        let differs = |given: Option<&str>, known: &Option<String>| given.is_some() && given != known.as_deref();
        if differs(request.protocol_type.as_deref(), &group.protocol_type)
            || differs(request.protocol_name.as_deref(), &group.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let is_leader = group.leader.as_deref() == Some(member_id);
        match group.state {
            GroupState::Empty => return Err(ErrorCode::UnknownMemberId),
            GroupState::PreparingRebalance => return Err(ErrorCode::RebalanceInProgress),
            GroupState::Stable => {
                let member = group.members.get_mut(member_id).expect("checked above");
                member.touch(now);
                let at_ms = member.session_end_ms;
                let assignment = member.assignment.clone();
                let response = sync_response(group, assignment);
                self.arm_classic(group_id, at_ms);
                self.respond(token, Response::Sync(response));
                return Ok(());
            }
            GroupState::CompletingRebalance => {}
        }
        let member = group.members.get_mut(member_id).expect("checked above");
        member.awaiting_sync = Some(token);
        if !is_leader || group.is_writing {
            return Ok(());
        }
        group.is_writing = true;
        // Whoever the leader gave nothing gets an empty assignment.
        let mut assignments: BTreeMap<String, Vec<u8>> =
            group.members.keys().map(|id| (id.clone(), Vec::new())).collect();
        for given in &request.assignments {
            if let Some(slot) = assignments.get_mut(given.member_id.as_ref()) {
                *slot = given.assignment.to_vec();
            }
        }
        let record = records::group_record(group_id, Some(&group.to_value(&assignments)));
        let generation = group.generation;
        let then = Then::Assign { group: group_id.to_owned(), generation, assignments };
        self.write(vec![record], then);
        Ok(())
    }

    /// The generation's assignments are committed; a rebalance that has begun since makes them void.
    pub(crate) fn on_assigned(
        &mut self,
        group_id: &str,
        generation: i32,
        mut assignments: BTreeMap<String, Vec<u8>>,
        now: Now,
    ) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        if group.generation != generation || group.state != GroupState::CompletingRebalance {
            return;
        }
        group.set_state(GroupState::Stable, now);
        group.is_writing = false;
        group.phase_end_ms = i64::MAX;
        let mut answers = Vec::new();
        for (id, member) in &mut group.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
            member.touch(now);
            if let Some(token) = member.awaiting_sync.take() {
                answers.push((token, member.assignment.clone()));
            }
        }
        let deadline_ms = group.next_deadline();
        self.arm_classic(group_id, deadline_ms);
        let group = self.groups.get(group_id).expect("found above");
        let answers: Vec<(Token, SyncGroupResponse<'static>)> =
            answers.into_iter().map(|(token, assignment)| (token, sync_response(group, assignment))).collect();
        for (token, response) in answers {
            self.respond(token, Response::Sync(response));
        }
    }

    /// Members that did not ask for their assignment in time are gone; the others join again.
    pub(crate) fn expire_sync(&mut self, group_id: &str, now: Now) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        group.phase_end_ms = i64::MAX;
        let absent: Vec<String> =
            group.members.iter().filter(|(_, m)| m.awaiting_sync.is_none()).map(|(id, _)| id.clone()).collect();
        if absent.is_empty() {
            return;
        }
        for id in absent {
            tracing::info!(group = group_id, member = %id, "member did not ask for its assignment in time");
            group.remove_member(&id);
        }
        self.prepare_rebalance(group_id, now);
        self.maybe_complete_join(group_id, now);
    }

    pub fn heartbeat(&mut self, request: &HeartbeatRequest<'_>, now: Now) -> ErrorCode {
        if self.consumers.contains_key(request.group_id.as_ref()) {
            return self.consumer_classic_heartbeat(request, now);
        }
        let Some(group) = self.groups.get_mut(request.group_id.as_ref()) else { return ErrorCode::UnknownMemberId };
        let member_id = request.member_id.as_ref();
        let checked = group.check_member(member_id, request.group_instance_id.as_deref(), request.generation_id);
        if let Err(code) = checked {
            return code;
        }
        let Some(member) = group.members.get_mut(member_id) else { return ErrorCode::UnknownMemberId };
        member.touch(now);
        let at_ms = member.session_end_ms;
        let code = match group.state {
            GroupState::Empty => ErrorCode::UnknownMemberId,
            GroupState::PreparingRebalance => ErrorCode::RebalanceInProgress,
            GroupState::CompletingRebalance | GroupState::Stable => ErrorCode::None,
        };
        self.arm_classic(&request.group_id, at_ms);
        code
    }
}

impl Group {
    /// Whether a member may speak in this generation.
    pub(crate) fn check_member(&self, id: &str, instance: Option<&str>, generation: i32) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(known) if known != id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if !self.members.contains_key(id) {
            return Err(ErrorCode::UnknownMemberId);
        }
        if generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        Ok(())
    }
}

fn sync_response(group: &Group, assignment: Vec<u8>) -> SyncGroupResponse<'static> {
    SyncGroupResponse {
        protocol_type: group.protocol_type.clone().map(Into::into),
        protocol_name: group.protocol.clone().map(Into::into),
        assignment: assignment.into(),
        ..Default::default()
    }
}
