//! DescribeQuorum, for people, and UpdateRaftVoter, by which voters say where they listen now.

use protocol::error::ErrorCode;
use protocol::messages::{
    DescribeQuorumRequest, DescribeQuorumResponse, UpdateRaftVoterRequest, UpdateRaftVoterResponse,
    describe_quorum_response, update_raft_voter_response,
};
use protocol::time::Now;

use crate::control::ControlRecord;
use crate::effect::RequestContext;
use crate::leader::{Leader, Progress};
use crate::quorum::Quorum;
use crate::role::Role;
use crate::server::single;
use crate::types::{Endpoint, Endpoints, KRaftVersions, METADATA_PARTITION, METADATA_TOPIC, ReplicaKey};
use crate::voters::Voter;

impl Quorum {
    pub fn on_describe_quorum(
        &mut self,
        ctx: RequestContext<'_>,
        request: &DescribeQuorumRequest<'_>,
        now: Now,
    ) -> DescribeQuorumResponse<'static> {
        let topic = single(&request.topics).filter(|topic| topic.topic_name == METADATA_TOPIC);
        let partition = topic.and_then(|topic| single(&topic.partitions));
        if partition.is_none_or(|p| p.partition_index != METADATA_PARTITION) {
            return unknown_partitions(request);
        }
        let (epoch, log_end) = (self.epoch, self.log.end().offset);
        let Role::Leader(leader) = &mut self.role else {
            return describe_error(ErrorCode::NotLeaderOrFollower);
        };
        leader.forget_silent_observers(now);
        describe(leader, ctx.version, epoch, log_end, now)
    }

    /// `UpdateVoterHandler`: with kraft.version 1 the new description goes into the log, with 0 it is only kept for a
    /// later upgrade.
    pub fn on_update_raft_voter(
        &mut self,
        ctx: RequestContext<'_>,
        request: &UpdateRaftVoterRequest<'_>,
        now: Now,
    ) -> UpdateRaftVoterResponse<'static> {
        let error = self.update_voter(request, now).err().unwrap_or(ErrorCode::None);
        self.turn(now);
        let mut current_leader = update_raft_voter_response::CurrentLeader {
            leader_id: self.election_state().leader.unwrap_or(-1),
            leader_epoch: self.epoch,
            ..Default::default()
        };
        if let Some(endpoint) = self.leader_endpoints().get(ctx.listener) {
            current_leader.host = endpoint.host.clone().into();
            current_leader.port = i32::from(endpoint.port);
        }
        UpdateRaftVoterResponse { error_code: error.into(), current_leader, ..Default::default() }
    }

    fn update_voter(&mut self, request: &UpdateRaftVoterRequest<'_>, now: Now) -> Result<(), ErrorCode> {
        if !self.is_own_cluster(request.cluster_id.as_deref()) {
            return Err(ErrorCode::InconsistentClusterId);
        }
        if let Some(error) = self.refuse_leader_request(request.current_leader_epoch) {
            return Err(error);
        }
        let voter = parse_voter(request)?;
        if voter.endpoints.get(&self.cfg.listener_name).is_none() {
            return Err(ErrorCode::InvalidRequest);
        }
        self.expire_change(now);
        let kraft_version = self.history.kraft_version();
        let voters_offset = self.history.voters_offset();
        let Role::Leader(leader) = &mut self.role else { return Err(ErrorCode::NotLeaderOrFollower) };
        // Until we have committed something ourselves, an earlier leader's change of voters may be uncommitted.
        let Some(high_watermark) = leader.high_watermark.filter(|_| leader.change.is_none()) else {
            return Err(ErrorCode::RequestTimedOut);
        };
        let is_dynamic = kraft_version >= 1;
        if is_dynamic && voters_offset.is_none_or(|offset| offset >= high_watermark) {
            return Err(ErrorCode::RequestTimedOut);
        }
        if !voter.kraft_versions.contains(kraft_version) {
            return Err(ErrorCode::InvalidRequest);
        }
        let key = voter.key;
        if is_dynamic {
            let voters = self.history.voters().updated(voter).ok_or(ErrorCode::VoterNotFound)?;
            self.append_control(vec![ControlRecord::voters(&voters)], now);
        } else {
            let voters = leader.volatile_voters.as_ref().ok_or(ErrorCode::RequestTimedOut)?;
            let voters = voters.updated_ignoring_directory(voter).ok_or(ErrorCode::VoterNotFound)?;
            leader.volatile_voters = Some(voters);
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.on_voter_alive(key, &self.cfg, now);
        }
        Ok(())
    }
}

fn parse_voter(request: &UpdateRaftVoterRequest<'_>) -> Result<Voter, ErrorCode> {
    let key = ReplicaKey::new(request.voter_id, request.voter_directory_id);
    let feature = &request.kraft_version_feature;
    let kraft_versions = KRaftVersions { min: feature.min_supported_version, max: feature.max_supported_version };
    let is_range = kraft_versions.min >= 0 && kraft_versions.max >= kraft_versions.min;
    if key.id < 0 || key.directory_id.is_none() || !is_range {
        return Err(ErrorCode::InvalidRequest);
    }
    let mut endpoints = Endpoints::default();
    for listener in &request.listeners {
        endpoints.insert(&listener.name, Endpoint::new(listener.host.clone(), listener.port));
    }
    Ok(Voter { key, endpoints, kraft_versions })
}

fn unknown_partitions(request: &DescribeQuorumRequest<'_>) -> DescribeQuorumResponse<'static> {
    use describe_quorum_response::{PartitionData, TopicData};
    let partition = |index: i32| PartitionData {
        partition_index: index,
        error_code: ErrorCode::UnknownTopicOrPartition.into(),
        ..Default::default()
    };
    let topic = |topic: &protocol::messages::describe_quorum_request::TopicData<'_>| TopicData {
        topic_name: topic.topic_name.to_string().into(),
        partitions: topic.partitions.iter().map(|p| partition(p.partition_index)).collect(),
        ..Default::default()
    };
    DescribeQuorumResponse { topics: request.topics.iter().map(topic).collect(), ..Default::default() }
}

fn describe_error(error: ErrorCode) -> DescribeQuorumResponse<'static> {
    use describe_quorum_response::{PartitionData, TopicData};
    let partition =
        PartitionData { partition_index: METADATA_PARTITION, error_code: error.into(), ..Default::default() };
    let topic = TopicData { topic_name: METADATA_TOPIC.into(), partitions: vec![partition], ..Default::default() };
    DescribeQuorumResponse { topics: vec![topic], ..Default::default() }
}

fn describe(leader: &Leader, version: i16, epoch: i32, log_end: i64, now: Now) -> DescribeQuorumResponse<'static> {
    use describe_quorum_response::{Listener, Node, PartitionData, ReplicaState, TopicData};
    let state = |progress: &Progress| {
        let is_leader = progress.key.id == leader.own.key.id;
        ReplicaState {
            replica_id: progress.key.id,
            // Fields of later versions must be empty in earlier ones.
            replica_directory_id: if version >= 2 { progress.key.directory_or_zero() } else { Default::default() },
            log_end_offset: if is_leader { log_end } else { progress.end_offset.unwrap_or(-1) },
            last_fetch_timestamp: if is_leader { now.wall_ms } else { progress.last_fetch_wall_ms() },
            last_caught_up_timestamp: if is_leader { now.wall_ms } else { progress.last_caught_up_ms },
            ..Default::default()
        }
    };
    let partition = PartitionData {
        partition_index: METADATA_PARTITION,
        leader_id: leader.own.key.id,
        leader_epoch: epoch,
        high_watermark: leader.high_watermark.unwrap_or(-1),
        current_voters: leader.voters.values().map(state).collect(),
        observers: leader.observers.values().map(state).collect(),
        ..Default::default()
    };
    let topic = TopicData { topic_name: METADATA_TOPIC.into(), partitions: vec![partition], ..Default::default() };
    let listener = |(name, endpoint): (&str, &Endpoint)| Listener {
        name: name.to_owned().into(),
        host: endpoint.host.clone().into(),
        port: endpoint.port,
        ..Default::default()
    };
    let node = |progress: &Progress| Node {
        node_id: progress.key.id,
        listeners: progress.endpoints.iter().map(listener).collect(),
        ..Default::default()
    };
    let nodes = if version >= 2 { leader.voters.values().map(node).collect() } else { Vec::new() };
    DescribeQuorumResponse { topics: vec![topic], nodes, ..Default::default() }
}
