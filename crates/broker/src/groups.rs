//! The group coordinator's shards on this broker: one for each partition of `__consumer_offsets` that it leads, loaded
//! from its log, written through it, and dropped with its leadership.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use coordinator::{GroupConfig, GroupShard, OFFSETS_TOPIC, Output, Record, Response, Ticket, Token, partition_of};
use metadata::config::NodeConfig;
use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use protocol::messages::delete_groups_response::DeletableGroupResult;
use protocol::messages::{CreateTopicsRequest, DeleteGroupsResponse};
use protocol::messages::{HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, SyncGroupResponse};
use protocol::records::{BatchBuilder, BatchSpec, Batches, Scratch};
use protocol::time::Now;
use replication::PartitionKey;
use storage::AppendOrigin;

use crate::control::ControlOp;
use crate::node::Node;
use crate::reply::ReplyTo;

/// Bytes of a shard's log replayed per turn: a large one must not keep the node from everything else.
const LOAD_BYTES_PER_TURN: u32 = 1 << 20;
/// From here on the answer to JoinGroup has a null for "no protocol".
const NULL_PROTOCOL_FROM: i16 = 7;

struct Loaded {
    shard: GroupShard,
    leader_epoch: i32,
    /// The next offset to replay; `None` once the shard serves.
    loading: Option<i64>,
    /// Written and not committed, with the high watermark that each waits for.
    writes: VecDeque<(i64, Ticket)>,
    /// Somebody spoke with the shard since it was last driven.
    is_touched: bool,
    /// When the shard wants to be driven even if nothing happens; asked for once after each time.
    due_ms: i64,
}

struct Waiting {
    reply: ReplyTo,
    partition: i32,
    /// For a group of a DeleteGroups: which request, and which of its groups.
    delete: Option<(u64, usize)>,
}

struct Deleting {
    reply: ReplyTo,
    results: Vec<DeletableGroupResult<'static>>,
    left: usize,
}

/// Invariants: a shard's partition is led by this broker in the shard's leader epoch; every token belongs to a shard
/// that is here.
pub(crate) struct Groups {
    config: GroupConfig,
    shards: BTreeMap<i32, Loaded>,
    tokens: BTreeMap<Token, Waiting>,
    token_next: u64,
    deletes: BTreeMap<u64, Deleting>,
    /// Partitions of the topic whose role may have changed.
    pub changed: BTreeSet<i32>,
}

impl Groups {
    pub fn new(config: &NodeConfig) -> Self {
        let config = GroupConfig {
            session_timeout_min_ms: config.group_min_session_timeout_ms,
            session_timeout_max_ms: config.group_max_session_timeout_ms,
            initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms,
            size_max: usize::try_from(config.group_max_size).unwrap_or(usize::MAX),
            metadata_bytes_max: usize::try_from(config.offset_metadata_max_bytes).unwrap_or(0),
            retention_ms: i64::from(config.offsets_retention_minutes).saturating_mul(60_000),
            retention_check_ms: config.offsets_retention_check_interval_ms.max(1),
        };
        Self {
            config,
            shards: BTreeMap::new(),
            tokens: BTreeMap::new(),
            token_next: 0,
            deletes: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    pub fn next_deadline(&self) -> i64 {
        self.shards.values().map(|loaded| loaded.due_ms).min().unwrap_or(i64::MAX)
    }

    fn new_token(&mut self, reply: ReplyTo, partition: i32, delete: Option<(u64, usize)>) -> Token {
        let token = Token(self.token_next);
        self.token_next += 1;
        self.tokens.insert(token, Waiting { reply, partition, delete });
        token
    }

    /// Shards that serve now; an error if one is still being loaded.
    pub fn serving(&self) -> Result<Vec<&GroupShard>, ErrorCode> {
        if self.shards.values().any(|s| s.loading.is_some()) {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        Ok(self.shards.values().map(|s| &s.shard).collect())
    }
}

impl Node {
    /// The partition that holds a group, if this broker serves it.
    pub(crate) fn group_partition(&self, group: &str) -> Result<i32, ErrorCode> {
        let topic = self.image.topic(OFFSETS_TOPIC).ok_or(ErrorCode::NotCoordinator)?;
        let partition = partition_of(group, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
        match self.groups.shards.get(&partition) {
            None => Err(ErrorCode::NotCoordinator),
            Some(loaded) if loaded.loading.is_some() => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(_) => Ok(partition),
        }
    }

    pub(crate) fn group_shard(&mut self, group: &str) -> Result<&mut GroupShard, ErrorCode> {
        let partition = self.group_partition(group)?;
        let loaded = self.groups.shards.get_mut(&partition).expect("found above");
        loaded.is_touched = true;
        Ok(&mut loaded.shard)
    }

    /// A shard and a token for a request whose answer comes through [`Node::drive_groups`].
    pub(crate) fn group_call(&mut self, group: &str, reply: ReplyTo) -> Result<(&mut GroupShard, Token), ErrorCode> {
        let partition = self.group_partition(group)?;
        let token = self.groups.new_token(reply, partition, None);
        let loaded = self.groups.shards.get_mut(&partition).expect("found above");
        loaded.is_touched = true;
        Ok((&mut loaded.shard, token))
    }

    pub(crate) fn delete_groups(&mut self, reply: ReplyTo, names: Vec<String>) {
        let id = self.groups.token_next;
        self.groups.token_next += 1;
        let mut results = Vec::with_capacity(names.len());
        let mut calls = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let code = match self.group_partition(&name) {
                _ if name.is_empty() => ErrorCode::InvalidGroupId,
                Ok(partition) => {
                    calls.push((index, partition, name.clone()));
                    ErrorCode::None
                }
                Err(code) => code,
            };
            results.push(DeletableGroupResult { group_id: name.into(), error_code: code.into(), ..Default::default() });
        }
        if calls.is_empty() {
            return self.respond(reply, &DeleteGroupsResponse { results, ..Default::default() });
        }
        self.groups.deletes.insert(id, Deleting { reply, results, left: calls.len() });
        for (index, partition, name) in calls {
            let token = self.groups.new_token(reply, partition, Some((id, index)));
            if let Some(loaded) = self.groups.shards.get_mut(&partition) {
                loaded.is_touched = true;
                loaded.shard.delete(&name, token);
            }
        }
    }

    /// Loads, writes, commits and answers; whether there was anything.
    pub(crate) fn drive_groups(&mut self, now: Now) -> bool {
        let mut busy = self.follow_roles(now);
        let partitions: Vec<i32> = self.groups.shards.keys().copied().collect();
        for partition in partitions {
            busy |= self.drive_shard(partition, now);
        }
        busy
    }

    fn offsets_key(&self, partition: i32) -> Option<PartitionKey> {
        self.topic_key(OFFSETS_TOPIC, partition)
    }

    fn follow_roles(&mut self, now: Now) -> bool {
        let mut busy = false;
        for partition in std::mem::take(&mut self.groups.changed) {
            let led = self.offsets_key(partition).and_then(|key| self.replicas.get(key)).filter(|p| p.is_leader());
            let led = led.map(|p| (p.leader_epoch(), p.log().log_start_offset()));
            let known = self.groups.shards.get(&partition).map(|s| s.leader_epoch);
            if known == led.map(|(epoch, _)| epoch) {
                continue;
            }
            busy = true;
            if known.is_some() {
                self.drop_shard(partition, ErrorCode::NotCoordinator);
            }
            if let Some((leader_epoch, start)) = led {
                let shard = GroupShard::new(self.groups.config, self.rng.u64(..), now);
                let loaded = Loaded {
                    shard,
                    leader_epoch,
                    loading: Some(start),
                    writes: VecDeque::new(),
                    is_touched: true,
                    due_ms: i64::MAX,
                };
                self.groups.shards.insert(partition, loaded);
            }
        }
        busy
    }

    /// Whoever waits is sent to look for the coordinator again.
    fn drop_shard(&mut self, partition: i32, code: ErrorCode) {
        self.groups.shards.remove(&partition);
        let gone: Vec<Token> =
            self.groups.tokens.iter().filter(|(_, w)| w.partition == partition).map(|(token, _)| *token).collect();
        for token in gone {
            let Some(waiting) = self.groups.tokens.remove(&token) else { continue };
            match waiting.delete {
                Some(place) => self.on_group_deleted(place, code),
                None => self.refuse_group_request(waiting.reply, code),
            }
        }
    }

    pub(crate) fn drop_all_groups(&mut self) {
        let partitions: Vec<i32> = self.groups.shards.keys().copied().collect();
        for partition in partitions {
            self.drop_shard(partition, ErrorCode::NotCoordinator);
        }
    }

    fn drive_shard(&mut self, partition: i32, now: Now) -> bool {
        let Some(key) = self.offsets_key(partition) else {
            self.drop_shard(partition, ErrorCode::NotCoordinator);
            return true;
        };
        let Some(loaded) = self.groups.shards.get_mut(&partition) else { return false };
        if let Some(from) = loaded.loading {
            return self.load_shard(partition, key, from, now);
        }
        if !loaded.is_touched && loaded.writes.is_empty() && now.mono_ms < loaded.due_ms {
            return false;
        }
        loaded.is_touched = false;
        let high_watermark = self.replicas.all.get(&key).map_or(-1, |r| r.partition.high_watermark());
        while let Some((_, ticket)) = loaded.writes.pop_front_if(|(end, _)| *end <= high_watermark) {
            loaded.shard.on_committed(ticket, now);
        }
        if loaded.shard.next_deadline() <= now.mono_ms {
            loaded.shard.tick(now);
        }
        let outputs = loaded.shard.take_outputs();
        loaded.due_ms = loaded.shard.next_deadline();
        let busy = !outputs.is_empty();
        for output in outputs {
            match output {
                Output::Respond(token, response) => self.on_group_response(token, response),
                Output::Write(ticket, records) => {
                    if !self.write_group_records(partition, key, ticket, &records, now) {
                        break;
                    }
                }
            }
        }
        busy
    }

    /// Replays what earlier coordinators have written. The shard serves once all of it is committed.
    fn load_shard(&mut self, partition: i32, key: PartitionKey, from: i64, now: Now) -> bool {
        let Some(replica) = self.replicas.all.get_mut(&key) else { return false };
        let end = replica.partition.log().end_offset();
        let Some(loaded) = self.groups.shards.get_mut(&partition) else { return false };
        if from >= end {
            let is_settled = replica.partition.high_watermark() >= end;
            if is_settled {
                loaded.loading = None;
                loaded.is_touched = true;
                tracing::info!(partition, end, "group coordinator has loaded");
            }
            return is_settled;
        }
        let plan = replica.partition.log_mut().read(from, LOAD_BYTES_PER_TURN, true, None);
        let bytes = match plan {
            Ok(plan) => plan.bytes(),
            Err(_) => {
                // Retention moved the start on.
                loaded.loading = Some(replica.partition.log().log_start_offset().max(from + 1));
                return true;
            }
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                self.fail(format!("log.dirs: {OFFSETS_TOPIC}-{partition} cannot be read: {error}"));
                return false;
            }
        };
        let mut next = from;
        let mut scratch = Scratch::default();
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            next = batch.header.next_offset().max(next);
            if batch.header.is_control() {
                continue;
            }
            let Ok(records) = batch.records(&mut scratch) else { continue };
            for record in records.map_while(Result::ok) {
                let Some(record_key) = record.key else { continue };
                if let Err(error) = loaded.shard.replay(record_key, record.value, now) {
                    tracing::warn!(partition, offset = record.offset, %error, "record is passed over");
                }
            }
        }
        // A batch larger than a turn's share is read whole; nothing read means that something is not a batch.
        loaded.loading = Some(if next == from { end } else { next });
        true
    }

    /// Appends; false if that failed, and then the shard begins anew from what the log has.
    fn write_group_records(
        &mut self,
        partition: i32,
        key: PartitionKey,
        ticket: Ticket,
        records: &[Record],
        now: Now,
    ) -> bool {
        let mut builder = BatchBuilder::new(BatchSpec { base_sequence: 0, ..Default::default() });
        for record in records {
            builder.append(now.wall_ms, Some(&record.key), record.value.as_deref(), &[]);
        }
        let mut batch = builder.build();
        let Some(replica) = self.replicas.all.get_mut(&key) else { return false };
        match replica.partition.append_as_leader(&mut batch, AppendOrigin::Internal, true, now) {
            Ok(info) => {
                self.replicas.touched.insert(key);
                if let Some(loaded) = self.groups.shards.get_mut(&partition) {
                    loaded.writes.push_back((info.last_offset + 1, ticket));
                }
                true
            }
            Err(error) => {
                tracing::warn!(partition, ?error, "group records cannot be written; the coordinator loads again");
                self.drop_shard(partition, ErrorCode::CoordinatorNotAvailable);
                self.groups.changed.insert(partition);
                false
            }
        }
    }

    fn on_group_response(&mut self, token: Token, response: Response) {
        let Some(waiting) = self.groups.tokens.remove(&token) else { return };
        let reply = waiting.reply;
        match response {
            Response::Join(mut response) => {
                if reply.version < NULL_PROTOCOL_FROM {
                    response.protocol_name.get_or_insert("".into());
                    response.protocol_type = None;
                }
                self.respond(reply, &response);
            }
            Response::Sync(mut response) => {
                if reply.version < 5 {
                    response.protocol_type = None;
                    response.protocol_name = None;
                }
                self.respond(reply, &response);
            }
            Response::Leave(response) => self.respond(reply, &response),
            Response::OffsetCommit(response) => self.respond(reply, &response),
            Response::OffsetDelete(response) => self.respond(reply, &response),
            Response::Deleted(code) => {
                if let Some(place) = waiting.delete {
                    self.on_group_deleted(place, code);
                }
            }
        }
    }

    fn on_group_deleted(&mut self, (id, index): (u64, usize), code: ErrorCode) {
        let Some(deleting) = self.groups.deletes.get_mut(&id) else { return };
        if let Some(result) = deleting.results.get_mut(index) {
            result.error_code = code.into();
        }
        deleting.left -= 1;
        if deleting.left == 0 {
            let Some(done) = self.groups.deletes.remove(&id) else { return };
            self.respond(done.reply, &DeleteGroupsResponse { results: done.results, ..Default::default() });
        }
    }

    /// An error in the shape of the request's answer.
    pub(crate) fn refuse_group_request(&mut self, reply: ReplyTo, code: ErrorCode) {
        let error_code = code.into();
        match reply.key {
            ApiKey::JoinGroup => {
                let protocol_name = (reply.version < NULL_PROTOCOL_FROM).then(|| "".into());
                let response = JoinGroupResponse { error_code, generation_id: -1, protocol_name, ..Default::default() };
                self.respond(reply, &response);
            }
            ApiKey::SyncGroup => self.respond(reply, &SyncGroupResponse { error_code, ..Default::default() }),
            ApiKey::Heartbeat => self.respond(reply, &HeartbeatResponse { error_code, ..Default::default() }),
            ApiKey::LeaveGroup => self.respond(reply, &LeaveGroupResponse { error_code, ..Default::default() }),
            // Their answers carry the code in each part, which only the request could name: the client asks again.
            key => self.hang_up(reply, format!("{} was under way when the coordinator moved", key.name())),
        }
    }

    /// Creates `__consumer_offsets` when the first group asks for its coordinator.
    pub(crate) fn create_offsets_topic(&mut self, now: Now) {
        if !self.auto_creating.insert(OFFSETS_TOPIC.to_owned()) {
            return;
        }
        let config = |name: &str, value: String| CreatableTopicConfig {
            name: name.to_owned().into(),
            value: Some(value.into()),
            ..Default::default()
        };
        let topic = CreatableTopic {
            name: OFFSETS_TOPIC.into(),
            num_partitions: self.config.offsets_topic_num_partitions,
            replication_factor: self.config.offsets_topic_replication_factor,
            configs: vec![
                config("cleanup.policy", "compact".to_owned()),
                config("compression.type", "producer".to_owned()),
                config("segment.bytes", self.config.offsets_topic_segment_bytes.to_string()),
            ],
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        self.ask_controller(ControlOp::AutoCreate(vec![OFFSETS_TOPIC.to_owned()]), ApiKey::CreateTopics, request, now);
    }
}
