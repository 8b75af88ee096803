//! A file system in memory that forgets what was not synced when its machine loses power.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use storage::{DirEntry, Disk, DiskFile, FileRef, OpenMode};

#[derive(Default)]
struct Content {
    data: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Clone, Default)]
struct MemFile(Arc<Mutex<Content>>);

impl MemFile {
    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.0.lock().expect("no test panics while it holds a file")
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let content = self.content();
        let from = content.data.get(at as usize..).unwrap_or_default();
        let n = buf.len().min(from.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn write_at(&self, bufs: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut content = self.content();
        let mut at = at as usize;
        for buf in bufs {
            let end = at + buf.len();
            if content.data.len() < end {
                content.data.resize(end, 0);
            }
            content.data[at..end].copy_from_slice(buf);
            at = end;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content().data.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.content().data.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut content = self.content();
        content.synced = content.data.clone();
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
    files: BTreeMap<PathBuf, MemFile>,
    dirs: std::collections::BTreeSet<PathBuf>,
}

/// Names are durable at once, contents when synced.
#[derive(Default)]
pub struct MemDisk(Mutex<Tree>);

impl MemDisk {
    fn tree(&self) -> std::sync::MutexGuard<'_, Tree> {
        self.0.lock().expect("no test panics while it holds the tree")
    }

    /// Power is lost: every file is as it was last synced, or as far as the kernel had come by itself.
    pub fn lose_power(&self, rng: &mut fastrand::Rng) {
        for file in self.tree().files.values_mut() {
            let mut content = std::mem::take(&mut *file.content());
            if content.data.len() > content.synced.len() && content.data.starts_with(&content.synced) {
                // A tail that was being written: any part of it may have reached the disk.
                let len = rng.usize(content.synced.len()..=content.data.len());
                content.data.truncate(len);
            } else {
                content.data = content.synced;
            }
            content.synced = content.data.clone();
            *file = MemFile(Arc::new(Mutex::new(content)));
        }
    }

    pub fn put(&self, path: impl Into<PathBuf>, data: &[u8]) {
        let path = path.into();
        let mut tree = self.tree();
        tree.dirs.extend(path.ancestors().skip(1).map(Path::to_owned));
        let content = Content { data: data.to_vec(), synced: data.to_vec() };
        tree.files.insert(path, MemFile(Arc::new(Mutex::new(content))));
    }

    pub fn wipe(&self) {
        *self.tree() = Tree::default();
    }

    pub fn names(&self, dir: &Path) -> Vec<String> {
        self.read_dir(dir).expect("the directory exists").into_iter().map(|entry| entry.name).collect()
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}", path.display()))
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<FileRef> {
        let mut tree = self.tree();
        if matches!(mode, OpenMode::Create | OpenMode::Truncate) {
            let parent = path.parent().unwrap_or(Path::new(""));
            if !tree.dirs.contains(parent) {
                return Err(missing(parent));
            }
            let file = tree.files.entry(path.to_owned()).or_default();
            if mode == OpenMode::Truncate {
                file.content().data.clear();
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
        let name = |path: &Path| path.file_name().expect("has a parent").to_string_lossy().into_owned();
        let dirs = tree.dirs.iter().filter(|dir| dir.parent() == Some(path));
        let files = tree.files.iter().filter(|(file, _)| file.parent() == Some(path));
        let mut out: Vec<DirEntry> = dirs.map(|dir| DirEntry { name: name(dir), is_dir: true, len: 0 }).collect();
        out.extend(files.map(|(path, file)| DirEntry {
            name: name(path),
            is_dir: false,
            len: file.content().data.len() as u64,
        }));
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
        let file = tree.files.remove(from).ok_or_else(|| missing(from))?;
        tree.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.tree().files.remove(path).map(|_| ()).ok_or_else(|| missing(path))
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

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn space(&self, _path: &Path) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}
