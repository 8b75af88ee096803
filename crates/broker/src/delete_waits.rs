//! DeleteRecords requests that wait for every replica's log start to follow (KIP-107; `DelayedDeleteRecords`).

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::DeleteRecordsResponse;
use protocol::time::Now;
use replication::PartitionKey;

use crate::node::Node;
use crate::reply::ReplyTo;

/// What a partition of the answer says when nothing is known of the low watermark.
pub(crate) const NO_LOW_WATERMARK: i64 = -1;

struct DeleteWait {
    reply: ReplyTo,
    /// Complete; parts that still wait are marked as timed out, with the low watermark as it was at first.
    response: DeleteRecordsResponse<'static>,
    parts_left: usize,
    deadline_ms: i64,
}

/// One partition of a waiting request.
#[derive(Clone, Copy, Debug)]
struct Part {
    wait: u64,
    /// Where its answer is: index of the topic and of the partition in it.
    at: (usize, usize),
    /// The low watermark that releases it.
    offset: i64,
}

/// Invariants: each part names a wait; a wait has as many parts as `parts_left` says.
#[derive(Default)]
pub(crate) struct DeleteWaits {
    next: u64,
    waits: BTreeMap<u64, DeleteWait>,
    by_partition: BTreeMap<PartitionKey, Vec<Part>>,
    deadlines: BTreeSet<(i64, u64)>,
}

impl DeleteWaits {
    pub fn next_deadline(&self) -> i64 {
        self.deadlines.first().map_or(i64::MAX, |(at, _)| *at)
    }

    /// A follower's fetch may move the low watermark: whether anybody cares.
    pub fn is_awaited(&self, key: PartitionKey) -> bool {
        self.by_partition.contains_key(&key)
    }

    pub fn keys(&self) -> Vec<PartitionKey> {
        self.by_partition.keys().copied().collect()
    }

    pub fn add(
        &mut self,
        reply: ReplyTo,
        response: DeleteRecordsResponse<'static>,
        parts: &[(PartitionKey, (usize, usize), i64)],
        deadline_ms: i64,
    ) {
        let id = self.next;
        self.next += 1;
        for (key, at, offset) in parts {
            self.by_partition.entry(*key).or_default().push(Part { wait: id, at: *at, offset: *offset });
        }
        self.deadlines.insert((deadline_ms, id));
        self.waits.insert(id, DeleteWait { reply, response, parts_left: parts.len(), deadline_ms });
    }

    /// `low_watermark` of one partition, or why it has none here any more; gives back what that completes.
    fn settle(
        &mut self,
        key: PartitionKey,
        low_watermark: Result<i64, ErrorCode>,
    ) -> Vec<(ReplyTo, DeleteRecordsResponse<'static>)> {
        let Some(parts) = self.by_partition.remove(&key) else { return Vec::new() };
        let mut done = Vec::new();
        let mut left = Vec::new();
        for part in parts {
            if low_watermark.is_ok_and(|low| low < part.offset) {
                left.push(part);
                continue;
            }
            let wait = self.waits.get_mut(&part.wait).expect("parts name waits");
            let topic = wait.response.topics.get_mut(part.at.0).expect("a wait names parts of its own response");
            let answer = topic.partitions.get_mut(part.at.1).expect("a wait names parts of its own response");
            (answer.low_watermark, answer.error_code) = match low_watermark {
                Ok(low) => (low, 0),
                Err(code) => (NO_LOW_WATERMARK, code.into()),
            };
            wait.parts_left -= 1;
            if wait.parts_left == 0 {
                let wait = self.waits.remove(&part.wait).expect("found above");
                self.deadlines.remove(&(wait.deadline_ms, part.wait));
                done.push((wait.reply, wait.response));
            }
        }
        if !left.is_empty() {
            self.by_partition.insert(key, left);
        }
        done
    }

    fn expire(&mut self, now: Now) -> Vec<(ReplyTo, DeleteRecordsResponse<'static>)> {
        let mut late = BTreeSet::new();
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now.mono_ms) {
            self.deadlines.remove(&(at, id));
            late.insert(id);
        }
        if late.is_empty() {
            return Vec::new();
        }
        self.by_partition.retain(|_, parts| {
            parts.retain(|part| !late.contains(&part.wait));
            !parts.is_empty()
        });
        late.iter().filter_map(|id| self.waits.remove(id)).map(|wait| (wait.reply, wait.response)).collect()
    }
}

impl Node {
    /// The smallest log start among the partition's replicas on brokers that serve.
    pub(crate) fn low_watermark(&self, key: PartitionKey) -> Result<i64, ErrorCode> {
        let partition = self.replicas.get(key).filter(|_| self.replicas.is_published);
        let low = partition.and_then(|p| p.low_watermark(|id| self.image.is_active_broker(id)));
        low.ok_or(ErrorCode::NotLeaderOrFollower)
    }

    pub(crate) fn settle_deletes(&mut self, key: PartitionKey) {
        if !self.replicas.deletes.is_awaited(key) {
            return;
        }
        let low_watermark = self.low_watermark(key);
        for (reply, response) in self.replicas.deletes.settle(key, low_watermark) {
            self.respond(reply, &response);
        }
    }

    pub(crate) fn expire_deletes(&mut self, now: Now) {
        for (reply, response) in self.replicas.deletes.expire(now) {
            self.respond(reply, &response);
        }
    }

    pub(crate) fn fail_deletes(&mut self) {
        for key in self.replicas.deletes.keys() {
            for (reply, response) in self.replicas.deletes.settle(key, Err(ErrorCode::NotLeaderOrFollower)) {
                self.respond(reply, &response);
            }
        }
    }
}
