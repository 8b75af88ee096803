//! The features of the cluster that this version knows, and what the levels of metadata.version allow (KIP-584).

/// A feature's range of levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    pub min: i16,
    pub max: i16,
    /// What `storage format` of Kafka 4.3 finalizes.
    pub format_level: i16,
}

pub const METADATA_VERSION: &str = "metadata.version";
pub const KRAFT_VERSION: &str = "kraft.version";
pub const ELR_VERSION: &str = "eligible.leader.replicas.version";

const fn feature(name: &'static str, min: i16, max: i16, format_level: i16) -> Feature {
    Feature { name, min, max, format_level }
}

/// In the order in which Kafka writes them: metadata.version first, the others by name.
pub const SUPPORTED: &[Feature] = &[
    feature(METADATA_VERSION, 7, 30, 30),
    feature(ELR_VERSION, 0, 1, 1),
    feature("group.version", 0, 1, 1),
    feature(KRAFT_VERSION, 0, 1, 1),
    feature("share.version", 0, 1, 1),
    feature("streams.version", 0, 1, 1),
    feature("transaction.version", 0, 2, 2),
];

pub fn find(name: &str) -> Option<&'static Feature> {
    SUPPORTED.iter().find(|f| f.name == name)
}

/// Release names of the levels of metadata.version that can be asked for.
pub const METADATA_VERSIONS: &[(i16, &str)] = &[
    (7, "3.3-IV3"),
    (8, "3.4-IV0"),
    (9, "3.5-IV0"),
    (10, "3.5-IV1"),
    (11, "3.5-IV2"),
    (12, "3.6-IV0"),
    (13, "3.6-IV1"),
    (14, "3.6-IV2"),
    (15, "3.7-IV0"),
    (16, "3.7-IV1"),
    (17, "3.7-IV2"),
    (18, "3.7-IV3"),
    (19, "3.7-IV4"),
    (20, "3.8-IV0"),
    (21, "3.9-IV0"),
    (22, "4.0-IV0"),
    (23, "4.0-IV1"),
    (24, "4.0-IV2"),
    (25, "4.0-IV3"),
    (26, "4.1-IV0"),
    (27, "4.1-IV1"),
    (28, "4.2-IV0"),
    (29, "4.2-IV1"),
    (30, "4.3-IV0"),
];

/// A level of metadata.version: which records and versions may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetadataVersion(pub i16);

impl MetadataVersion {
    pub const LATEST: MetadataVersion = MetadataVersion(30);

    pub fn name(self) -> &'static str {
        METADATA_VERSIONS.iter().find(|(level, _)| *level == self.0).map_or("unknown", |(_, name)| name)
    }

    pub fn register_broker_record(self) -> i16 {
        match self.0 {
            30.. => 4,
            17.. => 3,
            8.. => 2,
            _ => 1,
        }
    }

    pub fn broker_registration_change_record(self) -> i16 {
        match self.0 {
            30.. => 3,
            17.. => 2,
            _ => 1,
        }
    }

    pub fn partition_record(self) -> i16 {
        match self.0 {
            23.. => 2,
            17.. => 1,
            _ => 0,
        }
    }

    pub fn has_transactions(self) -> bool {
        self.0 >= 13
    }

    pub fn has_controller_registration(self) -> bool {
        self.0 >= 15
    }

    pub fn has_directories(self) -> bool {
        self.0 >= 17
    }

    /// Shrinking an ISR bumps the leader epoch only below this (KIP-903's follow-up).
    pub fn bumps_epoch_on_shrink(self) -> bool {
        self.0 < 12
    }

    /// The one version in which replicas fetch at this level.
    pub fn replica_fetch(self) -> i16 {
        match self.0 {
            27.. => 18,
            21.. => 17,
            19.. => 16,
            10.. => 15,
            9 => 14,
            _ => 13,
        }
    }
}
