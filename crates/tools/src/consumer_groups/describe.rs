//! `--describe`: offsets and lag, members, or the state of groups. Every line is preceded by its newline, as in Kafka.

use std::collections::BTreeMap;

use crate::client::consumer::{LATEST, TopicPartition};
use crate::client::groups::{Committed, GroupDescription, GroupMember};
use crate::client::{Client, ClientError, Topics};
use crate::jopt::Parsed;
use crate::terminal::Terminal;

const MISSING: &str = "-";

pub fn run(
    parsed: &Parsed,
    groups: &[String],
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<(), ClientError> {
    let mut described = BTreeMap::new();
    for group in groups {
        described.insert(group.clone(), client.describe_group(group)?);
    }
    let verbose = parsed.has("verbose");
    for group in described.values() {
        if parsed.has("members") {
            note(group, terminal);
            members(group, verbose, terminal);
        } else if parsed.has("state") {
            if note(group, terminal) {
                state(group, verbose, client, terminal);
            }
        } else {
            let rows = offsets(group, verbose, client)?;
            if note(group, terminal) && rows.len() > 1 {
                table(&rows, &[15, 15, 10], verbose, terminal);
            }
        }
    }
    Ok(())
}

/// Says what is special about the group's state; false if there is no such group.
fn note(group: &GroupDescription, terminal: &mut Terminal<'_>) -> bool {
    let id = &group.group_id;
    match group.state.as_str() {
        "Dead" => terminal.line(format_args!("\nError: Consumer group '{id}' does not exist.")),
        "Empty" => terminal.error(format_args!("\nConsumer group '{id}' has no active members.")),
        "Stable" => {}
        _ => terminal.error(format_args!("\nWarning: Consumer group '{id}' is rebalancing.")),
    }
    group.state != "Dead"
}

fn or_missing(value: Option<impl ToString>) -> String {
    value.map_or(MISSING.to_owned(), |value| value.to_string())
}

/// The header and the rows: those of members, the one with the most partitions first, then those that nobody reads.
fn offsets(group: &GroupDescription, verbose: bool, client: &mut Client) -> Result<Vec<Vec<String>>, ClientError> {
    let committed = client.committed(&group.group_id, None)?;
    let mut members: Vec<&GroupMember> = group.members.iter().filter(|m| !m.assignment.is_empty()).collect();
    members.sort_by_key(|member| std::cmp::Reverse(member.assignment.len()));
    let mut wanted: Vec<(TopicPartition, Option<&GroupMember>)> = vec![];
    for member in members {
        let mut keys = member.assignment.clone();
        keys.sort();
        wanted.extend(keys.into_iter().map(|key| (key, Some(member))));
    }
    let unread: Vec<_> = committed.keys().filter(|key| !wanted.iter().any(|(other, _)| other == *key)).collect();
    let unread: Vec<_> = unread.into_iter().map(|key| (key.clone(), None)).collect();
    wanted.extend(unread);
    let ends = ends(&wanted, client)?;
    let mut header = vec![
        "GROUP",
        "TOPIC",
        "PARTITION",
        "CURRENT-OFFSET",
        "LOG-END-OFFSET",
        "LAG",
        "CONSUMER-ID",
        "HOST",
        "CLIENT-ID",
    ];
    if verbose {
        header.insert(3, "LEADER-EPOCH");
    }
    let mut rows = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for (key, member) in &wanted {
        let found: Option<&Committed> = committed.get(key);
        let end = ends.get(key);
        let lag = found.zip(end).map(|(found, end)| end - found.offset);
        let mut row = vec![group.group_id.clone(), key.0.clone(), key.1.to_string()];
        if verbose {
            row.push(or_missing(found.map(|found| found.leader_epoch).filter(|epoch| *epoch >= 0)));
        }
        row.extend([or_missing(found.map(|found| found.offset)), or_missing(end), or_missing(lag)]);
        row.extend([
            or_missing(member.map(|m| &m.member_id)),
            or_missing(member.map(|m| &m.host)),
            or_missing(member.map(|m| &m.client_id)),
        ]);
        rows.push(row);
    }
    Ok(rows)
}

/// Log end offsets of the partitions that have a leader.
fn ends(
    wanted: &[(TopicPartition, Option<&GroupMember>)],
    client: &mut Client,
) -> Result<BTreeMap<TopicPartition, i64>, ClientError> {
    let mut names: Vec<&str> = wanted.iter().map(|(key, _)| key.0.as_str()).collect();
    names.dedup();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    client.refresh("describeTopics", Topics::Named(&names), false)?;
    let led = wanted.iter().filter(|(key, _)| client.metadata.leader(&key.0, key.1).is_some());
    let asked: Vec<(TopicPartition, i64)> = led.map(|(key, _)| (key.clone(), LATEST)).collect();
    let found = client.offsets(&asked, false);
    Ok(found.into_iter().filter_map(|(key, result)| Some((key, result.ok()?.offset))).collect())
}

/// Columns as wide as their longest value where Kafka's are, 15 otherwise; the last is not padded.
fn table(rows: &[Vec<String>], first: &[usize], verbose: bool, terminal: &mut Terminal<'_>) {
    let columns = rows[0].len();
    let fixed = if verbose { 3..7 } else { 3..6 };
    let mut out = String::new();
    let width = |column: usize| match column {
        2 => first[2],
        column if fixed.contains(&column) => 15,
        column => rows.iter().map(|row| row[column].len()).max().unwrap_or_default().max(15),
    };
    for row in rows {
        let cells = row.iter().enumerate().map(|(i, cell)| match i + 1 == columns {
            true => cell.clone(),
            false => format!("{cell:w$}", w = width(i)),
        });
        out.push_str(&format!("\n{}", cells.collect::<Vec<_>>().join(" ")));
    }
    terminal.line(out);
}

/// `topic:0,1;other:0`.
fn assignment_text(partitions: &[TopicPartition]) -> String {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    let topic = |(topic, mut partitions): (&str, Vec<i32>)| {
        partitions.sort_unstable();
        let list: Vec<String> = partitions.iter().map(i32::to_string).collect();
        format!("{topic}:{}", list.join(","))
    };
    let text = topics.into_iter().map(topic).collect::<Vec<_>>().join(";");
    if text.is_empty() { MISSING.to_owned() } else { text }
}

fn members(group: &GroupDescription, verbose: bool, terminal: &mut Terminal<'_>) {
    let with_instance = group.members.iter().any(|member| member.instance_id.is_some());
    let mut header = vec!["GROUP", "CONSUMER-ID", "HOST", "CLIENT-ID", "#PARTITIONS"];
    let mut least = vec![15, 15, 15, 15, 15];
    if with_instance {
        header.insert(2, "GROUP-INSTANCE-ID");
        least.insert(2, 17);
    }
    // A group on its way from one protocol to the other says of each member which one it speaks.
    let speaks = |new: bool| group.members.iter().any(|member| member.upgraded == Some(new));
    let on_the_way = speaks(true) && speaks(false);
    if verbose {
        header.extend(["CURRENT-EPOCH", "CURRENT-ASSIGNMENT", "TARGET-EPOCH", "TARGET-ASSIGNMENT"]);
        least.extend([15, 20, 15, 20]);
        if on_the_way {
            header.push("UPGRADED");
            least.push(0);
        }
    }
    let mut rows = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for member in &group.members {
        let mut row = vec![group.group_id.clone(), member.member_id.clone()];
        if with_instance {
            row.push(member.instance_id.clone().unwrap_or_default());
        }
        row.extend([member.host.clone(), member.client_id.clone(), member.assignment.len().to_string()]);
        if verbose {
            row.extend([or_missing(member.epoch), assignment_text(&member.assignment)]);
            row.extend([or_missing(group.assignment_epoch), assignment_text(&member.target)]);
            if on_the_way {
                row.push(or_missing(member.upgraded));
            }
        }
        rows.push(row);
    }
    let widths: Vec<usize> = (0..least.len())
        .map(|i| rows.iter().skip(1).map(|row| row[i].len()).max().unwrap_or_default().max(least[i]))
        .collect();
    terminal.line("");
    for row in &rows {
        let last = if verbose && on_the_way { row.len() - 1 } else { row.len() };
        let cell =
            |(i, cell): (usize, &String)| if i == last { cell.clone() } else { format!("{cell:w$}", w = widths[i]) };
        let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
        let end = if verbose { "" } else { " " };
        terminal.line(format_args!("{}{end}", cells.join(" ")));
    }
}

fn state(group: &GroupDescription, verbose: bool, client: &Client, terminal: &mut Terminal<'_>) {
    let address = client.metadata.brokers.get(&group.coordinator).map(|broker| broker.address.to_string());
    let coordinator = format!("{}  ({})", or_missing(address), group.coordinator);
    let (wide, wider) = (group.group_id.len().max(15), coordinator.len().max(25));
    let assignor = if group.assignor.is_empty() { MISSING } else { &group.assignor };
    let count = group.members.len().to_string();
    let (epoch, target) = (or_missing(group.group_epoch), or_missing(group.assignment_epoch));
    let mut row = |cells: [&str; 7]| {
        let [id, at, assignor, state, epoch, target, count] = cells;
        let more = if verbose { format!("{epoch:15} {target:25} ") } else { String::new() };
        let _ = write!(terminal.out, "\n{id:wide$} {at:wider$} {assignor:20} {state:20} {more}{count}");
    };
    let names = ["GROUP", "COORDINATOR (ID)", "ASSIGNMENT-STRATEGY", "STATE", "GROUP-EPOCH"];
    let [a, b, c, d, e] = names;
    row([a, b, c, d, e, "TARGET-ASSIGNMENT-EPOCH", "#MEMBERS"]);
    row([&group.group_id, &coordinator, assignor, &group.state, &epoch, &target, &count]);
    terminal.line("");
}
