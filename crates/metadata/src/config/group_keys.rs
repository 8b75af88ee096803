//! Every configuration of a group, as Kafka 4.3.1 defines it.

use super::keys::ConfigType::{Boolean, Int, Str};
use super::keys::DefaultValue::Is;
use super::keys::Update::PerBroker;
use super::keys::Valid::{Any, AtLeast, OneOf};
use super::keys::{ConfigKey, key};

/// Sorted by name: `keys::find` searches it by halves.
#[rustfmt::skip]
pub(super) static GROUP_KEYS: &[ConfigKey] = &[
    key("consumer.assignment.interval.ms", Int, Is("1000"), AtLeast(0), PerBroker),
    key("consumer.heartbeat.interval.ms", Int, Is("5000"), AtLeast(1), PerBroker),
    key("consumer.session.timeout.ms", Int, Is("45000"), AtLeast(1), PerBroker),
    key("share.assignment.interval.ms", Int, Is("1000"), AtLeast(0), PerBroker),
    key("share.auto.offset.reset", Str, Is("latest"), Any, PerBroker),
    key("share.delivery.count.limit", Int, Is("5"), AtLeast(2), PerBroker),
    key("share.heartbeat.interval.ms", Int, Is("5000"), AtLeast(1), PerBroker),
    key("share.isolation.level", Str, Is("read_uncommitted"), OneOf(&["read_committed", "read_uncommitted"]), PerBroker),
    key("share.partition.max.record.locks", Int, Is("2000"), AtLeast(100), PerBroker),
    key("share.record.lock.duration.ms", Int, Is("30000"), AtLeast(1000), PerBroker),
    key("share.renew.acknowledge.enable", Boolean, Is("true"), Any, PerBroker),
    key("share.session.timeout.ms", Int, Is("45000"), AtLeast(1), PerBroker),
    key("streams.assignment.interval.ms", Int, Is("1000"), AtLeast(0), PerBroker),
    key("streams.heartbeat.interval.ms", Int, Is("5000"), AtLeast(1), PerBroker),
    key("streams.initial.rebalance.delay.ms", Int, Is("3000"), AtLeast(0), PerBroker),
    key("streams.num.standby.replicas", Int, Is("0"), AtLeast(0), PerBroker),
    key("streams.session.timeout.ms", Int, Is("45000"), AtLeast(1), PerBroker),
];
