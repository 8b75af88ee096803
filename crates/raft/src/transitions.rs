//! How roles change, and what each role does when its time comes (`QuorumState` and the `poll…` methods of
//! `KafkaRaftClient`).

use protocol::error::ErrorCode;
use protocol::time::Now;

use crate::control;
use crate::effect::Request;
use crate::election::Tally;
use crate::leader::Leader;
use crate::peers::Peer;
use crate::quorum::Quorum;
use crate::requests;
use crate::role::{Candidate, Evidence, Prospective, Resigned, Role, Unattached};
use crate::types::{Endpoints, ReplicaKey};

/// Voters whose connections to the leader are refused at the same moment stand for election one after the other, in
/// the order of their ids, so that they do not split the vote. Longer than a round trip and two small fsyncs.
const STAND_STAGGER_MS: i64 = 50;
/// Having promised a vote, a voter leaves the candidate this long to win before it stands itself.
const PROMISE_HOLD_MS: i64 = 200;
/// How soon those are asked for a PreVote again who had not noticed the leader's end yet.
pub(crate) const ASK_AGAIN_MS: i64 = 50;

impl Quorum {
    /// One thing that is due; true if the role has changed, so that more may be.
    pub(crate) fn step(&mut self, now: Now) -> bool {
        if self.maybe_finish_shutdown(now) {
            return false;
        }
        match &self.role {
            Role::Unattached(_) => self.step_unattached(now),
            Role::Prospective(_) => self.step_prospective(now),
            Role::Candidate(_) => self.step_candidate(now),
            Role::Follower(_) => self.step_follower(now),
            Role::Leader(_) => self.step_leader(now),
            Role::Resigned(_) => self.step_resigned(now),
        }
    }

    fn is_shutting_down(&self) -> bool {
        self.shutdown_due_ms.is_some()
    }

    /// `maybeCompleteShutdown`: there is a successor, or nobody needs one, or time is up.
    fn maybe_finish_shutdown(&mut self, now: Now) -> bool {
        let Some(due) = self.shutdown_due_ms else { return false };
        let leader = self.leader_and_epoch().leader;
        let has_remote_leader = leader.is_some_and(|id| id != self.cfg.node_id);
        if !self.is_voter() || self.is_only_voter() || has_remote_leader || now.mono_ms >= due {
            tracing::info!(leader, epoch = self.epoch, "the quorum member has shut down");
            self.is_stopped = true;
        }
        self.is_stopped
    }

    fn step_unattached(&mut self, now: Now) -> bool {
        let Role::Unattached(unattached) = &self.role else { return false };
        let is_due = now.mono_ms >= unattached.election_due_ms;
        if self.is_voter() {
            if self.is_shutting_down() {
                return false;
            }
            if is_due {
                self.become_prospective(false, now);
                return true;
            }
        }
        self.fetch_from_any(now);
        false
    }

    fn step_prospective(&mut self, now: Now) -> bool {
        let shutting_down = self.is_shutting_down();
        let Role::Prospective(prospective) = &mut self.role else { return false };
        if !shutting_down && now.mono_ms >= prospective.election_due_ms {
            self.on_pre_vote_lost(now);
            return true;
        }
        if prospective.ask_again_due_ms.is_some_and(|due| due <= now.mono_ms) {
            prospective.ask_again_due_ms = Some(now.mono_ms + ASK_AGAIN_MS);
            prospective.tally.forget_rejections();
        }
        self.ask_for_votes(true, now);
        false
    }

    fn step_candidate(&mut self, now: Now) -> bool {
        let Role::Candidate(candidate) = &self.role else { return false };
        if !self.is_shutting_down() && now.mono_ms >= candidate.election_due_ms {
            tracing::info!(epoch = self.epoch, "the election was not won in time");
            self.become_prospective(false, now);
            return true;
        }
        self.ask_for_votes(false, now);
        false
    }

    fn ask_for_votes(&mut self, pre_vote: bool, now: Now) {
        let tally = match &self.role {
            Role::Prospective(r) => &r.tally,
            Role::Candidate(r) => &r.tally,
            _ => return,
        };
        if tally.is_rejected() {
            return;
        }
        for voter in tally.unrecorded().collect::<Vec<ReplicaKey>>() {
            let request = |q: &Quorum| Request::Vote(requests::vote(q, voter, pre_vote));
            self.send_to_voter(voter.id, request, now);
        }
    }

    /// Sends a request that is only built if the voter is ready for one.
    fn send_to_voter(&mut self, id: i32, request: impl FnOnce(&Quorum) -> Request, now: Now) {
        if !self.peers.is_ready(id) {
            return;
        }
        let Some(endpoint) = self.history.voters().endpoint(id, &self.cfg.listener_name).cloned() else {
            tracing::debug!(
                voter = id,
                listener = self.cfg.listener_name,
                "voter without an endpoint on this listener"
            );
            return;
        };
        let request = request(self);
        self.send(Peer { id, endpoint }, request, now);
    }

    fn step_follower(&mut self, now: Now) -> bool {
        let is_voter = self.is_voter();
        let Role::Follower(follower) = &mut self.role else { return false };
        if is_voter {
            let refused =
                matches!(follower.evidence, Evidence::Refused { stand_due_ms } if stand_due_ms <= now.mono_ms);
            if refused || now.mono_ms >= follower.fetch_due_ms {
                tracing::info!(
                    leader = follower.leader,
                    epoch = self.epoch,
                    refused,
                    "the leader is not heard any more"
                );
                self.become_prospective(refused, now);
                return true;
            }
            self.maybe_update_voter(now);
        } else if self.wants_to_join() {
            self.maybe_join(now);
        }
        self.fetch_as_follower(now);
        false
    }

    /// The leader is to learn where we listen: because the log says otherwise (kraft.version 1), or because nothing
    /// says it, once to each leader (kraft.version 0).
    fn should_update_voter(&self) -> bool {
        let Role::Follower(follower) = &self.role else { return false };
        if self.history.kraft_version() >= 1 {
            self.history.voters().needs_update(&self.own_voter())
        } else {
            !follower.has_updated_leader
        }
    }

    /// If a fetch is under way, as it is nearly always, the request goes out when the answer has come: before the next
    /// fetch.
    fn maybe_update_voter(&mut self, now: Now) {
        let should_update = self.should_update_voter();
        let Some(leader) = self.leader_peer() else { return };
        let Role::Follower(follower) = &mut self.role else { return };
        if now.mono_ms < follower.update_voter_due_ms || (should_update && !self.peers.is_ready(leader.id)) {
            return;
        }
        follower.update_voter_due_ms = now.mono_ms + self.cfg.fetch_timeout_ms;
        if should_update {
            let request = Request::UpdateRaftVoter(requests::update_voter(self));
            self.send(leader, request, now);
        }
    }

    pub(crate) fn leader_peer(&self) -> Option<Peer> {
        let Role::Follower(follower) = &self.role else { return None };
        let endpoint = follower.leader_endpoints.get(&self.cfg.listener_name)?.clone();
        Some(Peer { id: follower.leader, endpoint })
    }

    /// Asks the leader for more, or, while the leader does not answer, anybody else for the leader.
    fn fetch_as_follower(&mut self, now: Now) {
        let Some(leader) = self.leader_peer() else { return };
        if self.peers.is_backing_off(leader.id) {
            self.fetch_from_any(now);
        } else if !self.peers.has_any_in_flight() {
            let Role::Follower(follower) = &self.role else { return };
            let request = match &follower.download {
                Some(part) => Request::FetchSnapshot(requests::fetch_snapshot(self, part.id(), part.size())),
                None if self.may_acknowledge_log() => Request::Fetch(requests::fetch(self)),
                None => return,
            };
            self.send(leader, request, now);
        }
    }

    fn fetch_from_any(&mut self, now: Now) {
        if !self.may_acknowledge_log() {
            return;
        }
        if let Some(peer) = self.peers.ready_bootstrap(&mut self.rng) {
            let request = Request::Fetch(requests::fetch(self));
            self.send(peer, request, now);
        }
    }

    fn step_leader(&mut self, now: Now) -> bool {
        self.expire_change(now);
        let period_ms = self.cfg.fetch_timeout_ms / 2;
        let end = self.log.end().offset;
        let shutting_down = self.is_shutting_down();
        let Role::Leader(leader) = &mut self.role else { return false };
        // DIFFERS: Kafka resigns at once, and if its last record has reached nobody yet, it denies the PreVotes of its
        // own preferred successors, and the quorum is without a leader for half a second.
        let hands_over = shutting_down && (now.mono_ms >= self.hand_over_due_ms || leader.has_successor(end));
        if hands_over || leader.resign_requested || leader.has_lost_quorum(now) {
            self.become_resigned(now);
            return true;
        }
        if now.mono_ms >= leader.begin_epoch_due_ms {
            leader.begin_epoch_due_ms = now.mono_ms + period_ms;
            for voter in leader.silent_voters(period_ms, now) {
                let request = |q: &Quorum| Request::BeginQuorumEpoch(requests::begin_quorum_epoch(q, voter));
                self.send_to_voter(voter.id, request, now);
            }
        }
        false
    }

    fn step_resigned(&mut self, now: Now) -> bool {
        let shutting_down = self.is_shutting_down();
        let Role::Resigned(resigned) = &self.role else { return false };
        if !shutting_down && now.mono_ms >= resigned.election_due_ms {
            // One epoch up: a follower of ourselves in the epoch that we resigned from makes no sense.
            self.become_unattached(self.epoch + 1, None, now);
            return true;
        }
        for id in resigned.unacknowledged.iter().copied().collect::<Vec<i32>>() {
            self.send_to_voter(id, |q| Request::EndQuorumEpoch(requests::end_quorum_epoch(q)), now);
        }
        false
    }

    // Role changes.

    /// Takes the role and makes it durable. Requests of the old role are forgotten with it; fetches that wait for us
    /// as leader are answered in the same turn.
    pub(crate) fn set_role(&mut self, epoch: i32, role: Role) {
        assert!(epoch >= self.epoch, "from epoch {} back to {epoch}", self.epoch);
        self.end_change((ErrorCode::NotLeaderOrFollower, None));
        let from = self.role.name();
        let old_high_watermark = self.high_watermark();
        let old = std::mem::replace(&mut self.role, role);
        if let Role::Follower(follower) = old
            && let Some(part) = follower.download
        {
            part.discard();
        }
        self.high_watermark = old_high_watermark;
        self.epoch = epoch;
        self.wake_fetches = true;
        self.peers.reset_all();
        self.persist();
        let state = self.election_state();
        let voted = state.voted.map(|voter| voter.id);
        tracing::info!(from, to = self.role.name(), epoch, leader = state.leader, voted, "quorum role");
    }

    pub(crate) fn become_unattached(&mut self, epoch: i32, leader: Option<i32>, now: Now) {
        // The time already waited counts, or a candidate with a hopeless log could keep all others from standing.
        let election_due_ms = match &self.role {
            _ if !self.is_voter() => i64::MAX,
            Role::Candidate(r) => r.election_due_ms,
            Role::Unattached(r) => r.election_due_ms,
            Role::Prospective(r) if !r.tally.is_rejected() => r.election_due_ms,
            Role::Resigned(r) => r.election_due_ms,
            _ => i64::MIN,
        };
        let is_over = election_due_ms == i64::MIN || election_due_ms <= now.mono_ms;
        let election_due_ms = if is_over { self.election_due(now) } else { election_due_ms };
        // In the same epoch the vote stays given.
        let voted = if epoch == self.epoch { self.election_state().voted } else { None };
        self.set_role(epoch, Role::Unattached(Unattached { leader, voted, election_due_ms }));
    }

    pub(crate) fn become_follower(&mut self, epoch: i32, leader: i32, endpoints: Endpoints, now: Now) {
        assert_ne!(leader, self.cfg.node_id, "a follower of itself");
        let voted = if epoch == self.epoch { self.election_state().voted } else { None };
        let follower = self.new_follower(leader, endpoints, voted, now);
        self.set_role(epoch, Role::Follower(follower));
    }

    /// `refused`: because nobody listens where the leader did. A sole voter comes here from Resigned too, and goes on
    /// to the next epoch at once.
    pub(crate) fn become_prospective(&mut self, refused: bool, now: Now) {
        assert!(self.is_voter(), "an observer stands for election");
        let state = self.election_state();
        let prospective = Prospective {
            leader: state.leader,
            leader_endpoints: self.leader_endpoints().clone(),
            voted: state.voted,
            tally: Tally::new(self.history.voters(), self.cfg.node_id),
            election_due_ms: now.mono_ms + self.election_timeout(),
            ask_again_due_ms: refused.then_some(now.mono_ms + ASK_AGAIN_MS),
        };
        let is_granted = prospective.tally.is_granted();
        self.set_role(self.epoch, Role::Prospective(prospective));
        if is_granted {
            self.become_candidate(now);
        }
    }

    pub(crate) fn become_candidate(&mut self, now: Now) {
        assert!(matches!(self.role, Role::Prospective(_)) && self.is_voter());
        let tally = Tally::new(self.history.voters(), self.cfg.node_id);
        let is_granted = tally.is_granted();
        let election_due_ms = now.mono_ms + self.election_timeout();
        self.set_role(self.epoch + 1, Role::Candidate(Candidate { tally, election_due_ms }));
        if is_granted {
            self.become_leader(now);
        }
    }

    pub(crate) fn become_leader(&mut self, now: Now) {
        let Role::Candidate(candidate) = &self.role else { panic!("only a candidate becomes leader") };
        assert!(candidate.tally.is_granted());
        let granting: Vec<i32> = candidate.tally.granting().map(|key| key.id).collect();
        let start = self.log.end().offset;
        let (voters, kraft_version) = (self.history.voters(), self.history.kraft_version());
        let leader = Leader::new(self.own_voter(), voters, kraft_version, start, &self.cfg, now);
        self.set_role(self.epoch, Role::Leader(Box::new(leader)));
        if self.has_failed() {
            return;
        }
        // Even an epoch without records must be found when a follower asks where it ended.
        if let Err(error) = self.log.assign_epoch_start(self.epoch) {
            return self.fail(format!("cannot begin an epoch in the metadata log: {error}"));
        }
        let records = self.start_of_epoch_records(&granting);
        self.append_control(records, now);
    }

    /// A leader's first batch: that it leads, which makes what came before committable; and the voters, if the log does
    /// not hold them yet or has an outdated description of ourselves.
    fn start_of_epoch_records(&self, granting: &[i32]) -> Vec<control::ControlRecord> {
        let voters = self.history.voters();
        let ids: Vec<i32> = voters.ids().collect();
        let mut records = vec![control::ControlRecord::leader_change(self.cfg.node_id, &ids, granting)];
        let kraft_version = self.history.kraft_version();
        if kraft_version >= 1 {
            let own = self.own_voter();
            let only_in_bootstrap = self.history.voters_offset() == Some(-1);
            if only_in_bootstrap || voters.needs_update(&own) {
                let updated = voters.updated(own).expect("a leader is a voter when it begins");
                records.push(control::ControlRecord::kraft_version(kraft_version));
                records.push(control::ControlRecord::voters(&updated));
            }
        }
        records
    }

    pub(crate) fn become_resigned(&mut self, now: Now) {
        let Role::Leader(leader) = &self.role else { panic!("only a leader resigns") };
        let preferred_successors = leader.preferred_successors();
        let unacknowledged = self.history.voters().ids().filter(|&id| id != self.cfg.node_id).collect();
        let election_due_ms = now.mono_ms + self.election_timeout();
        let resigned = Resigned { unacknowledged, preferred_successors, election_due_ms };
        self.set_role(self.epoch, Role::Resigned(resigned));
    }

    /// Too many voters still hear the leader, or nobody answered in time.
    pub(crate) fn on_pre_vote_lost(&mut self, now: Now) {
        let Role::Prospective(prospective) = &self.role else { return };
        let (leader, endpoints) = (prospective.leader, prospective.leader_endpoints.clone());
        let was_refused = prospective.ask_again_due_ms.is_some();
        match leader {
            Some(leader) if endpoints.get(&self.cfg.listener_name).is_some() => {
                self.become_follower(self.epoch, leader, endpoints, now);
                if let Role::Follower(follower) = &mut self.role {
                    follower.evidence = if was_refused { Evidence::Spent } else { Evidence::None };
                }
            }
            _ => self.become_unattached(self.epoch, leader, now),
        }
    }

    // Connections as evidence.

    /// The connection to a peer broke, or could not be made; `refused` if the peer's host said that nobody listens.
    /// Failed requests are reported through [`Quorum::on_response`] besides.
    ///
    /// DIFFERS: Kafka waits out the fetch timeout of 2 s. A killed process closes its sockets and refuses new ones, and
    /// that is known within a millisecond. So a voter whose connection to the leader broke tries again at once; if it
    /// is refused, the voter asks for PreVotes, and promises its own to whoever asks. A leader that is alive for a
    /// majority is safe from this as from any other PreVote (KIP-996).
    pub fn on_peer_down(&mut self, id: i32, refused: bool, now: Now) {
        self.on_connection_failed(id, refused, now);
        self.turn(now);
    }

    pub(crate) fn on_connection_failed(&mut self, id: i32, refused: bool, now: Now) {
        let own = self.cfg.node_id;
        let is_voter = self.is_voter();
        let Role::Follower(follower) = &mut self.role else { return };
        if follower.leader != id || !self.cfg.elect_on_refused {
            return;
        }
        if !is_voter {
            follower.has_fetched &= !refused;
            return;
        }
        match (follower.evidence, refused) {
            (Evidence::None, false) => {
                follower.evidence = Evidence::Broken;
                self.peers.reset(id);
            }
            (Evidence::None | Evidence::Broken, true) => {
                let rank = self.history.voters().ids().filter(|&voter| voter < own && voter != id).count() as i64;
                follower.evidence = Evidence::Refused { stand_due_ms: now.mono_ms + rank * STAND_STAGGER_MS };
                follower.has_fetched = false;
            }
            _ => {}
        }
    }

    /// We have just promised our vote.
    pub(crate) fn hold_back(&mut self, now: Now) {
        if let Role::Follower(follower) = &mut self.role
            && let Evidence::Refused { stand_due_ms } = &mut follower.evidence
        {
            *stand_due_ms = (*stand_due_ms).max(now.mono_ms + PROMISE_HOLD_MS);
        }
    }
}
