//! The file system as this project needs it: a trait with two implementations, the real disk (`real.rs`) and the
//! simulator's, which loses what was not synced.
//!
//! Every call is synchronous and short (page cache). What may be slow, an fsync of log data or a cold read, is handed
//! out as a value ([`crate::FlushWork`]) that the owner of the threads runs where it likes.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub type DiskRef = Arc<dyn Disk>;
pub type FileRef = Arc<dyn DiskFile>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reads only.
    Read,
    /// Must exist.
    ReadWrite,
    /// Created empty if missing, kept as it is otherwise.
    Create,
    /// Created, or emptied.
    Truncate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    pub len: u64,
}

pub trait Disk: Send + Sync {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<FileRef>;
    /// Entries in name order, so that what follows from them is the same everywhere.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    fn exists(&self, path: &Path) -> bool;
    /// Atomic within a directory; durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a frozen snapshot read-only (mode 0400), as Kafka does.
    fn set_read_only(&self, path: &Path) -> io::Result<()>;
    /// Takes the advisory lock that Kafka takes on `.lock`; held until the value is dropped. `WouldBlock` if another
    /// process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Bytes free and total in the file system of `path`.
    fn space(&self, path: &Path) -> io::Result<(u64, u64)>;

    /// Names the time since this machine came up: while it is the same, every completed write is still there, flushed
    /// or not. `None` if that cannot be known.
    fn boot_id(&self) -> Option<String> {
        None
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let mut out = vec![0; file.len()? as usize];
        let n = file.read_at(&mut out, 0)?;
        out.truncate(n);
        Ok(out)
    }

    /// Kafka's way to replace a small file: `<path>.tmp`, fsync, rename, fsync of the directory.
    fn write_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut tmp = path.as_os_str().to_owned();
        tmp.push(".tmp");
        let tmp = PathBuf::from(tmp);
        let file = self.open(&tmp, OpenMode::Truncate)?;
        file.write_at(&mut [IoSlice::new(bytes)], 0)?;
        file.sync()?;
        self.rename(&tmp, path)?;
        match path.parent() {
            Some(dir) => self.sync_dir(dir),
            None => Ok(()),
        }
    }
}

#[allow(clippy::len_without_is_empty, reason = "a file's length, asked of the kernel")]
pub trait DiskFile: Send + Sync {
    /// Reads until `buf` is full or the file ends; returns the bytes read.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bufs`, one behind the other. Leaves the slices advanced.
    fn write_at(&self, bufs: &mut [IoSlice<'_>], at: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Data and what is needed to read it back (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Reserves blocks up to `end` without changing the length; a hint, and free to do nothing.
    fn preallocate(&self, end: u64) -> io::Result<()>;
    /// For sendfile; `None` where there is no such thing.
    fn raw_fd(&self) -> Option<i32>;
}
