//! The batches of a segment, one in memory at a time, and where they stop being whole.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use protocol::records::{Batch, BatchHeader, HEADER_LEN, LOG_OVERHEAD, RecordError};

/// Larger ones no broker would have taken.
const BATCH_BYTES_MAX: u64 = 1 << 30;

/// How a walk ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// The file ends within a batch, or only zeros follow.
    CutOff {
        at: u64,
    },
    /// What cannot be a batch, or one whose checksum is wrong, and something follows it.
    Damaged {
        at: u64,
        why: String,
    },
}

/// Calls `see` with each batch and its position; an error of it ends the walk as damage.
pub fn batches(path: &Path, mut see: impl FnMut(u64, &Batch<'_>) -> Result<(), String>) -> std::io::Result<End> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < len {
        buffer.clear();
        reader.by_ref().take(HEADER_LEN as u64).read_to_end(&mut buffer)?;
        let size = match size_of(&buffer) {
            Some(size) if size <= len - at && size <= BATCH_BYTES_MAX => size,
            Some(_) => return Ok(End::CutOff { at }),
            None if buffer.len() < HEADER_LEN || is_zero(&buffer, &mut reader)? => return Ok(End::CutOff { at }),
            None => return Ok(End::Damaged { at, why: "no batch can have such a length".to_owned() }),
        };
        let rest = size.saturating_sub(buffer.len() as u64);
        reader.by_ref().take(rest).read_to_end(&mut buffer)?;
        let batch = match Batch::parse(&buffer) {
            Ok(batch) => batch,
            Err(RecordError::Incomplete) => return Ok(End::CutOff { at }),
            Err(error) => return Ok(End::Damaged { at, why: error.to_string() }),
        };
        if let Err(error) = batch.verify_crc() {
            // The last one may have been under way when power failed.
            let is_last = at + size == len;
            return Ok(if is_last { End::CutOff { at } } else { End::Damaged { at, why: error.to_string() } });
        }
        if let Err(why) = see(at, &batch) {
            return Ok(End::Damaged { at, why });
        }
        at += size;
    }
    Ok(End::Whole)
}

/// Of a batch that begins like this, of whatever format.
fn size_of(head: &[u8]) -> Option<u64> {
    let length = i32::from_be_bytes(*head.get(8..)?.first_chunk()?);
    // The shortest is a message of format 0.
    u64::try_from(length).ok().filter(|length| *length >= 14).map(|length| length + LOG_OVERHEAD as u64)
}

fn is_zero(head: &[u8], reader: &mut impl Read) -> std::io::Result<bool> {
    let mut chunk = [0; 4096];
    if head.iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(true),
            n if chunk.iter().take(n).any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// Whether batches follow each other as a log's must.
#[derive(Debug)]
pub struct Order {
    next: i64,
}

impl Order {
    pub fn from(base: i64) -> Order {
        Order { next: base }
    }

    pub fn next(&self) -> i64 {
        self.next
    }

    pub fn follow(&mut self, header: &BatchHeader) -> Result<(), String> {
        if header.base_offset < self.next || header.next_offset() <= header.base_offset {
            return Err(format!(
                "a batch of offsets {} to {} follows where {} is next",
                header.base_offset,
                header.last_offset(),
                self.next
            ));
        }
        self.next = header.next_offset();
        Ok(())
    }
}
