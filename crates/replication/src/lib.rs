//! One partition's replication: who leads, what is in sync, what is committed, what a follower must cut off.
//!
//! [`Partition`] owns a replica's log and decides everything about it; [`Fetcher`] says what a follower asks of a
//! leader; [`FetchSession`] is the leader's memory of what a reader has been told. Nothing here sends anything: a
//! request is a value that the node puts on a connection. Rules are numbered as in the KIPs named beside them.

mod fetcher;
mod isr;
mod leader;
mod partition;
mod read;
mod session;
#[cfg(test)]
mod tests;

pub use fetcher::{FetchPosition, Fetched, Fetcher, FetcherOutcome, Limits};
pub use isr::{AlterOutcome, IsrChange};
pub use leader::Follower;
pub use partition::{AppendRefused, Fed, Mutations, Partition, PartitionState, Role, Settings};
pub use read::{Isolation, ReadFailure, ReadRequest, ReadResult, Reader, TimestampQuery};
pub use session::{FetchSession, FetchSessions, SessionEntry, SessionId};

use protocol::wire::Uuid;

/// A partition by topic id and number.
pub type PartitionKey = (Uuid, i32);
