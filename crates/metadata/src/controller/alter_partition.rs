//! ISR changes asked for by partition leaders (`ReplicationControlManager.alterPartition`; KIP-497, KIP-841, KIP-903).

use protocol::error::ErrorCode;
use protocol::messages::alter_partition_request::{BrokerState, PartitionData as Wanted};
use protocol::messages::alter_partition_response::{PartitionData, TopicData};
use protocol::messages::*;
use protocol::time::Now;
use protocol::wire::Uuid;

use super::{Controller, ControllerResult, refused};
use crate::image::Partition;

impl Controller {
    pub fn alter_partition(
        &mut self,
        request: &AlterPartitionRequest,
        version: i16,
        _now: Now,
    ) -> ControllerResult<AlterPartitionResponse> {
        if let Err(error) = self.check_broker_epoch(request.broker_id, request.broker_epoch) {
            return refused(AlterPartitionResponse { error_code: error.code(), ..Default::default() });
        }
        let mut records = Vec::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut answer = TopicData { topic_id: topic.topic_id, ..Default::default() };
            for wanted in &topic.partitions {
                // Version 2 names replicas without the epochs of their brokers; -1 is not compared.
                let isr =
                    if version >= 3 { wanted.new_isr_with_epochs.clone() } else { without_epochs(&wanted.new_isr) };
                let (data, record) = self.alter_one(request.broker_id, topic.topic_id, wanted, &isr);
                if let Some(record) = record {
                    // The same partition may come twice in a request; the second must see the first.
                    records.extend(self.emit(vec![MetadataRecord::PartitionChange(record)]));
                }
                answer.partitions.push(data);
            }
            topics.push(answer);
        }
        ControllerResult { records, response: AlterPartitionResponse { topics, ..Default::default() } }
    }

    fn alter_one(
        &self,
        broker: i32,
        topic: Uuid,
        wanted: &Wanted,
        isr: &[BrokerState],
    ) -> (PartitionData, Option<PartitionChangeRecord>) {
        let number = wanted.partition_index;
        let refusal = |error: ErrorCode| {
            tracing::info!(%topic, partition = number, broker, error = error.name(), "AlterPartition refused");
            (PartitionData { partition_index: number, error_code: error as i16, ..Default::default() }, None)
        };
        let Some(found) = self.image.topics.get(&topic) else { return refusal(ErrorCode::UnknownTopicId) };
        let Some(partition) = found.partitions.get(&number) else {
            return refusal(ErrorCode::UnknownTopicOrPartition);
        };
        if let Err(error) = self.check_alteration(broker, partition, wanted, isr) {
            return refusal(error);
        }
        let mut change = self.change(topic, number, partition);
        change.isr = isr.iter().map(|r| r.broker_id).collect();
        change.is_recovering = wanted.leader_recovery_state == 1;
        let mut after = partition.clone();
        let record = change.build();
        if let Some(record) = &record {
            after.merge(record);
            if after.leader != broker {
                // The change completed a reassignment and the leader is not among the replicas any more: it is told so
                // by an error although its request took effect.
                let error_code = ErrorCode::NewLeaderElected as i16;
                let data = PartitionData { partition_index: number, error_code, ..Default::default() };
                return (data, Some(record.clone()));
            }
        }
        let data = PartitionData {
            partition_index: number,
            error_code: 0,
            leader_id: after.leader,
            leader_epoch: after.leader_epoch,
            isr: after.isr,
            leader_recovery_state: i8::from(after.is_recovering),
            partition_epoch: after.partition_epoch,
            ..Default::default()
        };
        (data, record)
    }

    /// `validateAlterPartitionData`. The order decides which error a leader sees.
    fn check_alteration(
        &self,
        broker: i32,
        partition: &Partition,
        wanted: &Wanted,
        isr: &[BrokerState],
    ) -> Result<(), ErrorCode> {
        // A leader that knows more than the controller talks to one that is not active any more.
        if wanted.leader_epoch > partition.leader_epoch || wanted.partition_epoch > partition.partition_epoch {
            return Err(ErrorCode::NotController);
        }
        if wanted.leader_epoch < partition.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if broker != partition.leader {
            return Err(ErrorCode::InvalidRequest);
        }
        if wanted.partition_epoch < partition.partition_epoch {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        let is_replica = |r: &BrokerState| partition.replicas.contains(&r.broker_id);
        let is_repeated = |(i, r): (usize, &BrokerState)| isr[..i].iter().any(|s| s.broker_id == r.broker_id);
        let has_leader = isr.iter().any(|r| r.broker_id == partition.leader);
        if isr.is_empty() || !has_leader || !isr.iter().all(is_replica) || isr.iter().enumerate().any(is_repeated) {
            return Err(ErrorCode::InvalidRequest);
        }
        let is_recovering = match wanted.leader_recovery_state {
            0 => false,
            1 => true,
            _ => return Err(ErrorCode::InvalidRequest),
        };
        // KIP-704: a leader from an unclean election recovers alone, and only an election makes it recover.
        if is_recovering && (isr.len() > 1 || !partition.is_recovering) {
            return Err(ErrorCode::InvalidRequest);
        }
        let is_eligible = |r: &BrokerState| {
            let registration = self.image.brokers.get(&r.broker_id);
            registration.is_some_and(|b| b.is_active() && (r.broker_epoch == -1 || r.broker_epoch == b.epoch))
        };
        if isr.iter().all(is_eligible) { Ok(()) } else { Err(ErrorCode::IneligibleReplica) }
    }
}

fn without_epochs(isr: &[i32]) -> Vec<BrokerState> {
    isr.iter().map(|id| BrokerState { broker_id: *id, broker_epoch: -1, ..Default::default() }).collect()
}
