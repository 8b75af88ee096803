//! The node and its quorum: what the quorum asks is sent, what it has committed is replayed, its requests are answered.

use std::collections::BTreeMap;

use protocol::api::ApiKey;
use protocol::codec::Message;
use protocol::messages::{
    AddRaftVoterRequest, BeginQuorumEpochRequest, DescribeQuorumRequest, EndQuorumEpochRequest, FetchRequest,
    FetchSnapshotRequest, MetadataRecord, RemoveRaftVoterRequest, UpdateRaftVoterRequest, VoteRequest,
};
use protocol::time::Now;
use protocol::wire::{DecodeError, Reader};
use raft::{
    CommittedRead, FetchToken, OffsetAndEpoch, Request, RequestContext, RequestToken, Response, VoterChangeToken,
};

use crate::links::{Failure, Peer, Purpose};
use crate::node::{FlushOf, Node, Pending, Shutdown};
use crate::request::Context;

/// Committed records taken per read; a node that starts reads many times.
const REPLAY_BYTES_MAX: usize = 1 << 20;

/// How far this node has replayed the metadata log.
#[derive(Debug)]
pub(crate) struct QuorumReplay {
    /// `None` before anything, also a snapshot, was read.
    position: Option<i64>,
    /// Everything below is in the image.
    pub next: i64,
    pub epoch: i32,
    pub timestamp: i64,
    /// Records of a metadata transaction (KIP-868) that has not ended; nobody sees them before.
    transaction: Option<Vec<Vec<u8>>>,
    /// From `bootstrap.checkpoint`: what the first controller of a new cluster writes.
    pub bootstrap: Vec<Vec<u8>>,
    pub bytes_since_snapshot: u64,
    pub snapshot_due_ms: i64,
}

impl QuorumReplay {
    pub fn new(bootstrap: Vec<Vec<u8>>) -> Self {
        Self {
            position: None,
            next: 0,
            epoch: 0,
            timestamp: -1,
            transaction: None,
            bootstrap,
            bytes_since_snapshot: 0,
            snapshot_due_ms: i64::MAX,
        }
    }

    pub fn end(&self) -> OffsetAndEpoch {
        OffsetAndEpoch::new(self.next, self.epoch)
    }

    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }
}

impl Node {
    /// Carries out what the quorum asked for; whether there was anything.
    pub(crate) fn drive_quorum(&mut self, now: Now) -> bool {
        let mut any = false;
        loop {
            let effects = self.quorum.take_effects();
            if effects.is_empty() {
                return any;
            }
            any = true;
            for effect in effects {
                self.carry_out(effect, now);
            }
        }
    }

    fn carry_out(&mut self, effect: raft::Effect, now: Now) {
        match effect {
            raft::Effect::Send { to, request, token } => self.send_quorum(to.endpoint, request, token, now),
            raft::Effect::GiveUp { token, .. } => {
                if let Some(endpoint) = self.quorum_requests.remove(&token) {
                    self.links.close(&quorum_peer(&endpoint), &mut self.effects);
                }
            }
            raft::Effect::FetchDone { token, response } => {
                if let Some(reply) = self.quorum_fetches.remove(&token) {
                    self.respond(reply, &response);
                }
            }
            raft::Effect::VoterChanged { token, error, message } => {
                match self.voter_changes.remove(&token) {
                    Some(reply) if reply.key == ApiKey::AddRaftVoter => {
                        self.respond(reply, &raft::add_response(error, message));
                    }
                    Some(reply) => self.respond(reply, &raft::remove_response(error, message)),
                    None => {}
                };
            }
            raft::Effect::Flush(work) => self.flush(FlushOf::Quorum, work),
            raft::Effect::Committed { .. } => self.replay_committed(now),
            raft::Effect::LeaderChanged { leader, epoch, is_me } => self.on_quorum_leader(leader, epoch, is_me, now),
            raft::Effect::ShutdownComplete => {
                if self.shutdown == Shutdown::Quorum {
                    self.on_quorum_shut_down();
                }
            }
            raft::Effect::Fatal { message } => self.fail(message),
        }
    }

    fn send_quorum(&mut self, endpoint: raft::Endpoint, request: Request, token: RequestToken, now: Now) {
        let peer = quorum_peer(&endpoint);
        self.quorum_requests.insert(token, endpoint);
        let key = request.key();
        // The quorum itself gives up first, and says so.
        let timeout_ms =
            2 * self.quorum.config().request_timeout_ms + i64::from(self.quorum.config().fetch_max_wait_ms);
        let pending = (Pending::Quorum { token, key }, timeout_ms);
        macro_rules! send {
            ($message:expr) => {{
                let versions = message_versions(&$message);
                self.links.request(&peer, (key, $message), versions, pending, now, &mut self.effects)
            }};
        }
        match request {
            Request::Vote(m) => send!(m),
            Request::BeginQuorumEpoch(m) => send!(m),
            Request::EndQuorumEpoch(m) => send!(m),
            Request::Fetch(m) => send!(m),
            Request::FetchSnapshot(m) => send!(m),
            Request::UpdateRaftVoter(m) => send!(m),
            Request::AddRaftVoter(m) => send!(m),
            Request::RemoveRaftVoter(m) => send!(m),
            Request::ApiVersions(m) => send!(m),
        }
    }

    pub(crate) fn on_quorum_answer(&mut self, token: RequestToken, key: ApiKey, version: i16, body: &[u8], now: Now) {
        self.quorum_requests.remove(&token);
        let response = Response::decode(key, &mut Reader::new(body), version);
        let response = response.map_err(|error| {
            tracing::warn!(api = key.name(), %error, "a quorum response cannot be read");
            raft::Failure::Malformed
        });
        self.quorum.on_response(token, response, now);
    }

    pub(crate) fn on_quorum_failure(&mut self, token: RequestToken, failure: Failure, now: Now) {
        self.quorum_requests.remove(&token);
        let failure = match failure {
            Failure::Disconnected => raft::Failure::Disconnected,
            Failure::Refused => raft::Failure::Refused,
            Failure::TimedOut => raft::Failure::TimedOut,
            Failure::UnsupportedVersion => raft::Failure::UnsupportedVersion,
        };
        self.quorum.on_response(token, Err(failure), now);
    }

    /// Applies what is committed and not yet in the image.
    pub(crate) fn replay_committed(&mut self, now: Now) {
        loop {
            match self.quorum.read_committed(self.replay.position, REPLAY_BYTES_MAX) {
                Ok(CommittedRead::UpToDate) => break,
                Ok(CommittedRead::Snapshot(snapshot)) => self.load_snapshot(snapshot),
                Ok(CommittedRead::Batches(batches)) => {
                    for batch in batches {
                        self.replay_batch(batch);
                    }
                }
                Err(error) => return self.fail(format!("committed metadata cannot be read: {error}")),
            }
            if self.has_failed {
                return;
            }
        }
        self.on_image_changed(now);
    }

    fn load_snapshot(&mut self, snapshot: raft::SnapshotContent) {
        self.replay.position = Some(snapshot.id.offset);
        if snapshot.id == raft::BOOTSTRAP_SNAPSHOT_ID {
            if self.replay.bootstrap.is_empty() {
                self.replay.bootstrap = snapshot.records;
            }
            return;
        }
        tracing::info!(id = %snapshot.id, records = snapshot.records.len(), "metadata snapshot is loaded");
        self.image = metadata::MetadataImage::default();
        self.delta = metadata::MetadataDelta { everything: true, ..Default::default() };
        self.replay.transaction = None;
        for record in &snapshot.records {
            self.replay_record(record);
        }
        self.replay.next = snapshot.id.offset;
        self.replay.epoch = snapshot.id.epoch;
        self.replay.timestamp = snapshot.last_contained_log_timestamp;
        self.replay.bytes_since_snapshot = 0;
    }

    fn replay_batch(&mut self, batch: raft::DataBatch) {
        for record in &batch.records {
            self.replay_record(record);
        }
        self.replay.bytes_since_snapshot += batch.size_bytes as u64;
        self.replay.position = Some(batch.last_offset + 1);
        self.replay.next = batch.last_offset + 1;
        self.replay.epoch = batch.epoch;
        self.replay.timestamp = batch.append_timestamp;
    }

    fn replay_record(&mut self, bytes: &[u8]) {
        let record = match MetadataRecord::decode(bytes) {
            Ok(record) => record,
            Err(error) => return self.fail(format!("a committed metadata record cannot be read: {error}")),
        };
        match (&record, &mut self.replay.transaction) {
            (MetadataRecord::BeginTransaction(_), _) => {
                self.replay.transaction = Some(Vec::new());
                self.apply_record(&record);
            }
            (MetadataRecord::AbortTransaction(_), _) => {
                self.replay.transaction = None;
                self.apply_record(&record);
            }
            (MetadataRecord::EndTransaction(_), transaction) => {
                for held in transaction.take().unwrap_or_default() {
                    match MetadataRecord::decode(&held) {
                        Ok(held) => self.apply_record(&held),
                        Err(error) => return self.fail(format!("a committed metadata record cannot be read: {error}")),
                    }
                }
                self.apply_record(&record);
            }
            (_, Some(held)) => held.push(bytes.to_vec()),
            _ => self.apply_record(&record),
        }
    }

    fn apply_record(&mut self, record: &MetadataRecord<'_>) {
        if let Err(error) = self.image.apply(record, &mut self.delta) {
            self.fail(format!("committed metadata at offset {} or after: {error}", self.replay.next));
        }
    }

    // Requests of other replicas.

    fn quorum_listener(&self, cx: &Context) -> String {
        let listener = cx.listener.and_then(|i| self.config.listeners.get(i));
        listener.map_or_else(|| self.quorum.config().listener_name.clone(), |l| l.name.clone())
    }

    pub(crate) fn handle_quorum_request(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let listener = self.quorum_listener(cx);
        let ctx = RequestContext { version: cx.reply.version, listener: &listener };
        match cx.reply.key {
            ApiKey::Vote => {
                let request: VoteRequest<'_> = cx.decode(body)?;
                let response = self.quorum.on_vote(ctx, &request, now);
                self.respond(cx.reply, &response);
            }
            ApiKey::BeginQuorumEpoch => {
                let request: BeginQuorumEpochRequest<'_> = cx.decode(body)?;
                let response = self.quorum.on_begin_quorum_epoch(ctx, &request, now);
                self.respond(cx.reply, &response);
            }
            ApiKey::EndQuorumEpoch => {
                let request: EndQuorumEpochRequest<'_> = cx.decode(body)?;
                let response = self.quorum.on_end_quorum_epoch(ctx, &request, now);
                self.respond(cx.reply, &response);
            }
            ApiKey::Fetch => {
                let request: FetchRequest<'_> = cx.decode(body)?;
                let token = FetchToken(self.quorum_fetch_next);
                self.quorum_fetch_next += 1;
                match self.quorum.on_fetch(ctx, &request, token, now) {
                    Some(response) => self.respond(cx.reply, &response),
                    None => {
                        self.quorum_fetches.insert(token, cx.reply);
                    }
                }
            }
            ApiKey::FetchSnapshot => {
                let request: FetchSnapshotRequest<'_> = cx.decode(body)?;
                let response = self.quorum.on_fetch_snapshot(ctx, &request, now);
                self.respond(cx.reply, &response);
            }
            ApiKey::UpdateRaftVoter => {
                let request: UpdateRaftVoterRequest<'_> = cx.decode(body)?;
                let response = self.quorum.on_update_raft_voter(ctx, &request, now);
                self.respond(cx.reply, &response);
            }
            ApiKey::AddRaftVoter => {
                let request: AddRaftVoterRequest<'_> = cx.decode(body)?;
                let token = self.voter_change(cx);
                self.quorum.on_add_raft_voter(&request, token, now);
            }
            ApiKey::RemoveRaftVoter => {
                let request: RemoveRaftVoterRequest<'_> = cx.decode(body)?;
                let token = self.voter_change(cx);
                self.quorum.on_remove_raft_voter(&request, token, now);
            }
            _ => {
                let request: DescribeQuorumRequest<'_> = cx.decode(body)?;
                let response = self.quorum.on_describe_quorum(ctx, &request, now);
                self.respond(cx.reply, &response);
            }
        }
        Ok(())
    }

    fn voter_change(&mut self, cx: &Context) -> VoterChangeToken {
        let token = VoterChangeToken(self.quorum_fetch_next);
        self.quorum_fetch_next += 1;
        self.voter_changes.insert(token, cx.reply);
        token
    }

    /// Finalized features as ApiVersions shows them: those of the image and the quorum's own.
    pub(crate) fn finalized_features(&self) -> impl Iterator<Item = (&str, i16)> {
        let mut levels: BTreeMap<&str, i16> = self.image.features.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        if self.quorum.kraft_version() > 0 {
            levels.insert(metadata::features::KRAFT_VERSION, self.quorum.kraft_version());
        }
        levels.into_iter()
    }

    /// Last offset of the metadata log whose effects are visible here; −1 before the first.
    pub(crate) fn published_offset(&self) -> i64 {
        self.replay.next - 1
    }
}

fn message_versions<M: Message>(_: &M) -> (i16, i16) {
    (*M::VERSIONS.start(), *M::VERSIONS.end())
}

fn quorum_peer(endpoint: &raft::Endpoint) -> Peer {
    Peer { purpose: Purpose::Quorum, host: endpoint.host.clone(), port: endpoint.port }
}
