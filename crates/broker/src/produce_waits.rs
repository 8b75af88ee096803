//! Requests that wait for the high watermark of what they have written: produce requests with acks=all, and the ends
//! of transactions.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::ProduceResponse;
use protocol::time::Now;
use replication::PartitionKey;

use crate::node::Node;
use crate::reply::ReplyTo;

/// An answer that is complete but for the errors that waiting may end with.
pub(crate) trait Answer {
    /// `at` is whatever names a part of it.
    fn fail(&mut self, at: (usize, usize), code: ErrorCode);
}

pub(crate) struct ProduceWait {
    pub reply: ReplyTo,
    pub response: ProduceResponse<'static>,
    pub listener: Option<usize>,
}

struct Wait<A> {
    answer: A,
    parts_left: usize,
    deadline_ms: i64,
}

/// One partition of a waiting request.
#[derive(Clone, Copy, Debug)]
struct Part {
    wait: u64,
    /// Where its answer is; of a produce request, index of the topic and of the partition in it.
    at: (usize, usize),
    /// The high watermark that releases it.
    end_offset: i64,
}

/// Invariants: each part names a wait; a wait has as many parts as `parts_left` says.
pub(crate) struct Waits<A> {
    next: u64,
    waits: BTreeMap<u64, Wait<A>>,
    by_partition: BTreeMap<PartitionKey, Vec<Part>>,
    deadlines: BTreeSet<(i64, u64)>,
}

impl<A> Default for Waits<A> {
    fn default() -> Self {
        Self { next: 0, waits: BTreeMap::new(), by_partition: BTreeMap::new(), deadlines: BTreeSet::new() }
    }
}

impl<A: Answer> Waits<A> {
    pub fn next_deadline(&self) -> i64 {
        self.deadlines.first().map_or(i64::MAX, |(at, _)| *at)
    }

    pub fn add(&mut self, answer: A, parts: &[(PartitionKey, (usize, usize), i64)], deadline_ms: i64) {
        let id = self.next;
        self.next += 1;
        for (key, at, end_offset) in parts {
            self.by_partition.entry(*key).or_default().push(Part { wait: id, at: *at, end_offset: *end_offset });
        }
        self.deadlines.insert((deadline_ms, id));
        self.waits.insert(id, Wait { answer, parts_left: parts.len(), deadline_ms });
    }

    /// Ends one part; gives the request back if it was the last.
    fn finish(&mut self, part: Part, code: ErrorCode) -> Option<A> {
        let wait = self.waits.get_mut(&part.wait).expect("parts name waits");
        if code != ErrorCode::None {
            wait.answer.fail(part.at, code);
        }
        wait.parts_left -= 1;
        if wait.parts_left > 0 {
            return None;
        }
        let wait = self.waits.remove(&part.wait).expect("found above");
        self.deadlines.remove(&(wait.deadline_ms, part.wait));
        Some(wait.answer)
    }

    /// Looks at what waits for one partition; `outcome` says how a wait for an offset ends, if it does.
    pub fn settle(&mut self, key: PartitionKey, mut outcome: impl FnMut(i64) -> Option<ErrorCode>) -> Vec<A> {
        let Some(parts) = self.by_partition.remove(&key) else { return Vec::new() };
        let mut done = Vec::new();
        let mut left = Vec::with_capacity(parts.len());
        for part in parts {
            match outcome(part.end_offset) {
                Some(code) => done.extend(self.finish(part, code)),
                None => left.push(part),
            }
        }
        if !left.is_empty() {
            self.by_partition.insert(key, left);
        }
        done
    }

    /// Requests whose time is over, their unfinished parts marked so.
    pub fn expire(&mut self, now: Now) -> Vec<A> {
        let mut late = BTreeSet::new();
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > now.mono_ms {
                break;
            }
            self.deadlines.pop_first();
            late.insert(id);
        }
        if late.is_empty() {
            return Vec::new();
        }
        for parts in self.by_partition.values_mut() {
            for part in parts.iter().filter(|p| late.contains(&p.wait)) {
                if let Some(wait) = self.waits.get_mut(&part.wait) {
                    wait.answer.fail(part.at, ErrorCode::RequestTimedOut);
                }
            }
            parts.retain(|p| !late.contains(&p.wait));
        }
        self.by_partition.retain(|_, parts| !parts.is_empty());
        late.iter().filter_map(|id| self.waits.remove(id)).map(|wait| wait.answer).collect()
    }
}

impl Answer for ProduceWait {
    fn fail(&mut self, at: (usize, usize), code: ErrorCode) {
        let part = self.response.responses.get_mut(at.0).and_then(|topic| topic.partition_responses.get_mut(at.1));
        let part = part.expect("a wait names parts of its own response");
        part.error_code = code.into();
        part.base_offset = -1;
        part.log_append_time_ms = -1;
        part.log_start_offset = -1;
    }
}

impl Node {
    pub(crate) fn expire_produces(&mut self, now: Now) {
        for wait in self.replicas.produces.expire(now) {
            self.respond_produce(wait.reply, wait.listener, wait.response);
        }
        for wait in self.replicas.markers.expire(now) {
            self.respond(wait.reply, &wait.response);
        }
    }

    pub(crate) fn settle_produces(&mut self, key: PartitionKey) {
        let partition = self.replicas.all.get(&key).map(|r| &r.partition);
        let absence = self.absence(key);
        let outcome = |end: i64| match partition {
            Some(partition) => partition.is_replicated(end),
            None => Some(absence),
        };
        let produces = self.replicas.produces.settle(key, outcome);
        let markers = self.replicas.markers.settle(key, outcome);
        for wait in produces {
            self.respond_produce(wait.reply, wait.listener, wait.response);
        }
        for wait in markers {
            self.respond(wait.reply, &wait.response);
        }
    }

    /// The broker stops leading everything: nobody can promise anything any more.
    pub(crate) fn fail_waits(&mut self, now: Now) {
        let keys: Vec<PartitionKey> = self.replicas.all.keys().copied().collect();
        for key in keys {
            for wait in self.replicas.produces.settle(key, |_| Some(ErrorCode::NotLeaderOrFollower)) {
                self.respond_produce(wait.reply, wait.listener, wait.response);
            }
            for wait in self.replicas.markers.settle(key, |_| Some(ErrorCode::NotLeaderOrFollower)) {
                self.respond(wait.reply, &wait.response);
            }
        }
        self.fail_deletes();
        self.end_all_fetches(now);
    }
}
