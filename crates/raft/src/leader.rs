//! What a leader knows of the others: how far each has fetched, and so what is committed (`LeaderState`).

use std::collections::{BTreeMap, BTreeSet};

use protocol::time::Now;

use crate::config::{Mutations, QuorumConfig};
use crate::types::{Endpoints, ReplicaKey};
use crate::voter_changes::VoterChange;
use crate::voters::{Voter, VoterSet};

/// Observers that have not fetched for this long are no longer listed.
const OBSERVER_SESSION_MS: i64 = 300_000;
/// Observers remembered at most; beyond, the longest silent one is forgotten. Each costs about 100 bytes.
const OBSERVERS_MAX: usize = 10_000;

/// What is known of one replica.
#[derive(Clone, Debug)]
pub struct Progress {
    pub key: ReplicaKey,
    pub endpoints: Endpoints,
    /// Everything below is flushed on the replica: for a follower the offset it fetches from.
    pub end_offset: Option<i64>,
    pub last_fetch: Option<Now>,
    /// Wall clock of the last moment at which the replica had all that we had; −1 if never.
    pub last_caught_up_ms: i64,
    /// Our log end at its last fetch.
    last_fetch_log_end: i64,
}

impl Progress {
    fn new(key: ReplicaKey, endpoints: Endpoints) -> Self {
        Self { key, endpoints, end_offset: None, last_fetch: None, last_caught_up_ms: -1, last_fetch_log_end: -1 }
    }

    pub fn last_fetch_wall_ms(&self) -> i64 {
        self.last_fetch.map_or(-1, |at| at.wall_ms)
    }

    fn on_fetch(&mut self, fetch_offset: i64, log_end: i64, now: Now) {
        if fetch_offset >= log_end {
            self.last_caught_up_ms = self.last_caught_up_ms.max(now.wall_ms);
        } else if self.last_fetch_log_end > 0 && fetch_offset >= self.last_fetch_log_end {
            // It has now reached what was the end when it fetched the last time, so it was caught up then.
            self.last_caught_up_ms = self.last_caught_up_ms.max(self.last_fetch_wall_ms());
        }
        self.last_fetch_log_end = log_end;
        self.last_fetch = Some(now);
        self.end_offset = Some(fetch_offset);
    }
}

/// Invariants: `high_watermark` never goes back and, unless absent, is beyond `epoch_start_offset`; a key is in
/// `voters` or in `observers`, not in both; `fetched_voters` never holds ourselves.
#[derive(Clone, Debug)]
pub struct Leader {
    pub own: Voter,
    pub epoch_start_offset: i64,
    /// Absent until an entry of our own epoch is committed: only then is it certain that the new value is not below
    /// what an earlier leader has shown.
    pub high_watermark: Option<i64>,
    pub voters: BTreeMap<i32, Progress>,
    pub observers: BTreeMap<ReplicaKey, Progress>,
    /// Voters that fetched since `check_quorum_due_ms` was last pushed on.
    fetched_voters: BTreeSet<i32>,
    pub check_quorum_due_ms: i64,
    pub begin_epoch_due_ms: i64,
    /// The state machine asked us to step down.
    pub resign_requested: bool,
    /// With kraft.version 0: the voters as they describe themselves by UpdateRaftVoter, kept for an upgrade.
    pub volatile_voters: Option<VoterSet>,
    /// The change of the voters that is under way; there is never a second one.
    pub change: Option<VoterChange>,
    /// The state machine was told that we lead.
    pub is_announced: bool,
    mutations: Mutations,
}

impl Leader {
    pub fn new(own: Voter, voters: &VoterSet, kraft_version: i16, start: i64, cfg: &QuorumConfig, now: Now) -> Self {
        let mut leader = Self {
            volatile_voters: (kraft_version == 0).then(|| voters.updated_ignoring_directory(own.clone())).flatten(),
            own,
            change: None,
            epoch_start_offset: start,
            high_watermark: None,
            voters: BTreeMap::new(),
            observers: BTreeMap::new(),
            fetched_voters: BTreeSet::new(),
            check_quorum_due_ms: now.mono_ms + check_quorum_timeout_ms(cfg),
            begin_epoch_due_ms: now.mono_ms,
            resign_requested: false,
            is_announced: false,
            mutations: cfg.mutations,
        };
        leader.on_voters(voters);
        leader
    }

    /// The voter set changed: progress moves between voters and observers.
    pub fn on_voters(&mut self, voters: &VoterSet) {
        let mut old = std::mem::take(&mut self.voters);
        for voter in voters.iter() {
            let known = match old.get(&voter.key.id) {
                Some(progress) if progress.key.admits(&voter.key) => old.remove(&voter.key.id),
                _ => self.observers.remove(&voter.key),
            };
            let mut progress = known.unwrap_or_else(|| Progress::new(voter.key, Endpoints::default()));
            self.observers.remove(&voter.key);
            progress.key = voter.key;
            progress.endpoints = voter.endpoints.clone();
            self.voters.insert(voter.key.id, progress);
        }
        for (_, mut progress) in old {
            progress.endpoints = Endpoints::default();
            self.observers.entry(progress.key).or_insert(progress);
        }
        let voters = &self.voters;
        self.fetched_voters.retain(|id| voters.contains_key(id));
    }

    pub fn is_voter(&self, key: &ReplicaKey) -> bool {
        self.voters.get(&key.id).is_some_and(|progress| progress.key.admits(key))
    }

    fn is_own_id_voter(&self) -> bool {
        self.voters.contains_key(&self.own.key.id)
    }

    fn progress_mut(&mut self, key: ReplicaKey, now: Now) -> &mut Progress {
        if self.is_voter(&key) {
            return self.voters.get_mut(&key.id).expect("is_voter has just found it");
        }
        if self.observers.len() >= OBSERVERS_MAX && !self.observers.contains_key(&key) {
            self.forget_silent_observers(now);
            let longest = self.observers.values().min_by_key(|p| p.last_fetch_wall_ms()).map(|p| p.key);
            if let Some(longest) = longest.filter(|_| self.observers.len() >= OBSERVERS_MAX) {
                self.observers.remove(&longest);
            }
        }
        self.observers.entry(key).or_insert_with(|| Progress::new(key, Endpoints::default()))
    }

    /// Our own log is flushed up to `flushed`. Answers whether the high watermark moved.
    pub fn on_own_end(&mut self, flushed: i64, now: Now) -> bool {
        let own = self.own.key;
        let progress = self.progress_mut(own, now);
        progress.end_offset = Some(progress.end_offset.unwrap_or(0).max(flushed));
        self.maybe_advance()
    }

    /// A replica asks for what follows `fetch_offset`, so it has everything before. Answers whether the high
    /// watermark moved.
    pub fn on_fetch(&mut self, key: ReplicaKey, fetch_offset: i64, log_end: i64, cfg: &QuorumConfig, now: Now) -> bool {
        let progress = self.progress_mut(key, now);
        if let Some(before) = progress.end_offset.filter(|&before| before > fetch_offset) {
            tracing::warn!(replica = %key, before, fetch_offset, "a replica fetches from an earlier offset than before");
        }
        progress.on_fetch(fetch_offset, log_end, now);
        self.on_voter_alive(key, cfg, now);
        self.is_voter(&key) && self.maybe_advance()
    }

    /// A voter has fetched, or done as much. Once enough of them have, we may go on leading for another period.
    pub fn on_voter_alive(&mut self, key: ReplicaKey, cfg: &QuorumConfig, now: Now) {
        if key.id != self.own.key.id && self.is_voter(&key) {
            self.fetched_voters.insert(key.id);
        }
        let others = self.majority().saturating_sub(usize::from(self.is_own_id_voter()));
        if self.fetched_voters.len() >= others {
            self.fetched_voters.clear();
            self.check_quorum_due_ms = now.mono_ms + check_quorum_timeout_ms(cfg);
        }
    }

    fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// No majority has fetched for one and a half fetch timeouts: another leader may exist by now.
    pub fn has_lost_quorum(&self, now: Now) -> bool {
        !self.is_sole_voter() && now.mono_ms >= self.check_quorum_due_ms
    }

    /// There is nobody else to hear from. A leader that was removed has its successors to care for.
    pub fn is_sole_voter(&self) -> bool {
        self.voters.len() == 1 && self.is_own_id_voter()
    }

    fn maybe_advance(&mut self) -> bool {
        let mut ends: Vec<Option<i64>> = self.voters.values().map(|progress| progress.end_offset).collect();
        ends.sort_by(|a, b| b.cmp(a));
        let mut index = ends.len() / 2;
        if self.mutations.commit_without_majority {
            index = index.saturating_sub(1);
        }
        let Some(Some(offset)) = ends.get(index).copied() else { return false };
        // Raft §5.4.2: what an earlier epoch left is only safe behind a committed entry of our own.
        if offset <= self.epoch_start_offset && !self.mutations.commit_earlier_epochs {
            return false;
        }
        match self.high_watermark {
            Some(current) if offset <= current => {
                if offset < current {
                    tracing::info!(
                        offset,
                        current,
                        "the majority's end is below the high watermark: the voters changed"
                    );
                }
                false
            }
            _ => {
                self.high_watermark = Some(offset);
                true
            }
        }
    }

    /// Voters that have not fetched lately and are to be told that we lead.
    pub fn silent_voters(&self, period_ms: i64, now: Now) -> Vec<ReplicaKey> {
        let silent = |p: &&Progress| p.last_fetch.is_none_or(|at| now.mono_ms - at.mono_ms >= period_ms);
        self.voters.values().filter(|p| p.key.id != self.own.key.id).filter(silent).map(|p| p.key).collect()
    }

    /// The other voters, best log first: in this order they should stand for election when we resign.
    pub fn preferred_successors(&self) -> Vec<ReplicaKey> {
        let mut others: Vec<&Progress> = self.voters.values().filter(|p| !p.key.admits(&self.own.key)).collect();
        others.sort_by(|a, b| b.end_offset.cmp(&a.end_offset).then(a.key.cmp(&b.key)));
        others.into_iter().map(|progress| progress.key).collect()
    }

    /// Another voter has everything up to `log_end`.
    pub fn has_successor(&self, log_end: i64) -> bool {
        let others = self.voters.values().filter(|progress| progress.key.id != self.own.key.id);
        others.into_iter().any(|progress| progress.end_offset.is_some_and(|end| end >= log_end))
    }

    pub fn forget_silent_observers(&mut self, now: Now) {
        let own = self.own.key;
        self.observers.retain(|key, progress| {
            *key == own || progress.last_fetch.is_some_and(|at| now.mono_ms - at.mono_ms < OBSERVER_SESSION_MS)
        });
    }

    pub fn check(&self) {
        assert!(
            self.high_watermark.is_none_or(|hw| hw > self.epoch_start_offset) || self.mutations.commit_earlier_epochs
        );
        assert!(!self.fetched_voters.contains(&self.own.key.id));
        assert!(self.voters.iter().all(|(id, progress)| *id == progress.key.id));
        assert!(self.observers.keys().all(|key| self.voters.get(&key.id).is_none_or(|p| p.key != *key)));
    }
}

/// Kafka's `CHECK_QUORUM_TIMEOUT_FACTOR`: time for a fetch to be late without harm.
fn check_quorum_timeout_ms(cfg: &QuorumConfig) -> i64 {
    cfg.fetch_timeout_ms * 3 / 2
}
