//! Scenarios of the controller: brokers come, serve, die and return; what happens to partitions is compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::error::ErrorCode;
use protocol::messages::*;
use protocol::time::Now;
use protocol::wire::Uuid;

use super::{Bootstrap, Controller, ControllerSettings, MutationQuota};
use crate::config::NodeConfig;
use crate::features::SUPPORTED;
use crate::image::{ConfigResource, MetadataDelta, MetadataImage, NO_LEADER, Partition};

pub(super) fn settings() -> ControllerSettings {
    let properties = [
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("log.dirs", "/data"),
        ("listeners", "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"),
        ("controller.listener.names", "CONTROLLER"),
        ("controller.quorum.voters", "1@127.0.0.1:9093"),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let (node, _) = NodeConfig::from_properties(&properties, "test").expect("a good configuration");
    ControllerSettings { node: Arc::new(node), kraft_version: 1, voters: vec![1], bootstrap: Bootstrap::default() }
}

/// A controller, the log it writes to, and brokers that apply all of it at once.
pub(super) struct Cluster {
    pub controller: Controller,
    pub committed: MetadataImage,
    log: Vec<Vec<u8>>,
    now_ms: i64,
    incarnations: u8,
}

impl Cluster {
    pub fn new(settings: ControllerSettings) -> Cluster {
        let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let (controller, records) = Controller::activate(MetadataImage::default(), settings, 7, now);
        let mut cluster = Cluster {
            controller,
            committed: MetadataImage::default(),
            log: Vec::new(),
            now_ms: 1_000,
            incarnations: 0,
        };
        cluster.append(records);
        cluster
    }

    /// Three unfenced brokers.
    pub fn of_three() -> Cluster {
        let mut cluster = Cluster::new(settings());
        for broker in 1..=3 {
            cluster.start(broker, -1);
        }
        cluster
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms }
    }

    /// Replaying the log must lead to the controller's image, whatever happened.
    pub fn append(&mut self, records: Vec<Vec<u8>>) {
        for value in records {
            let record = MetadataRecord::decode(&value).expect("the controller's records decode");
            self.committed.apply(&record, &mut MetadataDelta::default()).expect("and apply");
            self.log.push(value);
        }
        assert_eq!(&self.committed, self.controller.image());
        self.controller.check();
    }

    fn registration(broker: i32, incarnation: u8, previous_epoch: i64) -> BrokerRegistrationRequest<'static> {
        let feature = |f: &crate::features::Feature| broker_registration_request::Feature {
            name: f.name.into(),
            min_supported_version: f.min,
            max_supported_version: f.max,
            ..Default::default()
        };
        BrokerRegistrationRequest {
            broker_id: broker,
            incarnation_id: Uuid([incarnation; 16]),
            features: SUPPORTED.iter().map(feature).collect(),
            rack: None,
            log_dirs: vec![Uuid([100 + broker as u8; 16])],
            previous_broker_epoch: previous_epoch,
            ..Default::default()
        }
    }

    fn register(&mut self, request: &BrokerRegistrationRequest<'_>) -> Result<i64, ErrorCode> {
        let result = self.controller.register_broker(request, self.log.len() as i64, self.now());
        self.append(result.records);
        match result.response.error_code {
            0 => Ok(result.response.broker_epoch),
            code => Err(ErrorCode::from_i16(code)),
        }
    }

    pub fn start(&mut self, broker: i32, previous_epoch: i64) -> i64 {
        self.incarnations += 1;
        let request = Self::registration(broker, self.incarnations, previous_epoch);
        let epoch = self.register(&request).expect("registered");
        let before = self.log.len() as i64;
        let early = self.heartbeat(broker, |r| r.current_metadata_offset = 0);
        assert!(early.is_fenced && !early.is_caught_up, "unfenced before it saw its registration at {before}");
        assert!(!self.heartbeat(broker, |_| {}).is_fenced);
        epoch
    }

    pub fn epoch(&self, broker: i32) -> i64 {
        self.committed.brokers[&broker].epoch
    }

    pub fn heartbeat(
        &mut self,
        broker: i32,
        with: impl FnOnce(&mut BrokerHeartbeatRequest),
    ) -> BrokerHeartbeatResponse {
        let mut request = BrokerHeartbeatRequest {
            broker_id: broker,
            broker_epoch: self.epoch(broker),
            current_metadata_offset: self.log.len() as i64 - 1,
            ..Default::default()
        };
        with(&mut request);
        let result = self.controller.heartbeat(&request, self.log.len() as i64, self.now());
        self.append(result.records);
        result.response
    }

    pub fn kill(&mut self, broker: i32) {
        let records = self.controller.broker_died(broker, self.now());
        self.append(records);
    }

    pub fn create(&mut self, name: &str, partitions: i32, factor: i16, configs: &[(&str, &str)]) -> ErrorCode {
        let topic = create_topics_request::CreatableTopic {
            name: name.to_owned().into(),
            num_partitions: partitions,
            replication_factor: factor,
            configs: configs
                .iter()
                .map(|(name, value)| create_topics_request::CreatableTopicConfig {
                    name: name.to_string().into(),
                    value: Some(value.to_string().into()),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let result = self.controller.create_topics(&request, &mut MutationQuota::unlimited());
        self.append(result.records);
        assert_eq!(result.response.topics[0].name, name);
        ErrorCode::from_i16(result.response.topics[0].error_code)
    }

    pub fn partition(&self, topic: &str) -> Partition {
        self.committed.topic(topic).expect("topic").partitions[&0].clone()
    }

    pub fn alter_isr(&mut self, topic: &str, isr: &[i32]) -> ErrorCode {
        let isr: Vec<(i32, i64)> = isr.iter().map(|r| (*r, self.epoch(*r))).collect();
        self.alter(topic, &isr, |_, _| {})
    }

    fn alter(
        &mut self,
        topic: &str,
        isr: &[(i32, i64)],
        with: impl FnOnce(&mut AlterPartitionRequest, &Partition),
    ) -> ErrorCode {
        use alter_partition_request::{BrokerState, PartitionData, TopicData};
        let p = self.partition(topic);
        let state = |(broker_id, broker_epoch): &(i32, i64)| BrokerState {
            broker_id: *broker_id,
            broker_epoch: *broker_epoch,
            ..Default::default()
        };
        let data = PartitionData {
            partition_index: 0,
            leader_epoch: p.leader_epoch,
            partition_epoch: p.partition_epoch,
            new_isr_with_epochs: isr.iter().map(state).collect(),
            leader_recovery_state: 0,
            ..Default::default()
        };
        let topic_id = self.committed.topic_ids[topic];
        let mut request = AlterPartitionRequest {
            broker_id: p.leader,
            broker_epoch: self.committed.brokers.get(&p.leader).map_or(-1, |b| b.epoch),
            topics: vec![TopicData { topic_id, partitions: vec![data], ..Default::default() }],
            ..Default::default()
        };
        with(&mut request, &p);
        let result = self.controller.alter_partition(&request, 3, self.now());
        self.append(result.records);
        match result.response.error_code {
            0 => ErrorCode::from_i16(result.response.topics[0].partitions[0].error_code),
            code => ErrorCode::from_i16(code),
        }
    }
}

#[test]
fn first_controller_writes_what_kafka_writes() {
    let cluster = Cluster::new(settings());
    let decoded: Vec<MetadataRecord<'_>> = cluster.log.iter().map(|v| MetadataRecord::decode(v).unwrap()).collect();
    let names: Vec<&str> = decoded.iter().map(MetadataRecord::name).collect();
    let mut expected = vec!["BeginTransactionRecord"];
    expected.extend(["FeatureLevelRecord"; 6]);
    expected.extend(["ConfigRecord", "EndTransactionRecord"]);
    assert_eq!(names, expected);
    assert_eq!(cluster.committed.config(&ConfigResource::all_brokers(), "min.insync.replicas"), Some("1"));
    assert!(cluster.committed.elr_is_on() && !cluster.committed.in_transaction);

    let (_, second) = Controller::activate(cluster.committed, settings(), 1, Now::default());
    assert!(second.is_empty(), "a second controller has nothing to set up");
}

#[test]
fn topic_is_spread_and_a_dead_leader_is_replaced() {
    let mut cluster = Cluster::of_three();
    assert_eq!(cluster.create("peter-test01", 1, 3, &[("min.insync.replicas", "2")]), ErrorCode::None);
    let p = cluster.partition("peter-test01");
    assert_eq!(p.replicas.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!((p.leader, p.leader_epoch, p.partition_epoch), (p.replicas[0], 0, 0));
    assert_eq!(p.isr, p.replicas);
    let directories: Vec<Uuid> = p.replicas.iter().map(|r| Uuid([100 + *r as u8; 16])).collect();
    assert_eq!(p.directories, directories, "a broker with one directory has its replicas there");

    cluster.kill(p.leader);
    let after = cluster.partition("peter-test01");
    assert_eq!((after.leader, after.leader_epoch), (p.replicas[1], 1));
    assert_eq!(after.isr, p.replicas[1..]);
    assert!(after.elr.is_empty(), "two of two: nobody needs to be eligible");

    cluster.kill(after.leader);
    let last = cluster.partition("peter-test01");
    assert_eq!((last.leader, &last.isr[..], &last.elr[..]), (p.replicas[2], &p.replicas[2..], &p.replicas[1..2]));

    // It comes back without proof of a clean stop: not eligible any more.
    cluster.start(p.replicas[1], -1);
    assert!(cluster.partition("peter-test01").elr.is_empty());
    assert_eq!(cluster.alter_isr("peter-test01", &[p.replicas[2], p.replicas[1]]), ErrorCode::None);
    assert_eq!(cluster.partition("peter-test01").isr, [p.replicas[2], p.replicas[1]]);
}

#[test]
fn all_brokers_die_and_the_last_leader_leads_again() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 1, 3, &[("min.insync.replicas", "2")]);
    let replicas = cluster.partition("t").replicas;
    for broker in &replicas {
        cluster.kill(*broker);
    }
    let dead = cluster.partition("t");
    assert_eq!((dead.leader, dead.isr.len(), &dead.elr[..]), (NO_LEADER, 0, &sorted(&replicas[1..])[..]));
    assert_eq!(dead.last_known_elr, [replicas[2]], "the last leader is written down");

    // The first one back is not eligible; nothing happens until one that is returns.
    cluster.start(replicas[0], -1);
    assert_eq!(cluster.partition("t").leader, NO_LEADER);
    let epoch = cluster.epoch(replicas[1]);
    cluster.start(replicas[1], epoch);
    let back = cluster.partition("t");
    assert_eq!((back.leader, &back.isr[..], back.is_recovering), (replicas[1], &replicas[1..2], false));
    assert!(back.last_known_elr.is_empty());
}

#[test]
fn killed_all_at_once_under_a_new_controller() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 1, 3, &[("min.insync.replicas", "2")]);
    // kill -9 of all three nodes: the new controller finds everybody unfenced in its image, but new incarnations come.
    let (controller, records) = Controller::activate(cluster.committed.clone(), settings(), 3, cluster.now());
    cluster.controller = controller;
    cluster.append(records);
    for broker in 1..=3 {
        cluster.incarnations += 1;
        let request = Cluster::registration(broker, cluster.incarnations, -1);
        cluster.register(&request).expect("nobody has heard of the old incarnation");
    }
    let p = cluster.partition("t");
    assert_eq!((p.leader, p.isr.len(), p.elr.len(), p.last_known_elr.len()), (NO_LEADER, 0, 0, 1));
    let last = p.last_known_elr[0];
    for broker in [1, 2, 3].iter().filter(|b| **b != last).chain([&last]) {
        assert!(!cluster.heartbeat(*broker, |_| {}).is_fenced);
    }
    let p = cluster.partition("t");
    assert_eq!((p.leader, &p.isr[..], p.is_recovering), (last, &[last][..], true));
    assert_eq!(cluster.alter_isr("t", &[last]), ErrorCode::None);
    assert!(!cluster.partition("t").is_recovering, "the leader says that it has recovered");
}

#[test]
fn sessions_decide_who_may_register() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 3, 3, &[]);
    let other = Cluster::registration(1, 99, -1);
    assert_eq!(cluster.register(&other), Err(ErrorCode::DuplicateBrokerRegistration));
    let same = Cluster::registration(1, 1, -1);
    let epoch = cluster.epoch(1);
    assert_eq!(cluster.register(&same), Ok(epoch), "the same incarnation only amends");
    assert!(!cluster.committed.brokers[&1].fenced);

    cluster.now_ms += 8_999;
    cluster.heartbeat(2, |_| {});
    cluster.heartbeat(3, |_| {});
    cluster.now_ms += 1;
    let records = cluster.controller.tick(cluster.now());
    cluster.append(records);
    assert!(cluster.committed.brokers[&1].fenced && !cluster.committed.brokers[&2].fenced);
    for p in cluster.committed.topic("t").unwrap().partitions.values() {
        assert!(p.leader != 1 && !p.isr.contains(&1));
    }
    assert!(cluster.register(&other).is_ok());
    let stale = BrokerHeartbeatRequest { broker_id: 1, broker_epoch: epoch, ..Default::default() };
    let result = cluster.controller.heartbeat(&stale, 0, cluster.now());
    assert_eq!(result.response.error_code, ErrorCode::StaleBrokerEpoch as i16);

    let mut bad = Cluster::registration(4, 50, -1);
    bad.log_dirs = vec![Uuid([102; 16])];
    assert_eq!(cluster.register(&bad), Err(ErrorCode::InvalidRegistration), "a directory of broker 2");
    let mut old = Cluster::registration(4, 50, -1);
    old.features.retain(|f| f.name != "transaction.version");
    assert_eq!(cluster.register(&old), Err(ErrorCode::UnsupportedVersion));
}

#[test]
fn alter_partition_is_validated() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 1, 3, &[("min.insync.replicas", "2")]);
    let p = cluster.partition("t");
    let [leader, second, third] = p.replicas[..] else { panic!("three replicas") };
    let (e1, e2, e3) = (cluster.epoch(leader), cluster.epoch(second), cluster.epoch(third));
    let data = |r: &mut AlterPartitionRequest| r.topics[0].partitions.remove(0);
    let all = [(leader, e1), (second, e2), (third, e3)];

    assert_eq!(cluster.alter("t", &all, |r, _| r.broker_epoch -= 1), ErrorCode::StaleBrokerEpoch);
    assert_eq!(cluster.alter("t", &all, |r, _| r.topics[0].topic_id = Uuid([9; 16])), ErrorCode::UnknownTopicId);
    let unknown = |r: &mut AlterPartitionRequest, _: &Partition| r.topics[0].partitions[0].partition_index = 1;
    assert_eq!(cluster.alter("t", &all, unknown), ErrorCode::UnknownTopicOrPartition);
    let mut change = |with: fn(&mut alter_partition_request::PartitionData), isr: &[(i32, i64)]| {
        cluster.alter("t", isr, |r, _| {
            let mut partition = data(r);
            with(&mut partition);
            r.topics[0].partitions.push(partition);
        })
    };
    assert_eq!(change(|p| p.leader_epoch += 1, &all), ErrorCode::NotController);
    assert_eq!(change(|p| p.partition_epoch += 1, &all), ErrorCode::NotController);
    assert_eq!(change(|p| p.leader_epoch -= 1, &all), ErrorCode::FencedLeaderEpoch);
    assert_eq!(change(|p| p.partition_epoch -= 1, &all), ErrorCode::InvalidUpdateVersion);
    assert_eq!(change(|p| p.leader_recovery_state = 1, &all[..1]), ErrorCode::InvalidRequest);
    assert_eq!(change(|_| {}, &all[1..]), ErrorCode::InvalidRequest, "without the leader");
    assert_eq!(change(|_| {}, &[all[0], (9, 1)]), ErrorCode::InvalidRequest, "not a replica");
    assert_eq!(change(|_| {}, &[all[0], all[0]]), ErrorCode::InvalidRequest, "twice");
    assert_eq!(change(|_| {}, &[all[0], (second, e2 + 1)]), ErrorCode::IneligibleReplica);
    assert_eq!(change(|_| {}, &all[..2]), ErrorCode::None, "shrink");
    assert_eq!(change(|_| {}, &[all[0], (second, -1), all[2]]), ErrorCode::None, "expand");
    let other = cluster.alter("t", &all, |r, _| (r.broker_id, r.broker_epoch) = (second, e2));
    assert_eq!(other, ErrorCode::InvalidRequest, "not the leader");

    cluster.kill(third);
    assert_eq!(cluster.alter("t", &all, |_, _| {}), ErrorCode::IneligibleReplica, "fenced");
    let shrunk = cluster.partition("t");
    assert_eq!((shrunk.leader, shrunk.leader_epoch), (leader, 0), "the leader stayed and its epoch with it");
    assert_eq!(cluster.alter_isr("t", &[leader]), ErrorCode::None);
    assert_eq!(cluster.partition("t").elr, [second], "one of two: who leaves stays eligible");
}

#[test]
fn controlled_shutdown_moves_leaders_and_waits_for_all() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 6, 3, &[]);
    let leaving = cluster.committed.topic("t").unwrap().partitions[&0].leader;
    let others: Vec<i32> = (1..=3).filter(|b| *b != leaving).collect();
    let answer = cluster.heartbeat(leaving, |r| r.want_shut_down = true);
    assert!(!answer.should_shut_down && !answer.is_fenced);
    assert!(cluster.committed.brokers[&leaving].in_controlled_shutdown);
    for p in cluster.committed.topic("t").unwrap().partitions.values() {
        assert!(p.leader != leaving && !p.isr.contains(&leaving));
    }
    assert!(!cluster.heartbeat(leaving, |r| r.want_shut_down = true).should_shut_down, "nobody has seen it yet");
    cluster.heartbeat(others[0], |_| {});
    assert!(!cluster.heartbeat(leaving, |r| r.want_shut_down = true).should_shut_down, "one has not");
    cluster.heartbeat(others[1], |_| {});
    assert!(cluster.heartbeat(leaving, |r| r.want_shut_down = true).should_shut_down);
    assert!(cluster.committed.brokers[&leaving].fenced);

    // It may come back at once: it said itself that it goes.
    let epoch = cluster.epoch(leaving);
    cluster.start(leaving, epoch);
    assert!(!cluster.committed.brokers[&leaving].in_controlled_shutdown);
}

#[test]
fn preferred_leaders_come_back_by_request_and_by_time() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 1, 3, &[]);
    let preferred = cluster.partition("t").replicas[0];
    let elect = |cluster: &mut Cluster| {
        let topic_partitions = vec![elect_leaders_request::TopicPartitions {
            topic: "t".into(),
            partitions: vec![0],
            ..Default::default()
        }];
        let request = ElectLeadersRequest { topic_partitions: Some(topic_partitions), ..Default::default() };
        let result = cluster.controller.elect_leaders(&request);
        cluster.append(result.records);
        ErrorCode::from_i16(result.response.replica_election_results[0].partition_result[0].error_code)
    };
    assert_eq!(elect(&mut cluster), ErrorCode::ElectionNotNeeded);
    cluster.kill(preferred);
    assert_eq!(elect(&mut cluster), ErrorCode::PreferredLeaderNotAvailable);
    cluster.start(preferred, -1);
    let leader = cluster.partition("t").leader;
    let isr: Vec<i32> = cluster.partition("t").isr.iter().copied().chain([preferred]).collect();
    assert_eq!(cluster.alter_isr("t", &isr), ErrorCode::None);
    assert_eq!(cluster.partition("t").leader, leader);
    assert_eq!(elect(&mut cluster), ErrorCode::None);
    assert_eq!(cluster.partition("t").leader, preferred);

    cluster.kill(preferred);
    cluster.start(preferred, -1);
    cluster.alter_isr("t", &isr);
    assert_ne!(cluster.partition("t").leader, preferred);
    for _ in 0..70 {
        cluster.now_ms += 5_000;
        for broker in 1..=3 {
            cluster.heartbeat(broker, |_| {});
        }
        assert!(cluster.controller.next_deadline() <= cluster.now_ms, "a NoOp is due at the latest");
        let records = cluster.controller.tick(cluster.now());
        assert!(!records.is_empty());
        cluster.append(records);
    }
    assert_eq!(cluster.partition("t").leader, preferred, "rebalanced within five minutes");
}

#[test]
fn unclean_election_only_where_the_topic_allows_it() {
    for unclean in ["false", "true"] {
        let mut cluster = Cluster::of_three();
        cluster.create("t", 1, 2, &[("unclean.leader.election.enable", unclean)]);
        let [leader, follower] = cluster.partition("t").replicas[..] else { panic!("two replicas") };
        cluster.alter_isr("t", &[leader]);
        cluster.kill(leader);
        let p = cluster.partition("t");
        if unclean == "true" {
            assert_eq!((p.leader, &p.isr[..], p.is_recovering), (follower, &[follower][..], true));
        } else {
            assert_eq!((p.leader, p.isr.len(), &p.elr[..]), (NO_LEADER, 0, &[leader][..]));
        }
    }
}

#[test]
fn placement_spreads_leaders_and_racks() {
    let mut cluster = Cluster::new(settings());
    for (broker, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")] {
        let mut request = Cluster::registration(broker, broker as u8, -1);
        request.rack = Some(rack.into());
        cluster.register(&request).unwrap();
        cluster.heartbeat(broker, |_| {});
    }
    assert_eq!(cluster.create("t", 60, 3, &[]), ErrorCode::None);
    let rack = |broker: &i32| cluster.committed.brokers[broker].rack.clone();
    let mut leaders = [0; 6];
    let partitions = &cluster.committed.topic("t").unwrap().partitions;
    assert_eq!(partitions.len(), 60);
    for p in partitions.values() {
        assert_eq!(p.replicas.iter().map(rack).collect::<BTreeSet<_>>().len(), 3, "{:?}", p.replicas);
        leaders[p.leader as usize] += 1;
    }
    assert!(leaders[1..].iter().all(|n| *n >= 5), "leaders are spread over racks, not brokers: {leaders:?}");

    // Many partitions on few brokers, some fenced: the placer must neither loop nor repeat a broker.
    cluster.kill(5);
    cluster.kill(4);
    for factor in 1..=5 {
        assert_eq!(cluster.create(&format!("f{factor}"), 100, factor, &[]), ErrorCode::None);
        for p in cluster.committed.topic(&format!("f{factor}")).unwrap().partitions.values() {
            assert_eq!(p.replicas.iter().collect::<BTreeSet<_>>().len(), factor as usize);
            assert!(![4, 5].contains(&p.leader));
        }
    }
}

#[test]
fn bad_topics_are_refused_one_by_one() {
    let mut cluster = Cluster::of_three();
    assert_eq!(cluster.create("a.b", 1, 3, &[]), ErrorCode::None);
    for (name, partitions, factor, expected) in [
        ("", 1, 1, ErrorCode::InvalidTopicException),
        ("..", 1, 1, ErrorCode::InvalidTopicException),
        ("bad name!", 1, 1, ErrorCode::InvalidTopicException),
        ("a_b", 1, 1, ErrorCode::InvalidTopicException),
        ("a.b", 1, 1, ErrorCode::TopicAlreadyExists),
        ("__cluster_metadata", 1, 1, ErrorCode::InvalidRequest),
        ("t", 0, 1, ErrorCode::InvalidPartitions),
        ("t", -2, 1, ErrorCode::InvalidPartitions),
        ("t", 1, 0, ErrorCode::InvalidReplicationFactor),
        ("t", 1, 4, ErrorCode::InvalidReplicationFactor),
        ("t", 10_001, 1, ErrorCode::PolicyViolation),
        ("t", i32::MAX, 1, ErrorCode::PolicyViolation),
    ] {
        assert_eq!(cluster.create(name, partitions, factor, &[]), expected, "{name} {partitions} {factor}");
    }
    assert_eq!(cluster.create(&"x".repeat(250), 1, 1, &[]), ErrorCode::InvalidTopicException);
    assert_eq!(cluster.create(&"x".repeat(249), 1, 1, &[]), ErrorCode::None);

    let topic = |name: &'static str, assignment: &[&[i32]]| create_topics_request::CreatableTopic {
        name: name.into(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: assignment
            .iter()
            .enumerate()
            .map(|(i, brokers)| create_topics_request::CreatableReplicaAssignment {
                partition_index: i as i32,
                broker_ids: brokers.to_vec(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![
            topic("m1", &[&[2, 1], &[3, 2]]),
            topic("m2", &[&[2, 2]]),
            topic("m3", &[&[2, 9]]),
            topic("m4", &[&[1], &[1, 2]]),
            topic("twice", &[&[1]]),
            topic("twice", &[&[1]]),
        ],
        validate_only: true,
        ..Default::default()
    };
    assert_eq!(cluster.create("t", 1, 1, &[("no.such.config", "1")]), ErrorCode::InvalidConfig);
    assert_eq!(cluster.create("t", 1, 1, &[("retention.ms", "abc")]), ErrorCode::InvalidConfig);
    let result = cluster.controller.create_topics(&request, &mut MutationQuota::unlimited());
    assert!(result.records.is_empty(), "validate only");
    let codes: Vec<(String, i16)> = result.response.topics.iter().map(|t| (t.name.to_string(), t.error_code)).collect();
    let bad = ErrorCode::InvalidReplicaAssignment as i16;
    let invalid = ErrorCode::InvalidRequest as i16;
    let expected = [("m1", 0), ("m2", bad), ("m3", bad), ("m4", bad), ("twice", invalid)];
    assert_eq!(codes, expected.map(|(name, code)| (name.to_owned(), code)));
}

#[test]
fn partitions_are_added_and_topics_deleted() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 1, 2, &[]);
    let add = |cluster: &mut Cluster, name: &'static str, count| {
        let topic = create_partitions_request::CreatePartitionsTopic {
            name: name.into(),
            count,
            assignments: None,
            ..Default::default()
        };
        let request = CreatePartitionsRequest { topics: vec![topic], ..Default::default() };
        let result = cluster.controller.create_partitions(&request, &mut MutationQuota::unlimited());
        cluster.append(result.records);
        let entry = &result.response.results[0];
        (ErrorCode::from_i16(entry.error_code), entry.error_message.as_deref().unwrap_or("").to_owned())
    };
    assert_eq!(add(&mut cluster, "t", 4).0, ErrorCode::None);
    assert!(cluster.committed.topic("t").unwrap().partitions.values().all(|p| p.replicas.len() == 2));
    let fewer = "The topic t currently has 4 partition(s); 2 would not be an increase.".to_owned();
    assert_eq!(add(&mut cluster, "t", 2), (ErrorCode::InvalidPartitions, fewer));
    assert_eq!(add(&mut cluster, "nope", 2).0, ErrorCode::UnknownTopicOrPartition);

    let state = |name: Option<&'static str>, topic_id| delete_topics_request::DeleteTopicState {
        name: name.map(Into::into),
        topic_id,
        ..Default::default()
    };
    let id = cluster.committed.topic_ids["t"];
    let mut delete = |topics: Vec<delete_topics_request::DeleteTopicState<'static>>| {
        let request = DeleteTopicsRequest { topics, ..Default::default() };
        let result = cluster.controller.delete_topics(&request, 6, &mut MutationQuota::unlimited());
        cluster.append(result.records);
        result.response.responses.iter().map(|r| ErrorCode::from_i16(r.error_code)).collect::<Vec<_>>()
    };
    assert_eq!(delete(vec![state(Some("t"), id)]), [ErrorCode::InvalidRequest]);
    let twice = vec![state(Some("t"), Uuid::ZERO), state(Some("t"), Uuid::ZERO)];
    assert_eq!(delete(twice), [ErrorCode::InvalidRequest]);
    assert_eq!(delete(vec![state(None, Uuid([3; 16]))]), [ErrorCode::UnknownTopicId]);
    assert_eq!(delete(vec![state(Some("u"), Uuid::ZERO)]), [ErrorCode::UnknownTopicOrPartition]);
    assert_eq!(delete(vec![state(None, id)]), [ErrorCode::None]);
    assert_eq!(delete(vec![state(None, id)]), [ErrorCode::UnknownTopicId]);
}

#[test]
fn min_isr_changes_clear_the_eligible_replicas() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 1, 3, &[("min.insync.replicas", "2")]);
    let [leader, second, third] = cluster.partition("t").replicas[..] else { panic!("three replicas") };
    cluster.kill(third);
    cluster.alter_isr("t", &[leader]);
    assert_eq!(cluster.partition("t").elr, [second]);
    let set = |cluster: &mut Cluster, kind, name: &'static str, operation, value: Option<&'static str>| {
        let config = incremental_alter_configs_request::AlterableConfig {
            name: "min.insync.replicas".into(),
            config_operation: operation,
            value: value.map(Into::into),
            ..Default::default()
        };
        let resource = incremental_alter_configs_request::AlterConfigsResource {
            resource_type: kind,
            resource_name: name.into(),
            configs: vec![config],
            ..Default::default()
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
        let result = cluster.controller.incremental_alter_configs(&request, true);
        cluster.append(result.records);
        ErrorCode::from_i16(result.response.responses[0].error_code)
    };
    assert_eq!(set(&mut cluster, 2, "t", 0, Some("1")), ErrorCode::None);
    assert!(cluster.partition("t").elr.is_empty());
    assert_eq!(set(&mut cluster, 2, "nope", 0, Some("1")), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(set(&mut cluster, 4, "1", 0, Some("1")), ErrorCode::InvalidConfig, "not per broker with ELR");
    assert_eq!(set(&mut cluster, 4, "", 1, None), ErrorCode::InvalidConfig, "not without a cluster-wide value");
    assert_eq!(set(&mut cluster, 4, "", 0, Some("2")), ErrorCode::None);
}

#[test]
fn failed_directory_and_producer_ids() {
    let mut cluster = Cluster::of_three();
    cluster.create("t", 3, 3, &[]);
    cluster.heartbeat(2, |r| r.offline_log_dirs = vec![Uuid([102; 16])]);
    for p in cluster.committed.topic("t").unwrap().partitions.values() {
        assert!(p.leader != 2 && !p.isr.contains(&2));
    }
    let broker_epoch = cluster.epoch(1);
    let request = AllocateProducerIdsRequest { broker_id: 1, broker_epoch, ..Default::default() };
    let blocks: Vec<i64> = (0..2)
        .map(|_| {
            let result = cluster.controller.allocate_producer_ids(&request);
            cluster.append(result.records);
            result.response.producer_id_start
        })
        .collect();
    assert_eq!(blocks, [0, 1000]);
}

/// Anything may come in any order; after every step the log leads to the controller's image and its invariants hold.
#[test]
fn random_histories_keep_the_invariants() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut cluster = Cluster::of_three();
        for _ in 0..250 {
            cluster.random_step(&mut rng);
        }
    }
}

impl Cluster {
    fn random_step(&mut self, rng: &mut fastrand::Rng) {
        let broker = rng.i32(1..=4);
        let registered = self.committed.brokers.contains_key(&broker);
        self.now_ms += rng.i64(0..1_500);
        let topics: Vec<String> = self.committed.topic_ids.keys().cloned().collect();
        match rng.u8(0..17) {
            0 | 1 => {
                self.incarnations = self.incarnations.wrapping_add(1);
                let previous = if registered && rng.bool() { self.epoch(broker) } else { -1 };
                let request = Self::registration(broker, self.incarnations, previous);
                let _ = self.register(&request);
            }
            2..=5 if registered => {
                let (fence, shut_down) = (rng.u8(0..12) == 0, rng.u8(0..8) == 0);
                let behind = rng.i64(0..3);
                let offline = if rng.u8(0..20) == 0 { vec![Uuid([100 + broker as u8; 16])] } else { Vec::new() };
                self.heartbeat(broker, |r| {
                    (r.want_fence, r.want_shut_down, r.offline_log_dirs) = (fence, shut_down, offline);
                    r.current_metadata_offset -= behind;
                });
            }
            6 => self.kill(broker),
            7 if rng.u8(0..6) == 0 => {
                let request = UnregisterBrokerRequest { broker_id: broker, ..Default::default() };
                let result = self.controller.unregister_broker(&request);
                self.append(result.records);
            }
            8 => {
                let minimum = ["1", "2", "3"][rng.usize(..3)];
                let unclean = ["true", "false"][rng.usize(..2)];
                let configs = [("min.insync.replicas", minimum), ("unclean.leader.election.enable", unclean)];
                self.create(&format!("t{}", rng.u8(0..4)), rng.i32(0..4), rng.i16(0..5), &configs);
            }
            9 if rng.u8(0..4) == 0 && !topics.is_empty() => {
                let name = topics[rng.usize(..topics.len())].clone();
                let request = DeleteTopicsRequest { topic_names: vec![name.into()], ..Default::default() };
                let result = self.controller.delete_topics(&request, 5, &mut MutationQuota::unlimited());
                self.append(result.records);
            }
            10 | 11 if !topics.is_empty() => {
                let name = &topics[rng.usize(..topics.len())];
                let p = self.partition(name);
                let mut isr: Vec<(i32, i64)> = p.replicas.iter().map(|r| (*r, -1)).collect();
                isr.retain(|_| rng.u8(0..4) > 0);
                self.alter(name, &isr, |_, _| {});
            }
            12 => {
                let election_type = rng.i8(0..2);
                let request = ElectLeadersRequest { election_type, topic_partitions: None, ..Default::default() };
                let result = self.controller.elect_leaders(&request);
                self.append(result.records);
            }
            14 | 15 if !topics.is_empty() => {
                let name = topics[rng.usize(..topics.len())].clone();
                let mut replicas: Vec<i32> = (1..=4).filter(|_| rng.bool()).collect();
                rng.shuffle(&mut replicas);
                // One in four takes back what is under way.
                let _ = self.reassign(&name, (rng.u8(0..4) > 0).then_some(&replicas));
            }
            13 if rng.u8(0..5) == 0 => {
                let (controller, records) =
                    Controller::activate(self.committed.clone(), settings(), rng.u64(..), self.now());
                self.controller = controller;
                self.append(records);
            }
            _ => {
                let records = self.controller.tick(self.now());
                self.append(records);
            }
        }
    }
}

fn sorted(ids: &[i32]) -> Vec<i32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}
