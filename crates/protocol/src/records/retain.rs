//! What log compaction makes of a batch: the records that stay, under the offsets, times and producer fields that the
//! batch had (`MemoryRecords.filterTo`).

use super::header::{ATTRIBUTES_AT, COMPRESSION_MASK, DELETE_HORIZON};
use super::record::RecordIter;
use super::{BatchHeader, CRC_AT, HEADER_LEN, LOG_OVERHEAD, RecordError, TimestampType, compression, crc32c};
use crate::wire::Writer;

/// Appends the batch of `header` with those of its `records` for which `keep` holds, and returns its new header.
///
/// A delete horizon takes the place of the base timestamp, from which the records' times are counted then (KIP-534).
/// There must be a record to keep.
pub fn retain(
    header: &BatchHeader,
    records: RecordIter<'_>,
    keep: &[bool],
    delete_horizon_ms: Option<i64>,
    out: &mut Vec<u8>,
) -> Result<BatchHeader, RecordError> {
    let mut body = Writer::new();
    let mut base_timestamp = delete_horizon_ms;
    let (mut max_timestamp, mut count) = (-1, 0);
    for (record, keep) in records.zip(keep) {
        let record = record?;
        if !keep {
            continue;
        }
        let base = *base_timestamp.get_or_insert(record.timestamp);
        max_timestamp = max_timestamp.max(record.timestamp);
        count += 1;
        let mut start = Writer::new();
        start.i8(0);
        start.varlong(record.timestamp.wrapping_sub(base));
        start.varint(record.offset_delta);
        let start = start.finish_inline().expect("a few bytes fit");
        body.varint((start.len() + record.tail.len()) as i32);
        body.raw(&start);
        body.raw(record.tail);
    }
    assert!(count > 0, "a batch of which nothing is kept is not rewritten");
    let body = body.finish_inline().expect("no larger than the batch was");
    let horizon_bit = if delete_horizon_ms.is_some() { DELETE_HORIZON } else { 0 };
    let kept = BatchHeader {
        attributes: header.attributes & !DELETE_HORIZON | horizon_bit,
        base_timestamp: base_timestamp.unwrap_or(-1),
        max_timestamp: match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => max_timestamp,
        },
        records_count: count,
        ..*header
    };
    finish(kept, &body, out)
}

/// Appends a batch without records, which only says who wrote up to where (KAFKA-5413).
pub fn retain_empty(header: &BatchHeader, out: &mut Vec<u8>) -> Result<BatchHeader, RecordError> {
    let empty = BatchHeader {
        attributes: header.attributes & !(DELETE_HORIZON | COMPRESSION_MASK),
        base_timestamp: -1,
        records_count: 0,
        ..*header
    };
    finish(empty, &[], out)
}

/// Writes header and body, with the length and the checksum that they come to.
fn finish(mut header: BatchHeader, body: &[u8], out: &mut Vec<u8>) -> Result<BatchHeader, RecordError> {
    let at = out.len();
    header.write(out);
    debug_assert_eq!(out.len() - at, HEADER_LEN);
    compression::compress(header.compression()?, body, out)
        .map_err(|error| RecordError::Decompression(error.to_string()))?;
    let batch = out.get_mut(at..).expect("written above");
    header.batch_length = (batch.len() - LOG_OVERHEAD) as i32;
    batch[8..12].copy_from_slice(&header.batch_length.to_be_bytes());
    header.crc = crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&header.crc.to_be_bytes());
    Ok(header)
}
