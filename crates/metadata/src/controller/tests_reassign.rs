//! Partitions on the move.

use protocol::error::ErrorCode;
use protocol::messages::*;

use super::MutationQuota;
use super::tests::Cluster;

impl Cluster {
    /// Moves partition 0 of a topic; without replicas the move is taken back.
    pub fn reassign(&mut self, topic: &str, replicas: Option<&[i32]>) -> ErrorCode {
        self.reassign_within(topic, replicas, true)
    }

    fn reassign_within(&mut self, topic: &str, replicas: Option<&[i32]>, may_change_factor: bool) -> ErrorCode {
        use alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
        let partition = ReassignablePartition { replicas: replicas.map(<[i32]>::to_vec), ..Default::default() };
        let topic = ReassignableTopic { name: topic.into(), partitions: vec![partition], ..Default::default() };
        let request = AlterPartitionReassignmentsRequest {
            topics: vec![topic],
            allow_replication_factor_change: may_change_factor,
            ..Default::default()
        };
        let result = self.controller.alter_partition_reassignments(&request);
        self.append(result.records);
        ErrorCode::from_i16(result.response.responses[0].partitions[0].error_code)
    }

    /// A topic of one partition with these replicas, all in sync.
    fn assigned(&mut self, name: &str, replicas: &[i32]) {
        use create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
        let assignment = CreatableReplicaAssignment { broker_ids: replicas.to_vec(), ..Default::default() };
        let topic = CreatableTopic {
            name: name.to_owned().into(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: vec![assignment],
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let result = self.controller.create_topics(&request, &mut MutationQuota::unlimited());
        self.append(result.records);
        assert_eq!(result.response.topics[0].error_code, 0);
    }

    fn of_five() -> Cluster {
        let mut cluster = Cluster::of_three();
        cluster.start(4, -1);
        cluster.start(5, -1);
        cluster
    }

    fn listed(&self) -> Vec<(Vec<i32>, Vec<i32>, Vec<i32>)> {
        let request = ListPartitionReassignmentsRequest { topics: None, ..Default::default() };
        let response = self.controller.list_partition_reassignments(&request).response;
        let partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
        partitions.map(|p| (p.replicas, p.adding_replicas, p.removing_replicas)).collect()
    }
}

#[test]
fn replicas_move_when_all_that_come_are_in_sync() {
    let mut cluster = Cluster::of_five();
    cluster.assigned("t", &[1, 2, 3]);
    assert_eq!(cluster.reassign("t", Some(&[4, 5, 3])), ErrorCode::None);
    let p = cluster.partition("t");
    assert_eq!(
        (p.replicas.as_slice(), p.adding.as_slice(), p.removing.as_slice()),
        (&[4, 5, 3, 1, 2][..], &[4, 5][..], &[1, 2][..])
    );
    assert_eq!((p.leader, p.isr.as_slice()), (1, &[1, 2, 3][..]), "nothing else changed yet");
    assert_eq!(cluster.listed(), [(vec![4, 5, 3, 1, 2], vec![4, 5], vec![1, 2])]);
    assert_eq!(cluster.alter_isr("t", &[1, 2, 3, 4]), ErrorCode::None);
    assert!(cluster.partition("t").is_moving(), "5 is missing");
    // The last one comes, and with it the leader goes: its request took effect all the same.
    assert_eq!(cluster.alter_isr("t", &[1, 2, 3, 4, 5]), ErrorCode::NewLeaderElected);
    let p = cluster.partition("t");
    assert_eq!((p.replicas.as_slice(), p.leader, p.is_moving()), (&[4, 5, 3][..], 4, false));
    assert_eq!(p.isr, [3, 4, 5]);
    assert!(p.leader_epoch > 0 && p.directories.len() == 3);
    assert!(cluster.listed().is_empty());
}

#[test]
fn replicas_are_only_reordered_or_only_fewer() {
    let mut cluster = Cluster::of_five();
    cluster.assigned("t", &[1, 2, 3]);
    assert_eq!(cluster.reassign("t", Some(&[3, 1, 2])), ErrorCode::None);
    let p = cluster.partition("t");
    assert_eq!((p.replicas.as_slice(), p.leader, p.is_moving()), (&[3, 1, 2][..], 1, false), "the leader stays");
    assert_eq!(cluster.reassign_within("t", Some(&[1]), false), ErrorCode::InvalidReplicationFactor);
    assert_eq!(cluster.reassign("t", Some(&[2, 3])), ErrorCode::None);
    let p = cluster.partition("t");
    assert_eq!(
        (p.replicas.as_slice(), p.leader, p.is_moving()),
        (&[2, 3][..], 2, false),
        "at once, and led by one that stays"
    );
    cluster.kill(3);
    assert_eq!(cluster.reassign("t", Some(&[3])), ErrorCode::None);
    let p = cluster.partition("t");
    assert_eq!((p.leader, p.is_moving()), (2, true), "the one that is to stay is not in sync");
}

#[test]
fn a_move_is_taken_back_or_replaced() {
    let mut cluster = Cluster::of_five();
    cluster.assigned("t", &[1, 2, 3]);
    assert_eq!(cluster.reassign("t", None), ErrorCode::NoReassignmentInProgress);
    assert_eq!(cluster.reassign("t", Some(&[4, 2, 3])), ErrorCode::None);
    assert_eq!(cluster.reassign("t", Some(&[4, 2, 3])), ErrorCode::None, "said again");
    assert_eq!(cluster.listed(), [(vec![4, 2, 3, 1], vec![4], vec![1])]);
    assert_eq!(cluster.reassign("t", Some(&[1, 4, 5])), ErrorCode::None, "1 may stay after all, 5 comes as well");
    assert_eq!(cluster.listed(), [(vec![1, 4, 5, 2, 3], vec![4, 5], vec![2, 3])]);
    assert_eq!(cluster.alter_isr("t", &[1, 2, 3, 4]), ErrorCode::None);
    assert_eq!(cluster.reassign("t", None), ErrorCode::None);
    let p = cluster.partition("t");
    assert_eq!((p.replicas.as_slice(), p.isr.as_slice(), p.is_moving()), (&[1, 2, 3][..], &[1, 2, 3][..], false));
    assert_eq!(p.leader, 1);
}

#[test]
fn a_move_back_must_not_lose_records() {
    let mut cluster = Cluster::of_five();
    cluster.assigned("t", &[1]);
    assert_eq!(cluster.reassign("t", Some(&[4, 5])), ErrorCode::None);
    assert_eq!(cluster.alter_isr("t", &[1, 4]), ErrorCode::None);
    cluster.kill(1);
    let p = cluster.partition("t");
    assert_eq!((p.leader, p.isr.as_slice(), p.is_moving()), (4, &[4][..], true));
    assert_eq!(cluster.reassign("t", None), ErrorCode::InvalidReplicaAssignment);
    assert_eq!(cluster.alter_isr("t", &[4, 5]), ErrorCode::None);
    assert_eq!(cluster.partition("t").replicas, [4, 5], "what was to go is gone already");
}

#[test]
fn what_cannot_be_moved_is_refused() {
    let mut cluster = Cluster::of_three();
    cluster.assigned("t", &[1, 2]);
    assert_eq!(cluster.reassign("u", Some(&[1])), ErrorCode::UnknownTopicOrPartition);
    for wrong in [&[][..], &[1, 1], &[1, 9], &[-1]] {
        assert_eq!(cluster.reassign("t", Some(wrong)), ErrorCode::InvalidReplicaAssignment, "{wrong:?}");
    }
    assert_eq!(cluster.reassign("t", Some(&[2, 3])), ErrorCode::None);
    let request = DeleteTopicsRequest { topic_names: vec!["t".into()], ..Default::default() };
    let result = cluster.controller.delete_topics(&request, 5, &mut MutationQuota::unlimited());
    cluster.append(result.records);
    assert!(cluster.listed().is_empty(), "deleted on its way");
}
