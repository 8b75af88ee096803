//! `kafka-verifiable-producer`: sends 0, 1, 2, … and tells each record's fate as a line of JSON, for tests that check
//! afterwards what was promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protocol::json::{java_double, quoted};

use crate::argparse::{Parsed, Program, required, value};
use crate::client::producer::{Producer, Record};
use crate::client::{ClientError, Settings};
use crate::console_producer::producer_config;
use crate::props::Props;
use crate::terminal::{Terminal, wall_ms};

const PROGRAM: Program = Program {
    name: "verifiable-producer",
    about: "Sends growing numbers and tells what became of each as a line of JSON.",
    examples: &["zwirn verifiable-producer --bootstrap-server localhost:9092 --topic t --max-messages 100"],
    options: &[
        required("topic", "", "Topic to send to."),
        required("bootstrap-server", "", "Brokers to start from, host:port separated by commas."),
        value("max-messages", "", "How many; -1 (default) until the process is stopped."),
        value("throughput", "", "Records per second; -1 (default) for as many as possible."),
        value("acks", "", "0, 1 or -1 (default)."),
        value("message-create-time", "", "Timestamp of the first record; the others follow as time goes by."),
        value("value-prefix", "", "A number and a point in front of every value."),
        value("repeating-keys", "", "Keys 0, 1, … below this number, again and again."),
        value("command-config", "", "Properties file for the producer."),
        value("producer.config", "", "Old name of --command-config."),
    ],
    commands: &[],
};

/// What has been said of a record and is still needed for its answer.
struct Sent {
    key: Option<String>,
    value: String,
}

struct Options {
    topic: String,
    count: u64,
    throughput: i64,
    prefix: Option<i32>,
    keys: Option<u64>,
    create_time: Option<i64>,
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
        Ok((options, producer)) => run(options, producer, terminal),
        Err(message) => PROGRAM.refuse(args, &message, terminal),
    }
}

/// The configuration that a verifiable tool is given, in its new or its old option.
pub fn command_config(parsed: &Parsed, old: &str, terminal: &mut Terminal<'_>) -> Result<Props, String> {
    if parsed.has(old) && parsed.has("command-config") {
        return Err(format!("Options --{old} and --command-config are mutually exclusive."));
    }
    if parsed.has(old) {
        terminal.line(format_args!(
            "Option --{old} has been deprecated and will be removed in a future version. Use --command-config instead."
        ));
    }
    match parsed.get(old).or(parsed.get("command-config")) {
        Some(path) => Props::load(path),
        None => Ok(Props::default()),
    }
}

fn prepare(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(Options, Producer), String> {
    let acks = parsed.get("acks").unwrap_or("-1");
    if !matches!(acks, "0" | "1" | "-1") {
        return Err(format!("argument --acks: invalid choice: '{acks}' (choose from {{0,1,-1}})"));
    }
    let create_time: i64 = parsed.number("message-create-time")?.unwrap_or(-1);
    let count: i64 = parsed.number("max-messages")?.unwrap_or(-1);
    let options = Options {
        topic: parsed.get("topic").unwrap_or_default().to_owned(),
        count: u64::try_from(count).unwrap_or(u64::MAX),
        throughput: parsed.number("throughput")?.unwrap_or(-1),
        prefix: parsed.number("value-prefix")?,
        keys: parsed.number("repeating-keys")?,
        create_time: (create_time != -1).then_some(create_time),
    };
    let file = command_config(parsed, "producer.config", terminal)?;
    file.check_supported()?;
    // What a file says goes before what the options say, as in Kafka's tool.
    let mut props = Props::default();
    props.set("acks", acks);
    props.set("retries", "0");
    for (key, value) in file.iter() {
        props.set(key, value);
    }
    let bootstrap = parsed.get("bootstrap-server").unwrap_or_default();
    let client_id = props.get("client.id").unwrap_or("producer-1");
    let mut settings = Settings::new(bootstrap, client_id).map_err(|error| error.exception())?;
    settings.warn_as = Some(format!("Producer clientId={client_id}"));
    settings.apply(&props).map_err(|error| error.exception())?;
    Ok((options, Producer::new(settings, producer_config(&props)?)))
}

/// A line of JSON with the moment and the name of what happened in front.
pub fn event(name: &str, fields: &str, terminal: &mut Terminal<'_>) {
    terminal.line(format_args!("{{\"timestamp\":{},\"name\":\"{name}\"{fields}}}", wall_ms()));
    let _ = terminal.out.flush();
}

/// A string or null.
pub fn text_or_null(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), quoted)
}

/// Ctrl-C and its like end the tool in good order.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // If the signal cannot be caught, it ends the tool without its last lines.
        let _ = signal_hook::flag::register(signal, stop.clone());
    }
    stop
}

fn run(options: Options, mut producer: Producer, terminal: &mut Terminal<'_>) -> u8 {
    let stop = stop_flag();
    let begun = (Instant::now(), wall_ms());
    let mut sent: std::collections::BTreeMap<u64, Sent> = std::collections::BTreeMap::new();
    let (mut count, mut acked) = (0u64, 0u64);
    let mut create_time = options.create_time;
    event("startup_complete", "", terminal);
    while count < options.count && !stop.load(Ordering::Relaxed) {
        let value = match options.prefix {
            Some(prefix) => format!("{prefix}.{count}"),
            None => count.to_string(),
        };
        let key = options.keys.filter(|keys| *keys > 0).map(|keys| (count % keys).to_string());
        let record = Record {
            topic: &options.topic,
            key: key.as_deref().map(str::as_bytes),
            value: Some(value.as_bytes()),
            timestamp_ms: create_time.unwrap_or_else(wall_ms),
            tag: count,
            ..Default::default()
        };
        if let Some(time) = &mut create_time {
            *time = time.saturating_add(wall_ms() - begun.1);
        }
        match producer.send(&record) {
            Ok(()) => {
                sent.insert(count, Sent { key, value });
            }
            Err(error) => failure(&options.topic, &Sent { key, value }, &error, terminal),
        }
        count += 1;
        producer.poll(Duration::ZERO);
        acked += report(&options.topic, &mut producer, &mut sent, terminal);
        if options.throughput > 0 {
            let due = begun.0 + Duration::from_secs_f64(count as f64 / options.throughput as f64);
            while !stop.load(Ordering::Relaxed)
                && let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            {
                producer.poll(left);
                acked += report(&options.topic, &mut producer, &mut sent, terminal);
            }
        }
    }
    producer.flush();
    acked += report(&options.topic, &mut producer, &mut sent, terminal);
    event("shutdown_complete", "", terminal);
    let average = 1000.0 * (acked as f64 / begun.0.elapsed().as_millis().max(1) as f64);
    let fields = format!(
        ",\"sent\":{count},\"acked\":{acked},\"target_throughput\":{},\"avg_throughput\":{}",
        options.throughput,
        java_double(average)
    );
    event("tool_data", &fields, terminal);
    0
}

fn failure(topic: &str, sent: &Sent, error: &ClientError, terminal: &mut Terminal<'_>) {
    let exception = error.exception();
    let class = exception.split_once(": ").map_or(exception.as_str(), |(class, _)| class);
    let fields = format!(
        ",\"topic\":{},\"key\":{},\"value\":{},\"exception\":{},\"message\":{}",
        quoted(topic),
        text_or_null(sent.key.as_deref()),
        quoted(&sent.value),
        quoted(&format!("class {class}")),
        quoted(&error.to_string())
    );
    event("producer_send_error", &fields, terminal);
}

/// Tells what is known by now; returns how many were acknowledged.
fn report(
    topic: &str,
    producer: &mut Producer,
    sent: &mut std::collections::BTreeMap<u64, Sent>,
    terminal: &mut Terminal<'_>,
) -> u64 {
    let mut acked = 0;
    for outcome in producer.outcomes() {
        let Some(record) = sent.remove(&outcome.tag) else { continue };
        match &outcome.result {
            Ok(delivered) => {
                acked += 1;
                let fields = format!(
                    ",\"key\":{},\"value\":{},\"offset\":{},\"topic\":{},\"partition\":{}",
                    text_or_null(record.key.as_deref()),
                    quoted(&record.value),
                    delivered.offset,
                    quoted(topic),
                    outcome.partition
                );
                event("producer_send_success", &fields, terminal);
            }
            Err(error) => failure(topic, &record, error, terminal),
        }
    }
    acked
}
