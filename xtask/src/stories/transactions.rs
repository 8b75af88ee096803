//! Transactions of Apache Kafka's own clients (`xtask/java/TransactionClient.java`): loops that consume, produce and commit
//! offsets, while brokers are killed; producers that are fenced, or too slow; and Kafka's tool for transactions. All of it
//! with both ways of keeping transactions, `transaction.version` 2 and 1.

use std::path::Path;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, files_under};
use super::process::Dialogue;
use super::{Env, expect, wait_until};

const SETTINGS: &str = "\
    offsets.topic.num.partitions=3\n\
    transaction.state.log.num.partitions=3\n\
    transaction.abort.timed.out.transaction.cleanup.interval.ms=1000\n\
    group.initial.rebalance.delay.ms=0\n";
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// What the loops have to bring from one topic to the other.
const RECORDS: usize = 400;

pub(super) fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::start(env, "transactions", SETTINGS)?;
    let kafka = env.kafka.as_ref().map_err(String::clone)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/TransactionClient.java");
    let mut command = kafka.java_source(&source, &["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx384m"]);
    command.arg(cluster.bootstrap());
    let mut client = Dialogue::start(command, &cluster.dir.join("client.err"))?;

    let mut told = vec![exactly_once(env, &mut cluster, &mut client, "v2", &[1, 2, 3])?];
    ends(env, &cluster, &mut client, "v2-out", true)?;
    let servers = cluster.bootstrap();
    env.line(&format!("features --bootstrap-server {servers} downgrade --feature transaction.version=1"))?.good()?;
    told.push(exactly_once(env, &mut cluster, &mut client, "v1", &[2])?);
    ends(env, &cluster, &mut client, "v1-out", false)?;
    tools(env, &cluster, &mut client, "v1-out")?;
    state_topic_is_kafkas(env, &mut cluster)?;
    notes.push(told.join("; "));
    cluster.done();
    Ok(())
}

/// Two loops share the work. Brokers are killed one after the other; each number arrives once.
fn exactly_once(
    env: &Env,
    cluster: &mut Cluster,
    client: &mut Dialogue,
    name: &str,
    killed: &[i32],
) -> Result<String, String> {
    let started = Instant::now();
    let (from, to) = (format!("{name}-in"), format!("{name}-out"));
    cluster.create_topic(env, &from, 2, &["--config", "min.insync.replicas=2"])?;
    cluster.create_topic(env, &to, 2, &["--config", "min.insync.replicas=2"])?;
    for pump in ["a", "b"] {
        client.ask(&format!("pump {name}-{pump} {from} {to}"), ANSWER_MAX)?;
    }
    // Until both are in the group, so that both have something to do.
    std::thread::sleep(Duration::from_secs(2));
    client.ask(&format!("fill {from} {RECORDS}"), ANSWER_MAX)?;
    for (count, id) in killed.iter().enumerate() {
        // Only when the loops are at work is there something to be lost.
        client.ask(&format!("await {to} {}", 1 + count * RECORDS / 10), ANSWER_MAX)?;
        cluster.kill(*id)?;
        std::thread::sleep(Duration::from_millis(300));
        cluster.start_node(*id)?;
        cluster.wait_for_brokers(3)?;
        cluster.wait_for_isr(&to, 3, Duration::from_secs(20))?;
    }
    client.ask(&format!("await {to} {RECORDS}"), ANSWER_MAX)?;
    let pumps = client.ask("stop", ANSWER_MAX)?;
    let seen = client.ask(&format!("check {to} {RECORDS}"), ANSWER_MAX)?;
    let pumps = pumps.trim().replace('\n', ", ");
    Ok(format!("{name}: {} ({pumps}; {} killed, {:.1} s)", seen.trim(), killed.len(), started.elapsed().as_secs_f64()))
}

/// Transactions that somebody else ends: a second producer of the same id, and the clock. Kafka's tool takes seconds, so
/// that it watches once only.
fn ends(env: &Env, cluster: &Cluster, client: &mut Dialogue, topic: &str, is_watched: bool) -> Result<(), String> {
    let before = client.ask(&format!("count {topic}"), ANSWER_MAX)?;
    client.ask(&format!("begin fenced {topic} 60000"), ANSWER_MAX)?;
    client.ask(&format!("begin fenced {topic} 60000"), ANSWER_MAX)?;
    client.ask("fails fenced-old", ANSWER_MAX)?;
    if is_watched {
        let described = transactions(env, cluster, "describe --transactional-id fenced")?;
        expect(described.contains("Ongoing"), || format!("an open transaction:\n{described}"))?;
    }
    client.ask("commit fenced", ANSWER_MAX)?;
    client.ask(&format!("begin slow {topic} 2000"), ANSWER_MAX)?;
    if is_watched {
        wait_until(Duration::from_secs(20), "a slow transaction's abort", || {
            let listed = transactions(env, cluster, "list")?;
            let line = listed.lines().find(|line| line.contains("slow")).unwrap_or_default();
            expect(line.contains("CompleteAbort"), || listed.clone())
        })?;
    } else {
        std::thread::sleep(Duration::from_secs(5));
    }
    client.ask("fails slow", ANSWER_MAX)?;
    let after = client.ask(&format!("count {topic}"), ANSWER_MAX)?;
    let number = |text: &str| text.trim().parse::<usize>().map_err(|e| format!("{text}: {e}"));
    expect(number(&after)? == number(&before)? + 1, || format!("{before} records became {after}"))
}

/// `kafka-transactions.sh`
fn transactions(env: &Env, cluster: &Cluster, line: &str) -> Result<String, String> {
    let servers = cluster.bootstrap();
    let output = env.kafka_line("TransactionsCommand", &format!("--bootstrap-server {servers} {line}"))?.good()?;
    Ok(output.stdout)
}

/// An operator looks at a transaction in its partition, and ends it there.
fn tools(env: &Env, cluster: &Cluster, client: &mut Dialogue, topic: &str) -> Result<(), String> {
    client.ask(&format!("begin stray {topic} 60000"), ANSWER_MAX)?;
    let found = transactions(env, cluster, &format!("describe-producers --topic {topic} --partition 0"))?;
    // The columns: producer, epoch, latest coordinator epoch, sequence, timestamp, start of the open transaction.
    let start = found.lines().filter_map(|line| line.split_whitespace().last()?.parse::<i64>().ok()).next();
    let start = start.ok_or_else(|| format!("no open transaction in\n{found}"))?;
    let hanging = transactions(env, cluster, &format!("find-hanging --topic {topic} --partition 0"))?;
    expect(!hanging.lines().skip(1).any(|line| line.contains(topic)), || format!("nothing hangs:\n{hanging}"))?;
    transactions(env, cluster, &format!("abort --topic {topic} --partition 0 --start-offset {start}"))?;
    let again = transactions(env, cluster, &format!("describe-producers --topic {topic} --partition 0"))?;
    let is_open = again.lines().any(|line| line.split_whitespace().last() == Some(start.to_string().as_str()));
    expect(!is_open, || format!("aborted, and still open:\n{again}"))
}

/// Kafka reads what we have written to `__transaction_state`, and it is all there.
fn state_topic_is_kafkas(env: &Env, cluster: &mut Cluster) -> Result<(), String> {
    cluster.stop_all(Duration::from_secs(20))?;
    let node = cluster.node(1);
    let of_partition = |p| files_under(&node.log_dir.join(format!("__transaction_state-{p}")), ".log");
    let files: Vec<String> = (0..3).flat_map(of_partition).map(|path| path.to_string_lossy().into_owned()).collect();
    let args = ["--transaction-log-decoder", "--files", &files.join(",")];
    let dumped = env.kafka("org.apache.kafka.tools.DumpLogSegments", &args, "")?.good()?;
    expect(!dumped.stdout.contains("isvalid: false"), || dumped.complaint("every batch is whole"))?;
    let seen = dumped.stdout;
    for expected in [
        r#""transactionalId":"v2-a""#,
        r#""transactionalId":"fenced""#,
        r#""clientTransactionVersion":2"#,
        r#""transactionStatus":4"#,
        r#""transactionStatus":5"#,
        "__consumer_offsets",
    ] {
        expect(seen.contains(expected), || format!("{expected} is not in __transaction_state"))?;
    }
    Ok(())
}
