//! EndTxn, and the ends that no client asks for: of producers that are fenced, and of transactions that take too long.

use protocol::error::ErrorCode;
use protocol::time::Now;

use super::state::{EPOCH_PER_TRANSACTION, NO_EPOCH, NO_ID, Transaction, is_exhausted};
use super::{Entry, TransactionResponse, TransactionShard, TransactionState};
use crate::machine::{Producer, Token};

/// How a call compares with what the log says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    /// The producer as it is now.
    Current,
    /// The producer as it was before its last transaction ended: it did not hear of the end.
    Again,
}

impl TransactionShard {
    /// `client_version` is the transaction version that the producer speaks.
    pub fn end(&mut self, id: &str, producer: Producer, commit: bool, client_version: i16, token: Token, now: Now) {
        let outcome = match client_version >= EPOCH_PER_TRANSACTION {
            true => self.end_with_new_epoch(id, producer, commit, token, now),
            false => self.end_with_same_epoch(id, producer, commit, token, now),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(answer)) => self.respond(token, TransactionResponse::Ended(Ok(answer))),
            Err(code) => self.respond(token, TransactionResponse::Ended(Err(code))),
        }
    }

    fn entry_for_end(&self, id: &str) -> Result<&Entry, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        self.entries.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)
    }

    /// Transaction versions 0 and 1. `Ok(Some)`: it was done before. `Ok(None)`: the answer follows.
    fn end_with_same_epoch(
        &mut self,
        id: &str,
        producer: Producer,
        commit: bool,
        token: Token,
        now: Now,
    ) -> Result<Option<Option<Producer>>, ErrorCode> {
        let entry = self.entry_for_end(id)?;
        let current = &entry.current;
        if producer.id != current.producer_id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if producer.epoch != current.epoch && !self.config.mutations.accept_fenced_producers {
            return Err(ErrorCode::ProducerFenced);
        }
        if entry.is_busy() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        match current.state {
            TransactionState::Ongoing => {
                let mut next = current.next(prepared(commit), now.wall_ms);
                next.client_version = 0;
                next.next_producer_id = NO_ID;
                self.write(id, next, Some((token, TransactionResponse::Ended(Ok(None)))));
                Ok(None)
            }
            TransactionState::CompleteCommit if commit => Ok(Some(None)),
            TransactionState::CompleteAbort if !commit => Ok(Some(None)),
            state => Err(invalid(id, state, commit)),
        }
    }

    /// Transaction version 2: every end raises the epoch, so that a call tells by its epoch which transaction it means.
    fn end_with_new_epoch(
        &mut self,
        id: &str,
        producer: Producer,
        commit: bool,
        token: Token,
        now: Now,
    ) -> Result<Option<Option<Producer>>, ErrorCode> {
        let entry = self.entry_for_end(id)?;
        let current = &entry.current;
        if entry.is_busy() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        // The producer's epochs were used up by the end that it did not hear of.
        let overflowed =
            current.previous_producer_id == producer.id && is_exhausted(producer.epoch) && current.epoch == 0;
        if producer.id != current.producer_id && !overflowed {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        let call = match current.state {
            _ if producer.epoch == current.epoch && !overflowed => Call::Current,
            TransactionState::CompleteCommit | TransactionState::CompleteAbort
                if overflowed || current.epoch == producer.epoch.wrapping_add(1) =>
            {
                Call::Again
            }
            _ if self.config.mutations.accept_fenced_producers => Call::Current,
            _ => return Err(ErrorCode::ProducerFenced),
        };
        match (current.state, call, commit) {
            (TransactionState::Ongoing, ..) => {}
            (TransactionState::CompleteCommit, Call::Again, true)
            | (TransactionState::CompleteAbort, Call::Again, false) => {
                return Ok(Some(Some(Producer { id: current.producer_id, epoch: current.epoch })));
            }
            // An abort of a transaction that has written nothing raises the epoch all the same: what is still under way
            // must not begin it later.
            (_, Call::Current, false) => {}
            (state, ..) => return Err(invalid(id, state, commit)),
        }
        let next = self.prepare_with_new_epoch(id, commit, now)?;
        let after = next.completed(now.wall_ms);
        let answer = Producer { id: after.producer_id, epoch: after.epoch };
        self.write(id, next, Some((token, TransactionResponse::Ended(Ok(Some(answer))))));
        Ok(None)
    }

    fn prepare_with_new_epoch(&mut self, id: &str, commit: bool, now: Now) -> Result<Transaction, ErrorCode> {
        let current = &self.entries.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?.current;
        let mut next = current.next(prepared(commit), now.wall_ms);
        if current.state.is_over() {
            next.start_ms = now.wall_ms;
        }
        next.last_epoch = current.epoch;
        // The highest epoch is used by nobody but the coordinator, and only once.
        next.epoch = current.epoch.saturating_add(1);
        next.client_version = EPOCH_PER_TRANSACTION;
        let exhausted = current.is_epoch_exhausted();
        next.next_producer_id = if exhausted { self.take_id()? } else { NO_ID };
        Ok(next)
    }

    /// Aborts an open transaction under an epoch that its producer does not have.
    pub(super) fn fence_and_abort(&mut self, id: &str, now: Now) -> Result<(), ErrorCode> {
        let next = match self.version >= EPOCH_PER_TRANSACTION {
            true => self.prepare_with_new_epoch(id, false, now)?,
            false => {
                let current = &self.entries.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?.current;
                let mut next = current.next(TransactionState::PrepareAbort, now.wall_ms);
                next.epoch = current.epoch.saturating_add(1);
                next.last_epoch = NO_EPOCH;
                next.next_producer_id = NO_ID;
                next.client_version = 0;
                next
            }
        };
        self.write(id, next, None);
        Ok(())
    }

    /// A transaction of a two-phase commit has no time-out (KIP-939): its timeout is the largest there is.
    pub(super) fn abort_timed_out(&mut self, now: Now) {
        let is_late = |e: &Entry| {
            let (start_ms, timeout_ms) = (e.current.start_ms, e.current.timeout_ms);
            !e.is_changing && timeout_ms != i32::MAX && start_ms.saturating_add(i64::from(timeout_ms)) < now.wall_ms
        };
        let late = self.ongoing.iter().filter(|id| self.entries.get(*id).is_some_and(is_late));
        for id in late.cloned().collect::<Vec<_>>() {
            match self.fence_and_abort(&id, now) {
                Ok(()) => tracing::info!(transactional_id = id, "transaction took longer than its timeout: aborted"),
                // Without a producer id at hand the next check will have one.
                Err(error) => tracing::debug!(transactional_id = id, error = error.name(), "not aborted"),
            }
        }
    }
}

fn prepared(commit: bool) -> TransactionState {
    if commit { TransactionState::PrepareCommit } else { TransactionState::PrepareAbort }
}

fn invalid(id: &str, state: TransactionState, commit: bool) -> ErrorCode {
    tracing::debug!(transactional_id = id, state = state.name(), commit, "a transaction in this state is not so ended");
    ErrorCode::InvalidTxnState
}
