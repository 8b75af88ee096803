//! Groups of the consumer protocol (KIP-848): members send heartbeats, and the coordinator assigns partitions.
//!
//! A group has three clocks: the *group epoch* grows with whatever asks for another assignment, the *assignment epoch*
//! says which group epoch the target assignment is for, and a *member's epoch* how far the member has followed. A member
//! follows by giving up what is not its any more (`reconcile`); a partition goes to its next owner once the last one has
//! confirmed that it let go.
//!
//! Start with [`group::ConsumerGroup`], then `heartbeat`.

mod changes;
mod classic_members;
mod describe;
mod fence;
mod group;
mod heartbeat;
mod migrate;
mod reconcile;
mod regex;
pub(crate) mod replay;

pub(crate) use changes::Change;
pub(crate) use group::ConsumerGroup;
pub use group::{ConsumerGroupState, Partitions};
pub(crate) use migrate::{CONSUMER_PROTOCOL, read_subscription};
