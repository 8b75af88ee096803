//! Clusters of other shapes than three combined nodes with a static quorum, and lives that they lead: roles apart,
//! quorums formatted as dynamic, several directories, disks that were replaced, logs of many segments.

use std::fs;
use std::time::Duration;

use super::cluster::{CLUSTER_ID, Cluster, files_under};
use super::{Env, expect, wait_until, wire};

/// One controller and two brokers, each a process of its own.
pub fn roles_apart(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::prepare_as(env, "roles-apart", &|plan| match plan.id {
        1 => format!(
            "process.roles=controller\n{}listeners=CONTROLLER://127.0.0.1:{}\n",
            plan.static_voters(1),
            plan.controller_port(1)
        ),
        _ => format!(
            "process.roles=broker\n{}listeners=PLAINTEXT://127.0.0.1:{}\n",
            plan.static_voters(1),
            plan.client_port()
        ),
    })?;
    for id in 1..=3 {
        cluster.format(env, id, &[])?;
    }
    // Brokers may be there before their controller.
    for id in [3, 2, 1] {
        cluster.start_node(id)?;
    }
    let took = cluster.wait_for_brokers(2)?;
    notes.push(format!("two brokers and a controller ready after {} ms", took.as_millis()));
    let servers = cluster.bootstrap();
    let create =
        ["topics", "--bootstrap-server", &servers, "--create", "--topic", "apart", "--replication-factor", "2"];
    env.zwirn(&create)?.good()?;
    produce_and_read(env, &cluster, "apart", "one\ntwo\n", "one\ntwo\n")?;
    // The controller's death stops nothing that runs.
    cluster.kill(1)?;
    produce_and_read(env, &cluster, "apart", "three\n", "one\ntwo\nthree\n")?;
    cluster.start_node(1)?;
    cluster.kill(2)?;
    wait_until(Duration::from_secs(15), "the other broker to lead alone", || {
        let metadata = cluster.metadata("apart")?;
        let p = metadata.partitions.first().ok_or("the topic is unknown")?;
        expect(p.leader == 3 && p.isr == [3], || format!("leader {}, ISR {:?}", p.leader, p.isr))
    })?;
    cluster.start_node(2)?;
    cluster.wait_for_isr("apart", 2, Duration::from_secs(20))?;
    cluster.replicas_are_equal("apart-0", "00000000000000000000.log")?;
    for id in [2, 3, 1] {
        cluster.stop(id, Duration::from_secs(20))?;
    }
    cluster.done();
    Ok(())
}

/// `--initial-controllers`: the voters are in the log, with their directories, and no file names them.
pub fn dynamic_quorum(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::prepare_as(env, "dynamic-quorum", &|plan| {
        let servers: Vec<String> = (1..=3).map(|id| format!("127.0.0.1:{}", plan.controller_port(id))).collect();
        format!(
            "process.roles=broker,controller\ncontroller.quorum.bootstrap.servers={}\n{}",
            servers.join(","),
            plan.combined_listeners()
        )
    })?;
    let directory = ["ZGlyZWN0b3J5LW9mLTAwMQ", "ZGlyZWN0b3J5LW9mLTAwMg", "ZGlyZWN0b3J5LW9mLTAwMw"];
    let mut controllers = Vec::new();
    for node in &cluster.nodes {
        let text = fs::read_to_string(&node.properties).map_err(|e| e.to_string())?;
        let port = text.split("CONTROLLER://127.0.0.1:").nth(1).and_then(|t| t.lines().next()).unwrap_or_default();
        controllers.push(format!("{}@127.0.0.1:{port}:{}", node.id, directory[(node.id - 1) as usize]));
    }
    let controllers = controllers.join(",");
    for id in 1..=3 {
        cluster.format(env, id, &["--initial-controllers", &controllers])?;
    }
    for id in 1..=3 {
        cluster.start_node(id)?;
    }
    cluster.wait_for_brokers(3)?;
    cluster.create_topic(env, "dynamic", 1, &[])?;
    produce_and_read(env, &cluster, "dynamic", "one\n", "one\n")?;
    let servers = cluster.bootstrap();
    let status = env.zwirn(&["metadata-quorum", "--bootstrap-server", &servers, "describe", "--status"])?.good()?;
    status.has(directory[0])?.has(directory[2])?;
    for id in 1..=3 {
        cluster.kill(id)?;
    }
    for id in 1..=3 {
        cluster.start_node(id)?;
    }
    cluster.wait_for_isr("dynamic", 3, Duration::from_secs(40))?;
    produce_and_read(env, &cluster, "dynamic", "two\n", "one\ntwo\n")?;
    notes.push("voters with directory ids, before and after kill -9 of all".to_owned());
    let took = cluster.stop_all(Duration::from_secs(20))?;
    notes.push(format!("three nodes stopped {} ms after SIGTERM", took.as_millis()));
    cluster.done();
    Ok(())
}

/// A node loses its disk and gets an empty one; snapshots are small, so that it cannot replay from the beginning.
pub fn disk_replaced(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let extra = "metadata.log.max.record.bytes.between.snapshots=4096\nmetadata.log.max.snapshot.interval.ms=1000\n";
    let mut cluster = Cluster::start(env, "disk-replaced", extra)?;
    for i in 0..8 {
        cluster.create_topic(env, &format!("t{i}"), 6, &[])?;
    }
    cluster.create_topic(env, "read", 1, &[])?;
    produce_and_read(env, &cluster, "read", "before\n", "before\n")?;
    cluster.kill(2)?;
    let old = cluster.node(2).log_dir.clone();
    fs::remove_dir_all(&old).map_err(|e| format!("{}: {e}", old.display()))?;
    cluster.format(env, 2, &[])?;
    cluster.start_node(2)?;
    for i in 0..8 {
        cluster.wait_for_isr(&format!("t{i}"), 3, Duration::from_secs(40))?;
    }
    produce_and_read(env, &cluster, "read", "after\n", "before\nafter\n")?;
    cluster.replicas_are_equal("read-0", "00000000000000000000.log")?;
    let snapshots = files_under(&old.join("__cluster_metadata-0"), ".checkpoint").len();
    notes.push(format!("48 partitions whole again on an empty disk; {snapshots} snapshots of the metadata there"));
    // Once more, by all of them at once.
    for id in 1..=3 {
        cluster.kill(id)?;
    }
    for id in 1..=3 {
        cluster.start_node(id)?;
    }
    for i in 0..8 {
        cluster.wait_for_isr(&format!("t{i}"), 3, Duration::from_secs(40))?;
    }
    produce_and_read(env, &cluster, "read", "at last\n", "before\nafter\nat last\n")?;
    cluster.stop_all(Duration::from_secs(20))?;
    cluster.done();
    Ok(())
}

/// Many small segments in two directories; the oldest go, and a consumer that asks for them gets what is left.
pub fn segments(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::prepare_as(env, "segments", &|plan| {
        format!(
            "process.roles=broker,controller\n{}{}log.dirs={},{}\nlog.retention.check.interval.ms=1000\n",
            plan.static_voters(3),
            plan.combined_listeners(),
            plan.log_dir.join("a").display(),
            plan.log_dir.join("b").display(),
        )
    })?;
    for id in 1..=3 {
        cluster.format(env, id, &[])?;
        cluster.start_node(id)?;
    }
    cluster.wait_for_brokers(3)?;
    let small = ["--config", "segment.bytes=1048576", "--config", "retention.bytes=3145728"];
    cluster.create_topic(env, "segments", 4, &small)?;
    let servers = cluster.bootstrap();
    let payload = "x".repeat(1_000);
    let records = 40_000;
    let lines: String = (0..records).map(|i| format!("{i} {payload}\n")).collect();
    let produce = ["console-producer", "--bootstrap-server", &servers, "--topic", "segments"];
    env.zwirn_with_input(&produce, &lines)?.good()?;
    for node in &cluster.nodes {
        for dir in ["a", "b"] {
            let logs = files_under(&node.log_dir.join(dir), ".log");
            let there = logs.iter().filter(|path| path.to_string_lossy().contains("/segments-")).count();
            expect(there > 2, || format!("node {} keeps {there} segments in directory {dir}", node.id))?;
        }
    }
    let offsets = |time: &str| {
        let line = format!("get-offsets --bootstrap-server {servers} --topic segments --time {time}");
        let said = env.line(&line)?.good()?;
        let ends: Vec<u64> = said.stdout.lines().filter_map(|l| l.rsplit(':').next()?.parse().ok()).collect();
        Ok::<Vec<u64>, String>(ends)
    };
    let latest = offsets("-1")?;
    expect(latest.iter().sum::<u64>() == records, || format!("{records} records sent, ends are {latest:?}"))?;
    // As in Apache Kafka, the first look at retention comes half a minute after the start.
    wait_until(Duration::from_secs(45), "old segments to be deleted", || {
        let earliest = offsets("-2")?;
        expect(earliest.iter().all(|o| *o > 0), || format!("first offsets {earliest:?}"))
    })?;
    let earliest = offsets("-2")?;
    let left = latest[0] - earliest[0];
    let line = format!(
        "console-consumer --bootstrap-server {servers} --topic segments --partition 0 --offset earliest \
         --max-messages {left} --timeout-ms 10000"
    );
    let read = env.line(&line)?.good()?.stdout.lines().count() as u64;
    expect(read == left, || format!("{left} records are left, {read} were read"))?;
    notes.push(format!("{records} records; partition 0 keeps offsets {} to {}", earliest[0], latest[0]));
    cluster.stop_all(Duration::from_secs(20))?;
    if env.kafka.is_ok() {
        notes.push(super::kafka_tools::sanity_check(env, &cluster)?);
    }
    cluster.done();
    Ok(())
}

/// What an operator may have done wrong is refused at the start, in one sentence that names it.
pub fn refused_at_start(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::prepare(env, "refused-at-start", "")?;
    let config = |cluster: &Cluster, id: i32| cluster.node(id).properties.to_string_lossy().into_owned();
    let refused = |args: &[&str], words: &[&str]| {
        let said = env.zwirn(&[&["server"][..], args].concat())?;
        expect(said.code.is_some_and(|code| code != 0), || said.complaint("the node should refuse to start"))?;
        let text = format!("{}{}", said.stdout, said.stderr);
        let missing = words.iter().find(|word| !text.contains(**word));
        expect(missing.is_none(), || said.complaint(&format!("it should say {:?}", missing.unwrap_or(&""))))
    };
    let (one, two) = (config(&cluster, 1), config(&cluster, 2));
    let dir = cluster.node(1).log_dir.to_string_lossy().into_owned();
    refused(&["no-such.properties"], &["no-such.properties"])?;
    refused(&[&one], &[&dir, "format"])?;
    cluster.format(env, 1, &[])?;
    cluster.format(env, 2, &[])?;
    cluster.format(env, 3, &[])?;
    refused(&[&one, "--override", "node.id=2"], &["node.id"])?;
    refused(&[&one, "--override", "process.roles=king"], &["process.roles", "king"])?;
    refused(&[&one, "--override", "num.partitions=none"], &["num.partitions", "none"])?;
    refused(&[&one, "--override", "listeners=nonsense"], &["listeners"])?;
    let other = cluster.node(2).log_dir.to_string_lossy().into_owned();
    refused(&[&one, "--override", &format!("log.dirs={other}")], &["node.id", &other])?;
    for id in 1..=3 {
        cluster.start_node(id)?;
    }
    cluster.wait_for_brokers(3)?;
    // The same file again: its ports are taken, and its directory is locked.
    refused(&[&two], &["listeners", &cluster.node(2).port.to_string()])?;
    let elsewhere = "listeners=PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:0";
    refused(&[&two, "--override", elsewhere], &[&other])?;
    // A directory of another cluster.
    let foreign = cluster.dir.join("foreign");
    let path = foreign.to_string_lossy().into_owned();
    cluster.kill(3)?;
    let three = config(&cluster, 3);
    let properties = fs::read_to_string(&three).map_err(|e| e.to_string())?;
    let mine = cluster.node(3).log_dir.to_string_lossy().into_owned();
    let text = properties.replace(&format!("log.dirs={mine}\n"), &format!("log.dirs={mine},{path}\n"));
    fs::write(&three, &text).map_err(|e| e.to_string())?;
    let alone = cluster.dir.join("foreign.properties");
    fs::write(&alone, properties.replace(&mine, &path)).map_err(|e| e.to_string())?;
    env.zwirn(&["storage", "format", "-t", "b3RoZXItY2x1c3Rlci1pZA", "-c", &alone.to_string_lossy()])?.good()?;
    refused(&[&three], &["belongs to cluster", &path])?;
    expect(cluster.running() == [1, 2], || "a refused start must not hurt those who run".to_owned())?;
    let brokers = wire::metadata(cluster.node(1).port, "nothing")?.brokers;
    expect(brokers == [1, 2], || format!("brokers {brokers:?} should be left of cluster {CLUSTER_ID}"))?;
    notes.push("ten mistakes refused with key, value and directory".to_owned());
    cluster.done();
    Ok(())
}

/// Writes lines to partition 0 and reads all of it.
fn produce_and_read(env: &Env, cluster: &Cluster, topic: &str, lines: &str, all: &str) -> Result<(), String> {
    let servers = cluster.bootstrap();
    let produce = ["console-producer", "--bootstrap-server", &servers, "--topic", topic, "--sync"];
    env.zwirn_with_input(&produce, lines)?.good()?;
    let mut read = String::new();
    let partitions = cluster.metadata(topic)?.partitions.len();
    let wanted = all.lines().count();
    for partition in 0..partitions {
        let line = format!(
            "console-consumer --bootstrap-server {servers} --topic {topic} --partition {partition} --offset earliest \
             --timeout-ms 1500"
        );
        let wanted = wanted - read.lines().count().min(wanted);
        // What is expected of the last partition is read without waiting for more.
        let enough = if partition + 1 == partitions { format!(" --max-messages {wanted}") } else { String::new() };
        read.push_str(&env.line(&(line + &enough))?.stdout);
    }
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    expect(sorted(&read) == sorted(all), || format!("{topic} should hold {all:?}, a consumer reads {read:?}"))
}
