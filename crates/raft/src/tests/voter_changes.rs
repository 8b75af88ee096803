//! Voters that come and go while the cluster runs.

use protocol::error::ErrorCode;

use super::cluster::{Cluster, config, directory_id};
use super::scenarios::format_dynamic;
use crate::types::ReplicaKey;

fn key(id: i32) -> ReplicaKey {
    ReplicaKey::new(id, directory_id(id))
}

/// Voters 1 to `voters`, and controllers up to `nodes` that only observe.
fn dynamic(seed: u64, voters: i32, nodes: i32) -> Cluster {
    let mut c = Cluster::new(seed);
    for id in 1..=nodes {
        c.add(config(id, true, &[], &(1..=nodes).collect::<Vec<i32>>()));
    }
    format_dynamic(&mut c, &(1..=voters).collect::<Vec<i32>>());
    c.start_all();
    c.settle_leader(5_000);
    c.run_for(1_000);
    c
}

fn voters(c: &Cluster, id: i32) -> Vec<i32> {
    c.quorum(id).voters().ids().collect()
}

#[test]
fn an_observer_becomes_a_voter_and_its_vote_counts() {
    let mut c = dynamic(41, 3, 5);
    let leader = c.leader().expect("settled");
    assert_eq!(c.add_voter(leader, 4), Some(ErrorCode::None));
    assert_eq!(c.add_voter(leader, 4), Some(ErrorCode::DuplicateVoter));
    assert_eq!(c.add_voter(leader, 5), Some(ErrorCode::None));
    assert!(c.run_until(1_000, |c| (1..=5).all(|id| voters(c, id) == [1, 2, 3, 4, 5])));
    // Three of the five are a majority now, two of the old three no more.
    let others: Vec<i32> = (1..=3).filter(|&id| id != leader).collect();
    c.kill(leader, false);
    c.kill(others[0], false);
    let last = {
        assert!(c.run_until(10_000, |c| c.leader().is_some()), "{}", c.trace.join("\n"));
        c.propose().expect("three of five elect a leader")
    };
    assert!(c.run_until(3_000, |c| c.everyone_has_applied(last)));
    c.kill(others[1], false);
    c.run_for(10_000);
    assert_eq!(c.leader(), None, "two of five do not");
    c.start_all();
    c.settle_leader(10_000);
    c.expect_sound();
}

#[test]
fn a_removed_leader_serves_until_its_removal_is_committed() {
    let mut c = dynamic(42, 3, 3);
    let leader = c.leader().expect("settled");
    let wrong = ReplicaKey::new(leader, directory_id(99));
    assert_eq!(c.remove_voter(leader, wrong), Some(ErrorCode::VoterNotFound));
    assert_eq!(c.remove_voter(leader, key(leader)), Some(ErrorCode::None));
    assert!(c.run_until(5_000, |c| c.leader().is_some_and(|id| id != leader)), "{}", c.trace.join("\n"));
    let next = c.leader().expect("just seen");
    let last = c.propose().expect("it leads");
    assert!(c.run_until(3_000, |c| c.everyone_has_applied(last)), "the removed one goes on as an observer");
    assert!(!c.quorum(leader).is_voter());
    assert_eq!(c.quorum(next).voters().len(), 2);
    c.run_for(20_000);
    assert!(!c.quorum(leader).is_leader(), "and never stands for election");
    assert_eq!(c.remove_voter(leader, key(next)), Some(ErrorCode::NotLeaderOrFollower));
    c.expect_sound();
}

#[test]
fn the_voters_are_not_changed_where_that_could_hurt() {
    let mut c = dynamic(43, 3, 4);
    let leader = c.leader().expect("settled");
    // It does not answer; nothing is written.
    c.kill(4, false);
    assert_eq!(c.add_voter(leader, 4), Some(ErrorCode::RequestTimedOut));
    assert_eq!(c.quorum(leader).voters().len(), 3);
    // A change that cannot be committed stands in the way of the next.
    let others: Vec<i32> = (1..=3).filter(|&id| id != leader).collect();
    c.net.cut(leader, others[0]);
    c.net.cut(leader, others[1]);
    assert_eq!(c.remove_voter(leader, key(others[0])), Some(ErrorCode::RequestTimedOut));
    assert_eq!(c.remove_voter(leader, key(others[1])), Some(ErrorCode::RequestTimedOut));
    c.run_for(10_000);
    c.net.cut.clear();
    let settled = c.settle_leader(10_000);
    let last = c.propose().expect("it leads");
    assert!(c.run_until(5_000, |c| c.everyone_has_applied(last)));
    assert_eq!(voters(&c, settled), [1, 2, 3], "what was not committed is gone");
    assert_eq!(voters(&c, leader), [1, 2, 3]);
    c.expect_sound();

    let mut c = dynamic(44, 1, 1);
    assert_eq!(c.remove_voter(1, key(1)), Some(ErrorCode::InvalidRequest), "somebody has to vote");
    let mut c2 = Cluster::of(45, 3, 0);
    c2.start_all();
    let leader = c2.settle_leader(5_000);
    c2.run_for(500);
    assert_eq!(c2.remove_voter(leader, key(1)), Some(ErrorCode::UnsupportedVersion), "a static quorum");
    c.expect_sound();
}

#[test]
fn a_controller_with_a_new_disk_takes_its_place_by_itself() {
    for seed in 50..60 {
        let mut c = Cluster::new(seed);
        for id in 1..=4 {
            let mut cfg = config(id, true, &[], &[1, 2, 3]);
            cfg.auto_join = true;
            c.add(cfg);
        }
        format_dynamic(&mut c, &[1, 2, 3]);
        c.start_all();
        c.settle_leader(5_000);
        assert!(c.run_until(20_000, |c| voters(c, 1) == [1, 2, 3, 4]), "4 joins");
        c.kill(2, true);
        c.nodes[&2].disk.wipe();
        c.nodes.get_mut(&2).expect("there").cfg.directory_id = directory_id(22);
        c.start(2);
        let new = ReplicaKey::new(2, directory_id(22));
        let is_in = |c: &Cluster| c.nodes.keys().all(|id| c.quorum(*id).voters().is_voter(&new));
        assert!(c.run_until(30_000, is_in), "seed {seed}\n{}", c.trace.join("\n"));
        assert_eq!(voters(&c, 2), [1, 2, 3, 4]);
        c.expect_sound();
    }
}

#[test]
fn voters_change_under_faults_and_nothing_committed_is_lost() {
    for seed in 0..60 {
        let mut c = dynamic(1_000 + seed, 3, 5);
        c.net.loss_percent = 3;
        c.net.delay_ms = (0, 20);
        for _ in 0..40 {
            let node = c.rng.i32(1..=5);
            match c.rng.u32(0..8) {
                0 => c.kill(node, false),
                1 => c.kill(node, true),
                2 | 3 => c.start_all(),
                4 | 5 => {
                    if let Some(leader) = c.leader() {
                        c.add_voter(leader, node);
                    }
                }
                _ => {
                    if let Some(leader) = c.leader().filter(|&l| c.quorum(l).voters().len() > 2) {
                        c.remove_voter(leader, key(node));
                    }
                }
            }
            c.propose();
            c.run_for(200);
        }
        c.net.loss_percent = 0;
        c.start_all();
        assert!(c.run_until(60_000, |c| c.leader().is_some()), "seed {seed}\n{}", c.trace.join("\n"));
        c.run_for(5_000);
        let last = c.propose().expect("it leads");
        let is_done = c.run_until(10_000, |c| c.everyone_has_applied(last));
        assert!(is_done, "seed {seed}\n{}", c.trace.join("\n"));
        c.expect_sound();
    }
}
