//! The cluster, the program beside it, and the blows that the program asks for.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Against;
use super::install::Installed;
use super::rows::Row;
use crate::stories::cluster::Cluster;
use crate::stories::{Env, expect, kafka_broker, wait_until};

/// How long a killed node stays away.
const AWAY: Duration = Duration::from_secs(2);
const OFFSETS: &str = "__consumer_offsets";
const TRANSACTIONS: &str = "__transaction_state";
/// Programs form groups in their first seconds; Kafka's default of 3 s would be most of a short run. Kafka's own group
/// assignor for the new protocol looks for news every 5 s of a member's heartbeat.
const SETTINGS: &str = "group.initial.rebalance.delay.ms=500\ngroup.consumer.heartbeat.interval.ms=1000\n\
                        group.consumer.min.heartbeat.interval.ms=1000\n";

#[derive(Clone, Copy)]
pub enum Size {
    /// For CI.
    Short,
    Long,
}

impl Size {
    fn records(self) -> u32 {
        match self {
            Size::Short => 450,
            Size::Long => 3_000,
        }
    }

    /// Records a second.
    fn rate(self) -> u32 {
        match self {
            Size::Short => 200,
            Size::Long => 300,
        }
    }

    /// For one program. Apache Kafka notices a killed broker after nine seconds.
    fn limit(self, against: Against) -> Duration {
        let (short, long) = match against {
            Against::Zwirn => (90, 240),
            Against::Kafka => (180, 300),
        };
        Duration::from_secs(match self {
            Size::Short => short,
            Size::Long => long,
        })
    }
}

/// What a program says at its end.
pub struct Report {
    pub version: String,
    pub records: u64,
    /// The longest time without an acknowledgement while it produced.
    pub silence: Duration,
    pub checked: String,
    pub left_out: Vec<String>,
}

pub struct Run<'a> {
    env: &'a Env,
    cluster: Cluster,
    against: Against,
    size: Size,
    /// Plays so far, so that no two share a name.
    plays: u32,
}

/// A node that was killed and comes back.
struct Down {
    id: i32,
    since: Instant,
}

/// The program as it runs.
struct Playing {
    child: Child,
    lines: Receiver<String>,
    down: Option<Down>,
    /// Topic and key of coordinators that are still to be killed.
    wanted: Vec<(&'static str, String)>,
    blows: Vec<String>,
    last: Option<String>,
}

impl<'a> Run<'a> {
    pub fn start(env: &'a Env, against: Against, size: Size) -> Result<Run<'a>, String> {
        let name = if against == Against::Kafka { "clients-kafka" } else { "clients" };
        let cluster = Cluster::prepare(env, name, SETTINGS)?;
        for id in 1..=3 {
            cluster.format(env, id, &[])?;
        }
        let mut run = Run { env, cluster, against, size, plays: 0 };
        for id in 1..=3 {
            run.start_node(id)?;
        }
        run.cluster.wait_for_brokers(3)?;
        Ok(run)
    }

    fn start_node(&mut self, id: i32) -> Result<(), String> {
        match self.against {
            Against::Zwirn => self.cluster.start_node(id),
            Against::Kafka => self.cluster.start_command(id, kafka_broker(self.env)?),
        }
    }

    /// One program from its start to its end.
    pub fn play(&mut self, row: &Row, installed: &Installed, parts: &str) -> Result<Report, String> {
        self.plays += 1;
        let name = format!("{}-{}", row.name, self.plays);
        let args = [
            format!("bootstrap={}", self.cluster.bootstrap()),
            format!("name={name}"),
            format!("records={}", self.size.records()),
            format!("rate={}", self.size.rate()),
            format!("parts={parts}"),
            format!("dir={}", self.cluster.dir.join(&name).display()),
        ];
        let errors = self.cluster.dir.join(format!("{name}.err"));
        let mut playing = Playing::start(installed.command(&args), &errors)?;
        let limit = self.size.limit(self.against);
        let ended = self.watch(&mut playing, limit);
        // Whatever became of the program, the next one finds three nodes.
        if let Some(down) = playing.down.take() {
            self.start_node(down.id)?;
        }
        let told = ended.and_then(|()| playing.report());
        wait_until(Duration::from_secs(60), "replicas in sync again", || self.is_whole(&name))?;
        told.map_err(|why| format!("{why}\n{}\n  {}", playing.blows.join("\n"), tail(&errors)))
    }

    /// Until the program ends, with the blows that it asks for.
    fn watch(&mut self, playing: &mut Playing, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        loop {
            match playing.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => playing.hear(line),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(down) = playing.down.take_if(|down| down.since.elapsed() > AWAY) {
                self.start_node(down.id)?;
            }
            if playing.down.is_none() {
                self.maybe_strike(playing)?;
            }
            expect(Instant::now() < end, || format!("it did not end within {limit:?}"))?;
        }
    }

    /// Kills the coordinator that is wanted, once the replicas of its topic are all in sync: two of three must be left.
    fn maybe_strike(&mut self, playing: &mut Playing) -> Result<(), String> {
        let Some((topic, key)) = playing.wanted.first() else { return Ok(()) };
        let Ok(metadata) = self.cluster.metadata(topic) else { return Ok(()) };
        if metadata.partitions.is_empty() || metadata.partitions.iter().any(|p| p.isr.len() < 3 || p.leader < 0) {
            return Ok(());
        }
        let partition = java_hash(key) % metadata.partitions.len() as u32;
        let Some(leader) = metadata.partitions.get(partition as usize).map(|p| p.leader) else { return Ok(()) };
        self.cluster.kill(leader)?;
        playing.blows.push(format!("  node {leader} killed, the coordinator of {key}"));
        playing.down = Some(Down { id: leader, since: Instant::now() });
        playing.wanted.remove(0);
        Ok(())
    }

    fn is_whole(&mut self, name: &str) -> Result<(), String> {
        expect(self.cluster.running().len() == 3, || "a node has ended".to_owned())?;
        for topic in [OFFSETS, TRANSACTIONS, &format!("{name}-ledger")] {
            let metadata = self.cluster.metadata(topic)?;
            let bad = metadata.partitions.iter().find(|p| p.isr.len() < p.replicas.len());
            expect(bad.is_none(), || format!("{topic} has partitions out of sync"))?;
        }
        Ok(())
    }

    pub fn done(self) {
        self.cluster.done();
    }
}

impl Playing {
    fn start(mut command: Command, errors: &Path) -> Result<Playing, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", errors.display());
        let file = std::fs::File::create(errors).map_err(failed)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = std::sync::mpsc::channel();
        // Ends with the process.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Playing { child, lines, down: None, wanted: Vec::new(), blows: Vec::new(), last: None })
    }

    fn hear(&mut self, line: String) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["strike", "group", id] => self.wanted.push((OFFSETS, id.to_owned())),
            ["strike", "transaction", id] => self.wanted.push((TRANSACTIONS, id.to_owned())),
            _ if line.starts_with('{') => self.last = Some(line),
            _ => self.blows.push(format!("  it says: {line}")),
        }
    }

    /// Its last word, which counts only if nodes were killed as it wanted.
    fn report(&mut self) -> Result<Report, String> {
        let status = self.child.wait().map_err(|e| e.to_string())?;
        let last = self.last.take().unwrap_or_default();
        let json: Value = serde_json::from_str(&last).unwrap_or_default();
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let failed = json["failed"].as_str();
        expect(status.success() && json.is_object() && failed.is_none(), || {
            format!("{status}: {}", failed.unwrap_or("it gives no reason"))
        })?;
        expect(self.wanted.is_empty() && self.blows.iter().any(|blow| blow.contains(" killed")), || {
            "no node was killed while it ran".to_owned()
        })?;
        let words = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        Ok(Report {
            version: text("version"),
            records: json["records"].as_u64().unwrap_or_default(),
            silence: Duration::from_millis(json["silence_ms"].as_u64().unwrap_or_default()),
            checked: words(&json["checked"]).join(", "),
            left_out: words(&json["left_out"]),
        })
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Coordinators are found by the hash that Java gives a string.
fn java_hash(text: &str) -> u32 {
    text.encode_utf16().fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit))) & 0x7fff_ffff
}

/// The last that a program wrote to its standard error.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n  ")
}
