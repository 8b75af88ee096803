//! The walkthrough of any Kafka book with our own tools, and the same commands with Apache Kafka's tools beside them:
//! what users see must be the same.

use std::time::Duration;

use super::cluster::{Cluster, files_under};
use super::process::Output;
use super::{Env, expect};

const TOPIC: &str = "peter-test01";

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::prepare(env, "by-hand", "")?;
    format_and_start(env, &mut cluster, notes)?;
    let servers = cluster.bootstrap();
    let topics = |args: &[&str]| {
        let args: Vec<&str> = ["topics", "--bootstrap-server", &servers].iter().chain(args).copied().collect();
        env.zwirn(&args)
    };
    topics(&["--create", "--topic", TOPIC, "--partitions", "1", "--replication-factor", "3"])?
        .good()?
        .stdout_is("Created topic peter-test01.\n")?;
    topics(&["--list"])?.good()?.stdout_is("peter-test01\n")?;
    let described = topics(&["--describe", "--topic", TOPIC])?.good()?;
    described.has("PartitionCount: 1\tReplicationFactor: 3\tConfigs: min.insync.replicas=1\n")?.has("\tIsr: ")?;

    let produce = ["console-producer", "--bootstrap-server", &servers, "--topic", TOPIC];
    env.zwirn_with_input(&produce, "test message1\n")?.good()?;
    let consume = [
        "console-consumer",
        "--bootstrap-server",
        &servers,
        "--topic",
        TOPIC,
        "--partition",
        "0",
        "--offset",
        "earliest",
        "--max-messages",
        "1",
    ];
    env.zwirn(&consume)?.good()?.stdout_is("test message1\n")?;
    let bytes = cluster.replicas_are_equal("peter-test01-0", "00000000000000000000.log")?;
    notes.push(format!("three replicas of {bytes} bytes, all equal"));
    for node in &cluster.nodes {
        let log = node.log_dir.join("peter-test01-0/00000000000000000000.log");
        let dumped = env.zwirn(&["dump-log", "--print-data-log", "--files", &log.to_string_lossy()])?.good()?;
        dumped.has("payload: test message1")?.has("isvalid: true")?;
    }
    env.zwirn(&["get-offsets", "--bootstrap-server", &servers, "--topic", TOPIC])?
        .good()?
        .stdout_is("peter-test01:0:1\n")?;
    let quorum = ["metadata-quorum", "--bootstrap-server", &servers, "describe", "--status"];
    env.zwirn(&quorum)?.good()?.has("LeaderEpoch:")?.has("CurrentVoters:")?;
    let quorum = ["metadata-quorum", "--bootstrap-server", &servers, "describe", "--replication"];
    let replication = env.zwirn(&quorum)?.good()?;
    expect(replication.stdout.lines().filter(|l| l.contains("Leader") || l.contains("Follower")).count() == 3, || {
        replication.complaint("three voters should be listed")
    })?;

    topics(&["--alter", "--topic", TOPIC, "--partitions", "4"])?.good()?.stdout_is("")?;
    cluster.wait_for_isr(TOPIC, 3, Duration::from_secs(10))?;
    mistakes(&topics)?;
    topics(&["--delete", "--topic", TOPIC])?.good()?.stdout_is("")?;
    topics(&["--list"])?.good()?.stdout_is("\n")?;
    let took = cluster.stop_all(Duration::from_secs(20))?;
    notes.push(format!("three nodes stopped {} ms after SIGTERM", took.as_millis()));
    cluster.done();
    Ok(())
}

fn format_and_start(env: &Env, cluster: &mut Cluster, notes: &mut Vec<String>) -> Result<(), String> {
    let id = env.zwirn(&["storage", "random-uuid"])?.good()?.stdout;
    let id = id.trim().to_owned();
    expect(id.len() == 22, || format!("random-uuid printed {id:?}"))?;
    for node in &cluster.nodes {
        let config = node.properties.to_string_lossy().into_owned();
        let format = ["storage", "format", "-t", &id, "-c", &config];
        env.zwirn(&format)?.good()?.has("Formatting metadata directory")?;
        let again = env.zwirn(&format)?.code_is(1)?;
        let said = format!("{}{}", again.stdout, again.stderr);
        expect(said.contains("already formatted"), || again.complaint("formatting twice should be refused"))?;
        env.zwirn(&["storage", "format", "-t", &id, "-c", &config, "--ignore-formatted"])?.good()?;
        env.zwirn(&["storage", "info", "-c", &config])?.good()?.has("Found log director")?;
    }
    for node in 1..=3 {
        cluster.start_node(node)?;
    }
    let took = cluster.wait_for_brokers(3)?;
    notes.push(format!("three nodes ready {} ms after their start", took.as_millis()));
    Ok(())
}

/// What users do wrong, and what they are told: Kafka's lines and exit codes.
fn mistakes(topics: &dyn Fn(&[&str]) -> Result<Output, String>) -> Result<(), String> {
    let wrong: &[(&[&str], &str)] = &[
        (
            &["--create", "--topic", TOPIC],
            "Error while executing topic command : Topic 'peter-test01' already exists.\n",
        ),
        (
            &["--create", "--topic", "t-rf", "--replication-factor", "5"],
            "Error while executing topic command : Unable to replicate the partition 5 time(s): The target replication \
             factor of 5 cannot be reached because only 3 broker(s) are registered or some brokers have all their log \
             directories cordoned.\n",
        ),
        (
            &["--create", "--topic", "bad name!"],
            "Error while executing topic command : Topic name is invalid: 'bad name!' contains one or more characters \
             other than ASCII alphanumerics, '.', '_' and '-'\n",
        ),
        (
            &["--create", "--topic", "t-bad", "--config", "retention.ms=abc"],
            "Error while executing topic command : Invalid value abc for configuration retention.ms: Not a number of \
             type LONG\n",
        ),
        (
            &["--create", "--topic", "t-bad", "--config", "no.such.config=1"],
            "Error while executing topic command : Unknown topic config name: no.such.config\n",
        ),
        (
            &["--alter", "--topic", TOPIC, "--partitions", "2"],
            "Error while executing topic command : The topic peter-test01 currently has 4 partition(s); 2 would not be \
             an increase.\n",
        ),
        (
            &["--describe", "--topic", "nope"],
            "Error while executing topic command : Topic 'nope' does not exist as expected\n",
        ),
        (
            &["--delete", "--topic", "nope"],
            "Error while executing topic command : Topic 'nope' does not exist as expected\n",
        ),
    ];
    for (args, said) in wrong {
        topics(args)?.code_is(1)?.stdout_is(said)?;
    }
    Ok(())
}

/// Each command with our tool and with Apache Kafka's, on the same cluster: same output, same exit code.
pub fn same_as_kafka(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::start(env, "same-as-kafka", "")?;
    let servers = cluster.bootstrap();
    let create = ["topics", "--bootstrap-server", &servers, "--create", "--topic"];
    let created = |args: &[&str]| env.zwirn(&create.iter().chain(args).copied().collect::<Vec<_>>())?.good();
    created(&["one", "--partitions", "3", "--replication-factor", "3"])?;
    created(&["two", "--replica-assignment", "1:2,2:3", "--config", "retention.ms=3600000"])?;
    cluster.wait_for_isr("one", 3, Duration::from_secs(10))?;
    cluster.wait_for_isr("two", 2, Duration::from_secs(10))?;
    for i in 0..3 {
        let produce = ["console-producer", "--bootstrap-server", &servers, "--topic", "one", "--sync"];
        env.zwirn_with_input(&produce, &format!("a{i}\nb{i}\n"))?.good()?;
    }
    let on_cluster: &[(&str, &str, &[&str])] = &[
        ("topics", "TopicCommand", &["--list"]),
        ("topics", "TopicCommand", &["--describe"]),
        ("topics", "TopicCommand", &["--describe", "--topics-with-overrides"]),
        ("topics", "TopicCommand", &["--describe", "--under-replicated-partitions"]),
        ("topics", "TopicCommand", &["--describe", "--topic", "nope"]),
        ("topics", "TopicCommand", &["--create", "--topic", "one"]),
        ("topics", "TopicCommand", &["--create", "--topic", "t_x", "--partitions", "0"]),
        ("get-offsets", "GetOffsetShell", &["--time", "-1"]),
        ("get-offsets", "GetOffsetShell", &["--topic", "one", "--time", "-2"]),
        ("get-offsets", "GetOffsetShell", &["--topic", "nope"]),
    ];
    let mut compared = 0;
    for (tool, class, args) in on_cluster {
        let with_servers: Vec<&str> = ["--bootstrap-server", &servers].iter().chain(*args).copied().collect();
        let ours = env.zwirn(&[&[*tool][..], &with_servers].concat())?;
        let theirs = env.kafka(&format!("org.apache.kafka.tools.{class}"), &with_servers, "")?;
        same(&ours, &theirs)?;
        compared += 1;
    }
    cluster.stop_all(Duration::from_secs(20))?;
    let node = &cluster.node(2).log_dir;
    let files: Vec<String> = [".log", ".index", ".timeindex", ".snapshot"]
        .iter()
        .flat_map(|suffix| files_under(node, suffix))
        .map(|path| path.to_string_lossy().into_owned())
        .filter(|path| !path.contains("__cluster_metadata"))
        .collect();
    for file in files.iter().filter(|f| f.contains("/one-") || f.contains("/two-0")) {
        let flags: &[&str] = if file.ends_with(".log") { &["--print-data-log"] } else { &[] };
        let args = [flags, &["--files", file]].concat();
        let ours = env.zwirn(&[&["dump-log"][..], &args].concat())?;
        same(&ours, &env.kafka("org.apache.kafka.tools.DumpLogSegments", &args, "")?)?;
        compared += 1;
    }
    notes.push(format!("{compared} commands with the same output as Apache Kafka's tools"));
    cluster.done();
    Ok(())
}

fn same(ours: &Output, theirs: &Output) -> Result<(), String> {
    let is_same = ours.stdout == theirs.stdout && ours.code == theirs.code;
    expect(is_same, || {
        format!("{}\n{}", ours.complaint("our tool says something else"), theirs.complaint("than Apache Kafka's"))
    })
}
