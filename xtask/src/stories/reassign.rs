//! Partitions move while a producer writes: to other brokers, to fewer replicas and to more, half way back, and with a
//! broker killed in the middle; with our own tool and with Apache Kafka's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::cluster::Cluster;
use super::process::Output;
use super::{Env, expect, wait_until};

const TOPIC: &str = "wanders";
const PARTITIONS: usize = 4;
const MOVED_MAX: Duration = Duration::from_secs(60);

/// A plan that gives every partition these replicas, turned by its number.
fn plan(path: &Path, replicas: &[i32]) -> Result<String, String> {
    let partition = |number: usize| {
        let turned: Vec<String> =
            (0..replicas.len()).map(|i| replicas[(i + number) % replicas.len()].to_string()).collect();
        format!("{{\"topic\":\"{TOPIC}\",\"partition\":{number},\"replicas\":[{}]}}", turned.join(","))
    };
    let partitions: Vec<String> = (0..PARTITIONS).map(partition).collect();
    let text = format!("{{\"version\":1,\"partitions\":[{}]}}", partitions.join(","));
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Runs the tool, ours or Kafka's.
struct Tool<'a> {
    env: &'a Env,
    is_kafkas: bool,
}

impl Tool<'_> {
    fn run(&self, servers: &str, args: &[&str]) -> Result<Output, String> {
        let args = [&["--bootstrap-server", servers], args].concat();
        if self.is_kafkas {
            return self.env.kafka("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", &args, "");
        }
        self.env.zwirn(&[&["reassign-partitions"], &args[..]].concat())
    }

    /// Begins a plan and asks until it is done.
    fn carry_out(&self, servers: &str, path: &str, more: &[&str]) -> Result<Duration, String> {
        let execute = ["--execute", "--reassignment-json-file", path];
        self.run(servers, &[&execute[..], more].concat())?
            .good()?
            .has("Successfully started partition reassignment")?;
        wait_until(MOVED_MAX, "every partition to arrive", || {
            let verified = self.run(servers, &["--verify", "--reassignment-json-file", path])?.good()?;
            let done = verified.stdout.matches("is completed.").count();
            expect(done == PARTITIONS, || verified.complaint("all should be completed"))
        })
    }
}

/// What the metadata says of the topic's replicas and leaders.
fn replicas_are(cluster: &Cluster, brokers: &[i32]) -> Result<(), String> {
    for partition in cluster.metadata(TOPIC)?.partitions {
        let mut replicas = partition.replicas.clone();
        replicas.sort_unstable();
        expect(replicas == brokers, || format!("{TOPIC}-{} has {replicas:?}", partition.index))?;
        expect(brokers.contains(&partition.leader), || format!("{TOPIC}-{}: led elsewhere", partition.index))?;
    }
    Ok(())
}

/// Removed replicas leave the directory, at once by name and a little later for good.
fn is_gone(cluster: &Cluster, broker: i32) -> Result<(), String> {
    let dir = &cluster.node(broker).log_dir;
    let left = |number: usize| dir.join(format!("{TOPIC}-{number}")).exists();
    expect(!(0..PARTITIONS).any(left), || format!("node {broker} still has replicas"))
}

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::start(env, "reassign", "min.insync.replicas=1\nfile.delete.delay.ms=1000\n")?;
    let servers = cluster.bootstrap();
    cluster.create_topic(env, TOPIC, PARTITIONS as u32, &[])?;
    let path = cluster.dir.join("plan.json");
    let ours = Tool { env, is_kafkas: false };
    let kafkas = Tool { env, is_kafkas: true };
    let records = 60_000u64;
    let producer = {
        let (zwirn, servers) = (env.binary.clone(), servers.clone());
        std::thread::spawn(move || {
            let args = format!(
                "producer-perf-test --topic {TOPIC} --num-records {records} --record-size 100 --throughput 2000 \
                 --producer-props bootstrap.servers={servers} acks=all"
            );
            std::process::Command::new(zwirn).args(args.split_whitespace()).output()
        })
    };
    // Fewer replicas, then other ones, then all.
    let ms = ours.carry_out(&servers, &plan(&path, &[1, 2])?, &[])?.as_millis();
    replicas_are(&cluster, &[1, 2])?;
    is_gone(&cluster, 3)?;
    notes.push(format!("three replicas become two: {ms} ms"));
    let ms = ours.carry_out(&servers, &plan(&path, &[2, 3])?, &["--throttle", "50000000"])?.as_millis();
    replicas_are(&cluster, &[2, 3])?;
    is_gone(&cluster, 1)?;
    notes.push(format!("from 1 and 2 to 2 and 3, with a throttle: {ms} ms"));
    let described = env.zwirn(&["configs", "--bootstrap-server", &servers, "--describe", "--broker", "2"])?.good()?;
    expect(!described.stdout.contains("throttled"), || described.complaint("--verify should remove the throttle"))?;
    let ms = kafkas.carry_out(&servers, &plan(&path, &[3, 1])?, &[])?.as_millis();
    replicas_are(&cluster, &[1, 3])?;
    kafkas.run(&servers, &["--list"])?.good()?.stdout_is("No partition reassignments found.\n")?;
    notes.push(format!("by Kafka's own tool to 3 and 1: {ms} ms"));
    // A broker that replicas are to come to hears nothing and then dies: they wait for it, and are called back.
    let others = format!("127.0.0.1:{},127.0.0.1:{}", cluster.node(1).port, cluster.node(3).port);
    cluster.freeze(2, true)?;
    let wanted = plan(&path, &[1, 2, 3])?;
    ours.run(&others, &["--execute", "--reassignment-json-file", &wanted])?.good()?;
    cluster.kill(2)?;
    ours.run(&others, &["--list"])?.good()?.has("adding: 2.")?;
    // With its throttles the tool would wait for the dead broker.
    let cancel = ["--cancel", "--reassignment-json-file", &wanted, "--preserve-throttles"];
    kafkas.run(&others, &cancel)?.good()?.has("Successfully cancelled partition reassignment")?;
    replicas_are(&cluster, &[1, 3])?;
    cluster.start_node(2)?;
    cluster.wait_for_brokers(3)?;
    let servers = cluster.bootstrap();
    let ms = ours.carry_out(&servers, &wanted, &[])?.as_millis();
    replicas_are(&cluster, &[1, 2, 3])?;
    cluster.wait_for_isr(TOPIC, 3, Duration::from_secs(20))?;
    notes.push(format!("all three again, after one was killed and came back: {ms} ms"));
    let sent = producer.join().map_err(|_| "the producer's thread panicked")?.map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&sent.stdout).into_owned();
    expect(said.contains(&format!("{records} records sent")), || format!("the producer says {said}"))?;
    for number in 0..PARTITIONS {
        cluster.replicas_are_equal(&format!("{TOPIC}-{number}"), "00000000000000000000.log")?;
    }
    let offsets = env.zwirn(&["get-offsets", "--bootstrap-server", &servers, "--topic", TOPIC])?.good()?;
    let ends = offsets.stdout.lines().filter_map(|line| line.rsplit(':').next()?.parse::<u64>().ok());
    let total: u64 = ends.sum();
    expect(total == records, || format!("{total} records are there, {records} were sent"))?;
    notes.push(format!("{records} records sent meanwhile, {records} there, replicas equal"));
    cluster.stop_all(Duration::from_secs(20))?;
    cluster.done();
    Ok(())
}
