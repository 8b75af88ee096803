//! A disk in memory, for the tests of everything above: it never fails and forgets nothing.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{DirEntry, Disk, DiskFile, FileRef, OpenMode};

type Contents = Arc<Mutex<Vec<u8>>>;

#[derive(Default)]
struct Tree {
    files: BTreeMap<PathBuf, Contents>,
    dirs: std::collections::BTreeSet<PathBuf>,
    locks: std::collections::BTreeSet<PathBuf>,
}

#[derive(Clone, Default)]
pub struct MemDisk {
    tree: Arc<Mutex<Tree>>,
}

struct MemFile(Contents);

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
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<FileRef> {
        let mut tree = self.tree();
        let existing = tree.files.get(path).cloned();
        let contents = match (existing, mode) {
            (Some(contents), OpenMode::Truncate) => {
                contents.lock().expect("not poisoned").clear();
                contents
            }
            (Some(contents), _) => contents,
            (None, OpenMode::Create | OpenMode::Truncate) => {
                let contents = Contents::default();
                tree.files.insert(path.to_owned(), contents.clone());
                contents
            }
            (None, _) => return Err(not_found(path)),
        };
        Ok(Arc::new(MemFile(contents)))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let tree = self.tree();
        if !tree.dirs.contains(path) {
            return Err(not_found(path));
        }
        let mut out = Vec::new();
        for (file, contents) in &tree.files {
            if file.parent() == Some(path) {
                let len = contents.lock().expect("not poisoned").len() as u64;
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
        self.tree().files.remove(path).map(|_| ()).ok_or_else(|| not_found(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        tree.files.retain(|file, _| !file.starts_with(path));
        tree.dirs.retain(|dir| !dir.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn set_read_only(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        if !self.tree().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock { tree: self.tree.clone(), path: path.to_owned() }))
    }

    fn space(&self, _path: &Path) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let contents = self.0.lock().expect("not poisoned");
        let rest = contents.get(at as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, bufs: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut contents = self.0.lock().expect("not poisoned");
        let mut at = at as usize;
        for buf in bufs.iter() {
            if contents.len() < at + buf.len() {
                contents.resize(at + buf.len(), 0);
            }
            contents[at..at + buf.len()].copy_from_slice(buf);
            at += buf.len();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("not poisoned").len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().expect("not poisoned").resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn preallocate(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }

    fn raw_fd(&self) -> Option<i32> {
        None
    }
}
