//! Opening a log: what is in its directory, what may be damaged, what must be rebuilt.

use std::io;
use std::path::{Path, PathBuf};

use protocol::records::Batch;
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::disk::{Disk, DiskRef};
use crate::epochs::LeaderEpochs;
use crate::log::{Evidence, OpenOptions, StorageError};
use crate::producers::ProducerStates;
use crate::segment::{Segment, file_name};
use crate::{Log, LogConfig, txn_index};

pub(crate) const PARTITION_METADATA: &str = "partition.metadata";

impl Log {
    /// A log that does not exist yet.
    pub fn create(
        disk: DiskRef,
        dir: &Path,
        topic_id: Option<Uuid>,
        config: LogConfig,
        now: Now,
    ) -> Result<Log, StorageError> {
        let failed = |error| StorageError { path: dir.to_owned(), error };
        disk.create_dir_all(dir).map_err(failed)?;
        let options =
            OpenOptions { topic_id, evidence: Evidence::CleanShutdown, recovery_point: 0, log_start_offset: 0, now };
        Log::open(disk, dir, config, &options)
    }

    /// A log as it was left; a directory without segments becomes an empty one.
    pub fn open(disk: DiskRef, dir: &Path, config: LogConfig, options: &OpenOptions) -> Result<Log, StorageError> {
        let failed = |error| StorageError { path: dir.to_owned(), error };
        clean_up(&*disk, dir).map_err(failed)?;
        if options.evidence == Evidence::Unknown {
            discard_if_never_flushed(&*disk, dir).map_err(failed)?;
        }
        let (epochs, epochs_read) = LeaderEpochs::open(disk.clone(), dir);
        let mut log = Log::new(disk.clone(), dir.to_owned(), config, epochs);
        log.load_topic_id(options.topic_id)?;
        let now = options.now;
        for entry in disk.read_dir(dir).map_err(failed)? {
            let Some(base) = entry.name.strip_suffix(".log").and_then(|n| n.parse::<i64>().ok()) else { continue };
            let segment = Segment::open(&disk, dir, base, entry.len, &log.config, now.wall_ms).map_err(failed)?;
            log.segments.insert(base, segment);
        }
        if log.segments.is_empty() {
            let base = options.log_start_offset.max(0);
            let segment = Segment::create(&disk, dir, base, &log.config, now.wall_ms).map_err(failed)?;
            log.segments.insert(base, segment);
        }
        log.log_start = options.log_start_offset.max(log.first_segment_base());
        let rebuild_epochs = epochs_read.is_err();
        log.recover(options, rebuild_epochs)?;
        log.check();
        Ok(log)
    }

    /// What `partition.metadata` says. Without it, or if power took away what was in it, the log is whoever's asks.
    fn load_topic_id(&mut self, expected: Option<Uuid>) -> Result<(), StorageError> {
        let path = self.dir.join(PARTITION_METADATA);
        if self.disk.exists(&path) {
            let bytes = self.disk.read(&path).map_err(|e| self.failed(e))?;
            let text = String::from_utf8_lossy(&bytes);
            self.topic_id = parse_topic_id(&text);
            if self.topic_id.is_none() {
                tracing::warn!(path = %path.display(), bytes = bytes.len(), "names no topic id; it is written anew");
            }
        }
        match (self.topic_id, expected) {
            (None, Some(id)) => self.set_topic_id(id),
            _ => Ok(()),
        }
    }

    /// For a log that was found without a topic id.
    pub fn set_topic_id(&mut self, id: Uuid) -> Result<(), StorageError> {
        let path = self.dir.join(PARTITION_METADATA);
        let text = format!("version: 0\ntopic_id: {id}");
        // Not forced to disk here: a topic of a thousand partitions would stop the node for as many fsyncs. The log's
        // first flush takes it along.
        crate::checkpoint::replace(&*self.disk, &path, text.as_bytes()).map_err(|e| self.failed(e))?;
        self.topic_id = Some(id);
        self.dir_is_dirty = true;
        Ok(())
    }

    fn recover(&mut self, options: &OpenOptions, rebuild_epochs: bool) -> Result<(), StorageError> {
        let last = *self.segments.keys().next_back().expect("a log has a segment");
        // Segments from the one that holds the recovery point on may be damaged; the last one is always walked, since
        // its end decides where the log ends.
        let suspect_from = match options.evidence {
            Evidence::CleanShutdown | Evidence::SameBoot => last,
            Evidence::Unknown => {
                let holds = self.segments.range(..=options.recovery_point).next_back().map(|(base, _)| *base);
                holds.unwrap_or(i64::MIN)
            }
        };
        let suspects: Vec<i64> = self.segments.range(suspect_from..).map(|(base, _)| *base).collect();
        let mut damaged_at = None;
        for base in suspects {
            if let Some(at) = self.recover_segment(base, options.evidence)? {
                damaged_at = Some((base, at));
                break;
            }
            if let Some(at) = self.fit_to_next(base, options.evidence)? {
                damaged_at = Some((base, at));
                break;
            }
        }
        if let Some((base, at)) = damaged_at {
            self.drop_after(base, at)?;
        }
        let failed_dir = self.dir.clone();
        let failed = |error| StorageError { path: failed_dir.clone(), error };
        let (base, segment) = self.segments.iter_mut().next_back().expect("a log has a segment");
        let mut next = *base;
        if let Some(last) = last_batch_end(segment).map_err(failed)? {
            next = last;
        }
        self.next_offset = next.max(self.log_start);
        self.log_start = self.log_start.min(self.next_offset);
        self.size = self.segments.values().map(|s| u64::from(s.size)).sum();
        self.recovery_point = match options.evidence {
            Evidence::CleanShutdown => self.next_offset,
            _ => options.recovery_point.min(self.next_offset).max(0),
        };
        let doubted_from = match (rebuild_epochs, options.evidence) {
            (true, _) => i64::MIN,
            (false, Evidence::Unknown) => suspect_from,
            (false, _) => i64::MAX,
        };
        self.recover_epochs(doubted_from)?;
        self.recover_producers(options.now)
    }

    /// Walks a segment that may be damaged or is the active one, rebuilding its indexes; answers where it is broken.
    fn recover_segment(&mut self, base: i64, evidence: Evidence) -> Result<Option<u32>, StorageError> {
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        let config = self.config.clone();
        let is_last = self.segments.keys().next_back() == Some(&base);
        let segment = self.segments.get_mut(&base).expect("listed above");
        let trusted =
            evidence != Evidence::Unknown && segment.index.load(&*self.disk) && segment.time_index.load(&*self.disk);
        // Everything before the last index entry was written long before the end: a process that died there left it
        // whole, and only what follows is walked.
        let crc_from = match (trusted, evidence) {
            (_, Evidence::CleanShutdown) => u32::MAX,
            (true, _) => segment.index.last().map_or(0, |e| e.at),
            (false, _) => 0,
        };
        let size = segment.size;
        let file = segment.file().map_err(failed)?;
        let mut expected = match trusted {
            true => segment.resume_at_last_entry().map_err(failed)?.unwrap_or(base),
            false => base,
        };
        if expected == base {
            segment.forget();
        }
        let mut buf = Vec::new();
        while segment.size < size {
            let at = segment.size;
            segment.size = size;
            let header = segment.header_at(at).map_err(failed)?;
            segment.size = at;
            let valid = header.filter(|h| h.base_offset >= expected && h.size() as u64 <= u64::from(size - at));
            let Some(header) = valid else { return Ok(Some(at)) };
            if at >= crc_from {
                buf.resize(header.size(), 0);
                let n = file.read_at(&mut buf, u64::from(at)).map_err(failed)?;
                let whole = n == buf.len() && Batch::parse(&buf).is_ok_and(|b| b.verify_crc().is_ok());
                if !whole {
                    return Ok(Some(at));
                }
            }
            expected = header.next_offset();
            segment.note(&header, &config).map_err(failed)?;
        }
        if !is_last {
            segment.retire();
            segment.seal().map_err(failed)?;
            return Ok(None);
        }
        segment.index.unseal(&*self.disk).map_err(failed)?;
        segment.time_index.unseal(&*self.disk).map_err(failed)?;
        segment.index.write(&*self.disk).map_err(failed)?;
        segment.time_index.write(&*self.disk).map_err(failed)?;
        Ok(None)
    }

    /// A segment may be whole and yet not fit the one behind it, if that came to the disk first. What it has too much
    /// was truncated before the next one was begun, and goes; batches that it lacks end the log. Where a cleaner has
    /// been at work such gaps mean nothing.
    fn fit_to_next(&mut self, base: i64, evidence: Evidence) -> Result<Option<u32>, StorageError> {
        let Some(next_base) = self.segments.range(base + 1..).next().map(|(next, _)| *next) else { return Ok(None) };
        if evidence != Evidence::Unknown || self.config.compact {
            return Ok(None);
        }
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        let segment = self.segments.get_mut(&base).expect("listed by the caller");
        let mut end = last_batch_end(segment).map_err(failed)?.unwrap_or(base);
        if end > next_base {
            tracing::warn!(dir = %dir.display(), segment = base, end, next_base, "segment is cut where the next begins");
            let at = segment.position_of(next_base).map_err(failed)?;
            segment.truncate(at, next_base).map_err(failed)?;
            segment.seal().map_err(failed)?;
            end = last_batch_end(segment).map_err(failed)?.unwrap_or(base);
        }
        Ok((end < next_base).then_some(segment.size))
    }

    /// Cuts the log at the first batch that is not whole; what follows cannot be trusted either.
    fn drop_after(&mut self, base: i64, at: u32) -> Result<(), StorageError> {
        let end = self.segments.get(&base).map_or(0, |s| s.size);
        tracing::warn!(dir = %self.dir.display(), segment = base, position = at, "log is damaged here and is cut off");
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        for (_, mut segment) in self.segments.split_off(&(base + 1)) {
            segment.remove(&dir).map_err(failed)?;
        }
        let segment = self.segments.get_mut(&base).expect("the damaged segment");
        debug_assert_eq!(end, at, "a walk ends where the damage is");
        segment.size = at;
        segment.file().and_then(|f| f.set_len(u64::from(at))).map_err(failed)?;
        segment.index.unseal(&*self.disk).map_err(failed)?;
        segment.time_index.unseal(&*self.disk).map_err(failed)?;
        segment.index.write(&*self.disk).map_err(failed)?;
        segment.time_index.write(&*self.disk).map_err(failed)
    }

    /// Brings the epochs into line with the batches. The file may be older than the last appends and truncations, so
    /// entries from `doubted_from` on are made anew, as are those of the active segment that are missing.
    fn recover_epochs(&mut self, doubted_from: i64) -> Result<(), StorageError> {
        let end = self.next_offset;
        self.epochs.truncate_from_end(end.max(1)).map_err(|e| self.failed(e))?;
        let mut changed = self.epochs.forget_from(doubted_from);
        let active = *self.segments.keys().next_back().expect("a segment");
        let first = if self.epochs.latest().is_some() { doubted_from.min(active) } else { i64::MIN };
        let dir = self.dir.clone();
        if !changed && doubted_from == i64::MAX && self.last_epoch_is_known()? {
            return Ok(());
        }
        for (_, segment) in self.segments.range_mut(first..) {
            let mut at = 0;
            while let Some(header) = segment.header_at(at).map_err(|error| StorageError { path: dir.clone(), error })? {
                if self.epochs.latest().is_none_or(|e| e.epoch < header.partition_leader_epoch) {
                    self.epochs.note(header.partition_leader_epoch, header.base_offset);
                    changed = true;
                }
                at = at.saturating_add(header.size() as u32);
            }
        }
        if changed { self.epochs.flush().map_err(|e| self.failed(e)) } else { Ok(()) }
    }

    /// Epochs are noted right behind the batches that begin them, in order: if that of the last batch is there, all are.
    fn last_epoch_is_known(&mut self) -> Result<bool, StorageError> {
        let dir = self.dir.clone();
        let (_, segment) = self.segments.iter_mut().next_back().expect("a log has a segment");
        let mut last = None;
        let mut at = segment.index.last().map_or(0, |e| e.at);
        while let Some(header) = segment.header_at(at).map_err(|error| StorageError { path: dir.clone(), error })? {
            last = Some(header.partition_leader_epoch);
            at = at.saturating_add(header.size() as u32);
        }
        let known = self.epochs.latest().map(|e| e.epoch);
        Ok(last.is_some_and(|last| known.is_some_and(|known| known >= last)))
    }

    /// Loads the newest usable snapshot, without those who have not been heard of for long, and replays the batches
    /// after it; of what is replayed nobody is left out (`ProducerStateManager.loadFromSnapshot`).
    pub(crate) fn recover_producers(&mut self, now: Now) -> Result<(), StorageError> {
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        let mut snapshots: Vec<i64> = Vec::new();
        for entry in self.disk.read_dir(&dir).map_err(failed)? {
            if let Some(offset) = entry.name.strip_suffix(".snapshot").and_then(|n| n.parse::<i64>().ok()) {
                snapshots.push(offset);
            }
        }
        let mut states = ProducerStates::default();
        states.clear(self.log_start);
        snapshots.sort_unstable();
        while let Some(offset) = snapshots.pop() {
            let path = dir.join(file_name(offset, "snapshot"));
            let usable = offset <= self.next_offset && offset >= self.log_start;
            match usable.then(|| ProducerStates::read_snapshot(&*self.disk, &path, offset)).flatten() {
                Some(loaded) => {
                    states = loaded;
                    states.expire(now.wall_ms, self.config.producer_expiration_ms);
                    break;
                }
                // Beyond the log's end or damaged: it would be believed after the next append.
                None if offset > self.next_offset || usable => self.disk.remove_file(&path).map_err(failed)?,
                None => {}
            }
        }
        self.snapshot_bytes = self.size;
        self.earlier_producers = None;
        self.producers = states;
        self.replay_producers()
    }

    fn replay_producers(&mut self) -> Result<(), StorageError> {
        let dir = self.dir.clone();
        let failed = |error| StorageError { path: dir.clone(), error };
        let from = self.producers.end_offset;
        let first = self.segments.range(..=from).next_back().map_or(i64::MIN, |(base, _)| *base);
        let bases: Vec<i64> = self.segments.range(first..).map(|(base, _)| *base).collect();
        for base in bases {
            let end = self.segments.range(base + 1..).next().map_or(i64::MAX, |(next, _)| *next);
            if end <= from {
                continue;
            }
            if base >= from {
                // The aborted transactions of this segment are found again by the replay.
                let path = dir.join(file_name(base, "txnindex"));
                txn_index::truncate(&*self.disk, &path, base).map_err(failed)?;
            }
            let segment = self.segments.get_mut(&base).expect("listed above");
            let mut at = if from > base { segment.position_of(from).map_err(failed)? } else { 0 };
            loop {
                let segment = self.segments.get_mut(&base).expect("listed above");
                let Some(header) = segment.header_at(at).map_err(failed)? else { break };
                if header.base_offset >= from && header.has_producer_id() {
                    let mut batch = Vec::new();
                    if header.is_control() {
                        batch.resize(header.size(), 0);
                        segment.file().and_then(|f| f.read_at(&mut batch, u64::from(at))).map_err(failed)?;
                    }
                    self.note_producer(&header, &batch).map_err(failed)?;
                }
                at = at.saturating_add(header.size() as u32);
            }
        }
        self.producers.end_offset = self.next_offset;
        Ok(())
    }
}

/// The offset after the last batch of a segment whose tail is known.
fn last_batch_end(segment: &mut Segment) -> io::Result<Option<i64>> {
    let mut at = segment.index.last().map_or(0, |e| e.at);
    let mut end = None;
    while let Some(header) = segment.header_at(at)? {
        end = Some(header.next_offset());
        at = at.saturating_add(header.size() as u32);
    }
    Ok(end)
}

fn parse_topic_id(text: &str) -> Option<Uuid> {
    text.lines().find_map(|line| line.strip_prefix("topic_id:")).and_then(|id| Uuid::parse(id.trim()))
}

/// The first flush of a log covers the file that says whose it is. Power went before that came to the disk: nothing
/// else here can be relied on either, and without the id it could be taken for another topic's.
fn discard_if_never_flushed(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let path = dir.join(PARTITION_METADATA);
    if !disk.exists(&path) || parse_topic_id(&String::from_utf8_lossy(&disk.read(&path)?)).is_some() {
        return Ok(());
    }
    tracing::warn!(dir = %dir.display(), "power was lost before anything here was flushed; the log starts empty");
    // The files of a log only: those of the quorum that lie beside the metadata log are synced by themselves.
    let is_ours = |name: &str| {
        let of_segment = ["log", "index", "timeindex", "txnindex", "snapshot"];
        name.split_once('.').is_some_and(|(base, suffix)| base.parse::<i64>().is_ok() && of_segment.contains(&suffix))
            || [PARTITION_METADATA, "leader-epoch-checkpoint"].contains(&name)
    };
    for entry in disk.read_dir(dir)?.iter().filter(|entry| is_ours(&entry.name)) {
        disk.remove_file(&dir.join(&entry.name))?;
    }
    Ok(())
}

/// Left-overs of what a crash interrupted: deletions are finished, half-made output of a cleaner goes, whole output
/// takes its place (`LogLoader.removeTempFilesAndCollectSwapFiles`).
fn clean_up(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let entries = disk.read_dir(dir)?;
    let base_of = |name: &str| name.split('.').next().and_then(|n| n.parse::<i64>().ok());
    let cleaned_min = entries.iter().filter(|e| e.name.ends_with(".cleaned")).filter_map(|e| base_of(&e.name)).min();
    let mut swaps: Vec<(i64, PathBuf)> = Vec::new();
    for entry in &entries {
        let path = dir.join(&entry.name);
        if entry.name.ends_with(".deleted") || entry.name.ends_with(".cleaned") || entry.name.ends_with(".tmp") {
            disk.remove_file(&path)?;
        } else if entry.name.ends_with(".swap") {
            let base = base_of(&entry.name).unwrap_or(i64::MAX);
            if cleaned_min.is_some_and(|min| base >= min) {
                disk.remove_file(&path)?;
            } else {
                swaps.push((base, path));
            }
        }
    }
    let logs: Vec<(i64, &PathBuf)> = swaps
        .iter()
        .filter(|(_, path)| path.to_string_lossy().ends_with(".log.swap"))
        .map(|(base, path)| (*base, path))
        .collect();
    let (Some(first), Some((_, last))) = (logs.iter().map(|l| l.0).min(), logs.iter().max_by_key(|l| l.0)) else {
        return finish_swaps(disk, &swaps);
    };
    let bytes = disk.read(last)?;
    let mut next = first;
    for batch in protocol::records::Batches::new(&bytes).flatten() {
        next = next.max(batch.header.next_offset());
    }
    for entry in &entries {
        let replaced = base_of(&entry.name).is_some_and(|base| (first..next).contains(&base));
        let is_segment_file = ["log", "index", "timeindex", "txnindex"].iter().any(|s| entry.name.ends_with(s));
        if replaced && is_segment_file {
            disk.remove_file(&dir.join(&entry.name))?;
        }
    }
    finish_swaps(disk, &swaps)
}

fn finish_swaps(disk: &dyn Disk, swaps: &[(i64, PathBuf)]) -> io::Result<()> {
    for (_, path) in swaps {
        disk.rename(path, &path.with_extension(""))?;
    }
    Ok(())
}
