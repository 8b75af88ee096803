//! The same log directories, compacted by Kafka's cleaner and by ours: what is left has to be the same, batch by batch.
//! Started by `cargo xtask compaction`, which compiles `Compaction.java` and finds the jars.
//!
//! Each round makes a directory from a seed with Kafka's own log, then goes through several passes: the high watermark
//! and the clock move on, both clean, both results are compared and looked at by Kafka's dump-log. The next pass of both
//! begins with what either of them has left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Instant;

use fastrand::Rng;
use protocol::records::{Batch, BatchHeader, Batches, Compression, Scratch};
use protocol::time::Now;
use storage::real::RealDisk;
use storage::{CleanLimits, CleanStep, Evidence, Log, LogConfig, OpenOptions};

const USAGE: &str = "usage: compaction --classes DIR --libs DIR --work DIR [--rounds N] [--seed N]";
/// When the first record was written.
const BEGIN_MS: i64 = 1_700_000_000_000;
const PARTITION: &str = "compaction-0";

struct Args {
    classes: String,
    libs: String,
    work: PathBuf,
    rounds: u64,
    seed: u64,
}

fn args() -> Result<Args, String> {
    let mut out = Args { classes: String::new(), libs: String::new(), work: PathBuf::new(), rounds: 60, seed: 1 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        let number = || value.parse::<u64>().map_err(|e| format!("{arg} {value}: {e}"));
        match arg.as_str() {
            "--classes" => out.classes = value,
            "--libs" => out.libs = value,
            "--work" => out.work = value.into(),
            "--rounds" => out.rounds = number()?,
            "--seed" => out.seed = number()?,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(out)
}

fn main() -> ExitCode {
    match args().and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let start = Instant::now();
    let mut kafka = Kafka::start(args)?;
    let mut total = Counts::default();
    for seed in args.seed..args.seed + args.rounds {
        let _ = fs::remove_dir_all(&args.work);
        round(&mut kafka, &args.work, seed, &mut total).map_err(|e| {
            format!("seed {seed}: {e}\nthe directories, before and after, are in {}", args.work.display())
        })?;
    }
    let _ = fs::remove_dir_all(&args.work);
    println!(
        "{} logs, {} passes of which {} had something to do; {} batches ({} emptied, {} with a delete horizon, \
         {} compressed) with {} records are the same; {} looks of dump-log; seeds from {}, {:.1} s",
        args.rounds,
        total.passes,
        total.cleaned,
        total.batches,
        total.emptied,
        total.horizons,
        total.compressed,
        total.records,
        total.checks,
        args.seed,
        start.elapsed().as_secs_f64()
    );
    // Rounds that show nothing would pass for ever.
    let is_telling = total.cleaned > 0 && total.emptied > 0 && total.horizons > 0 && total.compressed > 0;
    if is_telling || args.rounds < 8 { Ok(()) } else { Err("the rounds have shown too little".to_owned()) }
}

#[derive(Default)]
struct Counts {
    passes: usize,
    cleaned: usize,
    batches: usize,
    emptied: usize,
    horizons: usize,
    compressed: usize,
    records: usize,
    checks: usize,
}

// Settings.

struct Settings {
    log: LogConfig,
    map_bytes: i64,
    io_bytes: usize,
}

fn settings(rng: &mut Rng) -> Settings {
    let mut pick = |values: &[i64]| rng.choice(values).copied().unwrap_or_default();
    let log = LogConfig {
        segment_bytes: pick(&[6_000, 12_000, 30_000, 200_000]) as u64,
        index_interval_bytes: pick(&[1, 300, 4096]) as u32,
        // A full index makes Kafka's cleaner fail, not ours.
        index_bytes: 120_000,
        compact: true,
        delete: false,
        min_cleanable_ratio: pick(&[0, 0, 2, 6]) as f64 / 10.0,
        min_compaction_lag_ms: pick(&[0, 0, 0, 30_000]),
        max_compaction_lag_ms: pick(&[i64::MAX, i64::MAX, 60_000]),
        delete_retention_ms: pick(&[0, 5_000, 60_000, 86_400_000]),
        producer_expiration_ms: pick(&[20_000, 86_400_000]),
        ..LogConfig::default()
    };
    Settings { log, map_bytes: pick(&[240, 2_400, 100_000]), io_bytes: pick(&[600, 4_000, 262_144]) as usize }
}

impl Settings {
    fn words(&self, timestamps: &str) -> String {
        let log = &self.log;
        format!(
            "internal.segment.bytes={} index.interval.bytes={} segment.index.bytes={} min.cleanable.dirty.ratio={} \
             min.compaction.lag.ms={} max.compaction.lag.ms={} delete.retention.ms={} message.timestamp.type={timestamps} \
             map.bytes={} io.bytes={} expiration.ms={}",
            log.segment_bytes,
            log.index_interval_bytes,
            log.index_bytes,
            log.min_cleanable_ratio,
            log.min_compaction_lag_ms,
            log.max_compaction_lag_ms,
            log.delete_retention_ms,
            self.map_bytes,
            self.io_bytes,
            log.producer_expiration_ms
        )
    }
}

// A round.

fn round(kafka: &mut Kafka, work: &Path, seed: u64, total: &mut Counts) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let settings = settings(&mut rng);
    let words = settings.words(if rng.u32(0..5) == 0 { "LogAppendTime" } else { "CreateTime" });
    let theirs = work.join("kafka").join(PARTITION);
    let ours = work.join("zwirn").join(PARTITION);
    let stops = kafka.ask(&format!("make {} {seed} {words}", theirs.display()))?;
    let stops: Vec<i64> = stops.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    copy_dir(&theirs, &ours).map_err(|e| e.to_string())?;
    // The last passes find nothing new, but horizons that have passed.
    let end = stops.last().copied().ok_or("an empty log")?;
    let watermarks = stops.iter().copied().chain([end, end]);
    let mut checkpoint = None;
    let mut now_ms = BEGIN_MS + 100_000;
    for (pass, high_watermark) in watermarks.enumerate() {
        now_ms += rng.i64(0..80_000);
        // What the last passes have found clean is dirty to one who has lost the checkpoint.
        let is_lost = rng.u32(0..4) == 0 || checkpoint.is_some_and(|offset| is_blinded(&theirs, offset));
        checkpoint = checkpoint.filter(|_| !is_lost);
        let line = format!("clean {} {high_watermark} {now_ms} {} {words}", theirs.display(), checkpoint.unwrap_or(-1));
        // For whoever looks into a difference.
        let before = work.join("before").join(PARTITION);
        let _ = fs::remove_dir_all(&before);
        copy_dir(&theirs, &before).map_err(|e| e.to_string())?;
        let from_kafka = kafka.ask(&line)?;
        let from_us = clean(&ours, &settings, high_watermark, now_ms, checkpoint)?;
        let context = |e: String| format!("pass {pass}: {line}: {e}");
        if from_kafka.trim() != from_us.said {
            return Err(context(format!("Kafka finds {:?}, we find {:?}", from_kafka.trim(), from_us.said)));
        }
        total.passes += 1;
        total.cleaned += usize::from(from_us.upto.is_some());
        checkpoint = from_us.upto.or(checkpoint);
        compare_dirs(&theirs, &ours, total).map_err(context)?;
        let looks = [&theirs, &ours].map(|dir| kafka.ask(&format!("check {}", dir.display())));
        let [theirs_look, ours_look] = looks;
        let (theirs_look, ours_look) = (theirs_look?, ours_look?);
        if theirs_look != ours_look {
            return Err(context(format!("dump-log says of Kafka's: {theirs_look}\nand of ours: {ours_look}")));
        }
        if !ours_look.contains(" 0 sane") {
            total.checks += 1;
        }
        // Both go on from the same bytes: other compressors make other sizes, and those other groups of segments.
        let (from, to) = if rng.bool() { (&theirs, &ours) } else { (&ours, &theirs) };
        fs::remove_dir_all(to).and_then(|()| copy_dir(from, to)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Whether Kafka's cleaner, when it begins at `offset`, takes a transaction for still being aborted that ended before:
/// see `DIFFERS` in the cleaner's `read_dirty_section`.
fn is_blinded(dir: &Path, offset: i64) -> bool {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let bases = names.filter_map(|name| name.to_str()?.strip_suffix(".log")?.parse::<i64>().ok());
    let Some(base) = bases.filter(|base| *base <= offset).max() else { return false };
    let index = fs::read(dir.join(format!("{base:020}.txnindex"))).unwrap_or_default();
    let last_offset = |entry: &[u8]| entry.get(18..26)?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
    index.chunks_exact(34).filter_map(last_offset).any(|last| last < offset)
}

struct Pass {
    said: String,
    upto: Option<i64>,
}

fn clean(
    dir: &Path,
    settings: &Settings,
    high_watermark: i64,
    now_ms: i64,
    checkpoint: Option<i64>,
) -> Result<Pass, String> {
    let now = Now { mono_ms: 0, wall_ms: now_ms };
    let options =
        OpenOptions { topic_id: None, evidence: Evidence::CleanShutdown, recovery_point: 0, log_start_offset: 0, now };
    let mut log =
        Log::open(Arc::new(RealDisk), dir, settings.log.clone(), &options).map_err(|e| format!("opening: {e}"))?;
    log.set_cleaned_upto(checkpoint);
    log.on_high_watermark(high_watermark);
    let stable = log.last_stable_offset(high_watermark);
    let found = log.cleanable(stable, now).map_err(|e| e.to_string())?;
    let (clean_bytes, dirty_bytes) = found.map_or((0, 0), |found| (found.clean_bytes, found.dirty_bytes));
    let is_due = found.is_some_and(|found| found.is_due);
    let mut upto = None;
    if let Some(found) = found.filter(|_| is_due) {
        let limits = CleanLimits { map_bytes: settings.map_bytes, load_factor: 0.9, io_bytes: settings.io_bytes };
        let mut work = log.begin_cleaning(&found, limits, now);
        while upto.is_none() {
            match work.run(&mut |_| {}).map_err(|e| format!("our pass: {e}"))? {
                CleanStep::Rewritten(new) => {
                    log.swap_in(&mut work, &new, now).map_err(|e| format!("our exchange: {e}"))?;
                }
                CleanStep::Finished { end_offset } => {
                    log.on_cleaned(&work, end_offset);
                    upto = Some(end_offset);
                }
                CleanStep::Cancelled => return Err("nobody has cancelled our pass".to_owned()),
            }
        }
    }
    // What waits to be removed is.
    log.poll(Now { mono_ms: i64::MAX, ..now }).map_err(|e| e.to_string())?;
    log.close().map_err(|e| e.to_string())?;
    Ok(Pass { said: format!("{clean_bytes} {dirty_bytes} {is_due} {}", upto.unwrap_or(-1)), upto })
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

// The comparison.

fn files(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = fs::read(entry.path()).map_err(|e| format!("{name}: {e}"))?;
        // Kafka makes the index of aborted transactions when it is needed, but may leave it empty.
        if !(name.ends_with(".txnindex") && bytes.is_empty()) {
            out.insert(name, bytes);
        }
    }
    Ok(out)
}

fn compare_dirs(theirs: &Path, ours: &Path, total: &mut Counts) -> Result<(), String> {
    let (theirs, ours) = (files(theirs)?, files(ours)?);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<BTreeSet<_>>();
    if names(&theirs) != names(&ours) {
        let lacking: Vec<_> = names(&theirs).symmetric_difference(&names(&ours)).cloned().collect();
        return Err(format!("only one side has {}", lacking.join(", ")));
    }
    // Compressors differ, and with them where in the file things are.
    let mut differs_in_size = BTreeSet::new();
    for (name, bytes) in theirs.iter().filter(|(name, _)| name.ends_with(".log")) {
        let other = &ours[name];
        if compare_batches(bytes, other, total).map_err(|e| format!("{name}: {e}"))? {
            differs_in_size.insert(name.trim_end_matches(".log").to_owned());
        }
    }
    for (name, bytes) in theirs.iter().filter(|(name, _)| !name.ends_with(".log")) {
        let (base, suffix) = name.split_once('.').unwrap_or((name, ""));
        let is_free = matches!(suffix, "index" | "timeindex") && differs_in_size.contains(base);
        // Entries of producers come in any order out of Kafka's hash map.
        if !is_free && suffix != "snapshot" && bytes != &ours[name] {
            return Err(format!("{name} differs:\n{}\n{}", hex(bytes), hex(&ours[name])));
        }
    }
    Ok(())
}

/// Whether sizes differ, which only compressed batches may.
fn compare_batches(theirs: &[u8], ours: &[u8], total: &mut Counts) -> Result<bool, String> {
    let mut others = Batches::new(ours);
    let mut differs = false;
    for batch in Batches::new(theirs) {
        let batch = batch.map_err(|e| format!("Kafka's: {e}"))?;
        let Some(other) = others.next() else {
            return Err(format!("Kafka has a batch more: {:?}", batch.header));
        };
        let other = other.map_err(|e| format!("ours: {e}"))?;
        other.verify_crc().map_err(|e| format!("ours: {e}"))?;
        let header = batch.header;
        total.batches += 1;
        total.emptied += usize::from(header.records_count == 0);
        total.horizons += usize::from(header.delete_horizon_ms().is_some());
        if batch.bytes != other.bytes {
            let is_compressed = header.compression() != Ok(Compression::None);
            let free = |h: BatchHeader| BatchHeader { batch_length: 0, crc: 0, ..h };
            if !is_compressed || free(header) != free(other.header) {
                return Err(format!("Kafka has {header:?}\nwe have   {:?}", other.header));
            }
            total.compressed += 1;
            differs = true;
        }
        let (theirs, ours) = (records(&batch)?, records(&other)?);
        total.records += theirs.len();
        if theirs != ours {
            return Err(format!("of the batch at {} Kafka keeps\n{theirs:?}\nand we\n{ours:?}", header.base_offset));
        }
    }
    match others.next() {
        Some(more) => Err(format!("we have a batch more: {:?}", more.map(|batch| batch.header))),
        None => Ok(differs),
    }
}

type Owned = (i64, i64, i32, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn records(batch: &Batch<'_>) -> Result<Vec<Owned>, String> {
    let mut scratch = Scratch::default();
    let all = batch.records(&mut scratch).map_err(|e| e.to_string())?;
    let owned = |record: Result<protocol::records::Record<'_>, protocol::records::RecordError>| {
        let record = record.map_err(|e| e.to_string())?;
        let headers = record.headers.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
        let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
        Ok((record.offset, record.timestamp, record.sequence, key, value, headers))
    };
    all.map(owned).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(200).map(|byte| format!("{byte:02x}")).collect()
}

// The JVM.

struct Kafka {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Kafka {
    fn start(args: &Args) -> Result<Kafka, String> {
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
        command.arg(format!("{}:{}/*", args.classes, args.libs));
        command.arg("org.apache.kafka.storage.internals.log.Compaction");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("java: {e}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes to the JVM".to_owned());
        };
        Ok(Kafka { child, input, output: BufReader::new(output) })
    }

    fn ask(&mut self, line: &str) -> Result<String, String> {
        let mut answer = String::new();
        let asked = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        asked.and_then(|()| self.output.read_line(&mut answer)).map_err(|e| format!("the JVM: {e}"))?;
        let said = answer.trim_end().strip_prefix("ok").map(str::to_owned);
        said.ok_or_else(|| format!("the JVM to {line:?}: {}", answer.trim_end()))
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
