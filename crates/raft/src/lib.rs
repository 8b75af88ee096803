//! KRaft: how the controllers agree on one metadata log.
//!
//! [`Quorum`](crate) is a state machine over one log: requests, responses, flush completions and the time go in,
//! [`effects`](crate) come out. It reads no clock, waits for nothing and touches nothing but the files of its own
//! directory, through [`storage::Disk`]. It knows nothing of topics or of what the records mean.

pub mod config;
pub mod election;
pub mod leader;
pub mod peers;
pub mod role;
pub mod snapshot;
pub mod state_file;
pub mod types;
pub mod voters;

pub use config::{Mutations, QuorumConfig};
pub use peers::{Peer, RequestToken};
pub use snapshot::BOOTSTRAP_SNAPSHOT_ID;
pub use types::{Endpoint, Endpoints, KRaftVersions, LeaderAndEpoch, OffsetAndEpoch, ReplicaKey};
pub use voters::{Voter, VoterSet};
