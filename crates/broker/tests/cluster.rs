//! Whole clusters of nodes in one process, over a network without delay: the paths that every client takes.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use broker::{CleanId, ConnId, Effect, FlushId, Frame, LinkId, Node};
use metadata::config::NodeConfig;
use protocol::api::ApiKey;
use protocol::codec::{Message, Request};
use protocol::error::ErrorCode;
use protocol::header::{decode_response, encode_request};
use protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use protocol::messages::delete_topics_request::DeleteTopicState;
use protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use protocol::messages::*;
use protocol::records::{BatchBuilder, BatchSpec, Batches, Scratch};
use protocol::time::Now;
use protocol::wire::{Records, Uuid};
use storage::mem::MemDisk;
use storage::mem::Op;
use storage::{CleanWork, Disk, MetaProperties};

#[path = "cluster/transactions.rs"]
mod transactions;

const CLUSTER: &str = "wR7lI2ZkRAChZZZZZZZZZQ";

struct Member {
    node: Option<Node>,
    disk: MemDisk,
    config: Arc<NodeConfig>,
}

struct Cluster {
    members: BTreeMap<i32, Member>,
    now: Now,
    /// Both ends of a connection between nodes: (dialling node, link) and (listening node, conn).
    wires: Vec<((i32, LinkId), (i32, ConnId))>,
    conn_next: u64,
    queue: VecDeque<Event>,
    answers: BTreeMap<ConnId, VecDeque<Vec<u8>>>,
    clients: BTreeMap<i32, ConnId>,
    /// Nodes that stopped because they had to, where a test expects it.
    fatal: Option<Vec<(i32, String)>>,
}

enum Event {
    Up(i32, LinkId),
    Down(i32, LinkId, bool),
    Request(i32, ConnId, Vec<u8>),
    Answer(i32, LinkId, Vec<u8>),
    Flushed(i32, FlushId, std::io::Result<()>),
    Cleaned(i32, CleanId, Box<CleanWork>),
}

fn properties(id: i32, size: i32, dirs: &[&str]) -> String {
    let voters: Vec<String> = (1..=size).map(|n| format!("{n}@host{n}:9093")).collect();
    format!(
        "process.roles=broker,controller\nnode.id={id}\nlisteners=PLAINTEXT://host{id}:9092,CONTROLLER://host{id}:9093\n\
         controller.listener.names=CONTROLLER\ncontroller.quorum.voters={}\nlog.dirs={}\nmin.insync.replicas=1\n\
         offsets.topic.num.partitions=3\ntransaction.state.log.num.partitions=3\nlog.cleaner.backoff.ms=500\n",
        voters.join(","),
        dirs.join(",")
    )
}

impl Cluster {
    fn new(size: i32) -> Self {
        Self::with_dirs(size, &["/data"])
    }

    fn with_dirs(size: i32, dirs: &[&str]) -> Self {
        let now = Now { mono_ms: 1_000_000, wall_ms: 1_700_000_000_000 };
        let mut cluster = Cluster {
            members: BTreeMap::new(),
            now,
            wires: Vec::new(),
            conn_next: 1,
            queue: VecDeque::new(),
            answers: BTreeMap::new(),
            clients: BTreeMap::new(),
            fatal: None,
        };
        for id in 1..=size {
            let disk = MemDisk::default();
            for (number, dir) in dirs.iter().enumerate() {
                disk.create_dir_all(Path::new(dir)).expect("a memory disk takes directories");
                let mut bytes = [id as u8; 16];
                bytes[0] = 1 + number as u8;
                let meta = MetaProperties {
                    version: 1,
                    cluster_id: Some(CLUSTER.to_owned()),
                    node_id: Some(id),
                    directory_id: Some(Uuid::from_random(bytes)),
                };
                meta.write(&disk, Path::new(dir)).expect("a memory disk takes files");
            }
            let (config, _) = NodeConfig::from_text(&properties(id, size, dirs), "test.properties", &[])
                .expect("valid configuration");
            cluster.members.insert(id, Member { node: None, disk, config: Arc::new(config) });
            cluster.start(id);
        }
        cluster
    }

    fn start(&mut self, id: i32) {
        let member = self.members.get_mut(&id).expect("a member");
        let seed = id as u64 + self.now.mono_ms as u64;
        let node =
            Node::start(member.config.clone(), Arc::new(member.disk.clone()), seed, self.now).expect("the node starts");
        member.node = Some(node);
    }

    /// As SIGKILL: connections break, the page cache stays.
    fn kill(&mut self, id: i32) {
        self.members.get_mut(&id).expect("a member").node = None;
        for ((dialler, link), (listener, conn)) in std::mem::take(&mut self.wires) {
            if dialler == id {
                let now = self.now;
                if let Some(node) = self.node(listener) {
                    node.closed(conn, now);
                }
            } else if listener == id {
                self.queue.push_back(Event::Down(dialler, link, false));
            } else {
                self.wires.push(((dialler, link), (listener, conn)));
            }
        }
        self.clients.remove(&id);
    }

    fn node(&mut self, id: i32) -> Option<&mut Node> {
        self.members.get_mut(&id)?.node.as_mut()
    }

    fn ids(&self) -> Vec<i32> {
        self.members.iter().filter(|(_, m)| m.node.is_some()).map(|(id, _)| *id).collect()
    }

    fn run(&mut self, ms: i64) {
        let end = self.now.mono_ms + ms;
        loop {
            self.settle();
            let next = self.ids().iter().map(|id| self.members[id].node.as_ref().unwrap().next_deadline()).min();
            let next = next.unwrap_or(i64::MAX).max(self.now.mono_ms + 1).min(end);
            if self.now.mono_ms >= end {
                return;
            }
            self.now.wall_ms += next - self.now.mono_ms;
            self.now.mono_ms = next;
        }
    }

    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the nodes never come to rest");
            let now = self.now;
            let mut busy = false;
            while let Some(event) = self.queue.pop_front() {
                busy = true;
                self.deliver(event);
            }
            for id in self.ids() {
                let node = self.node(id).expect("listed");
                node.turn(now);
                let effects = node.take_effects();
                busy |= !effects.is_empty();
                for effect in effects {
                    self.carry_out(id, effect);
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn deliver(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Up(id, link) => self.node(id).map(|n| n.link_up(link, now)),
            Event::Down(id, link, refused) => self.node(id).map(|n| n.link_down(link, refused, now)),
            Event::Request(id, conn, mut frame) => self.node(id).map(|n| n.frame(conn, &mut frame, now)),
            Event::Answer(id, link, mut frame) => self.node(id).map(|n| n.link_frame(link, &mut frame, now)),
            Event::Flushed(id, flush, result) => self.node(id).map(|n| n.flushed(flush, result, now)),
            Event::Cleaned(id, clean, mut work) => {
                let result = work.run(&mut |_| {});
                self.node(id).map(|n| n.cleaned(clean, work, result, now))
            }
        };
    }

    fn carry_out(&mut self, id: i32, effect: Effect) {
        match effect {
            Effect::Respond { conn, frame } => {
                let bytes = assemble(frame);
                match self.wires.iter().find(|(_, to)| *to == (id, conn)) {
                    Some(((dialler, link), _)) => {
                        self.queue.push_back(Event::Answer(*dialler, *link, bytes[4..].to_vec()))
                    }
                    None => self.answers.entry(conn).or_default().push_back(bytes),
                }
            }
            Effect::Close { conn, reason } => {
                if let Some(at) = self.wires.iter().position(|(_, to)| *to == (id, conn)) {
                    let ((dialler, link), _) = self.wires.remove(at);
                    self.queue.push_back(Event::Down(dialler, link, false));
                } else {
                    panic!("a client's connection was closed: {reason}");
                }
            }
            Effect::Connect { link, host, port } => {
                let target: i32 = host.trim_start_matches("host").parse().expect("a host of this cluster");
                let conn = ConnId(self.conn_next);
                self.conn_next += 1;
                let (listener, now) = (usize::from(port == 9093), self.now);
                match self.node(target) {
                    Some(node) => {
                        node.accepted(conn, listener, IpAddr::from([127, 0, 0, 1]), now);
                        self.wires.push(((id, link), (target, conn)));
                        self.queue.push_back(Event::Up(id, link));
                    }
                    None => self.queue.push_back(Event::Down(id, link, true)),
                }
            }
            Effect::Send { link, frame } => {
                if let Some((_, (target, conn))) = self.wires.iter().find(|(from, _)| *from == (id, link)) {
                    self.queue.push_back(Event::Request(*target, *conn, assemble(frame)[4..].to_vec()));
                }
            }
            Effect::Disconnect { link } => {
                if let Some(at) = self.wires.iter().position(|(from, _)| *from == (id, link)) {
                    let (_, (target, conn)) = self.wires.remove(at);
                    let now = self.now;
                    if let Some(node) = self.node(target) {
                        node.closed(conn, now);
                    }
                }
            }
            Effect::Flush { id: flush, work } => {
                let result = work.run();
                self.queue.push_back(Event::Flushed(id, flush, result));
            }
            Effect::Clean { id: clean, work, .. } => self.queue.push_back(Event::Cleaned(id, clean, work)),
            Effect::Stopped => self.members.get_mut(&id).expect("a member").node = None,
            Effect::Fatal { message } => match &mut self.fatal {
                Some(fatal) => {
                    fatal.push((id, message));
                    self.kill(id);
                }
                None => panic!("node {id}: {message}"),
            },
        }
    }

    fn send<M: Message>(&mut self, id: i32, key: ApiKey, version: i16, message: &M) -> ConnId {
        let conn = match self.clients.get(&id) {
            Some(conn) => *conn,
            None => {
                let conn = ConnId(self.conn_next);
                self.conn_next += 1;
                let now = self.now;
                self.node(id).expect("alive").accepted(conn, 0, IpAddr::from([127, 0, 0, 1]), now);
                self.clients.insert(id, conn);
                conn
            }
        };
        let frame = encode_request(key, version, 7, Some("test"), message).expect("encodes");
        self.queue.push_back(Event::Request(id, conn, frame[4..].to_vec()));
        conn
    }

    /// Sends a request and runs until its answer is there.
    fn ask<R: Request>(&mut self, id: i32, key: ApiKey, version: i16, message: &R) -> Vec<u8> {
        let conn = self.send(id, key, version, message);
        for _ in 0..400 {
            if let Some(answer) = self.answers.get_mut(&conn).and_then(VecDeque::pop_front) {
                return answer[4..].to_vec();
            }
            self.run(25);
        }
        panic!("no answer to {} of node {id}", key.name());
    }

    fn create_topic(&mut self, id: i32, name: &str, partitions: i32, factor: i16) -> Uuid {
        self.create_topic_with(id, name, partitions, factor, &[])
    }

    fn create_topic_with(
        &mut self,
        id: i32,
        name: &str,
        partitions: i32,
        factor: i16,
        configs: &[(&'static str, &'static str)],
    ) -> Uuid {
        let config = |(name, value): &(&'static str, &'static str)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
            ..Default::default()
        };
        let topic = CreatableTopic {
            name: name.to_owned().into(),
            num_partitions: partitions,
            replication_factor: factor,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        let bytes = self.ask(id, ApiKey::CreateTopics, 7, &request);
        let (_, response) = decode_response::<CreateTopicsRequest<'_>>(&bytes, 7).expect("decodes");
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0]);
        response.topics[0].topic_id
    }

    fn produce(&mut self, id: i32, topic: Uuid, value: &str) -> (ErrorCode, i64) {
        self.produce_any(id, (topic, 0), None, value)
    }

    fn produce_with(&mut self, id: i32, topic: Uuid, key: Option<&str>, value: &str) -> (ErrorCode, i64) {
        self.produce_any(id, (topic, 0), key, value)
    }

    fn produce_to(&mut self, id: i32, to: (Uuid, i32), value: &str) -> (ErrorCode, i64) {
        self.produce_any(id, to, None, value)
    }

    fn produce_any(
        &mut self,
        id: i32,
        (topic, index): (Uuid, i32),
        key: Option<&str>,
        value: &str,
    ) -> (ErrorCode, i64) {
        let mut builder = BatchBuilder::new(BatchSpec::default());
        builder.append(self.now.wall_ms, key.map(str::as_bytes), Some(value.as_bytes()), &[]);
        let records = Some(Records::Inline(builder.build().into()));
        let data = PartitionProduceData { index, records, ..Default::default() };
        let topic = TopicProduceData { topic_id: topic, partition_data: vec![data], ..Default::default() };
        let request = ProduceRequest { acks: -1, timeout_ms: 5_000, topic_data: vec![topic], ..Default::default() };
        let bytes = self.ask(id, ApiKey::Produce, 13, &request);
        let (_, response) = decode_response::<ProduceRequest<'_>>(&bytes, 13).expect("decodes");
        let part = &response.responses[0].partition_responses[0];
        (ErrorCode::from_i16(part.error_code), part.base_offset)
    }

    fn fetch(&mut self, id: i32, topic: Uuid, offset: i64) -> (ErrorCode, Vec<String>) {
        let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
        let topic = FetchTopic { topic_id: topic, partitions: vec![partition], ..Default::default() };
        let request = FetchRequest {
            max_wait_ms: 100,
            min_bytes: 1,
            max_bytes: 1 << 20,
            session_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let bytes = self.ask(id, ApiKey::Fetch, 17, &request);
        let (_, response) = decode_response::<FetchRequest<'_>>(&bytes, 17).expect("decodes");
        let part = &response.responses[0].partitions[0];
        let mut values = Vec::new();
        let mut scratch = Scratch::default();
        for batch in Batches::new(part.records.as_ref().map_or(&[][..], |r| r.bytes())) {
            for record in batch.expect("a batch").records(&mut scratch).expect("records") {
                values.push(String::from_utf8_lossy(record.expect("a record").value.unwrap_or_default()).into_owned());
            }
        }
        (ErrorCode::from_i16(part.error_code), values)
    }

    /// Sets quotas of a user, a client id or both; nothing of it must be refused.
    fn alter_quotas(
        &mut self,
        id: i32,
        entity: &[(&'static str, Option<&'static str>)],
        key: &'static str,
        value: f64,
    ) {
        use alter_client_quotas_request::{EntityData, EntryData, OpData};
        let part = |(kind, name): &(&'static str, Option<&'static str>)| EntityData {
            entity_type: (*kind).into(),
            entity_name: name.map(Into::into),
            ..Default::default()
        };
        let op = OpData { key: key.into(), value, remove: value == 0.0, ..Default::default() };
        let entry = EntryData { entity: entity.iter().map(part).collect(), ops: vec![op], ..Default::default() };
        let request = AlterClientQuotasRequest { entries: vec![entry], ..Default::default() };
        let bytes = self.ask(id, ApiKey::AlterClientQuotas, 1, &request);
        let (_, response) = decode_response::<AlterClientQuotasRequest<'_>>(&bytes, 1).expect("decodes");
        assert_eq!(response.entries[0].error_code, 0, "{:?}", response.entries[0].error_message);
    }

    fn may_read(&self, id: i32) -> bool {
        self.members[&id].node.as_ref().expect("alive").may_read(self.clients[&id])
    }

    /// Low watermark and error of partition 0.
    fn delete_records(&mut self, id: i32, topic: &str, offset: i64) -> (ErrorCode, i64) {
        let partition = DeleteRecordsPartition { partition_index: 0, offset, ..Default::default() };
        let topic = DeleteRecordsTopic { name: topic.into(), partitions: vec![partition], ..Default::default() };
        let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 3_000, ..Default::default() };
        let bytes = self.ask(id, ApiKey::DeleteRecords, 2, &request);
        let (_, response) = decode_response::<DeleteRecordsRequest<'_>>(&bytes, 2).expect("decodes");
        let part = &response.topics[0].partitions[0];
        (ErrorCode::from_i16(part.error_code), part.low_watermark)
    }

    fn log_start(&self, id: i32) -> i64 {
        self.members[&id].node.as_ref().expect("alive").status().broker.expect("a broker").partitions[0].log_start
    }

    fn is_ready(&self) -> bool {
        self.members.values().filter_map(|m| m.node.as_ref()).all(|n| n.status().is_ready())
    }

    fn run_until_ready(&mut self) {
        for _ in 0..400 {
            if self.is_ready() {
                return;
            }
            self.run(25);
        }
        let all: Vec<_> = self.members.values().filter_map(|m| m.node.as_ref()).map(|n| n.status()).collect();
        panic!("not ready: {all:#?}");
    }

    fn leader(&self, topic: Uuid) -> i32 {
        let node = self.members.values().find_map(|m| m.node.as_ref()).expect("someone lives");
        node.image().partition(topic, 0).expect("the partition is there").leader
    }
}

/// Puts the file regions where they belong. The length bytes stay in front.
fn assemble(frame: Frame) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.bytes.len());
    let mut at = 0;
    for (splice, region) in frame.splices.iter().zip(&frame.regions) {
        out.extend_from_slice(&frame.bytes[at..splice.at]);
        at = splice.at;
        let mut bytes = vec![0; region.len as usize];
        region.file.read_at(&mut bytes, region.at).expect("a region can be read");
        out.extend_from_slice(&bytes);
    }
    out.extend_from_slice(&frame.bytes[at..]);
    out
}

#[test]
fn a_producer_over_its_quota_is_answered_and_then_rests() {
    let mut cluster = Cluster::new(1);
    cluster.run(3_000);
    let topic = cluster.create_topic(1, "limited", 1, 1);
    assert_eq!(cluster.produce(1, topic, &"x".repeat(2_000)).0, ErrorCode::None);
    assert!(cluster.may_read(1), "no quota, no rest");
    cluster.alter_quotas(1, &[("client-id", None)], "producer_byte_rate", 100.0);
    cluster.run(100);
    // Some 2,000 bytes at once, of 1,000 that ten windows allow.
    let before = cluster.now.mono_ms;
    assert_eq!(cluster.produce(1, topic, &"x".repeat(2_000)).0, ErrorCode::None);
    assert!(cluster.now.mono_ms - before < 1_000, "the answer does not wait");
    assert!(!cluster.may_read(1));
    cluster.run(9_000);
    assert!(!cluster.may_read(1));
    cluster.run(4_000);
    assert!(cluster.may_read(1));
    // A quota of this very client is more specific, and without one nobody rests.
    cluster.alter_quotas(1, &[("user", Some("ANONYMOUS")), ("client-id", Some("test"))], "producer_byte_rate", 1e9);
    assert_eq!(cluster.produce(1, topic, &"x".repeat(5_000)).0, ErrorCode::None);
    assert!(cluster.may_read(1));
}

#[test]
fn a_consumer_over_its_quota_gets_its_records_and_then_rests() {
    let mut cluster = Cluster::new(1);
    cluster.run(3_000);
    let topic = cluster.create_topic(1, "limited", 1, 1);
    for _ in 0..4 {
        assert_eq!(cluster.produce(1, topic, &"x".repeat(400)).0, ErrorCode::None);
    }
    cluster.alter_quotas(1, &[("user", None)], "consumer_byte_rate", 100.0);
    cluster.run(100);
    let (code, values) = cluster.fetch(1, topic, 0);
    assert_eq!((code, values.len()), (ErrorCode::None, 2), "no more than ten windows allow");
    let (code, values) = cluster.fetch(1, topic, 2);
    assert_eq!((code, values.len()), (ErrorCode::None, 2));
    assert!(!cluster.may_read(1));
    cluster.run(12_000);
    assert!(cluster.may_read(1));
}

#[test]
fn who_creates_too_many_partitions_is_refused_strictly_or_told_to_wait() {
    let mut cluster = Cluster::new(1);
    cluster.run(3_000);
    // 11 in a burst, one more per second.
    cluster.alter_quotas(1, &[("user", None)], "controller_mutation_rate", 1.0);
    cluster.run(100);
    let mut create = |name: &'static str, version: i16| {
        let topic =
            CreatableTopic { name: name.into(), num_partitions: 20, replication_factor: 1, ..Default::default() };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        let bytes = cluster.ask(1, ApiKey::CreateTopics, version, &request);
        let (_, response) = decode_response::<CreateTopicsRequest<'_>>(&bytes, version).expect("decodes");
        (ErrorCode::from_i16(response.topics[0].error_code), response.throttle_time_ms, cluster.may_read(1))
    };
    assert_eq!(create("a", 7), (ErrorCode::None, 0, true), "a bucket may be overdrawn once");
    let (code, throttle_ms, may_read) = create("b", 7);
    assert_eq!((code, may_read), (ErrorCode::ThrottlingQuotaExceeded, false));
    assert!((8_000..=9_000).contains(&throttle_ms), "{throttle_ms}");
    let (code, throttle_ms, _) = create("b", 5);
    assert_eq!(code, ErrorCode::None, "older versions do not know the error");
    assert!((28_000..=29_000).contains(&throttle_ms), "{throttle_ms}");
}

#[test]
fn one_node_serves() {
    let mut cluster = Cluster::new(1);
    cluster.run_until_ready();
    let topic = cluster.create_topic(1, "t", 1, 1);
    assert_eq!(cluster.produce(1, topic, "a"), (ErrorCode::None, 0));
    assert_eq!(cluster.produce(1, topic, "b"), (ErrorCode::None, 1));
    assert_eq!(cluster.fetch(1, topic, 0), (ErrorCode::None, vec!["a".to_owned(), "b".to_owned()]));
    cluster.kill(1);
    cluster.start(1);
    cluster.run_until_ready();
    assert_eq!(cluster.fetch(1, topic, 1), (ErrorCode::None, vec!["b".to_owned()]));
}

#[test]
fn a_killed_leader_costs_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::new(3);
    cluster.run_until_ready();
    let topic = cluster.create_topic(2, "t", 1, 3);
    cluster.run(100);
    let leader = cluster.leader(topic);
    assert_eq!(cluster.produce(leader, topic, "a"), (ErrorCode::None, 0));
    cluster.kill(leader);
    let before = cluster.now.mono_ms;
    let mut new = leader;
    for _ in 0..500 {
        cluster.run(10);
        new = cluster.leader(topic);
        if new != leader && new >= 0 {
            break;
        }
    }
    assert_ne!(new, leader);
    assert!(cluster.now.mono_ms - before < 1_000, "fail-over took {} ms", cluster.now.mono_ms - before);
    assert_eq!(cluster.produce(new, topic, "b"), (ErrorCode::None, 1));
    assert_eq!(cluster.fetch(new, topic, 0), (ErrorCode::None, vec!["a".to_owned(), "b".to_owned()]));
    cluster.start(leader);
    cluster.run_until_ready();
    for _ in 0..100 {
        cluster.run(100);
        let isr = |c: &Cluster| c.members[&new].node.as_ref().unwrap().image().partition(topic, 0).unwrap().isr.len();
        if isr(&cluster) == 3 {
            return;
        }
    }
    panic!("the ISR is not whole again");
}

#[test]
fn a_broker_that_has_just_started_knows_who_coordinates() {
    let mut cluster = Cluster::new(3);
    cluster.run_until_ready();
    let found = |cluster: &mut Cluster, id| {
        let request = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
        let bytes = cluster.ask(id, ApiKey::FindCoordinator, 6, &request);
        let (_, response) = decode_response::<FindCoordinatorRequest<'_>>(&bytes, 6).expect("decodes");
        (ErrorCode::from_i16(response.coordinators[0].error_code), response.coordinators[0].node_id)
    };
    // The first to ask has the topic created.
    assert_eq!(found(&mut cluster, 1).0, ErrorCode::CoordinatorNotAvailable);
    cluster.run(2_000);
    let (code, coordinator) = found(&mut cluster, 1);
    assert_eq!(code, ErrorCode::None);
    let other = coordinator % 3 + 1;
    cluster.kill(other);
    cluster.start(other);
    assert_eq!(found(&mut cluster, other), (ErrorCode::None, coordinator));
}

#[test]
fn deleted_records_are_gone_on_every_replica_when_the_answer_comes() {
    let mut cluster = Cluster::new(3);
    cluster.run_until_ready();
    let topic = cluster.create_topic(1, "t", 1, 3);
    cluster.run(100);
    let leader = cluster.leader(topic);
    for n in 0..5 {
        assert_eq!(cluster.produce(leader, topic, &n.to_string()), (ErrorCode::None, n));
    }
    assert_eq!(cluster.delete_records(leader, "t", 6), (ErrorCode::OffsetOutOfRange, -1));
    assert_eq!(cluster.delete_records(leader, "nope", 1), (ErrorCode::UnknownTopicOrPartition, -1));
    assert_eq!(cluster.delete_records(leader % 3 + 1, "t", 1), (ErrorCode::NotLeaderOrFollower, -1));
    let before = cluster.now.mono_ms;
    assert_eq!(cluster.delete_records(leader, "t", 3), (ErrorCode::None, 3));
    assert!(cluster.now.mono_ms - before < 1_500, "{} ms", cluster.now.mono_ms - before);
    assert_eq!((1..=3).map(|id| cluster.log_start(id)).collect::<Vec<_>>(), [3, 3, 3]);
    assert_eq!(cluster.fetch(leader, topic, 2).0, ErrorCode::OffsetOutOfRange);
    assert_eq!(cluster.fetch(leader, topic, 3), (ErrorCode::None, vec!["3".to_owned(), "4".to_owned()]));
    // What was deleted stays so, without anything else having happened.
    cluster.run(6_000);
    cluster.kill(leader);
    cluster.start(leader);
    cluster.run_until_ready();
    assert_eq!(cluster.log_start(leader), 3);
    let leader = cluster.leader(topic);
    // A follower that is gone does not hold the request up once it is fenced.
    let follower = leader % 3 + 1;
    cluster.run(1_000);
    cluster.kill(follower);
    assert_eq!(cluster.delete_records(leader, "t", -1), (ErrorCode::None, 5));
}

#[test]
fn a_broker_default_of_a_topic_key_takes_effect_at_once_and_for_that_broker_alone() {
    const BROKER: i8 = 4;
    let mut cluster = Cluster::new(3);
    cluster.run_until_ready();
    let topic = cluster.create_topic(1, "t", 1, 1);
    cluster.run(100);
    let leader = cluster.leader(topic);
    let long = "x".repeat(2_000);
    assert_eq!(cluster.produce(leader, topic, &long), (ErrorCode::None, 0));
    let mut set = |broker: i32, operation: i8, value: Option<&'static str>| {
        let name = "message.max.bytes".into();
        let value_after = value.map_or(1_048_588, |v| v.parse().expect("a number"));
        let value = value.map(Into::into);
        let config = AlterableConfig { name, config_operation: operation, value, ..Default::default() };
        let resource = AlterConfigsResource {
            resource_type: BROKER,
            resource_name: broker.to_string().into(),
            configs: vec![config],
            ..Default::default()
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
        let bytes = cluster.ask(leader, ApiKey::IncrementalAlterConfigs, 1, &request);
        let (_, response) = decode_response::<IncrementalAlterConfigsRequest<'_>>(&bytes, 1).expect("decodes");
        assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0]);
        cluster.run(100);
        let holds = cluster.members[&broker].node.as_ref().expect("alive").config().message_max_bytes;
        assert_eq!(holds, value_after);
        cluster.produce(leader, topic, &long).0
    };
    assert_eq!(set(leader % 3 + 1, 0, Some("1000")), ErrorCode::None);
    assert_eq!(set(leader, 0, Some("1000")), ErrorCode::MessageTooLarge);
    assert_eq!(set(leader, 1, None), ErrorCode::None);
}

#[test]
fn a_compacted_topic_keeps_the_latest_value_of_each_key_on_every_replica() {
    let mut cluster = Cluster::new(3);
    cluster.run_until_ready();
    let configs = [("cleanup.policy", "compact"), ("segment.ms", "1"), ("min.cleanable.dirty.ratio", "0.01")];
    let topic = cluster.create_topic_with(1, "t", 1, 3, &configs);
    cluster.run(100);
    let leader = cluster.leader(topic);
    assert_eq!(cluster.produce(leader, topic, "no key").0, ErrorCode::InvalidRecord);
    for n in 0..12 {
        let key = format!("k{}", n % 3);
        assert_eq!(cluster.produce_with(leader, topic, Some(&key), &n.to_string()), (ErrorCode::None, n));
        cluster.run(50);
    }
    // Longer than log.cleaner.backoff.ms, and the delay until followers know the high watermark.
    cluster.run(2_000);
    let passes = |cluster: &Cluster, id: i32| {
        let status = cluster.members[&id].node.as_ref().expect("alive").status();
        status.broker.expect("a broker").cleaner.passes
    };
    // The last record is in the active segment; the one before it had its key's latest value then.
    let kept = (ErrorCode::None, ["8", "9", "10", "11"].map(str::to_owned).to_vec());
    let mut fetched = (ErrorCode::None, Vec::new());
    while fetched.1.len() < 4 && fetched.0 == ErrorCode::None {
        let from = [0, 9, 10, 11][fetched.1.len()];
        let (code, values) = cluster.fetch(leader, topic, from);
        fetched = (code, fetched.1.into_iter().chain(values).collect());
    }
    assert_eq!(fetched, kept);
    assert!((1..=3).all(|id| passes(&cluster, id) >= 1));
    // A broker that comes back goes on where it was: nothing is dirty.
    cluster.kill(leader);
    cluster.start(leader);
    cluster.run_until_ready();
    cluster.run(2_000);
    assert_eq!(passes(&cluster, leader), 0);
    let leader = cluster.leader(topic);
    assert_eq!(cluster.fetch(leader, topic, 8).1.first().map(String::as_str), Some("8"));
}

impl Cluster {
    fn partition(&self, topic: Uuid, index: i32) -> metadata::image::Partition {
        let node = self.members.values().find_map(|m| m.node.as_ref()).expect("someone lives");
        node.image().partition(topic, index).expect("the partition is there").clone()
    }

    /// Log directories of a node, with their errors and replicas.
    fn log_dirs(&mut self, id: i32) -> BTreeMap<String, (ErrorCode, usize)> {
        let bytes =
            self.ask(id, ApiKey::DescribeLogDirs, 4, &DescribeLogDirsRequest { topics: None, ..Default::default() });
        let (_, response) = decode_response::<DescribeLogDirsRequest<'_>>(&bytes, 4).expect("decodes");
        let of_dir = |dir: &describe_log_dirs_response::DescribeLogDirsResult<'_>| {
            let replicas = dir.topics.iter().map(|t| t.partitions.len()).sum();
            (dir.log_dir.to_string(), (ErrorCode::from_i16(dir.error_code), replicas))
        };
        response.results.iter().map(of_dir).collect()
    }

    /// Produces wherever the leader is by now.
    fn produce_somewhere(&mut self, key: (Uuid, i32), value: &str) -> i64 {
        for _ in 0..100 {
            let leader = self.partition(key.0, key.1).leader;
            if leader >= 0 && self.node(leader).is_some() {
                if let (ErrorCode::None, offset) = self.produce_to(leader, key, value) {
                    return offset;
                }
            }
            self.run(50);
        }
        panic!("nobody takes {value}");
    }

    fn run_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Cluster) -> bool) {
        for _ in 0..400 {
            if is_so(self) {
                return;
            }
            self.run(50);
        }
        panic!("never: {what}");
    }
}

#[test]
fn a_failed_directory_takes_only_itself_offline() {
    let mut cluster = Cluster::with_dirs(3, &["/data", "/more"]);
    cluster.run_until_ready();
    let topic = cluster.create_topic(1, "t", 6, 3);
    cluster.run(500);
    for index in 0..6 {
        cluster.produce_somewhere((topic, index), "before");
    }
    cluster.run(500);
    let more = |id: i32| {
        let mut bytes = [id as u8; 16];
        bytes[0] = 2;
        Uuid::from_random(bytes)
    };
    // A broker that leads partitions in either directory.
    let led = |c: &Cluster, id: i32, in_more: bool| {
        (0..6).find(|index| {
            let p = c.partition(topic, *index);
            p.leader == id && (p.directory_of(id) == Some(more(id))) == in_more
        })
    };
    let found = (1..=3).find_map(|id| Some((id, led(&cluster, id, true)?, led(&cluster, id, false)?)));
    let (id, lost, kept) = found.expect("a broker that leads in both directories");
    for op in [Op::Read, Op::Write, Op::Sync] {
        cluster.members[&id].disk.plant("/more", op, std::io::ErrorKind::Other);
    }
    assert_eq!(cluster.produce_to(id, (topic, lost), "lost").0, ErrorCode::KafkaStorageError);
    // The others go on at once, and the controller moves what was led from there.
    cluster.run_until("the leadership moves", |c| {
        let p = c.partition(topic, lost);
        p.leader != id && p.leader >= 0 && !p.isr.contains(&id)
    });
    assert_eq!(cluster.produce_somewhere((topic, lost), "after"), 1);
    assert_eq!(cluster.produce_to(id, (topic, kept), "after"), (ErrorCode::None, 1));
    assert_eq!(cluster.produce_to(id, (topic, lost), "no").0, ErrorCode::KafkaStorageError);
    let dirs = cluster.log_dirs(id);
    assert_eq!(dirs["/more"], (ErrorCode::KafkaStorageError, 0));
    assert_eq!(dirs["/data"].0, ErrorCode::None);
    let in_data = dirs["/data"].1;

    // Restarted without it: nothing of what was lost is begun anew elsewhere.
    cluster.kill(id);
    cluster.start(id);
    cluster.run_until_ready();
    cluster.run(500);
    let dirs = cluster.log_dirs(id);
    assert_eq!((dirs["/more"], dirs["/data"]), ((ErrorCode::KafkaStorageError, 0), (ErrorCode::None, in_data)));
    assert_eq!(cluster.produce_to(id, (topic, lost), "no").0, ErrorCode::KafkaStorageError);
    // New partitions find their place in what is left.
    let new = cluster.create_topic(1, "new", 2, 3);
    cluster.produce_somewhere((new, 1), "new");

    // Mended, it catches up and counts again.
    cluster.members[&id].disk.heal();
    cluster.kill(id);
    cluster.start(id);
    cluster.run_until_ready();
    cluster.run_until("all replicas are in sync", |c| (0..6).all(|index| c.partition(topic, index).isr.len() == 3));
    assert_eq!(cluster.log_dirs(id)["/more"], (ErrorCode::None, 6 - in_data));
}

#[test]
fn a_new_disk_is_formatted_and_filled() {
    let mut cluster = Cluster::with_dirs(2, &["/data", "/more"]);
    cluster.run_until_ready();
    let topic = cluster.create_topic(1, "t", 4, 2);
    cluster.run(500);
    for index in 0..4 {
        cluster.produce_somewhere((topic, index), "a");
    }
    cluster.run(500);
    cluster.kill(2);
    let disk = cluster.members[&2].disk.clone();
    disk.remove_dir_all(Path::new("/more")).expect("memory");
    disk.create_dir_all(Path::new("/more")).expect("memory");
    cluster.start(2);
    cluster.run_until_ready();
    cluster.run_until("all replicas are in sync", |c| (0..4).all(|index| c.partition(topic, index).isr.len() == 2));
    let dirs = cluster.log_dirs(2);
    assert_eq!(dirs.values().map(|(error, _)| *error).collect::<Vec<_>>(), [ErrorCode::None; 2]);
    assert_eq!(dirs.values().map(|(_, replicas)| replicas).sum::<usize>(), 4);
}

#[test]
fn without_its_last_directory_a_node_stops() {
    let mut cluster = Cluster::with_dirs(3, &["/data", "/more"]);
    cluster.run_until_ready();
    cluster.fatal = Some(Vec::new());
    let topic = cluster.create_topic(1, "t", 1, 3);
    cluster.run(500);
    for dir in ["/data", "/more"] {
        cluster.members[&2].disk.plant(dir, Op::Write, std::io::ErrorKind::Other);
        cluster.members[&2].disk.plant(dir, Op::Sync, std::io::ErrorKind::Other);
    }
    cluster.produce_somewhere((topic, 0), "a");
    cluster.run_until("the node stops", |c| c.node(2).is_none());
    assert_eq!(cluster.fatal.as_ref().map(Vec::len), Some(1), "{:?}", cluster.fatal);
}

#[test]
fn a_full_directory_refuses_appends_until_there_is_room() {
    let mut cluster = Cluster::with_dirs(1, &["/data", "/more"]);
    cluster.run_until_ready();
    let large = cluster.create_topic(1, "large", 2, 1);
    let topic = cluster.create_topic(1, "t", 2, 1);
    cluster.run(500);
    let of_more = |c: &Cluster, topic: Uuid| {
        (0..2).find(|i| c.partition(topic, *i).directory_of(1).is_some_and(|id| id.0[0] == 2)).expect("one of two")
    };
    let (large_part, part) = (of_more(&cluster, large), of_more(&cluster, topic));
    let value = "x".repeat(10_000);
    for _ in 0..10 {
        assert_eq!(cluster.produce_to(1, (large, large_part), &value).0, ErrorCode::None);
    }
    cluster.members[&1].disk.leave_room("/more", 5_000);
    assert_eq!(cluster.produce_to(1, (topic, part), &value).0, ErrorCode::KafkaStorageError);
    assert_eq!(cluster.produce_to(1, (topic, 1 - part), &value), (ErrorCode::None, 0));
    assert_eq!(cluster.produce_to(1, (topic, part), "short"), (ErrorCode::None, 0));
    // It starts as it is, and what is deleted makes room.
    cluster.kill(1);
    cluster.start(1);
    cluster.run_until_ready();
    assert_eq!(cluster.produce_to(1, (topic, part), &value).0, ErrorCode::KafkaStorageError);
    assert_eq!(cluster.log_dirs(1)["/more"].0, ErrorCode::None);
    let doomed = DeleteTopicState { name: Some("large".into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![doomed], timeout_ms: 5_000, ..Default::default() };
    cluster.ask(1, ApiKey::DeleteTopics, 6, &request);
    cluster.run(70_000);
    assert_eq!(cluster.produce_to(1, (topic, part), &value), (ErrorCode::None, 1));
}

/// One disk for everything: clients' records stop before it is full, so that the node lives, starts again, and can be
/// told what to delete.
#[test]
fn a_node_on_a_disk_that_fills_up_can_be_helped() {
    let mut cluster = Cluster::new(1);
    cluster.run_until_ready();
    let topic = cluster.create_topic(1, "t", 1, 1);
    let kept = cluster.create_topic(1, "kept", 1, 1);
    assert_eq!(cluster.produce(1, kept, "a"), (ErrorCode::None, 0));
    cluster.members[&1].disk.leave_room("/", 3_000_000);
    let value = "x".repeat(100_000);
    let taken = (0..100).take_while(|_| cluster.produce(1, topic, &value).0 == ErrorCode::None).count();
    assert!((20..30).contains(&taken), "{taken} of 100 kB");
    assert_eq!(cluster.produce(1, kept, &value).0, ErrorCode::KafkaStorageError);
    cluster.kill(1);
    cluster.start(1);
    cluster.run_until_ready();
    assert_eq!(cluster.fetch(1, kept, 0), (ErrorCode::None, vec!["a".to_owned()]));
    let doomed = DeleteTopicState { name: Some("t".into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![doomed], timeout_ms: 5_000, ..Default::default() };
    cluster.ask(1, ApiKey::DeleteTopics, 6, &request);
    cluster.run(70_000);
    assert_eq!(cluster.produce(1, kept, "b"), (ErrorCode::None, 1));
}
