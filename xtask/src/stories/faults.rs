//! Nodes die and are stopped while a producer writes with acks=all; what was acknowledged must be there, once and in
//! order. The producer is Apache Kafka's VerifiableProducer, which reports every acknowledgement.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::process::{Follower, finish};
use super::{Env, expect, kafka_tools, wait_until, wire};

const TOPIC: &str = "acknowledged";
const RECORDS_PER_SECOND: u32 = 2_000;
const BAD_MINUTE_PARTITIONS: u32 = 4;

struct Producer {
    follower: Follower,
}

/// What the producer was told.
struct Acknowledged {
    /// In the order of acknowledgement.
    values: Vec<u64>,
    times: Vec<Instant>,
    errors: Vec<String>,
}

impl Producer {
    fn start(env: &Env, cluster: &Cluster, seconds: u32) -> Result<Producer, String> {
        // Its defaults would neither retry nor be idempotent.
        let config = cluster.dir.join("producer.properties");
        let text = "enable.idempotence=true\nretries=2147483647\ndelivery.timeout.ms=60000\nrequest.timeout.ms=5000\n\
                    linger.ms=1\n";
        fs::write(&config, text).map_err(|e| e.to_string())?;
        let (servers, records) = (cluster.bootstrap(), (RECORDS_PER_SECOND * seconds).to_string());
        let rate = RECORDS_PER_SECOND.to_string();
        let args = [
            "--topic",
            TOPIC,
            "--bootstrap-server",
            &servers,
            "--acks",
            "-1",
            "--throughput",
            &rate,
            "--max-messages",
            &records,
            "--command-config",
            &config.to_string_lossy(),
        ];
        let command = env.kafka_command("org.apache.kafka.tools.VerifiableProducer", &args)?;
        let follower = Follower::start(command, &cluster.dir.join("producer.err"))?;
        wait_until(Duration::from_secs(20), "the producer's first thousand acknowledgements", || {
            expect(follower.count() > 1_000, || format!("{} so far", follower.count()))
        })?;
        Ok(Producer { follower })
    }

    fn finish(self) -> Result<Acknowledged, String> {
        let mut acknowledged = Acknowledged { values: Vec::new(), times: Vec::new(), errors: Vec::new() };
        for (time, line) in self.follower.finish(Duration::from_secs(90))? {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            match event["name"].as_str() {
                Some("producer_send_success") => {
                    let value = event["value"].as_str().and_then(|v| v.parse().ok());
                    acknowledged.values.push(value.ok_or_else(|| format!("no number in {line}"))?);
                    acknowledged.times.push(time);
                }
                Some("producer_send_error") => acknowledged.errors.push(line),
                _ => {}
            }
        }
        Ok(acknowledged)
    }
}

impl Acknowledged {
    /// The longest time without an acknowledgement.
    fn silence(&self) -> Duration {
        self.times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
    }

    /// Everything acknowledged is in the topic exactly once, and each partition is in the order of sending.
    fn check(&self, env: &Env, cluster: &Cluster) -> Result<String, String> {
        expect(self.errors.is_empty(), || format!("{} sends failed: {}", self.errors.len(), self.errors[0]))?;
        let servers = cluster.bootstrap();
        let partitions = cluster.metadata(TOPIC)?.partitions.len();
        let mut there: BTreeSet<u64> = BTreeSet::new();
        let mut count = 0;
        for partition in 0..partitions {
            let line = format!(
                "--bootstrap-server {servers} --topic {TOPIC} --partition {partition} --offset earliest \
                 --timeout-ms 4000"
            );
            let read = env.kafka_line("consumer.ConsoleConsumer", &line)?;
            let found: Vec<u64> = read.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect();
            let disorder = found.windows(2).position(|w| w[1] <= w[0]);
            expect(disorder.is_none(), || {
                let at = disorder.unwrap_or_default();
                format!("partition {partition}: record {} is followed by {}", found[at], found[at + 1])
            })?;
            count += found.len();
            there.extend(found);
        }
        expect(count == there.len(), || format!("{} records are in two partitions", count - there.len()))?;
        let lost: Vec<&u64> = self.values.iter().filter(|v| !there.contains(v)).collect();
        expect(lost.is_empty(), || {
            let head = &lost[..lost.len().min(10)];
            format!("{} of {} acknowledged records are lost: {head:?} …", lost.len(), self.values.len())
        })?;
        Ok(format!(
            "{} records acknowledged, {count} in the topic, none lost, doubled or out of order",
            self.values.len()
        ))
    }
}

fn cluster_with_topic(env: &Env, name: &str, partitions: u32) -> Result<Cluster, String> {
    let cluster = Cluster::start(env, name, "")?;
    cluster.create_topic(env, TOPIC, partitions, &["--config", "min.insync.replicas=2"])?;
    Ok(cluster)
}

/// kill -9 of the leader, twice, each time restarted.
pub fn leader_killed(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = cluster_with_topic(env, "leader-killed", 1)?;
    let producer = Producer::start(env, &cluster, 20)?;
    for round in 1..=2 {
        std::thread::sleep(Duration::from_secs(1));
        let leader = cluster.leader(TOPIC)?;
        let killed_at = Instant::now();
        cluster.kill(leader)?;
        wait_until(Duration::from_secs(20), "another leader", || {
            let now = cluster.leader(TOPIC)?;
            expect(now != leader, || format!("node {leader} still leads"))
        })?;
        let took = killed_at.elapsed();
        let next = cluster.leader(TOPIC)?;
        std::thread::sleep(Duration::from_secs(1));
        cluster.start_node(leader)?;
        let restarted = Instant::now();
        tells_no_past(&cluster, leader, next)?;
        cluster.wait_for_isr(TOPIC, 3, Duration::from_secs(40))?;
        let whole = restarted.elapsed();
        notes.push(format!(
            "round {round}: node {leader} killed, node {next} leads after {} ms; ISR whole {} ms after the restart",
            took.as_millis(),
            whole.as_millis()
        ));
    }
    let acknowledged = producer.finish()?;
    notes.push(format!("longest silence of the producer: {} ms", acknowledged.silence().as_millis()));
    notes.push(acknowledged.check(env, &cluster)?);
    cluster.replicas_are_equal(&format!("{TOPIC}-0"), "00000000000000000000.log")?;
    cluster.done();
    Ok(())
}

/// A node that comes back says nothing of the cluster, or what is true now.
fn tells_no_past(cluster: &Cluster, restarted: i32, leader: i32) -> Result<(), String> {
    let port = cluster.node(restarted).port;
    let mut told = 0;
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(10) && told < 5 {
        if let Ok(metadata) = wire::metadata(port, TOPIC) {
            told += 1;
            let seen = metadata.partitions.first().map(|p| p.leader);
            expect(seen == Some(leader), || format!("restarted node {restarted} says {seen:?} leads, it is {leader}"))?;
        }
    }
    expect(told > 0, || format!("restarted node {restarted} tells nothing for {:?}", asked.elapsed()))
}

/// A minute of bad luck: nodes are killed, frozen and stopped one after the other, in an order that a seed decides.
pub fn bad_minute(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = cluster_with_topic(env, "bad-minute", BAD_MINUTE_PARTITIONS)?;
    let seed = u64::from(std::process::id());
    notes.push(format!("seed {seed}"));
    let mut state = seed;
    let mut random = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let seconds = 60;
    let producer = Producer::start(env, &cluster, seconds)?;
    let end = Instant::now() + Duration::from_secs(u64::from(seconds) - 12);
    let mut deeds = Vec::new();
    while Instant::now() < end {
        let id = 1 + random(3) as i32;
        let pause = Duration::from_millis(random(3_000));
        match random(4) {
            0 => {
                cluster.freeze(id, true)?;
                // Longer than a session, one time in three.
                let frozen = if random(3) == 0 { Duration::from_secs(11) } else { pause };
                std::thread::sleep(frozen);
                cluster.freeze(id, false)?;
                deeds.push(format!("froze {id} for {:.1} s", frozen.as_secs_f64()));
            }
            1 => {
                cluster.stop(id, Duration::from_secs(40))?;
                std::thread::sleep(pause);
                cluster.start_node(id)?;
                deeds.push(format!("stopped {id}"));
            }
            _ => {
                cluster.kill(id)?;
                std::thread::sleep(pause);
                cluster.start_node(id)?;
                deeds.push(format!("killed {id}"));
            }
        }
        // Half of the time the next blow falls before the ISR is whole; min.insync.replicas=2 is what protects then.
        if random(2) == 0 {
            cluster.wait_for_isr(TOPIC, 3, Duration::from_secs(40))?;
        }
    }
    notes.push(deeds.join(", "));
    cluster.wait_for_isr(TOPIC, 3, Duration::from_secs(40))?;
    let acknowledged = producer.finish()?;
    notes.push(format!("longest silence of the producer: {} ms", acknowledged.silence().as_millis()));
    notes.push(acknowledged.check(env, &cluster)?);
    for partition in 0..BAD_MINUTE_PARTITIONS {
        cluster.replicas_are_equal(&format!("{TOPIC}-{partition}"), "00000000000000000000.log")?;
    }
    cluster.stop_all(Duration::from_secs(20))?;
    kafka_tools::sanity_check(env, &cluster)?;
    cluster.done();
    Ok(())
}

/// SIGTERM of the leader: leaderships move first, and clients see no error.
pub fn leader_stopped(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = cluster_with_topic(env, "leader-stopped", 1)?;
    let producer = Producer::start(env, &cluster, 12)?;
    for round in 1..=2 {
        let leader = cluster.leader(TOPIC)?;
        let took = cluster.stop(leader, Duration::from_secs(20))?;
        notes.push(format!("round {round}: node {leader} stopped within {} ms", took.as_millis()));
        let marker = cluster.node(leader).log_dir.join(".kafka_cleanshutdown");
        expect(marker.exists(), || format!("node {leader} left no {}", marker.display()))?;
        cluster.start_node(leader)?;
        cluster.wait_for_isr(TOPIC, 3, Duration::from_secs(40))?;
    }
    let acknowledged = producer.finish()?;
    notes.push(format!("longest silence of the producer: {} ms", acknowledged.silence().as_millis()));
    notes.push(acknowledged.check(env, &cluster)?);
    cluster.stop_all(Duration::from_secs(20))?;
    notes.push(kafka_tools::sanity_check(env, &cluster)?);
    cluster.done();
    Ok(())
}

/// kill -9 of all three at once while records flow, then a restart of all.
pub fn all_killed(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = cluster_with_topic(env, "all-killed", 1)?;
    let producer = Producer::start(env, &cluster, 15)?;
    std::thread::sleep(Duration::from_secs(1));
    for id in 1..=3 {
        cluster.kill(id)?;
    }
    std::thread::sleep(Duration::from_millis(500));
    let started = Instant::now();
    for id in 1..=3 {
        cluster.start_node(id)?;
    }
    wait_until(Duration::from_secs(40), "a leader after the restart", || cluster.leader(TOPIC).map(|_| ()))?;
    notes.push(format!("a leader {} ms after the start of the killed nodes", started.elapsed().as_millis()));
    cluster.wait_for_isr(TOPIC, 3, Duration::from_secs(40))?;
    let acknowledged = producer.finish()?;
    notes.push(format!("longest silence of the producer: {} ms", acknowledged.silence().as_millis()));
    notes.push(acknowledged.check(env, &cluster)?);
    cluster.replicas_are_equal(&format!("{TOPIC}-0"), "00000000000000000000.log")?;
    cluster.done();
    Ok(())
}

/// A thousand partitions that nobody writes to, and the time that they need after kill -9 of all nodes.
pub fn thousand_partitions(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    const PARTITIONS: u32 = 1_000;
    const IDLE: Duration = Duration::from_secs(10);
    let mut cluster = Cluster::start(env, "thousand-partitions", "")?;
    let started = Instant::now();
    cluster.create_topic(env, "many", PARTITIONS, &[])?;
    notes.push(format!("{PARTITIONS} partitions in sync after {} ms", started.elapsed().as_millis()));
    std::thread::sleep(Duration::from_secs(2));
    let cpu = |cluster: &Cluster| (1..=3).filter_map(|id| cluster.cpu_seconds(id)).sum::<f64>();
    let before = cpu(&cluster);
    std::thread::sleep(IDLE);
    let idle = (cpu(&cluster) - before) / IDLE.as_secs_f64() * 100.0;
    let resident: Vec<u64> = (1..=3).filter_map(|id| cluster.resident_mb(id)).collect();
    notes.push(format!("idle: {idle:.1} % of a core for three nodes, {resident:?} MB resident"));
    for id in 1..=3 {
        cluster.kill(id)?;
    }
    let started = Instant::now();
    for id in 1..=3 {
        cluster.start_node(id)?;
    }
    wait_until(Duration::from_secs(40), "a leader for every partition", || {
        let partitions = cluster.metadata("many")?.partitions;
        let led = partitions.iter().filter(|p| p.leader > 0).count();
        expect(led == PARTITIONS as usize, || format!("{led} of {PARTITIONS} have one"))
    })?;
    let led = started.elapsed();
    cluster.wait_for_isr("many", 3, Duration::from_secs(60))?;
    let whole = started.elapsed();
    notes.push(format!(
        "after kill -9 of all: every leader {} ms, every ISR {} ms",
        led.as_millis(),
        whole.as_millis()
    ));
    // Far from the aims, which are for an idle machine: these are for noticing that something is badly wrong.
    expect(idle < 30.0, || format!("{idle:.1} % of a core while nothing happens"))?;
    expect(led < Duration::from_secs(10), || format!("{led:?} without leaders"))?;
    let took = cluster.stop_all(Duration::from_secs(30))?;
    notes.push(format!("three nodes stopped {} ms after SIGTERM", took.as_millis()));
    cluster.done();
    Ok(())
}

/// Command one of the README.
pub fn demo(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let dir = env.stories.join(format!("demo-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut command = Command::new(&env.binary);
    command.arg("demo").current_dir(&dir);
    let told = finish(command, "", Duration::from_secs(90))?.good()?;
    notes.push(format!("{} lines told", told.stdout.lines().count()));
    let _ = fs::remove_dir_all(&dir);
    Ok(())
}
