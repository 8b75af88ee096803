//! `kafka-delete-records`: deletes the records below an offset, partition by partition.

use serde_json::Value;

use crate::client::consumer::TopicPartition;
use crate::client::{Client, Settings, Topics};
use crate::java::partition_order;
use crate::jopt::{Parsed, Stop, Usage, value};
use crate::props::Props;
use crate::terminal::Terminal;

const USAGE: Usage = Usage {
    about: "Deletes the oldest records of partitions, up to an offset that stays.",
    examples: &[
        "zwirn delete-records --bootstrap-server localhost:9092 --offset-json-file offsets.json",
        "offsets.json: {\"partitions\": [{\"topic\": \"orders\", \"partition\": 0, \"offset\": 42}], \"version\": 1}",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("offset-json-file", "The offsets, see the example; -1 stands for the high watermark. Required."),
        value("command-config", "Properties file for the client."),
    ],
};

/// Kafka's classes of the exceptions for files that make no sense.
const OPERATION: &str = "org.apache.kafka.server.common.AdminOperationException";
const COMMAND: &str = "org.apache.kafka.server.common.AdminCommandFailedException";

struct Failure {
    class: &'static str,
    message: String,
}

fn failure(class: &'static str) -> impl Fn(String) -> Failure {
    move |message| Failure { class, message }
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let required = |parsed: Parsed| parsed.require(&["bootstrap-server", "offset-json-file"]).map(|()| parsed);
    let parsed = match USAGE.parse(args, terminal).and_then(required) {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(failure) => {
            terminal.error(&failure.message);
            terminal.error(format_args!("{}: {}", failure.class, failure.message));
            1
        }
    }
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let option = |name: &str| {
        parsed.get(name).map(|value| value.map(str::to_owned)).map_err(|stop| {
            let (Stop::Usage(message) | Stop::Message(message)) = stop else {
                return failure(OPERATION)(String::new());
            };
            failure("joptsimple.OptionException")(message)
        })
    };
    let path = option("offset-json-file")?.unwrap_or_default();
    let text = std::fs::read_to_string(&path)
        .map_err(|_| failure("java.io.IOException")(format!("Unable to read file {path}")))?;
    let mut offsets = parse(&text)?;
    let io = failure("java.io.IOException");
    let props = match option("command-config")? {
        Some(path) => Props::load(&path).map_err(io)?,
        None => Props::default(),
    };
    let bootstrap = option("bootstrap-server")?.unwrap_or_default();
    let settings = Settings::admin(&bootstrap, &props)
        .map_err(|error| failure("org.apache.kafka.common.KafkaException")(error.to_string()))?;
    let mut client = Client::new(settings);
    terminal.line("Executing records delete operation");
    let topics: Vec<&str> = offsets.iter().map(|((topic, _), _)| topic.as_str()).collect();
    client
        .refresh("deleteRecords", Topics::Named(&topics), false)
        .map_err(|error| failure("java.util.concurrent.ExecutionException")(error.exception()))?;
    terminal.line("Records delete operation completed:");
    partition_order(&mut offsets, |((topic, partition), _)| (topic, *partition));
    for ((topic, partition), offset) in &offsets {
        match client.delete_records(topic, *partition, *offset) {
            Ok(low) => terminal.line(format_args!("partition: {topic}-{partition}\tlow_watermark: {low}")),
            Err(error) => {
                if let Some(code) = error.code() {
                    let message = format!(
                        "[AdminClient clientId=adminclient-1] DeleteRecords request for topic partition \
                         {topic}-{partition} failed due to an unexpected error {}",
                        code.name()
                    );
                    terminal.log("ERROR", &message, "org.apache.kafka.clients.admin.internals.DeleteRecordsHandler");
                }
                terminal.line(format_args!("partition: {topic}-{partition}\terror: {}", error.exception()));
            }
        }
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<(TopicPartition, i64)>, Failure> {
    let bad = failure(OPERATION);
    let json: Value = serde_json::from_str(text).map_err(|_| bad("The input string is not a valid JSON".to_owned()))?;
    match json.get("version") {
        None => {}
        Some(version) if version.as_i64() == Some(1) => {}
        Some(version) => return Err(bad(format!("Not supported version field value {version}"))),
    }
    let partitions = json.get("partitions").and_then(Value::as_array);
    let partitions = partitions.ok_or_else(|| bad("Missing partitions field".to_owned()))?;
    let mut out: Vec<(TopicPartition, i64)> = Vec::with_capacity(partitions.len());
    let mut twice: Vec<String> = Vec::new();
    for entry in partitions {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(Value::as_i64).and_then(|p| i32::try_from(p).ok());
        let offset = entry.get("offset").and_then(Value::as_i64);
        let (Some(topic), Some(partition), Some(offset)) = (topic, partition, offset) else {
            return Err(bad(format!("An entry of partitions needs topic, partition and offset: {entry}")));
        };
        let key = (topic.to_owned(), partition);
        let name = format!("{topic}-{partition}");
        if out.iter().any(|(known, _)| *known == key) && !twice.contains(&name) {
            twice.push(name);
        }
        out.push((key, offset));
    }
    match twice.is_empty() {
        true => Ok(out),
        false => {
            Err(failure(COMMAND)(format!("Offset json file contains duplicate topic partitions: {}", twice.join(","))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let text = r#"{"partitions": [{"topic": "t", "partition": 1, "offset": 5}], "version": 1}"#;
        assert_eq!(parse(text).ok(), Some(vec![(("t".to_owned(), 1), 5)]));
        let message = |text: &str| parse(text).err().map(|f| f.message).unwrap_or_default();
        assert!(message("{").contains("not a valid JSON"));
        assert!(message("{}").contains("Missing partitions"));
        assert!(message(r#"{"partitions": [], "version": 2}"#).ends_with("value 2"));
        let entry = r#"{"topic": "t", "partition": 1, "offset": 5}"#;
        assert!(message(&format!(r#"{{"partitions": [{entry},{entry}]}}"#)).ends_with("partitions: t-1"));
    }

    #[test]
    fn a_missing_file_as_recorded() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = ["--bootstrap-server", "127.0.0.1:19291", "--offset-json-file", "nope.json"];
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(main(&args, &mut Terminal { out: &mut out, err: &mut err }), 1);
        let golden = include_str!("../tests/golden/delete-records-missing-file.txt");
        assert!(golden.contains(String::from_utf8(err).unwrap().as_str()) && out.is_empty());
    }
}
