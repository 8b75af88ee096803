//! The small values of the quorum: who a replica is, where it listens, and where a log ends.

use std::collections::BTreeMap;
use std::fmt;

use protocol::wire::Uuid;

/// Name of the only partition that this crate replicates.
pub const METADATA_TOPIC: &str = "__cluster_metadata";
pub const METADATA_PARTITION: i32 = 0;
/// Its topic id, `AAAAAAAAAAAAAAAAAAAAAQ`.
pub const METADATA_TOPIC_ID: Uuid = Uuid::ONE;

/// A node id and, if known, the directory that holds its metadata log. With kraft.version 0 the directory ids of the
/// voters are not known, and a replica is recognised by its id alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicaKey {
    pub id: i32,
    pub directory_id: Option<Uuid>,
}

impl ReplicaKey {
    /// The zero id stands for "unknown" on the wire and in files.
    pub fn new(id: i32, directory_id: Uuid) -> Self {
        Self { id, directory_id: (!directory_id.is_zero()).then_some(directory_id) }
    }

    /// As it goes on the wire.
    pub fn directory_or_zero(&self) -> Uuid {
        self.directory_id.unwrap_or(Uuid::ZERO)
    }

    /// Whether `other` is the replica that this key names: without a directory id of ours, the node id decides.
    pub fn admits(&self, other: &ReplicaKey) -> bool {
        self.id == other.id && (self.directory_id.is_none() || self.directory_id == other.directory_id)
    }
}

impl fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.directory_id {
            Some(directory) => write!(f, "{}-{}", self.id, directory),
            None => write!(f, "{}", self.id),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where a replica listens, by listener name. Names are compared in upper case, as Kafka's `ListenerName.normalised`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(BTreeMap<String, Endpoint>);

impl Endpoints {
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    pub fn one(listener: &str, endpoint: Endpoint) -> Self {
        let mut out = Self::default();
        out.insert(listener, endpoint);
        out
    }

    pub fn insert(&mut self, listener: &str, endpoint: Endpoint) {
        self.0.insert(listener.to_uppercase(), endpoint);
    }

    pub fn get(&self, listener: &str) -> Option<&Endpoint> {
        self.0.get(listener).or_else(|| self.0.get(&listener.to_uppercase()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Endpoint)> {
        self.0.iter().map(|(name, endpoint)| (name.as_str(), endpoint))
    }
}

/// The end of a log, or of a snapshot: the next offset, and the epoch of the record before it. Ordered as Raft orders
/// logs, by epoch and then by offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OffsetAndEpoch {
    pub offset: i64,
    pub epoch: i32,
}

impl OffsetAndEpoch {
    pub const fn new(offset: i64, epoch: i32) -> Self {
        Self { offset, epoch }
    }
}

impl PartialOrd for OffsetAndEpoch {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OffsetAndEpoch {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.epoch, self.offset).cmp(&(other.epoch, other.offset))
    }
}

impl fmt::Display for OffsetAndEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.offset, self.epoch)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LeaderAndEpoch {
    pub leader: Option<i32>,
    pub epoch: i32,
}

/// The levels of the feature kraft.version that a node can work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KRaftVersions {
    pub min: i16,
    pub max: i16,
}

impl KRaftVersions {
    /// What Kafka 4.3 supports, and we.
    pub const SUPPORTED: KRaftVersions = KRaftVersions { min: 0, max: 1 };

    pub fn contains(&self, level: i16) -> bool {
        (self.min..=self.max).contains(&level)
    }
}
