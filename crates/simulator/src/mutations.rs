//! Faults planted on purpose: each must be noticed by some checker within its number of seeds, or the checkers sleep.

use broker::Mutations;

pub struct Mutation {
    pub name: &'static str,
    /// Within so many seeds, from 1 on, one must fail.
    pub seeds: u64,
    pub plant: fn(&mut Mutations),
}

pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "high-watermark-ignores-isr",
        seeds: 20,
        plant: |m| m.replication.high_watermark_ignores_isr = true,
    },
    Mutation {
        name: "acknowledge-before-replication",
        seeds: 20,
        plant: |m| m.replication.acknowledge_before_replication = true,
    },
    Mutation {
        name: "truncate-to-high-watermark",
        seeds: 20,
        plant: |m| m.replication.truncate_to_high_watermark = true,
    },
    Mutation {
        name: "join-isr-without-catching-up",
        seeds: 120,
        plant: |m| m.replication.join_isr_without_catching_up = true,
    },
    Mutation { name: "ignore-divergence", seeds: 40, plant: |m| m.replication.ignore_divergence = true },
    Mutation { name: "accept-duplicates", seeds: 20, plant: |m| m.replication.accept_duplicates = true },
    Mutation { name: "vote-not-persisted", seeds: 200, plant: |m| m.raft.vote_not_persisted = true },
    Mutation { name: "vote-ignores-log", seeds: 40, plant: |m| m.raft.vote_ignores_log = true },
    Mutation { name: "ack-before-flush", seeds: 400, plant: |m| m.raft.ack_before_flush = true },
    Mutation { name: "commit-without-majority", seeds: 40, plant: |m| m.raft.commit_without_majority = true },
];

pub fn find(name: &str) -> Option<&'static Mutation> {
    MUTATIONS.iter().find(|mutation| mutation.name == name)
}
