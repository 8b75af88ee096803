//! Every configuration of a topic, as Kafka 4.3.1 defines it. Their broker synonyms are in `synonyms`.

use super::keys::ConfigType::{Boolean, Double, Int, List, Long, Str};
use super::keys::DefaultValue::{Is, Null};
use super::keys::Update::PerBroker;
use super::keys::Valid::{Any, AtLeast, Between, GzipLevel, ListOf, OneOf, ThrottledReplicas};
use super::keys::{ConfigKey, internal, key};

/// Sorted by name: `keys::find` searches it by halves.
#[rustfmt::skip]
pub(super) static TOPIC_KEYS: &[ConfigKey] = &[
    key("cleanup.policy", List, Is("delete"), ListOf(&["compact", "delete"], true), PerBroker),
    key("compression.gzip.level", Int, Is("-1"), GzipLevel, PerBroker),
    key("compression.lz4.level", Int, Is("9"), Between(1, 17), PerBroker),
    key("compression.type", Str, Is("producer"), OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), PerBroker),
    key("compression.zstd.level", Int, Is("3"), Between(-131072, 22), PerBroker),
    key("delete.retention.ms", Long, Is("86400000"), AtLeast(0), PerBroker),
    key("file.delete.delay.ms", Long, Is("60000"), AtLeast(0), PerBroker),
    key("flush.messages", Long, Is("9223372036854775807"), AtLeast(1), PerBroker),
    key("flush.ms", Long, Is("9223372036854775807"), AtLeast(0), PerBroker),
    key("follower.replication.throttled.replicas", List, Is(""), ThrottledReplicas, PerBroker),
    key("index.interval.bytes", Int, Is("4096"), AtLeast(0), PerBroker),
    internal("internal.segment.bytes", Int, Null, Any, PerBroker),
    key("leader.replication.throttled.replicas", List, Is(""), ThrottledReplicas, PerBroker),
    key("local.retention.bytes", Long, Is("-2"), AtLeast(-2), PerBroker),
    key("local.retention.ms", Long, Is("-2"), AtLeast(-2), PerBroker),
    key("max.compaction.lag.ms", Long, Is("9223372036854775807"), AtLeast(1), PerBroker),
    key("max.message.bytes", Int, Is("1048588"), AtLeast(0), PerBroker),
    key("message.timestamp.after.max.ms", Long, Is("3600000"), AtLeast(0), PerBroker),
    key("message.timestamp.before.max.ms", Long, Is("9223372036854775807"), AtLeast(0), PerBroker),
    key("message.timestamp.type", Str, Is("CreateTime"), OneOf(&["CreateTime", "LogAppendTime"]), PerBroker),
    key("min.cleanable.dirty.ratio", Double, Is("0.5"), Between(0, 1), PerBroker),
    key("min.compaction.lag.ms", Long, Is("0"), AtLeast(0), PerBroker),
    key("min.insync.replicas", Int, Is("1"), AtLeast(1), PerBroker),
    key("preallocate", Boolean, Is("false"), Any, PerBroker),
    key("remote.log.copy.disable", Boolean, Is("false"), Any, PerBroker),
    key("remote.log.delete.on.disable", Boolean, Is("false"), Any, PerBroker),
    key("remote.storage.enable", Boolean, Is("false"), Any, PerBroker),
    key("retention.bytes", Long, Is("-1"), Any, PerBroker),
    key("retention.ms", Long, Is("604800000"), AtLeast(-1), PerBroker),
    key("segment.bytes", Int, Is("1073741824"), AtLeast(1048576), PerBroker),
    key("segment.index.bytes", Int, Is("10485760"), AtLeast(4), PerBroker),
    key("segment.jitter.ms", Long, Is("0"), AtLeast(0), PerBroker),
    key("segment.ms", Long, Is("604800000"), AtLeast(1), PerBroker),
    key("unclean.leader.election.enable", Boolean, Is("false"), Any, PerBroker),
];
