//! Starting a node: directories opened and checked, the quorum's log and the replicas' logs recovered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use metadata::config::NodeConfig;
use metadata::{MetadataDelta, MetadataImage};
use protocol::records::{Batches, Scratch};
use protocol::time::Now;
use raft::{Endpoint, Endpoints, Quorum, QuorumConfig};
use storage::{DirError, DiskRef, Evidence, LogDir};

use crate::cleaner::Cleaner;
use crate::connections::Connections;
use crate::control::ControlChannel;
use crate::effect::ListenerKind;
use crate::groups::Groups;
use crate::lifecycle::Lifecycle;
use crate::links::Links;
use crate::node::{Mutations, Node, Shutdown};
use crate::producer_ids::ProducerIds;
use crate::quorum::QuorumReplay;
use crate::quotas::Quotas;
use crate::quotas::replication::Throttles;
use crate::registration::ControllerRegistration;
use crate::replicas::Replicas;

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
        let (log_dirs, cluster_id) = open_dirs(&config, &disk)?;
        let metadata_dir = log_dirs.iter().find(|d| d.path == config.metadata_log_dir);
        let metadata_dir = metadata_dir.expect("open_dirs opens the metadata directory");
        let evidence = evidence_of(metadata_dir);
        let quorum_config = quorum_config(&config, metadata_dir, &cluster_id, mutations.raft);
        let path = metadata_dir.path.join("__cluster_metadata-0");
        let log_config = crate::settings::metadata_log_config(&config);
        let failed = |error: std::io::Error| StartError::Metadata { dir: path.clone(), error: error.to_string() };
        disk.create_dir_all(&path).map_err(failed)?;
        let quorum = Quorum::open(quorum_config, disk.clone(), &path, log_config, evidence, now, rng.u64(..));
        let quorum = quorum.map_err(failed)?;
        let bootstrap = read_bootstrap(&disk, &metadata_dir.path).map_err(failed)?;
        let incarnation = Node::random_uuid(&mut rng);
        let is_broker = config.roles.broker;
        let mut node = Node {
            connections: Connections::default(),
            early: Default::default(),
            links: Links::new(config.node_id),
            control: ControlChannel::default(),
            local_answers: VecDeque::new(),
            effects: Vec::new(),
            quorum,
            quorum_fetches: BTreeMap::new(),
            quorum_fetch_next: 0,
            voter_changes: BTreeMap::new(),
            quorum_requests: BTreeMap::new(),
            replay: QuorumReplay::new(bootstrap),
            image: MetadataImage::default(),
            delta: MetadataDelta::default(),
            active: None,
            registration: config.roles.controller.then(|| ControllerRegistration::new(incarnation)),
            lifecycle: is_broker
                .then(|| Lifecycle::new(config.node_id, incarnation, config.broker_heartbeat_interval_ms)),
            replicas: Replicas::new(&config, now),
            cleaner: Cleaner::new(&config, now),
            groups: Groups::new(&config),
            producer_ids: ProducerIds::default(),
            quotas: Quotas::new(&config),
            throttles: Throttles::new(&config),
            auto_creating: BTreeSet::new(),
            scratch: Scratch::default(),
            flushes: BTreeMap::new(),
            flush_next: 0,
            shutdown: Shutdown::No,
            has_failed: false,
            cluster_id,
            log_dirs,
            config,
            mutations,
            disk,
            rng,
        };
        if is_broker {
            node.load_logs(now).map_err(StartError::Log)?;
        }
        // Only now: had we died while we were still looking for damage, the next start would have to look again.
        for dir in &node.log_dirs {
            let noted = dir.note_start(incarnation);
            noted.map_err(|error| StartError::Dir(DirError::Io(dir.path.clone(), error)))?;
        }
        Ok(node)
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

fn open_dirs(config: &NodeConfig, disk: &DiskRef) -> Result<(Vec<LogDir>, String), StartError> {
    let mut paths: Vec<PathBuf> = Vec::new();
    if config.roles.broker {
        paths.extend(config.log_dirs.iter().cloned());
    }
    if !paths.contains(&config.metadata_log_dir) {
        paths.push(config.metadata_log_dir.clone());
    }
    let mut dirs: Vec<LogDir> = Vec::new();
    let mut cluster: Option<String> = None;
    for path in paths {
        let dir = LogDir::open(disk.clone(), &path).map_err(StartError::Dir)?;
        let foreign = |what: String| StartError::Foreign { dir: path.clone(), what };
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
        let id =
            id.ok_or_else(|| foreign("meta.properties has no cluster.id; format the directory anew".to_owned()))?;
        if let Some(known) = cluster.as_ref().filter(|known| **known != id) {
            return Err(foreign(format!("belongs to cluster {id}, the other directories to {known}")));
        }
        if let Some(other) = dirs.iter().find(|d| d.id == dir.id) {
            return Err(foreign(format!("has the same directory.id as {}: it is a copy", other.path.display())));
        }
        cluster = Some(id);
        dirs.push(dir);
    }
    Ok((dirs, cluster.expect("there is at least the metadata directory")))
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
