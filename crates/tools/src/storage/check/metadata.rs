//! The metadata log with its snapshots: read as a start would read it, to learn what the cluster uses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use metadata::features::{self, KRAFT_VERSION, METADATA_VERSION};
use metadata::{ConfigResource, MetadataDelta, MetadataImage, MetadataVersion};
use protocol::codec::decode_all;
use protocol::messages::{KRaftVersionRecord, MetadataRecord};
use protocol::records::{Batch, ControlRecordType, Scratch};
use protocol::wire::Uuid;
use storage::real::RealDisk;
use storage::{Disk, MetaProperties};

use super::walk::{self, End, Order};
use super::{BOOTSTRAP_CHECKPOINT, METADATA_DIR, Report, topic_id};

/// Topics whose records mean something to a coordinator that is not there yet.
const NO_COORDINATOR: [(&str, &str); 1] =
    [("__share_group_state", "share groups are not served: their state is kept and not used")];

/// Features that are finalized and have no use here yet.
const WITHOUT_USE: [&str; 2] = ["share.version", "streams.version"];

/// What the metadata say, and what was found on the way.
pub struct Cluster {
    image: MetadataImage,
    /// Not only what `format` wrote.
    pub has_log: bool,
    kraft_version: i16,
    lines: Report,
    /// Where reading had to end: what follows is not known.
    is_whole: bool,
}

/// A snapshot's end offset and epoch.
type Id = (i64, i32);

impl Cluster {
    pub fn read(dir: &Path, was_clean: bool) -> Cluster {
        let dir = dir.join(METADATA_DIR);
        let mut cluster = Cluster {
            image: MetadataImage::default(),
            has_log: dir.exists(),
            kraft_version: 0,
            lines: Report::default(),
            is_whole: true,
        };
        if !cluster.has_log {
            cluster.lines.note("metadata log", "is not there yet: the node has not been started");
            if let Err(error) = cluster.first_features(&dir) {
                cluster.refuse(BOOTSTRAP_CHECKPOINT, error.to_string());
            }
            return cluster;
        }
        match topic_id(&dir) {
            Ok(None) => {}
            Ok(Some(id)) if id == Uuid::ONE => {}
            Ok(Some(id)) => cluster.lines.refuse("metadata log", format!("partition.metadata names topic id {id}")),
            Err(why) => cluster.lines.repair("metadata log", format!("partition.metadata {why}; it is written anew")),
        }
        cluster.quorum_state(&dir);
        if let Err(error) = cluster.load(&dir, was_clean).and_then(|()| cluster.first_features(&dir)) {
            cluster.refuse("metadata log", error.to_string());
        }
        cluster
    }

    fn refuse(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.is_whole = false;
        self.lines.refuse(what, detail);
    }

    fn quorum_state(&mut self, dir: &Path) {
        const NAME: &str = "quorum-state";
        let Ok(bytes) = std::fs::read(dir.join(NAME)) else {
            return self.lines.note(NAME, "is not there: this node has never voted");
        };
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let number = |key: &str| json.get(key).and_then(serde_json::Value::as_i64);
        match (number("data_version"), number("leaderEpoch"), number("votedId")) {
            (Some(0 | 1), Some(epoch), Some(_)) => self.lines.ok(NAME, format!("epoch {epoch}")),
            (Some(version), Some(_), Some(_)) => {
                self.lines.refuse(NAME, format!("its version {version} is not known"));
            }
            _ => self.lines.refuse(NAME, "is damaged: a vote might be given twice; restore the file"),
        }
    }

    /// A directory that is formatted and was never led has its features in the file that `format` wrote.
    fn first_features(&mut self, dir: &Path) -> std::io::Result<()> {
        let path = dir.with_file_name(BOOTSTRAP_CHECKPOINT);
        if self.image.features.is_empty() && path.exists() {
            self.snapshot(&path)?;
        }
        Ok(())
    }

    fn load(&mut self, dir: &Path, was_clean: bool) -> std::io::Result<()> {
        let entries = RealDisk.read_dir(dir)?;
        let snapshots: BTreeSet<Id> = entries.iter().filter_map(|entry| snapshot_id(&entry.name)).collect();
        let mut logs: Vec<(i64, String, u64)> = Vec::new();
        for entry in &entries {
            let base = entry.name.strip_suffix(".log").and_then(|stem| stem.parse().ok());
            logs.extend(base.map(|base| (base, entry.name.clone(), entry.len)));
        }
        let start = logs.first().map_or(0, |(base, ..)| *base);
        let mut applied = 0;
        // The one that `format` writes comes before the log: its records are for the first leader, and repeated there.
        match snapshots.last() {
            Some((offset, epoch)) => {
                self.snapshot(&dir.join(format!("{offset:020}-{epoch:010}.checkpoint")))?;
                applied = *offset;
            }
            None if start > 0 => self.refuse("metadata log", format!("begins at {start}, and there is no snapshot")),
            None => {}
        }
        if start > applied {
            self.refuse("metadata log", format!("begins at {start}, the latest snapshot ends at {applied}"));
        }
        let mut order = Order::from(start);
        let mut held = Vec::new();
        let (mut records, count) = (0, logs.len());
        for (i, (base, name, len)) in logs.into_iter().enumerate() {
            if base != order.next() {
                self.refuse(&name, format!("begins at {base}, offset {} is next", order.next()));
            }
            let end = walk::batches(&dir.join(&name), |_, batch| {
                order.follow(&batch.header)?;
                self.batch(batch, applied, &mut held, &mut records)
            })?;
            match end {
                End::Whole => {}
                End::CutOff { at } if i + 1 == count && !was_clean => {
                    self.lines
                        .repair(&name, format!("the last {} bytes are no whole batch, and are cut off", len - at));
                }
                End::CutOff { at } => self.refuse(&name, format!("ends within a batch at position {at}")),
                End::Damaged { at, why } => self.refuse(&name, format!("position {at} of {len}: {why}")),
            }
        }
        if self.is_whole {
            let from =
                snapshots.last().map_or_else(String::new, |(offset, epoch)| format!(", snapshot {offset}-{epoch}"));
            self.lines.ok("metadata log", format!("offsets {start} to {}{from}, {records} records read", order.next()));
        }
        Ok(())
    }

    fn snapshot(&mut self, path: &Path) -> std::io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut ends = (false, false);
        let mut held = Vec::new();
        let mut records = 0;
        let end = walk::batches(path, |_, batch| {
            let kinds = control_records(batch)?;
            ends.0 |= kinds.iter().any(|(kind, _)| *kind == Some(ControlRecordType::SnapshotHeader));
            ends.1 = kinds.iter().any(|(kind, _)| *kind == Some(ControlRecordType::SnapshotFooter));
            self.batch(batch, i64::MIN, &mut held, &mut records)
        })?;
        match end {
            End::Whole if ends == (true, true) => {}
            End::Whole | End::CutOff { .. } => self.refuse(name, "is not complete"),
            End::Damaged { at, why } => self.refuse(name, format!("position {at}: {why}")),
        }
        Ok(())
    }

    /// Applies what lies at `from` and beyond; of a metadata transaction only once it has ended.
    fn batch(&mut self, batch: &Batch<'_>, from: i64, held: &mut Vec<Vec<u8>>, count: &mut u64) -> Result<(), String> {
        if batch.header.is_control() {
            for (kind, value) in control_records(batch)? {
                match kind {
                    None => return Err("a control record of an unknown type".to_owned()),
                    Some(ControlRecordType::KRaftVersion) => {
                        let record: KRaftVersionRecord = decode_all(&value, 0).map_err(|error| error.to_string())?;
                        self.kraft_version = record.kraft_version;
                    }
                    Some(_) => {}
                }
            }
            return Ok(());
        }
        let mut scratch = Scratch::default();
        for record in batch.records(&mut scratch).map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            if record.offset < from {
                continue;
            }
            *count += 1;
            let value = record.value.unwrap_or_default();
            self.record(value, held).map_err(|why| format!("offset {}: {why}", record.offset))?;
        }
        Ok(())
    }

    fn record(&mut self, value: &[u8], held: &mut Vec<Vec<u8>>) -> Result<(), String> {
        let record = MetadataRecord::decode(value).map_err(|error| format!("{}: {error}", describe(value)))?;
        match &record {
            MetadataRecord::BeginTransaction(_) => self.image.in_transaction = true,
            MetadataRecord::AbortTransaction(_) => {
                held.clear();
                self.image.in_transaction = false;
            }
            MetadataRecord::EndTransaction(_) => {
                self.image.in_transaction = false;
                for value in std::mem::take(held) {
                    self.apply(&value)?;
                }
            }
            _ if self.image.in_transaction => held.push(value.to_vec()),
            _ => self.apply(value)?,
        }
        Ok(())
    }

    fn apply(&mut self, value: &[u8]) -> Result<(), String> {
        let record = MetadataRecord::decode(value).map_err(|error| error.to_string())?;
        self.image.apply(&record, &mut MetadataDelta::default()).map_err(|error| error.to_string())
    }

    /// The lines of the directory that holds the metadata.
    pub fn report(&self, report: &mut Report) {
        for line in &self.lines.lines {
            report.add(line.what.clone(), line.verdict, line.detail.clone());
        }
        self.report_features(report);
        self.report_topics(report);
        let image = &self.image;
        if !image.acls.is_empty() {
            report.note(
                "access control",
                format!("{} rules are kept; authorization is not offered yet", image.acls.len()),
            );
        }
        let counts = [("SCRAM credentials", image.scram.len()), ("delegation tokens", image.tokens.len())];
        for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            report.note(what, format!("{count} are kept, and have no effect yet"));
        }
    }

    fn report_features(&self, report: &mut Report) {
        if self.is_whole && self.image.features.is_empty() {
            report.note("features", "none are finalized yet: the first controller does it");
        }
        let kraft = (KRAFT_VERSION.to_owned(), self.kraft_version);
        for (name, level) in self.image.features.clone().into_iter().chain([kraft]) {
            let range = features::find(&name);
            match range {
                None => report.refuse(name, format!("level {level} of a feature that is not known")),
                Some(range) if level < range.min || level > range.max => {
                    report.refuse(name, format!("level {level}; known are {} to {}", range.min, range.max));
                }
                Some(_) if name == METADATA_VERSION => {
                    report.ok(name, format!("{level} ({})", MetadataVersion(level).name()));
                }
                Some(_) if WITHOUT_USE.contains(&name.as_str()) => {
                    report.note(name, format!("{level} is kept; what it allows is not all served yet"));
                }
                Some(_) => report.ok(name, level.to_string()),
            }
        }
    }

    fn report_topics(&self, report: &mut Report) {
        report.ok("topics", format!("{} with {} partitions", self.image.topics.len(), self.image.partition_count()));
        for (name, why) in NO_COORDINATOR {
            if let Some(topic) = self.image.topic(name) {
                report.note(name, format!("{} partitions; {why}", topic.partitions.len()));
            }
        }
        let tiered = |name: &str| {
            let value = self.image.config(&ConfigResource::topic(name), "remote.storage.enable");
            value.is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
        };
        for topic in self.image.topics.values().filter(|topic| tiered(&topic.name)) {
            report.refuse(&topic.name, "has remote.storage.enable=true: records in remote storage could not be read");
        }
    }

    /// A replica's directory against what the metadata say of it.
    pub fn compare(&self, topic: &str, partition: i32, node: i32, id: Option<Uuid>, dir: &str, report: &mut Report) {
        if !self.is_whole || !self.has_log {
            return;
        }
        let Some(known) = self.image.topic(topic) else {
            return report.note(dir, "its topic is not in the metadata: it is put aside as a stray");
        };
        let is_here = known.partitions.get(&partition).is_some_and(|p| p.replicas.contains(&node));
        if id.is_some_and(|id| id != known.id) {
            report.note(dir, "is of an earlier topic of that name: it is put aside as a stray");
        } else if !is_here {
            report.note(dir, "this node is no replica of it any more: it is put aside as a stray");
        } else if id.is_none() {
            report.repair(dir, "has no partition.metadata; it is written anew");
        }
    }

    /// Replicas that the metadata place into a directory where they are not. `had` is what was there at the last stop.
    pub fn missing(
        &self,
        meta: &MetaProperties,
        found: &BTreeSet<(String, i32)>,
        had: &[(String, i32, i64)],
        report: &mut Report,
    ) {
        let (Some(node), Some(dir), true) = (meta.node_id, meta.directory_id, self.is_whole) else { return };
        let mut empty: BTreeMap<&str, usize> = BTreeMap::new();
        for topic in self.image.topics.values() {
            for (number, partition) in &topic.partitions {
                let place = partition.replicas.iter().position(|replica| *replica == node);
                let is_here = place.and_then(|i| partition.directories.get(i)) == Some(&dir);
                if !is_here || found.contains(&(topic.name.clone(), *number)) {
                    continue;
                }
                let records = had.iter().find(|(name, p, offset)| *name == topic.name && p == number && *offset > 0);
                match records {
                    Some((.., offset)) => report.refuse(
                        format!("{}-{number}", topic.name),
                        format!("is missing, and held records up to offset {offset}: restore it"),
                    ),
                    None => *empty.entry(&topic.name).or_default() += 1,
                }
            }
        }
        for (topic, count) in empty {
            report.note(topic, format!("{count} replicas that belong here are missing, and begin empty"));
        }
    }
}

/// `%020d-%010d.checkpoint`.
fn snapshot_id(name: &str) -> Option<Id> {
    let (offset, epoch) = name.strip_suffix(".checkpoint").filter(|stem| stem.len() == 31)?.split_once('-')?;
    Some((offset.parse().ok()?, epoch.parse().ok()?))
}

fn control_records(batch: &Batch<'_>) -> Result<Vec<(Option<ControlRecordType>, Vec<u8>)>, String> {
    if !batch.header.is_control() {
        return Ok(Vec::new());
    }
    let mut scratch = Scratch::default();
    let mut kinds = Vec::new();
    for record in batch.records(&mut scratch).map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        let kind = ControlRecordType::parse(record.key.unwrap_or_default());
        kinds.push((kind, record.value.unwrap_or_default().to_vec()));
    }
    Ok(kinds)
}

/// The type and version of a record that cannot be read: frame version, type and version come first.
fn describe(value: &[u8]) -> String {
    match value {
        [_, kind @ ..=127, version, ..] => format!("record type {kind}, version {version}"),
        _ => "a record".to_owned(),
    }
}
