//! Voters come and go at run time (KIP-853): AddRaftVoter and RemoveRaftVoter at the leader, one change at a time, and
//! the observer that joins by itself (KIP-1186).
//!
//! A change is a new VotersRecord. It counts from the moment it is appended, and the next one has to wait until it is
//! committed, so that any two sets in a row share a majority. The checks, their order and their errors are those of
//! Kafka's `AddVoterHandler` and `RemoveVoterHandler`.

use protocol::error::ErrorCode;
use protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, ApiVersionsResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
};
use protocol::time::Now;

use crate::control::ControlRecord;
use crate::effect::{Effect, Request, VoterChangeToken};
use crate::leader::Leader;
use crate::peers::Peer;
use crate::quorum::Quorum;
use crate::requests;
use crate::role::Role;
use crate::types::{Endpoint, Endpoints, KRaftVersions, ReplicaKey};
use crate::voters::{Voter, VoterSet};

/// Listeners of a new voter; a controller has one or two.
const LISTENERS_MAX: usize = 64;
/// The feature by which a node says which voter sets it understands.
const KRAFT_VERSION: &str = "kraft.version";
/// A replica that has not fetched for this long would hold up the high watermark as a voter.
const CAUGHT_UP_WITHIN_MS: i64 = 3_600_000;

/// What came of a change: an error code, and for people what it means here.
pub type ChangeOutcome = (ErrorCode, Option<String>);

/// The change that a leader is busy with.
#[derive(Clone, Debug)]
pub struct VoterChange {
    /// `None` once the answer has left.
    token: Option<VoterChangeToken>,
    stage: Stage,
    pub due_ms: i64,
}

#[derive(Clone, Debug)]
enum Stage {
    /// The new voter is asked which versions of the voter set it understands.
    Asking { key: ReplicaKey, endpoints: Endpoints, ack_when_committed: bool },
    /// The new set stands at this offset.
    Written { offset: i64 },
}

impl Quorum {
    /// The answer comes as [`Effect::VoterChanged`], perhaps at once.
    pub fn on_add_raft_voter(&mut self, request: &AddRaftVoterRequest<'_>, token: VoterChangeToken, now: Now) {
        if let Err(outcome) = self.add_voter(request, token, now) {
            self.answer_change(token, outcome);
        }
        self.turn(now);
    }

    /// The answer comes as [`Effect::VoterChanged`], perhaps at once.
    pub fn on_remove_raft_voter(&mut self, request: &RemoveRaftVoterRequest<'_>, token: VoterChangeToken, now: Now) {
        if let Err(outcome) = self.remove_voter(request, token, now) {
            self.answer_change(token, outcome);
        }
        self.turn(now);
    }

    fn answer_change(&mut self, token: VoterChangeToken, (error, message): ChangeOutcome) {
        self.effects.push(Effect::VoterChanged { token, error, message });
    }

    fn add_voter(
        &mut self,
        request: &AddRaftVoterRequest<'_>,
        token: VoterChangeToken,
        now: Now,
    ) -> Result<(), ChangeOutcome> {
        self.refuse_change(request.cluster_id.as_deref())?;
        let key = ReplicaKey::new(request.voter_id, request.voter_directory_id);
        if key.id < 0 || key.directory_id.is_none() || request.listeners.len() > LISTENERS_MAX {
            return Err((ErrorCode::InvalidRequest, Some("the request names no voter with a directory id".to_owned())));
        }
        let mut endpoints = Endpoints::default();
        for listener in &request.listeners {
            endpoints.insert(&listener.name, Endpoint::new(listener.host.clone(), listener.port));
        }
        let listener = &self.cfg.listener_name;
        let Some(endpoint) = endpoints.get(listener).cloned() else {
            let message = format!("the request has no endpoint of the new voter for listener {listener}");
            return Err((ErrorCode::InvalidRequest, Some(message)));
        };
        let voters = self.voters_to_change(now)?;
        if voters.get(key.id).is_some() {
            let message = format!("node {} is a voter already: {}", key.id, keys(voters));
            return Err((ErrorCode::DuplicateVoter, Some(message)));
        }
        if !self.peers.is_ready(key.id) {
            return Err((ErrorCode::RequestTimedOut, Some(format!("{key} has not answered an earlier request yet"))));
        }
        let stage = Stage::Asking { key, endpoints, ack_when_committed: request.ack_when_committed };
        self.begin_change(token, stage, now);
        self.send(Peer { id: key.id, endpoint }, Request::ApiVersions(requests::api_versions()), now);
        Ok(())
    }

    fn remove_voter(
        &mut self,
        request: &RemoveRaftVoterRequest<'_>,
        token: VoterChangeToken,
        now: Now,
    ) -> Result<(), ChangeOutcome> {
        self.refuse_change(request.cluster_id.as_deref())?;
        let key = ReplicaKey::new(request.voter_id, request.voter_directory_id);
        if key.id < 0 || key.directory_id.is_none() {
            return Err((ErrorCode::InvalidRequest, Some("the request names no voter with a directory id".to_owned())));
        }
        let voters = self.voters_to_change(now)?;
        let Some(left) = voters.without(&key) else {
            return Err((ErrorCode::VoterNotFound, Some(format!("{key} is none of the voters {}", keys(voters)))));
        };
        if left.is_empty() {
            // DIFFERS: Kafka's controller fails on a set without voters.
            let message = format!("{key} is the last voter; a quorum cannot do without");
            return Err((ErrorCode::InvalidRequest, Some(message)));
        }
        let offset = self.append_voters(&left, now);
        self.begin_change(token, Stage::Written { offset }, now);
        // A leader that is alone, or has just removed the one that was behind, has committed it already.
        self.maybe_finish_change();
        Ok(())
    }

    /// `validateLeaderOnlyRequest` and the cluster's id.
    fn refuse_change(&self, cluster_id: Option<&str>) -> Result<(), ChangeOutcome> {
        if !self.is_own_cluster(cluster_id) {
            let message = format!("this is cluster {}, not {}", self.cfg.cluster_id, cluster_id.unwrap_or_default());
            return Err((ErrorCode::InconsistentClusterId, Some(message)));
        }
        match self.refuse_leader_request(self.epoch) {
            Some(error) => Err((error, None)),
            None => Ok(()),
        }
    }

    /// The voters, if they may be changed now: no other change is under way, and the last one is committed.
    fn voters_to_change(&mut self, now: Now) -> Result<&VoterSet, ChangeOutcome> {
        self.expire_change(now);
        let Role::Leader(leader) = &self.role else { return Err((ErrorCode::NotLeaderOrFollower, None)) };
        if leader.change.is_some() {
            let message = "another change of the voters is under way; try again".to_owned();
            return Err((ErrorCode::RequestTimedOut, Some(message)));
        }
        // Until we have committed something ourselves, an earlier leader's change of voters may be uncommitted.
        let Some(high_watermark) = leader.high_watermark else {
            let message = "the leader has not committed the beginning of its epoch yet; try again".to_owned();
            return Err((ErrorCode::RequestTimedOut, Some(message)));
        };
        let kraft_version = self.history.kraft_version();
        if kraft_version < 1 {
            let message = format!("voters can be changed from kraft.version 1 on; here it is {kraft_version}");
            return Err((ErrorCode::UnsupportedVersion, Some(message)));
        }
        if self.history.voters_offset().is_none_or(|offset| offset >= high_watermark) {
            let message = "the last change of the voters is not committed yet; try again".to_owned();
            return Err((ErrorCode::RequestTimedOut, Some(message)));
        }
        Ok(self.history.voters())
    }

    /// Returns the offset of the record.
    fn append_voters(&mut self, voters: &VoterSet, now: Now) -> i64 {
        self.append_control(vec![ControlRecord::voters(voters)], now);
        self.log.end().offset - 1
    }

    fn begin_change(&mut self, token: VoterChangeToken, stage: Stage, now: Now) {
        let due_ms = now.mono_ms + self.cfg.request_timeout_ms;
        if let Role::Leader(leader) = &mut self.role {
            leader.change = Some(VoterChange { token: Some(token), stage, due_ms });
        }
    }

    /// Ends what is under way, whatever its stage, and tells whoever asked for it.
    pub(crate) fn end_change(&mut self, outcome: ChangeOutcome) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(token) = leader.change.take().and_then(|change| change.token) {
            self.answer_change(token, outcome);
        }
    }

    /// A record that is not committed in time stays; only its sender is not kept waiting.
    pub(crate) fn expire_change(&mut self, now: Now) {
        let is_due = |leader: &Leader| leader.change.as_ref().is_some_and(|change| change.due_ms <= now.mono_ms);
        if matches!(&self.role, Role::Leader(leader) if is_due(leader)) {
            self.end_change((ErrorCode::RequestTimedOut, None));
        }
    }

    /// The high watermark moved: the new set may be committed. A leader that is not in it has nothing left to do.
    pub(crate) fn maybe_finish_change(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let is_committed = match &leader.change {
            Some(VoterChange { stage: Stage::Written { offset }, .. }) => {
                leader.high_watermark.is_some_and(|committed| committed > *offset)
            }
            _ => false,
        };
        if is_committed {
            self.end_change((ErrorCode::None, None));
        }
        let (is_voter, voters_offset) = (self.is_voter(), self.history.voters_offset());
        let Role::Leader(leader) = &mut self.role else { return };
        let is_decided = leader.high_watermark.is_some_and(|hw| voters_offset.is_some_and(|offset| offset < hw));
        if !is_voter && is_decided && !leader.resign_requested {
            tracing::info!(epoch = self.epoch, "this leader is no voter any more; it resigns");
            leader.resign_requested = true;
        }
    }

    /// The replica that is to become a voter says what it supports; `Err` if it did not answer.
    pub(crate) fn on_new_voter_versions(&mut self, from: i32, answer: Option<&ApiVersionsResponse<'_>>, now: Now) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(VoterChange { token, stage: Stage::Asking { key, endpoints, ack_when_committed }, due_ms }) =
            leader.change.clone()
        else {
            return;
        };
        if key.id != from {
            return;
        }
        let Some(answer) = answer.filter(|answer| answer.error_code == 0) else {
            let message = format!("{key} has not answered the question which versions it supports");
            return self.end_change((ErrorCode::RequestTimedOut, Some(message)));
        };
        let level = self.history.kraft_version();
        let range = answer.supported_features.iter().find(|feature| feature.name == KRAFT_VERSION);
        let versions = range.map(|range| KRaftVersions { min: range.min_version, max: range.max_version });
        let Some(kraft_versions) = versions.filter(|versions| versions.contains(level)) else {
            let message = format!("{key} does not support kraft.version {level}");
            return self.end_change((ErrorCode::InvalidRequest, Some(message)));
        };
        if !leader.is_observer_caught_up(&key, now) {
            let message = format!("{key} lags behind; it can become a voter once it has fetched everything");
            return self.end_change((ErrorCode::RequestTimedOut, Some(message)));
        }
        let voter = Voter { key, endpoints, kraft_versions };
        let voters = self.history.voters().with(voter);
        let offset = self.append_voters(&voters, now);
        let mut change = VoterChange { token, stage: Stage::Written { offset }, due_ms };
        if !ack_when_committed && let Some(token) = change.token.take() {
            self.answer_change(token, (ErrorCode::None, None));
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.change = Some(change);
        }
        self.maybe_finish_change();
    }

    // The other side: an observer that wants to vote.

    /// Whether this replica, an observer so far, is to become a voter by itself.
    pub(crate) fn wants_to_join(&self) -> bool {
        self.cfg.auto_join && self.cfg.can_be_voter && self.history.kraft_version() >= 1 && !self.is_voter()
    }

    /// Asks the leader to be taken in. What an earlier disk of this node left in the set goes first. As with
    /// UpdateRaftVoter, the request goes out between two fetches.
    pub(crate) fn maybe_join(&mut self, now: Now) {
        let Some(leader) = self.leader_peer() else { return };
        let Role::Follower(follower) = &mut self.role else { return };
        if now.mono_ms < follower.update_voter_due_ms || !self.peers.is_ready(leader.id) {
            return;
        }
        follower.update_voter_due_ms = now.mono_ms + self.cfg.fetch_timeout_ms;
        let request = match self.history.voters().get(self.cfg.node_id) {
            Some(old) => Request::RemoveRaftVoter(requests::remove_voter(self, old.key)),
            None => Request::AddRaftVoter(requests::add_voter(self)),
        };
        self.send(leader, request, now);
    }

    pub(crate) fn on_joined(&mut self, error: ErrorCode, now: Now) -> bool {
        let timeout_ms = self.cfg.fetch_timeout_ms;
        let Role::Follower(follower) = &mut self.role else { return true };
        follower.update_voter_due_ms = now.mono_ms + timeout_ms;
        match error {
            ErrorCode::None => tracing::info!("the leader changes the voters so that this node joins them"),
            ErrorCode::RequestTimedOut | ErrorCode::DuplicateVoter | ErrorCode::VoterNotFound => {}
            error => {
                tracing::warn!(error = error.name(), "the leader does not take this node into the quorum");
                return false;
            }
        }
        true
    }
}

fn keys(voters: &VoterSet) -> String {
    voters.iter().map(|voter| voter.key.to_string()).collect::<Vec<_>>().join(", ")
}

/// The answers, for whoever carries [`Effect::VoterChanged`] out.
pub fn add_response(error: ErrorCode, message: Option<String>) -> AddRaftVoterResponse<'static> {
    AddRaftVoterResponse { error_code: error.into(), error_message: message.map(Into::into), ..Default::default() }
}

pub fn remove_response(error: ErrorCode, message: Option<String>) -> RemoveRaftVoterResponse<'static> {
    RemoveRaftVoterResponse { error_code: error.into(), error_message: message.map(Into::into), ..Default::default() }
}

impl Leader {
    fn is_observer_caught_up(&self, key: &ReplicaKey, now: Now) -> bool {
        self.observers.get(key).is_some_and(|progress| {
            progress.last_caught_up_ms > 0 && progress.last_fetch_wall_ms() > now.wall_ms - CAUGHT_UP_WITHIN_MS
        })
    }
}
