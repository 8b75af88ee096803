//! Which leader epoch wrote from which offset (KIP-101): the cache in memory and its file `leader-epoch-checkpoint`.

use std::io;
use std::path::PathBuf;

use crate::checkpoint;
use crate::disk::{DiskRef, FileRef, OpenMode};

const FILE: &str = "leader-epoch-checkpoint";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEntry {
    pub epoch: i32,
    pub start_offset: i64,
}

/// Where an epoch ends, as a leader answers it; `epoch` is the largest known one not above the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: i32,
    pub end_offset: i64,
}

/// Entries rise strictly in both fields.
pub struct LeaderEpochs {
    disk: DiskRef,
    path: PathBuf,
    entries: Vec<EpochEntry>,
    /// The file was replaced since it was last part of a flush.
    is_dirty: bool,
}

impl LeaderEpochs {
    /// `Err` if the file is there and cannot be understood: the caller rebuilds it from the batches.
    pub fn open(disk: DiskRef, dir: &std::path::Path) -> (LeaderEpochs, io::Result<()>) {
        let path = dir.join(FILE);
        let mut epochs = LeaderEpochs { disk, path, entries: Vec::new(), is_dirty: false };
        let result = epochs.load();
        (epochs, result)
    }

    fn load(&mut self) -> io::Result<()> {
        for line in checkpoint::read_lines(&*self.disk, &self.path)? {
            let entry = line.split_once(' ').and_then(|(epoch, start)| {
                Some(EpochEntry { epoch: epoch.parse().ok()?, start_offset: start.parse().ok()? })
            });
            let entry = entry
                .filter(|e| self.entries.last().is_none_or(|l| l.epoch < e.epoch && l.start_offset <= e.start_offset));
            let Some(entry) = entry else {
                self.entries.clear();
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: line {line:?}", self.path.display()),
                ));
            };
            self.push(entry);
        }
        Ok(())
    }

    /// An epoch that wrote nothing is superseded by one that starts at the same offset.
    fn push(&mut self, entry: EpochEntry) {
        while self.entries.last().is_some_and(|last| last.start_offset >= entry.start_offset) {
            self.entries.pop();
        }
        self.entries.push(entry);
    }

    fn save(&mut self) -> io::Result<()> {
        self.is_dirty = true;
        let lines = self.entries.iter().map(|e| format!("{} {}", e.epoch, e.start_offset));
        checkpoint::replace_if_room(&*self.disk, &self.path, checkpoint::format_lines(lines).as_bytes())
    }

    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    /// Notes that `epoch` writes from `start_offset` on; known or older epochs change nothing.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) -> io::Result<()> {
        if epoch < 0 || self.latest().is_some_and(|last| last.epoch >= epoch) {
            return Ok(());
        }
        self.push(EpochEntry { epoch, start_offset });
        self.save()
    }

    /// In memory only, for rebuilding: follow with [`LeaderEpochs::flush`].
    pub(crate) fn note(&mut self, epoch: i32, start_offset: i64) {
        if epoch >= 0 && self.latest().is_none_or(|last| last.epoch < epoch) {
            self.push(EpochEntry { epoch, start_offset });
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.save()
    }

    /// In memory only: what starts at or beyond an offset is not to be believed.
    pub(crate) fn forget_from(&mut self, offset: i64) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| e.start_offset < offset);
        self.entries.len() != before
    }

    /// The file, if the next flush of the log has to cover it too.
    pub(crate) fn take_unsynced(&mut self) -> io::Result<Option<FileRef>> {
        if !self.is_dirty {
            return Ok(None);
        }
        let file = self.disk.open(&self.path, OpenMode::ReadWrite)?;
        self.is_dirty = false;
        Ok(Some(file))
    }

    /// Rule of `LeaderEpochFileCache.endOffsetFor`: the latest epoch ends at the log's end; another one where the next
    /// one starts; below all known ones, it ends where the first known one starts. `None` if nothing can be said.
    pub fn end_offset_for(&self, epoch: i32, log_end: i64) -> Option<EpochEnd> {
        let latest = self.latest()?;
        if epoch < 0 || epoch > latest.epoch {
            return None;
        }
        if epoch == latest.epoch {
            return Some(EpochEnd { epoch, end_offset: log_end });
        }
        let after = self.entries.partition_point(|e| e.epoch <= epoch);
        let end_offset = self.entries.get(after)?.start_offset;
        let floor = after.checked_sub(1).and_then(|i| self.entries.get(i)).map_or(epoch, |e| e.epoch);
        Some(EpochEnd { epoch: floor, end_offset })
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: i64) -> Option<i32> {
        let after = self.entries.partition_point(|e| e.start_offset <= offset);
        after.checked_sub(1).and_then(|i| self.entries.get(i)).map(|e| e.epoch)
    }

    /// The log now ends at `end_offset`.
    pub fn truncate_from_end(&mut self, end_offset: i64) -> io::Result<()> {
        let before = self.entries.len();
        self.entries.retain(|e| e.start_offset < end_offset);
        if self.entries.len() == before { Ok(()) } else { self.save() }
    }

    /// The log now starts at `start_offset`; the epoch that wrote there keeps an entry.
    pub fn truncate_from_start(&mut self, start_offset: i64) -> io::Result<()> {
        let after = self.entries.partition_point(|e| e.start_offset <= start_offset);
        if after == 0 || (after == 1 && self.entries[0].start_offset == start_offset) {
            return Ok(());
        }
        self.entries.drain(..after - 1);
        self.entries[0].start_offset = start_offset;
        self.save()
    }

    pub fn truncate_all(&mut self) -> io::Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        self.entries.clear();
        self.save()
    }
}
