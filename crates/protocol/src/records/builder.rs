//! Makes a batch from records: producers of ours, control batches, the metadata log.

use super::header::{ATTRIBUTES_AT, attributes};
use super::{BatchHeader, CRC_AT, Compression, HEADER_LEN, LOG_OVERHEAD, TimestampType, compression, crc32c};
use crate::wire::Writer;

/// What a batch's header says beyond its records.
#[derive(Clone, Copy, Debug)]
pub struct BatchSpec {
    pub base_offset: i64,
    pub partition_leader_epoch: i32,
    pub compression: Compression,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub transactional: bool,
    pub control: bool,
}

impl Default for BatchSpec {
    fn default() -> Self {
        Self {
            base_offset: 0,
            partition_leader_epoch: -1,
            compression: Compression::None,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            transactional: false,
            control: false,
        }
    }
}

#[derive(Debug)]
pub struct BatchBuilder {
    spec: BatchSpec,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    body: Writer,
}

impl BatchBuilder {
    pub fn new(spec: BatchSpec) -> Self {
        Self { spec, base_timestamp: -1, max_timestamp: -1, count: 0, body: Writer::new() }
    }

    pub fn count(&self) -> i32 {
        self.count
    }

    /// Size so far, before compression.
    pub fn size(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let mut record = Writer::new();
        record.i8(0);
        // Times are whatever their producers say; readers add in the same way.
        record.varlong(timestamp.wrapping_sub(self.base_timestamp));
        record.varint(self.count);
        sized(&mut record, key);
        sized(&mut record, value);
        record.varint(headers.len() as i32);
        for (key, value) in headers {
            sized(&mut record, Some(key));
            sized(&mut record, *value);
        }
        let record = record.finish_inline().expect("plain bytes fit");
        self.body.varint(record.len() as i32);
        self.body.raw(&record);
        self.count += 1;
    }

    /// The batch's bytes; there must be at least one record.
    pub fn build(self) -> Vec<u8> {
        assert!(self.count > 0, "a batch holds at least one record");
        let body = self.body.finish_inline().expect("plain bytes fit");
        let mut out = Vec::with_capacity(HEADER_LEN + body.len());
        let spec = self.spec;
        let mut header = BatchHeader {
            base_offset: spec.base_offset,
            batch_length: 0,
            partition_leader_epoch: spec.partition_leader_epoch,
            crc: 0,
            attributes: attributes(spec.compression, TimestampType::CreateTime, spec.transactional, spec.control),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: spec.producer_id,
            producer_epoch: spec.producer_epoch,
            base_sequence: spec.base_sequence,
            records_count: self.count,
        };
        header.write(&mut out);
        compression::compress(spec.compression, &body, &mut out).expect("writing to memory");
        header.batch_length = (out.len() - LOG_OVERHEAD) as i32;
        out[8..12].copy_from_slice(&header.batch_length.to_be_bytes());
        let crc = crc32c(&out[ATTRIBUTES_AT..]);
        out[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        out
    }
}

fn sized(w: &mut Writer, bytes: Option<&[u8]>) {
    match bytes {
        None => w.varint(-1),
        Some(bytes) => {
            w.varint(bytes.len() as i32);
            w.raw(bytes);
        }
    }
}
