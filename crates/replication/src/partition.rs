//! A replica of a partition: its log, its role, and how metadata changes the role.

use protocol::error::ErrorCode;
use protocol::time::Now;

use storage::{AppendError, AppendInfo, AppendOrigin, EpochEnd, Guard, Log, StorageError, Verification};

use crate::PartitionKey;
use crate::isr::PendingIsr;
use crate::leader::Leader;

/// Test-only: each breaks one rule on purpose, to prove that a checker notices. All off in any real node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutations {
    /// The high watermark is the leader's own log end.
    pub high_watermark_ignores_isr: bool,
    /// acks=all is answered after the leader's append.
    pub acknowledge_before_replication: bool,
    /// A diverging follower cuts back to its high watermark instead of asking by epoch, and keeps the rest.
    pub truncate_to_high_watermark: bool,
    /// A follower joins the ISR with its first fetch, however far behind.
    pub join_isr_without_catching_up: bool,
    /// A follower never cuts off what its leader does not have.
    pub ignore_divergence: bool,
    /// Sequence numbers of idempotent producers are not checked.
    pub accept_duplicates: bool,
    /// A transaction begins in a log without its coordinator's knowledge (before KIP-890).
    pub begin_transactions_unasked: bool,
    /// Markers are appended whatever their epochs.
    pub accept_late_markers: bool,
    /// Readers of committed records get everything below the high watermark.
    pub read_open_transactions: bool,
}

/// What the node's configuration and the topic's say about replication.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `min.insync.replicas`
    pub min_insync_replicas: i32,
    /// `replica.lag.time.max.ms`
    pub lag_time_max_ms: i64,
    pub mutations: Mutations,
}

/// The partition as the controller committed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
}

pub enum Role {
    /// Nothing is known yet of who leads, or nobody does.
    Idle,
    Leader(Leader),
    Follower {
        leader: i32,
    },
}

/// What feeding a follower's log brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    pub appended: bool,
    pub high_watermark_moved: bool,
    pub log_start_moved: bool,
}

#[derive(Debug)]
pub enum AppendRefused {
    Code(ErrorCode),
    Storage(StorageError),
}

/// Invariants, see [`Partition::check`]: the high watermark never goes back while the role lasts and is never beyond
/// the log's end; a leader's ISR contains itself; the leader epoch and the partition epoch never go back.
pub struct Partition {
    pub key: PartitionKey,
    pub topic: String,
    pub(crate) local: i32,
    pub(crate) log: Log,
    pub(crate) high_watermark: i64,
    pub(crate) state: PartitionState,
    pub(crate) role: Role,
    pub(crate) settings: Settings,
}

impl Partition {
    /// `high_watermark` is the one of the last checkpoint.
    pub fn new(
        key: PartitionKey,
        topic: String,
        local: i32,
        log: Log,
        high_watermark: i64,
        settings: Settings,
    ) -> Self {
        let state = PartitionState {
            replicas: Vec::new(),
            isr: Vec::new(),
            leader: None,
            leader_epoch: -1,
            partition_epoch: -1,
        };
        let mut log = log;
        let high_watermark = high_watermark.clamp(log.log_start_offset(), log.end_offset());
        log.on_high_watermark(high_watermark);
        Self { key, topic, local, log, high_watermark, state, role: Role::Idle, settings }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// For flushes, retention and configuration; appends and truncation go through the partition.
    pub fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    pub fn into_log(self) -> Log {
        self.log
    }

    pub fn state(&self) -> &PartitionState {
        &self.state
    }

    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    pub fn last_stable_offset(&self) -> i64 {
        if self.settings.mutations.read_open_transactions {
            return self.high_watermark;
        }
        self.log.last_stable_offset(self.high_watermark)
    }

    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    pub fn leader(&self) -> Option<i32> {
        self.state.leader
    }

    pub fn leader_epoch(&self) -> i32 {
        self.state.leader_epoch
    }

    /// The leader that this replica is to fetch from.
    pub fn followed(&self) -> Option<i32> {
        match self.role {
            Role::Follower { leader } => Some(leader),
            _ => None,
        }
    }

    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// min(min.insync.replicas, replicas): a topic of one replica is not unwritable for a broker-wide 2 (KAFKA-15583).
    pub fn effective_min_isr(&self) -> usize {
        let configured = usize::try_from(self.settings.min_insync_replicas).unwrap_or(1).max(1);
        configured.min(self.state.replicas.len().max(1))
    }

    pub fn is_under_min_isr(&self) -> bool {
        self.state.isr.len() < self.effective_min_isr()
    }

    /// Rule 10 (KIP-101, KIP-497): takes what the controller committed. Older news than what is known changes nothing.
    /// Returns whether role or leader epoch changed.
    pub fn apply(&mut self, new: PartitionState, now: Now) -> Result<bool, StorageError> {
        if new.partition_epoch < self.state.partition_epoch || new.leader_epoch < self.state.leader_epoch {
            return Ok(false);
        }
        let same_epoch = new.leader_epoch == self.state.leader_epoch;
        let was_leader = self.is_leader();
        let is_news = new.partition_epoch > self.state.partition_epoch;
        self.state = new;
        if self.state.leader == Some(self.local) {
            match &mut self.role {
                Role::Leader(leader) if same_epoch => {
                    if is_news {
                        leader.pending = None;
                    }
                    leader.set_replicas(&self.state, self.local, now);
                }
                _ => self.become_leader(now)?,
            }
            self.maybe_advance();
        } else {
            self.role = match self.state.leader {
                Some(leader) => Role::Follower { leader },
                None => Role::Idle,
            };
        }
        self.check();
        Ok(!same_epoch || was_leader != self.is_leader())
    }

    fn become_leader(&mut self, now: Now) -> Result<(), StorageError> {
        let epoch = self.state.leader_epoch;
        let start = self.log.end_offset();
        self.log.assign_epoch_start(epoch)?;
        tracing::info!(topic = %self.topic, partition = self.key.1, epoch, start, high_watermark = self.high_watermark, isr = ?self.state.isr, "leads");
        let mut leader = Leader::new(start, now);
        leader.reset_followers(&self.state, self.local, start, now);
        self.role = Role::Leader(leader);
        Ok(())
    }

    /// The codes that a request gets whose idea of the leader epoch differs (KIP-320); −1 asks for no check.
    pub fn check_epoch(&self, claimed: i32) -> Result<(), ErrorCode> {
        match claimed {
            -1 => Ok(()),
            epoch if epoch < self.state.leader_epoch => Err(ErrorCode::FencedLeaderEpoch),
            epoch if epoch > self.state.leader_epoch => Err(ErrorCode::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// Rule 5: a batch that is valid in itself goes to the leader's log. `acks_all` asks for enough in-sync replicas
    /// before anything is written.
    pub fn append_as_leader(
        &mut self,
        batch: &mut [u8],
        origin: AppendOrigin,
        acks_all: bool,
        now: Now,
    ) -> Result<AppendInfo, AppendRefused> {
        if !self.is_leader() {
            return Err(AppendRefused::Code(ErrorCode::NotLeaderOrFollower));
        }
        if acks_all && self.is_under_min_isr() {
            return Err(AppendRefused::Code(ErrorCode::NotEnoughReplicas));
        }
        self.before_append(now);
        let planted = self.settings.mutations;
        let origin = match origin {
            AppendOrigin::Client(_) if planted.accept_duplicates => AppendOrigin::Internal,
            AppendOrigin::Client(_) if planted.begin_transactions_unasked => AppendOrigin::Client(Verification::Off),
            AppendOrigin::Offsets(_) if planted.begin_transactions_unasked => AppendOrigin::Offsets(Verification::Off),
            AppendOrigin::Marker { .. } if planted.accept_late_markers => AppendOrigin::Internal,
            origin => origin,
        };
        let info = self.log.append_as_leader(batch, self.state.leader_epoch, origin, now).map_err(|e| match e {
            AppendError::Refused(code) => AppendRefused::Code(code),
            AppendError::Storage(error) => AppendRefused::Storage(error),
            AppendError::Corrupt(_) | AppendError::Unexpected { .. } => AppendRefused::Code(ErrorCode::CorruptMessage),
        })?;
        self.maybe_advance();
        Ok(info)
    }

    /// KIP-890, see [`Log::begin_verification`]: whether a transactional batch must be asked about before it is appended.
    pub fn begin_verification(
        &mut self,
        producer: (i64, i16),
        sequence: i32,
        has_own_epoch: bool,
        now: Now,
    ) -> Result<Option<Guard>, ErrorCode> {
        if !self.is_leader() {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        self.log.begin_verification(producer, sequence, has_own_epoch, now)
    }

    /// Whether everything below `offset` counts as replicated for a producer with acks=all, and how its answer ends.
    pub fn is_replicated(&self, offset: i64) -> Option<ErrorCode> {
        if !self.is_leader() {
            return Some(ErrorCode::NotLeaderOrFollower);
        }
        if self.high_watermark >= offset || self.settings.mutations.acknowledge_before_replication {
            let enough = !self.is_under_min_isr();
            return Some(if enough { ErrorCode::None } else { ErrorCode::NotEnoughReplicasAfterAppend });
        }
        None
    }

    /// Rule 14: what a leader sent in answer to a fetch made under `epoch_at_fetch`. `Err(Unexpected)` means that the
    /// data does not follow this log.
    pub fn append_as_follower(
        &mut self,
        fetch_offset: i64,
        records: &[u8],
        leader_high_watermark: i64,
        leader_log_start: i64,
        epoch_at_fetch: i32,
        now: Now,
    ) -> Result<Fed, AppendError> {
        let end = self.log.end_offset();
        if fetch_offset != end {
            return Err(AppendError::Unexpected { expected: end, got: fetch_offset });
        }
        let appended = self.log.append_as_follower(records, epoch_at_fetch, now);
        // What came before a bad batch is in the log; the watermark follows it in any case.
        let moved = self.follow_high_watermark(leader_high_watermark);
        let appended = appended?.is_some();
        let log_start_moved = leader_log_start > self.log.log_start_offset() && leader_log_start <= self.high_watermark;
        if log_start_moved {
            self.log.set_log_start(leader_log_start, now).map_err(AppendError::Storage)?;
        }
        Ok(Fed { appended, high_watermark_moved: moved, log_start_moved })
    }

    /// Rule 3: min(own end, leader's), and never back.
    fn follow_high_watermark(&mut self, leader_high_watermark: i64) -> bool {
        let to = leader_high_watermark.min(self.log.end_offset());
        let moved = to > self.high_watermark;
        if moved {
            self.high_watermark = to;
            self.log.on_high_watermark(to);
        }
        moved
    }

    /// Rule 12 (KIP-279, KIP-595): the leader says where our last epoch ends in its history; cut back to what both
    /// have. Returns the new end.
    pub fn truncate_on_divergence(&mut self, leaders: EpochEnd, now: Now) -> Result<i64, StorageError> {
        let end = self.log.end_offset();
        if self.settings.mutations.ignore_divergence {
            return Ok(end);
        }
        let ours = self.log.epochs().end_offset_for(leaders.epoch, end);
        let to = match ours {
            // We know that epoch: neither side has more of it than the shorter one.
            Some(ours) if ours.epoch == leaders.epoch => ours.end_offset.min(leaders.end_offset),
            // We do not: go back to before it, and ask again with an older epoch.
            Some(ours) => ours.end_offset.min(end),
            None => leaders.end_offset,
        };
        let to = if self.settings.mutations.truncate_to_high_watermark { self.high_watermark } else { to.min(end) };
        self.truncate_to(to, now)?;
        Ok(self.log.end_offset())
    }

    /// Rule 13: a log without any epoch cannot ask by epoch; only what is committed is known to be shared.
    pub fn truncate_without_epochs(&mut self, now: Now) -> Result<(), StorageError> {
        // KIP-101: what every follower did once, and what lost records.
        let planted = self.settings.mutations.truncate_to_high_watermark;
        if (planted || self.log.latest_epoch().is_none()) && self.log.end_offset() > self.high_watermark {
            self.truncate_to(self.high_watermark, now)?;
        }
        Ok(())
    }

    pub fn truncate_to(&mut self, offset: i64, now: Now) -> Result<(), StorageError> {
        let from = self.log.end_offset();
        if offset < self.high_watermark {
            tracing::warn!(topic = %self.topic, partition = self.key.1, from, to = offset, high_watermark = self.high_watermark, "truncates below the high watermark");
        }
        self.log.truncate_to(offset, now)?;
        self.high_watermark = self.high_watermark.min(self.log.end_offset());
        Ok(())
    }

    /// Rule 15: nothing that this log holds is part of the leader's.
    pub fn start_over_at(&mut self, offset: i64, now: Now) -> Result<(), StorageError> {
        self.log.truncate_fully_and_start_at(offset, now)?;
        self.high_watermark = offset;
        Ok(())
    }

    pub fn check(&self) {
        let end = self.log.end_offset();
        assert!(self.high_watermark <= end, "{}-{}: high watermark beyond the end", self.topic, self.key.1);
        if let Role::Leader(leader) = &self.role {
            assert_eq!(self.state.leader, Some(self.local));
            let contains = |isr: &[i32]| isr.contains(&self.local);
            assert!(contains(&self.state.isr), "{}-{}: a leader outside its ISR", self.topic, self.key.1);
            if let Some(PendingIsr { isr, .. }) = &leader.pending {
                assert!(contains(isr), "{}-{}: a leader that shrinks itself away", self.topic, self.key.1);
            }
        }
    }
}
