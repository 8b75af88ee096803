//! What the group coordinator must know of the cluster, read from the image when it asks.

use std::collections::BTreeMap;

use coordinator::{Facts, GroupSettings};
use metadata::config::{NodeConfig, broker_key};
use metadata::{ConfigResource, MetadataImage};
use protocol::wire::Uuid;

use crate::settings::own_resource;

/// The resource type of a group's configurations.
const GROUP_RESOURCE: i8 = 32;

pub(crate) struct ImageFacts<'a> {
    pub image: &'a MetadataImage,
    pub config: &'a NodeConfig,
    /// Of the last record that is in the image.
    pub offset: i64,
}

impl Facts for ImageFacts<'_> {
    fn version(&self) -> i64 {
        self.offset
    }

    fn topic_id(&self, name: &str) -> Option<Uuid> {
        self.image.topic_ids.get(name).copied()
    }

    fn topic_name(&self, id: Uuid) -> Option<&str> {
        self.image.topics.get(&id).map(|topic| topic.name.as_str())
    }

    fn partition_count(&self, id: Uuid) -> Option<i32> {
        self.image.topics.get(&id).map(|topic| i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
    }

    fn partition_racks(&self, id: Uuid, partition: i32) -> Vec<&str> {
        let replicas = self.image.partition(id, partition).into_iter().flat_map(|partition| &partition.replicas);
        replicas.filter_map(|broker| self.image.brokers.get(broker)?.rack.as_deref()).collect()
    }

    fn topic_names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.image.topic_ids.keys().map(String::as_str))
    }

    /// The group's own setting within the bounds of the broker's, or else the broker's.
    fn group_settings(&self, group: &str) -> GroupSettings {
        let config = self.config;
        let resource = ConfigResource { kind: GROUP_RESOURCE, name: group.to_owned() };
        let own = self.image.configs.get(&resource);
        let value = |name: &str, min: i64, max: i64, default: i64| {
            let own = own.and_then(|own| own.get(name)).and_then(|value| value.parse::<i64>().ok());
            own.map_or_else(|| self.dynamic(&format!("group.{name}")).unwrap_or(default), |v| v.max(min).min(max))
        };
        let heartbeat_ms = value(
            "consumer.heartbeat.interval.ms",
            config.group_consumer_min_heartbeat_interval_ms,
            config.group_consumer_max_heartbeat_interval_ms,
            config.group_consumer_heartbeat_interval_ms,
        );
        GroupSettings {
            session_timeout_ms: value(
                "consumer.session.timeout.ms",
                config.group_consumer_min_session_timeout_ms,
                config.group_consumer_max_session_timeout_ms,
                config.group_consumer_session_timeout_ms,
            ),
            heartbeat_interval_ms: i32::try_from(heartbeat_ms).unwrap_or(i32::MAX),
            assignment_interval_ms: value(
                "consumer.assignment.interval.ms",
                config.group_consumer_min_assignment_interval_ms,
                config.group_consumer_max_assignment_interval_ms,
                config.group_consumer_assignment_interval_ms,
            ),
        }
    }
}

impl ImageFacts<'_> {
    /// What an operator set for the brokers while they run.
    fn dynamic(&self, name: &str) -> Option<i64> {
        let key = broker_key(name)?;
        let set = |resource: &ConfigResource| -> Option<&BTreeMap<String, String>> { self.image.configs.get(resource) };
        let own = set(&own_resource(self.config)).and_then(|own| own.get(key.name));
        let value = own.or_else(|| set(&ConfigResource::all_brokers())?.get(key.name));
        value?.parse().ok()
    }
}
