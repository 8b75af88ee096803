//! `kafka-verifiable-consumer`: a member of a group that tells as lines of JSON what it is given, what it reads and what
//! it commits, for tests that check afterwards what was promised.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::json::quoted;

use crate::argparse::{Parsed, Program, flag, required, value};
use crate::client::consumer::{FetchConfig, Reset, TopicPartition};
use crate::client::reader::{GroupReader, Subscribed};
use crate::client::{ClientError, Settings};
use crate::console_consumer::member_config;
use crate::terminal::Terminal;
use crate::verifiable_producer::{command_config, event, stop_flag, text_or_null};

const CLASS: &str = "org.apache.kafka.tools.VerifiableConsumer";
/// How long one fetch waits; bounds how late a signal is noticed.
const POLL: Duration = Duration::from_millis(250);

const PROGRAM: Program = Program {
    name: "verifiable-consumer",
    about: "Reads a topic as a member of a group and tells what happens as lines of JSON.",
    examples: &[
        "zwirn verifiable-consumer --bootstrap-server localhost:9092 --topic t --group-id g --max-messages 100",
    ],
    options: &[
        required("bootstrap-server", "", "Brokers to start from, host:port separated by commas."),
        required("topic", "", "Topic to read."),
        required("group-id", "", "The group to be a member of."),
        value("group-protocol", "", "classic (default) or consumer."),
        value("group-remote-assignor", "", "With --group-protocol consumer: who assigns on the broker."),
        value("group-instance-id", "", "Be a static member of this name."),
        value("max-messages", "", "How many; -1 (default) until the process is stopped."),
        value("session-timeout", "", "Milliseconds without a heartbeat after which the group goes on without it."),
        flag("verbose", "", "Tell of every record."),
        flag("enable-autocommit", "", "Commit from time to time rather than after every fetch."),
        value("reset-policy", "", "Where to begin without an offset: earliest (default), latest or none."),
        value("assignment-strategy", "", "Accepted; the range assignor is the one that is built in."),
        value("command-config", "", "Properties file for the consumer."),
        value("consumer.config", "", "Old name of --command-config."),
    ],
    commands: &[],
};

struct Options {
    max: Option<u64>,
    verbose: bool,
    auto_commit: bool,
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    if args.is_empty() {
        let _ = PROGRAM.parse(&["--help".to_owned()], terminal);
        return 0;
    }
    let parsed = match PROGRAM.parse(args, terminal) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    match prepare(&parsed, terminal) {
        Ok((options, reader)) => run(&options, reader, terminal),
        Err(message) => PROGRAM.refuse(args, &message, terminal),
    }
}

fn prepare(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(Options, GroupReader), String> {
    let mut props = command_config(parsed, "consumer.config", terminal)?;
    props.check_supported()?;
    let auto_commit = parsed.has("enable-autocommit");
    props.set("enable.auto.commit", auto_commit.to_string());
    for (option, key) in [
        ("session-timeout", "session.timeout.ms"),
        ("group-instance-id", "group.instance.id"),
        ("group-protocol", "group.protocol"),
        ("group-remote-assignor", "group.remote.assignor"),
    ] {
        if let Some(value) = parsed.get(option) {
            props.set(key, value);
        }
    }
    let group = parsed.get("group-id").unwrap_or_default();
    let client_id = props.get("client.id").map_or_else(|| format!("consumer-{group}-1"), str::to_owned);
    let bad = |error: ClientError| error.exception();
    let mut settings = Settings::new(parsed.get("bootstrap-server").unwrap_or_default(), &client_id).map_err(bad)?;
    settings.warn_as = Some(format!("Consumer clientId={client_id}, groupId={group}"));
    settings.apply(&props).map_err(bad)?;
    let reset = match parsed.get("reset-policy").unwrap_or("earliest") {
        "earliest" => Reset::Earliest,
        "latest" => Reset::Latest,
        "none" => Reset::None,
        other => return Err(format!("Invalid value {other} for configuration auto.offset.reset")),
    };
    let member = member_config(Some(group), &props).map_err(|stop| format!("{stop:?}"))?;
    let subscribed = Subscribed::Topic(parsed.get("topic").unwrap_or_default().to_owned());
    let max: i64 = parsed.number("max-messages")?.unwrap_or(-1);
    let options = Options { max: u64::try_from(max).ok(), verbose: parsed.has("verbose"), auto_commit };
    Ok((options, GroupReader::new(settings, FetchConfig { reset, ..Default::default() }, member, subscribed)))
}

/// What one fetch brought of one partition.
#[derive(Default)]
struct Summary {
    count: u64,
    first: i64,
    last: i64,
    /// Events of single records, if they are wanted.
    records: Vec<String>,
}

fn run(options: &Options, mut reader: GroupReader, terminal: &mut Terminal<'_>) -> u8 {
    let stop = stop_flag();
    event("startup_complete", "", terminal);
    let mut consumed = 0;
    let mut assigned: Vec<TopicPartition> = vec![];
    while !stop.load(Ordering::Relaxed) && options.max.is_none_or(|max| consumed < max) {
        if let Err(error) = round(options, &mut reader, &mut consumed, &mut assigned, terminal) {
            terminal.log("ERROR", "Error during processing, terminating consumer process: ", CLASS);
            terminal.error(error.exception());
            break;
        }
    }
    let requested = stop.load(Ordering::Relaxed);
    if requested {
        event("shutdown_requested", "", terminal);
    }
    if !assigned.is_empty() {
        event("partitions_revoked", &partitions(&assigned), terminal);
    }
    reader.leave();
    event("shutdown_complete", "", terminal);
    if !requested {
        // Kafka's tool says so at every end.
        event("shutdown_requested", "", terminal);
    }
    0
}

fn round(
    options: &Options,
    reader: &mut GroupReader,
    consumed: &mut u64,
    assigned: &mut Vec<TopicPartition>,
    terminal: &mut Terminal<'_>,
) -> Result<(), ClientError> {
    let mut summaries: BTreeMap<TopicPartition, Summary> = BTreeMap::new();
    let mut count = 0;
    let polled = reader.poll(POLL, |message| {
        count += 1;
        if options.max.is_some_and(|max| *consumed >= max) {
            return true;
        }
        *consumed += 1;
        let record = &message.record;
        let summary = summaries.entry((message.topic.to_owned(), message.partition)).or_default();
        if summary.count == 0 {
            summary.first = record.offset;
        }
        summary.count += 1;
        summary.last = record.offset;
        if options.verbose {
            let text = |bytes: Option<&[u8]>| {
                text_or_null(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).as_deref())
            };
            summary.records.push(format!(
                ",\"key\":{},\"value\":{},\"topic\":{},\"partition\":{},\"offset\":{}",
                text(record.key),
                text(record.value),
                quoted(message.topic),
                message.partition,
                record.offset
            ));
        }
        true
    });
    tell_assignment(reader.assigned(), assigned, terminal);
    polled?;
    if count == 0 {
        return Ok(());
    }
    for line in summaries.values().flat_map(|summary| &summary.records) {
        event("record_data", line, terminal);
    }
    let shown: Vec<String> = summaries
        .iter()
        .map(|((topic, partition), s)| {
            format!(
                "{{\"topic\":{},\"partition\":{partition},\"count\":{},\"minOffset\":{},\"maxOffset\":{}}}",
                quoted(topic),
                s.count,
                s.first,
                s.last
            )
        })
        .collect();
    event("records_consumed", &format!(",\"count\":{count},\"partitions\":[{}]", shown.join(",")), terminal);
    if !options.auto_commit {
        let offsets: Vec<(TopicPartition, i64)> = summaries.into_iter().map(|(key, s)| (key, s.last + 1)).collect();
        let error = reader.commit(&offsets).err();
        committed(&offsets, error.as_ref(), terminal);
    }
    Ok(())
}

/// Partitions that are gone, and those that have come.
fn tell_assignment(now: Vec<TopicPartition>, before: &mut Vec<TopicPartition>, terminal: &mut Terminal<'_>) {
    if now == *before {
        return;
    }
    if !before.is_empty() {
        event("partitions_revoked", &partitions(before), terminal);
    }
    if !now.is_empty() {
        event("partitions_assigned", &partitions(&now), terminal);
    }
    *before = now;
}

fn committed(offsets: &[(TopicPartition, i64)], error: Option<&ClientError>, terminal: &mut Terminal<'_>) {
    let shown: Vec<String> = offsets
        .iter()
        .map(|((topic, partition), offset)| {
            format!("{{\"topic\":{},\"partition\":{partition},\"offset\":{offset}}}", quoted(topic))
        })
        .collect();
    let failed = error.map_or_else(String::new, |error| format!(",\"error\":{}", quoted(&error.to_string())));
    let fields = format!(",\"offsets\":[{}]{failed},\"success\":{}", shown.join(","), error.is_none());
    event("offsets_committed", &fields, terminal);
}

fn partitions(partitions: &[TopicPartition]) -> String {
    let shown: Vec<String> = partitions
        .iter()
        .map(|(topic, partition)| format!("{{\"topic\":{},\"partition\":{partition}}}", quoted(topic)))
        .collect();
    format!(",\"partitions\":[{}]", shown.join(","))
}
