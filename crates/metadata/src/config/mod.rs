//! Configuration: the keys of server.properties, of topics and of groups, and what they mean to this node.
//!
//! Start at [`NodeConfig`] (what the file says, typed and checked) and [`TopicConfig`] (what holds for one topic).
//! `keys` knows every key of Kafka 4.3.1, also those that this node ignores, because DescribeConfigs lists them.

mod about;
mod broker_keys;
mod describe;
mod dynamic;
mod group;
mod group_keys;
mod keys;
mod listeners;
mod node;
mod properties;
mod providers;
mod settings;
mod synonyms;
mod topic;
mod topic_keys;
mod validate;

pub use about::about_key;
pub use describe::describe_topic_configs;
pub use describe::{ConfigEntry, ConfigSource, ConfigSynonym, describe_broker_configs, describe_broker_defaults};
pub use group::{client_metrics_key, describe_client_metrics_configs, describe_group_configs};
pub use group::{validate_client_metrics_configs, validate_group_configs};
pub use keys::{ConfigKey, ConfigType, DefaultValue, Update, Valid, broker_key, broker_keys, group_key, group_keys};
pub use keys::{nearest_broker_key, topic_key, topic_keys};
pub use listeners::{Listener, SecurityProtocol};
pub use node::{ConfigError, NodeConfig, Roles, Warning};
pub use properties::{Property, parse_properties};
pub use providers::Outside;
pub use settings::Settings;
pub use synonyms::{broker_key_synonyms, topic_key_synonyms};
pub use topic::{CleanupPolicy, CompressionType, TimestampType, TopicConfig};
pub use validate::{
    double_to_string, validate_broker_config, validate_broker_configs, validate_topic_config, validate_topic_configs,
};

use std::collections::BTreeMap;

/// What an operator set while the cluster runs, as the metadata log holds it.
#[derive(Clone, Copy, Default)]
pub struct DynamicConfigs<'a> {
    /// The resource of this broker's id.
    pub broker: Option<&'a BTreeMap<String, String>>,
    /// The resource with the empty name, the default of all brokers.
    pub cluster: Option<&'a BTreeMap<String, String>>,
}
