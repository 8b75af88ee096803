//! Fetch sessions on the leader's side (KIP-227): what a reader asked for once need not be asked, nor answered, again.
//!
//! A session knows which of its partitions may have something to say (`ready`), so that a fetch costs what has
//! changed, not what is watched.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::PartitionKey;
use crate::fetcher::next_epoch;

/// A session not used for this long may make room for another (`min.incremental.fetch.session.eviction.ms`).
const EVICTION_MS: i64 = 120_000;

/// Partitions of topics that do not exist, in one session.
const MISSING_MAX: usize = 1_000;

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
    /// Each with its place in the order in which answers look at them.
    partitions: BTreeMap<PartitionKey, (u64, SessionEntry)>,
    /// Partitions that may have something to say, by their places. Those asked for by a topic id that is not (yet)
    /// known here are among them: they are answered with an error each time.
    ready: BTreeMap<u64, PartitionKey>,
    place_next: u64,
    /// In a session by names: what the topics were called when they were asked for.
    names: BTreeMap<Uuid, String>,
    /// In a session by names: partitions of topics that do not exist.
    missing: BTreeMap<(String, i32), SessionEntry>,
}

impl FetchSession {
    pub fn new(is_follower: bool, uses_topic_ids: bool) -> Self {
        Self {
            is_follower,
            uses_topic_ids,
            epoch_next: 1,
            last_used_ms: 0,
            partitions: BTreeMap::new(),
            ready: BTreeMap::new(),
            place_next: 0,
            names: BTreeMap::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Adds or updates a partition; returns whether it is new here.
    pub fn put(&mut self, key: PartitionKey, entry: SessionEntry) -> bool {
        match self.partitions.get_mut(&key) {
            Some((place, known)) => {
                if !known.asks_like(&entry) {
                    let told = (known.sent_high_watermark, known.sent_log_start);
                    *known = SessionEntry { sent_high_watermark: told.0, sent_log_start: told.1, ..entry };
                }
                self.ready.insert(*place, key);
                false
            }
            None => {
                let place = self.next_place();
                self.ready.insert(place, key);
                self.partitions.insert(key, (place, entry)).is_none()
            }
        }
    }

    fn next_place(&mut self) -> u64 {
        self.place_next += 1;
        self.place_next
    }

    pub fn forget(&mut self, key: PartitionKey) {
        if let Some((place, _)) = self.partitions.remove(&key) {
            self.ready.remove(&place);
        }
    }

    pub fn entry(&self, key: PartitionKey) -> Option<&SessionEntry> {
        self.partitions.get(&key).map(|(_, entry)| entry)
    }

    pub fn keys(&self) -> impl Iterator<Item = PartitionKey> + '_ {
        self.partitions.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.partitions.len() + self.missing.len()
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty() && self.missing.is_empty()
    }

    /// The partition changed: the next answer looks at it.
    pub fn touch(&mut self, key: PartitionKey) {
        if let Some((place, _)) = self.partitions.get(&key) {
            self.ready.insert(*place, key);
        }
    }

    /// Partitions that may have something to say, in the order in which to look at them.
    pub fn ready(&self) -> Vec<(PartitionKey, SessionEntry)> {
        self.ready.values().filter_map(|key| Some((*key, self.partitions.get(key)?.1))).collect()
    }

    /// A partition had nothing (more) to say; it is looked at again when it changes or is asked for.
    pub fn settle(&mut self, key: PartitionKey) {
        if let Some((place, _)) = self.partitions.get(&key) {
            self.ready.remove(place);
        }
    }

    pub fn told(&mut self, key: PartitionKey, high_watermark: i64, log_start: i64) {
        if let Some((_, entry)) = self.partitions.get_mut(&key) {
            entry.sent_high_watermark = high_watermark;
            entry.sent_log_start = log_start;
        }
    }

    /// The partition had data: others go first next time, so that a busy one does not starve them.
    pub fn move_back(&mut self, key: PartitionKey) {
        let to = self.next_place();
        let Some((place, _)) = self.partitions.get_mut(&key) else { return };
        let was_ready = self.ready.remove(place).is_some();
        *place = to;
        if was_ready {
            self.ready.insert(to, key);
        }
    }

    /// What a topic is called in this session, whatever becomes of it.
    pub fn name(&mut self, topic: Uuid, name: &str) {
        self.names.entry(topic).or_insert_with(|| name.to_owned());
    }

    pub fn name_of(&self, topic: Uuid) -> Option<&str> {
        self.names.get(&topic).map(String::as_str)
    }

    /// Topics of this session by the names under which they were asked for.
    pub fn names(&self) -> impl Iterator<Item = (Uuid, &str)> {
        self.names.iter().map(|(id, name)| (*id, name.as_str()))
    }

    /// A partition of a topic that does not exist; at most [`MISSING_MAX`] are remembered.
    pub fn put_missing(&mut self, name: &str, partition: i32, entry: SessionEntry) {
        if self.missing.len() < MISSING_MAX {
            self.missing.insert((name.to_owned(), partition), entry);
        }
    }

    pub fn forget_missing(&mut self, name: &str, partition: i32) -> Option<SessionEntry> {
        self.missing.remove(&(name.to_owned(), partition))
    }

    pub fn missing(&self) -> impl Iterator<Item = (&str, i32)> {
        self.missing.keys().map(|(name, partition)| (name.as_str(), *partition))
    }

    /// A topic is gone: its partitions are asked for by a name that nobody has.
    fn lose_topic(&mut self, topic: Uuid) -> Vec<PartitionKey> {
        let Some(name) = self.names.remove(&topic) else { return Vec::new() };
        let of_topic = self.partitions.range((topic, i32::MIN)..=(topic, i32::MAX));
        let lost: Vec<(PartitionKey, SessionEntry)> = of_topic.map(|(key, (_, entry))| (*key, *entry)).collect();
        for (key, entry) in &lost {
            self.forget(*key);
            self.put_missing(&name, key.1, *entry);
        }
        lost.into_iter().map(|(key, _)| key).collect()
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

    /// In a session by names: a topic that was asked for has been deleted.
    pub fn lose_topic(&mut self, id: SessionId, topic: Uuid) {
        let lost = self.sessions.get_mut(&id).map(|session| session.lose_topic(topic)).unwrap_or_default();
        for key in lost {
            self.unsubscribe(key, id);
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
