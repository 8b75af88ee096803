//! `kafka-reassign-partitions`: moves partitions to other brokers, and replicas to other directories.

mod options;
mod plan;
mod run;

use std::fmt::Display;

use crate::client::{Client, ClientError, Settings};
use crate::jopt::{Parsed, Stop};
use crate::props::Props;
use crate::terminal::Terminal;
use options::USAGE;

const COMMAND: &str = "org.apache.kafka.tools.AdminCommandFailedException";

/// Why the tool ends with an error. It says so on stdout, as Kafka's does.
#[derive(Debug)]
enum Failure {
    /// Nothing but a message.
    Terse(String),
    /// The message, and the exception's class with it.
    Thrown { class: String, message: String },
}

impl Failure {
    fn thrown(class: &str, message: impl Into<String>) -> Failure {
        Failure::Thrown { class: class.to_owned(), message: message.into() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::thrown("java.util.concurrent.ExecutionException", error.exception())
    }
}

fn text(stop: Stop) -> Failure {
    match stop {
        Stop::Usage(message) | Stop::Message(message) => Failure::Terse(message),
        Stop::Exit(_) => Failure::Terse(String::new()),
    }
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let checked = USAGE.parse(args, terminal).and_then(|parsed| options::check(&parsed).map(|action| (parsed, action)));
    let (parsed, action) = match checked {
        Ok(checked) => checked,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match act(&parsed, action, terminal) {
        Ok(()) => 0,
        Err(Failure::Terse(message)) => {
            terminal.line(message);
            1
        }
        Err(Failure::Thrown { class, message }) => {
            terminal.line(format_args!("Error: {message}"));
            terminal.line(format_args!("{class}: {message}"));
            1
        }
    }
}

fn act(parsed: &Parsed, action: &str, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let mut client = connect(parsed)?;
    let number = |name: &str, default: i64| parsed.number(name).map_err(text).map(|n| n.unwrap_or(default));
    let run = &mut run::Run { client: &mut client, terminal, timeout_ms: number("timeout", 10_000)? };
    match action {
        "list" => run.list(),
        "generate" => {
            let brokers = parsed.get("broker-list").map_err(text)?.unwrap_or_default();
            run.generate(&file(parsed, "topics-to-move-json-file")?, brokers, !parsed.has("disable-rack-aware"))
        }
        "verify" => run.verify(&file(parsed, "reassignment-json-file")?, parsed.has("preserve-throttles")),
        "cancel" => run.cancel(&file(parsed, "reassignment-json-file")?, parsed.has("preserve-throttles")),
        _ => {
            let wish = run::Wish {
                additional: parsed.has("additional"),
                may_change_factor: !parsed.has("disallow-replication-factor-change"),
                throttle: number("throttle", -1)?,
                dir_throttle: number("replica-alter-log-dirs-throttle", -1)?,
            };
            run.execute(&file(parsed, "reassignment-json-file")?, &wish)
        }
    }
}

fn connect(parsed: &Parsed) -> Result<Client, Failure> {
    let unusable =
        |message: &dyn Display| Failure::thrown("org.apache.kafka.common.KafkaException", message.to_string());
    let mut props = match parsed.get("command-config").map_err(text)? {
        Some(path) => Props::load(path).map_err(|message| unusable(&message))?,
        None => Props::default(),
    };
    if props.get("client.id").is_none() {
        props.set("client.id", "reassign-partitions-tool");
    }
    let controllers = parsed.get("bootstrap-controller").map_err(text)?;
    let bootstrap = controllers.or(parsed.get("bootstrap-server").map_err(text)?).unwrap_or_default();
    let mut settings = Settings::admin(bootstrap, &props).map_err(|error| unusable(&error))?;
    settings.controllers = controllers.is_some();
    Ok(Client::new(settings))
}

fn file(parsed: &Parsed, option: &str) -> Result<String, Failure> {
    let path = parsed.get(option).map_err(text)?.unwrap_or_default();
    std::fs::read_to_string(path)
        .map_err(|error| Failure::thrown("java.nio.file.NoSuchFileException", format!("{path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(args: &[&str]) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(main(&args, &mut Terminal { out: &mut out, err: &mut err }), 1);
        String::from_utf8(err).unwrap().lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn mistakes_as_recorded() {
        let first = mistake(&["--bootstrap-server", "127.0.0.1:19291"]);
        let golden = include_str!("../../tests/golden/reassign-no-action.txt");
        assert!(golden.lines().any(|line| line == first), "{first}");
        let first = mistake(&["--bootstrap-server", "127.0.0.1:1", "--verify"]);
        assert_eq!(first, "Missing required argument \"[reassignment-json-file]\"");
        let first = mistake(&["--bootstrap-server", "127.0.0.1:1", "--list", "--throttle", "5"]);
        assert_eq!(first, "Option \"[throttle]\" can't be used with action \"[list]\"");
    }
}
