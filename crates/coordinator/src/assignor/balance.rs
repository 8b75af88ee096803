//! The uniform assignor where members subscribe to different topics: what is unassigned goes to the least loaded
//! subscriber, hardest topics first; then partitions move from loaded to less loaded subscribers as long as that helps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use protocol::wire::Uuid;

use super::MemberSpec;
use crate::consumer::Partitions;

/// Overlapping subscriptions may take many rounds to settle, each of which halves about half of what is left.
const ROUNDS_MAX: usize = 16;

struct Balance {
    /// By topic: its subscribers, as places in the list of members.
    subscribers: BTreeMap<Uuid, Vec<usize>>,
    /// By topic: the owner of each partition.
    owners: BTreeMap<Uuid, Vec<Option<usize>>>,
    /// By member: how many partitions it owns.
    load: Vec<usize>,
}

pub(super) fn assign(members: &[MemberSpec<'_>], counts: &BTreeMap<Uuid, i32>) -> BTreeMap<String, Partitions> {
    let mut balance = Balance::new(members, counts);
    let mut topics: Vec<Uuid> = balance.subscribers.keys().copied().collect();
    // Partitions per subscriber, most first; then few subscribers. Compared crosswise, to stay with whole numbers.
    topics.sort_by(|one, other| {
        let of = |topic: &Uuid| {
            let partitions = balance.owners.get(topic).map_or(0, Vec::len) as u64;
            (partitions, balance.subscribers.get(topic).map_or(1, Vec::len).max(1) as u64)
        };
        let ((partitions, subscribers), (other_partitions, other_subscribers)) = (of(one), of(other));
        let by_density = Reverse(partitions * other_subscribers).cmp(&Reverse(other_partitions * subscribers));
        by_density.then(subscribers.cmp(&other_subscribers))
    });
    for topic in &topics {
        balance.assign_rest(*topic);
    }
    for _ in 0..ROUNDS_MAX {
        let mut moved = false;
        for topic in &topics {
            moved |= balance.level(*topic);
        }
        if !moved {
            break;
        }
    }
    balance.into_assignments(members)
}

impl Balance {
    fn new(members: &[MemberSpec<'_>], counts: &BTreeMap<Uuid, i32>) -> Self {
        let mut balance =
            Balance { subscribers: BTreeMap::new(), owners: BTreeMap::new(), load: vec![0; members.len()] };
        for (at, member) in members.iter().enumerate() {
            for topic in &member.topics {
                balance.subscribers.entry(*topic).or_default().push(at);
                let count = usize::try_from(counts.get(topic).copied().unwrap_or(0)).unwrap_or(0);
                balance.owners.entry(*topic).or_insert_with(|| vec![None; count]);
            }
        }
        for (at, member) in members.iter().enumerate() {
            for (topic, partitions) in member.assigned.iter().filter(|(topic, _)| member.topics.contains(topic)) {
                let Some(owners) = balance.owners.get_mut(topic) else { continue };
                for partition in partitions {
                    let slot = usize::try_from(*partition).ok().and_then(|partition| owners.get_mut(partition));
                    if let Some(slot @ None) = slot {
                        *slot = Some(at);
                        if let Some(load) = balance.load.get_mut(at) {
                            *load += 1;
                        }
                    }
                }
            }
        }
        balance
    }

    fn load(&self, member: usize) -> usize {
        self.load.get(member).copied().unwrap_or(0)
    }

    fn give(&mut self, topic: Uuid, partition: usize, member: usize) {
        let slot = self.owners.get_mut(&topic).and_then(|owners| owners.get_mut(partition));
        let Some(slot) = slot else { return };
        if let Some(load) = slot.and_then(|before| self.load.get_mut(before)) {
            *load -= 1;
        }
        *slot = Some(member);
        if let Some(load) = self.load.get_mut(member) {
            *load += 1;
        }
    }

    fn by_load(&self, topic: Uuid) -> BTreeSet<(usize, usize)> {
        let subscribers = self.subscribers.get(&topic).into_iter().flatten();
        subscribers.map(|member| (self.load(*member), *member)).collect()
    }

    fn assign_rest(&mut self, topic: Uuid) {
        let mut by_load = self.by_load(topic);
        let owners = self.owners.get(&topic).into_iter().flatten().enumerate();
        let free: Vec<usize> = owners.filter(|(_, owner)| owner.is_none()).map(|(partition, _)| partition).collect();
        for partition in free {
            let Some((load, member)) = by_load.pop_first() else { return };
            self.give(topic, partition, member);
            by_load.insert((load + 1, member));
        }
    }

    /// Moves partitions of one topic until its subscribers differ by one at most, as far as this topic can do that.
    fn level(&mut self, topic: Uuid) -> bool {
        let mut by_load = self.by_load(topic);
        let spread = by_load.last().map_or(0, |l| l.0) - by_load.first().map_or(0, |f| f.0);
        if spread <= 1 {
            return false;
        }
        let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (partition, owner) in self.owners.get(&topic).into_iter().flatten().enumerate() {
            if let Some(owner) = owner {
                owned.entry(*owner).or_default().push(partition);
            }
        }
        let mut givers: BTreeSet<(usize, usize)> = owned.keys().map(|member| (self.load(*member), *member)).collect();
        let mut moved = false;
        while let (Some(most), Some(least)) = (givers.last().copied(), by_load.first().copied()) {
            if most.0 <= least.0 + 1 {
                break;
            }
            let Some(partition) = owned.get_mut(&most.1).and_then(Vec::pop) else {
                givers.remove(&most);
                continue;
            };
            self.give(topic, partition, least.1);
            moved = true;
            for (side, before, after) in [(most.1, most.0, most.0 - 1), (least.1, least.0, least.0 + 1)] {
                by_load.remove(&(before, side));
                by_load.insert((after, side));
                if givers.remove(&(before, side)) || side == least.1 {
                    givers.insert((after, side));
                }
            }
            owned.entry(least.1).or_default().push(partition);
        }
        moved
    }

    fn into_assignments(self, members: &[MemberSpec<'_>]) -> BTreeMap<String, Partitions> {
        let mut assigned: BTreeMap<String, Partitions> = BTreeMap::new();
        for (topic, owners) in self.owners {
            for (partition, owner) in owners.into_iter().enumerate() {
                if let Some(member) = owner.and_then(|at| members.get(at)) {
                    let partitions = assigned.entry(member.id.to_owned()).or_default();
                    partitions.entry(topic).or_default().insert(partition as i32);
                }
            }
        }
        assigned
    }
}
