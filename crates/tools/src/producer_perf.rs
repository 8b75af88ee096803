//! `kafka-producer-perf-test`: sends records at a given rate, or as fast as it can, and says how long they took.

use std::time::{Duration, Instant};

use crate::argparse::{Option_, Parsed, Program, flag, many, required, value};
use crate::client::Settings;
use crate::client::producer::{Producer, Record};
use crate::console_producer::producer_config;
use crate::jopt::key_values;
use crate::props::Props;
use crate::random::{random_uuid, rng};
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
    many("command-property", "", "Producer configuration, one or more key=value."),
    value("command-config", "", "Producer configuration, properties file."),
    many("producer-props", "", "Old way to give producer configuration, several key=value."),
    value("producer.config", "", "Old name of --command-config."),
    value("reporting-interval", "", "Milliseconds between reports (5000)."),
    value("warmup-records", "", "So many at the beginning are left out of a second summary, that of the steady state."),
    value("transactional-id", "", "Send in transactions of this id."),
    value("transaction-duration-ms", "", "Commit after so many milliseconds (3000); alone it makes up an id."),
    flag("print-metrics", "", "Show what was counted, at the end."),
];

const PROGRAM: Program = Program {
    name: "kafka-producer-perf-test",
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
    let payloads: Vec<&str> =
        ["record-size", "payload-file", "payload-monotonic"].into_iter().filter(|name| parsed.has(name)).collect();
    let wrong = match payloads[..] {
        [] => Some("one of the arguments --record-size --payload-file --payload-monotonic is required".to_owned()),
        [first, second, ..] => Some(format!("argument --{second}: not allowed with argument --{first}")),
        [_] => None,
    };
    if let Some(message) = wrong {
        return PROGRAM.refuse(args, &message, terminal);
    }
    if let Err(message) = check(&parsed) {
        return PROGRAM.refuse(args, &message, terminal);
    }
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(message);
            1
        }
    }
}

/// What the options have to be among themselves.
fn check(parsed: &Parsed) -> Result<(), String> {
    let number = |name: &str| parsed.number::<i64>(name);
    let records = number("num-records")?.unwrap_or(0);
    let above_zero = |name: &str, value: Option<i64>| match value {
        Some(..=0) => Err(format!("--{name} should be greater than zero.")),
        _ => Ok(()),
    };
    above_zero("num-records", Some(records))?;
    if number("warmup-records")?.unwrap_or(0) >= records {
        return Err("The value for --warmup-records must be strictly fewer than the number of records in the test, \
                    --num-records."
            .to_owned());
    }
    above_zero("record-size", number("record-size")?)?;
    let sources = ["bootstrap-server", "command-property", "producer-props", "producer.config", "command-config"];
    if !sources.iter().any(|name| parsed.has(name)) {
        return Err("At least one of --bootstrap-server, --command-property, --producer-props, --producer.config or \
                    --command-config must be specified."
            .to_owned());
    }
    for [first, second] in [["command-property", "producer-props"], ["command-config", "producer.config"]] {
        if parsed.has(first) && parsed.has(second) {
            return Err(format!("--{first} and --{second} cannot be specified together."));
        }
    }
    above_zero("transaction-duration-ms", number("transaction-duration-ms")?)?;
    above_zero("reporting-interval", number("reporting-interval")?)?;
    parsed.number::<f64>("throughput").map(|_| ())
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

/// The producer, and how long its transactions last if it has any.
fn producer(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(Producer, Option<Duration>), String> {
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
    let duration: Option<u64> = parsed.number("transaction-duration-ms")?;
    let id = parsed.get("transactional-id").or(props.get("transactional.id")).map(str::to_owned);
    let id = id.or_else(|| duration.map(|_| format!("performance-producer-{}", random_uuid())));
    let transactions = id.as_ref().map(|_| Duration::from_millis(duration.unwrap_or(3000)));
    if let Some(id) = id {
        props.set("transactional.id", id);
    }
    let bootstrap = parsed.get("bootstrap-server").or(props.get("bootstrap.servers")).unwrap_or_default();
    if bootstrap.is_empty() {
        return Err("--bootstrap-server, or bootstrap.servers in the configuration, must be specified.".to_owned());
    }
    let client_id = props.get("client.id").unwrap_or("perf-producer-client");
    let mut settings = Settings::new(bootstrap, client_id).map_err(|error| error.to_string())?;
    settings.warn_as = Some(format!("Producer clientId={client_id}"));
    Ok((Producer::new(settings, producer_config(&props)?), transactions))
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let topic = parsed.get("topic").unwrap_or_default().to_owned();
    let count: u64 = parsed.number("num-records")?.unwrap_or(0);
    let throughput: f64 = parsed.number("throughput")?.unwrap_or(-1.0);
    let interval = Duration::from_millis(parsed.number("reporting-interval")?.unwrap_or(5000).max(1));
    let warmup: u64 = parsed.number::<i64>("warmup-records")?.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    let payload = payload(parsed, terminal)?;
    let (mut producer, transactions) = producer(parsed, terminal)?;
    let failed = |error: crate::client::ClientError| error.exception();
    if transactions.is_some() {
        producer.init_transactions().map_err(failed)?;
    }
    if warmup > 0 {
        terminal.line(format_args!(
            "Warmup first {warmup} records. Steady state results will print after the complete test summary."
        ));
    }
    let mut values = Values::new(payload);
    let mut all = Stats::new(count, interval, warmup);
    let mut in_transaction: Option<Instant> = None;
    for i in 0..count {
        if transactions.is_some() && in_transaction.is_none() {
            producer.begin_transaction();
            in_transaction = Some(Instant::now());
        }
        let record = Record {
            topic: &topic,
            value: Some(values.next(i)),
            timestamp_ms: wall_ms(),
            tag: i,
            ..Default::default()
        };
        producer.send(&record).map_err(failed)?;
        if i % 64 == 0 {
            producer.poll(Duration::ZERO);
        }
        if let (Some(duration), Some(begun)) = (transactions, in_transaction)
            && begun.elapsed() >= duration
        {
            producer.commit_transaction().map_err(failed)?;
            in_transaction = None;
        }
        if throughput > 0.0 {
            let due = all.begun + Duration::from_secs_f64((i + 1) as f64 / throughput);
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                producer.poll(left);
            }
        }
        all.take(&mut producer, terminal);
    }
    if in_transaction.is_some() {
        producer.commit_transaction().map_err(failed)?;
    }
    producer.flush();
    all.take(&mut producer, terminal);
    terminal.line(all.total.summary(""));
    if warmup > 0 {
        terminal.line(all.steady.summary(" steady state"));
    }
    if parsed.has("print-metrics") {
        all.metrics(&topic, terminal);
    }
    Ok(())
}

/// One value after the other.
struct Values {
    payload: Payload,
    rng: fastrand::Rng,
    buffer: Vec<u8>,
}

impl Values {
    fn new(payload: Payload) -> Values {
        let buffer = match payload {
            Payload::Random(size) => vec![0; size],
            _ => vec![],
        };
        Values { payload, rng: rng(), buffer }
    }

    fn next(&mut self, number: u64) -> &[u8] {
        match &self.payload {
            Payload::Random(_) => {
                self.buffer.iter_mut().for_each(|byte| *byte = self.rng.u8(b'A'..=b'Z'));
                &self.buffer
            }
            Payload::File(records) => &records[self.rng.usize(..records.len())],
            Payload::Monotonic => {
                self.buffer = number.to_string().into_bytes();
                &self.buffer
            }
        }
    }
}

/// Names and values in two columns, as Kafka's performance tools print their clients' metrics.
pub fn print_metrics(metrics: &[(String, f64)], terminal: &mut Terminal<'_>) {
    let width = metrics.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    terminal.line(format_args!("\n{:width$} Value", "Metric Name", width = width + 2));
    for (name, value) in metrics {
        terminal.line(format_args!("{name:width$} : {value:.3}"));
    }
}

/// Counts and latencies, in milliseconds.
struct Tally {
    begun: Instant,
    sample_every: u64,
    count: u64,
    bytes: u64,
    latency_sum: u64,
    latency_max: u64,
    samples: Vec<u32>,
}

impl Tally {
    fn new(expected: u64) -> Tally {
        Tally {
            begun: Instant::now(),
            sample_every: (expected / SAMPLES_MAX).max(1),
            count: 0,
            bytes: 0,
            latency_sum: 0,
            latency_max: 0,
            samples: Vec::new(),
        }
    }

    fn add(&mut self, latency: u64, bytes: u64) {
        if self.count.is_multiple_of(self.sample_every) {
            self.samples.push(latency as u32);
        }
        self.count += 1;
        self.bytes += bytes;
        self.latency_sum += latency;
        self.latency_max = self.latency_max.max(latency);
    }

    fn summary(&mut self, kind: &str) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.samples.sort_unstable();
        let percentile = |p: f64| {
            let at = (p * self.samples.len() as f64) as usize;
            self.samples.get(at.min(self.samples.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        format!(
            "{}{kind} records sent, {:.6} records/sec ({:.2} MB/sec), {:.2} ms avg latency, {:.2} ms max latency, {} ms \
             50th, {} ms 95th, {} ms 99th, {} ms 99.9th.",
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

/// Of all records, of those after the warm-up, and of those since the last report.
struct Stats {
    begun: Instant,
    interval: Duration,
    warmup: u64,
    failed: u64,
    total: Tally,
    steady: Tally,
    window: Tally,
    steady_said: bool,
}

impl Stats {
    fn new(expected: u64, interval: Duration, warmup: u64) -> Stats {
        Stats {
            begun: Instant::now(),
            interval,
            warmup,
            failed: 0,
            total: Tally::new(expected),
            steady: Tally::new(expected - warmup.min(expected)),
            window: Tally::new(expected),
            steady_said: false,
        }
    }

    fn take(&mut self, producer: &mut Producer, terminal: &mut Terminal<'_>) {
        for outcome in producer.outcomes() {
            if let Err(error) = &outcome.result {
                self.failed += 1;
                terminal.error(error.exception());
                continue;
            }
            let latency = outcome.done_at.saturating_duration_since(outcome.sent_at).as_millis() as u64;
            let bytes = outcome.value_len.unwrap_or(0) as u64;
            self.total.add(latency, bytes);
            self.window.add(latency, bytes);
            if outcome.tag >= self.warmup {
                if self.steady.count == 0 {
                    self.steady.begun = outcome.sent_at;
                }
                self.steady.add(latency, bytes);
            }
        }
        let elapsed = self.window.begun.elapsed();
        if elapsed >= self.interval && self.window.count > 0 {
            if self.warmup > 0 && self.steady.count > 0 && !std::mem::replace(&mut self.steady_said, true) {
                terminal.line("In steady state.");
            }
            let window = std::mem::replace(&mut self.window, Tally::new(SAMPLES_MAX));
            let seconds = elapsed.as_secs_f64();
            terminal.line(format_args!(
                "{} records sent, {:.1} records/sec ({:.2} MB/sec), {:.1} ms avg latency, {:.1} ms max latency.",
                window.count,
                window.count as f64 / seconds,
                window.bytes as f64 / MIB / seconds,
                window.latency_sum as f64 / window.count as f64,
                window.latency_max as f64,
            ));
            let _ = terminal.out.flush();
        }
    }

    /// DIFFERS: Kafka's client measures some hundred things; these are the ones that this client counts, by Kafka's
    /// names.
    fn metrics(&self, topic: &str, terminal: &mut Terminal<'_>) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let client = "{client-id=perf-producer-client}";
        let of_topic = format!("{{client-id=perf-producer-client, topic={topic}}}");
        let (count, bytes) = (self.total.count as f64, self.total.bytes as f64);
        print_metrics(
            &[
                (format!("producer-metrics:record-error-total:{client}"), self.failed as f64),
                (format!("producer-metrics:record-send-rate:{client}"), count / seconds),
                (format!("producer-metrics:record-send-total:{client}"), count),
                (format!("producer-topic-metrics:byte-rate:{of_topic}"), bytes / seconds),
                (format!("producer-topic-metrics:byte-total:{of_topic}"), bytes),
                (format!("producer-topic-metrics:record-send-total:{of_topic}"), count),
            ],
            terminal,
        );
    }
}
