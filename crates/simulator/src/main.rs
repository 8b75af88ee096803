//! A cluster of real nodes on a seeded network, disk and clock, in one thread.
//!
//! `--seed N` replays one life bit for bit; `--seeds N` runs many, each in a process of its own, so that an assertion
//! which stops a node stops only that life; `--mutation NAME` plants a fault and wants it noticed.

mod checkers;
mod client;
mod consumer;
mod creator;
mod disk;
mod faults;
mod life;
mod mutations;
mod network;
mod producer;
mod reassigner;
mod trace;
mod world;

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use broker::Mutations;

use crate::mutations::MUTATIONS;

const USAGE: &str = "\
usage: simulator --seed N [--print]    one life, its digest and what is wrong with it
       simulator --seeds N [--from M]  the lives of N seeds; names those that fail
       simulator --mutation NAME       plants a fault (with --seed N: in that life) and wants it noticed
       simulator --mutations           all of them, one after the other";

#[derive(Default)]
struct Options {
    seed: Option<u64>,
    seeds: Option<u64>,
    from: u64,
    mutation: Option<String>,
    all_mutations: bool,
    is_printed: bool,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let passed = match (&options.seed, &options.seeds, &options.mutation) {
        (Some(seed), _, mutation) => one(*seed, mutation.as_deref(), options.is_printed),
        (None, Some(seeds), None) => many(options.from, *seeds),
        (None, None, Some(name)) => is_noticed(name),
        (None, None, None) if options.all_mutations => {
            let missed = MUTATIONS.iter().filter(|mutation| !is_noticed(mutation.name)).count();
            println!("{} of {} planted faults were noticed", MUTATIONS.len() - missed, MUTATIONS.len());
            missed == 0
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { from: 1, ..Options::default() };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match arg.as_str() {
            "--seed" => options.seed = Some(number(value()?)?),
            "--seeds" => options.seeds = Some(number(value()?)?),
            "--from" => options.from = number(value()?)?,
            "--mutations" => options.all_mutations = true,
            "--print" => options.is_printed = true,
            "--mutation" => {
                let name = value()?;
                let known = || MUTATIONS.iter().map(|mutation| mutation.name).collect::<Vec<_>>().join(", ");
                mutations::find(&name).ok_or_else(|| format!("there is no mutation {name}, but {}", known()))?;
                options.mutation = Some(name);
            }
            _ => return Err(format!("{arg} is unknown")),
        }
    }
    Ok(options)
}

fn one(seed: u64, mutation: Option<&str>, is_printed: bool) -> bool {
    if is_printed {
        // The nodes' own words, between the events; the wall clock has no place there.
        tracing_subscriber::fmt().without_time().with_target(false).with_writer(std::io::stderr).init();
    }
    let mut planted = Mutations::default();
    if let Some(mutation) = mutation.and_then(mutations::find) {
        (mutation.plant)(&mut planted);
    }
    let outcome = life::live(seed, planted, is_printed);
    for violation in outcome.violations.iter().take(10) {
        println!("seed {seed}: {violation}");
    }
    println!(
        "seed {seed}: digest {:016x}, {} events in {} ms, {} records acknowledged, {} metadata batches, {} violations",
        outcome.digest,
        outcome.events,
        outcome.sim_ms,
        outcome.acknowledged,
        outcome.metadata_batches,
        outcome.violations.len()
    );
    outcome.violations.is_empty()
}

/// A life in a process of its own.
struct Run {
    seed: u64,
    child: Child,
}

fn spawn(seed: u64, mutation: Option<&str>) -> Run {
    let this = std::env::current_exe().expect("the system knows what it runs");
    let mut command = Command::new(this);
    command.args(["--seed", &seed.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(name) = mutation {
        command.args(["--mutation", name]);
    }
    Run { seed, child: command.spawn().expect("this program can run itself") }
}

/// Whether the life went well, and the first line about it: a violation, an assertion's message, or the summary.
fn wait(run: Run) -> (u64, bool, String) {
    let output = run.child.wait_with_output().expect("the child is ours");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut line = text.lines().next().unwrap_or_default().to_owned();
    if line.is_empty() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let said: Vec<&str> = text.lines().filter(|line| !line.is_empty()).take(3).collect();
        line = format!("seed {}: {}", run.seed, said.join(" "));
    }
    (run.seed, output.status.success(), line)
}

/// Runs seeds on all cores, in order of their numbers, until `stop` says so about one that has ended.
fn run_seeds(from: u64, count: u64, mutation: Option<&str>, mut stop: impl FnMut(u64, bool, &str) -> bool) {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut running: Vec<Run> = Vec::new();
    let mut next = from;
    let mut is_stopped = false;
    while !running.is_empty() || (next < from + count && !is_stopped) {
        while running.len() < cores && next < from + count && !is_stopped {
            running.push(spawn(next, mutation));
            next += 1;
        }
        let run = running.remove(0);
        let (seed, passed, line) = wait(run);
        is_stopped |= stop(seed, passed, &line);
    }
}

fn many(from: u64, count: u64) -> bool {
    let start = Instant::now();
    let mut failed = Vec::new();
    run_seeds(from, count, None, |seed, passed, line| {
        if !passed {
            println!("{line}");
            failed.push(seed);
        }
        false
    });
    println!("{count} seeds in {:.1} s, {} failed {failed:?}", seconds(start.elapsed()), failed.len());
    if let Some(seed) = failed.first() {
        println!("again: cargo run --release -p simulator -- --seed {seed}");
    }
    failed.is_empty()
}

fn is_noticed(name: &str) -> bool {
    let mutation = mutations::find(name).expect("checked when it was read");
    let mut noticed = None;
    run_seeds(1, mutation.seeds, Some(name), |seed, passed, line| {
        if !passed && noticed.is_none() {
            noticed = Some((seed, line.to_owned()));
        }
        !passed
    });
    match &noticed {
        Some((seed, line)) => println!("{name}: noticed by seed {seed} of {}: {line}", mutation.seeds),
        None => println!("{name}: NOT noticed by {} seeds", mutation.seeds),
    }
    noticed.is_some()
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
