//! Sparse indexes of a segment, offset → position and timestamp → offset: entries in memory, written behind.
//!
//! An active index file has the length of `segment.index.bytes` with zeros behind its entries, as Kafka's mapped files
//! have; a sealed one has just its entries. An index is never trusted beyond a plausibility check: it is rebuilt from
//! the segment when in doubt.

use std::io::{self, IoSlice};
use std::path::PathBuf;

use crate::checkpoint::is_full;
use crate::disk::{Disk, OpenMode};

/// Entries that may wait in memory before they are written; a crash costs a scan of what they cover.
const PENDING_MAX: usize = 256;

/// Entries read at a time: most files end within the first read.
const ENTRIES_PER_READ: usize = 512;

/// What an index stores, and how it looks on disk.
pub trait IndexEntry: Copy {
    const SIZE: usize;
    fn encode(&self, base_offset: i64, out: &mut Vec<u8>);
    fn decode(bytes: &[u8], base_offset: i64) -> Option<Self>;
    /// May `next` follow `self`?
    fn precedes(&self, next: &Self) -> bool;
}

/// The last offset of a batch, and where the batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub offset: i64,
    pub at: u32,
}

impl IndexEntry for Position {
    const SIZE: usize = 8;

    fn encode(&self, base_offset: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(&((self.offset - base_offset) as i32).to_be_bytes());
        out.extend_from_slice(&self.at.to_be_bytes());
    }

    fn decode(bytes: &[u8], base_offset: i64) -> Option<Self> {
        let relative = i32::from_be_bytes(*bytes.first_chunk()?);
        let at = u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?);
        (relative >= 0).then_some(Position { offset: base_offset.checked_add(i64::from(relative))?, at })
    }

    fn precedes(&self, next: &Self) -> bool {
        self.offset < next.offset && self.at < next.at
    }
}

/// The largest timestamp so far, and the offset of the batch that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub timestamp: i64,
    pub offset: i64,
}

impl IndexEntry for Stamp {
    const SIZE: usize = 12;

    fn encode(&self, base_offset: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&((self.offset - base_offset) as i32).to_be_bytes());
    }

    fn decode(bytes: &[u8], base_offset: i64) -> Option<Self> {
        let timestamp = i64::from_be_bytes(*bytes.first_chunk()?);
        let relative = i32::from_be_bytes(*bytes.get(8..)?.first_chunk()?);
        (relative >= 0).then_some(Stamp { timestamp, offset: base_offset.checked_add(i64::from(relative))? })
    }

    fn precedes(&self, next: &Self) -> bool {
        self.timestamp < next.timestamp && self.offset <= next.offset
    }
}

pub struct Index<E> {
    path: PathBuf,
    base_offset: i64,
    entries: Vec<E>,
    written: usize,
    entries_max: usize,
    /// Not read from disk yet: sealed segments are opened when asked for.
    is_loaded: bool,
}

impl<E: IndexEntry> Index<E> {
    pub fn create(disk: &dyn Disk, path: PathBuf, base_offset: i64, bytes_max: u64) -> io::Result<Self> {
        let entries_max = (bytes_max as usize / E::SIZE).max(1);
        disk.open(&path, OpenMode::Truncate)?.set_len((entries_max * E::SIZE) as u64)?;
        Ok(Self { path, base_offset, entries: Vec::new(), written: 0, entries_max, is_loaded: true })
    }

    /// For a sealed segment, or before recovery: nothing is read yet.
    pub fn unloaded(path: PathBuf, base_offset: i64, bytes_max: u64) -> Self {
        let entries_max = (bytes_max as usize / E::SIZE).max(1);
        Self { path, base_offset, entries: Vec::new(), written: 0, entries_max, is_loaded: false }
    }

    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Reads the file up to the end of its entries; false if it is missing or cannot be right, and then must be
    /// rebuilt. Never more than that: ten megabytes of zeros stand behind the entries of an active file, twice in each
    /// of perhaps thousands of partitions.
    pub fn load(&mut self, disk: &dyn Disk) -> bool {
        let Some(entries) = self.read_entries(disk) else { return false };
        self.written = entries.len();
        self.entries = entries;
        self.is_loaded = true;
        true
    }

    fn read_entries(&self, disk: &dyn Disk) -> Option<Vec<E>> {
        let file = disk.open(&self.path, OpenMode::Read).ok()?;
        if file.len().ok()? % E::SIZE as u64 != 0 {
            return None;
        }
        let mut entries: Vec<E> = Vec::new();
        let mut chunk = vec![0; ENTRIES_PER_READ * E::SIZE];
        let mut at = 0;
        loop {
            let n = file.read_at(&mut chunk, at).ok()?;
            at += n as u64;
            for bytes in chunk[..n].chunks_exact(E::SIZE) {
                // Zeros are what follows the entries of an active file; only a first entry could be all zero, and says
                // nothing that the segment's beginning does not say.
                if bytes.iter().all(|b| *b == 0) {
                    return Some(entries);
                }
                let entry = E::decode(bytes, self.base_offset)?;
                if entries.last().is_some_and(|last| !last.precedes(&entry)) {
                    return None;
                }
                entries.push(entry);
            }
            if n < chunk.len() {
                return Some(entries);
            }
        }
    }

    pub fn reset(&mut self) {
        self.entries.clear();
        self.written = 0;
        self.is_loaded = true;
    }

    pub fn last(&self) -> Option<&E> {
        self.entries.last()
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.entries_max
    }

    /// One entry short of full: the time index keeps room for the one that sealing adds.
    pub fn is_nearly_full(&self) -> bool {
        self.entries.len() + 1 >= self.entries_max
    }

    /// Appends unless the entry says nothing new.
    pub fn maybe_append(&mut self, disk: &dyn Disk, entry: E) -> io::Result<()> {
        if !self.entries.last().is_none_or(|last| last.precedes(&entry)) || self.is_full() {
            return Ok(());
        }
        self.entries.push(entry);
        if self.entries.len() - self.written >= PENDING_MAX { self.write(disk) } else { Ok(()) }
    }

    /// Writes what is pending.
    pub fn write(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.written == self.entries.len() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity((self.entries.len() - self.written) * E::SIZE);
        for entry in &self.entries[self.written..] {
            entry.encode(self.base_offset, &mut bytes);
        }
        let file = disk.open(&self.path, OpenMode::Create)?;
        match file.write_at(&mut [IoSlice::new(&bytes)], (self.written * E::SIZE) as u64) {
            // They wait on; an index that ends early costs a longer look into the segment.
            Err(error) if is_full(error.kind()) => return file.set_len((self.written * E::SIZE) as u64),
            written => written?,
        }
        self.written = self.entries.len();
        Ok(())
    }

    /// Writes everything and cuts the file to its entries, as for a sealed segment or a clean stop.
    pub fn seal(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if !self.is_loaded {
            return Ok(());
        }
        let file = disk.open(&self.path, OpenMode::Create)?;
        self.write(disk)?;
        file.set_len((self.entries.len() * E::SIZE) as u64)
    }

    /// Gives the file its active length back.
    pub fn unseal(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(&self.path, OpenMode::Create)?;
        file.set_len((self.written * E::SIZE) as u64)?;
        file.set_len((self.entries_max * E::SIZE) as u64)
    }

    /// Keeps only entries for which `keep` holds (a prefix), and zeroes the rest of the file.
    pub fn truncate(&mut self, disk: &dyn Disk, keep: impl Fn(&E) -> bool) -> io::Result<()> {
        let len = self.entries.partition_point(keep);
        self.entries.truncate(len);
        self.written = self.written.min(len);
        self.unseal(disk)
    }
}

impl Index<Position> {
    /// Where to begin looking for `offset`: the position of an earlier batch, or of the segment's first.
    pub fn floor(&self, offset: i64) -> u32 {
        let after = self.entries.partition_point(|e| e.offset <= offset);
        after.checked_sub(1).map_or(0, |i| self.entries[i].at)
    }
}

impl Index<Stamp> {
    /// The offset from which to look for a record at or after `timestamp`; `None` for the segment's beginning.
    pub fn floor(&self, timestamp: i64) -> Option<i64> {
        let after = self.entries.partition_point(|e| e.timestamp < timestamp);
        after.checked_sub(1).map(|i| self.entries[i].offset)
    }
}
