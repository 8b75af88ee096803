//! Seeded lives of a group: members of both protocols come, go, are slow and fall silent, topics grow, coordinators die.
//! At any time a partition is used by one member at most; when it is quiet all are used.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::wire::Uuid;

use super::consumer::Client;
use super::{Bench, bench_with};
use crate::*;

struct Life {
    b: Bench,
    rng: fastrand::Rng,
    clients: BTreeMap<String, Client>,
    names: usize,
}

impl Life {
    fn check_owners(&self, seed: u64) {
        let mut owners: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        for (name, client) in &self.clients {
            for partition in &client.owned {
                let other = owners.insert(*partition, name);
                assert_eq!(other, None, "seed {seed}: {partition:?} is used by {name} too");
            }
        }
    }

    fn step(&mut self) {
        match self.rng.u8(..100) {
            0..6 if self.clients.len() < 8 => {
                self.names += 1;
                let name = format!("m{}", self.names);
                let mut client = Client::new(&name, &["a", "b"]);
                match self.rng.u8(..4) {
                    0 => client.topics.truncate(1),
                    1 => {
                        client.topics.clear();
                        client.regex = Some("[ab]".to_owned());
                    }
                    2 => client.instance = Some(format!("i-{name}")),
                    _ => {}
                }
                self.clients.insert(name, client);
            }
            6..9 => {
                if let Some(name) = self.any() {
                    let client = self.clients.remove(&name).expect("there");
                    let epoch = if client.instance.is_some() && self.rng.bool() { -2 } else { -1 };
                    let request =
                        protocol::messages::ConsumerGroupHeartbeatRequest { member_epoch: epoch, ..client.request() };
                    self.b.send(&request);
                    if epoch == -2 {
                        // It is started again under another id.
                        self.names += 1;
                        let name = format!("m{}", self.names);
                        let again = Client { id: name.clone(), epoch: 0, owned: BTreeSet::new(), ..client };
                        self.clients.insert(name, Client { told: BTreeSet::new(), ..again });
                    }
                }
            }
            9..11 => {
                // It dies: nothing is heard of it, and what it had is not used any more.
                if let Some(name) = self.any() {
                    self.clients.remove(&name);
                }
            }
            11..13 => {
                let topic = self.rng.u8(1..3);
                let partitions = self.b.facts.topics.get(&Uuid([topic; 16])).expect("put").partitions;
                if partitions < 20 {
                    self.b.facts.put(topic, if topic == 1 { "a" } else { "b" }, partitions + 1);
                    self.b.shard.on_topics_changed(false, &self.b.facts);
                }
            }
            13..15 => self.b.fail_over(),
            15..60 => {
                if let Some(name) = self.any() {
                    self.beat(&name);
                }
            }
            60..85 => {
                if let Some(client) = self.any().and_then(|name| self.clients.get_mut(&name)) {
                    client.follow();
                }
            }
            _ => {
                let ms = self.rng.i64(1..600);
                self.b.pass(ms);
            }
        }
    }

    fn any(&mut self) -> Option<String> {
        let at = self.rng.usize(..self.clients.len().max(1));
        self.clients.keys().nth(at).cloned()
    }

    fn beat(&mut self, name: &str) {
        let Some(client) = self.clients.get_mut(name) else { return };
        client.says_all = client.epoch == 0 || self.rng.bool();
        let response = self.b.send(&client.request());
        // A lost answer: the member asks again with the epoch that it knows.
        if client.epoch > 0 && self.rng.u8(..10) == 0 {
            return;
        }
        let code = ErrorCode::from_i16(response.error_code);
        let expected = [
            ErrorCode::None,
            ErrorCode::UnknownMemberId,
            ErrorCode::FencedMemberEpoch,
            ErrorCode::UnreleasedInstanceId,
            ErrorCode::FencedInstanceId,
            ErrorCode::GroupIdNotFound,
        ];
        assert!(expected.contains(&code), "{code:?}: {:?}", response.error_message);
        client.hear(&response);
        // Partitions that it must give up are not processed from here on, but it may be slow to say so.
    }
}

/// Whether all was well; a planted fault may also be noticed by the machine's own asserts.
fn live(seed: u64, mutations: GroupMutations) {
    let config = GroupConfig { initial_rebalance_delay_ms: 0, mutations, ..GroupConfig::default() };
    let mut b = bench_with(config);
    b.facts.put(1, "a", 3);
    b.facts.put(2, "b", 2);
    let mut life = Life { b, rng: fastrand::Rng::with_seed(seed), clients: BTreeMap::new(), names: 0 };
    for _ in 0..400 {
        life.step();
        life.check_owners(seed);
    }
    // Quiet: the living follow, the dead are noticed.
    for _ in 0..70 {
        life.b.pass(1_500);
        let names: Vec<String> = life.clients.keys().cloned().collect();
        for name in names {
            let client = life.clients.get_mut(&name).expect("there");
            client.says_all = client.epoch == 0;
            let response = life.b.send(&client.request());
            client.hear(&response);
            client.follow();
            life.check_owners(seed);
        }
    }
    let wanted: BTreeSet<String> = life
        .clients
        .values()
        .flat_map(|c| if c.regex.is_some() { vec!["a".to_owned(), "b".to_owned()] } else { c.topics.clone() })
        .collect();
    let partitions: i32 = life.b.facts.topics.values().filter(|t| wanted.contains(&t.name)).map(|t| t.partitions).sum();
    let used: usize = life.clients.values().map(|client| client.owned.len()).sum();
    assert_eq!(used as i32, partitions, "seed {seed}: partitions without an owner");
    let state = life.b.shard.describe_consumer("g", &life.b.facts).map(|group| group.group_state.into_owned());
    assert!(life.clients.is_empty() || state.as_deref() == Some("Stable"), "seed {seed}: {state:?}");
}

#[test]
fn a_partition_has_one_owner_at_most_and_one_in_the_end() {
    for seed in 0..100 {
        live(seed, GroupMutations::default());
    }
}

#[test]
fn a_coordinator_that_gives_a_partition_away_too_soon_is_caught() {
    let mutations = GroupMutations { share_partitions: true, ..GroupMutations::default() };
    let caught = (0..20).any(|seed| std::panic::catch_unwind(|| live(seed, mutations)).is_err());
    assert!(caught, "nobody noticed");
}
