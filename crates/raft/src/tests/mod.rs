//! Tests of the quorum: scenarios with named nodes, seeded faults, and files recorded from Apache Kafka 4.3.1.

mod cluster;
mod disk;
mod faults;
mod scenarios;
mod voter_changes;

/// Small segments, so that logs roll and lose their beginning within a test.
pub fn log_config() -> storage::LogConfig {
    let config = crate::metadata_log_config(2 << 10, 7 * 24 * 3_600_000);
    storage::LogConfig { index_bytes: 800, ..config }
}
