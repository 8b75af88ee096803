//! The metadata log with its snapshots: what raft asks of a log, over [`storage::Log`].

use std::io;
use std::path::Path;

use protocol::time::Now;
use storage::DiskRef;

use crate::config::{BATCH_BYTES_MAX, QuorumConfig};
use crate::control;
use crate::interim_log::{FlushWork, Log, LogConfig};
use crate::records::check_fetched;
use crate::snapshot::{BOOTSTRAP_SNAPSHOT_ID, Snapshots};
use crate::types::OffsetAndEpoch;
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

/// Invariants: if the log does not start at 0, there is a snapshot at or beyond its start; `flushed` ≤ end.
pub struct MetadataLog {
    log: Log,
    pub snapshots: Snapshots,
    /// Everything below is on disk for certain.
    flushed: i64,
    /// What the flush under way will have put on disk; cut back when the log is.
    flushing: Option<i64>,
}

impl MetadataLog {
    pub fn open(disk: DiskRef, dir: &Path, config: LogConfig, _clean: bool, now: Now) -> io::Result<Self> {
        let log = Log::open(disk.clone(), dir, config)?;
        let snapshots = Snapshots::open(disk, dir, log.log_start_offset())?;
        // Nothing counts as flushed at first: what the last run wrote may still be in the page cache only.
        let flushed = log.log_start_offset();
        let mut out = Self { log, snapshots, flushed, flushing: None };
        // A crash came between the download of a snapshot and the truncation that it calls for.
        out.restart_at_latest_snapshot(now)?;
        Ok(out)
    }

    pub fn start_offset(&self) -> i64 {
        self.log.log_start_offset()
    }

    pub fn end(&self) -> OffsetAndEpoch {
        OffsetAndEpoch::new(self.log.log_end_offset(), self.last_epoch())
    }

    /// Epoch of the last record, of the snapshot if the log is empty behind it, or 0.
    pub fn last_epoch(&self) -> i32 {
        let of_snapshot = || self.snapshots.latest().filter(|id| id.offset == self.log.log_end_offset());
        self.log.latest_epoch().or_else(|| of_snapshot().map(|id| id.epoch)).unwrap_or(0)
    }

    /// The largest epoch not above `epoch`, and where it ends.
    fn end_offset_for_epoch(&self, epoch: i32) -> OffsetAndEpoch {
        let Some((found, offset)) = self.log.end_offset_for_epoch(epoch) else { return self.end() };
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
            return end.offset.min(self.log.log_end_offset());
        }
        let ours = self.end_offset_for_epoch(end.epoch);
        if ours.epoch == end.epoch { ours.offset.min(end.offset) } else { ours.offset }
    }

    pub fn truncate_to(&mut self, offset: i64) -> io::Result<()> {
        self.log.truncate_to(offset)?;
        let end = self.log.log_end_offset();
        self.flushed = self.flushed.min(end);
        self.flushing = self.flushing.map(|upto| upto.min(end));
        Ok(())
    }

    /// If the latest snapshot is ahead of the log, begins the log anew behind it; whether it was.
    pub fn restart_at_latest_snapshot(&mut self, now: Now) -> io::Result<bool> {
        let Some(id) = self.snapshots.latest() else { return Ok(false) };
        if id <= OffsetAndEpoch::new(self.log.log_end_offset(), self.log.latest_epoch().unwrap_or(0)) {
            return Ok(false);
        }
        self.log.truncate_fully_and_start_at(id.offset)?;
        self.flushed = id.offset;
        self.flushing = self.flushing.map(|upto| upto.min(id.offset));
        self.snapshots.remove_before(id, now.mono_ms)?;
        Ok(true)
    }

    pub fn assign_epoch_start(&mut self, epoch: i32) -> io::Result<()> {
        self.log.assign_epoch_start(epoch)
    }

    pub fn append_as_leader(&mut self, batch: Vec<u8>, _now: Now) -> io::Result<()> {
        self.log.append(&batch)
    }

    /// Appends what is good of the records, and says what is not.
    pub fn append_as_follower(&mut self, records: &[u8], epoch: i32, _now: Now) -> io::Result<Result<(), String>> {
        let (good, fault) = check_fetched(records, self.log.log_end_offset(), epoch);
        if good > 0 {
            self.log.append(&records[..good])?;
        }
        Ok(fault.map_or(Ok(()), Err))
    }

    /// Whole batches from the one that holds `from`, below `to`; at least one, and at most about `bytes_max`.
    pub fn read(&self, from: i64, to: i64, bytes_max: usize) -> io::Result<Vec<u8>> {
        if from >= to {
            return Ok(Vec::new());
        }
        self.log.read(from, to, bytes_max)
    }

    /// Whether a batch ends right before `offset`.
    pub fn is_batch_start(&self, offset: i64) -> io::Result<bool> {
        let end = self.log.log_end_offset();
        if offset >= end {
            return Ok(offset == end);
        }
        let bytes = self.read(offset, end, 1)?;
        Ok(bytes.first_chunk::<8>().map(|base| i64::from_be_bytes(*base)) == Some(offset))
    }

    /// Brings `history` up to the log's end: anew from the latest snapshot, or `from` an offset on.
    pub fn load_history(&self, history: &mut VoterHistory, from: Option<i64>) -> io::Result<()> {
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
        let end = self.log.log_end_offset();
        while next < end {
            let bytes = self.read(next, end, BATCH_BYTES_MAX)?;
            control::replay(&bytes, None, history)?;
            let Some(last) = protocol::records::Batches::new(&bytes).last() else { break };
            next = last.map_err(crate::records::damaged)?.header.next_offset();
        }
        Ok(())
    }

    // Flushing.

    pub fn flushed(&self) -> i64 {
        self.flushed
    }

    pub fn is_flushed(&self) -> bool {
        self.flushed >= self.log.log_end_offset()
    }

    pub fn begin_flush(&mut self) -> io::Result<Option<FlushWork>> {
        if self.flushing.is_some() || self.is_flushed() {
            return Ok(None);
        }
        self.flushing = Some(self.log.log_end_offset());
        Ok(Some(self.log.flush_work()))
    }

    pub fn on_flushed(&mut self) {
        let upto = self.flushing.take().expect("a flush was under way");
        self.flushed = self.flushed.max(upto);
    }

    pub fn on_high_watermark(&mut self, _high_watermark: i64) {}

    // Retention.

    /// Gives up the oldest snapshots and the log before the next one, while snapshots and log together are too large
    /// or too old (`KafkaRaftLog.maybeClean`). The last snapshot always stays. Whether anything went.
    pub fn clean(&mut self, cfg: &QuorumConfig, now: Now) -> io::Result<bool> {
        let mut cleaned = false;
        let ids: Vec<(OffsetAndEpoch, u64)> = self.snapshots.iter().collect();
        let mut total: u64 = ids.iter().map(|(_, size)| size).sum();
        for pair in ids.windows(2) {
            let &[(id, size), (next, _)] = pair else { break };
            let too_large = u64::try_from(cfg.retention_bytes).is_ok_and(|max| self.log.size() + total > max);
            if !too_large && !self.is_too_old(id, cfg, now)? {
                break;
            }
            // Only what is committed may go, and a snapshot is only made of that.
            self.log.increment_start(next.offset)?;
            self.snapshots.remove_before(next, now.mono_ms)?;
            self.flushed = self.flushed.max(self.start_offset());
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
