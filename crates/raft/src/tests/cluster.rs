//! A cluster of quorums with seeded time, network and disks, and the checkers that watch it.
//!
//! Requests and responses are encoded and decoded on their way, so that nothing gets around the wire format.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::api::ApiKey;
use protocol::codec::{Message, decode_all, encode_all};
use protocol::error::ErrorCode;
use protocol::messages::api_versions_response::SupportedFeatureKey;
use protocol::messages::{
    AddRaftVoterRequest, ApiVersionsResponse, BeginQuorumEpochRequest, DescribeQuorumRequest, DescribeQuorumResponse,
    EndQuorumEpochRequest, FetchRequest, FetchSnapshotRequest, RemoveRaftVoterRequest, UpdateRaftVoterRequest,
    VoteRequest,
};
use protocol::time::Now;
use protocol::wire::{Reader, Uuid, Writer};
use storage::{Disk, Evidence, FlushWork, LogConfig};

use super::disk::MemDisk;
use crate::effect::{Failure, FetchToken, RequestContext, Response};
use crate::state_machine::CommittedRead;
use crate::types::ReplicaKey;
use crate::{Effect, Endpoint, Endpoints, OffsetAndEpoch, Quorum, QuorumConfig, RequestToken, VoterChangeToken};

pub const LISTENER: &str = "CONTROLLER";
const DIR: &str = "/data/__cluster_metadata-0";
const FIRST_PORT: u16 = 9000;

pub fn dir() -> &'static Path {
    Path::new(DIR)
}

pub fn directory_id(id: i32) -> Uuid {
    let mut bytes = [7; 16];
    bytes[15] = id as u8;
    Uuid(bytes)
}

pub fn endpoint(id: i32) -> Endpoint {
    Endpoint::new("127.0.0.1", FIRST_PORT + id as u16)
}

/// A configuration in a static quorum of `voters`, or, without voters, in a dynamic one.
pub fn config(id: i32, is_controller: bool, voters: &[i32], bootstrap: &[i32]) -> QuorumConfig {
    let mut cfg = QuorumConfig::new(id, directory_id(id), "test-cluster");
    cfg.can_be_voter = is_controller;
    cfg.static_voters = voters.iter().map(|&id| (id, endpoint(id))).collect();
    cfg.bootstrap_servers = bootstrap.iter().map(|&id| endpoint(id)).collect();
    if is_controller {
        cfg.listeners = Endpoints::one(LISTENER, endpoint(id));
    }
    cfg
}

/// The state machine above: a chain of hashes over the values, so that equal states mean equal histories.
#[derive(Default)]
pub struct App {
    pub next_offset: Option<i64>,
    pub hash: u64,
    pub last_epoch: i32,
    pub last_timestamp: i64,
    /// Set while it was told to lead.
    pub leads: Option<i32>,
    pub leader_seen: Option<i32>,
    pub snapshots_loaded: usize,
}

impl App {
    fn apply(&mut self, value: &[u8]) {
        for &byte in value {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.hash = self.hash.rotate_left(7) ^ value.len() as u64;
    }
}

pub struct Node {
    pub cfg: QuorumConfig,
    pub disk: Arc<MemDisk>,
    pub log_config: LogConfig,
    pub quorum: Option<Quorum>,
    pub app: App,
    pub stopped: bool,
    /// The machine went down since the node last ran.
    pub lost_power: bool,
    incarnation: u32,
    /// Nodes to which this one has an open connection, by the id under which it knows them.
    links: BTreeMap<i32, i32>,
    in_flight: BTreeMap<RequestToken, (i32, ApiKey)>,
    parked: BTreeMap<FetchToken, Reply>,
    changing: BTreeMap<VoterChangeToken, Reply>,
    fetch_token_next: u64,
}

#[derive(Clone, Copy)]
struct Reply {
    to: i32,
    incarnation: u32,
    token: RequestToken,
    key: ApiKey,
    version: i16,
}

enum Event {
    Request { to: i32, from: i32, reply: Reply, bytes: Vec<u8> },
    Response { reply: Reply, from: i32, result: Result<Vec<u8>, Failure> },
    LinkDown { at: i32, incarnation: u32, peer: i32, refused: bool },
    Flushed { at: i32, incarnation: u32, work: FlushWork },
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

pub struct Network {
    pub delay_ms: (i64, i64),
    pub loss_percent: u32,
    pub flush_ms: (i64, i64),
    /// Pairs between which nothing passes, in either direction.
    pub cut: BTreeSet<(i32, i32)>,
    /// What peers answer to these is that they know no such version.
    pub unsupported: BTreeSet<(i16, i16)>,
}

impl Network {
    pub fn cut(&mut self, a: i32, b: i32) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    fn is_cut(&self, a: i32, b: i32) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }
}

/// What must be true of the cluster as a whole.
#[derive(Default)]
pub struct Truth {
    leaders: BTreeMap<i32, i32>,
    /// State after the record before an offset, as the first replica that got there saw it.
    states: BTreeMap<i64, u64>,
    pub committed: i64,
    pub violations: Vec<String>,
}

pub struct Cluster {
    pub now: Now,
    pub rng: fastrand::Rng,
    pub nodes: BTreeMap<i32, Node>,
    pub net: Network,
    pub truth: Truth,
    queue: BinaryHeap<Queued>,
    seq: u64,
    value_next: u64,
    /// What came of an operator's changes of the voters.
    changes: BTreeMap<VoterChangeToken, ErrorCode>,
    pub trace: Vec<String>,
}

impl Cluster {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Now { mono_ms: 10_000, wall_ms: 1_700_000_000_000 },
            rng: fastrand::Rng::with_seed(seed),
            nodes: BTreeMap::new(),
            net: Network {
                delay_ms: (0, 2),
                loss_percent: 0,
                flush_ms: (0, 3),
                cut: BTreeSet::new(),
                unsupported: BTreeSet::new(),
            },
            truth: Truth::default(),
            queue: BinaryHeap::new(),
            seq: 0,
            value_next: 1,
            changes: BTreeMap::new(),
            trace: Vec::new(),
        }
    }

    /// A static quorum of `1..=voters`, and brokers that observe it.
    pub fn of(seed: u64, voters: i32, observers: i32) -> Self {
        let mut cluster = Self::new(seed);
        let ids: Vec<i32> = (1..=voters).collect();
        for id in 1..=voters + observers {
            cluster.add(config(id, id <= voters, &ids, &[]));
        }
        cluster
    }

    pub fn add(&mut self, cfg: QuorumConfig) {
        let disk = Arc::new(MemDisk::default());
        disk.create_dir_all(dir()).expect("memory");
        let node = Node {
            cfg,
            disk,
            log_config: super::log_config(),
            quorum: None,
            app: App::default(),
            stopped: false,
            lost_power: true,
            incarnation: 0,
            links: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            parked: BTreeMap::new(),
            changing: BTreeMap::new(),
            fetch_token_next: 0,
        };
        self.nodes.insert(node.cfg.node_id, node);
    }

    pub fn start(&mut self, id: i32) {
        let seed = self.rng.u64(..);
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        node.disk.create_dir_all(dir()).expect("memory");
        let disk: Arc<dyn Disk> = node.disk.clone();
        let evidence = if node.lost_power { Evidence::Unknown } else { Evidence::SameBoot };
        let quorum = Quorum::open(node.cfg.clone(), disk, dir(), node.log_config.clone(), evidence, now, seed);
        match quorum {
            Ok(quorum) => node.quorum = Some(quorum),
            Err(error) => {
                self.truth.violations.push(format!("node {id} does not start: {error}"));
                return;
            }
        }
        node.incarnation += 1;
        node.app = App::default();
        node.stopped = false;
        node.lost_power = false;
        self.trace.push(format!("{} start {id}", self.now.mono_ms));
        self.settle(id);
    }

    pub fn start_all(&mut self) {
        let down: Vec<i32> = self.nodes.iter().filter(|(_, n)| n.quorum.is_none()).map(|(&id, _)| id).collect();
        for id in down {
            self.start(id);
        }
    }

    /// The process ends, its sockets are closed by the kernel. With `power` its machine ends too.
    pub fn kill(&mut self, id: i32, power: bool) {
        self.trace.push(format!("{} kill {id} power={power}", self.now.mono_ms));
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        if node.quorum.take().is_none() {
            return;
        }
        node.in_flight.clear();
        node.parked.clear();
        node.changing.clear();
        node.links.clear();
        if power {
            let mut rng = self.rng.fork();
            node.disk.lose_power(&mut rng);
            node.lost_power = true;
            return;
        }
        let others: Vec<i32> = self.nodes.keys().copied().filter(|&other| other != id).collect();
        for other in others {
            if !self.net.is_cut(other, id) {
                self.break_link(other, id, Failure::Disconnected);
            }
        }
    }

    /// `at` learns that its connection to `target` is gone.
    fn break_link(&mut self, at: i32, target: i32, failure: Failure) {
        let node = self.nodes.get_mut(&at).expect("a node of the cluster");
        let incarnation = node.incarnation;
        let peers: Vec<i32> = node.links.iter().filter(|(_, t)| **t == target).map(|(&peer, _)| peer).collect();
        node.links.retain(|_, t| *t != target);
        let waiting: Vec<(RequestToken, ApiKey)> = node
            .in_flight
            .iter()
            .filter(|(_, (to, _))| *to == target)
            .map(|(&token, &(_, key))| (token, key))
            .collect();
        for (token, key) in waiting {
            let reply = Reply { to: at, incarnation, token, key, version: 0 };
            self.post(1, Event::Response { reply, from: target, result: Err(failure) });
        }
        let refused = failure == Failure::Refused;
        for peer in peers {
            self.post(1, Event::LinkDown { at, incarnation, peer, refused });
        }
    }

    fn post(&mut self, delay_ms: i64, event: Event) {
        self.seq += 1;
        self.queue.push(Queued { at_ms: self.now.mono_ms + delay_ms, seq: self.seq, event });
    }

    fn network_delay(&mut self) -> i64 {
        self.rng.i64(self.net.delay_ms.0..=self.net.delay_ms.1)
    }

    // Time.

    pub fn run_for(&mut self, ms: i64) {
        let until = self.now.mono_ms + ms;
        while self.advance(until) {}
    }

    /// Runs until `done`, at most `ms`; true if it came to that.
    pub fn run_until(&mut self, ms: i64, done: impl Fn(&Cluster) -> bool) -> bool {
        let until = self.now.mono_ms + ms;
        loop {
            if done(self) {
                return true;
            }
            if !self.advance(until) {
                return done(self);
            }
        }
    }

    /// The next thing that happens before `until`; false if that time has come.
    fn advance(&mut self, until: i64) -> bool {
        let event_at = self.queue.peek().map_or(i64::MAX, |queued| queued.at_ms);
        let live = self.nodes.values().filter_map(|node| node.quorum.as_ref());
        let tick_at = live.map(Quorum::next_deadline).min().unwrap_or(i64::MAX).max(self.now.mono_ms);
        let at = event_at.min(tick_at);
        if at > until {
            self.set_time(until);
            return false;
        }
        self.set_time(at);
        if event_at <= tick_at {
            let event = self.queue.pop().expect("it was peeked").event;
            self.deliver(event);
        } else {
            let due: Vec<i32> = self
                .nodes
                .iter()
                .filter(|(_, node)| node.quorum.as_ref().is_some_and(|q| q.next_deadline() <= at))
                .map(|(&id, _)| id)
                .collect();
            for id in due {
                let now = self.now;
                self.with(id, |quorum| quorum.tick(now));
                if let Some(quorum) = &self.nodes[&id].quorum {
                    assert!(quorum.next_deadline() > at, "node {id} would tick for ever as {}", quorum.role_name());
                }
            }
        }
        true
    }

    fn set_time(&mut self, mono_ms: i64) {
        let passed = mono_ms - self.now.mono_ms;
        self.now = Now { mono_ms, wall_ms: self.now.wall_ms + passed };
    }

    /// Calls a running node and carries out what follows.
    pub fn with<T>(&mut self, id: i32, call: impl FnOnce(&mut Quorum) -> T) -> Option<T> {
        let out = self.nodes.get_mut(&id).and_then(|node| node.quorum.as_mut()).map(call);
        self.settle(id);
        out
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Request { to, from, reply, bytes } => {
                if reply.key != ApiKey::Fetch {
                    self.trace.push(format!("{} {from} -> {to} {:?}", self.now.mono_ms, reply.key));
                }
                self.deliver_request(to, from, reply, &bytes);
                if reply.key != ApiKey::Fetch {
                    self.trace.push(format!("   {to} is {:?}", self.nodes[&to].quorum.as_ref().map(|q| q.role_name())));
                }
            }
            Event::Response { reply, from, result } => self.deliver_response(reply, from, result),
            Event::LinkDown { at, incarnation, peer, refused } => {
                let now = self.now;
                if self.nodes[&at].incarnation == incarnation {
                    self.with(at, |quorum| quorum.on_peer_down(peer, refused, now));
                }
            }
            Event::Flushed { at, incarnation, work } => {
                let now = self.now;
                if self.nodes[&at].incarnation == incarnation && self.nodes[&at].quorum.is_some() {
                    let result = work.run();
                    self.with(at, |quorum| quorum.on_flushed(result, now));
                }
            }
        }
    }

    fn deliver_request(&mut self, to: i32, from: i32, reply: Reply, bytes: &[u8]) {
        if self.nodes[&to].quorum.is_none() {
            // The target died while the request was on its way.
            if self.nodes[&from].incarnation == reply.incarnation {
                self.break_link(from, to, Failure::Disconnected);
            }
            return;
        }
        if self.net.unsupported.contains(&(reply.key as i16, reply.version)) {
            self.answer(to, reply, Err(Failure::UnsupportedVersion));
            return;
        }
        let now = self.now;
        let node = self.nodes.get_mut(&to).expect("a node of the cluster");
        let quorum = node.quorum.as_mut().expect("it runs");
        let ctx = RequestContext { version: reply.version, listener: LISTENER };
        let v = reply.version;
        let response = match reply.key {
            ApiKey::Vote => {
                encode(&quorum.on_vote(ctx, &decode_all::<VoteRequest<'_>>(bytes, v).expect("ours"), now), v)
            }
            ApiKey::BeginQuorumEpoch => {
                let request = decode_all::<BeginQuorumEpochRequest<'_>>(bytes, v).expect("ours");
                encode(&quorum.on_begin_quorum_epoch(ctx, &request, now), v)
            }
            ApiKey::EndQuorumEpoch => {
                let request = decode_all::<EndQuorumEpochRequest<'_>>(bytes, v).expect("ours");
                encode(&quorum.on_end_quorum_epoch(ctx, &request, now), v)
            }
            ApiKey::FetchSnapshot => {
                let request = decode_all::<FetchSnapshotRequest<'_>>(bytes, v).expect("ours");
                encode(&quorum.on_fetch_snapshot(ctx, &request, now), v)
            }
            ApiKey::UpdateRaftVoter => {
                let request = decode_all::<UpdateRaftVoterRequest<'_>>(bytes, v).expect("ours");
                encode(&quorum.on_update_raft_voter(ctx, &request, now), v)
            }
            ApiKey::Fetch => {
                let request = decode_all::<FetchRequest<'_>>(bytes, v).expect("ours");
                node.fetch_token_next += 1;
                let token = FetchToken(node.fetch_token_next);
                match quorum.on_fetch(ctx, &request, token, now) {
                    Some(response) => encode(&response, v),
                    None => {
                        node.parked.insert(token, reply);
                        self.settle(to);
                        return;
                    }
                }
            }
            ApiKey::AddRaftVoter | ApiKey::RemoveRaftVoter => {
                node.fetch_token_next += 1;
                let token = VoterChangeToken(node.fetch_token_next);
                node.changing.insert(token, reply);
                if reply.key == ApiKey::AddRaftVoter {
                    let request = decode_all::<AddRaftVoterRequest<'_>>(bytes, v).expect("ours");
                    quorum.on_add_raft_voter(&request, token, now);
                } else {
                    let request = decode_all::<RemoveRaftVoterRequest<'_>>(bytes, v).expect("ours");
                    quorum.on_remove_raft_voter(&request, token, now);
                }
                self.settle(to);
                return;
            }
            ApiKey::ApiVersions => {
                let range = quorum.config().kraft_versions;
                let feature = SupportedFeatureKey {
                    name: "kraft.version".into(),
                    min_version: range.min,
                    max_version: range.max,
                    ..Default::default()
                };
                encode(&ApiVersionsResponse { supported_features: vec![feature], ..Default::default() }, v)
            }
            other => panic!("the quorum sent {other:?}"),
        };
        // Effects before the answer, as a node would do it.
        self.settle(to);
        self.answer(to, reply, Ok(response));
    }

    fn answer(&mut self, from: i32, reply: Reply, result: Result<Vec<u8>, Failure>) {
        if self.net.is_cut(from, reply.to) || self.rng.u32(0..100) < self.net.loss_percent {
            return;
        }
        let delay = self.network_delay();
        self.post(delay, Event::Response { reply, from, result });
    }

    fn deliver_response(&mut self, reply: Reply, from: i32, result: Result<Vec<u8>, Failure>) {
        let node = self.nodes.get_mut(&reply.to).expect("a node of the cluster");
        if node.incarnation != reply.incarnation || node.in_flight.remove(&reply.token).is_none() {
            return;
        }
        if result.is_ok() && self.net.is_cut(from, reply.to) {
            return;
        }
        let now = self.now;
        self.with(reply.to, |quorum| match &result {
            Ok(bytes) => {
                let response = Response::decode(reply.key, &mut Reader::new(bytes), reply.version).expect("ours");
                quorum.on_response(reply.token, Ok(response), now);
            }
            Err(failure) => quorum.on_response(reply.token, Err(*failure), now),
        });
    }

    /// Carries out a node's effects, and lets its state machine follow.
    fn settle(&mut self, id: i32) {
        loop {
            let node = self.nodes.get_mut(&id).expect("a node of the cluster");
            let Some(quorum) = node.quorum.as_mut() else { return };
            let effects = quorum.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                if self.nodes[&id].quorum.is_some() {
                    self.carry_out(id, effect);
                }
            }
        }
        self.check_leader(id);
    }

    fn carry_out(&mut self, id: i32, effect: Effect) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        match effect {
            Effect::Send { to, request, token } => {
                let target = i32::from(to.endpoint.port - FIRST_PORT);
                let version = *request.key().versions().end();
                let mut w = Writer::new();
                request.encode(&mut w, version);
                let bytes = w.finish_inline().expect("our own requests fit the latest version");
                self.carry_request(id, to.id, target, request.key(), version, token, bytes);
            }
            Effect::GiveUp { to, token } => {
                node.in_flight.remove(&token);
                node.links.remove(&to);
            }
            Effect::FetchDone { token, response } => {
                if let Some(reply) = node.parked.remove(&token) {
                    let bytes = encode(&response, reply.version);
                    self.answer(id, reply, Ok(bytes));
                }
            }
            Effect::VoterChanged { token, error, message } => match node.changing.remove(&token) {
                Some(reply) if reply.key == ApiKey::AddRaftVoter => {
                    let bytes = encode(&crate::add_response(error, message), reply.version);
                    self.answer(id, reply, Ok(bytes));
                }
                Some(reply) => {
                    let bytes = encode(&crate::remove_response(error, message), reply.version);
                    self.answer(id, reply, Ok(bytes));
                }
                None => {
                    self.changes.insert(token, error);
                }
            },
            Effect::Flush(work) => {
                let incarnation = node.incarnation;
                let delay = self.rng.i64(self.net.flush_ms.0..=self.net.flush_ms.1);
                self.post(delay, Event::Flushed { at: id, incarnation, work });
            }
            Effect::Committed { upto } => self.follow(id, upto),
            Effect::LeaderChanged { leader, epoch, is_me } => {
                self.trace.push(format!("{} node {id}: leader {leader:?} epoch {epoch}", now.mono_ms));
                let quorum = node.quorum.as_ref().expect("it runs");
                node.app.leads = is_me.then_some(epoch);
                node.app.leader_seen = leader;
                if is_me && node.app.next_offset.is_none_or(|next| next < quorum.log_end().offset) {
                    let next = node.app.next_offset;
                    self.truth.violations.push(format!("node {id} is told to lead with its state at {next:?}"));
                }
            }
            Effect::ShutdownComplete => {
                node.stopped = true;
                self.kill(id, false);
            }
            Effect::Fatal { message } => {
                self.truth.violations.push(format!("node {id} at {}: {message}", now.mono_ms));
                self.kill(id, false);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn carry_request(
        &mut self,
        from: i32,
        peer: i32,
        target: i32,
        key: ApiKey,
        version: i16,
        token: RequestToken,
        bytes: Vec<u8>,
    ) {
        let is_up = self.nodes.get(&target).is_some_and(|node| node.quorum.is_some());
        let exists = self.nodes.contains_key(&target);
        let node = self.nodes.get_mut(&from).expect("a node of the cluster");
        let reply = Reply { to: from, incarnation: node.incarnation, token, key, version };
        node.in_flight.insert(token, (target, key));
        if self.net.is_cut(from, target) {
            return;
        }
        if !is_up {
            // Its machine answers that nobody listens, if there is a machine.
            if exists {
                node.links.insert(peer, target);
                self.break_link(from, target, Failure::Refused);
            }
            return;
        }
        node.links.insert(peer, target);
        if self.rng.u32(0..100) < self.net.loss_percent {
            return;
        }
        let delay = self.network_delay();
        self.post(delay, Event::Request { to: target, from, reply, bytes });
    }

    // The state machine and the checkers.

    fn follow(&mut self, id: i32, upto: i64) {
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        let quorum = node.quorum.as_mut().expect("it runs");
        let app = &mut node.app;
        loop {
            match quorum.read_committed(app.next_offset, 1 << 16).expect("memory") {
                CommittedRead::UpToDate => break,
                CommittedRead::Snapshot(snapshot) => {
                    app.snapshots_loaded += 1;
                    app.next_offset = Some(snapshot.id.offset);
                    app.last_epoch = snapshot.id.epoch;
                    app.last_timestamp = snapshot.last_contained_log_timestamp;
                    if snapshot.id == crate::BOOTSTRAP_SNAPSHOT_ID {
                        continue;
                    }
                    let [hash] = &snapshot.records[..] else { panic!("a snapshot of this state has one record") };
                    app.hash = u64::from_be_bytes(hash[..].try_into().expect("eight bytes"));
                    self.truth.see(id, snapshot.id.offset, app.hash);
                }
                CommittedRead::Batches(batches) => {
                    for batch in batches {
                        let next = app.next_offset.unwrap_or(0);
                        if batch.base_offset != next {
                            let base = batch.base_offset;
                            self.truth.violations.push(format!("node {id} reads {base} where {next} is due"));
                        }
                        for value in &batch.records {
                            app.apply(value);
                        }
                        app.apply(&batch.epoch.to_be_bytes());
                        app.next_offset = Some(batch.last_offset + 1);
                        app.last_epoch = batch.epoch;
                        app.last_timestamp = batch.append_timestamp;
                        self.truth.see(id, batch.last_offset + 1, app.hash);
                    }
                }
            }
        }
        let reached = app.next_offset.unwrap_or(0);
        if reached < upto {
            self.truth.violations.push(format!("node {id} reads to {reached}, though {upto} is committed"));
        }
    }

    fn check_leader(&mut self, id: i32) {
        let Some(quorum) = &self.nodes[&id].quorum else { return };
        quorum.check();
        if quorum.is_leader() {
            let epoch = quorum.epoch();
            let known = *self.truth.leaders.entry(epoch).or_insert(id);
            if known != id {
                self.truth.violations.push(format!("epoch {epoch} has two leaders, {known} and {id}"));
            }
        }
    }

    // What tests do and ask.

    pub fn leader(&self) -> Option<i32> {
        let leads = |node: &&Node| node.quorum.is_some() && node.app.leads.is_some();
        let best = self.nodes.values().filter(leads).max_by_key(|node| node.app.leads)?;
        Some(best.cfg.node_id)
    }

    pub fn quorum(&self, id: i32) -> &Quorum {
        self.nodes[&id].quorum.as_ref().expect("it runs")
    }

    /// The leader's state machine writes a new value; its offset.
    pub fn propose(&mut self) -> Option<i64> {
        self.propose_many(1)
    }

    pub fn propose_many(&mut self, count: usize) -> Option<i64> {
        let id = self.leader()?;
        let epoch = self.nodes[&id].app.leads?;
        let values: Vec<Vec<u8>> = (0..count as u64).map(|n| (self.value_next + n).to_be_bytes().to_vec()).collect();
        self.value_next += count as u64;
        let now = self.now;
        self.with(id, |quorum| quorum.append(epoch, &values, now).ok()).flatten()
    }

    pub fn has_applied(&self, id: i32, offset: i64) -> bool {
        let node = &self.nodes[&id];
        node.quorum.is_some() && node.app.next_offset.is_some_and(|next| next > offset)
    }

    pub fn everyone_has_applied(&self, offset: i64) -> bool {
        self.nodes.keys().all(|&id| self.nodes[&id].quorum.is_none() || self.has_applied(id, offset))
    }

    /// The node's state machine makes a snapshot of where it stands.
    pub fn snapshot(&mut self, id: i32) -> Option<OffsetAndEpoch> {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        let (quorum, app) = (node.quorum.as_mut()?, &node.app);
        let at = OffsetAndEpoch::new(app.next_offset?, app.last_epoch);
        let mut writer = quorum.begin_snapshot(at, app.last_timestamp, now).expect("applied state is committed")?;
        writer.append(app.hash.to_be_bytes().to_vec(), now).expect("memory");
        let frozen = writer.finish(now).expect("memory");
        quorum.end_snapshot(frozen);
        Some(at)
    }

    /// An operator asks a node to take a replica into the voters; the outcome, within a few seconds.
    pub fn add_voter(&mut self, at: i32, new: i32) -> Option<ErrorCode> {
        let cfg = &self.nodes[&new].cfg;
        let request = AddRaftVoterRequest {
            cluster_id: None,
            voter_id: new,
            voter_directory_id: cfg.directory_id,
            listeners: vec![protocol::messages::add_raft_voter_request::Listener {
                name: LISTENER.into(),
                host: endpoint(new).host.into(),
                port: endpoint(new).port,
                ..Default::default()
            }],
            ack_when_committed: true,
            ..Default::default()
        };
        self.change_voters(at, |quorum, token, now| quorum.on_add_raft_voter(&request, token, now))
    }

    pub fn remove_voter(&mut self, at: i32, old: ReplicaKey) -> Option<ErrorCode> {
        let request = RemoveRaftVoterRequest {
            cluster_id: None,
            voter_id: old.id,
            voter_directory_id: old.directory_or_zero(),
            ..Default::default()
        };
        self.change_voters(at, |quorum, token, now| quorum.on_remove_raft_voter(&request, token, now))
    }

    fn change_voters(
        &mut self,
        at: i32,
        change: impl FnOnce(&mut Quorum, VoterChangeToken, protocol::time::Now),
    ) -> Option<ErrorCode> {
        self.value_next += 1;
        let token = VoterChangeToken(u64::MAX - self.value_next);
        let now = self.now;
        self.with(at, |quorum| change(quorum, token, now));
        self.run_until(5_000, |c| c.changes.contains_key(&token));
        self.changes.remove(&token)
    }

    pub fn describe(&mut self, id: i32, version: i16) -> DescribeQuorumResponse<'static> {
        use protocol::messages::describe_quorum_request::{PartitionData, TopicData};
        let topic = TopicData {
            topic_name: crate::types::METADATA_TOPIC.into(),
            partitions: vec![PartitionData::default()],
            ..Default::default()
        };
        let request = DescribeQuorumRequest { topics: vec![topic], ..Default::default() };
        let now = self.now;
        let ctx = RequestContext { version, listener: LISTENER };
        self.with(id, |quorum| quorum.on_describe_quorum(ctx, &request, now)).expect("it runs")
    }

    pub fn expect_sound(&self) {
        let (violations, trace) = (&self.truth.violations, self.trace.join("\n"));
        assert!(violations.is_empty(), "{violations:#?}\n{trace}");
    }

    /// Waits for a leader that everybody running follows.
    pub fn settle_leader(&mut self, ms: i64) -> i32 {
        let agreed = |c: &Cluster| {
            let leader = c.leader();
            let follow = |node: &Node| node.quorum.is_none() || node.app.leader_seen == leader;
            leader.is_some() && c.nodes.values().all(follow)
        };
        let found = self.run_until(ms, agreed);
        assert!(found, "no leader within {ms} ms\n{}", self.trace.join("\n"));
        self.leader().expect("agreed")
    }

    pub fn path(name: &str) -> PathBuf {
        dir().join(name)
    }
}

impl Truth {
    /// A replica's state at an offset has to be every other replica's.
    fn see(&mut self, id: i32, offset: i64, hash: u64) {
        let known = *self.states.entry(offset).or_insert(hash);
        if known != hash {
            self.violations.push(format!("node {id} differs from others at committed offset {offset}"));
        }
        self.committed = self.committed.max(offset);
    }
}

fn encode<M: Message>(message: &M, version: i16) -> Vec<u8> {
    encode_all(message, version).expect("our own answers fit the version they were made for")
}
