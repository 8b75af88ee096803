//! Log directories: which replica is in which, and what becomes of replicas whose directory fails (KIP-858, KIP-1066).

use protocol::error::ErrorCode;
use protocol::messages::assign_replicas_to_dirs_response::{DirectoryData, PartitionData, TopicData};
use protocol::messages::*;
use protocol::wire::Uuid;

use super::{Controller, ControllerResult, Record, refused};

impl Controller {
    pub fn assign_replicas_to_dirs(
        &mut self,
        request: &AssignReplicasToDirsRequest,
    ) -> ControllerResult<AssignReplicasToDirsResponse> {
        let broker = request.broker_id;
        if !self.image.metadata_version().has_directories() {
            let error_code = ErrorCode::UnsupportedVersion as i16;
            return refused(AssignReplicasToDirsResponse { error_code, ..Default::default() });
        }
        if let Err(error) = self.check_broker_epoch(broker, request.broker_epoch) {
            return refused(AssignReplicasToDirsResponse { error_code: error.code(), ..Default::default() });
        }
        let online = self.image.brokers[&broker].log_dirs.clone();
        let mut records = Vec::new();
        let mut directories = Vec::with_capacity(request.directories.len());
        let mut lost = Vec::new();
        for directory in &request.directories {
            let mut answer = DirectoryData { id: directory.id, ..Default::default() };
            for topic in &directory.topics {
                let mut partitions = Vec::with_capacity(topic.partitions.len());
                for partition in &topic.partitions {
                    let number = partition.partition_index;
                    let assigned = self.assign_replica(broker, directory.id, topic.topic_id, number);
                    let error_code = match assigned {
                        Ok(record) => {
                            records.extend(self.emit(record.into_iter().collect()));
                            0
                        }
                        Err(error) => error as i16,
                    };
                    partitions.push(PartitionData { partition_index: number, error_code, ..Default::default() });
                }
                answer.topics.push(TopicData { topic_id: topic.topic_id, partitions, ..Default::default() });
            }
            // A broker assigns replicas to a directory that failed to say that they are lost.
            if !online.is_empty() && !online.contains(&directory.id) && !directory.id.is_reserved() {
                lost.push(directory.id);
            }
            directories.push(answer);
        }
        let offline = self.replicas_offline(broker, &lost);
        records.extend(self.emit(offline));
        ControllerResult { records, response: AssignReplicasToDirsResponse { directories, ..Default::default() } }
    }

    fn assign_replica(
        &self,
        broker: i32,
        directory: Uuid,
        topic: Uuid,
        number: i32,
    ) -> Result<Option<Record>, ErrorCode> {
        let found = self.image.topics.get(&topic).ok_or(ErrorCode::UnknownTopicId)?;
        let partition = found.partitions.get(&number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if !partition.replicas.contains(&broker) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let mut change = self.change(topic, number, partition);
        change.directory = Some((broker, directory));
        Ok(change.build().map(MetadataRecord::PartitionChange))
    }

    /// What a heartbeat says about directories: those that failed, and those that take no new replicas.
    pub(super) fn directory_changes(&self, request: &BrokerHeartbeatRequest) -> Vec<Record> {
        const CORDONED_FROM: i16 = 30;
        let broker = request.broker_id;
        let level = self.image.metadata_version();
        let Some(registration) = self.image.brokers.get(&broker) else { return Vec::new() };
        let mut records = Vec::new();
        let is_offline = |dir: &&Uuid| request.offline_log_dirs.contains(dir);
        let failed: Vec<Uuid> = registration.log_dirs.iter().filter(is_offline).copied().collect();
        if level.has_directories() && !failed.is_empty() {
            let online = registration.log_dirs.iter().filter(|dir| !is_offline(dir)).copied().collect();
            tracing::warn!(broker, directories = ?failed, "log directories failed");
            records.extend(self.replicas_offline(broker, &failed));
            records.extend(self.registration_change(broker, |r| r.log_dirs = online));
        }
        if let Some(cordoned) = request.cordoned_log_dirs.as_ref().filter(|_| level.0 >= CORDONED_FROM) {
            let sorted = |dirs: &[Uuid]| {
                let mut dirs = dirs.to_vec();
                dirs.sort();
                dirs
            };
            let is_same = registration.cordoned_log_dirs.as_ref().is_some_and(|d| sorted(d) == sorted(cordoned));
            if !is_same {
                records.extend(self.registration_change(broker, |r| r.cordoned_log_dirs = Some(cordoned.clone())));
            }
        }
        records
    }
}
