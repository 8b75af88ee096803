//! Control records: transaction markers, and what the quorum writes about itself.

use super::{BatchBuilder, BatchSpec};
use crate::wire::Reader;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum ControlRecordType {
    Abort = 0,
    Commit = 1,
    LeaderChange = 2,
    SnapshotHeader = 3,
    SnapshotFooter = 4,
    KRaftVersion = 5,
    KRaftVoters = 6,
}

impl ControlRecordType {
    /// From the key of a control record; `None` for types that this version does not know.
    pub fn parse(key: &[u8]) -> Option<ControlRecordType> {
        let mut r = Reader::new(key);
        if r.i16().ok()? < 0 {
            return None;
        }
        match r.i16().ok()? {
            0 => Some(Self::Abort),
            1 => Some(Self::Commit),
            2 => Some(Self::LeaderChange),
            3 => Some(Self::SnapshotHeader),
            4 => Some(Self::SnapshotFooter),
            5 => Some(Self::KRaftVersion),
            6 => Some(Self::KRaftVoters),
            _ => None,
        }
    }
}

/// Version 0, then the type.
pub fn control_key(kind: ControlRecordType) -> [u8; 4] {
    let [hi, lo] = (kind as i16).to_be_bytes();
    [0, 0, hi, lo]
}

/// The batch that ends a producer's transaction in a partition.
pub fn end_txn_marker(
    producer_id: i64,
    producer_epoch: i16,
    kind: ControlRecordType,
    coordinator_epoch: i32,
    timestamp: i64,
) -> Vec<u8> {
    let spec = BatchSpec { producer_id, producer_epoch, transactional: true, control: true, ..Default::default() };
    let [a, b, c, d] = coordinator_epoch.to_be_bytes();
    let mut builder = BatchBuilder::new(spec);
    builder.append(timestamp, Some(&control_key(kind)), Some(&[0, 0, a, b, c, d]), &[]);
    builder.build()
}
