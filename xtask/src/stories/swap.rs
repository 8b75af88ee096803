//! The swap: Apache Kafka on the directories of a Zwirn cluster and Zwirn on those of Apache Kafka, with the same
//! properties files, several times in a row; and clusters in which both are at work at once. One client lives through
//! all of it (`xtask/java/SwapClient.java`) and knows what every partition must hold.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::cluster::{CLUSTER_ID, Cluster, Plan, files_under};
use super::process::Dialogue;
use super::{Env, expect, kafka_tools, wait_until, wire};

/// Small everywhere, so that a few seconds are enough for snapshots, rolls and internal topics.
const SETTINGS: &str = "\
    metadata.log.max.record.bytes.between.snapshots=4096\n\
    offsets.topic.num.partitions=2\n\
    transaction.state.log.num.partitions=2\n\
    group.initial.rebalance.delay.ms=0\n\
    log.cleaner.dedupe.buffer.size=4194304\n\
    log.retention.hours=1000\n";

const NODES: [i32; 3] = [1, 2, 3];
const ANSWER_MAX: Duration = Duration::from_secs(150);

/// Whose program runs on the directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Zwirn,
    Kafka,
}

/// How the nodes come to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
}

use End::{Kill, Stop};
use Side::{Kafka, Zwirn};

/// A cluster, and the client that watches it.
struct Swap<'a> {
    env: &'a Env,
    cluster: Cluster,
    client: Dialogue,
    /// What the client saw before the last stop.
    seen: Option<String>,
    /// Who runs on each node.
    sides: [Side; 3],
    round: u32,
    /// How those before came to their end.
    ended: End,
    /// As last committed, by a coordinator of Kafka's.
    committed: Option<u32>,
    started: Instant,
}

impl<'a> Swap<'a> {
    fn new(env: &'a Env, cluster: Cluster) -> Result<Swap<'a>, String> {
        let kafka = env.kafka.as_ref().map_err(String::clone)?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/SwapClient.java");
        let mut command = kafka.java_source(&source, &["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx384m"]);
        command.arg(cluster.bootstrap());
        let client = Dialogue::start(command, &cluster.dir.join("client.err"))?;
        Ok(Swap {
            env,
            cluster,
            client,
            seen: None,
            sides: [Zwirn; 3],
            round: 0,
            ended: Stop,
            committed: None,
            started: Instant::now(),
        })
    }

    fn ask(&mut self, line: &str) -> Result<String, String> {
        self.client.ask(line, ANSWER_MAX)
    }

    fn start_node(&mut self, id: i32, side: Side) -> Result<(), String> {
        self.sides[(id - 1) as usize] = side;
        match side {
            Zwirn => self.cluster.start_node(id),
            Kafka => self.cluster.start_command(id, kafka_broker(self.env)?),
        }
    }

    /// It answers itself, and counts itself in.
    fn wait_for_node(&self, id: i32) -> Result<Duration, String> {
        wait_until(Duration::from_secs(60), &format!("node {id} to serve"), || {
            let brokers = wire::metadata(self.cluster.node(id).port, "no-such-topic")?.brokers;
            expect(brokers.contains(&id), || format!("it sees {brokers:?}"))
        })
    }

    fn end_node(&mut self, id: i32, end: End) -> Result<(), String> {
        match end {
            Stop => self.cluster.stop(id, Duration::from_secs(60)).map(drop),
            Kill => self.cluster.kill(id),
        }
    }

    /// Whoever finds what the other left in order has nothing to say about it.
    fn finds_no_damage(&self, id: i32) -> Result<(), String> {
        let says = self.cluster.output_of(id);
        let is_known = |line: &&str| line.contains("Non-monotonic update of high watermark");
        let of_storage = ["org.apache.kafka.storage.", "(kafka.log", "KafkaRaftLog", "org.apache.kafka.snapshot"];
        let complains = |line: &&str| {
            let is_loud = line.contains("WARN") || line.contains("ERROR");
            is_loud && (of_storage.iter().any(|name| line.contains(name)) || line.contains("(storage::"))
        };
        match says.lines().filter(|line| !is_known(line)).find(complains) {
            Some(line) => Err(format!("node {id} complains: {line}")),
            None => Ok(()),
        }
    }

    fn start_all(&mut self, side: Side) -> Result<(), String> {
        NODES.iter().try_for_each(|id| self.start_node(*id, side))
    }

    fn end_all(&mut self, end: End) -> Result<(), String> {
        self.ended = end;
        match end {
            Stop => self.cluster.stop_all(Duration::from_secs(60)).map(drop),
            Kill => NODES.iter().try_for_each(|id| self.cluster.kill(*id)),
        }
    }

    /// One side takes over, is looked at, works a little, and goes.
    fn life(&mut self, side: Side, end: End, notes: &mut Vec<String>) -> Result<(), String> {
        self.round += 1;
        let begun = Instant::now();
        self.start_all(side)?;
        let told = self.work(side).map_err(|why| format!("round {} with {side:?}: {why}", self.round))?;
        self.end_all(end)?;
        can_be_taken_over(self.env, &self.cluster)?;
        notes.push(format!(
            "{:>3.0} s: round {} by {side:?}, {told}, {} after {:.1} s",
            self.started.elapsed().as_secs_f64(),
            self.round,
            if end == Stop { "stopped" } else { "killed" },
            begun.elapsed().as_secs_f64(),
        ));
        Ok(())
    }

    fn work(&mut self, side: Side) -> Result<String, String> {
        let round = self.round;
        self.ask("isr 3")?;
        if self.ended == Stop {
            NODES.iter().try_for_each(|id| self.finds_no_damage(*id))?;
        }
        if let Some(before) = self.seen.take() {
            let now = self.ask("describe")?;
            expect(before == now, || format!("describes differ:\n{}", difference(&before, &now)))?;
        }
        let found = self.ask("check")?;
        self.ask("send 40")?;
        self.ask(&format!("change {round}"))?;
        if side == Kafka {
            // Only there, so far, is a coordinator.
            if let Some(offset) = self.committed {
                self.ask(&format!("committed {offset}"))?;
            }
            self.ask(&format!("commit {}", round * 10))?;
            self.committed = Some(round * 10);
            self.ask(&format!("transactions {round}"))?;
        }
        self.ask("elect")?;
        self.ask("check")?;
        self.seen = Some(self.ask("describe")?);
        Ok(format!("{} found", found.trim()))
    }
}

/// `zwirn storage check` finds nothing against directories that either side left.
fn can_be_taken_over(env: &Env, cluster: &Cluster) -> Result<(), String> {
    NODES.iter().try_for_each(|id| {
        let dir = cluster.node(*id).log_dir.to_string_lossy().into_owned();
        env.zwirn(&["storage", "check", &dir])?.good().map(drop)
    })
}

/// With a heap as small as it can be: three of them run at once, on a machine of two cores perhaps.
pub fn kafka_broker(env: &Env) -> Result<Command, String> {
    let kafka = env.kafka.as_ref().map_err(String::clone)?;
    let options = ["-Xms320m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];
    Ok(kafka.java("kafka.Kafka", &options))
}

/// Lines that only one of two texts has.
fn difference(before: &str, now: &str) -> String {
    let gone = before.lines().filter(|l| !now.lines().any(|n| n == *l)).map(|l| format!("  - {l}"));
    let new = now.lines().filter(|l| !before.lines().any(|b| b == *l)).map(|l| format!("  + {l}"));
    gone.chain(new).take(40).collect::<Vec<_>>().join("\n")
}

fn static_voters(plan: &Plan) -> String {
    format!("process.roles=broker,controller\n{}{}{SETTINGS}", plan.static_voters(3), plan.combined_listeners())
}

fn dynamic_quorum(plan: &Plan) -> String {
    let servers: Vec<String> =
        NODES.iter().map(|id| format!("127.0.0.1:{}", plan.controller_port(*id as usize))).collect();
    format!(
        "process.roles=broker,controller\ncontroller.quorum.bootstrap.servers={}\n{}{SETTINGS}",
        servers.join(","),
        plan.combined_listeners()
    )
}

fn format_with(env: &Env, cluster: &Cluster, side: Side, id: i32, flags: &[&str]) -> Result<(), String> {
    if side == Zwirn {
        return cluster.format(env, id, flags);
    }
    let config = cluster.node(id).properties.to_string_lossy().into_owned();
    let args = [&["format", "-t", CLUSTER_ID, "-c", &config][..], flags].concat();
    env.kafka("kafka.tools.StorageTool", &args, "")?.good().map(drop)
}

/// Static voters, directories that Zwirn formatted; clean stops and kills.
pub fn swapped(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let cluster = static_cluster(env, "swap")?;
    rounds(env, cluster, &[(Zwirn, Stop), (Kafka, Stop), (Zwirn, Kill), (Kafka, Kill)], notes)
}

/// A quorum whose voters are in the log, in directories that Kafka formatted.
pub fn swapped_dynamic(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let cluster = dynamic_cluster(env, "swap-dynamic")?;
    rounds(env, cluster, &[(Kafka, Stop), (Zwirn, Kill)], notes)
}

fn dynamic_cluster(env: &Env, name: &str) -> Result<Cluster, String> {
    let cluster = Cluster::prepare_as(env, name, &dynamic_quorum)?;
    let directory = ["ZGlyZWN0b3J5LW9mLTAwMQ", "ZGlyZWN0b3J5LW9mLTAwMg", "ZGlyZWN0b3J5LW9mLTAwMw"];
    let mut voters = Vec::new();
    for (id, directory) in NODES.iter().zip(directory) {
        let text = fs::read_to_string(&cluster.node(*id).properties).map_err(|e| e.to_string())?;
        let port = text.split("CONTROLLER://127.0.0.1:").nth(1).and_then(|t| t.lines().next()).unwrap_or_default();
        voters.push(format!("{id}@127.0.0.1:{port}:{directory}"));
    }
    let voters = voters.join(",");
    for id in NODES {
        format_with(env, &cluster, Kafka, id, &["--initial-controllers", &voters])?;
    }
    Ok(cluster)
}

/// Lives of the cluster, one after the other, under a producer that hears only that brokers come and go.
fn rounds(env: &Env, cluster: Cluster, lives: &[(Side, End)], notes: &mut Vec<String>) -> Result<(), String> {
    let mut swap = Swap::new(env, cluster)?;
    swap.start_all(lives[0].0)?;
    swap.cluster.wait_for_brokers(3)?;
    swap.ask("topics")?;
    swap.ask("flow 200")?;
    let told = swap.work(lives[0].0)?;
    swap.end_all(lives[0].1)?;
    notes.push(format!("{:>3.0} s: begun by {:?}, {told}", swap.started.elapsed().as_secs_f64(), lives[0].0));
    for (side, end) in &lives[1..] {
        swap.life(*side, *end, notes)?;
    }
    // Once more, to see what the last of them left.
    let last = if lives[lives.len() - 1].0 == Zwirn { Kafka } else { Zwirn };
    swap.start_all(last)?;
    swap.ask("isr 3")?;
    notes.push(swap.ask("stop-flow")?.trim().to_owned());
    notes.push(swap.ask("check")?.trim().to_owned());
    let (of_zwirn, of_kafka) = snapshots(&swap.cluster);
    swap.end_all(Stop)?;
    equal_and_sane(env, &swap.cluster)?;
    notes.push(format!("{} rounds, {of_zwirn} and {of_kafka} metadata snapshots left", lives.len() + 1));
    swap.cluster.done();
    Ok(())
}

/// Snapshots of the metadata on the first node, and on all.
fn snapshots(cluster: &Cluster) -> (usize, usize) {
    let count = |id: i32| files_under(&cluster.node(id).log_dir, ".checkpoint").len();
    (count(1), NODES.iter().map(|id| count(*id)).sum())
}

/// All replicas of what was written hold the same bytes, and Kafka's own checks have nothing to say.
fn equal_and_sane(env: &Env, cluster: &Cluster) -> Result<(), String> {
    for log in files_under(&cluster.node(1).log_dir, ".log") {
        let name = |path: Option<&Path>| path.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
        let (Some(partition), Some(segment)) = (name(log.parent()), name(Some(&log))) else { continue };
        if partition.starts_with("swap-") {
            cluster.replicas_are_equal(&partition, &segment)?;
        }
    }
    kafka_tools::sanity_check(env, cluster).map(drop)
}

/// One node after the other becomes one of Kafka's, and then one of Zwirn's again, while records flow.
pub fn mixed(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut swap = begin_mixed(env, static_cluster(env, "swap-mixed")?)?;
    for (side, end) in [(Kafka, Stop), (Zwirn, Kill)] {
        for _ in NODES {
            replace_next(&mut swap, side, end, notes)?;
        }
    }
    end_mixed(swap, notes)
}

/// Nodes of either side come and go in an order that a seed decides, one at a time or all at once, for as long as
/// somebody likes to wait: `cargo xtask swap`.
pub fn wander(env: &Env, seed: u64, steps: u32, notes: &mut Vec<String>) -> Result<(), String> {
    let mut state = seed;
    let mut random = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let is_dynamic = random(2) == 0;
    let cluster = if is_dynamic { dynamic_cluster(env, "swap-long")? } else { static_cluster(env, "swap-long")? };
    notes.push(format!("seed {seed}, {} voters", if is_dynamic { "dynamic" } else { "static" }));
    let mut swap = begin_mixed(env, cluster)?;
    for step in 1..=steps {
        let end = if random(2) == 0 { Stop } else { Kill };
        let mut side = || if random(2) == 0 { Zwirn } else { Kafka };
        let sides = [side(), side(), side()];
        let who = 1 + random(5) as i32;
        if NODES.contains(&who) {
            replace_one(&mut swap, who, sides[0], end, notes)
        } else {
            replace_all(&mut swap, sides, end, notes)
        }
        .map_err(|why| format!("seed {seed}, step {step}: {why}"))?;
    }
    end_mixed(swap, notes)
}

fn static_cluster(env: &Env, name: &str) -> Result<Cluster, String> {
    let cluster = Cluster::prepare_as(env, name, &static_voters)?;
    for id in NODES {
        format_with(env, &cluster, Zwirn, id, &[])?;
    }
    Ok(cluster)
}

fn begin_mixed(env: &Env, cluster: Cluster) -> Result<Swap<'_>, String> {
    let mut swap = Swap::new(env, cluster)?;
    swap.start_all(Zwirn)?;
    swap.cluster.wait_for_brokers(3)?;
    swap.ask("topics")?;
    swap.ask("flow 500")?;
    Ok(swap)
}

fn end_mixed(mut swap: Swap<'_>, notes: &mut Vec<String>) -> Result<(), String> {
    swap.ask("isr 3")?;
    notes.push(swap.ask("stop-flow")?.trim().to_owned());
    let found = swap.ask("check")?;
    swap.end_all(Stop)?;
    equal_and_sane(swap.env, &swap.cluster)?;
    notes.push(format!("{} in order, none lost or doubled", found.trim()));
    swap.cluster.done();
    Ok(())
}

/// All end, and others take their places.
fn replace_all(swap: &mut Swap<'_>, sides: [Side; 3], end: End, notes: &mut Vec<String>) -> Result<(), String> {
    let begun = Instant::now();
    swap.end_all(end)?;
    for (id, side) in NODES.iter().zip(sides) {
        swap.start_node(*id, side)?;
    }
    for id in NODES {
        swap.wait_for_node(id)?;
    }
    let what = format!("after {end:?} of all they are {sides:?}");
    settle(swap, begun, &what, notes).map_err(|why| format!("{what}: {why}"))
}

/// The active controller last when Kafka comes, first when it goes: both sides are in office for a while.
fn replace_next(swap: &mut Swap<'_>, side: Side, end: End, notes: &mut Vec<String>) -> Result<(), String> {
    let active: i32 = swap.ask("controller")?.trim().parse().map_err(|e| format!("active controller: {e}"))?;
    let open: Vec<i32> = NODES.into_iter().filter(|id| swap.sides[*id as usize - 1] != side).collect();
    let id = match side {
        Kafka => *open.iter().find(|id| **id != active).unwrap_or(&open[0]),
        Zwirn => *open.iter().find(|id| **id == active).unwrap_or(&open[0]),
    };
    replace_one(swap, id, side, end, notes)
}

fn replace_one(swap: &mut Swap<'_>, id: i32, side: Side, end: End, notes: &mut Vec<String>) -> Result<(), String> {
    let begun = Instant::now();
    let before = swap.sides[(id - 1) as usize];
    swap.end_node(id, end)?;
    swap.start_node(id, side)?;
    let what = format!("after {end:?} of {before:?} node {id} is {side:?}");
    // Until then the ISR may look as it did before the end.
    let serves = swap.wait_for_node(id).map(drop);
    serves.and_then(|()| settle(swap, begun, &what, notes)).map_err(|why| format!("{what}: {why}"))
}

/// Whole again, and everything works.
fn settle(swap: &mut Swap<'_>, begun: Instant, what: &str, notes: &mut Vec<String>) -> Result<(), String> {
    swap.round += 1;
    swap.ask("isr 3")?;
    let whole = begun.elapsed();
    swap.ask("elect")?;
    swap.ask("send 20")?;
    swap.ask(&format!("change {}", swap.round))?;
    swap.ask("isr 3")?;
    swap.ask("check")?;
    let (leaders, controller) = (swap.ask("leaders")?, swap.ask("controller")?);
    notes.push(format!(
        "{:>3.0} s: {what}; ISR whole after {:.1} s; nodes {} lead, controller {}",
        swap.started.elapsed().as_secs_f64(),
        whole.as_secs_f64(),
        leaders.trim(),
        controller.trim()
    ));
    Ok(())
}
