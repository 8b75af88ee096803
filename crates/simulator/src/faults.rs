//! What goes wrong in a life: processes, machines and connections that break, one at a time or several.

use broker::{Node, NodeStatus, PartitionStatus};

use crate::client::PARTITIONS;
use crate::life::NODES;
use crate::network::CLIENTS;
use crate::world::World;

/// What is wrong at the moment, and what may go wrong next.
///
/// Records that are acknowledged by acks=all are in the page caches of all in-sync replicas and need not be on any
/// disk: as with Kafka, one machine that loses power costs nothing, and several at once may. So no other loses power
/// before the first one is whole again.
/// Metadata is on the disks of a majority before anybody is told: there any machine may lose power at any time, and
/// `spares_records` is off in lives that have no records to lose.
pub struct Faults {
    spares_records: bool,
    /// Lost unsynced writes, and may not have got them back from others yet.
    damaged: Option<i32>,
}

impl Faults {
    pub fn new(spares_records: bool) -> Self {
        Self { spares_records, damaged: None }
    }

    pub fn inflict(&mut self, world: &mut World) {
        if self.damaged.is_some_and(|id| is_whole(world, id)) {
            self.damaged = None;
        }
        let id = world.rng.i32(1..=NODES);
        let other = world.rng.i32(0..=NODES);
        match world.rng.u32(0..16) {
            0..=1 => world.kill(id),
            2 => self.kill_leader(world),
            3 => self.cut_power(world, id),
            12 if !self.spares_records => {
                // A rack.
                for id in 1..=NODES {
                    if world.rng.u32(0..3) > 0 {
                        self.cut_power(world, id);
                    }
                }
            }
            12..=13 => self.kill_two_leaders(world),
            14 => self.flap(world),
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
    pub fn troubles(&self, world: &World) -> usize {
        let is_troubled = |host: &crate::world::Host| host.node.is_none() || host.is_paused;
        world.hosts.values().filter(|host| is_troubled(host)).count() + usize::from(!world.net.is_whole())
    }

    pub fn relieve(&mut self, world: &mut World) {
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

    fn cut_power(&mut self, world: &mut World, id: i32) {
        if world.hosts[&id].is_powered && (self.damaged.is_none() || !self.spares_records) {
            self.damaged = Some(id);
            world.cut_power(id);
        }
    }

    /// A leader dies, and its successor as soon as it has taken over; then the first one is back.
    fn kill_two_leaders(&self, world: &mut World) {
        let Some(first) = leader_of_some(world) else { return };
        world.kill(first);
        let until = world.now.mono_ms + 3_000;
        while world.now.mono_ms < until && world.checkers.violations.is_empty() {
            world.run_until(world.now.mono_ms + 1);
            if let Some(second) = leader_of_some(world) {
                let wait = world.rng.i64(0..20);
                world.run_until(world.now.mono_ms + wait);
                world.kill(second);
                self.bring_back(world, first);
                return;
            }
        }
    }

    /// Processes that die and are started again at once, in the middle of whatever that sets off.
    fn flap(&self, world: &mut World) {
        for _ in 0..8 {
            let id = world.rng.i32(1..=NODES);
            world.kill(id);
            self.bring_back(world, id);
            let wait = world.rng.i64(0..60);
            world.run_until(world.now.mono_ms + wait);
        }
    }

    fn kill_leader(&self, world: &mut World) {
        if let Some(id) = leader_of_some(world) {
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

    pub fn heal(&mut self, world: &mut World) {
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

/// A node that leads a partition, or, where there is none, the quorum.
fn leader_of_some(world: &World) -> Option<i32> {
    let statuses: Vec<NodeStatus> =
        world.hosts.values().filter_map(|host| host.node.as_ref()).map(Node::status).collect();
    let leads = |status: &&NodeStatus| {
        status.broker.as_ref().is_some_and(|broker| broker.partitions.iter().any(|partition| partition.is_leader))
    };
    let leader = statuses.iter().find(leads).or_else(|| statuses.iter().find(|status| status.quorum.is_leader));
    leader.map(|status| status.node_id)
}
