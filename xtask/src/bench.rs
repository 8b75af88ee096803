//! `cargo xtask bench produce`: Apache Kafka and Zwirn one after the other, three nodes each, the same load by Kafka's
//! own `kafka-producer-perf-test`, first at a rate that both hold, then as fast as it goes.
//!
//! Each round runs both, the order turning from round to round; every leg's figures are printed, then the medians.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::cluster::{Broker, Cluster};
use crate::jars::Kafka;
use crate::stages::{self, cargo, target_dir};

const TOPIC: &str = "bench";
const PARTITIONS: u32 = 3;
const RECORD_BYTES: u64 = 1_000;
/// Records per second that both hold.
const FIXED_RATE: u64 = 20_000;
/// Legs at top speed send as much as takes the slower one about the time asked for.
const TOP_RATE_GUESS: u64 = 60_000;
/// Of `/proc/<pid>/stat`; the same on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const SETTINGS: &str = "min.insync.replicas=2\ndefault.replication.factor=3\noffsets.topic.replication.factor=3\n\
                        auto.create.topics.enable=false\n";

struct Options {
    seconds: u64,
    rounds: usize,
    only: Option<String>,
}

/// One leg's figures.
#[derive(Clone, Copy, Debug, Default)]
struct Leg {
    mb_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of the three brokers, per 10⁹ bytes of records.
    cpu_s_per_gb: f64,
    /// Of the largest broker.
    rss_mb: f64,
}

pub fn run(root: &Path, args: &[&str]) -> Result<(), String> {
    let options = parse(args)?;
    let kafka = Kafka::get(root).map_err(|missing| format!("the load generator is Apache Kafka's: {}", missing.0))?;
    cargo(root, &["build", "--release", "-p", "zwirn"])?;
    let binary = target_dir(root).join("release/zwirn");
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    let mut brokers = vec![Broker::Kafka(&kafka), Broker::Zwirn(&binary)];
    brokers.retain(|broker| wanted(broker.name()));
    let mut legs: Vec<(&str, &str, Leg)> = Vec::new();
    for round in 0..options.rounds {
        for broker in &brokers {
            for (load, leg) in measure(root, *broker, &kafka, options.seconds)? {
                println!("round {} {:<6} {load:<6} {}", round + 1, broker.name(), shown(&leg));
                legs.push((broker.name(), load, leg));
            }
        }
        brokers.reverse();
    }
    print_summary(&legs);
    Ok(())
}

fn parse(args: &[&str]) -> Result<Options, String> {
    let mut options = Options { seconds: 20, rounds: 1, only: None };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || value.parse::<u64>().ok().filter(|n| *n > 0).ok_or_else(|| format!("{arg}: {value}?"));
        match *arg {
            "--seconds" => options.seconds = number()?,
            "--pairs" => options.rounds = number()? as usize,
            "--only" if ["kafka", "zwirn"].contains(value) => options.only = Some((*value).to_owned()),
            _ => {
                return Err(format!("{arg} {value}: unknown; --seconds N, --pairs N and --only kafka|zwirn are there"));
            }
        }
    }
    Ok(options)
}

fn measure(root: &Path, broker: Broker<'_>, kafka: &Kafka, seconds: u64) -> Result<Vec<(&'static str, Leg)>, String> {
    let dir = target_dir(root).join("bench").join(broker.name());
    let cluster = Cluster::start(broker, &dir, SETTINGS)?;
    create_topic(kafka, &cluster.bootstrap())?;
    // Both get the same warm-up; a JVM needs it.
    produce(kafka, &cluster, FIXED_RATE * seconds, Some(FIXED_RATE))?;
    let mut out = Vec::new();
    let loads = [("fixed", FIXED_RATE * seconds, Some(FIXED_RATE)), ("top", TOP_RATE_GUESS * seconds, None)];
    for (load, records, rate) in loads {
        touch_memory(3 * records * RECORD_BYTES + (1 << 30));
        let before = cpu_seconds(&cluster)?;
        let mut leg = produce(kafka, &cluster, records, rate)?;
        leg.cpu_s_per_gb = (cpu_seconds(&cluster)? - before) / ((records * RECORD_BYTES) as f64 / 1e9);
        leg.rss_mb = rss_mb_max(&cluster)?;
        out.push((load, leg));
    }
    drop(cluster);
    // The next one is not to pay for what this one has written.
    fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    stages::run(Command::new("sync"))?;
    Ok(out)
}

fn create_topic(kafka: &Kafka, bootstrap: &str) -> Result<(), String> {
    let mut command = kafka.tool("org.apache.kafka.tools.TopicCommand");
    command.args(["--bootstrap-server", bootstrap, "--create", "--topic", TOPIC, "--replication-factor", "3"]);
    command.args(["--partitions", &PARTITIONS.to_string()]);
    stages::output(command).map(drop)
}

fn produce(kafka: &Kafka, cluster: &Cluster, records: u64, rate: Option<u64>) -> Result<Leg, String> {
    let mut command = kafka.java("org.apache.kafka.tools.ProducerPerformance", &["-Xms512m", "-Xmx512m"]);
    command.args(["--topic", TOPIC, "--num-records", &records.to_string()]);
    command.args(["--record-size", &RECORD_BYTES.to_string()]);
    command.args(["--throughput", &rate.map_or("-1".to_owned(), |rate| rate.to_string())]);
    command.args(["--producer-props", "acks=all", "batch.size=131072", "linger.ms=5"]);
    command.arg(format!("bootstrap.servers={}", cluster.bootstrap()));
    let text = stages::output(command)?;
    let last = text.lines().rev().find(|line| line.contains("99th")).unwrap_or_default();
    parse_result(last, records).ok_or_else(|| format!("kafka-producer-perf-test has said:\n{text}"))
}

/// `400000 records sent, 19993.0 records/sec (19.07 MB/sec), 3.55 ms avg latency, 401.00 ms max latency, 2 ms 50th,
/// 7 ms 95th, 46 ms 99th, 99 ms 99.9th.`
fn parse_result(line: &str, records: u64) -> Option<Leg> {
    let mut leg = Leg::default();
    let sent: u64 = line.split(' ').next()?.parse().ok()?;
    for part in line.split(", ") {
        let number = || part.split(' ').next()?.parse::<f64>().ok();
        if part.contains("records/sec") {
            leg.mb_per_s = number()? * RECORD_BYTES as f64 / 1e6;
        } else if part.ends_with(" 50th") {
            leg.p50_ms = number()?;
        } else if part.ends_with(" 99th") {
            leg.p99_ms = number()?;
        }
    }
    (sent == records).then_some(leg)
}

/// Touches memory and gives it back: a virtual machine's first touch of a page costs more than all that is measured.
fn touch_memory(bytes: u64) {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field_kb(&text, "MemAvailable:"));
    let bytes = bytes.min(available.unwrap_or(0) * 1024 / 10 * 7);
    let start = Instant::now();
    let mut pages = vec![0u8; bytes as usize];
    pages.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&pages);
    println!("    touched {} MB in {:.1} s", bytes / 1_000_000, start.elapsed().as_secs_f64());
}

/// User and system time of the nodes so far.
fn cpu_seconds(cluster: &Cluster) -> Result<f64, String> {
    let mut ticks = 0;
    for pid in cluster.pids() {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        // Counted from behind the name, which may hold anything: the 12th and 13th are utime and stime.
        let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        ticks += fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

fn rss_mb_max(cluster: &Cluster) -> Result<f64, String> {
    let mut max = 0;
    for pid in cluster.pids() {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        max = max.max(field_kb(&text, "VmRSS:").unwrap_or(0));
    }
    Ok(max as f64 * 1024.0 / 1e6)
}

fn field_kb(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn shown(leg: &Leg) -> String {
    format!(
        "{:>7.1} MB/s   {:>6.2} CPU-s/GB   ack p50 {:>5.0} ms  p99 {:>5.0} ms   RSS {:>6.0} MB",
        leg.mb_per_s, leg.cpu_s_per_gb, leg.p50_ms, leg.p99_ms, leg.rss_mb
    )
}

fn print_summary(legs: &[(&str, &str, Leg)]) {
    println!("\nmedians; ratios say how many times better Zwirn is");
    for load in ["fixed", "top"] {
        let of = |name: &str| median(legs.iter().filter(|(n, l, _)| *n == name && *l == load).map(|leg| leg.2));
        let (kafka, zwirn) = (of("kafka"), of("zwirn"));
        for (name, leg) in [("kafka", kafka), ("zwirn", zwirn)] {
            if let Some(leg) = leg {
                println!("{name:<6} {load:<6} {}", shown(&leg));
            }
        }
        if let (Some(kafka), Some(zwirn)) = (kafka, zwirn) {
            println!(
                "ratio  {load:<6} {:>7.2}x       {:>6.2}x              {:>5.1}x       {:>5.1}x         {:>6.1}x",
                zwirn.mb_per_s / kafka.mb_per_s,
                kafka.cpu_s_per_gb / zwirn.cpu_s_per_gb,
                kafka.p50_ms / zwirn.p50_ms.max(1.0),
                kafka.p99_ms / zwirn.p99_ms.max(1.0),
                kafka.rss_mb / zwirn.rss_mb,
            );
        }
    }
}

/// Of each figure by itself.
fn median(legs: impl Iterator<Item = Leg>) -> Option<Leg> {
    let legs: Vec<Leg> = legs.collect();
    let of = |figure: fn(&Leg) -> f64| {
        let mut all: Vec<f64> = legs.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    Some(Leg {
        mb_per_s: of(|leg| leg.mb_per_s)?,
        p50_ms: of(|leg| leg.p50_ms)?,
        p99_ms: of(|leg| leg.p99_ms)?,
        cpu_s_per_gb: of(|leg| leg.cpu_s_per_gb)?,
        rss_mb: of(|leg| leg.rss_mb)?,
    })
}
