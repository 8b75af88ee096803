//! One leader per epoch: of the quorum, and of every partition.

use std::collections::BTreeMap;

use broker::NodeStatus;

#[derive(Default)]
pub struct Leaders {
    quorum: BTreeMap<i32, i32>,
    partitions: BTreeMap<(String, i32, i32), i32>,
}

impl Leaders {
    pub fn look(&mut self, status: &NodeStatus, violations: &mut Vec<String>) {
        let id = status.node_id;
        if status.quorum.is_leader {
            let epoch = status.quorum.epoch;
            let known = *self.quorum.entry(epoch).or_insert(id);
            if known != id {
                violations.push(format!("epoch {epoch} of the quorum has two leaders, {known} and {id}"));
            }
        }
        let partitions = status.broker.iter().flat_map(|broker| &broker.partitions);
        for partition in partitions.filter(|partition| partition.is_leader) {
            let key = (partition.topic.clone(), partition.partition, partition.leader_epoch);
            let known = *self.partitions.entry(key).or_insert(id);
            if known != id {
                let (topic, number, epoch) = (&partition.topic, partition.partition, partition.leader_epoch);
                violations.push(format!("epoch {epoch} of {topic}-{number} has two leaders, {known} and {id}"));
            }
        }
    }
}
