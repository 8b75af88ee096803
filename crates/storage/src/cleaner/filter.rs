//! Which records of a batch stay, and which batches stay without any (`Cleaner.cleanInto`).

use std::collections::BTreeMap;

use protocol::records::{
    Batch, BatchHeader, ControlRecordType, Record, RecordError, RecordIter, Scratch, retain, retain_empty,
};

use super::map::OffsetMap;
use super::transactions::Transactions;
use crate::txn_index::AbortedTxn;

/// The end of what a producer wrote: a batch that must not go, or the producer's next one would be out of sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastOfProducer {
    /// `None` if only markers are left of it.
    pub data_offset: Option<i64>,
    pub epoch: i16,
}

/// What a pass does not change.
#[derive(Default)]
pub(super) struct Terms {
    pub producers: BTreeMap<i64, LastOfProducer>,
    /// The end of what this pass may touch; the batch before it keeps its last offset, whatever becomes of its records.
    pub upper_bound: i64,
    pub now_ms: i64,
    pub delete_retention_ms: i64,
}

/// What became of one batch.
#[derive(Default)]
pub(super) struct Kept {
    /// Of the batch that was written.
    pub header: Option<BatchHeader>,
    pub aborted: Option<AbortedTxn>,
    /// Records without a key: no producer may write them, but a topic may have become compacted later.
    pub keyless: u64,
}

impl Terms {
    /// Appends to `out` what stays of a batch.
    pub fn filter(
        &self,
        batch: &Batch<'_>,
        map: &OffsetMap,
        transactions: &mut Transactions,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Kept, RecordError> {
        let header = &batch.header;
        let mut kept = Kept::default();
        let records = batch.records(scratch)?;
        let (discards, is_spare_marker) = if header.is_control() {
            let marker = transactions.on_marker(header, control_type(records.clone())?);
            kept.aborted = marker.aborted;
            let is_over = header.delete_horizon_ms().is_some_and(|horizon| horizon <= self.now_ms);
            (marker.is_spare && is_over, marker.is_spare)
        } else {
            (transactions.on_data(header), false)
        };
        let must_stay = self.is_last_of_producer(header) || header.next_offset() == self.upper_bound;
        if discards && !must_stay {
            return Ok(kept);
        }
        let mut keep = Vec::with_capacity(header.records_count.clamp(0, 1 << 16) as usize);
        let (mut count, mut has_tombstone) = (0, false);
        for record in records.clone() {
            let record = record?;
            kept.keyless += u64::from(record.key.is_none());
            let stays = !discards && (header.is_control() || self.stays(header, &record, map));
            keep.push(stays);
            count += u64::from(stays);
            has_tombstone |= stays && record.value.is_none();
        }
        if count == 0 {
            kept.header = if must_stay { Some(retain_empty(header, out)?) } else { None };
            return Ok(kept);
        }
        let horizon = header.delete_horizon_ms();
        let begins_horizon = (has_tombstone || is_spare_marker) && horizon.is_none();
        if count == keep.len() as u64 && !begins_horizon {
            out.extend_from_slice(batch.bytes);
            kept.header = Some(*header);
            return Ok(kept);
        }
        // DIFFERS: now + delete.retention.ms overflows in Kafka for very long retentions, and the horizon is never set.
        // That tombstones then stay for ever is what was asked for, and is what comes of it here too.
        let horizon = horizon.or(begins_horizon.then(|| self.now_ms.saturating_add(self.delete_retention_ms)));
        kept.header = Some(retain(header, records, &keep, horizon, out)?);
        Ok(kept)
    }

    fn stays(&self, header: &BatchHeader, record: &Record<'_>, map: &OffsetMap) -> bool {
        if record.offset > map.latest_offset {
            return true;
        }
        let Some(key) = record.key else { return false };
        let is_latest = map.get(key).is_none_or(|latest| record.offset >= latest);
        // A tombstone outlives the pass that found it by delete.retention.ms, so that every reader has seen it.
        let is_in_time = || header.delete_horizon_ms().is_none_or(|horizon| self.now_ms < horizon);
        is_latest && (record.value.is_some() || is_in_time())
    }

    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let Some(last) = self.producers.get(&header.producer_id).filter(|_| header.has_producer_id()) else {
            return false;
        };
        match last.data_offset {
            Some(offset) => header.last_offset() == offset,
            None => header.is_control() && header.producer_epoch == last.epoch,
        }
    }
}

fn control_type(mut records: RecordIter<'_>) -> Result<Option<ControlRecordType>, RecordError> {
    match records.next().transpose()? {
        // A kind of a later version says nothing of transactions.
        Some(record) => {
            let kind = record.key.and_then(ControlRecordType::parse);
            Ok(Some(kind.unwrap_or(ControlRecordType::LeaderChange)))
        }
        None => Ok(None),
    }
}

/// Takes a batch of the dirty section into the map; `true` if the map is full, and ends here.
pub(super) fn index(
    batch: &Batch<'_>,
    from: i64,
    map: &mut OffsetMap,
    transactions: &mut Transactions,
    scratch: &mut Scratch,
) -> Result<bool, RecordError> {
    let header = &batch.header;
    if header.is_control() {
        let kind = control_type(batch.records(scratch)?)?;
        transactions.on_marker(header, kind);
    } else if !transactions.on_data(header) && header.last_offset() >= from {
        for record in batch.records(scratch)? {
            let record = record?;
            let Some(key) = record.key.filter(|_| record.offset >= from) else { continue };
            if map.is_full() {
                return Ok(true);
            }
            map.put(key, record.offset);
        }
    }
    if header.last_offset() >= from {
        map.latest_offset = header.last_offset();
    }
    Ok(false)
}
