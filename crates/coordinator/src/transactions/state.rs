//! One transactional id: what the log says of it, and the record that says so.

use std::collections::BTreeSet;

use protocol::codec::{Message, decode_all};
use protocol::messages::transaction_log_value::PartitionsSchema;
use protocol::messages::{TransactionLogKey, TransactionLogValue};
use protocol::wire::{DecodeError, Writer};

use crate::records::{Record, ReplayError};

/// A partition that takes part in a transaction; `__consumer_offsets` among them where it commits offsets.
pub type TopicPartition = (String, i32);

const TRANSACTION_LOG: i16 = 0;
pub(crate) const NO_ID: i64 = -1;
pub(crate) const NO_EPOCH: i16 = -1;
/// The last epoch that a producer gets; the one above is the coordinator's, to fence with.
const EPOCH_MAX: i16 = i16::MAX - 1;
/// The transaction version that gives each transaction an epoch of its own.
pub(crate) const EPOCH_PER_TRANSACTION: i16 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    Empty,
    Ongoing,
    PrepareCommit,
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
}

impl TransactionState {
    /// All names that Kafka knows; the last two are passing states, which no log holds.
    pub const NAMES: [&'static str; 8] = [
        "Empty",
        "Ongoing",
        "PrepareCommit",
        "PrepareAbort",
        "CompleteCommit",
        "CompleteAbort",
        "Dead",
        "PrepareEpochFence",
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The states that a transaction can be seen in.
    pub fn from_name(name: &str) -> Option<TransactionState> {
        let id = Self::NAMES.iter().position(|known| *known == name)?;
        Self::from_id(i8::try_from(id).ok()?)
    }

    pub(crate) fn from_id(id: i8) -> Option<TransactionState> {
        match id {
            0 => Some(Self::Empty),
            1 => Some(Self::Ongoing),
            2 => Some(Self::PrepareCommit),
            3 => Some(Self::PrepareAbort),
            4 => Some(Self::CompleteCommit),
            5 => Some(Self::CompleteAbort),
            _ => None,
        }
    }

    /// The end is decided, and not all partitions have heard of it.
    pub(crate) fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Empty | Self::CompleteCommit | Self::CompleteAbort)
    }
}

/// Invariants: only Empty has never had a start; Complete and Empty have no partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub producer_id: i64,
    pub previous_producer_id: i64,
    /// The id that follows when this one's epochs are used up by the end under way.
    pub next_producer_id: i64,
    pub epoch: i16,
    /// The epoch before, which a retry may still come with. Not in the log.
    pub last_epoch: i16,
    pub timeout_ms: i32,
    pub state: TransactionState,
    pub partitions: BTreeSet<TopicPartition>,
    pub start_ms: i64,
    pub updated_ms: i64,
    /// The transaction version that the client spoke.
    pub client_version: i16,
}

impl Transaction {
    pub fn new(producer_id: i64) -> Self {
        Self {
            producer_id,
            previous_producer_id: NO_ID,
            next_producer_id: NO_ID,
            epoch: NO_EPOCH,
            last_epoch: NO_EPOCH,
            timeout_ms: 0,
            state: TransactionState::Empty,
            partitions: BTreeSet::new(),
            start_ms: -1,
            updated_ms: -1,
            client_version: 0,
        }
    }

    /// The next state, to be changed further and written; the previous id is the one that is left.
    pub fn next(&self, state: TransactionState, now_ms: i64) -> Transaction {
        Transaction { previous_producer_id: self.producer_id, state, updated_ms: now_ms, ..self.clone() }
    }

    pub fn is_epoch_exhausted(&self) -> bool {
        is_exhausted(self.epoch)
    }

    pub fn has_epoch_per_transaction(&self) -> bool {
        self.client_version >= EPOCH_PER_TRANSACTION
    }

    /// What the log says once all partitions have heard of the end.
    pub fn completed(&self, now_ms: i64) -> Transaction {
        let state = match self.state {
            TransactionState::PrepareCommit => TransactionState::CompleteCommit,
            _ => TransactionState::CompleteAbort,
        };
        let mut done = self.next(state, now_ms);
        if self.has_epoch_per_transaction() && self.next_producer_id != NO_ID {
            (done.producer_id, done.epoch) = (self.next_producer_id, 0);
        }
        done.next_producer_id = NO_ID;
        done.partitions = BTreeSet::new();
        done
    }

    pub fn check(&self) {
        assert!(self.producer_id >= 0 && self.epoch >= 0);
        match self.state {
            TransactionState::Ongoing => assert!(!self.partitions.is_empty(), "a transaction without partitions"),
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => {}
            _ => assert!(self.partitions.is_empty(), "{} with partitions", self.state.name()),
        }
    }

    /// `log_version` is 1 from transaction version 1 on.
    pub fn record(&self, id: &str, log_version: i16) -> Record {
        let mut topics: Vec<PartitionsSchema<'static>> = Vec::new();
        for (topic, partition) in &self.partitions {
            match topics.last_mut().filter(|t| t.topic == topic.as_str()) {
                Some(last) => last.partition_ids.push(*partition),
                None => topics.push(PartitionsSchema {
                    topic: topic.clone().into(),
                    partition_ids: vec![*partition],
                    ..Default::default()
                }),
            }
        }
        let is_flexible = log_version >= 1;
        let value = TransactionLogValue {
            producer_id: self.producer_id,
            previous_producer_id: if is_flexible { self.previous_producer_id } else { NO_ID },
            next_producer_id: if is_flexible { self.next_producer_id } else { NO_ID },
            producer_epoch: self.epoch,
            transaction_timeout_ms: self.timeout_ms,
            transaction_status: self.state as i8,
            transaction_partitions: (self.state != TransactionState::Empty).then_some(topics),
            transaction_last_update_timestamp_ms: self.updated_ms,
            transaction_start_timestamp_ms: self.start_ms,
            client_transaction_version: if is_flexible { self.client_version } else { 0 },
            ..Default::default()
        };
        Record { key: record_key(id), value: Some(encode(log_version, &value, log_version)) }
    }

    fn from_value(value: &TransactionLogValue<'_>) -> Result<Transaction, DecodeError> {
        let state = TransactionState::from_id(value.transaction_status)
            .ok_or(DecodeError::Invalid("a transaction in an unknown state"))?;
        let topics = value.transaction_partitions.iter().flatten();
        let partitions = topics.flat_map(|t| t.partition_ids.iter().map(|p| (t.topic.clone().into_owned(), *p)));
        Ok(Transaction {
            producer_id: value.producer_id,
            previous_producer_id: value.previous_producer_id,
            next_producer_id: value.next_producer_id,
            epoch: value.producer_epoch,
            last_epoch: NO_EPOCH,
            timeout_ms: value.transaction_timeout_ms,
            state,
            partitions: partitions.collect(),
            start_ms: value.transaction_start_timestamp_ms,
            updated_ms: value.transaction_last_update_timestamp_ms,
            client_version: value.client_transaction_version,
        })
    }
}

/// The coordinator must always be able to fence a producer, so that the highest epoch is never given away.
pub(crate) fn is_exhausted(epoch: i16) -> bool {
    epoch >= EPOCH_MAX
}

fn encode(prefix: i16, message: &impl Message, version: i16) -> Vec<u8> {
    let mut w = Writer::new();
    w.i16(prefix);
    message.encode(&mut w, version);
    w.finish_inline().expect("ids and names of a request fit the same fields of a record")
}

fn record_key(id: &str) -> Vec<u8> {
    encode(TRANSACTION_LOG, &TransactionLogKey { transactional_id: id.into() }, 0)
}

pub(crate) fn tombstone(id: &str) -> Record {
    Record { key: record_key(id), value: None }
}

fn split(bytes: &[u8]) -> Result<(i16, &[u8]), DecodeError> {
    let prefix = bytes.first_chunk::<2>().ok_or(DecodeError::Invalid("a record without its version"))?;
    Ok((i16::from_be_bytes(*prefix), bytes.get(2..).unwrap_or_default()))
}

/// The transactional id of a record, and what it says; `None` for a tombstone.
pub(crate) fn parse(key: &[u8], value: Option<&[u8]>) -> Result<(String, Option<Transaction>), ReplayError> {
    let (kind, key) = split(key)?;
    if kind != TRANSACTION_LOG {
        return Err(DecodeError::Invalid("a record of an unknown kind").into());
    }
    let key: TransactionLogKey<'_> = decode_all(key, 0)?;
    let id = key.transactional_id.into_owned();
    let Some((version, bytes)) = value.map(split).transpose()? else { return Ok((id, None)) };
    let value: TransactionLogValue<'_> = decode_all(bytes, version)?;
    Ok((id, Some(Transaction::from_value(&value)?)))
}
