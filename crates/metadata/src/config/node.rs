//! What server.properties says, typed and checked: every rule of KafkaConfig that concerns a KRaft node without TLS,
//! SASL, tiered storage and Java plugins. Those are refused by name, because to ignore them would be a lie.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use crate::image::Endpoint;

use super::keys::{broker_key, nearest_broker_key};
use super::listeners::{self, Listener, Network, split_host_port};
use super::properties::parse_properties;
use super::providers::{self, Outside};
use super::settings::Settings;
use super::topic::TopicConfig;
use super::validate::{check_file, list};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub broker: bool,
    pub controller: bool,
}

/// The configuration of one node. Keys used as they stand are fields of [`Settings`], to which this derefs:
/// `config.broker_session_timeout_ms`, `config.default_replication_factor`, …
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub node_id: i32,
    pub roles: Roles,
    pub log_dirs: Vec<PathBuf>,
    /// The first of `log_dirs`, unless the file names another.
    pub metadata_log_dir: PathBuf,
    pub listeners: Vec<Listener>,
    /// Of the broker's listeners only.
    pub advertised_listeners: Vec<Endpoint>,
    pub controller_advertised: Vec<Endpoint>,
    pub controller_listener_names: Vec<String>,
    pub inter_broker_listener_name: String,
    pub controller_quorum_voters: Vec<(i32, String, u16)>,
    pub controller_quorum_bootstrap_servers: Vec<(String, u16)>,
    /// From `log.retention.ms`, `.minutes` or `.hours`, in this order; −1 without limit.
    pub log_retention_ms: i64,
    /// From `log.roll.ms` or `.hours`.
    pub log_roll_ms: i64,
    pub log_roll_jitter_ms: i64,
    /// From `log.flush.interval.ms` or `log.flush.scheduler.interval.ms`.
    pub log_flush_interval_ms: i64,
    /// What the file said, the last of each key, for DescribeConfigs.
    pub properties: BTreeMap<String, String>,
    pub(super) settings: Settings,
}

impl Deref for NodeConfig {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl DerefMut for NodeConfig {
    fn deref_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

/// Something that keeps the node from starting. Display names the key, the value, the file and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub key: String,
    /// As the file has it; `None` if it has not, or if it is a secret.
    pub value: Option<String>,
    pub origin: String,
    /// `None` if the key is not in the file, or came from the command line.
    pub line: Option<u32>,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match &self.value {
            Some(value) => write!(f, ": {}={value}: {}", self.key, self.message),
            None => write!(f, ": {}: {}", self.key, self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Something the operator should know, but that does not keep the node from starting. The same shape, other weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub ConfigError);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

type Entries<'a> = BTreeMap<&'a str, (&'a str, Place)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Line(u32),
    /// The caller's list, which has no lines.
    List,
    CommandLine,
}

/// What was found while reading, in the order of finding.
pub(super) struct Problems<'a> {
    origin: &'a str,
    entries: Entries<'a>,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl Problems<'_> {
    pub(super) fn error(&mut self, key: &str, message: &str) {
        let error = self.about(key, message);
        self.errors.push(error);
    }

    fn warn(&mut self, key: &str, message: &str) {
        let warning = Warning(self.about(key, message));
        self.warnings.push(warning);
    }

    fn about(&self, key: &str, message: &str) -> ConfigError {
        let entry = self.entries.get(key);
        let is_secret = broker_key(key).is_none_or(|key| key.is_sensitive());
        ConfigError {
            key: key.to_owned(),
            value: entry.filter(|_| !is_secret).map(|(value, _)| (*value).to_owned()),
            origin: match entry {
                Some((_, Place::CommandLine)) => "--override".to_owned(),
                _ => self.origin.to_owned(),
            },
            line: entry.and_then(|(_, place)| if let Place::Line(line) = place { Some(*line) } else { None }),
            message: message.to_owned(),
        }
    }
}

impl NodeConfig {
    /// `origin` is the file's name, for messages.
    pub fn from_properties(
        properties: &[(String, String)],
        origin: &str,
    ) -> Result<(NodeConfig, Vec<Warning>), Vec<ConfigError>> {
        let entries = properties.iter().map(|(key, value)| (key.as_str(), (value.as_str(), Place::List)));
        NodeConfig::build(entries.collect(), origin)
    }

    /// A file's text, and what the command line puts over it.
    pub fn from_text(
        text: &str,
        origin: &str,
        overrides: &[(String, String)],
    ) -> Result<(NodeConfig, Vec<Warning>), Vec<ConfigError>> {
        NodeConfig::from_text_and(text, origin, overrides, None)
    }

    /// The same, with a way to what `${…}` refers to (`config.providers`).
    pub fn from_text_and(
        text: &str,
        origin: &str,
        overrides: &[(String, String)],
        outside: Option<&Outside<'_>>,
    ) -> Result<(NodeConfig, Vec<Warning>), Vec<ConfigError>> {
        let file = parse_properties(text);
        let mut entries: Entries<'_> =
            file.iter().map(|p| (p.key.as_str(), (p.value.as_str(), Place::Line(p.line)))).collect();
        entries.extend(overrides.iter().map(|(key, value)| (key.as_str(), (value.as_str(), Place::CommandLine))));
        let plain = entries.iter().map(|(key, (value, _))| (*key, *value)).collect();
        let resolved = providers::resolve(&plain, outside).map_err(|(key, message)| {
            let problems = Problems { origin, entries: entries.clone(), errors: Vec::new(), warnings: Vec::new() };
            vec![problems.about(&key, &message)]
        })?;
        for (key, value) in &resolved {
            if let Some(entry) = entries.get_mut(key.as_str()) {
                entry.0 = value;
            }
        }
        NodeConfig::build(entries, origin)
    }

    fn build(entries: Entries<'_>, origin: &str) -> Result<(NodeConfig, Vec<Warning>), Vec<ConfigError>> {
        let mut values: BTreeMap<&str, &str> = entries.iter().map(|(key, (value, _))| (*key, *value)).collect();
        let mut problems = Problems { origin, entries, errors: Vec::new(), warnings: Vec::new() };
        share_node_id(&mut values, &mut problems);
        for (key, message) in check_file(&values) {
            problems.error(key, &message);
        }
        refuse_unsupported(&values, &mut problems);
        warn_unknown(&values, &mut problems);
        // What follows reads values as their types, so it must not see one that is none.
        if !problems.errors.is_empty() {
            return Err(problems.errors);
        }
        let config = read(&values, &mut problems);
        check_together(&config, &mut problems);
        if problems.errors.is_empty() { Ok((config, problems.warnings)) } else { Err(problems.errors) }
    }

    /// The settings of a topic without any of its own, while nothing was set dynamically.
    pub fn default_topic_configs(&self) -> TopicConfig {
        TopicConfig::effective(None, None, self)
    }

    pub(super) fn with_log_times(self, times: &LogTimes) -> NodeConfig {
        NodeConfig {
            log_retention_ms: times.retention_ms,
            log_roll_ms: times.roll_ms,
            log_roll_jitter_ms: times.roll_jitter_ms,
            log_flush_interval_ms: times.flush_interval_ms,
            ..self
        }
    }

    /// How long the broker waits for an answer of the controller.
    pub fn controller_request_timeout_ms(&self) -> i64 {
        self.controller_socket_timeout_ms
    }

    /// Puts the port that the system chose for a listener of port 0 wherever this node tells others of it.
    pub fn set_bound_port(&mut self, listener: usize, port: u16) {
        let Some(listener) = self.listeners.get_mut(listener) else { return };
        listener.port = port;
        let advertised = self.advertised_listeners.iter_mut().chain(&mut self.controller_advertised);
        for endpoint in advertised.filter(|endpoint| endpoint.name == listener.name && endpoint.port == 0) {
            endpoint.port = port;
        }
    }

    /// Advertises `host` where neither `advertised.listeners` nor the listener nor the voters name one.
    pub fn set_host_name(&mut self, host: &str) {
        let named = self.properties.get("advertised.listeners").cloned().unwrap_or_default();
        let names_host = |name: &str| {
            let entry = list(&named)
                .into_iter()
                .find(|entry| entry.split_once("://").is_some_and(|(other, _)| other.eq_ignore_ascii_case(name)));
            match entry {
                Some(entry) => entry.split_once("://").is_some_and(|(_, address)| !address.starts_with(':')),
                None => self.listeners.iter().any(|l| l.name == name && l.host.is_some()),
            }
        };
        let is_voter = self.controller_quorum_voters.iter().any(|(id, ..)| *id == self.node_id);
        let unnamed: Vec<String> = self
            .advertised_listeners
            .iter()
            .chain(self.controller_advertised.iter().filter(|_| !is_voter))
            .map(|endpoint| endpoint.name.clone())
            .filter(|name| !names_host(name))
            .collect();
        let advertised = self.advertised_listeners.iter_mut().chain(&mut self.controller_advertised);
        for endpoint in advertised.filter(|endpoint| unnamed.contains(&endpoint.name)) {
            endpoint.host = host.to_owned();
        }
    }
}

/// `broker.id` is the older name of `node.id`; each stands in for the other (AbstractKafkaConfig.populateSynonyms).
fn share_node_id<'a>(values: &mut BTreeMap<&'a str, &'a str>, problems: &mut Problems<'_>) {
    match (values.get("node.id").copied(), values.get("broker.id").copied()) {
        (Some(node), None) => drop(values.insert("broker.id", node)),
        (None, Some(broker)) => drop(values.insert("node.id", broker)),
        (Some(node), Some(broker)) if node.trim() != broker.trim() => {
            problems.error("broker.id", "must equal node.id where both are set; leave broker.id out");
        }
        (Some(_), Some(_)) => {}
        (None, None) => problems.error("node.id", "is missing; give every node of the cluster its own number, from 0"),
    }
    if !values.contains_key("process.roles") {
        let what = "is missing; set it to broker, controller or broker,controller (ZooKeeper mode is not offered)";
        problems.error("process.roles", what);
    }
}

/// What would change who may do what, or where data is, must not be dropped in silence.
fn refuse_unsupported(values: &BTreeMap<&str, &str>, problems: &mut Problems<'_>) {
    let plugins = [
        ("authorizer.class.name", "authorization is not offered by this version; leave the key out"),
        ("create.topic.policy.class.name", "Java plugins cannot be loaded; leave the key out"),
        ("alter.config.policy.class.name", "Java plugins cannot be loaded; leave the key out"),
        ("client.quota.callback.class", "Java plugins cannot be loaded; leave the key out"),
    ];
    for (key, message) in plugins {
        if values.get(key).is_some_and(|value| !value.trim().is_empty()) {
            problems.error(key, message);
        }
    }
    let is_true = |key: &str| values.get(key).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    if is_true("remote.log.storage.system.enable") {
        problems.error("remote.log.storage.system.enable", "tiered storage is not offered; set it to false");
    }
}

fn warn_unknown(values: &BTreeMap<&str, &str>, problems: &mut Problems<'_>) {
    // Read by plugins, or by nobody since Kafka 4.0; Kafka itself only logs them as unused.
    const GONE: &[&str] = &[
        "inter.broker.protocol.version",
        "log.message.format.version",
        "log.message.downconversion.enable",
        "log.message.timestamp.difference.max.ms",
        "control.plane.listener.name",
        "broker.id.generation.enable",
        "reserved.broker.max.id",
        "controlled.shutdown.max.retries",
        "controlled.shutdown.retry.backoff.ms",
        "leader.imbalance.per.broker.percentage",
        "offsets.commit.required.acks",
        "delegation.token.master.key",
        "group.coordinator.new.enable",
        "eligible.leader.replicas.enable",
    ];
    const PREFIXES: &[&str] = &["listener.name.", "rsm.config.", "rlmm.config.", "config.providers."];
    for name in values.keys() {
        if broker_key(name).is_some() || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        if GONE.contains(name) || name.starts_with("zookeeper.") || name.starts_with("password.encoder.") {
            problems.warn(name, "has no meaning since Kafka 4.0 and is ignored; remove it");
        } else if let Some(nearest) = nearest_broker_key(name) {
            problems.warn(name, &format!("is not a known key and is ignored; did you mean {nearest}?"));
        } else {
            problems.warn(name, "is not a known key and is ignored");
        }
    }
    for name in ["metric.reporters", "kafka.metrics.reporters", "replica.selector.class", "principal.builder.class"] {
        if values.get(name).is_some_and(|value| !value.trim().is_empty()) {
            problems.warn(name, "names a Java class and is ignored");
        }
    }
    if values.get("log.cleaner.enable").is_some_and(|value| value.trim().eq_ignore_ascii_case("false")) {
        problems.warn("log.cleaner.enable", "is deprecated; compacted topics will grow without limit");
    }
}

fn read(values: &BTreeMap<&str, &str>, problems: &mut Problems<'_>) -> NodeConfig {
    let get = |key: &str| values.get(key).copied().map(str::trim);
    let roles = list(get("process.roles").unwrap_or(""));
    let roles = Roles { broker: roles.contains(&"broker"), controller: roles.contains(&"controller") };
    let node_id = get("node.id").and_then(|id| id.parse().ok()).unwrap_or(-1);
    let voters = voters(get("controller.quorum.voters").unwrap_or(""), problems);
    let own_voter = voters.iter().find(|(id, ..)| *id == node_id).map(|(_, host, port)| (host.as_str(), *port));
    let Network {
        listeners,
        advertised_listeners,
        controller_advertised,
        controller_listener_names,
        inter_broker_listener_name,
    } = listeners::read(values, roles, own_voter, problems);
    let log_dirs: Vec<PathBuf> =
        list(get("log.dirs").or(get("log.dir")).unwrap_or("/tmp/kafka-logs")).into_iter().map(PathBuf::from).collect();
    let LogTimes { retention_ms, roll_ms, roll_jitter_ms, flush_interval_ms } = LogTimes::read(values);
    NodeConfig {
        node_id,
        roles,
        metadata_log_dir: get("metadata.log.dir")
            .map(PathBuf::from)
            .or_else(|| log_dirs.first().cloned())
            .unwrap_or_default(),
        log_dirs,
        listeners,
        advertised_listeners,
        controller_advertised,
        controller_listener_names,
        inter_broker_listener_name,
        controller_quorum_bootstrap_servers: bootstrap_servers(
            get("controller.quorum.bootstrap.servers").unwrap_or(""),
            problems,
        ),
        controller_quorum_voters: voters,
        log_retention_ms: retention_ms,
        log_roll_ms: roll_ms,
        log_roll_jitter_ms: roll_jitter_ms,
        log_flush_interval_ms: flush_interval_ms,
        properties: values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        settings: Settings::read(values),
    }
}

/// Settings that can be written in several units.
pub(super) struct LogTimes {
    retention_ms: i64,
    roll_ms: i64,
    roll_jitter_ms: i64,
    flush_interval_ms: i64,
}

impl LogTimes {
    pub(super) fn read(values: &BTreeMap<&str, &str>) -> LogTimes {
        let number = |key: &str| values.get(key).and_then(|value| value.trim().parse::<i64>().ok());
        let hours = |key: &str| number(key).map(|hours| hours.saturating_mul(3_600_000));
        let minutes = number("log.retention.minutes").map(|minutes| minutes.saturating_mul(60_000));
        let retention = number("log.retention.ms").or(minutes).or(hours("log.retention.hours"));
        LogTimes {
            // Only negative retention is allowed by the checks, and it means "no limit".
            retention_ms: retention.unwrap_or(168 * 3_600_000).max(-1),
            roll_ms: number("log.roll.ms").or(hours("log.roll.hours")).unwrap_or(168 * 3_600_000),
            roll_jitter_ms: number("log.roll.jitter.ms").or(hours("log.roll.jitter.hours")).unwrap_or(0),
            flush_interval_ms: number("log.flush.interval.ms")
                .or(number("log.flush.scheduler.interval.ms"))
                .unwrap_or(i64::MAX),
        }
    }
}

fn voters(text: &str, problems: &mut Problems<'_>) -> Vec<(i32, String, u16)> {
    let mut voters: Vec<(i32, String, u16)> = Vec::new();
    for entry in list(text) {
        let read = entry.split_once('@').and_then(|(id, address)| {
            let (host, port) = split_host_port(address)?;
            let id: i32 = id.parse().ok()?;
            (id >= 0 && !host.is_empty()).then(|| (id, host.to_owned(), port))
        });
        match read {
            Some((id, ..)) if voters.iter().any(|(other, ..)| *other == id) => {
                problems.error("controller.quorum.voters", &format!("the id {id} is there twice"));
            }
            Some(voter) => voters.push(voter),
            None => problems.error("controller.quorum.voters", &format!("{entry} is not id@host:port")),
        }
    }
    voters
}

fn bootstrap_servers(text: &str, problems: &mut Problems<'_>) -> Vec<(String, u16)> {
    let mut servers = Vec::new();
    for entry in list(text) {
        match split_host_port(entry).filter(|(host, _)| !host.is_empty()) {
            Some((host, port)) => servers.push((host.to_owned(), port)),
            None => problems.error("controller.quorum.bootstrap.servers", &format!("{entry} is not host:port")),
        }
    }
    servers
}

/// What is wrong with a configuration as a whole.
pub(super) fn conflicts(config: &NodeConfig) -> Vec<String> {
    let mut problems = Problems { origin: "", entries: Entries::new(), errors: Vec::new(), warnings: Vec::new() };
    check_together(config, &mut problems);
    problems.errors.into_iter().map(|error| format!("{} {}", error.key, error.message)).collect()
}

/// The rules that hold between keys (KafkaConfig.validateValues).
fn check_together(config: &NodeConfig, problems: &mut Problems<'_>) {
    let NodeConfig { node_id, roles, controller_quorum_voters: voters, .. } = config;
    let is_voter = voters.iter().any(|(id, ..)| id == node_id);
    if voters.is_empty() && config.controller_quorum_bootstrap_servers.is_empty() {
        let what = "is missing, and so is controller.quorum.bootstrap.servers; \
                    name the controllers, for example controller.quorum.voters=1@localhost:9093";
        problems.error("controller.quorum.voters", what);
    }
    if roles.controller && !voters.is_empty() && !is_voter {
        let what = format!("this node is a controller, so its node.id {node_id} must be among the voters");
        problems.error("controller.quorum.voters", &what);
    }
    if !roles.controller && is_voter {
        let what = format!("this node is only a broker, so its node.id {node_id} must not be among the voters");
        problems.error("controller.quorum.voters", &what);
    }
    if config.controller_quorum_auto_join_enable && !roles.controller {
        let what = "only a controller can join the quorum; set it to false, or add controller to process.roles";
        problems.error("controller.quorum.auto.join.enable", what);
    }
    for (key, value, least) in [
        ("log.roll.ms", config.log_roll_ms, 1),
        ("log.roll.jitter.ms", config.log_roll_jitter_ms, 0),
        ("broker.session.timeout.ms", config.broker_session_timeout_ms, 1),
        ("broker.heartbeat.interval.ms", config.broker_heartbeat_interval_ms, 1),
        ("default.replication.factor", i64::from(config.default_replication_factor), 1),
    ] {
        if value < least {
            problems.error(key, &format!("must be at least {least}"));
        }
    }
    let is_override = |entry: &&str| entry.rsplit_once(':').is_some_and(|(_, n)| n.trim().parse::<i32>().is_ok());
    if let Some(entry) = list(&config.max_connections_per_ip_overrides).iter().find(|entry| !is_override(entry)) {
        problems.error("max.connections.per.ip.overrides", &format!("{entry} is not host:number"));
    }
    if config.max_connections_per_ip == 0 && config.max_connections_per_ip_overrides.trim().is_empty() {
        problems.error("max.connections.per.ip", "may be 0 only where max.connections.per.ip.overrides lets some in");
    }
    if config.log_retention_ms == 0 {
        problems.error("log.retention.ms", "must be at least 1, or -1 for no limit");
    }
    let cleaners = i64::from(config.log_cleaner_threads.max(1));
    if config.log_cleaner_dedupe_buffer_size / cleaners <= 1024 * 1024 {
        problems.error("log.cleaner.dedupe.buffer.size", "must be more than 1 MiB for each of log.cleaner.threads");
    }
    for (key, limit) in [
        ("replica.socket.timeout.ms", config.replica_socket_timeout_ms),
        ("replica.lag.time.max.ms", config.replica_lag_time_max_ms),
    ] {
        if config.replica_fetch_wait_max_ms > limit {
            problems.error("replica.fetch.wait.max.ms", &format!("must not exceed {key} ({limit})"));
        }
    }
    if config.queued_max_request_bytes > 0
        && config.queued_max_request_bytes < i64::from(config.socket_request_max_bytes)
    {
        problems.error("queued.max.request.bytes", "must not be less than socket.request.max.bytes");
    }
    if config.broker_heartbeat_interval_ms.saturating_mul(2) > config.broker_session_timeout_ms {
        let what = "is more than half of broker.session.timeout.ms, so one lost heartbeat may fence the broker";
        problems.warn("broker.heartbeat.interval.ms", what);
    }
    if i32::from(config.default_replication_factor) < config.min_insync_replicas && roles.broker {
        let what = "is more than default.replication.factor, so acks=all will fail on topics with the defaults";
        problems.warn("min.insync.replicas", what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMBINED: &str = "process.roles=broker,controller\nnode.id=1\n\
        controller.quorum.voters=1@127.0.0.1:9093,2@b:9093\n\
        listeners=PLAINTEXT://:9092,CONTROLLER://:9093\n\
        controller.listener.names=CONTROLLER\nlog.dirs=/a, /b\n";

    fn with(more: &str) -> Result<(NodeConfig, Vec<Warning>), Vec<ConfigError>> {
        NodeConfig::from_text(&format!("{COMBINED}{more}"), "server.properties", &[])
    }

    fn error_of(more: &str) -> String {
        let errors = with(more).expect_err("the configuration is wrong");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_combined_node() {
        let (mut config, warnings) = with("log.retention.hours=1\nmin.insync.replicas=1\n").expect("valid");
        assert_eq!(warnings, []);
        assert_eq!(config.roles, Roles { broker: true, controller: true });
        assert_eq!(config.metadata_log_dir, PathBuf::from("/a"));
        assert_eq!(config.log_dirs.len(), 2);
        assert_eq!(config.controller_quorum_voters[1], (2, "b".to_owned(), 9093));
        assert_eq!(config.log_retention_ms, 3_600_000);
        assert_eq!(config.default_topic_configs().retention_ms, 3_600_000);
        assert_eq!(config.inter_broker_listener_name, "PLAINTEXT");
        assert_eq!(config.broker_session_timeout_ms, 9000);
        // The voters know this node's controller by name; clients are told the machine's.
        config.set_host_name("machine");
        assert_eq!(config.controller_advertised[0].host, "127.0.0.1");
        assert_eq!(config.advertised_listeners[0].host, "machine");
        assert_eq!(config.advertised_listeners.len(), 1);
    }

    #[test]
    fn topic_settings_come_from_the_strongest_layer() {
        let (config, _) = with("log.retention.hours=1\nmin.insync.replicas=1\ncompression.type=zstd\n").expect("valid");
        let map = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
            entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let cluster = map(&[("log.retention.ms", "5000"), ("min.insync.replicas", "2")]);
        let topic = map(&[("retention.ms", "7"), ("cleanup.policy", "compact,delete")]);
        let read = TopicConfig::effective(Some(&topic), Some(&cluster), &config);
        assert_eq!((read.retention_ms, read.min_insync_replicas), (7, 2));
        assert!(read.cleanup_policy.compact && read.cleanup_policy.delete);
        assert_eq!(TopicConfig::effective(None, Some(&cluster), &config).retention_ms, 5000);
        assert_eq!(read.compression_type, crate::config::CompressionType::Zstd { level: 3 });
    }

    #[test]
    fn mistakes_name_key_value_file_and_line() {
        let error = error_of("num.partitions=zero\n");
        let expected = "server.properties:7: num.partitions=zero: \
             Invalid value zero for configuration num.partitions: Not a number of type INT";
        assert_eq!(error, expected);
        assert!(error_of("controller.quorum.voters=2@b:1\n").contains("must be among the voters"));
        assert!(error_of("listeners=SSL://:9092,CONTROLLER://:9093\n").contains("TLS or SASL"));
        assert!(error_of("listeners=PLAINTEXT://:9092\n").contains("a controller listens on CONTROLLER"));
        assert!(error_of("advertised.listeners=PLAINTEXT://0.0.0.0:9092\n").contains("nobody can dial"));
        assert!(error_of("inter.broker.listener.name=INTERNAL\n").contains("which is not advertised"));
        assert!(error_of("process.roles=broker\n").contains("must not listen on it"));
        assert!(error_of("authorizer.class.name=x.Y\n").contains("authorization"));
        assert!(error_of("listeners=PLAINTEXT://:9092,CONTROLLER://:9092\n").contains("both want port 9092"));
        let missing = NodeConfig::from_text("", "f", &[]).expect_err("nothing is there");
        assert_eq!(missing.len(), 2, "{missing:?}");
    }

    #[test]
    fn unknown_keys_warn_once_and_secrets_stay_secret() {
        let (_, warnings) = with("log.retention.houres=1\nmy.plugin.password=hunter2\n").expect("valid");
        let text = warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains("did you mean log.retention.hours?"), "{text}");
        assert!(text.contains("my.plugin.password") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_port_chosen_by_the_system_is_advertised() {
        let (mut config, _) = with("listeners=PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:0\n").expect("valid");
        config.set_bound_port(0, 4000);
        config.set_bound_port(1, 4001);
        assert_eq!((config.listeners[0].port, config.advertised_listeners[0].port), (4000, 4000));
        assert_eq!(config.controller_advertised[0].port, 4001);
    }
}
