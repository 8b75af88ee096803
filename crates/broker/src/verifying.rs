//! Before a transaction writes to a partition for the first time the partition's leader asks the coordinator (KIP-890):
//! whether the partition is part of the transaction, or, where clients leave it to the leader (transaction version 2), to
//! make it part of it. The request that wants to write waits meanwhile, and so do produce requests behind it on the same
//! connection: a producer's batches must not overtake each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use coordinator::Producer;
use coordinator::transactions::TopicPartition;
use protocol::api::ApiKey;
use protocol::codec::decode_all;
use protocol::error::ErrorCode;
use protocol::messages::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};
use protocol::time::Now;
use replication::PartitionKey;
use storage::{Guard, Verification};

use crate::effect::ConnId;
use crate::links::Failure;
use crate::node::Node;
use crate::request::Context;
use crate::transactions::TransactionOp;

/// What a client's request knows of transactions, by its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Speech {
    /// Partitions are added by their leaders, and each transaction has its own epoch.
    pub adds: bool,
    /// The client understands TRANSACTION_ABORTABLE.
    pub knows_abortable: bool,
}

/// Who asks, and goes on with the answer.
pub(crate) enum Asker {
    Produce(ConnId),
    Offsets { cx: Box<Context>, body: Vec<u8>, guard: Guard },
}

pub(crate) struct Question {
    pub transactional_id: String,
    pub producer: Producer,
    pub speech: Speech,
    pub partitions: Vec<TopicPartition>,
    pub asker: Asker,
    /// Until then a transaction whose predecessor is just ending is asked about again.
    pub give_up_ms: i64,
}

/// A produce request as it came.
pub(crate) struct HeldFrame {
    pub cx: Context,
    pub frame: Vec<u8>,
    pub body_at: usize,
}

/// What is known of the partitions that a produce request writes to in a transaction. Who is not named here has its
/// transaction open in the log, or none.
#[derive(Default)]
pub(crate) struct Verified {
    pub is_off: bool,
    pub partitions: BTreeMap<PartitionKey, Result<Guard, ErrorCode>>,
}

impl Verified {
    pub fn shown(&self, key: PartitionKey) -> Verification {
        match self.partitions.get(&key) {
            _ if self.is_off => Verification::Off,
            Some(Ok(guard)) => Verification::Asked(*guard),
            _ => Verification::Open,
        }
    }
}

/// A connection whose first produce request waits for the coordinator.
pub(crate) struct HeldProduce {
    pub first: HeldFrame,
    pub verified: Verified,
    pub keys: Vec<PartitionKey>,
    /// At most as many as a connection may have in flight.
    pub behind: VecDeque<HeldFrame>,
}

/// Invariant: each connection in `produces` has one question.
#[derive(Default)]
pub(crate) struct Verifying {
    next: u64,
    questions: BTreeMap<u64, Question>,
    retries: BTreeSet<(i64, u64)>,
    pub produces: BTreeMap<ConnId, HeldProduce>,
}

impl Verifying {
    pub fn next_deadline(&self) -> i64 {
        self.retries.first().map_or(i64::MAX, |(at, _)| *at)
    }

    pub fn forget_connection(&mut self, conn: ConnId) {
        self.produces.remove(&conn);
    }
}

impl Node {
    pub(crate) fn ask_coordinator(&mut self, question: Question, now: Now) {
        let id = self.transactions.verifying.next;
        self.transactions.verifying.next += 1;
        self.transactions.verifying.questions.insert(id, question);
        self.send_question(id, now);
    }

    pub(crate) fn retry_questions(&mut self, now: Now) {
        while let Some((at, id)) = self.transactions.verifying.retries.first().copied() {
            if at > now.mono_ms {
                return;
            }
            self.transactions.verifying.retries.remove(&(at, id));
            self.send_question(id, now);
        }
    }

    fn send_question(&mut self, id: u64, now: Now) {
        let Some(question) = self.transactions.verifying.questions.get(&id) else { return };
        let topic = self.image.topic(coordinator::transactions::TRANSACTIONS_TOPIC);
        let partition = self.transaction_partition(&question.transactional_id).ok();
        let state = topic.zip(partition).and_then(|(topic, partition)| topic.partitions.get(&partition));
        let Some(leader) = state.filter(|state| state.has_leader()).map(|state| state.leader) else {
            return self.fail_question(id, ErrorCode::CoordinatorNotAvailable, now);
        };
        let mut topics: Vec<AddPartitionsToTxnTopic<'static>> = Vec::new();
        for (topic, partition) in &question.partitions {
            match topics.iter_mut().find(|t| t.name == topic.as_str()) {
                Some(known) => known.partitions.push(*partition),
                None => topics.push(AddPartitionsToTxnTopic {
                    name: topic.clone().into(),
                    partitions: vec![*partition],
                    ..Default::default()
                }),
            }
        }
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: question.transactional_id.clone().into(),
            producer_id: question.producer.id,
            producer_epoch: question.producer.epoch,
            verify_only: !question.speech.adds,
            topics,
            ..Default::default()
        };
        let request = AddPartitionsToTxnRequest { transactions: vec![transaction], ..Default::default() };
        self.ask_broker(leader, TransactionOp::Verify(id), (ApiKey::AddPartitionsToTxn, request), (4, 5), now);
    }

    pub(crate) fn on_verification_answer(&mut self, id: u64, version: i16, body: &[u8], now: Now) {
        let response: AddPartitionsToTxnResponse<'_> = match decode_all(body, version) {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "an answer to AddPartitionsToTxn cannot be read");
                return self.fail_question(id, ErrorCode::NetworkException, now);
            }
        };
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {}
            ErrorCode::ClusterAuthorizationFailed => return self.fail_question(id, ErrorCode::InvalidTxnState, now),
            code => return self.fail_question(id, code, now),
        }
        let Some(question) = self.transactions.verifying.questions.get(&id) else { return };
        let mut errors = BTreeMap::new();
        for topic in response.results_by_transaction.iter().flat_map(|result| &result.topic_results) {
            for p in &topic.results_by_partition {
                let code = match ErrorCode::from_i16(p.partition_error_code) {
                    ErrorCode::None => continue,
                    ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
                    ErrorCode::TransactionAbortable if !question.speech.knows_abortable => ErrorCode::InvalidTxnState,
                    code => code,
                };
                errors.insert((topic.name.clone().into_owned(), p.partition_index), code);
            }
        }
        self.finish_question(id, errors, now);
    }

    pub(crate) fn on_verification_failure(&mut self, id: u64, failure: Failure, now: Now) {
        match failure {
            // An old broker cannot be asked; the write goes on as it did before KIP-890.
            Failure::UnsupportedVersion => self.finish_question(id, BTreeMap::new(), now),
            _ => self.fail_question(id, ErrorCode::NetworkException, now),
        }
    }

    fn fail_question(&mut self, id: u64, code: ErrorCode, now: Now) {
        let Some(question) = self.transactions.verifying.questions.get(&id) else { return };
        let errors = question.partitions.iter().map(|partition| (partition.clone(), code)).collect();
        self.finish_question(id, errors, now);
    }

    fn finish_question(&mut self, id: u64, errors: BTreeMap<TopicPartition, ErrorCode>, now: Now) {
        let Some(question) = self.transactions.verifying.questions.get(&id) else { return };
        let is_ending = errors.values().any(|code| *code == ErrorCode::ConcurrentTransactions);
        if question.speech.adds && is_ending && now.mono_ms < question.give_up_ms {
            // The client would wait longer than the end of the transaction before takes.
            let at = now.mono_ms + self.config.add_partitions_to_txn_retry_backoff_ms;
            self.transactions.verifying.retries.insert((at, id));
            return;
        }
        let Some(question) = self.transactions.verifying.questions.remove(&id) else { return };
        match question.asker {
            Asker::Produce(conn) => self.resume_produces(conn, &question.partitions, &errors, question.speech, now),
            Asker::Offsets { cx, body, guard } => {
                let code = errors.into_values().next();
                self.resume_txn_offset_commit(&cx, &body, code.map_or(Ok(guard), Err), now);
            }
        }
    }

    /// The coordinator has answered: the request is carried out, and what came behind it is looked at.
    fn resume_produces(
        &mut self,
        conn: ConnId,
        asked: &[TopicPartition],
        errors: &BTreeMap<TopicPartition, ErrorCode>,
        speech: Speech,
        now: Now,
    ) {
        let Some(mut held) = self.transactions.verifying.produces.remove(&conn) else { return };
        for (key, partition) in held.keys.iter().zip(asked) {
            if let Some(code) = errors.get(partition) {
                held.verified.partitions.insert(*key, Err(as_produce_error(*code, speech)));
            }
        }
        let mut frame = held.first.frame;
        let result = self.produce(&held.first.cx, &mut frame, held.first.body_at, Some(held.verified), now);
        if let Err(error) = result {
            return self.close_connection(conn, format!("Produce request: {error}"));
        }
        for mut next in held.behind {
            if let Err(error) = self.handle_produce(&next.cx, &mut next.frame, next.body_at, now) {
                return self.close_connection(conn, format!("Produce request: {error}"));
            }
        }
    }
}

/// Errors of a coordinator that producers would not take for passing ones become one that they do.
fn as_produce_error(code: ErrorCode, speech: Speech) -> ErrorCode {
    match code {
        ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotEnoughReplicas,
        ErrorCode::ConcurrentTransactions if !speech.adds => ErrorCode::NotEnoughReplicas,
        code => code,
    }
}
