//! The uniform assignor where all members subscribe to the same topics: everybody gets the same number of partitions, or
//! one more, and keeps of its own what fits into that.

use std::collections::{BTreeMap, BTreeSet};

use protocol::wire::Uuid;

use super::MemberSpec;
use crate::consumer::Partitions;

pub(super) fn assign(members: &[MemberSpec<'_>], counts: &BTreeMap<Uuid, i32>) -> BTreeMap<String, Partitions> {
    let Some(first) = members.first() else { return BTreeMap::new() };
    let topics: Vec<(Uuid, i32)> =
        first.topics.iter().map(|topic| (*topic, counts.get(topic).copied().unwrap_or(0))).collect();
    let total: usize = topics.iter().map(|(_, count)| usize::try_from(*count).unwrap_or(0)).sum();
    let quota = total / members.len();
    let mut extras = total % members.len();
    let kept: Vec<usize> = members.iter().map(|member| still_assigned(member).count()).collect();
    // Who has more than the quota keeps one more; what is left of the extras goes to the first of the others.
    let mut quotas: Vec<usize> = Vec::with_capacity(members.len());
    for kept in &kept {
        let more = extras > 0 && *kept > quota;
        extras -= usize::from(more);
        quotas.push(quota + usize::from(more));
    }
    for allowed in &mut quotas {
        if extras > 0 && *allowed == quota {
            *allowed += 1;
            extras -= 1;
        }
    }
    let mut taken: BTreeSet<(Uuid, i32)> = BTreeSet::new();
    let mut assigned: Vec<Partitions> = Vec::with_capacity(members.len());
    for (member, allowed) in members.iter().zip(&quotas) {
        let mut keeps = Partitions::new();
        for (topic, partition) in still_assigned(member).take(*allowed) {
            keeps.entry(topic).or_default().insert(partition);
            taken.insert((topic, partition));
        }
        assigned.push(keeps);
    }
    let all = topics.iter().flat_map(|(topic, count)| (0..*count).map(|partition| (*topic, partition)));
    let mut free = all.filter(|partition| !taken.contains(partition));
    for (partitions, (allowed, kept)) in assigned.iter_mut().zip(quotas.iter().zip(&kept)) {
        for (topic, partition) in free.by_ref().take(allowed.saturating_sub(*kept)) {
            partitions.entry(topic).or_default().insert(partition);
        }
    }
    members.iter().zip(assigned).map(|(member, partitions)| (member.id.to_owned(), partitions)).collect()
}

/// What a member has of the topics that it still subscribes to.
fn still_assigned<'a>(member: &'a MemberSpec<'_>) -> impl Iterator<Item = (Uuid, i32)> + 'a {
    let wanted = member.assigned.iter().filter(|(topic, _)| member.topics.contains(topic));
    wanted.flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)))
}
