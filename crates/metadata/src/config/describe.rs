//! What DescribeConfigs answers: every key with its value, where that comes from, and what it hides (ConfigHelper).

use std::collections::BTreeMap;

use super::keys::{ConfigKey, Update, broker_key, broker_keys, topic_keys};
use super::topic::Resolver;
use super::validate::canonical;
use super::{DynamicConfigs, NodeConfig, synonyms};

/// The discriminants are those of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    DynamicTopicConfig = 1,
    DynamicBrokerConfig = 2,
    DynamicDefaultBrokerConfig = 3,
    StaticBrokerConfig = 4,
    DefaultConfig = 5,
    DynamicClientMetricsConfig = 7,
    DynamicGroupConfig = 8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    pub name: String,
    pub value: Option<String>,
    pub source: ConfigSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    /// `None` where there is no value, and where it is a secret.
    pub value: Option<String>,
    pub source: ConfigSource,
    pub is_sensitive: bool,
    pub read_only: bool,
    /// `ConfigType` on the wire; 0 for a key that nobody knows.
    pub config_type: i8,
    /// The whole chain, the strongest first; the caller drops it if the client did not ask.
    pub synonyms: Vec<ConfigSynonym>,
}

/// All configurations of a topic, sorted by name. `overrides` are the topic's own.
pub fn describe_topic_configs(
    overrides: Option<&BTreeMap<String, String>>,
    dynamic: DynamicConfigs<'_>,
    node: &NodeConfig,
) -> Vec<ConfigEntry> {
    let read = Resolver { topic: overrides, dynamic, file: &node.properties };
    let shown = topic_keys().iter().filter(|key| !key.internal);
    shown.map(|key| topic_entry(key, &read)).collect()
}

fn topic_entry(key: &'static ConfigKey, read: &Resolver<'_>) -> ConfigEntry {
    let value = Some(read.text(key.name));
    let mut synonyms = Vec::new();
    if read.topic.is_some_and(|topic| topic.contains_key(key.name)) {
        let source = ConfigSource::DynamicTopicConfig;
        synonyms.push(ConfigSynonym { name: key.name.to_owned(), value: value.clone(), source });
    }
    if let Some(strongest) = synonyms::of_topic_key(key.name).first() {
        synonyms.extend(broker_chain(strongest.name, read.dynamic, read.file, false));
    }
    ConfigEntry {
        name: key.name.to_owned(),
        value,
        source: synonyms.first().map_or(ConfigSource::DefaultConfig, |synonym| synonym.source),
        is_sensitive: false,
        read_only: false,
        config_type: key.config_type as i8,
        synonyms,
    }
}

/// All configurations of this broker, sorted by name, with those of its file that no table knows.
pub fn describe_broker_configs(dynamic: DynamicConfigs<'_>, node: &NodeConfig) -> Vec<ConfigEntry> {
    describe_broker(dynamic, &node.properties)
}

fn describe_broker(dynamic: DynamicConfigs<'_>, file: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let layers = [dynamic.broker, dynamic.cluster, Some(file)];
    let unknown = layers.into_iter().flatten().flat_map(|layer| layer.keys());
    let is_listed = |name: &&str| broker_key(name).is_none_or(is_dynamic_only);
    let mut names: Vec<&str> = unknown.map(String::as_str).filter(is_listed).collect();
    names.extend(broker_keys().iter().filter(|key| !key.internal).map(|key| key.name));
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| broker_entry(name, dynamic, file)).collect()
}

/// Keys of no file, which exist only where they were set while the cluster runs (`DynamicConfig.Broker`).
fn is_dynamic_only(key: &ConfigKey) -> bool {
    key.internal && key.update == Update::ClusterWide
}

/// What was set for all brokers at once: the answer for the broker resource without a name.
pub fn describe_broker_defaults(cluster: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let dynamic = DynamicConfigs { broker: None, cluster: Some(cluster) };
    let file = BTreeMap::new();
    let entries = cluster.keys().map(|name| {
        let mut entry = broker_entry(name, dynamic, &file);
        entry.synonyms.retain(|synonym| synonym.source == ConfigSource::DynamicDefaultBrokerConfig);
        entry.source = entry.synonyms.first().map_or(ConfigSource::DefaultConfig, |synonym| synonym.source);
        entry
    });
    entries.collect()
}

fn broker_entry(name: &str, dynamic: DynamicConfigs<'_>, file: &BTreeMap<String, String>) -> ConfigEntry {
    let key = broker_key(name);
    // A key that nobody knows may hold a secret of a plugin.
    let is_sensitive = key.is_none_or(ConfigKey::is_sensitive);
    let chain = broker_chain(name, dynamic, file, is_sensitive);
    let set = [dynamic.broker, dynamic.cluster, Some(file)].into_iter().flatten().find_map(|layer| layer.get(name));
    let value = match (key, set) {
        _ if is_sensitive => None,
        (Some(key), Some(value)) => Some(canonical(key, value)),
        (Some(key), None) => key.default_value().map(str::to_owned),
        (None, value) => value.cloned(),
    };
    ConfigEntry {
        name: name.to_owned(),
        value,
        source: chain.first().map_or(ConfigSource::DefaultConfig, |synonym| synonym.source),
        is_sensitive,
        read_only: key.is_none_or(|key| key.update == Update::ReadOnly),
        config_type: key.map_or(0, |key| key.config_type as i8),
        synonyms: chain,
    }
}

/// Every place where `name` or a synonym of it has a value, the strongest first, beginning with `name` itself:
/// Kafka leaves out what comes before (DynamicBrokerConfig's listener overrides, units that are not asked for).
pub(super) fn broker_chain(
    name: &str,
    dynamic: DynamicConfigs<'_>,
    file: &BTreeMap<String, String>,
    is_sensitive: bool,
) -> Vec<ConfigSynonym> {
    let names = synonyms::of_broker_key(name);
    let layers = [
        (dynamic.broker, ConfigSource::DynamicBrokerConfig),
        (dynamic.cluster, ConfigSource::DynamicDefaultBrokerConfig),
        (Some(file), ConfigSource::StaticBrokerConfig),
    ];
    let mut chain = Vec::new();
    let mut push = |name: &str, value: &str, source: ConfigSource| {
        let value = if is_sensitive { None } else { Some(value.to_owned()) };
        chain.push(ConfigSynonym { name: name.to_owned(), value, source });
    };
    for (layer, source) in layers {
        for name in &names {
            if let Some(value) = layer.and_then(|layer| layer.get(*name)) {
                push(name, value, source);
            }
        }
    }
    for name in &names {
        if let Some(value) = broker_key(name).and_then(ConfigKey::default_value) {
            push(name, value, ConfigSource::DefaultConfig);
        }
    }
    let first = chain.iter().position(|synonym| synonym.name == name).unwrap_or(chain.len());
    chain.split_off(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// In the words of `kafka-configs --describe --all`.
    fn line(entries: &[ConfigEntry], name: &str) -> String {
        let entry = entries.iter().find(|entry| entry.name == name).expect("described");
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
        let source = |source: ConfigSource| match source {
            ConfigSource::DynamicTopicConfig => "DYNAMIC_TOPIC_CONFIG",
            ConfigSource::DynamicBrokerConfig => "DYNAMIC_BROKER_CONFIG",
            ConfigSource::DynamicDefaultBrokerConfig => "DYNAMIC_DEFAULT_BROKER_CONFIG",
            ConfigSource::StaticBrokerConfig => "STATIC_BROKER_CONFIG",
            ConfigSource::DefaultConfig => "DEFAULT_CONFIG",
            other => panic!("{other:?} is not of a topic or a broker"),
        };
        let synonyms: Vec<String> =
            entry.synonyms.iter().map(|s| format!("{}:{}={}", source(s.source), s.name, show(&s.value))).collect();
        format!(
            "{}={} sensitive={} synonyms={{{}}}",
            entry.name,
            show(&entry.value),
            entry.is_sensitive,
            synonyms.join(", ")
        )
    }

    /// Expected lines were printed by Kafka 4.3.1 for a broker with these settings.
    #[test]
    fn sources_and_synonyms_are_those_of_kafka() {
        let text = "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@h:9093\n\
                    listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ncontroller.listener.names=CONTROLLER\n\
                    log.cleaner.min.cleanable.ratio=0.01\nlog.dirs=a, b\nsuper.users=User:x\n";
        let (node, _) = NodeConfig::from_text(text, "f", &[]).expect("valid");
        let broker = map(&[("log.cleaner.threads", "2")]);
        let cluster = map(&[("min.insync.replicas", "1"), ("log.retention.ms", "604800001")]);
        let dynamic = DynamicConfigs { broker: Some(&broker), cluster: Some(&cluster) };
        let topic = describe_topic_configs(Some(&map(&[("max.message.bytes", "2000000")])), dynamic, &node);
        assert_eq!(topic.len(), 33);
        let expected = [
            "max.message.bytes=2000000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:max.message.bytes=2000000, \
             DEFAULT_CONFIG:message.max.bytes=1048588}",
            "min.cleanable.dirty.ratio=0.01 sensitive=false \
             synonyms={STATIC_BROKER_CONFIG:log.cleaner.min.cleanable.ratio=0.01, \
             DEFAULT_CONFIG:log.cleaner.min.cleanable.ratio=0.5}",
            "min.insync.replicas=1 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:min.insync.replicas=1, \
             DEFAULT_CONFIG:min.insync.replicas=1}",
            "flush.ms=9223372036854775807 sensitive=false synonyms={}",
            "segment.ms=604800000 sensitive=false synonyms={}",
            "file.delete.delay.ms=60000 sensitive=false synonyms={DEFAULT_CONFIG:log.segment.delete.delay.ms=60000}",
        ];
        for expected in expected {
            let name = expected.split_once('=').expect("a key").0;
            assert_eq!(line(&topic, name), expected);
        }
        let of_broker = describe_broker_configs(dynamic, &node);
        let expected = [
            "broker.id=1 sensitive=false synonyms={STATIC_BROKER_CONFIG:broker.id=1, DEFAULT_CONFIG:broker.id=-1}",
            "log.cleaner.threads=2 sensitive=false synonyms={DYNAMIC_BROKER_CONFIG:log.cleaner.threads=2, \
             DEFAULT_CONFIG:log.cleaner.threads=1}",
            "node.id=1 sensitive=false synonyms={STATIC_BROKER_CONFIG:node.id=1}",
            "super.users=null sensitive=true synonyms={STATIC_BROKER_CONFIG:super.users=null}",
            "advertised.listeners=null sensitive=false synonyms={}",
        ];
        for expected in expected {
            let name = expected.split_once('=').expect("a key").0;
            assert_eq!(line(&of_broker, name), expected);
        }
        assert_eq!(describe_broker_defaults(&cluster).len(), 2);
    }
}
