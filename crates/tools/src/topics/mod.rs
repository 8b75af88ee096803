//! `kafka-topics`: create, list, describe, alter, delete.

mod describe;
mod options;

use protocol::error::ErrorCode;
use regex_lite::Regex;

use crate::client::{Client, ClientError, NewTopic, Settings};
use crate::jopt::{Parsed, Stop, key_values};
use crate::props::Props;
use crate::terminal::Terminal;
use options::USAGE;

/// The logger's name in Kafka's lines on stderr.
const CLASS: &str = "org.apache.kafka.tools.TopicCommand";

/// A failed command: what stdout says and the exception that the log names.
struct Failure {
    message: String,
    exception: String,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let message = error.to_string();
        // Kafka's own tool checks values before it sends them, with another exception than the broker's.
        let by_value = error.code() == Some(ErrorCode::InvalidConfig) && message.starts_with("Invalid value ");
        let exception = match by_value {
            true => format!("org.apache.kafka.common.config.ConfigException: {message}"),
            false => error.exception(),
        };
        Failure { message, exception }
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Failure {
        match stop {
            Stop::Usage(text) | Stop::Message(text) => illegal(text),
            Stop::Exit(code) => illegal(format!("exit {code}")),
        }
    }
}

fn illegal(message: String) -> Failure {
    let exception = format!("java.lang.IllegalArgumentException: {message}");
    Failure { message, exception }
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match USAGE.parse(args, terminal).and_then(|parsed| options::check(&parsed, terminal).map(|()| parsed))
    {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    let client = match connect(&parsed) {
        Ok(client) => client,
        Err(message) => return Stop::Message(message).report(&USAGE, terminal),
    };
    match run(&parsed, client, terminal) {
        Ok(()) => 0,
        Err(failure) => {
            terminal.line(format_args!("Error while executing topic command : {}", failure.message));
            terminal.log_exception(&failure.exception, CLASS);
            1
        }
    }
}

fn connect(parsed: &Parsed) -> Result<Client, String> {
    let text = |stop: Stop| match stop {
        Stop::Usage(text) | Stop::Message(text) => text,
        Stop::Exit(_) => String::new(),
    };
    let props = match parsed.get("command-config").map_err(text)? {
        Some(path) => Props::load(path)?,
        None => Props::default(),
    };
    let bootstrap = parsed.get("bootstrap-server").map_err(text)?.unwrap_or_default();
    let settings = Settings::admin(bootstrap, &props).map_err(|error| error.to_string())?;
    Ok(Client::new(settings))
}

fn run(parsed: &Parsed, mut client: Client, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    if parsed.has("create") {
        create(parsed, &mut client, terminal)
    } else if parsed.has("alter") {
        alter(parsed, &mut client)
    } else if parsed.has("list") {
        let names = matching(parsed, &mut client)?;
        terminal.line(names.join("\n"));
        Ok(())
    } else if parsed.has("describe") {
        describe::run(parsed, &mut client, terminal)
    } else {
        delete(parsed, &mut client)
    }
}

fn create(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let name = parsed.get("topic")?.unwrap_or_default().to_owned();
    if name.contains(['.', '_']) {
        terminal.line(
            "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore ('_') could collide. \
             To avoid issues it is best to use either, but not both.",
        );
    }
    let partitions: Option<i32> = parsed.number("partitions")?;
    let replication_factor: Option<i32> = parsed.number("replication-factor")?;
    if replication_factor.is_some_and(|rf| !(1..=i32::from(i16::MAX)).contains(&rf)) {
        return Err(illegal(format!("The replication factor must be between 1 and {} inclusive", i16::MAX)));
    }
    if partitions.is_some_and(|count| count < 1) {
        return Err(illegal("The partitions must be greater than 0".to_owned()));
    }
    let assignment = match parsed.get("replica-assignment")?.filter(|text| !text.is_empty()) {
        Some(text) => parse_assignment(text).map_err(illegal)?,
        None => vec![],
    };
    let topic = NewTopic {
        name,
        partitions: partitions.unwrap_or(-1),
        replication_factor: replication_factor.map_or(-1, |rf| rf as i16),
        assignment,
        configs: configs(parsed)?,
    };
    match client.create_topic(&topic) {
        Ok(()) => {
            terminal.line(format_args!("Created topic {}.", topic.name));
            Ok(())
        }
        Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) && parsed.has("if-not-exists") => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn configs(parsed: &Parsed) -> Result<Vec<(String, String)>, Failure> {
    let given = parsed.all("config");
    match given.iter().find(|config| !config.contains('=')) {
        Some(config) => Err(illegal(format!("Invalid topic config: {config} is not in the format \"key=val\"."))),
        None => Ok(key_values(given)
            .into_iter()
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect()),
    }
}

fn alter(parsed: &Parsed, client: &mut Client) -> Result<(), Failure> {
    let names = matching(parsed, client)?;
    ensure_exists(&names, parsed)?;
    let partitions: i32 = parsed.number("partitions")?.unwrap_or(-1);
    let assignment = match parsed.get("replica-assignment")?.filter(|text| !text.is_empty()) {
        Some(text) => Some(parse_assignment(text).map_err(illegal)?),
        None => None,
    };
    for name in names {
        // The assignment names all partitions; the broker wants those of the new ones.
        let existing = client.metadata.topics.get(&name).map_or(0, |topic| topic.partitions.len());
        let new = assignment.as_ref().map(|all| all.get(existing..).unwrap_or_default());
        client.create_partitions(&name, partitions, new)?;
    }
    Ok(())
}

fn delete(parsed: &Parsed, client: &mut Client) -> Result<(), Failure> {
    let names = matching(parsed, client)?;
    ensure_exists(&names, parsed)?;
    for name in names {
        client.delete_topic(&name)?;
    }
    Ok(())
}

/// Names of the cluster's topics that `--topic` matches as a whole, sorted.
fn matching(parsed: &Parsed, client: &mut Client) -> Result<Vec<String>, Failure> {
    let filter = parsed.get("topic")?.map(topic_filter).transpose().map_err(illegal)?;
    let all = client.topic_names()?;
    let hide = parsed.has("exclude-internal");
    Ok(all
        .into_iter()
        .filter(|(name, internal)| !(hide && *internal) && filter.as_ref().is_none_or(|regex| regex.is_match(name)))
        .map(|(name, _)| name)
        .collect())
}

/// A regular expression for whole names, in which a comma separates alternatives.
pub fn topic_filter(text: &str) -> Result<Regex, String> {
    let pattern = text.trim().replace(',', "|").replace(' ', "");
    let pattern = pattern.trim_matches(['"', '\'']);
    Regex::new(&format!("^(?:{pattern})$")).map_err(|_| format!("{pattern} is an invalid regex."))
}

fn ensure_exists(found: &[String], parsed: &Parsed) -> Result<(), Failure> {
    match parsed.get("topic")? {
        Some(wanted) if found.is_empty() && !parsed.has("if-exists") => {
            Err(illegal(format!("Topic '{wanted}' does not exist as expected")))
        }
        _ => Ok(()),
    }
}

/// `1:2,2:3`: the brokers of partition 0, of partition 1, …, all with as many replicas.
fn parse_assignment(text: &str) -> Result<Vec<Vec<i32>>, String> {
    let mut out: Vec<Vec<i32>> = Vec::new();
    for (i, part) in text.split(',').enumerate() {
        let brokers = part.split(':').map(|id| id.trim().parse::<i32>());
        let brokers: Vec<i32> =
            brokers.collect::<Result<_, _>>().map_err(|_| format!("For input string: \"{}\"", part.trim()))?;
        let mut unique = brokers.clone();
        unique.sort_unstable();
        unique.dedup();
        if unique.len() != brokers.len() {
            return Err(format!("Partition {i} of the replica assignment names a broker twice: {part}"));
        }
        if out.first().is_some_and(|first| first.len() != brokers.len()) {
            return Err(format!("Partition {i} of the replica assignment has another number of replicas: {part}"));
        }
        out.push(brokers);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_whole_names() {
        let matches = |filter: &str, name: &str| topic_filter(filter).unwrap().is_match(name);
        assert!(matches("t-.*", "t-one") && !matches("t-.*", "at-one") && !matches("t", "t-one"));
        assert!(matches("a,b", "b") && matches("'a'", "a") && !matches("a,b", "ab"));
        assert!(topic_filter("(").is_err());
    }

    #[test]
    fn assignments() {
        assert_eq!(parse_assignment("1:2,2:3").unwrap(), [vec![1, 2], vec![2, 3]]);
        assert!(
            parse_assignment("1:1").is_err() && parse_assignment("1:2,3").is_err() && parse_assignment("x").is_err()
        );
    }
}
