//! What compaction leaves: on every replica the latest value of each key, whatever happened to the machines meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;

use broker::{NodeStatus, PartitionStatus};
use protocol::records::{Batches, Scratch};

use super::acknowledged::Acknowledged;
use crate::disk::SimDisk;

const KEYS_PER_PRODUCER: u64 = 5;

/// A producer's values take turns in its keys.
pub fn key_of(value: &str) -> Option<(String, u64)> {
    let (producer, number) = value.split_once(':')?;
    let number: u64 = number.parse().ok()?;
    Some((format!("{producer}/{}", number % KEYS_PER_PRODUCER), number))
}

/// To be called when everything is acknowledged and every replica has it all.
pub fn look(status: &NodeStatus, disk: &SimDisk, acknowledged: &Acknowledged, violations: &mut Vec<String>) {
    for partition in status.broker.iter().flat_map(|broker| &broker.partitions) {
        let found = latest(partition, disk);
        let name = format!("node {} has {}-{}", status.node_id, partition.topic, partition.partition);
        for (key, number) in acknowledged.latest_by_key(partition.partition) {
            match found.get(&key) {
                Some(there) if *there == number => {}
                there => violations.push(format!("{name} with {there:?} for key {key}, of which {number} was written")),
            }
        }
    }
}

fn latest(partition: &PartitionStatus, disk: &SimDisk) -> BTreeMap<String, u64> {
    let dir = PathBuf::from(format!("/data/{}-{}", partition.topic, partition.partition));
    let mut found = BTreeMap::new();
    let mut scratch = Scratch::default();
    for bytes in disk.files_with(&dir, ".log") {
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            for record in batch.records(&mut scratch).into_iter().flatten().flatten() {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                found.extend(key_of(&value));
            }
        }
    }
    found
}
