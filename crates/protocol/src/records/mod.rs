//! Record batches, format v2: the bytes that clients produce, replicas copy, and files hold.
//!
//! A batch is opaque between socket and file. Only `base_offset` and `partition_leader_epoch` are patched on the way,
//! both outside of the checksum; everything else is read where it lies.

mod builder;
mod compression;
mod control;
mod header;
mod record;
mod retain;
mod validate;

#[cfg(test)]
mod tests;

pub use builder::{BatchBuilder, BatchSpec};
pub use compression::{Compression, Scratch, decompress};
pub use control::{ControlRecordType, control_key, end_txn_marker};
pub use header::sequence_after;
pub use header::{
    BatchHeader, CRC_AT, HEADER_LEN, LOG_OVERHEAD, TimestampType, set_base_offset, set_create_time,
    set_log_append_time, set_partition_leader_epoch,
};
pub use record::{Headers, Record, RecordIter};
pub use retain::{retain, retain_empty};
pub use validate::{RecordFault, Rules, Validated, ValidationError, recompress, validate};

use std::fmt;

/// Largest decompressed size of one batch, whatever its compressed size: a bound on what a few hostile bytes can ask.
pub const DECOMPRESSED_BYTES_MAX: usize = 100 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Magic 0 and 1 went with Kafka 4.0 (KIP-724); others do not exist.
    UnsupportedMagic(i8),
    /// A length that cannot be.
    BadSize(i32),
    /// The batch is longer than the bytes at hand.
    Incomplete,
    WrongCrc {
        stored: u32,
        computed: u32,
    },
    UnknownCompression(i8),
    Decompression(String),
    /// A record's fields do not fit it, or the number of records is wrong.
    Malformed(&'static str),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsupportedMagic(magic) => write!(f, "record batch has magic {magic}, only 2 is supported"),
            Self::BadSize(size) => write!(f, "record batch size {size} is impossible"),
            Self::Incomplete => write!(f, "record batch is cut off"),
            Self::WrongCrc { stored, computed } => {
                write!(f, "record batch is corrupt (stored crc = {stored}, computed crc = {computed})")
            }
            Self::UnknownCompression(id) => write!(f, "unknown compression codec {id}"),
            Self::Decompression(reason) => write!(f, "record batch does not decompress: {reason}"),
            Self::Malformed(what) => write!(f, "record batch is malformed: {what}"),
        }
    }
}

impl std::error::Error for RecordError {}

/// CRC-32C, as Kafka computes it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// One whole batch, header included.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub header: BatchHeader,
    pub bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The batch at the beginning of `bytes`; what follows it is left alone.
    pub fn parse(bytes: &'a [u8]) -> Result<Batch<'a>, RecordError> {
        let header = BatchHeader::parse(bytes)?;
        let bytes = bytes.get(..header.size()).ok_or(RecordError::Incomplete)?;
        Ok(Batch { header, bytes })
    }

    /// Bytes of the batch at the beginning of `bytes`, be it whole or cut off; `None` if not even its header is there.
    pub fn size_at(bytes: &[u8]) -> Option<usize> {
        BatchHeader::parse(bytes).ok().map(|header| header.size())
    }

    pub fn verify_crc(&self) -> Result<(), RecordError> {
        let computed = crc32c(self.bytes.get(header::ATTRIBUTES_AT..).unwrap_or_default());
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(RecordError::WrongCrc { stored: self.header.crc, computed })
        }
    }

    /// The records, decompressed into `scratch` if need be.
    pub fn records<'s>(&self, scratch: &'s mut Scratch) -> Result<RecordIter<'s>, RecordError>
    where
        'a: 's,
    {
        let payload = self.bytes.get(HEADER_LEN..).ok_or(RecordError::Incomplete)?;
        let bytes = compression::decompress(self.header.compression()?, payload, DECOMPRESSED_BYTES_MAX, scratch)?;
        Ok(RecordIter::new(self.header, bytes))
    }
}

/// The batches of a buffer. A last batch that is cut off ends the iteration and is no error, as in a fetch response.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been handed out: empty, or a batch that is cut off.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        match Batch::parse(self.rest) {
            Ok(batch) => {
                self.rest = self.rest.get(batch.bytes.len()..).unwrap_or_default();
                Some(Ok(batch))
            }
            Err(RecordError::Incomplete) => None,
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}
