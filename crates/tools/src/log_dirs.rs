//! `kafka-log-dirs --describe`: which replicas lie in which directory of which broker.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::client::{Client, LogDir, Settings, exception_class};
use crate::java::{hash_order, partition_order};
use crate::jopt::{Parsed, Stop, Usage, flag, value};
use crate::props::Props;
use crate::terminal::Terminal;

const USAGE: Usage = Usage {
    about: "Shows brokers' log directories, and the size and lag of each replica in them, as JSON.",
    examples: &["zwirn log-dirs --bootstrap-server localhost:9092 --describe --topic-list orders,bills"],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        flag("describe", "The one thing this tool does. Required."),
        value("topic-list", "Topics separated by commas; all if left out."),
        value("broker-list", "Broker ids separated by commas; all if left out."),
        value("command-config", "Properties file for the client."),
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let required = |parsed: Parsed| parsed.require(&["bootstrap-server", "describe"]).map(|()| parsed);
    let parsed = match USAGE.parse(args, terminal).and_then(required) {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(message);
            1
        }
    }
}

fn names(parsed: &Parsed, option: &str) -> Result<BTreeSet<String>, String> {
    let text = parsed.get(option).map_err(message)?.unwrap_or_default();
    Ok(text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn message(stop: Stop) -> String {
    match stop {
        Stop::Usage(message) | Stop::Message(message) => message,
        Stop::Exit(_) => String::new(),
    }
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let topics = names(parsed, "topic-list")?;
    let wanted = names(parsed, "broker-list")?
        .iter()
        .map(|id| id.parse::<i32>().map_err(|_| format!("For input string: \"{id}\"")))
        .collect::<Result<BTreeSet<i32>, String>>()?;
    let props = match parsed.get("command-config").map_err(message)? {
        Some(path) => Props::load(path)?,
        None => Props::default(),
    };
    let bootstrap = parsed.get("bootstrap-server").map_err(message)?.unwrap_or_default();
    let mut client = Client::new(Settings::admin(bootstrap, &props).map_err(|error| error.to_string())?);
    let known = client.learn_nodes().map_err(|error| error.exception())?;
    let unknown: Vec<i32> = wanted.iter().copied().filter(|id| !known.contains(id)).collect();
    if !unknown.is_empty() {
        return Err(format!(
            "ERROR: The given brokers do not exist from --broker-list: {}. Current existent brokers: {}",
            ids(&unknown),
            ids(&known)
        ));
    }
    let asked = if wanted.is_empty() { known } else { wanted.into_iter().collect() };
    terminal.line("Querying brokers for log directories information");
    let mut brokers = Vec::new();
    for id in &asked {
        brokers.push((*id, client.describe_log_dirs(*id).map_err(|error| error.exception())?));
    }
    terminal.line(format_args!("Received log directory information from brokers {}", ids(&asked)));
    terminal.line(json(&mut brokers, &topics));
    Ok(())
}

fn ids(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// One line, in the order of Kafka's hash maps, so that outputs can be compared.
fn json(brokers: &mut [(i32, Vec<LogDir>)], topics: &BTreeSet<String>) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut out = String::from("{\"brokers\":[");
    for (i, (broker, dirs)) in brokers.iter_mut().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{{\"broker\":{broker},\"logDirs\":[");
        hash_order(dirs, |dir| &dir.path, true);
        for (i, dir) in dirs.iter_mut().enumerate() {
            dir.replicas.retain(|(topic, ..)| topics.is_empty() || topics.contains(topic));
            partition_order(&mut dir.replicas, |(topic, partition, ..)| (topic, *partition));
            let replicas = dir.replicas.iter().map(|(topic, partition, size, lag, future)| {
                let name = quoted(&format!("{topic}-{partition}"));
                format!("{{\"partition\":{name},\"size\":{size},\"offsetLag\":{lag},\"isFuture\":{future}}}")
            });
            let replicas = replicas.collect::<Vec<_>>().join(",");
            let error = dir.error.map_or("null".to_owned(), |code| quoted(&exception_class(code)));
            let comma = if i > 0 { "," } else { "" };
            let path = quoted(&dir.path);
            let _ = write!(out, "{comma}{{\"partitions\":[{replicas}],\"error\":{error},\"logDir\":{path}}}");
        }
        out.push_str("]}");
    }
    out.push_str("],\"version\":1}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(path: &str, replicas: &[(&str, i32, i64)]) -> LogDir {
        let replicas =
            replicas.iter().map(|(topic, partition, size)| ((*topic).to_owned(), *partition, *size, 0, false));
        LogDir { path: format!("/data/kafka/rich/{path}"), error: None, replicas: replicas.collect() }
    }

    #[test]
    fn as_recorded() {
        let plain = ("disk-plain", 0, 0);
        let mut brokers = [
            (1, vec![dir("d1", &[("t-one", 0, 0), ("t-one", 3, 155), ("other", 0, 1)]), dir("d1b", &[plain])]),
            (2, vec![dir("d2", &[]), dir("d2b", &[("t-one", 1, 0), plain])]),
            (3, vec![dir("d3", &[("t-one", 2, 81)]), dir("d3b", &[plain])]),
        ];
        let topics = ["disk-plain", "t-one"].map(str::to_owned).into();
        let text = json(&mut brokers, &topics);
        assert!(include_str!("../tests/golden/log-dirs.txt").contains(&text), "{text}");
    }
}
