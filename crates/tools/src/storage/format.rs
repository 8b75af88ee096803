//! `storage format`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metadata::config::NodeConfig;
use metadata::features::{KRAFT_VERSION, METADATA_VERSION, MetadataVersion, SUPPORTED};
use protocol::wire::Uuid;
use storage::real::RealDisk;
use storage::{Disk, MetaProperties};

use super::checkpoint::{BOOTSTRAP_CHECKPOINT, FIRST_SNAPSHOT, METADATA_DIR, Voter, bootstrap, first_voters};
use super::features::{check_level, default_level, parse_feature, parse_release};
use crate::argparse::Parsed;
use crate::java::hash_order;
use crate::random::random_uuid;
use crate::terminal::{Terminal, wall_ms};

/// All that is needed to format a node.
#[derive(Clone, Debug)]
pub struct Formatting {
    pub cluster_id: String,
    pub node_id: i32,
    pub directories: Vec<PathBuf>,
    pub metadata_directory: PathBuf,
    pub ignore_formatted: bool,
    pub release: MetadataVersion,
    /// As they go into the log: metadata.version first, the others by name, none of level 0.
    pub features: Vec<(String, i16)>,
    pub kraft_version: i16,
    /// The first quorum, if it is dynamic and this command decides it.
    pub voters: Option<Vec<Voter>>,
    pub controller_listener: String,
}

/// `log.dirs` and the metadata log's directory, sorted, each once.
pub fn directories(config: &NodeConfig) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = config.log_dirs.clone();
    all.push(config.metadata_log_dir.clone());
    all.sort();
    all.dedup();
    all
}

impl Formatting {
    /// What a node of a cluster with static voters gets without further wishes.
    pub fn new(config: &NodeConfig, cluster_id: &str) -> Formatting {
        Formatting {
            cluster_id: cluster_id.to_owned(),
            node_id: config.node_id,
            directories: directories(config),
            metadata_directory: config.metadata_log_dir.clone(),
            ignore_formatted: false,
            release: MetadataVersion::LATEST,
            features: Formatting::default_features(),
            kraft_version: i16::from(config.controller_quorum_voters.is_empty()),
            voters: None,
            controller_listener: config.controller_listener_names.first().cloned().unwrap_or_default(),
        }
    }

    pub fn default_features() -> Vec<(String, i16)> {
        let all = SUPPORTED.iter().filter(|feature| feature.name != KRAFT_VERSION && feature.format_level > 0);
        all.map(|feature| (feature.name.to_owned(), feature.format_level)).collect()
    }

    pub(super) fn of(parsed: &Parsed, config: &NodeConfig) -> Result<Formatting, String> {
        if parsed.has("add-scram") {
            return Err("--add-scram: SCRAM credentials are not offered so far".to_owned());
        }
        let mut formatting = Formatting::new(config, parsed.get("cluster-id").unwrap_or_default());
        formatting.ignore_formatted = parsed.has("ignore-formatted");
        formatting.choose_features(parsed, config)?;
        let is_static = !config.controller_quorum_voters.is_empty();
        if is_static && (parsed.has("standalone") || parsed.has("initial-controllers")) {
            return Err(
                "You cannot specify controller.quorum.voters and format the node with --initial-controllers or \
                 --standalone. If you want to use dynamic quorum, please remove controller.quorum.voters and specify \
                 controller.quorum.bootstrap.servers instead."
                    .to_owned(),
            );
        }
        if let Some(list) = parsed.get("initial-controllers") {
            formatting.voters = Some(list.split(',').map(Voter::parse).collect::<Result<_, _>>()?);
        }
        if parsed.has("standalone") {
            formatting.voters = Some(vec![only_voter(config)?]);
        }
        let undecided = !parsed.has("no-initial-controllers") && formatting.voters.is_none();
        if undecided && config.roles.controller && !is_static {
            return Err(
                "Because controller.quorum.voters is not set on this controller, you must specify one of the following: \
                 --standalone, --initial-controllers, or --no-initial-controllers."
                    .to_owned(),
            );
        }
        Ok(formatting)
    }

    fn choose_features(&mut self, parsed: &Parsed, config: &NodeConfig) -> Result<(), String> {
        let mut wanted = BTreeMap::new();
        for text in parsed.all("feature") {
            let (name, level) = parse_feature(text)?;
            check_level(&name, level, MetadataVersion::LATEST)?;
            wanted.insert(name, level);
        }
        self.release = match (wanted.remove(METADATA_VERSION), parsed.get("release-version")) {
            (Some(_), Some(_)) => {
                let text = "Use --release-version instead of --feature metadata.version=X to avoid ambiguity.";
                return Err(text.to_owned());
            }
            (Some(level), None) => MetadataVersion(level),
            (None, Some(text)) => parse_release(text)?,
            (None, None) => MetadataVersion::LATEST,
        };
        let dynamic = config.controller_quorum_voters.is_empty();
        self.kraft_version = match wanted.remove(KRAFT_VERSION) {
            Some(0) if dynamic => {
                return Err(
                    "kraft.version=0 goes with controller.quorum.voters only; leave the --feature out".to_owned()
                );
            }
            Some(level) if level > 0 && !dynamic => {
                return Err(format!(
                    "kraft.version={level} does not go with controller.quorum.voters; remove the key and use \
                     controller.quorum.bootstrap.servers with --standalone, --initial-controllers or \
                     --no-initial-controllers"
                ));
            }
            _ => i16::from(dynamic),
        };
        let mut levels = vec![(METADATA_VERSION.to_owned(), self.release.0)];
        for feature in SUPPORTED.iter().filter(|feature| ![METADATA_VERSION, KRAFT_VERSION].contains(&feature.name)) {
            let level = wanted.get(feature.name).copied().unwrap_or_else(|| default_level(feature.name, self.release));
            check_level(feature.name, level, self.release)?;
            if level > 0 {
                levels.push((feature.name.to_owned(), level));
            }
        }
        self.features = levels;
        Ok(())
    }

    fn description(&self, dir: &Path) -> &'static str {
        match &self.voters {
            _ if dir != self.metadata_directory => "data directory",
            None => "metadata directory",
            Some(voters) if voters.iter().any(|voter| voter.id == self.node_id) => "dynamic metadata voter directory",
            Some(_) => "dynamic metadata directory",
        }
    }

    /// A voter's metadata directory has the id that the first quorum gives it.
    fn directory_id(&self, dir: &Path) -> Uuid {
        let voters = self.voters.iter().flatten();
        let own = voters.filter(|_| dir == self.metadata_directory).find(|voter| voter.id == self.node_id);
        own.map_or_else(random_uuid, |voter| voter.directory_id)
    }

    /// As Java prints what will be the first records.
    fn bootstrap_text(&self) -> String {
        let records: Vec<String> = self
            .features
            .iter()
            .map(|(name, level)| {
                format!("ApiMessageAndVersion(FeatureLevelRecord(name='{name}', featureLevel={level}) at version 0)")
            })
            .collect();
        format!(
            "Bootstrap metadata: BootstrapMetadata(records=[{}], metadataVersionLevel={}, source=format command)",
            records.join(", "),
            self.release.0
        )
    }
}

fn only_voter(config: &NodeConfig) -> Result<Voter, String> {
    if !config.roles.controller {
        return Err("You can only use --standalone on a controller.".to_owned());
    }
    let listener = config.controller_advertised.first().ok_or("No controller listeners found.")?;
    let host = if listener.host.is_empty() { "localhost".to_owned() } else { listener.host.clone() };
    Ok(Voter { id: config.node_id, host, port: listener.port, directory_id: random_uuid() })
}

/// Formats what is not formatted yet, after checking that what is belongs to the same node and cluster.
pub fn format(formatting: &Formatting, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let mut empty: Vec<String> = Vec::new();
    let mut formatted = None;
    for dir in &formatting.directories {
        match MetaProperties::read(&RealDisk, dir).map_err(|error| format!("{}: {error}", dir.display()))? {
            Some(meta) => {
                check_owner(formatting, dir, &meta)?;
                formatted.get_or_insert(dir);
            }
            None => empty.push(dir.display().to_string()),
        }
    }
    if let Some(dir) = formatted.filter(|_| !formatting.ignore_formatted) {
        return Err(format!(
            "Log directory {} is already formatted. Use --ignore-formatted to ignore this directory and format the others.",
            dir.display()
        ));
    }
    if empty.is_empty() {
        terminal.line("All of the log directories are already formatted.");
        return Ok(());
    }
    terminal.line(formatting.bootstrap_text());
    hash_order(&mut empty, |dir| dir, false);
    for dir in &empty {
        let dir = Path::new(dir);
        let (what, release) = (formatting.description(dir), formatting.release.name());
        terminal.line(format_args!("Formatting {what} {} with metadata.version {release}.", dir.display()));
        write(formatting, dir).map_err(|error| format!("{}: cannot be formatted: {error}", dir.display()))?;
    }
    Ok(())
}

fn check_owner(formatting: &Formatting, dir: &Path, meta: &MetaProperties) -> Result<(), String> {
    let path = format!("{}/meta.properties", dir.display());
    let exception = "Exception in thread \"main\" java.lang.RuntimeException: ";
    if let Some(id) = meta.cluster_id.as_ref().filter(|id| **id != formatting.cluster_id) {
        return Err(format!(
            "{exception}Invalid cluster.id in: {path}. Expected {}, but read {id}",
            formatting.cluster_id
        ));
    }
    if let Some(id) = meta.node_id.filter(|id| *id != formatting.node_id) {
        return Err(format!("{exception}Invalid node.id in: {path}. Expected {}, but read {id}", formatting.node_id));
    }
    Ok(())
}

/// meta.properties last: a directory that has it has the rest.
fn write(formatting: &Formatting, dir: &Path) -> std::io::Result<()> {
    let disk = RealDisk;
    disk.create_dir_all(dir)?;
    let now = wall_ms();
    disk.write_atomically(&dir.join(BOOTSTRAP_CHECKPOINT), &bootstrap(&formatting.features, [now; 3]))?;
    if let Some(voters) = formatting.voters.as_ref().filter(|_| dir == formatting.metadata_directory) {
        let metadata_dir = dir.join(METADATA_DIR);
        disk.create_dir_all(&metadata_dir)?;
        let bytes = first_voters(voters, &formatting.controller_listener, formatting.kraft_version, [now; 3]);
        let path = metadata_dir.join(FIRST_SNAPSHOT);
        disk.write_atomically(&path, &bytes)?;
        disk.set_read_only(&path)?;
    }
    let meta = MetaProperties {
        version: 1,
        cluster_id: Some(formatting.cluster_id.clone()),
        node_id: Some(formatting.node_id),
        directory_id: Some(formatting.directory_id(dir)),
    };
    meta.write(&disk, dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_in_the_recorded_order() {
        let mut dirs = vec!["rich/d2", "rich/d2b"];
        hash_order(&mut dirs, |dir| dir, false);
        assert_eq!(dirs, ["rich/d2b", "rich/d2"]);
        let text = "process.roles=broker,controller\nnode.id=2\nlisteners=PLAINTEXT://h:1,CONTROLLER://h:2\n\
            controller.listener.names=CONTROLLER\ncontroller.quorum.voters=2@h:2\nlog.dirs=rich/d2,rich/d2b\n";
        let (config, _) = NodeConfig::from_text(text, "t", &[]).unwrap();
        let formatting = Formatting::new(&config, "Z29sZGVuLWthZmthLTQzMQ");
        assert!(
            include_str!("../../tests/golden/storage-format-two-dirs-2.txt").contains(&formatting.bootstrap_text())
        );
        assert_eq!(formatting.description(Path::new("rich/d2b")), "data directory");
        assert_eq!(formatting.description(Path::new("rich/d2")), "metadata directory");
    }
}
