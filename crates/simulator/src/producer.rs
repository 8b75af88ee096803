//! An idempotent producer, as Kafka's clients are by default: a batch is sent until it is acknowledged, always with the
//! same sequence numbers, and the next one only then.

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use protocol::messages::{InitProducerIdRequest, ProduceRequest};
use protocol::records::{BatchBuilder, BatchSpec};
use protocol::time::Now;
use protocol::wire::Records;

use crate::checkers::Checkers;
use crate::checkers::compacted::key_of;
use crate::client::{Directory, Question, accept, decoded, frame};

const INIT_VERSION: i16 = 5;
const PRODUCE_VERSION: i16 = 13;

struct Batch {
    values: Vec<String>,
    sequence: i32,
    timestamp: i64,
}

pub struct Producer {
    name: usize,
    partition: i32,
    id: Option<(i64, i16)>,
    sequence_next: i32,
    value_next: u64,
    batch: Option<Batch>,
    next_at_ms: i64,
    rng: fastrand::Rng,
    /// No new batches; the one that is under way is still brought to its end.
    pub is_draining: bool,
    /// The topic is compacted: records have keys.
    has_keys: bool,
}

impl Producer {
    pub fn new(name: usize, partition: i32, has_keys: bool, seed: u64) -> Self {
        Producer {
            name,
            partition,
            id: None,
            sequence_next: 0,
            value_next: 0,
            batch: None,
            next_at_ms: 0,
            rng: fastrand::Rng::with_seed(seed),
            is_draining: false,
            has_keys,
        }
    }

    pub fn is_done(&self) -> bool {
        self.is_draining && self.batch.is_none()
    }

    /// What to ask now, or when there will be something to ask.
    pub fn next_question(&mut self, directory: &Directory, now: Now) -> Result<Question, i64> {
        let Some((producer_id, producer_epoch)) = self.id else {
            let request = InitProducerIdRequest {
                transactional_id: None,
                transaction_timeout_ms: i32::MAX,
                producer_id: -1,
                producer_epoch: -1,
                ..Default::default()
            };
            let frame = frame(ApiKey::InitProducerId, INIT_VERSION, &request);
            return Ok(Question { leader_of: None, key: ApiKey::InitProducerId, frame });
        };
        if self.batch.is_none() {
            if self.is_draining || now.mono_ms < self.next_at_ms {
                return Err(if self.is_draining { now.mono_ms + 1_000 } else { self.next_at_ms });
            }
            let count = self.rng.u64(1..4);
            let values = (self.value_next..self.value_next + count).map(|n| format!("{}:{n}", self.name)).collect();
            self.value_next += count;
            self.batch = Some(Batch { values, sequence: self.sequence_next, timestamp: now.wall_ms });
            self.sequence_next += count as i32;
        }
        let batch = self.batch.as_ref().expect("made above");
        let spec = BatchSpec { producer_id, producer_epoch, base_sequence: batch.sequence, ..Default::default() };
        let mut builder = BatchBuilder::new(spec);
        for value in &batch.values {
            let key = key_of(value).filter(|_| self.has_keys).map(|(key, _)| key);
            builder.append(batch.timestamp, key.as_deref().map(str::as_bytes), Some(value.as_bytes()), &[]);
        }
        let records = Some(Records::Inline(builder.build().into()));
        let data = PartitionProduceData { index: self.partition, records, ..Default::default() };
        let topic = TopicProduceData { topic_id: directory.topic_id, partition_data: vec![data], ..Default::default() };
        let request = ProduceRequest { acks: -1, timeout_ms: 1_000, topic_data: vec![topic], ..Default::default() };
        let frame = frame(ApiKey::Produce, PRODUCE_VERSION, &request);
        Ok(Question { leader_of: Some(self.partition), key: ApiKey::Produce, frame })
    }

    pub fn on_answer(&mut self, key: ApiKey, frame: &[u8], now: Now, checkers: &mut Checkers) -> Result<(), String> {
        if key == ApiKey::InitProducerId {
            let response = decoded::<InitProducerIdRequest<'_>>(frame, INIT_VERSION)?;
            accept(response.error_code)?;
            checkers.acknowledged.on_producer_id(response.producer_id, &mut checkers.violations);
            self.id = Some((response.producer_id, response.producer_epoch));
            return Ok(());
        }
        let response = decoded::<ProduceRequest<'_>>(frame, PRODUCE_VERSION)?;
        let part = response.responses.first().and_then(|topic| topic.partition_responses.first());
        let part = part.ok_or("an answer without the partition")?;
        match ErrorCode::from_i16(part.error_code) {
            ErrorCode::None => {}
            // Written by an earlier try, too long ago for its offset to be known.
            ErrorCode::DuplicateSequenceNumber => {}
            error @ (ErrorCode::NotLeaderOrFollower
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::RequestTimedOut
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::KafkaStorageError) => return Err(error.to_string()),
            error => {
                // Everything before this batch was acknowledged: nothing can be out of order.
                let first = self.batch.as_ref().map(|batch| batch.values[0].clone());
                checkers
                    .violation(format!("the batch of {first:?} for partition {} is refused: {error}", self.partition));
                return Err(error.to_string());
            }
        }
        if let Some(batch) = self.batch.take() {
            let offset = (part.error_code == 0).then_some(part.base_offset);
            checkers.acknowledged.on_acknowledged(self.partition, offset, batch.values);
        }
        self.next_at_ms = now.mono_ms + self.rng.i64(0..40);
        Ok(())
    }
}
