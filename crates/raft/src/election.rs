//! What an election leaves on disk, how its votes are counted, and when a vote may be granted.

use std::collections::BTreeMap;

use crate::types::ReplicaKey;
use crate::voters::VoterSet;

/// The durable part of a replica's state: whom it follows or voted for in which epoch. On disk before anything that
/// follows from it leaves the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElectionState {
    pub epoch: i32,
    pub leader: Option<i32>,
    pub voted: Option<ReplicaKey>,
}

impl ElectionState {
    /// Whether the vote of this epoch went to `key`. A vote without directory id, of kraft.version 0, is taken as one
    /// for whoever has the node id.
    pub fn voted_for(&self, key: &ReplicaKey) -> bool {
        self.voted.is_some_and(|voted| voted.admits(key))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vote {
    Unrecorded,
    Granted,
    Rejected,
}

/// The count of one election, or of one round of PreVotes (`EpochElection`).
#[derive(Clone, Debug)]
pub struct Tally(BTreeMap<i32, (ReplicaKey, Vote)>);

impl Tally {
    /// Starts with our own vote, granted.
    pub fn new(voters: &VoterSet, own_id: i32) -> Self {
        let mut tally = Self(voters.iter().map(|voter| (voter.key.id, (voter.key, Vote::Unrecorded))).collect());
        tally.record(own_id, true);
        tally
    }

    /// A vote of somebody who is no voter (any more) does not count.
    pub fn record(&mut self, id: i32, granted: bool) {
        if let Some((_, vote)) = self.0.get_mut(&id) {
            *vote = if granted { Vote::Granted } else { Vote::Rejected };
        }
    }

    /// Lets those who rejected be asked again.
    pub fn forget_rejections(&mut self) {
        for (_, vote) in self.0.values_mut() {
            if *vote == Vote::Rejected {
                *vote = Vote::Unrecorded;
            }
        }
    }

    pub fn is_granted(&self) -> bool {
        self.count(Vote::Granted) >= self.majority()
    }

    /// No majority is possible any more.
    pub fn is_rejected(&self) -> bool {
        self.count(Vote::Granted) + self.count(Vote::Unrecorded) < self.majority()
    }

    pub fn unrecorded(&self) -> impl Iterator<Item = ReplicaKey> {
        self.of(Vote::Unrecorded)
    }

    pub fn granting(&self) -> impl Iterator<Item = ReplicaKey> {
        self.of(Vote::Granted)
    }

    fn of(&self, wanted: Vote) -> impl Iterator<Item = ReplicaKey> {
        self.0.values().filter(move |(_, vote)| *vote == wanted).map(|(key, _)| *key)
    }

    fn count(&self, wanted: Vote) -> usize {
        self.of(wanted).count()
    }

    fn majority(&self) -> usize {
        self.0.len() / 2 + 1
    }
}

/// A request for a vote, or for the promise of one (PreVote, KIP-996), as the voter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Ballot {
    pub candidate: ReplicaKey,
    pub pre_vote: bool,
    /// The candidate's log ends no earlier than ours.
    pub log_is_up_to_date: bool,
}

/// Whether a replica that follows nobody, Unattached or Prospective, grants a vote.
pub fn can_grant_unattached(leader: Option<i32>, voted: Option<ReplicaKey>, ballot: &Ballot) -> bool {
    if ballot.pre_vote {
        return ballot.log_is_up_to_date;
    }
    match (voted, leader) {
        // The answer may have been lost: the same candidate gets the same answer again.
        (Some(voted), _) => voted.admits(&ballot.candidate),
        // A leader of this epoch was elected; a second one must not be.
        (None, Some(_)) => false,
        (None, None) => ballot.log_is_up_to_date,
    }
}

/// How long a follower waits before it stands for election after its leader resigned: the first of the leader's
/// preferred successors not at all, the others longer and longer, so that the best log wins
/// (`KafkaRaftClient.strictExponentialElectionBackoffMs`).
pub fn successor_backoff_ms(position: usize, successors: usize, backoff_max_ms: i64) -> i64 {
    if position == 0 {
        return 0;
    }
    if position >= successors {
        return backoff_max_ms;
    }
    // Shifts are bounded: a preferred-successor list longer than 62 voters has no fine steps left.
    let base = backoff_max_ms >> (successors - 1).min(62);
    let shift = (position - 1).min(62) as u32;
    base.checked_mul(1i64.checked_shl(shift).unwrap_or(i64::MAX)).unwrap_or(i64::MAX).min(backoff_max_ms)
}
