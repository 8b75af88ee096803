//! Tests of the quorum: scenarios with named nodes, seeded faults, and files recorded from Apache Kafka 4.3.1.

mod cluster;
mod disk;
mod faults;
mod scenarios;

pub fn log_config() -> crate::interim_log::LogConfig {
    crate::interim_log::LogConfig
}
