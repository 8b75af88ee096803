//! What comes back for our own requests.

use protocol::error::ErrorCode;
use protocol::messages::{
    BeginQuorumEpochResponse, EndQuorumEpochResponse, FetchResponse, FetchSnapshotResponse, UpdateRaftVoterResponse,
    VoteResponse, fetch_response, fetch_snapshot_response,
};
use protocol::time::Now;

use crate::effect::{Failure, Response};
use crate::peers::RequestToken;
use crate::quorum::Quorum;
use crate::role::Role;
use crate::server::single;
use crate::types::{Endpoint, Endpoints, METADATA_PARTITION, METADATA_TOPIC, METADATA_TOPIC_ID, OffsetAndEpoch};

/// Whether the peer may be asked again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handled {
    Ready,
    BackOff,
}

/// The part that all responses of the quorum have in common.
struct Seen {
    error: ErrorCode,
    leader: Option<i32>,
    epoch: i32,
    endpoints: Endpoints,
}

impl Quorum {
    /// The answer to a request, or why there is none. Answers that nobody waits for any more are ignored.
    pub fn on_response(&mut self, token: RequestToken, result: Result<Response<'_>, Failure>, now: Now) {
        if self.is_stopped || self.has_failed() {
            return;
        }
        let Some(from) = self.peers.awaiting(token) else {
            tracing::trace!(?token, "late answer");
            return self.turn(now);
        };
        let handled = match result {
            Ok(response) => self.handle(from, response, now),
            Err(failure) => self.on_failure(from, token, failure, now),
        };
        self.peers.on_result(token, handled == Handled::Ready, now.mono_ms);
        self.turn(now);
    }

    fn on_failure(&mut self, from: i32, token: RequestToken, failure: Failure, now: Now) -> Handled {
        tracing::debug!(peer = from, ?failure, "request failed");
        // If it was the question to a new voter, then that voter will not answer it.
        self.on_new_voter_versions(from, None, now);
        if failure == Failure::UnsupportedVersion && matches!(self.role, Role::Prospective(_)) {
            // A voter older than PreVote: elections go as they did before KIP-996.
            self.become_candidate(now);
            return Handled::Ready;
        }
        if matches!(failure, Failure::Disconnected | Failure::Refused) {
            self.peers.on_result(token, false, now.mono_ms);
            self.on_connection_failed(from, failure == Failure::Refused, now);
        }
        Handled::BackOff
    }

    fn handle(&mut self, from: i32, response: Response<'_>, now: Now) -> Handled {
        match response {
            Response::Vote(response) => self.on_vote_response(from, &response, now),
            Response::BeginQuorumEpoch(response) => self.on_begin_response(&response, now),
            Response::EndQuorumEpoch(response) => self.on_end_response(from, &response, now),
            Response::Fetch(response) => self.on_fetch_response(&response, now),
            Response::FetchSnapshot(response) => self.on_fetch_snapshot_response(&response, now),
            Response::UpdateRaftVoter(response) => self.on_update_voter_response(&response, now),
            Response::AddRaftVoter(response) => self.on_join_response(response.error_code, now),
            Response::RemoveRaftVoter(response) => self.on_join_response(response.error_code, now),
            Response::ApiVersions(response) => {
                self.on_new_voter_versions(from, Some(&response), now);
                Handled::Ready
            }
        }
    }

    /// `maybeHandleCommonResponse`: epochs and leaders come first. `None` if the rest of the response counts too.
    fn on_seen(&mut self, seen: Seen, now: Now) -> Option<Handled> {
        let Seen { error, leader, epoch, endpoints } = seen;
        let stale_request = matches!(error, ErrorCode::FencedLeaderEpoch | ErrorCode::NotLeaderOrFollower);
        // DIFFERS: where Kafka asks again at once though it has learnt nothing, as fast as the network can carry it, we
        // back off: here, below, and for a voter at this address that is not the one we meant.
        if epoch < self.epoch || error == ErrorCode::UnknownLeaderEpoch {
            return Some(Handled::BackOff);
        }
        let before = (self.epoch, self.role.name());
        if epoch > self.epoch || stale_request {
            self.on_leader_seen(leader, epoch, endpoints, now);
            let learnt = before != (self.epoch, self.role.name());
            return Some(if learnt { Handled::Ready } else { Handled::BackOff });
        }
        if leader.is_some() && self.leader_and_epoch().leader.is_none() {
            // An observer may find the leader and get its first records in the same answer.
            self.on_leader_seen(leader, epoch, endpoints, now);
            let follows = matches!(self.role, Role::Follower(_));
            return if follows && error == ErrorCode::None { None } else { Some(Handled::Ready) };
        }
        match error {
            ErrorCode::BrokerNotAvailable | ErrorCode::InvalidVoterKey => Some(Handled::BackOff),
            _ => None,
        }
    }

    fn unexpected(&self, error: ErrorCode, api: &str) -> Handled {
        // Kafka stops on INVALID_REQUEST and CLUSTER_AUTHORIZATION_FAILED; an operator can mend the latter meanwhile.
        tracing::error!(error = error.name(), api, "unexpected error in a response of the quorum");
        Handled::BackOff
    }

    fn on_vote_response(&mut self, from: i32, response: &VoteResponse<'_>, now: Now) -> Handled {
        let top = ErrorCode::from_i16(response.error_code);
        if top == ErrorCode::UnsupportedVersion && matches!(self.role, Role::Prospective(_)) {
            self.become_candidate(now);
            return Handled::Ready;
        }
        if top != ErrorCode::None {
            return self.unexpected(top, "Vote");
        }
        let topic = single(&response.topics).filter(|topic| topic.topic_name == METADATA_TOPIC);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.partition_index == METADATA_PARTITION) else {
            return Handled::BackOff;
        };
        let error = ErrorCode::from_i16(partition.error_code);
        let leader = leader_id(partition.leader_id);
        let nodes = response.node_endpoints.iter().map(|n| (n.node_id, n.host.as_ref(), i32::from(n.port)));
        let endpoints = self.endpoints_of(leader, nodes);
        if let Some(handled) = self.on_seen(Seen { error, leader, epoch: partition.leader_epoch, endpoints }, now) {
            return handled;
        }
        if error != ErrorCode::None {
            return self.unexpected(error, "Vote");
        }
        self.count_vote(from, partition.vote_granted, now);
        Handled::Ready
    }

    /// A VoteResponse does not say whether it answers a PreVote, but the request was forgotten when the role changed.
    fn count_vote(&mut self, from: i32, granted: bool, now: Now) {
        match &mut self.role {
            Role::Prospective(prospective) => {
                prospective.tally.record(from, granted);
                if prospective.tally.is_granted() {
                    self.become_candidate(now);
                } else if prospective.tally.is_rejected() {
                    self.on_pre_vote_lost(now);
                }
            }
            Role::Candidate(candidate) => {
                candidate.tally.record(from, granted);
                if candidate.tally.is_granted() {
                    self.become_leader(now);
                } else if candidate.tally.is_rejected() {
                    tracing::info!(epoch = self.epoch, "too few votes are left to win the election");
                }
            }
            _ => {}
        }
    }

    fn on_begin_response(&mut self, response: &BeginQuorumEpochResponse<'_>, now: Now) -> Handled {
        let top = ErrorCode::from_i16(response.error_code);
        if top != ErrorCode::None {
            return self.unexpected(top, "BeginQuorumEpoch");
        }
        let topic = single(&response.topics).filter(|topic| topic.topic_name == METADATA_TOPIC);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.partition_index == METADATA_PARTITION) else {
            return Handled::BackOff;
        };
        let error = ErrorCode::from_i16(partition.error_code);
        let leader = leader_id(partition.leader_id);
        let nodes = response.node_endpoints.iter().map(|n| (n.node_id, n.host.as_ref(), i32::from(n.port)));
        let endpoints = self.endpoints_of(leader, nodes);
        if let Some(handled) = self.on_seen(Seen { error, leader, epoch: partition.leader_epoch, endpoints }, now) {
            return handled;
        }
        match error {
            ErrorCode::None => Handled::Ready,
            error => self.unexpected(error, "BeginQuorumEpoch"),
        }
    }

    fn on_end_response(&mut self, from: i32, response: &EndQuorumEpochResponse<'_>, now: Now) -> Handled {
        let top = ErrorCode::from_i16(response.error_code);
        if top != ErrorCode::None {
            return self.unexpected(top, "EndQuorumEpoch");
        }
        let topic = single(&response.topics).filter(|topic| topic.topic_name == METADATA_TOPIC);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.partition_index == METADATA_PARTITION) else {
            return Handled::BackOff;
        };
        let error = ErrorCode::from_i16(partition.error_code);
        let leader = leader_id(partition.leader_id);
        let nodes = response.node_endpoints.iter().map(|n| (n.node_id, n.host.as_ref(), i32::from(n.port)));
        let endpoints = self.endpoints_of(leader, nodes);
        if let Some(handled) = self.on_seen(Seen { error, leader, epoch: partition.leader_epoch, endpoints }, now) {
            return handled;
        }
        if error != ErrorCode::None {
            return self.unexpected(error, "EndQuorumEpoch");
        }
        if let Role::Resigned(resigned) = &mut self.role {
            resigned.unacknowledged.remove(&from);
        }
        Handled::Ready
    }

    fn on_fetch_response(&mut self, response: &FetchResponse<'_>, now: Now) -> Handled {
        let top = ErrorCode::from_i16(response.error_code);
        if top != ErrorCode::None {
            return self.unexpected(top, "Fetch");
        }
        let is_ours = |topic: &&fetch_response::FetchableTopicResponse<'_>| {
            topic.topic_id == METADATA_TOPIC_ID || topic.topic == METADATA_TOPIC
        };
        let topic = single(&response.responses).filter(is_ours);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.partition_index == METADATA_PARTITION) else {
            return Handled::BackOff;
        };
        let error = ErrorCode::from_i16(partition.error_code);
        let leader = leader_id(partition.current_leader.leader_id);
        let nodes = response.node_endpoints.iter().map(|n| (n.node_id, n.host.as_ref(), n.port));
        let endpoints = self.endpoints_of(leader, nodes);
        let epoch = partition.current_leader.leader_epoch;
        if let Some(handled) = self.on_seen(Seen { error, leader, epoch, endpoints }, now) {
            return handled;
        }
        if error != ErrorCode::None {
            return self.unexpected(error, "Fetch");
        }
        if !matches!(self.role, Role::Follower(_)) {
            return Handled::Ready;
        }
        match self.take_fetched(partition, now) {
            Ok(handled) => {
                if handled == Handled::Ready {
                    self.on_fetch_success(now);
                }
                handled
            }
            Err(error) => {
                self.fail(format!("cannot write the metadata log: {error}"));
                Handled::BackOff
            }
        }
    }

    fn take_fetched(&mut self, partition: &fetch_response::PartitionData<'_>, now: Now) -> std::io::Result<Handled> {
        let diverging = &partition.diverging_epoch;
        let snapshot = &partition.snapshot_id;
        if diverging.epoch >= 0 {
            let end = OffsetAndEpoch::new(diverging.end_offset, diverging.epoch);
            return self.truncate_to_agree(end, now);
        }
        if snapshot.epoch >= 0 || snapshot.end_offset >= 0 {
            let id = OffsetAndEpoch::new(snapshot.end_offset, snapshot.epoch);
            if id.epoch < 0 || id.offset < 0 {
                tracing::error!(%id, "the leader names an impossible snapshot");
                return Ok(Handled::BackOff);
            }
            self.begin_download(id)?;
            return Ok(Handled::Ready);
        }
        let records = partition.records.as_ref().map_or(&[][..], |records| records.bytes());
        if !records.is_empty() && !self.append_as_follower(records, now)? {
            return Ok(Handled::BackOff);
        }
        self.on_follower_high_watermark(partition.high_watermark);
        Ok(Handled::Ready)
    }

    fn on_fetch_success(&mut self, now: Now) {
        let timeout_ms = self.cfg.fetch_timeout_ms;
        if let Role::Follower(follower) = &mut self.role {
            follower.fetch_due_ms = now.mono_ms + timeout_ms;
            follower.has_fetched = true;
            follower.evidence = crate::role::Evidence::None;
        }
    }

    /// The leader's log and ours part before our end: cuts ours back to where they may still agree.
    fn truncate_to_agree(&mut self, end: OffsetAndEpoch, now: Now) -> std::io::Result<Handled> {
        let to = self.log.agreeing_end(end);
        if to < self.committed {
            // Somebody has lost what was committed. To follow would be to lose it too.
            let committed = self.committed;
            self.fail(format!("the leader asks to cut the metadata log to {to}, below committed offset {committed}"));
            return Ok(Handled::BackOff);
        }
        self.log.truncate_to(to, now)?;
        self.history.truncate_new(to);
        tracing::info!(to, leader_end = %end, "metadata log truncated to agree with the leader's");
        Ok(Handled::Ready)
    }

    fn begin_download(&mut self, id: OffsetAndEpoch) -> std::io::Result<()> {
        if self.log.snapshots.contains(id) {
            tracing::info!(%id, "the leader offers a snapshot that is here already");
            return Ok(());
        }
        let part = self.log.snapshots.begin(id)?;
        if let Role::Follower(follower) = &mut self.role {
            tracing::info!(%id, leader = follower.leader, "downloading a snapshot");
            if let Some(old) = follower.download.replace(part) {
                old.discard();
            }
        }
        Ok(())
    }

    /// False if the leader sent something that cannot be appended.
    fn append_as_follower(&mut self, records: &[u8], now: Now) -> std::io::Result<bool> {
        let from = self.log.end().offset;
        if let Err(reason) = self.log.append_as_follower(records, self.epoch, now)? {
            tracing::error!(reason, from, "the leader sent records that do not follow ours");
            if self.log.end().offset == from {
                return Ok(false);
            }
        }
        self.log.load_history(&mut self.history, Some(from))?;
        Ok(true)
    }

    fn on_follower_high_watermark(&mut self, leader_high_watermark: i64) {
        if leader_high_watermark < 0 {
            return;
        }
        let high_watermark = leader_high_watermark.min(self.log.end().offset);
        if self.high_watermark.is_some_and(|known| known > high_watermark) {
            tracing::error!(known = self.high_watermark, high_watermark, "the leader's high watermark went back");
            return;
        }
        self.high_watermark = Some(high_watermark);
    }

    fn on_fetch_snapshot_response(&mut self, response: &FetchSnapshotResponse<'_>, now: Now) -> Handled {
        let top = ErrorCode::from_i16(response.error_code);
        if top != ErrorCode::None {
            return self.unexpected(top, "FetchSnapshot");
        }
        let topic = single(&response.topics).filter(|topic| topic.name == METADATA_TOPIC);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.index == METADATA_PARTITION) else { return Handled::BackOff };
        let error = ErrorCode::from_i16(partition.error_code);
        let leader = leader_id(partition.current_leader.leader_id);
        let nodes = response.node_endpoints.iter().map(|n| (n.node_id, n.host.as_ref(), i32::from(n.port)));
        let endpoints = self.endpoints_of(leader, nodes);
        let epoch = partition.current_leader.leader_epoch;
        if let Some(handled) = self.on_seen(Seen { error, leader, epoch, endpoints }, now) {
            return handled;
        }
        let Role::Follower(follower) = &mut self.role else { return Handled::Ready };
        let id = OffsetAndEpoch::new(partition.snapshot_id.end_offset, partition.snapshot_id.epoch);
        let is_gone = error == ErrorCode::SnapshotNotFound || id.offset < 0 || id.epoch < 0;
        if is_gone || error != ErrorCode::None {
            // The leader has a newer one meanwhile; the next fetch will name it.
            if let Some(part) = follower.download.take() {
                tracing::info!(id = %part.id(), error = error.name(), "the leader does not give the snapshot");
                part.discard();
            }
            if !is_gone {
                return self.unexpected(error, "FetchSnapshot");
            }
            self.on_fetch_success(now);
            return Handled::Ready;
        }
        let is_next = |part: &crate::snapshot::SnapshotPart| {
            part.id() == id && i64::try_from(part.size()) == Ok(partition.position)
        };
        if !follower.download.as_ref().is_some_and(is_next) {
            tracing::error!(%id, position = partition.position, "not the part of the snapshot that was asked for");
            return Handled::BackOff;
        }
        if let Err(error) = self.take_chunk(partition, now) {
            self.fail(format!("cannot take over a snapshot: {error}"));
            return Handled::BackOff;
        }
        self.on_fetch_success(now);
        Handled::Ready
    }

    /// Appends a part of the snapshot; with the last one the log begins anew behind it.
    fn take_chunk(
        &mut self,
        partition: &fetch_snapshot_response::PartitionSnapshot<'_>,
        now: Now,
    ) -> std::io::Result<()> {
        let Role::Follower(follower) = &mut self.role else { return Ok(()) };
        let Some(part) = &mut follower.download else { return Ok(()) };
        part.append(partition.unaligned_records.bytes())?;
        if i64::try_from(part.size()) != Ok(partition.size) {
            return Ok(());
        }
        let id = part.id();
        let Some(part) = follower.download.take() else { return Ok(()) };
        let size = part.freeze()?;
        self.log.snapshots.add(id, size);
        self.log.restart_at_latest_snapshot(now)?;
        self.log.load_history(&mut self.history, None)?;
        self.on_follower_high_watermark(id.offset);
        tracing::info!(%id, size, "snapshot downloaded; the log begins behind it");
        Ok(())
    }

    fn on_update_voter_response(&mut self, response: &UpdateRaftVoterResponse<'_>, now: Now) -> Handled {
        let error = ErrorCode::from_i16(response.error_code);
        let current = &response.current_leader;
        let leader = leader_id(current.leader_id);
        let nodes = [(current.leader_id, current.host.as_ref(), current.port)];
        let endpoints = self.endpoints_of(leader, nodes.into_iter().filter(|(_, host, _)| !host.is_empty()));
        let seen = Seen { error, leader, epoch: current.leader_epoch, endpoints };
        if let Some(handled) = self.on_seen(seen, now) {
            return handled;
        }
        if !matches!(error, ErrorCode::None | ErrorCode::UnsupportedVersion) {
            return self.unexpected(error, "UpdateRaftVoter");
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.has_updated_leader = true;
            self.on_fetch_success(now);
        }
        Handled::Ready
    }

    fn on_join_response(&mut self, error: i16, now: Now) -> Handled {
        match self.on_joined(ErrorCode::from_i16(error), now) {
            true => Handled::Ready,
            false => Handled::BackOff,
        }
    }

    /// The leader's endpoint out of a response's list, under our own name of the listener.
    fn endpoints_of<'n>(&self, leader: Option<i32>, mut nodes: impl Iterator<Item = (i32, &'n str, i32)>) -> Endpoints {
        let found = leader.and_then(|leader| nodes.find(|(id, _, _)| *id == leader));
        match found.and_then(|(_, host, port)| Some((host, u16::try_from(port).ok()?))) {
            Some((host, port)) => Endpoints::one(&self.cfg.listener_name, Endpoint::new(host, port)),
            None => Endpoints::default(),
        }
    }
}

fn leader_id(id: i32) -> Option<i32> {
    (id >= 0).then_some(id)
}
