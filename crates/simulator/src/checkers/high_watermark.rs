//! For a consumer the high watermark never goes back: what was below it once is there for ever.
//!
//! A new leader may not know yet how far its predecessor had come, and says less for a while (KIP-207): it must hold the
//! records all the same, and must come to know. That no offset is lost the consumer itself sees.

use std::collections::BTreeMap;

#[derive(Default)]
pub struct HighWatermark {
    seen: BTreeMap<i32, i64>,
}

impl HighWatermark {
    /// An answer without an error.
    pub fn on_fetched(&mut self, partition: i32, high_watermark: i64) {
        let seen = self.seen.entry(partition).or_insert(0);
        *seen = (*seen).max(high_watermark);
    }

    /// What a replica has, whoever it is: all that was readable, once everything has come right.
    pub fn seen(&self, partition: i32) -> i64 {
        self.seen.get(&partition).copied().unwrap_or(0)
    }
}
