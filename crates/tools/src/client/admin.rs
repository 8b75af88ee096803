//! The calls of Kafka's admin client that the tools make.

use std::collections::BTreeMap;

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use protocol::messages::delete_topics_request::DeleteTopicState;
use protocol::messages::describe_configs_request::DescribeConfigsResource;
use protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use protocol::messages::*;
use protocol::wire::Uuid;

use super::consumer::TopicPartition;
use super::metadata::Topics;
use super::{Client, ClientError, Target};

/// Where a configuration value comes from, as DescribeConfigs numbers it.
pub const SOURCE_DEFAULT: i8 = 5;
const RESOURCE_TOPIC: i8 = 2;

/// Topics per DescribeTopicPartitions request when all of a cluster are described.
pub(super) const REQUEST_TIMEOUT_MS: i32 = 30_000;

#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    pub name: String,
    /// −1: as the broker's defaults say.
    pub partitions: i32,
    pub replication_factor: i16,
    pub assignment: Vec<Vec<i32>>,
    pub configs: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    pub partition: i32,
    /// −1 without a leader.
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    /// `None` where the broker does not tell (before DescribeTopicPartitions).
    pub elr: Option<Vec<i32>>,
    pub last_known_elr: Option<Vec<i32>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    pub name: String,
    pub id: Uuid,
    pub internal: bool,
    pub partitions: Vec<PartitionDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    pub value: Option<String>,
    pub source: i8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    pub replicas: Vec<i32>,
    pub adding: Vec<i32>,
    pub removing: Vec<i32>,
}

pub(super) fn outcome(code: i16, message: Option<&str>) -> Result<(), ClientError> {
    match ErrorCode::from_i16(code) {
        ErrorCode::None => Ok(()),
        code => Err(ClientError::server(code, message)),
    }
}

impl Client {
    pub fn create_topic(&mut self, topic: &NewTopic) -> Result<(), ClientError> {
        let build = |_: i16| CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.name.as_str().into(),
                num_partitions: if topic.assignment.is_empty() { topic.partitions } else { -1 },
                replication_factor: if topic.assignment.is_empty() { topic.replication_factor } else { -1 },
                assignments: topic
                    .assignment
                    .iter()
                    .zip(0..)
                    .map(|(brokers, i)| CreatableReplicaAssignment {
                        partition_index: i,
                        broker_ids: brokers.clone(),
                        ..Default::default()
                    })
                    .collect(),
                configs: topic
                    .configs
                    .iter()
                    .map(|(name, value)| CreatableTopicConfig {
                        name: name.as_str().into(),
                        value: Some(value.as_str().into()),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }],
            timeout_ms: REQUEST_TIMEOUT_MS,
            ..Default::default()
        };
        let answer = self.call("createTopics", Target::Any, build, |response| {
            response.topics.first().map_or(ErrorCode::None, |topic| ErrorCode::from_i16(topic.error_code))
        })?;
        let response = answer.get()?;
        let result = response.topics.first().ok_or_else(|| incomplete("CreateTopics"))?;
        outcome(result.error_code, result.error_message.as_deref())
    }

    pub fn delete_topic(&mut self, name: &str) -> Result<(), ClientError> {
        let build = |version: i16| {
            let state = DeleteTopicState { name: Some(name.into()), ..Default::default() };
            DeleteTopicsRequest {
                topics: if version >= 6 { vec![state] } else { vec![] },
                topic_names: if version >= 6 { vec![] } else { vec![name.into()] },
                timeout_ms: REQUEST_TIMEOUT_MS,
                ..Default::default()
            }
        };
        let answer = self.call("deleteTopics", Target::Any, build, |response| {
            // A topic that is missing stays missing, whatever Kafka says of the error in general.
            response.responses.first().map_or(ErrorCode::None, |r| not_unknown(r.error_code))
        })?;
        let response = answer.get()?;
        let result = response.responses.first().ok_or_else(|| incomplete("DeleteTopics"))?;
        outcome(result.error_code, result.error_message.as_deref())
    }

    /// `assignments` are those of the new partitions, if they are given.
    pub fn create_partitions(
        &mut self,
        name: &str,
        count: i32,
        assignments: Option<&[Vec<i32>]>,
    ) -> Result<(), ClientError> {
        let build = |_: i16| CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: name.into(),
                count,
                assignments: assignments.map(|all| {
                    let one =
                        |ids: &Vec<i32>| CreatePartitionsAssignment { broker_ids: ids.clone(), ..Default::default() };
                    all.iter().map(one).collect()
                }),
                ..Default::default()
            }],
            timeout_ms: REQUEST_TIMEOUT_MS,
            ..Default::default()
        };
        let answer = self.call("createPartitions", Target::Any, build, |response| {
            response.results.first().map_or(ErrorCode::None, |r| not_unknown(r.error_code))
        })?;
        let response = answer.get()?;
        let result = response.results.first().ok_or_else(|| incomplete("CreatePartitions"))?;
        outcome(result.error_code, result.error_message.as_deref())
    }

    /// Every topic's name, and whether it is one of Kafka's own.
    pub fn topic_names(&mut self) -> Result<BTreeMap<String, bool>, ClientError> {
        self.refresh("listTopics", Topics::All, false)?;
        Ok(self.metadata.topics.iter().map(|(name, topic)| (name.clone(), topic.internal)).collect())
    }

    pub fn describe_topics(&mut self, names: &[String], limit: i32) -> Result<Vec<TopicDescription>, ClientError> {
        if names.is_empty() {
            return Ok(vec![]);
        }
        if self.metadata.brokers.is_empty() {
            self.refresh("describeTopics", Topics::None, false)?;
        }
        if self.supports(ApiKey::DescribeTopicPartitions)? {
            self.describe_in_pages(names, limit)
        } else {
            self.describe_by_metadata(names)
        }
    }

    /// The broker answers with as many partitions as it likes and says where to go on.
    fn describe_in_pages(&mut self, names: &[String], limit: i32) -> Result<Vec<TopicDescription>, ClientError> {
        let mut out: Vec<TopicDescription> = Vec::new();
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort();
        let mut cursor: Option<(String, i32)> = None;
        loop {
            let build = |_: i16| DescribeTopicPartitionsRequest {
                topics: sorted
                    .iter()
                    .filter(|name| cursor.as_ref().is_none_or(|(at, _)| *name >= &at))
                    .map(|name| TopicRequest { name: name.as_str().into(), ..Default::default() })
                    .collect(),
                response_partition_limit: limit,
                cursor: cursor.as_ref().map(|(topic, partition)| Cursor {
                    topic_name: topic.as_str().into(),
                    partition_index: *partition,
                    ..Default::default()
                }),
                ..Default::default()
            };
            let answer = self.call("describeTopicPartitions", Target::Any, build, |_| ErrorCode::None)?;
            let response = answer.get()?;
            for topic in &response.topics {
                outcome(topic.error_code, None)?;
                let name = topic.name.as_deref().unwrap_or_default();
                let partitions = topic.partitions.iter().map(|p| PartitionDescription {
                    partition: p.partition_index,
                    leader: p.leader_id,
                    leader_epoch: p.leader_epoch,
                    replicas: p.replica_nodes.clone(),
                    isr: p.isr_nodes.clone(),
                    elr: p.eligible_leader_replicas.clone(),
                    last_known_elr: p.last_known_elr.clone(),
                });
                match out.last_mut().filter(|last| last.name == name) {
                    Some(last) => last.partitions.extend(partitions),
                    None => out.push(TopicDescription {
                        name: name.to_owned(),
                        id: topic.topic_id,
                        internal: topic.is_internal,
                        partitions: partitions.collect(),
                    }),
                }
            }
            let next = response.next_cursor.as_ref().map(|c| (c.topic_name.to_string(), c.partition_index));
            if next.is_none() || next == cursor {
                break;
            }
            cursor = next;
        }
        for topic in &mut out {
            topic.partitions.sort_by_key(|partition| partition.partition);
        }
        Ok(out)
    }

    /// What Metadata tells: no eligible leader replicas.
    pub fn describe_by_metadata(&mut self, names: &[String]) -> Result<Vec<TopicDescription>, ClientError> {
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        self.refresh("describeTopics", Topics::Named(&borrowed), false)?;
        names
            .iter()
            .filter_map(|name| Some((name, self.metadata.topics.get(name)?)))
            .map(|(name, topic)| {
                if topic.error != ErrorCode::None {
                    return Err(ClientError::server(topic.error, None));
                }
                let partitions = topic.partitions.iter().map(|(partition, p)| PartitionDescription {
                    partition: *partition,
                    leader: p.leader,
                    leader_epoch: p.leader_epoch,
                    replicas: p.replicas.clone(),
                    isr: p.isr.clone(),
                    elr: None,
                    last_known_elr: None,
                });
                let partitions = partitions.collect();
                Ok(TopicDescription { name: name.clone(), id: topic.id, internal: topic.internal, partitions })
            })
            .collect()
    }

    /// The configuration of topics, by name, in the broker's order.
    pub fn topic_configs(&mut self, names: &[String]) -> Result<BTreeMap<String, Vec<ConfigEntry>>, ClientError> {
        let build = |_: i16| DescribeConfigsRequest {
            resources: names
                .iter()
                .map(|name| DescribeConfigsResource {
                    resource_type: RESOURCE_TOPIC,
                    resource_name: name.as_str().into(),
                    configuration_keys: None,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let answer = self.call("describeConfigs", Target::Any, build, |_| ErrorCode::None)?;
        let response = answer.get()?;
        let mut out = BTreeMap::new();
        for result in &response.results {
            outcome(result.error_code, result.error_message.as_deref())?;
            let entries = result.configs.iter().map(|config| ConfigEntry {
                name: config.name.to_string(),
                value: config.value.as_deref().map(str::to_owned),
                source: config.config_source,
            });
            out.insert(result.resource_name.to_string(), entries.collect());
        }
        Ok(out)
    }

    /// Partitions on the move. Brokers without the API move none.
    pub fn reassignments(&mut self) -> Result<BTreeMap<TopicPartition, Moves>, ClientError> {
        if !self.supports(ApiKey::ListPartitionReassignments)? {
            return Ok(BTreeMap::new());
        }
        let build = |_: i16| ListPartitionReassignmentsRequest {
            topics: None,
            timeout_ms: REQUEST_TIMEOUT_MS,
            ..Default::default()
        };
        let answer = self.call("listPartitionReassignments", Target::Any, build, |response| {
            ErrorCode::from_i16(response.error_code)
        })?;
        let response = answer.get()?;
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::ClusterAuthorizationFailed | ErrorCode::UnsupportedVersion => return Ok(BTreeMap::new()),
            _ => outcome(response.error_code, response.error_message.as_deref())?,
        }
        let mut out = BTreeMap::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                let moves = Moves {
                    replicas: partition.replicas.clone(),
                    adding: partition.adding_replicas.clone(),
                    removing: partition.removing_replicas.clone(),
                };
                out.insert((topic.name.to_string(), partition.partition_index), moves);
            }
        }
        Ok(out)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    pub id: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
    pub fenced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub id: String,
    pub controller: i32,
    pub nodes: Vec<ClusterNode>,
}

/// DescribeCluster's kinds of nodes.
const ENDPOINTS_BROKERS: i8 = 1;
const ENDPOINTS_CONTROLLERS: i8 = 2;

impl Client {
    /// The cluster's id, and its brokers, or its controllers if the client was pointed at controllers.
    pub fn describe_cluster(&mut self, include_fenced: bool) -> Result<Cluster, ClientError> {
        let kind = if self.settings.controllers { ENDPOINTS_CONTROLLERS } else { ENDPOINTS_BROKERS };
        let build = |version: i16| DescribeClusterRequest {
            endpoint_type: if version >= 1 { kind } else { ENDPOINTS_BROKERS },
            include_fenced_brokers: version >= 2 && include_fenced,
            ..Default::default()
        };
        let answer =
            self.call("describeCluster", Target::Any, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, response.error_message.as_deref())?;
        let nodes = response.brokers.iter().map(|broker| ClusterNode {
            id: broker.broker_id,
            host: broker.host.to_string(),
            port: broker.port,
            rack: broker.rack.as_deref().map(str::to_owned),
            fenced: broker.is_fenced,
        });
        let nodes = nodes.collect();
        Ok(Cluster { id: response.cluster_id.to_string(), controller: response.controller_id, nodes })
    }

    pub fn unregister_broker(&mut self, id: i32) -> Result<(), ClientError> {
        let build = |_: i16| UnregisterBrokerRequest { broker_id: id, ..Default::default() };
        let answer =
            self.call("unregisterBroker", Target::Any, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, response.error_message.as_deref())
    }

    /// What the quorum's leader says of it.
    pub fn describe_quorum(&mut self) -> Result<Quorum, ClientError> {
        let build = |_: i16| DescribeQuorumRequest {
            topics: vec![describe_quorum_request::TopicData {
                topic_name: "__cluster_metadata".into(),
                partitions: vec![describe_quorum_request::PartitionData::default()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = self.call("describeMetadataQuorum", Target::Any, build, |response| {
            let partition = response.topics.first().and_then(|topic| topic.partitions.first());
            let code =
                if response.error_code == 0 { partition.map_or(0, |p| p.error_code) } else { response.error_code };
            ErrorCode::from_i16(code)
        })?;
        let response = answer.get()?;
        outcome(response.error_code, response.error_message.as_deref())?;
        let partition = response.topics.first().and_then(|topic| topic.partitions.first());
        let partition = partition.ok_or_else(|| incomplete("DescribeQuorum"))?;
        outcome(partition.error_code, partition.error_message.as_deref())?;
        let endpoints = |id: i32| {
            let node = response.nodes.iter().find(|node| node.node_id == id);
            let listeners = node.map_or(&[] as &[_], |node| node.listeners.as_slice());
            listeners.iter().map(|l| format!("{}://{}:{}", l.name, l.host, l.port)).collect()
        };
        let member = |state: &describe_quorum_response::ReplicaState| QuorumMember {
            id: state.replica_id,
            directory_id: state.replica_directory_id,
            log_end_offset: state.log_end_offset,
            last_fetch_ms: state.last_fetch_timestamp,
            last_caught_up_ms: state.last_caught_up_timestamp,
            endpoints: endpoints(state.replica_id),
        };
        Ok(Quorum {
            leader: partition.leader_id,
            leader_epoch: partition.leader_epoch,
            high_watermark: partition.high_watermark,
            voters: partition.current_voters.iter().map(member).collect(),
            observers: partition.observers.iter().map(member).collect(),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumMember {
    pub id: i32,
    /// Zero where the quorum is static.
    pub directory_id: Uuid,
    pub log_end_offset: i64,
    /// −1 if unknown.
    pub last_fetch_ms: i64,
    pub last_caught_up_ms: i64,
    pub endpoints: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    pub leader: i32,
    pub leader_epoch: i32,
    pub high_watermark: i64,
    pub voters: Vec<QuorumMember>,
    pub observers: Vec<QuorumMember>,
}

pub(super) fn incomplete(api: &str) -> ClientError {
    ClientError::Malformed(format!("the answer to {api} leaves out what was asked"))
}

fn not_unknown(code: i16) -> ErrorCode {
    match ErrorCode::from_i16(code) {
        ErrorCode::UnknownTopicOrPartition => ErrorCode::None,
        code => code,
    }
}
