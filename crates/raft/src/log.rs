//! The metadata log with its snapshots: what raft asks of a log, over [`storage::Log`].

use std::io;
use std::path::Path;

use protocol::records::Batches;
use protocol::time::Now;
use storage::{
    AppendError, AppendOrigin, DiskRef, EpochEnd, Evidence, FlushWork, Log, LogConfig, OpenOptions, OutOfRange,
};

use crate::config::{BATCH_BYTES_MAX, QuorumConfig};
use crate::control;
use crate::records::check_fetched;
use crate::snapshot::{BOOTSTRAP_SNAPSHOT_ID, Snapshots};
use crate::types::{METADATA_TOPIC_ID, OffsetAndEpoch};
use crate::voters::VoterHistory;

/// Where a replica's log stands to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Valid,
    /// The largest end that both may have in common.
    Diverging(OffsetAndEpoch),
    /// Its end lies before our log.
    Snapshot(OffsetAndEpoch),
}

/// Invariants: if the log does not start at 0, there is a snapshot at or beyond its start; `flushing` ≤ end.
pub struct MetadataLog {
    log: Log,
    pub snapshots: Snapshots,
    /// What the flush under way will have put on disk; cut back when the log is.
    flushing: Option<i64>,
}

impl MetadataLog {
    /// As Kafka does, the log starts where its first segment does, and without better evidence all of it is looked at:
    /// it has no checkpoints of its own.
    pub fn open(disk: DiskRef, dir: &Path, config: LogConfig, evidence: Evidence, now: Now) -> io::Result<Self> {
        let options =
            OpenOptions { topic_id: Some(METADATA_TOPIC_ID), evidence, recovery_point: 0, log_start_offset: 0, now };
        disk.create_dir_all(dir)?;
        let log = Log::open(disk.clone(), dir, config, &options)?;
        if log.topic_id() != Some(METADATA_TOPIC_ID) {
            let reason = format!("{}: partition.metadata names the topic id of another topic", dir.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let snapshots = Snapshots::open(disk, dir, log.log_start_offset())?;
        let mut out = Self { log, snapshots, flushing: None };
        // A crash came between the download of a snapshot and the truncation that it calls for.
        out.restart_at_latest_snapshot(now)?;
        Ok(out)
    }

    pub fn close(&mut self) -> io::Result<()> {
        Ok(self.log.close()?)
    }

    pub fn start_offset(&self) -> i64 {
        self.log.log_start_offset()
    }

    pub fn end(&self) -> OffsetAndEpoch {
        OffsetAndEpoch::new(self.log.end_offset(), self.last_epoch())
    }

    /// Epoch of the last record, of the snapshot if the log is empty behind it, or 0.
    pub fn last_epoch(&self) -> i32 {
        let of_snapshot = || self.snapshots.latest().filter(|id| id.offset == self.log.end_offset());
        self.log.latest_epoch().or_else(|| of_snapshot().map(|id| id.epoch)).unwrap_or(0)
    }

    /// The largest epoch not above `epoch`, and where it ends.
    fn end_offset_for_epoch(&self, epoch: i32) -> OffsetAndEpoch {
        let Some(EpochEnd { epoch: found, end_offset: offset }) =
            self.log.epochs().end_offset_for(epoch, self.log.end_offset())
        else {
            return self.end();
        };
        match self.snapshots.earliest() {
            // The epoch ends where the log begins: the snapshot there knows the epoch before.
            Some(id) if id.offset == offset && found == epoch => id,
            _ => OffsetAndEpoch::new(offset, found),
        }
    }

    /// Whether a log that ends with `end` is a prefix of ours (`RaftLog.validateOffsetAndEpoch`).
    pub fn validate(&self, end: OffsetAndEpoch) -> Validity {
        let start = self.start_offset();
        if start == 0 && end.offset == 0 {
            return Validity::Valid;
        }
        if let (Some(earliest), Some(latest)) = (self.snapshots.earliest(), self.snapshots.latest()) {
            let is_before = end.offset < start
                || (end.offset == start && end.epoch != earliest.epoch)
                || end.epoch < earliest.epoch;
            if is_before {
                return Validity::Snapshot(latest);
            }
        }
        let ours = self.end_offset_for_epoch(end.epoch);
        if ours.epoch != end.epoch || ours.offset < end.offset { Validity::Diverging(ours) } else { Validity::Valid }
    }

    /// To where our log may agree with that of a leader whose log has `end` at most in common with ours.
    pub fn agreeing_end(&self, end: OffsetAndEpoch) -> i64 {
        if end.epoch == 0 {
            return end.offset.min(self.log.end_offset());
        }
        let ours = self.end_offset_for_epoch(end.epoch);
        if ours.epoch == end.epoch { ours.offset.min(end.offset) } else { ours.offset }
    }

    pub fn truncate_to(&mut self, offset: i64, now: Now) -> io::Result<()> {
        self.log.truncate_to(offset, now)?;
        let end = self.log.end_offset();
        self.flushing = self.flushing.map(|upto| upto.min(end));
        Ok(())
    }

    /// If the latest snapshot is ahead of the log, begins the log anew behind it; whether it was.
    pub fn restart_at_latest_snapshot(&mut self, now: Now) -> io::Result<bool> {
        let Some(id) = self.snapshots.latest() else { return Ok(false) };
        if id <= OffsetAndEpoch::new(self.log.end_offset(), self.log.latest_epoch().unwrap_or(0)) {
            return Ok(false);
        }
        self.log.truncate_fully_and_start_at(id.offset, now)?;
        self.flushing = self.flushing.map(|upto| upto.min(id.offset));
        self.snapshots.remove_before(id, now.mono_ms)?;
        Ok(true)
    }

    pub fn assign_epoch_start(&mut self, epoch: i32) -> io::Result<()> {
        Ok(self.log.assign_epoch_start(epoch)?)
    }

    /// One batch of `epoch` that goes on at the log's end.
    pub fn append_as_leader(&mut self, mut batch: Vec<u8>, epoch: i32, now: Now) -> io::Result<()> {
        self.log.append_as_leader(&mut batch, epoch, AppendOrigin::Internal, now).map(drop).map_err(not_appended)
    }

    /// Appends what is good of the records, and says what is not.
    pub fn append_as_follower(&mut self, records: &[u8], epoch: i32, now: Now) -> io::Result<Result<(), String>> {
        let (good, fault) = check_fetched(records, self.log.end_offset(), epoch);
        let good = records.get(..good).unwrap_or_default();
        self.log.append_as_follower(good, epoch, now).map_err(not_appended)?;
        Ok(fault.map_or(Ok(()), Err))
    }

    /// Whole batches from the one that holds `from`, below `to`; at least one, and at most about `bytes_max`.
    pub fn read(&mut self, from: i64, to: i64, bytes_max: usize) -> io::Result<Vec<u8>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        let mut bytes = self.log.read(from, bytes_max, true, Some(to)).map_err(not_read)?.bytes()?;
        let mut batches = Batches::new(&bytes);
        let whole: usize = batches.by_ref().map_while(Result::ok).map(|batch| batch.bytes.len()).sum();
        bytes.truncate(whole);
        Ok(bytes)
    }

    /// Whether a batch ends right before `offset`.
    pub fn is_batch_start(&mut self, offset: i64) -> io::Result<bool> {
        if offset >= self.log.end_offset() {
            return Ok(offset == self.log.end_offset());
        }
        Ok(self.log.read(offset, 1, true, None).map_err(not_read)?.base_offset == offset)
    }

    /// Brings `history` up to the log's end: anew from the latest snapshot, or `from` an offset on.
    pub fn load_history(&mut self, history: &mut VoterHistory, from: Option<i64>) -> io::Result<()> {
        let mut next = match (from, self.snapshots.latest()) {
            (Some(from), _) => from,
            (None, None) => {
                history.clear();
                self.start_offset()
            }
            (None, Some(id)) => {
                history.clear();
                control::replay(&self.snapshots.read(id)?, Some(id.offset - 1), history)?;
                id.offset
            }
        };
        let end = self.log.end_offset();
        while next < end {
            let bytes = self.read(next, end, BATCH_BYTES_MAX)?;
            control::replay(&bytes, None, history)?;
            let Some(last) = Batches::new(&bytes).last() else { break };
            next = last.map_err(crate::records::damaged)?.header.next_offset();
        }
        Ok(())
    }

    // Flushing.

    /// Everything below is on disk for certain.
    pub fn flushed(&self) -> i64 {
        self.log.recovery_point().max(self.log.log_start_offset())
    }

    pub fn is_flushed(&self) -> bool {
        self.flushed() >= self.log.end_offset()
    }

    pub fn begin_flush(&mut self) -> io::Result<Option<FlushWork>> {
        if self.flushing.is_some() || self.is_flushed() {
            return Ok(None);
        }
        let work = self.log.begin_flush()?;
        self.flushing = work.as_ref().map(|work| work.upto);
        Ok(work)
    }

    pub fn on_flushed(&mut self) {
        let upto = self.flushing.take().expect("a flush was under way");
        self.log.on_flushed(upto);
    }

    pub fn on_high_watermark(&mut self, high_watermark: i64) {
        self.log.on_high_watermark(high_watermark);
    }

    pub fn delete_doomed(&mut self, now: Now) -> io::Result<()> {
        Ok(self.log.poll(now)?)
    }

    // Retention.

    /// Gives up the oldest snapshots and the log before the next one, while snapshots and log together are too large
    /// or too old (`KafkaRaftLog.maybeClean`). The last snapshot always stays. Whether anything went.
    pub fn clean(&mut self, cfg: &QuorumConfig, now: Now) -> io::Result<bool> {
        let mut cleaned = false;
        let ids: Vec<(OffsetAndEpoch, u64)> = self.snapshots.iter().collect();
        let mut total: u64 = ids.iter().map(|(_, size)| size).sum();
        for pair in ids.windows(2) {
            let &[(id, size), (next, _)] = pair else { break };
            let too_large = u64::try_from(cfg.retention_bytes).is_ok_and(|max| self.log.size_bytes() + total > max);
            if !too_large && !self.is_too_old(id, cfg, now)? {
                break;
            }
            // Only what is committed may go, and a snapshot is only made of that.
            self.log.set_log_start(next.offset, now)?;
            self.snapshots.remove_before(next, now.mono_ms)?;
            total -= size;
            cleaned = true;
        }
        Ok(cleaned)
    }

    fn is_too_old(&self, id: OffsetAndEpoch, cfg: &QuorumConfig, now: Now) -> io::Result<bool> {
        if cfg.retention_ms < 0 {
            return Ok(false);
        }
        let timestamp = control::snapshot_timestamp(&self.snapshots.read(id)?)?;
        Ok(id != BOOTSTRAP_SNAPSHOT_ID && now.wall_ms - timestamp > cfg.retention_ms)
    }
}

/// What an append of our own batches can fail with is the disk; the rest would be a mistake of ours.
fn not_appended(error: AppendError) -> io::Error {
    match error {
        AppendError::Storage(error) => error.into(),
        other => io::Error::other(other.to_string()),
    }
}

fn not_read(error: OutOfRange) -> io::Error {
    match error {
        OutOfRange::Storage(error) => error.into(),
        OutOfRange::OffsetOutOfRange => {
            io::Error::new(io::ErrorKind::InvalidInput, "offset is not in the metadata log")
        }
    }
}
