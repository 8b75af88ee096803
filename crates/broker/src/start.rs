//! Starting a node: directories opened and checked, the quorum's log and the replicas' logs recovered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use metadata::config::NodeConfig;
use metadata::{MetadataDelta, MetadataImage};
use protocol::records::{Batches, Scratch};
use protocol::time::Now;
use protocol::wire::Uuid;
use raft::{Endpoint, Endpoints, Quorum, QuorumConfig};
use storage::{DirError, DiskRef, Evidence, LogDir, META_PROPERTIES, MetaProperties};

use crate::cleaner::Cleaner;
use crate::connections::Connections;
use crate::control::ControlChannel;
use crate::effect::ListenerKind;
use crate::groups::Groups;
use crate::lifecycle::Lifecycle;
use crate::links::Links;
use crate::node::{Mutations, Node, Shutdown};
use crate::offline::Offline;
use crate::producer_ids::ProducerIds;
use crate::quorum::QuorumReplay;
use crate::quotas::Quotas;
use crate::quotas::replication::Throttles;
use crate::registration::ControllerRegistration;
use crate::replicas::Replicas;
use crate::telemetry::Telemetry;
use crate::transactions::Transactions;

/// File with the records that a new cluster's first controller writes; at the root of the metadata directory.
const BOOTSTRAP_CHECKPOINT: &str = "bootstrap.checkpoint";

/// Why a node cannot start, in words for the operator.
#[derive(Debug)]
pub enum StartError {
    Dir(DirError),
    /// The directory belongs to another node or cluster.
    Foreign {
        dir: PathBuf,
        what: String,
    },
    Metadata {
        dir: PathBuf,
        error: String,
    },
    Log(storage::StorageError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(error) => write!(f, "{error}"),
            Self::Foreign { dir, what } => write!(f, "log.dirs: {}: {what}", dir.display()),
            Self::Metadata { dir, error } => {
                write!(f, "the metadata log in {} cannot be opened: {error}", dir.display())
            }
            Self::Log(error) => write!(f, "a partition's log cannot be opened: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Node {
    /// Opens everything under `log.dirs`. Effects wait already when it returns.
    pub fn start(config: Arc<NodeConfig>, disk: DiskRef, seed: u64, now: Now) -> Result<Node, StartError> {
        Node::start_with(config, disk, seed, Mutations::default(), now)
    }

    pub fn start_with(
        config: Arc<NodeConfig>,
        disk: DiskRef,
        seed: u64,
        mutations: Mutations,
        now: Now,
    ) -> Result<Node, StartError> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let Opened { log_dirs, missing, cluster_id } = open_dirs(&config, &disk, &mut rng)?;
        let metadata_dir = log_dirs.iter().find(|d| d.path == config.metadata_log_dir);
        let metadata_dir = metadata_dir.expect("open_dirs opens the metadata directory");
        let evidence = evidence_of(metadata_dir);
        let quorum_config = quorum_config(&config, metadata_dir, &cluster_id, mutations.raft);
        let path = metadata_dir.path.join("__cluster_metadata-0");
        let failed = |error: std::io::Error| StartError::Metadata { dir: path.clone(), error: error.to_string() };
        disk.create_dir_all(&path).map_err(failed)?;
        let log_config = crate::settings::metadata_log_config(&config);
        let quorum = Quorum::open(quorum_config, disk.clone(), &path, log_config, evidence, now, rng.u64(..));
        let bootstrap = read_bootstrap(&disk, &metadata_dir.path).map_err(failed)?;
        let incarnation = Node::random_uuid(&mut rng);
        let mut node = Node {
            connections: Connections::default(),
            early: Default::default(),
            links: Links::new(config.node_id),
            control: ControlChannel::default(),
            local_answers: VecDeque::new(),
            effects: Vec::new(),
            quorum: quorum.map_err(failed)?,
            quorum_fetches: BTreeMap::new(),
            quorum_fetch_next: 0,
            voter_changes: BTreeMap::new(),
            quorum_requests: BTreeMap::new(),
            replay: QuorumReplay::new(bootstrap),
            image: MetadataImage::default(),
            delta: MetadataDelta::default(),
            active: None,
            registration: config.roles.controller.then(|| ControllerRegistration::new(incarnation)),
            lifecycle: (config.roles.broker)
                .then(|| Lifecycle::new(config.node_id, incarnation, config.broker_heartbeat_interval_ms)),
            replicas: Replicas::new(&config, now),
            cleaner: Cleaner::new(&config, now),
            groups: Groups::new(&config),
            transactions: Transactions::new(&config, mutations.transactions),
            producer_ids: ProducerIds::default(),
            quotas: Quotas::new(&config),
            throttles: Throttles::new(&config),
            telemetry: Telemetry::new(config.zwirn_client_telemetry_enable, config.telemetry_max_bytes),
            auto_creating: BTreeSet::new(),
            scratch: Scratch::default(),
            flushes: BTreeMap::new(),
            flush_next: 0,
            shutdown: Shutdown::No,
            has_failed: false,
            cluster_id,
            log_dirs,
            offline: Offline { missing, ..Offline::default() },
            file_config: config.clone(),
            config,
            mutations,
            disk,
            rng,
        };
        if node.config.roles.broker {
            node.load_all_logs(now)?;
        }
        // Only now: had we died while we were still looking for damage, the next start would have to look again.
        node.note_start(incarnation);
        Ok(node)
    }

    /// Without the note a crash counts as one that may have lost something; what is left of an older one names none of
    /// those who write from now on.
    fn note_start(&self, incarnation: Uuid) {
        for (_, dir) in self.log_dirs.iter().enumerate().filter(|(index, _)| self.is_online(*index)) {
            if let Err(error) = dir.note_start(incarnation) {
                tracing::warn!(dir = %dir.path.display(), %error, "the start cannot be noted");
            }
        }
    }

    /// A directory whose logs cannot be opened is offline, as one that fails later; without any the node does not start.
    fn load_all_logs(&mut self, now: Now) -> Result<(), StartError> {
        for index in 0..self.log_dirs.len() {
            let Err(error) = self.load_logs(index, now) else { continue };
            let is_metadata = self.log_dirs[index].path == self.config.metadata_log_dir;
            if is_metadata || self.online_dirs().all(|other| other == index) {
                return Err(StartError::Log(error));
            }
            self.directory_failed(index, &error, now);
        }
        let bytes: u64 = self.replicas.unclaimed.values().map(|u| u.log.size_bytes()).sum();
        tracing::info!(logs = self.replicas.unclaimed.len(), bytes, "logs are loaded");
        Ok(())
    }

    pub(crate) fn listener_kind(&self, listener: usize) -> ListenerKind {
        match self.config.listeners.get(listener) {
            Some(listener) if listener.kind_is_controller => ListenerKind::Controller,
            _ => ListenerKind::Broker,
        }
    }
}

/// What is known of the time since the directory was last in use.
pub(crate) fn evidence_of(dir: &LogDir) -> Evidence {
    match (dir.was_clean, &dir.same_boot) {
        (true, _) => Evidence::CleanShutdown,
        (false, Some(_)) => Evidence::SameBoot,
        (false, None) => Evidence::Unknown,
    }
}

struct Opened {
    log_dirs: Vec<LogDir>,
    missing: Vec<PathBuf>,
    cluster_id: String,
}

/// The metadata directory must be there. Another one that cannot be used is left out, as long as one is left; one that
/// is there and empty, such as a new disk, is formatted.
///
/// DIFFERS: Apache Kafka makes a directory that is not there, which is more often a disk that is not mounted.
fn open_dirs(config: &NodeConfig, disk: &DiskRef, rng: &mut fastrand::Rng) -> Result<Opened, StartError> {
    let metadata = LogDir::open(disk.clone(), &config.metadata_log_dir).map_err(StartError::Dir)?;
    let cluster_id = check_identity(config, &metadata, None)?;
    let mut others: Vec<LogDir> = Vec::new();
    let mut missing = Vec::new();
    let wanted = config.log_dirs.iter().filter(|_| config.roles.broker);
    for path in wanted.filter(|path| **path != config.metadata_log_dir) {
        let dir = match open_or_format(config, disk, path, &cluster_id, rng) {
            Ok(dir) => dir,
            Err(locked @ DirError::Locked(_)) => return Err(StartError::Dir(locked)),
            Err(error) => {
                tracing::error!(dir = %path.display(), %error, "log directory is offline; mend or replace it, then restart");
                missing.push(path.clone());
                continue;
            }
        };
        check_identity(config, &dir, Some(&cluster_id))?;
        if let Some(other) = others.iter().chain([&metadata]).find(|d| d.id == dir.id) {
            let what = format!("has the same directory.id as {}: it is a copy", other.path.display());
            return Err(StartError::Foreign { dir: path.clone(), what });
        }
        others.push(dir);
    }
    let serves = others.len() + usize::from(config.log_dirs.contains(&config.metadata_log_dir));
    if let (true, 0, Some(first)) = (config.roles.broker, serves, missing.first()) {
        let error = std::io::Error::other("this directory cannot be used, and no other is left");
        return Err(StartError::Dir(DirError::Io(first.clone(), error)));
    }
    // In the order of the configuration, the metadata's own behind them.
    let place = |dir: &LogDir| config.log_dirs.iter().position(|path| *path == dir.path).unwrap_or(usize::MAX);
    let mut log_dirs = others;
    log_dirs.push(metadata);
    log_dirs.sort_by_key(place);
    Ok(Opened { log_dirs, missing, cluster_id })
}

fn open_or_format(
    config: &NodeConfig,
    disk: &DiskRef,
    path: &std::path::Path,
    cluster_id: &str,
    rng: &mut fastrand::Rng,
) -> Result<LogDir, DirError> {
    if disk.exists(path) && !disk.exists(&path.join(META_PROPERTIES)) {
        tracing::warn!(dir = %path.display(), "log directory is not formatted, as a new disk is; it is formatted now");
        let meta = MetaProperties {
            version: 1,
            cluster_id: Some(cluster_id.to_owned()),
            node_id: Some(config.node_id),
            directory_id: Some(Node::random_uuid(rng)),
        };
        meta.write(&**disk, path).map_err(|error| DirError::Io(path.to_owned(), error))?;
    }
    LogDir::open(disk.clone(), path)
}

/// The directory's cluster, if it is this node's and of that cluster.
fn check_identity(config: &NodeConfig, dir: &LogDir, cluster: Option<&str>) -> Result<String, StartError> {
    let foreign = |what: String| StartError::Foreign { dir: dir.path.clone(), what };
    match dir.meta.node_id {
        Some(id) if id == config.node_id => {}
        other => {
            let stored = other.map_or("no node id".to_owned(), |id| format!("node.id={id}"));
            return Err(foreign(format!(
                "meta.properties says {stored}, the configuration says node.id={}; use the directory of this node, or the configuration of that one",
                config.node_id
            )));
        }
    }
    let id = dir.meta.cluster_id.clone();
    let id = id.ok_or_else(|| foreign("meta.properties has no cluster.id; format the directory anew".to_owned()))?;
    match cluster.filter(|known| *known != id) {
        Some(known) => Err(foreign(format!("belongs to cluster {id}, the other directories to {known}"))),
        None => Ok(id),
    }
}

fn quorum_config(config: &NodeConfig, dir: &LogDir, cluster_id: &str, mutations: raft::Mutations) -> QuorumConfig {
    let mut quorum = QuorumConfig::new(config.node_id, dir.id, cluster_id);
    quorum.can_be_voter = config.roles.controller;
    quorum.auto_join = config.controller_quorum_auto_join_enable;
    quorum.static_voters = config
        .controller_quorum_voters
        .iter()
        .map(|(id, host, port)| (*id, Endpoint::new(host.clone(), *port)))
        .collect();
    quorum.bootstrap_servers = config
        .controller_quorum_bootstrap_servers
        .iter()
        .map(|(host, port)| Endpoint::new(host.clone(), *port))
        .collect();
    if let Some(name) = config.controller_listener_names.first() {
        quorum.listener_name.clone_from(name);
    }
    let mut listeners = Endpoints::none();
    if config.roles.controller {
        for endpoint in &config.controller_advertised {
            listeners.insert(&endpoint.name, Endpoint::new(endpoint.host.clone(), endpoint.port));
        }
    }
    quorum.listeners = listeners;
    quorum.election_timeout_ms = config.controller_quorum_election_timeout_ms;
    quorum.fetch_timeout_ms = config.controller_quorum_fetch_timeout_ms;
    quorum.election_backoff_max_ms = config.controller_quorum_election_backoff_max_ms;
    quorum.request_timeout_ms = config.controller_quorum_request_timeout_ms;
    quorum.retry_backoff_ms = config.controller_quorum_retry_backoff_ms;
    quorum.fetch_max_bytes = config.controller_quorum_fetch_max_bytes;
    quorum.fetch_snapshot_max_bytes = config.controller_quorum_fetch_snapshot_max_bytes;
    quorum.retention_bytes = config.metadata_max_retention_bytes;
    quorum.retention_ms = config.metadata_max_retention_ms;
    quorum.mutations = mutations;
    quorum
}

/// The records of `bootstrap.checkpoint`, none if there is no such file.
fn read_bootstrap(disk: &DiskRef, dir: &std::path::Path) -> std::io::Result<Vec<Vec<u8>>> {
    let path = dir.join(BOOTSTRAP_CHECKPOINT);
    if !disk.exists(&path) {
        return Ok(Vec::new());
    }
    let bytes = disk.read(&path)?;
    let damaged = |error: &dyn fmt::Display| {
        std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let mut scratch = Scratch::default();
    let mut out = Vec::new();
    for batch in Batches::new(&bytes) {
        let batch = batch.map_err(|e| damaged(&e))?;
        batch.verify_crc().map_err(|e| damaged(&e))?;
        if batch.header.is_control() {
            continue;
        }
        for record in batch.records(&mut scratch).map_err(|e| damaged(&e))? {
            let record = record.map_err(|e| damaged(&e))?;
            out.push(record.value.unwrap_or_default().to_vec());
        }
    }
    Ok(out)
}
