//! What a follower asks of one leader, and what it makes of the answers (KIP-227 from the reader's side).
//!
//! A request names only partitions whose position changed since the leader last heard of them, so that a thousand idle
//! partitions cost nothing. Sending, reading and writing are the node's.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use protocol::messages::fetch_response::PartitionData;
use protocol::messages::{FetchRequest, FetchResponse};
use protocol::time::Now;

use crate::PartitionKey;

/// Where a follower goes on, and under which leader epoch it believes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPosition {
    pub offset: i64,
    pub log_start: i64,
    pub last_epoch: i32,
    pub leader_epoch: i32,
}

/// One partition's part of an answer, with what was asked.
pub struct Fetched<'a> {
    pub key: PartitionKey,
    pub asked: FetchPosition,
    pub data: &'a PartitionData<'a>,
}

/// What the node made of one partition's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetcherOutcome {
    /// Log and position are as asked: the leader need not be told anything.
    Unchanged,
    /// Appended or truncated: the next request says where we are.
    Moved,
    /// Ask again after this time.
    Backoff { until_ms: i64 },
}

pub struct Limits {
    pub min_bytes: i32,
    pub max_wait_ms: i32,
    pub partition_max_bytes: i32,
    pub response_max_bytes: i32,
}

/// Invariants: `sent` and `leaving` together are what the leader's session holds; `changed` and `delayed` name only
/// `wanted` partitions.
pub struct Fetcher {
    local: i32,
    session_id: i32,
    session_epoch: i32,
    wanted: BTreeSet<PartitionKey>,
    sent: BTreeMap<PartitionKey, FetchPosition>,
    changed: BTreeSet<PartitionKey>,
    /// In the leader's session, and not to stay there.
    leaving: BTreeSet<PartitionKey>,
    delayed: BTreeMap<PartitionKey, i64>,
    in_flight: bool,
    not_before_ms: i64,
}

impl Fetcher {
    pub fn new(local: i32) -> Self {
        Self {
            local,
            session_id: 0,
            session_epoch: 0,
            wanted: BTreeSet::new(),
            sent: BTreeMap::new(),
            changed: BTreeSet::new(),
            leaving: BTreeSet::new(),
            delayed: BTreeMap::new(),
            in_flight: false,
            not_before_ms: i64::MIN,
        }
    }

    pub fn add(&mut self, key: PartitionKey) {
        self.wanted.insert(key);
        self.delayed.remove(&key);
        self.name_again(key);
    }

    /// The next request names the partition even if nothing about it has changed since it was sent: a leader that
    /// refused it did not take it as word of what this follower has.
    fn name_again(&mut self, key: PartitionKey) {
        self.changed.insert(key);
        if self.leaving.remove(&key) {
            self.sent.remove(&key);
        }
    }

    pub fn remove(&mut self, key: PartitionKey) {
        self.wanted.remove(&key);
        self.leave(key);
        self.changed.remove(&key);
        self.delayed.remove(&key);
    }

    /// The leader is to forget the partition, unless it is asked for again first.
    fn leave(&mut self, key: PartitionKey) {
        if self.sent.remove(&key).is_some() {
            self.leaving.insert(key);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    pub fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    pub fn partitions(&self) -> impl Iterator<Item = PartitionKey> + '_ {
        self.wanted.iter().copied()
    }

    /// When a partition that was put aside, or the leader itself, is to be asked again.
    pub fn next_deadline(&self) -> i64 {
        if self.in_flight || self.wanted.is_empty() {
            return i64::MAX;
        }
        let has_active = self.wanted.len() > self.delayed.len();
        let delayed = self.delayed.values().copied().min().unwrap_or(i64::MAX);
        let due = if has_active { i64::MIN } else { delayed };
        due.max(self.not_before_ms)
    }

    /// The next request, if one is to go out now. `position` gives where a partition stands, `None` if it is not ours
    /// to fetch any more.
    pub fn next_request(
        &mut self,
        limits: &Limits,
        broker_epoch: i64,
        position: &mut dyn FnMut(PartitionKey) -> Option<FetchPosition>,
        now: Now,
    ) -> Option<FetchRequest<'static>> {
        if self.in_flight || now.mono_ms < self.not_before_ms {
            return None;
        }
        let due: Vec<PartitionKey> =
            self.delayed.iter().filter(|(_, at)| **at <= now.mono_ms).map(|(k, _)| *k).collect();
        for key in due {
            self.delayed.remove(&key);
            self.name_again(key);
        }
        if self.wanted.len() == self.delayed.len() {
            return None;
        }
        let is_full = self.session_epoch == 0;
        if is_full {
            self.sent.clear();
            self.changed = self.wanted.iter().filter(|k| !self.delayed.contains_key(k)).copied().collect();
        }
        let mut topics: Vec<FetchTopic<'static>> = Vec::new();
        for key in std::mem::take(&mut self.changed) {
            let Some(at) = position(key) else { continue };
            if self.delayed.contains_key(&key) || self.sent.get(&key) == Some(&at) {
                continue;
            }
            self.sent.insert(key, at);
            let partition = FetchPartition {
                partition: key.1,
                current_leader_epoch: at.leader_epoch,
                fetch_offset: at.offset,
                last_fetched_epoch: at.last_epoch,
                log_start_offset: at.log_start,
                partition_max_bytes: limits.partition_max_bytes,
                ..Default::default()
            };
            match topics.last_mut().filter(|t| t.topic_id == key.0) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(FetchTopic { topic_id: key.0, partitions: vec![partition], ..Default::default() }),
            }
        }
        self.in_flight = true;
        Some(FetchRequest {
            replica_id: -1,
            replica_state: ReplicaState { replica_id: self.local, replica_epoch: broker_epoch, ..Default::default() },
            max_wait_ms: limits.max_wait_ms,
            min_bytes: limits.min_bytes,
            max_bytes: limits.response_max_bytes,
            session_id: self.session_id,
            session_epoch: self.session_epoch,
            topics,
            forgotten_topics_data: self.take_forgotten(),
            ..Default::default()
        })
    }

    /// What the leader's session holds and need not any more.
    fn take_forgotten(&mut self) -> Vec<ForgottenTopic<'static>> {
        let mut topics: Vec<ForgottenTopic<'static>> = Vec::new();
        for key in std::mem::take(&mut self.leaving) {
            match topics.last_mut().filter(|t| t.topic_id == key.0) {
                Some(topic) => topic.partitions.push(key.1),
                None => topics.push(ForgottenTopic { topic_id: key.0, partitions: vec![key.1], ..Default::default() }),
            }
        }
        topics
    }

    /// Takes an answer; `handle` is called for each partition in it that is still wanted.
    pub fn on_response<'a>(
        &mut self,
        response: &'a FetchResponse<'a>,
        handle: &mut dyn FnMut(Fetched<'a>) -> FetcherOutcome,
    ) -> Result<(), ErrorCode> {
        self.in_flight = false;
        let code = ErrorCode::from_i16(response.error_code);
        if code != ErrorCode::None {
            self.forget_session();
            return Err(code);
        }
        if self.session_epoch == 0 {
            self.session_id = response.session_id;
        }
        // Without an id the leader keeps no session: every request is a full one.
        self.session_epoch = if self.session_id == 0 { 0 } else { next_epoch(self.session_epoch) };
        for topic in &response.responses {
            for data in &topic.partitions {
                let key = (topic.topic_id, data.partition_index);
                let Some(asked) = self.sent.get(&key).copied().filter(|_| self.wanted.contains(&key)) else { continue };
                match handle(Fetched { key, asked, data }) {
                    FetcherOutcome::Unchanged => {}
                    FetcherOutcome::Moved => {
                        self.changed.insert(key);
                    }
                    FetcherOutcome::Backoff { until_ms } => {
                        self.delayed.insert(key, until_ms);
                        // It was not counted as a fetch: when its time comes, the position must be said again, though it
                        // may be the same.
                        self.leave(key);
                        self.changed.remove(&key);
                    }
                }
            }
        }
        if response.session_id != self.session_id {
            // The leader ended the session, as it does when nothing is left in it.
            self.forget_session();
        }
        Ok(())
    }

    /// No answer came: the session may or may not have moved on, so it begins anew, after `until_ms`.
    pub fn on_failure(&mut self, until_ms: i64) {
        self.in_flight = false;
        self.not_before_ms = until_ms;
        self.forget_session();
    }

    /// The leader is back, or is another process: ask at once.
    pub fn hurry(&mut self) {
        self.not_before_ms = i64::MIN;
    }

    fn forget_session(&mut self) {
        self.session_id = 0;
        self.session_epoch = 0;
        self.sent.clear();
        self.leaving.clear();
        self.changed.extend(self.wanted.iter().copied());
    }
}

/// Epoch 0 asks for a new session, so that the count goes on at 1.
pub(crate) fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}
