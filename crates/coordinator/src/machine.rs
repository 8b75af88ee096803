//! What every coordinator is to the runtime that feeds it: a state machine over one partition of an internal topic.
//!
//! The contract, for all that implement [`Shard`]: it is made empty and told every record of its partition in order;
//! from then on it serves. Changes become [`Output::Write`]; nothing that rests on a write is answered before
//! [`Shard::on_committed`] has named the write's ticket. If a write fails, or another broker leads the partition, the
//! shard is dropped with all that it knew, and whoever waited is told to look for the coordinator again.

use protocol::error::ErrorCode;
use protocol::time::Now;

use crate::facts::Facts;
use crate::records::{Record, ReplayError};
use crate::shard::{GroupShard, Response};

/// The owner's name for a request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Names one write until it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A producer as it introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

/// What the owner gave along with a request, to be shown when its records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof(pub Option<u64>);

#[derive(Clone, Debug, PartialEq)]
pub enum Output<R = Response> {
    Respond(Token, R),
    /// Append as one batch; [`Shard::on_committed`] follows, in the order of the tickets, or the shard is dropped.
    Write(Ticket, Vec<Record>),
    /// Append as one batch of the producer's open transaction. Instead of [`Shard::on_committed`] there may follow
    /// [`Shard::on_refused`].
    WriteInTransaction(Ticket, Producer, Proof, Vec<Record>),
}

pub trait Shard {
    type Response;
    /// What the shard must know of the cluster to act without being asked; handed in with each call, never kept.
    type World<'a>: ?Sized;
    /// The internal topic whose partitions hold the state.
    const TOPIC: &'static str;
    /// Kafka's group coordinator writes batches with the base sequence 0, the transaction coordinator with −1.
    const BASE_SEQUENCE: i32;

    /// Takes in a record that an earlier coordinator has written; `producer_id` is set if it did so in a transaction.
    fn replay(
        &mut self,
        producer_id: Option<i64>,
        key: &[u8],
        value: Option<&[u8]>,
        now: Now,
    ) -> Result<(), ReplayError>;
    /// A producer's transaction is over: in the log that is replayed, or later, when its marker is committed.
    fn on_transaction_end(&mut self, producer_id: i64, commit: bool);
    /// Everything has been replayed: from now on the shard serves.
    fn on_loaded(&mut self, world: &Self::World<'_>, now: Now);
    /// A write is committed: what waited for it happens.
    fn on_committed(&mut self, ticket: Ticket, now: Now);
    /// The log did not take a write in a transaction, for a reason that lies with the producer.
    fn on_refused(&mut self, ticket: Ticket, code: ErrorCode);
    fn take_outputs(&mut self) -> Vec<Output<Self::Response>>;
    /// When [`Shard::tick`] has something to do even if nothing happens.
    fn next_deadline(&self) -> i64;
    fn tick(&mut self, world: &Self::World<'_>, now: Now);
    /// Asserts the machine's invariants.
    fn check(&self);
}

impl Shard for GroupShard {
    type Response = Response;
    type World<'a> = dyn Facts + 'a;
    const TOPIC: &'static str = crate::OFFSETS_TOPIC;
    const BASE_SEQUENCE: i32 = 0;

    fn replay(
        &mut self,
        producer_id: Option<i64>,
        key: &[u8],
        value: Option<&[u8]>,
        now: Now,
    ) -> Result<(), ReplayError> {
        match (producer_id, value) {
            (Some(producer_id), Some(value)) => self.replay_pending(producer_id, key, value),
            _ => GroupShard::replay(self, key, value, now),
        }
    }

    fn on_transaction_end(&mut self, producer_id: i64, commit: bool) {
        self.end_transaction(producer_id, commit);
    }

    fn on_committed(&mut self, ticket: Ticket, now: Now) {
        GroupShard::on_committed(self, ticket, now);
    }

    fn on_refused(&mut self, ticket: Ticket, code: ErrorCode) {
        GroupShard::on_refused(self, ticket, code);
    }

    fn take_outputs(&mut self) -> Vec<Output> {
        GroupShard::take_outputs(self)
    }

    fn next_deadline(&self) -> i64 {
        GroupShard::next_deadline(self)
    }

    fn tick(&mut self, world: &(dyn Facts + '_), now: Now) {
        GroupShard::tick(self, world, now);
    }

    fn on_loaded(&mut self, world: &(dyn Facts + '_), now: Now) {
        GroupShard::on_loaded(self, world, now);
    }

    fn check(&self) {
        GroupShard::check(self);
    }
}
