//! What the tools ask of transactions: coordinators about transactional ids, leaders about producers.

use std::collections::BTreeMap;
use std::time::Instant;

use protocol::error::ErrorCode;
use protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use protocol::messages::*;

use super::consumer::TopicPartition;
use super::groups::CoordinatorKind;
use super::metadata::Topics;
use super::{Client, ClientError, Target};

/// With what a producer is fenced that shall end: Kafka's admin client takes its own timeout for it.
const FENCING_TIMEOUT_MS: i32 = 60_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionListing {
    pub transactional_id: String,
    pub coordinator: i32,
    pub producer_id: i64,
    pub state: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionDescription {
    pub coordinator: i32,
    pub state: String,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub timeout_ms: i32,
    pub start_ms: Option<i64>,
    pub partitions: Vec<TopicPartition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    pub producer_id: i64,
    pub producer_epoch: i32,
    pub last_sequence: i32,
    pub last_timestamp: i64,
    pub coordinator_epoch: Option<i32>,
    pub transaction_start: Option<i64>,
}

/// Which transactions to list; the default is all.
#[derive(Clone, Debug)]
pub struct TransactionFilter {
    pub producer_ids: Vec<i64>,
    pub duration_ms: i64,
    pub pattern: Option<String>,
}

impl Default for TransactionFilter {
    fn default() -> Self {
        TransactionFilter { producer_ids: vec![], duration_ms: -1, pattern: None }
    }
}

/// The producer whose transaction is to be aborted on one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbortSpec {
    pub partition: TopicPartition,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
}

impl std::fmt::Display for AbortSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "AbortTransactionSpec(topicPartition={}-{}, producerId={}, producerEpoch={}, coordinatorEpoch={})",
            self.partition.0, self.partition.1, self.producer_id, self.producer_epoch, self.coordinator_epoch
        )
    }
}

type Producers = BTreeMap<TopicPartition, Vec<ProducerState>>;
type PartitionAnswer = (TopicPartition, Result<Vec<ProducerState>, ErrorCode>);

fn failed(code: ErrorCode, message: String) -> ClientError {
    ClientError::Server { code, message }
}

impl Client {
    /// The transactions of every coordinator, in the order of the brokers.
    pub fn list_transactions(&mut self, filter: &TransactionFilter) -> Result<Vec<TransactionListing>, ClientError> {
        self.refresh("listTransactions", Topics::None, false)?;
        let nodes: Vec<i32> = self.metadata.brokers.keys().copied().collect();
        let mut out = Vec::new();
        for node in nodes {
            let build = |_: i16| ListTransactionsRequest {
                producer_id_filters: filter.producer_ids.clone(),
                duration_filter: filter.duration_ms,
                transactional_id_pattern: filter.pattern.as_deref().map(Into::into),
                ..Default::default()
            };
            let answer = self.call("listTransactions", Target::Broker(node), build, |response| {
                ErrorCode::from_i16(response.error_code)
            })?;
            let response = answer.get()?;
            match ErrorCode::from_i16(response.error_code) {
                ErrorCode::None => {}
                code => {
                    return Err(failed(
                        code,
                        format!("ListTransactions request sent to broker {node} failed with an unexpected exception"),
                    ));
                }
            }
            out.extend(response.transaction_states.iter().map(|state| TransactionListing {
                transactional_id: state.transactional_id.to_string(),
                coordinator: node,
                producer_id: state.producer_id,
                state: state.transaction_state.to_string(),
            }));
        }
        Ok(out)
    }

    pub fn describe_transaction(&mut self, id: &str) -> Result<TransactionDescription, ClientError> {
        let build = |_: i16| DescribeTransactionsRequest { transactional_ids: vec![id.into()], ..Default::default() };
        let (answer, coordinator) =
            self.coordinator_call("describeTransactions", CoordinatorKind::Transaction, id, build, |response| {
                response.transaction_states.first().map_or(ErrorCode::None, |s| ErrorCode::from_i16(s.error_code))
            })?;
        let response = answer.get()?;
        let state = response
            .transaction_states
            .first()
            .ok_or_else(|| ClientError::Malformed("the answer to DescribeTransactions has no result".to_owned()))?;
        match ErrorCode::from_i16(state.error_code) {
            ErrorCode::None => {}
            code => {
                let why = match code {
                    ErrorCode::TransactionalIdNotFound => "failed because the ID could not be found",
                    ErrorCode::TransactionalIdAuthorizationFailed => "failed due to authorization failure",
                    _ => "failed due to unexpected error",
                };
                return Err(failed(code, format!("DescribeTransactions request for transactionalId `{id}` {why}")));
            }
        }
        let topics = state.topics.iter();
        Ok(TransactionDescription {
            coordinator,
            state: state.transaction_state.to_string(),
            producer_id: state.producer_id,
            producer_epoch: state.producer_epoch,
            timeout_ms: state.transaction_timeout_ms,
            start_ms: (state.transaction_start_time_ms >= 0).then_some(state.transaction_start_time_ms),
            partitions: topics
                .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic.to_string(), *partition)))
                .collect(),
        })
    }

    /// Producers as a partition's leader knows them, or as one replica does. Unknown partitions and moved leaders are
    /// looked for again until the time for a call is up, as Kafka's client does.
    pub fn describe_producers(
        &mut self,
        partitions: &[TopicPartition],
        broker: Option<i32>,
    ) -> Result<Producers, ClientError> {
        let deadline = Instant::now() + self.settings.api_timeout;
        let mut out = Producers::new();
        let mut left: Vec<TopicPartition> = partitions.to_vec();
        let mut last = None;
        loop {
            let mut topics: Vec<&str> = left.iter().map(|(topic, _)| topic.as_str()).collect();
            topics.dedup();
            let topics: Vec<&str> = topics.into_iter().collect();
            self.refresh("describeProducers", Topics::Named(&topics), false)?;
            let mut by_broker: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
            for key in std::mem::take(&mut left) {
                match broker.or_else(|| self.metadata.leader(&key.0, key.1)) {
                    Some(node) => by_broker.entry(node).or_default().push(key),
                    None => left.push(key),
                }
            }
            for (node, keys) in by_broker {
                match self.ask_producers(node, &keys) {
                    Ok(found) => {
                        for (key, result) in found {
                            match result {
                                Ok(states) => {
                                    out.insert(key, states);
                                }
                                Err(code) if retried(code, broker) => {
                                    last = Some(code);
                                    left.push(key);
                                }
                                Err(code) => return Err(refused(code, &key, broker)),
                            }
                        }
                    }
                    Err(error) if error.is_transient() => left.extend(keys),
                    Err(error) => return Err(error),
                }
            }
            if left.is_empty() {
                return Ok(out);
            }
            if Instant::now() >= deadline {
                let why = last.map_or_else(String::new, |code| format!(" ({})", code.name()));
                return Err(ClientError::Timeout(format!(
                    "Timed out waiting to send the call. Call: describeProducers{why}"
                )));
            }
            std::thread::sleep(self.settings.retry_backoff);
        }
    }

    fn ask_producers(&mut self, node: i32, keys: &[TopicPartition]) -> Result<Vec<PartitionAnswer>, ClientError> {
        use describe_producers_request::TopicRequest;
        let build = |_: i16| {
            let mut topics: Vec<TopicRequest<'_>> = Vec::new();
            for (topic, partition) in keys {
                match topics.iter_mut().find(|known| known.name == topic.as_str()) {
                    Some(known) => known.partition_indexes.push(*partition),
                    None => topics.push(TopicRequest {
                        name: topic.as_str().into(),
                        partition_indexes: vec![*partition],
                        ..Default::default()
                    }),
                }
            }
            DescribeProducersRequest { topics, ..Default::default() }
        };
        let answer = self.once(Target::Broker(node), build)?;
        let response = answer.get()?;
        let mut out = Vec::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                let key = (topic.name.to_string(), partition.partition_index);
                let states = partition.active_producers.iter().map(|state| ProducerState {
                    producer_id: state.producer_id,
                    producer_epoch: state.producer_epoch,
                    last_sequence: state.last_sequence,
                    last_timestamp: state.last_timestamp,
                    coordinator_epoch: (state.coordinator_epoch >= 0).then_some(state.coordinator_epoch),
                    transaction_start: (state.current_txn_start_offset >= 0).then_some(state.current_txn_start_offset),
                });
                out.push((
                    key,
                    match ErrorCode::from_i16(partition.error_code) {
                        ErrorCode::None => Ok(states.collect()),
                        code => Err(code),
                    },
                ));
            }
        }
        Ok(out)
    }

    /// Writes the marker that aborts, on one partition, on behalf of the coordinator.
    pub fn abort_transaction(&mut self, spec: &AbortSpec) -> Result<(), ClientError> {
        let (topic, partition) = (&spec.partition.0, spec.partition.1);
        let deadline = Instant::now() + self.settings.api_timeout;
        loop {
            self.refresh("abortTransaction", Topics::Named(&[topic]), false)?;
            let build = |_: i16| WriteTxnMarkersRequest {
                markers: vec![WritableTxnMarker {
                    producer_id: spec.producer_id,
                    producer_epoch: spec.producer_epoch,
                    transaction_result: false,
                    topics: vec![WritableTxnMarkerTopic {
                        name: topic.as_str().into(),
                        partition_indexes: vec![partition],
                        ..Default::default()
                    }],
                    coordinator_epoch: spec.coordinator_epoch,
                    ..Default::default()
                }],
                ..Default::default()
            };
            let code = match self.metadata.leader(topic, partition) {
                None => ErrorCode::LeaderNotAvailable,
                Some(leader) => {
                    let answer = self.once(Target::Broker(leader), build)?;
                    let response = answer.get()?;
                    let results = response.markers.iter().flat_map(|marker| &marker.topics).flat_map(|t| &t.partitions);
                    results.map(|result| ErrorCode::from_i16(result.error_code)).next().unwrap_or(ErrorCode::None)
                }
            };
            let why = match code {
                ErrorCode::None => return Ok(()),
                ErrorCode::ClusterAuthorizationFailed => "due to cluster authorization error".to_owned(),
                ErrorCode::InvalidProducerEpoch => "due an invalid producer epoch".to_owned(),
                ErrorCode::TransactionCoordinatorFenced => format!(
                    "since the provided coordinator epoch {} has been fenced by the active coordinator",
                    spec.coordinator_epoch
                ),
                code if code.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(self.settings.retry_backoff);
                    continue;
                }
                code => format!("due to unexpected error: {}", ClientError::server(code, None)),
            };
            return Err(failed(code, format!("WriteTxnMarkers request with {spec} failed {why}")));
        }
    }

    /// Fences the producer of a transactional id, which ends its transaction.
    pub fn fence_producer(&mut self, id: &str) -> Result<(), ClientError> {
        let build = |_: i16| InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: FENCING_TIMEOUT_MS,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let (answer, _) =
            self.coordinator_call("fenceProducer", CoordinatorKind::Transaction, id, build, |response| {
                ErrorCode::from_i16(response.error_code)
            })?;
        match ErrorCode::from_i16(answer.get()?.error_code) {
            ErrorCode::None => Ok(()),
            code => Err(ClientError::server(code, None)),
        }
    }
}

/// One replica that is asked for itself has to be there; the leader may have moved.
fn retried(code: ErrorCode, broker: Option<i32>) -> bool {
    code == ErrorCode::UnknownTopicOrPartition || (code == ErrorCode::NotLeaderOrFollower && broker.is_none())
}

fn refused(code: ErrorCode, (topic, partition): &TopicPartition, broker: Option<i32>) -> ClientError {
    let message = match (code, broker) {
        (ErrorCode::NotLeaderOrFollower, Some(broker)) => {
            format!("Failed to describe active producers for partition {topic}-{partition} on brokerId {broker}")
        }
        (ErrorCode::TopicAuthorizationFailed, _) => format!(
            "Failed to describe active producers for partition {topic}-{partition} due to authorization failure on \
             topic `{topic}`"
        ),
        _ => format!("Failed to describe active producers for partition {topic}-{partition} due to unexpected error"),
    };
    failed(code, message)
}
