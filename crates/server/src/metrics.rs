//! Counters of the loop, and the page that Prometheus reads.
//!
//! Names are those of Strimzi's JMX exporter rules where Kafka has the metric, `zwirn_…` otherwise.

use std::collections::BTreeMap;
use std::fmt::Write;

use broker::lifecycle::State;
use broker::{BrokerStatus, CleanerStatus, ClientSeries, NodeStatus};
use protocol::api::ApiKey;

#[derive(Debug, Default)]
pub struct Metrics {
    /// By API key; −1 stands for every key that Kafka does not have.
    requests: BTreeMap<i16, u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub accepted: u64,
    pub closed: u64,
    pub refused: u64,
}

impl Metrics {
    pub fn count_request(&mut self, frame: &[u8]) {
        let key = frame.first_chunk::<2>().map_or(-1, |bytes| i16::from_be_bytes(*bytes));
        let key = if ApiKey::try_from(key).is_ok() { key } else { -1 };
        *self.requests.entry(key).or_default() += 1;
    }
}

/// What the loop knows beside its counters.
pub struct LoopState {
    pub connections: usize,
    pub links: usize,
    pub receive_bytes: usize,
    pub uptime_ms: i64,
}

pub fn page(metrics: &Metrics, status: &NodeStatus, state: &LoopState) -> String {
    let mut page = Page::default();
    node(&mut page, status);
    if let Some(broker) = &status.broker {
        self::broker(&mut page, broker);
    }
    network(&mut page, metrics, state);
    process(&mut page, state);
    page.text
}

/// What clients have pushed (KIP-714); nothing if none has.
pub fn clients<'a>(series: impl Iterator<Item = ClientSeries<'a>>) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut page = Page::default();
    for one in series {
        if page.text.is_empty() {
            page.family("zwirn_client_metric", "gauge", "The last value of a metric that a client has pushed.");
        }
        let of: Vec<String> = one.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let labels = format!(
            "client_instance_id=\"{}\",client_id=\"{}\",metric=\"{}\",labels=\"{}\"",
            one.instance,
            escape(one.client_id),
            escape(one.name),
            escape(&of.join(","))
        );
        page.value("zwirn_client_metric", &labels, one.value);
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            _ => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help);
        self.value(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "counter", help);
        self.value(name, "", value);
    }
}

fn node(page: &mut Page, status: &NodeStatus) {
    page.gauge("zwirn_node_ready", "Whether this node serves clients in full.", i32::from(status.is_ready()));
    let active = i32::from(status.active_controller);
    let name = "kafka_controller_kafkacontroller_activecontrollercount";
    page.gauge(name, "Whether this node is the active controller.", active);
    let quorum = &status.quorum;
    let leader = quorum.leader.unwrap_or(-1);
    page.gauge("kafka_server_raftmetrics_current_leader", "Leader of the metadata quorum, -1 if unknown.", leader);
    page.gauge("kafka_server_raftmetrics_current_epoch", "Epoch of the metadata quorum.", quorum.epoch);
    let name = "kafka_server_raftmetrics_high_watermark";
    page.gauge(name, "Committed end of the metadata log, -1 if unknown.", quorum.high_watermark);
    page.gauge("kafka_server_raftmetrics_log_end_offset", "End of the metadata log on this node.", quorum.log_end);
    let name = "zwirn_metadata_applied_offset";
    page.gauge(name, "Last offset of the metadata log that this node acts on.", status.metadata_offset);
}

fn broker(page: &mut Page, broker: &BrokerStatus) {
    let state = match broker.state {
        State::Registering => 1,
        State::Recovery => 2,
        State::Running => 3,
        State::ShuttingDown => 6,
        State::Released => 7,
    };
    let name = "kafka_server_kafkaserver_brokerstate";
    page.gauge(name, "1 starting, 2 recovery, 3 running, 6 shutting down, 7 shut down.", state);
    page.gauge("zwirn_broker_epoch", "Epoch of this broker's registration, -1 before it.", broker.epoch);
    let leaders = || broker.partitions.iter().filter(|p| p.is_leader);
    let under_replicated = leaders().filter(|p| p.isr.len() < p.replicas).count();
    let under_min_isr = leaders().filter(|p| p.under_min_isr).count();
    let prefix = "kafka_server_replicamanager";
    page.gauge(&format!("{prefix}_partitioncount"), "Replicas on this broker.", broker.partitions.len());
    page.gauge(&format!("{prefix}_leadercount"), "Partitions that this broker leads.", leaders().count());
    let help = "Led partitions with replicas out of sync.";
    page.gauge(&format!("{prefix}_underreplicatedpartitions"), help, under_replicated);
    let help = "Led partitions below min.insync.replicas.";
    page.gauge(&format!("{prefix}_underminisrpartitioncount"), help, under_min_isr);
    let offline = broker.partitions.iter().filter(|p| p.leader.is_none()).count();
    page.gauge("zwirn_log_directories_offline", "Directories of log.dirs that cannot be used.", broker.offline_dirs);
    page.gauge("zwirn_partitions_without_leader", "Replicas on this broker whose partition has no leader.", offline);
    cleaner(page, &broker.cleaner);
    topics(page, broker);
}

fn cleaner(page: &mut Page, cleaner: &CleanerStatus) {
    let prefix = "kafka_log_logcleanermanager";
    let help = "Logs that compaction leaves alone for a while, because it failed on them.";
    page.gauge(&format!("{prefix}_uncleanable_partitions_count"), help, cleaner.resting);
    let help = "Dirty share of the dirtiest log, when the cleaner last looked.";
    page.gauge(&format!("{prefix}_max_dirty_percent"), help, cleaner.dirty_percent_max);
    let recopied = cleaner.bytes_written.saturating_mul(100) / cleaner.bytes_read.max(1);
    page.gauge("kafka_log_logcleaner_cleaner_recopy_percent", "Bytes that compaction kept of those it read.", recopied);
    let help = "Longest pass of the log cleaner so far.";
    page.gauge("kafka_log_logcleaner_max_clean_time_secs", help, cleaner.pass_ms_max / 1000);
    page.counter("zwirn_log_cleaner_passes_total", "Logs that were compacted.", cleaner.passes);
    page.counter("zwirn_log_cleaner_failures_total", "Passes of the log cleaner that failed.", cleaner.failures);
}

/// Sums per topic: a series per partition is too much for clusters with many.
fn topics(page: &mut Page, broker: &BrokerStatus) {
    #[derive(Default)]
    struct Topic {
        partitions: u64,
        leaders: u64,
        under_replicated: u64,
        under_min_isr: u64,
        log_end: i64,
        bytes: u64,
    }
    let mut topics: BTreeMap<&str, Topic> = BTreeMap::new();
    for partition in &broker.partitions {
        let topic = topics.entry(&partition.topic).or_default();
        topic.partitions += 1;
        topic.bytes += partition.size_bytes;
        if partition.is_leader {
            topic.leaders += 1;
            topic.log_end += partition.log_end;
            topic.under_replicated += u64::from(partition.isr.len() < partition.replicas);
            topic.under_min_isr += u64::from(partition.under_min_isr);
        }
    }
    type Read = fn(&Topic) -> i128;
    let families: [(&str, &str, Read); 6] = [
        ("zwirn_topic_partitions", "Replicas on this broker, by topic.", |t| t.partitions.into()),
        ("zwirn_topic_leaders", "Partitions that this broker leads, by topic.", |t| t.leaders.into()),
        ("zwirn_topic_under_replicated", "Led partitions with replicas out of sync.", |t| t.under_replicated.into()),
        ("zwirn_topic_under_min_isr", "Led partitions below min.insync.replicas.", |t| t.under_min_isr.into()),
        ("zwirn_topic_log_end_offsets", "Sum of the log end offsets of led partitions.", |t| t.log_end.into()),
        ("zwirn_topic_log_bytes", "Bytes of all segments on this broker.", |t| t.bytes.into()),
    ];
    for (name, help, read) in families {
        page.family(name, "gauge", help);
        for (topic, sums) in &topics {
            // Topic names have no characters that a label would need to escape.
            page.value(name, &format!("topic=\"{topic}\""), read(sums));
        }
    }
}

fn network(page: &mut Page, metrics: &Metrics, state: &LoopState) {
    page.gauge("kafka_server_socket_server_metrics_connection_count", "Open connections.", state.connections);
    page.gauge("zwirn_links", "Connections that this node opened to others.", state.links);
    page.gauge("zwirn_receive_buffer_bytes", "Memory of frames that are not complete yet.", state.receive_bytes);
    page.counter("zwirn_connections_accepted_total", "Connections taken.", metrics.accepted);
    page.counter("zwirn_connections_closed_total", "Connections that ended.", metrics.closed);
    page.counter("zwirn_connections_refused_total", "Connections beyond a limit.", metrics.refused);
    page.counter("zwirn_received_bytes_total", "Bytes read from sockets.", metrics.bytes_in);
    page.counter("zwirn_sent_bytes_total", "Bytes written to sockets.", metrics.bytes_out);
    let name = "kafka_network_requestmetrics_requests_total";
    page.family(name, "counter", "Requests read, by API.");
    for (key, count) in &metrics.requests {
        let request = ApiKey::try_from(*key).map_or("Unknown", ApiKey::name);
        page.value(name, &format!("request=\"{request}\""), count);
    }
}

/// From /proc; a system without it shows none of them.
fn process(page: &mut Page, state: &LoopState) {
    page.gauge("zwirn_uptime_seconds", "Since the start of this process.", state.uptime_ms as f64 / 1000.0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident_kib: Option<u64> = resident.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    if let Some(kib) = resident_kib {
        page.gauge("process_resident_memory_bytes", "Memory in use.", kib * 1024);
    }
    // User and system time are fields 14 and 15; the name in field 2 may hold blanks, so count behind its bracket.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let times = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let ticks: Option<u64> = times.and_then(|times| times.map(|t| t.parse::<u64>().ok()).sum());
    if let Some(ticks) = ticks {
        // Linux counts in hundredths of a second for user space, whatever its own clock.
        page.counter("process_cpu_seconds_total", "Processor time used.", ticks as f64 / 100.0);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open files and sockets.", files.count());
    }
}
