//! Committed records of the quorum never change, on no disk and at no time.

use std::collections::BTreeMap;
use std::path::Path;

use broker::NodeStatus;
use protocol::records::Batches;

use super::hash;
use crate::disk::SimDisk;

pub const METADATA_DIR: &str = "/data/__cluster_metadata-0";

#[derive(Default)]
pub struct QuorumRecords {
    /// By base offset: where the batch ends, and its hash.
    committed: BTreeMap<i64, (i64, u64)>,
}

impl QuorumRecords {
    pub fn look(&mut self, status: &NodeStatus, disk: &SimDisk, violations: &mut Vec<String>) {
        let id = status.node_id;
        for bytes in disk.files_with(Path::new(METADATA_DIR), ".log") {
            for batch in Batches::new(&bytes).map_while(Result::ok) {
                let (base, next) = (batch.header.base_offset, batch.header.next_offset());
                if next > status.quorum.high_watermark {
                    break;
                }
                let seen = (next, hash(batch.bytes));
                let known = *self.committed.entry(base).or_insert(seen);
                if known != seen {
                    violations.push(format!("node {id} has other metadata at committed offset {base} than others"));
                    return;
                }
            }
        }
    }

    pub fn count(&self) -> usize {
        self.committed.len()
    }
}
