//! What a configuration key is: its type, its default, its valid values, and how it may change.

use super::broker_keys::BROKER_KEYS;
use super::group_keys::GROUP_KEYS;
use super::topic_keys::TOPIC_KEYS;

/// The discriminants are those of DescribeConfigsResponse's `ConfigType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigType {
    Boolean = 1,
    Str = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

impl ConfigType {
    /// As Kafka's messages spell it.
    pub fn name(self) -> &'static str {
        match self {
            ConfigType::Boolean => "BOOLEAN",
            ConfigType::Str => "STRING",
            ConfigType::Int => "INT",
            ConfigType::Short => "SHORT",
            ConfigType::Long => "LONG",
            ConfigType::Double => "DOUBLE",
            ConfigType::List => "LIST",
            ConfigType::Class => "CLASS",
            ConfigType::Password => "PASSWORD",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    Required,
    Null,
    Is(&'static str),
}

/// How a broker key changes while the node runs. Topic and group keys always may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    ReadOnly,
    PerBroker,
    ClusterWide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valid {
    Any,
    AtLeast(i64),
    Between(i64, i64),
    OneOf(&'static [&'static str]),
    OneOfAnyCase(&'static [&'static str]),
    /// The valid elements (all, if none are given), and whether the list may be empty.
    ListOf(&'static [&'static str], bool),
    NonEmpty,
    /// 1 to 9, or −1 for the library's own default.
    GzipLevel,
    ThrottledReplicas,
    Voters,
    BootstrapServers,
}

#[derive(Clone, Copy, Debug)]
pub struct ConfigKey {
    pub name: &'static str,
    pub config_type: ConfigType,
    pub default: DefaultValue,
    pub valid: Valid,
    pub update: Update,
    /// Accepted, but not shown by DescribeConfigs.
    pub internal: bool,
}

impl ConfigKey {
    pub fn default_value(&self) -> Option<&'static str> {
        match self.default {
            DefaultValue::Is(value) => Some(value),
            DefaultValue::Null | DefaultValue::Required => None,
        }
    }

    pub fn is_sensitive(&self) -> bool {
        self.config_type == ConfigType::Password
    }
}

pub(super) const fn key(
    name: &'static str,
    config_type: ConfigType,
    default: DefaultValue,
    valid: Valid,
    update: Update,
) -> ConfigKey {
    ConfigKey { name, config_type, default, valid, update, internal: false }
}

pub(super) const fn internal(
    name: &'static str,
    config_type: ConfigType,
    default: DefaultValue,
    valid: Valid,
    update: Update,
) -> ConfigKey {
    ConfigKey { name, config_type, default, valid, update, internal: true }
}

fn find(keys: &'static [ConfigKey], name: &str) -> Option<&'static ConfigKey> {
    keys.binary_search_by(|key| key.name.cmp(name)).ok().map(|at| &keys[at])
}

pub fn broker_key(name: &str) -> Option<&'static ConfigKey> {
    find(BROKER_KEYS, name)
}

pub fn topic_key(name: &str) -> Option<&'static ConfigKey> {
    find(TOPIC_KEYS, name)
}

pub fn group_key(name: &str) -> Option<&'static ConfigKey> {
    find(GROUP_KEYS, name)
}

pub fn broker_keys() -> &'static [ConfigKey] {
    BROKER_KEYS
}

pub fn topic_keys() -> &'static [ConfigKey] {
    TOPIC_KEYS
}

pub fn group_keys() -> &'static [ConfigKey] {
    GROUP_KEYS
}

/// The known key that a mistyped one most likely means: at most three edits away, and less than a third of its length.
pub fn nearest_broker_key(name: &str) -> Option<&'static str> {
    let limit = (name.len() / 3).min(3);
    BROKER_KEYS
        .iter()
        .filter(|key| !key.internal && key.name.len().abs_diff(name.len()) <= limit)
        .map(|key| (edits(key.name, name), key.name))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, by bytes: key names are ASCII.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_their_defaults_are_valid() {
        for table in [BROKER_KEYS, TOPIC_KEYS, GROUP_KEYS] {
            assert!(table.is_sorted_by(|a, b| a.name < b.name));
            for key in table {
                if let Some(value) = key.default_value() {
                    assert_eq!(super::super::validate::check(key, value), Ok(()), "{}", key.name);
                }
            }
        }
    }

    #[test]
    fn a_mistyped_key_finds_its_neighbour() {
        assert_eq!(nearest_broker_key("log.retention.houres"), Some("log.retention.hours"));
        assert_eq!(nearest_broker_key("num.partition"), Some("num.partitions"));
        assert_eq!(nearest_broker_key("my.own.plugin.setting"), None);
    }
}
