//! Consumer groups of both protocols with Apache Kafka's own consumers: members come and go, groups change their
//! protocol while they work, coordinators are killed. Every record is processed, and a partition has one owner at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::process::Dialogue;
use super::{Env, expect, wait_until};

/// Short intervals: what takes a minute in production takes seconds here.
const SETTINGS: &str = "\
    offsets.topic.num.partitions=3\n\
    group.initial.rebalance.delay.ms=0\n\
    group.consumer.min.heartbeat.interval.ms=200\n\
    group.consumer.heartbeat.interval.ms=300\n\
    group.consumer.assignment.interval.ms=200\n";

struct Groups<'a> {
    env: &'a Env,
    cluster: Cluster,
    client: Dialogue,
}

impl Groups<'_> {
    fn ask(&mut self, line: &str) -> Result<String, String> {
        self.client.ask(line, Duration::from_secs(60)).map(|answer| answer.trim().to_owned())
    }

    fn all(&mut self, lines: &[&str]) -> Result<(), String> {
        lines.iter().try_for_each(|line| self.ask(line).map(drop))
    }

    fn is(&mut self, line: &str, expected: &str) -> Result<(), String> {
        let answer = self.ask(line)?;
        expect(answer == expected, || format!("{line}: {answer:?} instead of {expected:?}"))
    }

    /// As `kill -9`, while everybody works; how long until the group could commit again.
    fn kill_coordinator(&mut self, group: &str, partitions: usize) -> Result<u64, String> {
        self.cluster.wait_for_isr("work", 3, Duration::from_secs(30))?;
        let id: i32 = self.ask(&format!("coordinator {group}"))?.parse().map_err(|e| format!("coordinator: {e}"))?;
        self.ask(&format!("gap {group}"))?;
        self.cluster.kill(id)?;
        std::thread::sleep(Duration::from_secs(2));
        self.ask(&format!("settle {group} {partitions}"))?;
        let gap = self.ask(&format!("gap {group}"))?;
        self.cluster.start_node(id)?;
        gap.parse().map_err(|e| format!("gap {gap}: {e}"))
    }
}

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let begun = Instant::now();
    let kafka = env.kafka.as_ref().map_err(String::clone)?;
    let cluster = Cluster::start(env, "consumer-groups", SETTINGS)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/GroupClient.java");
    let mut command = kafka.java_source(&source, &["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx384m"]);
    command.arg(cluster.bootstrap());
    let client = Dialogue::start(command, &cluster.dir.join("client.err"))?;
    let mut groups = Groups { env, cluster, client };
    groups.all(&["topic work 6", "flow work 100"])?;
    members_come_and_go(&mut groups)?;
    tools_describe(&mut groups)?;
    let gap = groups.kill_coordinator("modern", 6)?;
    notes.push(format!(
        "{:.0} s: committing again {gap} ms after the coordinator was killed",
        begun.elapsed().as_secs_f64()
    ));
    groups.all(&["partitions work 8", "settle modern 8"])?;
    protocols_change(&mut groups)?;
    notes.push(format!("{:.0} s: classic, consumer, classic again", begun.elapsed().as_secs_f64()));
    let classic = groups.kill_coordinator("migrating", 8)?;
    notes.push(format!("{:.0} s: classic group, {classic} ms", begun.elapsed().as_secs_f64()));
    expressions_find_topics(&mut groups)?;
    groups.all(&["stop-flow"])?;
    let drained = groups.ask("drained modern work")?;
    groups.ask("drained migrating work")?;
    groups.all(&["check", "stop a", "stop c", "stop k1", "stop k2"])?;
    // The static member may come back.
    groups.is("describe modern", "Consumer Reconciling 1 uniform")?;
    groups.ask("check")?;
    notes.push(format!(
        "{drained}; one owner at a time; coordinators killed: committing again after {gap} and {classic} ms (classic)"
    ));
    groups.cluster.done();
    Ok(())
}

fn members_come_and_go(groups: &mut Groups<'_>) -> Result<(), String> {
    groups.all(&[
        "start a modern consumer topics work group.remote.assignor=range",
        "settle modern 6",
        "start b modern consumer topics work",
        "settle modern 6",
        // A static member that goes keeps its partitions, and finds them again.
        "start c modern consumer topics work group.instance.id=c",
        "settle modern 6",
    ])?;
    groups.is("owners modern", "{a=2, b=2, c=2}")?;
    groups.is("describe modern", "Consumer Stable 3 range")?;
    groups.all(&["stop c", "start c modern consumer topics work group.instance.id=c", "settle modern 6"])?;
    groups.all(&["stop b", "settle modern 6", "check"])
}

fn tools_describe(groups: &mut Groups<'_>) -> Result<(), String> {
    let servers = groups.cluster.bootstrap();
    let describe = |flags: &str| {
        let line = format!("--bootstrap-server {servers} --describe --group modern {flags}");
        groups.env.kafka_line("consumer.group.ConsumerGroupCommand", &line)
    };
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let members = squeeze(&describe("--members --verbose")?.good()?.stdout);
    expect(members.contains("CURRENT-EPOCH") && members.contains("work:0,1,2"), || format!("members: {members}"))?;
    let state = squeeze(&describe("--state --verbose")?.good()?.stdout);
    expect(state.contains("range Stable"), || format!("state: {state}"))?;
    let listed = groups.env.kafka_line("GroupsCommand", &format!("--bootstrap-server {servers} --list"))?.good()?;
    let listed = squeeze(&listed.stdout);
    expect(listed.contains("modern Consumer consumer"), || format!("groups: {listed}"))
}

/// Classic consumers work; one of the new protocol comes, and the last of it goes.
fn protocols_change(groups: &mut Groups<'_>) -> Result<(), String> {
    groups.all(&[
        "start k1 migrating classic topics work",
        "start k2 migrating classic topics work",
        "settle migrating 8",
    ])?;
    groups.is("describe migrating", "Classic Stable 2 range")?;
    groups.all(&["start n migrating consumer topics work", "settle migrating 8"])?;
    let upgraded = groups.ask("describe migrating")?;
    expect(upgraded.starts_with("Consumer"), || format!("it should be a consumer group: {upgraded}"))?;
    groups.all(&["stop n", "settle migrating 8", "check"])?;
    wait_until(Duration::from_secs(10), "a classic group", || groups.is("describe migrating", "Classic Stable 2 range"))
        .map(drop)
}

fn expressions_find_topics(groups: &mut Groups<'_>) -> Result<(), String> {
    groups.all(&[
        "topic found-1 2",
        "start r1 seeking consumer pattern found-.*",
        "settle seeking 2",
        "topic found-2 3",
        "settle seeking 5",
        "stop r1",
    ])
}
