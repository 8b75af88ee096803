//! Batches out, answers in, and what follows from each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::error::ErrorCode;
use protocol::header::decode_response;
use protocol::messages::ProduceResponse;
use protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use protocol::messages::produce_response::{BatchIndexAndErrorMessage, PartitionProduceResponse};
use protocol::messages::{InitProducerIdRequest, ProduceRequest};
use protocol::records::sequence_after;
use protocol::wire::{Records, Uuid};

use super::batch::{Batch, State};
use super::link::{Event, InFlight, Link};
use super::{Delivered, Outcome, Producer};
use crate::client::{Address, Broker, ClientError, Target};

type Key = (String, i32);

impl Producer {
    /// Sends every batch that may leave, one of each partition per request, while brokers take requests.
    pub(super) fn send_ready(&mut self, now: Instant) {
        loop {
            let mut by_leader: BTreeMap<i32, Vec<Key>> = BTreeMap::new();
            for (key, queue) in &self.queues {
                if !queue.is_empty() && self.sendable(queue, now) {
                    match self.client.metadata.leader(&key.0, key.1) {
                        Some(leader) => by_leader.entry(leader).or_default().push(key.clone()),
                        None => by_leader.entry(i32::MIN).or_default().push(key.clone()),
                    }
                }
            }
            if by_leader.remove(&i32::MIN).is_some() {
                self.refresh_soon(self.config.retry_backoff);
            }
            let mut sent = false;
            for (leader, keys) in by_leader {
                if self.identify().is_err() || !self.linked(leader, now) {
                    continue;
                }
                sent |= self.send_to(leader, &keys, now);
            }
            if !sent {
                return;
            }
        }
    }

    /// Whether the partition's next batch may leave now. Behind a batch that failed nothing leaves until it is through.
    fn sendable(&self, queue: &std::collections::VecDeque<Batch>, now: Instant) -> bool {
        let failed = queue.iter().any(|batch| matches!(batch.state, State::Retry(_)));
        let in_flight = queue.iter().any(|batch| batch.state == State::Sent);
        if failed && in_flight {
            return false;
        }
        let Some(next) = queue.iter().find(|batch| batch.state != State::Sent) else { return false };
        match next.state {
            State::Closed => true,
            State::Open => self.flushing || next.due(self.config.linger) <= now,
            State::Retry(at) => at <= now,
            State::Sent => false,
        }
    }

    /// A producer id, asked for when first needed (KIP-98).
    fn identify(&mut self) -> Result<(), ()> {
        if !self.config.idempotence || self.config.acks != -1 || self.identity.is_some() {
            return Ok(());
        }
        if self.config.transactional_id.is_some() {
            return Err(()); // only `init_transactions` gives it one
        }
        let answer = self.client.once(Target::Any, |_| InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        });
        match answer.and_then(|answer| {
            let response = answer.get()?;
            Ok((ErrorCode::from_i16(response.error_code), response.producer_id, response.producer_epoch))
        }) {
            Ok((ErrorCode::None, id, epoch)) => {
                self.identity = Some((id, epoch));
                Ok(())
            }
            Ok((code, ..)) if !code.is_retriable() => {
                self.fail_everything(&ClientError::server(code, None));
                Err(())
            }
            Err(error @ ClientError::Unsupported(_)) => {
                self.fail_everything(&error);
                Err(())
            }
            Ok(_) | Err(_) => {
                std::thread::sleep(self.config.retry_backoff.min(Duration::from_millis(20)));
                Err(())
            }
        }
    }

    /// Whether the broker is connected and takes another request.
    fn linked(&mut self, node: i32, now: Instant) -> bool {
        if let Some(link) = self.links.get(&node) {
            return link.in_flight.len() < self.config.in_flight_max;
        }
        if self.unreachable.get(&node).is_some_and(|until| *until > now) {
            return false;
        }
        let Some(address) = self.client.metadata.brokers.get(&node).map(|broker| broker.address.clone()) else {
            return false;
        };
        self.link_serial += 1;
        let settings = &self.client.settings;
        let timeout = settings.connect_timeout.min(self.config.request_timeout);
        match Link::open(node, &address, &settings.client_id, timeout, self.link_serial, self.event_sender.clone()) {
            Ok(link) => {
                self.unreachable.remove(&node);
                self.links.insert(node, link);
                true
            }
            Err(_) => {
                self.client.warn(&format!(
                    "Connection to node {node} ({address}) could not be established. Node may not be available."
                ));
                self.unreachable.insert(node, Instant::now() + self.config.retry_backoff);
                self.refresh_soon(Duration::ZERO);
                false
            }
        }
    }

    fn send_to(&mut self, node: i32, keys: &[Key], now: Instant) -> bool {
        let Some(link) = self.links.get(&node) else { return false };
        let version = match link.versions.common(protocol::api::ApiKey::Produce) {
            // From version 12 on a broker takes it for granted that it may add partitions to the transaction (KIP-890).
            Ok(version) if self.config.transactional_id.is_some() => version.min(11),
            Ok(version) => version,
            Err(error) => {
                self.fail_everything(&error);
                return false;
            }
        };
        let mut batches = Vec::new();
        let mut bytes = 0;
        for key in keys {
            let size = self.prepare(key);
            if bytes > 0 && bytes + size > self.config.request_bytes_max {
                break;
            }
            bytes += size;
            let queue = self.queues.get_mut(key).expect("a sendable partition has a queue");
            let batch = queue.iter_mut().find(|batch| batch.state != State::Sent).expect("a sendable batch");
            batch.state = State::Sent;
            batch.attempts += 1;
            batches.push((key.clone(), batch.id));
        }
        let mut link = self.links.remove(&node).expect("looked up above");
        let result = link.send(version, &self.request(version, &batches));
        let unanswered = self.config.acks == 0 && result.is_ok();
        if !unanswered {
            link.in_flight.push_back(InFlight { version, sent_at: now, batches: batches.clone() });
        }
        self.links.insert(node, link);
        match result {
            Ok(()) if unanswered => {
                for (key, id) in batches {
                    self.finish(&key, id, Ok(-1));
                }
            }
            Ok(()) => {}
            Err(error) => self.lost(node, &error.to_string()),
        }
        true
    }

    /// Closes the next batch of a partition and gives it its sequence number; returns its size.
    fn prepare(&mut self, key: &Key) -> usize {
        let identity = self.identity;
        let queue = self.queues.get_mut(key).expect("a sendable partition has a queue");
        let batch = queue.iter_mut().find(|batch| batch.state != State::Sent).expect("a sendable batch");
        batch.close();
        if let (Some(identity), None) = (identity, batch.sequence) {
            let next = self.sequences.entry(key.clone()).or_insert(0);
            batch.set_identity(identity, *next);
            *next = sequence_after(*next, batch.count());
        }
        batch.bytes().len()
    }

    fn request<'a>(&'a self, version: i16, batches: &'a [(Key, u64)]) -> ProduceRequest<'a> {
        let mut topics: Vec<TopicProduceData<'a>> = Vec::new();
        for (key, id) in batches {
            let batch = self.queues[key].iter().find(|batch| batch.id == *id).expect("just marked as sent");
            let data = PartitionProduceData {
                index: key.1,
                records: Some(Records::Inline(batch.bytes().into())),
                ..Default::default()
            };
            let by_id = version >= 13;
            let topic_id = self.client.metadata.topics.get(&key.0).map_or(Uuid::ZERO, |topic| topic.id);
            let name = if by_id { "" } else { key.0.as_str() };
            let topic_id = if by_id { topic_id } else { Uuid::ZERO };
            match topics.iter_mut().find(|topic| topic.name == name && topic.topic_id == topic_id) {
                Some(topic) => topic.partition_data.push(data),
                None => topics.push(TopicProduceData {
                    name: name.into(),
                    topic_id,
                    partition_data: vec![data],
                    ..Default::default()
                }),
            }
        }
        ProduceRequest {
            transactional_id: self.config.transactional_id.as_deref().map(Into::into),
            acks: self.config.acks,
            timeout_ms: i32::try_from(self.config.request_timeout.as_millis()).unwrap_or(i32::MAX),
            topic_data: topics,
            ..Default::default()
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        let (Event::Frame { node, serial, .. } | Event::Closed { node, serial, .. }) = &event;
        if self.links.get(node).is_none_or(|link| link.serial != *serial) {
            return;
        }
        match event {
            Event::Closed { node, reason, .. } => self.lost(node, &reason),
            Event::Frame { node, frame, .. } => {
                let link = self.links.get_mut(&node).expect("looked up above");
                let Some(request) = link.in_flight.pop_front() else {
                    self.lost(node, "an answer to nothing");
                    return;
                };
                match decode_response::<ProduceRequest<'_>>(&frame, request.version) {
                    Ok((_, response)) => self.on_response(request, &response),
                    Err(error) => {
                        let link = self.links.get_mut(&node).expect("looked up above");
                        link.in_flight.push_front(request);
                        self.lost(node, &format!("the answer to Produce is broken: {error}"));
                    }
                }
            }
        }
    }

    fn on_response(&mut self, request: InFlight, response: &ProduceResponse<'_>) {
        for endpoint in &response.node_endpoints {
            if let Ok(port) = u16::try_from(endpoint.port) {
                let address = Address { host: endpoint.host.clone().into_owned(), port };
                let rack = endpoint.rack.as_deref().map(str::to_owned);
                self.client.metadata.brokers.insert(endpoint.node_id, Broker { address, rack });
            }
        }
        for (key, id) in request.batches {
            let topic_id = self.client.metadata.topics.get(&key.0).map_or(Uuid::ZERO, |topic| topic.id);
            let found = response
                .responses
                .iter()
                .filter(|topic| topic.name == key.0.as_str() || (!topic_id.is_zero() && topic.topic_id == topic_id))
                .flat_map(|topic| &topic.partition_responses)
                .find(|partition| partition.index == key.1);
            match found {
                Some(partition) => self.on_partition(&key, id, partition),
                None => {
                    let text = format!("the answer to Produce leaves out {}-{}", key.0, key.1);
                    self.finish(&key, id, Err(&ClientError::Malformed(text)));
                }
            }
        }
    }

    fn on_partition(&mut self, key: &Key, id: u64, response: &PartitionProduceResponse<'_>) {
        let code = ErrorCode::from_i16(response.error_code);
        match code {
            ErrorCode::None => self.finish(key, id, Ok(response.base_offset)),
            // Written by an earlier attempt whose answer was lost; the broker no longer knows where.
            ErrorCode::DuplicateSequenceNumber => self.finish(key, id, Ok(-1)),
            _ => {
                let current = &response.current_leader;
                let hinted = self.client.metadata.hint(&key.0, key.1, current.leader_id, current.leader_epoch);
                let moved = matches!(
                    code,
                    ErrorCode::NotLeaderOrFollower
                        | ErrorCode::LeaderNotAvailable
                        | ErrorCode::UnknownTopicOrPartition
                        | ErrorCode::UnknownTopicId
                        | ErrorCode::FencedLeaderEpoch
                        | ErrorCode::KafkaStorageError
                );
                if moved && !hinted {
                    self.refresh_soon(Duration::ZERO);
                }
                let behind_another = code == ErrorCode::OutOfOrderSequenceNumber && !self.is_first(key, id);
                if code.is_retriable() || behind_another {
                    let wait = if hinted { Duration::ZERO } else { self.config.retry_backoff };
                    self.again(key, id, wait, &ClientError::server(code, response.error_message.as_deref()));
                } else {
                    let error = ClientError::server(code, response.error_message.as_deref());
                    self.refused(key, id, code, &error, &response.record_errors);
                }
            }
        }
    }

    /// KIP-467: the broker may name the records for which it refused the batch; each gets its own words.
    fn refused(
        &mut self,
        key: &Key,
        id: u64,
        code: ErrorCode,
        error: &ClientError,
        faults: &[BatchIndexAndErrorMessage<'_>],
    ) {
        let first = self.outcomes.len();
        self.finish(key, id, Err(error));
        for (i, outcome) in self.outcomes[first..].iter_mut().enumerate() {
            let fault = faults.iter().find(|fault| usize::try_from(fault.batch_index) == Ok(i));
            if let Some(message) = fault.and_then(|fault| fault.batch_index_error_message.as_deref()) {
                outcome.result = Err(ClientError::server(code, Some(message)));
            }
        }
    }

    fn is_first(&self, key: &Key, id: u64) -> bool {
        self.queues.get(key).and_then(|queue| queue.front()).is_some_and(|batch| batch.id == id)
    }

    /// Sends the batch again later, unless its attempts are used up.
    fn again(&mut self, key: &Key, id: u64, wait: Duration, error: &ClientError) {
        let retries = self.config.retries;
        let Some(batch) = self.queues.get_mut(key).and_then(|queue| queue.iter_mut().find(|batch| batch.id == id))
        else {
            return;
        };
        if batch.attempts > retries {
            self.finish(key, id, Err(error));
        } else {
            batch.state = State::Retry(Instant::now() + wait);
        }
    }

    /// A connection broke: everything in flight on it is sent again.
    fn lost(&mut self, node: i32, reason: &str) {
        let Some(mut link) = self.links.remove(&node) else { return };
        self.client.distrust(node);
        self.refresh_soon(Duration::ZERO);
        self.unreachable.insert(node, Instant::now() + self.config.retry_backoff);
        let error = ClientError::Network(format!("The connection to node {node} was lost: {reason}"));
        for request in std::mem::take(&mut link.in_flight) {
            for (key, id) in request.batches {
                self.again(&key, id, self.config.retry_backoff, &error);
            }
        }
    }

    /// Requests without an answer, batches that are too old.
    pub(super) fn expire(&mut self, now: Instant) {
        let late: Vec<i32> = self
            .links
            .iter()
            .filter(|(_, link)| link.is_late(self.config.request_timeout, now))
            .map(|(node, _)| *node)
            .collect();
        for node in late {
            self.lost(node, "no answer in time");
        }
        let timeout = self.config.delivery_timeout;
        let mut expired = Vec::new();
        for (key, queue) in &self.queues {
            for batch in queue.iter().filter(|b| b.state != State::Sent && b.created + timeout <= now) {
                expired.push((key.clone(), batch.id, batch.count()));
            }
        }
        for (key, id, count) in expired {
            let ms = timeout.as_millis();
            let text =
                format!("Expiring {count} record(s) for {}-{}:{ms} ms has passed since batch creation", key.0, key.1);
            self.finish(&key, id, Err(&ClientError::Timeout(text)));
        }
    }

    fn fail_everything(&mut self, error: &ClientError) {
        let all: Vec<(Key, u64)> =
            self.queues.iter().flat_map(|(key, queue)| queue.iter().map(|batch| (key.clone(), batch.id))).collect();
        for (key, id) in all {
            self.finish(&key, id, Err(error));
        }
    }

    /// The batch's records get their outcome. A batch given up leaves a gap in the sequence that no broker would
    /// accept: the producer then takes a new id and counts from zero.
    fn finish(&mut self, key: &Key, id: u64, result: Result<i64, &ClientError>) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let Some(at) = queue.iter().position(|batch| batch.id == id) else { return };
        let batch = queue.remove(at).expect("found above");
        let overhead = protocol::records::HEADER_LEN;
        self.buffered_bytes = self.buffered_bytes.saturating_sub(batch.size.saturating_sub(overhead));
        let done_at = Instant::now();
        for (i, tag) in batch.tags.iter().enumerate() {
            let result = match result {
                Ok(base) if base >= 0 => Ok(Delivered { offset: base + i as i64 }),
                Ok(_) => Ok(Delivered { offset: -1 }),
                Err(error) => Err(error.clone()),
            };
            self.outcomes.push(Outcome {
                tag: tag.tag,
                partition: key.1,
                key_len: tag.key_len,
                value_len: tag.value_len,
                sent_at: tag.sent_at,
                done_at,
                result,
            });
        }
        if let (Err(error), Some(_)) = (result, &self.config.transactional_id) {
            // The transaction can only be aborted; the identity is the transactional id's and stays.
            self.transaction.error.get_or_insert_with(|| error.clone());
        } else if result.is_err() && batch.sequence.is_some() {
            self.identity = None;
            self.sequences.clear();
            for batch in self.queues.values_mut().flatten().filter(|batch| batch.state != State::Sent) {
                batch.sequence = None;
            }
        }
    }
}
