//! The 61 bytes before the records, and the patches that a broker makes in place.

use super::{Compression, RecordError, crc32c};

pub const HEADER_LEN: usize = 61;
/// Base offset and batch length: what is not counted in the batch length.
pub const LOG_OVERHEAD: usize = 12;
const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
pub const CRC_AT: usize = 17;
pub(super) const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const MAGIC: i8 = 2;
pub(super) const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
pub(super) const DELETE_HORIZON: i16 = 0x40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Bytes after this field.
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    /// Kept by compaction, so that the next offset does not depend on which records are left.
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub records_count: i32,
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl BatchHeader {
    /// Reads the header; the batch itself need not be there. [`RecordError::Incomplete`] if even the header is cut off.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, RecordError> {
        let i64_at = |at| bytes_at(bytes, at).map(i64::from_be_bytes).ok_or(RecordError::Incomplete);
        let i32_at = |at| bytes_at(bytes, at).map(i32::from_be_bytes).ok_or(RecordError::Incomplete);
        let i16_at = |at| bytes_at(bytes, at).map(i16::from_be_bytes).ok_or(RecordError::Incomplete);
        let magic = *bytes.get(MAGIC_AT).ok_or(RecordError::Incomplete)? as i8;
        if magic != MAGIC {
            return Err(RecordError::UnsupportedMagic(magic));
        }
        let batch_length = i32_at(8)?;
        if batch_length < (HEADER_LEN - LOG_OVERHEAD) as i32 {
            return Err(RecordError::BadSize(batch_length));
        }
        let header = BatchHeader {
            base_offset: i64_at(0)?,
            batch_length,
            partition_leader_epoch: i32_at(EPOCH_AT)?,
            crc: i32_at(CRC_AT)? as u32,
            attributes: i16_at(ATTRIBUTES_AT)?,
            last_offset_delta: i32_at(23)?,
            base_timestamp: i64_at(27)?,
            max_timestamp: i64_at(MAX_TIMESTAMP_AT)?,
            producer_id: i64_at(43)?,
            producer_epoch: i16_at(51)?,
            base_sequence: i32_at(53)?,
            records_count: i32_at(57)?,
        };
        // Offsets are compared and added everywhere: what cannot be one ends here.
        if header.last_offset_delta < 0
            || header.base_offset.checked_add(i64::from(header.last_offset_delta) + 1).is_none()
        {
            return Err(RecordError::Malformed("offsets out of range"));
        }
        Ok(header)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base_offset.to_be_bytes());
        out.extend_from_slice(&self.batch_length.to_be_bytes());
        out.extend_from_slice(&self.partition_leader_epoch.to_be_bytes());
        out.push(MAGIC as u8);
        out.extend_from_slice(&self.crc.to_be_bytes());
        out.extend_from_slice(&self.attributes.to_be_bytes());
        out.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        out.extend_from_slice(&self.base_timestamp.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.to_be_bytes());
        out.extend_from_slice(&self.base_sequence.to_be_bytes());
        out.extend_from_slice(&self.records_count.to_be_bytes());
    }

    /// Bytes of the whole batch.
    pub fn size(&self) -> usize {
        LOG_OVERHEAD + self.batch_length.max(0) as usize
    }

    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    pub fn compression(&self) -> Result<Compression, RecordError> {
        Compression::from_id((self.attributes & COMPRESSION_MASK) as i8)
    }

    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME != 0 { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// When tombstones and markers of this batch may go; the base timestamp holds it (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Sequence of the last record; −1 without a producer. Sequences wrap to 0 after 2³¹−1.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 { -1 } else { sequence_after(self.base_sequence, self.last_offset_delta) }
    }
}

/// `sequence + by`, wrapped as producers wrap it.
pub fn sequence_after(sequence: i32, by: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(by);
    (if sum > i64::from(i32::MAX) { sum - i64::from(i32::MAX) - 1 } else { sum }) as i32
}

pub(super) fn attributes(
    compression: Compression,
    timestamp_type: TimestampType,
    transactional: bool,
    control: bool,
) -> i16 {
    let mut bits = compression as i16;
    if timestamp_type == TimestampType::LogAppendTime {
        bits |= LOG_APPEND_TIME;
    }
    if transactional {
        bits |= TRANSACTIONAL;
    }
    if control {
        bits |= CONTROL;
    }
    bits
}

fn patch(batch: &mut [u8], at: usize, value: &[u8]) {
    batch.get_mut(at..at + value.len()).expect("a whole batch").copy_from_slice(value);
}

/// Not covered by the CRC.
pub fn set_base_offset(batch: &mut [u8], offset: i64) {
    patch(batch, 0, &offset.to_be_bytes());
}

/// Not covered by the CRC.
pub fn set_partition_leader_epoch(batch: &mut [u8], epoch: i32) {
    patch(batch, EPOCH_AT, &epoch.to_be_bytes());
}

/// `message.timestamp.type=CreateTime`, and a header that does not say so, or whose last time is not that of its records.
pub fn set_create_time(batch: &mut [u8], max_timestamp: i64) {
    let attributes = bytes_at(batch, ATTRIBUTES_AT).map_or(0, i16::from_be_bytes) & !LOG_APPEND_TIME;
    set_time(batch, attributes, max_timestamp);
}

/// `message.timestamp.type=LogAppendTime`: the broker's clock replaces the producer's. Covered by the CRC, which is
/// computed again.
pub fn set_log_append_time(batch: &mut [u8], timestamp: i64) {
    let attributes = bytes_at(batch, ATTRIBUTES_AT).map_or(0, i16::from_be_bytes) | LOG_APPEND_TIME;
    set_time(batch, attributes, timestamp);
}

fn set_time(batch: &mut [u8], attributes: i16, max_timestamp: i64) {
    patch(batch, ATTRIBUTES_AT, &attributes.to_be_bytes());
    patch(batch, MAX_TIMESTAMP_AT, &max_timestamp.to_be_bytes());
    let crc = crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
    patch(batch, CRC_AT, &crc.to_be_bytes());
}
