//! `kafka-consumer-perf-test`: reads records as fast as it can and says how fast that was.

use std::time::{Duration, Instant};

use regex_lite::Regex;

use crate::client::consumer::{FetchConfig, Reset};
use crate::client::reader::{GroupReader, Subscribed};
use crate::client::{ClientError, Settings};
use crate::console_consumer::member_config;
use crate::dates::format_moment;
use crate::jopt::{Parsed, Stop, Usage, flag, key_values, optional, value};
use crate::props::Props;
use crate::random::rng;
use crate::terminal::{Terminal, wall_ms};

const MIB: f64 = 1024.0 * 1024.0;
const POLL: Duration = Duration::from_millis(100);
const DATE_FORMAT: &str = "yyyy-MM-dd HH:mm:ss:SSS";

const USAGE: Usage = Usage {
    about: "Reads records as fast as it can, and says how fast that was.",
    examples: &["zwirn consumer-perf-test --bootstrap-server localhost:9092 --topic t --num-records 100000"],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("topic", "Topic to read."),
        value("include", "Regular expression of topics to read."),
        value("num-records", "How many records to read. Required."),
        value("group", "The group to be a member of (perf-consumer- and a number)."),
        value("fetch-size", "Bytes of one partition in one answer (1048576)."),
        flag("from-latest", "Where the group has no offset: begin with the next record rather than the oldest."),
        value("socket-buffer-size", "Accepted; the system chooses."),
        value("command-property", "Consumer configuration, key=value."),
        value("command-config", "Consumer configuration, properties file."),
        flag("print-metrics", "Show what was counted, at the end."),
        flag("show-detailed-stats", "A line for every --reporting-interval instead of one at the end."),
        value("reporting-interval", "Milliseconds between two lines (5000)."),
        optional("timeout", "Give up when no record came for so many milliseconds (10000)."),
        value("date-format", "How moments are written, as Java's SimpleDateFormat (yyyy-MM-dd HH:mm:ss:SSS)."),
        flag("hide-header", "Leave the header out."),
        value("messages", "Old name of --num-records."),
        value("consumer.config", "Old name of --command-config."),
    ],
};

struct Options {
    records: u64,
    interval: Duration,
    timeout: Duration,
    detailed: bool,
    date_format: String,
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match USAGE.parse_with_help(args, terminal).and_then(|parsed| check(&parsed).map(|()| parsed)) {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    for (old, new) in [("messages", "num-records"), ("consumer.config", "command-config")] {
        if parsed.has(old) {
            terminal.line(format_args!("Warning: --{old} is deprecated. Use --{new} instead."));
        }
    }
    let result = prepare(&parsed).and_then(|(options, reader)| run(&parsed, &options, reader, terminal));
    match result {
        Ok(()) => 0,
        Err(stop) => stop.report(&USAGE, terminal),
    }
}

/// Exactly one of two.
fn one_of(parsed: &Parsed, names: [&str; 2]) -> Result<(), Stop> {
    if parsed.has(names[0]) != parsed.has(names[1]) {
        return Ok(());
    }
    let [first, second] = names;
    Err(Stop::Usage(format!("Exactly one of the following arguments is required: [{first}], [{second}]")))
}

fn check(parsed: &Parsed) -> Result<(), Stop> {
    parsed.require(&["bootstrap-server"])?;
    one_of(parsed, ["topic", "include"])?;
    one_of(parsed, ["messages", "num-records"])?;
    parsed.exclude("consumer.config", &["command-config"])?;
    let text = parsed.get("reporting-interval")?.unwrap_or("5000");
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let text = format!("Value [{text}] did not match regex [^\\d+$]");
        return Err(Stop::Usage(text));
    }
    Ok(())
}

fn prepare(parsed: &Parsed) -> Result<(Options, GroupReader), Stop> {
    let mut props = match parsed.get("command-config")?.or(parsed.get("consumer.config")?) {
        Some(path) => Props::load(path).map_err(Stop::Message)?,
        None => Props::default(),
    };
    for (key, value) in key_values(parsed.all("command-property")) {
        props.set(&key, value);
    }
    let interval: u64 = parsed.number("reporting-interval")?.unwrap_or(5_000);
    if interval == 0 {
        return Err(Stop::Message("Reporting interval must be greater than 0.".to_owned()));
    }
    let timeout: Option<u64> = if parsed.all("timeout").is_empty() { None } else { parsed.number("timeout")? };
    let options = Options {
        records: parsed.number("num-records")?.or(parsed.number("messages")?).unwrap_or(0),
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout.unwrap_or(10_000)),
        detailed: parsed.has("show-detailed-stats"),
        date_format: parsed.get("date-format")?.unwrap_or(DATE_FORMAT).to_owned(),
    };
    let bad = |error: ClientError| Stop::Message(error.exception());
    let client_id = props.get("client.id").unwrap_or("perf-consumer-client");
    let bootstrap = parsed.get("bootstrap-server")?.unwrap_or_default();
    let mut settings = Settings::new(bootstrap, client_id).map_err(bad)?;
    settings.apply(&props).map_err(bad)?;
    props.check_supported().map_err(Stop::Message)?;
    let group = match parsed.get("group")? {
        Some(group) => group.to_owned(),
        None => format!("perf-consumer-{}", rng().u32(0..100_000)),
    };
    settings.warn_as = Some(format!("Consumer clientId={client_id}, groupId={group}"));
    let fetch = FetchConfig {
        reset: if parsed.has("from-latest") { Reset::Latest } else { Reset::Earliest },
        partition_max_bytes: parsed.number("fetch-size")?.unwrap_or(1 << 20),
        check_crcs: false,
        ..Default::default()
    };
    let subscribed = match parsed.get("topic")? {
        Some(topic) => Subscribed::Topic(topic.to_owned()),
        None => {
            let text = parsed.get("include")?.unwrap_or_default();
            let regex = Regex::new(&format!("^(?:{text})$"));
            Subscribed::Matching(regex.map_err(|_| Stop::Message(format!("--include {text} is an invalid regex.")))?)
        }
    };
    Ok((options, GroupReader::new(settings, fetch, member_config(Some(&group), &props)?, subscribed)))
}

/// How long the group took to give this member its partitions.
struct Joining {
    since: Option<Instant>,
    total: Duration,
    in_round: Duration,
}

impl Joining {
    fn observe(&mut self, has_partitions: bool) {
        match (self.since, has_partitions) {
            (Some(since), true) => {
                self.total += since.elapsed();
                self.in_round += since.elapsed();
                self.since = None;
            }
            (None, false) => self.since = Some(Instant::now()),
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Count {
    records: u64,
    bytes: u64,
}

impl Count {
    fn mib(self) -> f64 {
        self.bytes as f64 / MIB
    }
}

fn run(parsed: &Parsed, options: &Options, mut reader: GroupReader, terminal: &mut Terminal<'_>) -> Result<(), Stop> {
    let more = "rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec";
    let first = if options.detailed { "time, threadId" } else { "start.time, end.time" };
    if !parsed.has("hide-header") {
        terminal.line(format_args!("{first}, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, {more}"));
    }
    let begun = (Instant::now(), wall_ms());
    let mut joining = Joining { since: Some(begun.0), total: Duration::ZERO, in_round: Duration::ZERO };
    let (mut count, mut reported) = (Count::default(), Count::default());
    let (mut last_record, mut last_report) = (begun.0, begun.0);
    while count.records < options.records && last_record.elapsed() <= options.timeout {
        let before = count.records;
        let polled = reader.poll(POLL, |message| {
            let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) as u64;
            count.records += 1;
            count.bytes += len(message.record.key) + len(message.record.value);
            true
        });
        polled.map_err(|error| Stop::Message(format!("{error}\n{}", error.exception())))?;
        joining.observe(!reader.assigned().is_empty());
        if count.records == before {
            continue;
        }
        last_record = Instant::now();
        if last_report.elapsed() >= options.interval {
            if options.detailed {
                terminal.line(progress(options, last_report.elapsed(), reported, count, joining.in_round));
                let _ = terminal.out.flush();
            }
            joining.in_round = Duration::ZERO;
            last_report = Instant::now();
            reported = count;
        }
    }
    if count.records < options.records {
        terminal.line(format_args!(
            "WARNING: Exiting before consuming the expected number of records: timeout ({} ms) exceeded. You can use the \
             --timeout option to increase the timeout.",
            options.timeout.as_millis()
        ));
    }
    let elapsed = begun.0.elapsed();
    if !options.detailed {
        terminal.line(summary(options, begun.1, elapsed, count, joining.total));
    }
    if parsed.has("print-metrics") {
        metrics(count, elapsed, terminal);
    }
    reader.leave();
    Ok(())
}

fn progress(options: &Options, elapsed: Duration, before: Count, now: Count, joined: Duration) -> String {
    let (records, mib) = (now.records - before.records, now.mib() - before.mib());
    let seconds = elapsed.as_secs_f64();
    let fetching = elapsed.saturating_sub(joined);
    let rate = |what: f64| if fetching.is_zero() { 0.0 } else { what / fetching.as_secs_f64() };
    format!(
        "{}, 0, {:.4}, {:.4}, {}, {:.4}, {}, {}, {:.4}, {:.4}",
        format_moment(wall_ms(), &options.date_format),
        now.mib(),
        mib / seconds,
        now.records,
        records as f64 / seconds,
        joined.as_millis(),
        fetching.as_millis(),
        rate(mib),
        rate(records as f64)
    )
}

fn summary(options: &Options, begun_ms: i64, elapsed: Duration, count: Count, joined: Duration) -> String {
    let elapsed_ms = elapsed.as_millis() as i64;
    let fetching = elapsed.saturating_sub(joined);
    format!(
        "{}, {}, {:.4}, {:.4}, {}, {:.4}, {}, {}, {:.4}, {:.4}",
        format_moment(begun_ms, &options.date_format),
        format_moment(begun_ms + elapsed_ms, &options.date_format),
        count.mib(),
        count.mib() / elapsed.as_secs_f64(),
        count.records,
        count.records as f64 / elapsed.as_secs_f64(),
        joined.as_millis(),
        fetching.as_millis(),
        count.mib() / fetching.as_secs_f64(),
        count.records as f64 / fetching.as_secs_f64()
    )
}

/// DIFFERS: Kafka's client measures some hundred things; these are the ones that this client counts, by Kafka's names.
fn metrics(count: Count, elapsed: Duration, terminal: &mut Terminal<'_>) {
    let seconds = elapsed.as_secs_f64();
    let tags = "{client-id=perf-consumer-client}";
    crate::producer_perf::print_metrics(
        &[
            (format!("consumer-fetch-manager-metrics:bytes-consumed-rate:{tags}"), count.bytes as f64 / seconds),
            (format!("consumer-fetch-manager-metrics:bytes-consumed-total:{tags}"), count.bytes as f64),
            (format!("consumer-fetch-manager-metrics:records-consumed-rate:{tags}"), count.records as f64 / seconds),
            (format!("consumer-fetch-manager-metrics:records-consumed-total:{tags}"), count.records as f64),
        ],
        terminal,
    );
}
