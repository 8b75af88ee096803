//! What Apache Kafka and its clients wrote: the tests' recorded bytes, as seeds and as files to damage.

use std::collections::BTreeSet;
use std::io::Read;

use protocol::messages::MetadataRecord;
use protocol::records::{Batches, Scratch};
use protocol::registry::{self, Entry};
use protocol::wire::Uuid;
use serde_json::Value;

macro_rules! files {
    ($dir:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../", $dir, "/", $name)))),*]
    };
}

pub type Files = &'static [(&'static str, &'static [u8])];

/// The directories of four partitions.
pub const PARTITIONS: &[Files] = &[
    files!("storage/tests/golden/transactions":
        "00000000000000000000.index", "00000000000000000000.log", "00000000000000000000.timeindex",
        "00000000000000000006.index", "00000000000000000006.log", "00000000000000000006.snapshot",
        "00000000000000000006.timeindex", "00000000000000000006.txnindex", "00000000000000000013.snapshot",
        "00000000000000000016.snapshot", "leader-epoch-checkpoint", "partition.metadata"),
    files!("storage/tests/golden/epochs":
        "00000000000000000000.index", "00000000000000000000.log", "00000000000000000000.timeindex",
        "00000000000000000006.snapshot", "00000000000000000010.snapshot", "leader-epoch-checkpoint",
        "partition.metadata"),
    files!("storage/tests/golden/idempotent":
        "00000000000000000000.index", "00000000000000000000.log", "00000000000000000000.timeindex",
        "00000000000000000009.snapshot", "leader-epoch-checkpoint", "partition.metadata"),
    files!("storage/tests/golden/segments":
        "00000000000000000000.index", "00000000000000000000.log", "00000000000000000000.timeindex",
        "00000000000000000099.index", "00000000000000000099.log", "00000000000000000099.snapshot",
        "00000000000000000099.timeindex", "00000000000000000198.log", "00000000000000000198.index",
        "00000000000000000198.timeindex", "00000000000000000198.snapshot", "leader-epoch-checkpoint",
        "partition.metadata"),
];

/// The directory of a node of Kafka's that is broker and controller.
pub const NODE: Files = files!("tools/tests/golden/storage-check/single-node":
    "bootstrap.checkpoint", "meta.properties",
    "__cluster_metadata-0/00000000000000000000.index", "__cluster_metadata-0/00000000000000000000.log",
    "__cluster_metadata-0/00000000000000000000.timeindex",
    "__cluster_metadata-0/00000000000000000056-0000000001.checkpoint",
    "__cluster_metadata-0/00000000000000000173-0000000001.checkpoint",
    "__cluster_metadata-0/00000000000000000196.snapshot", "__cluster_metadata-0/leader-epoch-checkpoint",
    "__cluster_metadata-0/partition.metadata", "__cluster_metadata-0/quorum-state");

pub const CLUSTER_ID: &str = "Z29sZGVuLWthZmthLTQzMQ";

/// Files of batches, one for each compression.
pub const BATCHES: &[&[u8]] = &[
    include_bytes!("../../protocol/tests/golden/walkthrough.log"),
    include_bytes!("../../protocol/tests/golden/gzip.log"),
    include_bytes!("../../protocol/tests/golden/snappy.log"),
    include_bytes!("../../protocol/tests/golden/lz4.log"),
    include_bytes!("../../protocol/tests/golden/zstd.log"),
];

const CONSUMER_OFFSETS: &[u8] = include_bytes!("../seeds/consumer-offsets.log");
const WIRE: &[u8] = include_bytes!("../../protocol/tests/golden/wire.jsonl.gz");
const BODIES: &[u8] = include_bytes!("../../protocol/tests/golden/oracle.jsonl.gz");

pub struct Recorded {
    pub entry: &'static Entry,
    pub version: i16,
    pub bytes: Vec<u8>,
    json: Value,
}

fn lines(gzipped: &[u8], body_at: usize) -> Vec<Recorded> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(gzipped).read_to_string(&mut text).expect("a gzip file of text");
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("a line of JSON");
        let hex = value[body_at].as_str().expect("hex");
        let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex");
        Recorded {
            entry: registry::find(value[0].as_str().expect("a name")).expect("a known message"),
            version: value[1].as_i64().expect("a number") as i16,
            bytes: (0..hex.len()).step_by(2).map(byte).collect(),
            json: value[value.as_array().map_or(0, |a| a.len() - 1)].clone(),
        }
    };
    text.lines().map(line).collect()
}

/// Messages without headers, a few of each kind and version.
pub fn messages() -> Vec<Recorded> {
    let mut seen: BTreeSet<(&str, i16, usize)> = BTreeSet::new();
    let mut all = lines(BODIES, 3);
    all.retain(|m| m.bytes.len() < 2000 && (0..2).any(|n| seen.insert((m.entry.name, m.version, n))));
    all
}

/// Requests as they went over a connection, without their length, each kind and version once or twice.
/// Ids of topics that were are replaced by `topic_id`.
pub fn requests(topic_id: Uuid) -> Vec<Recorded> {
    let mut seen: BTreeSet<(&str, i16, usize)> = BTreeSet::new();
    let mut all = lines(WIRE, 3);
    all.retain(|m| m.entry.kind == "request" && (0..2).any(|n| seen.insert((m.entry.name, m.version, n))));
    for request in &mut all {
        let mut ids = Vec::new();
        topic_ids(&request.json, &mut ids);
        for id in ids {
            let found: Vec<usize> =
                (0..request.bytes.len()).filter(|at| request.bytes[*at..].starts_with(&id.0)).collect();
            found.into_iter().for_each(|at| request.bytes[at..at + 16].copy_from_slice(&topic_id.0));
        }
    }
    all
}

fn topic_ids(json: &Value, out: &mut Vec<Uuid>) {
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                let id = value.as_str().filter(|_| key == "topicId").and_then(Uuid::parse);
                out.extend(id.filter(|id| !id.is_reserved()));
                topic_ids(value, out);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| topic_ids(item, out)),
        _ => {}
    }
}

fn records(log: &[u8], mut each: impl FnMut(Option<&[u8]>, Option<&[u8]>)) {
    let mut scratch = Scratch::default();
    for batch in Batches::new(log).flatten().filter(|batch| !batch.header.is_control()) {
        for record in batch.records(&mut scratch).expect("recorded records").flatten() {
            each(record.key, record.value);
        }
    }
}

pub fn metadata_records() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let logs = NODE.iter().filter(|(name, _)| name.ends_with(".log") || name.ends_with("0173-0000000001.checkpoint"));
    for (_, log) in logs {
        records(log, |_, value| out.extend(value.map(<[u8]>::to_vec)));
    }
    out.retain(|record| MetadataRecord::decode(record).is_ok());
    out
}

/// Keys and values.
pub fn group_records() -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut out = Vec::new();
    records(CONSUMER_OFFSETS, |key, value| out.push((key.unwrap_or_default().to_vec(), value.map(<[u8]>::to_vec))));
    out
}
