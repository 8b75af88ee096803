//! A producer in one thread: records are gathered into batches per partition, batches travel with up to
//! `in_flight_max` requests per broker, and are repeated in order until they are acknowledged or given up.
//!
//! With idempotence (the default with acks=all) each batch keeps its sequence number for good. When one of several
//! batches in flight fails, those behind it are refused as out of order; all of them wait until nothing of their
//! partition is in flight and are then sent again one by one, oldest first, so that order and uniqueness hold
//! (KIP-98, KIP-185).
//!
//! Each connection has a thread that reads answers; everything else happens in [`Producer::poll`].

mod batch;
mod link;
mod partitioner;
mod send;
mod transaction;

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use protocol::error::ErrorCode;
use protocol::records::Compression;

use super::metadata::Topics;
use super::{BACKOFF_MAX, BACKOFF_MIN, Client, ClientError, Settings};
use batch::{Batch, State};
use link::{Event, Link};
use partitioner::Partitioner;
use transaction::Transaction;

#[derive(Clone, Debug)]
pub struct Config {
    pub acks: i16,
    pub linger: Duration,
    pub batch_bytes_max: usize,
    pub request_bytes_max: usize,
    pub buffer_bytes_max: usize,
    pub compression: Compression,
    pub retries: u32,
    pub retry_backoff: Duration,
    pub request_timeout: Duration,
    pub delivery_timeout: Duration,
    pub block_max: Duration,
    pub in_flight_max: usize,
    pub idempotence: bool,
    /// Makes every record part of a transaction.
    pub transactional_id: Option<String>,
    /// How long a transaction may take before its coordinator aborts it.
    pub transaction_timeout: Duration,
}

impl Default for Config {
    /// The defaults of Kafka's producer.
    fn default() -> Self {
        Config {
            acks: -1,
            linger: Duration::from_millis(5),
            batch_bytes_max: 16384,
            request_bytes_max: 1 << 20,
            buffer_bytes_max: 32 << 20,
            compression: Compression::None,
            retries: u32::MAX,
            retry_backoff: Duration::from_millis(100),
            request_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(120),
            block_max: Duration::from_secs(60),
            in_flight_max: 5,
            idempotence: true,
            transactional_id: None,
            transaction_timeout: Duration::from_secs(60),
        }
    }
}

/// A record to send.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
    pub timestamp_ms: i64,
    /// Comes back with the outcome.
    pub tag: u64,
}

#[derive(Clone, Debug)]
pub struct Delivered {
    pub offset: i64,
}

/// What became of a record.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub tag: u64,
    pub partition: i32,
    pub key_len: Option<usize>,
    pub value_len: Option<usize>,
    pub sent_at: Instant,
    pub done_at: Instant,
    pub result: Result<Delivered, ClientError>,
}

pub struct Producer {
    config: Config,
    client: Client,
    partitioner: Partitioner,
    queues: BTreeMap<(String, i32), VecDeque<Batch>>,
    links: BTreeMap<i32, Link>,
    /// When a broker that could not be reached may be tried again.
    unreachable: BTreeMap<i32, Instant>,
    events: Receiver<Event>,
    event_sender: Sender<Event>,
    link_serial: u64,
    batch_serial: u64,
    /// Producer id and epoch, once there are records to send with them.
    identity: Option<(i64, i16)>,
    sequences: BTreeMap<(String, i32), i32>,
    transaction: Transaction,
    refresh_at: Option<Instant>,
    buffered_bytes: usize,
    flushing: bool,
    outcomes: Vec<Outcome>,
}

impl Producer {
    pub fn new(settings: Settings, config: Config) -> Producer {
        let (event_sender, events) = channel();
        Producer {
            partitioner: Partitioner::new(config.batch_bytes_max),
            config,
            client: Client::new(settings),
            queues: BTreeMap::new(),
            links: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            events,
            event_sender,
            link_serial: 0,
            batch_serial: 0,
            identity: None,
            sequences: BTreeMap::new(),
            transaction: Transaction::default(),
            refresh_at: None,
            buffered_bytes: 0,
            flushing: false,
            outcomes: Vec::new(),
        }
    }

    /// Takes a record over. Waits while the topic is unknown or the buffer full, `block_max` at most.
    pub fn send(&mut self, record: &Record<'_>) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.config.block_max;
        self.wait_for_topic(record.topic, deadline)?;
        let size = record_size(record);
        if size > self.config.request_bytes_max {
            let message = format!(
                "The message is {size} bytes when serialized which is larger than {}, which is the value of the \
                 max.request.size configuration.",
                self.config.request_bytes_max
            );
            return Err(ClientError::Server { code: ErrorCode::MessageTooLarge, message });
        }
        while self.buffered_bytes + size > self.config.buffer_bytes_max && self.buffered_bytes > 0 {
            if Instant::now() >= deadline {
                let ms = self.config.block_max.as_millis();
                let text = format!("Failed to allocate {size} bytes within the configured max blocking time {ms} ms.");
                return Err(ClientError::Timeout(text));
            }
            self.poll(Duration::from_millis(50));
        }
        let partition = self.choose(record)?;
        self.announce(record.topic, partition)?;
        self.append(record, partition, size);
        Ok(())
    }

    fn choose(&mut self, record: &Record<'_>) -> Result<i32, ClientError> {
        let count = self.client.metadata.topics.get(record.topic).map_or(0, |topic| topic.partitions.len() as i32);
        match record.partition {
            Some(partition) if (0..count).contains(&partition) => Ok(partition),
            Some(partition) => Err(ClientError::Server {
                code: ErrorCode::UnknownTopicOrPartition,
                message: format!("Topic {} has no partition {partition}: it has {count}", record.topic),
            }),
            None => Ok(self.partitioner.choose(record.topic, record.key, record_size(record), count)),
        }
    }

    fn append(&mut self, record: &Record<'_>, partition: i32, size: usize) {
        let queue = self.queues.entry((record.topic.to_owned(), partition)).or_default();
        let fits = queue.back().is_some_and(|batch| batch.takes(size, self.config.batch_bytes_max));
        if !fits {
            if let Some(full) = queue.back_mut() {
                full.close();
            }
            self.batch_serial += 1;
            let transactional = self.config.transactional_id.is_some();
            queue.push_back(Batch::new(self.batch_serial, self.config.compression, transactional));
        }
        let batch = queue.back_mut().expect("there is an open batch");
        batch.append(record, size);
        self.buffered_bytes += size;
    }

    /// Until the topic's partitions are known; creates it if the brokers do that.
    fn wait_for_topic(&mut self, topic: &str, deadline: Instant) -> Result<(), ClientError> {
        let mut warned = false;
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.client.metadata.topics.get(topic).map(|known| (known.error, known.partitions.len())) {
                Some((ErrorCode::None, 1..)) => return Ok(()),
                Some((code, _)) if !code.is_retriable() && code != ErrorCode::None => {
                    self.client.metadata.topics.remove(topic);
                    if code == ErrorCode::InvalidTopicException {
                        self.client.warn(&recoverable(topic, code));
                        let text = format!("Metadata response reported invalid topics [{topic}]");
                        self.client.log("ERROR", &text, "org.apache.kafka.clients.Metadata");
                    }
                    return Err(ClientError::server(code, None).for_topic(topic));
                }
                Some((code, _)) if !warned => {
                    warned = true;
                    self.client.warn(&recoverable(topic, code));
                }
                _ => {}
            }
            if Instant::now() >= deadline {
                let ms = self.config.block_max.as_millis();
                return Err(ClientError::Timeout(format!("Topic {topic} not present in metadata after {ms} ms.")));
            }
            let known = self.client.metadata.topics.contains_key(topic);
            let refreshed = self.client.refresh_once(Topics::Named(&[topic]), true);
            if let Err(error @ (ClientError::Bootstrap(_) | ClientError::Unsupported(_))) = refreshed {
                return Err(error);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if refreshed.is_err() {
                std::thread::sleep(backoff.min(left));
                backoff = (backoff * 2).min(BACKOFF_MAX);
            } else if known {
                std::thread::sleep(self.config.retry_backoff.min(left));
            }
        }
    }

    /// Sends what is due and takes answers in, for at most `wait`.
    pub fn poll(&mut self, wait: Duration) {
        let now = Instant::now();
        self.maybe_refresh(now);
        self.expire(now);
        self.send_ready(now);
        let wait = wait.min(self.until_due(Instant::now()));
        if let Ok(event) = self.events.recv_timeout(wait) {
            self.on_event(event);
            while let Ok(event) = self.events.try_recv() {
                self.on_event(event);
            }
            self.send_ready(Instant::now());
        }
    }

    /// Until something is due: a batch's linger, a repetition, a refresh, a request's timeout.
    fn until_due(&self, now: Instant) -> Duration {
        let mut until = Duration::from_secs(1);
        let mut sooner = |at: Instant| until = until.min(at.saturating_duration_since(now));
        if let Some(at) = self.refresh_at {
            sooner(at);
        }
        for queue in self.queues.values() {
            if let Some(batch) = queue.iter().find(|batch| batch.state != State::Sent) {
                sooner(batch.due(self.config.linger));
            }
        }
        until.max(Duration::from_millis(1))
    }

    /// Waits until every record has its outcome.
    pub fn flush(&mut self) {
        self.flushing = true;
        while !self.queues.values().all(VecDeque::is_empty) {
            self.poll(Duration::from_millis(100));
        }
        self.flushing = false;
    }

    pub fn outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Records taken over and not yet answered.
    pub fn is_idle(&self) -> bool {
        self.queues.values().all(VecDeque::is_empty)
    }

    fn maybe_refresh(&mut self, now: Instant) {
        if self.refresh_at.is_none_or(|at| at > now) {
            return;
        }
        let names: Vec<String> = self.client.metadata.topics.keys().cloned().collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let result = self.client.refresh_once(Topics::Named(&names), false);
        let leaderless = self.queues.iter().any(|((topic, partition), queue)| {
            !queue.is_empty() && self.client.metadata.leader(topic, *partition).is_none()
        });
        self.refresh_at = (result.is_err() || leaderless).then(|| Instant::now() + self.config.retry_backoff);
    }

    fn refresh_soon(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.refresh_at = Some(self.refresh_at.map_or(at, |known| known.min(at)));
    }
}

/// What Kafka's client says of a topic that is not as it should be.
fn recoverable(topic: &str, code: ErrorCode) -> String {
    format!(
        "The metadata response from the cluster reported a recoverable issue with correlation id 1 : {{{topic}={}}}",
        code.name()
    )
}

/// An upper bound of what a record takes in a batch.
fn record_size(record: &Record<'_>) -> usize {
    let headers: usize = record.headers.iter().map(|(k, v)| k.len() + v.map_or(0, <[u8]>::len) + 10).sum();
    record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers + 21
}

impl ClientError {
    fn for_topic(self, topic: &str) -> ClientError {
        match self {
            ClientError::Server { code: ErrorCode::InvalidTopicException, .. } => ClientError::Server {
                code: ErrorCode::InvalidTopicException,
                message: format!("Invalid topics: [{topic}]"),
            },
            ClientError::Server { code: ErrorCode::TopicAuthorizationFailed, .. } => ClientError::Server {
                code: ErrorCode::TopicAuthorizationFailed,
                message: format!("Not authorized to access topics: [{topic}]"),
            },
            other => other,
        }
    }
}
