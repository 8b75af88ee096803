//! The partitions that live on this broker, and everything that waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use metadata::config::{NodeConfig, TopicConfig};
use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::{AlterPartitionRequest, AlterPartitionResponse, alter_partition_request};
use protocol::time::Now;
use protocol::wire::Uuid;
use replication::{AlterOutcome, FetchSessions, Fetcher, Partition, PartitionKey};
use storage::checkpoint::is_full;
use storage::{Checkpoints, FlushWork, Log, StorageError};

use crate::control::ControlOp;
use crate::delete_waits::DeleteWaits;
use crate::effect::ConnId;
use crate::fetch_waits::FetchWaits;
use crate::handlers::MarkerWait;
use crate::node::{FlushOf, Node};
use crate::produce_waits::{ProduceWait, Waits};
use crate::quotas::replication::Throttled;
use crate::status::PartitionStatus;

/// A log found on disk at start that the image has not (yet) claimed.
pub(crate) struct Unclaimed {
    pub log: Log,
    pub dir: usize,
    pub high_watermark: i64,
}

/// A replica on this broker.
pub(crate) struct Replica {
    pub partition: Partition,
    /// Index into the node's log directories.
    pub dir: usize,
    pub topic_config: TopicConfig,
    pub throttled: Throttled,
    /// Segments already counted as to be flushed.
    flushed_segments: usize,
    is_flushing: bool,
}

impl Replica {
    pub fn new(partition: Partition, dir: usize, topic_config: TopicConfig) -> Self {
        let flushed_segments = partition.log().segment_count();
        Self { partition, dir, topic_config, throttled: Throttled::default(), flushed_segments, is_flushing: false }
    }
}

/// Invariants: a partition that follows is in exactly one fetcher, that of its leader; `by_name` names exactly the keys
/// of `all`.
pub(crate) struct Replicas {
    pub all: BTreeMap<PartitionKey, Replica>,
    /// What reading and writing failed with, where nothing could be done about it at once.
    pub failures: Vec<StorageError>,
    pub unclaimed: BTreeMap<(String, i32), Unclaimed>,
    pub fetchers: BTreeMap<i32, Fetcher>,
    pub sessions: FetchSessions,
    pub produces: Waits<ProduceWait>,
    /// Ends of transactions that wait for their followers.
    pub markers: Waits<MarkerWait>,
    pub deletes: DeleteWaits,
    pub fetches: FetchWaits,
    /// Partitions whose log, high watermark or role changed since the waiting requests were last looked at.
    pub touched: BTreeSet<PartitionKey>,
    /// Leaders whose ISR may want to change.
    pub isr_candidates: BTreeSet<PartitionKey>,
    /// Log directories of deleted partitions, and when to remove them.
    pub doomed: Vec<(i64, PathBuf)>,
    /// Leaders and followers that got a new segment since the last flush.
    pub grown: BTreeSet<PartitionKey>,
    /// Checkpoint files as they were last written.
    written: BTreeMap<PathBuf, Vec<u8>>,
    /// Directories whose checkpoints are being written.
    checkpointing: BTreeSet<usize>,
    /// The image has told of this broker's partitions.
    pub is_published: bool,
    isr_check_ms: i64,
    isr_check_period_ms: i64,
    checkpoint_ms: i64,
    checkpoint_period_ms: i64,
    retention_ms: i64,
    retention_period_ms: i64,
    expiration_ms: i64,
    expiration_period_ms: i64,
}

impl Replicas {
    pub fn new(config: &NodeConfig, now: Now) -> Self {
        let isr_check_period_ms = config.replica_lag_time_max_ms / 2;
        // DIFFERS: Kafka writes recovery points and log starts every log.flush.offset.checkpoint.interval.ms and
        // log.flush.start.offset.checkpoint.interval.ms, a minute apart. What has changed of them goes with the high
        // watermarks here, or as often as the shortest of the three says: a crash leaves less to look at.
        let checkpoint_period_ms = config
            .replica_high_watermark_checkpoint_interval_ms
            .min(config.log_flush_offset_checkpoint_interval_ms)
            .min(config.log_flush_start_offset_checkpoint_interval_ms)
            .max(100);
        let retention_period_ms = config.log_retention_check_interval_ms;
        Self {
            all: BTreeMap::new(),
            failures: Vec::new(),
            unclaimed: BTreeMap::new(),
            fetchers: BTreeMap::new(),
            sessions: FetchSessions::new(config.max_incremental_fetch_session_cache_slots.max(0) as usize),
            produces: Waits::default(),
            markers: Waits::default(),
            deletes: DeleteWaits::default(),
            fetches: FetchWaits::default(),
            touched: BTreeSet::new(),
            isr_candidates: BTreeSet::new(),
            doomed: Vec::new(),
            grown: BTreeSet::new(),
            written: BTreeMap::new(),
            checkpointing: BTreeSet::new(),
            is_published: false,
            isr_check_ms: now.mono_ms + isr_check_period_ms,
            isr_check_period_ms,
            checkpoint_ms: now.mono_ms + checkpoint_period_ms,
            checkpoint_period_ms,
            // Kafka's first look at retention comes 30 s after the start.
            retention_ms: now.mono_ms + 30_000,
            retention_period_ms,
            expiration_ms: now.mono_ms + config.producer_id_expiration_check_interval_ms,
            expiration_period_ms: config.producer_id_expiration_check_interval_ms,
        }
    }

    pub fn get(&self, key: PartitionKey) -> Option<&Partition> {
        self.all.get(&key).map(|r| &r.partition)
    }

    /// Notes a partition whose log got a new segment.
    pub fn note_growth(&mut self, key: PartitionKey) {
        let Some(replica) = self.all.get_mut(&key) else { return };
        let segments = replica.partition.log().segment_count();
        // Retention makes it shrink; the next roll counts from there.
        replica.flushed_segments = replica.flushed_segments.min(segments);
        if segments > replica.flushed_segments {
            self.grown.insert(key);
        }
    }

    pub fn forget_connection(&mut self, conn: ConnId) {
        self.fetches.forget_connection(conn);
    }

    pub fn next_deadline(&self) -> i64 {
        let mut at = self.produces.next_deadline().min(self.fetches.next_deadline());
        at = at.min(self.deletes.next_deadline()).min(self.markers.next_deadline());
        if self.is_published {
            at = at.min(self.isr_check_ms).min(self.checkpoint_ms).min(self.retention_ms).min(self.expiration_ms);
            at = at.min(self.fetchers.values().map(Fetcher::next_deadline).min().unwrap_or(i64::MAX));
        }
        for key in &self.isr_candidates {
            at = at.min(self.get(*key).map_or(i64::MAX, Partition::isr_retry_ms));
        }
        at
    }

    pub fn partition_status(&self) -> Vec<PartitionStatus> {
        let status = |(key, replica): (&PartitionKey, &Replica)| {
            let p = &replica.partition;
            PartitionStatus {
                topic: p.topic.clone(),
                topic_id: key.0,
                partition: key.1,
                leader: p.leader(),
                leader_epoch: p.leader_epoch(),
                is_leader: p.is_leader(),
                isr: p.state().isr.clone(),
                replicas: p.state().replicas.len(),
                under_min_isr: p.is_under_min_isr(),
                high_watermark: p.high_watermark(),
                log_end: p.log().end_offset(),
                log_start: p.log().log_start_offset(),
                size_bytes: p.log().size_bytes(),
            }
        };
        self.all.iter().map(status).collect()
    }
}

impl Node {
    /// Everything that the replicas have due; whether there was anything.
    pub(crate) fn drive_broker(&mut self, now: Now) -> bool {
        self.poll_controller_registration(now);
        self.poll_lifecycle(now);
        if !self.replicas.is_published {
            return false;
        }
        let failures = std::mem::take(&mut self.replicas.failures);
        self.all_failed(failures, now);
        let mut busy = self.settle_touched(now);
        self.drive_fetchers(now);
        busy |= self.poll_isr_changes(now);
        self.poll_producer_ids(now);
        self.flush_sealed_segments(now);
        self.expire_waits(now);
        self.poll_upkeep(now);
        self.poll_cleaner(now);
        busy
    }

    /// Rules 6 and 8: collects the changes of ISR that partitions want, and asks for them in one request.
    fn poll_isr_changes(&mut self, now: Now) -> bool {
        if now.mono_ms >= self.replicas.isr_check_ms {
            self.replicas.isr_check_ms = now.mono_ms + self.replicas.isr_check_period_ms;
            let leaders = self.replicas.all.iter().filter(|(_, r)| r.partition.is_leader()).map(|(key, _)| *key);
            self.replicas.isr_candidates.extend(leaders.collect::<Vec<_>>());
        }
        if self.replicas.isr_candidates.is_empty() {
            return false;
        }
        let image = &self.image;
        let broker_epoch = |id: i32| image.brokers.get(&id).filter(|b| b.is_active()).map(|b| b.epoch);
        let mut topics: Vec<alter_partition_request::TopicData> = Vec::new();
        let mut asked = Vec::new();
        for key in std::mem::take(&mut self.replicas.isr_candidates) {
            let Some(replica) = self.replicas.all.get_mut(&key) else { continue };
            let Some(change) = replica.partition.poll_isr(&broker_epoch, now) else {
                if replica.partition.isr_retry_ms() < i64::MAX {
                    self.replicas.isr_candidates.insert(key);
                }
                continue;
            };
            asked.push((key, change.partition_epoch));
            let isr = change.isr.iter().map(|(broker_id, broker_epoch)| alter_partition_request::BrokerState {
                broker_id: *broker_id,
                broker_epoch: *broker_epoch,
                ..Default::default()
            });
            let partition = alter_partition_request::PartitionData {
                partition_index: key.1,
                leader_epoch: change.leader_epoch,
                new_isr_with_epochs: isr.collect(),
                partition_epoch: change.partition_epoch,
                ..Default::default()
            };
            match topics.last_mut().filter(|t| t.topic_id == key.0) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(alter_partition_request::TopicData {
                    topic_id: key.0,
                    partitions: vec![partition],
                    ..Default::default()
                }),
            }
        }
        if asked.is_empty() {
            return false;
        }
        let request = AlterPartitionRequest {
            broker_id: self.config.node_id,
            broker_epoch: self.broker_epoch(),
            topics,
            ..Default::default()
        };
        self.ask_controller(ControlOp::AlterPartition(asked), ApiKey::AlterPartition, request, now);
        true
    }

    pub(crate) fn on_partitions_altered(
        &mut self,
        asked: &[(PartitionKey, i32)],
        response: &AlterPartitionResponse,
        now: Now,
    ) {
        let top = ErrorCode::from_i16(response.error_code);
        if top != ErrorCode::None {
            tracing::debug!(error = top.name(), "AlterPartition refused as a whole");
            return self.on_alter_partition_failed(asked, now);
        }
        let answers: BTreeMap<PartitionKey, _> = response
            .topics
            .iter()
            .flat_map(|t| t.partitions.iter().map(|p| ((t.topic_id, p.partition_index), p)))
            .collect();
        for (key, partition_epoch) in asked {
            let outcome = match answers.get(key) {
                Some(p) if p.error_code == 0 => AlterOutcome::Altered {
                    leader: p.leader_id,
                    leader_epoch: p.leader_epoch,
                    isr: p.isr.clone(),
                    partition_epoch: p.partition_epoch,
                },
                Some(p) => AlterOutcome::Refused(ErrorCode::from_i16(p.error_code)),
                None => AlterOutcome::Lost,
            };
            self.finish_alter(*key, *partition_epoch, outcome, now);
        }
    }

    pub(crate) fn on_alter_partition_failed(&mut self, asked: &[(PartitionKey, i32)], now: Now) {
        for (key, partition_epoch) in asked {
            self.finish_alter(*key, *partition_epoch, AlterOutcome::Lost, now);
        }
    }

    fn finish_alter(&mut self, key: PartitionKey, partition_epoch: i32, outcome: AlterOutcome, now: Now) {
        let Some(replica) = self.replicas.all.get_mut(&key) else { return };
        if replica.partition.on_altered(partition_epoch, outcome, now) {
            self.replicas.touched.insert(key);
        }
        self.replicas.isr_candidates.insert(key);
    }

    pub(crate) fn broker_epoch(&self) -> i64 {
        self.lifecycle.as_ref().map_or(-1, |l| l.broker_epoch)
    }

    /// A sealed segment is flushed once, in the background, so that a crash leaves little to look at.
    fn flush_sealed_segments(&mut self, now: Now) {
        let mut work = Vec::new();
        let mut failed = Vec::new();
        for key in std::mem::take(&mut self.replicas.grown) {
            let Some(replica) = self.replicas.all.get_mut(&key) else { continue };
            if replica.is_flushing {
                self.replicas.grown.insert(key);
                continue;
            }
            replica.flushed_segments = replica.partition.log().segment_count();
            match replica.partition.log_mut().begin_flush() {
                Ok(Some(flush)) => {
                    replica.is_flushing = true;
                    work.push((key, flush));
                }
                Ok(None) => {}
                Err(error) => failed.push(error),
            }
        }
        for (key, flush) in work {
            self.flush(FlushOf::Partition { key, upto: flush.upto }, flush);
        }
        self.all_failed(failed, now);
    }

    fn all_failed(&mut self, errors: Vec<StorageError>, now: Now) {
        for error in errors {
            self.storage_failed(error, now);
        }
    }

    pub(crate) fn on_partition_flushed(&mut self, key: PartitionKey, upto: i64, result: io::Result<()>, now: Now) {
        // Nobody relies any more on what is deleted or offline.
        let Some(replica) = self.replicas.all.get_mut(&key) else { return };
        if let Err(error) = result {
            // What the kernel could not write may be lost, and a second fsync would not say so.
            let (dir, log) = (replica.dir, replica.partition.log().dir().display());
            let why = format!("{log} cannot be flushed: {error}");
            return self.directory_failed(dir, &why, now);
        }
        replica.is_flushing = false;
        replica.partition.log_mut().on_flushed(upto);
    }

    /// Checkpoints, retention, and files whose time has come.
    fn poll_upkeep(&mut self, now: Now) {
        if now.mono_ms >= self.replicas.checkpoint_ms {
            self.replicas.checkpoint_ms = now.mono_ms + self.replicas.checkpoint_period_ms;
            self.write_checkpoints();
            self.remove_doomed(now);
            self.reopen_replicas(now);
        }
        if now.mono_ms >= self.replicas.retention_ms {
            self.replicas.retention_ms = now.mono_ms + self.replicas.retention_period_ms;
            self.apply_retention(&|_| true, now);
        }
        if now.mono_ms >= self.replicas.expiration_ms {
            self.replicas.expiration_ms = now.mono_ms + self.replicas.expiration_period_ms;
            for replica in self.replicas.all.values_mut() {
                replica.partition.log_mut().expire_producers(now);
            }
        }
    }

    fn remove_doomed(&mut self, now: Now) {
        let (due, later) = std::mem::take(&mut self.replicas.doomed).into_iter().partition(|d| d.0 <= now.mono_ms);
        self.replicas.doomed = later;
        let due: Vec<(i64, PathBuf)> = due;
        for (_, path) in due {
            if let Err(error) = self.disk.remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "a deleted partition's directory cannot be removed");
            }
        }
        let ticked = self.replicas.all.values_mut().map(|replica| replica.partition.tick(now));
        let failed = ticked.filter_map(Result::err).collect();
        self.all_failed(failed, now);
    }

    /// Kafka looks at the retention of compacted logs whenever its cleaner pauses.
    pub(crate) fn apply_retention_to_compacted(&mut self, now: Now) {
        self.apply_retention(&|topic| topic.cleanup_policy.compact && topic.cleanup_policy.delete, now);
    }

    fn apply_retention(&mut self, which: &dyn Fn(&TopicConfig) -> bool, now: Now) {
        let mut changed = Vec::new();
        let mut failed = Vec::new();
        for (key, replica) in &mut self.replicas.all {
            // The cleaner has its files; there is a next time.
            if replica.partition.log().is_being_cleaned() || !which(&replica.topic_config) {
                continue;
            }
            let high_watermark = replica.partition.high_watermark();
            match replica.partition.log_mut().apply_retention(high_watermark, now) {
                Ok(true) => changed.push(*key),
                Ok(false) => {}
                Err(error) => failed.push(error),
            }
        }
        self.replicas.touched.extend(changed);
        self.all_failed(failed, now);
    }

    /// High watermarks, log starts, recovery points and cleaned offsets of one directory.
    fn checkpoints(&self, index: usize) -> Checkpoints {
        let mut out = Checkpoints::default();
        for (key, replica) in self.replicas.all.iter().filter(|(_, r)| r.dir == index) {
            let name = (replica.partition.topic.clone(), key.1);
            let log = replica.partition.log();
            out.high_watermarks.insert(name.clone(), replica.partition.high_watermark());
            out.recovery_points.insert(name.clone(), log.recovery_point());
            out.cleaned.extend(log.cleaned_upto().map(|offset| (name.clone(), offset)));
            // As Kafka: only where it is not what the first file's name says anyway.
            if log.log_start_offset() > log.first_segment_base() {
                out.log_starts.insert(name, log.log_start_offset());
            }
        }
        out
    }

    /// Files of a directory that say something new.
    fn changed_checkpoints(&mut self, index: usize) -> Vec<(PathBuf, Vec<u8>)> {
        let mut changed = Vec::new();
        for (path, content) in self.log_dirs[index].checkpoints(&self.checkpoints(index)) {
            if self.replicas.written.get(&path) != Some(&content) {
                self.replicas.written.insert(path.clone(), content.clone());
                changed.push((path, content));
            }
        }
        changed
    }

    /// Off this thread: an fsync of a small file takes as long as a thousand appends.
    pub(crate) fn write_checkpoints(&mut self) {
        for index in 0..self.log_dirs.len() {
            if !self.is_online(index) || self.replicas.checkpointing.contains(&index) {
                continue;
            }
            let changed = self.changed_checkpoints(index);
            self.on_checkpoint_begun(index, changed.is_empty());
            if !changed.is_empty() {
                self.replicas.checkpointing.insert(index);
                let work = FlushWork::replace(self.disk.clone(), changed);
                self.flush(FlushOf::Checkpoints(index), work);
            }
        }
    }

    pub(crate) fn on_checkpoints_written(&mut self, index: usize, result: io::Result<()>, now: Now) {
        self.replicas.checkpointing.remove(&index);
        let Err(error) = result else { return self.on_checkpoint_on_disk(index) };
        let dir = self.log_dirs[index].path.clone();
        // Not known to be there: the next round writes them again.
        self.replicas.written.retain(|path, _| path.parent() != Some(&dir));
        let why = format!("{}: checkpoints cannot be written: {error}", dir.display());
        match is_full(error.kind()) {
            true => self.notice_full(&why, now),
            false => self.directory_failed(index, &why, now),
        }
    }

    /// A clean stop: everything on disk, the next start scans nothing.
    pub(crate) fn close_replicas(&mut self, now: Now) {
        if self.lifecycle.is_none() {
            return;
        }
        for index in self.online_dirs().collect::<Vec<_>>() {
            if let Err(error) = self.close_logs(index) {
                tracing::error!(%error, "a log cannot be closed");
                self.directory_failed(index, &error, now);
            }
        }
        if self.has_failed {
            return;
        }
        self.fail_waits(now);
        self.replicas.fetchers.clear();
        self.replicas.is_published = false;
        tracing::info!(partitions = self.replicas.all.len(), "logs are closed");
    }

    fn close_logs(&mut self, index: usize) -> Result<(), StorageError> {
        for replica in self.replicas.all.values_mut().filter(|r| r.dir == index) {
            replica.partition.log_mut().close()?;
        }
        let changed = self.changed_checkpoints(index);
        let path = self.log_dirs[index].path.clone();
        FlushWork::replace(self.disk.clone(), changed).run().map_err(|error| StorageError { path, error })
    }

    pub(crate) fn topic_key(&self, topic: &str, partition: i32) -> Option<PartitionKey> {
        Some((*self.image.topic_ids.get(topic)?, partition))
    }

    /// Whether the cluster, not only this broker, has such a partition.
    pub(crate) fn exists(&self, topic: Uuid, partition: i32) -> bool {
        self.image.partition(topic, partition).is_some()
    }
}
