//! `kafka-get-offsets`: first, last and other offsets of partitions.

use std::collections::BTreeSet;

use regex_lite::Regex;

use crate::client::{Client, ClientError, Settings};
use crate::jopt::{Parsed, Stop, Usage, flag, value};
use crate::props::Props;
use crate::terminal::Terminal;
use crate::topics::topic_filter;

const USAGE: Usage = Usage {
    about: "Shows offsets of partitions, as topic:partition:offset.",
    examples: &[
        "zwirn get-offsets --bootstrap-server localhost:9092 --topic orders",
        "zwirn get-offsets --bootstrap-server localhost:9092 --topic-partitions 'orders:0-2,bills' --time earliest",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("topic", "Regular expression for topics; all if left out."),
        value("partitions", "Partition ids, separated by commas; all if left out."),
        value("topic-partitions", "Patterns separated by commas: topic, topic:1, topic:0-3, topic:5-, topic:-3, :2."),
        value(
            "time",
            "latest or -1 (default), earliest or -2, max-timestamp or -3, earliest-local or -4,\n                                    latest-tiered or -5, earliest-pending-upload or -6, or milliseconds since 1970.",
        ),
        flag("exclude-internal-topics", "Leave out Kafka's own topics."),
        value("command-config", "Properties file for the client."),
        value("broker-list", "Old name of --bootstrap-server."),
    ],
};

/// Which partitions of which topics.
#[derive(Debug)]
struct Rule {
    topic: Regex,
    /// First, and the end, which does not belong to it.
    partitions: std::ops::Range<i64>,
    only: BTreeSet<i32>,
}

impl Rule {
    fn allows(&self, topic: &str, partition: i32) -> bool {
        self.topic.is_match(topic)
            && self.partitions.contains(&i64::from(partition))
            && (self.only.is_empty() || self.only.contains(&partition))
    }
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match USAGE.parse(args, terminal).and_then(|parsed| required(&parsed).map(|()| parsed)) {
        Ok(parsed) => parsed,
        Err(Stop::Message(message)) => {
            terminal.error(format_args!("Error occurred: {message}"));
            return 1;
        }
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(format_args!("Error occurred: {message}"));
            1
        }
    }
}

fn required(parsed: &Parsed) -> Result<(), Stop> {
    if parsed.has("broker-list") { Ok(()) } else { parsed.require(&["bootstrap-server"]) }
}

fn message(stop: Stop) -> String {
    match stop {
        Stop::Usage(text) | Stop::Message(text) => text,
        Stop::Exit(code) => format!("exit {code}"),
    }
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    if parsed.has("topic-partitions") && (parsed.has("topic") || parsed.has("partitions")) {
        return Err("--topic-partitions cannot be used with --topic or --partitions".to_owned());
    }
    let timestamp = parse_time(parsed.get("time").map_err(message)?.unwrap_or("latest"))?;
    let rules = rules(parsed)?;
    let props = match parsed.get("command-config").map_err(message)? {
        Some(path) => Props::load(path)?,
        None => Props::default(),
    };
    let bootstrap = parsed.get("bootstrap-server").map_err(message)?.or(parsed.get("broker-list").map_err(message)?);
    let mut settings = Settings::admin(bootstrap.unwrap_or_default(), &props).map_err(|error| error.to_string())?;
    settings.warn_as = Some("AdminClient clientId=GetOffsetShell".to_owned());
    let mut client = Client::new(settings);
    let names = client.topic_names().map_err(|error| error.to_string())?;
    let hide = parsed.has("exclude-internal-topics");
    let mut wanted = Vec::new();
    for (name, topic) in &client.metadata.topics {
        if hide && names.get(name) == Some(&true) {
            continue;
        }
        let partitions =
            topic.partitions.keys().filter(|partition| rules.iter().any(|rule| rule.allows(name, **partition)));
        wanted.extend(partitions.map(|partition| ((name.clone(), *partition), timestamp)));
    }
    if wanted.is_empty() {
        return Err("Could not match any topic-partitions with the specified filters".to_owned());
    }
    let mut lines = Vec::new();
    for ((topic, partition), result) in client.offsets(&wanted, false) {
        match result {
            Ok(found) if found.offset >= 0 => {
                lines.push((format!("{topic}-{partition}"), format!("{topic}:{partition}:{}", found.offset)));
            }
            Ok(_) => {}
            Err(error @ ClientError::Timeout(_)) => return Err(error.to_string()),
            Err(error) => terminal.error(format_args!(
                "Skip getting offsets for topic-partition {topic}-{partition} due to error: {}",
                error.exception()
            )),
        }
    }
    // Sorted as text: partition 10 comes before partition 2.
    lines.sort();
    for (_, line) in lines {
        terminal.line(line);
    }
    Ok(())
}

fn parse_time(text: &str) -> Result<i64, String> {
    Ok(match text {
        "latest" => -1,
        "earliest" => -2,
        "max-timestamp" => -3,
        "earliest-local" => -4,
        "latest-tiered" => -5,
        "earliest-pending-upload" => -6,
        number => number.parse().map_err(|_| {
            format!(
                "Malformed time argument {text}. Please use -1 or latest / -2 or earliest / -3 or max-timestamp / -4 or \
                 earliest-local / -5 or latest-tiered / -6 or earliest-pending-upload, or a specified long format timestamp"
            )
        })?,
    })
}

fn rules(parsed: &Parsed) -> Result<Vec<Rule>, String> {
    if let Some(list) = parsed.get("topic-partitions").map_err(message)? {
        return list.split(',').map(parse_rule).collect();
    }
    let topic = topic_filter(parsed.get("topic").map_err(message)?.unwrap_or(".*"))?;
    let mut only = BTreeSet::new();
    if let Some(list) = parsed.get("partitions").map_err(message)?.filter(|list| !list.is_empty()) {
        for id in list.split(',') {
            only.insert(id.parse().map_err(|_| {
                format!("--partitions expects a comma separated list of numeric partition ids, but received: {list}")
            })?);
        }
    }
    Ok(vec![Rule { topic, partitions: 0..i64::MAX, only }])
}

/// `topic`, `topic:N`, `topic:N-M` (M does not belong to it), `topic:N-`, `topic:-M`; the topic may be left out.
fn parse_rule(text: &str) -> Result<Rule, String> {
    let bad = || format!("Invalid rule specification: {text}");
    let (topic, partitions) = text.split_once(':').unwrap_or((text, ""));
    let number = |digits: &str| digits.parse::<i32>().ok().filter(|n| *n >= 0).map(i64::from).ok_or_else(bad);
    let range = match partitions.split_once('-') {
        None if partitions.is_empty() => 0..i64::MAX,
        None => {
            let only = number(partitions)?;
            only..only + 1
        }
        Some((from, to)) => {
            let from = if from.is_empty() { 0 } else { number(from)? };
            from..if to.is_empty() { i64::MAX } else { number(to)? }
        }
    };
    let topic = topic_filter(if topic.is_empty() { ".*" } else { topic })?;
    Ok(Rule { topic, partitions: range, only: BTreeSet::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_partitions() {
        let allows = |rule: &str, topic: &str, partition| parse_rule(rule).unwrap().allows(topic, partition);
        assert!(allows("t", "t", 7) && allows("t:1", "t", 1) && !allows("t:1", "t", 2));
        assert!(allows("t:0-2", "t", 1) && !allows("t:0-2", "t", 2));
        assert!(
            allows("t:5-", "t", 5) && !allows("t:5-", "t", 4) && allows(":-3", "any", 2) && !allows(":-3", "any", 3)
        );
        assert!(parse_rule("t:x").is_err());
    }

    #[test]
    fn recorded_mistake() {
        let error = format!("Error occurred: {}", parse_time("nonsense").unwrap_err());
        assert!(include_str!("../tests/golden/get-offsets-bad-time.txt").contains(&error));
    }
}
