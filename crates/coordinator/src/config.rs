//! What the node's configuration says about groups.

#[derive(Clone, Copy, Debug)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`, `group.max.session.timeout.ms`
    pub session_timeout_min_ms: i64,
    pub session_timeout_max_ms: i64,
    /// `group.initial.rebalance.delay.ms`: an empty group waits this long for more members.
    pub initial_rebalance_delay_ms: i64,
    /// `group.max.size`
    pub size_max: usize,
    /// `offset.metadata.max.bytes`
    pub metadata_bytes_max: usize,
    /// `offsets.retention.minutes`
    pub retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub retention_check_ms: i64,
}

impl Default for GroupConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            size_max: i32::MAX as usize,
            metadata_bytes_max: 4_096,
            retention_ms: 7 * 24 * 3_600_000,
            retention_check_ms: 600_000,
        }
    }
}
