//! Seeded faults: crashes, power cuts, lost and late messages, partitions, slow disks, snapshots at any time. Whatever
//! happens, no epoch has two leaders and no committed record changes; when the faults end, the quorum works again.

use super::cluster::Cluster;
use crate::Mutations;

struct Outcome {
    violations: Vec<String>,
    committed: i64,
    trace: Vec<String>,
}

fn run(seed: u64, voters: i32, observers: i32, mutations: Mutations, faults: usize) -> Outcome {
    let mut c = Cluster::of(seed, voters, observers);
    for node in c.nodes.values_mut() {
        node.cfg.mutations = mutations;
        node.cfg.retention_bytes = 4_000;
        node.cfg.fetch_snapshot_max_bytes = 64;
    }
    c.net.delay_ms = (0, 1 + c.rng.i64(0..30));
    c.net.flush_ms = (0, 1 + c.rng.i64(0..30));
    c.net.loss_percent = c.rng.u32(0..6);
    c.start_all();
    for _ in 0..faults {
        c.run_for(c.rng.clone().i64(10..800));
        for _ in 0..c.rng.usize(0..4) {
            let count = c.rng.usize(1..5);
            c.propose_many(count);
            c.run_for(c.rng.clone().i64(0..20));
        }
        inflict(&mut c);
        // Down voters come back now and then, or nothing would ever commit.
        if c.rng.u32(0..3) == 0 {
            c.start_all();
        }
        if !c.truth.violations.is_empty() {
            break;
        }
    }
    if c.truth.violations.is_empty() {
        heal(&mut c);
    }
    Outcome { violations: c.truth.violations, committed: c.truth.committed, trace: c.trace }
}

fn inflict(c: &mut Cluster) {
    let ids: Vec<i32> = c.nodes.keys().copied().collect();
    let node = ids[c.rng.usize(..ids.len())];
    let other = ids[c.rng.usize(..ids.len())];
    match c.rng.u32(0..12) {
        0..=2 => c.kill(node, false),
        3..=4 => c.kill(node, true),
        5..=6 => {
            // The leader is where it hurts.
            if let Some(leader) = c.leader() {
                let power = c.rng.bool();
                c.kill(leader, power);
            }
        }
        7..=8 if node != other => c.net.cut(node, other),
        9 => c.net.cut.clear(),
        10 => {
            c.snapshot(node);
        }
        _ => {
            // A rack loses power.
            for id in ids {
                if c.rng.bool() {
                    c.kill(id, true);
                }
            }
        }
    }
}

fn heal(c: &mut Cluster) {
    c.net.cut.clear();
    c.net.loss_percent = 0;
    c.start_all();
    let leads = c.run_until(30_000, |c| c.leader().is_some());
    let mut offset = None;
    for _ in 0..20 {
        offset = c.propose();
        let done = |c: &Cluster| offset.is_some_and(|offset| c.everyone_has_applied(offset));
        if c.run_until(3_000, done) || !c.truth.violations.is_empty() {
            return;
        }
    }
    c.truth.violations.push(format!("no progress after the faults: leads {leads}, offset {offset:?}"));
}

#[test]
fn safe_and_live_under_faults() {
    let mut committed = 0;
    for seed in 0..seeds(150) {
        let voters = [3, 3, 5, 4, 2][seed as usize % 5];
        let outcome = run(seed, voters, 1, Mutations::default(), 40);
        let trace = outcome.trace.join("\n");
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}\n{trace}", outcome.violations);
        committed += outcome.committed;
    }
    assert!(committed > 1_000, "the faults left room for work: {committed}");
}

/// More seeds than a normal run has time for: `RAFT_SEEDS=5000 cargo test -p raft faults`.
fn seeds(default: u64) -> u64 {
    option_env!("RAFT_SEEDS").and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Plants a fault in the protocol and expects that some seed shows it.
fn expect_caught(name: &str, mutations: Mutations) {
    let caught = |seed: u64| {
        // A planted fault may also be stopped by an assertion of the machine itself.
        let run = std::panic::catch_unwind(|| run(seed, 3, 0, mutations, 60));
        run.map_or(true, |outcome| !outcome.violations.is_empty())
    };
    let first = (0..400).find(|&seed| caught(seed));
    assert!(first.is_some(), "400 seeds did not notice {name}");
}

#[test]
fn forgotten_votes_are_noticed() {
    expect_caught("vote_not_persisted", Mutations { vote_not_persisted: true, ..Default::default() });
}

#[test]
fn votes_for_short_logs_are_noticed() {
    expect_caught("vote_ignores_log", Mutations { vote_ignores_log: true, ..Default::default() });
}

#[test]
fn acknowledging_before_the_flush_is_noticed() {
    expect_caught("ack_before_flush", Mutations { ack_before_flush: true, ..Default::default() });
}

#[test]
fn committing_without_a_majority_is_noticed() {
    expect_caught("commit_without_majority", Mutations { commit_without_majority: true, ..Default::default() });
}
