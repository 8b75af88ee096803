//! The ends of transactions on their way from the coordinator to the partitions' leaders (WriteTxnMarkers).
//!
//! What is due at the end of a turn goes in one request to each leader. A partition whose leader did not take its marker
//! is asked for its leader again a little later, for as long as this broker is the coordinator: a transaction that is
//! decided has to end.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::Producer;
use coordinator::transactions::{Markers, TopicPartition};
use protocol::api::ApiKey;
use protocol::codec::decode_all;
use protocol::error::ErrorCode;
use protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};
use protocol::time::Now;

use crate::links::Failure;
use crate::node::Node;
use crate::transactions::TransactionOp;

/// Until a marker that was not taken is sent again.
const RETRY_MS: i64 = 50;

/// A transactional id, and the partition of `__transaction_state` that it is in.
type Key = (i32, String);

struct Task {
    markers: Markers,
    /// Neither marked nor being sent.
    unsent: BTreeSet<TopicPartition>,
}

/// What one request carried of a task.
pub(crate) struct SentMarkers {
    key: Key,
    producer: Producer,
    coordinator_epoch: i32,
    partitions: Vec<TopicPartition>,
}

/// Invariant: `due` names tasks that have something unsent, each once.
#[derive(Default)]
pub(crate) struct MarkerQueue {
    tasks: BTreeMap<Key, Task>,
    due: BTreeSet<(i64, Key)>,
}

impl MarkerQueue {
    /// Replaces what an earlier shard of the same partition wanted.
    pub fn add(&mut self, partition: i32, markers: Markers) {
        let key = (partition, markers.transactional_id.clone());
        self.due.retain(|(_, known)| *known != key);
        self.due.insert((i64::MIN, key.clone()));
        let unsent = markers.partitions.clone();
        self.tasks.insert(key, Task { markers, unsent });
    }

    pub fn next_deadline(&self) -> i64 {
        self.due.first().map_or(i64::MAX, |(due_ms, _)| *due_ms)
    }

    fn send_again(&mut self, key: Key, partitions: impl IntoIterator<Item = TopicPartition>, at_ms: i64) {
        let Some(task) = self.tasks.get_mut(&key) else { return };
        let was_idle = task.unsent.is_empty();
        task.unsent.extend(partitions);
        if was_idle && !task.unsent.is_empty() {
            self.due.insert((at_ms, key));
        }
    }
}

impl Node {
    /// Sends what is due; whether there was anything.
    pub(crate) fn send_markers(&mut self, now: Now) -> bool {
        let mut by_broker: BTreeMap<i32, Vec<SentMarkers>> = BTreeMap::new();
        let mut busy = false;
        while let Some((due_ms, key)) = self.transactions.markers.due.first().cloned() {
            if due_ms > now.mono_ms {
                break;
            }
            busy = true;
            self.transactions.markers.due.remove(&(due_ms, key.clone()));
            self.route(key, &mut by_broker, now);
        }
        for (broker, sent) in by_broker {
            let request = WriteTxnMarkersRequest {
                markers: sent.iter().filter_map(|part| self.writable(part)).collect(),
                ..Default::default()
            };
            self.ask_broker(broker, TransactionOp::Markers(sent), (ApiKey::WriteTxnMarkers, request), (1, 2), now);
        }
        busy
    }

    /// Finds the leaders of a task's partitions. Who has none now is looked for again; who is gone needs no marker.
    fn route(&mut self, key: Key, by_broker: &mut BTreeMap<i32, Vec<SentMarkers>>, now: Now) {
        let Some(task) = self.transactions.markers.tasks.get_mut(&key) else { return };
        let shard = self.transactions.runtime.peek(key.0);
        if shard.is_none_or(|shard| shard.coordinator_epoch() != task.markers.coordinator_epoch) {
            // Another coordinator does it, or this one anew.
            self.transactions.markers.tasks.remove(&key);
            return;
        }
        let (producer, coordinator_epoch) = (task.markers.producer, task.markers.coordinator_epoch);
        let mut gone = Vec::new();
        let mut later = Vec::new();
        for partition in std::mem::take(&mut task.unsent) {
            let topic = self.image.topic(&partition.0);
            let Some(state) = topic.and_then(|topic| topic.partitions.get(&partition.1)) else {
                gone.push(partition);
                continue;
            };
            if !state.has_leader() {
                later.push(partition);
                continue;
            }
            let sent = by_broker.entry(state.leader).or_default();
            match sent.last_mut().filter(|sent| sent.key == key) {
                Some(sent) => sent.partitions.push(partition),
                None => sent.push(SentMarkers {
                    key: key.clone(),
                    producer,
                    coordinator_epoch,
                    partitions: vec![partition],
                }),
            }
        }
        self.transactions.markers.send_again(key.clone(), later, now.mono_ms + RETRY_MS);
        self.on_marked(&key, producer, &gone);
    }

    fn writable(&self, sent: &SentMarkers) -> Option<WritableTxnMarker<'static>> {
        let markers = &self.transactions.markers.tasks.get(&sent.key)?.markers;
        let mut topics: Vec<WritableTxnMarkerTopic<'static>> = Vec::new();
        for (topic, partition) in &sent.partitions {
            match topics.last_mut().filter(|t| t.name == topic.as_str()) {
                Some(last) => last.partition_indexes.push(*partition),
                None => topics.push(WritableTxnMarkerTopic {
                    name: topic.clone().into(),
                    partition_indexes: vec![*partition],
                    ..Default::default()
                }),
            }
        }
        Some(WritableTxnMarker {
            producer_id: markers.producer.id,
            producer_epoch: markers.producer.epoch,
            transaction_result: markers.commit,
            topics,
            coordinator_epoch: markers.coordinator_epoch,
            transaction_version: i8::try_from(markers.transaction_version).unwrap_or(i8::MAX),
            ..Default::default()
        })
    }

    /// The shard may have been replaced meanwhile; it knows by the producer whether it is meant.
    fn on_marked(&mut self, key: &Key, producer: Producer, partitions: &[TopicPartition]) {
        if partitions.is_empty() {
            return;
        }
        let Ok(shard) = self.transactions.runtime.serving(key.0) else { return };
        shard.on_marked(&key.1, producer, partitions);
        if !shard.awaits_markers(&key.1) {
            self.transactions.markers.tasks.remove(key);
        }
    }

    /// Whether an answer speaks of a task as it is now.
    fn is_current(&self, sent: &SentMarkers) -> bool {
        self.transactions.markers.tasks.get(&sent.key).is_some_and(|task| {
            task.markers.producer == sent.producer && task.markers.coordinator_epoch == sent.coordinator_epoch
        })
    }

    pub(crate) fn on_markers_answer(&mut self, sent: Vec<SentMarkers>, version: i16, body: &[u8], now: Now) {
        let response: WriteTxnMarkersResponse<'_> = match decode_all(body, version) {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "an answer to WriteTxnMarkers cannot be read");
                return self.on_markers_failure(sent, Failure::Disconnected, now);
            }
        };
        let mut codes: BTreeMap<(i64, &str, i32), ErrorCode> = BTreeMap::new();
        for marker in &response.markers {
            for topic in &marker.topics {
                for p in &topic.partitions {
                    let place = (marker.producer_id, topic.name.as_ref(), p.partition_index);
                    codes.insert(place, ErrorCode::from_i16(p.error_code));
                }
            }
        }
        for sent in sent.into_iter().filter(|sent| self.is_current(sent)).collect::<Vec<_>>() {
            let mut marked = Vec::new();
            let mut again = Vec::new();
            let mut is_fenced = false;
            for partition in sent.partitions {
                match codes.get(&(sent.producer.id, partition.0.as_str(), partition.1)).copied() {
                    // DIFFERS: Kafka gives the whole transaction up at INVALID_PRODUCER_EPOCH, and its id answers
                    // CONCURRENT_TRANSACTIONS until the coordinator moves. A log that knows a later epoch of this producer
                    // has had this end, or one that fences it: the other partitions still need theirs.
                    Some(ErrorCode::None | ErrorCode::InvalidProducerEpoch) => marked.push(partition),
                    // No partition, no transaction in it.
                    Some(ErrorCode::UnsupportedForMessageFormat) => marked.push(partition),
                    Some(ErrorCode::TransactionCoordinatorFenced) => is_fenced = true,
                    code => {
                        let error = code.map_or("no answer", |code| code.name());
                        tracing::debug!(
                            transactional_id = sent.key.1,
                            topic = partition.0,
                            partition = partition.1,
                            error,
                            "marker is not written"
                        );
                        again.push(partition);
                    }
                }
            }
            if is_fenced {
                tracing::info!(transactional_id = sent.key.1, "a later coordinator writes this transaction's markers");
                self.transactions.markers.tasks.remove(&sent.key);
                continue;
            }
            self.transactions.markers.send_again(sent.key.clone(), again, now.mono_ms + RETRY_MS);
            self.on_marked(&sent.key, sent.producer, &marked);
        }
    }

    pub(crate) fn on_markers_failure(&mut self, sent: Vec<SentMarkers>, failure: Failure, now: Now) {
        tracing::debug!(?failure, transactions = sent.len(), "markers are sent again");
        for sent in sent.into_iter().filter(|sent| self.is_current(sent)).collect::<Vec<_>>() {
            self.transactions.markers.send_again(sent.key, sent.partitions, now.mono_ms + RETRY_MS);
        }
    }
}
