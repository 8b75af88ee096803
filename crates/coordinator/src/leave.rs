//! Members that go: by LeaveGroup, or because nothing was heard of them.

use protocol::error::ErrorCode;
use protocol::messages::leave_group_response::MemberResponse;
use protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use protocol::time::Now;

use crate::facts::Facts;
use crate::group::GroupState;
use crate::shard::{GroupShard, Response, Token};

/// From here on one request speaks for several members (KIP-345).
const MANY_MEMBERS_FROM: i16 = 3;

impl GroupShard {
    pub fn leave(&mut self, request: &LeaveGroupRequest<'_>, version: i16, facts: &dyn Facts, token: Token, now: Now) {
        let group_id = request.group_id.as_ref();
        if self.consumers.contains_key(group_id) {
            return self.leave_consumer(request, version, facts, token, now);
        }
        if version < MANY_MEMBERS_FROM {
            let code = self.leave_one(group_id, &request.member_id, None, now);
            let response = LeaveGroupResponse { error_code: code.into(), ..Default::default() };
            return self.respond(token, Response::Leave(response));
        }
        let mut members = Vec::with_capacity(request.members.len());
        for member in &request.members {
            let code = self.leave_one(group_id, &member.member_id, member.group_instance_id.as_deref(), now);
            members.push(MemberResponse {
                member_id: member.member_id.clone().into_owned().into(),
                group_instance_id: member.group_instance_id.as_ref().map(|i| i.clone().into_owned().into()),
                error_code: code.into(),
                ..Default::default()
            });
        }
        self.respond(token, Response::Leave(LeaveGroupResponse { members, ..Default::default() }));
    }

    fn leave_consumer(
        &mut self,
        request: &LeaveGroupRequest<'_>,
        version: i16,
        facts: &dyn Facts,
        token: Token,
        now: Now,
    ) {
        let one = version < MANY_MEMBERS_FROM;
        let leaving: Vec<(String, Option<String>)> = match one {
            true => vec![(request.member_id.clone().into_owned(), None)],
            false => {
                let of = |instance: &protocol::wire::Str<'_>| instance.clone().into_owned();
                let members = request.members.iter();
                members.map(|m| (m.member_id.clone().into_owned(), m.group_instance_id.as_ref().map(of))).collect()
            }
        };
        let members = self.consumer_classic_leave(request, &leaving, facts, now);
        let response = match one {
            true => LeaveGroupResponse {
                error_code: members.first().map_or(0, |member| member.error_code),
                ..Default::default()
            },
            false => LeaveGroupResponse { members, ..Default::default() },
        };
        self.respond_settled(token, Response::Leave(response));
    }

    fn leave_one(&mut self, group_id: &str, member_id: &str, instance: Option<&str>, now: Now) -> ErrorCode {
        let Some(group) = self.groups.get_mut(group_id) else { return ErrorCode::UnknownMemberId };
        let id = match instance {
            None => member_id.to_owned(),
            // An operator removes a static member by its instance alone.
            Some(instance) => match group.static_members.get(instance) {
                None => return ErrorCode::UnknownMemberId,
                Some(known) if !member_id.is_empty() && known != member_id => return ErrorCode::FencedInstanceId,
                Some(known) => known.clone(),
            },
        };
        if group.pending.remove(&id).is_some() {
            self.maybe_complete_join(group_id, now);
            return ErrorCode::None;
        }
        if !group.members.contains_key(&id) {
            return ErrorCode::UnknownMemberId;
        }
        tracing::info!(group = group_id, member = %id, "member leaves");
        self.drop_member(group_id, &id, now);
        ErrorCode::None
    }

    fn drop_member(&mut self, group_id: &str, id: &str, now: Now) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let Some(member) = group.remove_member(id) else { return };
        if let Some(token) = member.awaiting_join {
            self.refuse_join(token, ErrorCode::UnknownMemberId, id.to_owned());
        }
        if let Some(token) = member.awaiting_sync {
            self.refuse_sync(token, ErrorCode::UnknownMemberId);
        }
        match self.groups.get(group_id).map(|g| g.state) {
            Some(GroupState::Stable | GroupState::CompletingRebalance) => {
                self.prepare_rebalance(group_id, now);
                self.maybe_complete_join(group_id, now);
            }
            Some(GroupState::PreparingRebalance) => self.maybe_complete_join(group_id, now),
            _ => {}
        }
    }

    /// Members whose session has ended, and ids that nobody came back with.
    pub(crate) fn expire_members(&mut self, group_id: &str, now: Now) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let before = group.pending.len();
        group.pending.retain(|_, until| *until > now.mono_ms);
        let fewer_pending = group.pending.len() < before;
        let silent: Vec<String> = group
            .members
            .iter()
            .filter(|(_, m)| !m.is_waiting() && m.session_end_ms <= now.mono_ms)
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            tracing::info!(group = group_id, member = %id, "member's session ended without a heartbeat");
            self.drop_member(group_id, &id, now);
        }
        if fewer_pending {
            self.maybe_complete_join(group_id, now);
        }
    }
}
