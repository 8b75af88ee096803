//! The range assignor: of each topic, every subscriber gets a range; the first ones one partition more if they must.

use std::collections::BTreeMap;

use protocol::wire::Uuid;

use super::MemberSpec;
use crate::consumer::Partitions;

pub(super) fn assign(members: &[MemberSpec<'_>], counts: &BTreeMap<Uuid, i32>) -> BTreeMap<String, Partitions> {
    let mut ordered: Vec<&MemberSpec<'_>> = members.iter().collect();
    // Static members come first, by instance, so that a new member id moves nothing.
    ordered.sort_by_key(|member| (member.instance.is_none(), member.instance, member.id));
    let mut subscribers: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
    for member in ordered {
        for topic in &member.topics {
            subscribers.entry(*topic).or_default().push(member.id);
        }
    }
    let mut assigned: BTreeMap<String, Partitions> = BTreeMap::new();
    for (topic, subscribers) in subscribers {
        let count = usize::try_from(counts.get(&topic).copied().unwrap_or(0)).unwrap_or(0);
        let (each, more) = (count / subscribers.len(), count % subscribers.len());
        let mut next = 0;
        for (at, id) in subscribers.into_iter().enumerate() {
            let end = next + each + usize::from(at < more);
            if next < end {
                let range = (next as i32)..(end as i32);
                assigned.entry(id.to_owned()).or_default().insert(topic, range.collect());
            }
            next = end;
        }
    }
    assigned
}
