//! KRaft: how the controllers agree on one metadata log.
//!
//! [`Quorum`] is a state machine over one log: requests, responses, flush completions and the time go in,
//! [`Effect`]s come out. It reads no clock, waits for nothing and touches nothing but the files of its own directory,
//! through [`storage::Disk`]. It knows nothing of topics or of what the records mean. Start reading at `quorum.rs`.

mod client;
pub mod config;
mod control;
mod describe;
mod effect;
mod election;
mod fetch;
mod leader;
mod log;
mod peers;
mod quorum;
mod records;
mod requests;
mod role;
mod server;
mod snapshot;
pub mod state_file;
mod state_machine;
#[cfg(test)]
mod tests;
mod transitions;
mod types;
mod voter_changes;
mod voters;

pub use config::{Mutations, QuorumConfig, metadata_log_config};
pub use effect::{Effect, Failure, FetchToken, Request, RequestContext, Response, VoterChangeToken};
pub use election::ElectionState;
pub use peers::{Peer, RequestToken};
pub use quorum::Quorum;
pub use records::DataBatch;
pub use snapshot::BOOTSTRAP_SNAPSHOT_ID;
pub use state_machine::{AppendError, CommittedRead, FrozenSnapshot, SnapshotContent, SnapshotError, SnapshotWriter};
pub use types::{
    Endpoint, Endpoints, KRaftVersions, LeaderAndEpoch, METADATA_PARTITION, METADATA_TOPIC, METADATA_TOPIC_ID,
    OffsetAndEpoch, ReplicaKey,
};
pub use voter_changes::{add_response, remove_response};
pub use voters::{Voter, VoterSet};
