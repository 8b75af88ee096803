//! The settings of one log, resolved: the caller has merged topic overrides, broker values and defaults.

pub use protocol::records::TimestampType;

#[derive(Clone, Debug, PartialEq, Eq)]
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
            file_delete_delay_ms: 60_000,
            timestamp_type: TimestampType::CreateTime,
            producer_expiration_ms: 86_400_000,
            reserve: true,
        }
    }
}
