//! The set of voters, and its history along the log.
//!
//! With kraft.version 1 the set is written in the log, and the latest one counts from the moment it is appended,
//! committed or not; truncation takes it back. With kraft.version 0 it comes from the configuration.

use std::collections::BTreeMap;
use std::fmt;

use crate::types::{Endpoint, Endpoints, KRaftVersions, ReplicaKey};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    pub key: ReplicaKey,
    pub endpoints: Endpoints,
    pub kraft_versions: KRaftVersions,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VoterSet(BTreeMap<i32, Voter>);

/// `1@host:port,2@host:port`, as `controller.quorum.voters` has it, by each voter's first endpoint.
impl fmt::Display for VoterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, voter) in self.0.values().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}", voter.key.id)?;
            if let Some((_, endpoint)) = voter.endpoints.iter().next() {
                write!(f, "@{endpoint}")?;
            }
        }
        Ok(())
    }
}

impl VoterSet {
    pub fn new(voters: impl IntoIterator<Item = Voter>) -> Self {
        Self(voters.into_iter().map(|voter| (voter.key.id, voter)).collect())
    }

    /// Voters as `controller.quorum.voters` names them: no directory ids, kraft.version 0 only.
    pub fn from_config(listener: &str, voters: &BTreeMap<i32, Endpoint>) -> Self {
        Self::new(voters.iter().map(|(&id, endpoint)| Voter {
            key: ReplicaKey { id, directory_id: None },
            endpoints: Endpoints::one(listener, endpoint.clone()),
            kraft_versions: KRaftVersions { min: 0, max: 0 },
        }))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Votes or log ends that decide: more than half.
    pub fn majority(&self) -> usize {
        self.0.len() / 2 + 1
    }

    pub fn ids(&self) -> impl Iterator<Item = i32> {
        self.0.keys().copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Voter> {
        self.0.values()
    }

    pub fn get(&self, id: i32) -> Option<&Voter> {
        self.0.get(&id)
    }

    pub fn is_voter(&self, key: &ReplicaKey) -> bool {
        self.0.get(&key.id).is_some_and(|voter| voter.key.admits(key))
    }

    pub fn is_only_voter(&self, key: &ReplicaKey) -> bool {
        self.0.len() == 1 && self.is_voter(key)
    }

    pub fn endpoints(&self, id: i32) -> Endpoints {
        self.0.get(&id).map(|voter| voter.endpoints.clone()).unwrap_or_default()
    }

    pub fn endpoint(&self, id: i32, listener: &str) -> Option<&Endpoint> {
        self.0.get(&id).and_then(|voter| voter.endpoints.get(listener))
    }

    /// The same replica is a voter, but is described differently.
    pub fn needs_update(&self, voter: &Voter) -> bool {
        self.0.get(&voter.key.id).is_some_and(|known| known.key.admits(&voter.key) && known != voter)
    }

    /// The set with the description of a voter replaced; `None` if the replica is no voter.
    pub fn updated(&self, voter: Voter) -> Option<VoterSet> {
        let known = self.0.get(&voter.key.id)?;
        known.key.admits(&voter.key).then(|| self.replaced(voter))
    }

    /// As [`VoterSet::updated`], for kraft.version 0, where a directory id may be new or may have changed.
    pub fn updated_ignoring_directory(&self, voter: Voter) -> Option<VoterSet> {
        self.0.contains_key(&voter.key.id).then(|| self.replaced(voter))
    }

    /// The set with a voter more.
    pub fn with(&self, voter: Voter) -> VoterSet {
        assert!(!self.0.contains_key(&voter.key.id), "{} is a voter already", voter.key);
        self.replaced(voter)
    }

    /// The set with a voter less; `None` if the replica is no voter.
    pub fn without(&self, key: &ReplicaKey) -> Option<VoterSet> {
        let mut voters = self.0.clone();
        let known = voters.remove(&key.id)?;
        (known.key == *key).then_some(VoterSet(voters))
    }

    fn replaced(&self, voter: Voter) -> VoterSet {
        let mut voters = self.0.clone();
        voters.insert(voter.key.id, voter);
        VoterSet(voters)
    }

    /// At most one voter differs on each side, so that every majority of one meets every majority of the other.
    pub fn has_overlapping_majority(&self, other: &VoterSet) -> bool {
        let missing = |a: &VoterSet, b: &VoterSet| {
            a.iter().filter(|voter| b.get(voter.key.id).is_none_or(|v| v.key != voter.key)).count()
        };
        missing(self, other) <= 1 && missing(other, self) <= 1
    }
}

/// Values by the offset at which the log or the latest snapshot set them. Offset −1 stands for the bootstrap snapshot
/// (0-0), which precedes the log.
#[derive(Clone, Debug)]
pub struct History<T>(BTreeMap<i64, T>);

impl<T> Default for History<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> History<T> {
    pub fn add(&mut self, offset: i64, value: T) {
        let last = self.0.last_key_value().map(|(&at, _)| at);
        assert!(last.is_none_or(|at| at <= offset), "a value at {offset} after one at {last:?}");
        self.0.insert(offset, value);
    }

    pub fn last(&self) -> Option<(i64, &T)> {
        self.0.last_key_value().map(|(&offset, value)| (offset, value))
    }

    pub fn at_or_before(&self, offset: i64) -> Option<&T> {
        self.0.range(..=offset).next_back().map(|(_, value)| value)
    }

    /// The log was cut to end at `end_offset`.
    pub fn truncate_new(&mut self, end_offset: i64) {
        self.0.split_off(&end_offset);
    }

    /// A snapshot now covers everything before `start_offset`: keeps the last value from there.
    pub fn truncate_old(&mut self, start_offset: i64) {
        if let Some((&keep, _)) = self.0.range(..=start_offset).next_back() {
            self.0 = self.0.split_off(&keep);
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// What control records say about the quorum itself, along the log (`KRaftControlRecordStateMachine`).
#[derive(Clone, Debug)]
pub struct VoterHistory {
    static_voters: VoterSet,
    voters: History<VoterSet>,
    kraft_versions: History<i16>,
}

impl VoterHistory {
    pub fn new(static_voters: VoterSet) -> Self {
        Self { static_voters, voters: History::default(), kraft_versions: History::default() }
    }

    pub fn voters(&self) -> &VoterSet {
        self.voters.last().map_or(&self.static_voters, |(_, voters)| voters)
    }

    /// Where the current set stands in the log; `None` if it comes from the configuration, −1 if from the bootstrap
    /// snapshot.
    pub fn voters_offset(&self) -> Option<i64> {
        self.voters.last().map(|(offset, _)| offset)
    }

    pub fn kraft_version(&self) -> i16 {
        self.kraft_versions.last().map_or(0, |(_, &level)| level)
    }

    pub fn voters_at(&self, offset: i64) -> Option<&VoterSet> {
        self.voters.at_or_before(offset)
    }

    pub fn kraft_version_at(&self, offset: i64) -> i16 {
        self.kraft_versions.at_or_before(offset).copied().unwrap_or(0)
    }

    pub fn add_voters(&mut self, offset: i64, voters: VoterSet) {
        if let Some((at, last)) = self.voters.last()
            && at >= 0
            && !last.has_overlapping_majority(&voters)
        {
            tracing::warn!(offset, ?last, ?voters, "voter sets in a row without overlapping majorities");
        }
        self.voters.add(offset, voters);
    }

    pub fn add_kraft_version(&mut self, offset: i64, level: i16) {
        self.kraft_versions.add(offset, level);
    }

    pub fn truncate_new(&mut self, end_offset: i64) {
        self.voters.truncate_new(end_offset);
        self.kraft_versions.truncate_new(end_offset);
    }

    pub fn truncate_old(&mut self, start_offset: i64) {
        self.voters.truncate_old(start_offset);
        self.kraft_versions.truncate_old(start_offset);
    }

    pub fn clear(&mut self) {
        self.voters.clear();
        self.kraft_versions.clear();
    }
}
