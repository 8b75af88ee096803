//! Our requests, field by field as Kafka fills them (`RaftUtil`).

use protocol::messages::{
    AddRaftVoterRequest, ApiVersionsRequest, BeginQuorumEpochRequest, EndQuorumEpochRequest, FetchRequest,
    FetchSnapshotRequest, RemoveRaftVoterRequest, UpdateRaftVoterRequest, VoteRequest,
};
use protocol::messages::{
    add_raft_voter_request, begin_quorum_epoch_request, end_quorum_epoch_request, fetch_request,
    fetch_snapshot_request, update_raft_voter_request, vote_request,
};
use protocol::wire::Str;

use crate::quorum::Quorum;
use crate::role::Role;
use crate::types::{METADATA_PARTITION, METADATA_TOPIC, METADATA_TOPIC_ID, OffsetAndEpoch, ReplicaKey};

fn cluster_id(q: &Quorum) -> Option<Str<'static>> {
    Some(q.cfg.cluster_id.clone().into())
}

pub fn vote(q: &Quorum, voter: ReplicaKey, pre_vote: bool) -> VoteRequest<'static> {
    let end = q.log.end();
    let partition = vote_request::PartitionData {
        partition_index: METADATA_PARTITION,
        replica_epoch: q.epoch,
        replica_id: q.cfg.node_id,
        replica_directory_id: q.cfg.directory_id,
        voter_directory_id: voter.directory_or_zero(),
        last_offset_epoch: end.epoch,
        last_offset: end.offset,
        pre_vote,
        ..Default::default()
    };
    let topic = vote_request::TopicData {
        topic_name: METADATA_TOPIC.into(),
        partitions: vec![partition],
        ..Default::default()
    };
    VoteRequest { cluster_id: cluster_id(q), voter_id: voter.id, topics: vec![topic], ..Default::default() }
}

pub fn begin_quorum_epoch(q: &Quorum, voter: ReplicaKey) -> BeginQuorumEpochRequest<'static> {
    let partition = begin_quorum_epoch_request::PartitionData {
        partition_index: METADATA_PARTITION,
        voter_directory_id: voter.directory_or_zero(),
        leader_id: q.cfg.node_id,
        leader_epoch: q.epoch,
        ..Default::default()
    };
    let topic = begin_quorum_epoch_request::TopicData {
        topic_name: METADATA_TOPIC.into(),
        partitions: vec![partition],
        ..Default::default()
    };
    let endpoint = |(name, endpoint): (&str, &crate::Endpoint)| begin_quorum_epoch_request::LeaderEndpoint {
        name: name.to_owned().into(),
        host: endpoint.host.clone().into(),
        port: endpoint.port,
        ..Default::default()
    };
    BeginQuorumEpochRequest {
        cluster_id: cluster_id(q),
        voter_id: voter.id,
        topics: vec![topic],
        leader_endpoints: q.cfg.listeners.iter().map(endpoint).collect(),
        ..Default::default()
    }
}

pub fn end_quorum_epoch(q: &Quorum) -> EndQuorumEpochRequest<'static> {
    let successors: &[ReplicaKey] = match &q.role {
        Role::Resigned(resigned) => &resigned.preferred_successors,
        _ => &[],
    };
    let candidate = |key: &ReplicaKey| end_quorum_epoch_request::ReplicaInfo {
        candidate_id: key.id,
        candidate_directory_id: key.directory_or_zero(),
        ..Default::default()
    };
    let partition = end_quorum_epoch_request::PartitionData {
        partition_index: METADATA_PARTITION,
        leader_id: q.cfg.node_id,
        leader_epoch: q.epoch,
        preferred_successors: successors.iter().map(|key| key.id).collect(),
        preferred_candidates: successors.iter().map(candidate).collect(),
        ..Default::default()
    };
    let topic = end_quorum_epoch_request::TopicData {
        topic_name: METADATA_TOPIC.into(),
        partitions: vec![partition],
        ..Default::default()
    };
    EndQuorumEpochRequest { cluster_id: cluster_id(q), topics: vec![topic], ..Default::default() }
}

pub fn fetch(q: &Quorum) -> FetchRequest<'static> {
    let end = q.log.end();
    let partition = fetch_request::FetchPartition {
        partition: METADATA_PARTITION,
        current_leader_epoch: q.epoch,
        fetch_offset: end.offset,
        last_fetched_epoch: end.epoch,
        replica_directory_id: q.cfg.directory_id,
        high_watermark: q.high_watermark().unwrap_or(-1),
        ..Default::default()
    };
    let topic = fetch_request::FetchTopic {
        topic: METADATA_TOPIC.into(),
        topic_id: METADATA_TOPIC_ID,
        partitions: vec![partition],
        ..Default::default()
    };
    FetchRequest {
        cluster_id: cluster_id(q),
        replica_state: fetch_request::ReplicaState { replica_id: q.cfg.node_id, ..Default::default() },
        max_wait_ms: q.cfg.fetch_max_wait_ms,
        max_bytes: q.cfg.fetch_max_bytes,
        topics: vec![topic],
        ..Default::default()
    }
}

pub fn fetch_snapshot(q: &Quorum, id: OffsetAndEpoch, position: u64) -> FetchSnapshotRequest<'static> {
    let partition = fetch_snapshot_request::PartitionSnapshot {
        partition: METADATA_PARTITION,
        current_leader_epoch: q.epoch,
        snapshot_id: fetch_snapshot_request::SnapshotId {
            end_offset: id.offset,
            epoch: id.epoch,
            ..Default::default()
        },
        position: position as i64,
        replica_directory_id: q.cfg.directory_id,
        ..Default::default()
    };
    let topic = fetch_snapshot_request::TopicSnapshot {
        name: METADATA_TOPIC.into(),
        partitions: vec![partition],
        ..Default::default()
    };
    FetchSnapshotRequest {
        cluster_id: cluster_id(q),
        replica_id: q.cfg.node_id,
        max_bytes: q.cfg.fetch_snapshot_max_bytes,
        topics: vec![topic],
        ..Default::default()
    }
}

pub fn update_voter(q: &Quorum) -> UpdateRaftVoterRequest<'static> {
    let listener = |(name, endpoint): (&str, &crate::Endpoint)| update_raft_voter_request::Listener {
        name: name.to_owned().into(),
        host: endpoint.host.clone().into(),
        port: endpoint.port,
        ..Default::default()
    };
    UpdateRaftVoterRequest {
        cluster_id: cluster_id(q),
        current_leader_epoch: q.epoch,
        voter_id: q.cfg.node_id,
        voter_directory_id: q.cfg.directory_id,
        listeners: q.cfg.listeners.iter().map(listener).collect(),
        kraft_version_feature: update_raft_voter_request::KRaftVersionFeature {
            min_supported_version: q.cfg.kraft_versions.min,
            max_supported_version: q.cfg.kraft_versions.max,
            ..Default::default()
        },
        ..Default::default()
    }
}

/// A new voter is taken to be one as soon as its record is written: it votes on the record itself.
pub fn add_voter(q: &Quorum) -> AddRaftVoterRequest<'static> {
    let listener = |(name, endpoint): (&str, &crate::Endpoint)| add_raft_voter_request::Listener {
        name: name.to_owned().into(),
        host: endpoint.host.clone().into(),
        port: endpoint.port,
        ..Default::default()
    };
    AddRaftVoterRequest {
        cluster_id: cluster_id(q),
        timeout_ms: i32::try_from(q.cfg.request_timeout_ms).unwrap_or(i32::MAX),
        voter_id: q.cfg.node_id,
        voter_directory_id: q.cfg.directory_id,
        listeners: q.cfg.listeners.iter().map(listener).collect(),
        ack_when_committed: false,
        ..Default::default()
    }
}

pub fn remove_voter(q: &Quorum, voter: ReplicaKey) -> RemoveRaftVoterRequest<'static> {
    RemoveRaftVoterRequest {
        cluster_id: cluster_id(q),
        voter_id: voter.id,
        voter_directory_id: voter.directory_or_zero(),
        ..Default::default()
    }
}

pub fn api_versions() -> ApiVersionsRequest<'static> {
    ApiVersionsRequest {
        client_software_name: "zwirn".into(),
        client_software_version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    }
}
