//! Every method of Kafka's Admin client (`xtask/java/AdminCalls.java`), called against Apache Kafka and against Zwirn:
//! what came of each is compared, line by line.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::process::finish;
use super::swap::kafka_broker;
use super::{Env, expect, wait_until, wire};

/// Methods that need what is not offered so far, as they are named in the output; what they say is told, not compared.
const NOT_OFFERED: &[&str] = &[
    "alterReplicaLogDirs",
    "describeShareGroups",
    "listShareGroupOffsets",
    "deleteShareGroupOffsets",
    "alterShareGroupOffsets",
    "describeStreamsGroups",
    "deleteStreamsGroups",
    // A group that has nothing left is gone at once.
    "deleteConsumerGroups",
];

/// One node, its process stopped when it is dropped.
struct Node {
    child: Child,
    port: u16,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no free port: {e}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|e| e.to_string())
}

fn start(env: &Env, dir: &Path, name: &str, mut command: Command) -> Result<Node, String> {
    let (port, controller) = (free_port()?, free_port()?);
    let path = dir.join(format!("{name}.properties"));
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}\n\
         offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=1\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\nshare.coordinator.state.topic.num.partitions=1\n\
         group.initial.rebalance.delay.ms=0\n",
        dir.join(name).display()
    );
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    let path = path.to_string_lossy();
    env.zwirn(&["storage", "format", "-t", super::cluster::CLUSTER_ID, "-c", &path])?.good()?;
    let log = fs::File::create(dir.join(format!("{name}.log"))).map_err(|e| e.to_string())?;
    let errors = log.try_clone().map_err(|e| e.to_string())?;
    command.arg(&*path).current_dir(dir).stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
    let node = Node { child, port };
    wait_until(Duration::from_secs(90), &format!("{name} to serve"), || {
        let brokers = wire::metadata(port, "no-such-topic")?.brokers;
        expect(brokers == [1], || format!("it sees {brokers:?}"))
    })?;
    Ok(node)
}

/// The lines of all calls, by what was called.
fn calls(env: &Env, node: &Node) -> Result<Vec<(String, String)>, String> {
    let kafka = env.kafka.as_ref().map_err(String::clone)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/AdminCalls.java");
    let mut command = kafka.java_source(&source, &["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx384m"]);
    command.arg(format!("127.0.0.1:{}", node.port));
    let output = finish(command, "", Duration::from_secs(400))?.good()?.has("forgotten: []")?;
    let lines = output.stdout.lines().filter_map(|line| line.split_once(": "));
    Ok(lines.map(|(call, result)| (call.to_owned(), result.to_owned())).collect())
}

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let dir = env.stories.join(format!("admin-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let of_kafka = calls(env, &start(env, &dir, "kafka", kafka_broker(env)?)?)?;
    let mut server = Command::new(&env.binary);
    server.arg("server");
    let of_zwirn = calls(env, &start(env, &dir, "zwirn", server)?)?;
    let mut different = Vec::new();
    let mut left_out = Vec::new();
    for ((call, theirs), (same, ours)) in of_kafka.iter().zip(&of_zwirn) {
        expect(call == same, || format!("{call} of Kafka, {same} of Zwirn"))?;
        let method = call.split(' ').next().unwrap_or_default();
        if theirs == ours {
            continue;
        }
        if NOT_OFFERED.contains(&method) {
            left_out.push((method, format!("{call}: {ours}")));
        } else {
            different.push(format!("{call}\n  Kafka: {theirs}\n  Zwirn: {ours}"));
        }
    }
    expect(different.is_empty(), || different.join("\n"))?;
    // What has become the same is to stay so.
    for method in NOT_OFFERED {
        let differs = left_out.iter().any(|(of, _)| of == method);
        expect(differs, || format!("{method} does not differ any more: take it out of NOT_OFFERED"))?;
    }
    let same = of_kafka.len() - left_out.len();
    for (_, call) in &left_out {
        notes.push(format!("not offered: {call}"));
    }
    notes.push(format!("{same} of {} calls of the Admin client end as with Apache Kafka", of_kafka.len()));
    let _ = fs::remove_dir_all(&dir);
    Ok(())
}
