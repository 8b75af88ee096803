//! Groups of the consumer protocol, over the answers that their members get.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use protocol::messages::consumer_protocol_subscription::TopicPartition;
use protocol::messages::join_group_request::JoinGroupRequestProtocol;
use protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use protocol::messages::*;
use protocol::wire::{Uuid, Writer};

use super::facts::{TestFacts, TestTopic};
use super::{Bench, bench, bench_with};
use crate::facts::metadata_hash;
use crate::*;

type Owned = BTreeSet<(Uuid, i32)>;

/// A client of the consumer protocol as the machine sees it: it does what it is told when it is asked to speak.
#[derive(Clone, Debug, Default)]
pub struct Client {
    pub id: String,
    pub epoch: i32,
    pub instance: Option<String>,
    pub topics: Vec<String>,
    pub regex: Option<String>,
    pub owned: Owned,
    /// What the last answer said; partitions not in it are to be given up.
    pub told: Owned,
    pub says_all: bool,
}

impl Client {
    pub fn new(id: &str, topics: &[&str]) -> Self {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Self { id: id.to_owned(), topics, says_all: true, ..Self::default() }
    }

    pub fn request(&self) -> ConsumerGroupHeartbeatRequest<'static> {
        let mut owned: Vec<TopicPartitions> = Vec::new();
        for (topic_id, partition) in &self.owned {
            match owned.last_mut().filter(|last| last.topic_id == *topic_id) {
                Some(last) => last.partitions.push(*partition),
                None => owned.push(TopicPartitions {
                    topic_id: *topic_id,
                    partitions: vec![*partition],
                    ..Default::default()
                }),
            }
        }
        let all = self.says_all || self.epoch == 0;
        ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: self.id.clone().into(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone().map(Into::into),
            rebalance_timeout_ms: if all { 5_000 } else { -1 },
            subscribed_topic_names: all.then(|| self.topics.iter().map(|topic| topic.clone().into()).collect()),
            subscribed_topic_regex: self.regex.clone().filter(|_| all).map(Into::into),
            topic_partitions: Some(owned),
            ..Default::default()
        }
    }

    /// Gives up and takes over as told.
    pub fn follow(&mut self) {
        self.owned = self.told.clone();
    }

    pub fn hear(&mut self, response: &ConsumerGroupHeartbeatResponse<'_>) {
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {}
            _ => {
                self.epoch = 0;
                self.owned.clear();
                self.told.clear();
                return;
            }
        }
        self.epoch = response.member_epoch;
        if let Some(assignment) = &response.assignment {
            let topics = assignment.topic_partitions.iter();
            self.told = topics.flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p))).collect();
        }
    }
}

impl Bench {
    pub fn send(&mut self, request: &ConsumerGroupHeartbeatRequest<'_>) -> ConsumerGroupHeartbeatResponse<'static> {
        self.token += 1;
        let token = Token(self.token);
        let client = ClientInfo { client_id: "c".to_owned(), client_host: "/127.0.0.1".to_owned() };
        self.shard.consumer_heartbeat(request, 1, client, &self.facts, token, self.now);
        self.settle();
        match self.answer(token) {
            Some(Response::ConsumerHeartbeat(response)) => response,
            other => panic!("no answer to a heartbeat: {other:?}"),
        }
    }

    fn beat(&mut self, client: &mut Client) -> ErrorCode {
        let response = self.send(&client.request());
        client.hear(&response);
        ErrorCode::from_i16(response.error_code)
    }

    /// Heartbeats of all until nothing moves, each doing at once what it is told.
    fn balance(&mut self, clients: &mut [&mut Client]) {
        for _ in 0..8 {
            self.pass(1_100);
            for client in clients.iter_mut() {
                self.beat(client);
                client.follow();
            }
        }
    }

    fn leave_with(&mut self, client: &Client, epoch: i32) -> ErrorCode {
        let request = ConsumerGroupHeartbeatRequest { member_epoch: epoch, ..client.request() };
        ErrorCode::from_i16(self.send(&request).error_code)
    }

    fn state(&self) -> String {
        let described = self.shard.describe_consumer("g", &self.facts);
        described.map(|group| group.group_state.into_owned()).unwrap_or_default()
    }

    fn commit_in(&mut self, client: &Client, epoch: i32, partition: i32) -> ErrorCode {
        let (id, name) = self.facts.topics.iter().next().map(|(id, t)| (*id, t.name.clone())).expect("a topic");
        let partitions = vec![OffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: 7,
            ..Default::default()
        }];
        let topic = OffsetCommitRequestTopic { name: name.clone().into(), partitions, ..Default::default() };
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: epoch,
            member_id: client.id.clone().into(),
            topics: vec![topic],
            ..Default::default()
        };
        self.token += 1;
        let topics = [OffsetTopic { name, id, partitions: 9, error: None }];
        self.shard.commit_offsets(&request, 9, &topics, Token(self.token), self.now);
        self.settle();
        match self.answer(Token(self.token)) {
            Some(Response::OffsetCommit(r)) => ErrorCode::from_i16(r.topics[0].partitions[0].error_code),
            other => panic!("no answer to a commit: {other:?}"),
        }
    }
}

#[test]
fn a_partition_moves_when_its_owner_has_let_go() {
    let mut b = bench();
    b.facts.put(1, "t", 4);
    let (mut one, mut two) = (Client::new("one", &["t"]), Client::new("two", &["t"]));
    assert_eq!(b.beat(&mut one), ErrorCode::None);
    assert_eq!((one.epoch, one.told.len()), (2, 4), "the first has all");
    one.follow();
    b.pass(1_000);
    assert_eq!(b.beat(&mut two), ErrorCode::None);
    assert_eq!((two.epoch, two.told.len()), (3, 0), "nothing is free yet");
    assert_eq!(b.state(), "Reconciling");
    b.beat(&mut one);
    assert_eq!((one.epoch, one.told.len()), (2, 2), "it must give up two, and is not further before it has");
    b.beat(&mut two);
    assert_eq!(two.told.len(), 0, "they are still in use");
    one.follow();
    b.beat(&mut one);
    assert_eq!(one.epoch, 3);
    b.beat(&mut two);
    assert_eq!(two.told.len(), 2);
    two.follow();
    b.beat(&mut two);
    assert_eq!(b.state(), "Stable");
    // The old epoch counts for partitions that were the member's then, and not for others.
    let (kept, new) = (one.owned.first().expect("two").1, two.owned.first().expect("two").1);
    assert_eq!(b.commit_in(&one, 2, kept), ErrorCode::None);
    assert_eq!(b.commit_in(&two, 2, new), ErrorCode::StaleMemberEpoch);
    assert_eq!(b.commit_in(&two, 4, new), ErrorCode::StaleMemberEpoch);
    assert_eq!(b.commit_in(&two, 3, new), ErrorCode::None);
    assert_eq!(b.commit_in(&Client::new("nobody", &[]), 3, new), ErrorCode::UnknownMemberId);
    // Silence ends a session; what the member had goes to the other.
    for _ in 0..10 {
        b.pass(5_000);
        b.beat(&mut one);
        one.follow();
    }
    assert_eq!(one.owned.len(), 4);
    assert_eq!(b.beat(&mut two), ErrorCode::UnknownMemberId);
}

#[test]
fn who_does_not_give_up_in_time_is_fenced() {
    let mut b = bench();
    b.facts.put(1, "t", 2);
    let (mut one, mut two) = (Client::new("one", &["t"]), Client::new("two", &["t"]));
    b.beat(&mut one);
    one.follow();
    b.pass(1_000);
    b.beat(&mut two);
    b.beat(&mut one);
    // It keeps all that it has, and keeps talking.
    b.pass(4_000);
    assert_eq!(b.beat(&mut one), ErrorCode::None);
    b.pass(1_500);
    assert_eq!(b.beat(&mut one), ErrorCode::UnknownMemberId);
    b.balance(&mut [&mut two]);
    assert_eq!(two.owned.len(), 2);
}

#[test]
fn another_coordinator_goes_on_with_the_same_epochs() {
    let mut b = bench();
    b.facts.put(1, "t", 3);
    let (mut one, mut two) = (Client::new("one", &["t"]), Client::new("two", &["t"]));
    b.balance(&mut [&mut one, &mut two]);
    let (epochs, owned) = ((one.epoch, two.epoch), (one.owned.clone(), two.owned.clone()));
    b.fail_over();
    b.balance(&mut [&mut one, &mut two]);
    assert_eq!((one.epoch, two.epoch), epochs);
    assert_eq!((one.owned.clone(), two.owned.clone()), owned);
    one.epoch += 1;
    assert_eq!(b.beat(&mut one), ErrorCode::FencedMemberEpoch);
}

#[test]
fn a_static_member_may_go_for_a_while() {
    let mut b = bench();
    b.facts.put(1, "t", 4);
    let mut one = Client { instance: Some("i".to_owned()), ..Client::new("one", &["t"]) };
    let mut two = Client::new("two", &["t"]);
    b.balance(&mut [&mut one, &mut two]);
    let mut again = Client { instance: Some("i".to_owned()), ..Client::new("one-again", &["t"]) };
    assert_eq!(b.beat(&mut again), ErrorCode::UnreleasedInstanceId);
    assert_eq!(b.leave_with(&one, -2), ErrorCode::None);
    b.pass(3_000);
    b.beat(&mut two);
    assert_eq!(two.told.len(), 2, "its partitions are kept for it");
    assert_eq!(b.beat(&mut again), ErrorCode::None);
    assert_eq!((again.epoch, again.told.clone()), (two.epoch, one.owned.clone()), "and nothing is assigned anew");
    assert_eq!(b.beat(&mut one), ErrorCode::FencedInstanceId);
    again.follow();
    assert_eq!(b.leave_with(&again, -1), ErrorCode::None);
    b.balance(&mut [&mut two]);
    assert_eq!(two.owned.len(), 4);
    assert_eq!(b.leave_with(&two, -1), ErrorCode::None);
    assert_eq!(b.state(), "Empty");
}

#[test]
fn an_expression_finds_topics_that_come_later() {
    let mut b = bench();
    b.facts.put(1, "orders-eu", 2);
    b.facts.put(2, "payments", 2);
    let mut one = Client { regex: Some("orders-.*".to_owned()), ..Client::new("one", &[]) };
    b.balance(&mut [&mut one]);
    assert_eq!(one.owned.len(), 2);
    b.facts.put(3, "orders-us", 3);
    b.shard.on_topics_changed(true, &b.facts);
    b.pass(10_000);
    b.balance(&mut [&mut one]);
    assert_eq!(one.owned.len(), 5);
    let mut bad = Client { regex: Some("orders-(".to_owned()), ..Client::new("bad", &[]) };
    assert_eq!(b.beat(&mut bad), ErrorCode::InvalidRegularExpression);
    b.fail_over();
    b.balance(&mut [&mut one]);
    assert_eq!(one.owned.len(), 5);
    one.regex = Some(String::new());
    one.topics = vec!["payments".to_owned()];
    b.balance(&mut [&mut one]);
    assert_eq!(one.owned.iter().map(|(topic, _)| *topic).collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn more_partitions_are_assigned_and_a_deleted_topic_is_forgotten() {
    let mut b = bench();
    let topic = b.facts.put(1, "t", 2);
    let mut one = Client::new("one", &["t"]);
    b.balance(&mut [&mut one]);
    b.facts.put(1, "t", 5);
    b.shard.on_topics_changed(false, &b.facts);
    b.balance(&mut [&mut one]);
    assert_eq!(one.owned.len(), 5);
    assert_eq!(b.commit_in(&one, one.epoch, 4), ErrorCode::None);
    b.facts.topics.remove(&topic);
    b.shard.on_topics_changed(false, &b.facts);
    b.shard.on_topics_deleted(&BTreeMap::from([("t".to_owned(), topic)]));
    b.balance(&mut [&mut one]);
    assert_eq!(one.owned.len(), 0);
    assert_eq!(b.shard.offset("g", "t", 4), None);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let config = GroupConfig { consumer_size_max: 1, ..GroupConfig::default() };
    let mut b = bench_with(config);
    b.facts.put(1, "t", 1);
    let one = Client::new("one", &["t"]);
    let with = |change: &dyn Fn(&mut ConsumerGroupHeartbeatRequest<'static>)| {
        let mut request = one.request();
        change(&mut request);
        request
    };
    for (request, expected) in [
        (with(&|r| r.member_id = "".into()), ErrorCode::InvalidRequest),
        (with(&|r| r.group_id = " ".into()), ErrorCode::InvalidRequest),
        (with(&|r| r.rebalance_timeout_ms = -1), ErrorCode::InvalidRequest),
        (with(&|r| r.topic_partitions = None), ErrorCode::InvalidRequest),
        (with(&|r| r.subscribed_topic_names = None), ErrorCode::InvalidRequest),
        (with(&|r| r.member_epoch = -2), ErrorCode::InvalidRequest),
        (with(&|r| r.member_epoch = -3), ErrorCode::InvalidRequest),
        (with(&|r| r.instance_id = Some("".into())), ErrorCode::InvalidRequest),
        (with(&|r| r.server_assignor = Some("sticky".into())), ErrorCode::UnsupportedAssignor),
        (with(&|r| r.member_epoch = 3), ErrorCode::GroupIdNotFound),
        (with(&|r| r.member_epoch = -1), ErrorCode::GroupIdNotFound),
        (with(&|_| {}), ErrorCode::None),
        (with(&|r| r.member_id = "two".into()), ErrorCode::GroupMaxSizeReached),
    ] {
        assert_eq!(ErrorCode::from_i16(b.send(&request).error_code), expected, "{request:?}");
    }
}

/// What a Java consumer puts into JoinGroup.
fn subscription(topics: &[&str], owned: &Owned, facts: &TestFacts) -> Vec<u8> {
    let mut by_topic: Vec<TopicPartition<'_>> = Vec::new();
    for (id, partition) in owned {
        let name = facts.topics.get(id).map(|topic| topic.name.as_str()).unwrap_or_default();
        match by_topic.last_mut().filter(|last| last.topic == name) {
            Some(last) => last.partitions.push(*partition),
            None => by_topic.push(TopicPartition { topic: name.into(), partitions: vec![*partition] }),
        }
    }
    let message = ConsumerProtocolSubscription {
        topics: topics.iter().map(|topic| (*topic).into()).collect(),
        owned_partitions: by_topic,
        ..Default::default()
    };
    let mut w = Writer::new();
    w.i16(3);
    protocol::codec::Message::encode(&message, &mut w, 3);
    w.finish_inline().expect("small")
}

impl Bench {
    fn join_classic(&mut self, member: &str, instance: Option<&str>, owned: &Owned) -> Token {
        let metadata = subscription(&["t"], owned, &self.facts);
        let protocol = JoinGroupRequestProtocol {
            name: "cooperative-sticky".into(),
            metadata: metadata.into(),
            ..Default::default()
        };
        let request = JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 5_000,
            member_id: member.to_owned().into(),
            group_instance_id: instance.map(|instance| instance.to_owned().into()),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        self.token += 1;
        let token = Token(self.token);
        self.shard.join(&request, 9, ClientInfo::default(), &self.facts, token, self.now);
        self.settle();
        token
    }

    fn assigned(&mut self, member: &str, generation: i32) -> Owned {
        let token = self.sync(member, generation, &[]);
        let (code, bytes) = self.synced(token);
        assert_eq!(code, ErrorCode::None);
        let assignment: ConsumerProtocolAssignment<'_> =
            protocol::codec::decode_all(&bytes[2..], 3).expect("an assignment");
        let topics = assignment.assigned_partitions.iter();
        topics.flat_map(|t| t.partitions.iter().map(|p| (Uuid([1; 16]), *p))).collect()
    }
}

/// An assignment of topic `t` as a classic leader writes it.
fn classic_assignment(partitions: &[i32]) -> Vec<u8> {
    let topic = consumer_protocol_assignment::TopicPartition { topic: "t".into(), partitions: partitions.to_vec() };
    let message = ConsumerProtocolAssignment { assigned_partitions: vec![topic], ..Default::default() };
    let mut w = Writer::new();
    w.i16(3);
    protocol::codec::Message::encode(&message, &mut w, 3);
    w.finish_inline().expect("small")
}

#[test]
fn a_classic_group_becomes_a_consumer_group_and_back() {
    let mut b = bench();
    b.facts.put(1, "t", 4);
    let token = b.join_classic("", None, &Owned::new());
    let classic = b.joined(token).member_id.into_owned();
    let token = b.join_classic(&classic, None, &Owned::new());
    b.pass(100);
    b.pass(100);
    assert_eq!(b.joined(token).generation_id, 1);
    let assignment = sync_group_request::SyncGroupRequestAssignment {
        member_id: classic.clone().into(),
        assignment: classic_assignment(&[0, 1, 2, 3]).into(),
        ..Default::default()
    };
    let request = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: classic.clone().into(),
        assignments: vec![assignment],
        ..Default::default()
    };
    b.shard.sync(&request, &b.facts, Token(9_999), b.now);
    b.settle();
    b.answers.clear();
    let mut owned: Owned = (0..4).map(|partition| (Uuid([1; 16]), partition)).collect();

    // The first member of the new protocol: the group changes, and the old member is told to join again.
    let mut new = Client::new("new", &["t"]);
    assert_eq!(b.beat(&mut new), ErrorCode::None);
    assert_eq!(new.told.len(), 0, "the classic member still has everything");
    assert!(b.shard.is_consumer_group("g"));
    assert_eq!(b.heartbeat(&classic, 1), ErrorCode::RebalanceInProgress);
    b.fail_over();
    let token = b.join_classic(&classic, None, &owned);
    let joined = b.joined(token);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1), "first it gives up");
    owned = b.assigned(&classic, joined.generation_id);
    assert_eq!(owned.len(), 2);
    assert_eq!(b.heartbeat(&classic, 1), ErrorCode::RebalanceInProgress);
    let token = b.join_classic(&classic, None, &owned);
    let joined = b.joined(token);
    assert_eq!(joined.generation_id, new.epoch);
    assert_eq!(b.assigned(&classic, joined.generation_id), owned);
    assert_eq!(b.heartbeat(&classic, joined.generation_id), ErrorCode::None);
    b.beat(&mut new);
    assert_eq!(new.told.len(), 2);
    new.follow();

    // The last member of the new protocol goes.
    assert_eq!(b.leave_with(&new, -1), ErrorCode::None);
    assert!(!b.shard.is_consumer_group("g"));
    let generation = joined.generation_id;
    assert_eq!(b.heartbeat(&classic, generation), ErrorCode::RebalanceInProgress);
    b.fail_over();
    let token = b.join_classic(&classic, None, &owned);
    let joined = b.joined(token);
    assert_eq!((joined.error_code, joined.members.len()), (0, 1), "it leads a classic group again");
    assert!(joined.generation_id > generation);
}

#[test]
fn a_classic_group_that_still_gathers_its_members_becomes_a_consumer_group_too() {
    let mut b = bench();
    b.facts.put(1, "t", 4);
    let token = b.join_classic("", None, &Owned::new());
    let classic = b.joined(token).member_id.into_owned();
    let token = b.join_classic(&classic, None, &Owned::new());
    assert!(b.answer(token).is_none(), "it waits for others");
    let mut new = Client::new("new", &["t"]);
    assert_eq!(b.beat(&mut new), ErrorCode::None);
    assert_eq!(b.joined(token).error_code, ErrorCode::RebalanceInProgress as i16);
    let token = b.join_classic(&classic, None, &Owned::new());
    let joined = b.joined(token);
    assert_eq!((joined.error_code, joined.generation_id), (0, new.epoch));
    new.follow();
    assert_eq!(b.assigned(&classic, joined.generation_id).len() + new.owned.len(), 4);
}

#[test]
fn a_group_of_another_protocol_does_not_become_a_consumer_group() {
    let mut b = bench_with(GroupConfig { migration: MigrationPolicy::Downgrade, ..GroupConfig::default() });
    b.facts.put(1, "t", 4);
    let join = b.join("", Some("instance"));
    assert!(b.answer(join).is_none());
    let mut new = Client::new("new", &["t"]);
    assert_eq!(b.beat(&mut new), ErrorCode::GroupIdNotFound);
    assert!(!b.shard.is_consumer_group("g"));
}

#[test]
fn the_hash_of_the_metadata_is_kafkas() {
    let mut facts = TestFacts::default();
    let id = Uuid::parse("ZC06D1kVR0aMNAyLwTnyrg").expect("an id");
    let topics = BTreeSet::from(["grp-in", "gone"]);
    for (racks, expected) in [
        // What Kafka's own hash function makes of it.
        (vec![], 4_236_187_285_840_829_697),
        (vec!["rack1"], -236_068_191_682_380_814),
        (vec!["rack-2", "rack-1", "rack-3"], -2_263_500_492_145_820_980),
    ] {
        let racks = racks.into_iter().map(str::to_owned).collect();
        facts.topics.insert(id, TestTopic { name: "grp-in".to_owned(), partitions: 1, racks });
        assert_eq!(metadata_hash(&topics, &facts), expected);
    }
    assert_eq!(metadata_hash(&BTreeSet::from(["gone"]), &facts), 0);
}
