//! Whoever creates topics: one for the records, or one after the other, where the controllers are what is tried.

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::CreateTopicsRequest;
use protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use protocol::time::Now;

use crate::client::{PARTITIONS, Question, TOPIC, accept, decoded, frame};

const VERSION: i16 = 7;
/// Enough for a minute of faults.
const TOPICS_MAX: usize = 60;

pub struct Creator {
    /// Those that the controller said are there.
    pub created: Vec<String>,
    topics_max: usize,
    next_at_ms: i64,
    rng: fastrand::Rng,
    pub is_draining: bool,
    is_compacted: bool,
}

impl Creator {
    /// Only the topic that the producers write to.
    pub fn of_one(is_compacted: bool) -> Self {
        Creator { is_compacted, ..Self::new(1, 0) }
    }

    pub fn of_many(seed: u64) -> Self {
        Self::new(TOPICS_MAX, seed)
    }

    fn new(topics_max: usize, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Creator { created: Vec::new(), topics_max, next_at_ms: 0, rng, is_draining: false, is_compacted: false }
    }

    pub fn is_done(&self) -> bool {
        self.created.len() == self.topics_max || (self.is_draining && !self.created.is_empty())
    }

    fn name(&self) -> String {
        if self.topics_max == 1 { TOPIC.to_owned() } else { format!("topic-{}", self.created.len()) }
    }

    /// What to ask now, or when there will be something to ask.
    pub fn next_question(&mut self, now: Now) -> Result<Question, i64> {
        if self.is_done() || now.mono_ms < self.next_at_ms {
            return Err(if self.is_done() { now.mono_ms + 1_000 } else { self.next_at_ms });
        }
        let config = |(name, value): &(&'static str, &'static str)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
            ..Default::default()
        };
        let compacted = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01")];
        let configs = if self.is_compacted { compacted.iter().map(config).collect() } else { Vec::new() };
        let topic = CreatableTopic {
            configs,
            name: self.name().into(),
            num_partitions: if self.topics_max == 1 { PARTITIONS } else { 1 },
            replication_factor: 3,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 1_000, ..Default::default() };
        let frame = frame(ApiKey::CreateTopics, VERSION, &request);
        Ok(Question { leader_of: None, key: ApiKey::CreateTopics, frame })
    }

    pub fn on_answer(&mut self, frame: &[u8], now: Now) -> Result<(), String> {
        let response = decoded::<CreateTopicsRequest<'_>>(frame, VERSION)?;
        let code = response.topics.first().map_or(-1, |topic| topic.error_code);
        // The answer to an earlier try may have been lost.
        if ErrorCode::from_i16(code) != ErrorCode::TopicAlreadyExists {
            accept(code)?;
        }
        self.created.push(self.name());
        self.next_at_ms = now.mono_ms + self.rng.i64(0..800);
        Ok(())
    }
}
