//! Which log is compacted next, and what comes of it (`LogCleaner`, `LogCleanerManager`). The work itself is an effect;
//! only new segments are put in their places here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use metadata::config::NodeConfig;
use protocol::time::Now;
use replication::PartitionKey;
use storage::{CleanLimits, CleanStep, CleanWork, Cleanable, Rewritten, StorageError};

use crate::effect::{CleanId, Effect};
use crate::node::Node;
use crate::status::CleanerStatus;

/// Longest rest of a log whose passes fail; the first lasts as long as the cleaner's own pauses, each next one twice
/// as long.
const REST_MS_MAX: i64 = 600_000;
const REST_MS_MIN: i64 = 1_000;

struct Resting {
    failures: u32,
    until_ms: i64,
}

struct Running {
    key: PartitionKey,
    begun_ms: i64,
}

/// Invariants: a partition has at most one pass under way; a resting one has none. One that is not `noted` has none
/// either: recovery takes gaps for damage unless `cleaner-offset-checkpoint` says that a cleaner may have made them.
pub(crate) struct Cleaner {
    running: BTreeMap<CleanId, Running>,
    resting: BTreeMap<PartitionKey, Resting>,
    /// Named in `cleaner-offset-checkpoint`, as it is on disk or about to be.
    noted: BTreeSet<PartitionKey>,
    /// In the file that is being written, by directory.
    noting: BTreeMap<usize, BTreeSet<PartitionKey>>,
    wants_note: bool,
    next: u64,
    threads: usize,
    backoff_ms: i64,
    due_ms: i64,
    pub status: CleanerStatus,
}

impl Cleaner {
    pub fn new(config: &NodeConfig, now: Now) -> Self {
        let is_enabled = config.log_cleaner_enable && config.roles.broker;
        Self {
            running: BTreeMap::new(),
            resting: BTreeMap::new(),
            noted: BTreeSet::new(),
            noting: BTreeMap::new(),
            wants_note: false,
            next: 0,
            threads: if is_enabled { config.log_cleaner_threads.max(0) as usize } else { 0 },
            backoff_ms: config.log_cleaner_backoff_ms.max(1),
            due_ms: now.mono_ms,
            status: CleanerStatus::default(),
        }
    }

    /// Passes under way go on as they were begun.
    pub fn on_config(&mut self, config: &NodeConfig) {
        if self.threads > 0 {
            self.threads = config.log_cleaner_threads.max(1) as usize;
        }
        let backoff_ms = config.log_cleaner_backoff_ms.max(1);
        self.due_ms -= (self.backoff_ms - backoff_ms).max(0);
        self.backoff_ms = backoff_ms;
    }

    pub fn next_deadline(&self) -> i64 {
        if self.running.len() < self.threads { self.due_ms } else { i64::MAX }
    }

    /// A log that was compacted before has its place in the file.
    pub fn on_loaded(&mut self, key: PartitionKey) {
        self.noted.insert(key);
    }

    // DIFFERS: a partition on which Kafka's cleaner has failed is left alone until the broker starts again, and grows
    // meanwhile (KAFKA-19895). Here it is tried again, less and less often.
    fn rest(&mut self, key: PartitionKey, now: Now) -> i64 {
        let failures = self.resting.get(&key).map_or(0, |resting| resting.failures) + 1;
        let rest_ms = self.backoff_ms.max(REST_MS_MIN).saturating_mul(1 << (failures - 1).min(16)).min(REST_MS_MAX);
        self.resting.insert(key, Resting { failures, until_ms: now.mono_ms + rest_ms });
        self.status.failures += 1;
        rest_ms
    }
}

impl Node {
    /// Begins passes while there are logs that need one and threads that are free.
    pub(crate) fn poll_cleaner(&mut self, now: Now) {
        if now.mono_ms < self.cleaner.next_deadline() {
            return;
        }
        while self.cleaner.running.len() < self.cleaner.threads {
            match self.dirtiest_log(now) {
                Ok(Some((key, what))) => self.begin_cleaning(key, &what, now),
                Ok(None) => {
                    if self.cleaner.wants_note {
                        self.write_checkpoints();
                    }
                    self.cleaner.due_ms = now.mono_ms + self.cleaner.backoff_ms;
                    return self.apply_retention_to_compacted(now);
                }
                Err(error) => {
                    self.cleaner.due_ms = now.mono_ms + self.cleaner.backoff_ms;
                    return self.storage_failed(error, now);
                }
            }
        }
    }

    fn dirtiest_log(&mut self, now: Now) -> Result<Option<(PartitionKey, Cleanable)>, StorageError> {
        self.cleaner.resting.retain(|key, _| self.replicas.all.contains_key(key));
        self.cleaner.noted.retain(|key| self.replicas.all.contains_key(key));
        let mut dirtiest: Option<(PartitionKey, Cleanable)> = None;
        let mut ratio_max: f64 = 0.0;
        for (key, replica) in &mut self.replicas.all {
            if !replica.topic_config.cleanup_policy.compact || replica.partition.log().is_being_cleaned() {
                continue;
            }
            // Its last pass may have been cancelled and still be running.
            let is_busy = self.cleaner.running.values().any(|running| running.key == *key);
            let rests = self.cleaner.resting.get(key).is_some_and(|resting| now.mono_ms < resting.until_ms);
            if is_busy || rests {
                continue;
            }
            let stable = replica.partition.last_stable_offset();
            let Some(found) = replica.partition.log_mut().cleanable(stable, now)? else { continue };
            ratio_max = ratio_max.max(found.ratio);
            if found.is_due && !self.cleaner.noted.contains(key) {
                replica.partition.log_mut().set_cleaned_upto(Some(found.first_dirty()));
                self.cleaner.wants_note = true;
                continue;
            }
            if found.is_due && dirtiest.as_ref().is_none_or(|(_, most)| found.ratio > most.ratio) {
                dirtiest = Some((*key, found));
            }
        }
        self.cleaner.status.dirty_percent_max = (ratio_max * 100.0) as u32;
        self.cleaner.status.resting = self.cleaner.resting.len();
        Ok(dirtiest)
    }

    fn begin_cleaning(&mut self, key: PartitionKey, what: &Cleanable, now: Now) {
        let Some(replica) = self.replicas.all.get_mut(&key) else { return };
        let threads = self.cleaner.threads.max(1);
        let limits = CleanLimits {
            map_bytes: self.config.log_cleaner_dedupe_buffer_size / threads as i64,
            load_factor: self.config.log_cleaner_io_buffer_load_factor,
            io_bytes: self.config.log_cleaner_io_buffer_size.max(0) as usize / threads / 2,
        };
        tracing::debug!(topic = %replica.partition.topic, partition = key.1, dirty_bytes = what.dirty_bytes, clean_bytes = what.clean_bytes, "compaction begins");
        let work = replica.partition.log_mut().begin_cleaning(what, limits, now);
        let id = CleanId(self.cleaner.next);
        self.cleaner.next += 1;
        self.cleaner.running.insert(id, Running { key, begun_ms: now.mono_ms });
        self.clean(id, Box::new(work));
    }

    fn clean(&mut self, id: CleanId, work: Box<CleanWork>) {
        let bytes_per_second = self.config.log_cleaner_io_max_bytes_per_second / self.cleaner.threads.max(1) as f64;
        self.effects.push(Effect::Clean { id, work, bytes_per_second });
    }

    /// Work asked for by [`Effect::Clean`] has come to the end of a step.
    pub fn cleaned(&mut self, id: CleanId, mut work: Box<CleanWork>, result: io::Result<CleanStep>, now: Now) {
        let Some(running) = self.cleaner.running.get(&id) else { return };
        let (key, begun_ms) = (running.key, running.begun_ms);
        match result {
            Ok(CleanStep::Rewritten(new)) => match self.swap_in(key, &mut work, &new, now) {
                Ok(true) => return self.clean(id, work),
                Ok(false) => {}
                Err(error) => self.storage_failed(error, now),
            },
            Ok(CleanStep::Finished { end_offset }) => self.on_cleaned(key, &work, end_offset, now.mono_ms - begun_ms),
            Ok(CleanStep::Cancelled) => {}
            Err(error) => {
                let rest_ms = self.cleaner.rest(key, now);
                tracing::error!(dir = %work.dir().display(), %error, rest_ms, "a log could not be compacted");
                if let Some(replica) = self.replicas.all.get_mut(&key) {
                    replica.partition.log_mut().cancel_cleaning();
                }
                // What the system says of the disk; damaged records and the like leave the directory as it is.
                if error.raw_os_error().is_some() {
                    self.storage_failed(StorageError { path: work.dir().to_owned(), error }, now);
                }
            }
        }
        self.cleaner.running.remove(&id);
        // There may be more to do at once.
        self.cleaner.due_ms = now.mono_ms;
    }

    /// A directory's checkpoints are about to be written, unless they are on disk as they are.
    pub(crate) fn on_checkpoint_begun(&mut self, index: usize, is_on_disk: bool) {
        let replicas = self.replicas.all.iter().filter(|(_, replica)| replica.dir == index);
        let named = replicas.filter(|(_, replica)| replica.partition.log().cleaned_upto().is_some());
        self.cleaner.noting.insert(index, named.map(|(key, _)| *key).collect());
        self.cleaner.wants_note = false;
        if is_on_disk {
            self.on_checkpoint_on_disk(index);
        }
    }

    pub(crate) fn on_checkpoint_on_disk(&mut self, index: usize) {
        let noting = self.cleaner.noting.remove(&index).unwrap_or_default();
        if !noting.is_subset(&self.cleaner.noted) {
            // At once: a log has waited for this.
            self.cleaner.due_ms = i64::MIN;
        }
        self.cleaner.noted.extend(noting);
    }

    fn swap_in(
        &mut self,
        key: PartitionKey,
        work: &mut CleanWork,
        new: &Rewritten,
        now: Now,
    ) -> Result<bool, StorageError> {
        let Some(replica) = self.replicas.all.get_mut(&key) else {
            work.forget(new);
            return Ok(false);
        };
        let swapped = replica.partition.log_mut().swap_in(work, new, now)?;
        self.replicas.note_growth(key);
        Ok(swapped)
    }

    fn on_cleaned(&mut self, key: PartitionKey, work: &CleanWork, end_offset: i64, took_ms: i64) {
        let Some(replica) = self.replicas.all.get_mut(&key) else { return };
        if !replica.partition.log_mut().on_cleaned(work, end_offset) {
            return;
        }
        let stats = work.stats();
        let (topic, bytes_read, bytes_written) = (&replica.partition.topic, stats.bytes_read, stats.bytes_written);
        tracing::info!(%topic, partition = key.1, end_offset, bytes_read, bytes_written, took_ms, "log is compacted");
        if stats.keyless > 0 {
            tracing::warn!(%topic, partition = key.1, records = stats.keyless, "records without a key were dropped");
        }
        self.cleaner.resting.remove(&key);
        let status = &mut self.cleaner.status;
        status.passes += 1;
        status.bytes_read += bytes_read;
        status.bytes_written += bytes_written;
        status.pass_ms_max = status.pass_ms_max.max(took_ms);
        self.write_checkpoints();
    }
}
