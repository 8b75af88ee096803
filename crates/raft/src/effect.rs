//! What a quorum asks of its owner, and the requests and responses it exchanges with other replicas.

use protocol::api::ApiKey;
use protocol::codec::{Decode, Message};
use protocol::error::ErrorCode;
use protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, ApiVersionsRequest, ApiVersionsResponse, BeginQuorumEpochRequest,
    BeginQuorumEpochResponse, EndQuorumEpochRequest, EndQuorumEpochResponse, FetchRequest, FetchResponse,
    FetchSnapshotRequest, FetchSnapshotResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
    UpdateRaftVoterRequest, UpdateRaftVoterResponse, VoteRequest, VoteResponse,
};
use protocol::wire::{DecodeError, Reader, Writer};

use crate::peers::{Peer, RequestToken};

/// The owner's name for a fetch that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchToken(pub u64);

/// The owner's name for a request to change the voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VoterChangeToken(pub u64);

/// To be carried out in order.
#[derive(Debug)]
pub enum Effect {
    /// Send it over a link to `to.endpoint` and call [`crate::Quorum::on_response`] with the answer or the failure.
    Send { to: Peer, request: Request, token: RequestToken },
    /// Nobody waits for the answer any more. The link that it was sent over hangs and had better be closed, or the
    /// next request waits behind it.
    GiveUp { to: i32, token: RequestToken },
    /// The answer to a fetch that [`crate::Quorum::on_fetch`] kept waiting.
    FetchDone { token: FetchToken, response: FetchResponse<'static> },
    /// What came of an AddRaftVoter or a RemoveRaftVoter.
    VoterChanged { token: VoterChangeToken, error: ErrorCode, message: Option<String> },
    /// Run it, then call [`crate::Quorum::on_flushed`]. There is never a second one before that.
    Flush(storage::FlushWork),
    /// Everything below `upto` is committed; [`crate::Quorum::read_committed`] gives what is new.
    Committed { upto: i64 },
    /// The leader of `epoch` is known or has changed. `is_me` comes only after the `Committed` that covers everything
    /// which earlier leaders have written: a state machine that has applied that may write from here on.
    LeaderChanged { leader: Option<i32>, epoch: i32, is_me: bool },
    /// [`crate::Quorum::shutdown`] is done: somebody else leads, or time is up.
    ShutdownComplete,
    /// The disk failed, or the quorum has lost committed data. Nothing follows; the node must stop.
    Fatal { message: String },
}

/// Encoded by the owner in whatever version it has agreed on with the peer.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Vote(VoteRequest<'static>),
    BeginQuorumEpoch(BeginQuorumEpochRequest<'static>),
    EndQuorumEpoch(EndQuorumEpochRequest<'static>),
    Fetch(FetchRequest<'static>),
    FetchSnapshot(FetchSnapshotRequest<'static>),
    UpdateRaftVoter(UpdateRaftVoterRequest<'static>),
    AddRaftVoter(AddRaftVoterRequest<'static>),
    RemoveRaftVoter(RemoveRaftVoterRequest<'static>),
    ApiVersions(ApiVersionsRequest<'static>),
}

impl Request {
    pub fn key(&self) -> ApiKey {
        match self {
            Request::Vote(_) => ApiKey::Vote,
            Request::BeginQuorumEpoch(_) => ApiKey::BeginQuorumEpoch,
            Request::EndQuorumEpoch(_) => ApiKey::EndQuorumEpoch,
            Request::Fetch(_) => ApiKey::Fetch,
            Request::FetchSnapshot(_) => ApiKey::FetchSnapshot,
            Request::UpdateRaftVoter(_) => ApiKey::UpdateRaftVoter,
            Request::AddRaftVoter(_) => ApiKey::AddRaftVoter,
            Request::RemoveRaftVoter(_) => ApiKey::RemoveRaftVoter,
            Request::ApiVersions(_) => ApiKey::ApiVersions,
        }
    }

    /// Writes the body. A version that cannot say what must be said, as Vote 1 a PreVote, is an error at
    /// [`Writer::finish`]; the quorum wants to hear of it as [`Failure::UnsupportedVersion`].
    pub fn encode(&self, w: &mut Writer, version: i16) {
        match self {
            Request::Vote(m) => m.encode(w, version),
            Request::BeginQuorumEpoch(m) => m.encode(w, version),
            Request::EndQuorumEpoch(m) => m.encode(w, version),
            Request::Fetch(m) if version < FETCH_WITH_REPLICA_STATE => {
                let mut older = m.clone();
                older.replica_id = std::mem::take(&mut older.replica_state).replica_id;
                older.encode(w, version);
            }
            Request::Fetch(m) => m.encode(w, version),
            Request::FetchSnapshot(m) => m.encode(w, version),
            Request::UpdateRaftVoter(m) => m.encode(w, version),
            Request::AddRaftVoter(m) => m.encode(w, version),
            Request::RemoveRaftVoter(m) => m.encode(w, version),
            Request::ApiVersions(m) => m.encode(w, version),
        }
    }
}

/// KIP-903 moved the replica id into a struct.
const FETCH_WITH_REPLICA_STATE: i16 = 15;

#[derive(Clone, Debug, PartialEq)]
pub enum Response<'a> {
    Vote(VoteResponse<'a>),
    BeginQuorumEpoch(BeginQuorumEpochResponse<'a>),
    EndQuorumEpoch(EndQuorumEpochResponse<'a>),
    Fetch(FetchResponse<'a>),
    FetchSnapshot(FetchSnapshotResponse<'a>),
    UpdateRaftVoter(UpdateRaftVoterResponse<'a>),
    AddRaftVoter(AddRaftVoterResponse<'a>),
    RemoveRaftVoter(RemoveRaftVoterResponse<'a>),
    ApiVersions(ApiVersionsResponse<'a>),
}

impl<'a> Response<'a> {
    /// The body of the answer to a request with `key`.
    pub fn decode(key: ApiKey, r: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError> {
        Ok(match key {
            ApiKey::Vote => Response::Vote(VoteResponse::decode(r, version)?),
            ApiKey::BeginQuorumEpoch => Response::BeginQuorumEpoch(BeginQuorumEpochResponse::decode(r, version)?),
            ApiKey::EndQuorumEpoch => Response::EndQuorumEpoch(EndQuorumEpochResponse::decode(r, version)?),
            ApiKey::Fetch => Response::Fetch(FetchResponse::decode(r, version)?),
            ApiKey::FetchSnapshot => Response::FetchSnapshot(FetchSnapshotResponse::decode(r, version)?),
            ApiKey::UpdateRaftVoter => Response::UpdateRaftVoter(UpdateRaftVoterResponse::decode(r, version)?),
            ApiKey::AddRaftVoter => Response::AddRaftVoter(AddRaftVoterResponse::decode(r, version)?),
            ApiKey::RemoveRaftVoter => Response::RemoveRaftVoter(RemoveRaftVoterResponse::decode(r, version)?),
            ApiKey::ApiVersions => Response::ApiVersions(ApiVersionsResponse::decode(r, version)?),
            _ => return Err(DecodeError::Invalid("no request of the quorum has this api key")),
        })
    }
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection broke before the answer came.
    Disconnected,
    /// Nobody listens there.
    Refused,
    TimedOut,
    /// The peer does not know the request, or not in a version that can carry it.
    UnsupportedVersion,
    /// The answer could not be read.
    Malformed,
}

/// How a request reached us, as far as its answer depends on it.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    pub version: i16,
    /// Name of the listener that took the request; the leader's endpoint is given for the same listener.
    pub listener: &'a str,
}
