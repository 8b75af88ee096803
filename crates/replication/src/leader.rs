//! The leader's view: what each follower has, and the high watermark that follows from it.

use std::collections::BTreeMap;

use protocol::time::Now;

use crate::isr::PendingIsr;
use crate::partition::{Partition, PartitionState, Role};
use crate::read::ReadRequest;

/// What the leader knows of one follower. Its data is what its next fetch asks from: a fetch acknowledges (rule 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    /// −1 until it has fetched in this epoch.
    pub log_end: i64,
    pub log_start: i64,
    /// The last time at which it had everything there was.
    pub last_caught_up_ms: i64,
    last_fetch_leader_end: i64,
    last_fetch_ms: i64,
    /// From the fetch, −1 if the version does not carry it (KIP-903).
    pub broker_epoch: i64,
    /// It fetched from the leader's very end, or from where that was at the fetch before.
    keeps_up: bool,
}

pub struct Leader {
    /// Where this leader's epoch begins.
    pub(crate) epoch_start: i64,
    pub(crate) followers: BTreeMap<i32, Follower>,
    pub(crate) pending: Option<PendingIsr>,
    pub(crate) retry_ms: i64,
    since_ms: i64,
}

impl Leader {
    pub(crate) fn new(epoch_start: i64, now: Now) -> Self {
        Self { epoch_start, followers: BTreeMap::new(), pending: None, retry_ms: i64::MIN, since_ms: now.mono_ms }
    }

    /// A new epoch: ISR members count as caught up now, so that none is dropped before it could fetch.
    pub(crate) fn reset_followers(&mut self, state: &PartitionState, local: i32, end: i64, now: Now) {
        self.followers.clear();
        self.set_replicas(state, local, now);
        for (id, follower) in &mut self.followers {
            follower.last_fetch_leader_end = if state.isr.contains(id) { end } else { 0 };
        }
    }

    pub(crate) fn set_replicas(&mut self, state: &PartitionState, local: i32, now: Now) {
        self.followers.retain(|id, _| state.replicas.contains(id));
        for id in state.replicas.iter().filter(|id| **id != local) {
            let caught_up = if state.isr.contains(id) { now.mono_ms } else { i64::MIN };
            self.followers.entry(*id).or_insert(Follower {
                log_end: -1,
                log_start: -1,
                last_caught_up_ms: caught_up,
                last_fetch_leader_end: 0,
                last_fetch_ms: i64::MIN,
                broker_epoch: -1,
                keeps_up: false,
            });
        }
    }

    pub fn followers(&self) -> &BTreeMap<i32, Follower> {
        &self.followers
    }

    pub fn since_ms(&self) -> i64 {
        self.since_ms
    }
}

impl Follower {
    /// Rule 6 (`Replica.updateFetchStateOrThrow`).
    fn on_fetch(&mut self, offset: i64, log_start: i64, leader_end: i64, broker_epoch: i64, now: Now) {
        self.keeps_up = true;
        if offset >= leader_end {
            self.last_caught_up_ms = self.last_caught_up_ms.max(now.mono_ms);
        } else if offset >= self.last_fetch_leader_end {
            self.last_caught_up_ms = self.last_caught_up_ms.max(self.last_fetch_ms);
        } else {
            self.keeps_up = false;
        }
        self.log_end = offset;
        self.log_start = log_start;
        self.last_fetch_leader_end = leader_end;
        self.last_fetch_ms = now.mono_ms;
        self.broker_epoch = broker_epoch;
    }

    pub fn is_caught_up(&self, leader_end: i64, lag_time_max_ms: i64, now: Now) -> bool {
        self.log_end == leader_end || now.mono_ms.saturating_sub(self.last_caught_up_ms) <= lag_time_max_ms
    }

    /// The leader's log is about to grow: whoever has all of it until now is not late yet, however long ago it last had
    /// a reason to fetch.
    fn on_leader_append(&mut self, leader_end: i64, now: Now) {
        if self.log_end == leader_end {
            self.last_caught_up_ms = self.last_caught_up_ms.max(now.mono_ms);
        }
    }

    pub fn keeps_up(&self) -> bool {
        self.keeps_up
    }
}

impl Partition {
    /// A follower fetched: it has everything below the offset, if its history is ours. Returns whether the high
    /// watermark moved. Unknown replicas, other epochs and diverging histories change nothing.
    pub fn on_follower_fetch(
        &mut self,
        request: &ReadRequest,
        id: i32,
        log_start: i64,
        broker_epoch: i64,
        now: Now,
    ) -> bool {
        let end = self.log.end_offset();
        if self.check_epoch(request.leader_epoch).is_err() || self.diverges(request) {
            return false;
        }
        if request.offset < self.log.log_start_offset() || request.offset > end {
            return false;
        }
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(follower) = leader.followers.get_mut(&id) else { return false };
        let before = follower.log_end;
        follower.on_fetch(request.offset, log_start, end, broker_epoch, now);
        before != request.offset && self.maybe_advance()
    }

    pub(crate) fn before_append(&mut self, now: Now) {
        let end = self.log.end_offset();
        if let Role::Leader(leader) = &mut self.role {
            leader.followers.values_mut().for_each(|f| f.on_leader_append(end, now));
        }
    }

    /// The smallest log start of the replicas that are alive, −1 while one of them has not said (KIP-107); `None`
    /// unless this replica leads.
    pub fn low_watermark(&self, is_alive: impl Fn(i32) -> bool) -> Option<i64> {
        let Role::Leader(leader) = &self.role else { return None };
        let others = leader.followers.iter().filter(|(id, _)| is_alive(**id)).map(|(_, f)| f.log_start);
        Some(others.fold(self.log.log_start_offset(), i64::min))
    }

    pub fn is_replica(&self, id: i32) -> bool {
        self.state.replicas.contains(&id)
    }

    /// Rules 1 and 2 (KIP-497, KIP-966): the smallest log end among the maximal ISR, and of those about to join, and
    /// nothing at all while there are fewer in-sync replicas than min.insync.replicas asks for.
    pub(crate) fn maybe_advance(&mut self) -> bool {
        let end = self.log.end_offset();
        let Role::Leader(leader) = &self.role else { return false };
        let mut to = end;
        if !self.settings.mutations.high_watermark_ignores_isr {
            if self.is_under_min_isr() {
                return false;
            }
            let joining = leader.pending.as_ref().filter(|p| p.is_expand).map_or(&[][..], |p| &p.isr);
            for (id, follower) in &leader.followers {
                let in_sync = self.state.isr.contains(id) || joining.contains(id);
                if in_sync {
                    to = to.min(follower.log_end);
                }
            }
        }
        let moved = to > self.high_watermark;
        if moved {
            self.high_watermark = to;
            self.log.on_high_watermark(to);
        }
        moved
    }
}
