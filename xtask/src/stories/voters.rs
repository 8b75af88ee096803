//! Voters of the metadata quorum come and go while the cluster serves: a quorum that begins with one controller, gets
//! two more, one of them Apache Kafka's if there is a JVM, loses the first one, and takes it back with a new disk.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::cluster::{Cluster, Plan};
use super::swap::kafka_broker;
use super::{Env, expect, wait_until};

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let mut cluster = Cluster::prepare_as(env, "voters", &dynamic)?;
    cluster.format(env, 1, &["--standalone"])?;
    cluster.format(env, 2, &["--no-initial-controllers"])?;
    cluster.format(env, 3, &["--no-initial-controllers"])?;
    cluster.start_node(1)?;
    cluster.start_node(2)?;
    let (third, kind) = match kafka_broker(env) {
        Ok(command) => (command, "Apache Kafka"),
        Err(_) => (zwirn(env), "Zwirn"),
    };
    cluster.start_command(3, third)?;
    cluster.wait_for_brokers(3)?;
    cluster.create_topic(env, "voters", 1, &[])?;
    expect(voters(env, &cluster)?.len() == 1, || "only the first one votes at the beginning".to_owned())?;

    // Ours by our tool, the third by Kafka's if it is there.
    change(env, &cluster, "a second voter", &add_args(&cluster, 2), "Added controller 2 with directory id")?;
    let third = add_args(&cluster, 3);
    if env.kafka.is_ok() {
        let args: Vec<&str> = third.iter().map(String::as_str).collect();
        wait_until(Duration::from_secs(30), "a third voter", || {
            let said = env.kafka("org.apache.kafka.tools.MetadataQuorumCommand", &args, "")?;
            said.good()?.has("Added controller 3 with directory id").map(drop)
        })?;
    } else {
        change(env, &cluster, "a third voter", &third, "Added controller 3 with directory id")?;
    }
    let before = voters(env, &cluster)?;
    expect(ids(&before) == [1, 2, 3], || format!("three voters, not {before:?}"))?;

    // The first one is killed and its place is given away.
    cluster.kill(1)?;
    wait_until(Duration::from_secs(20), "another leader of the quorum", || voters(env, &cluster).map(drop))?;
    let old = directory_of(&before, 1)?;
    change(
        env,
        &cluster,
        "the removal of a dead voter",
        &remove_args(&cluster, 1, &old),
        "Removed  KRaft controller 1",
    )?;
    let left = voters(env, &cluster)?;
    expect(ids(&left) == [2, 3], || format!("two voters, not {left:?}"))?;

    comes_back(env, &mut cluster, &old)?;

    // Its vote counts: each of the others can go.
    for id in [2, 3] {
        let is_kafka = id == 3 && env.kafka.is_ok();
        cluster.kill(id)?;
        wait_until(Duration::from_secs(30), "two of three to elect a leader", || voters(env, &cluster).map(drop))?;
        cluster.start_command(id, if is_kafka { kafka_broker(env)? } else { zwirn(env) })?;
        cluster.wait_for_isr("voters", 3, Duration::from_secs(60))?;
    }
    notes.push(format!("one voter became three (the third {kind}), the first was removed and joined again by itself"));
    // A JVM that is left without a quorum waits for minutes before it ends.
    cluster.stop(3, Duration::from_secs(60))?;
    cluster.stop_all(Duration::from_secs(60))?;
    cluster.done();
    Ok(())
}

/// The first node, removed, gets an empty disk and joins by itself.
fn comes_back(env: &Env, cluster: &mut Cluster, old: &str) -> Result<(), String> {
    let dir = cluster.node(1).log_dir.clone();
    fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let properties = cluster.node(1).properties.clone();
    let text = fs::read_to_string(&properties).map_err(|e| e.to_string())?;
    fs::write(&properties, format!("{text}controller.quorum.auto.join.enable=true\n")).map_err(|e| e.to_string())?;
    cluster.format(env, 1, &["--no-initial-controllers"])?;
    cluster.start_node(1)?;
    wait_until(Duration::from_secs(40), "the first to vote again", || {
        let voters = voters(env, cluster)?;
        let is_new = directory_of(&voters, 1).is_ok_and(|directory| directory != old);
        expect(ids(&voters) == [1, 2, 3] && is_new, || format!("{voters:?}"))
    })?;
    cluster.wait_for_isr("voters", 3, Duration::from_secs(40)).map(drop)
}

fn dynamic(plan: &Plan) -> String {
    let servers: Vec<String> = (1..=3).map(|id| format!("127.0.0.1:{}", plan.controller_port(id))).collect();
    format!(
        "process.roles=broker,controller\ncontroller.quorum.bootstrap.servers={}\n{}",
        servers.join(","),
        plan.combined_listeners()
    )
}

fn zwirn(env: &Env) -> Command {
    let mut command = Command::new(&env.binary);
    command.arg("server");
    command
}

fn add_args(cluster: &Cluster, id: i32) -> Vec<String> {
    let config = cluster.node(id).properties.to_string_lossy().into_owned();
    [
        "--bootstrap-server".to_owned(),
        cluster.bootstrap(),
        "--command-config".to_owned(),
        config,
        "add-controller".into(),
    ]
    .to_vec()
}

fn remove_args(cluster: &Cluster, id: i32, directory: &str) -> Vec<String> {
    let words =
        ["--bootstrap-server", &cluster.bootstrap(), "remove-controller", "-i", &id.to_string(), "-d", directory];
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A change may have to wait: for the change before, or for the new voter to catch up.
fn change(env: &Env, cluster: &Cluster, what: &str, args: &[String], says: &str) -> Result<(), String> {
    let args: Vec<&str> = ["metadata-quorum"].into_iter().chain(args.iter().map(String::as_str)).collect();
    wait_until(Duration::from_secs(30), what, || env.zwirn(&args)?.good()?.has(says).map(drop))?;
    // Nobody is asked before it is committed everywhere.
    voters(env, cluster).map(drop)
}

/// Id and directory of every voter, as the quorum's leader knows them.
fn voters(env: &Env, cluster: &Cluster) -> Result<Vec<(i32, String)>, String> {
    let servers = cluster.bootstrap();
    let said = env.zwirn(&["metadata-quorum", "--bootstrap-server", &servers, "describe", "--replication"])?.good()?;
    let rows = said.stdout.lines().skip(1).filter(|line| !line.contains("Observer"));
    let row = |line: &str| {
        let mut cells = line.split_whitespace();
        Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
    };
    let mut voters: Vec<(i32, String)> = rows.filter_map(row).collect();
    voters.sort();
    Ok(voters)
}

fn ids(voters: &[(i32, String)]) -> Vec<i32> {
    voters.iter().map(|(id, _)| *id).collect()
}

fn directory_of(voters: &[(i32, String)], id: i32) -> Result<String, String> {
    let found = voters.iter().find(|(voter, _)| *voter == id).map(|(_, directory)| directory.clone());
    found.ok_or_else(|| format!("{id} is none of the voters {voters:?}"))
}
