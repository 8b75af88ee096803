//! More calls of Kafka's admin client: configurations, features, elections, directories, deletion of records.

use std::collections::BTreeMap;

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use protocol::messages::describe_configs_request::DescribeConfigsResource;
use protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use protocol::messages::update_features_request::FeatureUpdateKey;
use protocol::messages::*;

use super::admin::{REQUEST_TIMEOUT_MS, incomplete, outcome};
use super::consumer::TopicPartition;
use super::metadata::Broker;
use super::{Address, Client, ClientError, Target};

const OP_SET: i8 = 0;
const OP_DELETE: i8 = 1;

/// A configurable thing; kinds are numbered as in the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub kind: i8,
    pub name: String,
}

impl Resource {
    pub const TOPIC: i8 = 2;
    pub const BROKER: i8 = 4;
    pub const BROKER_LOGGER: i8 = 8;
    pub const CLIENT_METRICS: i8 = 16;
    pub const GROUP: i8 = 32;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigDescription {
    pub name: String,
    pub value: Option<String>,
    pub source: i8,
    pub sensitive: bool,
    /// Source, name and value.
    pub synonyms: Vec<(i8, String, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Election {
    Preferred = 0,
    Unclean = 1,
}

pub type ElectionResult = (TopicPartition, Result<(), ClientError>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Upgrade {
    Upgrade = 1,
    SafeDowngrade = 2,
    UnsafeDowngrade = 3,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureUpdate {
    pub name: String,
    pub level: i16,
    pub upgrade: Upgrade,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureLevels {
    /// By name: lowest and highest level.
    pub supported: BTreeMap<String, (i16, i16)>,
    pub finalized: BTreeMap<String, i16>,
    pub epoch: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDir {
    pub path: String,
    pub error: Option<ErrorCode>,
    /// Topic, partition, size, lag, and whether it is a replica that is to replace another.
    pub replicas: Vec<(String, i32, i64, i64, bool)>,
}

impl Client {
    /// Learns the nodes' addresses, be they brokers or controllers, and returns their ids.
    pub fn learn_nodes(&mut self) -> Result<Vec<i32>, ClientError> {
        let nodes = self.describe_cluster(false)?.nodes;
        for node in &nodes {
            let Ok(port) = u16::try_from(node.port) else { continue };
            let address = Address { host: node.host.clone(), port };
            self.metadata.brokers.insert(node.id, Broker { address, rack: node.rack.clone() });
        }
        let mut ids: Vec<i32> = nodes.iter().map(|node| node.id).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// A broker is asked for its own configuration; anyone for the rest.
    pub fn describe_configs(&mut self, resource: &Resource) -> Result<Vec<ConfigDescription>, ClientError> {
        let own = [Resource::BROKER, Resource::BROKER_LOGGER].contains(&resource.kind) && !resource.name.is_empty();
        let target = match resource.name.parse() {
            Ok(id) if own => {
                self.learn_nodes()?;
                Target::Broker(id)
            }
            _ => Target::Any,
        };
        let build = |_: i16| DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: resource.kind,
                resource_name: resource.name.as_str().into(),
                configuration_keys: None,
                ..Default::default()
            }],
            include_synonyms: true,
            ..Default::default()
        };
        let answer = self.call("describeConfigs", target, build, |_| ErrorCode::None)?;
        let response = answer.get()?;
        let result = response.results.first().ok_or_else(|| incomplete("DescribeConfigs"))?;
        outcome(result.error_code, result.error_message.as_deref())?;
        let text = |value: &Option<protocol::wire::Str<'_>>| value.as_deref().map(str::to_owned);
        let entries = result.configs.iter().map(|config| ConfigDescription {
            name: config.name.to_string(),
            value: text(&config.value),
            source: config.config_source,
            sensitive: config.is_sensitive,
            synonyms: config.synonyms.iter().map(|s| (s.source, s.name.to_string(), text(&s.value))).collect(),
        });
        Ok(entries.collect())
    }

    /// Deletes some keys and sets others, as one change.
    pub fn alter_configs(
        &mut self,
        resource: &Resource,
        delete: &[String],
        set: &[(String, String)],
    ) -> Result<(), ClientError> {
        let deletions = delete.iter().map(|name| (name.as_str(), OP_DELETE, ""));
        let settings = set.iter().map(|(name, value)| (name.as_str(), OP_SET, value.as_str()));
        let changes: Vec<(&str, i8, &str)> = deletions.chain(settings).collect();
        let build = |_: i16| IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: resource.kind,
                resource_name: resource.name.as_str().into(),
                configs: changes
                    .iter()
                    .map(|(name, operation, value)| AlterableConfig {
                        name: (*name).into(),
                        config_operation: *operation,
                        value: Some((*value).into()),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = self.call("incrementalAlterConfigs", Target::Any, build, |response| {
            // A topic that is missing stays missing.
            match response.responses.first().map_or(ErrorCode::None, |r| ErrorCode::from_i16(r.error_code)) {
                ErrorCode::UnknownTopicOrPartition => ErrorCode::None,
                code => code,
            }
        })?;
        let response = answer.get()?;
        let result = response.responses.first().ok_or_else(|| incomplete("IncrementalAlterConfigs"))?;
        outcome(result.error_code, result.error_message.as_deref())
    }

    /// Names of the resources of one kind that have configurations.
    pub fn config_resources(&mut self, kind: i8) -> Result<Vec<String>, ClientError> {
        let build = |_: i16| ListConfigResourcesRequest { resource_types: vec![kind], ..Default::default() };
        let answer =
            self.call("listConfigResources", Target::Any, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, None)?;
        let of_kind = response.config_resources.iter().filter(|r| r.resource_type == kind);
        Ok(of_kind.map(|r| r.resource_name.to_string()).collect())
    }

    /// Every group of every broker, if they know the API.
    pub fn group_ids(&mut self) -> Result<Vec<String>, ClientError> {
        if !self.supports(ApiKey::ListGroups)? {
            return Ok(vec![]);
        }
        let mut out = Vec::new();
        for id in self.learn_nodes()? {
            let answer = self.call(
                "listGroups",
                Target::Broker(id),
                |_: i16| ListGroupsRequest::default(),
                |response| ErrorCode::from_i16(response.error_code),
            )?;
            let response = answer.get()?;
            outcome(response.error_code, None)?;
            out.extend(response.groups.iter().map(|group| group.group_id.to_string()));
        }
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    /// What a node, or any, says of features.
    pub fn describe_features(&mut self, node: Option<i32>) -> Result<FeatureLevels, ClientError> {
        let target = match node {
            Some(id) => {
                self.learn_nodes()?;
                Target::Broker(id)
            }
            None => Target::Any,
        };
        let build = |_: i16| ApiVersionsRequest {
            client_software_name: "zwirn".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        let answer =
            self.call("describeFeatures", target, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, None)?;
        let supported = response.supported_features.iter();
        let finalized = response.finalized_features.iter();
        Ok(FeatureLevels {
            supported: supported.map(|f| (f.name.to_string(), (f.min_version, f.max_version))).collect(),
            finalized: finalized.map(|f| (f.name.to_string(), f.max_version_level)).collect(),
            epoch: (response.finalized_features_epoch >= 0).then_some(response.finalized_features_epoch),
        })
    }

    /// All or none: one error stands for every update.
    pub fn update_features(&mut self, updates: &[FeatureUpdate], dry_run: bool) -> Result<(), ClientError> {
        let build = |version: i16| FeatureUpdates { updates, dry_run, version }.request();
        let answer =
            self.call("updateFeatures", Target::Any, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, response.error_message.as_deref())?;
        let failed = response.results.iter().find(|result| result.error_code != 0);
        failed.map_or(Ok(()), |result| outcome(result.error_code, result.error_message.as_deref()))
    }

    /// `None`: every partition that needs an election.
    pub fn elect_leaders(
        &mut self,
        election: Election,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<Vec<ElectionResult>, ClientError> {
        let build = |_: i16| ElectLeadersRequest {
            election_type: election as i8,
            topic_partitions: partitions.map(|partitions| {
                let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
                for (topic, partition) in partitions {
                    topics.entry(topic).or_default().push(*partition);
                }
                let topics = topics.into_iter().map(|(topic, partitions)| elect_leaders_request::TopicPartitions {
                    topic: topic.into(),
                    partitions,
                    ..Default::default()
                });
                topics.collect()
            }),
            timeout_ms: REQUEST_TIMEOUT_MS,
            ..Default::default()
        };
        let answer =
            self.call("electLeaders", Target::Any, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, None)?;
        let mut out = Vec::new();
        for topic in &response.replica_election_results {
            for result in &topic.partition_result {
                let key = (topic.topic.to_string(), result.partition_id);
                out.push((key, outcome(result.error_code, result.error_message.as_deref())));
            }
        }
        Ok(out)
    }

    pub fn describe_log_dirs(&mut self, broker: i32) -> Result<Vec<LogDir>, ClientError> {
        let build = |_: i16| DescribeLogDirsRequest { topics: None, ..Default::default() };
        let answer = self.call("describeLogDirs", Target::Broker(broker), build, |response| {
            ErrorCode::from_i16(response.error_code)
        })?;
        let response = answer.get()?;
        outcome(response.error_code, None)?;
        let dirs = response.results.iter().map(|dir| LogDir {
            path: dir.log_dir.to_string(),
            error: Some(ErrorCode::from_i16(dir.error_code)).filter(|code| *code != ErrorCode::None),
            replicas: dir
                .topics
                .iter()
                .flat_map(|topic| {
                    topic.partitions.iter().map(|p| {
                        let name = topic.name.to_string();
                        (name, p.partition_index, p.partition_size, p.offset_lag, p.is_future_key)
                    })
                })
                .collect(),
        });
        Ok(dirs.collect())
    }

    /// The low watermark, from the partition's leader; `offset` −1 stands for the high watermark.
    pub fn delete_records(&mut self, topic: &str, partition: i32, offset: i64) -> Result<i64, ClientError> {
        let leader = self.metadata.leader(topic, partition);
        let leader = leader.ok_or_else(|| {
            let known = self.metadata.partition(topic, partition).is_some();
            let code = if known { ErrorCode::LeaderNotAvailable } else { ErrorCode::UnknownTopicOrPartition };
            ClientError::server(code, None)
        })?;
        let build = |_: i16| DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: topic.into(),
                partitions: vec![DeleteRecordsPartition { partition_index: partition, offset, ..Default::default() }],
                ..Default::default()
            }],
            timeout_ms: REQUEST_TIMEOUT_MS,
            ..Default::default()
        };
        let answer = self.once(Target::Broker(leader), build)?;
        let response = answer.get()?;
        let result = response.topics.first().and_then(|topic| topic.partitions.first());
        let result = result.ok_or_else(|| incomplete("DeleteRecords"))?;
        outcome(result.error_code, None)?;
        Ok(result.low_watermark)
    }
}

struct FeatureUpdates<'a> {
    updates: &'a [FeatureUpdate],
    dry_run: bool,
    version: i16,
}

impl<'a> FeatureUpdates<'a> {
    fn request(&self) -> UpdateFeaturesRequest<'a> {
        let update = |update: &'a FeatureUpdate| FeatureUpdateKey {
            feature: update.name.as_str().into(),
            max_version_level: update.level,
            // The first version knew only of downgrades that are allowed.
            allow_downgrade: self.version == 0 && update.upgrade != Upgrade::Upgrade,
            upgrade_type: update.upgrade as i8,
            ..Default::default()
        };
        UpdateFeaturesRequest {
            timeout_ms: REQUEST_TIMEOUT_MS,
            feature_updates: self.updates.iter().map(update).collect(),
            validate_only: self.dry_run,
            ..Default::default()
        }
    }
}
