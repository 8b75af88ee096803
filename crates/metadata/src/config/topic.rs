//! The settings that hold for one topic: its own, over those of the brokers, over Kafka's defaults.

use std::collections::BTreeMap;

use super::keys::{ConfigKey, broker_key, topic_key};
use super::synonyms;
use super::validate::{canonical, list, parse_double};
use super::{DynamicConfigs, NodeConfig};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CleanupPolicy {
    pub delete: bool,
    pub compact: bool,
}

/// Levels are those of the topic; the gzip level −1 is the library's own default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// Batches stay as their producer compressed them.
    Producer,
    Uncompressed,
    Gzip {
        level: i32,
    },
    Snappy,
    Lz4 {
        level: i32,
    },
    Zstd {
        level: i32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// One field per configuration of a topic, named by its key.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub cleanup_policy: CleanupPolicy,
    pub compression_type: CompressionType,
    pub delete_retention_ms: i64,
    pub file_delete_delay_ms: i64,
    pub flush_messages: i64,
    pub flush_ms: i64,
    pub index_interval_bytes: i32,
    pub max_compaction_lag_ms: i64,
    pub max_message_bytes: i32,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    pub message_timestamp_type: TimestampType,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub min_insync_replicas: i32,
    pub preallocate: bool,
    pub remote_storage_enable: bool,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    pub segment_bytes: i32,
    pub segment_index_bytes: i32,
    pub segment_jitter_ms: i64,
    pub segment_ms: i64,
    pub unclean_leader_election_enable: bool,
}

impl TopicConfig {
    /// `dynamic_cluster` is the default of all brokers, as the metadata log holds it.
    pub fn effective(
        topic_overrides: Option<&BTreeMap<String, String>>,
        dynamic_cluster: Option<&BTreeMap<String, String>>,
        node: &NodeConfig,
    ) -> TopicConfig {
        let dynamic = DynamicConfigs { broker: None, cluster: dynamic_cluster };
        TopicConfig::resolve(topic_overrides, dynamic, node)
    }

    /// As `effective`, with what was set for this broker alone.
    ///
    /// Values come from a checked file or from a controller that checked them. One that cannot be read nevertheless
    /// (a later version may allow more) yields to the key's default: a replica must open its logs.
    pub fn resolve(
        topic_overrides: Option<&BTreeMap<String, String>>,
        dynamic: DynamicConfigs<'_>,
        node: &NodeConfig,
    ) -> TopicConfig {
        let read = Resolver { topic: topic_overrides, dynamic, file: &node.properties };
        TopicConfig {
            cleanup_policy: cleanup_policy(&read.text("cleanup.policy")),
            compression_type: compression_type(&read),
            delete_retention_ms: read.long("delete.retention.ms"),
            file_delete_delay_ms: read.long("file.delete.delay.ms"),
            flush_messages: read.long("flush.messages"),
            flush_ms: read.long("flush.ms"),
            index_interval_bytes: read.int("index.interval.bytes"),
            max_compaction_lag_ms: read.long("max.compaction.lag.ms"),
            max_message_bytes: read.int("max.message.bytes"),
            message_timestamp_after_max_ms: read.long("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: read.long("message.timestamp.before.max.ms"),
            message_timestamp_type: match read.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            min_cleanable_dirty_ratio: parse_double(&read.text("min.cleanable.dirty.ratio")).unwrap_or(0.5),
            min_compaction_lag_ms: read.long("min.compaction.lag.ms"),
            min_insync_replicas: read.int("min.insync.replicas"),
            preallocate: read.flag("preallocate"),
            remote_storage_enable: read.flag("remote.storage.enable"),
            retention_bytes: read.long("retention.bytes"),
            retention_ms: read.long("retention.ms"),
            segment_bytes: read.int("segment.bytes"),
            segment_index_bytes: read.int("segment.index.bytes"),
            segment_jitter_ms: read.long("segment.jitter.ms"),
            segment_ms: read.long("segment.ms"),
            unclean_leader_election_enable: read.flag("unclean.leader.election.enable"),
        }
    }
}

fn cleanup_policy(text: &str) -> CleanupPolicy {
    let names = list(text);
    CleanupPolicy { delete: names.contains(&"delete"), compact: names.contains(&"compact") }
}

fn compression_type(read: &Resolver<'_>) -> CompressionType {
    match read.text("compression.type").as_str() {
        "uncompressed" => CompressionType::Uncompressed,
        "gzip" => CompressionType::Gzip { level: read.int("compression.gzip.level") },
        "snappy" => CompressionType::Snappy,
        "lz4" => CompressionType::Lz4 { level: read.int("compression.lz4.level") },
        "zstd" => CompressionType::Zstd { level: read.int("compression.zstd.level") },
        _ => CompressionType::Producer,
    }
}

/// Reads a topic's setting through the layers, the strongest first.
pub(super) struct Resolver<'a> {
    pub(super) topic: Option<&'a BTreeMap<String, String>>,
    pub(super) dynamic: DynamicConfigs<'a>,
    pub(super) file: &'a BTreeMap<String, String>,
}

impl Resolver<'_> {
    /// The value as Kafka shows it. `name` is a topic key.
    pub(super) fn text(&self, name: &str) -> String {
        let key = topic_key(name).expect("callers name keys of the table");
        let usable = |key: &ConfigKey, value: &str| super::validate::check(key, value).is_ok();
        if let Some(value) = self.topic.and_then(|topic| topic.get(name)).filter(|value| usable(key, value)) {
            return canonical(key, value);
        }
        for synonym in synonyms::of_topic_key(name) {
            let broker_key = broker_key(synonym.name).expect("synonyms name keys of the table");
            let Some(value) = self.broker_value(synonym.name).filter(|value| usable(broker_key, value)) else {
                continue;
            };
            let value = canonical(broker_key, value);
            return match value.parse::<i64>() {
                Ok(number) if synonym.factor != 1 => number.saturating_mul(synonym.factor).max(-1).to_string(),
                // Any negative retention means "no limit", which has one spelling.
                Ok(number) if name == "retention.ms" => number.max(-1).to_string(),
                _ => value,
            };
        }
        key.default_value().map(str::to_owned).unwrap_or_default()
    }

    /// A broker key through its three layers, and not its default: the topic key has the same one.
    fn broker_value(&self, name: &str) -> Option<&str> {
        let dynamic = [self.dynamic.broker, self.dynamic.cluster];
        let mut layers = dynamic.into_iter().flatten().chain([self.file]);
        layers.find_map(|layer| layer.get(name)).map(String::as_str)
    }

    fn long(&self, name: &str) -> i64 {
        self.text(name).parse().expect("checked, or the key's default")
    }

    fn int(&self, name: &str) -> i32 {
        self.text(name).parse().expect("checked, or the key's default")
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }
}
