//! Configurations of topics, brokers, groups and client metrics (`ConfigurationControlManager`).

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::create_topics_response::CreatableTopicConfigs;
use protocol::messages::*;

use super::activation::config_record;
use super::topics::validate_topic_name;
use super::{
    ApiError, Controller, ControllerResult, MIN_INSYNC_REPLICAS, RECORDS_MAX_PER_OPERATION, Record, outcome, own,
};
use crate::config::{self, DynamicConfigs};
use crate::image::ConfigResource;

const VALUE_CHARS_MAX: usize = i16::MAX as usize;

/// Operations of the wire.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;
/// Resource types of the wire.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// One key of a resource and what becomes of it; `None` deletes.
type Change = (String, Option<String>);

impl Controller {
    /// `forwarded`: a broker has it from a client (its checks, `ConfigAdminManager.preprocess`, are made here too).
    pub fn incremental_alter_configs(
        &mut self,
        request: &IncrementalAlterConfigsRequest<'_>,
        forwarded: bool,
    ) -> ControllerResult<IncrementalAlterConfigsResponse<'static>> {
        use incremental_alter_configs_response::AlterConfigsResourceResponse;
        let keys = request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_ref()));
        let repeated = repeated(keys.collect());
        let mut records = Vec::new();
        let mut responses = Vec::new();
        for resource in &request.resources {
            let is_repeated = repeated.contains(&(resource.resource_type, resource.resource_name.as_ref()));
            let nulls = resource.configs.iter().filter(|c| c.config_operation != DELETE && c.value.is_none());
            let checked = check_shape(is_repeated, resource.configs.iter().map(|c| c.name.as_ref()).collect())
                .and_then(|()| check_nulls(nulls.map(|c| c.name.as_ref()).collect()));
            let result = if let Err(error) = checked {
                Err(error)
            } else {
                let target = ConfigResource { kind: resource.resource_type, name: resource.resource_name.to_string() };
                let changes = resource.configs.iter().map(|c| self.incremental_change(&target, c));
                let changes: Result<Vec<Change>, ApiError> = changes.collect();
                changes.and_then(|changes| self.config_records(&target, changes, forwarded, &mut records))
            };
            let (error_code, error_message) = outcome(result);
            responses.push(AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: resource.resource_type,
                resource_name: own(&resource.resource_name),
                ..Default::default()
            });
        }
        let records = if request.validate_only { Vec::new() } else { self.emit_configs(records) };
        ControllerResult { records, response: IncrementalAlterConfigsResponse { responses, ..Default::default() } }
    }

    /// The old API: what is not named is deleted.
    pub fn alter_configs(
        &mut self,
        request: &AlterConfigsRequest<'_>,
        forwarded: bool,
    ) -> ControllerResult<AlterConfigsResponse<'static>> {
        use alter_configs_response::AlterConfigsResourceResponse;
        let keys = request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_ref()));
        let repeated = repeated(keys.collect());
        let mut records = Vec::new();
        let mut responses = Vec::new();
        for resource in &request.resources {
            let is_repeated = repeated.contains(&(resource.resource_type, resource.resource_name.as_ref()));
            let nulls = resource.configs.iter().filter(|c| c.value.is_none());
            let checked = check_shape(is_repeated, resource.configs.iter().map(|c| c.name.as_ref()).collect())
                .and_then(|()| check_nulls(nulls.map(|c| c.name.as_ref()).collect()));
            let result = if let Err(error) = checked {
                Err(error)
            } else {
                let target = ConfigResource { kind: resource.resource_type, name: resource.resource_name.to_string() };
                let named =
                    resource.configs.iter().map(|c| (c.name.to_string(), c.value.as_deref().map(str::to_owned)));
                let mut changes: Vec<Change> = named.collect();
                let present = self.image.configs.get(&target).into_iter().flat_map(|entries| entries.keys());
                let missing = present.filter(|key| !resource.configs.iter().any(|c| c.name == **key));
                let missing: Vec<Change> = missing.map(|key| (key.clone(), None)).collect();
                changes.extend(missing);
                self.config_records(&target, changes, forwarded, &mut records)
            };
            let (error_code, error_message) = outcome(result);
            responses.push(AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: resource.resource_type,
                resource_name: own(&resource.resource_name),
                ..Default::default()
            });
        }
        let records = if request.validate_only { Vec::new() } else { self.emit_configs(records) };
        ControllerResult { records, response: AlterConfigsResponse { responses, ..Default::default() } }
    }

    fn incremental_change(
        &self,
        target: &ConfigResource,
        config: &incremental_alter_configs_request::AlterableConfig<'_>,
    ) -> Result<Change, ApiError> {
        let name = config.name.to_string();
        let value = config.value.as_deref();
        match (config.config_operation, value) {
            (DELETE, _) => Ok((name, None)),
            (SET, Some(value)) => Ok((name, Some(value.to_owned()))),
            (APPEND | SUBTRACT, Some(value)) => {
                let is_append = config.config_operation == APPEND;
                if !is_list(target.kind, &name) {
                    let operation = if is_append { "APPEND" } else { "SUBTRACT" };
                    let why = format!("Can't {operation} to key {name} because its type is not LIST.");
                    return Err(ApiError::new(ErrorCode::InvalidConfig, why));
                }
                let current = self.image.config(target, &name).or_else(|| list_default(target.kind, &name));
                let mut parts: Vec<&str> = current.unwrap_or("").split(',').filter(|p| !p.is_empty()).collect();
                for part in value.split(',') {
                    if !is_append {
                        parts.retain(|p| *p != part);
                    } else if !parts.contains(&part) {
                        parts.push(part);
                    }
                }
                let joined = parts.join(",");
                Ok((name, Some(joined)))
            }
            (SET | APPEND | SUBTRACT, None) => {
                let why = format!("Null value not supported for : {name}");
                Err(ApiError::new(ErrorCode::InvalidRequest, why))
            }
            (other, _) => {
                let why = format!("{other} is not an operation on a configuration");
                Err(ApiError::new(ErrorCode::InvalidRequest, why))
            }
        }
    }

    /// Checks the resource as it would be, and appends the records that bring it there.
    fn config_records(
        &self,
        target: &ConfigResource,
        changes: Vec<Change>,
        forwarded: bool,
        records: &mut Vec<Record>,
    ) -> Result<(), ApiError> {
        let invalid = |why: String| Err(ApiError::new(ErrorCode::InvalidConfig, why));
        let mut after = self.image.configs.get(target).cloned().unwrap_or_default();
        let mut wanted: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (name, value) in changes {
            match &value {
                Some(value) if value.encode_utf16().count() > VALUE_CHARS_MAX => {
                    return invalid(format!("the value of {name} is longer than {VALUE_CHARS_MAX} characters"));
                }
                Some(value) => drop(after.insert(name.clone(), value.clone())),
                None => drop(after.remove(&name)),
            }
            wanted.insert(name, value);
        }
        self.check_resource(target, &after, forwarded)?;
        if let Some(value) = wanted.get(MIN_INSYNC_REPLICAS).filter(|_| target.kind == BROKER && self.image.elr_is_on())
        {
            if !target.name.is_empty() {
                return invalid(format!("Broker-level {MIN_INSYNC_REPLICAS} cannot be altered while ELR is enabled."));
            }
            if value.is_none() {
                return invalid(format!("Cluster-level {MIN_INSYNC_REPLICAS} cannot be removed while ELR is enabled."));
            }
        }
        let current = self.image.configs.get(target);
        for (name, value) in wanted {
            let is_same = current.and_then(|c| c.get(&name)) == value.as_ref();
            // KAFKA-14136: brokers take a record as the order to read files named in their configuration again, so
            // theirs are written even if nothing changes.
            if is_same && target.kind != BROKER {
                continue;
            }
            if records.len() >= RECORDS_MAX_PER_OPERATION {
                return Err(ApiError::new(ErrorCode::PolicyViolation, "the request alters too many keys at once"));
            }
            records.push(config_record(target, &name, value.as_deref()));
        }
        Ok(())
    }

    fn check_resource(
        &self,
        target: &ConfigResource,
        after: &BTreeMap<String, String>,
        forwarded: bool,
    ) -> Result<(), ApiError> {
        let invalid = |why: &str| Err(ApiError::new(ErrorCode::InvalidRequest, why));
        match target.kind {
            TOPIC if target.name.is_empty() => invalid("Default topic resources are not allowed."),
            TOPIC => {
                validate_topic_name(&target.name)?;
                self.check_topic_configs(after)?;
                if self.image.topic_ids.contains_key(&target.name) {
                    return Ok(());
                }
                let why = format!("The topic '{}' does not exist.", target.name);
                Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, why))
            }
            BROKER if target.name.is_empty() => self.check_broker_configs(after, None),
            BROKER => match target.name.parse::<i32>() {
                Err(_) => invalid("Unable to parse broker name as a base 10 number."),
                Ok(id) if id < 0 => invalid("Invalid negative broker ID."),
                Ok(id) if self.image.brokers.contains_key(&id) || self.image.controllers.contains_key(&id) => {
                    self.check_broker_configs(after, Some(id))
                }
                Ok(id) => {
                    let why = format!("No node with id {id} found.");
                    // A broker would not even have asked the controller.
                    let code = if forwarded { ErrorCode::InvalidRequest } else { ErrorCode::BrokerIdNotRegistered };
                    Err(ApiError::new(code, why))
                }
            },
            GROUP if target.name.is_empty() => invalid("Default group resources are not allowed."),
            GROUP => {
                let checked = config::validate_group_configs(after, self.dynamic_configs(), &self.settings.node);
                checked.map_err(|why| ApiError::new(ErrorCode::InvalidConfig, why))
            }
            CLIENT_METRICS if target.name.is_empty() => invalid("Subscription name can't be empty"),
            CLIENT_METRICS => {
                config::validate_client_metrics_configs(after).map_err(|(code, why)| ApiError::new(code, why))
            }
            BROKER_LOGGER => invalid("the levels of a broker's loggers are altered at that broker"),
            kind => {
                let why = format!("Unknown resource type {kind}");
                let code = if forwarded { ErrorCode::InvalidRequest } else { ErrorCode::UnsupportedVersion };
                Err(ApiError::new(code, why))
            }
        }
    }

    /// Rules that depend on a broker's file are those of this node's.
    fn check_broker_configs(&self, after: &BTreeMap<String, String>, id: Option<i32>) -> Result<(), ApiError> {
        let of_broker = ConfigResource::broker(id.unwrap_or(self.settings.node.node_id));
        let now = DynamicConfigs { broker: self.image.configs.get(&of_broker), ..self.dynamic_configs() };
        let then = match id {
            Some(_) => DynamicConfigs { broker: Some(after), ..now },
            None => DynamicConfigs { cluster: Some(after), ..now },
        };
        let checked = config::validate_broker_configs(after, id.is_some())
            .and_then(|()| self.settings.node.check_change(now, then, after));
        checked.map_err(|why| ApiError::new(ErrorCode::InvalidRequest, why))
    }

    /// All explicit values of a topic, as they would be, over what holds for this node.
    pub(super) fn check_topic_configs(&self, configs: &BTreeMap<String, String>) -> Result<(), ApiError> {
        let checked = config::validate_topic_configs(configs, self.dynamic_configs(), &self.settings.node);
        checked.map_err(|why| ApiError::new(ErrorCode::InvalidConfig, why))
    }

    fn dynamic_configs(&self) -> DynamicConfigs<'_> {
        let node = ConfigResource::broker(self.settings.node.node_id);
        DynamicConfigs {
            broker: self.image.configs.get(&node),
            cluster: self.image.configs.get(&ConfigResource::all_brokers()),
        }
    }

    /// What CreateTopics answers: the topic's configuration and where each value comes from.
    pub(super) fn effective_topic_configs(
        &self,
        explicit: &BTreeMap<String, String>,
    ) -> Vec<CreatableTopicConfigs<'static>> {
        let entry = |entry: config::ConfigEntry| CreatableTopicConfigs {
            // The topic's own values are told as they were written.
            value: explicit.get(&entry.name).cloned().or(entry.value).map(Into::into),
            name: entry.name.into(),
            read_only: entry.read_only,
            config_source: entry.source as i8,
            is_sensitive: entry.is_sensitive,
            ..Default::default()
        };
        let entries = config::describe_topic_configs(Some(explicit), self.dynamic_configs(), &self.settings.node);
        entries.into_iter().map(entry).collect()
    }

    /// Config records, and behind them what KIP-966 asks for: another minimum makes the eligible leader replicas of
    /// the topics concerned void.
    fn emit_configs(&mut self, mut records: Vec<Record>) -> Vec<Vec<u8>> {
        if self.image.elr_is_on() {
            let concerned = |record: &Record| match record {
                MetadataRecord::Config(c) if c.name == MIN_INSYNC_REPLICAS => {
                    let topic_name = if c.resource_type == TOPIC { c.resource_name.clone() } else { own("") };
                    Some(MetadataRecord::ClearElr(ClearElrRecord { topic_name, ..Default::default() }))
                }
                _ => None,
            };
            let clears: Vec<Record> = records.iter().filter_map(concerned).collect();
            records.extend(clears);
        }
        self.emit(records)
    }
}

/// The table that knows a resource's keys.
fn key(kind: i8, name: &str) -> Option<&'static config::ConfigKey> {
    match kind {
        TOPIC => config::topic_key(name),
        BROKER => config::broker_key(name),
        GROUP => config::group_key(name),
        CLIENT_METRICS => config::client_metrics_key(name),
        _ => None,
    }
}

/// Keys whose values are lists, which APPEND and SUBTRACT may change.
fn is_list(kind: i8, name: &str) -> bool {
    key(kind, name).is_some_and(|key| key.config_type == config::ConfigType::List)
}

/// Each resource once, and in it each key once.
fn check_shape(is_repeated: bool, names: Vec<&str>) -> Result<(), ApiError> {
    let invalid = |why: &str| Err(ApiError::new(ErrorCode::InvalidRequest, why));
    if is_repeated {
        return invalid("Each resource must appear at most once.");
    }
    if !repeated(names).is_empty() {
        return invalid("Error due to duplicate config keys");
    }
    Ok(())
}

/// What is there more than once.
fn repeated<T: Ord + Copy>(mut all: Vec<T>) -> BTreeSet<T> {
    all.sort_unstable();
    all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
}

fn check_nulls(names: Vec<&str>) -> Result<(), ApiError> {
    if names.is_empty() {
        return Ok(());
    }
    let why = format!("Null value not supported for : {}", names.join(", "));
    Err(ApiError::new(ErrorCode::InvalidRequest, why))
}

fn list_default(kind: i8, name: &str) -> Option<&'static str> {
    key(kind, name).and_then(config::ConfigKey::default_value)
}
