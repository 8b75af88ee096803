//! What must be true whatever happens: one file each. They see the cluster from outside, as clients and as somebody
//! who can look into every disk.

pub mod acknowledged;
pub mod compacted;
pub mod high_watermark;
pub mod leaders;
pub mod quorum;
pub mod replicas;

#[derive(Default)]
pub struct Checkers {
    pub acknowledged: acknowledged::Acknowledged,
    pub high_watermark: high_watermark::HighWatermark,
    pub leaders: leaders::Leaders,
    pub quorum: quorum::QuorumRecords,
    pub replicas: replicas::Replicas,
    pub violations: Vec<String>,
}

impl Checkers {
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }
}

/// A seeded hash of bytes, for comparing them later.
pub fn hash(bytes: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}
