//! What a user does, with real processes: the stories of the README, with our own tools and with Apache Kafka's. Three
//! nodes are formatted and started, nodes are killed, garbage is thrown at them, and what was promised is checked.
//!
//! Every stage says in the table what it left out and why, such as the tools of Kafka where there is no JDK. Every
//! story has its directory under `target/stories`, kept if the story fails; every wait ends; every process is stopped by
//! its id.

mod admin;
mod bad_input;
mod batches;
mod by_hand;
pub(crate) mod cluster;
mod consumer_groups;
mod dev;
mod faults;
mod kafka_tools;
mod process;
mod reassign;
mod shapes;
mod swap;
mod transactions;
mod voters;
pub(crate) mod wire;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use swap::kafka_broker;

use crate::jars::Kafka;
use crate::stages::{self, Outcome, Stages};

/// What the stories need of this machine.
pub(crate) struct Env {
    /// The release binary under test.
    pub binary: PathBuf,
    pub kafka: Result<Kafka, String>,
    pub stories: PathBuf,
}

/// Figures and remarks go to the notes, one each.
type Story = fn(&Env, &mut Vec<String>) -> Result<(), String>;

/// Name, whether Apache Kafka's tools are needed, and the story.
const STORIES: &[(&str, bool, Story)] = &[
    ("story by-hand", false, by_hand::story),
    ("story same-as-kafka", true, by_hand::same_as_kafka),
    ("story kafka-tools", true, kafka_tools::story),
    ("story producer-perf", true, kafka_tools::producer_perf),
    ("story kcat", false, kafka_tools::kcat),
    ("story leader-killed", true, faults::leader_killed),
    ("story leader-stopped", true, faults::leader_stopped),
    ("story all-killed", true, faults::all_killed),
    ("story bad-minute", true, faults::bad_minute),
    ("story reassign", true, reassign::story),
    ("story admin", true, admin::story),
    ("story thousand-partitions", false, faults::thousand_partitions),
    ("story roles-apart", false, shapes::roles_apart),
    ("story dynamic-quorum", false, shapes::dynamic_quorum),
    ("story disk-replaced", false, shapes::disk_replaced),
    ("story voters", false, voters::story),
    ("story segments", false, shapes::segments),
    ("story refused-at-start", false, shapes::refused_at_start),
    ("story bad-input", false, bad_input::story),
    ("story bad-batches", false, batches::story),
    ("story consumer-groups", true, consumer_groups::story),
    ("story transactions", true, transactions::story),
    ("story swap", true, swap::swapped),
    ("story swap-dynamic", true, swap::swapped_dynamic),
    ("story swap-mixed", true, swap::mixed),
    ("story demo", false, faults::demo),
    ("story dev", false, dev::story),
];

/// Each story is a stage.
pub fn run(stages: &mut Stages) {
    let mut env: Option<Result<Env, String>> = None;
    for (name, needs_kafka, story) in STORIES {
        stages.run(name, |root| {
            let env = env.get_or_insert_with(|| Env::new(root)).as_ref().map_err(String::clone)?;
            if let (true, Err(why)) = (*needs_kafka, &env.kafka) {
                return Ok(Outcome::LeftOut(why.clone()));
            }
            let mut notes = Vec::new();
            let result = story(env, &mut notes);
            for note in &notes {
                println!("    {note}");
            }
            result.map(|()| notes.into_iter().next_back().map_or(Outcome::Passed, Outcome::Note))
        });
    }
}

/// `cargo xtask swap [--steps N] [--seed N]`.
pub fn swap(root: &Path, args: &[&str]) -> Result<(), String> {
    let (mut steps, mut seed) = (20, u64::from(std::process::id()));
    for pair in args.chunks(2) {
        match *pair {
            ["--steps", n] => steps = n.parse().map_err(|e| format!("--steps {n}: {e}"))?,
            ["--seed", n] => seed = n.parse().map_err(|e| format!("--seed {n}: {e}"))?,
            _ => return Err("usage: cargo xtask swap [--steps N] [--seed N]".to_owned()),
        }
    }
    let env = Env::new(root)?;
    let mut notes = Vec::new();
    let result = swap::wander(&env, seed, steps, &mut notes);
    notes.iter().for_each(|note| println!("{note}"));
    result
}

impl Env {
    pub(crate) fn new(root: &Path) -> Result<Env, String> {
        let binary = release_binary(root)?;
        let stories = stages::target_dir(root).join("stories");
        Ok(Env { binary, kafka: Kafka::get(root).map_err(|missing| missing.0), stories })
    }
}

/// Builds the release binary, unless `ZWIRN_BINARY` names another that understands the same commands.
pub(crate) fn release_binary(root: &Path) -> Result<PathBuf, String> {
    let binary = match std::env::var_os("ZWIRN_BINARY") {
        Some(binary) => PathBuf::from(binary),
        None => {
            stages::cargo(root, &["build", "--quiet", "--release", "-p", "zwirn"])?;
            stages::target_dir(root).join("release/zwirn")
        }
    };
    binary.canonicalize().map_err(|e| format!("{}: {e}", binary.display()))
}

/// Asks until the answer is yes; the last "no" is the reason of the failure.
pub(crate) fn wait_until(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<(), String>,
) -> Result<Duration, String> {
    let started = Instant::now();
    loop {
        match ask() {
            Ok(()) => return Ok(started.elapsed()),
            Err(why) if started.elapsed() > limit => {
                return Err(format!("{what}: not within {:.0} s: {why}", limit.as_secs_f64()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A condition of a story.
pub(crate) fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
