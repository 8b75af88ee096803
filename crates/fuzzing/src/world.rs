//! Nodes in one process over disks in memory, connected without delay. What they answer each other may be tampered
//! with on the way.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use broker::{CleanId, ConnId, Effect, FlushId, Frame, LinkId, Node};
use metadata::config::NodeConfig;
use protocol::api::ApiKey;
use protocol::codec::Message;
use protocol::header::{decode_response, encode_request};
use protocol::messages::create_topics_request::CreatableTopic;
use protocol::messages::{CreateTopicsRequest, FindCoordinatorRequest};
use protocol::time::Now;
use protocol::wire::Uuid;
use storage::mem::MemDisk;
use storage::{CleanWork, Disk, MetaProperties};

use crate::golden::CLUSTER_ID;

const START: Now = Now { mono_ms: 1_000_000, wall_ms: 1_795_409_260_000 };
const SEED: u64 = 7;
/// A moment in which the nodes never come to rest is one that would never end.
const ROUNDS_MAX: usize = 10_000;

struct Member {
    node: Option<Node>,
    disk: MemDisk,
}

enum Event {
    Up(i32, LinkId),
    Down(i32, LinkId, bool),
    Request(i32, ConnId, Vec<u8>),
    Answer(i32, LinkId, Vec<u8>),
    Flushed(i32, FlushId),
    Cleaned(i32, CleanId, Box<CleanWork>),
}

type Tamper = Box<dyn FnMut(i32, &mut Vec<u8>)>;

pub struct World {
    members: BTreeMap<i32, Member>,
    now: Now,
    /// Both ends of a connection between nodes: (dialling node, link) and (listening node, conn).
    wires: Vec<((i32, LinkId), (i32, ConnId))>,
    conn_next: u64,
    queue: VecDeque<Event>,
    pub answers: VecDeque<(ConnId, Vec<u8>)>,
    pub closed: Vec<ConnId>,
    /// Why nodes stopped.
    pub fatal: Vec<(i32, String)>,
    /// Changes an answer on its way to a node.
    pub tamper: Option<Tamper>,
}

/// What a small node with two topics leaves on its disk when it stops.
pub struct Prototype {
    pub disk: MemDisk,
    pub topic_id: Uuid,
}

pub fn config(id: i32, roles: &str) -> Arc<NodeConfig> {
    let listeners = if roles.contains("controller") {
        format!("PLAINTEXT://host{id}:9092,CONTROLLER://host{id}:9093")
    } else {
        format!("PLAINTEXT://host{id}:9092")
    };
    let text = format!(
        "process.roles={roles}\nnode.id={id}\nlisteners={listeners}\ncontroller.listener.names=CONTROLLER\n\
         controller.quorum.voters=1@host1:9093\nlog.dirs=/data\nmin.insync.replicas=1\n\
         offsets.topic.num.partitions=1\noffsets.topic.replication.factor=1\nlog.index.size.max.bytes=4096\n\
         auto.create.topics.enable=false\n"
    );
    Arc::new(NodeConfig::from_text(&text, "fuzz.properties", &[]).expect("a valid configuration").0)
}

pub fn formatted(id: i32) -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("/data")).expect("memory");
    let meta = MetaProperties {
        version: 1,
        cluster_id: Some(CLUSTER_ID.to_owned()),
        node_id: Some(id),
        directory_id: Some(Uuid::from_random([id as u8 + 1; 16])),
    };
    meta.write(&disk, Path::new("/data")).expect("memory");
    disk
}

pub fn prototype() -> &'static Prototype {
    static MADE: OnceLock<Prototype> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut world = World::new();
        world.start(1, formatted(1), config(1, "broker,controller")).expect("a formatted directory");
        let conn = world.connect(1, 0);
        assert!(world.run_until_ready(), "a node alone is ready");
        let topic = |name: &'static str| CreatableTopic {
            name: name.into(),
            num_partitions: 2,
            replication_factor: 1,
            ..Default::default()
        };
        let request = CreateTopicsRequest {
            topics: vec![topic("t-ver"), topic("t-one")],
            timeout_ms: 9_000,
            ..Default::default()
        };
        world.ask(1, conn, ApiKey::CreateTopics, 7, &request);
        let answer = world.answers.pop_front().expect("an answer").1;
        let created = decode_response::<CreateTopicsRequest<'_>>(&answer[4..], 7).expect("an answer").1;
        let topic_id = created.topics.iter().find(|t| t.name == "t-ver").expect("the topic").topic_id;
        let request = FindCoordinatorRequest { coordinator_keys: vec!["golden-group".into()], ..Default::default() };
        world.ask(1, conn, ApiKey::FindCoordinator, 6, &request);
        world.run(1_000);
        world.stop(1);
        let disk = world.members[&1].disk.copy();
        Prototype { disk, topic_id }
    })
}

impl World {
    pub fn new() -> World {
        World {
            members: BTreeMap::new(),
            now: START,
            wires: Vec::new(),
            conn_next: 1,
            queue: VecDeque::new(),
            answers: VecDeque::new(),
            closed: Vec::new(),
            fatal: Vec::new(),
            tamper: None,
        }
    }

    pub fn start(&mut self, id: i32, disk: MemDisk, config: Arc<NodeConfig>) -> Result<(), broker::StartError> {
        let node = Node::start(config, Arc::new(disk.clone()), SEED + id as u64, self.now)?;
        self.members.insert(id, Member { node: Some(node), disk });
        Ok(())
    }

    fn stop(&mut self, id: i32) {
        let now = self.now;
        self.node(id).expect("alive").shutdown(now);
        for _ in 0..200 {
            self.run(50);
            if self.node(id).is_none() {
                return;
            }
        }
        panic!("the node does not stop");
    }

    pub fn node(&mut self, id: i32) -> Option<&mut Node> {
        self.members.get_mut(&id)?.node.as_mut()
    }

    fn ids(&self) -> Vec<i32> {
        self.members.iter().filter(|(_, m)| m.node.is_some()).map(|(id, _)| *id).collect()
    }

    /// A client's connection to the listener of that number.
    pub fn connect(&mut self, id: i32, listener: usize) -> ConnId {
        let conn = ConnId(self.conn_next);
        self.conn_next += 1;
        let now = self.now;
        if let Some(node) = self.node(id) {
            node.accepted(conn, listener, IpAddr::from([127, 0, 0, 1]), now);
        }
        conn
    }

    pub fn send(&mut self, id: i32, conn: ConnId, frame: Vec<u8>) {
        self.queue.push_back(Event::Request(id, conn, frame));
    }

    fn ask<M: Message>(&mut self, id: i32, conn: ConnId, key: ApiKey, version: i16, message: &M) {
        let frame = encode_request(key, version, 7, Some("fuzz"), message).expect("encodes");
        self.send(id, conn, frame[4..].to_vec());
        for _ in 0..100 {
            self.run(25);
            if !self.answers.is_empty() {
                return;
            }
        }
        panic!("no answer to {}", key.name());
    }

    pub fn run_until_ready(&mut self) -> bool {
        for _ in 0..200 {
            if self.members.values().filter_map(|m| m.node.as_ref()).all(|n| n.status().is_ready()) {
                return true;
            }
            self.run(25);
        }
        false
    }

    pub fn run(&mut self, ms: i64) {
        let end = self.now.mono_ms + ms;
        loop {
            self.settle();
            if self.now.mono_ms >= end {
                return;
            }
            let deadlines = self.members.values().filter_map(|m| m.node.as_ref()).map(Node::next_deadline);
            let next = deadlines.min().unwrap_or(i64::MAX).max(self.now.mono_ms + 1).min(end);
            self.now.wall_ms += next - self.now.mono_ms;
            self.now.mono_ms = next;
        }
    }

    pub fn settle(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "the nodes never come to rest");
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
            Event::Answer(id, link, mut frame) => {
                if let Some(tamper) = &mut self.tamper {
                    tamper(id, &mut frame);
                }
                self.node(id).map(|n| n.link_frame(link, &mut frame, now))
            }
            Event::Flushed(id, flush) => self.node(id).map(|n| n.flushed(flush, Ok(()), now)),
            Event::Cleaned(id, clean, mut work) => {
                let result = work.run(&mut |_| {});
                self.node(id).map(|n| n.cleaned(clean, work, result, now))
            }
        };
    }

    fn carry_out(&mut self, id: i32, effect: Effect) {
        match effect {
            Effect::Respond { conn, frame } => {
                let bytes = assemble(&frame);
                match self.wires.iter().find(|(_, to)| *to == (id, conn)) {
                    Some(((dialler, link), _)) => {
                        self.queue.push_back(Event::Answer(*dialler, *link, bytes[4..].to_vec()));
                    }
                    None => self.answers.push_back((conn, bytes)),
                }
            }
            Effect::Close { conn, .. } => self.hang_up(id, conn),
            Effect::Connect { link, host, port } => {
                let target = host.strip_prefix("host").and_then(|n| n.parse().ok()).unwrap_or(-1);
                if self.node(target).is_none() {
                    return self.queue.push_back(Event::Down(id, link, true));
                }
                let conn = self.connect(target, usize::from(port == 9093));
                self.wires.push(((id, link), (target, conn)));
                self.queue.push_back(Event::Up(id, link));
            }
            Effect::Send { link, frame } => {
                if let Some((_, (target, conn))) = self.wires.iter().find(|(from, _)| *from == (id, link)) {
                    self.queue.push_back(Event::Request(*target, *conn, assemble(&frame)[4..].to_vec()));
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
                work.run().expect("a disk in memory flushes");
                self.queue.push_back(Event::Flushed(id, flush));
            }
            Effect::Clean { id: clean, work, .. } => self.queue.push_back(Event::Cleaned(id, clean, work)),
            Effect::Stopped => self.members.get_mut(&id).expect("a member").node = None,
            Effect::Fatal { message } => self.fatal.push((id, message)),
        }
    }

    fn hang_up(&mut self, id: i32, conn: ConnId) {
        let now = self.now;
        if let Some(node) = self.node(id) {
            node.closed(conn, now);
        }
        match self.wires.iter().position(|(_, to)| *to == (id, conn)) {
            Some(at) => {
                let ((dialler, link), _) = self.wires.remove(at);
                self.queue.push_back(Event::Down(dialler, link, false));
            }
            None => self.closed.push(conn),
        }
    }
}

/// Puts the file regions where they belong. The length bytes stay in front.
fn assemble(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.bytes.len());
    let mut at = 0;
    for (splice, region) in frame.splices.iter().zip(&frame.regions) {
        out.extend_from_slice(&frame.bytes[at..splice.at]);
        at = splice.at;
        let from = out.len();
        out.resize(from + region.len as usize, 0);
        region.file.read_at(&mut out[from..], region.at).expect("a region can be read");
    }
    out.extend_from_slice(&frame.bytes[at..]);
    out
}
