//! A group from its first member to its last, over the answers that its members get.

use protocol::error::ErrorCode;
use protocol::messages::join_group_request::JoinGroupRequestProtocol;
use protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use protocol::messages::*;
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::*;

mod assignors;
mod consumer;
mod facts;
mod seeded;

use facts::TestFacts;

struct Bench {
    shard: GroupShard,
    facts: TestFacts,
    now: Now,
    token: u64,
    /// Everything that was committed, for a second coordinator to replay.
    log: Vec<Record>,
    answers: Vec<(Token, Response)>,
}

fn bench() -> Bench {
    bench_with(GroupConfig { initial_rebalance_delay_ms: 100, ..GroupConfig::default() })
}

fn bench_with(config: GroupConfig) -> Bench {
    let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let facts = TestFacts::default();
    Bench { shard: GroupShard::new(config, 1, now), facts, now, token: 0, log: Vec::new(), answers: Vec::new() }
}

impl Bench {
    /// Commits what is written at once, and collects the answers.
    fn settle(&mut self) {
        loop {
            self.shard.check();
            let outputs = self.shard.take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Respond(token, response) => self.answers.push((token, response)),
                    Output::WriteInTransaction(..) => unreachable!("nobody here has a transaction"),
                    Output::Write(ticket, records) => {
                        self.log.extend(records);
                        self.shard.on_committed(ticket, self.now);
                    }
                }
            }
        }
    }

    fn pass(&mut self, ms: i64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.shard.tick(&self.facts, self.now);
        self.settle();
    }

    /// The coordinator dies; another one reads what was committed.
    fn fail_over(&mut self) {
        let mut next = GroupShard::new(self.shard.config, 2, self.now);
        for record in &self.log {
            next.replay(&record.key, record.value.as_deref(), self.now).expect("own records");
        }
        next.on_loaded(&self.facts, self.now);
        next.check();
        self.shard = next;
    }

    fn answer(&mut self, token: Token) -> Option<Response> {
        let at = self.answers.iter().position(|(t, _)| *t == token)?;
        Some(self.answers.remove(at).1)
    }

    fn join(&mut self, member: &str, instance: Option<&str>) -> Token {
        let protocol =
            JoinGroupRequestProtocol { name: "range".into(), metadata: vec![1].into(), ..Default::default() };
        let request = JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 5_000,
            member_id: member.to_owned().into(),
            group_instance_id: instance.map(|i| i.to_owned().into()),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        self.token += 1;
        let client = ClientInfo { client_id: "c".to_owned(), client_host: "/127.0.0.1".to_owned() };
        self.shard.join(&request, 9, client, &self.facts, Token(self.token), self.now);
        self.settle();
        Token(self.token)
    }

    fn joined(&mut self, token: Token) -> JoinGroupResponse<'static> {
        match self.answer(token) {
            Some(Response::Join(response)) => response,
            other => panic!("no answer to a join: {other:?}"),
        }
    }

    /// As [`Bench::join_anew`], without the checks after each step.
    fn join_quickly(&mut self) -> (String, Token) {
        let protocol =
            JoinGroupRequestProtocol { name: "range".into(), metadata: vec![1].into(), ..Default::default() };
        let mut request = JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 5_000,
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        let mut last = Token(0);
        for _ in 0..2 {
            self.token += 1;
            last = Token(self.token);
            self.shard.join(&request, 9, ClientInfo::default(), &self.facts, last, self.now);
            for output in self.shard.take_outputs() {
                let Output::Respond(_, Response::Join(told)) = output else { panic!("only ids are told") };
                request.member_id = told.member_id;
            }
        }
        (request.member_id.into_owned(), last)
    }

    /// A new member takes its id and joins with it.
    fn join_anew(&mut self) -> (String, Token) {
        let token = self.join("", None);
        let told = self.joined(token);
        assert_eq!(told.error_code, ErrorCode::MemberIdRequired as i16);
        let id = told.member_id.into_owned();
        let token = self.join(&id, None);
        (id, token)
    }

    fn sync(&mut self, member: &str, generation: i32, assignments: &[(&str, u8)]) -> Token {
        let assignments = assignments.iter().map(|(id, byte)| SyncGroupRequestAssignment {
            member_id: (*id).to_owned().into(),
            assignment: vec![*byte].into(),
            ..Default::default()
        });
        let request = SyncGroupRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member.to_owned().into(),
            assignments: assignments.collect(),
            ..Default::default()
        };
        self.token += 1;
        self.shard.sync(&request, &self.facts, Token(self.token), self.now);
        self.settle();
        Token(self.token)
    }

    fn synced(&mut self, token: Token) -> (ErrorCode, Vec<u8>) {
        match self.answer(token) {
            Some(Response::Sync(response)) => (ErrorCode::from_i16(response.error_code), response.assignment.to_vec()),
            other => panic!("no answer to a sync: {other:?}"),
        }
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member.to_owned().into(),
            ..Default::default()
        };
        self.shard.heartbeat(&request, self.now)
    }

    fn commit(&mut self, member: &str, generation: i32, offset: i64) -> ErrorCode {
        let partition =
            OffsetCommitRequestPartition { partition_index: 0, committed_offset: offset, ..Default::default() };
        let topic = OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: generation,
            member_id: member.to_owned().into(),
            topics: vec![topic],
            ..Default::default()
        };
        self.token += 1;
        let topics = [OffsetTopic { name: "t".to_owned(), id: Uuid::ZERO, partitions: 9, error: None }];
        self.shard.commit_offsets(&request, 9, &topics, Token(self.token), self.now);
        self.settle();
        match self.answer(Token(self.token)) {
            Some(Response::OffsetCommit(r)) => ErrorCode::from_i16(r.topics[0].partitions[0].error_code),
            other => panic!("no answer to a commit: {other:?}"),
        }
    }
}

#[test]
fn two_members_share_a_group_and_one_dies() {
    let mut b = bench();
    let (one, join_one) = b.join_anew();
    assert!(b.answer(join_one).is_none(), "an empty group waits for more members");
    let (two, join_two) = b.join_anew();
    b.pass(100);
    b.pass(100);
    let (first, second) = (b.joined(join_one), b.joined(join_two));
    assert_eq!((first.generation_id, second.generation_id), (1, 1));
    assert_eq!(first.leader, one);
    assert_eq!((first.members.len(), second.members.len()), (2, 0), "only the leader hears of the others");
    let waiting = b.sync(&two, 1, &[]);
    assert!(b.answer(waiting).is_none(), "the leader has not assigned yet");
    let leader = b.sync(&one, 1, &[(&one, 1), (&two, 2)]);
    assert_eq!(b.synced(leader), (ErrorCode::None, vec![1]));
    assert_eq!(b.synced(waiting), (ErrorCode::None, vec![2]));
    assert_eq!(b.commit(&two, 1, 42), ErrorCode::None);
    assert_eq!(b.commit(&two, 0, 43), ErrorCode::IllegalGeneration);
    assert_eq!(b.commit("nobody", 1, 43), ErrorCode::UnknownMemberId);
    // The second falls silent: the first is told to join again and is alone.
    for _ in 0..4 {
        b.pass(3_000);
        b.heartbeat(&one, 1);
    }
    assert_eq!(b.heartbeat(&one, 1), ErrorCode::RebalanceInProgress);
    assert_eq!(b.heartbeat(&two, 1), ErrorCode::UnknownMemberId);
    let again = b.join(&one, None);
    let alone = b.joined(again);
    assert_eq!((alone.generation_id, alone.members.len()), (2, 1));
    assert_eq!(b.shard.offset("g", "t", 0).map(|o| o.offset), Some(42));
}

#[test]
fn another_coordinator_goes_on_where_this_one_stopped() {
    let mut b = bench();
    let (one, join_one) = b.join_anew();
    b.pass(100);
    b.pass(100);
    assert_eq!(b.joined(join_one).generation_id, 1);
    let sync = b.sync(&one, 1, &[(&one, 7)]);
    assert_eq!(b.synced(sync).0, ErrorCode::None);
    assert_eq!(b.commit(&one, 1, 5), ErrorCode::None);
    b.fail_over();
    let mut next = b;
    assert_eq!(next.heartbeat(&one, 1), ErrorCode::None);
    assert_eq!(next.shard.offset("g", "t", 0).map(|o| o.offset), Some(5));
    let sync = next.sync(&one, 1, &[]);
    assert_eq!(next.synced(sync), (ErrorCode::None, vec![7]));
    next.shard.delete("g", Token(900));
    next.settle();
    assert_eq!(next.answer(Token(900)), Some(Response::Deleted(ErrorCode::NonEmptyGroup)));
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut b = bench();
    let join = b.join("", Some("instance"));
    b.pass(100);
    b.pass(100);
    let joined = b.joined(join);
    let old = joined.member_id.clone().into_owned();
    let sync = b.sync(&old, 1, &[(&old, 9)]);
    assert_eq!(b.synced(sync).0, ErrorCode::None);
    let join = b.join("", Some("instance"));
    let back = b.joined(join);
    assert_eq!((back.error_code, back.generation_id, back.skip_assignment), (0, 1, true));
    let new = back.member_id.into_owned();
    assert_ne!(new, old);
    assert_eq!(b.heartbeat(&old, 1), ErrorCode::UnknownMemberId);
    let sync = b.sync(&new, 1, &[]);
    assert_eq!(b.synced(sync), (ErrorCode::None, vec![9]));
}

#[test]
fn groups_go_where_kafka_puts_them() {
    // Utils.abs(groupId.hashCode) % 50 of a running broker.
    assert_eq!(partition_of("", 50), 0);
    assert_eq!(partition_of("console-consumer", 50), java_hash("console-consumer") % 50);
    assert_eq!(partition_of("polygenelubricants", 50), 0, "a hash of Integer.MIN_VALUE counts as 0");
}

#[test]
fn a_rebalance_of_ten_thousand_members_asks_nobody_twice() {
    let mut b = bench();
    let joins: Vec<(String, Token)> = (0..10_000).map(|_| b.join_quickly()).collect();
    b.pass(100);
    b.pass(100);
    let leader = b.joined(joins[0].1);
    assert_eq!(leader.generation_id, 1);
    let all = leader.members.len() + usize::from(leader.members.is_empty());
    assert!(all == 10_000 || leader.leader != joins[0].0, "the leader hears of all");
    assert_eq!(b.answers.len(), 9_999, "everybody is answered once");
    // Nothing is looked at again before the first session can be over.
    assert!(b.shard.next_deadline() > b.now.mono_ms + 4_000);
}

fn java_hash(text: &str) -> i32 {
    let hash = text.bytes().fold(0i64, |hash, b| (hash * 31 + i64::from(b)) & 0xffff_ffff) as u32 as i32;
    hash.abs()
}
