//! InitProducerId: who speaks for a transactional id from now on. Whoever did before is fenced by the epoch.

use protocol::error::ErrorCode;
use protocol::time::Now;

use super::state::{NO_EPOCH, Transaction, is_exhausted};
use super::{Entry, TransactionResponse, TransactionShard, TransactionState};
use crate::machine::{Producer, Token};

impl TransactionShard {
    /// `expected` is whom the client takes itself for; a new client knows of nobody.
    pub fn init(&mut self, id: &str, timeout_ms: i32, expected: Option<Producer>, token: Token, now: Now) {
        if let Err(code) = self.try_init(id, timeout_ms, expected, token, now) {
            self.respond(token, TransactionResponse::Init(Err(code)));
        }
    }

    fn try_init(
        &mut self,
        id: &str,
        timeout_ms: i32,
        expected: Option<Producer>,
        token: Token,
        now: Now,
    ) -> Result<(), ErrorCode> {
        if timeout_ms <= 0 || i64::from(timeout_ms) > self.config.timeout_max_ms {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        if !self.entries.contains_key(id) {
            let new_id = self.take_id()?;
            let entry = Entry {
                current: Transaction::new(new_id),
                is_changing: false,
                markers_left: Default::default(),
                told_since_ms: 0,
            };
            self.entries.insert(id.to_owned(), entry);
        }
        let entry = self.entries.get(id).expect("made above if it was not there");
        if entry.is_changing {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let current = &entry.current;
        let is_known = |e: Producer| {
            // The last clause: the answer that told of a new id may have been lost.
            current.epoch == NO_EPOCH
                || e.id == current.producer_id
                || (e.id == current.previous_producer_id && is_exhausted(e.epoch))
        };
        let planted = self.config.mutations.accept_fenced_producers;
        if !planted && !expected.is_none_or(is_known) {
            return Err(ErrorCode::ProducerFenced);
        }
        if current.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        if current.state == TransactionState::Ongoing {
            // The epoch that fences is given to nobody: the client comes again and gets the one above.
            self.fence_and_abort(id, now)?;
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let mut next = current.next(TransactionState::Empty, now.wall_ms);
        next.timeout_ms = timeout_ms;
        next.start_ms = -1;
        if current.is_epoch_exhausted() && expected.is_none_or(|e| e.epoch == current.epoch) {
            next.last_epoch = if expected.is_some() { current.epoch } else { NO_EPOCH };
            (next.producer_id, next.epoch) = (self.take_id()?, 0);
        } else {
            (next.epoch, next.last_epoch) = raised_epoch(current, expected)?;
        }
        let producer = Producer { id: next.producer_id, epoch: next.epoch };
        tracing::info!(
            transactional_id = id,
            producer = producer.id,
            epoch = producer.epoch,
            "producer is initialized"
        );
        self.write(id, next, Some((token, TransactionResponse::Init(Ok(producer)))));
        Ok(())
    }

    pub(super) fn take_id(&mut self) -> Result<i64, ErrorCode> {
        self.spare_id.take().ok_or(ErrorCode::CoordinatorLoadInProgress)
    }
}

/// The next epoch and the last one (KIP-360).
fn raised_epoch(current: &Transaction, expected: Option<Producer>) -> Result<(i16, i16), ErrorCode> {
    if current.is_epoch_exhausted() {
        // The client does not know that its epochs are used up, for it is not at the last one.
        return Err(ErrorCode::ProducerFenced);
    }
    match expected {
        None => Ok((current.epoch + 1, NO_EPOCH)),
        Some(e) if current.epoch == NO_EPOCH || e.epoch == current.epoch => Ok((current.epoch + 1, current.epoch)),
        // A call that was carried out and is made again; whoever came new in between would have set the last epoch to −1.
        Some(e) if e.epoch == current.last_epoch => Ok((current.epoch, current.last_epoch)),
        Some(_) => Err(ErrorCode::ProducerFenced),
    }
}
