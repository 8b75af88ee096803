//! Coordination: who is in a group and what it has consumed, who speaks for a transactional id and what becomes of its
//! transactions.
//!
//! [`GroupShard`] is the state of one partition of `__consumer_offsets`, as a state machine: requests and the time go
//! in, [`Output`]s come out. It never sees the partition: it asks for records to be written and hears when they are
//! committed, and nothing that rests on a record is answered before. On another node it is the same after a replay.

mod assignor;
mod config;
mod consumer;
mod facts;
mod group;
mod join;
mod leave;
mod machine;
mod offsets;
mod pending;
mod records;
mod shard;
mod sync;
#[cfg(test)]
mod tests;
pub mod transactions;

pub use assignor::{Assignor, MemberSpec};
pub use config::{GroupConfig, GroupMutations, MigrationPolicy};
pub use consumer::{ConsumerGroupState, Partitions};
pub use facts::{Facts, GroupSettings};
pub use group::{ClientInfo, GroupState};
pub use machine::{Output, Producer, Proof, Shard, Ticket, Token};
pub use offsets::{CommittedOffset, OffsetTopic};
pub use records::{Record, ReplayError};
pub use shard::{CLASSIC, CONSUMER, GroupShard, Listed, Response};

/// The internal topic that holds groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The partition that a group belongs to: Java's `String.hashCode`, as `Utils.abs` takes its absolute value.
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partitions.max(1)
}
