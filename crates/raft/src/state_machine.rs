//! What the state machine above the quorum, controller or broker, may do: write as leader, read what is committed,
//! make snapshots, step down.

use std::fmt;
use std::io;

use protocol::time::Now;

use crate::config::BATCH_BYTES_MAX;
use crate::control::{self, ControlRecord};
use crate::log::Validity;
use crate::quorum::Quorum;
use crate::records::{self, DataBatch};
use crate::role::Role;
use crate::snapshot::SnapshotPart;
use crate::types::OffsetAndEpoch;

/// Why records were not appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// Somebody else leads, or nobody known, or we do in a later epoch than the writer believes.
    NotLeader { leader: Option<i32>, epoch: i32 },
    /// The records do not fit one batch; nothing was written.
    TooLarge { bytes: usize, max: usize },
    /// The disk failed; [`crate::Effect::Fatal`] says more.
    Failed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendError::NotLeader { leader: Some(leader), epoch } => write!(f, "node {leader} leads epoch {epoch}"),
            AppendError::NotLeader { leader: None, epoch } => write!(f, "no leader of epoch {epoch} is known here"),
            AppendError::TooLarge { bytes, max } => write!(f, "records of {bytes} bytes exceed a batch of {max}"),
            AppendError::Failed => write!(f, "the metadata log cannot be written"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Why there can be no snapshot at an offset.
#[derive(Debug)]
pub enum SnapshotError {
    /// Not committed yet.
    NotCommitted {
        committed: i64,
    },
    /// No batch ends there, or another epoch does.
    NotInLog,
    Io(io::Error),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::NotCommitted { committed } => write!(f, "only {committed} is committed"),
            SnapshotError::NotInLog => write!(f, "no batch of the log ends there"),
            SnapshotError::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for SnapshotError {}

/// How long a leader that shuts down waits for another voter to have everything. A round trip and a flush do.
const HAND_OVER_MS: i64 = 200;

/// What follows a reader's position.
#[derive(Clone, Debug, PartialEq)]
pub enum CommittedRead {
    UpToDate,
    /// The reader's position lies before the log: it has to begin anew from here, and go on at `id.offset`.
    Snapshot(SnapshotContent),
    /// Never empty; the reader goes on behind the last of them. Control batches are there without records.
    Batches(Vec<DataBatch>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotContent {
    /// With [`crate::BOOTSTRAP_SNAPSHOT_ID`] the records are what the first leader is to write, not state.
    pub id: OffsetAndEpoch,
    pub last_contained_log_timestamp: i64,
    /// The values of its records, control records left out.
    pub records: Vec<Vec<u8>>,
}

impl Quorum {
    /// Writes `records` (framed values) as one batch: all of them are committed, or none. Returns the offset of the
    /// last; they are committed once [`crate::Effect::Committed`] exceeds it, and lost if another leader comes first.
    ///
    /// DIFFERS: `controller.quorum.append.linger.ms` has no counterpart. A batch is written at once, and while a flush
    /// is under way the following batches gather for the next one.
    pub fn append(&mut self, epoch: i32, records: &[Vec<u8>], now: Now) -> Result<i64, AppendError> {
        assert!(!records.is_empty(), "an append without records");
        let seen = self.leader_and_epoch();
        if !self.is_leader() || epoch != self.epoch || self.shutdown_due_ms.is_some() || self.is_stopped {
            let leader = seen.leader.filter(|_| !matches!(self.role, Role::Resigned(_)));
            return Err(AppendError::NotLeader { leader, epoch: seen.epoch });
        }
        if self.has_failed() {
            return Err(AppendError::Failed);
        }
        let batch = records::data_batch(self.log.end().offset, self.epoch, records, now);
        if batch.len() > BATCH_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes: batch.len(), max: BATCH_BYTES_MAX });
        }
        self.append_batch(batch, now);
        if self.has_failed() {
            return Err(AppendError::Failed);
        }
        let last = self.log.end().offset - 1;
        self.turn(now);
        Ok(last)
    }

    /// Writes control records as one batch.
    pub(crate) fn append_control(&mut self, records: Vec<ControlRecord>, now: Now) {
        let from = self.log.end().offset;
        let batch = control::batch(from, self.epoch, &records, now);
        self.append_batch(batch, now);
        if let Err(error) = self.log.load_history(&mut self.history, Some(from)) {
            self.fail(format!("cannot read the metadata log: {error}"));
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.on_voters(self.history.voters());
        }
    }

    /// Followers may fetch the batch from here on; ourselves we count when it is flushed.
    fn append_batch(&mut self, batch: Vec<u8>, now: Now) {
        if let Err(error) = self.log.append_as_leader(batch, self.epoch, now) {
            return self.fail(format!("cannot append to the metadata log: {error}"));
        }
        self.on_own_end(now);
    }

    /// What is committed from `next_offset` on, `None` for a reader that has nothing yet; about `bytes_max` at most,
    /// but at least one batch.
    pub fn read_committed(&mut self, next_offset: Option<i64>, bytes_max: usize) -> io::Result<CommittedRead> {
        let Some(high_watermark) = self.high_watermark() else { return Ok(CommittedRead::UpToDate) };
        let is_behind = next_offset.is_none_or(|next| next < self.log.start_offset());
        if is_behind
            && next_offset.is_none_or(|next| next < high_watermark)
            && let Some(id) = self.log.snapshots.latest()
        {
            return self.read_snapshot(id).map(CommittedRead::Snapshot);
        }
        let next = next_offset.unwrap_or(0);
        if next >= high_watermark {
            return Ok(CommittedRead::UpToDate);
        }
        let bytes = self.log.read(next, high_watermark, bytes_max)?;
        let batches = records::read_batches(&bytes)?;
        assert!(!batches.is_empty(), "committed offset {next} is not in the log");
        Ok(CommittedRead::Batches(batches))
    }

    fn read_snapshot(&self, id: OffsetAndEpoch) -> io::Result<SnapshotContent> {
        let bytes = self.log.snapshots.read(id)?;
        let last_contained_log_timestamp = control::snapshot_timestamp(&bytes)?;
        let batches = records::read_batches(&bytes)?;
        let records = batches.into_iter().flat_map(|batch| batch.records).collect();
        Ok(SnapshotContent { id, last_contained_log_timestamp, records })
    }

    pub fn latest_snapshot(&self) -> Option<OffsetAndEpoch> {
        self.log.snapshots.latest()
    }

    /// Begins a snapshot of the state up to `id.offset` (exclusive), of which `id.epoch` is the epoch of the last batch
    /// and `last_timestamp` its time. `None` if there is one already or the log has gone past it.
    pub fn begin_snapshot(
        &mut self,
        id: OffsetAndEpoch,
        last_timestamp: i64,
        now: Now,
    ) -> Result<Option<SnapshotWriter>, SnapshotError> {
        if id.offset < self.log.start_offset() || self.log.snapshots.contains(id) {
            return Ok(None);
        }
        if id.offset > self.committed {
            return Err(SnapshotError::NotCommitted { committed: self.committed });
        }
        // A follower that starts behind the snapshot must be able to append the batch that comes next.
        let is_at_batch = self.log.is_batch_start(id.offset).map_err(SnapshotError::Io)?;
        if self.log.validate(id) != Validity::Valid || !is_at_batch {
            return Err(SnapshotError::NotInLog);
        }
        let last = id.offset - 1;
        let mut head = vec![ControlRecord::snapshot_header(last_timestamp)];
        let kraft_version = self.history.kraft_version_at(last);
        if kraft_version >= 1 {
            head.push(ControlRecord::kraft_version(kraft_version));
            head.extend(self.history.voters_at(last).map(ControlRecord::voters));
        }
        let part = self.log.snapshots.begin(id).map_err(SnapshotError::Io)?;
        SnapshotWriter::new(part, &head, now).map(Some).map_err(SnapshotError::Io)
    }

    /// The snapshot is complete and durable; the log before it may go.
    pub fn end_snapshot(&mut self, frozen: FrozenSnapshot) {
        tracing::info!(id = %frozen.id, size = frozen.size, "snapshot written");
        self.log.snapshots.add(frozen.id, frozen.size);
        self.history.truncate_old(frozen.id.offset);
    }

    /// Gives up leading `epoch`, for a state machine that cannot go on. Does nothing if that is over anyway.
    pub fn resign(&mut self, epoch: i32, now: Now) {
        if epoch != self.epoch {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            tracing::info!(epoch, "the state machine resigns");
            leader.resign_requested = true;
        }
        self.turn(now);
    }

    /// The last call of a clean stop: the log is flushed and its indexes are written.
    pub fn close(&mut self) -> io::Result<()> {
        self.log.close()
    }

    /// Leaves the quorum politely: a leader resigns and waits until somebody else leads, at most `timeout_ms`. Ends
    /// with [`crate::Effect::ShutdownComplete`].
    pub fn shutdown(&mut self, timeout_ms: i64, now: Now) {
        if self.shutdown_due_ms.is_none() {
            self.shutdown_due_ms = Some(now.mono_ms + timeout_ms);
            self.hand_over_due_ms = now.mono_ms + HAND_OVER_MS;
        }
        self.turn(now);
    }
}

/// Writes the batches of a snapshot. It owns its file and may be used away from the quorum.
#[derive(Debug)]
pub struct SnapshotWriter {
    part: SnapshotPart,
    offset_next: i64,
    pending: Vec<Vec<u8>>,
    pending_bytes: usize,
}

/// A snapshot that has got its final name, to be handed to [`Quorum::end_snapshot`].
#[derive(Debug)]
#[must_use = "the quorum has to know its snapshots"]
pub struct FrozenSnapshot {
    pub id: OffsetAndEpoch,
    pub size: u64,
}

/// Room that a record takes in a batch besides its value, at most.
const RECORD_OVERHEAD_MAX: usize = 32;
/// Batches of a snapshot stay this far below the limit, so that their header fits too.
const SNAPSHOT_BATCH_BYTES: usize = BATCH_BYTES_MAX - 1024;

impl SnapshotWriter {
    fn new(part: SnapshotPart, head: &[ControlRecord], now: Now) -> io::Result<Self> {
        let mut writer = Self { part, offset_next: 0, pending: Vec::new(), pending_bytes: 0 };
        writer.put(control::batch(0, writer.part.id().epoch, head, now), head.len())?;
        Ok(writer)
    }

    pub fn id(&self) -> OffsetAndEpoch {
        self.part.id()
    }

    /// One record: a framed value.
    pub fn append(&mut self, record: Vec<u8>, now: Now) -> io::Result<()> {
        let bytes = record.len() + RECORD_OVERHEAD_MAX;
        if self.pending_bytes + bytes > SNAPSHOT_BATCH_BYTES {
            self.drain(now)?;
        }
        self.pending_bytes += bytes;
        self.pending.push(record);
        Ok(())
    }

    fn drain(&mut self, now: Now) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.put(records::data_batch(self.offset_next, self.part.id().epoch, &records, now), records.len())
    }

    fn put(&mut self, batch: Vec<u8>, records: usize) -> io::Result<()> {
        self.offset_next += records as i64;
        self.part.append(&batch)
    }

    /// Writes the footer and makes the file durable under its final name.
    pub fn finish(mut self, now: Now) -> io::Result<FrozenSnapshot> {
        self.drain(now)?;
        let footer = [ControlRecord::snapshot_footer()];
        self.put(control::batch(self.offset_next, self.part.id().epoch, &footer, now), footer.len())?;
        let id = self.part.id();
        Ok(FrozenSnapshot { id, size: self.part.freeze()? })
    }

    pub fn abort(self) {
        self.part.discard();
    }
}
