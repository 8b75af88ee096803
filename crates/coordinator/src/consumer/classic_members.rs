//! Members of a consumer group that speak the classic protocol: JoinGroup, SyncGroup, Heartbeat and LeaveGroup lead them
//! through the same epochs as the others. None of them leads; the coordinator assigns.

use std::collections::BTreeSet;

use protocol::error::ErrorCode;
use protocol::messages::leave_group_response::MemberResponse;
use protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest, SyncGroupResponse,
};
use protocol::time::Now;

use super::changes::{Changes, partitions_of};
use super::group::{About, ClassicAbout, ConsumerGroup, ConsumerMember, MemberState, Partitions};
use super::heartbeat::Speaker;
use super::migrate::{CONSUMER_PROTOCOL, assignment_bytes, protocol_version, read_subscription};
use crate::config::MigrationPolicy;
use crate::facts::Facts;
use crate::group::ClientInfo;
use crate::shard::{GroupShard, Response, Token};

/// From here on a new member is given its id before it joins (KIP-394).
const MEMBER_ID_REQUIRED_FROM: i16 = 4;

/// What becomes of a join that is not refused.
struct Admitted {
    member_id: String,
    /// The last member that spoke the consumer protocol was replaced by this one.
    downgrades: bool,
}

impl GroupShard {
    /// JoinGroup to a consumer group that has members.
    pub(crate) fn consumer_join(
        &mut self,
        request: &JoinGroupRequest<'_>,
        version: i16,
        client: ClientInfo,
        facts: &dyn Facts,
        token: Token,
        now: Now,
    ) -> Result<(), (ErrorCode, String)> {
        let group_id = request.group_id.as_ref();
        let is_unknown = request.member_id.is_empty();
        let member_id = if is_unknown { self.random_id().to_string() } else { request.member_id.clone().into_owned() };
        let fail = |code: ErrorCode| Err((code, String::new()));
        let Some(group) = self.consumers.get(group_id) else { return fail(ErrorCode::UnknownMemberId) };
        if self.config.migration == MigrationPolicy::Disabled || !supports(group, request) {
            return fail(ErrorCode::InconsistentGroupProtocol);
        }
        if group.members.len() >= self.config.consumer_size_max && !group.members.contains_key(&member_id) {
            return fail(ErrorCode::GroupMaxSizeReached);
        }
        let instance = request.group_instance_id.as_deref();
        if is_unknown && instance.is_none() && version >= MEMBER_ID_REQUIRED_FROM {
            return Err((ErrorCode::MemberIdRequired, member_id));
        }
        let replaces = match instance.map(|instance| group.static_member(instance)) {
            None => None,
            Some(Some((known, _))) if is_unknown => Some(known.to_owned()),
            Some(None) if is_unknown => None,
            Some(Some((known, _))) if known == member_id => None,
            Some(Some(_)) => return fail(ErrorCode::FencedInstanceId),
            Some(None) => return fail(ErrorCode::UnknownMemberId),
        };
        let known = group.members.get(replaces.as_ref().unwrap_or(&member_id));
        let known = known.map(|member| member.about.clone());
        let Some((about, owned)) = read_join(request, known, client, facts) else {
            return fail(ErrorCode::InconsistentGroupProtocol);
        };
        let speaker = Speaker { id: member_id, replaces, about, owned: Some(&owned) };
        let admitted = self.admit_classic(group_id, &speaker, facts, now);
        if admitted.downgrades {
            self.downgrade_for(group_id, &admitted.member_id, facts, token, now);
        } else {
            self.answer_join(group_id, request, &admitted.member_id, token, now);
        }
        Ok(())
    }

    fn admit_classic(&mut self, group_id: &str, speaker: &Speaker<'_>, facts: &dyn Facts, now: Now) -> Admitted {
        let mut group = self.consumers.remove(group_id).expect("the caller found it");
        let mut changes = Changes::new(group_id);
        self.admit(&mut group, speaker, facts, &mut changes, now);
        let downgrades = speaker.replaces.is_some() && self.downgrades_without(&group, &BTreeSet::new());
        self.put_consumer(group_id, group, i64::MAX, changes);
        Admitted { member_id: speaker.id.clone(), downgrades }
    }

    // DIFFERS: Kafka answers such a join at once if the assignment is up to date. Here the members of the new classic
    // group always rebalance, as they do when the last member of the consumer protocol leaves.
    fn downgrade_for(&mut self, group_id: &str, member_id: &str, facts: &dyn Facts, token: Token, now: Now) {
        let Some(group) = self.consumers.remove(group_id) else { return };
        self.downgrade(group_id, group, &BTreeSet::new(), facts, now);
        let joined = self.groups.get_mut(group_id).is_some_and(|classic| classic.await_join(member_id, token));
        if joined {
            self.maybe_complete_join(group_id, now);
        } else {
            self.refuse_join(token, ErrorCode::UnknownMemberId, member_id.to_owned());
        }
    }

    fn answer_join(&mut self, group_id: &str, request: &JoinGroupRequest<'_>, member_id: &str, token: Token, now: Now) {
        let Some(member) = self.consumers.get_mut(group_id).and_then(|g| g.members.get_mut(member_id)) else { return };
        member.session_end_ms = now.mono_ms + i64::from(request.session_timeout_ms);
        member.join_until_ms = None;
        member.sync_until_ms = Some(now.mono_ms + i64::from(member.about.rebalance_timeout_ms.max(0)));
        let at_ms = member.deadline();
        let protocol = request.protocols.first().map(|p| p.name.clone().into_owned()).unwrap_or_default();
        let response = JoinGroupResponse {
            generation_id: member.current.epoch,
            protocol_type: Some(CONSUMER_PROTOCOL.into()),
            protocol_name: Some(protocol.into()),
            member_id: member_id.to_owned().into(),
            ..Default::default()
        };
        self.arm_consumer(group_id, at_ms);
        self.respond_settled(token, Response::Join(response));
    }

    /// SyncGroup: the member's own assignment, as far as it is free.
    pub(crate) fn consumer_sync(
        &mut self,
        request: &SyncGroupRequest<'_>,
        facts: &dyn Facts,
        token: Token,
        now: Now,
    ) -> Result<(), ErrorCode> {
        let group_id = request.group_id.as_ref();
        let group = self.consumers.get_mut(group_id).ok_or(ErrorCode::UnknownMemberId)?;
        let assignment_epoch = group.assignment_epoch;
        let id = classic_member(group, &request.member_id, request.group_instance_id.as_deref())?;
        let member = group.members.get_mut(&id).ok_or(ErrorCode::UnknownMemberId)?;
        let Some(classic) = &member.about.classic else { return Err(ErrorCode::UnknownMemberId) };
        if request.generation_id != member.current.epoch {
            return Err(ErrorCode::IllegalGeneration);
        }
        let (name, metadata) = classic.protocols.first().ok_or(ErrorCode::InconsistentGroupProtocol)?;
        let differs = request.protocol_type.as_deref().is_some_and(|kind| kind != CONSUMER_PROTOCOL)
            || request.protocol_name.as_deref().is_some_and(|asked| asked != name);
        if differs {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if assignment_epoch > member.current.epoch && member.current.state != MemberState::UnrevokedPartitions {
            wait_for_join(member, now);
            let at_ms = member.deadline();
            self.arm_consumer(group_id, at_ms);
            return Err(ErrorCode::RebalanceInProgress);
        }
        let version = protocol_version(metadata);
        member.session_end_ms = now.mono_ms + i64::from(classic.session_timeout_ms);
        member.sync_until_ms = None;
        let assigned = member.current.assigned.iter();
        let assigned: Partitions =
            assigned.map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect();
        let response = SyncGroupResponse {
            protocol_type: request.protocol_type.as_ref().map(|kind| kind.clone().into_owned().into()),
            protocol_name: request.protocol_name.as_ref().map(|name| name.clone().into_owned().into()),
            assignment: assignment_bytes(&assigned, version, facts).into(),
            ..Default::default()
        };
        self.respond_settled(token, Response::Sync(response));
        Ok(())
    }

    /// Heartbeat: a member learns by REBALANCE_IN_PROGRESS that there is a step for it to take.
    pub(crate) fn consumer_classic_heartbeat(&mut self, request: &HeartbeatRequest<'_>, now: Now) -> ErrorCode {
        let group_id = request.group_id.as_ref();
        let Some(group) = self.consumers.get_mut(group_id) else { return ErrorCode::UnknownMemberId };
        let id = match classic_member(group, &request.member_id, request.group_instance_id.as_deref()) {
            Ok(id) => id,
            Err(code) => return code,
        };
        let waits_for_others = group.waits_for_others(&id);
        let assignment_epoch = group.assignment_epoch;
        let Some(member) = group.members.get_mut(&id) else { return ErrorCode::UnknownMemberId };
        let Some(classic) = &member.about.classic else { return ErrorCode::UnknownMemberId };
        if request.generation_id != member.current.epoch {
            return ErrorCode::IllegalGeneration;
        }
        member.session_end_ms = now.mono_ms + i64::from(classic.session_timeout_ms);
        let must_join = member.current.epoch < assignment_epoch
            || member.current.state == MemberState::UnrevokedPartitions
            || (member.current.state == MemberState::UnreleasedPartitions && !waits_for_others);
        if must_join {
            wait_for_join(member, now);
        }
        let at_ms = member.deadline();
        self.arm_consumer(group_id, at_ms);
        if must_join { ErrorCode::RebalanceInProgress } else { ErrorCode::None }
    }

    /// LeaveGroup, also by an operator: of any member, whatever it speaks.
    pub(crate) fn consumer_classic_leave(
        &mut self,
        request: &LeaveGroupRequest<'_>,
        members: &[(String, Option<String>)],
        facts: &dyn Facts,
        now: Now,
    ) -> Vec<MemberResponse<'static>> {
        let group_id = request.group_id.as_ref();
        let mut leaving = BTreeSet::new();
        let mut answers = Vec::with_capacity(members.len());
        for (member_id, instance) in members {
            let found = match (self.consumers.get(group_id), instance) {
                (None, _) => Err(ErrorCode::UnknownMemberId),
                (Some(group), None) if group.members.contains_key(member_id) => Ok(member_id.clone()),
                (Some(_), None) => Err(ErrorCode::UnknownMemberId),
                (Some(group), Some(instance)) => match group.static_member(instance) {
                    None => Err(ErrorCode::UnknownMemberId),
                    Some((known, _)) if !member_id.is_empty() && known != member_id => Err(ErrorCode::FencedInstanceId),
                    Some((known, _)) => Ok(known.to_owned()),
                },
            };
            answers.push(MemberResponse {
                member_id: member_id.clone().into(),
                group_instance_id: instance.clone().map(Into::into),
                error_code: found.as_ref().err().copied().unwrap_or(ErrorCode::None).into(),
                ..Default::default()
            });
            if let Ok(id) = found {
                tracing::info!(group = group_id, member = %id, "member leaves");
                leaving.insert(id);
            }
        }
        if !leaving.is_empty() {
            self.fence_members(group_id, &leaving, facts, now);
        }
        answers
    }
}

impl ConsumerGroup {
    /// Whether a partition that this member shall own still belongs to another.
    fn waits_for_others(&self, id: &str) -> bool {
        let Some(member) = self.members.get(id) else { return false };
        let target = self.target.get(id).into_iter().flatten();
        let mut wanted = target.flat_map(|(topic, partitions)| partitions.iter().map(move |p| (*topic, *p)));
        wanted.any(|(topic, partition)| {
            let has = member.current.assigned.get(&topic).is_some_and(|owned| owned.contains_key(&partition));
            !has && self.owner(topic, partition).is_some()
        })
    }
}

/// The member that a classic request is from.
fn classic_member(group: &ConsumerGroup, member_id: &str, instance: Option<&str>) -> Result<String, ErrorCode> {
    match instance {
        None if group.members.contains_key(member_id) => Ok(member_id.to_owned()),
        None => Err(ErrorCode::UnknownMemberId),
        Some(instance) => match group.static_member(instance) {
            None => Err(ErrorCode::UnknownMemberId),
            Some((known, _)) if known != member_id => Err(ErrorCode::FencedInstanceId),
            Some((known, _)) => Ok(known.to_owned()),
        },
    }
}

fn wait_for_join(member: &mut ConsumerMember, now: Now) {
    let until_ms = now.mono_ms + i64::from(member.about.rebalance_timeout_ms.max(0));
    member.join_until_ms.get_or_insert(until_ms);
}

/// A consumer, with a protocol that all classic members of the group know.
fn supports(group: &ConsumerGroup, request: &JoinGroupRequest<'_>) -> bool {
    let classic = group.members.values().filter_map(|member| member.about.classic.as_ref());
    let known_by_all = |name: &str| classic.clone().all(|about| about.protocols.iter().any(|(known, _)| known == name));
    request.protocol_type == CONSUMER_PROTOCOL && request.protocols.iter().any(|p| known_by_all(&p.name))
}

/// What the member says of itself, and the partitions that it owns; `None` if that cannot be read.
fn read_join(
    request: &JoinGroupRequest<'_>,
    known: Option<About>,
    client: ClientInfo,
    facts: &dyn Facts,
) -> Option<(About, Partitions)> {
    let metadata = request.protocols.first().map(|p| p.metadata.as_ref())?;
    let (_, subscription) = read_subscription(metadata)?;
    let owned = subscription.owned_partitions.iter();
    let owned = owned.filter_map(|t| Some((facts.topic_id(&t.topic)?, t.partitions.as_slice())));
    let owned = partitions_of(owned);
    let known = known.unwrap_or_default();
    let rack = subscription.rack_id.as_deref().filter(|rack| !rack.is_empty()).map(str::to_owned);
    let timeout_ms = request.rebalance_timeout_ms;
    let protocols = request.protocols.iter().map(|p| (p.name.clone().into_owned(), p.metadata.to_vec()));
    let about = About {
        instance: request.group_instance_id.as_ref().map(|i| i.clone().into_owned()).or(known.instance),
        rack: rack.or(known.rack),
        client,
        rebalance_timeout_ms: if timeout_ms == -1 { request.session_timeout_ms } else { timeout_ms },
        topics: subscription.topics.iter().map(|topic| topic.clone().into_owned()).collect(),
        regex: String::new(),
        assignor: known.assignor,
        classic: Some(ClassicAbout { session_timeout_ms: request.session_timeout_ms, protocols: protocols.collect() }),
    };
    Some((about, owned))
}
