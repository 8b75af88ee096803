//! Apache Kafka's own tools, unchanged, and librdkafka's kcat: clients that know nothing of us.

use std::process::Command;
use std::time::Duration;

use super::cluster::{Cluster, files_under};
use super::process::finish;
use super::{Env, expect};

const TOPIC: &str = "peter-test01";

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::start(env, "kafka-tools", "")?;
    let servers = cluster.bootstrap();
    let tool = |class: &str, args: &[&str], input: &str| {
        let args: Vec<&str> = ["--bootstrap-server", &servers].iter().chain(args).copied().collect();
        env.kafka(&format!("org.apache.kafka.tools.{class}"), &args, input)
    };
    tool("TopicCommand", &["--create", "--topic", TOPIC, "--partitions", "1", "--replication-factor", "3"], "")?
        .good()?
        .stdout_is("Created topic peter-test01.\n")?;
    let described = tool("TopicCommand", &["--describe", "--topic", TOPIC], "")?.good()?;
    described.has("PartitionCount: 1\tReplicationFactor: 3\tConfigs: min.insync.replicas=1")?;
    tool("TopicCommand", &["--list"], "")?.good()?.stdout_is("peter-test01\n")?;
    tool("ConsoleProducer", &["--topic", TOPIC], "test message1\ntest message2\n")?.good()?;
    let consume = ["--topic", TOPIC, "--partition", "0", "--offset", "earliest", "--max-messages", "2"];
    tool("consumer.ConsoleConsumer", &consume, "")?.good()?.stdout_is("test message1\ntest message2\n")?;
    tool("GetOffsetShell", &["--topic", TOPIC], "")?.good()?.stdout_is("peter-test01:0:2\n")?;
    tool("MetadataQuorumCommand", &["describe", "--status"], "")?.good()?.has("LeaderId:")?.has("CurrentVoters:")?;
    let replication = tool("MetadataQuorumCommand", &["describe", "--replication"], "")?.good()?;
    expect(replication.stdout.contains("Leader") && replication.stdout.contains("Follower"), || {
        replication.complaint("a leader and followers should be listed")
    })?;
    let cluster_tool = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--bootstrap-server", &servers]).collect();
        env.kafka("org.apache.kafka.tools.ClusterTool", &args, "")
    };
    cluster_tool(&["cluster-id"])?.good()?.has("Cluster ID: Zndpcm4tc3Rvcmllcy0tLQ")?;
    cluster_tool(&["list-endpoints"])?.good()?.has("127.0.0.1")?;
    let versions = tool("BrokerApiVersionsCommand", &[], "")?.good()?.has("Produce(0): 0 to")?;
    expect(!versions.stdout.contains("ERROR"), || versions.complaint("every broker should answer"))?;

    tool("TopicCommand", &["--alter", "--topic", TOPIC, "--partitions", "3"], "")?.good()?;
    cluster.wait_for_isr(TOPIC, 3, Duration::from_secs(10))?;
    cluster.replicas_are_equal("peter-test01-0", "00000000000000000000.log")?;
    let log = cluster.node(1).log_dir.join("peter-test01-0/00000000000000000000.log");
    let args = ["--print-data-log", "--files", &log.to_string_lossy()];
    env.kafka("org.apache.kafka.tools.DumpLogSegments", &args, "")?.good()?.has("payload: test message2")?;
    tool("TopicCommand", &["--delete", "--topic", TOPIC], "")?.good()?;
    // A topic that nobody created: the producer's metadata request does.
    tool("ConsoleProducer", &["--topic", "made-by-itself", "--sync"], "first\n")?.good()?;
    tool("GetOffsetShell", &["--topic", "made-by-itself"], "")?.good()?.stdout_is("made-by-itself:0:1\n")?;
    notes.push(
        "topics, producer, consumer, offsets, quorum, cluster, api-versions, dump-log: all as expected".to_owned(),
    );
    cluster.stop_all(Duration::from_secs(20))?;
    notes.push(sanity_check(env, &cluster)?);
    cluster.done();
    Ok(())
}

/// `kafka-dump-log --index-sanity-check` over every index, and every segment read with its checksums.
pub fn sanity_check(env: &Env, cluster: &Cluster) -> Result<String, String> {
    let mut indexes = Vec::new();
    let mut segments = Vec::new();
    for node in &cluster.nodes {
        let is_data = |path: &std::path::PathBuf| !path.to_string_lossy().contains("__cluster_metadata");
        let names = |suffix: &str| {
            let found = files_under(&node.log_dir, suffix).into_iter().filter(is_data);
            found.map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        indexes.extend(names(".index"));
        indexes.extend(names(".timeindex"));
        segments.extend(names(".log"));
        let metadata = files_under(&node.log_dir, ".log").into_iter().filter(|path| !is_data(path));
        for log in metadata {
            let args = ["--cluster-metadata-decoder", "--files", &log.to_string_lossy()];
            let dumped = env.kafka("org.apache.kafka.tools.DumpLogSegments", &args, "")?.good()?;
            expect(dumped.stdout.contains("REGISTER_BROKER_RECORD"), || {
                dumped.complaint("the metadata log is unreadable")
            })?;
        }
    }
    for files in indexes.chunks(50) {
        let args = ["--index-sanity-check", "--files", &files.join(",")];
        let checked = env.kafka("org.apache.kafka.tools.DumpLogSegments", &args, "")?.good()?;
        let is_good = |line: &&str| line.ends_with("passed sanity check.") || line.ends_with("is empty.");
        let passed = checked.stdout.lines().filter(is_good).count();
        expect(passed == files.len(), || checked.complaint(&format!("{} indexes should pass", files.len())))?;
    }
    for files in segments.chunks(50) {
        let args = ["--files", &files.join(",")];
        let checked = env.kafka("org.apache.kafka.tools.DumpLogSegments", &args, "")?.good()?;
        expect(!checked.stdout.contains("isvalid: false"), || checked.complaint("a batch is broken"))?;
    }
    Ok(format!("{} indexes and {} segments pass kafka-dump-log", indexes.len(), segments.len()))
}

/// kafka-producer-perf-test with every kind of acknowledgement and every codec.
pub fn producer_perf(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    const RECORDS: usize = 20_000;
    let mut cluster = Cluster::start(env, "producer-perf", "min.insync.replicas=2")?;
    let servers = cluster.bootstrap();
    cluster.create_topic(env, "perf", 3, &[])?;
    let mut expected = 0;
    for acks in ["0", "1", "all"] {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let line = format!(
                "--topic perf --num-records {RECORDS} --record-size 200 --throughput -1 --producer-props \
                 bootstrap.servers={servers} acks={acks} compression.type={codec}"
            );
            let ran = env.kafka_line("ProducerPerformance", &line)?.good()?;
            let last = ran.stdout.lines().last().unwrap_or_default().to_owned();
            let is_whole = last.starts_with(&format!("{RECORDS} records sent"));
            expect(is_whole && !ran.stderr.contains("Exception"), || ran.complaint("every record should be sent"))?;
            expected += RECORDS;
            if codec == "none" {
                notes.push(format!("acks={acks}: {last}"));
            }
        }
    }
    cluster.wait_for_isr("perf", 3, Duration::from_secs(20))?;
    let offsets = env.kafka_line("GetOffsetShell", &format!("--bootstrap-server {servers} --topic perf"))?.good()?;
    let total: usize = offsets.stdout.lines().filter_map(|l| l.rsplit(':').next()?.parse::<usize>().ok()).sum();
    expect(total == expected, || offsets.complaint(&format!("{expected} records should be there, not {total}")))?;
    let first = offsets.stdout.lines().find_map(|l| l.strip_prefix("perf:0:")?.parse::<usize>().ok()).unwrap_or(0);
    let line = format!("--bootstrap-server {servers} --topic perf --partition 0 --offset earliest --timeout-ms 5000");
    let read = env.kafka_line("consumer.ConsoleConsumer", &line)?.stdout.lines().count();
    expect(read == first, || format!("a consumer should read {first} records of perf-0, not {read}"))?;
    for partition in 0..3 {
        cluster.replicas_are_equal(&format!("perf-{partition}"), "00000000000000000000.log")?;
    }
    cluster.stop_all(Duration::from_secs(20))?;
    notes.push(sanity_check(env, &cluster)?);
    cluster.done();
    Ok(())
}

/// librdkafka's command line, if it is installed.
pub fn kcat(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    if Command::new("kcat").arg("-V").output().is_err() {
        notes.push("left out: kcat is not installed".to_owned());
        return Ok(());
    }
    let cluster = Cluster::start(env, "kcat", "")?;
    let servers = cluster.bootstrap();
    let run = |args: &[&str], input: &str| {
        let mut command = Command::new("kcat");
        command.args(["-b", &servers]).args(args);
        finish(command, input, Duration::from_secs(30))
    };
    let create = [
        "topics",
        "--bootstrap-server",
        &servers,
        "--create",
        "--topic",
        "kc",
        "--partitions",
        "1",
        "--replication-factor",
        "3",
    ];
    env.zwirn(&create)?.good()?;
    run(&["-L"], "")?.good()?.has("3 brokers:")?.has("topic \"kc\" with 1 partitions:")?;
    let mut expected = String::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: String = (0..200).map(|i| format!("{codec} {i}\n")).collect();
        run(&["-P", "-t", "kc", "-z", codec, "-X", "acks=all", "-X", "enable.idempotence=true"], &lines)?.good()?;
        expected.push_str(&lines);
    }
    run(&["-C", "-t", "kc", "-o", "beginning", "-e", "-q"], "")?.good()?.stdout_is(&expected)?;
    notes.push("kcat -L, -P with five codecs, -C".to_owned());
    cluster.done();
    Ok(())
}
