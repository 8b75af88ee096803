//! What a replica is at the moment, with exactly what it needs to know for that (`QuorumState` and the states).

use std::collections::BTreeSet;

use crate::election::Tally;
use crate::leader::Leader;
use crate::snapshot::SnapshotPart;
use crate::types::{Endpoints, ReplicaKey};

/// ```text
///                 election timeout            majority promised         majority voted
/// Unattached ───────────────────▶ Prospective ─────────────▶ Candidate ─────────────▶ Leader
///     ▲  └── leader known ──▶ Follower ──fetch timeout──┘▲        └──timeout──┘           │
///     └───────────── higher epoch, from anywhere ────────┘     Resigned ◀── shutdown, no quorum
/// ```
/// An observer is only ever Unattached or Follower.
#[derive(Debug)]
pub enum Role {
    Unattached(Unattached),
    Prospective(Prospective),
    Candidate(Candidate),
    Follower(Follower),
    Leader(Box<Leader>),
    Resigned(Resigned),
}

impl Role {
    pub fn name(&self) -> &'static str {
        match self {
            Role::Unattached(_) => "Unattached",
            Role::Prospective(_) => "Prospective",
            Role::Candidate(_) => "Candidate",
            Role::Follower(_) => "Follower",
            Role::Leader(_) => "Leader",
            Role::Resigned(_) => "Resigned",
        }
    }
}

/// The leader, or where it listens, is not known.
#[derive(Debug)]
pub struct Unattached {
    /// The leader's id may be known from disk without its address.
    pub leader: Option<i32>,
    pub voted: Option<ReplicaKey>,
    /// `i64::MAX` for observers.
    pub election_due_ms: i64,
}

/// Asks whether an election could be won, before disturbing anyone with a new epoch (KIP-996).
#[derive(Debug)]
pub struct Prospective {
    pub leader: Option<i32>,
    pub leader_endpoints: Endpoints,
    pub voted: Option<ReplicaKey>,
    pub tally: Tally,
    pub election_due_ms: i64,
    /// Set if refused connections brought us here: when to ask those again who still believed in the leader.
    pub ask_again_due_ms: Option<i64>,
}

/// Has voted for itself in a new epoch.
#[derive(Debug)]
pub struct Candidate {
    pub tally: Tally,
    pub election_due_ms: i64,
}

#[derive(Debug)]
pub struct Follower {
    pub leader: i32,
    pub leader_endpoints: Endpoints,
    pub voted: Option<ReplicaKey>,
    pub fetch_due_ms: i64,
    pub update_voter_due_ms: i64,
    /// A fetch has succeeded in this epoch: the leader was alive, and others get no PreVote.
    pub has_fetched: bool,
    /// With kraft.version 0: the leader knows how we describe ourselves.
    pub has_updated_leader: bool,
    pub download: Option<SnapshotPart>,
    pub evidence: Evidence,
}

/// What our connections say about the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    None,
    /// The connection broke, and the next fetch goes to the leader at once, to see whether it is refused.
    Broken,
    /// Connecting was refused: no process listens there. We stand for election at `stand_due_ms`.
    Refused {
        stand_due_ms: i64,
    },
    /// Refused, and our PreVote was lost: others still hear the leader. Only the fetch timeout counts now.
    Spent,
}

/// Was the leader, and leads no more, but may not vote in this epoch either.
#[derive(Debug)]
pub struct Resigned {
    pub unacknowledged: BTreeSet<i32>,
    pub preferred_successors: Vec<ReplicaKey>,
    pub election_due_ms: i64,
}
