//! `--reset-offsets`: where a group without members shall go on, planned, exported or committed.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;

use super::{Failure, group_error, partitions_of};
use crate::client::consumer::{EARLIEST, LATEST, TopicPartition};
use crate::client::groups::Committer;
use crate::client::{Client, ClientError, Topics};
use crate::dates;
use crate::java::{hash_order, partition_order};
use crate::jopt::{Parsed, Stop};
use crate::terminal::{Terminal, wall_ms};

const CLASS: &str = "org.apache.kafka.tools.OffsetsUtils";
const UNKNOWN_TOPIC: &str = "This server does not host this topic-partition.";

/// In the order in which Kafka's tool names them when none is given.
pub const SCENARIOS: &[&str] =
    &["from-file", "shift-by", "to-offset", "to-earliest", "to-current", "to-latest", "by-duration", "to-datetime"];

const NO_ACTION: &str = "WARN: No action will be performed as the --execute option is missing. In version 5.0, this \
                         command will require either --dry-run or --execute to be specified. You should add the \
                         --dry-run option explicitly if you are scripting this command and want to keep the current \
                         default behavior without prompting.";

/// New offsets of one group; in the order in which they are shown.
type Plan = Vec<(TopicPartition, i64)>;

pub fn check(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), Stop> {
    if parsed.has("dry-run") && parsed.has("execute") {
        let text = "Option [reset-offsets] only accepts one of [execute] and [dry-run]";
        return Err(Stop::Usage(text.to_owned()));
    }
    if !parsed.has("dry-run") && !parsed.has("execute") {
        terminal.error(NO_ACTION);
    }
    if !parsed.has("group") && !parsed.has("all-groups") {
        let text = "Option [reset-offsets] takes one of these options: [group], [all-groups]";
        return Err(Stop::Usage(text.to_owned()));
    }
    for scenario in SCENARIOS {
        let others: Vec<&str> = SCENARIOS.iter().copied().filter(|other| other != scenario).collect();
        parsed.exclude(scenario, &others)?;
    }
    for name in ["to-offset", "shift-by"] {
        parsed.number::<i64>(name)?;
    }
    Ok(())
}

pub fn run(
    parsed: &Parsed,
    groups: &[String],
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let mut plans: Vec<(String, Plan)> = Vec::new();
    for group in groups {
        if plans.iter().any(|(known, _)| known == group) {
            continue;
        }
        let state = match client.describe_group(group) {
            Ok(described) => described.state,
            Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => "Dead".to_owned(),
            Err(error) => return Err(Failure::nested(error)),
        };
        let plan = match state.as_str() {
            "Empty" | "Dead" => reset(parsed, group, client, terminal)?,
            _ => {
                group_error(
                    &format!(
                        "Assignments can only be reset if the group '{group}' is inactive, but the current state is \
                         {state}."
                    ),
                    terminal,
                );
                vec![]
            }
        };
        plans.push((group.clone(), plan));
    }
    hash_order(&mut plans, |(group, _)| group, false);
    if parsed.has("export") {
        terminal.line(csv(&plans, parsed.all("group").len() == 1));
    } else {
        print(&plans, terminal);
    }
    Ok(())
}

/// Plans, and commits unless it is a dry run.
fn reset(parsed: &Parsed, group: &str, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<Plan, Failure> {
    let partitions = scope(parsed, group, client)?;
    let mut plan = plan(parsed, group, &partitions, client, terminal)?;
    partition_order(&mut plan, |((topic, partition), _)| (topic, *partition));
    if parsed.has("execute") && !plan.is_empty() {
        let offsets: BTreeMap<TopicPartition, i64> = plan.iter().cloned().collect();
        let results = client.commit(group, &Committer::default(), &offsets).map_err(Failure::plain)?;
        let failed: Vec<String> = results
            .iter()
            .filter(|(_, result)| result.is_err())
            .map(|(key, _)| format!("{}-{}", key.0, key.1))
            .collect();
        if let Some(code) = results.values().find_map(|result| result.as_ref().err()?.code()) {
            let list = failed.join(", ");
            let text = format!("Failed altering consumer group offsets for the following partitions: [{list}]");
            return Err(Failure::plain(ClientError::Server { code, message: text }));
        }
    }
    Ok(plan)
}

/// Which partitions are meant.
fn scope(parsed: &Parsed, group: &str, client: &mut Client) -> Result<Vec<TopicPartition>, Failure> {
    if parsed.has("all-topics") {
        return Ok(client.committed(group, None).map_err(Failure::nested)?.into_keys().collect());
    }
    if !parsed.has("topic") && !parsed.has("from-file") {
        let text = "One of the reset scopes should be defined: --all-topics, --topic.";
        return Err(Failure::Usage(text.to_owned()));
    }
    let mut out = Vec::new();
    for text in parsed.all("topic") {
        match partitions_of(text).map_err(Failure::of_stop)? {
            (topic, Some(partitions)) => out.extend(partitions.into_iter().map(|p| (topic.to_owned(), p))),
            (topic, None) => {
                let known = existing(topic, client).map_err(Failure::plain)?;
                out.extend(known.into_iter().map(|partition| (topic.to_owned(), partition)));
            }
        }
    }
    out.sort();
    out.dedup();
    Ok(out)
}

/// A topic's partitions; a topic that is not there is an error.
pub fn existing(topic: &str, client: &mut Client) -> Result<Vec<i32>, ClientError> {
    client.refresh("describeTopics", Topics::Named(&[topic]), false)?;
    match client.metadata.topics.get(topic) {
        Some(found) if found.error == ErrorCode::None => Ok(found.partitions.keys().copied().collect()),
        Some(found) => {
            let text = if found.error == ErrorCode::UnknownTopicOrPartition { Some(UNKNOWN_TOPIC) } else { None };
            Err(ClientError::server(found.error, text))
        }
        None => Err(ClientError::server(ErrorCode::UnknownTopicOrPartition, Some(UNKNOWN_TOPIC))),
    }
}

/// Every partition has to exist and to have a leader before anything is changed.
fn all_valid(partitions: &[TopicPartition], client: &mut Client) -> Result<(), Failure> {
    let mut topics: Vec<&str> = partitions.iter().map(|(topic, _)| topic.as_str()).collect();
    topics.dedup();
    let mut known = BTreeMap::new();
    for topic in topics {
        known.insert(topic, existing(topic, client).map_err(Failure::nested)?);
    }
    let list = |wrong: Vec<&TopicPartition>| -> Option<String> {
        let names: Vec<String> = wrong.into_iter().map(|(topic, partition)| format!("{topic}-{partition}")).collect();
        (!names.is_empty()).then(|| names.join(","))
    };
    let missing = partitions.iter().filter(|(topic, p)| known.get(topic.as_str()).is_none_or(|all| !all.contains(p)));
    if let Some(list) = list(missing.collect()) {
        let message = format!("The partitions \"{list}\" do not exist");
        return Err(Failure::plain(ClientError::Server { code: ErrorCode::UnknownTopicOrPartition, message }));
    }
    let leaderless = partitions.iter().filter(|(topic, p)| client.metadata.leader(topic, *p).is_none());
    if let Some(list) = list(leaderless.collect()) {
        let message = format!("The partitions \"{list}\" have no leader");
        return Err(Failure::plain(ClientError::Server { code: ErrorCode::LeaderNotAvailable, message }));
    }
    Ok(())
}

fn plan(
    parsed: &Parsed,
    group: &str,
    partitions: &[TopicPartition],
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<Plan, Failure> {
    all_valid(partitions, client)?;
    let of_stop = Failure::of_stop;
    if let Some(offset) = parsed.number::<i64>("to-offset").map_err(of_stop)? {
        let wanted = partitions.iter().map(|key| (key.clone(), offset)).collect();
        return in_range(wanted, client, terminal);
    }
    if parsed.has("to-earliest") {
        return offsets(partitions, EARLIEST, client);
    }
    if parsed.has("to-latest") {
        return offsets(partitions, LATEST, client);
    }
    if let Some(by) = parsed.number::<i64>("shift-by").map_err(of_stop)? {
        let committed = client.committed(group, None).map_err(Failure::nested)?;
        let mut wanted = Vec::new();
        for key in partitions {
            let Some(found) = committed.get(key) else {
                return Err(Failure::Usage(format!(
                    "Cannot shift offset for partition {}-{} since there is no current committed offset",
                    key.0, key.1
                )));
            };
            wanted.push((key.clone(), found.offset.saturating_add(by)));
        }
        return in_range(wanted, client, terminal);
    }
    if let Some(text) = parsed.get("to-datetime").map_err(of_stop)? {
        let failed = |why| Failure::Failed(format!("java.text.ParseException: {why}"), None);
        return at_time(partitions, dates::parse_moment(text).map_err(failed)?, client, terminal);
    }
    if let Some(text) = parsed.get("by-duration").map_err(of_stop)? {
        let by = dates::parse_duration_ms(text)
            .ok_or_else(|| Failure::Failed("Text cannot be parsed to a Duration".to_owned(), None))?;
        return at_time(partitions, wall_ms().saturating_sub(by), client, terminal);
    }
    if let Some(path) = parsed.get("from-file").map_err(of_stop)? {
        let all = from_file(path, parsed.all("group"))?;
        let Some(wanted) = all.get(group) else {
            group_error(&format!("No reset plan for group {group} found"), terminal);
            return Ok(vec![]);
        };
        return in_range(wanted.clone(), client, terminal);
    }
    if parsed.has("to-current") {
        let committed = client.committed(group, None).map_err(Failure::nested)?;
        let (with, without): (Vec<_>, Vec<_>) = partitions.iter().cloned().partition(|key| committed.contains_key(key));
        let mut plan: Plan = with.into_iter().map(|key| (key.clone(), committed[&key].offset)).collect();
        plan.extend(offsets(&without, LATEST, client)?);
        return Ok(plan);
    }
    let all: Vec<String> = SCENARIOS.iter().map(|name| format!("[{name}]")).collect();
    let text = format!("Option '[reset-offsets]' requires one of the following scenarios: [{}]", all.join(", "));
    Err(Failure::Usage(text))
}

fn offsets(partitions: &[TopicPartition], timestamp: i64, client: &mut Client) -> Result<Plan, Failure> {
    let wanted: Vec<(TopicPartition, i64)> = partitions.iter().map(|key| (key.clone(), timestamp)).collect();
    let mut out = Vec::new();
    for (key, result) in client.offsets(&wanted, false) {
        out.push((key, result.map_err(Failure::nested)?.offset));
    }
    Ok(out)
}

/// The first record not before that moment; partitions without one go to their end.
fn at_time(
    partitions: &[TopicPartition],
    timestamp: i64,
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<Plan, Failure> {
    let found = offsets(partitions, timestamp, client)?;
    let (mut plan, mut later): (Plan, Plan) = found.into_iter().partition(|(_, offset)| *offset >= 0);
    partition_order(&mut later, |((topic, partition), _)| (topic, *partition));
    for ((topic, partition), _) in &later {
        terminal.line(format_args!(
            "\nWarn: Partition {partition} from topic {topic} is empty. Falling back to latest known offset."
        ));
    }
    let later: Vec<TopicPartition> = later.into_iter().map(|(key, _)| key).collect();
    plan.extend(offsets(&later, LATEST, client)?);
    Ok(plan)
}

/// An offset that does not exist becomes the nearest one that does.
fn in_range(mut wanted: Plan, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<Plan, Failure> {
    partition_order(&mut wanted, |((topic, partition), _)| (topic, *partition));
    let keys: Vec<TopicPartition> = wanted.iter().map(|(key, _)| key.clone()).collect();
    for key in &keys {
        // A plan from a file names topics that nobody has asked for yet.
        if client.metadata.partition(&key.0, key.1).is_none() {
            client.refresh("describeTopics", Topics::Named(&[key.0.as_str()]), false).map_err(Failure::nested)?;
        }
    }
    let first: BTreeMap<TopicPartition, i64> = offsets(&keys, EARLIEST, client)?.into_iter().collect();
    let end: BTreeMap<TopicPartition, i64> = offsets(&keys, LATEST, client)?.into_iter().collect();
    let mut out = Vec::new();
    for (key, offset) in wanted {
        let (first, end) = (first.get(&key).copied().unwrap_or(0), end.get(&key).copied().unwrap_or(i64::MAX));
        let (side, name, nearest) = match offset {
            _ if offset > end => ("higher", "latest", end),
            _ if offset < first => ("lower", "earliest", first),
            _ => {
                out.push((key, offset));
                continue;
            }
        };
        let text = format!(
            "New offset ({offset}) is {side} than {name} offset for topic partition {}-{}. Value will be set to {nearest}",
            key.0, key.1
        );
        terminal.log("WARN", &text, CLASS);
        out.push((key, nearest));
    }
    Ok(out)
}

/// Lines `topic,partition,offset` of the one group that is given, or `group,topic,partition,offset`.
fn from_file(path: &str, groups: &[String]) -> Result<BTreeMap<String, Plan>, Failure> {
    let failed = |text: String| {
        let exception = format!("java.lang.RuntimeException: {text}");
        Failure::Failed(text, Some(exception))
    };
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed(format!("java.io.IOException: Unable to read file {path}")),
        _ => failed(format!("java.io.IOException: {path}: {error}")),
    })?;
    parse_plan(&text, groups).map_err(failed)
}

fn parse_plan(text: &str, groups: &[String]) -> Result<BTreeMap<String, Plan>, String> {
    let mut out: BTreeMap<String, Plan> = BTreeMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let cells: Vec<String> = line.split(',').map(|cell| cell.trim().trim_matches('"').to_owned()).collect();
        let (group, rest) = match (&cells[..], groups) {
            ([topic, partition, offset], [group]) => (group.clone(), [topic, partition, offset]),
            ([group, topic, partition, offset], _) => (group.clone(), [topic, partition, offset]),
            _ => return Err(format!("line {} of the plan is not topic,partition,offset: {line}", i + 1)),
        };
        let [topic, partition, offset] = rest;
        let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse()) else {
            return Err(format!("line {} of the plan has a partition or an offset that is no number: {line}", i + 1));
        };
        let plan = out.entry(group).or_default();
        plan.retain(|(key, _)| (key.0.as_str(), key.1) != (topic.as_str(), partition));
        plan.push(((topic.clone(), partition), offset));
    }
    Ok(out)
}

/// What `--from-file` reads again.
fn csv(plans: &[(String, Plan)], one_group: bool) -> String {
    let mut out = String::new();
    for (group, plan) in plans {
        for ((topic, partition), offset) in plan {
            if !one_group {
                out.push_str(&format!("{},", csv_cell(group)));
            }
            out.push_str(&format!("{topic},{partition},{offset}\n"));
        }
    }
    out
}

/// A group may be called anything; a topic has no character that needs quotes.
fn csv_cell(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/');
    if text.chars().all(plain) { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

fn print(plans: &[(String, Plan)], terminal: &mut Terminal<'_>) {
    let wide = plans.iter().map(|(group, _)| group.len()).max().unwrap_or_default().max(15);
    let topics = plans.iter().flat_map(|(_, plan)| plan.iter().map(|((topic, _), _)| topic.len()));
    let wider = topics.max().unwrap_or_default().max(15);
    let mut out = String::new();
    if !plans.is_empty() {
        out.push_str(&format!("\n{:wide$} {:wider$} {:10} NEW-OFFSET", "GROUP", "TOPIC", "PARTITION"));
    }
    for (group, plan) in plans {
        for ((topic, partition), offset) in plan {
            out.push_str(&format!("\n{group:wide$} {topic:wider$} {partition:<10} {offset}"));
        }
    }
    terminal.line(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, groups: &[&str]) -> Result<BTreeMap<String, Plan>, String> {
        parse_plan(text, &groups.iter().map(|group| (*group).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_exported_is_read_again() {
        let one: Vec<(String, Plan)> = vec![("g".into(), vec![(("t".into(), 3), 1), (("t".into(), 0), 7)])];
        assert_eq!(csv(&one, true), "t,3,1\nt,0,7\n");
        assert_eq!(plan(&csv(&one, true), &["g"]).unwrap()["g"], one[0].1);
        assert_eq!(csv(&one, false), "g,t,3,1\ng,t,0,7\n");
        assert_eq!(plan(&csv(&one, false), &["g"]).unwrap()["g"], one[0].1);
        assert_eq!(plan(&csv(&one, false), &[]).unwrap()["g"], one[0].1);
        assert!(plan("t,0,1\n", &["g", "h"]).is_err() && plan("t,x,1\n", &["g"]).is_err());
        assert_eq!(csv_cell("a b"), "\"a b\"");
    }

    #[test]
    fn a_recorded_table() {
        let zero = |partition| (("t-one".to_owned(), partition), 0);
        let mut rows: Plan = (0..4).map(zero).collect();
        partition_order(&mut rows, |((topic, partition), _)| (topic, *partition));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        print(&[("g-cli".to_owned(), rows)], &mut Terminal { out: &mut out, err: &mut err });
        let text = String::from_utf8(out).unwrap();
        assert!(include_str!("../../tests/golden/consumer-groups-reset-dry-run.txt").contains(&text), "{text}");
    }
}
