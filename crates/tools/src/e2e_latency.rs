//! `kafka-e2e-latency`: how long a record takes from its producer to a consumer that waits for it.

use std::time::{Duration, Instant};

use protocol::json::java_double;

use crate::client::consumer::{Consumer, FetchConfig, Reset};
use crate::client::producer::{Producer, Record};
use crate::client::{Client, ClientError, NewTopic, Settings, Topics};
use crate::console_producer::producer_config;
use crate::jopt::{Parsed, Stop, Usage, optional, value};
use crate::props::Props;
use crate::terminal::{Terminal, wall_ms};

const POLL_MS: u64 = 60_000;
const REQUIRED: &[&str] = &["bootstrap-server", "topic", "num-records", "producer-acks", "record-size"];

const USAGE: Usage = Usage {
    about: "Sends one record at a time and measures how long it takes until a consumer has it.",
    examples: &[
        "zwirn e2e-latency --bootstrap-server localhost:9092 --topic t --num-records 1000 --producer-acks all \
         --record-size 100",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("topic", "The topic; made with one partition if there is none. Required."),
        value("num-records", "How many records. Required."),
        value("producer-acks", "Who acknowledges a record: 1 or all. Required."),
        value("record-size", "Bytes of a value. Required."),
        optional("record-key-size", "Bytes of a key (0)."),
        optional("record-header-key-size", "Bytes of a header's key (0)."),
        optional("record-header-size", "Bytes of a header's value (0), -1 for a null one."),
        optional("num-headers", "Headers of a record (0)."),
        optional("command-config", "Properties file for the clients."),
    ],
};

struct Options {
    topic: String,
    records: usize,
    value_size: usize,
    key_size: usize,
    headers: usize,
    header_key_size: usize,
    header_value_size: Option<usize>,
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let args = match named(args, terminal) {
        Ok(args) => args,
        Err(message) => {
            terminal.error(message);
            return 1;
        }
    };
    let result = USAGE.parse_with_help(&args, terminal).and_then(|parsed| Ok((read(&parsed)?, parsed)));
    let (options, parsed) = match result {
        Ok(read) => read,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match run(&options, &parsed, terminal) {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(message);
            1
        }
    }
}

/// The five or six arguments of old, in their order.
fn named(args: &[String], terminal: &mut Terminal<'_>) -> Result<Vec<String>, String> {
    let is_named = |arg: &String| REQUIRED.iter().any(|name| arg.strip_prefix("--") == Some(name));
    if args.is_empty() || args.iter().any(is_named) || args.iter().any(|arg| arg == "--help" || arg == "--version") {
        return Ok(args.to_vec());
    }
    if !(5..=6).contains(&args.len()) {
        return Err(format!(
            "Invalid number of arguments. Expected 5 or 6 positional arguments, but got {}. Usage: bootstrap-server \
             topic num-records producer-acks record-size [optional] command-config",
            args.len()
        ));
    }
    terminal.line(
        "WARNING: Positional argument usage is deprecated and will be removed in Apache Kafka 5.0. Please use named \
         arguments instead: --bootstrap-server, --topic, --num-records, --producer-acks, --record-size, --command-config",
    );
    let names = REQUIRED.iter().chain(&["command-config"]);
    Ok(names.zip(args).flat_map(|(name, value)| [format!("--{name}"), value.clone()]).collect())
}

fn size(parsed: &Parsed, name: &str, least: i32, more: &str) -> Result<i32, Stop> {
    let given = if parsed.all(name).is_empty() { None } else { parsed.number::<i32>(name)? };
    let given = given.unwrap_or(0);
    if given < least {
        return Err(Stop::Usage(format!("Value for --{name} must be a non-negative integer{more}.")));
    }
    Ok(given)
}

fn read(parsed: &Parsed) -> Result<Options, Stop> {
    parsed.require(REQUIRED)?;
    if !matches!(parsed.get("producer-acks")?, Some("1" | "all")) {
        let text = "Invalid value for --producer-acks. Latency testing requires synchronous acknowledgement. Please use \
                    '1' or 'all'.";
        return Err(Stop::Usage(text.to_owned()));
    }
    let records: i32 = parsed.number("num-records")?.unwrap_or(0);
    if records <= 0 {
        return Err(Stop::Usage("Value for --num-records must be a positive integer.".to_owned()));
    }
    let plain = |name: &str| Ok::<usize, Stop>(size(parsed, name, 0, "")? as usize);
    let header_value = size(parsed, "record-header-size", -1, " or -1 for null header value")?;
    Ok(Options {
        topic: parsed.get("topic")?.unwrap_or_default().to_owned(),
        records: records as usize,
        value_size: plain("record-size")?,
        key_size: plain("record-key-size")?,
        headers: plain("num-headers")?,
        header_key_size: plain("record-header-key-size")?,
        header_value_size: usize::try_from(header_value).ok(),
    })
}

/// One random letter, so often: a record tells itself from the one before, most of the time.
fn letters(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    vec![rng.u8(b'A'..=b'Z'); len]
}

fn run(options: &Options, parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let stop = |stop: Stop| match stop {
        Stop::Usage(text) | Stop::Message(text) => text,
        Stop::Exit(code) => format!("exit {code}"),
    };
    let bad = |error: ClientError| format!("{error}\n{}", error.exception());
    let mut props = match parsed.get("command-config").map_err(stop)? {
        Some(path) => Props::load(path)?,
        None => Props::default(),
    };
    props.check_supported()?;
    let bootstrap = parsed.get("bootstrap-server").map_err(stop)?.unwrap_or_default();
    let settings = |name: &str| {
        let mut settings = Settings::new(bootstrap, props.get("client.id").unwrap_or(name))?;
        settings.apply(&props)?;
        Ok(settings)
    };
    let (consumer_settings, producer_settings) =
        (settings("consumer-e2e-latency").map_err(bad)?, settings("producer-e2e-latency").map_err(bad)?);
    props.set("linger.ms", "0");
    props.set("acks", parsed.get("producer-acks").map_err(stop)?.unwrap_or("all"));
    let mut producer = Producer::new(producer_settings, producer_config(&props)?);
    let fetch = FetchConfig { max_wait: Duration::ZERO, reset: Reset::Latest, ..Default::default() };
    let mut consumer = Consumer::new(Client::new(consumer_settings), fetch);
    assign(&mut consumer, &options.topic, terminal).map_err(bad)?;
    let mut rng = fastrand::Rng::with_seed(0);
    let mut latencies = Vec::with_capacity(options.records.min(1 << 20));
    let mut total = Duration::ZERO;
    for i in 0..options.records {
        let elapsed = one(options, i, &mut rng, &mut producer, &mut consumer)?;
        if i % 1000 == 0 {
            terminal.line(format_args!("{i}\t{}", java_double(elapsed.as_nanos() as f64 / 1000.0 / 1000.0)));
            let _ = terminal.out.flush();
        }
        total += elapsed;
        latencies.push(elapsed.as_millis() as u64);
    }
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() as f64 * part) as usize).min(latencies.len() - 1)];
    let average = total.as_nanos() as f64 / options.records as f64 / 1000.0 / 1000.0;
    terminal.line(format_args!("Avg latency: {average:.4} ms"));
    terminal.line(format_args!("Percentiles: 50th = {}, 99th = {}, 99.9th = {}", at(0.5), at(0.99), at(0.999)));
    Ok(())
}

/// Reads all partitions from their ends on; makes the topic if need be.
fn assign(consumer: &mut Consumer, topic: &str, terminal: &mut Terminal<'_>) -> Result<(), ClientError> {
    let client = &mut consumer.client;
    if !client.topic_names()?.contains_key(topic) {
        terminal.line(format_args!(
            "Topic \"{topic}\" does not exist. Will create topic with 1 partition(s) and replication factor = 1"
        ));
        let new = NewTopic {
            name: topic.to_owned(),
            partitions: 1,
            replication_factor: 1,
            assignment: vec![],
            configs: vec![],
        };
        if let Err(error) = client.create_topic(&new) {
            terminal.line(format_args!("Creation of topic {topic} failed"));
            return Err(error);
        }
    }
    let deadline = Instant::now() + client.settings.api_timeout;
    loop {
        client.refresh("metadata", Topics::Named(&[topic]), false)?;
        let known = client.metadata.topics.get(topic);
        let partitions: Vec<i32> = known.into_iter().flat_map(|topic| topic.partitions.keys().copied()).collect();
        if !partitions.is_empty() && partitions.iter().all(|p| client.metadata.leader(topic, *p).is_some()) {
            let wanted: Vec<_> = partitions.iter().map(|p| ((topic.to_owned(), *p), -1)).collect();
            for ((topic, partition), end) in client.offsets(&wanted, false) {
                let end = end?.offset;
                consumer.assign(&topic, partition, Some(end));
            }
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(ClientError::Timeout(format!("Topic {topic} has partitions without a leader")));
        }
        std::thread::sleep(client.settings.retry_backoff);
    }
}

fn one(
    options: &Options,
    number: usize,
    rng: &mut fastrand::Rng,
    producer: &mut Producer,
    consumer: &mut Consumer,
) -> Result<Duration, String> {
    let key = letters(rng, options.key_size);
    let value = letters(rng, options.value_size);
    let headers: Vec<(Vec<u8>, Option<Vec<u8>>)> = (0..options.headers)
        .map(|_| (letters(rng, options.header_key_size), options.header_value_size.map(|len| letters(rng, len))))
        .collect();
    let borrowed: Vec<(&[u8], Option<&[u8]>)> = headers.iter().map(|(k, v)| (k.as_slice(), v.as_deref())).collect();
    let begun = Instant::now();
    let record = Record {
        topic: &options.topic,
        key: Some(&key),
        value: Some(&value),
        headers: &borrowed,
        timestamp_ms: wall_ms(),
        tag: number as u64,
        ..Default::default()
    };
    producer.send(&record).map_err(|error| error.exception())?;
    producer.flush();
    if let Some(Err(error)) = producer.outcomes().pop().map(|outcome| outcome.result) {
        return Err(format!("java.util.concurrent.ExecutionException: {}", error.exception()));
    }
    let mut read: Vec<(Option<Vec<u8>>, Option<Vec<u8>>, usize)> = Vec::new();
    while read.is_empty() {
        if begun.elapsed() > Duration::from_millis(POLL_MS) {
            return Err(format!("poll() timed out before finding a result (timeout:[{POLL_MS}ms])"));
        }
        let polled = consumer.poll(Duration::from_millis(100), |message| {
            let record = &message.record;
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            read.push((owned(record.key), owned(record.value), record.headers.clone().count()));
            true
        });
        polled.map_err(|error| error.exception())?;
    }
    let elapsed = begun.elapsed();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (got_key, got_value, got_headers) = &read[0];
    let got_value = got_value.clone().unwrap_or_default();
    if got_value != value {
        let (got, sent) = (text(&got_value), text(&value));
        return Err(format!("The message value read [{got}] did not match the message value sent [{sent}]"));
    }
    match got_key {
        Some(got) if *got != key => {
            let (got, sent) = (text(got), text(&key));
            return Err(format!("The message key read [{got}] did not match the message key sent [{sent}]"));
        }
        None => return Err("Expected message key but received null".to_owned()),
        Some(_) => {}
    }
    if *got_headers != headers.len() {
        return Err("Header count mismatch between sent and received messages".to_owned());
    }
    if read.len() != 1 {
        return Err(format!("Only one result was expected during this test. We found [{}]", read.len()));
    }
    Ok(elapsed)
}
