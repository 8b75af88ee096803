//! Which broker keys stand behind a topic's configuration, and which broker keys are one setting in several units.
//! Mirrors ServerTopicConfigSynonyms and DynamicBrokerConfig.brokerConfigSynonyms.

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// A broker key and what one unit of it is worth in the topic key's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Synonym {
    pub(super) name: &'static str,
    pub(super) factor: i64,
}

const fn same(name: &'static str) -> Synonym {
    Synonym { name, factor: 1 }
}

static RETENTION: &[Synonym] = &[
    same("log.retention.ms"),
    Synonym { name: "log.retention.minutes", factor: MINUTE_MS },
    Synonym { name: "log.retention.hours", factor: HOUR_MS },
];
static ROLL: &[Synonym] = &[same("log.roll.ms"), Synonym { name: "log.roll.hours", factor: HOUR_MS }];
static ROLL_JITTER: &[Synonym] =
    &[same("log.roll.jitter.ms"), Synonym { name: "log.roll.jitter.hours", factor: HOUR_MS }];
static FLUSH_MS: &[Synonym] = &[same("log.flush.interval.ms"), same("log.flush.scheduler.interval.ms")];

/// The broker keys of a topic key, the strongest first; none for what only a topic can have.
pub(super) fn of_topic_key(name: &str) -> &'static [Synonym] {
    macro_rules! one {
        ($name:literal) => {{
            static ONE: &[Synonym] = &[same($name)];
            ONE
        }};
    }
    match name {
        "cleanup.policy" => one!("log.cleanup.policy"),
        "compression.gzip.level" => one!("compression.gzip.level"),
        "compression.lz4.level" => one!("compression.lz4.level"),
        "compression.type" => one!("compression.type"),
        "compression.zstd.level" => one!("compression.zstd.level"),
        "delete.retention.ms" => one!("log.cleaner.delete.retention.ms"),
        "file.delete.delay.ms" => one!("log.segment.delete.delay.ms"),
        "flush.messages" => one!("log.flush.interval.messages"),
        "flush.ms" => FLUSH_MS,
        "index.interval.bytes" => one!("log.index.interval.bytes"),
        "local.retention.bytes" => one!("log.local.retention.bytes"),
        "local.retention.ms" => one!("log.local.retention.ms"),
        "max.compaction.lag.ms" => one!("log.cleaner.max.compaction.lag.ms"),
        "max.message.bytes" => one!("message.max.bytes"),
        "message.timestamp.after.max.ms" => one!("log.message.timestamp.after.max.ms"),
        "message.timestamp.before.max.ms" => one!("log.message.timestamp.before.max.ms"),
        "message.timestamp.type" => one!("log.message.timestamp.type"),
        "min.cleanable.dirty.ratio" => one!("log.cleaner.min.cleanable.ratio"),
        "min.compaction.lag.ms" => one!("log.cleaner.min.compaction.lag.ms"),
        "min.insync.replicas" => one!("min.insync.replicas"),
        "preallocate" => one!("log.preallocate"),
        "retention.bytes" => one!("log.retention.bytes"),
        "retention.ms" => RETENTION,
        "segment.bytes" => one!("log.segment.bytes"),
        "segment.index.bytes" => one!("log.index.size.max.bytes"),
        "segment.jitter.ms" => ROLL_JITTER,
        "segment.ms" => ROLL,
        "unclean.leader.election.enable" => one!("unclean.leader.election.enable"),
        _ => &[],
    }
}

/// The keys that are the same setting as `name`, the strongest first; only `name` itself for most.
pub(super) fn of_broker_key(name: &str) -> Vec<&str> {
    // The scheduler's interval is only a default of `log.flush.interval.ms`, so the relation holds in one direction.
    let group = match name {
        "log.roll.ms" | "log.roll.hours" => ROLL,
        "log.roll.jitter.ms" | "log.roll.jitter.hours" => ROLL_JITTER,
        "log.flush.interval.ms" => FLUSH_MS,
        "log.retention.ms" | "log.retention.minutes" | "log.retention.hours" => RETENTION,
        _ => {
            let mut names = vec![name];
            names.extend(without_listener(name));
            return names;
        }
    };
    group.iter().map(|synonym| synonym.name).collect()
}

/// The broker keys that a topic key's value comes from where the topic has none of its own, the strongest first.
pub fn topic_key_synonyms(name: &str) -> Vec<&'static str> {
    of_topic_key(name).iter().map(|synonym| synonym.name).collect()
}

/// Other names of the same setting of a broker, in other units.
pub fn broker_key_synonyms(name: &str) -> Vec<&str> {
    of_broker_key(name).into_iter().filter(|other| *other != name).collect()
}

/// `listener.name.<listener>.[<mechanism>.]<key>` narrows `<key>` to one listener.
pub(super) fn without_listener(name: &str) -> Option<&str> {
    const WITH_MECHANISM: &[&str] = &[
        "sasl.jaas.config",
        "sasl.login.callback.handler.class",
        "sasl.login.class",
        "sasl.server.callback.handler.class",
        "connections.max.reauth.ms",
    ];
    let (_, base) = name.strip_prefix("listener.name.")?.split_once('.')?;
    Some(WITH_MECHANISM.iter().find(|key| base.ends_with(**key)).copied().unwrap_or(base))
}
