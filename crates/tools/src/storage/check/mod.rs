//! `storage check`: whether directories, of Apache Kafka perhaps, can be taken over as they are. Reads, changes nothing,
//! and must be run while nobody else uses them.

mod metadata;
mod replica;
mod walk;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use protocol::wire::Uuid;
use storage::real::RealDisk;
use storage::{DirKind, Disk, MetaProperties, checkpoint, parse_partition_dir};

use self::metadata::Cluster;
use crate::terminal::Terminal;

pub const METADATA_DIR: &str = "__cluster_metadata-0";
pub const BOOTSTRAP_CHECKPOINT: &str = "bootstrap.checkpoint";
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
const OFFSET_CHECKPOINTS: [&str; 4] =
    ["recovery-point-offset-checkpoint", "log-start-offset-checkpoint", HIGH_WATERMARKS, "cleaner-offset-checkpoint"];

/// In the order of how bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Ok,
    /// Nothing stands in the way, but the operator should know.
    Note,
    /// Made anew at the start, from what is there; no record is lost.
    Repair,
    /// Would be lost, misread or refused.
    Refused,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Repair => "repair",
            Self::Refused => "REFUSED",
        })
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Line {
    pub what: String,
    pub verdict: Verdict,
    pub detail: String,
}

#[derive(Debug, Default)]
pub struct Report {
    pub lines: Vec<Line>,
}

impl Report {
    pub fn add(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        self.lines.push(Line { what: what.into(), verdict, detail: detail.into() });
    }

    pub fn ok(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.add(what, Verdict::Ok, detail);
    }

    pub fn note(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.add(what, Verdict::Note, detail);
    }

    pub fn repair(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.add(what, Verdict::Repair, detail);
    }

    pub fn refuse(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.add(what, Verdict::Refused, detail);
    }

    pub fn worst(&self) -> Verdict {
        self.lines.iter().map(|line| line.verdict).max().unwrap_or(Verdict::Ok)
    }
}

/// Exit code 0 if all directories can be taken over, 1 if one cannot.
pub fn run(dirs: &[PathBuf], terminal: &mut Terminal<'_>) -> u8 {
    let worst = look(dirs, terminal);
    conclude(worst, terminal)
}

/// Says what the worst line of the tables comes to, and gives the exit code.
pub fn conclude(worst: Verdict, terminal: &mut Terminal<'_>) -> u8 {
    terminal.line(match worst {
        Verdict::Ok | Verdict::Note => "Can be taken over as it is.",
        Verdict::Repair => "Can be taken over; what says \"repair\" is made anew at the first start.",
        Verdict::Refused => "Cannot be taken over as it is: see what says \"REFUSED\".",
    });
    u8::from(worst == Verdict::Refused)
}

/// Prints the table of each directory, and returns the worst of it.
pub fn look(dirs: &[PathBuf], terminal: &mut Terminal<'_>) -> Verdict {
    let mut worst = Verdict::Ok;
    let cluster = find_cluster(dirs);
    let mut owners: Vec<(PathBuf, MetaProperties)> = Vec::new();
    for dir in dirs {
        let mut report = Report::default();
        if let Some(meta) = directory(dir, cluster.as_ref().map(|(_, cluster)| cluster), &mut report) {
            same_owner(dir, &meta, &owners, &mut report);
            owners.push((dir.clone(), meta));
        }
        if let Some((_, cluster)) = cluster.as_ref().filter(|(of, _)| of == dir) {
            cluster.report(&mut report);
        }
        worst = worst.max(report.worst());
        print(&dir.display().to_string(), &report, terminal);
    }
    worst
}

/// Read from the directory that holds the metadata log; before a first start there is only what `format` wrote.
fn find_cluster(dirs: &[PathBuf]) -> Option<(PathBuf, Cluster)> {
    let holds = |name: &str| dirs.iter().find(|dir| dir.join(name).exists());
    let dir = holds(METADATA_DIR).or_else(|| holds(BOOTSTRAP_CHECKPOINT))?;
    Some((dir.clone(), Cluster::read(dir, dir.join(CLEAN_SHUTDOWN).exists())))
}

pub fn print(head: &str, report: &Report, terminal: &mut Terminal<'_>) {
    let width = report.lines.iter().map(|line| line.what.len()).max().unwrap_or(0);
    terminal.line(head);
    for line in &report.lines {
        terminal
            .line(format_args!("  {:<7}  {:<width$}  {}", line.verdict, line.what, line.detail).to_string().trim_end());
    }
    terminal.line("");
}

fn directory(dir: &Path, cluster: Option<&Cluster>, report: &mut Report) -> Option<MetaProperties> {
    if !dir.is_dir() {
        report.refuse("directory", if dir.exists() { "is no directory" } else { "does not exist" });
        return None;
    }
    let meta = owner(dir, report);
    lock(dir, report);
    let was_clean = dir.join(CLEAN_SHUTDOWN).exists();
    if was_clean {
        report.ok("last stop", "in order");
    } else {
        report.note("last stop", "not in order, or it never ran: what may be damaged is looked at again at the start");
    }
    for name in OFFSET_CHECKPOINTS {
        match checkpoint::read_offsets(&RealDisk, &dir.join(name)) {
            Ok(entries) if entries.is_empty() => {}
            Ok(entries) => report.ok(name, format!("{} partitions", entries.len())),
            Err(error) => {
                report.refuse(name, format!("{error}; without it old records might come back: restore the file"))
            }
        }
    }
    replicas(dir, meta.as_ref(), was_clean, cluster, report);
    meta
}

/// meta.properties, as a start needs it.
fn owner(dir: &Path, report: &mut Report) -> Option<MetaProperties> {
    const NAME: &str = "meta.properties";
    let meta = match MetaProperties::read(&RealDisk, dir) {
        Ok(Some(meta)) => meta,
        Ok(None) => {
            report.refuse(NAME, "is not there: the directory is not formatted");
            return None;
        }
        Err(error) => {
            report.refuse(NAME, error.to_string());
            return None;
        }
    };
    let fault = match &meta {
        MetaProperties { version: 0, .. } => Some("version 0 is of a broker with ZooKeeper: migrate it to KRaft first"),
        MetaProperties { version: 2.., .. } | MetaProperties { version: ..0, .. } => Some("its version is not known"),
        MetaProperties { cluster_id: None, .. } => Some("has no cluster.id"),
        MetaProperties { node_id: None, .. } => Some("has no node.id"),
        MetaProperties { directory_id: None, .. } => {
            Some("has no directory.id, written before 3.7: start Apache Kafka 3.7 or later on it once")
        }
        _ => None,
    };
    match fault {
        Some(fault) => report.refuse(NAME, fault),
        None => report.ok(
            NAME,
            format!(
                "cluster {}, node {}, directory {}",
                meta.cluster_id.as_deref().unwrap_or_default(),
                meta.node_id.unwrap_or(-1),
                meta.directory_id.unwrap_or_default()
            ),
        ),
    }
    Some(meta)
}

fn same_owner(dir: &Path, meta: &MetaProperties, others: &[(PathBuf, MetaProperties)], report: &mut Report) {
    for (other, theirs) in others {
        let fault = if other == dir {
            "is named twice"
        } else if theirs.cluster_id != meta.cluster_id {
            "is of another cluster"
        } else if theirs.node_id != meta.node_id {
            "is of another node"
        } else if theirs.directory_id == meta.directory_id {
            "has the same directory.id: one is a copy of the other"
        } else {
            continue;
        };
        report.refuse("directories", format!("{} {fault}", other.display()));
    }
}

/// Whoever runs on the directory holds its lock, a JVM or a node of ours.
fn lock(dir: &Path, report: &mut Report) {
    let path = dir.join(".lock");
    // The file is not made here: this command changes nothing.
    if !path.exists() {
        return;
    }
    match RealDisk.lock(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            report.refuse("in use", "a running process holds .lock: stop it first");
        }
        Err(error) => report.refuse(".lock", error.to_string()),
        Ok(_) => {}
    }
}

fn replicas(
    dir: &Path,
    meta: Option<&MetaProperties>,
    was_clean: bool,
    cluster: Option<&Cluster>,
    report: &mut Report,
) {
    let entries = match RealDisk.read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return report.refuse("directory", error.to_string()),
    };
    let (mut good, mut bytes) = (0, 0);
    let mut found = BTreeSet::new();
    for entry in entries.iter().filter(|entry| entry.is_dir && entry.name != METADATA_DIR) {
        let Some((topic, partition, kind)) = parse_partition_dir(&entry.name) else {
            report.note(&entry.name, "is no replica's directory, and is left alone");
            continue;
        };
        match kind {
            DirKind::Deleted => report.note(&entry.name, "was deleted, and is removed at the start"),
            DirKind::Stray => report.note(&entry.name, "is a stray replica, and is left alone"),
            DirKind::Future => {
                report.note(&entry.name, "is half of a move between directories, which is not gone on with")
            }
            DirKind::Replica => {
                let replica = replica::look(&dir.join(&entry.name), was_clean);
                let name = &entry.name;
                found.insert((topic.clone(), partition));
                if let (Some(cluster), Some(node)) = (cluster, meta.and_then(|meta| meta.node_id)) {
                    cluster.compare(&topic, partition, node, replica.topic_id, name, report);
                }
                if replica.report.lines.is_empty() {
                    good += 1;
                    bytes += replica.bytes;
                }
                let named = |line: Line| Line { what: format!("{name} {}", line.what), ..line };
                report.lines.extend(replica.report.lines.into_iter().map(named));
            }
        }
    }
    if good > 0 {
        report.ok("replicas", format!("{good} whole, {bytes} bytes of batches read"));
    }
    match (cluster, meta) {
        (Some(cluster), Some(meta)) if cluster.has_log => {
            let had = checkpoint::read_offsets(&RealDisk, &dir.join(HIGH_WATERMARKS)).unwrap_or_default();
            cluster.missing(meta, &found, &had, report);
        }
        _ if found.is_empty() => {}
        _ => report.refuse(
            METADATA_DIR,
            "is in none of the directories: name all of log.dirs, and metadata.log.dir, or the topics cannot be judged",
        ),
    }
}

/// The topic id that `partition.metadata` names.
fn topic_id(dir: &Path) -> Result<Option<Uuid>, String> {
    let path = dir.join("partition.metadata");
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let id = text.lines().find_map(|line| Uuid::parse(line.strip_prefix("topic_id:")?.trim()));
    id.map(Some).ok_or_else(|| "names no topic id".to_owned())
}

#[cfg(test)]
mod tests;
