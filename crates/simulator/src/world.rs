//! The machines, the network between them, the clients and the time: one thread, one seed, one order of events.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use broker::{CleanId, ConnId, Effect, FlushId, Frame, Mutations, Node, NodeStatus};
use metadata::config::NodeConfig;
use protocol::time::Now;
use protocol::wire::Uuid;
use storage::{CleanWork, Disk, FlushWork, MetaProperties};

use crate::checkers::{Checkers, compacted};
use crate::client::{Act, Client};
use crate::disk::SimDisk;
use crate::network::{End, Item, Network, PipeId};
use crate::trace::Trace;

const DATA_DIR: &str = "/data";
const CLUSTER_ID: &str = "c2ltdWxhdGVkY2x1c3RlcQ";
const CLIENT_PORT: u16 = 9092;
const CONTROLLER_PORT: u16 = 9093;
/// How long a connection that cannot get through waits before it tries again.
const RETRY_MS: i64 = 20;
/// Turns of one node within a millisecond before it is taken for one that never comes to rest.
const TURNS_MAX: usize = 1_000;

pub struct Host {
    config: Arc<NodeConfig>,
    pub disk: SimDisk,
    pub node: Option<Node>,
    pub incarnation: u32,
    pub is_powered: bool,
    pub is_paused: bool,
    conn_next: u64,
    /// What it thought of the cluster when it was last printed.
    view: String,
    /// A node that is due again at once gets its turn a millisecond later.
    not_before_ms: i64,
}

impl Host {
    pub fn has_topic(&self, name: &str) -> bool {
        self.node.as_ref().is_some_and(|node| node.image().topics.values().any(|topic| topic.name == name))
    }
}

enum Event {
    Dial(PipeId),
    /// What comes next on a connection, to one of its ends.
    Deliver(PipeId, usize),
    Flushed {
        node: i32,
        incarnation: u32,
        id: FlushId,
        work: FlushWork,
    },
    Cleaned {
        node: i32,
        incarnation: u32,
        id: CleanId,
        work: Box<CleanWork>,
    },
    Wake(usize),
}

struct Queued {
    at_ms: i64,
    seq: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    /// Earliest first out of a max-heap.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at_ms, other.seq).cmp(&(self.at_ms, self.seq))
    }
}

pub struct World {
    pub now: Now,
    pub rng: fastrand::Rng,
    pub hosts: BTreeMap<i32, Host>,
    pub net: Network,
    pub clients: Vec<Client>,
    pub checkers: Checkers,
    pub trace: Trace,
    pub flush_ms: (i64, i64),
    pub mutations: Mutations,
    /// Steps of the log cleaners, of all nodes and their lives.
    compactions: usize,
    queue: BinaryHeap<Queued>,
    seq: u64,
    touched: BTreeSet<i32>,
}

/// Small indexes, so that segments roll; short times, so that much happens in a minute.
fn properties(id: i32, nodes: i32) -> String {
    let voters: Vec<String> = (1..=nodes).map(|n| format!("{n}@host{n}:{CONTROLLER_PORT}")).collect();
    format!(
        "process.roles=broker,controller\nnode.id={id}\n\
         listeners=PLAINTEXT://host{id}:{CLIENT_PORT},CONTROLLER://host{id}:{CONTROLLER_PORT}\n\
         controller.listener.names=CONTROLLER\ncontroller.quorum.voters={}\nlog.dirs={DATA_DIR}\n\
         min.insync.replicas=2\ndefault.replication.factor={nodes}\n\
         log.index.size.max.bytes=400\nlog.index.interval.bytes=100\n\
         replica.lag.time.max.ms=1500\nbroker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n\
         metadata.log.max.record.bytes.between.snapshots=4000\nlog.cleaner.backoff.ms=300\n",
        voters.join(",")
    )
}

impl World {
    pub fn new(seed: u64, nodes: i32, mutations: Mutations) -> Self {
        let mut world = World {
            now: Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 },
            rng: fastrand::Rng::with_seed(seed),
            hosts: BTreeMap::new(),
            net: Network::default(),
            clients: Vec::new(),
            checkers: Checkers::default(),
            trace: Trace::default(),
            flush_ms: (0, 4),
            mutations,
            compactions: 0,
            queue: BinaryHeap::new(),
            seq: 0,
            touched: BTreeSet::new(),
        };
        for id in 1..=nodes {
            let disk = SimDisk::default();
            format(&disk, id);
            let text = properties(id, nodes);
            let (config, _) = NodeConfig::from_text(&text, "server.properties", &[]).expect("our own configuration");
            let host = Host {
                config: Arc::new(config),
                disk,
                node: None,
                incarnation: 0,
                is_powered: true,
                is_paused: false,
                conn_next: 0,
                not_before_ms: 0,
                view: String::new(),
            };
            world.hosts.insert(id, host);
        }
        world
    }

    pub fn add_client(&mut self, client: Client) {
        self.clients.push(client);
        self.post(0, Event::Wake(self.clients.len() - 1));
    }

    pub fn wake_clients(&mut self) {
        for client in 0..self.clients.len() {
            self.post(0, Event::Wake(client));
        }
    }

    fn post(&mut self, delay_ms: i64, event: Event) {
        self.seq += 1;
        self.queue.push(Queued { at_ms: self.now.mono_ms + delay_ms, seq: self.seq, event });
    }

    fn delay(&mut self) -> i64 {
        self.rng.i64(self.net.delay_ms.0..=self.net.delay_ms.1)
    }

    pub fn note(&mut self, what: &str) {
        self.trace.event(self.now.mono_ms, what, &[]);
    }

    // Time.

    /// Until a time, or until something is wrong.
    pub fn run_until(&mut self, at_ms: i64) {
        while self.checkers.violations.is_empty() && self.step(at_ms) {}
    }

    /// The next millisecond in which something happens; false if that is after `until_ms`.
    fn step(&mut self, until_ms: i64) -> bool {
        let event_at = self.queue.peek().map_or(i64::MAX, |queued| queued.at_ms);
        let deadline = |host: &Host| match &host.node {
            Some(node) if !host.is_paused => node.next_deadline().max(host.not_before_ms),
            _ => i64::MAX,
        };
        let due_at = self.hosts.values().map(deadline).min().unwrap_or(i64::MAX);
        let at = event_at.min(due_at).max(self.now.mono_ms);
        let passed = at.min(until_ms) - self.now.mono_ms;
        self.now = Now { mono_ms: self.now.mono_ms + passed, wall_ms: self.now.wall_ms + passed };
        if at > until_ms {
            return false;
        }
        while self.queue.peek().is_some_and(|queued| queued.at_ms <= at) {
            let event = self.queue.pop().expect("it was peeked").event;
            self.deliver(event);
        }
        let due: Vec<i32> = self.hosts.iter().filter(|(_, h)| deadline(h) <= at).map(|(&id, _)| id).collect();
        self.touched.extend(due);
        for id in std::mem::take(&mut self.touched) {
            self.turn(id);
        }
        true
    }

    /// One loop turn of a node's driver.
    fn turn(&mut self, id: i32) {
        let now = self.now;
        for round in 0.. {
            let host = self.hosts.get_mut(&id).expect("a host of this world");
            let Some(node) = host.node.as_mut().filter(|_| !host.is_paused) else { return };
            node.turn(now);
            let effects = node.take_effects();
            host.not_before_ms = now.mono_ms + 1;
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(id, effect);
            }
            if round == TURNS_MAX {
                self.checkers.violation(format!("node {id} never comes to rest"));
                return;
            }
        }
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if let Some(node) = &host.node {
            let status = node.status();
            self.checkers.leaders.look(&status, &mut self.checkers.violations);
            if self.trace.is_printed {
                let view = view(node, &status);
                if view != host.view {
                    host.view.clone_from(&view);
                    self.note(&format!("node {id}: {view}"));
                }
            }
        }
    }

    /// Looks into all disks: too slow for every event.
    pub fn look_at_disks(&mut self) {
        for host in self.hosts.values() {
            let Some(node) = &host.node else { continue };
            let status = node.status();
            self.checkers.quorum.look(&status, &host.disk, &mut self.checkers.violations);
            self.checkers.replicas.look(&status, &host.disk, &mut self.checkers.violations);
        }
    }

    /// Into what compaction has left, once all is quiet.
    pub fn look_at_latest(&mut self) {
        let Checkers { acknowledged, violations, .. } = &mut self.checkers;
        for host in self.hosts.values() {
            let Some(node) = &host.node else { continue };
            let status = node.status();
            compacted::look(&status, &host.disk, acknowledged, violations);
        }
        if self.compactions == 0 {
            violations.push("nobody has compacted anything".to_owned());
        }
    }

    /// What all nodes think of the partitions, for the trace.
    pub fn print_statuses(&self) {
        let statuses = self.hosts.values().filter_map(|host| host.node.as_ref()).map(Node::status);
        for status in statuses.filter(|_| self.trace.is_printed) {
            for partition in status.broker.iter().flat_map(|broker| &broker.partitions) {
                let (id, p) = (status.node_id, partition);
                let (epoch, start, high_watermark, end) = (p.leader_epoch, p.log_start, p.high_watermark, p.log_end);
                let leads = if p.is_leader { "leads" } else { "has" };
                eprintln!(
                    "node {id} {leads} {}-{} epoch {epoch}: {start} to {high_watermark} to {end}, ISR {:?}",
                    p.topic, p.partition, p.isr
                );
            }
        }
    }

    // Events.

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Dial(pipe) => self.on_dial(pipe),
            Event::Deliver(pipe, side) => self.on_deliver(pipe, side),
            Event::Flushed { node, incarnation, id, work } => {
                let host = self.hosts.get_mut(&node).expect("a host of this world");
                if host.incarnation != incarnation || host.node.is_none() {
                    return;
                }
                if host.is_paused {
                    return self.post(RETRY_MS, Event::Flushed { node, incarnation, id, work });
                }
                let result = work.run();
                self.trace.event(self.now.mono_ms, "~flushed", &[node as u8]);
                let now = self.now;
                if let Some(node) = &mut host.node {
                    node.flushed(id, result, now);
                }
                self.touched.insert(node);
            }
            Event::Cleaned { node, incarnation, id, work } => self.on_cleaned(node, incarnation, id, work),
            Event::Wake(client) => {
                let now = self.now;
                self.clients[client].on_wake(now);
                self.act(client);
            }
        }
    }

    fn on_cleaned(&mut self, id: i32, incarnation: u32, clean: CleanId, mut work: Box<CleanWork>) {
        let host = self.hosts.get_mut(&id).expect("a host of this world");
        if host.incarnation != incarnation || host.node.is_none() {
            return;
        }
        if host.is_paused {
            return self.post(RETRY_MS, Event::Cleaned { node: id, incarnation, id: clean, work });
        }
        let result = work.run(&mut |_| {});
        self.compactions += 1;
        self.trace.event(self.now.mono_ms, "~cleaned", &[id as u8]);
        let now = self.now;
        if let Some(node) = &mut host.node {
            node.cleaned(clean, work, result, now);
        }
        self.touched.insert(id);
    }

    fn on_dial(&mut self, id: PipeId) {
        let Some(pipe) = self.net.pipes.get(&id) else { return };
        let ([from, target], port) = (pipe.machines, pipe.port);
        let is_cut = self.net.is_cut(from, target);
        let host = self.hosts.get_mut(&target).expect("a host of this world");
        if is_cut || !host.is_powered {
            return self.post(RETRY_MS, Event::Dial(id));
        }
        let Some(node) = &mut host.node else {
            return self.push(id, 0, Item::Refused);
        };
        host.conn_next += 1;
        let conn = ConnId(host.conn_next);
        // The kernel accepts, whether the process is paused or not.
        node.accepted(conn, usize::from(port == CONTROLLER_PORT), IpAddr::from([10, 0, 0, from as u8]), self.now);
        let end = End::Conn { node: target, incarnation: host.incarnation, conn };
        let pipe = self.net.pipes.get_mut(&id).expect("looked up above");
        pipe.ends[1] = Some(end);
        // What the other side has said already.
        for _ in 0..pipe.queues[1].len() {
            self.post(0, Event::Deliver(id, 1));
        }
        self.push(id, 0, Item::Up);
    }

    /// Sends something towards one end of a connection.
    fn push(&mut self, id: PipeId, side: usize, item: Item) {
        let delay = self.delay();
        if let Some(pipe) = self.net.pipes.get_mut(&id) {
            pipe.queues[side].push_back(item);
            self.post(delay, Event::Deliver(id, side));
        }
    }

    fn on_deliver(&mut self, id: PipeId, side: usize) {
        let Some(pipe) = self.net.pipes.get(&id) else { return };
        let Some(end) = pipe.ends[side] else { return };
        if self.net.is_cut(pipe.machines[0], pipe.machines[1]) {
            return self.post(RETRY_MS, Event::Deliver(id, side));
        }
        if let End::Link { node, incarnation, .. } | End::Conn { node, incarnation, .. } = end {
            let host = &self.hosts[&node];
            if !host.is_powered || host.is_paused {
                return self.post(RETRY_MS, Event::Deliver(id, side));
            }
            let Some(running) = host.node.as_ref().filter(|_| host.incarnation == incarnation) else {
                // A machine that knows nothing of the connection resets it.
                let pipe = self.net.pipes.get_mut(&id).expect("looked up above");
                pipe.queues[side].clear();
                return self.push(id, 1 - side, Item::Closed);
            };
            if let End::Conn { conn, .. } = end {
                let is_frame = matches!(pipe.queues[side].front(), Some(Item::Frame(_)));
                if is_frame && !running.may_read(conn) {
                    return self.post(1, Event::Deliver(id, side));
                }
            }
        }
        let pipe = self.net.pipes.get_mut(&id).expect("looked up above");
        let Some(item) = pipe.queues[side].pop_front() else { return };
        if matches!(item, Item::Closed | Item::Refused) {
            self.net.pipes.remove(&id);
        }
        self.arrive(end, item);
    }

    fn arrive(&mut self, end: End, item: Item) {
        let now = self.now;
        match end {
            End::Client { client } => {
                match item {
                    Item::Up => {}
                    Item::Refused | Item::Closed => self.clients[client].on_closed(now),
                    Item::Frame(bytes) => {
                        self.trace.event(now.mono_ms, "~to client", &bytes);
                        self.clients[client].on_frame(&bytes, now, &mut self.checkers);
                    }
                }
                self.act(client);
            }
            End::Link { node: id, link, .. } => {
                let Some(node) = self.hosts.get_mut(&id).and_then(|host| host.node.as_mut()) else { return };
                match item {
                    Item::Up => node.link_up(link, now),
                    Item::Refused => node.link_down(link, true, now),
                    Item::Closed => node.link_down(link, false, now),
                    Item::Frame(mut bytes) => {
                        self.trace.event(now.mono_ms, "~to link", &bytes);
                        node.link_frame(link, &mut bytes, now);
                    }
                }
                self.touched.insert(id);
            }
            End::Conn { node: id, conn, .. } => {
                let Some(node) = self.hosts.get_mut(&id).and_then(|host| host.node.as_mut()) else { return };
                match item {
                    Item::Up | Item::Refused => {}
                    Item::Closed => node.closed(conn, now),
                    Item::Frame(mut bytes) => {
                        self.trace.event(now.mono_ms, "~to node", &bytes);
                        node.frame(conn, &mut bytes, now);
                    }
                }
                self.touched.insert(id);
            }
        }
    }

    // What nodes and clients want.

    fn carry_out(&mut self, id: i32, effect: Effect) {
        let incarnation = self.hosts[&id].incarnation;
        match effect {
            Effect::Respond { conn, frame } => {
                if let Some((pipe, side)) = self.net.find(End::Conn { node: id, incarnation, conn }) {
                    self.push(pipe, 1 - side, Item::Frame(assemble(frame)));
                }
            }
            Effect::Close { conn, .. } => self.close(End::Conn { node: id, incarnation, conn }),
            Effect::Connect { link, host, port } => {
                let target = host.trim_start_matches("host").parse().expect("a host of this world");
                let pipe = self.net.dial(End::Link { node: id, incarnation, link }, target, port);
                let delay = self.delay();
                self.post(delay, Event::Dial(pipe));
            }
            Effect::Send { link, frame } => {
                if let Some((pipe, side)) = self.net.find(End::Link { node: id, incarnation, link }) {
                    self.push(pipe, 1 - side, Item::Frame(assemble(frame)));
                }
            }
            Effect::Disconnect { link } => self.close(End::Link { node: id, incarnation, link }),
            Effect::Flush { id: flush, work } => {
                let delay = self.rng.i64(self.flush_ms.0..=self.flush_ms.1);
                self.post(delay, Event::Flushed { node: id, incarnation, id: flush, work });
            }
            Effect::Clean { id: clean, work, .. } => {
                let delay = self.rng.i64(self.flush_ms.0..=self.flush_ms.1);
                self.post(delay, Event::Cleaned { node: id, incarnation, id: clean, work });
            }
            Effect::Stopped => self.kill(id),
            Effect::Fatal { message } => {
                self.checkers.violation(format!("node {id} gives up: {message}"));
                self.kill(id);
            }
        }
    }

    /// One end closes: what it has sent still arrives, what comes for it does not.
    fn close(&mut self, end: End) {
        let Some((id, side)) = self.net.find(end) else { return };
        let pipe = self.net.pipes.get_mut(&id).expect("found above");
        pipe.queues[side].clear();
        pipe.ends[side] = None;
        if pipe.ends[1 - side].is_some() {
            self.push(id, 1 - side, Item::Closed);
        } else {
            self.net.pipes.remove(&id);
        }
    }

    fn act(&mut self, client: usize) {
        for act in self.clients[client].take_acts() {
            match act {
                Act::Dial(node) => {
                    self.close(End::Client { client });
                    let pipe = self.net.dial(End::Client { client }, node, CLIENT_PORT);
                    let delay = self.delay();
                    self.post(delay, Event::Dial(pipe));
                }
                Act::Send(frame) => {
                    if let Some((pipe, side)) = self.net.find(End::Client { client }) {
                        // Sent as soon as somebody has accepted: until then there is no other end.
                        self.push(pipe, 1 - side, Item::Frame(frame[4..].to_vec()));
                    }
                }
                Act::Close => self.close(End::Client { client }),
                Act::Note(what) => self.note(&format!("client {client}: {what}")),
                Act::WakeAt(at_ms) => {
                    let delay = (at_ms - self.now.mono_ms).max(0);
                    self.post(delay, Event::Wake(client));
                }
            }
        }
    }

    // What happens to machines.

    pub fn start(&mut self, id: i32) {
        let (now, mutations, seed) = (self.now, self.mutations, self.rng.u64(..));
        let host = self.hosts.get_mut(&id).expect("a host of this world");
        if !host.is_powered || host.node.is_some() {
            return;
        }
        host.incarnation += 1;
        host.is_paused = false;
        host.not_before_ms = 0;
        match Node::start_with(host.config.clone(), Arc::new(host.disk.clone()), seed, mutations, now) {
            Ok(node) => host.node = Some(node),
            Err(error) => self.checkers.violation(format!("node {id} does not start: {error}")),
        }
        self.note(&format!("start {id}"));
        self.touched.insert(id);
    }

    /// The process is gone; its kernel closes its connections.
    pub fn kill(&mut self, id: i32) {
        let host = self.hosts.get_mut(&id).expect("a host of this world");
        host.node = None;
        host.is_paused = false;
        self.note(&format!("kill {id}"));
        for (pipe, side) in self.net.of_machine(id) {
            if let Some(end) = self.net.pipes[&pipe].ends[side] {
                self.close(end);
            }
        }
    }

    /// The machine is gone, and with it what it had not synced. Nobody is told.
    pub fn cut_power(&mut self, id: i32) {
        let host = self.hosts.get_mut(&id).expect("a host of this world");
        host.node = None;
        host.is_paused = false;
        host.is_powered = false;
        host.disk.lose_power(&mut self.rng);
        for (pipe, side) in self.net.of_machine(id) {
            let pipe = self.net.pipes.get_mut(&pipe).expect("listed");
            // Neither what it was to receive nor what it had still to send.
            pipe.queues[side].clear();
        }
        self.note(&format!("power off {id}"));
    }

    pub fn pause(&mut self, id: i32, is_paused: bool) {
        let host = self.hosts.get_mut(&id).expect("a host of this world");
        host.is_paused = is_paused && host.node.is_some();
        self.touched.insert(id);
        self.note(&format!("{} {id}", if is_paused { "pause" } else { "resume" }));
    }

    /// A connection breaks; both ends hear of it.
    pub fn break_connection(&mut self) {
        let ids: Vec<PipeId> = self.net.pipes.keys().copied().collect();
        let Some(&id) = self.rng.choice(&ids) else { return };
        let pipe = self.net.pipes.get_mut(&id).expect("listed");
        pipe.queues.iter_mut().for_each(|queue| queue.clear());
        self.push(id, 0, Item::Closed);
        self.push(id, 1, Item::Closed);
        self.note("a connection breaks");
    }
}

/// A node's view of the quorum and the partitions, for the trace.
fn view(node: &Node, status: &NodeStatus) -> String {
    let quorum = &status.quorum;
    let mut out =
        format!("quorum {:?}@{}{}", quorum.leader, quorum.epoch, if status.active_controller { " active" } else { "" });
    for topic in node.image().topics.values() {
        for (number, p) in &topic.partitions {
            let (last, elr) = (&p.last_known_elr, &p.elr);
            out += &format!(", {number}: {}@{} isr {:?} elr {elr:?} last {last:?}", p.leader, p.leader_epoch, p.isr);
        }
    }
    for partition in status.broker.iter().flat_map(|broker| &broker.partitions).filter(|p| p.is_leader) {
        out += &format!(", leads {} {:?}", partition.partition, partition.isr);
    }
    out
}

/// As `zwirn storage format` leaves a directory, bootstrap records left out: the first controller writes the defaults.
fn format(disk: &SimDisk, id: i32) {
    let dir = Path::new(DATA_DIR);
    disk.create_dir_all(dir).expect("a simulated disk takes directories");
    let mut bytes = [id as u8; 16];
    bytes[0] = 1;
    let meta = MetaProperties {
        version: 1,
        cluster_id: Some(CLUSTER_ID.to_owned()),
        node_id: Some(id),
        directory_id: Some(Uuid::from_random(bytes)),
    };
    meta.write(disk, dir).expect("a simulated disk takes files");
}

/// The frame without its length bytes, regions of files in their places.
fn assemble(frame: Frame) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.bytes.len());
    let mut at = 4;
    for (splice, region) in frame.splices.iter().zip(&frame.regions) {
        out.extend_from_slice(&frame.bytes[at..splice.at]);
        at = splice.at;
        let mut bytes = vec![0; region.len as usize];
        region.file.read_at(&mut bytes, region.at).expect("a simulated disk can be read");
        out.extend_from_slice(&bytes);
    }
    out.extend_from_slice(&frame.bytes[at..]);
    out
}
