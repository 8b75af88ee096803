//! The node: everything of a broker and controller above sockets, threads and clocks, as one state machine.
//!
//! Its driver, the server or the simulator, tells it what happened ([`Node::frame`], [`Node::closed`],
//! [`Node::link_frame`], [`Node::flushed`], …), calls [`Node::turn`] once all events of a moment are in, and then does
//! what [`Node::take_effects`] says. Nothing in here waits, reads a clock or starts a thread. Fields by owner:
//! connections and links (who talks to us, to whom we talk), the quorum and the image it replicates, the active
//! controller if this node is it, and the replicas if this node is a broker.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use metadata::config::NodeConfig;
use metadata::{MetadataDelta, MetadataImage};
use protocol::api::ApiKey;
use protocol::records::Scratch;
use protocol::time::Now;
use protocol::wire::Uuid;
use raft::{FetchToken, Quorum, RequestToken, VoterChangeToken};
use replication::PartitionKey;
use storage::{DiskRef, LogDir};

use crate::active::ActiveController;
use crate::cleaner::Cleaner;
use crate::connections::Connections;
use crate::control::{ControlChannel, ControlOp};
use crate::effect::{ConnId, Effect, FlushId, LinkId};
use crate::groups::Groups;
use crate::lifecycle::{self, Lifecycle};
use crate::links::{Failure, Links};
use crate::offline::Offline;
use crate::producer_ids::ProducerIds;
use crate::quorum::QuorumReplay;
use crate::quotas::Quotas;
use crate::quotas::replication::Throttles;
use crate::registration::ControllerRegistration;
use crate::replicas::Replicas;
use crate::reply::{LocalId, ReplyTo};
use crate::request::Early;
use crate::status::{BrokerStatus, NodeStatus, QuorumStatus};
use crate::telemetry::Telemetry;
use crate::transactions::{TransactionOp, Transactions};

/// Faults planted on purpose, one at a time, to prove that the simulator's checkers notice them. A test sets them;
/// no configuration key does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mutations {
    pub raft: raft::Mutations,
    pub replication: replication::Mutations,
    pub transactions: coordinator::transactions::TransactionMutations,
    pub groups: coordinator::GroupMutations,
}

/// What a request of ours was for.
pub(crate) enum Pending {
    Quorum {
        token: RequestToken,
        key: ApiKey,
    },
    Control(ControlOp),
    Transaction(TransactionOp),
    /// A follower's fetch from a leader.
    Fetch {
        leader: i32,
    },
    /// Where a leader's log begins or ends, for a replica that fell out of its range.
    Offsets {
        leader: i32,
        key: PartitionKey,
        asks_latest: bool,
    },
    /// Does this broker's process still listen?
    Probe {
        broker: i32,
        epoch: i64,
        attempt: u32,
    },
}

/// What a flush was for.
pub(crate) enum FlushOf {
    Quorum,
    Partition {
        key: PartitionKey,
        upto: i64,
    },
    /// Of the directory with this index.
    Checkpoints(usize),
}

/// Invariants: `image` holds exactly the committed records below `replay.next`; `delta` what of them the replicas have
/// not been told; `active` is there only while the quorum says that this node leads.
pub struct Node {
    /// What holds now: `file_config`, and what operators have set over it.
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) file_config: Arc<NodeConfig>,
    pub(crate) mutations: Mutations,
    pub(crate) disk: DiskRef,
    pub(crate) rng: fastrand::Rng,
    pub(crate) effects: Vec<Effect>,
    pub(crate) cluster_id: String,
    pub(crate) log_dirs: Vec<LogDir>,
    pub(crate) offline: Offline,

    pub(crate) connections: Connections,
    pub(crate) early: Early,
    pub(crate) links: Links<Pending>,
    pub(crate) control: ControlChannel,
    pub(crate) local_answers: VecDeque<(LocalId, Vec<u8>)>,

    pub(crate) quorum: Quorum,
    pub(crate) quorum_fetches: BTreeMap<FetchToken, ReplyTo>,
    pub(crate) quorum_fetch_next: u64,
    /// Requests to change the voters, of which the quorum says the outcome.
    pub(crate) voter_changes: BTreeMap<VoterChangeToken, ReplyTo>,
    pub(crate) quorum_requests: BTreeMap<RequestToken, raft::Endpoint>,
    pub(crate) replay: QuorumReplay,
    pub(crate) image: MetadataImage,
    pub(crate) delta: MetadataDelta,
    pub(crate) active: Option<Box<ActiveController>>,
    pub(crate) registration: Option<ControllerRegistration>,

    pub(crate) lifecycle: Option<Lifecycle>,
    pub(crate) replicas: Replicas,
    pub(crate) cleaner: Cleaner,
    pub(crate) groups: Groups,
    pub(crate) transactions: Transactions,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) quotas: Quotas,
    pub(crate) throttles: Throttles,
    pub(crate) telemetry: Telemetry,
    pub(crate) auto_creating: std::collections::BTreeSet<String>,

    /// Reused by every decompression.
    pub(crate) scratch: Scratch,
    pub(crate) flushes: BTreeMap<FlushId, FlushOf>,
    pub(crate) flush_next: u64,
    pub(crate) shutdown: Shutdown,
    pub(crate) has_failed: bool,
}

/// How far a controlled stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    No,
    /// The controller moves our leaderships; give up waiting at this time.
    Broker {
        until_ms: i64,
    },
    /// The logs are closed; the quorum hands over.
    Quorum,
    Done,
}

/// Longest wait for the controller to let this broker go; then it goes anyway, and the controller sees it die.
const CONTROLLED_SHUTDOWN_MS: i64 = 30_000;
/// Longest wait for another controller to take over.
const QUORUM_SHUTDOWN_MS: i64 = 1_000;
/// Without any answer of a controller for this long, a broker that wants to stop goes.
const FORSAKEN_MS: i64 = 1_000;

impl Node {
    pub fn accepted(&mut self, conn: ConnId, listener: usize, peer: IpAddr, now: Now) {
        let kind = self.listener_kind(listener);
        self.connections.opened(conn, listener, kind, peer);
        self.throttle_connection(conn, peer, now);
    }

    /// Whether the driver may read the next request of a connection.
    pub fn may_read(&self, conn: ConnId) -> bool {
        self.connections.may_read(conn)
    }

    /// The other side closed, or the connection broke.
    pub fn closed(&mut self, conn: ConnId, now: Now) {
        let Some(connection) = self.connections.closed(conn) else { return };
        self.forget_waiting(conn);
        if let Some(broker) = connection.broker {
            self.on_broker_hung_up(broker, now);
        }
    }

    /// Drops what the gone connection still waits for, where waiting costs something.
    fn forget_waiting(&mut self, conn: ConnId) {
        let gone: Vec<FetchToken> =
            self.quorum_fetches.iter().filter(|(_, reply)| reply.to.conn() == Some(conn)).map(|(t, _)| *t).collect();
        for token in gone {
            self.quorum_fetches.remove(&token);
            self.quorum.forget_fetch(token);
        }
        self.replicas.forget_connection(conn);
        self.transactions.verifying.forget_connection(conn);
    }

    pub fn link_up(&mut self, link: LinkId, _now: Now) {
        self.links.up(link, &mut self.effects);
    }

    pub fn link_down(&mut self, link: LinkId, refused: bool, _now: Now) {
        self.links.down(link, refused);
    }

    /// An answer to a request of ours; `frame` is without its length bytes.
    pub fn link_frame(&mut self, link: LinkId, frame: &mut [u8], now: Now) {
        let Some(answered) = self.links.frame(link, frame, now, &mut self.effects) else { return };
        let body = frame.get(answered.body_at..).unwrap_or_default();
        match answered.pending {
            Pending::Quorum { token, key } => self.on_quorum_answer(token, key, answered.version, body, now),
            Pending::Control(op) => self.on_control_answer(op, answered.version, body, now),
            Pending::Transaction(op) => self.on_transaction_answer(op, answered.version, body, now),
            Pending::Fetch { leader } => self.on_fetch_answer(leader, answered.version, body, now),
            Pending::Offsets { leader, key, asks_latest } => {
                self.on_offsets_answer(leader, key, asks_latest, answered.version, body, now);
            }
            Pending::Probe { .. } => {}
        }
    }

    fn on_request_failed(&mut self, pending: Pending, failure: Failure, now: Now) {
        match pending {
            Pending::Quorum { token, .. } => self.on_quorum_failure(token, failure, now),
            Pending::Control(op) => self.on_control_failure(op, failure, now),
            Pending::Transaction(op) => self.on_transaction_failure(op, failure, now),
            Pending::Fetch { leader } => self.on_fetch_failure(leader, failure, now),
            Pending::Offsets { key, .. } => self.on_offsets_failure(key, now),
            Pending::Probe { broker, epoch, attempt } => self.on_probe_failure(broker, epoch, attempt, failure, now),
        }
    }

    /// An fsync asked for by [`Effect::Flush`] has ended.
    pub fn flushed(&mut self, id: FlushId, result: io::Result<()>, now: Now) {
        match self.flushes.remove(&id) {
            Some(FlushOf::Quorum) => self.quorum.on_flushed(result, now),
            Some(FlushOf::Partition { key, upto }) => self.on_partition_flushed(key, upto, result, now),
            Some(FlushOf::Checkpoints(dir)) => self.on_checkpoints_written(dir, result, now),
            None => {}
        }
    }

    pub(crate) fn flush(&mut self, of: FlushOf, work: storage::FlushWork) {
        let id = FlushId(self.flush_next);
        self.flush_next += 1;
        self.flushes.insert(id, of);
        self.effects.push(Effect::Flush { id, work });
    }

    /// The end of a moment: what is due is done, and everybody whose wait is over gets an answer.
    pub fn turn(&mut self, now: Now) {
        if self.has_failed || self.shutdown == Shutdown::Done {
            return;
        }
        self.links.tick(now, &mut self.effects);
        self.end_throttles(now);
        self.throttles.look(now);
        if self.quorum.next_deadline() <= now.mono_ms {
            self.quorum.tick(now);
        }
        // Each step may give the others work: a commit publishes a partition, which asks for an ISR change, which this
        // node as controller appends.
        for _ in 0..ROUNDS_MAX {
            let mut busy = self.drain_failures(now);
            busy |= self.drive_quorum(now);
            busy |= self.drive_controller(now);
            busy |= self.drain_local_answers(now);
            busy |= self.drive_broker(now);
            busy |= self.drive_groups(now);
            busy |= self.drive_transactions(now);
            if !busy {
                break;
            }
        }
        self.poll_forwards(now);
        self.poll_shutdown(now);
    }

    fn drain_failures(&mut self, now: Now) -> bool {
        let mut busy = false;
        while let Some((pending, failure)) = self.links.failed.pop_front() {
            busy = true;
            self.on_request_failed(pending, failure, now);
        }
        busy
    }

    /// When [`Node::turn`] has something to do even if nothing happens.
    pub fn next_deadline(&self) -> i64 {
        if self.has_failed || self.shutdown == Shutdown::Done {
            return i64::MAX;
        }
        let mut at = self.links.next_deadline().min(self.quorum.next_deadline()).min(self.control.next_deadline());
        at = at.min(self.active.as_ref().map_or(i64::MAX, |a| a.next_deadline()));
        at = at.min(self.registration.as_ref().map_or(i64::MAX, |r| r.next_deadline()));
        at = at.min(self.lifecycle.as_ref().map_or(i64::MAX, Lifecycle::next_deadline));
        at = at.min(self.replicas.next_deadline()).min(self.groups.runtime.next_deadline());
        at = at.min(self.connections.next_deadline());
        at = at.min(self.transactions.next_deadline());
        if self.replicas.is_published {
            at = at.min(self.cleaner.next_deadline());
        }
        if let Shutdown::Broker { until_ms } = self.shutdown {
            let heard_ms = self.lifecycle.as_ref().map_or(i64::MIN, |l| l.heard_ms);
            at = at.min(until_ms).min(heard_ms.max(until_ms - CONTROLLED_SHUTDOWN_MS) + FORSAKEN_MS + 1);
        }
        at
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Begins a controlled stop: leaderships move away first, then the logs are closed, then the quorum hands over.
    /// Ends with [`Effect::Stopped`].
    pub fn shutdown(&mut self, now: Now) {
        if self.shutdown != Shutdown::No {
            return;
        }
        tracing::info!(node = self.config.node_id, "controlled shutdown begins");
        self.shutdown = Shutdown::Broker { until_ms: now.mono_ms + CONTROLLED_SHUTDOWN_MS };
        if let Some(lifecycle) = &mut self.lifecycle {
            lifecycle.begin_shutdown();
        }
    }

    fn poll_shutdown(&mut self, now: Now) {
        if let Shutdown::Broker { until_ms } = self.shutdown {
            let released = self.lifecycle.as_ref().is_none_or(|l| l.state == lifecycle::State::Released);
            if released || now.mono_ms >= until_ms || self.is_forsaken(now) {
                self.drop_all_groups();
                self.drop_all_transactions();
                self.close_replicas(now);
                self.shutdown = Shutdown::Quorum;
                self.quorum.shutdown(QUORUM_SHUTDOWN_MS, now);
                self.drive_quorum(now);
            }
        }
    }

    /// When all nodes of a cluster stop, the last ones have no quorum left that could release them: no heartbeat of
    /// theirs is answered any more.
    fn is_forsaken(&self, now: Now) -> bool {
        let Shutdown::Broker { until_ms } = self.shutdown else { return false };
        let asked_ms = until_ms - CONTROLLED_SHUTDOWN_MS;
        let heard_ms = self.lifecycle.as_ref().map_or(i64::MIN, |l| l.heard_ms);
        now.mono_ms - heard_ms.max(asked_ms) > FORSAKEN_MS
    }

    pub(crate) fn on_quorum_shut_down(&mut self) {
        let broker_epoch = self.lifecycle.as_ref().map_or(-1, |l| l.broker_epoch);
        for (_, dir) in self.log_dirs.iter().enumerate().filter(|(index, _)| self.is_online(*index)) {
            if let Err(error) = dir.write_clean_mark(broker_epoch) {
                tracing::error!(dir = %dir.path.display(), %error, "the mark of a clean stop cannot be written");
            }
        }
        self.shutdown = Shutdown::Done;
        tracing::info!(node = self.config.node_id, "stopped");
        self.effects.push(Effect::Stopped);
    }

    /// An invariant or the disk failed: nothing that this node says from here on can be trusted.
    pub(crate) fn fail(&mut self, message: String) {
        if !self.has_failed {
            tracing::error!(node = self.config.node_id, message, "the node stops");
            self.has_failed = true;
            self.effects.push(Effect::Fatal { message });
        }
    }

    pub(crate) fn random_uuid(rng: &mut fastrand::Rng) -> Uuid {
        loop {
            let mut bytes = [0; 16];
            rng.fill(&mut bytes);
            let id = Uuid::from_random(bytes);
            // Kafka avoids a leading dash, which command lines would take for a flag.
            if !id.to_string().starts_with('-') {
                return id;
            }
        }
    }

    pub fn image(&self) -> &MetadataImage {
        &self.image
    }

    /// What holds now, with what operators have set over the file.
    pub fn config(&self) -> &Arc<NodeConfig> {
        &self.config
    }

    pub fn status(&self) -> NodeStatus {
        let leader = self.quorum.leader_and_epoch();
        let broker = self.lifecycle.as_ref().map(|lifecycle| BrokerStatus {
            state: lifecycle.state,
            epoch: lifecycle.broker_epoch,
            partitions: self.replicas.partition_status(),
            cleaner: self.cleaner.status,
            offline_dirs: self.offline.failed.len() + self.offline.missing.len(),
        });
        NodeStatus {
            node_id: self.config.node_id,
            broker,
            quorum: QuorumStatus {
                leader: leader.leader,
                epoch: leader.epoch,
                high_watermark: self.quorum.high_watermark().unwrap_or(-1),
                log_end: self.quorum.log_end().offset,
                is_leader: self.quorum.is_leader(),
            },
            active_controller: self.active.is_some(),
            metadata_offset: self.replay.next - 1,
            connections: self.connections.count(),
        }
    }
}

/// Rounds of one turn; a node that still has work after that goes on in the next turn, so that input is not starved.
const ROUNDS_MAX: usize = 16;
