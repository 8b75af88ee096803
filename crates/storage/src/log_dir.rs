//! An entry of `log.dirs`: its lock, its identity (`meta.properties`), its checkpoints, and how it was left.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use protocol::wire::Uuid;

use crate::checkpoint;
use crate::disk::{Disk, DiskRef};

const LOCK: &str = ".lock";
pub const META_PROPERTIES: &str = "meta.properties";
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const BOOT_ID: &str = ".zwirn_boot_id";
const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const LOG_STARTS: &str = "log-start-offset-checkpoint";
const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";

/// Who a log directory belongs to. Version 0 (before KRaft) has `broker.id`, version 1 `node.id`; `directory.id` came
/// with KIP-858.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaProperties {
    pub version: i32,
    pub cluster_id: Option<String>,
    pub node_id: Option<i32>,
    pub directory_id: Option<Uuid>,
}

impl MetaProperties {
    pub fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<MetaProperties>> {
        let path = dir.join(META_PROPERTIES);
        if !disk.exists(&path) {
            return Ok(None);
        }
        let bytes = disk.read(&path)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
        let entries: BTreeMap<&str, &str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let number =
            |key: &str| entries.get(key).map(|v| v.parse::<i32>().map_err(|_| bad(&format!("{key} is no number"))));
        let version = number("version").transpose()?.ok_or_else(|| bad("has no version"))?;
        let node_key = if version == 0 { "broker.id" } else { "node.id" };
        let directory_id = match entries.get("directory.id") {
            Some(id) => Some(Uuid::parse(id).ok_or_else(|| bad("directory.id is no id"))?),
            None => None,
        };
        Ok(Some(MetaProperties {
            version,
            cluster_id: entries.get("cluster.id").map(|id| (*id).to_owned()),
            node_id: number(node_key).transpose()?,
            directory_id,
        }))
    }

    /// As Kafka writes version 1; keys in alphabetical order, the date line of Java's properties left out.
    pub fn format(&self) -> String {
        let mut out = String::from("#\n");
        if let Some(id) = &self.cluster_id {
            out.push_str(&format!("cluster.id={id}\n"));
        }
        if let Some(id) = self.directory_id {
            out.push_str(&format!("directory.id={id}\n"));
        }
        if let Some(id) = self.node_id {
            out.push_str(&format!("node.id={id}\n"));
        }
        out.push_str("version=1\n");
        out
    }

    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        disk.write_atomically(&dir.join(META_PROPERTIES), self.format().as_bytes())
    }
}

/// Why a directory cannot be used.
#[derive(Debug)]
pub enum DirError {
    Locked(PathBuf),
    NotFormatted(PathBuf),
    Io(PathBuf, io::Error),
}

impl fmt::Display for DirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(dir) => write!(
                f,
                "log.dirs: {} is in use by another process (it holds {}/{LOCK}); stop it or choose another directory",
                dir.display(),
                dir.display()
            ),
            Self::NotFormatted(dir) => write!(
                f,
                "log.dirs: {} has no {META_PROPERTIES}; format it first: zwirn storage format -t CLUSTER_ID -c FILE",
                dir.display()
            ),
            Self::Io(path, error) => write!(f, "log.dirs: {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DirError {}

/// What a directory within a log directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirKind {
    Replica,
    /// To be removed.
    Deleted,
    /// Target of a move between directories.
    Future,
    /// Not in the metadata when it was last looked at; never loaded.
    Stray,
}

/// `topic-0` → the topic and its partition. Names that no replica can have give `None`.
pub fn parse_partition_dir(name: &str) -> Option<(String, i32, DirKind)> {
    let (base, kind) = match name.rsplit_once('.') {
        Some((base, tail)) => match tail.split_once('-') {
            Some((hex, "delete")) if hex.len() == 32 => (base, DirKind::Deleted),
            Some((hex, "future")) if hex.len() == 32 => (base, DirKind::Future),
            Some((hex, "stray")) if hex.len() == 32 => (base, DirKind::Stray),
            _ => (name, DirKind::Replica),
        },
        None => (name, DirKind::Replica),
    };
    let (topic, partition) = base.rsplit_once('-')?;
    let partition = partition.parse::<i32>().ok().filter(|p| *p >= 0)?;
    (!topic.is_empty()).then(|| (topic.to_owned(), partition, kind))
}

pub fn partition_dir(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// A log directory of this process, locked until dropped.
pub struct LogDir {
    disk: DiskRef,
    pub path: PathBuf,
    pub id: Uuid,
    pub meta: MetaProperties,
    /// It was closed in order. Read once: the mark is removed as soon as the directory is in use.
    pub was_clean: bool,
    /// The broker's epoch at that clean stop, −1 if unknown.
    pub clean_broker_epoch: i64,
    /// Who used the directory before in this boot of the machine, if anybody did. Everything that they had written is
    /// there, flushed or not.
    pub same_boot: Option<BootNote>,
    _lock: Box<dyn Send + Sync>,
}

/// What the last process that used a log directory in this boot of the machine knew of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootNote {
    /// −1 before the broker was registered.
    pub broker_epoch: i64,
    /// Under which it has asked for an epoch since, and those before it that died before they had an answer.
    pub incarnations: Vec<Uuid>,
}

/// More restarts than this without ever being registered are forgotten.
const INCARNATIONS_MAX: usize = 16;

/// Offsets by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// What a log directory's four offset checkpoints hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoints {
    pub high_watermarks: Offsets,
    pub log_starts: Offsets,
    pub recovery_points: Offsets,
    /// Up to where logs were compacted.
    pub cleaned: Offsets,
}

impl LogDir {
    pub fn open(disk: DiskRef, path: &Path) -> Result<LogDir, DirError> {
        let failed = |error| DirError::Io(path.to_owned(), error);
        if !disk.exists(path) {
            return Err(DirError::NotFormatted(path.to_owned()));
        }
        let lock = disk.lock(&path.join(LOCK)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => DirError::Locked(path.to_owned()),
            _ => DirError::Io(path.to_owned(), error),
        })?;
        let meta = MetaProperties::read(&*disk, path).map_err(failed)?;
        let mut meta = meta.ok_or_else(|| DirError::NotFormatted(path.to_owned()))?;
        if meta.directory_id.is_none() {
            return Err(DirError::Io(
                path.to_owned(),
                io::Error::new(io::ErrorKind::InvalidData, format!("{META_PROPERTIES} has no directory.id")),
            ));
        }
        meta.version = 1;
        let mark = path.join(CLEAN_SHUTDOWN);
        let was_clean = disk.exists(&mark);
        let mut clean_broker_epoch = -1;
        if was_clean {
            let bytes = disk.read(&mark).map_err(failed)?;
            clean_broker_epoch = parse_broker_epoch(&String::from_utf8_lossy(&bytes)).unwrap_or(-1);
            disk.remove_file(&mark).and_then(|()| disk.sync_dir(path)).map_err(failed)?;
        }
        let id = meta.directory_id.expect("checked above");
        let same_boot = last_run_of_boot(&*disk, path).map_err(failed)?;
        Ok(LogDir { disk, path: path.to_owned(), id, meta, was_clean, clean_broker_epoch, same_boot, _lock: lock })
    }

    /// The broker epoch under which the directory was last written to, if nothing of that can have been lost since;
    /// else −1. Kafka knows it only after a clean stop.
    pub fn intact_broker_epoch(&self) -> i64 {
        match (&self.same_boot, self.was_clean) {
            (_, true) => self.clean_broker_epoch,
            (Some(note), false) => note.broker_epoch,
            (None, false) => -1,
        }
    }

    /// Who used the directory last, and nothing of what they wrote can have been lost since.
    pub fn intact_incarnations(&self) -> &[Uuid] {
        self.same_boot.as_ref().map_or(&[], |note| &note.incarnations)
    }

    /// Replica directories and the like, in name order.
    pub fn partitions(&self) -> io::Result<Vec<(String, (String, i32, DirKind))>> {
        let entries = self.disk.read_dir(&self.path)?;
        let dirs = entries.into_iter().filter(|e| e.is_dir);
        Ok(dirs.filter_map(|e| parse_partition_dir(&e.name).map(|parsed| (e.name, parsed))).collect())
    }

    pub fn write_clean_mark(&self, broker_epoch: i64) -> io::Result<()> {
        let text = format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}");
        self.disk.write_atomically(&self.path.join(CLEAN_SHUTDOWN), text.as_bytes())
    }

    /// What makes no sense says nothing: recovery looks at more, a follower asks its leader. Only deleted records may
    /// come back, where the log's start is forgotten and no segment ends there.
    fn read_offsets(&self, name: &str) -> io::Result<Offsets> {
        let path = self.path.join(name);
        let entries = match checkpoint::read_offsets(&*self.disk, &path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(path = %path.display(), %error, "checkpoint is damaged; nothing in it is used");
                Vec::new()
            }
            read => read?,
        };
        Ok(entries.into_iter().map(|(topic, partition, offset)| ((topic, partition), offset)).collect())
    }

    pub fn recovery_points(&self) -> io::Result<Offsets> {
        self.read_offsets(RECOVERY_POINTS)
    }

    pub fn log_starts(&self) -> io::Result<Offsets> {
        self.read_offsets(LOG_STARTS)
    }

    /// Up to where a cleaner has compacted; a log that is named here may have gaps.
    pub fn cleaner_offsets(&self) -> io::Result<Offsets> {
        self.read_offsets(CLEANER_OFFSETS)
    }

    pub fn high_watermarks(&self) -> io::Result<Offsets> {
        self.read_offsets(HIGH_WATERMARKS)
    }

    /// The files that say this, each with its content.
    pub fn checkpoints(&self, offsets: &Checkpoints) -> Vec<(PathBuf, Vec<u8>)> {
        let file = |name: &str, offsets: &Offsets| {
            let entries: Vec<_> = offsets.iter().map(|((topic, p), offset)| (topic.clone(), *p, *offset)).collect();
            (self.path.join(name), checkpoint::format_offsets(&entries))
        };
        vec![
            file(HIGH_WATERMARKS, &offsets.high_watermarks),
            file(LOG_STARTS, &offsets.log_starts),
            file(RECOVERY_POINTS, &offsets.recovery_points),
            file(CLEANER_OFFSETS, &offsets.cleaned),
        ]
    }

    /// Notes in which boot of this machine, and by which incarnation of the broker, the directory is in use. To be
    /// called once all of it is recovered. It need not reach the disk: what it says is void when the machine goes down.
    /// JVM brokers neither read nor write the file; what they wrote meanwhile is there for the same reason.
    pub fn note_start(&self, incarnation: Uuid) -> io::Result<()> {
        let mut incarnations = self.same_boot.as_ref().map(|note| note.incarnations.clone()).unwrap_or_default();
        incarnations.push(incarnation);
        let broker_epoch = self.intact_broker_epoch();
        self.note_boot(&BootNote { broker_epoch, incarnations })
    }

    /// The broker has its epoch.
    pub fn note_registered(&self, incarnation: Uuid, broker_epoch: i64) -> io::Result<()> {
        self.note_boot(&BootNote { broker_epoch, incarnations: vec![incarnation] })
    }

    fn note_boot(&self, note: &BootNote) -> io::Result<()> {
        let Some(id) = self.disk.boot_id() else { return Ok(()) };
        let mut text = format!("{id}\n{}\n", note.broker_epoch);
        for incarnation in note.incarnations.iter().rev().take(INCARNATIONS_MAX) {
            text.push_str(&format!("{incarnation}\n"));
        }
        checkpoint::replace(&*self.disk, &self.path.join(BOOT_ID), text.as_bytes())
    }
}

fn last_run_of_boot(disk: &dyn Disk, dir: &Path) -> io::Result<Option<BootNote>> {
    let path = dir.join(BOOT_ID);
    let (Some(id), true) = (disk.boot_id(), disk.exists(&path)) else { return Ok(None) };
    let bytes = disk.read(&path)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    if lines.next() != Some(id.as_str()) {
        return Ok(None);
    }
    let broker_epoch = lines.next().and_then(|line| line.parse().ok()).unwrap_or(-1);
    let mut incarnations: Vec<Uuid> = lines.take(INCARNATIONS_MAX).filter_map(Uuid::parse).collect();
    incarnations.reverse();
    Ok(Some(BootNote { broker_epoch, incarnations }))
}

/// From `{"version":0,"brokerEpoch":N}`; other content means that the epoch is unknown, not that the stop was unclean.
fn parse_broker_epoch(text: &str) -> Option<i64> {
    let after = text.split("\"brokerEpoch\"").nth(1)?.trim_start().strip_prefix(':')?.trim_start();
    let end = after.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(after.len());
    after.get(..end)?.parse().ok()
}
