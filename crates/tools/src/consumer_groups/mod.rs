//! `kafka-consumer-groups`: lists, describes and deletes groups of consumers, resets and deletes offsets.
//!
//! As in Kafka, a failure that the cluster reports is printed on stdout and the exit code stays 0.

mod describe;
mod regex;
mod reset;

use std::time::Duration;

use crate::client::consumer::TopicPartition;
use crate::client::groups::GroupListing;
use crate::client::{Client, ClientError};
use crate::groups::{capital, connect};
use crate::java::hash_order;
use crate::jopt::{Parsed, Stop, Usage, flag, optional, value};
use crate::terminal::Terminal;

const ACTIONS: &[&str] = &["list", "describe", "delete", "reset-offsets", "delete-offsets", "validate-regex"];

const USAGE: Usage = Usage {
    about: "Lists, describes and deletes groups of consumers, resets and deletes their offsets.",
    examples: &[
        "zwirn consumer-groups --bootstrap-server localhost:9092 --list",
        "zwirn consumer-groups --bootstrap-server localhost:9092 --describe --group billing",
        "zwirn consumer-groups --bootstrap-server localhost:9092 --reset-offsets --group billing --topic orders \
         --by-duration PT1H --dry-run",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("command-config", "Properties file for the client."),
        value("timeout", "Milliseconds that a call may take (30000)."),
        flag("list", "List groups, one name per line."),
        flag("describe", "Show offsets and lag, or what --members or --state asks for."),
        flag("delete", "Delete groups without members."),
        flag(
            "reset-offsets",
            "Let a group without members go on elsewhere: one of the --to-… and the like says where.",
        ),
        flag("delete-offsets", "Forget a group's offsets of --topic."),
        value("validate-regex", "Say whether a subscription by regular expression (RE2) is well formed."),
        value("group", "The group; may be repeated."),
        flag("all-groups", "All groups."),
        value("topic", "With --reset-offsets, --delete-offsets: topic, or topic:0,1 for partitions; may be repeated."),
        flag("all-topics", "With --reset-offsets: all partitions that the group has offsets of."),
        flag("to-earliest", "Reset to the oldest record."),
        flag("to-latest", "Reset to the end."),
        flag("to-current", "Reset to the offset that is committed; to the end where there is none."),
        value("to-offset", "Reset to this offset, or to the nearest one that exists."),
        value("shift-by", "Reset to so many records later, or earlier if it is negative."),
        value("by-duration", "Reset to so long ago: PnDTnHnMnS, such as P1DT12H."),
        value("to-datetime", "Reset to a moment: YYYY-MM-DDTHH:mm:SS.sss, in UTC unless a zone follows."),
        value("from-file", "Reset to what a file says that --export has written."),
        flag("dry-run", "With --reset-offsets: only show what would be done (default)."),
        flag("execute", "With --reset-offsets: do it."),
        flag("export", "With --reset-offsets: show it as lines topic,partition,offset for --from-file."),
        flag("offsets", "With --describe: offsets and lag (default)."),
        flag("members", "With --describe: members."),
        optional("state", "With --describe: the group's state. With --list: show states, or only those given."),
        optional("type", "With --list: show types, or only those given (classic, consumer)."),
        flag("verbose", "With --describe: more columns."),
    ],
};

/// What ends the tool without its purpose.
#[derive(Debug)]
pub enum Failure {
    /// A mistake in the options that shows late: the help text follows, exit 1.
    Usage(String),
    /// The message, and the exception that it stands for if it is another one.
    Failed(String, Option<String>),
}

impl Failure {
    pub fn plain(error: ClientError) -> Failure {
        Failure::Failed(error.to_string(), Some(error.exception()))
    }

    /// As Kafka's tool shows an error that came to it wrapped in another.
    pub fn wrapped(error: ClientError) -> Failure {
        let exception = error.exception();
        Failure::Failed(exception.clone(), Some(format!("java.util.concurrent.ExecutionException: {exception}")))
    }

    /// The same, wrapped twice.
    pub fn nested(error: ClientError) -> Failure {
        let exception = format!("java.util.concurrent.ExecutionException: {}", error.exception());
        Failure::Failed(exception.clone(), Some(format!("java.lang.RuntimeException: {exception}")))
    }

    pub fn of_stop(stop: Stop) -> Failure {
        match stop {
            Stop::Usage(text) | Stop::Message(text) => Failure::Usage(text),
            Stop::Exit(code) => Failure::Failed(format!("exit {code}"), None),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::wrapped(error)
    }
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let checked = USAGE.parse_with_help(args, terminal).and_then(|parsed| {
        check(&parsed, terminal)?;
        one_action(&parsed)?;
        Ok(parsed)
    });
    let parsed = match checked {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    if let Some(regex) = parsed.all("validate-regex").first() {
        regex::validate(regex, terminal);
        return 0;
    }
    let result = connect(&parsed).and_then(|mut client| {
        let timeout_ms: Option<u64> = parsed.number("timeout")?;
        client.settings.api_timeout = Duration::from_millis(timeout_ms.unwrap_or(30_000));
        Ok(client)
    });
    let mut client = match result {
        Ok(client) => client,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match run(&parsed, &mut client, terminal) {
        Ok(()) => 0,
        Err(Failure::Usage(text)) => Stop::Usage(text).report(&USAGE, terminal),
        Err(Failure::Failed(message, exception)) => {
            group_error(&format!("Executing consumer group command failed due to {message}"), terminal);
            terminal.error(exception.unwrap_or(message));
            0
        }
    }
}

/// How this tool says on stdout what went wrong.
pub fn group_error(text: &str, terminal: &mut Terminal<'_>) {
    terminal.line(format_args!("\nError: {text}"));
}

fn one_action(parsed: &Parsed) -> Result<(), Stop> {
    if ACTIONS.iter().filter(|action| parsed.has(action)).count() == 1 {
        return Ok(());
    }
    let all: Vec<String> = ACTIONS.iter().map(|action| format!("--{action}")).collect();
    Err(Stop::Usage(format!("Command must include exactly one action: {}", all.join(", "))))
}

fn check(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), Stop> {
    for name in ["members", "offsets", "verbose"] {
        available(parsed, name, &["describe"])?;
    }
    available(parsed, "state", &["describe", "list"])?;
    available(parsed, "type", &["list"])?;
    if !parsed.has("validate-regex") {
        parsed.require(&["bootstrap-server"])?;
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
    if parsed.has("describe") && !parsed.all("state").is_empty() {
        return Err(Stop::Usage("Option [describe] does not take a value for [state]".to_owned()));
    }
    if parsed.has("delete") && parsed.has("topic") {
        let text = "The consumer does not support topic-specific offset deletion from a consumer group.";
        return Err(Stop::Usage(text.to_owned()));
    }
    if parsed.has("delete-offsets") {
        if !parsed.has("group") || !parsed.has("topic") {
            let text = "Option [delete-offsets] takes the following options: [group], [topic]";
            return Err(Stop::Usage(text.to_owned()));
        }
        parsed.get("group")?;
    }
    if parsed.has("reset-offsets") {
        reset::check(parsed, terminal)?;
    }
    parsed.exclude("group", &["all-groups", "list"])?;
    parsed.exclude("topic", &["list", "describe"])
}

/// Some options mean something only beside others.
fn available(parsed: &Parsed, name: &str, with: &[&str]) -> Result<(), Stop> {
    if !parsed.has(name) || with.iter().any(|other| parsed.has(other)) {
        return Ok(());
    }
    Err(Stop::Message(format!(
        "Exception in thread \"main\" joptsimple.UnavailableOptionException: Option(s) [{name}] are unavailable given \
         other options on the command line"
    )))
}

fn run(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    if parsed.has("list") {
        return list(parsed, client, terminal);
    }
    let groups = if parsed.has("all-groups") {
        let all = consumers(client, &[], &[]).map_err(Failure::nested)?;
        all.into_iter().map(|group| group.group_id).collect()
    } else {
        parsed.all("group").to_vec()
    };
    if parsed.has("describe") {
        Ok(describe::run(parsed, &groups, client, terminal)?)
    } else if parsed.has("delete") {
        delete(groups, client, terminal);
        Ok(())
    } else if parsed.has("reset-offsets") {
        reset::run(parsed, &groups, client, terminal)
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

const STATES: &[&str] =
    &["PreparingRebalance", "CompletingRebalance", "Stable", "Dead", "Empty", "Assigning", "Reconciling"];
const TYPES: &[&str] = &["Classic", "Consumer"];

/// The names of a list, whatever their case, as the cluster spells them.
fn names_of(parsed: &Parsed, option: &str, what: [&str; 2], known: &[&str]) -> Result<Vec<String>, Failure> {
    let Some(text) = parsed.get(option).map_err(Failure::of_stop)?.filter(|text| !text.is_empty()) else {
        return Ok(vec![]);
    };
    let find = |name: &str| known.iter().find(|known| known.eq_ignore_ascii_case(name.trim()));
    let found: Option<Vec<String>> = text.split(',').map(|name| find(name).map(|name| (*name).to_owned())).collect();
    let [list, valid] = what;
    found
        .ok_or_else(|| Failure::Usage(format!("Invalid {list} list '{text}'. Valid {valid} are: {}", known.join(", "))))
}

fn list(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let types = names_of(parsed, "type", ["types", "types"], TYPES)?;
    let states = names_of(parsed, "state", ["state", "states"], STATES)?;
    let groups = consumers(client, &states, &types)?;
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
    if !text.contains(':') {
        return Ok((text, None));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let &[topic, list] = &parts[..] else {
        return Err(Stop::Usage(format!("Invalid topic arg '{text}', expected topic name and partitions")));
    };
    let mut partitions = Vec::new();
    for part in list.split(',') {
        let bad = || Stop::Usage(format!("Invalid partition '{part}' specified in topic arg '{text}''"));
        partitions.push(part.parse().map_err(|_| bad())?);
    }
    Ok((topic, Some(partitions)))
}

fn delete_offsets(
    group: &str,
    topics: &[String],
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let mut wanted: Vec<TopicPartition> = vec![];
    let mut unknown: Vec<(String, ClientError)> = vec![];
    for text in topics {
        let (topic, partitions) = partitions_of(text).map_err(Failure::of_stop)?;
        match partitions.map_or_else(|| reset::existing(topic, client), Ok) {
            Ok(partitions) => wanted.extend(partitions.into_iter().map(|p| (topic.to_owned(), p))),
            Err(error) => unknown.push((topic.to_owned(), error)),
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
    let names = wanted.iter().map(|key| &key.0).chain(unknown.iter().map(|(topic, _)| topic));
    let width = names.map(String::len).max().unwrap_or_default().max(15);
    let mut out = format!("\n{:width$} {:10} {:15}", "TOPIC", "PARTITION", "STATUS");
    for (topic, error) in &unknown {
        out.push_str(&format!("\n{topic:width$} {:10} Error: {}", "-", error.exception()));
    }
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
