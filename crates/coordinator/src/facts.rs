//! What a coordinator must know of the cluster: topics, racks, configurations of groups. It is asked for with each call
//! and never kept, so that there is nothing here that could be out of date.

use std::collections::BTreeSet;

use protocol::wire::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// The cluster as the broker's metadata has it now.
pub trait Facts {
    /// Grows with every change of the metadata.
    fn version(&self) -> i64;
    fn topic_id(&self, name: &str) -> Option<Uuid>;
    fn topic_name(&self, id: Uuid) -> Option<&str>;
    fn partition_count(&self, id: Uuid) -> Option<i32>;
    /// The racks of a partition's replicas; a replica whose broker names none does not count.
    fn partition_racks(&self, id: Uuid, partition: i32) -> Vec<&str>;
    fn topic_names(&self) -> Box<dyn Iterator<Item = &str> + '_>;
    fn group_settings(&self, group: &str) -> GroupSettings;
}

/// What can be configured for a single group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// `consumer.session.timeout.ms`
    pub session_timeout_ms: i64,
    /// `consumer.heartbeat.interval.ms`
    pub heartbeat_interval_ms: i32,
    /// `consumer.assignment.interval.ms`: the least time between two assignments.
    pub assignment_interval_ms: i64,
}

impl Default for GroupSettings {
    /// Kafka's defaults.
    fn default() -> Self {
        Self { session_timeout_ms: 45_000, heartbeat_interval_ms: 5_000, assignment_interval_ms: 1_000 }
    }
}

/// First byte of what a topic's hash is made of.
const HASH_FORMAT: u8 = 0;

/// The hash of everything that an assignment depends on (`Utils.computeGroupHash`): a group whose hash differs from its
/// topics' present one must be assigned anew. It is written down, and another broker compares it with its own.
pub(crate) fn metadata_hash(topics: &BTreeSet<&str>, facts: &dyn Facts) -> i64 {
    let mut hashes = Vec::new();
    for name in topics {
        if let Some(id) = facts.topic_id(name) {
            hashes.extend_from_slice(&topic_hash(name, id, facts).to_le_bytes());
        }
    }
    if hashes.is_empty() { 0 } else { xxh3_64(&hashes) as i64 }
}

/// Numbers are little-endian, texts UTF-16 followed by their length.
fn topic_hash(name: &str, id: Uuid, facts: &dyn Facts) -> u64 {
    let count = facts.partition_count(id).unwrap_or(0);
    let mut bytes = vec![HASH_FORMAT];
    let number = u128::from_be_bytes(id.0);
    bytes.extend_from_slice(&((number >> 64) as u64).to_le_bytes());
    bytes.extend_from_slice(&(number as u64).to_le_bytes());
    put_text(&mut bytes, name);
    bytes.extend_from_slice(&count.to_le_bytes());
    for partition in 0..count {
        bytes.extend_from_slice(&partition.to_le_bytes());
        let mut racks = facts.partition_racks(id, partition);
        racks.sort_unstable();
        for rack in racks {
            bytes.extend_from_slice(&(rack.encode_utf16().count() as i32).to_le_bytes());
            put_text(&mut bytes, rack);
        }
    }
    xxh3_64(&bytes)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let mut units = 0i32;
    for unit in text.encode_utf16() {
        bytes.extend_from_slice(&unit.to_le_bytes());
        units += 1;
    }
    bytes.extend_from_slice(&units.to_le_bytes());
}
