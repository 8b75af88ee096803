//! What operators set while the node runs, over what its file says: the configuration that holds now, and whether one
//! may follow another.
//!
//! Kafka's order is kept: this broker's own settings, those of all brokers, the file, the built-in defaults. A key that
//! is set dynamically hides its other spellings in the file (`log.retention.ms` a `log.retention.hours`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keys::{ConfigType, Update, broker_key};
use super::node::{LogTimes, conflicts};
use super::settings::Settings;
use super::validate::{check, list};
use super::{DynamicConfigs, NodeConfig, synonyms};

/// Threads of Kafka's, which may grow and shrink by no more than half at a time. Only the cleaner's exist here.
const THREADS: &[&str] = &[
    "background.threads",
    "log.cleaner.threads",
    "num.io.threads",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
    "remote.log.manager.copier.thread.pool.size",
    "remote.log.manager.expiration.thread.pool.size",
    "remote.log.manager.follower.thread.pool.size",
    "remote.log.reader.threads",
];
const JMX_REPORTER: &str = "org.apache.kafka.common.metrics.JmxReporter";
/// What a listener's own limits are called behind `listener.name.<listener>.`.
const LISTENER_LIMITS: &[&str] = &["max.connections", "max.connection.creation.rate"];

impl NodeConfig {
    /// The configuration that holds now. Values that are wrong, and keys that may not change, are passed over: a record
    /// of the metadata log may be older than the rule that forbids it.
    pub fn with_dynamic(&self, dynamic: DynamicConfigs<'_>) -> NodeConfig {
        let values = self.values_with(dynamic);
        let settings = Settings::read(&values);
        NodeConfig { settings, ..self.clone() }.with_log_times(&LogTimes::read(&values))
    }

    fn values_with<'a>(&'a self, dynamic: DynamicConfigs<'a>) -> BTreeMap<&'a str, &'a str> {
        let mut values: BTreeMap<&str, &str> = self.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        for (name, value) in [dynamic.cluster, dynamic.broker].into_iter().flatten().flatten() {
            let Some(key) = broker_key(name).filter(|key| key.update != Update::ReadOnly) else { continue };
            if check(key, value).is_err() {
                continue;
            }
            for other in synonyms::of_broker_key(name) {
                values.remove(other);
            }
            values.insert(name, value);
        }
        values
    }

    /// Whether the node may go from one set of dynamic settings to another while it runs. `self` is what the file says,
    /// `changed` what an operator wants of one resource.
    pub fn check_change(
        &self,
        now: DynamicConfigs<'_>,
        then: DynamicConfigs<'_>,
        changed: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let (values_now, values_then) = (self.values_with(now), self.values_with(then));
        for name in THREADS {
            check_threads(name, &values_now, &values_then)?;
        }
        for (name, value) in changed {
            let name = name.as_str();
            match name.strip_prefix("listener.name.").and_then(|rest| rest.split_once('.')) {
                // Of a listener that is not there nobody knows what would be wrong.
                Some((listener, _)) if !self.listeners.iter().any(|l| l.name.to_ascii_lowercase() == listener) => {}
                Some((_, limit)) if LISTENER_LIMITS.contains(&limit) && value.trim().parse() == Ok(0) => {
                    return Err(format!("Invalid {limit} {value}"));
                }
                Some((_, "num.network.threads")) => {
                    let own = BTreeMap::from([("num.network.threads", value.as_str())]);
                    check_threads("num.network.threads", &values_now, &own)?;
                }
                _ => self.check_value(name, value)?,
            }
        }
        let config = self.with_dynamic(then);
        check_pairs(&values_then, &config)?;
        match conflicts(&config).into_iter().next() {
            Some(conflict) => Err(conflict),
            None => Ok(()),
        }
    }

    fn check_value(&self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "metric.reporters" => match list(value).into_iter().find(|class| *class != JMX_REPORTER) {
                Some(class) => Err(format!("Invalid dynamic configuration: class {class} could not be loaded")),
                None => Ok(()),
            },
            "cordoned.log.dirs" => {
                let is_known = |dir: &&str| self.log_dirs.contains(&PathBuf::from(dir));
                match list(value).into_iter().find(|dir| !is_known(dir)) {
                    Some(dir) => Err(format!("Invalid entry in {name}: {dir} is not one of log.dirs")),
                    None => Ok(()),
                }
            }
            // DIFFERS: Kafka opens and closes listeners while it runs. Here they are those of the file, and a change that
            // would do nothing is refused.
            "listeners" | "listener.security.protocol.map" => {
                let own = self.properties.get(name).map(String::as_str).or_else(|| broker_key(name)?.default_value());
                match list(own.unwrap_or_default()) == list(value) {
                    true => Ok(()),
                    false => Err(format!("{name} cannot change while the node runs; change its file and restart it")),
                }
            }
            "max.connections" | "max.connection.creation.rate" if value.trim().parse() == Ok(0) => {
                Err(format!("Invalid {name} {value}"))
            }
            _ => match broker_key(name) {
                Some(key) if key.config_type == ConfigType::Class && key.default_value() != Some(value.trim()) => {
                    Err(format!("Invalid value {value} for configuration {name}: Class {value} could not be found."))
                }
                _ => Ok(()),
            },
        }
    }
}

/// Local retention within that of the whole log; groups' intervals within their limits.
fn check_pairs(values: &BTreeMap<&str, &str>, then: &NodeConfig) -> Result<(), String> {
    let number = |name: &str| -> Option<i64> {
        values.get(name).copied().or_else(|| broker_key(name)?.default_value())?.trim().parse().ok()
    };
    for (local, whole) in
        [("log.local.retention.ms", then.log_retention_ms), ("log.local.retention.bytes", then.log_retention_bytes)]
    {
        // -2 is whatever holds for the whole.
        let is_beyond = number(local).is_some_and(|value| value != -2 && (value == -1 || value > whole));
        if whole != -1 && is_beyond {
            return Err(format!("{local} is more than what is kept at all, {whole}"));
        }
    }
    for kind in ["consumer", "share", "streams"] {
        let interval = number(&format!("group.{kind}.assignment.interval.ms"));
        let (least, most) = (
            number(&format!("group.{kind}.min.assignment.interval.ms")),
            number(&format!("group.{kind}.max.assignment.interval.ms")),
        );
        if interval < least || (most.is_some() && interval > most) {
            return Err(format!("group.{kind}.assignment.interval.ms is not between its minimum and its maximum"));
        }
    }
    Ok(())
}

fn check_threads(name: &str, now: &BTreeMap<&str, &str>, then: &BTreeMap<&str, &str>) -> Result<(), String> {
    let of = |values: &BTreeMap<&str, &str>| {
        let text = values.get(name).copied().or_else(|| broker_key(name)?.default_value());
        text.and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(1)
    };
    let (old, new) = (of(now), of(then));
    let failed = |why: String| Err(format!("Dynamic thread count update validation failed for {name}={new}, {why}"));
    match new {
        _ if new == old => Ok(()),
        ..=0 => failed("value should be at least 1".to_owned()),
        _ if new < old / 2 => failed(format!("value should be at least half the current value {old}")),
        _ if new > old * 2 => failed(format!("value should not be greater than double the current value {old}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(more: &str) -> NodeConfig {
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@h:9093\nlog.dirs=a\n\
             listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ncontroller.listener.names=CONTROLLER\n{more}"
        );
        NodeConfig::from_text(&text, "f", &[]).expect("valid").0
    }

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_strongest_layer_holds_and_hides_other_spellings() {
        let file = node("log.retention.hours=5\nmax.connections=7\nnum.partitions=3\n");
        let cluster = map(&[("max.connections", "8"), ("log.retention.ms", "1000"), ("num.partitions", "9")]);
        let own = map(&[("max.connections", "9"), ("log.roll.ms", "soon")]);
        let now = file.with_dynamic(DynamicConfigs { broker: Some(&own), cluster: Some(&cluster) });
        assert_eq!((now.max_connections, now.log_retention_ms), (9, 1000));
        // A key that may not change, and a value that is none.
        assert_eq!((now.num_partitions, now.log_roll_ms), (3, file.log_roll_ms));
        let now = file.with_dynamic(DynamicConfigs { broker: None, cluster: Some(&cluster) });
        assert_eq!(now.max_connections, 8);
        let now = file.with_dynamic(DynamicConfigs::default());
        assert_eq!((now.max_connections, now.log_retention_ms), (7, 5 * 3_600_000));
    }

    #[test]
    fn what_cannot_be_done_while_it_runs_is_refused() {
        let file = node("log.cleaner.threads=4\n");
        let now = DynamicConfigs::default();
        let may = |name: &str, value: &str| {
            let own = map(&[(name, value)]);
            file.check_change(now, DynamicConfigs { broker: Some(&own), cluster: None }, &own).is_ok()
        };
        assert!(may("log.cleaner.threads", "8") && may("log.cleaner.threads", "2"));
        assert!(!may("log.cleaner.threads", "9") && !may("log.cleaner.threads", "1"));
        assert!(may("cordoned.log.dirs", "a") && !may("cordoned.log.dirs", "b"));
        assert!(may("listeners", "PLAINTEXT://:9092, CONTROLLER://:9093") && !may("listeners", "PLAINTEXT://:9092"));
        assert!(may("metric.reporters", "") && !may("metric.reporters", "x.Y"));
        // Too little for each of the threads.
        assert!(!may("log.cleaner.dedupe.buffer.size", "4000000"));
        assert!(!may("log.retention.ms", "0") && may("log.retention.ms", "-1"));
    }
}
