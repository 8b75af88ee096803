//! Snapshots of the metadata log: the image as records, so that the log before it can go (KIP-630).

use protocol::time::Now;

use crate::node::Node;

impl Node {
    /// Writes a snapshot if enough has been replayed since the last, or if it is old.
    pub(crate) fn maybe_snapshot(&mut self, now: Now) {
        // 0 turns snapshots by age off.
        let interval_ms = match self.config.metadata_log_max_snapshot_interval_ms {
            0 => i64::MAX,
            interval_ms => interval_ms,
        };
        if self.replay.snapshot_due_ms == i64::MAX {
            self.replay.snapshot_due_ms = now.mono_ms.saturating_add(interval_ms);
        }
        let bytes_max = self.config.metadata_log_max_record_bytes_between_snapshots.max(1) as u64;
        let is_due = now.mono_ms >= self.replay.snapshot_due_ms && self.replay.bytes_since_snapshot > 0;
        let is_large = self.replay.bytes_since_snapshot >= bytes_max;
        if !(is_due || is_large) || self.replay.in_transaction() || self.image.features.is_empty() {
            return;
        }
        self.replay.bytes_since_snapshot = 0;
        self.replay.snapshot_due_ms = now.mono_ms.saturating_add(interval_ms);
        let id = self.replay.end();
        if let Err(error) = self.write_snapshot(now) {
            tracing::error!(%id, error, "a metadata snapshot could not be written; the log is kept");
        }
    }

    fn write_snapshot(&mut self, now: Now) -> Result<(), String> {
        let writer = self.quorum.begin_snapshot(self.replay.end(), self.replay.timestamp, now);
        let Some(mut writer) = writer.map_err(|e| e.to_string())? else { return Ok(()) };
        for record in self.image.to_records().map_err(|e| e.to_string())? {
            writer.append(record, now).map_err(|e| e.to_string())?;
        }
        let frozen = writer.finish(now).map_err(|e| e.to_string())?;
        self.quorum.end_snapshot(frozen);
        Ok(())
    }
}
