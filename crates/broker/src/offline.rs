//! Log directories that fail (KIP-112, KIP-858). A failed one takes only itself offline: its replicas answer
//! KAFKA_STORAGE_ERROR, the controller hears of it with the next heartbeat and moves leaderships and ISRs, and the
//! other directories serve on. Without the metadata log, or without any directory left, the node stops.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use metadata::image;
use protocol::error::ErrorCode;
use protocol::time::Now;
use protocol::wire::Uuid;
use replication::PartitionKey;
use storage::checkpoint::is_full;
use storage::{Disk, StorageError};

use crate::node::Node;

/// A full disk is said once in so long; appends to it fail thousands of times meanwhile.
const FULL_NOTICE_MS: i64 = 10_000;

/// Invariants: no replica of `Replicas::all` lies in a directory of `failed`, and none is in `replicas`.
#[derive(Default)]
pub(crate) struct Offline {
    /// Of the node's directories, by index: failed since it started, or while their logs were loaded.
    pub failed: BTreeSet<usize>,
    /// Directories of the configuration that could not be opened at the start.
    pub missing: Vec<PathBuf>,
    /// What is, or may be, in one of them.
    pub replicas: BTreeSet<PartitionKey>,
    pub full_noticed_ms: Option<i64>,
    /// By directory.
    pub rooms: BTreeMap<usize, Room>,
}

/// What was last seen of a directory's free space.
#[derive(Clone, Copy, Default)]
pub(crate) struct Room {
    /// May be appended before the disk is asked again.
    left: u64,
    due_ms: i64,
}

/// Clients' records leave so much free, or a hundredth of a small disk: for the metadata log, for committed offsets, and
/// for a start, without which nothing could be deleted.
const SPARED_BYTES: u64 = 64 << 20;
/// Free space is looked at again after so much at most, or so long.
const LOOK_BYTES: u64 = 1 << 20;
const LOOK_MS: i64 = 1_000;

impl Offline {
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.missing.is_empty()
    }

    /// Whether a directory may take so many more bytes of clients.
    pub fn has_room(&mut self, disk: &dyn Disk, index: usize, path: &Path, len: usize, now: Now) -> bool {
        let (room, len) = (self.rooms.entry(index).or_default(), len as u64);
        if len > room.left || now.mono_ms >= room.due_ms {
            room.due_ms = now.mono_ms + LOOK_MS;
            // A disk that does not tell is tried.
            let (free, total) = disk.space(path).unwrap_or((u64::MAX, u64::MAX));
            room.left = free.saturating_sub(SPARED_BYTES.min(total / 100)).min(LOOK_BYTES.max(len));
        }
        let fits = len <= room.left;
        room.left -= if fits { len } else { 0 };
        fits
    }
}

impl Node {
    /// A replica's log could not be read or written.
    pub(crate) fn storage_failed(&mut self, error: StorageError, now: Now) {
        if is_full(error.error.kind()) {
            return self.notice_full(&error, now);
        }
        match self.directory_of_path(&error.path) {
            Some(index) => self.directory_failed(index, &error, now),
            None => self.fail(format!("log.dirs: {error}")),
        }
    }

    /// DIFFERS: Apache Kafka takes a full directory offline, or stops if it is the only one, and is full again when it
    /// starts. Here clients' appends are refused while some room is left, everything else goes on, and what deleting
    /// topics or retention gives back is used at once.
    pub(crate) fn notice_full(&mut self, error: &dyn fmt::Display, now: Now) {
        let is_news = self.offline.full_noticed_ms.is_none_or(|at| now.mono_ms - at >= FULL_NOTICE_MS);
        if is_news {
            self.offline.full_noticed_ms = Some(now.mono_ms);
            tracing::error!(%error, "the disk is full: nothing is appended until topics are deleted or retention has run");
        }
    }

    fn directory_of_path(&self, path: &Path) -> Option<usize> {
        let within = self.log_dirs.iter().enumerate().filter(|(_, dir)| path.starts_with(&dir.path));
        within.max_by_key(|(_, dir)| dir.path.as_os_str().len()).map(|(index, _)| index)
    }

    pub(crate) fn is_online(&self, index: usize) -> bool {
        !self.offline.failed.contains(&index)
    }

    /// Directories that take replicas and work.
    pub(crate) fn online_dirs(&self) -> impl Iterator<Item = usize> + Clone {
        let serves =
            |index: &usize| self.is_online(*index) && self.config.log_dirs.contains(&self.log_dirs[*index].path);
        (0..self.log_dirs.len()).filter(serves)
    }

    pub(crate) fn directory_failed(&mut self, index: usize, why: &dyn fmt::Display, now: Now) {
        if !self.is_online(index) {
            return;
        }
        let (path, id) = (self.log_dirs[index].path.clone(), self.log_dirs[index].id);
        let is_last = self.online_dirs().all(|other| other == index);
        // Before 3.7 the controller cannot be told which of a broker's replicas are gone.
        let can_tell = !self.replicas.is_published || self.image.metadata_version().has_directories();
        if path == self.config.metadata_log_dir || is_last || !can_tell || self.has_failed {
            return self.fail(format!("log.dirs: {}: {why}", path.display()));
        }
        let lost: Vec<PartitionKey> =
            self.replicas.all.iter().filter(|(_, r)| r.dir == index).map(|(key, _)| *key).collect();
        tracing::error!(
            dir = %path.display(), %why, replicas = lost.len(),
            "log directory failed and is offline; other directories serve on. Mend or replace it, then restart this node"
        );
        self.offline.failed.insert(index);
        for key in &lost {
            self.detach_replica(*key);
            self.offline.replicas.insert(*key);
        }
        self.replicas.unclaimed.retain(|_, unclaimed| unclaimed.dir != index);
        self.replicas.doomed.retain(|(_, doomed)| !doomed.starts_with(&path));
        if let Some(lifecycle) = &mut self.lifecycle {
            lifecycle.directory_failed(id);
        }
        // The controller moves what it knows to be in this directory; of the rest it hears here.
        let local = self.config.node_id;
        let knows =
            |key: &PartitionKey| self.image.partition(key.0, key.1).and_then(|p| p.directory_of(local)) == Some(id);
        let unassigned = lost.into_iter().filter(|key| !knows(key)).map(|key| (key, id)).collect();
        self.assign_directories(unassigned, now);
    }

    /// Whether a replica without a log may have one where it cannot be seen. It must not be begun anew elsewhere: it
    /// could be elected for what the lost log held.
    pub(crate) fn may_be_offline(&self, key: PartitionKey, topic: &str, state: &image::Partition) -> bool {
        if self.offline.is_empty() || self.replicas.unclaimed.contains_key(&(topic.to_owned(), key.1)) {
            return false;
        }
        let local = self.config.node_id;
        match state.directory_of(local).filter(|id| !id.is_reserved()) {
            Some(id) => self.online_dirs().all(|index| self.log_dirs[index].id != id),
            // Nobody has said where it is. Who is in the ISR has a log, but for a partition that was only just made.
            None => state.isr.contains(&local) && (self.offline.replicas.contains(&key) || state.partition_epoch > 0),
        }
    }

    /// What a client hears of a partition that the cluster has and this broker does not serve.
    pub(crate) fn absence(&self, key: PartitionKey) -> ErrorCode {
        match self.offline.replicas.contains(&key) {
            true => ErrorCode::KafkaStorageError,
            false => ErrorCode::NotLeaderOrFollower,
        }
    }
}

/// The directory of the replica on a broker is one that the broker has, as far as the controller knows.
pub(crate) fn is_in_online_dir(broker: &image::BrokerRegistration, directory: Option<Uuid>) -> bool {
    let known = directory.filter(|id| !id.is_reserved());
    known.is_none_or(|id| broker.log_dirs.is_empty() || broker.log_dirs.contains(&id))
}
