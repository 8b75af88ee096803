//! The options of `kafka-console-consumer`.

use std::time::Duration;

use regex_lite::Regex;

use super::formatter::Formatter;
use crate::client::consumer::{FetchConfig, Reset};
use crate::client::member::MemberConfig;
use crate::client::{ClientError, Settings};
use crate::jopt::{Parsed, Stop, Usage, flag, key_values, value};
use crate::props::Props;
use crate::random::rng;
use crate::terminal::Terminal;

pub const USAGE: Usage = Usage {
    about: "Prints the records of topics, from now on or from their beginning.\n\
            Without --partition it is a member of a group: of --group, or of one of its own that nobody else uses.",
    examples: &[
        "zwirn console-consumer --bootstrap-server localhost:9092 --topic orders --from-beginning",
        "zwirn console-consumer --bootstrap-server localhost:9092 --topic orders --partition 0 --offset 42 --max-messages 1",
        "zwirn console-consumer --bootstrap-server localhost:9092 --topic orders --group billing",
        "zwirn console-consumer --bootstrap-server localhost:9092 --topic orders --formatter-property print.key=true",
    ],
    options: &[
        value("topic", "Topic to read."),
        value("include", "Regular expression of topics to read."),
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("partition", "Only this partition; from its end unless --offset or --from-beginning says otherwise."),
        value("offset", "With --partition: earliest, latest (default) or a number."),
        flag("from-beginning", "Start with the oldest record rather than with the next."),
        value("max-messages", "Stop after so many records."),
        value("timeout-ms", "Stop when no record came for so long."),
        value(
            "group",
            "Consumer group to join. It goes on where the group has left off, and commits every five seconds.",
        ),
        value("isolation-level", "read_uncommitted (default), or read_committed to leave out aborted transactions."),
        value(
            "formatter",
            "One of Kafka's formatters, by class name: Default-, Logging-, NoOp-, and for the topics of coordinators\n                                    Offsets-, GroupMetadata-, ShareGroup-, TransactionLog-, ShareGroupStateMessageFormatter.",
        ),
        value(
            "formatter-property",
            "print.timestamp, print.partition, print.offset, print.epoch, print.headers, print.key,\n                                    print.value, key.separator, line.separator, headers.separator, null.literal,\n                                    key.deserializer, value.deserializer, header.deserializer.",
        ),
        value("formatter-config", "Properties file with the same."),
        value("property", "Old name of --formatter-property."),
        value("key-deserializer", "Class name of one of Kafka's standard deserializers."),
        value("value-deserializer", "The same for values."),
        flag("skip-message-on-error", "Go on after a record that cannot be shown."),
        flag("enable-systest-events", "Say shutdown_complete at the end, for tests of systems."),
        value("command-property", "Consumer configuration, key=value."),
        value("command-config", "Consumer configuration, properties file."),
        value("consumer-property", "Old name of --command-property."),
        value("consumer.config", "Old name of --command-config."),
    ],
};

#[derive(Debug)]
pub enum Wanted {
    Topic(String),
    Matching(Regex),
    /// And the offset, if it is given as a number.
    Partition(String, i32, Option<i64>),
}

#[derive(Debug)]
pub struct Options {
    pub wanted: Wanted,
    pub fetch: FetchConfig,
    pub formatter: Formatter,
    pub max_messages: Option<u64>,
    pub timeout: Option<Duration>,
    pub skip_errors: bool,
    pub systest_events: bool,
    /// How to be a member of a group; not used with `--partition`.
    pub member: MemberConfig,
    /// The group was named, rather than made up.
    pub group_given: bool,
    bootstrap: String,
    /// Told when the consumer is made, as by Kafka's.
    bad_isolation: Option<String>,
    props: Props,
}

impl Options {
    pub fn of(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<Options, Stop> {
        required(parsed)?;
        let props = consumer_props(parsed, terminal)?;
        let partition: Option<i32> = parsed.number("partition")?;
        let group = parsed.get("group")?.or(props.get("group.id"));
        if let (Some(one), Some(other)) = (group, props.get("group.id"))
            && one != other
        {
            return Err(Stop::Usage(format!(
                "The group ids provided in different places (directly using '--group', via '--consumer-property', or via \
                 '--consumer.config') do not match. Detected group ids: '{one}', '{other}'"
            )));
        }
        if group.is_some() && partition.is_some() {
            return Err(Stop::Usage("Options group and partition cannot be specified together.".to_owned()));
        }
        let member = member_config(group, &props)?;
        let (reset, offset) = start(parsed, &props)?;
        let topic = parsed.get("topic")?.map(str::to_owned);
        let wanted = match (topic, partition, parsed.get("include")?) {
            (Some(topic), Some(partition), _) => Wanted::Partition(topic, partition, offset),
            (Some(topic), None, _) => Wanted::Topic(topic),
            (None, _, include) => Wanted::Matching(include_regex(include.unwrap_or_default())?),
        };
        let level = parsed.get("isolation-level")?.or(props.get("isolation.level")).unwrap_or("read_uncommitted");
        let bad_isolation = (!matches!(level, "read_committed" | "read_uncommitted")).then(|| level.to_owned());
        let read_committed = level == "read_committed";
        let timeout: Option<i64> = parsed.number("timeout-ms")?;
        let max: Option<i64> = parsed.number("max-messages")?;
        let formatter =
            Formatter::new(parsed.get("formatter")?, &formatter_props(parsed, terminal)?).map_err(Stop::Usage)?;
        Ok(Options {
            wanted,
            fetch: FetchConfig { read_committed, reset, ..Default::default() },
            formatter,
            max_messages: max.and_then(|max| u64::try_from(max).ok()),
            timeout: timeout.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
            skip_errors: parsed.has("skip-message-on-error"),
            systest_events: parsed.has("enable-systest-events"),
            group_given: group.is_some(),
            member,
            bootstrap: parsed.get("bootstrap-server")?.unwrap_or_default().to_owned(),
            bad_isolation,
            props,
        })
    }

    /// A member of a group, of the protocol before KIP-848.
    pub fn speaks_classic(&self) -> bool {
        let protocol = self.props.get("group.protocol").unwrap_or("classic");
        !matches!(self.wanted, Wanted::Partition(..)) && protocol.eq_ignore_ascii_case("classic")
    }

    pub fn settings(&self) -> Result<Settings, ClientError> {
        self.props.check_supported().map_err(ClientError::Bootstrap)?;
        if let Some(level) = &self.bad_isolation {
            return Err(ClientError::Bootstrap(format!(
                "Invalid value {level} for configuration isolation.level: String must be one of: read_committed, \
                 read_uncommitted"
            )));
        }
        let client_id = self.props.get("client.id").unwrap_or("console-consumer");
        let mut settings = Settings::new(&self.bootstrap, client_id)?;
        let group = if matches!(self.wanted, Wanted::Partition(..)) { "null" } else { &self.member.group };
        settings.warn_as = Some(format!("Consumer clientId={client_id}, groupId={group}"));
        settings.apply(&self.props)?;
        Ok(settings)
    }
}

/// Kafka's defaults. A group that was made up commits nothing: nobody will ask for its offsets.
pub fn member_config(group: Option<&str>, props: &Props) -> Result<MemberConfig, Stop> {
    let int = |key: &str, default: i32| {
        props.number::<i32>(key, "INT").map(|given| given.unwrap_or(default)).map_err(Stop::Message)
    };
    let ms = |key: &str, default: u64| {
        let given = props.number::<u64>(key, "INT").map_err(Stop::Message)?;
        Ok::<_, Stop>(Duration::from_millis(given.unwrap_or(default)))
    };
    let commits = props.bool("enable.auto.commit", group.is_some());
    let interval = ms("auto.commit.interval.ms", 5_000)?;
    Ok(MemberConfig {
        group: match group {
            Some(group) => group.to_owned(),
            None => format!("console-consumer-{}", rng().u32(0..100_000)),
        },
        instance_id: props.get("group.instance.id").map(str::to_owned),
        session_timeout_ms: int("session.timeout.ms", 45_000)?,
        rebalance_timeout_ms: int("max.poll.interval.ms", 300_000)?,
        heartbeat: ms("heartbeat.interval.ms", 3_000)?,
        auto_commit: commits.then_some(interval),
        new_protocol: new_protocol(props)?,
        remote_assignor: props.get("group.remote.assignor").filter(|name| !name.is_empty()).map(str::to_owned),
    })
}

/// Some settings belong to the broker in the new protocol, and are refused beside it, as by Kafka's consumer.
fn new_protocol(props: &Props) -> Result<bool, Stop> {
    match props.get("group.protocol").unwrap_or("classic").to_ascii_lowercase().as_str() {
        "classic" => return Ok(false),
        "consumer" => {}
        other => {
            return Err(Stop::Message(format!(
                "Invalid value {other} for configuration group.protocol: String must be one of (case insensitive): \
                 CONSUMER, CLASSIC"
            )));
        }
    }
    let taken = ["partition.assignment.strategy", "heartbeat.interval.ms", "session.timeout.ms"];
    match taken.iter().find(|key| props.get(key).is_some()) {
        Some(key) => Err(Stop::Message(format!("{key} cannot be set when group.protocol=CONSUMER"))),
        None => Ok(true),
    }
}

fn required(parsed: &Parsed) -> Result<(), Stop> {
    if parsed.has("topic") == parsed.has("include") {
        let text = "Exactly one of the following arguments is required: [topic], [include]";
        return Err(Stop::Usage(text.to_owned()));
    }
    if parsed.has("partition") {
        if !parsed.has("topic") {
            return Err(Stop::Usage("The topic is required when partition is specified.".to_owned()));
        }
        if parsed.has("from-beginning") && parsed.has("offset") {
            let text = "Options from-beginning and offset cannot be specified together.";
            return Err(Stop::Usage(text.to_owned()));
        }
    } else if parsed.has("offset") {
        return Err(Stop::Usage("The partition is required when offset is specified.".to_owned()));
    }
    parsed.require(&["bootstrap-server"])
}

/// Where to begin, and the offset if it is a number.
fn start(parsed: &Parsed, props: &Props) -> Result<(Reset, Option<i64>), Stop> {
    let beginning = parsed.has("from-beginning");
    let configured = props.get("auto.offset.reset");
    if let Some(other) = configured.filter(|value| beginning && *value != "earliest") {
        return Err(Stop::Message(format!(
            "Can't simultaneously specify --from-beginning and 'auto.offset.reset={other}', please remove one option"
        )));
    }
    let reset = match (beginning, configured) {
        (true, _) | (_, Some("earliest")) => Reset::Earliest,
        (_, Some("none")) => Reset::None,
        _ => Reset::Latest,
    };
    let Some(text) = parsed.get("offset")? else { return Ok((reset, None)) };
    match text.to_ascii_lowercase().as_str() {
        "earliest" => Ok((Reset::Earliest, None)),
        "latest" => Ok((Reset::Latest, None)),
        number => match number.parse::<i64>().ok().filter(|offset| *offset >= 0) {
            Some(offset) => Ok((reset, Some(offset))),
            None => Err(Stop::Usage(format!(
                "The provided offset value '{text}' is incorrect. Valid values are 'earliest', 'latest', or a \
                 non-negative long."
            ))),
        },
    }
}

fn include_regex(text: &str) -> Result<Regex, Stop> {
    Regex::new(&format!("^(?:{text})$")).map_err(|_| Stop::Message(format!("--include {text} is an invalid regex.")))
}

fn consumer_props(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<Props, Stop> {
    for (old, new) in [("consumer-property", "command-property"), ("consumer.config", "command-config")] {
        if parsed.has(old) && parsed.has(new) {
            return Err(Stop::Usage(format!("Options --{old} and --{new} cannot be specified together.")));
        }
        if parsed.has(old) {
            terminal.line(deprecated(old, new));
        }
    }
    let file = parsed.get("command-config")?.or(parsed.get("consumer.config")?);
    let mut props = match file {
        Some(path) => Props::load(path).map_err(Stop::Message)?,
        None => Props::default(),
    };
    for name in ["consumer-property", "command-property"] {
        for (key, value) in key_values(parsed.all(name)) {
            props.set(&key, value);
        }
    }
    Ok(props)
}

fn deprecated(old: &str, new: &str) -> String {
    format!("Option --{old} is deprecated and will be removed in a future version. Use --{new} instead.")
}

fn formatter_props(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<Props, Stop> {
    if parsed.has("property") && parsed.has("formatter-property") {
        let text = "Options --property and --formatter-property cannot be specified together.";
        return Err(Stop::Usage(text.to_owned()));
    }
    if parsed.has("property") {
        terminal.line(deprecated("property", "formatter-property"));
    }
    let mut props = match parsed.get("formatter-config")? {
        Some(path) => Props::load(path).map_err(Stop::Message)?,
        None => Props::default(),
    };
    for name in ["property", "formatter-property"] {
        for (key, value) in key_values(parsed.all(name)) {
            props.set(&key, value);
        }
    }
    for (flag, key) in [("key-deserializer", "key.deserializer"), ("value-deserializer", "value.deserializer")] {
        if let Some(class) = parsed.get(flag)? {
            props.set(key, class);
        }
    }
    Ok(props)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(args: &[&str]) -> Option<String> {
        let args: Vec<String> = ["--bootstrap-server", "h:1"].iter().chain(args).map(|s| (*s).to_owned()).collect();
        let mut terminal = Terminal { out: &mut Vec::new(), err: &mut Vec::new() };
        match USAGE.parse(&args, &mut terminal).and_then(|parsed| Options::of(&parsed, &mut terminal)) {
            Ok(_) => None,
            Err(Stop::Usage(text) | Stop::Message(text)) => Some(text),
            Err(Stop::Exit(code)) => Some(code.to_string()),
        }
    }

    #[test]
    fn recorded_mistakes() {
        let golden = include_str!("../../tests/golden/console-consumer-no-topic.txt");
        assert!(golden.contains(&stop(&["--partition", "0"]).unwrap()));
        let golden = include_str!("../../tests/golden/console-consumer-offset-without-partition.txt");
        assert!(golden.contains(&stop(&["--topic", "t-one", "--offset", "1"]).unwrap()));
    }

    #[test]
    fn what_goes_together() {
        assert_eq!(stop(&["--topic", "t", "--partition", "0", "--offset", "earliest"]), None);
        assert!(stop(&["--topic", "t", "--partition", "0", "--offset", "-3"]).is_some());
        assert!(stop(&["--topic", "t", "--partition", "0", "--offset", "1", "--from-beginning"]).is_some());
        assert_eq!(stop(&["--topic", "t", "--group", "g"]), None);
        assert!(stop(&["--topic", "t", "--group", "g", "--partition", "0"]).is_some());
        assert!(
            stop(&["--topic", "t", "--from-beginning", "--command-property", "auto.offset.reset=latest"]).is_some()
        );
    }
}
