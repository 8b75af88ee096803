//! What a log remembers of its producers: sequence numbers for idempotence (KIP-98), open transactions for the last
//! stable offset, and the `.snapshot` files that make both quick to load.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

use protocol::codec::{decode_all, encode_all};
use protocol::error::ErrorCode;
use protocol::messages::producer_snapshot::{ProducerEntry as SnapshotEntry, ProducerSnapshot};
use protocol::records::{BatchHeader, ControlRecordType, crc32c, sequence_after};
use protocol::wire::{Reader, Writer};

use crate::disk::Disk;
use crate::segment::file_name;
use crate::txn_index::AbortedTxn;

/// Batches per producer that a retry is recognised by; clients keep at most as many in flight.
const BATCHES_KEPT: usize = 5;
const SNAPSHOT_VERSION: i16 = 1;
const NO_SEQUENCE: i32 = -1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducedBatch {
    pub last_sequence: i32,
    pub last_offset: i64,
    pub offset_delta: i32,
    pub timestamp: i64,
}

impl ProducedBatch {
    pub fn first_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }

    fn first_sequence(&self) -> i32 {
        let first = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        (if first < 0 { first + i64::from(i32::MAX) + 1 } else { first }) as i32
    }
}

#[derive(Clone, Debug)]
pub struct ProducerEntry {
    pub epoch: i16,
    pub batches: VecDeque<ProducedBatch>,
    pub coordinator_epoch: i32,
    pub last_timestamp: i64,
    pub current_txn_first_offset: Option<i64>,
}

impl ProducerEntry {
    fn new() -> Self {
        Self {
            epoch: -1,
            batches: VecDeque::new(),
            coordinator_epoch: -1,
            last_timestamp: -1,
            current_txn_first_offset: None,
        }
    }

    pub fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(NO_SEQUENCE, |b| b.last_sequence)
    }
}

/// What an append by a producer comes to before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequenced {
    Next,
    /// Written before; the original batch's place.
    Duplicate(ProducedBatch),
}

#[derive(Clone, Debug, Default)]
pub struct ProducerStates {
    entries: BTreeMap<i64, ProducerEntry>,
    /// Open transactions by first offset.
    ongoing: BTreeMap<i64, i64>,
    /// Ended transactions whose marker is above the high watermark: first offset → marker's offset.
    unreplicated: BTreeMap<i64, i64>,
    /// Offset that the state covers: everything before it is in.
    pub end_offset: i64,
}

impl ProducerStates {
    pub fn entries(&self) -> &BTreeMap<i64, ProducerEntry> {
        &self.entries
    }

    /// The batch as it was written the first time, if it is a retry of one of the last few.
    pub fn find_duplicate(&self, header: &BatchHeader) -> Option<ProducedBatch> {
        let entry = self.entries.get(&header.producer_id).filter(|e| e.epoch == header.producer_epoch)?;
        let same = |b: &&ProducedBatch| {
            b.first_sequence() == header.base_sequence && b.last_sequence == header.last_sequence()
        };
        entry.batches.iter().find(same).copied()
    }

    pub fn check_epoch(&self, (id, epoch): (i64, i16)) -> Result<(), ErrorCode> {
        let known = self.entries.get(&id).map_or(-1, |entry| entry.epoch);
        if epoch < known { Err(ErrorCode::InvalidProducerEpoch) } else { Ok(()) }
    }

    /// Checks a client's batch, which is no duplicate, against what its producer wrote last (`ProducerAppendInfo`).
    pub fn check_sequence(&self, header: &BatchHeader) -> Result<(), ErrorCode> {
        let Some(entry) = self.entries.get(&header.producer_id).filter(|entry| entry.epoch >= 0) else {
            // KIP-360: what this producer wrote may be gone by retention; any sequence is taken.
            return Ok(());
        };
        let expected = match header.producer_epoch == entry.epoch {
            true => sequence_after(entry.last_sequence(), 1),
            false => 0,
        };
        if header.base_sequence == expected { Ok(()) } else { Err(ErrorCode::OutOfOrderSequenceNumber) }
    }

    /// Within a transaction a producer writes nothing else.
    pub fn check_transaction(&self, header: &BatchHeader) -> Result<(), ErrorCode> {
        let is_open = self.entries.get(&header.producer_id).is_some_and(|e| e.current_txn_first_offset.is_some());
        if is_open && !header.is_transactional() { Err(ErrorCode::InvalidTxnState) } else { Ok(()) }
    }

    /// KIP-890, KIP-1228: in version 2 a transaction's marker has an epoch above that of its batches, so that a late one
    /// cannot end the next transaction. The same marker again, after the first one has ended the transaction, does no
    /// harm: a coordinator that did not hear of the first sends it until it does. A coordinator that has been succeeded
    /// is told so.
    pub fn check_marker(
        &self,
        header: &BatchHeader,
        coordinator_epoch: i32,
        transaction_version: i16,
    ) -> Result<(), ErrorCode> {
        let Some(entry) = self.entries.get(&header.producer_id) else { return Ok(()) };
        let is_fresh = match transaction_version {
            2.. => header.producer_epoch > entry.epoch,
            _ => header.producer_epoch >= entry.epoch,
        };
        let is_again = header.producer_epoch == entry.epoch
            && (entry.current_txn_first_offset.is_none() || header.producer_epoch == i16::MAX);
        if !is_fresh && !is_again {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if coordinator_epoch < entry.coordinator_epoch {
            return Err(ErrorCode::TransactionCoordinatorFenced);
        }
        Ok(())
    }

    pub fn has_open_transaction(&self, (id, epoch): (i64, i16)) -> bool {
        self.entries.get(&id).is_some_and(|e| e.current_txn_first_offset.is_some() && e.epoch == epoch)
    }

    /// Whether nothing that this producer wrote is known.
    pub fn is_new(&self, id: i64) -> bool {
        self.entries.get(&id).is_none_or(|e| e.batches.is_empty())
    }

    /// The last sign of life of the producer whose open transaction has been silent for longest.
    pub fn oldest_open_timestamp(&self) -> Option<i64> {
        self.ongoing.values().filter_map(|id| self.entries.get(id)).map(|entry| entry.last_timestamp).min()
    }

    /// Takes a batch into account that is in the log. For a control batch, `marker` is its type and coordinator epoch.
    /// Returns the transaction that it ends by abort.
    pub fn update(&mut self, header: &BatchHeader, marker: Option<(ControlRecordType, i32)>) -> Option<AbortedTxn> {
        self.end_offset = self.end_offset.max(header.next_offset());
        if !header.has_producer_id() {
            return None;
        }
        let entry = self.entries.entry(header.producer_id).or_insert_with(ProducerEntry::new);
        if header.producer_epoch != entry.epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        if header.is_control() {
            let (kind, coordinator_epoch) = marker?;
            entry.coordinator_epoch = coordinator_epoch;
            entry.last_timestamp = header.max_timestamp;
            let first_offset = entry.current_txn_first_offset.take()?;
            self.ongoing.remove(&first_offset);
            self.unreplicated.insert(first_offset, header.last_offset());
            return (kind == ControlRecordType::Abort).then(|| AbortedTxn {
                producer_id: header.producer_id,
                first_offset,
                last_offset: header.last_offset(),
                last_stable_offset: self.ongoing.keys().next().copied().unwrap_or(header.next_offset()),
            });
        }
        entry.last_timestamp = header.max_timestamp;
        if header.records_count > 0 || header.base_sequence >= 0 {
            if entry.batches.len() == BATCHES_KEPT {
                entry.batches.pop_front();
            }
            entry.batches.push_back(ProducedBatch {
                last_sequence: header.last_sequence(),
                last_offset: header.last_offset(),
                offset_delta: header.last_offset_delta,
                timestamp: header.max_timestamp,
            });
        }
        if header.is_transactional() && entry.current_txn_first_offset.is_none() {
            entry.current_txn_first_offset = Some(header.base_offset);
            self.ongoing.insert(header.base_offset, header.producer_id);
        }
        None
    }

    /// First offset of the oldest transaction that is open, or whose end is not replicated yet.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        let ongoing = self.ongoing.keys().next().copied();
        let ended = self.unreplicated.keys().next().copied();
        [ongoing, ended].into_iter().flatten().min()
    }

    pub fn on_high_watermark(&mut self, high_watermark: i64) {
        if !self.unreplicated.is_empty() {
            self.unreplicated.retain(|_, marker| *marker >= high_watermark);
        }
    }

    /// Forgets producers that wrote nothing for long and have no open transaction.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.entries.retain(|_, e| {
            e.current_txn_first_offset.is_some() || now_ms.saturating_sub(e.last_timestamp) < expiration_ms
        });
    }

    pub fn clear(&mut self, end_offset: i64) {
        *self = ProducerStates { end_offset, ..ProducerStates::default() };
    }

    /// Writes `<end offset>.snapshot`, in which only the last batch of each producer is kept.
    pub fn write_snapshot(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let producer_entries = self
            .entries
            .iter()
            .map(|(id, e)| {
                let last = e.batches.back();
                SnapshotEntry {
                    producer_id: *id,
                    epoch: e.epoch,
                    last_sequence: last.map_or(NO_SEQUENCE, |b| b.last_sequence),
                    last_offset: last.map_or(-1, |b| b.last_offset),
                    offset_delta: last.map_or(0, |b| b.offset_delta),
                    timestamp: e.last_timestamp,
                    coordinator_epoch: e.coordinator_epoch,
                    current_txn_first_offset: e.current_txn_first_offset.unwrap_or(-1),
                }
            })
            .collect();
        let body =
            encode_all(&ProducerSnapshot { crc: 0, producer_entries }, SNAPSHOT_VERSION).expect("numbers always fit");
        let crc = crc32c(body.get(4..).unwrap_or_default());
        let mut w = Writer::new();
        w.i16(SNAPSHOT_VERSION);
        w.u32(crc);
        w.raw(body.get(4..).unwrap_or_default());
        let bytes = w.finish_inline().expect("numbers always fit");
        crate::checkpoint::replace_if_room(disk, &dir.join(file_name(self.end_offset, "snapshot")), &bytes)
    }

    /// Reads a snapshot; `None` if it is damaged, and then must not be used.
    pub fn read_snapshot(disk: &dyn Disk, path: &Path, end_offset: i64) -> Option<ProducerStates> {
        let bytes = disk.read(path).ok()?;
        let mut r = Reader::new(&bytes);
        if r.i16().ok()? != SNAPSHOT_VERSION {
            return None;
        }
        let body = bytes.get(2..)?;
        let snapshot: ProducerSnapshot = decode_all(body, SNAPSHOT_VERSION).ok()?;
        if snapshot.crc != crc32c(body.get(4..)?) {
            return None;
        }
        let mut states = ProducerStates { end_offset, ..ProducerStates::default() };
        for e in snapshot.producer_entries {
            let batch = ProducedBatch {
                last_sequence: e.last_sequence,
                last_offset: e.last_offset,
                offset_delta: e.offset_delta,
                timestamp: e.timestamp,
            };
            let txn = (e.current_txn_first_offset >= 0).then_some(e.current_txn_first_offset);
            if let Some(first) = txn {
                states.ongoing.insert(first, e.producer_id);
            }
            let entry = ProducerEntry {
                epoch: e.epoch,
                batches: if e.last_offset >= 0 { VecDeque::from([batch]) } else { VecDeque::new() },
                coordinator_epoch: e.coordinator_epoch,
                last_timestamp: e.timestamp,
                current_txn_first_offset: txn,
            };
            states.entries.insert(e.producer_id, entry);
        }
        Some(states)
    }
}
