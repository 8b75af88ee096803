//! What holds for one group, and for one subscription to clients' metrics: their own settings over those of the brokers.
//! Mirrors GroupConfig, ClientMetricsConfigs, and ConfigHelper's part for both.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;

use super::describe::{ConfigEntry, ConfigSource, ConfigSynonym, broker_chain};
use super::keys::ConfigType::{Int, List};
use super::keys::DefaultValue::Is;
use super::keys::Update::PerBroker;
use super::keys::Valid::{Any, ListOf};
use super::keys::{ConfigKey, broker_key, group_key, group_keys, key};
use super::validate::{canonical, check, list};
use super::{DynamicConfigs, NodeConfig};

/// Sorted by name.
static CLIENT_METRICS_KEYS: &[ConfigKey] = &[
    key("interval.ms", Int, Is("300000"), Any, PerBroker),
    key("match", List, Is(""), ListOf(&[], true), PerBroker),
    key("metrics", List, Is(""), ListOf(&[], true), PerBroker),
];

/// What a client can be told by (`ClientMetricsConfigs.ALLOWED_MATCH_PARAMS`).
const MATCH_PARAMS: &[&str] = &[
    "client_instance_id",
    "client_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
];
const INTERVAL_MS: std::ops::RangeInclusive<i64> = 100..=3_600_000;

pub fn client_metrics_key(name: &str) -> Option<&'static ConfigKey> {
    CLIENT_METRICS_KEYS.iter().find(|key| key.name == name)
}

/// Where a group's value comes from if it has none of its own.
fn broker_name(name: &str) -> Option<&'static str> {
    broker_key(&format!("group.{name}")).map(|key| key.name)
}

/// All configurations of a group, sorted by name.
pub fn describe_group_configs(
    own: Option<&BTreeMap<String, String>>,
    dynamic: DynamicConfigs<'_>,
    node: &NodeConfig,
) -> Vec<ConfigEntry> {
    let entry = |key: &'static ConfigKey| {
        let synonym = |name: &str, value: &str, source| ConfigSynonym {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            source,
        };
        let mut synonyms = Vec::new();
        if let Some(value) = own.and_then(|own| own.get(key.name)) {
            synonyms.push(synonym(key.name, &canonical(key, value), ConfigSource::DynamicGroupConfig));
        }
        match broker_name(key.name) {
            Some(broker_name) => synonyms.extend(broker_chain(broker_name, dynamic, &node.properties, false)),
            None => synonyms.extend(key.default_value().map(|v| synonym(key.name, v, ConfigSource::DefaultConfig))),
        }
        described(key, synonyms)
    };
    group_keys().iter().map(entry).collect()
}

/// All configurations of a subscription, sorted by name.
pub fn describe_client_metrics_configs(own: Option<&BTreeMap<String, String>>) -> Vec<ConfigEntry> {
    let entry = |key: &'static ConfigKey| {
        let value = own.and_then(|own| own.get(key.name)).map(|value| canonical(key, value));
        let source = ConfigSource::DynamicClientMetricsConfig;
        let synonyms = value.map(|value| ConfigSynonym { name: key.name.to_owned(), value: Some(value), source });
        described(key, synonyms.into_iter().collect())
    };
    CLIENT_METRICS_KEYS.iter().map(entry).collect()
}

/// The strongest of the synonyms holds, or else the key's default.
fn described(key: &'static ConfigKey, synonyms: Vec<ConfigSynonym>) -> ConfigEntry {
    let first = synonyms.first();
    ConfigEntry {
        name: key.name.to_owned(),
        value: first.map_or_else(|| key.default_value().map(str::to_owned), |s| s.value.clone()),
        source: first.map_or(ConfigSource::DefaultConfig, |s| s.source),
        is_sensitive: false,
        read_only: false,
        config_type: key.config_type as i8,
        synonyms,
    }
}

/// All settings of one group together. The messages are those that tools print.
pub fn validate_group_configs(
    own: &BTreeMap<String, String>,
    dynamic: DynamicConfigs<'_>,
    node: &NodeConfig,
) -> Result<(), String> {
    for (name, value) in own {
        check(group_key(name).ok_or_else(|| format!("Unknown group config name: {name}"))?, value)?;
    }
    let broker = |name: &str| -> Option<i64> {
        let chain = broker_chain(broker_key(name)?.name, dynamic, &node.properties, false);
        chain.first()?.value.as_ref()?.parse().ok()
    };
    for (name, value) in own {
        let Some((kind, rest)) = name.split_once('.') else { continue };
        let value: i64 = value.parse().unwrap_or_default();
        let (least, most) = match rest {
            "num.standby.replicas" => (String::new(), "group.streams.max.standby.replicas".to_owned()),
            _ => (format!("group.{kind}.min.{rest}"), format!("group.{kind}.max.{rest}")),
        };
        if broker(&least).is_some_and(|least| value < least) {
            return Err(format!("{name} must be greater than or equal to {least}"));
        }
        if broker(&most).is_some_and(|most| value > most) {
            return Err(format!("{name} must be less than or equal to {most}"));
        }
    }
    for kind in ["consumer", "share", "streams"] {
        let effective = |name: &str| match own.get(name) {
            Some(value) => value.parse().ok(),
            None => broker(&format!("group.{name}")),
        };
        let (session, heartbeat) = (format!("{kind}.session.timeout.ms"), format!("{kind}.heartbeat.interval.ms"));
        if effective(&session) <= effective(&heartbeat) {
            return Err(format!("{session} must be greater than {heartbeat}"));
        }
    }
    Ok(())
}

/// All settings of one subscription together.
pub fn validate_client_metrics_configs(own: &BTreeMap<String, String>) -> Result<(), (ErrorCode, String)> {
    for (name, value) in own {
        let Some(key) = client_metrics_key(name) else {
            return Err((ErrorCode::InvalidRequest, format!("Unknown client metrics configuration: {name}")));
        };
        check(key, value).map_err(|why| (ErrorCode::InvalidConfig, why))?;
    }
    if let Some(value) = own.get("interval.ms") {
        if !value.trim().parse().is_ok_and(|ms: i64| INTERVAL_MS.contains(&ms)) {
            let why =
                format!("Invalid value {value} for interval.ms, interval must be between 100 and 3600000 (1 hour)");
            return Err((ErrorCode::InvalidRequest, why));
        }
    }
    for pattern in own.get("match").into_iter().flat_map(|value| list(value)) {
        let is_legal = pattern.split_once('=').is_some_and(|(param, pattern)| {
            MATCH_PARAMS.contains(&param.trim()) && !pattern.is_empty() && !pattern.contains('=')
        });
        if !is_legal {
            return Err((ErrorCode::InvalidConfig, format!("Illegal client matching pattern: {pattern}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kafka 4.3.1 answers for a group and a subscription with one setting each.
    #[test]
    fn groups_and_subscriptions_show_all_their_settings() {
        let text = "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@h:9093\n\
                    listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ncontroller.listener.names=CONTROLLER\nlog.dirs=a\n";
        let (node, _) = NodeConfig::from_text(text, "f", &[]).expect("valid");
        let dynamic = DynamicConfigs { broker: None, cluster: None };
        let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let own = one("consumer.session.timeout.ms", "50000");
        assert_eq!(validate_group_configs(&own, dynamic, &node), Ok(()));
        let entries = describe_group_configs(Some(&own), dynamic, &node);
        assert_eq!(entries.len(), 17);
        let session = entries.iter().find(|e| e.name == "consumer.session.timeout.ms").expect("described");
        assert_eq!((session.value.as_deref(), session.source), (Some("50000"), ConfigSource::DynamicGroupConfig));
        let names: Vec<&str> = session.synonyms.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["consumer.session.timeout.ms", "group.consumer.session.timeout.ms"]);
        for (name, value) in [("consumer.session.timeout.ms", "5"), ("streams.num.standby.replicas", "3"), ("x", "1")] {
            assert!(validate_group_configs(&one(name, value), dynamic, &node).is_err(), "{name}={value}");
        }
        assert_eq!(describe_client_metrics_configs(Some(&one("metrics", "a.b"))).len(), 3);
        for (name, value) in [("interval.ms", "5"), ("match", "client_id"), ("match", "x=y"), ("x", "1")] {
            assert!(validate_client_metrics_configs(&one(name, value)).is_err(), "{name}={value}");
        }
    }
}
