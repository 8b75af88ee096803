//! TxnOffsetCommit: offsets that count once their transaction commits.

use coordinator::{OFFSETS_TOPIC, Producer, Proof};
use protocol::error::ErrorCode;
use protocol::messages::txn_offset_commit_response::{TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic};
use protocol::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use protocol::time::Now;
use protocol::wire::DecodeError;
use storage::Guard;

use crate::node::Node;
use crate::reply::ReplyTo;
use crate::request::Context;
use crate::verifying::{Asker, Question, Speech};

/// From here on the group's coordinator adds its partition to the transaction.
const ADDS_FROM: i16 = 5;
const ABORTABLE_FROM: i16 = 4;
/// Before it clients could not stand COORDINATOR_LOAD_IN_PROGRESS (KAFKA-7296).
const KNOWS_LOADING_FROM: i16 = 2;
const NO_SEQUENCE: i32 = -1;

impl Node {
    pub(crate) fn handle_txn_offset_commit(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: TxnOffsetCommitRequest<'_> = cx.decode(body)?;
        let speech =
            Speech { adds: cx.reply.version >= ADDS_FROM, knows_abortable: cx.reply.version >= ABORTABLE_FROM };
        match self.begin_txn_offsets(&request, speech, now) {
            Err(code) => self.refuse_txn_offset_commit(cx.reply, &request, code),
            Ok(None) => self.commit_txn_offsets(cx.reply, &request, Proof(None), now),
            Ok(Some((partition, guard))) => {
                let question = Question {
                    transactional_id: request.transactional_id.clone().into_owned(),
                    producer: Producer { id: request.producer_id, epoch: request.producer_epoch },
                    speech,
                    partitions: vec![(OFFSETS_TOPIC.to_owned(), partition)],
                    asker: Asker::Offsets { cx: Box::new(cx.clone()), body: body.to_vec(), guard },
                    // A client that is told of it comes again by itself.
                    give_up_ms: i64::MIN,
                };
                self.ask_coordinator(question, now);
            }
        }
        Ok(())
    }

    /// The partition and guard to ask the transaction's coordinator about, if it must be asked.
    fn begin_txn_offsets(
        &mut self,
        request: &TxnOffsetCommitRequest<'_>,
        speech: Speech,
        now: Now,
    ) -> Result<Option<(i32, Guard)>, ErrorCode> {
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let partition = self.group_partition(&request.group_id)?;
        self.groups.runtime.serving(partition)?;
        let verifies = crate::settings::verifies_transactions(&self.image, &self.config);
        self.groups.runtime.verifies = verifies;
        if !speech.adds && !verifies {
            return Ok(None);
        }
        let key = self.topic_key(OFFSETS_TOPIC, partition).ok_or(ErrorCode::NotCoordinator)?;
        let replica = self.replicas.all.get_mut(&key).ok_or(ErrorCode::NotCoordinator)?;
        let producer = (request.producer_id, request.producer_epoch);
        match replica.partition.begin_verification(producer, NO_SEQUENCE, speech.adds, now) {
            Ok(guard) => Ok(guard.map(|guard| (partition, guard))),
            Err(ErrorCode::NotLeaderOrFollower) => Err(ErrorCode::NotCoordinator),
            Err(code) => Err(code),
        }
    }

    /// The transaction's coordinator has answered.
    pub(crate) fn resume_txn_offset_commit(
        &mut self,
        cx: &Context,
        body: &[u8],
        outcome: Result<Guard, ErrorCode>,
        now: Now,
    ) {
        let request: TxnOffsetCommitRequest<'_> = match cx.decode(body) {
            Ok(request) => request,
            Err(error) => return self.hang_up(cx.reply, format!("TxnOffsetCommit request: {error}")),
        };
        match outcome {
            Ok(guard) => self.commit_txn_offsets(cx.reply, &request, Proof(Some(guard.0)), now),
            // Clients take this one for passing, and do not look for another group coordinator.
            Err(ErrorCode::NetworkException) => {
                self.refuse_txn_offset_commit(cx.reply, &request, ErrorCode::CoordinatorLoadInProgress);
            }
            Err(code) => self.refuse_txn_offset_commit(cx.reply, &request, code),
        }
    }

    fn commit_txn_offsets(&mut self, reply: ReplyTo, request: &TxnOffsetCommitRequest<'_>, proof: Proof, now: Now) {
        let known: std::collections::BTreeSet<(String, i32)> = request
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|p| (topic.name.clone().into_owned(), p.partition_index)))
            .filter(|(topic, partition)| self.image.topic(topic).is_some_and(|t| t.partitions.contains_key(partition)))
            .collect();
        let exists = |topic: &str, partition: i32| known.contains(&(topic.to_owned(), partition));
        match self.group_call(&request.group_id, reply) {
            Ok((shard, token)) => shard.commit_in_transaction(request, &exists, proof, token, now),
            Err(code) => self.refuse_txn_offset_commit(reply, request, code),
        }
    }

    fn refuse_txn_offset_commit(&mut self, reply: ReplyTo, request: &TxnOffsetCommitRequest<'_>, code: ErrorCode) {
        let topics = request.topics.iter().map(|topic| TxnOffsetCommitResponseTopic {
            name: topic.name.clone().into_owned().into(),
            partitions: topic
                .partitions
                .iter()
                .map(|p| TxnOffsetCommitResponsePartition {
                    partition_index: p.partition_index,
                    error_code: code.into(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        });
        self.respond_txn_offset_commit(
            reply,
            TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() },
        );
    }

    pub(crate) fn respond_txn_offset_commit(&mut self, reply: ReplyTo, mut response: TxnOffsetCommitResponse<'static>) {
        if reply.version < KNOWS_LOADING_FROM {
            for p in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                if p.error_code == ErrorCode::CoordinatorLoadInProgress as i16 {
                    p.error_code = ErrorCode::CoordinatorNotAvailable.into();
                }
            }
        }
        self.respond(reply, &response);
    }
}
