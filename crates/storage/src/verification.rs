//! KIP-890: a producer's transaction begins in a log only after the transaction's coordinator was asked about it. This
//! file keeps who is being asked about; the asking is done above.
//!
//! Without it a batch that was long under way could arrive after the end of its transaction and begin one that no
//! coordinator knows, and that nobody would ever end.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::records::BatchHeader;

/// Names one question to the coordinator. A guard is good for the batch that it was given for and none later: were it
/// only the producer's id, an answer could arrive after the transaction's end and open the next one unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard(pub u64);

/// What a transactional batch has to show for beginning a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// `transaction.partition.verification.enable` is off.
    Off,
    /// Its transaction is open in this log already, or should be.
    Open,
    Asked(Guard),
}

#[derive(Clone, Debug)]
struct Asking {
    guard: Guard,
    epoch: i16,
    /// Batches may overtake each other while one waits; none may come before the one with the lowest sequence.
    lowest_sequence: i32,
    /// The client speaks transaction version 2, in which every transaction has an epoch of its own.
    has_own_epoch: bool,
    since_ms: i64,
}

/// By producer id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verifications {
    asking: BTreeMap<i64, Asking>,
    next: u64,
}

impl Verifications {
    pub fn begin(&mut self, producer: (i64, i16), sequence: i32, has_own_epoch: bool, now_ms: i64) -> Guard {
        let (id, epoch) = producer;
        let next = &mut self.next;
        let asking = self.asking.entry(id).or_insert_with(|| {
            *next += 1;
            Asking { guard: Guard(*next), epoch, lowest_sequence: sequence, has_own_epoch, since_ms: now_ms }
        });
        if epoch > asking.epoch || (epoch == asking.epoch && sequence < asking.lowest_sequence) {
            (asking.epoch, asking.lowest_sequence) = (epoch, sequence);
        }
        asking.guard
    }

    pub fn allows(&self, producer_id: i64, shown: Verification) -> bool {
        match shown {
            Verification::Off => true,
            Verification::Open => false,
            Verification::Asked(guard) => self.asking.get(&producer_id).is_some_and(|asking| asking.guard == guard),
        }
    }

    /// `is_new`: the log holds no batch of this producer.
    pub fn check_sequence(&self, header: &BatchHeader, is_new: bool) -> Result<(), ErrorCode> {
        let Some(asking) = self.asking.get(&header.producer_id) else { return Ok(()) };
        let starts_late = asking.has_own_epoch && is_new && header.base_sequence != 0;
        if starts_late || header.base_sequence > asking.lowest_sequence {
            return Err(ErrorCode::OutOfOrderSequenceNumber);
        }
        Ok(())
    }

    /// A transactional batch is in the log: its transaction is open there, or ended. A marker of version 2 with the epoch
    /// that is being asked about ended the transaction before that one.
    pub fn settle(&mut self, header: &BatchHeader) {
        let Some(asking) = self.asking.get(&header.producer_id) else { return };
        let is_of_the_next = asking.has_own_epoch && header.is_control() && header.producer_epoch == asking.epoch;
        if !is_of_the_next {
            self.asking.remove(&header.producer_id);
        }
    }

    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.asking.retain(|_, asking| now_ms - asking.since_ms < expiration_ms);
    }
}
