//! Moving partitions between brokers, and replicas between the directories of a broker.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use protocol::messages::{AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest};

use super::admin::{REQUEST_TIMEOUT_MS, outcome};
use super::consumer::TopicPartition;
use super::{Client, ClientError, Target};

pub type PartitionResult = (TopicPartition, Result<(), ClientError>);

impl Client {
    /// `None` takes back the move that is under way.
    pub fn alter_reassignments(
        &mut self,
        wanted: &BTreeMap<TopicPartition, Option<Vec<i32>>>,
        may_change_factor: bool,
    ) -> Result<Vec<PartitionResult>, ClientError> {
        let build = |version: i16| {
            let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
            for ((topic, partition), replicas) in wanted {
                topics.entry(topic).or_default().push(ReassignablePartition {
                    partition_index: *partition,
                    replicas: replicas.clone(),
                    ..Default::default()
                });
            }
            let topics = topics.into_iter().map(|(name, partitions)| ReassignableTopic {
                name: name.into(),
                partitions,
                ..Default::default()
            });
            AlterPartitionReassignmentsRequest {
                timeout_ms: REQUEST_TIMEOUT_MS,
                allow_replication_factor_change: version < 1 || may_change_factor,
                topics: topics.collect(),
                ..Default::default()
            }
        };
        let answer = self.call("alterPartitionReassignments", Target::Any, build, |response| {
            ErrorCode::from_i16(response.error_code)
        })?;
        let response = answer.get()?;
        outcome(response.error_code, response.error_message.as_deref())?;
        let mut out = Vec::new();
        for topic in &response.responses {
            for result in &topic.partitions {
                let key = (topic.name.to_string(), result.partition_index);
                out.push((key, outcome(result.error_code, result.error_message.as_deref())));
            }
        }
        Ok(out)
    }

    /// Moves replicas of one broker into other directories of it.
    pub fn alter_replica_log_dirs(
        &mut self,
        broker: i32,
        moves: &[(TopicPartition, String)],
    ) -> Result<Vec<PartitionResult>, ClientError> {
        let build = |_: i16| {
            let mut dirs: BTreeMap<&str, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
            for ((topic, partition), dir) in moves {
                dirs.entry(dir).or_default().entry(topic).or_default().push(*partition);
            }
            let dirs = dirs.into_iter().map(|(path, topics)| AlterReplicaLogDir {
                path: path.into(),
                topics: topics
                    .into_iter()
                    .map(|(name, partitions)| AlterReplicaLogDirTopic {
                        name: name.into(),
                        partitions,
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            });
            AlterReplicaLogDirsRequest { dirs: dirs.collect(), ..Default::default() }
        };
        let answer = self.call("alterReplicaLogDirs", Target::Broker(broker), build, |_| ErrorCode::None)?;
        let response = answer.get()?;
        let mut out = Vec::new();
        for topic in &response.results {
            for result in &topic.partitions {
                let key = (topic.topic_name.to_string(), result.partition_index);
                out.push((key, outcome(result.error_code, None)));
            }
        }
        Ok(out)
    }
}
