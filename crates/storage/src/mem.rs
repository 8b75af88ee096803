//! A disk in memory, for the tests of everything above. It forgets nothing, and fails only where a test asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{DirEntry, Disk, DiskFile, FileRef, OpenMode};

/// What a file holds. Zeros at its end that nobody wrote take no memory: an index file has megabytes of them.
#[derive(Clone, Default)]
struct Contents {
    data: Vec<u8>,
    len: u64,
}

/// What a planted fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    /// Also whatever changes a directory: files made, renamed, removed.
    Write,
    Sync,
}

#[derive(Default)]
struct Tree {
    files: BTreeMap<PathBuf, Arc<Mutex<Contents>>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// Operations on paths that begin so fail so.
    faults: Vec<(PathBuf, Op, io::ErrorKind)>,
    /// So many more writes succeed, and then every one fails so.
    writes_left: Option<(u64, io::ErrorKind)>,
    /// Below this path all files together may hold so many bytes.
    capacity: Option<(PathBuf, u64)>,
}

#[derive(Clone, Default)]
pub struct MemDisk {
    tree: Arc<Mutex<Tree>>,
}

struct MemFile {
    disk: MemDisk,
    path: PathBuf,
    contents: Arc<Mutex<Contents>>,
}

struct MemLock {
    tree: Arc<Mutex<Tree>>,
    path: PathBuf,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.tree.lock().expect("not poisoned").locks.remove(&self.path);
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
}

impl MemDisk {
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().expect("not poisoned")
    }

    /// Another disk with the same files, without locks and faults.
    pub fn copy(&self) -> MemDisk {
        let tree = self.tree();
        let copied = |(path, contents): (&PathBuf, &Arc<Mutex<Contents>>)| {
            (path.clone(), Arc::new(Mutex::new(contents.lock().expect("not poisoned").clone())))
        };
        let files = tree.files.iter().map(copied).collect();
        MemDisk { tree: Arc::new(Mutex::new(Tree { files, dirs: tree.dirs.clone(), ..Tree::default() })) }
    }

    /// Every file.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.tree().files.keys().cloned().collect()
    }

    /// From now on `op` fails on every path that begins with `path`.
    pub fn plant(&self, path: impl Into<PathBuf>, op: Op, error: io::ErrorKind) {
        self.tree().faults.push((path.into(), op, error));
    }

    /// So many more writes succeed, whatever they change; all after them fail.
    pub fn fail_after(&self, writes: u64, error: io::ErrorKind) {
        self.tree().writes_left = Some((writes, error));
    }

    pub fn heal(&self) {
        let mut tree = self.tree();
        tree.writes_left = None;
        tree.faults.clear();
        tree.capacity = None;
    }

    /// The disk is full once all files below `path` hold so many bytes more than they do.
    pub fn leave_room(&self, path: impl Into<PathBuf>, bytes: u64) {
        let path = path.into();
        let used = self.used(&path);
        self.tree().capacity = Some((path, used + bytes));
    }

    fn used(&self, below: &Path) -> u64 {
        let tree = self.tree();
        let files = tree.files.iter().filter(|(path, _)| path.starts_with(below));
        files.map(|(_, c)| c.lock().expect("not poisoned").data.len() as u64).sum()
    }

    fn check(&self, path: &Path, op: Op) -> io::Result<()> {
        let mut tree = self.tree();
        if let (Op::Write, Some((left, error))) = (op, &mut tree.writes_left) {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => return Err(io::Error::new(*error, format!("planted: {}", path.display()))),
            }
        }
        match tree.faults.iter().find(|(prefix, of, _)| *of == op && path.starts_with(prefix)) {
            Some((_, _, error)) => Err(io::Error::new(*error, format!("planted: {}", path.display()))),
            None => Ok(()),
        }
    }

    /// How many of `more` bytes still fit.
    fn room_for(&self, path: &Path, more: usize) -> usize {
        let capacity = self.tree().capacity.clone();
        let Some((below, capacity)) = capacity.filter(|(below, _)| path.starts_with(below)) else { return more };
        more.min(usize::try_from(capacity.saturating_sub(self.used(&below))).unwrap_or(usize::MAX))
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<FileRef> {
        self.check(path, if mode == OpenMode::Read { Op::Read } else { Op::Write })?;
        let mut tree = self.tree();
        let existing = tree.files.get(path).cloned();
        let contents = match (existing, mode) {
            (Some(contents), OpenMode::Truncate) => {
                *contents.lock().expect("not poisoned") = Contents::default();
                contents
            }
            (Some(contents), _) => contents,
            (None, OpenMode::Create | OpenMode::Truncate) => {
                if path.parent().is_some_and(|dir| !tree.dirs.contains(dir)) {
                    return Err(not_found(path));
                }
                let contents = Arc::<Mutex<Contents>>::default();
                tree.files.insert(path.to_owned(), contents.clone());
                contents
            }
            (None, _) => return Err(not_found(path)),
        };
        Ok(Arc::new(MemFile { disk: self.clone(), path: path.to_owned(), contents }))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.check(path, Op::Read)?;
        let tree = self.tree();
        if !tree.dirs.contains(path) {
            return Err(not_found(path));
        }
        let mut out = Vec::new();
        for (file, contents) in &tree.files {
            if file.parent() == Some(path) {
                let len = contents.lock().expect("not poisoned").len;
                out.push(DirEntry {
                    name: file.file_name().unwrap_or_default().to_string_lossy().into(),
                    is_dir: false,
                    len,
                });
            }
        }
        for dir in &tree.dirs {
            if dir.parent() == Some(path) {
                out.push(DirEntry {
                    name: dir.file_name().unwrap_or_default().to_string_lossy().into(),
                    is_dir: true,
                    len: 0,
                });
            }
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.check(path, Op::Write)?;
        let mut tree = self.tree();
        for dir in path.ancestors() {
            tree.dirs.insert(dir.to_owned());
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        let tree = self.tree();
        tree.files.contains_key(path) || tree.dirs.contains(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(from, Op::Write)?;
        let mut tree = self.tree();
        if let Some(contents) = tree.files.remove(from) {
            tree.files.insert(to.to_owned(), contents);
            return Ok(());
        }
        if !tree.dirs.contains(from) {
            return Err(not_found(from));
        }
        let moved = |path: &PathBuf| path.strip_prefix(from).ok().map(|rest| to.join(rest));
        tree.dirs = tree.dirs.iter().map(|dir| moved(dir).unwrap_or_else(|| dir.clone())).collect();
        let files = std::mem::take(&mut tree.files);
        tree.files = files.into_iter().map(|(path, c)| (moved(&path).unwrap_or(path), c)).collect();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.check(path, Op::Write)?;
        self.tree().files.remove(path).map(|_| ()).ok_or_else(|| not_found(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.check(path, Op::Write)?;
        let mut tree = self.tree();
        tree.files.retain(|file, _| !file.starts_with(path));
        tree.dirs.retain(|dir| !dir.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.check(path, Op::Sync)
    }

    fn set_read_only(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.check(path, Op::Write)?;
        if !self.tree().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock { tree: self.tree.clone(), path: path.to_owned() }))
    }

    fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.check(path, Op::Read)?;
        let capacity = self.tree().capacity.clone();
        let Some((below, capacity)) = capacity.filter(|(below, _)| path.starts_with(below)) else {
            return Ok((1 << 40, 1 << 40));
        };
        Ok((capacity.saturating_sub(self.used(&below)), capacity))
    }
}

impl MemFile {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("not poisoned")
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.check(&self.path, Op::Read)?;
        let contents = self.contents();
        let n = usize::try_from(contents.len.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let written = usize::try_from(at).ok().and_then(|at| contents.data.get(at..)).unwrap_or_default();
        let from_data = written.len().min(n);
        buf[..from_data].copy_from_slice(&written[..from_data]);
        buf[from_data..n].fill(0);
        Ok(n)
    }

    fn write_at(&self, bufs: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        self.disk.check(&self.path, Op::Write)?;
        let mut at = usize::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        for buf in bufs.iter() {
            let grows = (at + buf.len()).saturating_sub(self.contents().data.len());
            let missing = grows - self.disk.room_for(&self.path, grows);
            // As a real one, a full disk takes what fits, and then says so.
            let fits = &buf[..buf.len().saturating_sub(missing)];
            let mut contents = self.contents();
            let end = at + fits.len();
            if contents.data.len() < end && !fits.is_empty() {
                contents.data.resize(end, 0);
            }
            if let Some(room) = contents.data.get_mut(at..end) {
                room.copy_from_slice(fits);
                contents.len = contents.len.max(end as u64);
            }
            if missing > 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            at = end;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.check(&self.path, Op::Read)?;
        Ok(self.contents().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.check(&self.path, Op::Write)?;
        let mut contents = self.contents();
        contents.data.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        contents.len = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.check(&self.path, Op::Sync)
    }

    fn preallocate(&self, _end: u64) -> io::Result<()> {
        self.disk.check(&self.path, Op::Write)
    }

    fn raw_fd(&self) -> Option<i32> {
        None
    }
}
