//! A client of the cluster: one request at a time over one connection, retried elsewhere when it fails.

use std::collections::BTreeMap;

use protocol::api::ApiKey;
use protocol::codec::{Message, Request};
use protocol::error::ErrorCode;
use protocol::header::{decode_response, encode_request};
use protocol::messages::MetadataRequest;
use protocol::messages::metadata_request::MetadataRequestTopic;
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::checkers::Checkers;
use crate::consumer::Consumer;
use crate::creator::Creator;
use crate::producer::Producer;
use crate::reassigner::Reassigner;

pub const TOPIC: &str = "journal";
pub const PARTITIONS: i32 = 2;
const METADATA_VERSION: i16 = 13;

/// Given up after this long; the connection with it.
const REQUEST_TIMEOUT_MS: i64 = 1_500;
const BACKOFF_MS: i64 = 50;

/// What a client wants of the network.
pub enum Act {
    /// A new connection to a node; the old one goes.
    Dial(i32),
    /// Over the connection that is there or about to be.
    Send(Vec<u8>),
    Close,
    WakeAt(i64),
    /// For the trace.
    Note(String),
}

/// What a role wants to ask next, and of whom.
pub struct Question {
    /// `None`: of anybody.
    pub leader_of: Option<i32>,
    pub key: ApiKey,
    pub frame: Vec<u8>,
}

pub enum Role {
    Creator(Creator),
    Reassigner(Reassigner),
    Producer(Producer),
    Consumer(Consumer),
}

struct Asked {
    key: ApiKey,
    correlation: i32,
    deadline_ms: i64,
}

/// Where the partitions are, as of the last answer.
#[derive(Default)]
pub struct Directory {
    pub topic_id: Uuid,
    leaders: BTreeMap<i32, i32>,
}

pub struct Client {
    pub role: Role,
    rng: fastrand::Rng,
    directory: Option<Directory>,
    asked: Option<Asked>,
    connected_to: Option<i32>,
    nodes: i32,
    correlation: i32,
    acts: Vec<Act>,
}

impl Client {
    pub fn new(role: Role, nodes: i32, seed: u64) -> Self {
        Client {
            role,
            rng: fastrand::Rng::with_seed(seed),
            directory: None,
            asked: None,
            connected_to: None,
            nodes,
            correlation: 0,
            acts: Vec::new(),
        }
    }

    pub fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// Asks what there is to ask, or gives up what has taken too long.
    pub fn on_wake(&mut self, now: Now) {
        if let Some(asked) = &self.asked {
            if now.mono_ms >= asked.deadline_ms {
                self.fail(now);
            }
            return;
        }
        let question = match (&mut self.role, &self.directory) {
            (Role::Creator(creator), _) => match creator.next_question(now) {
                Ok(question) => question,
                Err(at_ms) => return self.acts.push(Act::WakeAt(at_ms)),
            },
            (Role::Reassigner(reassigner), _) => match reassigner.next_question(now) {
                Ok(question) => question,
                Err(at_ms) => return self.acts.push(Act::WakeAt(at_ms)),
            },
            (_, None) => metadata(),
            (Role::Producer(producer), Some(directory)) => match producer.next_question(directory, now) {
                Ok(question) => question,
                Err(at_ms) => return self.acts.push(Act::WakeAt(at_ms)),
            },
            (Role::Consumer(consumer), Some(directory)) => consumer.next_question(directory),
        };
        let anybody = self.rng.i32(1..=self.nodes);
        let to = match question.leader_of {
            Some(partition) => self.directory.as_ref().and_then(|d| d.leaders.get(&partition).copied()),
            None => Some(self.connected_to.unwrap_or(anybody)),
        };
        let Some(to) = to else {
            self.fail(now);
            return;
        };
        if self.connected_to != Some(to) {
            self.connected_to = Some(to);
            self.acts.push(Act::Dial(to));
        }
        self.correlation += 1;
        let mut frame = question.frame;
        // The header begins with key, version and correlation id, behind the length.
        frame[8..12].copy_from_slice(&self.correlation.to_be_bytes());
        let deadline_ms = now.mono_ms + REQUEST_TIMEOUT_MS;
        self.asked = Some(Asked { key: question.key, correlation: self.correlation, deadline_ms });
        self.acts.push(Act::Send(frame));
        self.acts.push(Act::WakeAt(deadline_ms));
    }

    pub fn on_frame(&mut self, frame: &[u8], now: Now, checkers: &mut Checkers) {
        let Some(asked) = self.asked.take() else { return };
        let correlation = frame.first_chunk().map_or(-1, |bytes| i32::from_be_bytes(*bytes));
        if correlation != asked.correlation {
            checkers.violation(format!("an answer to request {correlation}, {} is due", asked.correlation));
        }
        let result = match (asked.key, &mut self.role) {
            (ApiKey::Metadata, _) => self.on_metadata(frame),
            (ApiKey::CreateTopics, Role::Creator(creator)) => creator.on_answer(frame, now),
            (ApiKey::AlterPartitionReassignments, Role::Reassigner(reassigner)) => reassigner.on_answer(frame, now),
            (key, Role::Producer(producer)) => producer.on_answer(key, frame, now, checkers),
            (ApiKey::Fetch, Role::Consumer(consumer)) => consumer.on_answer(frame, checkers),
            (key, _) => Err(format!("nobody has asked for {}", key.name())),
        };
        match result {
            Ok(()) => self.acts.push(Act::WakeAt(now.mono_ms)),
            Err(reason) => {
                let of = self.connected_to.unwrap_or(0);
                self.acts.push(Act::Note(format!("node {of} says {reason}")));
                // The leader is another one by now, or will be.
                self.directory = None;
                self.acts.push(Act::WakeAt(now.mono_ms + self.rng.i64(1..BACKOFF_MS)));
            }
        }
    }

    pub fn on_closed(&mut self, now: Now) {
        self.connected_to = None;
        self.directory = None;
        self.asked = None;
        self.acts.push(Act::WakeAt(now.mono_ms + self.rng.i64(1..BACKOFF_MS)));
    }

    fn fail(&mut self, now: Now) {
        self.acts.push(Act::Close);
        self.on_closed(now);
    }

    fn on_metadata(&mut self, frame: &[u8]) -> Result<(), String> {
        let (_, response) =
            decode_response::<MetadataRequest<'_>>(frame, METADATA_VERSION).map_err(|e| e.to_string())?;
        let topic = response.topics.first().ok_or("no topic")?;
        accept(topic.error_code)?;
        let mut directory = Directory { topic_id: topic.topic_id, leaders: BTreeMap::new() };
        for partition in topic.partitions.iter().filter(|partition| partition.leader_id >= 0) {
            directory.leaders.insert(partition.partition_index, partition.leader_id);
        }
        self.directory = Some(directory);
        Ok(())
    }
}

pub fn accept(code: i16) -> Result<(), String> {
    match ErrorCode::from_i16(code) {
        ErrorCode::None => Ok(()),
        error => Err(error.to_string()),
    }
}

pub fn frame<M: Message>(key: ApiKey, version: i16, message: &M) -> Vec<u8> {
    encode_request(key, version, 0, Some("simulated"), message).expect("our own requests can be encoded")
}

pub fn decoded<'a, R: Request>(frame: &'a [u8], version: i16) -> Result<R::Response<'a>, String> {
    decode_response::<R>(frame, version).map(|(_, response)| response).map_err(|error| error.to_string())
}

fn metadata() -> Question {
    let topic = MetadataRequestTopic { name: Some(TOPIC.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() };
    let frame = frame(ApiKey::Metadata, METADATA_VERSION, &request);
    Question { leader_of: None, key: ApiKey::Metadata, frame }
}
