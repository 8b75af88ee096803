//! A running cluster, as its own answers describe it.

use std::collections::BTreeMap;

use metadata::features::{self, METADATA_VERSION, MetadataVersion};

use crate::client::{Client, ClientError, Resource};
use crate::storage::check::Report;

/// What the plan needs to know.
pub struct Seen {
    pub id: String,
    pub brokers: Vec<i32>,
    pub voters: Vec<i32>,
    /// The active controller.
    pub leader: i32,
}

/// Kinds of groups that nobody would coordinate.
const WITHOUT_COORDINATOR: [(&str, &str); 2] = [
    ("share", "their consumers would stop, and their state would stay where it is"),
    ("streams", "their members would stop; applications that use the classic protocol go on"),
];

/// Keys whose value names something that only a JVM can load, or that only a JVM serves so far; with the values that are
/// harmless.
const KEYS: [(&str, &[&str], &str); 9] = [
    ("authorizer.class.name", &[""], "access would not be checked any more"),
    ("create.topic.policy.class.name", &[""], "topics would be created unchecked"),
    ("alter.config.policy.class.name", &[""], "configurations would be changed unchecked"),
    ("client.quota.callback.class", &[""], "quotas would be reckoned otherwise"),
    ("principal.builder.class", &["", PRINCIPALS], "clients would be known by other names"),
    ("replica.selector.class", &["", RACK_AWARE, LEADER_ONLY], "consumers would read from other replicas"),
    ("remote.log.storage.system.enable", &["", "false"], "records in remote storage could not be read"),
    ("metric.reporters", &["", JMX_REPORTER, OLD_JMX_REPORTER], "metrics would be found at /metrics only"),
    ("sasl.enabled.mechanisms", &["", "GSSAPI"], "clients could not authenticate"),
];
const PRINCIPALS: &str = "org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder";
const RACK_AWARE: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
const LEADER_ONLY: &str = "org.apache.kafka.common.replica.LeaderSelector";
const JMX_REPORTER: &str = "org.apache.kafka.common.metrics.JmxReporter";
const OLD_JMX_REPORTER: &str = "org.apache.kafka.server.metrics.JmxReporter";
/// Those of [`KEYS`] that lose nothing but comfort.
const COMFORTS: [&str; 3] = ["metric.reporters", "replica.selector.class", "client.quota.callback.class"];

pub fn look(client: &mut Client, report: &mut Report) -> Result<Seen, ClientError> {
    let cluster = client.describe_cluster(true)?;
    let live: Vec<i32> = cluster.nodes.iter().filter(|node| !node.fenced).map(|node| node.id).collect();
    let fenced: Vec<String> = cluster.nodes.iter().filter(|n| n.fenced).map(|n| n.id.to_string()).collect();
    report.ok("brokers", format!("{} alive", live.len()));
    if !fenced.is_empty() {
        report.note(
            "brokers",
            format!("{} not alive: bring them back before a living one is stopped", fenced.join(", ")),
        );
    }
    look_at_features(client, report)?;
    let quorum = client.describe_quorum()?;
    let lag = quorum.voters.iter().map(|voter| quorum.high_watermark - voter.log_end_offset).max().unwrap_or(0);
    let voters: Vec<i32> = quorum.voters.iter().map(|voter| voter.id).collect();
    report.ok("quorum", format!("voters {voters:?}, node {} leads, the slowest lags by {}", quorum.leader, lag.max(0)));
    if voters.len() < 3 {
        report.note("quorum", "with fewer than three voters it stands still while one of them is replaced");
    }
    look_at_topics(client, report)?;
    look_at_groups(client, report)?;
    for id in &live {
        look_at_keys(client, *id, report)?;
    }
    Ok(Seen { id: cluster.id, brokers: live, voters, leader: quorum.leader })
}

/// A node that is to join has to know every finalized level.
fn look_at_features(client: &mut Client, report: &mut Report) -> Result<(), ClientError> {
    let levels = client.describe_features(None)?;
    if !levels.finalized.contains_key(METADATA_VERSION) {
        report.refuse(METADATA_VERSION, "is not finalized: a cluster on ZooKeeper has to be migrated to KRaft first");
    }
    for (name, level) in levels.finalized {
        let shown = match name.as_str() {
            METADATA_VERSION => format!("{level} ({})", MetadataVersion(level).name()),
            _ => level.to_string(),
        };
        match features::find(&name) {
            Some(range) if (range.min..=range.max).contains(&level) => report.ok(name, shown),
            Some(range) => report.refuse(name, format!("{shown}; known are {} to {}", range.min, range.max)),
            None => report.refuse(name, format!("level {level} of a feature that is not known")),
        }
    }
    Ok(())
}

fn look_at_topics(client: &mut Client, report: &mut Report) -> Result<(), ClientError> {
    let names: Vec<String> = client.topic_names()?.into_keys().collect();
    let topics = client.describe_topics(&names, 2_000)?;
    let (mut partitions, mut alone, mut thin) = (0, 0, 0);
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        partitions += 1;
        alone += usize::from(partition.replicas.len() == 1);
        thin += usize::from(partition.isr.len() < partition.replicas.len());
    }
    report.ok("topics", format!("{} with {partitions} partitions", topics.len()));
    if thin > 0 {
        report.refuse("replicas", format!("{thin} partitions are under-replicated: let them catch up first"));
    }
    if alone > 0 {
        report.note(
            "replicas",
            format!("{alone} partitions have one replica: they are away while their node is replaced"),
        );
    }
    let configs = client.topic_configs(&names)?;
    for (topic, entries) in configs {
        let is_tiered = |entry: &crate::client::ConfigEntry| {
            entry.name == "remote.storage.enable" && entry.value.as_deref() == Some("true")
        };
        if entries.iter().any(is_tiered) {
            report.refuse(topic, "has remote.storage.enable=true: records in remote storage could not be read");
        }
    }
    Ok(())
}

fn look_at_groups(client: &mut Client, report: &mut Report) -> Result<(), ClientError> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for group in client.list_groups(&[], &[])? {
        *kinds.entry(group.kind.to_lowercase()).or_default() += 1;
    }
    for (kind, count) in kinds {
        match WITHOUT_COORDINATOR.iter().find(|(name, _)| *name == kind) {
            Some((_, consequence)) => report.refuse(format!("{kind} groups"), format!("{count}: {consequence}")),
            None => report.ok(format!("{kind} groups"), count.to_string()),
        }
    }
    Ok(())
}

fn look_at_keys(client: &mut Client, broker: i32, report: &mut Report) -> Result<(), ClientError> {
    let resource = Resource { kind: Resource::BROKER, name: broker.to_string() };
    let configs = client.describe_configs(&resource)?;
    let value = |key: &str| configs.iter().find(|c| c.name == key).and_then(|c| c.value.as_deref()).unwrap_or_default();
    for (key, harmless, consequence) in KEYS {
        let set = value(key).trim();
        let protocols = value("listener.security.protocol.map");
        let is_moot = key == "sasl.enabled.mechanisms" && !protocols.contains("SASL_");
        if is_moot || harmless.contains(&set) {
            continue;
        }
        let (what, detail) = (format!("broker {broker}"), format!("{key}={set}: {consequence}"));
        match COMFORTS.contains(&key) {
            true => report.note(what, detail),
            false => report.refuse(what, detail),
        }
    }
    for listener in protected_listeners(value("listeners"), value("listener.security.protocol.map")) {
        let detail = format!("listener {listener}: only plain connections are offered so far");
        report.refuse(format!("broker {broker}"), detail);
    }
    Ok(())
}

/// `NAME=PROTOCOL` of listeners whose protocol is not PLAINTEXT. A controllers' listener that is in no map is plain.
fn protected_listeners(listeners: &str, protocols: &str) -> Vec<String> {
    let protocols: BTreeMap<&str, &str> = protocols.split(',').filter_map(|p| p.trim().split_once(':')).collect();
    let names = listeners.split(',').filter_map(|listener| Some(listener.trim().split_once("://")?.0));
    let protected = names.filter_map(|name| {
        let protocol = *protocols.get(name)?;
        (protocol != "PLAINTEXT").then(|| format!("{name}={protocol}"))
    });
    protected.collect()
}

#[cfg(test)]
mod tests {
    use super::protected_listeners;

    #[test]
    fn what_is_protected_is_seen() {
        let map = "PLAINTEXT:PLAINTEXT,IN:SASL_SSL,SSL:SSL";
        let found = protected_listeners("PLAINTEXT://:9092,IN://:9094,SSL://:9095,C://:9093", map);
        assert_eq!(found, ["IN=SASL_SSL", "SSL=SSL"]);
    }
}
