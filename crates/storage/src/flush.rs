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
    /// Small files to replace, each with its new content.
    pub(crate) replacements: Vec<(PathBuf, Vec<u8>)>,
    /// After the run, everything below this offset is on disk.
    pub upto: i64,
}

impl fmt::Debug for FlushWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlushWork {{ {} files, upto: {} }}", self.files.len(), self.upto)
    }
}

impl FlushWork {
    /// Files to be replaced atomically and durably.
    pub fn replace(disk: DiskRef, replacements: Vec<(PathBuf, Vec<u8>)>) -> Self {
        Self { disk, files: Vec::new(), dir: None, replacements, upto: 0 }
    }

    pub fn run(&self) -> io::Result<()> {
        for file in &self.files {
            file.sync()?;
        }
        for (path, content) in &self.replacements {
            self.disk.write_atomically(path, content)?;
        }
        match &self.dir {
            Some(dir) => self.disk.sync_dir(dir),
            None => Ok(()),
        }
    }
}
