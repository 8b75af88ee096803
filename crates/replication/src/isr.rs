//! Growing and shrinking the ISR: only through AlterPartition, one change in flight (rules 6 to 9; KIP-497, 841, 903).

use protocol::error::ErrorCode;
use protocol::time::Now;

use crate::partition::{Partition, Role};

/// After a failure that says nothing about the partition (no controller, a lost answer).
const RETRY_MS: i64 = 50;

/// A change that the controller has not confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingIsr {
    pub isr: Vec<i32>,
    /// Joining members hold the high watermark back from the moment they are proposed; leaving ones until confirmed.
    pub is_expand: bool,
    pub in_flight: bool,
}

/// What to ask the controller for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrChange {
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    /// Members and the broker epochs under which they fetched; −1 where unknown.
    pub isr: Vec<(i32, i64)>,
}

/// The controller's answer for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlterOutcome {
    Altered {
        leader: i32,
        leader_epoch: i32,
        isr: Vec<i32>,
        partition_epoch: i32,
    },
    Refused(ErrorCode),
    /// No answer: perhaps done, perhaps not.
    Lost,
}

impl Partition {
    /// The change to ask for now, if any. `broker_epoch` gives the epoch of a broker that may be in an ISR: registered,
    /// not fenced, not shutting down.
    pub fn poll_isr(&mut self, broker_epoch: &dyn Fn(i32) -> Option<i64>, now: Now) -> Option<IsrChange> {
        let end = self.log.end_offset();
        let retry_ms = match &self.role {
            Role::Leader(leader) => leader.retry_ms,
            _ => return None,
        };
        if now.mono_ms < retry_ms {
            return None;
        }
        let proposal = match &self.role {
            Role::Leader(leader) => match &leader.pending {
                Some(pending) if pending.in_flight => return None,
                Some(pending) => pending.clone(),
                None => self.propose(end, broker_epoch, now)?,
            },
            _ => return None,
        };
        let local = self.local;
        let Role::Leader(leader) = &mut self.role else { return None };
        let epoch_of =
            |id: i32| if id == local { -1 } else { leader.followers.get(&id).map_or(-1, |f| f.broker_epoch) };
        let isr = proposal.isr.iter().map(|id| (*id, broker_epoch(*id).unwrap_or_else(|| epoch_of(*id)))).collect();
        leader.pending = Some(PendingIsr { in_flight: true, ..proposal });
        Some(IsrChange { leader_epoch: self.state.leader_epoch, partition_epoch: self.state.partition_epoch, isr })
    }

    fn propose(&self, end: i64, broker_epoch: &dyn Fn(i32) -> Option<i64>, now: Now) -> Option<PendingIsr> {
        let Role::Leader(leader) = &self.role else { return None };
        let joining: Vec<i32> = leader
            .followers
            .keys()
            .copied()
            .filter(|id| !self.state.isr.contains(id) && self.may_join(*id, end, broker_epoch))
            .collect();
        if !joining.is_empty() {
            let mut isr = self.state.isr.clone();
            isr.extend(&joining);
            tracing::info!(topic = %self.topic, partition = self.key.1, from = ?self.state.isr, to = ?isr, "ISR is to grow: caught up");
            return Some(PendingIsr { isr, is_expand: true, in_flight: false });
        }
        let lag = self.settings.lag_time_max_ms;
        let late = |id: &i32| leader.followers.get(id).is_some_and(|f| !f.is_caught_up(end, lag, now));
        let (leaving, staying): (Vec<i32>, Vec<i32>) = self.state.isr.iter().copied().partition(|id| late(id));
        if leaving.is_empty() {
            return None;
        }
        for id in &leaving {
            let follower = leader.followers.get(id).copied().unwrap_or_default();
            tracing::warn!(topic = %self.topic, partition = self.key.1, follower = id, follower_end = follower.log_end, leader_end = end, silent_ms = now.mono_ms.saturating_sub(follower.last_caught_up_ms), lag_time_max_ms = lag, "ISR is to shrink: fell behind");
        }
        Some(PendingIsr { isr: staying, is_expand: false, in_flight: false })
    }

    /// Rule 7. The broker must be alive in the metadata and fetch under the epoch it is registered with: a fetch of
    /// its former life proves nothing about its disk.
    fn may_join(&self, id: i32, end: i64, broker_epoch: &dyn Fn(i32) -> Option<i64>) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let Some(follower) = leader.followers.get(&id) else { return false };
        if follower.log_end < 0 {
            return false;
        }
        if self.settings.mutations.join_isr_without_catching_up {
            return true;
        }
        let registered = broker_epoch(id);
        let eligible = registered.is_some_and(|epoch| follower.broker_epoch == -1 || follower.broker_epoch == epoch);
        let reached = follower.log_end >= self.high_watermark && follower.log_end >= leader.epoch_start;
        // DIFFERS: KAFKA-19996. While the ISR is under min.insync.replicas the high watermark stands still, and a
        // follower that has merely reached it may be far behind; it would hold the next write back and drop out again.
        let near = !self.is_under_min_isr() || follower.log_end >= end || follower.keeps_up();
        eligible && reached && near
    }

    /// Whether a follower outside the ISR could be proposed: cheap, asked after each of its fetches.
    pub fn might_expand(&self, id: i32) -> bool {
        self.is_leader() && !self.state.isr.contains(&id)
    }

    /// Rule 9. Returns whether waiting requests should be looked at again.
    pub fn on_altered(&mut self, asked_partition_epoch: i32, outcome: AlterOutcome, now: Now) -> bool {
        let before = self.state.isr.clone();
        let state_epoch = self.state.partition_epoch;
        let Role::Leader(leader) = &mut self.role else { return false };
        match outcome {
            AlterOutcome::Altered { leader: id, leader_epoch, isr, partition_epoch } => {
                if leader_epoch != self.state.leader_epoch || partition_epoch < state_epoch || id != self.local {
                    return false;
                }
                leader.pending = None;
                if isr.contains(&self.local) {
                    self.state.isr = isr;
                    self.state.partition_epoch = partition_epoch;
                }
            }
            // Metadata has moved on since: its pending change was dropped then.
            _ if asked_partition_epoch != state_epoch => return false,
            AlterOutcome::Refused(ErrorCode::IneligibleReplica | ErrorCode::OperationNotAttempted) => {
                leader.pending = None;
                leader.retry_ms = now.mono_ms + RETRY_MS;
            }
            AlterOutcome::Refused(
                code @ (ErrorCode::UnknownTopicOrPartition
                | ErrorCode::UnknownTopicId
                | ErrorCode::FencedLeaderEpoch
                | ErrorCode::InvalidUpdateVersion
                | ErrorCode::InvalidRequest
                | ErrorCode::NewLeaderElected),
            ) => {
                // The change stays pending, in flight for ever, until metadata tells what has happened meanwhile.
                tracing::info!(topic = %self.topic, partition = self.key.1, error = code.name(), "the controller refused an ISR change");
            }
            AlterOutcome::Refused(_) | AlterOutcome::Lost => {
                if let Some(pending) = &mut leader.pending {
                    pending.in_flight = false;
                }
                leader.retry_ms = now.mono_ms + RETRY_MS;
            }
        }
        let moved = self.maybe_advance();
        self.check();
        moved || before != self.state.isr
    }

    /// When a change that failed may be asked for again.
    pub fn isr_retry_ms(&self) -> i64 {
        match &self.role {
            Role::Leader(leader) if leader.pending.as_ref().is_some_and(|p| !p.in_flight) => leader.retry_ms,
            _ => i64::MAX,
        }
    }
}
