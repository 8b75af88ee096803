//! Metadata: brokers, topics, leaders; and the creation of topics that clients ask about
//! (`auto.create.topics.enable`).

use std::collections::BTreeSet;

use metadata::image::{Partition, Topic};
use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::create_topics_request::CreatableTopic;
use protocol::messages::metadata_request::MetadataRequestTopic;
use protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use protocol::messages::{CreateTopicsRequest, MetadataRequest, MetadataResponse};
use protocol::time::Now;
use protocol::wire::{DecodeError, Uuid};

use super::{CLUSTER_OPERATIONS, INTERNAL_TOPICS, OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS};
use crate::control::ControlOp;
use crate::node::Node;
use crate::offline::is_in_online_dir;
use crate::request::Context;

/// Topics created on behalf of one metadata request, and names under way at a time.
const AUTO_CREATE_MAX: usize = 1_000;
/// Longest topic name (`Topic.validate`).
const TOPIC_NAME_MAX: usize = 249;
/// From here on topics may be asked for by their ids; 10 and 11 have the field, but it must be empty.
const TOPIC_IDS_FROM: i16 = 12;
const CREATE_TIMEOUT_MS: i32 = 30_000;

impl Node {
    pub(crate) fn handle_metadata(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: MetadataRequest<'_> = cx.decode(body)?;
        let version = cx.reply.version;
        let listener = self.listener_name(cx.listener).to_owned();
        if version < TOPIC_IDS_FROM
            && request.topics.iter().flatten().any(|t| t.name.is_none() || !t.topic_id.is_zero())
        {
            self.respond(cx.reply, &refused(&request, ErrorCode::InvalidRequest));
            return Ok(());
        }
        let mut missing = Vec::new();
        let mut topics = match &request.topics {
            // Version 0 has no null; there an empty list asks for all.
            None => self.all_topics(&listener),
            Some(names) if names.is_empty() && version == 0 => self.all_topics(&listener),
            Some(asked) => self.topics_asked_for(asked, &listener, &mut missing),
        };
        if request.include_topic_authorized_operations {
            topics.iter_mut().for_each(|t| t.topic_authorized_operations = TOPIC_OPERATIONS);
        }
        if version < 10 {
            topics.iter_mut().for_each(|t| t.topic_id = Uuid::ZERO);
        }
        if request.allow_auto_topic_creation && self.config.auto_create_topics_enable {
            self.auto_create(missing, now);
        }
        let cluster_authorized_operations = match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => OPERATIONS_NOT_ASKED,
        };
        let response = MetadataResponse {
            brokers: self.metadata_brokers(&listener),
            cluster_id: (version >= 2).then(|| self.cluster_id.clone().into()),
            controller_id: self.some_broker(),
            topics,
            cluster_authorized_operations,
            ..Default::default()
        };
        self.respond(cx.reply, &response);
        Ok(())
    }

    fn metadata_brokers(&self, listener: &str) -> Vec<MetadataResponseBroker<'static>> {
        let alive = self.image.brokers.values().filter(|b| !b.fenced);
        alive
            .filter_map(|broker| {
                let endpoint = broker.endpoint(listener)?;
                Some(MetadataResponseBroker {
                    node_id: broker.id,
                    host: endpoint.host.clone().into(),
                    port: i32::from(endpoint.port),
                    rack: broker.rack.clone().map(Into::into),
                    ..Default::default()
                })
            })
            .collect()
    }

    /// With KRaft clients cannot reach the controller; any broker forwards to it, and a random one is named to spread
    /// the load.
    pub(crate) fn some_broker(&mut self) -> i32 {
        let alive: Vec<i32> = self.image.brokers.values().filter(|b| !b.fenced).map(|b| b.id).collect();
        if alive.is_empty() {
            return -1;
        }
        let pick = self.rng.usize(..alive.len());
        alive.get(pick).copied().unwrap_or(-1)
    }

    fn all_topics(&self, listener: &str) -> Vec<MetadataResponseTopic<'static>> {
        let names = self.image.topic_ids.values().filter_map(|id| self.image.topics.get(id));
        names.map(|topic| self.describe_topic(topic, listener)).collect()
    }

    /// Each topic once. An id anywhere means that names do not count.
    fn topics_asked_for(
        &self,
        asked: &[MetadataRequestTopic<'_>],
        listener: &str,
        missing: &mut Vec<String>,
    ) -> Vec<MetadataResponseTopic<'static>> {
        let ids: BTreeSet<Uuid> = asked.iter().map(|t| t.topic_id).filter(|id| !id.is_zero()).collect();
        if !ids.is_empty() {
            return ids.into_iter().map(|id| self.topic_by_id(id, listener)).collect();
        }
        let mut seen = BTreeSet::new();
        let mut topics = Vec::with_capacity(asked.len());
        for topic in asked {
            match topic.name.as_deref() {
                Some(name) if seen.insert(name) => topics.push(self.topic_by_name(name, listener, missing)),
                Some(_) => {}
                None => topics.push(self.topic_by_id(topic.topic_id, listener)),
            }
        }
        topics
    }

    fn topic_by_name(&self, name: &str, listener: &str, missing: &mut Vec<String>) -> MetadataResponseTopic<'static> {
        if let Some(topic) = self.image.topic(name) {
            return self.describe_topic(topic, listener);
        }
        let error = if is_valid_topic_name(name) {
            missing.push(name.to_owned());
            ErrorCode::UnknownTopicOrPartition
        } else {
            ErrorCode::InvalidTopicException
        };
        MetadataResponseTopic {
            error_code: error.into(),
            name: Some(name.to_owned().into()),
            is_internal: INTERNAL_TOPICS.contains(&name),
            ..Default::default()
        }
    }

    fn topic_by_id(&self, id: Uuid, listener: &str) -> MetadataResponseTopic<'static> {
        match self.image.topics.get(&id) {
            Some(topic) => self.describe_topic(topic, listener),
            None => MetadataResponseTopic {
                error_code: ErrorCode::UnknownTopicId.into(),
                name: None,
                topic_id: id,
                ..Default::default()
            },
        }
    }

    fn describe_topic(&self, topic: &Topic, listener: &str) -> MetadataResponseTopic<'static> {
        let partitions = topic.partitions.iter().map(|(number, p)| {
            let (error, leader_id) = self.leader_on(p, listener);
            MetadataResponsePartition {
                error_code: error.into(),
                partition_index: *number,
                leader_id,
                leader_epoch: p.leader_epoch,
                replica_nodes: p.replicas.clone(),
                isr_nodes: p.isr.clone(),
                offline_replicas: self.offline_replicas(p, listener),
                ..Default::default()
            }
        });
        MetadataResponseTopic {
            name: Some(topic.name.clone().into()),
            topic_id: topic.id,
            is_internal: INTERNAL_TOPICS.contains(&topic.name.as_str()),
            partitions: partitions.collect(),
            ..Default::default()
        }
    }

    /// The leader as clients of a listener can reach it.
    pub(crate) fn leader_on(&self, partition: &Partition, listener: &str) -> (ErrorCode, i32) {
        match self.image.brokers.get(&partition.leader).filter(|b| !b.fenced) {
            None => (ErrorCode::LeaderNotAvailable, -1),
            Some(broker) if broker.endpoint(listener).is_none() => (ErrorCode::ListenerNotFound, -1),
            Some(broker) => (ErrorCode::None, broker.id),
        }
    }

    pub(crate) fn offline_replicas(&self, partition: &Partition, listener: &str) -> Vec<i32> {
        let is_online = |id: &i32| {
            let broker = self.image.brokers.get(id).filter(|b| !b.fenced && b.endpoint(listener).is_some());
            broker.is_some_and(|b| is_in_online_dir(b, partition.directory_of(*id)))
        };
        partition.replicas.iter().copied().filter(|id| !is_online(id)).collect()
    }

    /// The client asks again until the topic is there; it is told so by the error that it gets meanwhile.
    fn auto_create(&mut self, names: Vec<String>, now: Now) {
        let mut fresh: Vec<String> = Vec::new();
        for name in names {
            let room = self.auto_creating.len() + fresh.len() < AUTO_CREATE_MAX;
            if room && !self.auto_creating.contains(&name) && !fresh.contains(&name) {
                fresh.push(name);
            }
        }
        if fresh.is_empty() {
            return;
        }
        self.auto_creating.extend(fresh.iter().cloned());
        let topics = fresh.iter().map(|name| CreatableTopic {
            name: name.clone().into(),
            num_partitions: self.config.num_partitions,
            replication_factor: self.config.default_replication_factor,
            ..Default::default()
        });
        let request =
            CreateTopicsRequest { topics: topics.collect(), timeout_ms: CREATE_TIMEOUT_MS, ..Default::default() };
        self.ask_controller(ControlOp::AutoCreate(fresh), ApiKey::CreateTopics, request, now);
    }

    pub(crate) fn on_auto_created(&mut self, names: &[String]) {
        let names: BTreeSet<&String> = names.iter().collect();
        self.auto_creating.retain(|name| !names.contains(name));
    }
}

/// A request that makes no sense is answered topic by topic, with nothing about the cluster (`MetadataRequest`).
fn refused(request: &MetadataRequest<'_>, code: ErrorCode) -> MetadataResponse<'static> {
    let topics = request.topics.iter().flatten().map(|topic| MetadataResponseTopic {
        error_code: code.into(),
        // A version that has ids but no null names.
        name: Some(topic.name.clone().unwrap_or_default().into_owned().into()),
        topic_id: topic.topic_id,
        ..Default::default()
    });
    MetadataResponse { topics: topics.collect(), controller_id: -1, ..Default::default() }
}

/// `Topic.isValid`
pub(crate) fn is_valid_topic_name(name: &str) -> bool {
    let is_legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    !name.is_empty() && name != "." && name != ".." && name.len() <= TOPIC_NAME_MAX && name.bytes().all(is_legal)
}
