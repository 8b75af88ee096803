//! Answers to the requests by which replicas elect and depose leaders: Vote, BeginQuorumEpoch, EndQuorumEpoch.
//!
//! The checks, their order and the error codes are Kafka's (`KafkaRaftClient.handle…Request`): a Java peer takes
//! INVALID_REQUEST for a bug and stops, so it must never be the answer to a well-formed request.

use protocol::error::ErrorCode;
use protocol::messages::{
    BeginQuorumEpochRequest, BeginQuorumEpochResponse, EndQuorumEpochRequest, EndQuorumEpochResponse, VoteRequest,
    VoteResponse, begin_quorum_epoch_response, end_quorum_epoch_response, vote_response,
};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::effect::RequestContext;
use crate::election::{Ballot, can_grant_unattached, successor_backoff_ms};
use crate::quorum::Quorum;
use crate::role::Role;
use crate::types::{Endpoint, Endpoints, METADATA_PARTITION, METADATA_TOPIC, OffsetAndEpoch, ReplicaKey};

/// The only element of `items`; several topics or partitions in one request are for a future with several logs.
pub(crate) fn single<T>(items: &[T]) -> Option<&T> {
    match items {
        [item] => Some(item),
        _ => None,
    }
}

impl Quorum {
    pub fn on_vote(&mut self, ctx: RequestContext<'_>, request: &VoteRequest<'_>, now: Now) -> VoteResponse<'static> {
        let response = self.vote(ctx, request, now);
        self.turn(now);
        if self.has_failed() {
            // What could not be written must not be promised.
            return VoteResponse { error_code: ErrorCode::UnknownServerError.into(), ..Default::default() };
        }
        response
    }

    fn vote(&mut self, ctx: RequestContext<'_>, request: &VoteRequest<'_>, now: Now) -> VoteResponse<'static> {
        let top_level = |error: ErrorCode| VoteResponse { error_code: error.into(), ..Default::default() };
        if !self.is_own_cluster(request.cluster_id.as_deref()) {
            return top_level(ErrorCode::InconsistentClusterId);
        }
        let topic = single(&request.topics).filter(|topic| topic.topic_name == METADATA_TOPIC);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.partition_index == METADATA_PARTITION) else {
            return top_level(ErrorCode::InvalidRequest);
        };
        // A candidate has gone to a new epoch, a Prospective has not: in its epoch there may be a leader's records.
        let (last_epoch, epoch) = (partition.last_offset_epoch, partition.replica_epoch);
        let is_illegal_epoch = if partition.pre_vote { last_epoch > epoch } else { last_epoch >= epoch };
        if partition.last_offset < 0 || last_epoch < 0 || is_illegal_epoch {
            return self.vote_response(ctx, ErrorCode::InvalidRequest, false);
        }
        if let Some(error) = self.refuse_voter_request(partition.replica_id, epoch) {
            return self.vote_response(ctx, error, false);
        }
        if epoch > self.epoch {
            self.become_unattached(epoch, None, now);
        }
        if !self.is_meant(request.voter_id, partition.voter_directory_id) {
            return self.vote_response(ctx, ErrorCode::InvalidVoterKey, false);
        }
        let end = OffsetAndEpoch::new(partition.last_offset, last_epoch);
        let ballot = Ballot {
            candidate: ReplicaKey::new(partition.replica_id, partition.replica_directory_id),
            pre_vote: partition.pre_vote,
            log_is_up_to_date: end >= self.log.end() || self.cfg.mutations.vote_ignores_log,
        };
        let granted = self.can_grant(&ballot, now);
        if granted && ballot.pre_vote {
            self.hold_back(now);
        } else if granted {
            self.give_vote(ballot.candidate, now);
        }
        tracing::info!(candidate = %ballot.candidate, epoch, pre_vote = ballot.pre_vote, granted, "vote");
        self.vote_response(ctx, ErrorCode::None, granted)
    }

    fn can_grant(&self, ballot: &Ballot, now: Now) -> bool {
        match &self.role {
            Role::Unattached(r) => can_grant_unattached(r.leader, r.voted, ballot),
            Role::Prospective(r) => can_grant_unattached(r.leader, r.voted, ballot),
            // DIFFERS: Kafka's observer keeps to a leader that is long gone, and if it is a voter without knowing it yet,
            // its PreVote may be the one that is missing.
            Role::Follower(r) => {
                let hears_leader = r.has_fetched && now.mono_ms < r.fetch_due_ms;
                ballot.pre_vote && !hears_leader && ballot.log_is_up_to_date
            }
            Role::Candidate(_) | Role::Resigned(_) => ballot.pre_vote && ballot.log_is_up_to_date,
            Role::Leader(_) => false,
        }
    }

    /// Writes the vote down, and gives the candidate a whole election timeout to win: its log is as good as ours.
    fn give_vote(&mut self, candidate: ReplicaKey, now: Now) {
        let due = now.mono_ms + self.election_timeout();
        let is_voter = self.is_voter();
        let (voted, election_due_ms) = match &mut self.role {
            Role::Unattached(r) => (&mut r.voted, &mut r.election_due_ms),
            Role::Prospective(r) => (&mut r.voted, &mut r.election_due_ms),
            _ => panic!("only a replica without a leader votes"),
        };
        if voted.is_none() {
            *voted = Some(candidate);
            *election_due_ms = if is_voter { due } else { i64::MAX };
            self.persist();
        }
    }

    fn vote_response(&self, ctx: RequestContext<'_>, error: ErrorCode, vote_granted: bool) -> VoteResponse<'static> {
        let leader = self.election_state().leader;
        let partition = vote_response::PartitionData {
            partition_index: METADATA_PARTITION,
            error_code: error.into(),
            leader_id: leader.unwrap_or(-1),
            leader_epoch: self.epoch,
            vote_granted,
            ..Default::default()
        };
        let topic = vote_response::TopicData {
            topic_name: METADATA_TOPIC.into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let node = |(node_id, endpoint): (i32, Endpoint)| vote_response::NodeEndpoint {
            node_id,
            host: endpoint.host.into(),
            port: endpoint.port,
            ..Default::default()
        };
        let node_endpoints = self.leader_for(ctx, 1).map(node).into_iter().collect();
        VoteResponse { topics: vec![topic], node_endpoints, ..Default::default() }
    }

    pub fn on_begin_quorum_epoch(
        &mut self,
        ctx: RequestContext<'_>,
        request: &BeginQuorumEpochRequest<'_>,
        now: Now,
    ) -> BeginQuorumEpochResponse<'static> {
        let response = self.begin_quorum_epoch(ctx, request, now);
        self.turn(now);
        if self.has_failed() {
            return BeginQuorumEpochResponse { error_code: ErrorCode::UnknownServerError.into(), ..Default::default() };
        }
        response
    }

    fn begin_quorum_epoch(
        &mut self,
        ctx: RequestContext<'_>,
        request: &BeginQuorumEpochRequest<'_>,
        now: Now,
    ) -> BeginQuorumEpochResponse<'static> {
        let top_level = |error: ErrorCode| BeginQuorumEpochResponse { error_code: error.into(), ..Default::default() };
        if !self.is_own_cluster(request.cluster_id.as_deref()) {
            return top_level(ErrorCode::InconsistentClusterId);
        }
        let topic = single(&request.topics).filter(|topic| topic.topic_name == METADATA_TOPIC);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.partition_index == METADATA_PARTITION) else {
            return top_level(ErrorCode::InvalidRequest);
        };
        let (leader, epoch) = (partition.leader_id, partition.leader_epoch);
        if let Some(error) = self.refuse_voter_request(leader, epoch) {
            return self.begin_response(ctx, error);
        }
        let mut endpoints = Endpoints::default();
        for endpoint in &request.leader_endpoints {
            endpoints.insert(&endpoint.name, Endpoint::new(endpoint.host.clone(), endpoint.port));
        }
        self.on_leader_seen(Some(leader), epoch, endpoints, now);
        let meant = self.is_meant(request.voter_id, partition.voter_directory_id);
        self.begin_response(ctx, if meant { ErrorCode::None } else { ErrorCode::InvalidVoterKey })
    }

    fn begin_response(&self, ctx: RequestContext<'_>, error: ErrorCode) -> BeginQuorumEpochResponse<'static> {
        use begin_quorum_epoch_response::{NodeEndpoint, PartitionData, TopicData};
        let partition = PartitionData {
            partition_index: METADATA_PARTITION,
            error_code: error.into(),
            leader_id: self.election_state().leader.unwrap_or(-1),
            leader_epoch: self.epoch,
            ..Default::default()
        };
        let topic = TopicData { topic_name: METADATA_TOPIC.into(), partitions: vec![partition], ..Default::default() };
        let node = |(node_id, endpoint): (i32, Endpoint)| NodeEndpoint {
            node_id,
            host: endpoint.host.into(),
            port: endpoint.port,
            ..Default::default()
        };
        let node_endpoints = self.leader_for(ctx, 1).map(node).into_iter().collect();
        BeginQuorumEpochResponse { topics: vec![topic], node_endpoints, ..Default::default() }
    }

    pub fn on_end_quorum_epoch(
        &mut self,
        ctx: RequestContext<'_>,
        request: &EndQuorumEpochRequest<'_>,
        now: Now,
    ) -> EndQuorumEpochResponse<'static> {
        let response = self.end_quorum_epoch(ctx, request, now);
        self.turn(now);
        if self.has_failed() {
            return EndQuorumEpochResponse { error_code: ErrorCode::UnknownServerError.into(), ..Default::default() };
        }
        response
    }

    fn end_quorum_epoch(
        &mut self,
        ctx: RequestContext<'_>,
        request: &EndQuorumEpochRequest<'_>,
        now: Now,
    ) -> EndQuorumEpochResponse<'static> {
        let top_level = |error: ErrorCode| EndQuorumEpochResponse { error_code: error.into(), ..Default::default() };
        if !self.is_own_cluster(request.cluster_id.as_deref()) {
            return top_level(ErrorCode::InconsistentClusterId);
        }
        let topic = single(&request.topics).filter(|topic| topic.topic_name == METADATA_TOPIC);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        let Some(partition) = partition.filter(|p| p.partition_index == METADATA_PARTITION) else {
            return top_level(ErrorCode::InvalidRequest);
        };
        let (leader, epoch) = (partition.leader_id, partition.leader_epoch);
        if let Some(error) = self.refuse_voter_request(leader, epoch) {
            return self.end_response(ctx, error);
        }
        let mut endpoints = Endpoints::default();
        for endpoint in &request.leader_endpoints {
            endpoints.insert(&endpoint.name, Endpoint::new(endpoint.host.clone(), endpoint.port));
        }
        self.on_leader_seen(Some(leader), epoch, endpoints, now);
        // Version 0 has ids only.
        let successors: Vec<ReplicaKey> = if partition.preferred_candidates.is_empty() {
            partition.preferred_successors.iter().map(|&id| ReplicaKey { id, directory_id: None }).collect()
        } else {
            let key = |c: &protocol::messages::end_quorum_epoch_request::ReplicaInfo| {
                ReplicaKey::new(c.candidate_id, c.candidate_directory_id)
            };
            partition.preferred_candidates.iter().map(key).collect()
        };
        let own = self.cfg.key();
        if let Role::Follower(follower) = &mut self.role
            && follower.leader == leader
        {
            let position = successors.iter().position(|key| key.admits(&own)).unwrap_or(successors.len());
            let wait = successor_backoff_ms(position, successors.len(), self.cfg.election_backoff_max_ms);
            follower.fetch_due_ms = now.mono_ms + wait;
        }
        self.end_response(ctx, ErrorCode::None)
    }

    fn end_response(&self, ctx: RequestContext<'_>, error: ErrorCode) -> EndQuorumEpochResponse<'static> {
        use end_quorum_epoch_response::{NodeEndpoint, PartitionData, TopicData};
        let partition = PartitionData {
            partition_index: METADATA_PARTITION,
            error_code: error.into(),
            leader_id: self.election_state().leader.unwrap_or(-1),
            leader_epoch: self.epoch,
            ..Default::default()
        };
        let topic = TopicData { topic_name: METADATA_TOPIC.into(), partitions: vec![partition], ..Default::default() };
        let node = |(node_id, endpoint): (i32, Endpoint)| NodeEndpoint {
            node_id,
            host: endpoint.host.into(),
            port: endpoint.port,
            ..Default::default()
        };
        let node_endpoints = self.leader_for(ctx, 1).map(node).into_iter().collect();
        EndQuorumEpochResponse { topics: vec![topic], node_endpoints, ..Default::default() }
    }

    // Checks and views that the requests share.

    /// A request without a cluster id is taken at its word.
    pub(crate) fn is_own_cluster(&self, cluster_id: Option<&str>) -> bool {
        cluster_id.is_none_or(|id| id == self.cfg.cluster_id)
    }

    /// `validateVoterOnlyRequest`.
    fn refuse_voter_request(&self, replica_id: i32, epoch: i32) -> Option<ErrorCode> {
        if epoch < self.epoch {
            Some(ErrorCode::FencedLeaderEpoch)
        } else if replica_id < 0 {
            Some(ErrorCode::InvalidRequest)
        } else {
            None
        }
    }

    /// `validateLeaderOnlyRequest`.
    pub(crate) fn refuse_leader_request(&self, epoch: i32) -> Option<ErrorCode> {
        if epoch < self.epoch {
            Some(ErrorCode::FencedLeaderEpoch)
        } else if epoch > self.epoch {
            Some(ErrorCode::UnknownLeaderEpoch)
        } else if !self.is_leader() {
            Some(ErrorCode::NotLeaderOrFollower)
        } else if self.is_stopped {
            Some(ErrorCode::BrokerNotAvailable)
        } else {
            None
        }
    }

    /// The sender names whom it means to talk to, and it is us. Older versions name nobody.
    fn is_meant(&self, voter_id: i32, voter_directory_id: Uuid) -> bool {
        voter_id < 0 || ReplicaKey::new(voter_id, voter_directory_id).admits(&self.cfg.key())
    }

    /// Where the leader listens, for answers in versions from `since`, on the listener that the request came in by.
    pub(crate) fn leader_for(&self, ctx: RequestContext<'_>, since: i16) -> Option<(i32, Endpoint)> {
        let leader = self.election_state().leader.filter(|_| ctx.version >= since)?;
        Some((leader, self.leader_endpoints().get(ctx.listener)?.clone()))
    }

    /// A request or response says who leads in `epoch`: acts on it if that is news (`maybeTransition`). Without
    /// endpoints in the message those of the voter set count.
    pub(crate) fn on_leader_seen(&mut self, leader: Option<i32>, epoch: i32, endpoints: Endpoints, now: Now) {
        let known = self.leader_and_epoch().leader;
        if leader == Some(self.cfg.node_id) {
            if !self.is_leader() {
                // Kafka stops here. It happens harmlessly to a leader that comes back with an empty disk.
                tracing::error!(epoch, own_epoch = self.epoch, "others believe that this node leads; it does not");
            }
            return;
        }
        if epoch == self.epoch && leader.is_some() && known.is_some() && leader != known {
            // Two leaders in one epoch: somebody's election state was lost. Kafka stops; we keep to the one we know.
            tracing::error!(epoch, ?leader, ?known, "a second leader in the same epoch is ignored");
            return;
        }
        let Some(leader) = leader else {
            if epoch > self.epoch {
                self.become_unattached(epoch, None, now);
            }
            return;
        };
        let endpoints = if endpoints.is_empty() { self.history.voters().endpoints(leader) } else { endpoints };
        let is_reachable = endpoints.get(&self.cfg.listener_name).is_some();
        let is_news = known.is_none() || endpoints.len() > self.leader_endpoints().len();
        if epoch > self.epoch && !is_reachable {
            self.become_unattached(epoch, Some(leader), now);
        } else if is_reachable && (epoch > self.epoch || (epoch == self.epoch && is_news)) {
            self.become_follower(epoch, leader, endpoints, now);
        }
    }
}
