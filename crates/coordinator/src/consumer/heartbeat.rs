//! ConsumerGroupHeartbeat: the one request of a member's life (`GroupMetadataManager.consumerGroupHeartbeat`).
//!
//! A request is refused before anything has changed; from then on every change is a record, and the answer leaves when
//! all of them are committed.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use protocol::time::Now;
use protocol::wire::Uuid;

use super::changes::{Change, Changes, partitions_of};
use super::group::{
    About, ConsumerGroup, Current, LEAVE_EPOCH, MemberState, Owned, Partitions, Resolved, STATIC_LEAVE_EPOCH,
};
use super::reconcile::Step;
use super::regex::Pattern;
use crate::assignor::{Assignor, MemberSpec};
use crate::facts::Facts;
use crate::group::{ClientInfo, GroupState};
use crate::shard::{GroupShard, Response, Then, Token};

/// From here on members make their ids themselves.
const OWN_MEMBER_ID_FROM: i16 = 1;
/// A group's expressions are not resolved again sooner, however many topics come.
const REGEX_REFRESH_MIN_MS: i64 = 10_000;

/// Why a request is refused.
pub(crate) struct Refusal(pub ErrorCode, pub String);

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Refusal(code, String::new())
    }
}

pub(crate) fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(code, message.into()))
}

/// A member that speaks, and what it brings.
pub(crate) struct Speaker<'a> {
    pub id: String,
    /// The static member that it takes the place of.
    pub replaces: Option<String>,
    pub about: About,
    pub owned: Option<&'a Partitions>,
}

impl GroupShard {
    pub fn consumer_heartbeat(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        version: i16,
        client: ClientInfo,
        facts: &dyn Facts,
        token: Token,
        now: Now,
    ) {
        let checked = self.check_heartbeat(request, version);
        let answer = checked.and_then(|()| match request.member_epoch {
            LEAVE_EPOCH | STATIC_LEAVE_EPOCH => self.consumer_leave(request, facts, now),
            _ => self.consumer_beat(request, client, facts, now),
        });
        let response = answer.unwrap_or_else(|Refusal(code, message)| ConsumerGroupHeartbeatResponse {
            error_code: code.into(),
            error_message: (!message.is_empty()).then(|| message.into()),
            ..Default::default()
        });
        self.respond_settled(token, Response::ConsumerHeartbeat(response));
    }

    fn check_heartbeat(&self, request: &ConsumerGroupHeartbeatRequest<'_>, version: i16) -> Result<(), Refusal> {
        let invalid = |message: &str| refuse(ErrorCode::InvalidRequest, message);
        let epoch = request.member_epoch;
        let needs_id = version >= OWN_MEMBER_ID_FROM || epoch > 0 || epoch == LEAVE_EPOCH;
        let is_blank = |text: &Option<protocol::wire::Str<'_>>| text.as_ref().is_some_and(|t| t.trim().is_empty());
        if needs_id && request.member_id.trim().is_empty() {
            return invalid("MemberId can't be empty.");
        }
        if request.group_id.trim().is_empty() {
            return invalid("GroupId can't be empty.");
        }
        if is_blank(&request.instance_id) {
            return invalid("InstanceId can't be empty.");
        }
        if is_blank(&request.rack_id) {
            return invalid("RackId can't be empty.");
        }
        if epoch == 0 {
            if request.rebalance_timeout_ms == -1 {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
                return invalid("A member must subscribe to topic names or to a regular expression when it joins.");
            }
        } else if epoch == STATIC_LEAVE_EPOCH && request.instance_id.is_none() {
            return invalid("InstanceId can't be null.");
        } else if epoch < STATIC_LEAVE_EPOCH {
            return invalid("MemberEpoch is invalid.");
        }
        if let Some(asked) = &request.server_assignor {
            let known = self.config.assignors.iter().flatten();
            if !known.clone().any(|known| known.name() == asked.as_ref()) {
                let names: Vec<&str> = known.map(|known| known.name()).collect();
                let message =
                    format!("ServerAssignor {asked} is not supported. Supported assignors: {}.", names.join(", "));
                return refuse(ErrorCode::UnsupportedAssignor, message);
            }
        }
        Ok(())
    }

    fn consumer_beat(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        client: ClientInfo,
        facts: &dyn Facts,
        now: Now,
    ) -> Result<ConsumerGroupHeartbeatResponse<'static>, Refusal> {
        let group_id = request.group_id.as_ref();
        let joins = request.member_epoch == 0;
        let owned = request
            .topic_partitions
            .as_ref()
            .map(|listed| partitions_of(listed.iter().map(|t| (t.topic_id, t.partitions.as_slice()))));
        if let Some(response) = self.quiet_beat(request, &client, facts, now) {
            return Ok(response);
        }
        let fresh_id = if request.member_id.is_empty() { self.random_id().to_string() } else { String::new() };
        let mut made = None;
        let group = match self.consumers.get(group_id) {
            Some(group) => group,
            None => made.insert(self.make_consumer_group(group_id, joins, facts)?),
        };
        let speaker = self.find_speaker(group, request, fresh_id, client, owned.as_ref())?;
        self.check_regex(group, &speaker)?;

        // From here on nothing is refused.
        let is_made = made.is_some();
        let mut changes = Changes::new(group_id);
        let mut group = match made {
            Some(group) => {
                self.replace_classic(group_id, &group, &mut changes);
                group
            }
            None => self.consumers.remove(group_id).expect("found above"),
        };
        let before = group.members.get(speaker.replaces.as_ref().unwrap_or(&speaker.id)).map(|m| m.current.clone());
        let is_full = request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some();
        self.admit(&mut group, &speaker, facts, &mut changes, now);
        let settings = facts.group_settings(group_id);
        let session_end_ms = now.mono_ms + settings.session_timeout_ms;
        let member = group.members.get_mut(&speaker.id).expect("admitted above");
        member.session_end_ms = session_end_ms;
        member.join_until_ms = None;
        member.sync_until_ms = None;
        let current = &member.current;
        let changed = before.is_none_or(|before| before.assigned != current.assigned);
        let response = ConsumerGroupHeartbeatResponse {
            member_id: Some(speaker.id.clone().into()),
            member_epoch: current.epoch,
            heartbeat_interval_ms: settings.heartbeat_interval_ms,
            assignment: (joins || is_full || changed).then(|| assignment(&current.assigned)),
            ..Default::default()
        };
        // A group that was a classic one has members whom nobody watches yet.
        let at_ms = if is_made { group.next_deadline() } else { member.deadline() };
        self.put_consumer(group_id, group, at_ms, changes);
        Ok(response)
    }

    /// Nearly every heartbeat: a member that has followed says that it lives, and there is nothing new for it.
    fn quiet_beat(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        client: &ClientInfo,
        facts: &dyn Facts,
        now: Now,
    ) -> Option<ConsumerGroupHeartbeatResponse<'static>> {
        let group_id = request.group_id.as_ref();
        let group = self.consumers.get(group_id)?;
        let member = group.members.get(request.member_id.as_ref())?;
        let says_nothing = request.rack_id.is_none()
            && request.rebalance_timeout_ms == -1
            && request.subscribed_topic_names.is_none()
            && request.subscribed_topic_regex.is_none()
            && request.server_assignor.is_none();
        let is_itself = request.instance_id.as_deref() == member.about.instance.as_deref()
            && member.about.client == *client
            && member.about.classic.is_none();
        let epoch = request.member_epoch;
        let has_followed = epoch > 0
            && epoch == group.epoch
            && member.current.is_reconciled_to(epoch)
            && group.assignment_epoch == epoch
            && group.topics_seen == Some(self.topics_version);
        let is_resolved = group.regexes.values().all(|known| !self.is_regex_due(known, now));
        if !(says_nothing && is_itself && has_followed && is_resolved) {
            return None;
        }
        let settings = facts.group_settings(group_id);
        let response = ConsumerGroupHeartbeatResponse {
            member_id: Some(request.member_id.clone().into_owned().into()),
            member_epoch: epoch,
            heartbeat_interval_ms: settings.heartbeat_interval_ms,
            ..Default::default()
        };
        let member = self.consumers.get_mut(group_id)?.members.get_mut(request.member_id.as_ref())?;
        member.session_end_ms = now.mono_ms + settings.session_timeout_ms;
        let at_ms = member.session_end_ms;
        self.arm_consumer(group_id, at_ms);
        Some(response)
    }

    /// Which member a heartbeat is from, and whether it may speak.
    fn find_speaker<'a>(
        &self,
        group: &ConsumerGroup,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        fresh_id: String,
        client: ClientInfo,
        owned: Option<&'a Partitions>,
    ) -> Result<Speaker<'a>, Refusal> {
        let joins = request.member_epoch == 0;
        let asked = request.member_id.as_ref();
        if group.members.len() >= self.config.consumer_size_max
            && (asked.is_empty() || !group.members.contains_key(asked))
        {
            let max = self.config.consumer_size_max;
            let message = format!("The consumer group has reached its maximum capacity of {max} members.");
            return refuse(ErrorCode::GroupMaxSizeReached, message);
        }
        let id = if asked.is_empty() { fresh_id } else { asked.to_owned() };
        let mut replaces = None;
        let known = match request.instance_id.as_deref() {
            None => match group.members.get(&id) {
                None if !joins => {
                    let message = format!("Member {id} is not a member of group {}.", request.group_id);
                    return refuse(ErrorCode::UnknownMemberId, message);
                }
                known => known,
            },
            Some(instance) => match (group.static_member(instance), joins) {
                (None, true) => group.members.get(&id),
                (None, false) => {
                    return refuse(ErrorCode::UnknownMemberId, format!("Instance id {instance} is unknown."));
                }
                (Some((known_id, known)), true) => {
                    if known.about.classic.is_none() && known.current.epoch != STATIC_LEAVE_EPOCH {
                        let message = format!(
                            "Static member {id} with instance id {instance} cannot join the group because the instance \
                             id is owned by {known_id} member."
                        );
                        return refuse(ErrorCode::UnreleasedInstanceId, message);
                    }
                    replaces = Some(known_id.to_owned());
                    Some(known)
                }
                (Some((known_id, _)), false) if known_id != id => {
                    let message =
                        format!("Static member {id} with instance id {instance} was fenced by member {known_id}.");
                    return refuse(ErrorCode::FencedInstanceId, message);
                }
                (Some((_, known)), false) => Some(known),
            },
        };
        if let Some(known) = known {
            if replaces.is_none() {
                check_epoch(&known.current, request.member_epoch, owned)?;
            }
            if known.current.state == MemberState::Unknown && owned.is_none_or(|owned| !owned.is_empty()) {
                return refuse(ErrorCode::FencedMemberEpoch, "The member must abandon all its partitions and rejoin.");
            }
        }
        let about =
            known.map(|member| member.about.clone()).unwrap_or(About { rebalance_timeout_ms: -1, ..About::default() });
        Ok(Speaker { id, replaces, about: updated(about, request, client), owned })
    }

    /// An expression that nobody has subscribed to yet must be one.
    fn check_regex(&self, group: &ConsumerGroup, speaker: &Speaker<'_>) -> Result<(), Refusal> {
        let regex = &speaker.about.regex;
        if regex.is_empty() || group.uses_regex(regex) {
            return Ok(());
        }
        match Pattern::compile(regex) {
            Ok(_) => Ok(()),
            Err(error) => refuse(
                ErrorCode::InvalidRegularExpression,
                format!("SubscribedTopicRegex `{regex}` is not a valid regular expression: {error}."),
            ),
        }
    }

    /// Takes in what a member says of itself, bumps the epoch if that changes what must be assigned, assigns, and leads
    /// the member one step on.
    pub(crate) fn admit(
        &mut self,
        group: &mut ConsumerGroup,
        speaker: &Speaker<'_>,
        facts: &dyn Facts,
        changes: &mut Changes,
        now: Now,
    ) {
        if let Some(old) = &speaker.replaces {
            replace_member(group, old, &speaker.id, changes);
        }
        let before = group.members.get(&speaker.id).map(|member| member.about.clone());
        let is_new = before.is_none();
        let before = before.unwrap_or_default();
        if is_new {
            tracing::info!(group = changes.group_id(), member = %speaker.id, "member joins");
        }
        if is_new || before != speaker.about {
            changes.make(group, Change::About(speaker.id.clone(), Some(speaker.about.clone())));
        }
        let names_changed = before.topics != speaker.about.topics;
        let regex_changed = before.regex != speaker.about.regex;
        if regex_changed && !before.regex.is_empty() && !group.uses_regex(&before.regex) {
            changes.make(group, Change::Regex(before.regex, None));
        }
        let resolved = self.resolve(group, facts, changes, now);
        self.maybe_bump(group, names_changed || regex_changed || resolved, facts, changes);
        self.maybe_assign(group, facts, changes, now);
        let step = Step {
            group,
            member_id: &speaker.id,
            target_epoch: group.assignment_epoch,
            target: group.target.get(&speaker.id).unwrap_or(&NOTHING),
            subscription_changed: names_changed || regex_changed,
            owned: speaker.owned,
            facts,
            share_partitions: self.config.mutations.share_partitions,
        };
        if let Some(next) = step.next() {
            changes.make(group, Change::Current(speaker.id.clone(), Some(next)));
            set_revoke_timer(group, &speaker.id, now);
        }
    }

    /// Resolves expressions that are not yet, or that new topics may fit. Whether that changed what is subscribed to.
    fn resolve(&mut self, group: &mut ConsumerGroup, facts: &dyn Facts, changes: &mut Changes, now: Now) -> bool {
        let used: BTreeSet<String> =
            group.members.values().filter(|m| !m.about.regex.is_empty()).map(|m| m.about.regex.clone()).collect();
        let mut changed = false;
        for regex in used {
            if group.regexes.get(&regex).is_some_and(|known| !self.is_regex_due(known, now)) {
                continue;
            }
            // One that came with the log and that this engine cannot read stands for nothing.
            let topics = Pattern::compile(&regex).map(|pattern| pattern.topics(facts)).unwrap_or_default();
            changed |= group.regexes.get(&regex).is_none_or(|known| known.topics != topics);
            let resolved = Resolved { topics, version: facts.version(), resolved_at_ms: now.wall_ms };
            changes.make(group, Change::Regex(regex, Some(resolved)));
        }
        changed
    }

    fn is_regex_due(&self, known: &Resolved, now: Now) -> bool {
        let age_ms = now.wall_ms.saturating_sub(known.resolved_at_ms);
        let has_news = known.version < self.new_topics_version && age_ms > REGEX_REFRESH_MIN_MS;
        has_news || age_ms > self.config.regex_refresh_ms
    }

    /// A new group epoch, if there is a reason or the topics are not what the last one was for.
    fn maybe_bump(&mut self, group: &mut ConsumerGroup, bump: bool, facts: &dyn Facts, changes: &mut Changes) {
        if !bump && group.topics_seen == Some(self.topics_version) {
            return;
        }
        let hash = group.present_hash(facts);
        if bump || hash != group.metadata_hash {
            let epoch = group.epoch.saturating_add(1);
            tracing::info!(group = changes.group_id(), epoch, "group epoch is bumped");
            changes.make(group, Change::Group(Some((epoch, hash))));
        }
        group.topics_seen = Some(self.topics_version);
        if group.has_old_metadata {
            changes.make(group, Change::OldMetadata(false));
        }
    }

    fn maybe_assign(&mut self, group: &mut ConsumerGroup, facts: &dyn Facts, changes: &mut Changes, now: Now) {
        if group.assignment_epoch >= group.epoch {
            return;
        }
        let interval_ms = facts.group_settings(changes.group_id()).assignment_interval_ms;
        let age_ms = now.wall_ms.saturating_sub(group.assigned_at_ms);
        if group.assigned_at_ms != 0 && (0..interval_ms).contains(&age_ms) {
            return;
        }
        let asked = group.preferred_assignor().and_then(Assignor::from_name);
        let assignor = asked.unwrap_or(self.config.default_assignor());
        let mut counts: BTreeMap<Uuid, i32> = BTreeMap::new();
        let nothing = Partitions::new();
        let mut members = Vec::with_capacity(group.members.len());
        for (id, member) in &group.members {
            let mut topics = BTreeSet::new();
            for topic in group.topics_of(&member.about).filter_map(|name| facts.topic_id(name)) {
                counts.entry(topic).or_insert_with(|| facts.partition_count(topic).unwrap_or(0));
                topics.insert(topic);
            }
            let assigned = group.target.get(id).unwrap_or(&nothing);
            members.push(MemberSpec { id, instance: member.about.instance.as_deref(), topics, assigned });
        }
        let assigned = assignor.assign(&members, &counts);
        for (id, target) in assigned {
            if group.target.get(&id) != Some(&target) {
                changes.make(group, Change::Target(id, Some(target)));
            }
        }
        let epoch = group.epoch;
        changes.make(group, Change::Assignment(Some((epoch, now.wall_ms))));
        tracing::info!(
            group = changes.group_id(),
            epoch,
            members = group.members.len(),
            assignor = assignor.name(),
            "partitions are assigned"
        );
    }

    /// Puts a group that was taken out back, with what changed.
    pub(crate) fn put_consumer(&mut self, group_id: &str, group: ConsumerGroup, at_ms: i64, changes: Changes) {
        self.consumers.insert(group_id.to_owned(), group);
        self.arm_consumer(group_id, at_ms);
        if !changes.records.is_empty() {
            self.write(changes.records, Then::Nothing);
        }
    }

    /// The group that a first heartbeat finds: none, an empty classic one, or a classic one that becomes another.
    fn make_consumer_group(&self, group_id: &str, joins: bool, facts: &dyn Facts) -> Result<ConsumerGroup, Refusal> {
        match self.groups.get(group_id) {
            None if joins => Ok(ConsumerGroup::new()),
            None if self.offsets.contains_key(group_id) => {
                refuse(ErrorCode::GroupIdNotFound, format!("Group {group_id} is not a consumer group."))
            }
            None => refuse(ErrorCode::GroupIdNotFound, format!("Consumer group {group_id} not found.")),
            Some(_) if !joins => {
                refuse(ErrorCode::GroupIdNotFound, format!("Group {group_id} is not a consumer group."))
            }
            Some(classic) if classic.state == GroupState::Empty => Ok(ConsumerGroup::new()),
            Some(classic) => self.upgraded(group_id, classic, facts),
        }
    }

    pub(crate) fn random_id(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.rng.fill(&mut bytes);
        Uuid::from_random(bytes)
    }
}

pub(crate) static NOTHING: Partitions = Partitions::new();

/// A member may be one epoch behind, if the answer that told it was lost, and owns nothing that it should not.
fn check_epoch(current: &Current, epoch: i32, owned: Option<&Partitions>) -> Result<(), Refusal> {
    let known = current.epoch;
    if epoch == 0 || epoch == known {
        return Ok(());
    }
    let is_subset = owned.is_some_and(|owned| {
        owned.iter().all(|(topic, partitions)| {
            let assigned = current.assigned.get(topic);
            assigned.is_some_and(|assigned| partitions.iter().all(|p| assigned.contains_key(p)))
        })
    });
    if epoch < known && epoch == current.previous_epoch && is_subset {
        return Ok(());
    }
    let side = if epoch > known { "greater" } else { "smaller" };
    let message = format!(
        "The consumer group member has a {side} member epoch ({epoch}) than the one known by the group coordinator \
         ({known}). The member must abandon all its partitions and rejoin."
    );
    refuse(ErrorCode::FencedMemberEpoch, message)
}

/// What a heartbeat leaves out stays as it is.
fn updated(mut about: About, request: &ConsumerGroupHeartbeatRequest<'_>, client: ClientInfo) -> About {
    let text = |text: &protocol::wire::Str<'_>| text.clone().into_owned();
    if let Some(instance) = &request.instance_id {
        about.instance = Some(text(instance));
    }
    if let Some(rack) = &request.rack_id {
        about.rack = Some(text(rack));
    }
    if request.rebalance_timeout_ms != -1 {
        about.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(assignor) = &request.server_assignor {
        about.assignor = Some(text(assignor));
    }
    if let Some(names) = &request.subscribed_topic_names {
        about.topics = names.iter().map(text).collect();
    }
    if let Some(regex) = &request.subscribed_topic_regex {
        about.regex = text(regex);
    }
    about.client = client;
    about.classic = None;
    about
}

/// A static member comes back under another id: it takes over what the old one had.
fn replace_member(group: &mut ConsumerGroup, old: &str, new: &str, changes: &mut Changes) {
    let Some(member) = group.members.get(old).cloned() else { return };
    let target = group.target.get(old).cloned().unwrap_or_default();
    tracing::info!(group = changes.group_id(), member = new, "static member is back");
    changes.drop_member(group, old);
    changes.make(group, Change::About(new.to_owned(), Some(member.about)));
    changes.make(group, Change::Target(new.to_owned(), Some(target)));
    let current = Current { epoch: 0, previous_epoch: 0, ..member.current };
    changes.make(group, Change::Current(new.to_owned(), Some(current)));
}

/// A member that was told to give partitions up has its rebalance timeout to do so. (Classic members have another timer.)
fn set_revoke_timer(group: &mut ConsumerGroup, id: &str, now: Now) {
    let Some(member) = group.members.get_mut(id).filter(|member| member.about.classic.is_none()) else { return };
    let until_ms = now.mono_ms + i64::from(member.about.rebalance_timeout_ms.max(0));
    let waits = member.current.state == MemberState::UnrevokedPartitions;
    member.revoke_until = waits.then_some((until_ms, member.current.epoch));
}

fn assignment(owned: &Owned) -> Assignment {
    let topic = |(topic, partitions): (&Uuid, &BTreeMap<i32, i32>)| TopicPartitions {
        topic_id: *topic,
        partitions: partitions.keys().copied().collect(),
        ..Default::default()
    };
    Assignment { topic_partitions: owned.iter().map(topic).collect(), ..Default::default() }
}
