//! A log's side of compaction: how dirty it is, what a pass may touch, and new segments in the place of old ones
//! (`LogCleanerManager`, `LogToClean`, `LocalLog.replaceSegments`).

use std::ops::RangeBounds;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::time::Now;

use super::filter::{LastOfProducer, Terms};
use super::work::{CleanLimits, CleanWork, Rewritten, Source};
use crate::Log;
use crate::log::StorageError;
use crate::segment::{CLEANED, FILE_SUFFIXES, SWAP, Segment, file_name};

/// What of a log could be compacted now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cleanable {
    pub(super) first_dirty: i64,
    /// Always where a segment begins.
    pub(super) first_uncleanable: i64,
    pub clean_bytes: u64,
    pub dirty_bytes: u64,
    /// The share of what is dirty, from 0 to 1.
    pub ratio: f64,
    /// Something has waited for `max.compaction.lag.ms`, or more than `min.cleanable.dirty.ratio` is dirty.
    pub is_due: bool,
}

impl Cleanable {
    pub fn first_dirty(&self) -> i64 {
        self.first_dirty
    }
}

impl Log {
    /// Everything below was compacted by the last pass; `None` if there has been none.
    pub fn cleaned_upto(&self) -> Option<i64> {
        self.cleaned_upto
    }

    /// From `cleaner-offset-checkpoint`.
    pub fn set_cleaned_upto(&mut self, offset: Option<i64>) {
        self.cleaned_upto = offset;
    }

    /// Nothing of the active segment, of what is not decided yet, or of what `min.compaction.lag.ms` protects is
    /// cleaned. `None` if there is nothing that could be.
    pub fn cleanable(&mut self, last_stable_offset: i64, now: Now) -> Result<Option<Cleanable>, StorageError> {
        let end = self.next_offset;
        // A checkpoint that is older than a truncation or newer than the log says nothing.
        let known = self.cleaned_upto.filter(|offset| (self.log_start..=end).contains(offset));
        let first_dirty = known.unwrap_or(self.log_start);
        let active = *self.segments.keys().next_back().expect("a log has a segment");
        let mut limit = last_stable_offset.min(active);
        if self.config.min_compaction_lag_ms > 0 {
            limit = limit.min(self.first_too_young(first_dirty, active, now));
        }
        let limit = limit.max(first_dirty);
        let first_uncleanable = match limit {
            limit if limit > active => active,
            limit => self.segments.range(..=limit).next_back().map_or(active, |(base, _)| *base),
        };
        let size = |range: &mut dyn Iterator<Item = (&i64, &Segment)>| -> u64 {
            range.map(|(_, segment)| u64::from(segment.size)).sum()
        };
        let clean_bytes = size(&mut self.segments.range(..first_dirty));
        let dirty_bytes = size(&mut self.overlapping(first_dirty.min(first_uncleanable), first_uncleanable));
        if clean_bytes + dirty_bytes == 0 {
            return Ok(None);
        }
        let ratio = dirty_bytes as f64 / (clean_bytes + dirty_bytes) as f64;
        let has_waited = dirty_bytes > 0 && self.has_waited_too_long(first_dirty, active, now)?;
        let is_due = dirty_bytes > 0 && (has_waited || ratio > self.config.min_cleanable_ratio);
        Ok(Some(Cleanable { first_dirty, first_uncleanable, clean_bytes, dirty_bytes, ratio, is_due }))
    }

    /// Segments from the one that holds `from`, as far as they begin below `to`.
    fn overlapping(&self, from: i64, to: i64) -> impl Iterator<Item = (&i64, &Segment)> {
        self.segments.range(self.range_of(from, to))
    }

    fn range_of(&self, from: i64, to: i64) -> impl RangeBounds<i64> + use<> {
        if from >= to {
            return to..to;
        }
        self.segments.range(..=from).next_back().map_or(i64::MIN, |(base, _)| *base)..to
    }

    fn first_too_young(&mut self, from: i64, active: i64, now: Now) -> i64 {
        let lag_ms = self.config.min_compaction_lag_ms;
        let range = self.range_of(from, active);
        let mut young = self.segments.range_mut(range).filter_map(|(base, segment)| {
            let newest = segment.largest_timestamp().map_or(segment.created_ms, |stamp| stamp.timestamp);
            (newest > now.wall_ms - lag_ms).then_some(*base)
        });
        young.next().unwrap_or(i64::MAX)
    }

    fn has_waited_too_long(&mut self, from: i64, active: i64, now: Now) -> Result<bool, StorageError> {
        let lag_ms = self.config.max_compaction_lag_ms;
        if lag_ms == i64::MAX {
            return Ok(false);
        }
        let dir = self.dir.clone();
        let range = self.range_of(from, active);
        for (_, segment) in self.segments.range_mut(range) {
            let first = segment.first_batch_timestamp().map_err(|error| StorageError { path: dir.clone(), error })?;
            if first.is_some_and(|first| first > 0 && first < now.wall_ms - lag_ms) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A pass over what [`Log::cleanable`] found. A pass that is under way already ends.
    pub fn begin_cleaning(&mut self, what: &Cleanable, limits: CleanLimits, now: Now) -> CleanWork {
        self.cancel_cleaning();
        let last = |(id, entry): (&i64, &crate::ProducerEntry)| {
            let data_offset = entry.batches.back().map(|batch| batch.last_offset).filter(|offset| *offset >= 0);
            (*id, LastOfProducer { data_offset, epoch: entry.epoch })
        };
        let cancelled = Arc::default();
        self.cleaning = Some(Arc::clone(&cancelled));
        let sources = self.segments.range(..what.first_uncleanable);
        CleanWork {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            config: self.config.clone(),
            limits,
            terms: Terms {
                producers: self.producers.entries().iter().map(last).collect(),
                upper_bound: what.first_uncleanable,
                now_ms: now.wall_ms,
                delete_retention_ms: self.config.delete_retention_ms,
            },
            first_dirty: what.first_dirty,
            sources: sources.map(|(base, segment)| Source { base: *base, size: segment.size }).collect(),
            later: self.segments.range(what.first_uncleanable..).map(|(base, _)| *base).collect(),
            cancelled,
            has_swapped: false,
            stats: super::CleanStats::default(),
            pass: None,
        }
    }

    /// Whether a pass reads this log.
    pub fn is_being_cleaned(&self) -> bool {
        self.cleaning.is_some()
    }

    /// Files were cut off or taken away: what a pass has read of them is not what the log holds.
    pub fn cancel_cleaning(&mut self) {
        if let Some(cancelled) = self.cleaning.take() {
            cancelled.store(true, Ordering::Relaxed);
        }
    }

    fn is_cleaned_by(&self, work: &CleanWork) -> bool {
        self.cleaning.as_ref().is_some_and(|mark| Arc::ptr_eq(mark, &work.cancelled))
    }

    /// Puts a group's new segment in the place of the old ones; `false` if the log has changed meanwhile, and the pass
    /// has to end.
    ///
    /// The names change in Kafka's order. `.swap` says that the new segment is whole: whoever finds it removes what it
    /// stands for and finishes the exchange. Until all of its files are called that, `.cleaned` says that it is to go.
    pub fn swap_in(&mut self, work: &mut CleanWork, new: &Rewritten, now: Now) -> Result<bool, StorageError> {
        let (Some(base), true) = (new.old.first().copied(), self.is_cleaned_by(work)) else {
            work.forget(new);
            return Ok(false);
        };
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        self.rename_files(base, CLEANED, SWAP)?;
        let due_ms = now.mono_ms + self.config.file_delete_delay_ms;
        let mut created_ms = now.wall_ms;
        for old in &new.old {
            let Some(mut segment) = self.segments.remove(old) else { continue };
            created_ms = segment.created_ms;
            self.size -= u64::from(segment.size);
            let marked = segment.mark_deleted(&dir).map_err(failed)?;
            self.doomed.extend(marked.into_iter().map(|path| (due_ms, path)));
            // What such a snapshot says is in a later one, or follows from the batches.
            let snapshot = dir.join(file_name(*old, "snapshot"));
            if *old != base && self.disk.exists(&snapshot) {
                self.disk.remove_file(&snapshot).map_err(failed)?;
            }
        }
        self.rename_files(base, SWAP, "")?;
        let segment = Segment::open(&self.disk, &dir, base, new.size, &self.config, created_ms).map_err(failed)?;
        self.size += u64::from(segment.size);
        self.snapshot_bytes = self.snapshot_bytes.min(self.size);
        self.segments.insert(base, segment);
        work.has_swapped = true;
        self.check();
        Ok(true)
    }

    fn rename_files(&self, base: i64, from: &str, to: &str) -> Result<(), StorageError> {
        for suffix in FILE_SUFFIXES {
            let name = file_name(base, suffix);
            let path = self.dir.join(format!("{name}{from}"));
            if self.disk.exists(&path) {
                self.disk.rename(&path, &self.dir.join(format!("{name}{to}"))).map_err(|e| self.failed(e))?;
            }
        }
        Ok(())
    }

    /// A pass has finished; `false` if the log has changed meanwhile.
    pub fn on_cleaned(&mut self, work: &CleanWork, end_offset: i64) -> bool {
        let is_ours = self.is_cleaned_by(work);
        if is_ours {
            self.cleaning = None;
            self.cleaned_upto = Some(end_offset);
        }
        is_ours
    }
}
