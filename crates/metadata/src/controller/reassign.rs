//! Partitions move to other brokers (KIP-455, KIP-860; `ReplicationControlManager.alterPartitionReassignments`).
//!
//! The replicas to come are added to those that are there; once they are in sync, `PartitionChange` completes the move
//! with whatever change of the ISR comes next. What is being added and removed stands in the partition itself, so that
//! a new controller goes on where its predecessor stopped.

use protocol::error::ErrorCode;
use protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use protocol::messages::*;
use protocol::wire::Uuid;

use super::partition_change::PartitionChange;
use super::{ApiError, Controller, ControllerResult, RECORDS_MAX_PER_OPERATION, outcome, own, refused};
use crate::image::{Partition, Topic};

impl Controller {
    pub fn alter_partition_reassignments(
        &mut self,
        request: &AlterPartitionReassignmentsRequest<'_>,
    ) -> ControllerResult<AlterPartitionReassignmentsResponse<'static>> {
        let mut records = Vec::new();
        let mut responses = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let number = asked.partition_index;
                let wanted = asked.replicas.as_deref();
                let altered = self.reassign(&topic.name, number, wanted, request.allow_replication_factor_change);
                let altered = altered.and_then(|record| {
                    if records.len() >= RECORDS_MAX_PER_OPERATION {
                        let why = "the request moves too many partitions at once";
                        return Err(ApiError::new(ErrorCode::PolicyViolation, why));
                    }
                    // A partition that is named twice is changed twice.
                    records.extend(self.emit(record.into_iter().map(MetadataRecord::PartitionChange).collect()));
                    Ok(())
                });
                let (error_code, error_message) = outcome(altered);
                partitions.push(ReassignablePartitionResponse {
                    partition_index: number,
                    error_code,
                    error_message,
                    ..Default::default()
                });
            }
            responses.push(ReassignableTopicResponse { name: own(&topic.name), partitions, ..Default::default() });
        }
        let response = AlterPartitionReassignmentsResponse {
            allow_replication_factor_change: request.allow_replication_factor_change,
            error_message: None,
            responses,
            ..Default::default()
        };
        ControllerResult { records, response }
    }

    /// Without `wanted` a move that is under way is taken back.
    fn reassign(
        &self,
        topic: &str,
        number: i32,
        wanted: Option<&[i32]>,
        may_change_factor: bool,
    ) -> Result<Option<PartitionChangeRecord>, ApiError> {
        let unknown = |what: String| ApiError::new(ErrorCode::UnknownTopicOrPartition, what);
        let found = self.image.topic(topic).ok_or_else(|| unknown(format!("Unable to find a topic named {topic}.")))?;
        let partition = found.partitions.get(&number);
        let partition = partition.ok_or_else(|| unknown(format!("Unable to find partition {topic}:{number}.")))?;
        match wanted {
            None => self.take_back(found, number, partition),
            Some(wanted) => self.move_to(found.id, number, partition, wanted, may_change_factor),
        }
    }

    fn move_to(
        &self,
        topic: Uuid,
        number: i32,
        partition: &Partition,
        wanted: &[i32],
        may_change_factor: bool,
    ) -> Result<Option<PartitionChangeRecord>, ApiError> {
        self.check_manual_assignment(number, wanted, None)?;
        let target = partition.replicas.iter().filter(|r| !partition.removing.contains(r)).count();
        if !may_change_factor && target != wanted.len() {
            let why = format!("The replication factor is changed from {target} to {}", wanted.len());
            return Err(ApiError::new(ErrorCode::InvalidReplicationFactor, why));
        }
        let mut change = PartitionChange::new(&self.image, topic, number, partition, self.effective_min_isr(topic));
        let mut removing: Vec<i32> = partition.replicas.iter().copied().filter(|r| !wanted.contains(r)).collect();
        // DIFFERS: while another move is under way Kafka forgets replicas that it was still adding if the new one adds
        // others, and goes on removing one that is to stay if nothing else is to go.
        let is_new = |r: &i32| !partition.replicas.contains(r) || partition.adding.contains(r);
        let mut adding: Vec<i32> = wanted.iter().copied().filter(is_new).collect();
        removing.sort_unstable();
        adding.sort_unstable();
        change.replicas = wanted.iter().chain(&removing).copied().collect();
        change.removing = removing;
        change.adding = adding;
        Ok(change.build())
    }

    /// Whoever was being added goes, whoever was being removed stays (`PartitionReassignmentRevert`).
    fn take_back(
        &self,
        topic: &Topic,
        number: i32,
        partition: &Partition,
    ) -> Result<Option<PartitionChangeRecord>, ApiError> {
        if !partition.is_moving() {
            let why = "No partition reassignment is in progress.";
            return Err(ApiError::new(ErrorCode::NoReassignmentInProgress, why));
        }
        let stays = |r: &&i32| !partition.adding.contains(r);
        let replicas: Vec<i32> = partition.replicas.iter().filter(stays).copied().collect();
        let mut isr: Vec<i32> = partition.isr.iter().filter(stays).copied().collect();
        let invalid = |why: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, why));
        let Some(first) = replicas.first() else {
            return invalid("every replica is one that is being added".to_owned());
        };
        if isr.is_empty() {
            if !self.unclean_election_is_enabled(&topic.name) {
                return invalid(format!(
                    "Unable to revert partition assignment for {}:{number} because it would require an unclean \
                     leader election.",
                    topic.name
                ));
            }
            isr.push(*first);
        }
        let mut change = self.change(topic.id, number, partition);
        change.replicas = replicas;
        change.isr = isr;
        change.removing.clear();
        change.adding.clear();
        Ok(change.build())
    }

    pub fn list_partition_reassignments(
        &self,
        request: &ListPartitionReassignmentsRequest<'_>,
    ) -> ControllerResult<ListPartitionReassignmentsResponse<'static>> {
        let topics: Vec<OngoingTopicReassignment<'static>> = match &request.topics {
            None => self.image.topics.values().filter_map(|topic| moving(topic, None)).collect(),
            Some(asked) => {
                let found = asked.iter().filter_map(|t| Some((self.image.topic(&t.name)?, &t.partition_indexes)));
                found.filter_map(|(topic, partitions)| moving(topic, Some(partitions))).collect()
            }
        };
        refused(ListPartitionReassignmentsResponse { error_message: None, topics, ..Default::default() })
    }
}

/// What of a topic moves, if anything does.
fn moving(topic: &Topic, asked: Option<&Vec<i32>>) -> Option<OngoingTopicReassignment<'static>> {
    let is_asked = |number: &i32| asked.is_none_or(|asked| asked.contains(number));
    let partitions = topic.partitions.iter().filter(|(number, p)| p.is_moving() && is_asked(number));
    let partitions: Vec<_> = partitions
        .map(|(number, p)| OngoingPartitionReassignment {
            partition_index: *number,
            replicas: p.replicas.clone(),
            adding_replicas: p.adding.clone(),
            removing_replicas: p.removing.clone(),
            ..Default::default()
        })
        .collect();
    let name = own(&topic.name);
    (!partitions.is_empty()).then_some(OngoingTopicReassignment { name, partitions, ..Default::default() })
}
