//! One pass over a log as a value: what must be read and written anew, to be run wherever blocking is allowed.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::records::{Batch, BatchHeader, Batches, Scratch};

use super::filter::{self, Terms};
use super::map::OffsetMap;
use super::reader::SegmentReader;
use super::transactions::Transactions;
use crate::LogConfig;
use crate::disk::{DiskRef, OpenMode};
use crate::segment::{CLEANED, FILE_SUFFIXES, Segment, file_name};
use crate::txn_index::{self, AbortedTxn};

/// What the broker's configuration grants a cleaner.
#[derive(Clone, Copy, Debug)]
pub struct CleanLimits {
    /// `log.cleaner.dedupe.buffer.size`, the share of one thread.
    pub map_bytes: i64,
    /// `log.cleaner.io.buffer.load.factor`
    pub load_factor: f64,
    /// `log.cleaner.io.buffer.size`, the share of one of a thread's two buffers.
    pub io_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanStats {
    /// Of the segments that were written anew.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Records without a key, which compaction drops.
    pub keyless: u64,
}

/// What a run of the work came to.
#[derive(Debug)]
pub enum CleanStep {
    /// A group of segments has its successor beside it.
    Rewritten(Rewritten),
    /// Everything below is clean, and on disk.
    Finished { end_offset: i64 },
    /// The log has changed meanwhile; nothing is left behind.
    Cancelled,
}

/// Segments that were read, in order, and the size of the one that holds what is left of them.
#[derive(Clone, Debug)]
pub struct Rewritten {
    pub(super) old: Vec<i64>,
    pub(super) size: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub base: i64,
    pub size: u32,
}

pub struct CleanWork {
    pub(super) disk: DiskRef,
    pub(super) dir: PathBuf,
    pub(super) config: LogConfig,
    pub(super) limits: CleanLimits,
    pub(super) terms: Terms,
    pub(super) first_dirty: i64,
    /// The segments that may be cleaned.
    pub(super) sources: Vec<Source>,
    /// Those behind them: their indexes may name transactions that began before.
    pub(super) later: Vec<i64>,
    pub(super) cancelled: Arc<AtomicBool>,
    /// Names in the directory changed since it was last synced.
    pub(super) has_swapped: bool,
    pub(super) stats: CleanStats,
    pub(super) pass: Option<Pass>,
}

/// What is known once the dirty section has been read.
pub(super) struct Pass {
    map: OffsetMap,
    transactions: Transactions,
    groups: VecDeque<Vec<Source>>,
}

impl fmt::Debug for CleanWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CleanWork {{ {}, dirty from {} }}", self.dir.display(), self.first_dirty)
    }
}

impl CleanWork {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn stats(&self) -> CleanStats {
        self.stats
    }

    /// Reads the dirty section in the first run, writes one group's successor in each. `pace` is told of bytes that
    /// were read or written, and may take its time.
    pub fn run(&mut self, pace: &mut dyn FnMut(u64)) -> io::Result<CleanStep> {
        let mut pass = self.pass.take();
        let group = pass.as_ref().and_then(|pass| pass.groups.front()).and_then(|group| group.first()).copied();
        let step = self.step(&mut pass, pace);
        self.pass = pass;
        let is_cancelled = self.cancelled.load(Ordering::Relaxed);
        if is_cancelled || step.is_err() {
            let begun = match &step {
                Ok(CleanStep::Rewritten(rewritten)) => rewritten.old.first().copied(),
                _ => group.or(self.sources.first().copied()).map(|first| first.base),
            };
            begun.into_iter().for_each(|base| self.discard(base));
        }
        if is_cancelled { Ok(CleanStep::Cancelled) } else { step }
    }

    fn step(&mut self, pass: &mut Option<Pass>, pace: &mut dyn FnMut(u64)) -> io::Result<CleanStep> {
        if std::mem::take(&mut self.has_swapped) {
            self.disk.sync_dir(&self.dir)?;
        }
        let pass = match pass {
            Some(pass) => pass,
            None => pass.insert(self.read_dirty_section(pace)?),
        };
        let Some(group) = pass.groups.front() else {
            return Ok(CleanStep::Finished { end_offset: pass.map.latest_offset + 1 });
        };
        let old: Vec<i64> = group.iter().map(|source| source.base).collect();
        let size = self.rewrite(pass, pace)?;
        pass.groups.pop_front();
        Ok(CleanStep::Rewritten(Rewritten { old, size }))
    }

    fn read_dirty_section(&mut self, pace: &mut dyn FnMut(u64)) -> io::Result<Pass> {
        let aborted = self.aborted_transactions()?;
        let (from, end) = (self.first_dirty, self.terms.upper_bound);
        // DIFFERS: when the map was full in the middle of a segment, Kafka's next pass takes producers for aborted whose
        // transaction had ended before that place, and does not index what they have written since: earlier records of
        // the same keys stay until the keys are written again.
        let is_dirty = |txn: &&AbortedTxn| txn.last_offset >= from;
        let mut transactions = Transactions::new(aborted.iter().filter(is_dirty).copied().collect());
        let keys = end.abs_diff(from);
        let mut map = OffsetMap::new(self.limits.map_bytes, self.limits.load_factor, keys);
        let first = self.sources.partition_point(|source| source.base <= from).saturating_sub(1);
        let dirty: Vec<Source> = self.sources.get(first..).unwrap_or_default().to_vec();
        let mut scratch = Scratch::default();
        let mut is_full = false;
        for (i, source) in dirty.iter().enumerate() {
            self.each_batch(source, pace, &mut |batch| {
                is_full =
                    filter::index(batch, from, &mut map, &mut transactions, &mut scratch).map_err(io::Error::other)?;
                Ok(!is_full)
            })?;
            if is_full {
                break;
            }
            // Offsets that nothing is left of are clean as well.
            map.latest_offset = dirty.get(i + 1).map_or(end, |next| next.base) - 1;
        }
        if map.latest_offset < from {
            let what = "not one key fits into log.cleaner.dedupe.buffer.size";
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, what));
        }
        let groups = self.groups(map.latest_offset + 1)?;
        // Counted again when it is copied.
        self.stats.bytes_read = 0;
        tracing::debug!(dir = %self.dir.display(), from, end = map.latest_offset + 1, keys = map.len(), groups = groups.len(), "dirty section is read");
        Ok(Pass { map, transactions: Transactions::new(aborted), groups })
    }

    /// Transactions that were aborted in the part of the log that is read. Indexes of later segments may grow while
    /// they are read: what they gain begins beyond it.
    fn aborted_transactions(&self) -> io::Result<Vec<AbortedTxn>> {
        let mut found = Vec::new();
        for base in self.sources.iter().map(|source| source.base).chain(self.later.iter().copied()) {
            let entries = txn_index::read(&*self.disk, &self.dir.join(file_name(base, "txnindex")))?;
            found.extend(entries.into_iter().filter(|txn| txn.first_offset < self.terms.upper_bound));
        }
        Ok(found)
    }

    /// Calls `each` for the batches of a segment until it says `false`. One that is damaged is an error: nothing is
    /// made of it, and nothing is thrown away for it.
    fn each_batch(
        &mut self,
        source: &Source,
        pace: &mut dyn FnMut(u64),
        each: &mut dyn FnMut(&Batch<'_>) -> io::Result<bool>,
    ) -> io::Result<()> {
        let path = self.dir.join(file_name(source.base, "log"));
        let mut reader = SegmentReader::open(&self.disk, path, source.size, self.limits.io_bytes)?;
        while let Some(piece) = reader.next_piece()? {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.stats.bytes_read += piece.len() as u64;
            pace(piece.len() as u64);
            for batch in Batches::new(piece) {
                let batch = batch.and_then(|batch| batch.verify_crc().map(|()| batch)).map_err(io::Error::other)?;
                if !each(&batch)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Small neighbours become one segment, as far as its bounds allow (`Cleaner.groupSegmentsBySize`).
    fn groups(&self, end: i64) -> io::Result<VecDeque<Vec<Source>>> {
        let index_len = |base: i64, suffix: &str| -> io::Result<u64> {
            let path = self.dir.join(file_name(base, suffix));
            if self.disk.exists(&path) { self.disk.open(&path, OpenMode::Read)?.len() } else { Ok(0) }
        };
        let mut groups: VecDeque<Vec<Source>> = VecDeque::new();
        let mut total = [0u64; 3];
        let limits = [self.config.segment_bytes, self.config.index_bytes, self.config.index_bytes];
        let sources: Vec<Source> = self.sources.iter().filter(|source| source.base < end).copied().collect();
        for (i, source) in sources.iter().enumerate() {
            let sizes =
                [u64::from(source.size), index_len(source.base, "index")?, index_len(source.base, "timeindex")?];
            let last = sources.get(i + 1).map_or(self.terms.upper_bound, |next| next.base) - 1;
            let fits = (0..3).all(|i| total[i] + sizes[i] <= limits[i]);
            let is_near = |first: &Source| source.size == 0 || last - first.base <= i64::from(i32::MAX);
            match groups.back_mut().filter(|group| fits && group.first().is_some_and(is_near)) {
                Some(group) => {
                    group.push(*source);
                    (0..3).for_each(|i| total[i] += sizes[i]);
                }
                None => {
                    groups.push_back(vec![*source]);
                    total = sizes;
                }
            }
        }
        Ok(groups)
    }

    /// Writes what stays of the first group as `.cleaned`, all of it on disk, and returns its size.
    fn rewrite(&mut self, pass: &mut Pass, pace: &mut dyn FnMut(u64)) -> io::Result<u64> {
        let Pass { map, transactions, groups } = pass;
        let Some((group, base)) = groups.front().and_then(|group| Some((group, group.first()?.base))) else {
            return Ok(0);
        };
        self.discard(base);
        let mut output = Output::create(self, base)?;
        let mut scratch = Scratch::default();
        let mut keyless = 0;
        for source in group {
            // Lent to the closure below, and back.
            let terms = std::mem::take(&mut self.terms);
            let result = self.each_batch(source, pace, &mut |batch| {
                let kept = terms.filter(batch, map, transactions, &mut scratch, &mut output.bytes);
                let kept = kept.map_err(io::Error::other)?;
                keyless += kept.keyless;
                output.note(kept.header, kept.aborted.as_ref())?;
                Ok(true)
            });
            self.terms = terms;
            result?;
            pace(std::mem::take(&mut output.unpaced));
        }
        let written = output.finish()?;
        self.stats.bytes_written += written;
        self.stats.keyless += keyless;
        Ok(written)
    }

    /// Removes what a run has written, because its log is no more.
    pub fn forget(&self, new: &Rewritten) {
        new.old.first().into_iter().for_each(|base| self.discard(*base));
    }

    /// Removes the half-made or unwanted successor of a group. Files that cannot be removed go at the next start.
    pub(super) fn discard(&self, base: i64) {
        for suffix in FILE_SUFFIXES {
            let path = self.dir.join(file_name(base, suffix) + CLEANED);
            if self.disk.exists(&path) {
                let _ = self.disk.remove_file(&path);
            }
        }
    }
}

/// The new segment while it is written.
struct Output {
    disk: DiskRef,
    dir: PathBuf,
    config: LogConfig,
    segment: Segment,
    io_bytes: usize,
    /// Batches that wait to be written, and their headers.
    bytes: Vec<u8>,
    headers: Vec<BatchHeader>,
    unpaced: u64,
}

impl Output {
    fn create(work: &CleanWork, base: i64) -> io::Result<Output> {
        // An index that is full would lose its last entry, which tells the segment's largest timestamp.
        let index_bytes = work.config.index_bytes.saturating_mul(2).saturating_add(64);
        let config = LogConfig { reserve: false, index_bytes, ..work.config.clone() };
        let segment = Segment::create_as(&work.disk, &work.dir, base, CLEANED, &config, 0)?;
        Ok(Output {
            disk: work.disk.clone(),
            dir: work.dir.clone(),
            config,
            segment,
            io_bytes: work.limits.io_bytes,
            bytes: Vec::new(),
            headers: Vec::new(),
            unpaced: 0,
        })
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.join(file_name(self.segment.base_offset, suffix) + CLEANED)
    }

    /// A batch went into `bytes`, or did not; and a transaction of which something was there is named in the index.
    fn note(&mut self, header: Option<BatchHeader>, aborted: Option<&AbortedTxn>) -> io::Result<()> {
        self.headers.extend(header);
        if let Some(aborted) = aborted {
            txn_index::append(&*self.disk, &self.path("txnindex"), aborted)?;
        }
        if self.bytes.len() >= self.io_bytes { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        if self.headers.iter().any(|h| h.last_offset() - self.segment.base_offset > i64::from(i32::MAX)) {
            return Err(io::Error::other("a segment's offsets span more than its index can tell"));
        }
        self.segment.append(&self.bytes, &self.headers, &self.config)?;
        self.unpaced += self.bytes.len() as u64;
        self.bytes.clear();
        self.headers.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.write()?;
        self.segment.seal()?;
        for suffix in FILE_SUFFIXES {
            let path = self.path(suffix);
            if self.disk.exists(&path) {
                self.disk.open(&path, OpenMode::ReadWrite)?.sync()?;
            }
        }
        Ok(u64::from(self.segment.size))
    }
}
