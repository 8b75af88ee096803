//! The group coordinator of this broker: the groups' requests, their shards in the runtime, and the answers' way back.

use std::collections::BTreeMap;

use coordinator::{Assignor, GroupConfig, GroupMutations, GroupShard, MigrationPolicy, OFFSETS_TOPIC};
use coordinator::{Response, Token, partition_of};
use metadata::MetadataDelta;
use metadata::config::NodeConfig;
use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use protocol::messages::delete_groups_response::DeletableGroupResult;
use protocol::messages::{ConsumerGroupHeartbeatResponse, CreateTopicsRequest, DeleteGroupsResponse};
use protocol::messages::{HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, SyncGroupResponse};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::control::ControlOp;
use crate::facts::ImageFacts;
use crate::node::Node;
use crate::reply::ReplyTo;
use crate::runtime::{Outcome, Runtime};

/// From here on the answer to JoinGroup has a null for "no protocol".
const NULL_PROTOCOL_FROM: i16 = 7;

pub(crate) struct Waiting {
    reply: ReplyTo,
    /// For a group of a DeleteGroups: which request, and which of its groups.
    delete: Option<(u64, usize)>,
}

struct Deleting {
    reply: ReplyTo,
    results: Vec<DeletableGroupResult<'static>>,
    left: usize,
}

/// Invariant: a deletion under way waits for as many groups as it has `left`.
pub(crate) struct Groups {
    config: GroupConfig,
    pub runtime: Runtime<GroupShard, Waiting>,
    delete_next: u64,
    deletes: BTreeMap<u64, Deleting>,
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
            consumer_size_max: usize::try_from(config.group_consumer_max_size).unwrap_or(usize::MAX),
            assignors: assignors(&config.group_consumer_assignors),
            migration: MigrationPolicy::from_name(&config.group_consumer_migration_policy)
                .unwrap_or(MigrationPolicy::Bidirectional),
            regex_refresh_ms: config.group_consumer_regex_refresh_interval_ms,
            mutations: GroupMutations::default(),
        };
        Self { config, runtime: Runtime::new(), delete_next: 0, deletes: BTreeMap::new() }
    }

    /// Shards that serve now; an error if one is still being loaded.
    pub fn serving(&self) -> Result<Vec<&GroupShard>, ErrorCode> {
        self.runtime.all_serving()
    }
}

/// The built-in ones, by name or by the name of Kafka's class. Java classes of others cannot be run here.
fn assignors(names: &[String]) -> [Option<Assignor>; 2] {
    let short = |name: &str| match name.rsplit('.').next().unwrap_or(name) {
        "UniformAssignor" => Some(Assignor::Uniform),
        "RangeAssignor" => Some(Assignor::Range),
        name => Assignor::from_name(name),
    };
    let mut known = names.iter().filter_map(|name| {
        let assignor = short(name);
        if assignor.is_none() {
            tracing::warn!(name, "group.consumer.assignors: this assignor is not known and is left out");
        }
        assignor
    });
    [known.next(), known.next()]
}

impl Node {
    /// The partition that holds a group.
    pub(crate) fn group_partition(&self, group: &str) -> Result<i32, ErrorCode> {
        let topic = self.image.topic(OFFSETS_TOPIC).ok_or(ErrorCode::NotCoordinator)?;
        Ok(partition_of(group, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)))
    }

    pub(crate) fn group_shard(&mut self, group: &str) -> Result<&mut GroupShard, ErrorCode> {
        let partition = self.group_partition(group)?;
        self.groups.runtime.serving(partition)
    }

    /// A shard and a token for a request whose answer comes through [`Node::drive_groups`].
    pub(crate) fn group_call(&mut self, group: &str, reply: ReplyTo) -> Result<(&mut GroupShard, Token), ErrorCode> {
        let partition = self.group_partition(group)?;
        self.groups.runtime.call(partition, Waiting { reply, delete: None }).map_err(|(_, code)| code)
    }

    /// As [`Node::group_call_with_facts`], for members: they are in no group without a name, though offsets may be.
    pub(crate) fn member_call(
        &mut self,
        group: &str,
        reply: ReplyTo,
    ) -> Result<(&mut GroupShard, Token, ImageFacts<'_>), ErrorCode> {
        if group.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        self.group_call_with_facts(group, reply)
    }

    /// As [`Node::group_call`], with what the shard may ask of the cluster.
    pub(crate) fn group_call_with_facts(
        &mut self,
        group: &str,
        reply: ReplyTo,
    ) -> Result<(&mut GroupShard, Token, ImageFacts<'_>), ErrorCode> {
        let partition = self.group_partition(group)?;
        let facts = ImageFacts { image: &self.image, config: &self.config, offset: self.replay.next - 1 };
        let called = self.groups.runtime.call(partition, Waiting { reply, delete: None });
        called.map(|(shard, token)| (shard, token, facts)).map_err(|(_, code)| code)
    }

    pub(crate) fn group_shard_with_facts(
        &mut self,
        group: &str,
    ) -> Result<(&mut GroupShard, ImageFacts<'_>), ErrorCode> {
        let partition = self.group_partition(group)?;
        let facts = ImageFacts { image: &self.image, config: &self.config, offset: self.replay.next - 1 };
        self.groups.runtime.serving(partition).map(|shard| (shard, facts))
    }

    /// Topics came, went or changed.
    pub(crate) fn tell_groups(&mut self, delta: &MetadataDelta) {
        let has_new = delta.everything || !delta.topics_created.is_empty();
        let changed =
            has_new || !(delta.topics_deleted.is_empty() && delta.partitions.is_empty() && delta.brokers.is_empty());
        if !changed {
            return;
        }
        let facts = ImageFacts { image: &self.image, config: &self.config, offset: self.replay.next - 1 };
        let deleted: BTreeMap<String, Uuid> =
            delta.topics_deleted.iter().map(|(id, topic)| (topic.name.clone(), *id)).collect();
        self.groups.runtime.tell(|shard| {
            shard.on_topics_changed(has_new, &facts);
            if !deleted.is_empty() {
                shard.on_topics_deleted(&deleted);
            }
        });
    }

    pub(crate) fn delete_groups(&mut self, reply: ReplyTo, names: Vec<String>) {
        let id = self.groups.delete_next;
        self.groups.delete_next += 1;
        let mut results = Vec::with_capacity(names.len());
        let mut left = 0;
        for (index, name) in names.into_iter().enumerate() {
            let waiting = Waiting { reply, delete: Some((id, index)) };
            let code = match self.group_partition(&name) {
                Err(code) => code,
                Ok(partition) => match self.groups.runtime.call(partition, waiting) {
                    Ok((shard, token)) => {
                        shard.delete(&name, token);
                        left += 1;
                        ErrorCode::None
                    }
                    Err((_, code)) => code,
                },
            };
            results.push(DeletableGroupResult { group_id: name.into(), error_code: code.into(), ..Default::default() });
        }
        if left == 0 {
            return self.respond(reply, &DeleteGroupsResponse { results, ..Default::default() });
        }
        self.groups.deletes.insert(id, Deleting { reply, results, left });
    }

    /// Loads, writes, commits and answers; whether there was anything.
    pub(crate) fn drive_groups(&mut self, now: Now) -> bool {
        let topic = self.image.topic_ids.get(OFFSETS_TOPIC).copied();
        let config = GroupConfig { mutations: self.mutations.groups, ..self.groups.config };
        let rng = &mut self.rng;
        let mut make = |_epoch: i32| GroupShard::new(config, rng.u64(..), now);
        let facts = ImageFacts { image: &self.image, config: &self.config, offset: self.replay.next - 1 };
        let driven = self.groups.runtime.drive(topic, &mut self.replicas, &mut make, &facts, now);
        self.answer_groups();
        driven.unwrap_or_else(|message| {
            self.fail(message);
            false
        })
    }

    fn answer_groups(&mut self) {
        for outcome in self.groups.runtime.take_outcomes() {
            match outcome {
                Outcome::Answered(waiting, response) => self.on_group_response(waiting, response),
                Outcome::Refused(Waiting { delete: Some(place), .. }, code) => self.on_group_deleted(place, code),
                Outcome::Refused(waiting, code) => self.refuse_group_request(waiting.reply, code),
            }
        }
    }

    pub(crate) fn drop_all_groups(&mut self) {
        self.groups.runtime.drop_all();
        self.answer_groups();
    }

    fn on_group_response(&mut self, waiting: Waiting, response: Response) {
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
            Response::TxnOffsetCommit(response) => self.respond_txn_offset_commit(reply, response),
            Response::ConsumerHeartbeat(response) => self.respond(reply, &response),
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
            ApiKey::ConsumerGroupHeartbeat => {
                self.respond(reply, &ConsumerGroupHeartbeatResponse { error_code, ..Default::default() });
            }
            ApiKey::LeaveGroup => self.respond(reply, &LeaveGroupResponse { error_code, ..Default::default() }),
            // Their answers carry the code in each part, which only the request could name: the client asks again.
            key => self.hang_up(reply, format!("{} was under way when the coordinator moved", key.name())),
        }
    }

    /// Creates `__consumer_offsets` when the first group asks for its coordinator.
    pub(crate) fn create_offsets_topic(&mut self, now: Now) {
        let (partitions, factor) =
            (self.config.offsets_topic_num_partitions, self.config.offsets_topic_replication_factor);
        let configs = [
            ("cleanup.policy", "compact".to_owned()),
            ("compression.type", "producer".to_owned()),
            ("segment.bytes", self.config.offsets_topic_segment_bytes.to_string()),
        ];
        self.create_internal_topic(OFFSETS_TOPIC, partitions, factor, &configs, now);
    }

    pub(crate) fn create_internal_topic(
        &mut self,
        name: &'static str,
        num_partitions: i32,
        replication_factor: i16,
        configs: &[(&'static str, String)],
        now: Now,
    ) {
        if !self.auto_creating.insert(name.to_owned()) {
            return;
        }
        let config = |(name, value): &(&'static str, String)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some(value.clone().into()),
            ..Default::default()
        };
        let configs = configs.iter().map(config).collect();
        let topic =
            CreatableTopic { name: name.into(), num_partitions, replication_factor, configs, ..Default::default() };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        self.ask_controller(ControlOp::AutoCreate(vec![name.to_owned()]), ApiKey::CreateTopics, request, now);
    }
}
