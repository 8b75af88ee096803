//! An fsync as a value: what must reach the disk, to be run wherever blocking is allowed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::disk::{DiskRef, FileRef};

pub struct FlushWork {
    pub(crate) disk: DiskRef,
    pub(crate) files: Vec<FileRef>,
    /// A directory that got new entries.
    pub(crate) dir: Option<PathBuf>,
    /// After the run, everything below this offset is on disk.
    pub upto: i64,
}

impl fmt::Debug for FlushWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlushWork {{ {} files, upto: {} }}", self.files.len(), self.upto)
    }
}

impl FlushWork {
    pub fn run(&self) -> io::Result<()> {
        for file in &self.files {
            file.sync()?;
        }
        match &self.dir {
            Some(dir) => self.disk.sync_dir(dir),
            None => Ok(()),
        }
    }
}
