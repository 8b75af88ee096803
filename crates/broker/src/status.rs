//! A picture of a node for those who watch it: health and readiness, metrics, the simulator's checkers.

use protocol::wire::Uuid;

use crate::lifecycle;

#[derive(Clone, Debug)]
pub struct NodeStatus {
    pub node_id: i32,
    /// `None` on a node that is only a controller.
    pub broker: Option<BrokerStatus>,
    pub quorum: QuorumStatus,
    /// This node is the active controller (its leader's office has begun, not merely the vote).
    pub active_controller: bool,
    /// Last offset of the metadata log that this node has applied and published; −1 before the first.
    pub metadata_offset: i64,
    pub connections: usize,
}

#[derive(Clone, Debug)]
pub struct BrokerStatus {
    pub state: lifecycle::State,
    pub epoch: i64,
    pub partitions: Vec<PartitionStatus>,
    pub cleaner: CleanerStatus,
    /// Of `log.dirs`, that failed or could not be opened.
    pub offline_dirs: usize,
}

/// Of the log cleaner, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct CleanerStatus {
    pub passes: u64,
    pub failures: u64,
    /// Logs that are left alone for a while, because their last pass failed.
    pub resting: usize,
    /// Of the dirtiest log that waited when the cleaner last looked.
    pub dirty_percent_max: u32,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub pass_ms_max: i64,
}

#[derive(Clone, Debug)]
pub struct QuorumStatus {
    pub leader: Option<i32>,
    pub epoch: i32,
    /// −1 while unknown.
    pub high_watermark: i64,
    pub log_end: i64,
    pub is_leader: bool,
}

#[derive(Clone, Debug)]
pub struct PartitionStatus {
    pub topic: String,
    pub topic_id: Uuid,
    pub partition: i32,
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub is_leader: bool,
    /// As committed by the controller, leader's view.
    pub isr: Vec<i32>,
    pub replicas: usize,
    pub under_min_isr: bool,
    pub high_watermark: i64,
    pub log_end: i64,
    pub log_start: i64,
    pub size_bytes: u64,
}

impl NodeStatus {
    /// The node answers its clients in full: a broker is unfenced, a controller knows its quorum's leader.
    pub fn is_ready(&self) -> bool {
        match &self.broker {
            Some(broker) => broker.state == lifecycle::State::Running,
            None => self.quorum.leader.is_some() && self.quorum.high_watermark >= 0,
        }
    }
}
