//! The snapshot files beside the metadata log: their names, what there is of them, and how one comes to be.
//!
//! A snapshot is written as `…-N.checkpoint.part`, synced, made read-only and renamed; one that goes is renamed to
//! `.checkpoint.deleted` first. What a crash leaves of either is removed at start.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use storage::{DiskRef, FileRef, OpenMode};

use crate::types::OffsetAndEpoch;

/// The snapshot that `kafka-storage format` writes for a dynamic voter. It comes before the log, is never given to
/// other replicas, and its records are input for the first leader, not state.
pub const BOOTSTRAP_SNAPSHOT_ID: OffsetAndEpoch = OffsetAndEpoch::new(0, 0);

const SUFFIX: &str = ".checkpoint";
const PART_SUFFIX: &str = ".checkpoint.part";
const DELETED_SUFFIX: &str = ".checkpoint.deleted";

/// Deleted snapshots stay this long under their new name, for whoever is reading them (`file.delete.delay.ms`).
const DELETE_DELAY_MS: i64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Whole,
    Part,
    Deleted,
}

/// `%020d-%010d`, end offset and epoch, then one of the suffixes; a part has a number in between.
fn parse_name(name: &str) -> Option<(OffsetAndEpoch, FileKind)> {
    let (stem, kind) = if let Some(stem) = name.strip_suffix(PART_SUFFIX) {
        (stem, FileKind::Part)
    } else if let Some(stem) = name.strip_suffix(DELETED_SUFFIX) {
        (stem, FileKind::Deleted)
    } else {
        (name.strip_suffix(SUFFIX)?, FileKind::Whole)
    };
    let offset = stem.get(..20)?.parse().ok()?;
    let epoch = stem.get(21..31)?.parse().ok()?;
    let separated = stem.get(20..21) == Some("-") && (stem.len() == 31 || kind == FileKind::Part);
    separated.then_some((OffsetAndEpoch { offset, epoch }, kind))
}

pub fn file_name(id: OffsetAndEpoch) -> String {
    format!("{:020}-{:010}{SUFFIX}", id.offset, id.epoch)
}

/// The whole snapshots of a metadata directory. Invariant: every id here has its file, frozen.
pub struct Snapshots {
    disk: DiskRef,
    dir: PathBuf,
    /// With their sizes.
    whole: BTreeMap<OffsetAndEpoch, u64>,
    doomed: Vec<(i64, PathBuf)>,
    part_next: u64,
}

impl Snapshots {
    /// Removes what is partial, deleted, or older than the log, and lists the rest.
    pub fn open(disk: DiskRef, dir: &Path, log_start_offset: i64) -> io::Result<Self> {
        let mut whole = BTreeMap::new();
        for entry in disk.read_dir(dir)? {
            let Some((id, kind)) = parse_name(&entry.name) else { continue };
            if kind == FileKind::Whole && id.offset >= log_start_offset {
                whole.insert(id, entry.len);
            } else {
                tracing::info!(file = entry.name, "removing a snapshot file that is not needed");
                disk.remove_file(&dir.join(&entry.name))?;
            }
        }
        let out = Self { disk, dir: dir.to_owned(), whole, doomed: Vec::new(), part_next: 0 };
        if log_start_offset > 0 && out.latest().is_none() {
            let reason = format!(
                "{}: the metadata log starts at {log_start_offset}, but there is no snapshot at or beyond that offset",
                dir.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(out)
    }

    pub fn latest(&self) -> Option<OffsetAndEpoch> {
        self.whole.last_key_value().map(|(&id, _)| id)
    }

    pub fn earliest(&self) -> Option<OffsetAndEpoch> {
        self.whole.first_key_value().map(|(&id, _)| id)
    }

    pub fn contains(&self, id: OffsetAndEpoch) -> bool {
        self.whole.contains_key(&id)
    }

    pub fn size(&self, id: OffsetAndEpoch) -> Option<u64> {
        self.whole.get(&id).copied()
    }

    /// Oldest first, with their sizes.
    pub fn iter(&self) -> impl Iterator<Item = (OffsetAndEpoch, u64)> {
        self.whole.iter().map(|(&id, &size)| (id, size))
    }

    pub fn path(&self, id: OffsetAndEpoch) -> PathBuf {
        self.dir.join(file_name(id))
    }

    pub fn read(&self, id: OffsetAndEpoch) -> io::Result<Vec<u8>> {
        self.disk.read(&self.path(id))
    }

    /// Up to `len` bytes from `position`.
    pub fn read_chunk(&self, id: OffsetAndEpoch, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = self.disk.open(&self.path(id), OpenMode::Read)?;
        let left = self.size(id).unwrap_or(0).saturating_sub(position);
        let mut out = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let n = file.read_at(&mut out, position)?;
        out.truncate(n);
        Ok(out)
    }

    pub fn begin(&mut self, id: OffsetAndEpoch) -> io::Result<SnapshotPart> {
        let stem = file_name(id);
        let stem = stem.strip_suffix(SUFFIX).expect("file_name ends so");
        let path = self.dir.join(format!("{stem}-{}{PART_SUFFIX}", self.part_next));
        self.part_next += 1;
        let file = self.disk.open(&path, OpenMode::Truncate)?;
        Ok(SnapshotPart {
            disk: self.disk.clone(),
            file,
            path,
            whole_path: self.path(id),
            dir: self.dir.clone(),
            id,
            size: 0,
        })
    }

    /// A part was frozen.
    pub fn add(&mut self, id: OffsetAndEpoch, size: u64) {
        self.whole.insert(id, size);
    }

    /// Forgets the snapshots before `id`; their files go later.
    pub fn remove_before(&mut self, id: OffsetAndEpoch, now_ms: i64) -> io::Result<()> {
        let kept = self.whole.split_off(&id);
        for (old, _) in std::mem::replace(&mut self.whole, kept) {
            let path = self.path(old);
            let doomed = path.with_extension("checkpoint.deleted");
            self.disk.rename(&path, &doomed)?;
            tracing::info!(snapshot = %old, "snapshot marked for deletion");
            self.doomed.push((now_ms + DELETE_DELAY_MS, doomed));
        }
        Ok(())
    }

    /// Deletes the files whose time has come.
    pub fn delete_doomed(&mut self, now_ms: i64) {
        let disk = &self.disk;
        self.doomed.retain(|(due_ms, path)| {
            if *due_ms > now_ms {
                return true;
            }
            if let Err(error) = disk.remove_file(path) {
                tracing::warn!(file = %path.display(), %error, "cannot delete a snapshot; it will go at the next start");
            }
            false
        });
    }

    pub fn next_deadline(&self) -> i64 {
        self.doomed.iter().map(|(due_ms, _)| *due_ms).min().unwrap_or(i64::MAX)
    }
}

/// A snapshot being written or downloaded.
pub struct SnapshotPart {
    disk: DiskRef,
    file: FileRef,
    path: PathBuf,
    whole_path: PathBuf,
    dir: PathBuf,
    id: OffsetAndEpoch,
    size: u64,
}

impl SnapshotPart {
    pub fn id(&self) -> OffsetAndEpoch {
        self.id
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(&mut [IoSlice::new(bytes)], self.size)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Makes it durable under its final name, and returns its size.
    pub fn freeze(self) -> io::Result<u64> {
        self.file.sync()?;
        self.disk.set_read_only(&self.path)?;
        self.disk.rename(&self.path, &self.whole_path)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(self.size)
    }

    pub fn discard(self) {
        if let Err(error) = self.disk.remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove a partial snapshot; it will go at the next start");
        }
    }
}

impl std::fmt::Debug for SnapshotPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotPart({}, {} bytes)", self.id, self.size)
    }
}
