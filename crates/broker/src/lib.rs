//! The node: everything of a broker and controller above sockets, threads and clocks. Start at [`Node`].

mod active;
mod api;
mod cleaner;
mod connections;
mod control;
mod delete_waits;
mod effect;
mod fetch_waits;
mod fetching;
mod groups;
mod handlers;
pub mod lifecycle;
mod links;
mod node;
mod offline;
mod produce_waits;
mod producer_ids;
mod publish;
mod quorum;
mod quotas;
mod registration;
mod replicas;
mod reply;
mod request;
mod runtime;
mod settings;
mod snapshots;
mod standing;
mod start;
mod status;

pub use connections::IN_FLIGHT_MAX;
pub use effect::{CleanId, ConnId, Effect, FlushId, Frame, LinkId, ListenerKind, Region};
pub use node::{Mutations, Node};
pub use start::StartError;
pub use status::{BrokerStatus, CleanerStatus, NodeStatus, PartitionStatus, QuorumStatus};
