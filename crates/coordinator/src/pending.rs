//! Offsets that transactions commit: they wait, and count for nobody, until the transaction's end is in the log.
//!
//! A reader that asks for stable offsets is sent away meanwhile, from the moment that the record is written on: what it
//! would be told could be undone by an end that is already decided.

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::messages::txn_offset_commit_response::{TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic};
use protocol::messages::{OffsetCommitRequest, TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::machine::{Producer, Proof, Ticket, Token};
use crate::offsets::CommittedOffset;
use crate::records::{self, Record};
use crate::shard::{GroupShard, Response, Then};

type Place = (String, i32);

/// An offset and the order of its record in the log.
#[derive(Clone, Debug)]
struct Pending {
    offset: CommittedOffset,
    written: Ticket,
}

/// By producer id, then group. Invariant: `of_group` names exactly the producers that have something pending there.
#[derive(Default)]
pub(crate) struct PendingOffsets {
    by_producer: BTreeMap<i64, BTreeMap<String, BTreeMap<Place, Pending>>>,
    of_group: BTreeMap<String, BTreeSet<i64>>,
}

impl PendingOffsets {
    pub fn put(&mut self, producer_id: i64, group: &str, place: Place, offset: CommittedOffset, written: Ticket) {
        let groups = self.by_producer.entry(producer_id).or_default();
        groups.entry(group.to_owned()).or_default().insert(place, Pending { offset, written });
        self.of_group.entry(group.to_owned()).or_default().insert(producer_id);
    }

    /// What was to be written was not, after all.
    pub fn withdraw(&mut self, producer_id: i64, group: &str, written: Ticket) {
        if let Some(places) = self.by_producer.get_mut(&producer_id).and_then(|groups| groups.get_mut(group)) {
            places.retain(|_, pending| pending.written != written);
        }
        self.tidy(producer_id, group);
    }

    fn tidy(&mut self, producer_id: i64, group: &str) {
        let Some(groups) = self.by_producer.get_mut(&producer_id) else { return };
        if groups.get(group).is_none_or(BTreeMap::is_empty) {
            groups.remove(group);
            if groups.is_empty() {
                self.by_producer.remove(&producer_id);
            }
            if let Some(producers) = self.of_group.get_mut(group) {
                producers.remove(&producer_id);
                if producers.is_empty() {
                    self.of_group.remove(group);
                }
            }
        }
    }

    /// A record of a place that came later makes what was pending there before void.
    pub fn supersede(&mut self, group: &str, topic: &str, partition: i32, written: Ticket) {
        let place = (topic.to_owned(), partition);
        for producer in self.of_group.get(group).cloned().unwrap_or_default() {
            let places = self.by_producer.get_mut(&producer).and_then(|groups| groups.get_mut(group));
            if let Some(places) = places {
                if places.get(&place).is_some_and(|pending| pending.written < written) {
                    places.remove(&place);
                }
            }
            self.tidy(producer, group);
        }
    }

    pub fn supersede_group(&mut self, group: &str, written: Ticket) {
        for (topic, partition) in self.places_of(group) {
            self.supersede(group, &topic, partition, written);
        }
    }

    pub fn has(&self, group: &str, topic: &str, partition: i32) -> bool {
        let Some(producers) = self.of_group.get(group) else { return false };
        let place = (topic.to_owned(), partition);
        producers.iter().any(|p| self.by_producer.get(p).and_then(|g| g.get(group)?.get(&place)).is_some())
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.of_group.contains_key(group)
    }

    pub fn places_of(&self, group: &str) -> BTreeSet<Place> {
        let producers = self.of_group.get(group).into_iter().flatten();
        let places = producers.filter_map(|p| self.by_producer.get(p)?.get(group));
        places.flat_map(|places| places.keys().cloned()).collect()
    }

    fn take(&mut self, producer_id: i64) -> Vec<(String, Place, CommittedOffset)> {
        let Some(groups) = self.by_producer.remove(&producer_id) else { return Vec::new() };
        let mut taken = Vec::new();
        for (group, places) in groups {
            if let Some(producers) = self.of_group.get_mut(&group) {
                producers.remove(&producer_id);
                if producers.is_empty() {
                    self.of_group.remove(&group);
                }
            }
            taken.extend(places.into_iter().map(|(place, pending)| (group.clone(), place, pending.offset)));
        }
        taken
    }
}

impl GroupShard {
    /// TxnOffsetCommit. `exists` says which of the request's partitions there are; `proof` goes with the write.
    pub fn commit_in_transaction(
        &mut self,
        request: &TxnOffsetCommitRequest<'_>,
        exists: &dyn Fn(&str, i32) -> bool,
        proof: Proof,
        token: Token,
        now: Now,
    ) {
        let group = request.group_id.clone().into_owned();
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let refused = self.check_transactional_commit(request).err();
        let written = self.next_ticket();
        let mut records: Vec<Record> = Vec::new();
        let mut answer = TxnOffsetCommitResponse::default();
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for p in &topic.partitions {
                let metadata = p.committed_metadata.as_deref().unwrap_or_default();
                let code = match refused {
                    _ if !exists(&topic.name, p.partition_index) => ErrorCode::UnknownTopicOrPartition,
                    Some(code) => code,
                    None if metadata.len() > self.config.metadata_bytes_max => ErrorCode::OffsetMetadataTooLarge,
                    None => ErrorCode::None,
                };
                if code == ErrorCode::None {
                    let offset = CommittedOffset {
                        offset: p.committed_offset,
                        leader_epoch: p.committed_leader_epoch,
                        metadata: metadata.to_owned(),
                        commit_timestamp: now.wall_ms,
                        topic_id: Uuid::ZERO,
                    };
                    let value = offset.to_value();
                    records.push(records::offset_record(&group, &topic.name, p.partition_index, Some(&value)));
                    let place = (topic.name.clone().into_owned(), p.partition_index);
                    self.pending.put(producer.id, &group, place, offset, written);
                }
                partitions.push(TxnOffsetCommitResponsePartition {
                    partition_index: p.partition_index,
                    error_code: code.into(),
                    ..Default::default()
                });
            }
            let name = topic.name.clone().into_owned().into();
            answer.topics.push(TxnOffsetCommitResponseTopic { name, partitions, ..Default::default() });
        }
        if records.is_empty() {
            return self.respond(token, Response::TxnOffsetCommit(answer));
        }
        self.write_in_transaction(
            producer,
            proof,
            records,
            Then::Pending { producer_id: producer.id, group, token, answer },
        );
    }

    /// The log did not take the offsets: their transaction is not, or no longer, open.
    pub(crate) fn on_offsets_refused(&mut self, ticket: Ticket, then: Then, code: ErrorCode) {
        let Then::Pending { producer_id, group, token, mut answer } = then else { return };
        self.pending.withdraw(producer_id, &group, ticket);
        for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            if partition.error_code == 0 {
                partition.error_code = code.into();
            }
        }
        self.respond(token, Response::TxnOffsetCommit(answer));
    }

    /// As for other commits, but that who names no member is believed: old clients do not.
    fn check_transactional_commit(&self, request: &TxnOffsetCommitRequest<'_>) -> Result<(), ErrorCode> {
        let names_nobody =
            request.generation_id < 0 && request.member_id.is_empty() && request.group_instance_id.is_none();
        if names_nobody && !request.group_id.is_empty() {
            return Ok(());
        }
        let as_commit = OffsetCommitRequest {
            group_id: request.group_id.clone(),
            generation_id_or_member_epoch: request.generation_id,
            member_id: request.member_id.clone(),
            group_instance_id: request.group_instance_id.clone(),
            ..Default::default()
        };
        // Of a consumer group, only the member's present epoch counts.
        let checked = match self.consumers.contains_key(request.group_id.as_ref()) {
            true => self.check_consumer_commit(&as_commit, i16::MAX, &[]),
            false => self.check_commit(&as_commit, 0),
        };
        match checked {
            // The state of the group is not looked at.
            Err(ErrorCode::RebalanceInProgress) => Ok(()),
            Err(ErrorCode::StaleMemberEpoch) => Err(ErrorCode::IllegalGeneration),
            other => other,
        }
    }

    /// A record of a transaction that was found in the log.
    pub(crate) fn replay_pending(
        &mut self,
        producer_id: i64,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), records::ReplayError> {
        if let records::Parsed::Offset { key, value: Some(value) } = records::parse(key, Some(value))? {
            let place = (key.topic.into_owned(), key.partition);
            let written = self.next_ticket();
            self.pending.put(producer_id, &key.group, place, CommittedOffset::from_value(&value), written);
            self.pass_ticket();
        }
        Ok(())
    }

    /// A transaction has ended, and its marker is committed.
    pub(crate) fn end_transaction(&mut self, producer_id: i64, commit: bool) {
        for (group, (topic, partition), offset) in self.pending.take(producer_id) {
            if commit {
                self.offsets.entry(group).or_default().put(&topic, partition, Some(offset));
            }
        }
    }

    /// Whether the end of a transaction may still change this offset.
    pub fn is_unstable(&self, group: &str, topic: &str, partition: i32) -> bool {
        self.pending.has(group, topic, partition)
    }
}

#[cfg(test)]
mod tests {
    use protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    use protocol::messages::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
    use protocol::wire::Uuid;

    use super::*;
    use crate::{GroupConfig, OffsetTopic, Output, Shard};

    const NOW: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };

    fn shard() -> GroupShard {
        GroupShard::new(GroupConfig::default(), 1, NOW)
    }

    fn in_transaction(shard: &mut GroupShard, producer_id: i64, offset: i64) {
        let partition = TxnOffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
        let topic = TxnOffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = TxnOffsetCommitRequest {
            group_id: "g".into(),
            producer_id,
            generation_id: -1,
            topics: vec![topic],
            ..Default::default()
        };
        shard.commit_in_transaction(&request, &|_, _| true, Proof(Some(7)), Token(0), NOW);
    }

    fn plainly(shard: &mut GroupShard, offset: i64) {
        let partition = OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() };
        let topic = OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let topics = [OffsetTopic { name: "t".to_owned(), id: Uuid::ZERO, partitions: 1, error: None }];
        shard.commit_offsets(&request, 9, &topics, Token(0), NOW);
    }

    /// Commits all writes; what was written, as a log would have it: the producer, if any, and its records.
    fn settle(shard: &mut GroupShard) -> Vec<(Option<i64>, Vec<Record>)> {
        let mut log = Vec::new();
        for output in shard.take_outputs() {
            match output {
                Output::Respond(..) => {}
                Output::Write(ticket, records) => {
                    shard.on_committed(ticket, NOW);
                    log.push((None, records));
                }
                Output::WriteInTransaction(ticket, producer, proof, records) => {
                    assert_eq!(proof, Proof(Some(7)));
                    shard.on_committed(ticket, NOW);
                    log.push((Some(producer.id), records));
                }
            }
        }
        log
    }

    fn offset(shard: &GroupShard) -> Option<i64> {
        shard.offset("g", "t", 0).map(|committed| committed.offset)
    }

    #[test]
    fn offsets_of_a_transaction_count_from_its_commit_on_and_not_over_later_ones() {
        let mut first = shard();
        in_transaction(&mut first, 1, 10);
        assert!(first.is_unstable("g", "t", 0), "written is enough");
        let mut log = settle(&mut first);
        in_transaction(&mut first, 2, 20);
        log.extend(settle(&mut first));
        assert_eq!((offset(&first), first.knows("g")), (None, true));

        // The same on a coordinator that finds all this in the log.
        let mut second = shard();
        for (producer, records) in &log {
            for record in records {
                Shard::replay(&mut second, *producer, &record.key, record.value.as_deref(), NOW)
                    .expect("written by ourselves");
            }
        }
        for shard in [&mut first, &mut second] {
            shard.on_transaction_end(1, true);
            assert_eq!((offset(shard), shard.is_unstable("g", "t", 0)), (Some(10), true));
            // What was committed without a transaction, and later, stands.
            plainly(shard, 15);
            in_transaction(shard, 3, 30);
            settle(shard);
            shard.on_transaction_end(2, true);
            assert_eq!((offset(shard), shard.is_unstable("g", "t", 0)), (Some(15), true));
            shard.on_transaction_end(3, false);
            assert_eq!((offset(shard), shard.is_unstable("g", "t", 0)), (Some(15), false));
        }
    }

    #[test]
    fn what_the_log_did_not_take_was_never_there() {
        let mut shard = shard();
        in_transaction(&mut shard, 1, 10);
        let Some(Output::WriteInTransaction(ticket, ..)) = shard.take_outputs().pop() else { panic!("a write") };
        shard.on_refused(ticket, ErrorCode::InvalidTxnState);
        let Some(Output::Respond(_, Response::TxnOffsetCommit(answer))) = shard.take_outputs().pop() else {
            panic!("an answer")
        };
        assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::InvalidTxnState as i16);
        shard.on_transaction_end(1, true);
        assert_eq!((offset(&shard), shard.knows("g")), (None, false));
    }
}
