//! A machine's disk: what a process wrote outlives the process, and only what was synced is sure to outlive the machine.
//!
//! A file has its contents and what of them was synced; a directory has its names and those that were synced. When
//! power is lost, anything between the two may be what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use storage::{DirEntry, Disk, DiskFile, FileRef, OpenMode};

/// Bytes beyond `data` and below `len` are zeros: indexes are created long and mostly empty.
#[derive(Clone, Default)]
struct Content {
    data: Vec<u8>,
    len: u64,
    synced: Vec<u8>,
    synced_len: u64,
    /// Where `data` may begin to differ from `synced`.
    dirty_from: Option<usize>,
}

impl Content {
    fn touch(&mut self, at: usize) {
        self.dirty_from = Some(self.dirty_from.map_or(at, |from| from.min(at)));
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.data.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        }
        self.touch(usize::try_from(len.min(self.len)).unwrap_or(usize::MAX));
        self.len = len;
    }

    fn sync(&mut self) {
        if let Some(from) = self.dirty_from.take() {
            self.synced.truncate(from);
            let from = self.synced.len();
            self.synced.extend_from_slice(self.data.get(from..).unwrap_or_default());
        }
        self.synced_len = self.len;
    }

    /// What the machine finds when it comes back.
    fn lose_power(&mut self, rng: &mut fastrand::Rng) {
        let appended = self.data.len() > self.synced.len() && self.data.starts_with(&self.synced);
        match rng.u32(0..3) {
            // The kernel had written everything back by itself.
            0 => {}
            // Any part of an appended tail.
            1 if appended => {
                let len = rng.usize(self.synced.len()..=self.data.len());
                self.data.truncate(len);
                self.len = if self.len == self.synced_len { self.len } else { len as u64 };
            }
            _ => {
                self.data.clone_from(&self.synced);
                self.len = self.synced_len;
            }
        }
        self.touch(0);
        self.sync();
    }
}

#[derive(Clone, Default)]
struct SimFile(Arc<Mutex<Content>>);

impl SimFile {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("nothing panics while it holds a file")
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let content = self.content();
        let n = content.len.saturating_sub(at).min(buf.len() as u64) as usize;
        let buf = &mut buf[..n];
        let written = content.data.get(at as usize..).unwrap_or_default();
        let m = written.len().min(n);
        buf[..m].copy_from_slice(&written[..m]);
        buf[m..].fill(0);
        Ok(n)
    }

    fn write_at(&self, bufs: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut content = self.content();
        let mut at = at as usize;
        content.touch(at);
        for buf in bufs.iter() {
            let end = at + buf.len();
            if content.data.len() < end {
                content.data.resize(end, 0);
            }
            content.data[at..end].copy_from_slice(buf);
            at = end;
        }
        content.len = content.len.max(at as u64);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.content().set_len(len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.content().sync();
        Ok(())
    }

    fn preallocate(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }

    fn raw_fd(&self) -> Option<i32> {
        None
    }
}

#[derive(Default)]
struct Tree {
    files: BTreeMap<PathBuf, SimFile>,
    synced_names: BTreeMap<PathBuf, SimFile>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    boots: u64,
}

/// Shared by the processes that run on the machine one after the other.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Tree>>);

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.tree().locks.remove(&self.path);
    }
}

impl SimDisk {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0.lock().expect("nothing panics while it holds the disk")
    }

    /// The machine goes down and will come up with what is left.
    pub fn lose_power(&self, rng: &mut fastrand::Rng) {
        let mut tree = self.tree();
        tree.boots += 1;
        tree.locks.clear();
        let dirs: Vec<PathBuf> = tree.dirs.iter().cloned().collect();
        for dir in dirs {
            // A directory's changes reach the disk together or not at all.
            if rng.bool() {
                tree.sync_names(&dir);
            }
        }
        tree.files = tree.synced_names.clone();
        for file in tree.files.values() {
            file.content().lose_power(rng);
        }
    }

    /// The contents of files with this ending in a directory, in name order.
    pub fn files_with(&self, dir: &Path, ending: &str) -> Vec<Vec<u8>> {
        let tree = self.tree();
        let files = children(&tree.files, dir).filter(|(path, _)| path.as_os_str().to_string_lossy().ends_with(ending));
        files.map(|(_, file)| file.content().data.clone()).collect()
    }
}

impl Tree {
    fn sync_names(&mut self, dir: &Path) {
        let gone: Vec<PathBuf> = children(&self.synced_names, dir).map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.synced_names.remove(&path);
        }
        let now: Vec<(PathBuf, SimFile)> =
            children(&self.files, dir).map(|(path, file)| (path.clone(), file.clone())).collect();
        self.synced_names.extend(now);
    }
}

/// Files right in a directory. A map is ordered as paths are: what is below a directory lies together.
fn children<'a>(
    files: &'a BTreeMap<PathBuf, SimFile>,
    dir: &'a Path,
) -> impl Iterator<Item = (&'a PathBuf, &'a SimFile)> {
    let below = files.range::<Path, _>((Bound::Excluded(dir), Bound::Unbounded));
    below.take_while(move |(path, _)| path.starts_with(dir)).filter(move |(path, _)| path.parent() == Some(dir))
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<FileRef> {
        let mut tree = self.tree();
        if matches!(mode, OpenMode::Create | OpenMode::Truncate) {
            let parent = path.parent().unwrap_or(Path::new(""));
            if !tree.dirs.contains(parent) {
                return Err(missing(parent));
            }
            let file = tree.files.entry(path.to_owned()).or_default();
            if mode == OpenMode::Truncate {
                file.content().set_len(0);
            }
        }
        let file = tree.files.get(path).ok_or_else(|| missing(path))?;
        Ok(Arc::new(file.clone()))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let tree = self.tree();
        if !tree.dirs.contains(path) {
            return Err(missing(path));
        }
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dirs = tree.dirs.iter().filter(|dir| dir.parent() == Some(path));
        let files = children(&tree.files, path);
        let mut out: Vec<DirEntry> = dirs.map(|dir| DirEntry { name: name(dir), is_dir: true, len: 0 }).collect();
        out.extend(files.map(|(path, file)| DirEntry { name: name(path), is_dir: false, len: file.content().len }));
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.tree().dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        let tree = self.tree();
        tree.files.contains_key(path) || tree.dirs.contains(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        if let Some(file) = tree.files.remove(from) {
            tree.files.insert(to.to_owned(), file);
            return Ok(());
        }
        if !tree.dirs.contains(from) {
            return Err(missing(from));
        }
        // A directory: renamed with all that is in it, and that is durable at once.
        let moved = |path: &Path| {
            path.strip_prefix(from)
                .ok()
                .map(|rest| if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
        };
        tree.dirs = tree.dirs.iter().map(|dir| moved(dir).unwrap_or_else(|| dir.clone())).collect();
        let renamed = |names: &BTreeMap<PathBuf, SimFile>| -> BTreeMap<PathBuf, SimFile> {
            names.iter().map(|(path, file)| (moved(path).unwrap_or_else(|| path.clone()), file.clone())).collect()
        };
        tree.files = renamed(&tree.files);
        tree.synced_names = renamed(&tree.synced_names);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.tree().files.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        tree.files.retain(|file, _| !file.starts_with(path));
        tree.synced_names.retain(|file, _| !file.starts_with(path));
        tree.dirs.retain(|dir| !dir.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.tree().sync_names(path);
        Ok(())
    }

    fn set_read_only(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        if !self.tree().locks.insert(path.to_owned()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, path.display().to_string()));
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }

    fn space(&self, _path: &Path) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }

    fn boot_id(&self) -> Option<String> {
        Some(format!("boot-{}", self.tree().boots))
    }
}
