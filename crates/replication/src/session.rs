//! Fetch sessions on the leader's side (KIP-227): what a reader asked for once need not be asked, nor answered, again.
//!
//! A session knows which of its partitions may have something to say (`ready`), so that a fetch costs what has
//! changed, not what is watched.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::time::Now;

use crate::PartitionKey;
use crate::fetcher::next_epoch;

/// A session not used for this long may make room for another (`min.incremental.fetch.session.eviction.ms`).
const EVICTION_MS: i64 = 120_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub i32);

/// One partition as its reader last asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    pub offset: i64,
    pub log_start: i64,
    pub bytes_max: u32,
    pub leader_epoch: i32,
    pub last_fetched_epoch: i32,
    /// What the reader was told last; −1 before it was told anything.
    pub sent_high_watermark: i64,
    pub sent_log_start: i64,
}

impl SessionEntry {
    /// The same question as before; what was answered does not count.
    fn asks_like(&self, other: &SessionEntry) -> bool {
        (self.offset, self.log_start, self.bytes_max, self.leader_epoch, self.last_fetched_epoch)
            == (other.offset, other.log_start, other.bytes_max, other.leader_epoch, other.last_fetched_epoch)
    }
}

#[derive(Debug)]
pub struct FetchSession {
    pub is_follower: bool,
    pub uses_topic_ids: bool,
    epoch_next: i32,
    last_used_ms: i64,
    partitions: BTreeMap<PartitionKey, SessionEntry>,
    /// Partitions asked for by a topic id that is not (yet) known here: they are answered with an error each time.
    ready: BTreeSet<PartitionKey>,
    /// Where the next answer begins to look, so that one busy partition does not starve the ones behind it.
    resume_at: Option<PartitionKey>,
}

impl FetchSession {
    pub fn new(is_follower: bool, uses_topic_ids: bool) -> Self {
        Self {
            is_follower,
            uses_topic_ids,
            epoch_next: 1,
            last_used_ms: 0,
            partitions: BTreeMap::new(),
            ready: BTreeSet::new(),
            resume_at: None,
        }
    }

    /// Adds or updates a partition; returns whether it is new here.
    pub fn put(&mut self, key: PartitionKey, entry: SessionEntry) -> bool {
        self.ready.insert(key);
        match self.partitions.get_mut(&key) {
            Some(known) => {
                if !known.asks_like(&entry) {
                    let told = (known.sent_high_watermark, known.sent_log_start);
                    *known = SessionEntry { sent_high_watermark: told.0, sent_log_start: told.1, ..entry };
                }
                false
            }
            None => self.partitions.insert(key, entry).is_none(),
        }
    }

    pub fn forget(&mut self, key: PartitionKey) {
        self.partitions.remove(&key);
        self.ready.remove(&key);
    }

    pub fn entry(&self, key: PartitionKey) -> Option<&SessionEntry> {
        self.partitions.get(&key)
    }

    pub fn keys(&self) -> impl Iterator<Item = PartitionKey> + '_ {
        self.partitions.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.partitions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// The partition changed: the next answer looks at it.
    pub fn touch(&mut self, key: PartitionKey) {
        if self.partitions.contains_key(&key) {
            self.ready.insert(key);
        }
    }

    /// Partitions that may have something to say, in the order in which to look at them.
    pub fn ready(&self) -> Vec<(PartitionKey, SessionEntry)> {
        let from = self.resume_at.unwrap_or_default();
        let order = self.ready.range(from..).chain(self.ready.range(..from));
        order.filter_map(|key| Some((*key, *self.partitions.get(key)?))).collect()
    }

    /// A partition had nothing (more) to say; it is looked at again when it changes or is asked for.
    pub fn settle(&mut self, key: PartitionKey) {
        self.ready.remove(&key);
    }

    pub fn told(&mut self, key: PartitionKey, high_watermark: i64, log_start: i64) {
        if let Some(entry) = self.partitions.get_mut(&key) {
            entry.sent_high_watermark = high_watermark;
            entry.sent_log_start = log_start;
        }
    }

    /// The answer was full when it came to this partition: it goes first next time.
    pub fn resume_at(&mut self, key: PartitionKey) {
        self.resume_at = Some(key);
    }
}

/// All sessions of a broker, at most `max.incremental.fetch.session.cache.slots`.
pub struct FetchSessions {
    slots_max: usize,
    sessions: BTreeMap<SessionId, FetchSession>,
    by_partition: BTreeMap<PartitionKey, Vec<SessionId>>,
}

impl FetchSessions {
    pub fn new(slots_max: usize) -> Self {
        Self { slots_max, sessions: BTreeMap::new(), by_partition: BTreeMap::new() }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Gives a session a slot and a name; `None` (and the session back) if all slots are taken by sessions in use.
    /// `random` is drawn until a free id comes.
    pub fn open(
        &mut self,
        mut session: FetchSession,
        mut random: impl FnMut() -> i32,
        now: Now,
    ) -> Result<SessionId, Box<FetchSession>> {
        if self.sessions.len() >= self.slots_max && !self.evict(&session, now) {
            return Err(Box::new(session));
        }
        let id = loop {
            let id = SessionId(random() & i32::MAX);
            if id.0 != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        session.last_used_ms = now.mono_ms;
        for key in session.keys() {
            self.by_partition.entry(key).or_default().push(id);
        }
        self.sessions.insert(id, session);
        Ok(id)
    }

    /// Rule 24: an idle session goes, or a consumer's for a follower's.
    fn evict(&mut self, for_session: &FetchSession, now: Now) -> bool {
        let oldest = self.sessions.iter().min_by_key(|(_, s)| s.last_used_ms);
        let idle = oldest.filter(|(_, s)| now.mono_ms - s.last_used_ms > EVICTION_MS).map(|(id, _)| *id);
        let unprivileged = || {
            let consumers = self.sessions.iter().filter(|(_, s)| !s.is_follower);
            consumers.min_by_key(|(_, s)| s.last_used_ms).map(|(id, _)| *id).filter(|_| for_session.is_follower)
        };
        match idle.or_else(unprivileged) {
            Some(id) => {
                self.close(id);
                true
            }
            None => false,
        }
    }

    pub fn close(&mut self, id: SessionId) -> Option<FetchSession> {
        let session = self.sessions.remove(&id)?;
        for key in session.keys() {
            self.unsubscribe(key, id);
        }
        Some(session)
    }

    fn unsubscribe(&mut self, key: PartitionKey, id: SessionId) {
        if let Some(ids) = self.by_partition.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_partition.remove(&key);
            }
        }
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut FetchSession> {
        self.sessions.get_mut(&id)
    }

    /// The session that an incremental request means, its count moved on.
    pub fn resume(
        &mut self,
        id: SessionId,
        epoch: i32,
        uses_topic_ids: bool,
        now: Now,
    ) -> Result<&mut FetchSession, ErrorCode> {
        let session = self.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch_next != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_topic_ids != uses_topic_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        session.epoch_next = next_epoch(epoch);
        session.last_used_ms = now.mono_ms;
        Ok(session)
    }

    pub fn put(&mut self, id: SessionId, key: PartitionKey, entry: SessionEntry) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.put(key, entry) {
            self.by_partition.entry(key).or_default().push(id);
        }
    }

    pub fn forget(&mut self, id: SessionId, key: PartitionKey) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.forget(key);
            self.unsubscribe(key, id);
        }
    }

    /// A partition changed; returns the sessions that watch it.
    pub fn touch(&mut self, key: PartitionKey) -> Vec<SessionId> {
        let ids = self.by_partition.get(&key).cloned().unwrap_or_default();
        for id in &ids {
            if let Some(session) = self.sessions.get_mut(id) {
                session.touch(key);
            }
        }
        ids
    }
}
