//! The quorum itself: its fields, its start, and the turn that acts on what the clock and the events have made due.
//!
//! Roles change in `transitions.rs`, requests of others are answered in `server.rs` and `fetch.rs`, answers to our own
//! come in through `client.rs`, and what the state machine above may do is in `state_machine.rs`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use protocol::time::Now;
use storage::{DiskRef, LogConfig};

use crate::config::QuorumConfig;
use crate::effect::{Effect, FetchToken, Request};
use crate::election::{ElectionState, Tally};
use crate::fetch::FetchWaiter;
use crate::log::MetadataLog;
use crate::peers::{FIRST_BOOTSTRAP_ID, Peer, Peers};
use crate::role::{Candidate, Evidence, Follower, Resigned, Role, Unattached};
use crate::state_file::StateFile;
use crate::types::{Endpoint, Endpoints, LeaderAndEpoch, OffsetAndEpoch, ReplicaKey};
use crate::voters::{Voter, VoterHistory, VoterSet};

/// How often old snapshots and the log below them are looked at (`RaftMetadataLogCleanerManager`).
const CLEAN_PERIOD_MS: i64 = 60_000;

/// After the start, when a voter that knows no leader asks for votes.
const FIRST_ELECTION_MS: std::ops::Range<i64> = 20..120;

/// Role changes that one turn may chain: Unattached, Prospective, Candidate, Leader is the longest way.
const STEPS_MAX: usize = 8;

/// A replica of the metadata log.
///
/// Invariants, see [`Quorum::check`]: the epoch never goes back and is not below that of the log; `committed` never
/// goes back, is never beyond the log's end, and nothing below it is ever truncated; what is on disk of the election
/// is at least as new as what any message of ours has said; only a voter is Prospective, Candidate or, until it has
/// been removed, Leader.
pub struct Quorum {
    pub(crate) cfg: QuorumConfig,
    pub(crate) epoch: i32,
    pub(crate) role: Role,
    /// What the roles that are not Leader know of the high watermark; kept when a role changes.
    pub(crate) high_watermark: Option<i64>,
    /// The largest high watermark of this process: what the state machine may have seen.
    pub(crate) committed: i64,
    pub(crate) log: MetadataLog,
    pub(crate) history: VoterHistory,
    pub(crate) peers: Peers,
    pub(crate) waiters: BTreeMap<FetchToken, FetchWaiter>,
    /// The high watermark moved: every waiting fetch gets its answer.
    pub(crate) wake_fetches: bool,
    pub(crate) effects: Vec<Effect>,
    pub(crate) rng: fastrand::Rng,
    pub(crate) announced: LeaderAndEpoch,
    /// Set once a shutdown is asked for: when to give up waiting for a successor.
    pub(crate) shutdown_due_ms: Option<i64>,
    /// Until then a leader that shuts down goes on leading, for a successor to get the last records.
    pub(crate) hand_over_due_ms: i64,
    pub(crate) is_stopped: bool,
    clean_due_ms: i64,
    state_file: StateFile,
    persisted: Option<ElectionState>,
    failed: Option<String>,
}

impl Quorum {
    /// Opens the log, the snapshots and the election state in `metadata_dir` (`__cluster_metadata-0`), and takes the
    /// role that they allow. Effects wait already when it returns. `log_config` comes from
    /// [`crate::metadata_log_config`], and `evidence` says how much of the log the last run is known to have left.
    pub fn open(
        cfg: QuorumConfig,
        disk: DiskRef,
        metadata_dir: &Path,
        log_config: LogConfig,
        evidence: storage::Evidence,
        now: Now,
        seed: u64,
    ) -> io::Result<Quorum> {
        assert!(!cfg.directory_id.is_zero(), "the directory of the metadata log has an id");
        let static_voters = VoterSet::from_config(&cfg.listener_name, &cfg.static_voters);
        let mut history = VoterHistory::new(static_voters);
        let mut log = MetadataLog::open(disk.clone(), metadata_dir, log_config, evidence, now)?;
        log.load_history(&mut history, None)?;
        let state_file = StateFile::new(disk, metadata_dir);
        let election = state_file.read()?;
        let epoch = election.as_ref().map(|election| election.epoch);
        tracing::info!(voters = %history.voters(), epoch, end = %log.end(), "metadata log opened");

        let peers = Peers::new(bootstrap_peers(&cfg), cfg.request_timeout_ms, cfg.retry_backoff_ms);
        let mut quorum = Quorum {
            epoch: 0,
            role: Role::Unattached(Unattached { leader: None, voted: None, election_due_ms: i64::MAX }),
            high_watermark: None,
            committed: log.start_offset(),
            log,
            history,
            peers,
            waiters: BTreeMap::new(),
            wake_fetches: false,
            effects: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            announced: LeaderAndEpoch::default(),
            shutdown_due_ms: None,
            hand_over_due_ms: i64::MAX,
            is_stopped: false,
            clean_due_ms: now.mono_ms + CLEAN_PERIOD_MS,
            persisted: election.clone(),
            state_file,
            failed: None,
            cfg,
        };
        quorum.take_first_role(election.unwrap_or_default(), now);
        quorum.turn(now);
        Ok(quorum)
    }

    /// `QuorumState.initialize`: continues where the last run ended, and never as leader.
    fn take_first_role(&mut self, election: ElectionState, now: Now) {
        let own = self.cfg.key();
        let log_epoch = self.log.last_epoch();
        let due = self.first_election_due(now);
        let voters = self.history.voters();
        let (epoch, role) = if election.epoch < log_epoch {
            tracing::warn!(epoch = election.epoch, log_epoch, "quorum-state is behind the log");
            (log_epoch, Role::Unattached(Unattached { leader: None, voted: None, election_due_ms: due }))
        } else if election.leader == Some(own.id) {
            // We may neither vote for another in this epoch, nor go on: what was not flushed may be gone, and writing
            // other records at the same offsets in the same epoch would make two logs look equal.
            let unacknowledged = voters.ids().filter(|&id| id != own.id).collect();
            // The others find out by themselves that this epoch has no leader; a new epoch from here would only make
            // them start over. Also one that has been removed from the voters meanwhile must come to an end of this.
            let due = now.mono_ms + self.election_timeout();
            let resigned = Resigned { unacknowledged, preferred_successors: Vec::new(), election_due_ms: due };
            (election.epoch, Role::Resigned(resigned))
        } else if election.voted_for(&own) && voters.is_voter(&own) {
            let tally = Tally::new(voters, own.id);
            (election.epoch, Role::Candidate(Candidate { tally, election_due_ms: due }))
        } else {
            let known = election.leader.map(|leader| (leader, voters.endpoints(leader)));
            let role = match known {
                Some((leader, endpoints)) if endpoints.get(&self.cfg.listener_name).is_some() => {
                    Role::Follower(self.new_follower(leader, endpoints, election.voted, now))
                }
                _ => Role::Unattached(Unattached {
                    leader: election.leader,
                    voted: election.voted,
                    election_due_ms: due,
                }),
            };
            (election.epoch, role)
        };
        self.set_role(epoch, role);
        let is_idle = matches!(self.role, Role::Unattached(_) | Role::Follower(_) | Role::Resigned(_));
        if self.is_only_voter() && is_idle {
            self.become_prospective(false, now);
        } else if let Role::Candidate(candidate) = &self.role
            && candidate.tally.is_granted()
        {
            self.become_leader(now);
        }
    }

    pub(crate) fn new_follower(
        &self,
        leader: i32,
        leader_endpoints: Endpoints,
        voted: Option<ReplicaKey>,
        now: Now,
    ) -> Follower {
        Follower {
            leader,
            leader_endpoints,
            voted,
            fetch_due_ms: now.mono_ms + self.cfg.fetch_timeout_ms,
            update_voter_due_ms: now.mono_ms + self.cfg.fetch_timeout_ms,
            has_fetched: false,
            has_updated_leader: false,
            download: None,
            evidence: Evidence::None,
        }
    }

    /// One to two election timeouts from now; never for an observer.
    pub(crate) fn election_due(&mut self, now: Now) -> i64 {
        if !self.is_voter() {
            return i64::MAX;
        }
        now.mono_ms + self.election_timeout()
    }

    /// DIFFERS: Kafka waits out an election timeout at start too, a second or two in which a new cluster does nothing. A
    /// node that has just come up has heard of no leader that it could disturb; if there is one, a PreVote finds out.
    fn first_election_due(&mut self, now: Now) -> i64 {
        if !self.is_voter() {
            return i64::MAX;
        }
        now.mono_ms + self.rng.i64(FIRST_ELECTION_MS)
    }

    pub(crate) fn election_timeout(&mut self) -> i64 {
        self.cfg.election_timeout_ms + self.rng.i64(0..self.cfg.election_timeout_ms.max(1))
    }

    // What others may ask.

    pub fn is_voter(&self) -> bool {
        self.history.voters().is_voter(&self.cfg.key())
    }

    pub(crate) fn is_only_voter(&self) -> bool {
        self.history.voters().is_only_voter(&self.cfg.key())
    }

    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    pub fn leader_and_epoch(&self) -> LeaderAndEpoch {
        LeaderAndEpoch { leader: self.election_state().leader, epoch: self.epoch }
    }

    /// Where the current leader takes requests of the quorum, if known.
    pub fn leader_endpoint(&self) -> Option<(i32, Endpoint)> {
        let leader = self.election_state().leader?;
        let endpoint = self.leader_endpoints().get(&self.cfg.listener_name)?.clone();
        Some((leader, endpoint))
    }

    pub fn role_name(&self) -> &'static str {
        self.role.name()
    }

    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// As this role knows it; a new leader does not until it has committed an entry of its own.
    pub fn high_watermark(&self) -> Option<i64> {
        match &self.role {
            Role::Leader(leader) => leader.high_watermark,
            _ => self.high_watermark,
        }
    }

    pub fn log_end(&self) -> OffsetAndEpoch {
        self.log.end()
    }

    pub fn log_start_offset(&self) -> i64 {
        self.log.start_offset()
    }

    pub fn voters(&self) -> &VoterSet {
        self.history.voters()
    }

    pub fn kraft_version(&self) -> i16 {
        self.history.kraft_version()
    }

    pub fn config(&self) -> &QuorumConfig {
        &self.cfg
    }

    pub(crate) fn own_voter(&self) -> Voter {
        Voter { key: self.cfg.key(), endpoints: self.cfg.listeners.clone(), kraft_versions: self.cfg.kraft_versions }
    }

    /// The durable view of the current role.
    pub(crate) fn election_state(&self) -> ElectionState {
        let own = self.cfg.key();
        let (leader, voted) = match &self.role {
            Role::Unattached(r) => (r.leader, r.voted),
            Role::Prospective(r) => (r.leader, r.voted),
            Role::Candidate(_) => (None, Some(own)),
            Role::Follower(r) => (Some(r.leader), r.voted),
            Role::Leader(_) | Role::Resigned(_) => (Some(own.id), None),
        };
        ElectionState { epoch: self.epoch, leader, voted }
    }

    pub(crate) fn leader_endpoints(&self) -> &Endpoints {
        static NONE: Endpoints = Endpoints::none();
        match &self.role {
            Role::Prospective(r) => &r.leader_endpoints,
            Role::Follower(r) => &r.leader_endpoints,
            Role::Leader(_) | Role::Resigned(_) => &self.cfg.listeners,
            Role::Unattached(_) | Role::Candidate(_) => &NONE,
        }
    }

    // Time.

    /// Does what is due. Every input does so too, so it is only to be called for [`Quorum::next_deadline`].
    pub fn tick(&mut self, now: Now) {
        self.turn(now);
    }

    /// The monotonic time at which [`Quorum::tick`] has something to do.
    pub fn next_deadline(&self) -> i64 {
        if self.is_stopped || self.failed.is_some() {
            return i64::MAX;
        }
        let role = match &self.role {
            Role::Unattached(r) => r.election_due_ms,
            Role::Prospective(r) => r.election_due_ms.min(r.ask_again_due_ms.unwrap_or(i64::MAX)),
            Role::Candidate(r) => r.election_due_ms,
            Role::Follower(r) => self.follower_deadline(r),
            Role::Leader(r) => {
                let others = r.begin_epoch_due_ms.min(r.check_quorum_due_ms);
                let change = r.change.as_ref().map_or(i64::MAX, |change| change.due_ms);
                change.min(if r.is_sole_voter() { i64::MAX } else { others })
            }
            Role::Resigned(r) => r.election_due_ms,
        };
        // A node that shuts down keeps its role until somebody else leads, whatever the role's own timer says.
        let role = match (&self.role, self.shutdown_due_ms) {
            (Role::Leader(_), Some(due)) => due.min(self.hand_over_due_ms),
            (_, Some(due)) => due,
            (_, None) => role,
        };
        let waiters = self.waiters.values().map(|waiter| waiter.due_ms).min().unwrap_or(i64::MAX);
        role.min(self.peers.next_deadline()).min(waiters).min(self.clean_due_ms).min(self.log.snapshots.next_deadline())
    }

    fn follower_deadline(&self, follower: &Follower) -> i64 {
        if !self.is_voter() {
            let joins = self.wants_to_join() && self.peers.is_ready(follower.leader);
            return if joins { follower.update_voter_due_ms } else { i64::MAX };
        }
        let stand = match follower.evidence {
            Evidence::Refused { stand_due_ms } => stand_due_ms,
            _ => i64::MAX,
        };
        // While a request is under way its answer decides when the update goes out.
        let update = if self.peers.is_ready(follower.leader) { follower.update_voter_due_ms } else { i64::MAX };
        follower.fetch_due_ms.min(update).min(stand)
    }

    /// The end of every input: role changes that are due, requests that are to go out, fetches that can be answered,
    /// and what the state machine is to hear.
    pub(crate) fn turn(&mut self, now: Now) {
        if self.is_stopped || self.failed.is_some() {
            return;
        }
        self.peers.expire(now.mono_ms);
        for (to, token) in self.peers.take_given_up() {
            self.effects.push(Effect::GiveUp { to, token });
        }
        let mut steps = 0;
        while !self.is_stopped && self.failed.is_none() && self.step(now) {
            steps += 1;
            assert!(steps < STEPS_MAX, "roles change in a circle: {}", self.role.name());
        }
        self.answer_fetches(now);
        self.flush();
        self.clean(now);
        self.tell_state_machine();
        if self.is_stopped {
            self.effects.push(Effect::ShutdownComplete);
        }
        if cfg!(debug_assertions) {
            self.check();
        }
    }

    /// Periodically gives up old snapshots and the log below them.
    fn clean(&mut self, now: Now) {
        self.log.snapshots.delete_doomed(now.mono_ms);
        if now.mono_ms < self.clean_due_ms {
            return;
        }
        self.clean_due_ms = now.mono_ms + CLEAN_PERIOD_MS;
        if let Err(error) = self.log.delete_doomed(now) {
            return self.fail(format!("cannot remove old segments of the metadata log: {error}"));
        }
        match self.log.clean(&self.cfg, now) {
            Ok(true) => tracing::info!(start = self.log.start_offset(), "metadata log cleaned"),
            Ok(false) => {}
            Err(error) => self.fail(format!("cannot clean the metadata log: {error}")),
        }
    }

    /// Starts a flush if there is something to flush and none is under way.
    pub(crate) fn flush(&mut self) {
        if self.needs_flush() {
            match self.log.begin_flush() {
                Ok(Some(work)) => self.effects.push(Effect::Flush(work)),
                Ok(None) => {}
                Err(error) => self.fail(format!("cannot flush the metadata log: {error}")),
            }
        }
    }

    /// Whether others may come to rely on our log: an observer that stays one is never counted.
    fn needs_flush(&self) -> bool {
        self.cfg.can_be_voter || self.is_voter()
    }

    /// A fetch says "I have everything before this offset", and must not say so before it is on disk.
    pub(crate) fn may_acknowledge_log(&self) -> bool {
        !self.needs_flush() || self.log.is_flushed() || self.cfg.mutations.ack_before_flush
    }

    /// The flush of [`Effect::Flush`] is done.
    pub fn on_flushed(&mut self, result: io::Result<()>, now: Now) {
        if let Err(error) = result {
            // What the kernel could not write may be lost, and a second fsync would not say so.
            self.fail(format!("cannot flush the metadata log: {error}"));
            return;
        }
        self.log.on_flushed();
        self.on_own_end(now);
        self.turn(now);
    }

    /// As leader: our own log is a candidate for the high watermark as far as it is flushed.
    pub(crate) fn on_own_end(&mut self, now: Now) {
        let end = if self.cfg.mutations.ack_before_flush { self.log.end().offset } else { self.log.flushed() };
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.on_own_end(end, now) {
            self.on_leader_high_watermark();
        }
    }

    pub(crate) fn on_leader_high_watermark(&mut self) {
        self.wake_fetches = true;
        self.maybe_finish_change();
    }

    // Outputs.

    /// The effects since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.effects);
        if self.failed.is_some() {
            effects.retain(|effect| matches!(effect, Effect::Fatal { .. }));
        }
        effects
    }

    pub(crate) fn send(&mut self, to: Peer, request: Request, now: Now) {
        if self.peers.is_ready(to.id) {
            let token = self.peers.on_sent(to.id, now.mono_ms);
            tracing::trace!(?to, ?request, "send");
            self.effects.push(Effect::Send { to, request, token });
        }
    }

    /// Tells what is committed and who leads, in this order: a new leader's state machine must have been offered
    /// everything of its predecessors before it hears that it leads.
    fn tell_state_machine(&mut self) {
        if let Some(high_watermark) = self.high_watermark().filter(|&hw| hw > self.committed) {
            self.committed = high_watermark;
            self.log.on_high_watermark(high_watermark);
            self.effects.push(Effect::Committed { upto: high_watermark });
        }
        let now = self.leader_and_epoch();
        let is_me = now.leader == Some(self.cfg.node_id);
        let tell = match &mut self.role {
            Role::Leader(leader) => {
                let caught_up = leader.high_watermark.is_some_and(|hw| hw > leader.epoch_start_offset);
                caught_up && !std::mem::replace(&mut leader.is_announced, caught_up)
            }
            // DIFFERS: Kafka says nothing until a higher epoch is known; here the state machine hears at once that it
            // may not write any more.
            Role::Resigned(_) => {
                if self.announced == now {
                    self.announced.leader = None;
                    self.effects.push(Effect::LeaderChanged { leader: None, epoch: now.epoch, is_me: false });
                }
                false
            }
            _ => {
                let news = now.epoch > self.announced.epoch;
                let found =
                    now.epoch == self.announced.epoch && self.announced.leader.is_none() && now.leader.is_some();
                (news || found) && !is_me
            }
        };
        if tell {
            self.announced = now;
            self.effects.push(Effect::LeaderChanged { leader: now.leader, epoch: now.epoch, is_me });
        }
    }

    /// The disk cannot be relied on, or we are about to break a promise: nothing leaves this node any more.
    pub(crate) fn fail(&mut self, message: String) {
        tracing::error!(message, "the quorum stops");
        if self.failed.is_none() {
            self.effects.push(Effect::Fatal { message: message.clone() });
            self.failed = Some(message);
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Writes what is durable of a role, if it differs from what is there, before the role is acted on.
    pub(crate) fn persist(&mut self) {
        let state = self.election_state();
        if self.persisted.as_ref() == Some(&state) || self.cfg.mutations.vote_not_persisted {
            return;
        }
        let history = &self.history;
        match self.state_file.write(&state, history.voters(), history.kraft_version()) {
            Ok(()) => self.persisted = Some(state),
            Err(error) => {
                let path = self.state_file.path().display().to_string();
                self.fail(format!("cannot write {path}: {error}"));
            }
        }
    }

    /// Checks what must always hold; called after each event in debug builds and by the simulator.
    pub fn check(&self) {
        assert!(self.epoch >= self.log.last_epoch(), "epoch {} is behind the log", self.epoch);
        let end = self.log.end().offset;
        assert!(self.committed <= end, "committed {} is beyond the log's end {end}", self.committed);
        assert!(self.high_watermark().is_none_or(|hw| hw <= end));
        assert!(self.log.flushed() <= end);
        if self.failed.is_none() && !self.cfg.mutations.vote_not_persisted && !matches!(self.role, Role::Resigned(_)) {
            assert_eq!(self.persisted.as_ref(), Some(&self.election_state()), "disk and memory differ");
        }
        match &self.role {
            Role::Leader(leader) => {
                leader.check();
                assert!(leader.epoch_start_offset < end || self.failed.is_some());
            }
            Role::Follower(follower) => {
                assert_ne!(follower.leader, self.cfg.node_id);
                assert!(follower.leader_endpoints.get(&self.cfg.listener_name).is_some());
            }
            Role::Prospective(_) | Role::Candidate(_) => assert!(self.is_voter()),
            Role::Unattached(_) | Role::Resigned(_) => {}
        }
    }
}

/// Whom to ask who leads: the bootstrap servers, or else the static voters; not ourselves.
fn bootstrap_peers(cfg: &QuorumConfig) -> Vec<Peer> {
    let own = cfg.listeners.get(&cfg.listener_name);
    if cfg.bootstrap_servers.is_empty() {
        let others = cfg.static_voters.iter().filter(|(id, _)| **id != cfg.node_id);
        return others.map(|(&id, endpoint)| Peer { id, endpoint: endpoint.clone() }).collect();
    }
    let ids = (0..).map(|n| FIRST_BOOTSTRAP_ID - n);
    let servers = ids.zip(cfg.bootstrap_servers.iter()).filter(|(_, endpoint)| Some(*endpoint) != own);
    servers.map(|(id, endpoint)| Peer { id, endpoint: endpoint.clone() }).collect()
}
