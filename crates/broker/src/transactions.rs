//! The transaction coordinator of this broker: requests, their shards in the runtime, and the answers' way back. What
//! coordinators and partition leaders ask each other is in `verifying` and `markers`.

use std::collections::BTreeMap;

use coordinator::Token;
use coordinator::partition_of;
use coordinator::transactions::{
    TRANSACTIONS_TOPIC, TransactionConfig, TransactionMutations, TransactionResponse, TransactionShard,
};
use metadata::config::NodeConfig;
use protocol::api::ApiKey;
use protocol::codec::Message;
use protocol::error::ErrorCode;
use protocol::header::encode_request;
use protocol::messages::add_partitions_to_txn_response::AddPartitionsToTxnResult;
use protocol::messages::{AddOffsetsToTxnResponse, AddPartitionsToTxnResponse, EndTxnResponse, InitProducerIdResponse};
use protocol::time::Now;

use crate::links::{Failure, Peer, Purpose};
use crate::markers::{MarkerQueue, SentMarkers};
use crate::node::{Node, Pending};
use crate::reply::{Destination, LocalId, ReplyTo};
use crate::runtime::{Outcome, Runtime};
use crate::verifying::Verifying;

const NO_ID: i64 = -1;
const NO_EPOCH: i16 = -1;
/// The feature whose level says how transactions are kept and ended.
const FEATURE: &str = "transaction.version";

/// A request to the coordinator that waits for its answer.
pub(crate) enum Waiting {
    Init(ReplyTo),
    AddOffsets(ReplyTo),
    End(ReplyTo),
    /// One transaction of an AddPartitionsToTxn.
    Add {
        request: u64,
        index: usize,
    },
}

/// An AddPartitionsToTxn that waits for some of its transactions.
struct Adding {
    reply: ReplyTo,
    results: Vec<AddPartitionsToTxnResult<'static>>,
    left: usize,
}

/// What one broker asks another one for a transaction's sake.
pub(crate) enum TransactionOp {
    /// A partition's leader asks the coordinator.
    Verify(u64),
    /// The coordinator tells the partitions' leader.
    Markers(Vec<SentMarkers>),
}

/// Invariant: an addition under way waits for as many transactions as it has `left`.
pub(crate) struct Transactions {
    config: TransactionConfig,
    pub runtime: Runtime<TransactionShard, Waiting>,
    version: i16,
    add_next: u64,
    adds: BTreeMap<u64, Adding>,
    pub markers: MarkerQueue,
    pub verifying: Verifying,
    /// What this broker asked itself.
    local: BTreeMap<LocalId, (TransactionOp, ApiKey, i16)>,
}

impl Transactions {
    pub fn new(config: &NodeConfig, mutations: TransactionMutations) -> Self {
        let config = TransactionConfig {
            timeout_max_ms: config.transaction_max_timeout_ms,
            abort_check_ms: config.transaction_abort_timed_out_transaction_cleanup_interval_ms,
            expiration_ms: config.transactional_id_expiration_ms,
            expiration_check_ms: config.transaction_remove_expired_transaction_cleanup_interval_ms,
            mutations,
        };
        Self {
            config,
            runtime: Runtime::new(),
            version: 0,
            add_next: 0,
            adds: BTreeMap::new(),
            markers: MarkerQueue::default(),
            verifying: Verifying::default(),
            local: BTreeMap::new(),
        }
    }

    pub fn next_deadline(&self) -> i64 {
        self.runtime.next_deadline().min(self.markers.next_deadline()).min(self.verifying.next_deadline())
    }
}

impl Node {
    /// The partition that holds a transactional id.
    pub(crate) fn transaction_partition(&self, id: &str) -> Result<i32, ErrorCode> {
        let topic = self.image.topic(TRANSACTIONS_TOPIC).ok_or(ErrorCode::NotCoordinator)?;
        Ok(partition_of(id, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)))
    }

    /// A shard, with a producer id at hand if there is one, and a token for a request whose answer comes through
    /// [`Node::drive_transactions`].
    pub(crate) fn transaction_call(
        &mut self,
        id: &str,
        waiting: Waiting,
    ) -> Result<(&mut TransactionShard, Token), ErrorCode> {
        let partition = self.transaction_partition(id)?;
        let (shard, token) = self.transactions.runtime.call(partition, waiting).map_err(|(_, code)| code)?;
        if shard.wants_id() {
            if let Some(id) = self.producer_ids.take() {
                shard.supply_id(id);
            }
        }
        Ok((shard, token))
    }

    pub(crate) fn transaction_shard(&mut self, id: &str) -> Result<&mut TransactionShard, ErrorCode> {
        let partition = self.transaction_partition(id)?;
        self.transactions.runtime.serving(partition)
    }

    /// Loads, writes, commits, answers, and talks to other brokers; whether there was anything.
    pub(crate) fn drive_transactions(&mut self, now: Now) -> bool {
        let version = self.image.features.get(FEATURE).copied().unwrap_or(0);
        if version != self.transactions.version {
            self.transactions.version = version;
            self.transactions.runtime.shards_mut().for_each(|shard| shard.set_version(version));
        }
        let topic = self.image.topic_ids.get(TRANSACTIONS_TOPIC).copied();
        let config = self.transactions.config;
        let mut make = |epoch: i32| TransactionShard::new(config, epoch, version, now);
        let driven = self.transactions.runtime.drive(topic, &mut self.replicas, &mut make, &(), now);
        self.answer_transactions();
        for (partition, shard) in self.transactions.runtime.take_driven() {
            for markers in shard.take_markers() {
                self.transactions.markers.add(partition, markers);
            }
        }
        let busy = driven.unwrap_or_else(|message| {
            self.fail(message);
            false
        });
        self.retry_questions(now);
        self.send_markers(now) || busy
    }

    pub(crate) fn drop_all_transactions(&mut self) {
        self.transactions.runtime.drop_all();
        self.answer_transactions();
    }

    fn answer_transactions(&mut self) {
        for outcome in self.transactions.runtime.take_outcomes() {
            match outcome {
                Outcome::Answered(waiting, response) => self.on_transaction_response(waiting, response),
                Outcome::Refused(waiting, code) => self.refuse_transaction_request(waiting, code),
            }
        }
    }

    fn on_transaction_response(&mut self, waiting: Waiting, response: TransactionResponse) {
        match (waiting, response) {
            (Waiting::Init(reply), TransactionResponse::Init(Ok(producer))) => {
                let response = InitProducerIdResponse {
                    producer_id: producer.id,
                    producer_epoch: producer.epoch,
                    ..Default::default()
                };
                self.respond(reply, &response);
            }
            (Waiting::End(reply), TransactionResponse::Ended(Ok(next))) => {
                let next = next.filter(|_| reply.version >= END_TELLS_PRODUCER_FROM);
                let response = EndTxnResponse {
                    producer_id: next.map_or(NO_ID, |p| p.id),
                    producer_epoch: next.map_or(NO_EPOCH, |p| p.epoch),
                    ..Default::default()
                };
                self.respond(reply, &response);
            }
            (waiting, TransactionResponse::Init(Err(code)) | TransactionResponse::Ended(Err(code)))
            | (waiting, TransactionResponse::Added(code)) => self.refuse_transaction_request(waiting, code),
            (_, response) => unreachable!("{response:?} to another request"),
        }
    }

    /// An error (or none) in the shape of the request's answer.
    pub(crate) fn refuse_transaction_request(&mut self, waiting: Waiting, code: ErrorCode) {
        let told = |reply: ReplyTo, knows_fenced_from: i16| match code {
            ErrorCode::ProducerFenced if reply.version < knows_fenced_from => ErrorCode::InvalidProducerEpoch.into(),
            code => i16::from(code),
        };
        match waiting {
            Waiting::Init(reply) => {
                let response = InitProducerIdResponse {
                    error_code: told(reply, 4),
                    producer_id: NO_ID,
                    producer_epoch: NO_EPOCH,
                    ..Default::default()
                };
                self.respond(reply, &response);
            }
            Waiting::AddOffsets(reply) => {
                self.respond(reply, &AddOffsetsToTxnResponse { error_code: told(reply, 2), ..Default::default() });
            }
            Waiting::End(reply) => {
                let response = EndTxnResponse {
                    error_code: told(reply, 2),
                    producer_id: NO_ID,
                    producer_epoch: NO_EPOCH,
                    ..Default::default()
                };
                self.respond(reply, &response);
            }
            Waiting::Add { request, index } => self.on_partitions_added(request, index, code),
        }
    }

    /// Puts an AddPartitionsToTxn together; `results` have their errors where they are known, `left` are not.
    pub(crate) fn begin_adding(
        &mut self,
        request: u64,
        reply: ReplyTo,
        results: Vec<AddPartitionsToTxnResult<'static>>,
        left: usize,
    ) {
        self.transactions.adds.insert(request, Adding { reply, results, left });
        if left == 0 {
            self.finish_adding(request);
        }
    }

    pub(crate) fn new_adding(&mut self) -> u64 {
        self.transactions.add_next += 1;
        self.transactions.add_next
    }

    fn on_partitions_added(&mut self, request: u64, index: usize, code: ErrorCode) {
        let Some(adding) = self.transactions.adds.get_mut(&request) else { return };
        let told = match code {
            ErrorCode::ProducerFenced if adding.reply.version < 2 => ErrorCode::InvalidProducerEpoch,
            code => code,
        };
        if let Some(result) = adding.results.get_mut(index) {
            for partition in result.topic_results.iter_mut().flat_map(|topic| &mut topic.results_by_partition) {
                partition.partition_error_code = told.into();
            }
        }
        adding.left -= 1;
        if adding.left == 0 {
            self.finish_adding(request);
        }
    }

    fn finish_adding(&mut self, request: u64) {
        let Some(Adding { reply, mut results, .. }) = self.transactions.adds.remove(&request) else { return };
        let response = match reply.version < MANY_TRANSACTIONS_FROM {
            true => AddPartitionsToTxnResponse {
                results_by_topic_v3_and_below: results.pop().map(|r| r.topic_results).unwrap_or_default(),
                ..Default::default()
            },
            false => AddPartitionsToTxnResponse { results_by_transaction: results, ..Default::default() },
        };
        self.respond(reply, &response);
    }

    /// Creates `__transaction_state` when the first transactional producer asks for its coordinator.
    pub(crate) fn create_transactions_topic(&mut self, now: Now) {
        let (partitions, factor) =
            (self.config.transaction_state_log_num_partitions, self.config.transaction_state_log_replication_factor);
        let configs = [
            ("unclean.leader.election.enable", "false".to_owned()),
            ("compression.type", "uncompressed".to_owned()),
            ("cleanup.policy", "compact".to_owned()),
            ("min.insync.replicas", self.config.transaction_state_log_min_isr.to_string()),
            ("segment.bytes", self.config.transaction_state_log_segment_bytes.to_string()),
        ];
        self.create_internal_topic(TRANSACTIONS_TOPIC, partitions, factor, &configs, now);
    }

    // Between brokers.

    /// Asks another broker, which may be this one. The end comes back through `on_transaction_answer` or
    /// `on_transaction_failure`, perhaps at once.
    pub(crate) fn ask_broker<M>(
        &mut self,
        broker: i32,
        op: TransactionOp,
        (key, message): (ApiKey, M),
        versions: (i16, i16),
        now: Now,
    ) where
        M: Message + Send + 'static,
    {
        if broker == self.config.node_id {
            let id = self.control.new_local_id();
            self.transactions.local.insert(id, (op, key, versions.1));
            let mut frame = encode_request(key, versions.1, 0, None, &message).expect("it fits its newest version");
            let request = frame.get_mut(4..).expect("a frame begins with its length");
            if let Err(error) = self.local_frame(Destination::Local(id), request, now) {
                unreachable!("this node cannot read its own {}: {error}", key.name());
            }
            return;
        }
        let registration = self.image.brokers.get(&broker);
        let Some(endpoint) = registration.and_then(|b| b.endpoint(&self.config.inter_broker_listener_name)) else {
            return self.on_transaction_failure(op, Failure::Disconnected, now);
        };
        let peer = Peer { purpose: Purpose::Transactions, host: endpoint.host.clone(), port: endpoint.port };
        let pending = (Pending::Transaction(op), self.config.request_timeout_ms);
        self.links.request(&peer, (key, message), versions, pending, now, &mut self.effects);
    }

    /// An answer that this broker gave itself; false if it is somebody else's.
    pub(crate) fn on_local_transaction_answer(&mut self, id: LocalId) -> Option<(TransactionOp, ApiKey, i16)> {
        self.transactions.local.remove(&id)
    }

    pub(crate) fn on_transaction_answer(&mut self, op: TransactionOp, version: i16, body: &[u8], now: Now) {
        match op {
            TransactionOp::Verify(question) => self.on_verification_answer(question, version, body, now),
            TransactionOp::Markers(sent) => self.on_markers_answer(sent, version, body, now),
        }
    }

    pub(crate) fn on_transaction_failure(&mut self, op: TransactionOp, failure: Failure, now: Now) {
        match op {
            TransactionOp::Verify(question) => self.on_verification_failure(question, failure, now),
            TransactionOp::Markers(sent) => self.on_markers_failure(sent, failure, now),
        }
    }
}

/// From here on other brokers ask for many transactions at a time; clients do not.
pub(crate) const MANY_TRANSACTIONS_FROM: i16 = 4;
/// From here on the end of a transaction brings a new epoch (transaction version 2).
pub(crate) const END_TELLS_PRODUCER_FROM: i16 = 5;
