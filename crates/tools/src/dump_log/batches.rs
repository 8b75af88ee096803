//! The batches of a file, one in memory at a time, and the way past damage.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use protocol::records::{Batch, BatchHeader, HEADER_LEN, LOG_OVERHEAD};

use super::Fatal;

/// How much is searched at a time for where a batch may begin.
const WINDOW: usize = 1 << 20;

pub struct FileBatches {
    reader: BufReader<File>,
    buffer: Vec<u8>,
    position: u64,
    /// Where to stop: the end of the file, or after `--max-bytes`.
    end: u64,
}

impl FileBatches {
    pub fn open(path: &Path, bytes_max: Option<u64>) -> Result<FileBatches, Fatal> {
        let file = File::open(path).map_err(|error| Fatal::io(path, &error))?;
        let len = file.metadata().map_err(|error| Fatal::io(path, &error))?.len();
        let end = bytes_max.map_or(len, |max| len.min(max));
        Ok(FileBatches { reader: BufReader::with_capacity(1 << 16, file), buffer: Vec::new(), position: 0, end })
    }

    /// Where the next batch begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that no batch has taken.
    pub fn left(&self) -> u64 {
        self.end - self.position
    }

    /// `None` where the file ends or what comes next has no length that could be a batch's; the position stays there.
    pub fn next(&mut self) -> Option<&[u8]> {
        let mut overhead = [0; LOG_OVERHEAD];
        if self.left() < LOG_OVERHEAD as u64 || self.reader.read_exact(&mut overhead).is_err() {
            return None;
        }
        let length = i32::from_be_bytes([overhead[8], overhead[9], overhead[10], overhead[11]]);
        let size = u64::try_from(length).ok()? + LOG_OVERHEAD as u64;
        if size > self.left() || size < HEADER_LEN as u64 {
            return None;
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(&overhead);
        let rest = u64::try_from(length).ok()?;
        self.reader.by_ref().take(rest).read_to_end(&mut self.buffer).ok()?;
        if self.buffer.len() as u64 != size {
            return None;
        }
        self.position += size;
        Some(&self.buffer)
    }

    /// From bytes that are no batch to the next place where one begins that is whole by its checksum. `None` if there
    /// is none; everything from `damage` on is left then.
    pub fn skip_damage(&mut self, damage: u64) -> Option<u64> {
        self.position = damage;
        let mut at = damage + 1;
        while at + (HEADER_LEN as u64) <= self.end {
            let window = self.read_at(at, WINDOW)?;
            let candidates = window.len().checked_sub(HEADER_LEN - 1)?;
            let found = (0..candidates).find(|i| {
                let bytes = &window[*i..];
                is_likely(bytes) && self.is_batch(at + *i as u64, bytes)
            });
            if let Some(i) = found {
                self.position = at + i as u64;
                self.reader.seek(SeekFrom::Start(self.position)).ok()?;
                return Some(self.position);
            }
            at += candidates as u64;
        }
        None
    }

    fn read_at(&mut self, at: u64, len: usize) -> Option<Vec<u8>> {
        let len = (self.end - at).min(len as u64);
        let mut out = Vec::new();
        self.reader.seek(SeekFrom::Start(at)).ok()?;
        self.reader.by_ref().take(len).read_to_end(&mut out).ok()?;
        Some(out)
    }

    fn is_batch(&mut self, at: u64, window: &[u8]) -> bool {
        let Ok(header) = BatchHeader::parse(window) else { return false };
        let size = header.size();
        if size as u64 > self.end - at {
            return false;
        }
        let read;
        let bytes = match window.get(..size) {
            Some(bytes) => bytes,
            None => match self.read_at(at, size) {
                Some(bytes) => {
                    read = bytes;
                    &read
                }
                None => return false,
            },
        };
        Batch::parse(bytes).is_ok_and(|batch| batch.verify_crc().is_ok())
    }
}

/// Magic 2, a length and an offset that are not negative, and not all zeros, of which damage often consists.
fn is_likely(bytes: &[u8]) -> bool {
    bytes.get(16) == Some(&2) && bytes[0] < 0x80 && bytes[8] < 0x80
}
