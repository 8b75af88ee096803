//! What the node's configuration says about groups.

use crate::assignor::Assignor;

/// `group.consumer.migration.policy`: which way a group may go while it has members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPolicy {
    Disabled,
    /// Classic groups may become consumer groups.
    Upgrade,
    /// Consumer groups may become classic groups.
    Downgrade,
    Bidirectional,
}

impl MigrationPolicy {
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "disabled" => Some(Self::Disabled),
            "upgrade" => Some(Self::Upgrade),
            "downgrade" => Some(Self::Downgrade),
            "bidirectional" => Some(Self::Bidirectional),
            _ => None,
        }
    }

    pub(crate) fn upgrades(self) -> bool {
        matches!(self, Self::Upgrade | Self::Bidirectional)
    }

    pub(crate) fn downgrades(self) -> bool {
        matches!(self, Self::Downgrade | Self::Bidirectional)
    }
}

/// Test-only: each breaks one rule on purpose, to prove that a checker notices. All off in any real node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupMutations {
    /// A partition is given to its next owner before the last one has let go.
    pub share_partitions: bool,
    /// What a member is told does not wait for the commit.
    pub answer_before_commit: bool,
    /// Offsets are taken from members of any epoch.
    pub ignore_member_epoch: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`, `group.max.session.timeout.ms`
    pub session_timeout_min_ms: i64,
    pub session_timeout_max_ms: i64,
    /// `group.initial.rebalance.delay.ms`: an empty group waits this long for more members.
    pub initial_rebalance_delay_ms: i64,
    /// `group.max.size`
    pub size_max: usize,
    /// `offset.metadata.max.bytes`
    pub metadata_bytes_max: usize,
    /// `offsets.retention.minutes`
    pub retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub retention_check_ms: i64,
    /// `group.consumer.max.size`
    pub consumer_size_max: usize,
    /// `group.consumer.assignors`, as far as they are known here; the first is the default.
    pub assignors: [Option<Assignor>; 2],
    pub migration: MigrationPolicy,
    /// `group.consumer.regex.refresh.interval.ms`
    pub regex_refresh_ms: i64,
    pub mutations: GroupMutations,
}

impl GroupConfig {
    pub(crate) fn default_assignor(&self) -> Assignor {
        self.assignors.iter().flatten().next().copied().unwrap_or(Assignor::Uniform)
    }
}

impl Default for GroupConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            size_max: i32::MAX as usize,
            metadata_bytes_max: 4_096,
            retention_ms: 7 * 24 * 3_600_000,
            retention_check_ms: 600_000,
            consumer_size_max: i32::MAX as usize,
            assignors: [Some(Assignor::Uniform), Some(Assignor::Range)],
            migration: MigrationPolicy::Bidirectional,
            regex_refresh_ms: 600_000,
            mutations: GroupMutations::default(),
        }
    }
}
