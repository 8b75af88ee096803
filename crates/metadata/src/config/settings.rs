//! The keys of server.properties whose value is used as it stands: the field is the key with underscores for dots.
//!
//! The type is the key's own, except that every time in milliseconds is an `i64`, as clocks are here, and that
//! `default.replication.factor` is an `i16`, as replication factors are on the wire.

use std::collections::BTreeMap;

use super::keys::broker_key;
use super::validate::{list, parse_double};

macro_rules! settings {
    ($($field:ident: $type:ty,)*) => {
        /// Reached through `NodeConfig`, which derefs to it.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $(pub $field: $type,)*
        }

        impl Settings {
            /// `file` has been checked, key by key.
            pub(super) fn read(file: &BTreeMap<&str, &str>) -> Settings {
                Settings { $($field: <$type>::read(setting(file, stringify!($field))),)* }
            }
        }

        #[cfg(test)]
        static FIELDS: &[&str] = &[$(stringify!($field)),*];
    };
}

settings! {
    add_partitions_to_txn_retry_backoff_max_ms: i64,
    add_partitions_to_txn_retry_backoff_ms: i64,
    auto_create_topics_enable: bool,
    auto_leader_rebalance_enable: bool,
    background_threads: i32,
    broker_heartbeat_interval_ms: i64,
    broker_rack: Option<String>,
    broker_session_timeout_ms: i64,
    compression_gzip_level: i32,
    compression_lz4_level: i32,
    compression_type: String,
    compression_zstd_level: i32,
    connections_max_idle_ms: i64,
    controlled_shutdown_enable: bool,
    controller_quorum_append_linger_ms: i64,
    controller_quorum_auto_join_enable: bool,
    controller_quorum_election_backoff_max_ms: i64,
    controller_quorum_election_timeout_ms: i64,
    controller_quorum_fetch_max_bytes: i32,
    controller_quorum_fetch_snapshot_max_bytes: i32,
    controller_quorum_fetch_timeout_ms: i64,
    controller_quorum_request_timeout_ms: i64,
    controller_quorum_retry_backoff_ms: i64,
    controller_quota_window_num: i32,
    controller_quota_window_size_seconds: i32,
    controller_socket_timeout_ms: i64,
    default_replication_factor: i16,
    delete_topic_enable: bool,
    fetch_max_bytes: i32,
    group_consumer_assignment_interval_ms: i64,
    group_consumer_assignors: Vec<String>,
    group_consumer_heartbeat_interval_ms: i64,
    group_consumer_max_assignment_interval_ms: i64,
    group_consumer_max_heartbeat_interval_ms: i64,
    group_consumer_max_session_timeout_ms: i64,
    group_consumer_max_size: i32,
    group_consumer_migration_policy: String,
    group_consumer_min_assignment_interval_ms: i64,
    group_consumer_min_heartbeat_interval_ms: i64,
    group_consumer_min_session_timeout_ms: i64,
    group_consumer_regex_refresh_interval_ms: i64,
    group_consumer_session_timeout_ms: i64,
    group_coordinator_append_linger_ms: i64,
    group_coordinator_background_threads: i32,
    group_coordinator_cached_buffer_max_bytes: i32,
    group_coordinator_rebalance_protocols: Vec<String>,
    group_coordinator_threads: i32,
    group_initial_rebalance_delay_ms: i64,
    group_max_session_timeout_ms: i64,
    group_max_size: i32,
    group_min_session_timeout_ms: i64,
    initial_broker_registration_timeout_ms: i64,
    internal_metadata_delete_delay_millis: i64,
    internal_metadata_log_segment_bytes: Option<i32>,
    internal_metadata_max_batch_size_in_bytes: i32,
    leader_imbalance_check_interval_seconds: i64,
    log_cleaner_backoff_ms: i64,
    log_cleaner_dedupe_buffer_size: i64,
    log_cleaner_delete_retention_ms: i64,
    log_cleaner_enable: bool,
    log_cleaner_io_buffer_load_factor: f64,
    log_cleaner_io_buffer_size: i32,
    log_cleaner_io_max_bytes_per_second: f64,
    log_cleaner_max_compaction_lag_ms: i64,
    log_cleaner_min_cleanable_ratio: f64,
    log_cleaner_min_compaction_lag_ms: i64,
    log_cleaner_threads: i32,
    log_cleanup_policy: Vec<String>,
    log_dir_failure_timeout_ms: i64,
    log_flush_interval_messages: i64,
    log_flush_offset_checkpoint_interval_ms: i64,
    log_flush_start_offset_checkpoint_interval_ms: i64,
    log_index_interval_bytes: i32,
    log_index_size_max_bytes: i32,
    log_message_timestamp_after_max_ms: i64,
    log_message_timestamp_before_max_ms: i64,
    log_message_timestamp_type: String,
    log_preallocate: bool,
    log_retention_bytes: i64,
    log_retention_check_interval_ms: i64,
    log_segment_bytes: i32,
    log_segment_delete_delay_ms: i64,
    max_connection_creation_rate: i32,
    max_connections: i32,
    max_connections_per_ip: i32,
    max_connections_per_ip_overrides: String,
    max_incremental_fetch_session_cache_slots: i32,
    max_request_partition_size_limit: i32,
    message_max_bytes: i32,
    metadata_log_max_record_bytes_between_snapshots: i64,
    metadata_log_max_snapshot_interval_ms: i64,
    metadata_log_segment_bytes: i32,
    metadata_log_segment_ms: i64,
    metadata_max_idle_interval_ms: i64,
    metadata_max_retention_bytes: i64,
    metadata_max_retention_ms: i64,
    min_insync_replicas: i32,
    num_io_threads: i32,
    num_network_threads: i32,
    num_partitions: i32,
    num_recovery_threads_per_data_dir: i32,
    num_replica_fetchers: i32,
    offset_metadata_max_bytes: i32,
    offsets_commit_timeout_ms: i64,
    offsets_load_buffer_size: i32,
    offsets_retention_check_interval_ms: i64,
    offsets_retention_minutes: i32,
    offsets_topic_compression_codec: i32,
    offsets_topic_num_partitions: i32,
    offsets_topic_replication_factor: i16,
    offsets_topic_segment_bytes: i32,
    producer_id_expiration_check_interval_ms: i64,
    producer_id_expiration_ms: i64,
    queued_max_request_bytes: i64,
    queued_max_requests: i32,
    quota_window_num: i32,
    quota_window_size_seconds: i32,
    replica_fetch_backoff_ms: i64,
    replica_fetch_max_bytes: i32,
    replica_fetch_min_bytes: i32,
    replica_fetch_response_max_bytes: i32,
    replica_fetch_wait_max_ms: i64,
    replica_high_watermark_checkpoint_interval_ms: i64,
    replica_lag_time_max_ms: i64,
    replica_socket_receive_buffer_bytes: i32,
    replica_socket_timeout_ms: i64,
    replication_quota_window_num: i32,
    replication_quota_window_size_seconds: i32,
    request_timeout_ms: i64,
    socket_connection_setup_timeout_max_ms: i64,
    socket_connection_setup_timeout_ms: i64,
    socket_listen_backlog_size: i32,
    socket_receive_buffer_bytes: i32,
    socket_request_max_bytes: i32,
    socket_send_buffer_bytes: i32,
    telemetry_max_bytes: i32,
    transaction_abort_timed_out_transaction_cleanup_interval_ms: i64,
    transaction_max_timeout_ms: i64,
    transaction_partition_verification_enable: bool,
    transaction_remove_expired_transaction_cleanup_interval_ms: i64,
    transaction_state_log_load_buffer_size: i32,
    transaction_state_log_min_isr: i32,
    transaction_state_log_num_partitions: i32,
    transaction_state_log_replication_factor: i16,
    transaction_state_log_segment_bytes: i32,
    transaction_two_phase_commit_enable: bool,
    transactional_id_expiration_ms: i64,
    unclean_leader_election_enable: bool,
    unclean_leader_election_interval_ms: i64,
    zwirn_client_telemetry_enable: bool,
}

/// The value in the file, else the default.
fn setting<'a>(file: &BTreeMap<&str, &'a str>, field: &str) -> Option<&'a str> {
    let name = field.replace('_', ".");
    let key = broker_key(&name).expect("every field is a key; a test holds it to that");
    file.get(name.as_str()).copied().map(str::trim).or(key.default_value())
}

trait Setting {
    fn read(text: Option<&str>) -> Self;
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Setting for $type {
            fn read(text: Option<&str>) -> $type {
                text.and_then(|text| text.parse().ok()).expect("checked before, and no default is out of range")
            }
        })*
    };
}
numbers!(i16, i32, i64);

impl Setting for bool {
    fn read(text: Option<&str>) -> bool {
        text.is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }
}

impl Setting for f64 {
    fn read(text: Option<&str>) -> f64 {
        text.and_then(parse_double).expect("checked before, and every default is a number")
    }
}

impl Setting for String {
    fn read(text: Option<&str>) -> String {
        text.unwrap_or_default().to_owned()
    }
}

impl Setting for Vec<String> {
    fn read(text: Option<&str>) -> Vec<String> {
        list(text.unwrap_or_default()).into_iter().map(str::to_owned).collect()
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(text: Option<&str>) -> Option<T> {
        text.map(|text| T::read(Some(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_a_key() {
        for field in FIELDS {
            assert!(broker_key(&field.replace('_', ".")).is_some(), "{field}");
        }
        let defaults = Settings::read(&BTreeMap::new());
        assert_eq!(defaults.broker_session_timeout_ms, 9000);
        assert_eq!(defaults.group_consumer_assignors, ["uniform", "range"]);
        assert_eq!(defaults.broker_rack, None);
    }
}
