//! A transactional producer against whole clusters whose brokers die under it.

use std::collections::BTreeMap;

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::header::decode_response;
use protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use protocol::messages::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
use protocol::messages::*;
use protocol::records::{BatchBuilder, BatchSpec, Batches, ControlRecordType, Scratch};
use protocol::wire::{Records, Uuid};

use super::Cluster;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
}

impl Cluster {
    fn coordinator(&mut self, key_type: i8, key: &str) -> i32 {
        let request =
            FindCoordinatorRequest { key_type, coordinator_keys: vec![key.to_owned().into()], ..Default::default() };
        for _ in 0..200 {
            let any = self.ids()[0];
            let bytes = self.ask(any, ApiKey::FindCoordinator, 6, &request);
            let (_, response) = decode_response::<FindCoordinatorRequest<'_>>(&bytes, 6).expect("decodes");
            let found = &response.coordinators[0];
            if found.error_code == 0 && self.ids().contains(&found.node_id) {
                return found.node_id;
            }
            self.run(100);
        }
        panic!("no coordinator of {key}");
    }

    /// Asks the coordinator until it has an answer that is not a passing one.
    fn settle_with<T>(
        &mut self,
        key_type: i8,
        key: &str,
        mut ask: impl FnMut(&mut Cluster, i32) -> Result<T, ErrorCode>,
    ) -> Result<T, ErrorCode> {
        for _ in 0..200 {
            let coordinator = self.coordinator(key_type, key);
            match ask(self, coordinator) {
                Err(
                    ErrorCode::NotCoordinator
                    | ErrorCode::CoordinatorNotAvailable
                    | ErrorCode::CoordinatorLoadInProgress
                    | ErrorCode::ConcurrentTransactions,
                ) => self.run(50),
                other => return other,
            }
        }
        panic!("no answer for {key}");
    }

    fn init(&mut self, transactional_id: &'static str, timeout_ms: i32) -> Producer {
        let request = InitProducerIdRequest {
            transactional_id: Some(transactional_id.into()),
            transaction_timeout_ms: timeout_ms,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let producer = self.settle_with(TRANSACTION, transactional_id, |cluster, id| {
            let bytes = cluster.ask(id, ApiKey::InitProducerId, 5, &request);
            let (_, response) = decode_response::<InitProducerIdRequest<'_>>(&bytes, 5).expect("decodes");
            let producer = Producer { id: response.producer_id, epoch: response.producer_epoch, sequence: 0 };
            if response.error_code == 0 { Ok(producer) } else { Err(ErrorCode::from_i16(response.error_code)) }
        });
        producer.expect("a producer")
    }

    fn write(
        &mut self,
        transactional_id: &'static str,
        producer: &mut Producer,
        topic: Uuid,
        value: &str,
    ) -> ErrorCode {
        let spec = BatchSpec {
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.sequence,
            transactional: true,
            ..Default::default()
        };
        for _ in 0..200 {
            let leader = self.leader(topic);
            if !self.ids().contains(&leader) {
                self.run(50);
                continue;
            }
            let mut builder = BatchBuilder::new(spec);
            builder.append(self.now.wall_ms, None, Some(value.as_bytes()), &[]);
            let records = Some(Records::Inline(builder.build().into()));
            let data = PartitionProduceData { index: 0, records, ..Default::default() };
            let topic = TopicProduceData { topic_id: topic, partition_data: vec![data], ..Default::default() };
            let request = ProduceRequest {
                transactional_id: Some(transactional_id.into()),
                acks: -1,
                timeout_ms: 5_000,
                topic_data: vec![topic],
                ..Default::default()
            };
            let bytes = self.ask(leader, ApiKey::Produce, 13, &request);
            let (_, response) = decode_response::<ProduceRequest<'_>>(&bytes, 13).expect("decodes");
            match ErrorCode::from_i16(response.responses[0].partition_responses[0].error_code) {
                ErrorCode::None => {
                    producer.sequence += 1;
                    return ErrorCode::None;
                }
                ErrorCode::NotEnoughReplicas
                | ErrorCode::NotEnoughReplicasAfterAppend
                | ErrorCode::NotLeaderOrFollower
                | ErrorCode::ConcurrentTransactions => self.run(50),
                code => return code,
            }
        }
        panic!("{value} is not written");
    }

    fn commit_offset(&mut self, transactional_id: &'static str, producer: &Producer, offset: i64) {
        let partition = TxnOffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
        let topic = TxnOffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = TxnOffsetCommitRequest {
            transactional_id: transactional_id.into(),
            group_id: "g".into(),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            generation_id: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let outcome = self.settle_with(GROUP, "g", |cluster, id| {
            let bytes = cluster.ask(id, ApiKey::TxnOffsetCommit, 5, &request);
            let (_, response) = decode_response::<TxnOffsetCommitRequest<'_>>(&bytes, 5).expect("decodes");
            match response.topics[0].partitions[0].error_code {
                0 => Ok(()),
                code => Err(ErrorCode::from_i16(code)),
            }
        });
        assert_eq!(outcome, Ok(()));
    }

    /// The offset that the group goes on from; an error while it is not settled.
    fn stable_offset(&mut self) -> Result<i64, ErrorCode> {
        let topic = OffsetFetchRequestTopics { name: "t".into(), partition_indexes: vec![0], ..Default::default() };
        let group = OffsetFetchRequestGroup {
            group_id: "g".into(),
            member_epoch: -1,
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let request = OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() };
        self.settle_with(GROUP, "g", |cluster, id| {
            let bytes = cluster.ask(id, ApiKey::OffsetFetch, 9, &request);
            let (_, response) = decode_response::<OffsetFetchRequest<'_>>(&bytes, 9).expect("decodes");
            let group = &response.groups[0];
            let partition = group.topics.first().map(|topic| &topic.partitions[0]);
            match (group.error_code, partition) {
                (0, Some(p)) if p.error_code == 0 => Ok(p.committed_offset),
                (0, Some(p)) => Err(ErrorCode::from_i16(p.error_code)),
                (code, _) => Err(ErrorCode::from_i16(code)),
            }
        })
    }

    fn end(&mut self, transactional_id: &'static str, producer: &mut Producer, commit: bool) -> ErrorCode {
        let request = EndTxnRequest {
            transactional_id: transactional_id.into(),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            committed: commit,
            ..Default::default()
        };
        let next = self.settle_with(TRANSACTION, transactional_id, |cluster, id| {
            let bytes = cluster.ask(id, ApiKey::EndTxn, 5, &request);
            let (_, response) = decode_response::<EndTxnRequest<'_>>(&bytes, 5).expect("decodes");
            let next = Producer { id: response.producer_id, epoch: response.producer_epoch, sequence: 0 };
            if response.error_code == 0 { Ok(next) } else { Err(ErrorCode::from_i16(response.error_code)) }
        });
        match next {
            Ok(next) => {
                *producer = next;
                ErrorCode::None
            }
            Err(code) => code,
        }
    }

    /// What a consumer of committed records sees, as clients put it together from the aborted transactions.
    fn committed(&mut self, topic: Uuid) -> Vec<String> {
        let leader = self.leader(topic);
        let partition = FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
        let topic = FetchTopic { topic_id: topic, partitions: vec![partition], ..Default::default() };
        let request = FetchRequest {
            max_wait_ms: 100,
            min_bytes: 1,
            max_bytes: 1 << 20,
            isolation_level: 1,
            session_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let bytes = self.ask(leader, ApiKey::Fetch, 17, &request);
        let (_, response) = decode_response::<FetchRequest<'_>>(&bytes, 17).expect("decodes");
        let part = &response.responses[0].partitions[0];
        assert_eq!(part.error_code, 0);
        let mut aborted: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for t in part.aborted_transactions.iter().flatten() {
            aborted.entry(t.producer_id).or_default().push(t.first_offset);
        }
        let mut is_aborted: BTreeMap<i64, bool> = BTreeMap::new();
        let mut values = Vec::new();
        let mut scratch = Scratch::default();
        for batch in Batches::new(part.records.as_ref().map_or(&[][..], |r| r.bytes())) {
            let batch = batch.expect("a batch");
            let producer = batch.header.producer_id;
            let begins = aborted.get(&producer).is_some_and(|firsts| firsts.contains(&batch.header.base_offset));
            if begins {
                is_aborted.insert(producer, true);
            }
            for record in batch.records(&mut scratch).expect("records") {
                let record = record.expect("a record");
                if batch.header.is_control() {
                    let kind = ControlRecordType::parse(record.key.expect("keyed"));
                    assert!(matches!(kind, Some(ControlRecordType::Commit | ControlRecordType::Abort)));
                    is_aborted.insert(producer, false);
                } else if !is_aborted.get(&producer).copied().unwrap_or(false) {
                    values.push(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned());
                }
            }
        }
        values
    }

    /// Runs until a consumer of committed records sees just this.
    fn run_until_committed(&mut self, topic: Uuid, expected: &[&str]) {
        let mut seen = Vec::new();
        for _ in 0..200 {
            let leader = self.leader(topic);
            if self.ids().contains(&leader) {
                seen = self.committed(topic);
                if seen == expected {
                    return;
                }
            }
            self.run(50);
        }
        panic!("{seen:?} instead of {expected:?}");
    }
}

#[test]
fn transactions_are_all_or_nothing_whichever_broker_dies() {
    let mut cluster = Cluster::new(3);
    cluster.run_until_ready();
    let topic = cluster.create_topic(1, "t", 1, 3);
    cluster.run(100);
    let mut p = cluster.init("x", 60_000);
    assert_eq!(cluster.write("x", &mut p, topic, "a"), ErrorCode::None);
    assert_eq!(cluster.committed(topic), [""; 0], "open");
    cluster.commit_offset("x", &p, 1);
    assert_eq!(cluster.stable_offset(), Err(ErrorCode::UnstableOffsetCommit));
    assert_eq!(cluster.end("x", &mut p, true), ErrorCode::None);
    cluster.run_until_committed(topic, &["a"]);
    assert_eq!(cluster.stable_offset(), Ok(1));

    assert_eq!(cluster.write("x", &mut p, topic, "b"), ErrorCode::None);
    cluster.commit_offset("x", &p, 2);
    assert_eq!(cluster.end("x", &mut p, false), ErrorCode::None);
    cluster.run_until_committed(topic, &["a"]);
    for _ in 0..100 {
        if cluster.stable_offset() == Ok(1) {
            break;
        }
        cluster.run(50);
    }
    assert_eq!(cluster.stable_offset(), Ok(1), "the abort took the offset back");

    // The coordinator dies when it has decided, perhaps before anybody has heard of it; then the partition's leader dies
    // with an open transaction; the dead come back.
    assert_eq!(cluster.write("x", &mut p, topic, "c"), ErrorCode::None);
    cluster.commit_offset("x", &p, 3);
    assert_eq!(cluster.end("x", &mut p, true), ErrorCode::None);
    let dead = cluster.coordinator(TRANSACTION, "x");
    cluster.kill(dead);
    cluster.run_until_committed(topic, &["a", "c"]);
    cluster.start(dead);
    cluster.run_until_ready();
    cluster.run(3_000);
    assert_eq!(cluster.write("x", &mut p, topic, "d"), ErrorCode::None);
    let dead = cluster.leader(topic);
    cluster.kill(dead);
    assert_eq!(cluster.write("x", &mut p, topic, "e"), ErrorCode::None);
    assert_eq!(cluster.end("x", &mut p, true), ErrorCode::None);
    cluster.run_until_committed(topic, &["a", "c", "d", "e"]);
    assert_eq!(cluster.stable_offset(), Ok(3));
}

#[test]
fn a_fenced_producer_and_a_late_one_leave_nothing_behind() {
    let mut cluster = Cluster::new(3);
    cluster.run_until_ready();
    let topic = cluster.create_topic(1, "t", 1, 3);
    cluster.run(100);
    let mut old = cluster.init("x", 60_000);
    assert_eq!(cluster.write("x", &mut old, topic, "a"), ErrorCode::None);
    let mut new = cluster.init("x", 5_000);
    assert_eq!((new.id, new.epoch), (old.id, old.epoch + 2));
    assert_eq!(cluster.write("x", &mut old, topic, "b"), ErrorCode::InvalidProducerEpoch);
    assert_eq!(cluster.end("x", &mut old, true), ErrorCode::ProducerFenced);
    assert_eq!(cluster.write("x", &mut new, topic, "c"), ErrorCode::None);
    // Nobody ends it: it is aborted when its time is over.
    cluster.run(20_000);
    assert_eq!(cluster.write("x", &mut new, topic, "d"), ErrorCode::InvalidProducerEpoch);
    let mut next = cluster.init("x", 5_000);
    assert_eq!(cluster.write("x", &mut next, topic, "e"), ErrorCode::None);
    assert_eq!(cluster.end("x", &mut next, true), ErrorCode::None);
    cluster.run_until_committed(topic, &["e"]);
}
