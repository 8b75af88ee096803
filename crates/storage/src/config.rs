//! The settings of one log, resolved: the caller has merged topic overrides, broker values and defaults.

pub use protocol::records::TimestampType;

#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u64,
    /// `segment.ms`, from which up to `segment.jitter.ms` is taken off, drawn once per segment.
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`
    pub index_bytes: u64,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `retention.ms`, `retention.bytes`; negative: no limit. Only with `cleanup.policy` delete.
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub delete: bool,
    /// `cleanup.policy` contains compact.
    pub compact: bool,
    /// `min.cleanable.dirty.ratio`
    pub min_cleanable_ratio: f64,
    /// `min.compaction.lag.ms`, `max.compaction.lag.ms`
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
    /// `file.delete.delay.ms`
    pub file_delete_delay_ms: i64,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `producer.id.expiration.ms`
    pub producer_expiration_ms: i64,
    /// Reserve file blocks ahead of the tail; only worth it for logs that are written a lot.
    pub reserve: bool,
}

impl Default for LogConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: 7 * 24 * 3_600_000,
            retention_bytes: -1,
            delete: true,
            compact: false,
            min_cleanable_ratio: 0.5,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            delete_retention_ms: 86_400_000,
            file_delete_delay_ms: 60_000,
            timestamp_type: TimestampType::CreateTime,
            producer_expiration_ms: 86_400_000,
            reserve: true,
        }
    }
}

impl LogConfig {
    /// The age at which a segment ends: where compaction may not wait longer, it ends in time for that.
    pub fn segment_ms_max(&self) -> i64 {
        let lag_ms = self.max_compaction_lag_ms;
        if self.compact && lag_ms > 0 { self.segment_ms.min(lag_ms) } else { self.segment_ms }
    }
}
