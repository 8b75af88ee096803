//! A replica's log: segments one behind the other, the last one written to.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use protocol::error::ErrorCode;
use protocol::records::{
    Batch, BatchHeader, Batches, ControlRecordType, RecordError, Scratch, TimestampType, set_base_offset,
    set_log_append_time, set_partition_leader_epoch,
};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::disk::{DiskRef, FileRef, OpenMode};
use crate::epochs::LeaderEpochs;
use crate::producers::{ProducerStates, Sequenced};
use crate::recovery::PARTITION_METADATA;
use crate::segment::{Segment, file_name};
use crate::txn_index::{self, AbortedTxn};
use crate::verification::{Guard, Verification, Verifications};
use crate::{FlushWork, LogConfig};

/// Appended bytes after which the producers' state is written between two rolls: what a restart after a crash replays.
const PROGRESS_BYTES: u64 = 16 << 20;

/// A disk that failed, or files that cannot be used as they are: for an operator.
#[derive(Debug)]
pub struct StorageError {
    pub path: PathBuf,
    pub error: io::Error,
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.error)
    }
}

impl std::error::Error for StorageError {}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        io::Error::new(error.error.kind(), error)
    }
}

/// What is known of the machine since the log was last written: decides how much must be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The log was closed in order: nothing is scanned.
    CleanShutdown,
    /// The process died, the kernel did not: every completed write is there, only the last one may be cut off.
    SameBoot,
    /// Power may have failed: everything beyond the recovery point is checked.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// `None`: whatever `partition.metadata` says.
    pub topic_id: Option<Uuid>,
    pub evidence: Evidence,
    /// Everything below is on disk, from `recovery-point-offset-checkpoint`.
    pub recovery_point: i64,
    /// From `log-start-offset-checkpoint`; 0 where it has none.
    pub log_start_offset: i64,
    pub now: Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A producer: sequences are checked, and a transaction begins only if its coordinator was asked.
    Client(Verification),
    /// Offsets that a transaction commits: like a producer's, without sequences.
    Offsets(Verification),
    /// A transaction's end, by a coordinator that speaks this transaction version.
    Marker { transaction_version: i16 },
    /// A coordinator's or the quorum's own records.
    Internal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendInfo {
    pub first_offset: i64,
    pub last_offset: i64,
    /// With `LogAppendTime` and for duplicates, else −1.
    pub log_append_time: i64,
    pub max_timestamp: i64,
    /// The batch was in the log before; the offsets are those of the first time.
    pub is_duplicate: bool,
}

#[derive(Debug)]
pub enum AppendError {
    /// The producer is told.
    Refused(ErrorCode),
    /// What a leader sent does not follow what this log holds.
    Unexpected {
        expected: i64,
        got: i64,
    },
    Corrupt(RecordError),
    Storage(StorageError),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(code) => write!(f, "{code}"),
            Self::Unexpected { expected, got } => write!(f, "batch at offset {got} where {expected} was expected"),
            Self::Corrupt(error) => write!(f, "{error}"),
            Self::Storage(error) => write!(f, "{error}"),
        }
    }
}

/// Bytes of a segment file; `len` 0 if there is nothing to read yet.
#[derive(Clone)]
pub struct ReadPlan {
    pub file: FileRef,
    pub at: u64,
    pub len: u32,
    /// Of the first batch.
    pub base_offset: i64,
}

impl ReadPlan {
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = vec![0; self.len as usize];
        let n = self.file.read_at(&mut out, self.at)?;
        out.truncate(n);
        Ok(out)
    }
}

#[derive(Debug)]
pub enum OutOfRange {
    /// Below the log's start or beyond its end.
    OffsetOutOfRange,
    Storage(StorageError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    pub timestamp: i64,
    pub offset: i64,
    pub leader_epoch: Option<i32>,
}

/// Invariants, see [`Log::check`]: segments are in order of their base offsets and do not overlap; the last one is
/// active; `log_start <= next_offset`; `recovery_point <= next_offset`.
pub struct Log {
    pub(crate) disk: DiskRef,
    pub(crate) dir: PathBuf,
    pub(crate) config: LogConfig,
    pub(crate) segments: BTreeMap<i64, Segment>,
    pub(crate) epochs: LeaderEpochs,
    pub(crate) producers: ProducerStates,
    pub(crate) verifications: Verifications,
    pub(crate) topic_id: Option<Uuid>,
    pub(crate) log_start: i64,
    pub(crate) next_offset: i64,
    pub(crate) recovery_point: i64,
    /// The directory has entries that were never synced.
    pub(crate) dir_is_dirty: bool,
    /// Files renamed `.deleted`, and when to remove them.
    pub(crate) doomed: Vec<(i64, PathBuf)>,
    /// The segment that was cut since the last flush: its length is not on disk, whatever the recovery point says.
    pub(crate) unsynced_cut: Option<i64>,
    pub(crate) size: u64,
    /// Size of the log when the producers' state was last written, and the offset it was written for if no segment
    /// begins there.
    pub(crate) snapshot_bytes: u64,
    pub(crate) interim_snapshot: Option<i64>,
    /// The producers' state at the last such step.
    pub(crate) earlier_producers: Option<ProducerStates>,
    /// Everything below was compacted by the last pass of the cleaner.
    pub(crate) cleaned_upto: Option<i64>,
    /// Cancels the pass that is under way.
    pub(crate) cleaning: Option<Arc<AtomicBool>>,
    scratch: Scratch,
}

impl Log {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn topic_id(&self) -> Option<Uuid> {
        self.topic_id
    }

    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    pub fn update_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    pub fn log_start_offset(&self) -> i64 {
        self.log_start
    }

    /// The offset of the next record.
    pub fn end_offset(&self) -> i64 {
        self.next_offset
    }

    pub fn recovery_point(&self) -> i64 {
        self.recovery_point
    }

    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Base offset of the oldest segment.
    pub fn first_segment_base(&self) -> i64 {
        self.segments.keys().next().copied().unwrap_or(self.log_start)
    }

    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    pub fn epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    /// Epoch of the last record or of the leader that has begun to write; `None` in an empty log without one.
    pub fn latest_epoch(&self) -> Option<i32> {
        self.epochs.latest().map(|e| e.epoch)
    }

    pub fn producers(&self) -> &ProducerStates {
        &self.producers
    }

    /// Everything below is decided: the smaller of the first unstable offset and the high watermark.
    pub fn last_stable_offset(&self, high_watermark: i64) -> i64 {
        self.producers.first_unstable_offset().map_or(high_watermark, |first| first.min(high_watermark))
    }

    pub fn on_high_watermark(&mut self, high_watermark: i64) {
        self.producers.on_high_watermark(high_watermark);
    }

    pub(crate) fn failed(&self, error: io::Error) -> StorageError {
        StorageError { path: self.dir.clone(), error }
    }

    pub(crate) fn active(&mut self) -> &mut Segment {
        self.segments.last_entry().expect("a log has a segment").into_mut()
    }

    /// A new leader notes where its epoch begins, even if it will write nothing.
    pub fn assign_epoch_start(&mut self, epoch: i32) -> Result<(), StorageError> {
        let next = self.next_offset;
        self.epochs.assign(epoch, next).map_err(|e| self.failed(e))
    }

    /// Appends one batch that is valid in itself: offsets and epoch are set in place, the producer's sequence is
    /// checked, and the bytes go to the file as they are.
    pub fn append_as_leader(
        &mut self,
        batch: &mut [u8],
        leader_epoch: i32,
        origin: AppendOrigin,
        now: Now,
    ) -> Result<AppendInfo, AppendError> {
        let mut header = BatchHeader::parse(batch).map_err(AppendError::Corrupt)?;
        assert_eq!(header.size(), batch.len(), "one whole batch is appended at a time");
        if origin != AppendOrigin::Internal && header.has_producer_id() {
            match self.check_producer(&header, batch, origin).map_err(AppendError::Refused)? {
                Sequenced::Next => {}
                Sequenced::Duplicate(original) => {
                    return Ok(AppendInfo {
                        first_offset: original.first_offset(),
                        last_offset: original.last_offset,
                        // Kafka tells the batch's own time whatever the topic's kind of time.
                        log_append_time: original.timestamp,
                        max_timestamp: original.timestamp,
                        is_duplicate: true,
                    });
                }
            }
        }
        set_base_offset(batch, self.next_offset);
        set_partition_leader_epoch(batch, leader_epoch);
        let mut log_append_time = -1;
        if self.config.timestamp_type == TimestampType::LogAppendTime && !header.is_control() {
            set_log_append_time(batch, now.wall_ms);
            log_append_time = now.wall_ms;
        }
        header = BatchHeader::parse(batch).map_err(AppendError::Corrupt)?;
        self.append_run(batch, &[header], now).map_err(AppendError::Storage)?;
        Ok(AppendInfo {
            first_offset: header.base_offset,
            last_offset: header.last_offset(),
            log_append_time,
            max_timestamp: header.max_timestamp,
            is_duplicate: false,
        })
    }

    /// What this log knows of a batch's producer decides whether it may be appended.
    fn check_producer(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        origin: AppendOrigin,
    ) -> Result<Sequenced, ErrorCode> {
        let (shown, has_sequence) = match origin {
            AppendOrigin::Internal => return Ok(Sequenced::Next),
            AppendOrigin::Marker { transaction_version } => {
                let (_, coordinator_epoch) = self.marker_of(batch).ok_or(ErrorCode::CorruptMessage)?;
                self.producers.check_marker(header, coordinator_epoch, transaction_version)?;
                return Ok(Sequenced::Next);
            }
            AppendOrigin::Client(shown) => (shown, true),
            AppendOrigin::Offsets(shown) => (shown, false),
        };
        if let Some(original) = self.producers.find_duplicate(header).filter(|_| has_sequence) {
            return Ok(Sequenced::Duplicate(original));
        }
        self.producers.check_epoch((header.producer_id, header.producer_epoch))?;
        let is_open = self.producers.has_open_transaction((header.producer_id, header.producer_epoch));
        if header.is_transactional() && !is_open && !self.verifications.allows(header.producer_id, shown) {
            return Err(ErrorCode::InvalidTxnState);
        }
        if has_sequence {
            self.verifications.check_sequence(header, self.producers.is_new(header.producer_id))?;
            self.producers.check_sequence(header)?;
        }
        self.producers.check_transaction(header)?;
        Ok(Sequenced::Next)
    }

    /// A transactional batch is about to be appended. `None` if its transaction is open here; otherwise its coordinator
    /// must be asked, and the guard shown with the append. `has_own_epoch`: see [`Verifications`].
    pub fn begin_verification(
        &mut self,
        producer: (i64, i16),
        sequence: i32,
        has_own_epoch: bool,
        now: Now,
    ) -> Result<Option<Guard>, ErrorCode> {
        self.producers.check_epoch(producer)?;
        if self.producers.has_open_transaction(producer) {
            return Ok(None);
        }
        Ok(Some(self.verifications.begin(producer, sequence, has_own_epoch, now.wall_ms)))
    }

    /// Appends what a leader sent, as it is: whole batches whose offsets go on where this log ends. A batch of an
    /// epoch above `epoch_max` ends the append (KAFKA-18723), as does one that is cut off. Returns the offsets
    /// appended, if any.
    pub fn append_as_follower(
        &mut self,
        bytes: &[u8],
        epoch_max: i32,
        now: Now,
    ) -> Result<Option<AppendInfo>, AppendError> {
        let mut run: Vec<BatchHeader> = Vec::new();
        let mut run_len = 0;
        let mut expected = self.next_offset;
        let mut max_timestamp = -1;
        let mut failure = None;
        for batch in Batches::new(bytes) {
            let checked = batch.and_then(|b| b.verify_crc().map(|()| b)).map_err(AppendError::Corrupt);
            let header = match checked {
                Ok(batch) => batch.header,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            if header.partition_leader_epoch > epoch_max {
                break;
            }
            // An empty log may begin anywhere; compaction leaves gaps, but nothing ever goes back.
            if header.base_offset < expected {
                failure = Some(AppendError::Unexpected { expected, got: header.base_offset });
                break;
            }
            expected = header.next_offset();
            max_timestamp = max_timestamp.max(header.max_timestamp);
            run_len += header.size();
            run.push(header);
        }
        let info = match (run.first(), run.last()) {
            (Some(first), Some(last)) => Some(AppendInfo {
                first_offset: first.base_offset,
                last_offset: last.last_offset(),
                log_append_time: -1,
                max_timestamp,
                is_duplicate: false,
            }),
            _ => None,
        };
        let whole = bytes.get(..run_len).unwrap_or_default();
        self.append_run(whole, &run, now).map_err(AppendError::Storage)?;
        match failure {
            Some(error) => Err(error),
            None => Ok(info),
        }
    }

    /// Writes batches whose offsets and epochs are final, rolling where a segment is full.
    fn append_run(&mut self, bytes: &[u8], batches: &[BatchHeader], now: Now) -> Result<(), StorageError> {
        let mut first = 0;
        let mut from = 0;
        let mut at = 0;
        let mut pending = 0u64;
        for (i, header) in batches.iter().enumerate() {
            if self.needs_roll(header, pending, now) {
                self.write_run(bytes.get(from..at).unwrap_or_default(), &batches[first..i])?;
                (first, from, pending) = (i, at, 0);
                self.roll(header.base_offset.max(self.next_offset), now)?;
            }
            at += header.size();
            pending += header.size() as u64;
        }
        self.write_run(bytes.get(from..at).unwrap_or_default(), &batches[first..])
    }

    fn write_run(&mut self, bytes: &[u8], batches: &[BatchHeader]) -> Result<(), StorageError> {
        let Some(last) = batches.last() else { return Ok(()) };
        let next_offset = last.next_offset();
        let config = self.config.clone();
        let written = self.active().append(bytes, batches, &config);
        written.map_err(|e| self.failed(e))?;
        self.size += bytes.len() as u64;
        self.next_offset = next_offset;
        let mut at = 0;
        for header in batches {
            let epoch = header.partition_leader_epoch;
            self.epochs.assign(epoch, header.base_offset).map_err(|e| self.failed(e))?;
            let batch = bytes.get(at..at + header.size()).unwrap_or_default();
            self.note_producer(header, batch).map_err(|e| self.failed(e))?;
            at += header.size();
        }
        self.producers.end_offset = next_offset;
        Ok(())
    }

    /// Producer state and, for an aborted transaction, the index of its segment.
    pub(crate) fn note_producer(&mut self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
        if !header.has_producer_id() {
            return Ok(());
        }
        if header.is_transactional() {
            self.verifications.settle(header);
        }
        let marker = if header.is_control() { self.marker_of(batch) } else { None };
        if let Some(aborted) = self.producers.update(header, marker) {
            let base = self.segments.range(..=header.base_offset).next_back().map_or(self.log_start, |(b, _)| *b);
            txn_index::append(&*self.disk, &self.dir.join(file_name(base, "txnindex")), &aborted)?;
        }
        Ok(())
    }

    fn marker_of(&mut self, batch: &[u8]) -> Option<(ControlRecordType, i32)> {
        let batch = Batch::parse(batch).ok()?;
        let record = batch.records(&mut self.scratch).ok()?.next()?.ok()?;
        let kind = ControlRecordType::parse(record.key?)?;
        let epoch = record.value?.get(2..6)?.first_chunk().map(|b| i32::from_be_bytes(*b))?;
        matches!(kind, ControlRecordType::Abort | ControlRecordType::Commit).then_some((kind, epoch))
    }

    fn needs_roll(&mut self, header: &BatchHeader, pending: u64, now: Now) -> bool {
        let config = self.config.clone();
        let segment = self.active();
        let size = u64::from(segment.size) + pending;
        if size == 0 {
            return false;
        }
        let waited = match segment.first_timestamp {
            Some(first) if first >= 0 => header.max_timestamp.saturating_sub(first),
            _ => now.wall_ms - segment.created_ms,
        };
        size + header.size() as u64 > config.segment_bytes
            || waited > config.segment_ms_max() - segment.roll_jitter_ms(&config)
            || segment.index.is_full()
            || segment.time_index.is_nearly_full()
            || header.last_offset() - segment.base_offset > i64::from(i32::MAX)
    }

    /// Seals the active segment and starts the next one.
    pub fn roll(&mut self, base_offset: i64, now: Now) -> Result<(), StorageError> {
        if self.active().base_offset == base_offset {
            return Ok(());
        }
        self.producers.end_offset = self.next_offset.max(base_offset);
        self.producers.write_snapshot(&*self.disk, &self.dir).map_err(|e| self.failed(e))?;
        let sealed = self.active().seal();
        sealed.map_err(|e| self.failed(e))?;
        self.active().retire();
        let segment = Segment::create(&self.disk, &self.dir, base_offset, &self.config, now.wall_ms);
        let segment = segment.map_err(|e| self.failed(e))?;
        self.segments.insert(base_offset, segment);
        self.dir_is_dirty = true;
        self.snapshot_bytes = self.size;
        self.remove_interim_snapshot()
    }

    /// Writes down what recovery would otherwise have to find out again, if enough has been appended since: the
    /// producers' state, and the index entries that wait in memory.
    pub(crate) fn maybe_note_progress(&mut self) -> Result<(), StorageError> {
        // Retention makes the log smaller; progress counts from there.
        self.snapshot_bytes = self.snapshot_bytes.min(self.size);
        if self.size - self.snapshot_bytes < PROGRESS_BYTES {
            return Ok(());
        }
        let disk = self.disk.clone();
        let segment = self.active();
        let written = segment.index.write(&*disk).and_then(|()| segment.time_index.write(&*disk));
        written.map_err(|e| self.failed(e))?;
        self.snapshot_bytes = self.size;
        self.producers.end_offset = self.next_offset;
        // A snapshot keeps one batch of each producer, a replay five. Writing the state of one step ago makes recovery
        // replay what a producer that is still there may send again.
        let Some(earlier) = self.earlier_producers.replace(self.producers.clone()) else { return Ok(()) };
        earlier.write_snapshot(&*self.disk, &self.dir).map_err(|e| self.failed(e))?;
        self.remove_interim_snapshot()?;
        self.interim_snapshot = Some(earlier.end_offset);
        Ok(())
    }

    fn remove_interim_snapshot(&mut self) -> Result<(), StorageError> {
        let Some(offset) = self.interim_snapshot.take() else { return Ok(()) };
        if self.segments.contains_key(&offset) {
            return Ok(());
        }
        let path = self.dir.join(file_name(offset, "snapshot"));
        if self.disk.exists(&path) {
            self.disk.remove_file(&path).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// Where to read from. A reader at the end of a sealed segment goes on in the next one; nothing is skipped.
    pub fn read(
        &mut self,
        offset: i64,
        bytes_max: u32,
        whole_first: bool,
        upto: Option<i64>,
    ) -> Result<ReadPlan, OutOfRange> {
        if offset < self.log_start || offset > self.next_offset {
            return Err(OutOfRange::OffsetOutOfRange);
        }
        let dir = self.dir.clone();
        let failed = |error| OutOfRange::Storage(StorageError { path: dir.clone(), error });
        if offset < upto.unwrap_or(i64::MAX).min(self.next_offset) {
            let from = self.segments.range(..=offset).next_back().map_or(i64::MIN, |(base, _)| *base);
            for (_, segment) in self.segments.range_mut(from..) {
                if let Some(plan) = segment.read(offset, bytes_max, whole_first, upto).map_err(failed)? {
                    return Ok(plan);
                }
            }
        }
        let end = self.next_offset;
        let segment = self.active();
        let at = u64::from(segment.size);
        let file = segment.file().map_err(failed)?;
        Ok(ReadPlan { file, at, len: 0, base_offset: end })
    }

    /// Bytes between an offset and a bound, as a fetch weighs them; cheap at the tail.
    pub fn bytes_from(&mut self, offset: i64, upto: i64, enough: u64) -> u64 {
        let mut total = 0;
        let mut from = offset;
        while from < upto && total < enough {
            match self.read(from, i32::MAX as u32, false, Some(upto)) {
                Ok(plan) if plan.len > 0 => {
                    total += u64::from(plan.len);
                    match self.segments.range(from + 1..).next() {
                        Some((next, _)) if *next < upto => from = *next,
                        _ => break,
                    }
                }
                _ => break,
            }
        }
        total
    }

    /// The first record at or after a timestamp.
    pub fn offset_for_timestamp(&mut self, timestamp: i64, upto: i64) -> Result<Option<TimestampOffset>, StorageError> {
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        let start = self.log_start;
        for (_, segment) in self.segments.range_mut(..) {
            if segment.largest_timestamp().is_some_and(|max| max.timestamp < timestamp) {
                continue;
            }
            let mut candidate = segment.batch_at_timestamp(timestamp).map_err(&failed)?;
            while let Some((at, header)) = candidate {
                let mut bytes = vec![0; header.size()];
                let n = segment.file().map_err(&failed)?.read_at(&mut bytes, u64::from(at)).map_err(&failed)?;
                let batch = bytes.get(..n).and_then(|b| Batch::parse(b).ok());
                let Some(Ok(records)) = batch.map(|batch| batch.records(&mut self.scratch)) else { break };
                let found = records.flatten().find(|r| r.timestamp >= timestamp && r.offset >= start);
                if let Some(record) = found {
                    let leader_epoch = Some(header.partition_leader_epoch).filter(|e| *e >= 0);
                    let (timestamp, offset) = (record.timestamp, record.offset);
                    return Ok((offset < upto).then_some(TimestampOffset { timestamp, offset, leader_epoch }));
                }
                // A batch that compaction has emptied still tells the time of what was in it.
                let next = at.saturating_add(header.size() as u32);
                candidate = segment.batch_at_timestamp_from(next, timestamp).map_err(&failed)?;
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp (ListOffsets −3).
    pub fn offset_of_max_timestamp(&mut self, upto: i64) -> Result<Option<TimestampOffset>, StorageError> {
        let largest = self.segments.values_mut().filter_map(Segment::largest_timestamp).map(|s| s.timestamp).max();
        match largest {
            Some(timestamp) if timestamp >= 0 => self.offset_for_timestamp(timestamp, upto),
            _ => Ok(None),
        }
    }

    /// Where the segment behind the one that holds an offset begins.
    pub fn segment_end(&self, offset: i64) -> i64 {
        self.segments.range(offset.saturating_add(1)..).next().map_or(i64::MAX, |(base, _)| *base)
    }

    /// Transactions aborted within a range, for a read_committed fetch.
    pub fn aborted_transactions(&mut self, from: i64, upto: i64) -> Result<Vec<AbortedTxn>, StorageError> {
        let first = self.segments.range(..=from).next_back().map_or(from, |(base, _)| *base);
        let mut found = Vec::new();
        for base in self.segments.range(first..).map(|(base, _)| *base) {
            let path = self.dir.join(file_name(base, "txnindex"));
            let entries = txn_index::read(&*self.disk, &path).map_err(|e| self.failed(e))?;
            found.extend(entries.iter().filter(|t| t.last_offset >= from && t.first_offset < upto));
            if entries.iter().any(|t| t.last_stable_offset >= upto) {
                break;
            }
        }
        Ok(found)
    }

    /// What an fsync must cover so that everything appended so far is durable; `None` if it is already.
    pub fn begin_flush(&mut self) -> Result<Option<FlushWork>, StorageError> {
        if self.recovery_point >= self.next_offset && !self.dir_is_dirty {
            return Ok(None);
        }
        let from = self.segments.range(..=self.recovery_point).next_back().map_or(i64::MIN, |(base, _)| *base);
        let from = from.min(self.unsynced_cut.take().unwrap_or(i64::MAX));
        let dir = self.dir.clone();
        let mut files = Vec::new();
        for (_, segment) in self.segments.range_mut(from..) {
            files.push(segment.file().map_err(|error| StorageError { path: dir.clone(), error })?);
        }
        // Below the recovery point the epochs are not looked up in the batches again.
        if let Some(file) = self.epochs.take_unsynced().map_err(|e| self.failed(e))? {
            files.push(file);
            self.dir_is_dirty = true;
        }
        if self.dir_is_dirty && self.topic_id.is_some() {
            let path = self.dir.join(PARTITION_METADATA);
            files.push(self.disk.open(&path, OpenMode::ReadWrite).map_err(|e| self.failed(e))?);
        }
        let dir = std::mem::take(&mut self.dir_is_dirty).then(|| self.dir.clone());
        Ok(Some(FlushWork { disk: self.disk.clone(), files, dir, replacements: Vec::new(), upto: self.next_offset }))
    }

    /// A flush that covered everything below `upto` has ended well.
    pub fn on_flushed(&mut self, upto: i64) {
        self.recovery_point = self.recovery_point.max(upto.min(self.next_offset));
    }

    /// Flushes here and now, for start and stop.
    pub fn flush_now(&mut self) -> Result<(), StorageError> {
        if let Some(work) = self.begin_flush()? {
            work.run().map_err(|e| self.failed(e))?;
            self.on_flushed(work.upto);
        }
        Ok(())
    }

    /// A clean stop: everything is on disk, the next start scans nothing.
    pub fn close(&mut self) -> Result<(), StorageError> {
        self.cancel_cleaning();
        self.flush_now()?;
        self.producers.end_offset = self.next_offset;
        self.producers.write_snapshot(&*self.disk, &self.dir).map_err(|e| self.failed(e))?;
        let sealed = self.active().seal();
        sealed.map_err(|e| self.failed(e))
    }

    pub fn check(&self) {
        assert!(self.log_start <= self.next_offset, "{}: start beyond end", self.dir.display());
        assert!(self.recovery_point <= self.next_offset, "{}: recovery point beyond end", self.dir.display());
        let last = self.segments.keys().next_back().copied().unwrap_or(i64::MAX);
        assert!(last <= self.next_offset, "{}: a segment begins beyond the end", self.dir.display());
    }

    pub(crate) fn new(disk: DiskRef, dir: PathBuf, config: LogConfig, epochs: LeaderEpochs) -> Log {
        Log {
            disk,
            dir,
            config,
            segments: BTreeMap::new(),
            epochs,
            producers: ProducerStates::default(),
            verifications: Verifications::default(),
            topic_id: None,
            log_start: 0,
            next_offset: 0,
            recovery_point: 0,
            dir_is_dirty: true,
            doomed: Vec::new(),
            unsynced_cut: None,
            size: 0,
            snapshot_bytes: 0,
            interim_snapshot: None,
            earlier_producers: None,
            cleaned_upto: None,
            cleaning: None,
            scratch: Scratch::default(),
        }
    }
}
