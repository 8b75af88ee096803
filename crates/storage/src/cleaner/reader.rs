//! A sealed segment, read from its beginning in pieces of whole batches.

use std::io;
use std::path::PathBuf;

use protocol::records::{Batch, Batches, HEADER_LEN, RecordError};

use crate::disk::{DiskRef, FileRef, OpenMode};

/// Smallest piece, whatever the configuration says.
const PIECE_BYTES_MIN: usize = 4096;

pub(super) struct SegmentReader {
    file: FileRef,
    path: PathBuf,
    size: u64,
    at: u64,
    piece_bytes: usize,
    buf: Vec<u8>,
}

impl SegmentReader {
    pub fn open(disk: &DiskRef, path: PathBuf, size: u32, piece_bytes: usize) -> io::Result<SegmentReader> {
        let file = disk.open(&path, OpenMode::Read)?;
        let piece_bytes = piece_bytes.max(PIECE_BYTES_MIN);
        Ok(SegmentReader { file, path, size: u64::from(size), at: 0, piece_bytes, buf: Vec::new() })
    }

    /// The next whole batches, and at least one of them; `None` at the end of the segment.
    pub fn next_piece(&mut self) -> io::Result<Option<&[u8]>> {
        let left = self.size - self.at;
        if left == 0 {
            return Ok(None);
        }
        let mut wanted = (self.piece_bytes as u64).min(left);
        let whole = loop {
            self.buf.resize(wanted as usize, 0);
            let n = self.file.read_at(&mut self.buf, self.at)?;
            self.buf.truncate(n);
            let mut batches = Batches::new(&self.buf);
            if let Some(Err(error)) = batches.find(Result::is_err) {
                return Err(self.damaged(&error));
            }
            let whole = n - batches.rest().len();
            if whole > 0 {
                break whole;
            }
            let needed = Batch::size_at(&self.buf).unwrap_or(HEADER_LEN) as u64;
            if needed > left || needed <= wanted {
                return Err(self.damaged(&RecordError::Incomplete));
            }
            wanted = needed;
        };
        self.at += whole as u64;
        Ok(self.buf.get(..whole))
    }

    /// Data as it is on disk is copied, but nothing is made of data that is damaged.
    pub fn damaged(&self, error: &RecordError) -> io::Error {
        let message = format!("{} at {}: {error}", self.path.display(), self.at);
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}
