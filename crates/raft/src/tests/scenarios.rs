//! What should happen, step by step.

use protocol::messages::VoteRequest;

use super::cluster::{Cluster, LISTENER, config, dir, directory_id, endpoint};
use crate::control::{self, ControlRecord};
use crate::effect::RequestContext;
use crate::types::{Endpoints, KRaftVersions, METADATA_TOPIC, ReplicaKey};
use crate::voters::{Voter, VoterSet};
use crate::{AppendError, OffsetAndEpoch, requests, state_file};

/// A dynamic quorum as `kafka-storage format --initial-controllers` leaves it.
pub(super) fn format_dynamic(cluster: &mut Cluster, voters: &[i32]) {
    let set = VoterSet::new(voters.iter().map(|&id| Voter {
        key: ReplicaKey::new(id, directory_id(id)),
        endpoints: Endpoints::one(LISTENER, endpoint(id)),
        kraft_versions: KRaftVersions::SUPPORTED,
    }));
    let head = [ControlRecord::snapshot_header(0), ControlRecord::kraft_version(1), ControlRecord::voters(&set)];
    let mut bytes = control::batch(0, 0, &head, cluster.now);
    bytes.extend(control::batch(3, 0, &[ControlRecord::snapshot_footer()], cluster.now));
    for id in voters {
        let path = Cluster::path("00000000000000000000-0000000000.checkpoint");
        cluster.nodes[id].disk.put(path, &bytes);
    }
}

fn quorum_state(cluster: &Cluster, id: i32) -> String {
    use storage::Disk;
    let bytes = cluster.nodes[&id].disk.read(&dir().join(state_file::FILE_NAME)).expect("it was written");
    String::from_utf8(bytes).expect("JSON")
}

#[test]
fn a_static_quorum_elects_and_commits() {
    let mut c = Cluster::of(1, 3, 2);
    c.start_all();
    let leader = c.settle_leader(5_000);
    let last = c.propose_many(3).expect("the leader writes");
    assert!(c.run_until(1_000, |c| c.everyone_has_applied(last)), "observers too get everything");
    let expected = format!(
        "{{\"clusterId\":\"\",\"leaderId\":{leader},\"leaderEpoch\":{},\"votedId\":-1,\"appliedOffset\":0,\
         \"currentVoters\":[{{\"voterId\":1}},{{\"voterId\":2}},{{\"voterId\":3}}],\"data_version\":0}}",
        c.quorum(leader).epoch()
    );
    assert_eq!(quorum_state(&c, leader), expected);
    c.expect_sound();
}

#[test]
fn a_single_voter_leads_at_once() {
    let mut c = Cluster::of(2, 1, 0);
    c.start(1);
    assert!(c.quorum(1).is_leader());
    assert!(c.run_until(100, |c| c.leader() == Some(1)), "as soon as its first batch is flushed");
    let last = c.propose().expect("it leads");
    assert!(c.run_until(100, |c| c.has_applied(1, last)));
    let epoch = c.quorum(1).epoch();
    c.kill(1, true);
    c.start(1);
    assert!(c.quorum(1).is_leader());
    assert_eq!(c.quorum(1).epoch(), epoch + 1, "a restarted leader goes to a new epoch");
    assert!(c.run_until(100, |c| c.has_applied(1, last)), "what was committed survives the power cut");
    c.expect_sound();
}

#[test]
fn a_dynamic_quorum_writes_its_voters_into_the_log() {
    let mut c = Cluster::new(3);
    for id in 1..=3 {
        c.add(config(id, true, &[], &[1, 2, 3]));
    }
    c.add(config(4, false, &[], &[1, 2, 3]));
    format_dynamic(&mut c, &[1, 2, 3]);
    c.start_all();
    let leader = c.settle_leader(5_000);
    assert!(c.run_until(1_000, |c| c.everyone_has_applied(2)), "LeaderChange, KRaftVersion, Voters");
    for id in 1..=4 {
        assert_eq!(c.quorum(id).kraft_version(), 1);
        assert_eq!(c.quorum(id).voters().len(), 3);
    }
    let epoch = c.quorum(leader).epoch();
    let expected = format!(
        "{{\"leaderId\":{leader},\"leaderEpoch\":{epoch},\"votedId\":-1,\
         \"votedDirectoryId\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"data_version\":1}}"
    );
    assert_eq!(quorum_state(&c, leader), expected);
    // The second leader finds the voters in the log and writes its LeaderChange only.
    c.kill(leader, false);
    let second = c.settle_leader(5_000);
    assert_ne!(second, leader);
    let end = c.quorum(second).log_end().offset;
    assert_eq!(end, 4);
    c.expect_sound();
}

#[test]
fn a_killed_leader_is_replaced_within_half_a_second() {
    for seed in 0..30 {
        let mut c = Cluster::of(seed, 3, 1);
        c.start_all();
        let old = c.settle_leader(5_000);
        let last = c.propose_many(5).expect("the leader writes");
        assert!(c.run_until(1_000, |c| c.everyone_has_applied(last)));
        // In the middle of a batch that only some may have.
        c.propose();
        c.run_for(c.rng.clone().i64(0..3));
        let killed_at = c.now.mono_ms;
        c.kill(old, false);
        assert!(c.run_until(5_000, |c| c.leader().is_some_and(|id| id != old)));
        let took = c.now.mono_ms - killed_at;
        assert!(took < 500, "seed {seed}: {took} ms\n{}", c.trace.join("\n"));
        let next = c.propose().expect("the new leader writes");
        assert!(c.run_until(1_000, |c| c.everyone_has_applied(next)));
        c.start(old);
        assert!(c.run_until(5_000, |c| c.everyone_has_applied(next)), "the old leader comes back as a follower");
        c.expect_sound();
    }
}

#[test]
fn a_leader_that_is_only_unreachable_is_replaced_after_the_fetch_timeout() {
    let mut c = Cluster::of(5, 3, 0);
    c.start_all();
    let old = c.settle_leader(5_000);
    let cut_at = c.now.mono_ms;
    for other in (1..=3).filter(|&id| id != old) {
        c.net.cut(old, other);
    }
    assert!(c.run_until(10_000, |c| c.leader().is_some_and(|id| id != old)));
    let took = c.now.mono_ms - cut_at;
    assert!(took >= 1_500, "nobody may give a silent leader up sooner: {took} ms");
    // Check quorum: the old one notices by itself that it has lost its majority.
    assert!(c.run_until(5_000, |c| !c.quorum(old).is_leader()));
    assert_eq!(c.nodes[&old].app.leads, None, "its state machine has heard");
    c.net.cut.clear();
    let last = c.propose().expect("the new leader writes");
    assert!(c.run_until(5_000, |c| c.everyone_has_applied(last)));
    c.expect_sound();
}

#[test]
fn pre_vote_protects_a_live_leader_from_a_refused_follower() {
    let mut c = Cluster::of(6, 3, 0);
    c.start_all();
    let leader = c.settle_leader(5_000);
    let epoch = c.quorum(leader).epoch();
    let follower = (1..=3).find(|&id| id != leader).expect("there are three");
    for _ in 0..10 {
        let now = c.now;
        c.with(follower, |quorum| quorum.on_peer_down(leader, true, now));
        c.run_for(300);
    }
    assert_eq!(c.quorum(leader).epoch(), epoch, "no election took place");
    assert!(c.quorum(leader).is_leader());
    let last = c.propose().expect("it still leads");
    assert!(c.run_until(3_000, |c| c.everyone_has_applied(last)), "and the follower follows again");
    c.expect_sound();
}

#[test]
fn a_leader_that_shuts_down_hands_over() {
    let mut c = Cluster::of(7, 3, 0);
    c.start_all();
    let old = c.settle_leader(5_000);
    let last = c.propose().expect("the leader writes");
    let began = c.now.mono_ms;
    let now = c.now;
    c.with(old, |quorum| quorum.shutdown(5_000, now));
    let refused = c.with(old, |quorum| quorum.append(quorum.epoch(), &[vec![0]], now)).expect("it runs");
    assert!(matches!(refused, Err(AppendError::NotLeader { .. })));
    assert!(c.run_until(5_000, |c| c.nodes[&old].stopped), "it waits for its successor");
    assert!(c.run_until(1_000, |c| c.leader().is_some_and(|id| id != old)));
    let took = c.now.mono_ms - began;
    assert!(took < 500, "{took} ms\n{}", c.trace.join("\n"));
    let next = c.propose().expect("the successor writes");
    assert!(c.run_until(1_000, |c| c.everyone_has_applied(next.max(last))));
    c.expect_sound();
}

#[test]
fn what_a_deposed_leader_wrote_alone_is_truncated() {
    let mut c = Cluster::of(8, 3, 0);
    c.start_all();
    let old = c.settle_leader(5_000);
    for other in (1..=3).filter(|&id| id != old) {
        c.net.cut(old, other);
    }
    let lost = c.propose_many(20).expect("it still believes to lead");
    assert!(c.run_until(10_000, |c| c.leader().is_some_and(|id| id != old)));
    let kept = c.propose().expect("the new leader writes");
    assert!(kept < lost, "at offsets that the old one has used too");
    c.net.cut.clear();
    assert!(c.run_until(5_000, |c| c.has_applied(old, kept)));
    c.run_for(1_000);
    assert_eq!(c.quorum(old).log_end(), c.quorum(c.leader().expect("settled")).log_end());
    c.expect_sound();
}

#[test]
fn a_wiped_follower_starts_from_a_snapshot() {
    let mut c = Cluster::of(9, 3, 1);
    c.start_all();
    let leader = c.settle_leader(5_000);
    for _ in 0..50 {
        c.propose_many(4);
        c.run_for(20);
    }
    let id = c.snapshot(leader).expect("a state to keep");
    let last = c.propose_many(3).expect("the leader writes");
    assert!(c.run_until(1_000, |c| c.everyone_has_applied(last)));
    let wiped = (1..=3).find(|&id| id != leader).expect("there are three");
    for gone in [wiped, 4] {
        c.kill(gone, true);
        c.nodes[&gone].disk.wipe();
        c.start(gone);
    }
    assert!(c.run_until(5_000, |c| c.everyone_has_applied(last)));
    for gone in [wiped, 4] {
        assert_eq!(c.nodes[&gone].app.snapshots_loaded, 1);
        assert_eq!(c.quorum(gone).log_start_offset(), id.offset);
        assert_eq!(c.quorum(gone).latest_snapshot(), Some(id));
    }
    // Restarted, it begins with its own copy.
    c.kill(wiped, true);
    c.start(wiped);
    assert!(c.run_until(5_000, |c| c.has_applied(wiped, last)));
    assert_eq!(c.nodes[&wiped].app.snapshots_loaded, 1);
    c.expect_sound();
}

#[test]
fn a_snapshot_larger_than_a_fetch_comes_in_parts() {
    let mut c = Cluster::of(10, 3, 0);
    for node in c.nodes.values_mut() {
        node.cfg.fetch_snapshot_max_bytes = 50;
    }
    c.start_all();
    let leader = c.settle_leader(5_000);
    let last = c.propose_many(10).expect("the leader writes");
    assert!(c.run_until(1_000, |c| c.everyone_has_applied(last)));
    c.snapshot(leader).expect("a state to keep");
    let wiped = (1..=3).find(|&id| id != leader).expect("there are three");
    c.kill(wiped, true);
    c.nodes[&wiped].disk.wipe();
    c.start(wiped);
    assert!(c.run_until(5_000, |c| c.has_applied(wiped, last)));
    assert_eq!(c.nodes[&wiped].app.snapshots_loaded, 1);
    c.expect_sound();
}

#[test]
fn old_snapshots_and_the_log_before_them_go_and_lagging_replicas_still_catch_up() {
    let mut c = Cluster::of(11, 3, 0);
    for node in c.nodes.values_mut() {
        node.cfg.retention_bytes = 1_000;
    }
    c.start_all();
    let leader = c.settle_leader(5_000);
    let lagging = (1..=3).find(|&id| id != leader).expect("there are three");
    c.kill(lagging, false);
    for _ in 0..3 {
        for _ in 0..20 {
            c.propose();
            c.run_for(10);
        }
        c.snapshot(leader).expect("a state to keep");
    }
    c.run_for(130_000);
    let names = c.nodes[&leader].disk.names(dir());
    assert_eq!(names.iter().filter(|name| name.contains(".checkpoint")).count(), 1, "{names:?}");
    assert!(c.quorum(leader).log_start_offset() > 0);
    let last = c.propose().expect("the leader writes");
    c.start(lagging);
    assert!(c.run_until(5_000, |c| c.everyone_has_applied(last)));
    assert_eq!(c.nodes[&lagging].app.snapshots_loaded, 1);
    c.expect_sound();
}

#[test]
fn elections_work_with_voters_that_do_not_know_pre_vote() {
    let mut c = Cluster::of(12, 3, 0);
    // What a peer that is older than Vote 2 makes of it; plain votes of ours go out in version 2 as well, so they are
    // answered only once the "old" peers are gone from the table.
    c.net.unsupported.insert((52, 2));
    c.start_all();
    let candidate =
        |c: &Cluster| c.nodes.values().any(|n| n.quorum.as_ref().is_some_and(|q| q.role_name() == "Candidate"));
    assert!(c.run_until(5_000, candidate), "straight to a real election");
    c.net.unsupported.clear();
    c.settle_leader(5_000);
    c.expect_sound();
}

#[test]
fn a_voter_that_moved_tells_the_leader() {
    let mut c = Cluster::new(13);
    for id in 1..=3 {
        c.add(config(id, true, &[], &[1, 2, 3]));
    }
    format_dynamic(&mut c, &[1, 2, 3]);
    // Node 3 listens under one more name than the format knew.
    let mut listeners = Endpoints::one(LISTENER, endpoint(3));
    listeners.insert("CONTROLLER_SSL", crate::Endpoint::new("127.0.0.1", 19999));
    c.nodes.get_mut(&3).expect("added").cfg.listeners = listeners.clone();
    c.start_all();
    c.settle_leader(5_000);
    let updated = |c: &Cluster| (1..=3).all(|id| c.quorum(id).voters().endpoints(3) == listeners);
    assert!(c.run_until(10_000, updated));
    c.expect_sound();
}

#[test]
fn observers_get_promoted_to_nothing_and_are_listed() {
    let mut c = Cluster::of(14, 3, 2);
    c.start_all();
    let leader = c.settle_leader(5_000);
    let last = c.propose().expect("the leader writes");
    assert!(c.run_until(1_000, |c| c.everyone_has_applied(last)));
    c.run_for(1_000);
    let response = c.describe(leader, 2);
    let partition = &response.topics[0].partitions[0];
    assert_eq!(partition.leader_id, leader);
    assert_eq!(partition.high_watermark, last + 1);
    let voters: Vec<i32> = partition.current_voters.iter().map(|voter| voter.replica_id).collect();
    assert_eq!(voters, [1, 2, 3]);
    let observers: Vec<i32> = partition.observers.iter().map(|observer| observer.replica_id).collect();
    assert_eq!(observers, [4, 5]);
    for state in partition.current_voters.iter().chain(&partition.observers) {
        assert_eq!(state.log_end_offset, last + 1);
        let age = c.now.wall_ms - state.last_caught_up_timestamp;
        assert!((0..=1_000).contains(&age), "caught up {age} ms ago");
    }
    // Static voters are known by id alone, as Kafka shows them.
    assert!(partition.current_voters.iter().all(|voter| voter.replica_directory_id.is_zero()));
    assert_eq!(partition.observers[0].replica_directory_id, directory_id(4));
    assert_eq!(response.nodes.len(), 3);
    assert_eq!(response.nodes[0].listeners[0].port, endpoint(1).port);
    // Everything fits every version.
    for version in 0..=2 {
        let response = c.describe(leader, version);
        protocol::codec::encode_all(&response, version).expect("fits");
    }
    let follower = (1..=3).find(|&id| id != leader).expect("there are three");
    assert_eq!(c.describe(follower, 2).topics[0].partitions[0].error_code, 6, "NOT_LEADER_OR_FOLLOWER");
    c.expect_sound();
}

/// A vote given survives a restart, and is given to the same candidate again, but to nobody else.
#[test]
fn votes_are_remembered() {
    let mut c = Cluster::of(15, 3, 0);
    c.start(1);
    let ctx = RequestContext { version: 2, listener: LISTENER };
    let ask = |c: &mut Cluster, candidate: i32| {
        let now = c.now;
        let mut request: VoteRequest<'static> = requests::vote(c.quorum(1), ReplicaKey::new(1, directory_id(1)), false);
        let partition = &mut request.topics[0].partitions[0];
        partition.replica_id = candidate;
        partition.replica_directory_id = directory_id(candidate);
        partition.replica_epoch = 5;
        let response = c.with(1, |quorum| quorum.on_vote(ctx, &request, now)).expect("it runs");
        response.topics[0].partitions[0].vote_granted
    };
    assert!(ask(&mut c, 2));
    assert!(!ask(&mut c, 3), "one vote per epoch");
    assert!(ask(&mut c, 2), "the answer may have been lost");
    c.kill(1, true);
    c.start(1);
    assert!(!ask(&mut c, 3), "nor after a power cut");
    assert!(ask(&mut c, 2));
    c.expect_sound();
}

#[test]
fn requests_are_refused_with_kafkas_errors() {
    let mut c = Cluster::of(16, 3, 0);
    c.start_all();
    let leader = c.settle_leader(5_000);
    let now = c.now;
    let ctx = RequestContext { version: 2, listener: LISTENER };
    let voter = ReplicaKey::new(leader, directory_id(leader));
    let template = requests::vote(c.quorum(leader), voter, true);
    let mut code = |change: &dyn Fn(&mut VoteRequest<'static>)| {
        let mut request = template.clone();
        request.topics[0].partitions[0].replica_id = 9;
        change(&mut request);
        let response = c.with(leader, |quorum| quorum.on_vote(ctx, &request, now)).expect("it runs");
        response.topics.first().map_or(response.error_code, |topic| topic.partitions[0].error_code)
    };
    assert_eq!(code(&|r| r.cluster_id = Some("other".into())), 104);
    assert_eq!(code(&|r| r.topics[0].topic_name = "x".into()), 42);
    assert_eq!(code(&|r| r.topics.clear()), 42);
    assert_eq!(code(&|r| r.topics[0].partitions[0].last_offset = -1), 42);
    assert_eq!(code(&|r| r.topics[0].partitions[0].last_offset_epoch += 1), 42);
    assert_eq!(code(&|r| r.topics[0].partitions[0].pre_vote = false), 42, "a candidate is beyond its last epoch");
    assert_eq!(
        code(&|r| {
            r.topics[0].partitions[0].replica_epoch = 0;
            r.topics[0].partitions[0].last_offset_epoch = 0;
        }),
        74
    );
    assert_eq!(code(&|r| r.voter_id = 77), 125);
    assert_eq!(code(&|r| r.topics[0].partitions[0].voter_directory_id = directory_id(99)), 125);
    assert_eq!(code(&|r| r.topics[0].partitions[0].replica_id = -1), 42);
    assert_eq!(code(&|r| r.topic_name_is(METADATA_TOPIC)), 0);
    c.expect_sound();
}

trait TopicName {
    fn topic_name_is(&mut self, name: &'static str);
}

impl TopicName for VoteRequest<'static> {
    fn topic_name_is(&mut self, name: &'static str) {
        self.topics[0].topic_name = name.into();
    }
}

#[test]
fn a_snapshot_needs_a_committed_batch_to_end_at() {
    let mut c = Cluster::of(17, 1, 0);
    c.start(1);
    assert!(c.run_until(100, |c| c.leader() == Some(1)));
    let last = c.propose_many(4).expect("it leads");
    assert!(c.run_until(100, |c| c.has_applied(1, last)));
    let now = c.now;
    let epoch = c.quorum(1).epoch();
    let mut begin = |offset: i64, epoch: i32| {
        let id = OffsetAndEpoch::new(offset, epoch);
        match c.with(1, |quorum| quorum.begin_snapshot(id, 0, now)).expect("it runs") {
            Ok(Some(writer)) => {
                writer.abort();
                "begun"
            }
            Ok(None) => "not needed",
            Err(crate::SnapshotError::NotCommitted { .. }) => "not committed",
            Err(crate::SnapshotError::NotInLog) => "not in log",
            Err(crate::SnapshotError::Io(_)) => "disk",
        }
    };
    assert_eq!(begin(last + 1, epoch), "begun");
    assert_eq!(begin(last, epoch), "not in log");
    assert_eq!(begin(last + 1, epoch - 1), "not in log");
    assert_eq!(begin(last + 2, epoch), "not committed");
}
