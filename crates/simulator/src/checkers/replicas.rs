//! All replicas of a partition are equal, byte for byte, below the high watermark.

use std::collections::BTreeMap;
use std::path::PathBuf;

use broker::{NodeStatus, PartitionStatus};
use protocol::records::Batches;

use super::hash;
use crate::disk::SimDisk;

#[derive(Default)]
pub struct Replicas {
    /// By topic, partition and base offset: where the batch ends, and its hash, as first seen below a high watermark.
    committed: BTreeMap<(String, i32, i64), (i64, u64)>,
    /// Each replica is compacted at its own time: they need not be equal, and have gaps.
    pub is_compacted: bool,
}

impl Replicas {
    pub fn look(&mut self, status: &NodeStatus, disk: &SimDisk, violations: &mut Vec<String>) {
        for partition in status.broker.iter().flat_map(|broker| &broker.partitions) {
            self.look_at(status.node_id, partition, disk, violations);
        }
    }

    fn look_at(&mut self, id: i32, partition: &PartitionStatus, disk: &SimDisk, violations: &mut Vec<String>) {
        let (topic, number) = (&partition.topic, partition.partition);
        let dir = PathBuf::from(format!("/data/{topic}-{number}"));
        let mut expected = partition.log_start;
        for bytes in disk.files_with(&dir, ".log") {
            for batch in Batches::new(&bytes).map_while(Result::ok) {
                let (base, next) = (batch.header.base_offset, batch.header.next_offset());
                if next > partition.high_watermark {
                    return;
                }
                if base < expected || (base > expected && !self.is_compacted) {
                    violations.push(format!("node {id} has {topic}-{number} go on at {base} where {expected} is due"));
                    return;
                }
                expected = next;
                if self.is_compacted {
                    continue;
                }
                let seen = (next, hash(batch.bytes));
                let known = *self.committed.entry((topic.clone(), number, base)).or_insert(seen);
                if known != seen {
                    violations.push(format!("node {id} has other records at {base} of {topic}-{number} than others"));
                    return;
                }
            }
        }
        if expected < partition.high_watermark && !self.is_compacted {
            let high_watermark = partition.high_watermark;
            violations.push(format!("node {id} has {topic}-{number} only to {expected}, below {high_watermark}"));
        }
    }
}
