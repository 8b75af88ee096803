//! Configuration as the layers below want it: a log's settings, a partition's rules, a producer's limits.

use metadata::config::{CompressionType, DynamicConfigs, NodeConfig, TimestampType, TopicConfig};
use metadata::{ConfigResource, MetadataImage};
use protocol::records::{Compression, Rules};
use protocol::time::Now;
use storage::LogConfig;

/// What was set for this broker alone.
pub(crate) fn own_resource(node: &NodeConfig) -> ConfigResource {
    ConfigResource { kind: ConfigResource::BROKER, name: node.node_id.to_string() }
}

/// What was set for this broker while it runs, and for all.
pub(crate) fn dynamic_configs<'a>(image: &'a MetadataImage, node: &NodeConfig) -> DynamicConfigs<'a> {
    DynamicConfigs {
        broker: image.configs.get(&own_resource(node)),
        cluster: image.configs.get(&ConfigResource::all_brokers()),
    }
}

/// The settings of a topic in force now.
pub(crate) fn topic_config(image: &MetadataImage, node: &NodeConfig, topic: &str) -> TopicConfig {
    TopicConfig::resolve(image.topic_configs(topic), dynamic_configs(image, node), node)
}

/// `transaction.partition.verification.enable`, which can be set for the whole cluster at run time.
pub(crate) fn verifies_transactions(image: &MetadataImage, node: &NodeConfig) -> bool {
    const KEY: &str = "transaction.partition.verification.enable";
    let set = |resource: &ConfigResource| image.configs.get(resource).and_then(|keys| keys.get(KEY));
    let set = set(&own_resource(node)).or_else(|| set(&ConfigResource::all_brokers()));
    set.map_or(node.transaction_partition_verification_enable, |value| value == "true")
}

pub(crate) fn log_config(topic: &TopicConfig, node: &NodeConfig) -> LogConfig {
    LogConfig {
        segment_bytes: topic.segment_bytes.max(1) as u64,
        segment_ms: topic.segment_ms,
        segment_jitter_ms: topic.segment_jitter_ms,
        index_bytes: topic.segment_index_bytes.max(0) as u64,
        index_interval_bytes: topic.index_interval_bytes.max(0) as u32,
        retention_ms: topic.retention_ms,
        retention_bytes: topic.retention_bytes,
        delete: topic.cleanup_policy.delete,
        compact: topic.cleanup_policy.compact,
        min_cleanable_ratio: topic.min_cleanable_dirty_ratio,
        min_compaction_lag_ms: topic.min_compaction_lag_ms,
        max_compaction_lag_ms: topic.max_compaction_lag_ms,
        delete_retention_ms: topic.delete_retention_ms,
        file_delete_delay_ms: topic.file_delete_delay_ms,
        timestamp_type: match topic.message_timestamp_type {
            TimestampType::CreateTime => storage::TimestampType::CreateTime,
            TimestampType::LogAppendTime => storage::TimestampType::LogAppendTime,
        },
        producer_expiration_ms: node.producer_id_expiration_ms,
        reserve: true,
    }
}

/// Kafka's settings for `__cluster_metadata`: nothing is deleted by the log itself, snapshots decide.
pub(crate) fn metadata_log_config(node: &NodeConfig) -> LogConfig {
    LogConfig {
        segment_bytes: i64::from(node.metadata_log_segment_bytes).max(1) as u64,
        segment_ms: node.metadata_log_segment_ms,
        retention_ms: -1,
        delete: false,
        ..LogConfig::default()
    }
}

pub(crate) fn produce_rules(topic: &TopicConfig, version: i16, now: Now) -> Rules {
    Rules {
        produce_version: version,
        message_bytes_max: topic.max_message_bytes.max(0) as usize,
        compacted: topic.cleanup_policy.compact,
        create_time: topic.message_timestamp_type == TimestampType::CreateTime,
        timestamp_before_max_ms: topic.message_timestamp_before_max_ms,
        timestamp_after_max_ms: topic.message_timestamp_after_max_ms,
        now_ms: now.wall_ms,
        compression: match topic.compression_type {
            CompressionType::Producer => None,
            CompressionType::Uncompressed => Some(Compression::None),
            CompressionType::Gzip { .. } => Some(Compression::Gzip),
            CompressionType::Snappy => Some(Compression::Snappy),
            CompressionType::Lz4 { .. } => Some(Compression::Lz4),
            CompressionType::Zstd { .. } => Some(Compression::Zstd),
        },
    }
}
