//! `kafka-consumer-groups`: lists, describes and deletes groups of consumers, and deletes offsets.
//!
//! As in Kafka, a failure that the cluster reports is printed on stdout and the exit code stays 0.

mod describe;

use std::time::Duration;

use crate::client::consumer::TopicPartition;
use crate::client::groups::GroupListing;
use crate::client::{Client, ClientError, Topics};
use crate::groups::{capital, connect};
use crate::java::hash_order;
use crate::jopt::{Parsed, Stop, Usage, flag, optional, value};
use crate::terminal::Terminal;

const ACTIONS: &[&str] = &["list", "describe", "delete", "delete-offsets"];

const USAGE: Usage = Usage {
    about: "Lists, describes and deletes groups of consumers, and deletes their offsets.",
    examples: &[
        "zwirn consumer-groups --bootstrap-server localhost:9092 --list",
        "zwirn consumer-groups --bootstrap-server localhost:9092 --describe --group billing",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("command-config", "Properties file for the client."),
        value("timeout", "Milliseconds that a call may take (30000)."),
        flag("list", "List groups, one name per line."),
        flag("describe", "Show offsets and lag, or what --members or --state asks for."),
        flag("delete", "Delete groups without members."),
        flag("delete-offsets", "Forget a group's offsets of --topic."),
        value("group", "The group; may be repeated."),
        flag("all-groups", "All groups."),
        value("topic", "With --delete-offsets: topic, or topic:0,1 for some partitions; may be repeated."),
        flag("offsets", "With --describe: offsets and lag (default)."),
        flag("members", "With --describe: members."),
        optional("state", "With --describe: the group's state. With --list: show states, or only those given."),
        optional("type", "With --list: show types, or only those given (classic, consumer)."),
        flag("verbose", "With --describe: more columns."),
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match USAGE.parse_with_help(args, terminal).and_then(|parsed| check(&parsed).map(|()| parsed)) {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    let result = connect(&parsed).and_then(|mut client| {
        let timeout_ms: Option<u64> = parsed.number("timeout")?;
        client.settings.api_timeout = Duration::from_millis(timeout_ms.unwrap_or(30_000));
        Ok(client)
    });
    let mut client = match result {
        Ok(client) => client,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    if let Err(error) = run(&parsed, &mut client, terminal) {
        let exception = error.exception();
        terminal.line(format_args!("\nError: Executing consumer group command failed due to {exception}"));
        terminal.error(format_args!("java.util.concurrent.ExecutionException: {exception}"));
    }
    0
}

fn check(parsed: &Parsed) -> Result<(), Stop> {
    parsed.require(&["bootstrap-server"])?;
    if ACTIONS.iter().filter(|action| parsed.has(action)).count() != 1 {
        let all: Vec<String> = ACTIONS.iter().map(|action| format!("--{action}")).collect();
        return Err(Stop::Usage(format!("Command must include exactly one action: {}", all.join(", "))));
    }
    for action in ["describe", "delete"] {
        if parsed.has(action) && !parsed.has("group") && !parsed.has("all-groups") {
            return Err(Stop::Usage(format!("Option [{action}] takes one of these options: [group], [all-groups]")));
        }
    }
    let views = ["members", "offsets", "state"].iter().filter(|view| parsed.has(view)).count();
    if parsed.has("describe") && views > 1 {
        let text = "Option [describe] takes at most one of these options: [members], [offsets], [state]";
        return Err(Stop::Usage(text.to_owned()));
    }
    if parsed.has("delete-offsets") {
        if !parsed.has("group") || !parsed.has("topic") {
            let text = "Option [delete-offsets] takes the following options: [group], [topic]";
            return Err(Stop::Usage(text.to_owned()));
        }
        parsed.get("group")?;
        for text in parsed.all("topic") {
            partitions_of(text)?;
        }
    }
    parsed.exclude("group", &["all-groups", "list"])
}

fn run(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), ClientError> {
    if parsed.has("list") {
        return list(parsed, client, terminal);
    }
    let groups = if parsed.has("all-groups") {
        consumers(client, &[], &[])?.into_iter().map(|group| group.group_id).collect()
    } else {
        parsed.all("group").to_vec()
    };
    if parsed.has("describe") {
        describe::run(parsed, &groups, client, terminal)
    } else if parsed.has("delete") {
        delete(groups, client, terminal);
        Ok(())
    } else {
        delete_offsets(&groups[0], parsed.all("topic"), client, terminal)
    }
}

/// Groups of consumers, of either protocol, in the order in which Kafka's tool shows them.
fn consumers(client: &mut Client, states: &[String], types: &[String]) -> Result<Vec<GroupListing>, ClientError> {
    let mut groups = client.list_groups(states, types)?;
    groups.retain(|group| matches!(group.protocol_type.as_str(), "consumer" | ""));
    hash_order(&mut groups, |group| &group.group_id, false);
    Ok(groups)
}

fn list(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), ClientError> {
    let filter = |name: &str| -> Vec<String> {
        let given = parsed.all(name).iter().flat_map(|text| text.split(','));
        given.map(|part| capital(part.trim())).filter(|part| !part.is_empty()).collect()
    };
    let groups = consumers(client, &filter("state"), &filter("type"))?;
    let (with_type, with_state) = (parsed.has("type"), parsed.has("state"));
    if !with_type && !with_state {
        groups.iter().for_each(|group| terminal.line(&group.group_id));
        return Ok(());
    }
    let width = groups.iter().map(|group| group.group_id.len()).max().unwrap_or_default().max(15) + 10;
    let mut row = |group: &str, kind: &str, state: &str| {
        let mut line = format!("{group:width$}");
        for (shown, text) in [(with_type, kind), (with_state, state)] {
            if shown {
                line.push_str(&format!(" {text:20}"));
            }
        }
        terminal.line(line);
    };
    row("GROUP", "TYPE", "STATE");
    for group in &groups {
        row(&group.group_id, &capital(&group.kind), &group.state);
    }
    Ok(())
}

fn delete(mut groups: Vec<String>, client: &mut Client, terminal: &mut Terminal<'_>) {
    hash_order(&mut groups, |group| group, false);
    let (mut done, mut failed) = (vec![], vec![]);
    for group in groups {
        match client.delete_group(&group) {
            Ok(()) => done.push(format!("'{group}'")),
            Err(error) => failed.push((group, error)),
        }
    }
    let done = done.join(", ");
    if failed.is_empty() {
        terminal.line(format_args!("Deletion of requested consumer groups ({done}) was successful."));
        return;
    }
    terminal.line("\nError: Deletion of some consumer groups failed:");
    for (group, error) in failed {
        terminal.line(format_args!("* Group '{group}' could not be deleted due to: {}", error.exception()));
    }
    if !done.is_empty() {
        terminal.line(format_args!("\nThese consumer groups were deleted successfully: {done}"));
    }
}

/// `topic`, or `topic:0,1`.
fn partitions_of(text: &str) -> Result<(&str, Option<Vec<i32>>), Stop> {
    let Some((topic, list)) = text.split_once(':') else { return Ok((text, None)) };
    let partitions: Result<Vec<i32>, _> = list.split(',').map(str::parse).collect();
    match partitions {
        Ok(partitions) => Ok((topic, Some(partitions))),
        Err(_) => Err(Stop::Usage(format!("Invalid partition '{list}' specified in topic arg '{text}'"))),
    }
}

fn delete_offsets(
    group: &str,
    topics: &[String],
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<(), ClientError> {
    let mut wanted: Vec<TopicPartition> = vec![];
    for text in topics {
        match partitions_of(text) {
            Ok((topic, Some(partitions))) => wanted.extend(partitions.into_iter().map(|p| (topic.to_owned(), p))),
            _ => {
                client.refresh("describeTopics", Topics::Named(&[text.as_str()]), false)?;
                let known = client.metadata.topics.get(text).into_iter().flat_map(|topic| topic.partitions.keys());
                wanted.extend(known.map(|p| (text.clone(), *p)));
            }
        }
    }
    wanted.sort();
    wanted.dedup();
    let results = client.delete_offsets(group, &wanted);
    match &results {
        Ok(results) if results.values().all(Result::is_ok) => {
            terminal.line(format_args!("Request succeeded for deleting offsets from group {group}."));
        }
        Ok(_) => terminal.line("\nError: Encountered some partition-level error, see the follow-up details."),
        Err(error) => terminal.line(format_args!("\nError: {error}")),
    }
    let width = wanted.iter().map(|key| key.0.len()).max().unwrap_or_default().max(15);
    let mut out = format!("\n{:width$} {:10} {:15}", "TOPIC", "PARTITION", "STATUS");
    for key in &wanted {
        let status = match &results {
            Ok(results) => results.get(key).and_then(|result| result.as_ref().err()),
            Err(error) => Some(error),
        };
        let status = status.map_or("Successful".to_owned(), |error| format!("Error: {}", error.exception()));
        out.push_str(&format!("\n{:width$} {:<10} {status:15}", key.0, key.1));
    }
    terminal.line(out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_mistake() {
        let args = ["--bootstrap-server", "h:1", "--describe"].map(str::to_owned);
        let mut terminal = Terminal { out: &mut Vec::new(), err: &mut Vec::new() };
        let parsed = USAGE.parse(&args, &mut terminal).unwrap();
        let Err(Stop::Usage(text)) = check(&parsed) else { panic!("must be refused") };
        assert!(include_str!("../../tests/golden/consumer-groups-no-group.txt").contains(&text));
    }
}
