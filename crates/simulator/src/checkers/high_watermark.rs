//! For a consumer the high watermark never goes back: what it could read, it can read.

use std::collections::BTreeMap;

#[derive(Default)]
pub struct HighWatermark {
    seen: BTreeMap<i32, i64>,
}

impl HighWatermark {
    /// An answer without an error to a fetch from `position`.
    pub fn on_fetched(&mut self, partition: i32, position: i64, high_watermark: i64, violations: &mut Vec<String>) {
        let seen = self.seen.entry(partition).or_insert(0);
        if high_watermark < *seen {
            violations.push(format!(
                "the high watermark of partition {partition} goes from {seen} back to {high_watermark} (read at {position})"
            ));
        }
        *seen = (*seen).max(high_watermark);
    }
}
