//! `kafka-topics --describe`.

use std::collections::BTreeMap;
use std::fmt::Write;

use protocol::wire::Uuid;

use super::{Failure, ensure_exists, illegal, matching};
use crate::client::{Client, ConfigEntry, Moves, PartitionDescription, SOURCE_DEFAULT, TopicDescription, Topics};
use crate::java::hash_order;
use crate::jopt::Parsed;
use crate::terminal::Terminal;

const PAGE_LIMIT: i32 = 2000;

/// What to leave out.
struct Report {
    under_replicated: bool,
    under_min_isr: bool,
    at_min_isr: bool,
    unavailable: bool,
    overrides_only: bool,
}

impl Report {
    fn of(parsed: &Parsed) -> Report {
        Report {
            under_replicated: parsed.has("under-replicated-partitions"),
            under_min_isr: parsed.has("under-min-isr-partitions"),
            at_min_isr: parsed.has("at-min-isr-partitions"),
            unavailable: parsed.has("unavailable-partitions"),
            overrides_only: parsed.has("topics-with-overrides"),
        }
    }

    fn has_headers(&self) -> bool {
        !(self.under_replicated || self.under_min_isr || self.at_min_isr || self.unavailable)
    }

    fn shows(&self, partition: &PartitionDescription, moves: Option<&Moves>, min_isr: usize, live: &[i32]) -> bool {
        let isr = partition.isr.len();
        (self.has_headers() && !self.overrides_only)
            || (self.under_replicated && isr < replication_factor(partition, moves))
            || (self.under_min_isr && isr < min_isr)
            || (self.at_min_isr && isr == min_isr)
            || (self.unavailable && !live.contains(&partition.leader))
    }
}

pub fn run(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let names = match parsed.get("topic-id")? {
        Some(text) => by_id(text, parsed, client)?,
        None => {
            let names = matching(parsed, client)?;
            ensure_exists(&names, parsed)?;
            names
        }
    };
    if names.is_empty() {
        return Ok(());
    }
    let limit = parsed.number("partition-size-limit-per-response")?.unwrap_or(PAGE_LIMIT);
    // By id there is Metadata only, which does not know of eligible leader replicas.
    let mut topics = match parsed.has("topic-id") {
        true => client.describe_by_metadata(&names)?,
        false => client.describe_topics(&names, limit)?,
    };
    let configs = client.topic_configs(&names)?;
    let moves = client.reassignments()?;
    // A partition whose leader's broker is gone from the cluster is as good as without one.
    client.refresh("describeCluster", Topics::None, false)?;
    let live: Vec<i32> = client.metadata.brokers.keys().copied().collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    hash_order(&mut topics, |topic| &topic.name, true);
    let report = Report::of(parsed);
    let mut out = String::new();
    for topic in &topics {
        let configs = configs.get(&topic.name).map_or(&[] as &[ConfigEntry], Vec::as_slice);
        describe(&mut out, topic, configs, &moves, &report, &live);
    }
    let _ = terminal.out.write_all(out.as_bytes());
    Ok(())
}

fn by_id(text: &str, parsed: &Parsed, client: &mut Client) -> Result<Vec<String>, Failure> {
    let id = Uuid::parse(text).ok_or_else(|| illegal(format!("Input string `{text}` is no topic id")))?;
    client.topic_names()?;
    let found: Vec<String> =
        client.metadata.topics.iter().filter(|(_, topic)| topic.id == id).map(|(name, _)| name.clone()).collect();
    if found.is_empty() && !parsed.has("if-exists") {
        return Err(illegal(format!("TopicId '{text}' does not exist as expected")));
    }
    Ok(found)
}

/// Replicas that are being added do not count yet.
fn replication_factor(partition: &PartitionDescription, moves: Option<&Moves>) -> usize {
    partition.replicas.len() - moves.map_or(0, |moves| moves.adding.len()).min(partition.replicas.len())
}

fn describe(
    out: &mut String,
    topic: &TopicDescription,
    configs: &[ConfigEntry],
    moves: &BTreeMap<(String, i32), Moves>,
    report: &Report,
    live: &[i32],
) {
    let moves_of = |partition: i32| moves.get(&(topic.name.clone(), partition));
    let mut entries: Vec<&ConfigEntry> = configs.iter().collect();
    hash_order(&mut entries, |entry| &entry.name, false);
    let own: Vec<String> = entries
        .iter()
        .filter(|entry| entry.source != SOURCE_DEFAULT)
        .map(|entry| format!("{}={}", entry.name, entry.value.as_deref().unwrap_or("null")))
        .collect();
    if report.has_headers() && (!report.overrides_only || !own.is_empty()) {
        let _ = write!(out, "Topic: {}", topic.name);
        if !topic.id.is_zero() {
            let _ = write!(out, "\tTopicId: {}", topic.id);
        }
        let factor = topic.partitions.first().map_or(0, |first| replication_factor(first, moves_of(first.partition)));
        let _ = writeln!(
            out,
            "\tPartitionCount: {}\tReplicationFactor: {factor}\tConfigs: {}",
            topic.partitions.len(),
            own.join(",")
        );
    }
    let min_isr = configs
        .iter()
        .find(|entry| entry.name == "min.insync.replicas")
        .and_then(|entry| entry.value.as_ref()?.parse().ok())
        .unwrap_or(1);
    for partition in &topic.partitions {
        let moves = moves_of(partition.partition);
        if report.shows(partition, moves, min_isr, live) {
            partition_line(out, &topic.name, partition, moves);
        }
    }
}

fn partition_line(out: &mut String, topic: &str, partition: &PartitionDescription, moves: Option<&Moves>) {
    let leader = if partition.leader < 0 { "none".to_owned() } else { partition.leader.to_string() };
    let _ = write!(
        out,
        "\tTopic: {topic}\tPartition: {}\tLeader: {leader}\tReplicas: {}\tIsr: {}",
        partition.partition,
        ids(&partition.replicas),
        ids(&partition.isr)
    );
    if let Some(moves) = moves {
        let _ = write!(out, "\tAdding Replicas: {}\tRemoving Replicas: {}", ids(&moves.adding), ids(&moves.removing));
    }
    let or_unknown = |list: &Option<Vec<i32>>| list.as_ref().map_or_else(|| "N/A".to_owned(), |list| ids(list));
    let _ =
        writeln!(out, "\tElr: {}\tLastKnownElr: {}", or_unknown(&partition.elr), or_unknown(&partition.last_known_elr));
}

fn ids(list: &[i32]) -> String {
    list.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(i: i32, leader: i32, isr: &[i32]) -> PartitionDescription {
        PartitionDescription {
            partition: i,
            leader,
            leader_epoch: 0,
            replicas: vec![2, 3, 1],
            isr: isr.to_vec(),
            elr: Some(vec![]),
            last_known_elr: Some(vec![]),
        }
    }

    fn entry(name: &str, value: &str, source: i8) -> ConfigEntry {
        ConfigEntry { name: name.to_owned(), value: Some(value.to_owned()), source }
    }

    fn text(partitions: Vec<PartitionDescription>, report: &Report) -> String {
        let id = Uuid::parse("R3Ct2FISTByJPffB22W6yg").unwrap();
        let topic = TopicDescription { name: "t-part".to_owned(), id, internal: false, partitions };
        let configs =
            [entry("retention.ms", "1", 1), entry("min.insync.replicas", "2", 4), entry("segment.bytes", "9", 5)];
        let mut out = String::new();
        describe(&mut out, &topic, &configs, &BTreeMap::new(), report, &[1, 2, 3]);
        out
    }

    #[test]
    fn lines_of_a_topic() {
        let all = Report {
            under_replicated: false,
            under_min_isr: false,
            at_min_isr: false,
            unavailable: false,
            overrides_only: false,
        };
        let expected = "Topic: t-part\tTopicId: R3Ct2FISTByJPffB22W6yg\tPartitionCount: 1\tReplicationFactor: 3\t\
            Configs: min.insync.replicas=2,retention.ms=1\n\
            \tTopic: t-part\tPartition: 0\tLeader: none\tReplicas: 2,3,1\tIsr: 2,1\tElr: \tLastKnownElr: \n";
        assert_eq!(text(vec![partition(0, -1, &[2, 1])], &all), expected);
    }

    #[test]
    fn reports_show_only_what_matches() {
        let none = || Report {
            under_replicated: false,
            under_min_isr: false,
            at_min_isr: false,
            unavailable: false,
            overrides_only: false,
        };
        let partitions = || {
            vec![
                partition(0, 2, &[2, 3, 1]),
                partition(1, 2, &[2, 1]),
                partition(2, 2, &[2]),
                partition(3, 7, &[2, 3, 1]),
            ]
        };
        let shown = |report: &Report| -> Vec<String> {
            text(partitions(), report)
                .lines()
                .map(|line| line.split('\t').nth(2).unwrap_or("header").to_owned())
                .collect()
        };
        assert_eq!(shown(&Report { under_replicated: true, ..none() }), ["Partition: 1", "Partition: 2"]);
        assert_eq!(shown(&Report { under_min_isr: true, ..none() }), ["Partition: 2"]);
        assert_eq!(shown(&Report { at_min_isr: true, ..none() }), ["Partition: 1"]);
        assert_eq!(shown(&Report { unavailable: true, ..none() }), ["Partition: 3"]);
        assert_eq!(text(partitions(), &Report { overrides_only: true, ..none() }).lines().count(), 1);
    }
}
