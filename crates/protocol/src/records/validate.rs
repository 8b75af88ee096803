//! What a producer sends, checked before it is appended: Kafka's `ProduceRequest.validateRecords` and `LogValidator`.
//!
//! One pass over the header, one over the bytes for the CRC, one over the records' varints; nothing is allocated
//! unless the batch is compressed.

use std::fmt;

use super::{Batch, BatchHeader, Batches, Compression, RecordError, Scratch, TimestampType};
use crate::error::ErrorCode;

/// Record faults that one answer lists; Kafka lists all, which a client never reads.
const RECORD_FAULTS_MAX: usize = 100;
/// First version of Produce whose clients may send zstd (KIP-110).
const ZSTD_FROM_PRODUCE_VERSION: i16 = 7;

#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub produce_version: i16,
    /// `max.message.bytes` of the topic.
    pub message_bytes_max: usize,
    /// `cleanup.policy` contains compact: every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type=CreateTime`: the producer's timestamps count and are checked.
    pub create_time: bool,
    /// `message.timestamp.before.max.ms`, `message.timestamp.after.max.ms`.
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub now_ms: i64,
    /// The topic's own codec; `None` is `producer`: kept as it came.
    pub compression: Option<Compression>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    pub header: BatchHeader,
    /// The batch must be written with this codec instead of its own.
    pub recompress: Option<Compression>,
    /// The header says something else about the batch's last time than its records do; see [`super::set_create_time`].
    pub max_timestamp: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFault {
    /// Index of the record in its batch.
    pub index: i32,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationError {
    pub code: ErrorCode,
    pub message: Option<String>,
    pub faults: Vec<RecordFault>,
    /// Kafka sees it before it looks for the log (`ProduceRequest.validateRecords`).
    pub is_shape: bool,
}

impl ValidationError {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()), faults: Vec::new(), is_shape: false }
    }

    fn shape(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { is_shape: true, ..Self::new(code, message) }
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message.as_deref().unwrap_or_default())
    }
}

impl From<RecordError> for ValidationError {
    fn from(error: RecordError) -> Self {
        let code = match error {
            RecordError::UnsupportedMagic(0 | 1) | RecordError::Malformed(_) => ErrorCode::InvalidRecord,
            // DIFFERS: Kafka answers an unknown codec with UNKNOWN_SERVER_ERROR, which says nothing.
            RecordError::UnknownCompression(_) => ErrorCode::UnsupportedCompressionType,
            // Kafka's answer to whatever its decompressor throws. Clients retry CORRUPT_MESSAGE, and sending the same
            // bytes again helps nobody.
            RecordError::Decompression(_) => ErrorCode::UnknownServerError,
            _ => ErrorCode::CorruptMessage,
        };
        let is_shape = matches!(error, RecordError::UnsupportedMagic(_));
        ValidationError { is_shape, ..ValidationError::new(code, error.to_string()) }
    }
}

/// `bytes` is the records field of one partition.
pub fn validate(bytes: &[u8], rules: &Rules, scratch: &mut Scratch) -> Result<Validated, ValidationError> {
    let invalid = |message: &str| ValidationError::new(ErrorCode::InvalidRecord, message);
    let mut batches = Batches::new(bytes);
    let shape = |message: &str| ValidationError::shape(ErrorCode::InvalidRecord, message);
    let batch = batches.next().ok_or_else(|| shape("the partition's records hold no whole batch"))??;
    let is_alone = batches.rest().is_empty();
    if !is_alone && batches.next().is_some() {
        return Err(shape("the partition's records hold more than one batch"));
    }
    let header = batch.header;
    let compression = header.compression()?;
    if compression == Compression::Zstd && rules.produce_version < ZSTD_FROM_PRODUCE_VERSION {
        return Err(ValidationError::shape(
            ErrorCode::UnsupportedCompressionType,
            "zstd needs Produce version 7 or newer",
        ));
    }
    if batch.bytes.len() > rules.message_bytes_max {
        let message =
            format!("a batch of {} bytes exceeds max.message.bytes = {}", bytes.len(), rules.message_bytes_max);
        return Err(ValidationError::new(ErrorCode::MessageTooLarge, message));
    }
    batch.verify_crc()?;
    if !is_alone {
        // DIFFERS: Kafka drops what is no whole batch; who sends such bytes has a fault worth knowing.
        return Err(invalid("bytes that are no batch follow the batch"));
    }
    if header.records_count <= 0 || header.records_count - 1 != header.last_offset_delta {
        return Err(invalid("the number of records differs from the range of offsets"));
    }
    if header.base_offset != 0 {
        return Err(invalid("offsets of a producer's batch begin at 0"));
    }
    if header.is_control() {
        return Err(invalid("clients may not write control records"));
    }
    if header.has_producer_id() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return Err(invalid("a batch with a producer id needs an epoch and a sequence"));
    }
    let last = check_records(&batch, rules, scratch)?;
    let is_right = header.timestamp_type() == TimestampType::CreateTime && header.max_timestamp == last;
    Ok(Validated {
        header,
        recompress: rules.compression.filter(|wanted| *wanted != compression),
        max_timestamp: Some(last).filter(|_| rules.create_time && !is_right),
    })
}

/// Returns the latest time of a record.
fn check_records(batch: &Batch<'_>, rules: &Rules, scratch: &mut Scratch) -> Result<i64, ValidationError> {
    let mut code = ErrorCode::InvalidRecord;
    let mut faults = Vec::new();
    let mut last = -1;
    for (expected, record) in (0..).zip(batch.records(scratch)?) {
        let record = record?;
        if record.offset_delta != expected {
            return Err(ValidationError::new(ErrorCode::InvalidRecord, "offsets within the batch are not consecutive"));
        }
        last = last.max(record.timestamp);
        if let Some((fault, message)) = record_fault(&record, rules) {
            code = fault;
            if faults.len() < RECORD_FAULTS_MAX {
                faults.push(RecordFault { index: expected, message });
            }
        }
    }
    if faults.is_empty() {
        return Ok(last);
    }
    let message = if code == ErrorCode::InvalidTimestamp {
        "One or more records have been rejected due to invalid timestamp"
    } else {
        "One or more records have been rejected"
    };
    Err(ValidationError { faults, ..ValidationError::new(code, message) })
}

fn record_fault(record: &super::Record<'_>, rules: &Rules) -> Option<(ErrorCode, String)> {
    if rules.compacted && record.key.is_none() {
        return Some((ErrorCode::InvalidRecord, "a compacted topic takes no record without a key".to_owned()));
    }
    if !rules.create_time || record.timestamp < 0 {
        return None;
    }
    let before = rules.now_ms.saturating_sub(record.timestamp);
    let after = record.timestamp.saturating_sub(rules.now_ms);
    if before > rules.timestamp_before_max_ms || after > rules.timestamp_after_max_ms {
        let message = format!(
            "timestamp {} is not within {} ms before and {} ms after the broker's {}",
            record.timestamp, rules.timestamp_before_max_ms, rules.timestamp_after_max_ms, rules.now_ms
        );
        return Some((ErrorCode::InvalidTimestamp, message));
    }
    None
}

/// Rewrites a batch with another codec; producer fields and offsets stay.
pub fn recompress(batch: &Batch<'_>, to: Compression, scratch: &mut Scratch) -> Result<Vec<u8>, RecordError> {
    let header = batch.header;
    let spec = super::BatchSpec {
        base_offset: header.base_offset,
        partition_leader_epoch: header.partition_leader_epoch,
        compression: to,
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        transactional: header.is_transactional(),
        control: false,
    };
    let mut builder = super::BatchBuilder::new(spec);
    for record in batch.records(scratch)? {
        let record = record?;
        let headers: Vec<_> = record.headers.collect();
        builder.append(record.timestamp, record.key, record.value, &headers);
    }
    Ok(builder.build())
}
