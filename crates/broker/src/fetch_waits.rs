//! Fetches that wait for data: what they ask, and which change of which partition may satisfy them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::time::Now;
use replication::{FetchSession, Isolation, PartitionKey, Reader, SessionId};

use crate::effect::ConnId;
use crate::node::Node;
use crate::reply::ReplyTo;

pub(crate) enum FetchSource {
    Session(SessionId),
    /// A request that stands alone.
    Own(Box<FetchSession>),
}

pub(crate) struct FetchWait {
    pub reply: ReplyTo,
    pub source: FetchSource,
    /// Every partition is answered, not only those with news: the first answer of a session, and any without one.
    pub is_full: bool,
    pub reader: Reader,
    pub isolation: Isolation,
    pub min_bytes: u64,
    pub max_bytes: u32,
    pub listener: Option<usize>,
    pub deadline_ms: i64,
    /// The reader's client id, if there are quotas.
    pub client: Option<Arc<str>>,
}

/// Invariants: `by_session` and `by_partition` name waits that exist.
#[derive(Default)]
pub(crate) struct FetchWaits {
    next: u64,
    waits: BTreeMap<u64, FetchWait>,
    by_session: BTreeMap<SessionId, u64>,
    by_partition: BTreeMap<PartitionKey, Vec<u64>>,
    deadlines: BTreeSet<(i64, u64)>,
}

impl FetchWaits {
    pub fn next_deadline(&self) -> i64 {
        self.deadlines.first().map_or(i64::MAX, |(at, _)| *at)
    }

    pub fn add(&mut self, wait: FetchWait) {
        let id = self.next;
        self.next += 1;
        match &wait.source {
            FetchSource::Session(session) => {
                self.by_session.insert(*session, id);
            }
            FetchSource::Own(session) => {
                for key in session.keys() {
                    self.by_partition.entry(key).or_default().push(id);
                }
            }
        }
        self.deadlines.insert((wait.deadline_ms, id));
        self.waits.insert(id, wait);
    }

    pub fn remove(&mut self, id: u64) -> Option<FetchWait> {
        let wait = self.waits.remove(&id)?;
        self.untrack(id, &wait);
        Some(wait)
    }

    /// Takes a wait out to look at it; [`FetchWaits::put_back`] or [`FetchWaits::untrack`] follows at once.
    pub fn take(&mut self, id: u64) -> Option<FetchWait> {
        self.waits.remove(&id)
    }

    pub fn put_back(&mut self, id: u64, wait: FetchWait) {
        self.waits.insert(id, wait);
    }

    pub fn untrack(&mut self, id: u64, wait: &FetchWait) {
        self.deadlines.remove(&(wait.deadline_ms, id));
        match &wait.source {
            FetchSource::Session(session) => {
                if self.by_session.get(session) == Some(&id) {
                    self.by_session.remove(session);
                }
            }
            FetchSource::Own(session) => {
                for key in session.keys() {
                    if let Some(ids) = self.by_partition.get_mut(&key) {
                        ids.retain(|other| *other != id);
                        if ids.is_empty() {
                            self.by_partition.remove(&key);
                        }
                    }
                }
            }
        }
    }

    pub fn of_session(&self, session: SessionId) -> Option<u64> {
        self.by_session.get(&session).copied()
    }

    pub fn of_partition(&self, key: PartitionKey) -> &[u64] {
        self.by_partition.get(&key).map_or(&[], Vec::as_slice)
    }

    /// A partition of a request that stands alone changed.
    pub fn touch(&mut self, id: u64, key: PartitionKey) {
        if let Some(FetchWait { source: FetchSource::Own(session), .. }) = self.waits.get_mut(&id) {
            session.touch(key);
        }
    }

    pub fn due(&self, now: Now) -> Vec<u64> {
        self.deadlines.iter().take_while(|(at, _)| *at <= now.mono_ms).map(|(_, id)| *id).collect()
    }

    fn all(&self) -> Vec<u64> {
        self.waits.keys().copied().collect()
    }

    pub fn forget_connection(&mut self, conn: ConnId) {
        let gone: Vec<u64> =
            self.waits.iter().filter(|(_, w)| w.reply.to.conn() == Some(conn)).map(|(id, _)| *id).collect();
        for id in gone {
            self.remove(id);
        }
    }
}

impl Node {
    /// Wakes whoever waits for a partition that changed in this turn, each once.
    pub(crate) fn settle_touched(&mut self, now: Now) -> bool {
        if self.replicas.touched.is_empty() {
            return false;
        }
        let mut fetches = BTreeSet::new();
        for key in std::mem::take(&mut self.replicas.touched) {
            self.replicas.note_growth(key);
            self.groups.runtime.on_moved(key);
            self.transactions.runtime.on_moved(key);
            self.settle_produces(key);
            self.settle_deletes(key);
            for session in self.replicas.sessions.touch(key) {
                fetches.extend(self.replicas.fetches.of_session(session));
            }
            for id in self.replicas.fetches.of_partition(key).to_vec() {
                self.replicas.fetches.touch(id, key);
                fetches.insert(id);
            }
        }
        for id in fetches {
            self.recheck_fetch(id, now);
        }
        true
    }

    pub(crate) fn expire_waits(&mut self, now: Now) {
        self.expire_produces(now);
        self.expire_deletes(now);
        for id in self.replicas.fetches.due(now) {
            self.end_fetch(id, now);
        }
    }

    pub(crate) fn end_all_fetches(&mut self, now: Now) {
        for id in self.replicas.fetches.all() {
            self.end_fetch(id, now);
        }
    }
}
