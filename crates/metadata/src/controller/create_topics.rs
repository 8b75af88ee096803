//! CreateTopics: names, configurations, placement, records (`ReplicationControlManager.createTopics`,
//! `ControllerApis.createTopics`).

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::create_topics_request::CreatableTopic;
use protocol::messages::create_topics_response::CreatableTopicResult;
use protocol::messages::*;
use protocol::wire::{Str, Uuid};

use super::activation::config_record;
use super::topics::{CLUSTER_METADATA_TOPIC, has_collision_chars, unify_collision_chars, validate_topic_name};
use super::{ApiError, Controller, ControllerResult, MutationQuota, RECORDS_MAX_PER_OPERATION, Record, own};
use crate::image::ConfigResource;

/// A topic that passed every check.
struct NewTopic {
    id: Uuid,
    configs: BTreeMap<String, String>,
    /// Replicas of each partition.
    partitions: Vec<Vec<i32>>,
    records: Vec<Record>,
}

impl Controller {
    pub fn create_topics(
        &mut self,
        request: &CreateTopicsRequest<'_>,
        quota: &mut MutationQuota,
    ) -> ControllerResult<CreateTopicsResponse<'static>> {
        let repeated = repeated_names(request);
        let is_excessive = self.partitions_wanted(request) > RECORDS_MAX_PER_OPERATION as i64;
        let mut records = Vec::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics.iter().filter(|t| !repeated.contains(&t.name.as_ref())) {
            let created = if is_excessive {
                let why = "Excessively large number of partitions per request.";
                Err(ApiError::new(ErrorCode::PolicyViolation, why))
            } else {
                self.new_topic(topic, records.len(), quota)
            };
            topics.push(match created {
                Ok(new) => {
                    let result = self.creatable_result(&topic.name, &new);
                    records.extend(new.records);
                    result
                }
                Err(error) => refusal(&topic.name, error),
            });
        }
        for name in repeated {
            topics.push(refusal(name, ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name.")));
        }
        let records = if request.validate_only { Vec::new() } else { self.emit(records) };
        let throttle_time_ms = quota.throttle_ms();
        ControllerResult { records, response: CreateTopicsResponse { throttle_time_ms, topics, ..Default::default() } }
    }

    /// An upper bound: topics that are refused count too, so that nothing is allocated for them first.
    fn partitions_wanted(&self, request: &CreateTopicsRequest<'_>) -> i64 {
        let wanted = |topic: &CreatableTopic<'_>| match (topic.assignments.len(), topic.num_partitions) {
            (0, -1) => i64::from(self.settings.node.num_partitions),
            (0, n) => i64::from(n.max(0)),
            (n, _) => n as i64,
        };
        request.topics.iter().map(wanted).sum()
    }

    fn new_topic(
        &mut self,
        topic: &CreatableTopic<'_>,
        records_before: usize,
        quota: &mut MutationQuota,
    ) -> Result<NewTopic, ApiError> {
        self.check_new_name(&topic.name)?;
        let configs = self.creation_configs(topic)?;
        let partitions = self.new_assignment(topic)?;
        quota.take(partitions.len())?;
        let id = self.random_uuid();
        let mut records = Vec::with_capacity(1 + configs.len() + partitions.len());
        let record = TopicRecord { name: own(&topic.name), topic_id: id, ..Default::default() };
        records.push(MetadataRecord::Topic(record));
        let resource = ConfigResource::topic(&topic.name);
        records.extend(configs.iter().map(|(name, value)| config_record(&resource, name, Some(value))));
        for (number, replicas) in partitions.iter().enumerate() {
            records.push(self.partition_record(id, number as i32, replicas.clone())?);
        }
        if records_before + records.len() > RECORDS_MAX_PER_OPERATION {
            let why = "Excessively large number of partitions per request.";
            return Err(ApiError::new(ErrorCode::PolicyViolation, why));
        }
        Ok(NewTopic { id, configs, partitions, records })
    }

    /// Collisions with other names of the same request are not looked for: Kafka does not, either.
    fn check_new_name(&self, name: &str) -> Result<(), ApiError> {
        if name == CLUSTER_METADATA_TOPIC {
            let why = format!("Creation of internal topic {CLUSTER_METADATA_TOPIC} is prohibited.");
            return Err(ApiError::new(ErrorCode::InvalidRequest, why));
        }
        // Kafka looks for the topic itself last, so that "exists" wins over "collides with itself".
        if self.image.topic_ids.contains_key(name) {
            return Err(ApiError::new(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
        }
        validate_topic_name(name)?;
        if has_collision_chars(name) {
            let unified = unify_collision_chars(name);
            let other =
                self.image.topic_ids.keys().find(|n| has_collision_chars(n) && unify_collision_chars(n) == unified);
            if let Some(other) = other {
                let why = format!("Topic '{name}' collides with existing topic: {other}");
                return Err(ApiError::new(ErrorCode::InvalidTopicException, why));
            }
        }
        Ok(())
    }

    fn creation_configs(&self, topic: &CreatableTopic<'_>) -> Result<BTreeMap<String, String>, ApiError> {
        let mut configs = BTreeMap::new();
        let nulls: Vec<&str> = topic.configs.iter().filter(|c| c.value.is_none()).map(|c| c.name.as_ref()).collect();
        if !nulls.is_empty() {
            let why = format!("Null value not supported for topic configs: {}", nulls.join(","));
            return Err(ApiError::new(ErrorCode::InvalidConfig, why));
        }
        for config in &topic.configs {
            let value = config.value.as_deref().unwrap_or_default();
            configs.insert(config.name.clone().into_owned(), value.to_owned());
        }
        self.check_topic_configs(&configs)?;
        Ok(configs)
    }

    fn new_assignment(&mut self, topic: &CreatableTopic<'_>) -> Result<Vec<Vec<i32>>, ApiError> {
        if !topic.assignments.is_empty() {
            return self.manual_assignment(topic);
        }
        if topic.replication_factor < -1 || topic.replication_factor == 0 {
            let why = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(ApiError::new(ErrorCode::InvalidReplicationFactor, why));
        }
        if topic.num_partitions < -1 || topic.num_partitions == 0 {
            let why = "Number of partitions was set to an invalid non-positive value.";
            return Err(ApiError::new(ErrorCode::InvalidPartitions, why));
        }
        let partitions =
            if topic.num_partitions == -1 { self.settings.node.num_partitions } else { topic.num_partitions };
        let factor = match topic.replication_factor {
            -1 => self.settings.node.default_replication_factor,
            factor => factor,
        };
        let placed = self.place(partitions.max(0) as usize, i32::from(factor));
        placed.map_err(|why| {
            let why = format!("Unable to replicate the partition {factor} time(s): {why}");
            ApiError::new(ErrorCode::InvalidReplicationFactor, why)
        })
    }

    fn manual_assignment(&self, topic: &CreatableTopic<'_>) -> Result<Vec<Vec<i32>>, ApiError> {
        if topic.replication_factor != -1 {
            let why = "a manual assignment of partitions needs -1 as replication factor";
            return Err(ApiError::new(ErrorCode::InvalidRequest, why));
        }
        if topic.num_partitions != -1 {
            let why = "a manual assignment of partitions needs -1 as number of partitions";
            return Err(ApiError::new(ErrorCode::InvalidRequest, why));
        }
        let mut partitions = BTreeMap::new();
        let mut factor = None;
        for assignment in &topic.assignments {
            let number = assignment.partition_index;
            self.check_manual_assignment(number, &assignment.broker_ids, factor)?;
            factor = Some(assignment.broker_ids.len());
            if partitions.insert(number, assignment.broker_ids.clone()).is_some() {
                let why = format!("Found multiple manual partition assignments for partition {number}");
                return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, why));
            }
        }
        if !partitions.keys().copied().eq(0..partitions.len() as i32) {
            let why = "partitions should be a consecutive 0-based integer sequence";
            return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, why));
        }
        Ok(partitions.into_values().collect())
    }

    fn creatable_result(&self, name: &str, new: &NewTopic) -> CreatableTopicResult<'static> {
        CreatableTopicResult {
            name: own(name),
            topic_id: new.id,
            error_code: 0,
            error_message: None,
            topic_config_error_code: 0,
            num_partitions: new.partitions.len() as i32,
            replication_factor: new.partitions.first().map_or(0, |r| r.len()) as i16,
            configs: Some(self.effective_topic_configs(&new.configs)),
            ..Default::default()
        }
    }
}

fn repeated_names<'a>(request: &'a CreateTopicsRequest<'_>) -> Vec<&'a str> {
    let mut names: Vec<&str> = request.topics.iter().map(|t| t.name.as_ref()).collect();
    names.sort_unstable();
    let mut repeated: Vec<&str> = names.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
    repeated.dedup();
    repeated
}

fn refusal(name: &str, error: ApiError) -> CreatableTopicResult<'static> {
    CreatableTopicResult {
        name: Str::Owned(name.to_owned()),
        error_code: error.code(),
        error_message: error.text(),
        configs: Some(Vec::new()),
        ..Default::default()
    }
}
