//! AddPartitionsToTxn, AddOffsetsToTxn: partitions that a transaction writes to, before it does; and the question of a
//! partition's leader whether it is so (KIP-890).

use protocol::error::ErrorCode;
use protocol::time::Now;

use super::{TopicPartition, TransactionResponse, TransactionShard, TransactionState};
use crate::machine::{Producer, Token};

impl TransactionShard {
    /// `client_version` is the transaction version that the producer speaks.
    pub fn add_partitions(
        &mut self,
        id: &str,
        producer: Producer,
        partitions: Vec<TopicPartition>,
        client_version: i16,
        token: Token,
        now: Now,
    ) {
        let code = match self.try_add(id, producer, partitions, client_version, token, now) {
            Ok(true) => return,
            Ok(false) => ErrorCode::None,
            Err(code) => code,
        };
        self.respond(token, TransactionResponse::Added(code));
    }

    /// Whether something had to be written.
    fn try_add(
        &mut self,
        id: &str,
        producer: Producer,
        partitions: Vec<TopicPartition>,
        client_version: i16,
        token: Token,
        now: Now,
    ) -> Result<bool, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let entry = self.entries.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        // First: with the change under way the producer may get the id that it already speaks as.
        if entry.is_busy() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let current = &entry.current;
        self.check_producer(id, producer)?;
        if current.state == TransactionState::Ongoing && partitions.iter().all(|p| current.partitions.contains(p)) {
            return Ok(false);
        }
        let mut next = current.next(TransactionState::Ongoing, now.wall_ms);
        if current.state.is_over() {
            next.start_ms = now.wall_ms;
        }
        next.client_version = client_version;
        next.partitions.extend(partitions);
        self.write(id, next, Some((token, TransactionResponse::Added(ErrorCode::None))));
        Ok(true)
    }

    /// Whether a producer's transaction has these partitions. Nothing is changed.
    pub fn verify(
        &self,
        id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let entry = self.entries.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        self.check_producer(id, producer)?;
        if entry.current.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let has = |p: &TopicPartition| match entry.current.partitions.contains(p) {
            true => ErrorCode::None,
            false => ErrorCode::TransactionAbortable,
        };
        Ok(partitions.iter().map(has).collect())
    }

    fn check_producer(&self, id: &str, producer: Producer) -> Result<(), ErrorCode> {
        let current = &self.entries.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?.current;
        if producer.id != current.producer_id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if producer.epoch != current.epoch && !self.config.mutations.accept_fenced_producers {
            return Err(ErrorCode::ProducerFenced);
        }
        Ok(())
    }
}
