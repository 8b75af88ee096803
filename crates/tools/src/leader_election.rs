//! `kafka-leader-election`: lets partitions choose their leaders again.

use std::time::Duration;

use protocol::error::ErrorCode;
use serde_json::Value;

use crate::client::consumer::TopicPartition;
use crate::client::{Client, ClientError, Election, ElectionResult, Settings};
use crate::java::partition_order;
use crate::jopt::{Parsed, Stop, Usage, flag, value};
use crate::props::Props;
use crate::terminal::Terminal;

const USAGE: Usage = Usage {
    about: "Elects leaders: the preferred replica, or, where no leader is left, any replica that lives.",
    examples: &[
        "zwirn leader-election --bootstrap-server localhost:9092 --election-type preferred --all-topic-partitions",
        "zwirn leader-election --bootstrap-server localhost:9092 --election-type unclean --topic orders --partition 0",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("election-type", "preferred: back to the first replica. unclean: any, records may be lost. Required."),
        value("topic", "One topic, with --partition."),
        value("partition", "The partition of --topic."),
        value("path-to-json-file", "A file: {\"partitions\": [{\"topic\": \"orders\", \"partition\": 0}]}."),
        flag("all-topic-partitions", "Every partition that needs an election."),
        value("command-config", "Properties file for the client."),
        value("admin.config", "Old name of --command-config."),
    ],
};

const COMMAND: &str = "org.apache.kafka.tools.AdminCommandFailedException";
const OPERATION: &str = "org.apache.kafka.server.common.AdminOperationException";
const OPTION: &str = "joptsimple.OptionException";
const TIMEOUT: Duration = Duration::from_secs(30);

/// A message, the exception it comes with, and exceptions behind that one.
#[derive(Debug)]
struct Failure {
    class: &'static str,
    message: String,
    suppressed: Vec<String>,
}

fn failure(class: &'static str, message: impl Into<String>) -> Failure {
    Failure { class, message: message.into(), suppressed: vec![] }
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match USAGE.parse(args, terminal) {
        Ok(parsed) => parsed,
        Err(Stop::Message(message)) => return report(&failure(OPTION, message), terminal),
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    if let Err(stop) = parsed.exclude("admin.config", &["command-config"]) {
        return stop.report(&USAGE, terminal);
    }
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(failure) => report(&failure, terminal),
    }
}

fn report(failure: &Failure, terminal: &mut Terminal<'_>) -> u8 {
    terminal.error(&failure.message);
    terminal.error(format_args!("{}: {}", failure.class, failure.message));
    for suppressed in &failure.suppressed {
        terminal.error(format_args!("\tSuppressed: {suppressed}"));
    }
    1
}

fn option<'a>(parsed: &'a Parsed, name: &str) -> Result<Option<&'a str>, Failure> {
    parsed.get(name).map_err(|stop| match stop {
        Stop::Usage(message) | Stop::Message(message) => failure(OPTION, message),
        Stop::Exit(_) => failure(OPTION, ""),
    })
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    check(parsed)?;
    let text = option(parsed, "election-type")?.unwrap_or_default();
    let election = match text.to_ascii_lowercase().as_str() {
        "preferred" => Election::Preferred,
        "unclean" => Election::Unclean,
        _ => {
            let class = "joptsimple.OptionArgumentConversionException";
            return Err(failure(class, format!("Cannot parse argument '{text}' of option election-type")));
        }
    };
    let partitions = partitions(parsed)?;
    let old = option(parsed, "admin.config")?;
    if old.is_some() {
        terminal.line(
            "Option --admin.config has been deprecated and will be removed in a future version. Use --command-config instead.",
        );
    }
    let io = |message: String| failure("java.io.IOException", message);
    let props = match old.or(option(parsed, "command-config")?) {
        Some(path) => Props::load(path).map_err(io)?,
        None => Props::default(),
    };
    let bootstrap = option(parsed, "bootstrap-server")?.unwrap_or_default();
    let unusable = |error: ClientError| failure("org.apache.kafka.common.KafkaException", error.to_string());
    let mut settings = Settings::admin(bootstrap, &props).map_err(unusable)?;
    if props.get("default.api.timeout.ms").is_none() {
        settings.api_timeout = TIMEOUT;
    }
    if props.get("request.timeout.ms").is_none() {
        settings.request_timeout = TIMEOUT / 2;
    }
    let results = Client::new(settings).elect_leaders(election, partitions.as_deref());
    let results = results.map_err(|error| match &error {
        ClientError::Timeout(_) => {
            terminal.line("Timeout waiting for election results");
            failure(COMMAND, "Timeout waiting for election results")
        }
        ClientError::Server { code: ErrorCode::ClusterAuthorizationFailed, .. } => {
            terminal.line("Not authorized to perform leader election");
            failure(COMMAND, "Not authorized to perform leader election")
        }
        _ => failure(
            "java.lang.RuntimeException",
            format!("java.util.concurrent.ExecutionException: {}", error.exception()),
        ),
    })?;
    say(election, results, terminal)
}

fn check(parsed: &Parsed) -> Result<(), Failure> {
    let missing = |names: &str| failure(COMMAND, format!("Missing required option(s): {names}"));
    let required: Vec<&str> = ["bootstrap-server", "election-type"].into_iter().filter(|n| !parsed.has(n)).collect();
    if !required.is_empty() {
        return Err(missing(&required.join(", ")));
    }
    let which = ["topic", "all-topic-partitions", "path-to-json-file"];
    if which.iter().filter(|name| parsed.has(name)).count() != 1 {
        return Err(failure(
            COMMAND,
            format!("One and only one of the following options is required: {}", which.join(", ")),
        ));
    }
    match (parsed.has("topic"), parsed.has("partition")) {
        (true, false) => Err(missing("partition")),
        (false, true) => Err(failure(COMMAND, "Option partition is only allowed if topic is used")),
        _ => Ok(()),
    }
}

/// `None` for all.
fn partitions(parsed: &Parsed) -> Result<Option<Vec<TopicPartition>>, Failure> {
    if let Some(path) = option(parsed, "path-to-json-file")? {
        let text = std::fs::read_to_string(path).map_err(|_| {
            failure("java.lang.RuntimeException", format!("java.io.IOException: Unable to read file {path}"))
        })?;
        return parse(&text).map(Some);
    }
    let (Some(topic), Some(partition)) = (option(parsed, "topic")?, option(parsed, "partition")?) else {
        return Ok(None);
    };
    let partition = partition.parse().map_err(|_| {
        let class = "joptsimple.OptionArgumentConversionException";
        failure(class, format!("Cannot parse argument '{partition}' of option partition"))
    })?;
    Ok(Some(vec![(topic.to_owned(), partition)]))
}

fn parse(text: &str) -> Result<Vec<TopicPartition>, Failure> {
    let json: Value = serde_json::from_str(text).map_err(|_| failure(OPERATION, "Replica election data is empty"))?;
    let list = json.get("partitions").and_then(Value::as_array);
    let list = list.ok_or_else(|| failure(OPERATION, "Replica election data is missing \"partitions\" field"))?;
    let mut out: Vec<TopicPartition> = Vec::with_capacity(list.len());
    let mut twice: Vec<String> = Vec::new();
    for entry in list {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(Value::as_i64).and_then(|p| i32::try_from(p).ok());
        let (Some(topic), Some(partition)) = (topic, partition) else {
            return Err(failure(OPERATION, format!("An entry of partitions needs topic and partition: {entry}")));
        };
        let key = (topic.to_owned(), partition);
        let name = format!("{topic}-{partition}");
        if out.contains(&key) && !twice.contains(&name) {
            twice.push(name);
        }
        out.push(key);
    }
    if !twice.is_empty() {
        let message = format!("Replica election data contains duplicate partitions: [{}]", twice.join(", "));
        return Err(failure(OPERATION, message));
    }
    Ok(out)
}

fn say(election: Election, mut results: Vec<ElectionResult>, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    partition_order(&mut results, |((topic, partition), _)| (topic, *partition));
    let name = match election {
        Election::Preferred => "PREFERRED",
        Election::Unclean => "UNCLEAN",
    };
    let mut done = Vec::new();
    let mut unneeded = Vec::new();
    let mut failed = Vec::new();
    for ((topic, partition), result) in &results {
        let partition = format!("{topic}-{partition}");
        match result {
            Ok(()) => done.push(partition),
            Err(error) if error.code() == Some(ErrorCode::ElectionNotNeeded) => unneeded.push(partition),
            Err(error) => failed.push((partition, error.exception())),
        }
    }
    if !done.is_empty() {
        let done = done.join(", ");
        terminal.line(format_args!("Successfully completed leader election ({name}) for partitions {done}"));
    }
    if !unneeded.is_empty() {
        terminal.line(format_args!("Valid replica already elected for partitions {}", unneeded.join(", ")));
    }
    if failed.is_empty() {
        return Ok(());
    }
    for (partition, error) in &failed {
        terminal.line(format_args!("Error completing leader election ({name}) for partition: {partition}: {error}"));
    }
    let mut root = failure(COMMAND, format!("{} replica(s) could not be elected", failed.len()));
    root.suppressed = failed.into_iter().map(|(_, error)| error).collect();
    Err(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_main(args: &[&str]) -> (u8, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let code = main(&args, &mut Terminal { out: &mut out, err: &mut err });
        (code, String::from_utf8(err).unwrap())
    }

    #[test]
    fn mistakes_as_recorded() {
        let (code, err) = run_main(&["--bootstrap-server", "127.0.0.1:1", "--all-topic-partitions"]);
        assert_eq!(code, 1);
        assert!(include_str!("../tests/golden/leader-election-no-type.txt").contains(&err), "{err}");
        let args = ["--bootstrap-server", "127.0.0.1:1", "--election-type", "bad", "--all-topic-partitions"];
        let (code, err) = run_main(&args);
        assert_eq!(code, 1);
        assert!(include_str!("../tests/golden/leader-election-bad-type.txt").contains(&err), "{err}");
    }

    #[test]
    fn results_as_recorded() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let terminal = &mut Terminal { out: &mut out, err: &mut err };
        let no_topic = ClientError::server(ErrorCode::UnknownTopicOrPartition, Some("No such topic as nope"));
        let failure = say(Election::Preferred, vec![(("nope".to_owned(), 0), Err(no_topic))], terminal).unwrap_err();
        report(&failure, terminal);
        let not_needed = ClientError::server(ErrorCode::ElectionNotNeeded, None);
        say(Election::Preferred, vec![(("t-one".to_owned(), 0), Err(not_needed))], terminal).unwrap();
        say(Election::Preferred, vec![(("disk-epochs".to_owned(), 0), Ok(()))], terminal).unwrap();
        let golden = concat!(
            include_str!("../tests/golden/leader-election-unknown.txt"),
            include_str!("../tests/golden/leader-election-not-needed.txt"),
            include_str!("../tests/golden/leader-election-preferred-after-restart.txt")
        );
        for line in String::from_utf8(out).unwrap().lines().chain(String::from_utf8(err).unwrap().lines()) {
            assert!(golden.lines().any(|golden| golden == line), "{line}");
        }
    }
}
