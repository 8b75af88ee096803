//! The batches of the metadata log: data batches out of framed values, and back.

use std::io;

use protocol::records::{Batch, BatchBuilder, BatchSpec, Batches, RecordError, Scratch};
use protocol::time::Now;

/// A batch as the state machine sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct DataBatch {
    pub base_offset: i64,
    pub last_offset: i64,
    pub epoch: i32,
    pub append_timestamp: i64,
    /// On disk.
    pub size_bytes: usize,
    /// The records' values; none in a control batch.
    pub records: Vec<Vec<u8>>,
}

/// All of `records` in one batch, uncompressed as in Kafka.
pub fn data_batch(base_offset: i64, epoch: i32, records: &[Vec<u8>], now: Now) -> Vec<u8> {
    let spec = BatchSpec { base_offset, partition_leader_epoch: epoch, ..Default::default() };
    let mut builder = BatchBuilder::new(spec);
    for record in records {
        builder.append(now.wall_ms, None, Some(record), &[]);
    }
    builder.build()
}

/// Batches that we have written or checked before; damage is the disk's.
pub fn read_batches(bytes: &[u8]) -> io::Result<Vec<DataBatch>> {
    let mut scratch = Scratch::default();
    Batches::new(bytes).map(|batch| read_batch(batch?, &mut scratch)).collect::<Result<_, _>>().map_err(damaged)
}

fn read_batch(batch: Batch<'_>, scratch: &mut Scratch) -> Result<DataBatch, RecordError> {
    batch.verify_crc()?;
    let mut records = Vec::new();
    if !batch.header.is_control() {
        for record in batch.records(scratch)? {
            records.push(record?.value.unwrap_or_default().to_vec());
        }
    }
    Ok(DataBatch {
        base_offset: batch.header.base_offset,
        last_offset: batch.header.last_offset(),
        epoch: batch.header.partition_leader_epoch,
        append_timestamp: batch.header.max_timestamp,
        size_bytes: batch.bytes.len(),
        records,
    })
}

pub fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What is wrong with records that a leader sent to be appended at `next_offset` in `epoch`, and how many bytes before
/// that are good.
pub fn check_fetched(bytes: &[u8], next_offset: i64, epoch: i32) -> (usize, Option<String>) {
    let mut good = 0;
    let mut next = next_offset;
    for batch in Batches::new(bytes) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return (good, Some(error.to_string())),
        };
        let header = &batch.header;
        if let Err(error) = batch.verify_crc() {
            return (good, Some(format!("batch at {}: {error}", header.base_offset)));
        }
        if header.base_offset != next || header.last_offset_delta < 0 {
            return (good, Some(format!("batch at {} where {next} is due", header.base_offset)));
        }
        // KAFKA-18723: a leader elected while the answer was on its way must not slip its records in under ours.
        if header.partition_leader_epoch > epoch || header.partition_leader_epoch < 0 {
            let reason = format!("batch at {next} is of epoch {}, we are in {epoch}", header.partition_leader_epoch);
            return (good, Some(reason));
        }
        next = header.next_offset();
        good += batch.bytes.len();
    }
    // A last batch that was cut off by the size limit is no fault.
    (good, None)
}
