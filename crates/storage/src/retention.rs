//! What makes a log shorter: truncation at its end, retention and record deletion at its start, deletion as a whole.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use protocol::time::Now;
use protocol::wire::Uuid;

use crate::log::StorageError;
use crate::segment::{Segment, file_name};
use crate::{Log, txn_index};

/// Directory names are cut to what file systems allow.
const DIR_NAME_MAX: usize = 255;

impl Log {
    /// Removes everything at and beyond `offset`; a follower does so when its leader's history differs.
    pub fn truncate_to(&mut self, offset: i64, now: Now) -> Result<(), StorageError> {
        if offset >= self.next_offset {
            // A leader that wrote nothing left an epoch at the very end, which its successor does not know.
            return self.epochs.truncate_from_end(offset).map_err(|e| self.failed(e));
        }
        if offset <= self.log_start || offset <= self.first_segment_base() {
            return self.truncate_fully_and_start_at(offset.max(0), now);
        }
        tracing::info!(dir = %self.dir.display(), from = self.next_offset, to = offset, "log is truncated");
        self.cancel_cleaning();
        self.cleaned_upto = self.cleaned_upto.map(|upto| upto.min(offset));
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        for (_, mut segment) in self.segments.split_off(&offset) {
            segment.remove(&dir).map_err(failed)?;
        }
        let was_sealed = self.segments.len();
        let segment = self.segments.last_entry().expect("the offset lies in a segment").into_mut();
        let base = segment.base_offset;
        segment.load_index().and_then(|()| segment.load_time_index()).map_err(failed)?;
        let at = segment.position_of(offset).map_err(failed)?;
        segment.truncate(at, offset).map_err(failed)?;
        debug_assert!(was_sealed > 0);
        txn_index::truncate(&*self.disk, &dir.join(file_name(base, "txnindex")), offset).map_err(failed)?;
        self.next_offset = offset;
        self.recovery_point = self.recovery_point.min(offset);
        self.unsynced_cut = Some(self.unsynced_cut.map_or(base, |cut| cut.min(base)));
        self.size = self.segments.values().map(|s| u64::from(s.size)).sum();
        self.epochs.truncate_from_end(offset).map_err(failed)?;
        self.recover_producers(now)?;
        self.check();
        Ok(())
    }

    /// Drops everything and begins anew at an offset: nothing here is part of the leader's history.
    pub fn truncate_fully_and_start_at(&mut self, offset: i64, now: Now) -> Result<(), StorageError> {
        tracing::info!(dir = %self.dir.display(), from = self.next_offset, to = offset, "log starts over");
        self.cancel_cleaning();
        self.cleaned_upto = self.cleaned_upto.map(|upto| upto.min(offset));
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        for (_, mut segment) in std::mem::take(&mut self.segments) {
            segment.remove(&dir).map_err(failed)?;
        }
        let segment = Segment::create(&self.disk, &dir, offset, &self.config, now.wall_ms).map_err(failed)?;
        self.segments.insert(offset, segment);
        self.dir_is_dirty = true;
        self.log_start = offset;
        self.next_offset = offset;
        self.recovery_point = offset;
        self.size = 0;
        self.epochs.truncate_all().map_err(failed)?;
        self.remove_snapshots(i64::MAX)?;
        self.producers.clear(offset);
        Ok(())
    }

    /// Records below `offset` are gone for readers; files go when all they hold is below.
    pub fn set_log_start(&mut self, offset: i64, now: Now) -> Result<(), StorageError> {
        let offset = offset.min(self.next_offset);
        if offset <= self.log_start {
            return Ok(());
        }
        self.log_start = offset;
        self.epochs.truncate_from_start(offset).map_err(|e| self.failed(e))?;
        self.delete_segments(now, |next_base, _| next_base <= offset)?;
        Ok(())
    }

    /// Applies time and size retention below the high watermark; returns whether anything went.
    pub fn apply_retention(&mut self, high_watermark: i64, now: Now) -> Result<bool, StorageError> {
        if !self.config.delete {
            return Ok(false);
        }
        let config = self.config.clone();
        let mut excess = match config.retention_bytes {
            ..0 => 0,
            limit => self.size.saturating_sub(limit as u64),
        };
        let before = self.segments.len();
        let expired = |segment: &mut Segment| {
            let stamp = segment.largest_timestamp().map_or(segment.created_ms, |s| s.timestamp);
            config.retention_ms >= 0 && now.wall_ms.saturating_sub(stamp) > config.retention_ms
        };
        // An active segment whose records have all expired is rolled, so that they can go too.
        let end = self.next_offset;
        if end <= high_watermark && self.active().size > 0 && expired(self.active()) {
            self.roll(end, now)?;
        }
        let deleted = self.delete_segments(now, |next_base, segment| {
            if next_base > high_watermark {
                return false;
            }
            let size = u64::from(segment.size);
            if expired(segment) {
                excess = excess.saturating_sub(size);
                return true;
            }
            // Size retention keeps at least the limit: a segment goes only if what is left still reaches it.
            let goes = excess >= size && size > 0;
            if goes {
                excess -= size;
            }
            goes
        })?;
        if deleted {
            let base = self.first_segment_base();
            if base > self.log_start {
                self.log_start = base;
                self.epochs.truncate_from_start(base).map_err(|e| self.failed(e))?;
            }
            tracing::info!(dir = %self.dir.display(), segments = before - self.segments.len(), log_start = self.log_start, "retention deleted segments");
        }
        Ok(deleted)
    }

    /// Deletes sealed segments from the oldest on while `goes` says so.
    fn delete_segments(
        &mut self,
        now: Now,
        mut goes: impl FnMut(i64, &mut Segment) -> bool,
    ) -> Result<bool, StorageError> {
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        let mut any = false;
        while self.segments.len() > 1 {
            let next_base = self.segments.keys().nth(1).copied().expect("two segments");
            let mut first = self.segments.first_entry().expect("two segments");
            if !goes(next_base, first.get_mut()) {
                break;
            }
            let mut segment = first.remove();
            if let Some(cancelled) = self.cleaning.take() {
                cancelled.store(true, Ordering::Relaxed);
            }
            self.size -= u64::from(segment.size);
            let due = now.mono_ms + self.config.file_delete_delay_ms;
            self.doomed.extend(segment.mark_deleted(&dir).map_err(failed)?.into_iter().map(|path| (due, path)));
            any = true;
        }
        if any {
            self.remove_snapshots(self.first_segment_base())?;
        }
        Ok(any)
    }

    /// Producer snapshots below an offset cover records that are gone.
    fn remove_snapshots(&mut self, below: i64) -> Result<(), StorageError> {
        for entry in self.disk.read_dir(&self.dir).map_err(|e| self.failed(e))? {
            let offset = entry.name.strip_suffix(".snapshot").and_then(|n| n.parse::<i64>().ok());
            if offset.is_some_and(|o| o < below) {
                self.disk.remove_file(&self.dir.join(&entry.name)).map_err(|e| self.failed(e))?;
            }
        }
        Ok(())
    }

    /// Removes files whose delay is over. Cheap if there is nothing to do.
    pub fn poll(&mut self, now: Now) -> Result<(), StorageError> {
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.doomed).into_iter().partition(|d| d.0 <= now.mono_ms);
        self.doomed = later;
        for (_, path) in due {
            // The cleaner may have replaced a segment twice within the delay, and its files had the same names.
            if self.disk.exists(&path) {
                self.disk.remove_file(&path).map_err(failed)?;
            }
        }
        self.maybe_note_progress()
    }

    /// Forgets producers that are long gone, every `producer.id.expiration.check.interval.ms`: it looks at all of them.
    pub fn expire_producers(&mut self, now: Now) {
        self.producers.expire(now.wall_ms, self.config.producer_expiration_ms);
        self.verifications.expire(now.wall_ms, self.config.producer_expiration_ms);
    }

    /// Renames the directory so that nothing takes it for a replica; the caller removes it after the delay.
    pub fn retire(mut self, suffix: &str, id: Uuid) -> Result<PathBuf, StorageError> {
        self.cancel_cleaning();
        let parent = self.dir.parent().unwrap_or(Path::new("/")).to_owned();
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hex: String = id.0.iter().map(|b| format!("{b:02x}")).collect();
        let tail = format!(".{hex}-{suffix}");
        let (topic, partition) = name.rsplit_once('-').unwrap_or((&name, "0"));
        let room = DIR_NAME_MAX.saturating_sub(tail.len() + partition.len() + 1);
        let cut = topic.get(..topic.len().min(room)).unwrap_or(topic);
        let to = parent.join(format!("{cut}-{partition}{tail}"));
        self.disk.rename(&self.dir, &to).map_err(|e| self.failed(e))?;
        self.disk.sync_dir(&parent).map_err(|e| self.failed(e))?;
        Ok(to)
    }
}
