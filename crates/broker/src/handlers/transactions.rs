//! Transactions as clients and operators ask for them: InitProducerId with a transactional id, partitions and offsets,
//! ends, descriptions.

use coordinator::transactions::{ListFilter, TopicPartition, TransactionState};
use coordinator::{OFFSETS_TOPIC, Producer};
use protocol::error::ErrorCode;
use protocol::messages::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use protocol::messages::*;
use protocol::time::Now;
use protocol::wire::DecodeError;

use crate::node::Node;
use crate::reply::ReplyTo;
use crate::request::Context;
use crate::transactions::{END_TELLS_PRODUCER_FROM, MANY_TRANSACTIONS_FROM, Waiting};

/// Transaction version 2, of clients that have their partitions added for them.
const WITH_OWN_EPOCHS: i16 = 2;

impl Node {
    pub(crate) fn init_transactional_producer(
        &mut self,
        reply: ReplyTo,
        request: &InitProducerIdRequest<'_>,
        now: Now,
    ) {
        let id = request.transactional_id.as_deref().unwrap_or_default();
        let expected = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let expected = (expected.id >= 0).then_some(expected);
        match self.transaction_call(id, Waiting::Init(reply)) {
            Ok((shard, token)) => shard.init(id, request.transaction_timeout_ms, expected, token, now),
            Err(code) => self.refuse_transaction_request(Waiting::Init(reply), code),
        }
        self.poll_producer_ids(now);
    }

    pub(crate) fn handle_add_partitions(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: AddPartitionsToTxnRequest<'_> = cx.decode(body)?;
        let transactions = match cx.reply.version < MANY_TRANSACTIONS_FROM {
            true => vec![AddPartitionsToTxnTransaction {
                transactional_id: request.v3_and_below_transactional_id,
                producer_id: request.v3_and_below_producer_id,
                producer_epoch: request.v3_and_below_producer_epoch,
                topics: request.v3_and_below_topics,
                ..Default::default()
            }],
            false => request.transactions,
        };
        let id = self.new_adding();
        let mut results = Vec::with_capacity(transactions.len());
        let mut calls = Vec::new();
        for (index, transaction) in transactions.iter().enumerate() {
            let mut result = result_of(transaction);
            if self.refuse_unknown_partitions(&mut result) {
                results.push(result);
                continue;
            }
            if transaction.verify_only {
                self.verify_partitions(transaction, &mut result);
            } else {
                calls.push((index, transaction));
            }
            results.push(result);
        }
        // The call answers at the end of the turn, never at once: the request is there by then.
        let left = calls.len();
        self.begin_adding(id, cx.reply, results, left);
        let version = if cx.reply.version < MANY_TRANSACTIONS_FROM { 0 } else { WITH_OWN_EPOCHS };
        for (index, transaction) in calls {
            let producer = Producer { id: transaction.producer_id, epoch: transaction.producer_epoch };
            let name = transaction.transactional_id.as_ref();
            match self.transaction_call(name, Waiting::Add { request: id, index }) {
                Ok((shard, token)) => {
                    shard.add_partitions(name, producer, partitions_of(&transaction.topics), version, token, now);
                }
                Err(code) => self.refuse_transaction_request(Waiting::Add { request: id, index }, code),
            }
        }
        Ok(())
    }

    /// One partition that does not exist fails all of its transaction; whether there was one.
    fn refuse_unknown_partitions(&self, result: &mut AddPartitionsToTxnResult<'_>) -> bool {
        let exists = |topic: &str, partition: i32| {
            self.image.topic(topic).is_some_and(|topic| topic.partitions.contains_key(&partition))
        };
        let mut is_refused = false;
        for topic in &mut result.topic_results {
            for p in &mut topic.results_by_partition {
                let known = exists(&topic.name, p.partition_index);
                is_refused |= !known;
                p.partition_error_code = match known {
                    true => ErrorCode::OperationNotAttempted.into(),
                    false => ErrorCode::UnknownTopicOrPartition.into(),
                };
            }
        }
        is_refused
    }

    fn verify_partitions(
        &mut self,
        transaction: &AddPartitionsToTxnTransaction<'_>,
        result: &mut AddPartitionsToTxnResult<'_>,
    ) {
        let producer = Producer { id: transaction.producer_id, epoch: transaction.producer_epoch };
        let id = transaction.transactional_id.as_ref();
        let partitions = partitions_of(&transaction.topics);
        let outcome = self.transaction_shard(id).and_then(|shard| shard.verify(id, producer, &partitions));
        let codes = outcome.unwrap_or_else(|code| vec![code; partitions.len()]);
        let places = result.topic_results.iter_mut().flat_map(|topic| &mut topic.results_by_partition);
        for (place, code) in places.zip(codes) {
            place.partition_error_code = code.into();
        }
    }

    pub(crate) fn handle_add_offsets(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: AddOffsetsToTxnRequest<'_> = cx.decode(body)?;
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let id = request.transactional_id.as_ref();
        // Without the topic there is no group yet, and no partition to add.
        let partition = self.group_partition(&request.group_id).map_err(|_| ErrorCode::CoordinatorNotAvailable);
        let call = match partition {
            Ok(partition) => self.transaction_call(id, Waiting::AddOffsets(cx.reply)).map(|call| (partition, call)),
            Err(code) => Err(code),
        };
        match call {
            Ok((partition, (shard, token))) => {
                let partitions = vec![(OFFSETS_TOPIC.to_owned(), partition)];
                // Clients of version 2 leave this to the group's coordinator.
                shard.add_partitions(id, producer, partitions, 0, token, now);
            }
            Err(code) => self.refuse_transaction_request(Waiting::AddOffsets(cx.reply), code),
        }
        Ok(())
    }

    pub(crate) fn handle_end_txn(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: EndTxnRequest<'_> = cx.decode(body)?;
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let id = request.transactional_id.as_ref();
        let version = if cx.reply.version < END_TELLS_PRODUCER_FROM { 0 } else { WITH_OWN_EPOCHS };
        match self.transaction_call(id, Waiting::End(cx.reply)) {
            Ok((shard, token)) => shard.end(id, producer, request.committed, version, token, now),
            Err(code) => self.refuse_transaction_request(Waiting::End(cx.reply), code),
        }
        self.poll_producer_ids(now);
        Ok(())
    }

    pub(crate) fn handle_describe_transactions(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: DescribeTransactionsRequest<'_> = cx.decode(body)?;
        let describe = |id: &protocol::wire::Str<'_>| {
            let refused = |code: ErrorCode| describe_transactions_response::TransactionState {
                transactional_id: id.clone().into_owned().into(),
                error_code: code.into(),
                ..Default::default()
            };
            match self.transaction_shard(id) {
                _ if id.is_empty() => refused(ErrorCode::InvalidRequest),
                Ok(shard) => shard.describe(id),
                Err(code) => refused(code),
            }
        };
        let transaction_states = request.transactional_ids.iter().map(describe).collect();
        self.respond(cx.reply, &DescribeTransactionsResponse { transaction_states, ..Default::default() });
        Ok(())
    }

    pub(crate) fn handle_list_transactions(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: ListTransactionsRequest<'_> = cx.decode(body)?;
        let refused = |code: ErrorCode| ListTransactionsResponse { error_code: code.into(), ..Default::default() };
        let pattern = request.transactional_id_pattern.as_deref().filter(|pattern| !pattern.is_empty());
        let pattern = match pattern.map(|pattern| regex_lite::Regex::new(&format!("^(?:{pattern})$"))).transpose() {
            Ok(pattern) => pattern,
            Err(_) => {
                self.respond(cx.reply, &refused(ErrorCode::InvalidRegularExpression));
                return Ok(());
            }
        };
        let is_known = |name: &&protocol::wire::Str<'_>| TransactionState::NAMES.contains(&name.as_ref());
        let (known, unknown): (Vec<_>, Vec<_>) = request.state_filters.iter().partition(is_known);
        let states: Vec<TransactionState> = known.iter().filter_map(|name| TransactionState::from_name(name)).collect();
        let filter = ListFilter {
            producer_ids: &request.producer_id_filters,
            states: if request.state_filters.is_empty() { None } else { Some(&states) },
            longer_than_ms: request.duration_filter,
            matches_id: &|id| pattern.as_ref().is_none_or(|pattern| pattern.is_match(id)),
        };
        let response = match self.transactions.runtime.all_serving() {
            Err(code) => refused(code),
            Ok(shards) => ListTransactionsResponse {
                unknown_state_filters: unknown.iter().map(|name| (*name).clone().into_owned().into()).collect(),
                transaction_states: shards.into_iter().flat_map(|shard| shard.list(&filter, now)).collect(),
                ..Default::default()
            },
        };
        self.respond(cx.reply, &response);
        Ok(())
    }

    pub(crate) fn handle_describe_producers(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: DescribeProducersRequest<'_> = cx.decode(body)?;
        let describe = |topic: &str, partition: i32| {
            let key = self.topic_key(topic, partition);
            let log = key.and_then(|key| self.replicas.get(key)).map(|p| p.log());
            let code = match (key, log) {
                (None, _) => ErrorCode::UnknownTopicOrPartition,
                (Some(key), None) => self.missing(key, false),
                (Some(_), Some(_)) => ErrorCode::None,
            };
            let entries = log.into_iter().flat_map(|log| log.producers().entries());
            let active_producers = entries.map(|(id, entry)| ProducerState {
                producer_id: *id,
                producer_epoch: i32::from(entry.epoch),
                last_sequence: entry.last_sequence(),
                last_timestamp: entry.last_timestamp,
                coordinator_epoch: entry.coordinator_epoch,
                current_txn_start_offset: entry.current_txn_first_offset.unwrap_or(-1),
                ..Default::default()
            });
            PartitionResponse {
                partition_index: partition,
                error_code: code.into(),
                active_producers: active_producers.collect(),
                ..Default::default()
            }
        };
        let topics = request.topics.iter().map(|topic| TopicResponse {
            name: topic.name.clone().into_owned().into(),
            partitions: topic.partition_indexes.iter().map(|p| describe(&topic.name, *p)).collect(),
            ..Default::default()
        });
        let response = DescribeProducersResponse { topics: topics.collect(), ..Default::default() };
        self.respond(cx.reply, &response);
        Ok(())
    }
}

fn partitions_of(topics: &[AddPartitionsToTxnTopic<'_>]) -> Vec<TopicPartition> {
    let of_topic = |topic: &AddPartitionsToTxnTopic<'_>| {
        let name = topic.name.clone().into_owned();
        topic.partitions.iter().map(move |partition| (name.clone(), *partition)).collect::<Vec<_>>()
    };
    topics.iter().flat_map(of_topic).collect()
}

/// An answer with a place for each of the transaction's partitions.
fn result_of(transaction: &AddPartitionsToTxnTransaction<'_>) -> AddPartitionsToTxnResult<'static> {
    let topics = transaction.topics.iter().map(|topic| AddPartitionsToTxnTopicResult {
        name: topic.name.clone().into_owned().into(),
        results_by_partition: topic
            .partitions
            .iter()
            .map(|p| AddPartitionsToTxnPartitionResult { partition_index: *p, ..Default::default() })
            .collect(),
        ..Default::default()
    });
    AddPartitionsToTxnResult {
        transactional_id: transaction.transactional_id.clone().into_owned().into(),
        topic_results: topics.collect(),
        ..Default::default()
    }
}
