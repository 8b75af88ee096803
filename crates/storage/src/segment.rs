//! One segment: a file of batches, its two indexes, and what is remembered of its tail.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use protocol::records::{BatchHeader, HEADER_LEN, crc32c};

use crate::checkpoint::is_full;
use crate::disk::{DiskRef, FileRef, OpenMode};
use crate::index::{Index, Position, Stamp};
use crate::{LogConfig, ReadPlan};

/// Batches at the tail whose positions are known without a look at the disk: what followers and tailing consumers ask.
const TAIL_MAX: usize = 4096;
/// Blocks are reserved ahead of the tail in steps of this, which saves a fifth of the cost of an append.
const RESERVE_BYTES: u64 = 16 << 20;
/// Below this a log is too small for reserving to matter.
const RESERVE_FROM: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct TailBatch {
    base_offset: i64,
    next_offset: i64,
    at: u32,
}

pub struct Segment {
    disk: DiskRef,
    pub base_offset: i64,
    path: PathBuf,
    /// Sealed segments are opened when somebody reads them.
    file: Option<FileRef>,
    pub size: u32,
    pub index: Index<Position>,
    pub time_index: Index<Stamp>,
    bytes_since_index: u32,
    /// Of the first batch, for rolling by time.
    pub first_timestamp: Option<i64>,
    /// Largest timestamp, and the last offset of the batch that holds it.
    pub max_timestamp: Option<Stamp>,
    pub created_ms: i64,
    tail: VecDeque<TailBatch>,
    reserved: u64,
}

/// The files of a segment, in the order in which Kafka renames them; the last one is often not there.
pub(crate) const FILE_SUFFIXES: [&str; 4] = ["log", "index", "timeindex", "txnindex"];
/// Behind the name of what a cleaner is still writing, and of what it has written but not yet put in its place.
pub(crate) const CLEANED: &str = ".cleaned";
pub(crate) const SWAP: &str = ".swap";

pub fn file_name(base_offset: i64, suffix: &str) -> String {
    format!("{base_offset:020}.{suffix}")
}

impl Segment {
    pub fn create(
        disk: &DiskRef,
        dir: &Path,
        base_offset: i64,
        config: &LogConfig,
        now_ms: i64,
    ) -> io::Result<Segment> {
        Segment::create_as(disk, dir, base_offset, "", config, now_ms)
    }

    /// With something behind the names of its files.
    pub fn create_as(
        disk: &DiskRef,
        dir: &Path,
        base_offset: i64,
        behind: &str,
        config: &LogConfig,
        now_ms: i64,
    ) -> io::Result<Segment> {
        let path = dir.join(file_name(base_offset, "log") + behind);
        let file = disk.open(&path, OpenMode::Truncate)?;
        let index_path = dir.join(file_name(base_offset, "index") + behind);
        let time_path = dir.join(file_name(base_offset, "timeindex") + behind);
        Ok(Segment {
            disk: disk.clone(),
            base_offset,
            path,
            file: Some(file),
            size: 0,
            index: Index::create(&**disk, index_path, base_offset, config.index_bytes)?,
            time_index: Index::create(&**disk, time_path, base_offset, config.index_bytes)?,
            bytes_since_index: 0,
            first_timestamp: None,
            max_timestamp: None,
            created_ms: now_ms,
            tail: VecDeque::new(),
            reserved: 0,
        })
    }

    /// An existing segment; indexes are read when needed.
    pub fn open(
        disk: &DiskRef,
        dir: &Path,
        base_offset: i64,
        len: u64,
        config: &LogConfig,
        now_ms: i64,
    ) -> io::Result<Segment> {
        let size = u32::try_from(len).ok().filter(|size| *size <= i32::MAX as u32).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("segment of {len} bytes exceeds 2 GiB"))
        })?;
        let index_path = dir.join(file_name(base_offset, "index"));
        let time_path = dir.join(file_name(base_offset, "timeindex"));
        Ok(Segment {
            disk: disk.clone(),
            base_offset,
            path: dir.join(file_name(base_offset, "log")),
            file: None,
            size,
            index: Index::unloaded(index_path, base_offset, config.index_bytes),
            time_index: Index::unloaded(time_path, base_offset, config.index_bytes),
            bytes_since_index: 0,
            first_timestamp: None,
            max_timestamp: None,
            created_ms: now_ms,
            tail: VecDeque::new(),
            reserved: 0,
        })
    }

    pub fn file(&mut self) -> io::Result<FileRef> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let file = self.disk.open(&self.path, OpenMode::ReadWrite)?;
        self.file = Some(file.clone());
        Ok(file)
    }

    /// Writes a run of whole batches and notes them in the indexes.
    pub fn append(&mut self, run: &[u8], batches: &[BatchHeader], config: &LogConfig) -> io::Result<()> {
        let file = self.file()?;
        let end = u64::from(self.size) + run.len() as u64;
        if config.reserve && end > self.reserved && end > RESERVE_FROM {
            self.reserved = (end + RESERVE_BYTES).min(config.segment_bytes.max(end));
            match file.preallocate(self.reserved) {
                // Not so much ahead, but perhaps what is to be written now.
                Err(error) if is_full(error.kind()) => {}
                reserved => reserved?,
            }
        }
        if let Err(error) = file.write_at(&mut [IoSlice::new(run)], u64::from(self.size)) {
            // A part may have been written. Nobody may take it for a batch, whatever comes to lie before it.
            let _ = file.set_len(u64::from(self.size));
            self.reserved = 0;
            return Err(error);
        }
        for header in batches {
            self.note(header, config)?;
        }
        Ok(())
    }

    /// Takes a batch into account that is, or is about to be, at the current end.
    pub fn note(&mut self, header: &BatchHeader, config: &LogConfig) -> io::Result<()> {
        let last = header.last_offset();
        if self.first_timestamp.is_none() {
            self.first_timestamp = Some(header.max_timestamp);
        }
        if self.max_timestamp.is_none_or(|max| header.max_timestamp > max.timestamp) {
            self.max_timestamp = Some(Stamp { timestamp: header.max_timestamp, offset: last });
        }
        if self.bytes_since_index > config.index_interval_bytes {
            self.index.maybe_append(&*self.disk, Position { offset: last, at: self.size })?;
            if let Some(max) = self.max_timestamp {
                self.time_index.maybe_append(&*self.disk, max)?;
            }
            self.bytes_since_index = 0;
        }
        if self.tail.len() == TAIL_MAX {
            self.tail.pop_front();
        }
        self.tail.push_back(TailBatch {
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            at: self.size,
        });
        self.bytes_since_index = self.bytes_since_index.saturating_add(header.size() as u32);
        self.size += header.size() as u32;
        Ok(())
    }

    /// No more appends: the largest timestamp goes to the time index, files shrink to what they hold.
    pub fn seal(&mut self) -> io::Result<()> {
        if let Some(max) = self.max_timestamp {
            self.time_index.maybe_append(&*self.disk, max)?;
        }
        self.index.seal(&*self.disk)?;
        self.time_index.seal(&*self.disk)?;
        if self.reserved > u64::from(self.size) {
            // Gives back the blocks that were reserved beyond the end.
            self.file()?.set_len(u64::from(self.size))?;
            self.reserved = 0;
        }
        Ok(())
    }

    /// Forgets the tail and closes the file: the segment is not the active one any more.
    pub fn retire(&mut self) {
        self.tail = VecDeque::new();
    }

    /// The header of the batch at a position; `None` at the end, or where no whole batch fits.
    pub fn header_at(&mut self, at: u32) -> io::Result<Option<BatchHeader>> {
        let left = self.size.saturating_sub(at) as usize;
        if left < HEADER_LEN {
            return Ok(None);
        }
        let mut buf = [0u8; HEADER_LEN];
        let n = self.file()?.read_at(&mut buf, u64::from(at))?;
        Ok(buf.get(..n).and_then(|bytes| BatchHeader::parse(bytes).ok()).filter(|header| header.size() <= left))
    }

    /// Position and header-known bounds of the first batch whose last offset is at or above `offset`.
    fn locate(&mut self, offset: i64) -> io::Result<Option<TailBatch>> {
        if self.tail.front().is_some_and(|first| first.base_offset <= offset) {
            let i = self.tail.partition_point(|b| b.next_offset <= offset);
            return Ok(self.tail.get(i).copied());
        }
        self.load_index()?;
        let mut at = self.index.floor(offset);
        while let Some(header) = self.header_at(at)? {
            if header.last_offset() >= offset {
                return Ok(Some(TailBatch { base_offset: header.base_offset, next_offset: header.next_offset(), at }));
            }
            at = at.saturating_add(header.size() as u32);
        }
        Ok(None)
    }

    /// Reads the index of a segment that was opened from disk, if it is not there yet.
    pub fn load_index(&mut self) -> io::Result<()> {
        let is_there = self.index.is_loaded() || self.index.load(&*self.disk);
        let is_usable = is_there && self.index.last().is_none_or(|last| last.at < self.size.max(1));
        if is_usable { Ok(()) } else { self.rebuild_indexes() }
    }

    pub fn load_time_index(&mut self) -> io::Result<()> {
        let is_there = self.time_index.is_loaded() || self.time_index.load(&*self.disk);
        if is_there { Ok(()) } else { self.rebuild_indexes() }
    }

    /// Indexes are no part of a flush: what power has damaged of them is made again from the batches.
    fn rebuild_indexes(&mut self) -> io::Result<()> {
        tracing::warn!(segment = %self.path.display(), "damaged indexes are made again");
        let size = self.size;
        let config = LogConfig::default();
        let (tail, reserved) = (std::mem::take(&mut self.tail), self.reserved);
        self.forget();
        while self.size < size {
            let at = std::mem::replace(&mut self.size, size);
            let header = self.header_at(at)?;
            self.size = at;
            match header {
                Some(header) => self.note(&header, &config)?,
                None => break,
            }
        }
        (self.size, self.tail, self.reserved) = (size, tail, reserved);
        if let Some(max) = self.max_timestamp {
            self.time_index.maybe_append(&*self.disk, max)?;
        }
        self.index.seal(&*self.disk)?;
        self.time_index.seal(&*self.disk)
    }

    /// The position of `offset`'s batch, or the segment's end.
    pub fn position_of(&mut self, offset: i64) -> io::Result<u32> {
        Ok(self.locate(offset)?.map_or(self.size, |batch| batch.at))
    }

    /// The bytes from the batch that holds `offset`, at most `bytes_max` of them unless the first batch alone is
    /// larger, and none of a batch that begins at or beyond `upto`. `None` if the segment has nothing at or above
    /// `offset`.
    pub fn read(
        &mut self,
        offset: i64,
        bytes_max: u32,
        whole_first: bool,
        upto: Option<i64>,
    ) -> io::Result<Option<ReadPlan>> {
        let Some(first) = self.locate(offset)? else { return Ok(None) };
        let limit = match upto {
            Some(upto) if upto <= first.base_offset => first.at,
            Some(upto) => self.position_of(upto)?,
            None => self.size,
        };
        let available = limit.saturating_sub(first.at);
        let mut len = available.min(bytes_max);
        if len < available {
            len = self.whole_batches(first.at, len);
        }
        if whole_first && available > 0 {
            let size = match self.header_at(first.at)? {
                Some(header) if len < header.size() as u32 => header.size() as u32,
                _ => 0,
            };
            len = len.max(size.min(available));
        }
        let file = self.file()?;
        Ok(Some(ReadPlan { file, at: u64::from(first.at), len, base_offset: first.base_offset }))
    }

    /// Cuts a length back to whole batches where the tail knows them; elsewhere the reader skips a cut-off batch.
    fn whole_batches(&self, at: u32, len: u32) -> u32 {
        let end = at.saturating_add(len);
        match self.tail.front() {
            Some(first) if first.at <= at => {
                let after = self.tail.partition_point(|b| b.at <= end);
                after.checked_sub(1).map_or(len, |i| self.tail[i].at.saturating_sub(at))
            }
            _ => len,
        }
    }

    /// The first batch whose largest timestamp is at or above `timestamp`, from the time index on.
    pub fn batch_at_timestamp(&mut self, timestamp: i64) -> io::Result<Option<(u32, BatchHeader)>> {
        self.load_time_index()?;
        let at = match self.time_index.floor(timestamp) {
            Some(offset) => self.position_of(offset)?,
            None => 0,
        };
        self.batch_at_timestamp_from(at, timestamp)
    }

    /// As [`Segment::batch_at_timestamp`], from the batch at a position on.
    pub fn batch_at_timestamp_from(&mut self, mut at: u32, timestamp: i64) -> io::Result<Option<(u32, BatchHeader)>> {
        while let Some(header) = self.header_at(at)? {
            if header.max_timestamp >= timestamp {
                return Ok(Some((at, header)));
            }
            at = at.saturating_add(header.size() as u32);
        }
        Ok(None)
    }

    /// The largest timestamp of the segment; read from the time index for segments opened from disk.
    pub fn largest_timestamp(&mut self) -> Option<Stamp> {
        if self.max_timestamp.is_none() && self.size > 0 {
            if let Err(error) = self.load_time_index() {
                tracing::error!(segment = %self.path.display(), %error, "cannot read the time index");
            }
            self.max_timestamp = self.time_index.last().copied();
        }
        self.max_timestamp
    }

    /// The time that rolling and `max.compaction.lag.ms` count from.
    pub fn first_batch_timestamp(&mut self) -> io::Result<Option<i64>> {
        if self.first_timestamp.is_none() && self.size > 0 {
            self.first_timestamp = self.header_at(0)?.map(|header| header.max_timestamp);
        }
        Ok(self.first_timestamp)
    }

    /// How much earlier than `segment.ms` the segment ends: up to `segment.jitter.ms`, another time for each segment of
    /// each log, and always the same for one.
    pub fn roll_jitter_ms(&self, config: &LogConfig) -> i64 {
        let most = config.segment_jitter_ms.min(config.segment_ms);
        if most <= 0 {
            return 0;
        }
        let drawn = crc32c(self.path.as_os_str().as_encoded_bytes());
        i64::from(drawn) % most
    }

    /// Cuts the file at a batch boundary; `end_offset` is the offset of the first batch that goes.
    pub fn truncate(&mut self, at: u32, end_offset: i64) -> io::Result<()> {
        let file = self.file()?;
        file.set_len(u64::from(at))?;
        self.size = at;
        self.reserved = 0;
        self.tail.retain(|b| b.at < at);
        self.index.truncate(&*self.disk, |e| e.offset < end_offset && e.at < at)?;
        self.time_index.truncate(&*self.disk, |e| e.offset < end_offset)?;
        self.max_timestamp = self.time_index.last().copied();
        if at == 0 {
            self.first_timestamp = None;
        }
        // Whatever lies after the last kept time index entry may hold the largest timestamp.
        let from = self.index.last().map_or(0, |e| e.at);
        let mut at = from;
        while let Some(header) = self.header_at(at)? {
            if self.max_timestamp.is_none_or(|max| header.max_timestamp > max.timestamp) {
                self.max_timestamp = Some(Stamp { timestamp: header.max_timestamp, offset: header.last_offset() });
            }
            at = at.saturating_add(header.size() as u32);
        }
        self.bytes_since_index = self.size - from;
        Ok(())
    }

    /// Renames all files to `<name>.deleted`; they are removed later.
    pub fn mark_deleted(&mut self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut marked = Vec::new();
        for suffix in FILE_SUFFIXES {
            let path = dir.join(file_name(self.base_offset, suffix));
            if self.disk.exists(&path) {
                let to = dir.join(format!("{}.deleted", file_name(self.base_offset, suffix)));
                self.disk.rename(&path, &to)?;
                marked.push(to);
            }
        }
        Ok(marked)
    }

    pub fn remove(&mut self, dir: &Path) -> io::Result<()> {
        for path in self.mark_deleted(dir)? {
            self.disk.remove_file(&path)?;
        }
        Ok(())
    }

    /// Takes the segment as it is up to the last index entry, from where batches are noted again; returns the offset of
    /// that batch, or `None` if the entry does not fit the file.
    pub fn resume_at_last_entry(&mut self) -> io::Result<Option<i64>> {
        let Some(entry) = self.index.last().copied() else { return Ok(None) };
        let Some(header) = self.header_at(entry.at)?.filter(|h| h.last_offset() == entry.offset) else {
            return Ok(None);
        };
        let Some(first) = self.header_at(0)? else { return Ok(None) };
        self.first_timestamp = Some(first.max_timestamp);
        self.max_timestamp = self.time_index.last().copied();
        self.tail.clear();
        self.bytes_since_index = 0;
        self.size = entry.at;
        Ok(Some(header.base_offset))
    }

    /// Starts over with empty indexes and no memory of batches: they are noted again, one by one.
    pub fn forget(&mut self) {
        self.index.reset();
        self.time_index.reset();
        self.tail.clear();
        self.bytes_since_index = 0;
        self.first_timestamp = None;
        self.max_timestamp = None;
        self.size = 0;
    }
}
