//! A life of a cluster: clients at work, a minute of misfortunes, and then the peace in which all must come right.

use broker::{Mutations, Node, NodeStatus, PartitionStatus};

use crate::client::{Client, PARTITIONS, Role};
use crate::consumer::Consumer;
use crate::network::CLIENTS;
use crate::producer::Producer;
use crate::world::World;

const NODES: i32 = 3;
const PRODUCERS: usize = 3;
const FAULTS_MS: i64 = 30_000;
/// For everything to be whole again once nothing goes wrong any more.
const PEACE_MS: i64 = 60_000;
const BEGIN_MS: i64 = 10_000;
const LOOK_MS: i64 = 500;

pub struct Outcome {
    pub violations: Vec<String>,
    pub digest: u64,
    pub events: u64,
    pub acknowledged: usize,
    pub metadata_batches: usize,
    pub sim_ms: i64,
}

pub fn live(seed: u64, mutations: Mutations, is_printed: bool) -> Outcome {
    let mut world = World::new(seed, NODES, mutations);
    world.trace.is_printed = is_printed;
    world.net.delay_ms = (0, 1 + world.rng.i64(0..15));
    world.flush_ms = (0, 1 + world.rng.i64(0..15));
    for id in 1..=NODES {
        world.start(id);
    }
    world.add_client(Client::new(Role::Creator { is_done: false }, NODES, seed));
    for name in 0..PRODUCERS {
        let producer = Producer::new(name, name as i32 % PARTITIONS, seed + name as u64);
        world.add_client(Client::new(Role::Producer(producer), NODES, seed + 10 + name as u64));
    }
    for partition in 0..PARTITIONS {
        world.add_client(Client::new(Role::Consumer(Consumer::new(partition)), NODES, seed + 20 + partition as u64));
    }
    let start = world.now.mono_ms;
    begin(&mut world);
    let mut faults = Faults::default();
    let until = world.now.mono_ms + FAULTS_MS;
    while world.now.mono_ms < until && world.checkers.violations.is_empty() {
        let pause = world.rng.i64(20..LOOK_MS * 2);
        world.run_until((world.now.mono_ms + pause).min(until));
        world.look_at_disks();
        // Troubles add up now and then; mostly one is over before the next begins.
        if faults.troubles(&world) > 0 && world.rng.u32(0..5) < 2 {
            faults.relieve(&mut world);
        } else {
            faults.inflict(&mut world);
        }
    }
    if world.checkers.violations.is_empty() {
        faults.heal(&mut world);
        come_right(&mut world);
    }
    if !world.checkers.violations.is_empty() {
        world.print_statuses();
    }
    Outcome {
        digest: world.trace.digest(),
        events: world.trace.events,
        acknowledged: world.checkers.acknowledged.count(),
        metadata_batches: world.checkers.quorum.count(),
        sim_ms: world.now.mono_ms - start,
        violations: world.checkers.violations,
    }
}

/// A cluster that nothing happens to gets its topic and takes records.
fn begin(world: &mut World) {
    let until = world.now.mono_ms + BEGIN_MS;
    while world.checkers.acknowledged.count() < 10 && world.checkers.violations.is_empty() {
        if world.now.mono_ms >= until {
            return world.checkers.violation(format!("{BEGIN_MS} ms after the start no records are taken"));
        }
        world.run_until(world.now.mono_ms + 100);
    }
}

/// No faults any more: what is under way is acknowledged, everything is read, and the replicas are whole.
fn come_right(world: &mut World) {
    let until = world.now.mono_ms + PEACE_MS;
    for client in &mut world.clients {
        if let Role::Producer(producer) = &mut client.role {
            producer.is_draining = true;
        }
    }
    world.wake_clients();
    while let Some(missing) = what_is_missing(world) {
        if world.now.mono_ms >= until {
            world.checkers.violation(format!("{PEACE_MS} ms after the last fault: {missing}"));
            return;
        }
        world.run_until(world.now.mono_ms + LOOK_MS);
        if !world.checkers.violations.is_empty() {
            return;
        }
    }
    world.look_at_disks();
    let violations = &mut world.checkers.violations;
    world.checkers.acknowledged.finish(violations);
}

fn what_is_missing(world: &World) -> Option<String> {
    for (i, client) in world.clients.iter().enumerate() {
        match &client.role {
            Role::Creator { is_done } if !is_done => return Some("the topic is not there".to_owned()),
            Role::Producer(producer) if !producer.is_done() => {
                return Some(format!("producer {i} has no answer for its last batch"));
            }
            Role::Consumer(consumer) => {
                let readable = world.checkers.high_watermark.seen(consumer.partition).max(consumer.high_watermark);
                let end = world.checkers.acknowledged.end_of(consumer.partition).max(readable);
                if consumer.position < end {
                    return Some(format!("consumer {i} is at {} of {end}", consumer.position));
                }
            }
            _ => {}
        }
    }
    let mut ends = std::collections::BTreeMap::new();
    for (id, host) in &world.hosts {
        let Some(node) = &host.node else { return Some(format!("node {id} is down")) };
        let status = node.status();
        if !status.is_ready() {
            return Some(format!("node {id} is not ready: {:?}", status.broker.map(|broker| broker.state)));
        }
        for partition in status.broker.iter().flat_map(|broker| &broker.partitions) {
            let name = format!("{}-{}", partition.topic, partition.partition);
            let seen = (partition.log_end, partition.high_watermark);
            let known = *ends.entry(name.clone()).or_insert(seen);
            if known != seen || partition.log_end != partition.high_watermark {
                return Some(format!("replicas of {name} differ: {known:?} and, on node {id}, {seen:?}"));
            }
            if partition.is_leader && partition.isr.len() != NODES as usize {
                return Some(format!("the ISR of {name} is {:?}", partition.isr));
            }
        }
    }
    None
}

/// What is wrong at the moment, and what may go wrong next.
///
/// Records that are acknowledged by acks=all are in the page caches of all in-sync replicas and need not be on any
/// disk: as with Kafka, one machine that loses power costs nothing, and several at once may. So no other loses power
/// before the first one is whole again.
#[derive(Default)]
struct Faults {
    /// Lost unsynced writes, and may not have got them back from others yet.
    damaged: Option<i32>,
}

impl Faults {
    fn inflict(&mut self, world: &mut World) {
        if self.damaged.is_some_and(|id| is_whole(world, id)) {
            self.damaged = None;
        }
        let id = world.rng.i32(1..=NODES);
        let other = world.rng.i32(0..=NODES);
        match world.rng.u32(0..13) {
            0..=1 => world.kill(id),
            2 => self.kill_leader(world),
            3 if self.damaged.is_none() && world.hosts[&id].is_powered => {
                self.damaged = Some(id);
                world.cut_power(id);
            }
            4..=5 if id != other => {
                world.net.cut(id, other);
                world.note(&format!("cut {id} {other}"));
            }
            // A node that sees the clients and nobody else, or the other way round.
            6 => {
                for machine in CLIENTS..=NODES {
                    if machine != id && (machine == CLIENTS) == world.rng.bool() {
                        world.net.cut(id, machine);
                    }
                }
                world.note(&format!("isolate {id}"));
            }
            7 => world.pause(id, true),
            8..=10 => world.break_connection(),
            11 => self.kill_all(world),
            _ => {}
        }
    }

    /// How much is wrong right now.
    fn troubles(&self, world: &World) -> usize {
        let is_troubled = |host: &crate::world::Host| host.node.is_none() || host.is_paused;
        world.hosts.values().filter(|host| is_troubled(host)).count() + usize::from(!world.net.is_whole())
    }

    fn relieve(&mut self, world: &mut World) {
        if world.rng.bool() {
            world.net.heal();
            world.note("heal");
        }
        for id in 1..=NODES {
            if world.rng.u32(0..3) > 0 {
                self.bring_back(world, id);
            }
        }
    }

    fn kill_leader(&self, world: &mut World) {
        let leads = |status: NodeStatus| {
            status.broker.is_some_and(|broker| broker.partitions.iter().any(|partition| partition.is_leader))
        };
        let leader = world.hosts.iter().find(|(_, host)| host.node.as_ref().is_some_and(|node| leads(node.status())));
        if let Some(id) = leader.map(|(id, _)| *id) {
            world.kill(id);
        }
    }

    fn kill_all(&self, world: &mut World) {
        for id in 1..=NODES {
            world.kill(id);
        }
    }

    fn bring_back(&self, world: &mut World, id: i32) {
        let host = world.hosts.get_mut(&id).expect("a host of this world");
        host.is_powered = true;
        if host.is_paused {
            world.pause(id, false);
        }
        world.start(id);
    }

    fn heal(&mut self, world: &mut World) {
        world.net.heal();
        world.note("peace");
        for id in 1..=NODES {
            self.bring_back(world, id);
        }
    }
}

/// Whether a node has everything again, is in sync in all partitions, and is known to be by those who lead them. That
/// it still stands in an ISR proves nothing: it may stand there from before.
fn is_whole(world: &World, id: i32) -> bool {
    let statuses: Vec<_> = world.hosts.values().filter_map(|host| host.node.as_ref()).map(Node::status).collect();
    let partitions = |status: &NodeStatus| -> Vec<PartitionStatus> {
        status.broker.iter().flat_map(|broker| broker.partitions.clone()).collect()
    };
    let Some(own) = statuses.iter().find(|status| status.node_id == id && status.is_ready()).map(partitions) else {
        return false;
    };
    let mut led = 0;
    for theirs in statuses.iter().flat_map(partitions) {
        let ours = own.iter().find(|p| p.topic == theirs.topic && p.partition == theirs.partition);
        if ours.is_none_or(|ours| ours.log_end < theirs.log_end) {
            return false;
        }
        if theirs.is_leader {
            if !theirs.isr.contains(&id) {
                return false;
            }
            led += 1;
        }
    }
    let end = |partition: i32| own.iter().find(|p| p.partition == partition).map_or(-1, |p| p.log_end);
    let has_all = (0..PARTITIONS).all(|partition| end(partition) >= world.checkers.high_watermark.seen(partition));
    led >= PARTITIONS && has_all
}
