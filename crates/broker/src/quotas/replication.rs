//! Replication throttles (KIP-73): how fast followers may catch up, on the leader's side and on their own. Replicas in
//! sync are never held back, so that a throttle cannot shrink an ISR.

use std::collections::BTreeMap;

use metadata::config::NodeConfig;
use metadata::{ConfigResource, MetadataImage};
use protocol::time::Now;

use crate::quotas::rate::{Rate, Window};
use crate::settings::own_resource;

const LEADER_RATE: &str = "leader.replication.throttled.rate";
const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
const LEADER_REPLICAS: &str = "leader.replication.throttled.replicas";
const FOLLOWER_REPLICAS: &str = "follower.replication.throttled.replicas";

/// The longest that a follower leaves a throttled partition aside before it looks at the rate again.
pub(crate) const LOOK_AGAIN_MS: i64 = 100;

/// Whether a replica's partition is throttled where this broker leads it, and where it follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Throttled {
    pub leading: bool,
    pub following: bool,
}

impl Throttled {
    /// By the topic's own configuration: `*`, or a list of partition:broker.
    pub fn of(image: &MetadataImage, node: &NodeConfig, topic: &str, partition: i32) -> Self {
        let Some(configs) = image.topic_configs(topic) else { return Self::default() };
        let names = |key: &str| configs.get(key).is_some_and(|list| names_replica(list, partition, node.node_id));
        Self { leading: names(LEADER_REPLICAS), following: names(FOLLOWER_REPLICAS) }
    }
}

fn names_replica(list: &str, partition: i32, broker: i32) -> bool {
    let list = list.trim();
    let is_ours = |entry: &str| {
        let (p, b) = entry.split_once(':').unwrap_or_default();
        p.trim().parse() == Ok(partition) && b.trim().parse() == Ok(broker)
    };
    list == "*" || list.split(',').any(is_ours)
}

/// One side's limit and what went through.
struct Side {
    /// `None` without a limit.
    limit: Option<f64>,
    rate: Rate,
}

impl Side {
    fn wait_ms(&mut self, now: Now) -> i64 {
        self.limit.map_or(0, |limit| self.rate.wait_ms(limit.max(f64::MIN_POSITIVE), now.mono_ms))
    }

    fn record(&mut self, bytes: u64, now: Now) {
        if self.limit.is_some() {
            self.rate.record(bytes as f64, now.mono_ms);
        }
    }
}

pub(crate) struct Throttles {
    leader: Side,
    follower: Side,
    /// As of the last event: the leader's side is asked where no clock is at hand.
    leader_is_exceeded: bool,
}

impl Throttles {
    pub fn new(config: &NodeConfig) -> Self {
        let window = Window::new(config.replication_quota_window_num, config.replication_quota_window_size_seconds);
        let side = || Side { limit: None, rate: Rate::over_elapsed(window) };
        Self { leader: side(), follower: side(), leader_is_exceeded: false }
    }

    /// Dynamic values only: of this broker, or else of all.
    pub fn update(&mut self, image: &MetadataImage, node: &NodeConfig) {
        let layers = [own_resource(node), ConfigResource::all_brokers()];
        let read = |key: &str| {
            let set: Option<&BTreeMap<String, String>> =
                layers.iter().filter_map(|r| image.configs.get(r)).find(|configs| configs.contains_key(key));
            let value = set.and_then(|configs| configs.get(key))?.trim().parse::<i64>().ok()?;
            (value < i64::MAX).then_some(value.max(0) as f64)
        };
        self.leader.limit = read(LEADER_RATE);
        self.follower.limit = read(FOLLOWER_RATE);
        self.leader_is_exceeded &= self.leader.limit.is_some();
    }

    pub fn limits_leader(&self) -> bool {
        self.leader.limit.is_some()
    }

    /// Brings `leader_is_exceeded` up to date.
    pub fn look(&mut self, now: Now) {
        if self.leader.limit.is_some() {
            self.leader_is_exceeded = self.leader.wait_ms(now) > 0;
        }
    }

    pub fn leader_is_exceeded(&self) -> bool {
        self.leader_is_exceeded
    }

    pub fn sent(&mut self, bytes: u64, now: Now) {
        self.leader.record(bytes, now);
        self.look(now);
    }

    /// Counts what a follower got, and says for how long it should not ask for more.
    pub fn received(&mut self, bytes: usize, now: Now) -> i64 {
        self.follower.record(bytes as u64, now);
        self.follower.wait_ms(now).min(LOOK_AGAIN_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_replicas() {
        assert!(names_replica("*", 3, 1));
        assert!(names_replica("0:1, 3:1", 3, 1));
        assert!(!names_replica("3:2,1:3", 3, 1));
        assert!(!names_replica("", 0, 0));
    }
}
