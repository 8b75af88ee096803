//! New partitions: their placement, their records, and CreatePartitions.

use protocol::error::ErrorCode;
use protocol::messages::create_partitions_request::CreatePartitionsTopic;
use protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use protocol::messages::*;
use protocol::wire::Uuid;

use super::partition_change::default_directory;
use super::placement::{Placer, usable_brokers};
use super::{ApiError, Controller, ControllerResult, MutationQuota, RECORDS_MAX_PER_OPERATION, Record, outcome, own};

impl Controller {
    /// Replicas for new partitions, or why there can be none.
    pub(super) fn place(&mut self, partitions: usize, replication_factor: i32) -> Result<Vec<Vec<i32>>, String> {
        let usable = usable_brokers(&self.image, |broker| self.sessions.is_shutting_down(broker));
        let mut placer = Placer::new(usable, &mut self.rng);
        if let Some(why) = placer.refusal(replication_factor) {
            return Err(why);
        }
        let placed: Vec<Vec<i32>> =
            (0..partitions).map(|_| placer.place(replication_factor as usize, &mut self.rng)).collect();
        if placed.iter().any(|replicas| !replicas.iter().any(|r| self.image.is_active_broker(*r))) {
            return Err("All brokers are currently fenced or in controlled shutdown.".to_owned());
        }
        Ok(placed)
    }

    /// The record of a new partition; its ISR is whoever of the replicas is active, its leader the first of them.
    pub(super) fn partition_record(&self, topic: Uuid, number: i32, replicas: Vec<i32>) -> Result<Record, ApiError> {
        let isr: Vec<i32> = replicas.iter().copied().filter(|r| self.image.is_active_broker(*r)).collect();
        let Some(leader) = isr.first().copied() else {
            let why = format!(
                "All brokers specified in the manual partition assignment for partition {number} are fenced or in \
                 controlled shutdown."
            );
            return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, why));
        };
        let mut directories: Vec<Uuid> = Vec::new();
        if self.image.metadata_version().has_directories() {
            directories = replicas.iter().map(|r| default_directory(&self.image, *r)).collect();
        }
        Ok(MetadataRecord::Partition(PartitionRecord {
            partition_id: number,
            topic_id: topic,
            replicas,
            isr,
            leader,
            leader_recovery_state: 0,
            leader_epoch: 0,
            partition_epoch: 0,
            directories,
            ..Default::default()
        }))
    }

    /// `validateManualPartitionAssignment`.
    pub(super) fn check_manual_assignment(
        &self,
        number: i32,
        replicas: &[i32],
        replication_factor: Option<usize>,
    ) -> Result<(), ApiError> {
        let invalid = |why: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, why));
        if replicas.is_empty() {
            return invalid("The manual partition assignment includes an empty replica list.".to_owned());
        }
        let mut sorted = replicas.to_vec();
        sorted.sort_unstable();
        for (i, broker) in sorted.iter().enumerate() {
            if !self.image.brokers.contains_key(broker) {
                return invalid(format!(
                    "The manual partition assignment includes broker {broker}, but no such broker is registered."
                ));
            }
            if i > 0 && sorted[i - 1] == *broker {
                return invalid(format!(
                    "The manual partition assignment includes the broker {broker} more than once."
                ));
            }
        }
        match replication_factor {
            Some(expected) if expected != replicas.len() => invalid(format!(
                "partition {number} has {} replica(s), but the partitions before it have {expected}",
                replicas.len()
            )),
            _ => Ok(()),
        }
    }

    pub fn create_partitions(
        &mut self,
        request: &CreatePartitionsRequest<'_>,
        quota: &mut MutationQuota,
    ) -> ControllerResult<CreatePartitionsResponse<'static>> {
        let mut records: Vec<Record> = Vec::new();
        let mut results = Vec::with_capacity(request.topics.len());
        for (i, topic) in request.topics.iter().enumerate() {
            let is_same = |other: &CreatePartitionsTopic<'_>| other.name == topic.name;
            if request.topics[..i].iter().any(is_same) {
                continue;
            }
            let created = if request.topics[i + 1..].iter().any(is_same) {
                Err(ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
            } else {
                self.new_partitions(topic, records.len(), quota)
            };
            let (error_code, error_message) = outcome(created.map(|new| records.extend(new)));
            let name = own(&topic.name);
            results.push(CreatePartitionsTopicResult { name, error_code, error_message, ..Default::default() });
        }
        let records = if request.validate_only { Vec::new() } else { self.emit(records) };
        let throttle_time_ms = quota.throttle_ms();
        ControllerResult {
            records,
            response: CreatePartitionsResponse { throttle_time_ms, results, ..Default::default() },
        }
    }

    fn new_partitions(
        &mut self,
        wanted: &CreatePartitionsTopic<'_>,
        records_before: usize,
        quota: &mut MutationQuota,
    ) -> Result<Vec<Record>, ApiError> {
        let topic = self.image.topic(&wanted.name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let id = topic.id;
        let existing = topic.partitions.len();
        let count = usize::try_from(wanted.count).unwrap_or(0);
        if count == existing {
            let why = format!("Topic already has {existing} partition(s).");
            return Err(ApiError::new(ErrorCode::InvalidPartitions, why));
        }
        if count < existing {
            let why = format!(
                "The topic {} currently has {existing} partition(s); {} would not be an increase.",
                wanted.name, wanted.count
            );
            return Err(ApiError::new(ErrorCode::InvalidPartitions, why));
        }
        let additional = count - existing;
        // DIFFERS: Kafka answers UNKNOWN_SERVER_ERROR, and the partitions up to its limit are there all the same.
        if records_before + additional > RECORDS_MAX_PER_OPERATION {
            let why = "Excessively large number of partitions per request.";
            return Err(ApiError::new(ErrorCode::PolicyViolation, why));
        }
        let factor = topic.partitions.values().next().map_or(1, |p| p.replicas.len());
        let assignments = match &wanted.assignments {
            Some(manual) if manual.len() != additional => {
                let why = format!(
                    "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                    manual.len()
                );
                return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, why));
            }
            Some(manual) => {
                for (i, assignment) in manual.iter().enumerate() {
                    self.check_manual_assignment((existing + i) as i32, &assignment.broker_ids, Some(factor))?;
                }
                manual.iter().map(|a| a.broker_ids.clone()).collect()
            }
            None => {
                let placed = self.place(additional, factor as i32);
                placed.map_err(|why| ApiError::new(ErrorCode::InvalidReplicationFactor, why))?
            }
        };
        quota.take(additional)?;
        let numbered = assignments.into_iter().enumerate();
        numbered.map(|(i, replicas)| self.partition_record(id, (existing + i) as i32, replicas)).collect()
    }
}
