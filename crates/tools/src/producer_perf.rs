//! `kafka-producer-perf-test`: sends records at a given rate, or as fast as it can, and says how long they took.

use std::time::{Duration, Instant};

use crate::argparse::{Option_, Parsed, Program, append, flag, many, required, value};
use crate::client::Settings;
use crate::client::producer::{Producer, Record};
use crate::console_producer::producer_config;
use crate::jopt::key_values;
use crate::props::Props;
use crate::random::rng;
use crate::terminal::{Terminal, wall_ms};

const OPTIONS: &[Option_] = &[
    value("bootstrap-server", "", "Brokers to start from, host:port separated by commas."),
    required("topic", "", "Topic to send to."),
    required("num-records", "", "How many records."),
    required("throughput", "", "Records per second; -1 for as many as possible."),
    value("record-size", "", "Bytes of each record, random letters."),
    value("payload-file", "", "Take records at random from this file instead."),
    value("payload-delimiter", "", "What separates the records of the file (a new line)."),
    flag("payload-monotonic", "", "The records are 0, 1, 2, …"),
    append("command-property", "", "Producer configuration, key=value."),
    value("command-config", "", "Producer configuration, properties file."),
    many("producer-props", "", "Old way to give producer configuration, several key=value."),
    value("producer.config", "", "Old name of --command-config."),
    value("reporting-interval", "", "Milliseconds between reports (5000)."),
];

const PROGRAM: Program = Program {
    name: "producer-perf-test",
    about: "Sends records at a rate, or as fast as it can, and says how long they took.",
    examples: &[
        "zwirn producer-perf-test --bootstrap-server localhost:9092 --topic t --num-records 100000 --record-size 1000 \
         --throughput -1",
    ],
    options: OPTIONS,
    commands: &[],
};

/// Latencies kept for the percentiles; of more records, every n-th.
const SAMPLES_MAX: u64 = 500_000;
const MIB: f64 = 1024.0 * 1024.0;

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    if args.is_empty() {
        // As recorded: help and no failure.
        let _ = PROGRAM.parse(&["--help".to_owned()], terminal);
        return 0;
    }
    let parsed = match PROGRAM.parse(args, terminal) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let payloads = [parsed.has("record-size"), parsed.has("payload-file"), parsed.has("payload-monotonic")];
    if payloads.iter().filter(|given| **given).count() != 1 {
        let message = "one of the arguments --record-size --payload-file --payload-monotonic is required, and only one";
        return PROGRAM.refuse(args, message, terminal);
    }
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(message);
            1
        }
    }
}

enum Payload {
    Random(usize),
    File(Vec<Vec<u8>>),
    Monotonic,
}

fn payload(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<Payload, String> {
    if let Some(size) = parsed.number::<usize>("record-size")? {
        if size == 0 {
            return Err("--record-size must be greater than zero".to_owned());
        }
        return Ok(Payload::Random(size));
    }
    let Some(path) = parsed.get("payload-file") else { return Ok(Payload::Monotonic) };
    let delimiter = parsed.get("payload-delimiter").unwrap_or("\\n").replace("\\n", "\n");
    let shown = std::path::absolute(path).unwrap_or_else(|_| path.into());
    terminal.line(format_args!("Reading payloads from: {}", shown.display()));
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let records: Vec<Vec<u8>> =
        text.split(&delimiter).map(|r| r.as_bytes().to_vec()).filter(|r| !r.is_empty()).collect();
    terminal.line(format_args!("Number of records read: {}", records.len()));
    if records.is_empty() {
        return Err("File does not exist or empty file provided.".to_owned());
    }
    Ok(Payload::File(records))
}

fn producer(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<Producer, String> {
    for (old, new) in [("producer-props", "command-property"), ("producer.config", "command-config")] {
        if parsed.has(old) {
            terminal.line(format_args!(
                "Option --{old} has been deprecated and will be removed in a future version. Use --{new} instead."
            ));
        }
    }
    let mut props = match parsed.get("command-config").or(parsed.get("producer.config")) {
        Some(path) => Props::load(path)?,
        None => Props::default(),
    };
    for name in ["producer-props", "command-property"] {
        for (key, value) in key_values(parsed.all(name)) {
            props.set(&key, value);
        }
    }
    props.check_supported()?;
    let bootstrap = parsed.get("bootstrap-server").or(props.get("bootstrap.servers")).unwrap_or_default();
    if bootstrap.is_empty() {
        return Err("--bootstrap-server, or bootstrap.servers in the configuration, must be specified.".to_owned());
    }
    let client_id = props.get("client.id").unwrap_or("perf-producer-client");
    let mut settings = Settings::new(bootstrap, client_id).map_err(|error| error.to_string())?;
    settings.warn_as = Some(format!("Producer clientId={client_id}"));
    Ok(Producer::new(settings, producer_config(&props)?))
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let topic = parsed.get("topic").unwrap_or_default().to_owned();
    let count: u64 = parsed.number("num-records")?.unwrap_or(0);
    let throughput: f64 = parsed.number("throughput")?.unwrap_or(-1.0);
    let interval = Duration::from_millis(parsed.number("reporting-interval")?.unwrap_or(5000).max(1));
    let payload = payload(parsed, terminal)?;
    let mut producer = producer(parsed, terminal)?;
    let mut rng = rng();
    let mut random = match payload {
        Payload::Random(size) => vec![0; size],
        _ => vec![],
    };
    let mut stats = Stats::new(count, interval);
    for i in 0..count {
        let number;
        let value: &[u8] = match &payload {
            Payload::Random(_) => {
                random.iter_mut().for_each(|byte| *byte = rng.u8(b'A'..=b'Z'));
                &random
            }
            Payload::File(records) => &records[rng.usize(..records.len())],
            Payload::Monotonic => {
                number = i.to_string();
                number.as_bytes()
            }
        };
        let record =
            Record { topic: &topic, value: Some(value), timestamp_ms: wall_ms(), tag: i, ..Default::default() };
        producer.send(&record).map_err(|error| error.exception())?;
        if i % 64 == 0 {
            producer.poll(Duration::ZERO);
        }
        if throughput > 0.0 {
            let due = stats.begun + Duration::from_secs_f64((i + 1) as f64 / throughput);
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                producer.poll(left);
            }
        }
        stats.take(&mut producer, terminal);
    }
    producer.flush();
    stats.take(&mut producer, terminal);
    terminal.line(stats.total());
    Ok(())
}

/// Counts and latencies, in milliseconds, of all records and of those since the last report.
struct Stats {
    begun: Instant,
    interval: Duration,
    sample_every: u64,
    count: u64,
    bytes: u64,
    latency_sum: u64,
    latency_max: u64,
    samples: Vec<u32>,
    window: Window,
}

struct Window {
    begun: Instant,
    count: u64,
    bytes: u64,
    latency_sum: u64,
    latency_max: u64,
}

impl Window {
    fn new() -> Window {
        Window { begun: Instant::now(), count: 0, bytes: 0, latency_sum: 0, latency_max: 0 }
    }
}

impl Stats {
    fn new(expected: u64, interval: Duration) -> Stats {
        Stats {
            begun: Instant::now(),
            interval,
            sample_every: (expected / SAMPLES_MAX).max(1),
            count: 0,
            bytes: 0,
            latency_sum: 0,
            latency_max: 0,
            samples: Vec::new(),
            window: Window::new(),
        }
    }

    fn take(&mut self, producer: &mut Producer, terminal: &mut Terminal<'_>) {
        for outcome in producer.outcomes() {
            if let Err(error) = &outcome.result {
                terminal.error(error.exception());
                continue;
            }
            let latency = outcome.done_at.saturating_duration_since(outcome.sent_at).as_millis() as u64;
            let bytes = outcome.value_len.unwrap_or(0) as u64;
            if self.count.is_multiple_of(self.sample_every) {
                self.samples.push(latency as u32);
            }
            self.count += 1;
            self.bytes += bytes;
            self.latency_sum += latency;
            self.latency_max = self.latency_max.max(latency);
            self.window.count += 1;
            self.window.bytes += bytes;
            self.window.latency_sum += latency;
            self.window.latency_max = self.window.latency_max.max(latency);
        }
        let elapsed = self.window.begun.elapsed();
        if elapsed >= self.interval {
            let window = std::mem::replace(&mut self.window, Window::new());
            let seconds = elapsed.as_secs_f64();
            terminal.line(format_args!(
                "{} records sent, {:.1} records/sec ({:.2} MB/sec), {:.1} ms avg latency, {:.1} ms max latency.",
                window.count,
                window.count as f64 / seconds,
                window.bytes as f64 / MIB / seconds,
                window.latency_sum as f64 / window.count.max(1) as f64,
                window.latency_max as f64,
            ));
        }
    }

    fn total(&mut self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.samples.sort_unstable();
        let percentile = |p: f64| {
            let at = (p * self.samples.len() as f64) as usize;
            self.samples.get(at.min(self.samples.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        format!(
            "{} records sent, {:.6} records/sec ({:.2} MB/sec), {:.2} ms avg latency, {:.2} ms max latency, {} ms 50th, \
             {} ms 95th, {} ms 99th, {} ms 99.9th.",
            self.count,
            self.count as f64 / seconds,
            self.bytes as f64 / MIB / seconds,
            self.latency_sum as f64 / self.count.max(1) as f64,
            self.latency_max as f64,
            percentile(0.5),
            percentile(0.95),
            percentile(0.99),
            percentile(0.999),
        )
    }
}
