//! Reads partitions directly from their leaders, without a group: offsets are asked for, records fetched, nothing is
//! committed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use protocol::error::ErrorCode;
use protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use protocol::messages::fetch_response::PartitionData;
use protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use protocol::messages::{FetchRequest, ListOffsetsRequest};
use protocol::records::{Batches, ControlRecordType, Record, Scratch, TimestampType};
use protocol::wire::Uuid;

use super::metadata::Topics;
use super::{Answer, Client, ClientError, Target};

pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

pub type TopicPartition = (String, i32);

/// Where to go on when an offset does not exist, or is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    Earliest,
    Latest,
    None,
}

#[derive(Clone, Copy, Debug)]
pub struct FetchConfig {
    pub read_committed: bool,
    pub max_wait: Duration,
    pub min_bytes: i32,
    pub max_bytes: i32,
    pub partition_max_bytes: i32,
    pub reset: Reset,
    pub check_crcs: bool,
}

impl Default for FetchConfig {
    fn default() -> Self {
        FetchConfig {
            read_committed: false,
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            reset: Reset::Latest,
            check_crcs: true,
        }
    }
}

/// A record and where it came from.
pub struct Message<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub timestamp_type: TimestampType,
    pub record: Record<'a>,
}

pub struct Consumer {
    pub client: Client,
    config: FetchConfig,
    /// The next offset of each partition; `None` until it is asked for.
    positions: BTreeMap<TopicPartition, Option<i64>>,
    /// Read in turns: the partition that comes first changes, so that a busy one cannot starve the others.
    turn: usize,
}

impl Consumer {
    pub fn new(client: Client, config: FetchConfig) -> Consumer {
        Consumer { client, config, positions: BTreeMap::new(), turn: 0 }
    }

    /// Reads a partition from an offset, or from where `reset` says.
    pub fn assign(&mut self, topic: &str, partition: i32, offset: Option<i64>) {
        self.positions.insert((topic.to_owned(), partition), offset);
    }

    /// Stops reading a partition.
    pub fn unassign(&mut self, key: &TopicPartition) {
        self.positions.remove(key);
    }

    /// Stops reading all partitions.
    pub fn unassign_all(&mut self) {
        self.positions.clear();
    }

    /// The next offsets of the partitions that have one.
    pub fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        self.positions.iter().filter_map(|(key, offset)| Some((key.clone(), (*offset)?))).collect()
    }

    /// Every partition that is read, whether it has an offset yet or not.
    pub fn assigned(&self) -> Vec<TopicPartition> {
        self.positions.keys().cloned().collect()
    }

    pub fn reset(&self) -> Reset {
        self.config.reset
    }

    pub fn is_assigned(&self, topic: &str, partition: i32) -> bool {
        self.positions.contains_key(&(topic.to_owned(), partition))
    }

    /// Fetches once from every leader and hands each record to `take` until it returns false.
    pub fn poll(&mut self, wait: Duration, mut take: impl FnMut(&Message<'_>) -> bool) -> Result<(), ClientError> {
        self.find_positions()?;
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, i64)>> = BTreeMap::new();
        let mut leaderless = BTreeSet::new();
        for (key, offset) in &self.positions {
            let Some(offset) = offset else { continue };
            match self.client.metadata.leader(&key.0, key.1) {
                Some(leader) => by_leader.entry(leader).or_default().push((key.clone(), *offset)),
                None => {
                    leaderless.insert(key.0.clone());
                }
            }
        }
        if !leaderless.is_empty() {
            self.refresh(leaderless);
        }
        if by_leader.is_empty() {
            std::thread::sleep(wait.min(self.client.settings.retry_backoff));
            return Ok(());
        }
        self.fetch(by_leader, wait, &mut take)
    }

    fn refresh(&mut self, topics: BTreeSet<String>) {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let _ = self.client.refresh_once(Topics::Named(&names), false);
    }

    /// All leaders are asked before the first answer is awaited, so that a quiet one does not hold up the others.
    fn fetch(
        &mut self,
        mut by_leader: BTreeMap<i32, Vec<(TopicPartition, i64)>>,
        wait: Duration,
        take: &mut impl FnMut(&Message<'_>) -> bool,
    ) -> Result<(), ClientError> {
        self.turn = self.turn.wrapping_add(1);
        let mut stale = BTreeSet::new();
        let mut asked = Vec::new();
        for (leader, partitions) in &mut by_leader {
            let turn = self.turn % partitions.len();
            partitions.rotate_left(turn);
            match self.ask(*leader, partitions, wait) {
                Ok(version) => asked.push((*leader, version)),
                Err(ClientError::Network(_)) => {
                    self.client.drop_connection(*leader);
                    stale.extend(partitions.iter().map(|(key, _)| key.0.clone()));
                }
                Err(error) => return Err(error),
            }
        }
        let deadline = Instant::now() + self.client.settings.request_timeout + wait;
        let mut go_on = true;
        for (leader, version) in asked {
            let answer = self
                .client
                .connection(leader)
                .and_then(|connection| connection.receive(deadline))
                .and_then(|frame| Answer::<FetchRequest<'_>>::new(frame, version));
            match answer {
                Ok(answer) if go_on => go_on = self.on_answer(&answer, take, &mut stale)?,
                Ok(_) => {}
                Err(ClientError::Network(_)) => {
                    self.client.drop_connection(leader);
                    stale.extend(by_leader[&leader].iter().map(|(key, _)| key.0.clone()));
                }
                Err(error) => return Err(error),
            }
        }
        if !stale.is_empty() {
            self.refresh(stale);
            std::thread::sleep(wait.min(self.client.settings.retry_backoff));
        }
        Ok(())
    }

    fn ask(&mut self, leader: i32, partitions: &[(TopicPartition, i64)], wait: Duration) -> Result<i16, ClientError> {
        let version = self.client.connection(leader)?.versions.common(protocol::api::ApiKey::Fetch)?;
        let mut topics: Vec<FetchTopic<'_>> = Vec::new();
        for (key, offset) in partitions {
            let epoch = self.client.metadata.partition(&key.0, key.1).map_or(-1, |partition| partition.leader_epoch);
            let id = self.client.metadata.topics.get(&key.0).map_or(Uuid::ZERO, |topic| topic.id);
            let by_id = version >= 13;
            let (name, id) = if by_id { ("", id) } else { (key.0.as_str(), Uuid::ZERO) };
            let partition = FetchPartition {
                partition: key.1,
                current_leader_epoch: if version >= 9 { epoch } else { -1 },
                fetch_offset: *offset,
                partition_max_bytes: self.config.partition_max_bytes,
                ..Default::default()
            };
            match topics.iter_mut().find(|topic| topic.topic == name && topic.topic_id == id) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(FetchTopic {
                    topic: name.into(),
                    topic_id: id,
                    partitions: vec![partition],
                    ..Default::default()
                }),
            }
        }
        let request = FetchRequest {
            max_wait_ms: i32::try_from(self.config.max_wait.min(wait).as_millis()).unwrap_or(i32::MAX),
            min_bytes: self.config.min_bytes,
            max_bytes: self.config.max_bytes,
            isolation_level: i8::from(self.config.read_committed),
            session_epoch: -1,
            topics,
            ..Default::default()
        };
        self.client.connection(leader)?.send(version, &request)?;
        Ok(version)
    }

    fn on_answer(
        &mut self,
        answer: &Answer<FetchRequest<'_>>,
        take: &mut impl FnMut(&Message<'_>) -> bool,
        stale: &mut BTreeSet<String>,
    ) -> Result<bool, ClientError> {
        let response = answer.get()?;
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {}
            code if code.is_retriable() => {
                stale.extend(self.positions.keys().map(|key| key.0.clone()));
                return Ok(true);
            }
            code => return Err(ClientError::server(code, None)),
        }
        for topic in &response.responses {
            let by_id = || self.client.metadata.topics.iter().find(|(_, known)| known.id == topic.topic_id);
            let name = if topic.topic.is_empty() {
                by_id().map(|(name, _)| name.clone())
            } else {
                Some(topic.topic.to_string())
            };
            let Some(name) = name else { continue };
            for partition in &topic.partitions {
                if !self.on_partition(&name, partition, take, stale)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn on_partition(
        &mut self,
        topic: &str,
        data: &PartitionData<'_>,
        take: &mut impl FnMut(&Message<'_>) -> bool,
        stale: &mut BTreeSet<String>,
    ) -> Result<bool, ClientError> {
        let key = (topic.to_owned(), data.partition_index);
        let Some(Some(position)) = self.positions.get(&key).copied() else { return Ok(true) };
        match ErrorCode::from_i16(data.error_code) {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange if self.config.reset != Reset::None => {
                self.positions.insert(key, None);
                return Ok(true);
            }
            ErrorCode::OffsetOutOfRange => {
                let message = format!("Fetch position {position} is out of range for partition {topic}-{}", key.1);
                return Err(ClientError::Server { code: ErrorCode::OffsetOutOfRange, message });
            }
            code if code.is_retriable() || code == ErrorCode::UnknownTopicId => {
                let current = &data.current_leader;
                if !self.client.metadata.hint(topic, key.1, current.leader_id, current.leader_epoch) {
                    stale.insert(topic.to_owned());
                }
                return Ok(true);
            }
            code => return Err(ClientError::server(code, None)),
        }
        let mut next = position;
        let read = read_partition(topic, data, &self.config, &mut next, take);
        self.positions.insert(key, Some(next));
        read
    }

    /// Asks for the offsets of partitions that have none.
    fn find_positions(&mut self) -> Result<(), ClientError> {
        let missing: Vec<TopicPartition> =
            self.positions.iter().filter(|(_, offset)| offset.is_none()).map(|(key, _)| key.clone()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let timestamp = if self.config.reset == Reset::Earliest { EARLIEST } else { LATEST };
        let wanted: Vec<(TopicPartition, i64)> = missing.into_iter().map(|key| (key, timestamp)).collect();
        for (key, result) in self.client.offsets(&wanted, self.config.read_committed) {
            match result {
                Ok(found) => {
                    self.positions.insert(key, Some(found.offset));
                }
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Hands out the records of one partition's answer; `next` follows what was handed out or skipped.
fn read_partition(
    topic: &str,
    data: &PartitionData<'_>,
    config: &FetchConfig,
    next: &mut i64,
    take: &mut impl FnMut(&Message<'_>) -> bool,
) -> Result<bool, ClientError> {
    let bytes = data.records.as_ref().map_or(&[] as &[u8], |records| records.bytes());
    let mut aborted: Vec<(i64, i64)> = data
        .aborted_transactions
        .as_deref()
        .unwrap_or_default()
        .iter()
        .map(|a| (a.first_offset, a.producer_id))
        .collect();
    aborted.sort_unstable();
    let mut aborting: HashSet<i64> = HashSet::new();
    let broken = |error: protocol::records::RecordError| {
        ClientError::Malformed(format!("a batch of {topic}-{} is broken: {error}", data.partition_index))
    };
    let mut scratch = Scratch::default();
    for batch in Batches::new(bytes) {
        let batch = batch.map_err(broken)?;
        let header = batch.header;
        if config.check_crcs {
            batch.verify_crc().map_err(broken)?;
        }
        if header.next_offset() <= *next {
            continue;
        }
        while config.read_committed && aborted.first().is_some_and(|(first, _)| *first <= header.last_offset()) {
            aborting.insert(aborted.remove(0).1);
        }
        if header.is_control() {
            if let Some(Ok(record)) = batch.records(&mut scratch).map_err(broken)?.next() {
                let kind = record.key.and_then(ControlRecordType::parse);
                if matches!(kind, Some(ControlRecordType::Abort)) {
                    aborting.remove(&header.producer_id);
                }
            }
            *next = header.next_offset();
            continue;
        }
        if config.read_committed && header.is_transactional() && aborting.contains(&header.producer_id) {
            *next = header.next_offset();
            continue;
        }
        for record in batch.records(&mut scratch).map_err(broken)? {
            let record = record.map_err(broken)?;
            if record.offset < *next {
                continue;
            }
            *next = record.offset + 1;
            let timestamp_type = header.timestamp_type();
            let message = Message { topic, partition: data.partition_index, timestamp_type, record };
            if !take(&message) {
                return Ok(false);
            }
        }
        *next = header.next_offset();
    }
    Ok(true)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    pub offset: i64,
    pub timestamp: i64,
}

impl Client {
    /// ListOffsets for many partitions, from their leaders. Leaders that moved are looked for again until the time
    /// for a call is up.
    pub fn offsets(
        &mut self,
        wanted: &[(TopicPartition, i64)],
        read_committed: bool,
    ) -> BTreeMap<TopicPartition, Result<FoundOffset, ClientError>> {
        let deadline = Instant::now() + self.settings.api_timeout;
        let mut out = BTreeMap::new();
        let mut left: Vec<(TopicPartition, i64)> = wanted.to_vec();
        loop {
            let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, i64)>> = BTreeMap::new();
            for (key, timestamp) in left.drain(..) {
                let leader = self.metadata.leader(&key.0, key.1).unwrap_or(i32::MIN);
                by_leader.entry(leader).or_default().push((key, timestamp));
            }
            for (leader, partitions) in by_leader {
                let unknown = ClientError::server(ErrorCode::LeaderNotAvailable, None);
                let result = if leader == i32::MIN {
                    Err(unknown)
                } else {
                    self.ask_offsets(leader, &partitions, read_committed)
                };
                match result {
                    Ok(found) => {
                        for (key, timestamp) in partitions {
                            match found.get(&key) {
                                Some(Err(error)) if error.is_transient() && Instant::now() < deadline => {
                                    left.push((key, timestamp))
                                }
                                Some(result) => {
                                    out.insert(key, result.clone());
                                }
                                None => {}
                            }
                        }
                    }
                    Err(error) if error.is_transient() && Instant::now() < deadline => left.extend(partitions),
                    Err(error) => {
                        for (key, _) in partitions {
                            out.insert(key, Err(error.clone()));
                        }
                    }
                }
            }
            if left.is_empty() {
                return out;
            }
            std::thread::sleep(self.settings.retry_backoff);
            let names: BTreeSet<String> = left.iter().map(|(key, _)| key.0.clone()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let _ = self.refresh_once(Topics::Named(&names), false);
        }
    }

    fn ask_offsets(
        &mut self,
        leader: i32,
        partitions: &[(TopicPartition, i64)],
        read_committed: bool,
    ) -> Result<BTreeMap<TopicPartition, Result<FoundOffset, ClientError>>, ClientError> {
        let build = |_: i16| {
            let mut topics: Vec<ListOffsetsTopic<'_>> = Vec::new();
            for ((topic, partition), timestamp) in partitions {
                let entry =
                    ListOffsetsPartition { partition_index: *partition, timestamp: *timestamp, ..Default::default() };
                match topics.iter_mut().find(|known| known.name == topic.as_str()) {
                    Some(known) => known.partitions.push(entry),
                    None => topics.push(ListOffsetsTopic {
                        name: topic.as_str().into(),
                        partitions: vec![entry],
                        ..Default::default()
                    }),
                }
            }
            ListOffsetsRequest {
                replica_id: -1,
                isolation_level: i8::from(read_committed),
                topics,
                ..Default::default()
            }
        };
        let answer = self.once(Target::Broker(leader), build)?;
        let response = answer.get()?;
        let mut out = BTreeMap::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                let key = (topic.name.to_string(), partition.partition_index);
                let result = match ErrorCode::from_i16(partition.error_code) {
                    ErrorCode::None => Ok(FoundOffset { offset: partition.offset, timestamp: partition.timestamp }),
                    code => Err(ClientError::server(code, None)),
                };
                out.insert(key, result);
            }
        }
        Ok(out)
    }
}
