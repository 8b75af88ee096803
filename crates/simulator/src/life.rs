//! A life of a cluster: clients at work, a minute of misfortunes, and then the peace in which all must come right.

use broker::Mutations;

use crate::client::{Client, PARTITIONS, Role};
use crate::consumer::Consumer;
use crate::creator::Creator;
use crate::faults::Faults;
use crate::producer::Producer;
use crate::reassigner::Reassigner;
use crate::world::World;

pub const NODES: i32 = 3;
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
    // Every fourth life has topics only, and machines that lose power as they like.
    let has_records = !seed.is_multiple_of(4);
    // And every fourth a topic of which only the latest values have to stay.
    let is_compacted = seed % 4 == 2;
    world.checkers.acknowledged.is_compacted = is_compacted;
    world.checkers.replicas.is_compacted = is_compacted;
    let creator = if has_records { Creator::of_one(is_compacted) } else { Creator::of_many(seed) };
    world.add_client(Client::new(Role::Creator(creator), NODES, seed));
    if has_records {
        add_readers_and_writers(&mut world, is_compacted, seed);
        // In every other of the lives with records partitions move about.
        if seed.is_multiple_of(2) {
            world.add_client(Client::new(Role::Reassigner(Reassigner::new(seed)), NODES, seed + 30));
        }
    } else {
        // Disks so slow that whoever does not wait for them is caught.
        world.flush_ms = (0, 1 + world.rng.i64(0..200));
    }
    let start = world.now.mono_ms;
    begin(&mut world);
    let mut faults = Faults::new(has_records);
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
        acknowledged: acknowledged(&world),
        metadata_batches: world.checkers.quorum.count(),
        sim_ms: world.now.mono_ms - start,
        violations: world.checkers.violations,
    }
}

fn add_readers_and_writers(world: &mut World, is_compacted: bool, seed: u64) {
    for name in 0..PRODUCERS {
        let producer = Producer::new(name, name as i32 % PARTITIONS, is_compacted, seed + name as u64);
        world.add_client(Client::new(Role::Producer(producer), NODES, seed + 10 + name as u64));
    }
    for partition in 0..PARTITIONS {
        world.add_client(Client::new(Role::Consumer(Consumer::new(partition)), NODES, seed + 20 + partition as u64));
    }
}

/// A cluster that nothing happens to gets its topic and takes records.
fn begin(world: &mut World) {
    let until = world.now.mono_ms + BEGIN_MS;
    while acknowledged(world) < 10 && world.checkers.violations.is_empty() {
        if world.now.mono_ms >= until {
            return world.checkers.violation(format!("{BEGIN_MS} ms after the start nothing is taken"));
        }
        world.run_until(world.now.mono_ms + 100);
    }
}

/// No faults any more: what is under way is acknowledged, everything is read, and the replicas are whole.
fn come_right(world: &mut World) {
    let until = world.now.mono_ms + PEACE_MS;
    for client in &mut world.clients {
        match &mut client.role {
            Role::Producer(producer) => producer.is_draining = true,
            Role::Creator(creator) => creator.is_draining = true,
            Role::Reassigner(reassigner) => reassigner.is_draining = true,
            Role::Consumer(_) => {}
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
    if world.checkers.acknowledged.is_compacted {
        world.look_at_latest();
    }
}

fn what_is_missing(world: &World) -> Option<String> {
    for (i, client) in world.clients.iter().enumerate() {
        match &client.role {
            Role::Creator(creator) => {
                let has = |topic: &String| world.hosts.values().all(|host| host.has_topic(topic));
                if let Some(missing) = creator.created.iter().find(|topic| !has(topic)) {
                    return Some(format!("{missing} was created and is not there"));
                }
                if !creator.is_done() {
                    return Some("the topic is not there".to_owned());
                }
            }
            Role::Reassigner(reassigner) if !reassigner.is_done() => {
                return Some("not every partition was brought back to all nodes".to_owned());
            }
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

/// Records, or topics in a life without records.
fn acknowledged(world: &World) -> usize {
    let topics = world.clients.iter().map(|client| match &client.role {
        Role::Creator(creator) => creator.created.len().saturating_sub(1),
        _ => 0,
    });
    world.checkers.acknowledged.count() + topics.sum::<usize>()
}
