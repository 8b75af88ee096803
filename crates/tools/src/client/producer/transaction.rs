//! Transactions of the producer (KIP-98): what is sent between `begin_transaction` and `commit_transaction` is read by
//! all or by none of those who read committed records only.
//!
//! The partitions of a transaction are announced before the first record goes to them, as all brokers understand it;
//! the shorter way of KIP-890 is for those who write a lot.

use std::time::Duration;

use protocol::error::ErrorCode;
use protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use protocol::messages::{AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest};

use super::Producer;
use crate::client::ClientError;
use crate::client::groups::CoordinatorKind;

/// What the producer knows of its transaction.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Between begin and end.
    pub open: bool,
    /// The partitions that the coordinator knows of.
    pub partitions: Vec<(String, i32)>,
    /// Why it can only be aborted.
    pub error: Option<ClientError>,
}

fn transactional_id(producer: &Producer) -> Result<String, ClientError> {
    let id = producer.config.transactional_id.clone();
    id.ok_or_else(|| ClientError::Bootstrap("the producer has no transactional.id".to_owned()))
}

impl Producer {
    /// Takes the transactional id over: an earlier producer of that name is fenced, and its transaction aborted.
    pub fn init_transactions(&mut self) -> Result<(), ClientError> {
        let id = transactional_id(self)?;
        let timeout_ms = i32::try_from(self.config.transaction_timeout.as_millis()).unwrap_or(i32::MAX);
        let build = |_: i16| InitProducerIdRequest {
            transactional_id: Some(id.as_str().into()),
            transaction_timeout_ms: timeout_ms,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let (answer, _) =
            self.client.coordinator_call("initProducerId", CoordinatorKind::Transaction, &id, build, |response| {
                ErrorCode::from_i16(response.error_code)
            })?;
        let response = answer.get()?;
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {}
            code => return Err(ClientError::server(code, None)),
        }
        self.identity = Some((response.producer_id, response.producer_epoch));
        self.sequences.clear();
        self.transaction = Transaction::default();
        Ok(())
    }

    pub fn begin_transaction(&mut self) {
        self.transaction = Transaction { open: true, ..Default::default() };
    }

    pub fn commit_transaction(&mut self) -> Result<(), ClientError> {
        self.flush();
        match self.transaction.error.take() {
            Some(error) => Err(error),
            None => self.end_transaction(true),
        }
    }

    pub fn abort_transaction(&mut self) -> Result<(), ClientError> {
        self.flush();
        self.end_transaction(false)
    }

    fn end_transaction(&mut self, committed: bool) -> Result<(), ClientError> {
        let transaction = std::mem::take(&mut self.transaction);
        // A transaction without records is none.
        if transaction.partitions.is_empty() {
            return Ok(());
        }
        let id = transactional_id(self)?;
        let (producer_id, producer_epoch) = self.identity.ok_or_else(not_initialized)?;
        let build = |_: i16| EndTxnRequest {
            transactional_id: id.as_str().into(),
            producer_id,
            producer_epoch,
            committed,
            ..Default::default()
        };
        let (answer, _) =
            self.client.coordinator_call("endTxn", CoordinatorKind::Transaction, &id, build, |response| {
                ErrorCode::from_i16(response.error_code)
            })?;
        match ErrorCode::from_i16(answer.get()?.error_code) {
            ErrorCode::None => Ok(()),
            code => Err(ClientError::server(code, None)),
        }
    }

    /// Tells the coordinator of a partition before the transaction's first record goes there.
    pub(super) fn announce(&mut self, topic: &str, partition: i32) -> Result<(), ClientError> {
        if self.config.transactional_id.is_none() {
            return Ok(());
        }
        if !self.transaction.open {
            let text = "Cannot send a record outside of a transaction: begin one first".to_owned();
            return Err(ClientError::Bootstrap(text));
        }
        if self.transaction.partitions.iter().any(|(known, id)| known == topic && *id == partition) {
            return Ok(());
        }
        let id = transactional_id(self)?;
        let (producer_id, producer_epoch) = self.identity.ok_or_else(not_initialized)?;
        let build = |_: i16| AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: id.as_str().into(),
            v3_and_below_producer_id: producer_id,
            v3_and_below_producer_epoch: producer_epoch,
            v3_and_below_topics: vec![AddPartitionsToTxnTopic {
                name: topic.into(),
                partitions: vec![partition],
                ..Default::default()
            }],
            ..Default::default()
        };
        let (answer, _) = self.client.coordinator_call(
            "addPartitionsToTxn",
            CoordinatorKind::Transaction,
            &id,
            build,
            |response| {
                let topics = response.results_by_topic_v3_and_below.iter();
                let codes = topics.flat_map(|topic| topic.results_by_partition.iter().map(|p| p.partition_error_code));
                codes.map(ErrorCode::from_i16).find(|code| *code != ErrorCode::None).unwrap_or(ErrorCode::None)
            },
        )?;
        let response = answer.get()?;
        let topics = response.results_by_topic_v3_and_below.iter();
        for result in topics.flat_map(|topic| &topic.results_by_partition) {
            match ErrorCode::from_i16(result.partition_error_code) {
                ErrorCode::None => {}
                code => return Err(ClientError::server(code, None)),
            }
        }
        self.transaction.partitions.push((topic.to_owned(), partition));
        Ok(())
    }

    /// Lets the transaction go on for so long, taking answers in meanwhile.
    pub fn poll_for(&mut self, time: Duration) {
        let end = std::time::Instant::now() + time;
        while let Some(left) = end.checked_duration_since(std::time::Instant::now()).filter(|left| !left.is_zero()) {
            self.poll(left);
        }
    }
}

fn not_initialized() -> ClientError {
    ClientError::Bootstrap("transactions are not initialized".to_owned())
}
