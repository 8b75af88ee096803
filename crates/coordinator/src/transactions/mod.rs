//! One partition of `__transaction_state`: its transactional ids, and what they are on their way to.
//!
//! A change of a transactional id is decided, written, and takes effect when it is committed; until then everybody else
//! who wants to change it is told CONCURRENT_TRANSACTIONS. The end of a transaction is two such changes, Prepare and
//! Complete. Between them the partitions must hear of it: the shard hands out [`Markers`], its owner brings them to the
//! partitions' leaders and reports each that has one.

mod end;
mod init;
mod partitions;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use protocol::error::ErrorCode;
use protocol::time::Now;

use crate::machine::{Output, Producer, Shard, Ticket, Token};
use crate::records::ReplayError;
use state::Transaction;
pub use state::{TopicPartition, TransactionState};
pub use view::ListFilter;

/// The internal topic that holds transactional ids.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Tombstones of one batch; more of them make several.
const TOMBSTONES_MAX: usize = 256;

/// Test-only: each breaks one rule on purpose, to prove that a checker notices. All off in any real node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionMutations {
    /// The end of a transaction is answered before its record is committed.
    pub answer_ends_early: bool,
    /// A transaction is complete before its partitions have heard of its end.
    pub complete_without_markers: bool,
    /// A producer's epoch is not compared with the one that its transactional id has by now.
    pub accept_fenced_producers: bool,
    /// A new coordinator does not finish what its predecessor has decided.
    pub forget_prepared: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct TransactionConfig {
    /// `transaction.max.timeout.ms`
    pub timeout_max_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`
    pub abort_check_ms: i64,
    /// `transactional.id.expiration.ms`
    pub expiration_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`
    pub expiration_check_ms: i64,
    pub mutations: TransactionMutations,
}

impl Default for TransactionConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            timeout_max_ms: 900_000,
            abort_check_ms: 10_000,
            expiration_ms: 604_800_000,
            expiration_check_ms: 3_600_000,
            mutations: TransactionMutations::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionResponse {
    /// Of InitProducerId.
    Init(Result<Producer, ErrorCode>),
    /// Of AddPartitionsToTxn and AddOffsetsToTxn.
    Added(ErrorCode),
    /// Of EndTxn; the producer to go on as, where each transaction has its own epoch.
    Ended(Result<Option<Producer>, ErrorCode>),
}

/// What the partitions of a transaction must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    pub transactional_id: String,
    pub producer: Producer,
    pub commit: bool,
    pub coordinator_epoch: i32,
    pub transaction_version: i16,
    pub partitions: BTreeSet<TopicPartition>,
}

/// What to do when a write is committed.
enum Then {
    Become { id: String, next: Box<Transaction>, answer: Option<(Token, TransactionResponse)> },
    Forget(Vec<String>),
}

/// Invariants: `current` is what the log says, up to its committed end; `is_changing` exactly while a record of this id
/// is written and not committed; `markers_left` is a subset of the partitions, and empty unless the end is prepared.
#[derive(Debug)]
struct Entry {
    current: Transaction,
    is_changing: bool,
    markers_left: BTreeSet<TopicPartition>,
    /// When the partitions began to be told of the end.
    told_since_ms: i64,
}

impl Entry {
    /// Somebody else's change is under way.
    fn is_busy(&self) -> bool {
        self.is_changing || self.current.state.is_prepared()
    }
}

/// Invariants: see [`Entry`]; `ongoing` names exactly the ids whose transaction is open.
pub struct TransactionShard {
    config: TransactionConfig,
    coordinator_epoch: i32,
    /// The finalized level of the feature `transaction.version`.
    version: i16,
    entries: BTreeMap<String, Entry>,
    ongoing: BTreeSet<String>,
    /// A producer id that nobody has, for whoever needs one next.
    spare_id: Option<i64>,
    outputs: Vec<Output<TransactionResponse>>,
    markers: Vec<Markers>,
    writes: BTreeMap<Ticket, Then>,
    ticket_next: u64,
    abort_due_ms: i64,
    expire_due_ms: i64,
}

impl TransactionShard {
    /// `coordinator_epoch` is the leader epoch of the partition: markers carry it, so that the partitions' leaders know
    /// a coordinator that has been succeeded.
    pub fn new(config: TransactionConfig, coordinator_epoch: i32, version: i16, now: Now) -> Self {
        Self {
            config,
            coordinator_epoch,
            version,
            entries: BTreeMap::new(),
            ongoing: BTreeSet::new(),
            spare_id: None,
            outputs: Vec::new(),
            markers: Vec::new(),
            writes: BTreeMap::new(),
            ticket_next: 0,
            abort_due_ms: now.mono_ms + config.abort_check_ms,
            expire_due_ms: now.mono_ms + config.expiration_check_ms,
        }
    }

    pub fn coordinator_epoch(&self) -> i32 {
        self.coordinator_epoch
    }

    pub fn set_version(&mut self, version: i16) {
        self.version = version;
    }

    /// Before a call of [`TransactionShard::init`] or [`TransactionShard::end`]: whether to supply a producer id.
    pub fn wants_id(&self) -> bool {
        self.spare_id.is_none()
    }

    pub fn supply_id(&mut self, id: i64) {
        self.spare_id = Some(id);
    }

    fn respond(&mut self, token: Token, response: TransactionResponse) {
        self.outputs.push(Output::Respond(token, response));
    }

    /// Puts the next state of an id into the log.
    fn write(&mut self, id: &str, next: Transaction, answer: Option<(Token, TransactionResponse)>) {
        let record = next.record(id, if self.version >= 1 { 1 } else { 0 });
        self.entries.get_mut(id).expect("the caller has it").is_changing = true;
        let ticket = self.new_ticket();
        let is_end = matches!(answer, Some((_, TransactionResponse::Ended(_))));
        let (early, answer) = match self.config.mutations.answer_ends_early && is_end {
            true => (answer, None),
            false => (None, answer),
        };
        self.writes.insert(ticket, Then::Become { id: id.to_owned(), next: Box::new(next), answer });
        self.outputs.push(Output::Write(ticket, vec![record]));
        if let Some((token, response)) = early {
            self.respond(token, response);
        }
    }

    fn new_ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.ticket_next);
        self.ticket_next += 1;
        ticket
    }

    fn become_next(&mut self, id: &str, next: Transaction, now: Now) {
        let entry = self.entries.get_mut(id).expect("an id whose change is under way is not forgotten");
        match next.state {
            TransactionState::Ongoing => self.ongoing.insert(id.to_owned()),
            _ => self.ongoing.remove(id),
        };
        entry.is_changing = false;
        entry.current = next;
        if entry.current.state.is_prepared() {
            self.tell_partitions(id, now);
        }
    }

    /// The end of a transaction is decided: its partitions get their markers.
    fn tell_partitions(&mut self, id: &str, now: Now) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let current = &entry.current;
        entry.told_since_ms = now.wall_ms;
        if current.partitions.is_empty() || self.config.mutations.complete_without_markers {
            return self.complete(id);
        }
        entry.markers_left = current.partitions.clone();
        self.markers.push(Markers {
            transactional_id: id.to_owned(),
            producer: Producer { id: current.producer_id, epoch: current.epoch },
            commit: current.state == TransactionState::PrepareCommit,
            coordinator_epoch: self.coordinator_epoch,
            transaction_version: current.client_version,
            partitions: current.partitions.clone(),
        });
    }

    fn complete(&mut self, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        let done = entry.current.completed(entry.told_since_ms);
        self.write(id, done, None);
    }

    pub fn take_markers(&mut self) -> Vec<Markers> {
        std::mem::take(&mut self.markers)
    }

    /// These partitions have the marker, or need none any more.
    pub fn on_marked<'p>(
        &mut self,
        id: &str,
        producer: Producer,
        partitions: impl IntoIterator<Item = &'p TopicPartition>,
    ) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let current = &entry.current;
        let is_same = producer == Producer { id: current.producer_id, epoch: current.epoch };
        if !is_same || !current.state.is_prepared() || entry.is_changing || entry.markers_left.is_empty() {
            return;
        }
        for partition in partitions {
            entry.markers_left.remove(partition);
        }
        if entry.markers_left.is_empty() {
            self.complete(id);
        }
    }

    /// Transactions that took longer than their producers had asked for, and ids that nobody uses any more.
    fn run_checks(&mut self, now: Now) {
        if now.mono_ms >= self.abort_due_ms {
            self.abort_due_ms = now.mono_ms + self.config.abort_check_ms;
            self.abort_timed_out(now);
        }
        if now.mono_ms >= self.expire_due_ms {
            self.expire_due_ms = now.mono_ms + self.config.expiration_check_ms;
            self.expire_ids(now);
        }
    }

    fn expire_ids(&mut self, now: Now) {
        let oldest_ms = now.wall_ms - self.config.expiration_ms;
        let is_old = |e: &Entry| !e.is_busy() && e.current.state.is_over() && e.current.updated_ms <= oldest_ms;
        let old: Vec<String> = self.entries.iter().filter(|(_, e)| is_old(e)).map(|(id, _)| id.clone()).collect();
        for ids in old.chunks(TOMBSTONES_MAX) {
            tracing::info!(ids = ids.len(), "transactional ids are forgotten after transactional.id.expiration.ms");
            for id in ids {
                self.entries.get_mut(id).expect("listed above").is_changing = true;
            }
            let ticket = self.new_ticket();
            self.writes.insert(ticket, Then::Forget(ids.to_vec()));
            self.outputs.push(Output::Write(ticket, ids.iter().map(|id| state::tombstone(id)).collect()));
        }
    }
}

impl Shard for TransactionShard {
    type Response = TransactionResponse;
    type World<'a> = ();
    const TOPIC: &'static str = TRANSACTIONS_TOPIC;
    const BASE_SEQUENCE: i32 = -1;

    fn replay(
        &mut self,
        _producer_id: Option<i64>,
        key: &[u8],
        value: Option<&[u8]>,
        _now: Now,
    ) -> Result<(), ReplayError> {
        let (id, transaction) = state::parse(key, value)?;
        match transaction {
            Some(current) => {
                match current.state {
                    TransactionState::Ongoing => self.ongoing.insert(id.clone()),
                    _ => self.ongoing.remove(&id),
                };
                let entry = Entry { current, is_changing: false, markers_left: BTreeSet::new(), told_since_ms: 0 };
                self.entries.insert(id, entry);
            }
            None => {
                self.entries.remove(&id);
                self.ongoing.remove(&id);
            }
        }
        Ok(())
    }

    /// This topic takes part in no transaction.
    fn on_transaction_end(&mut self, _producer_id: i64, _commit: bool) {}

    fn on_refused(&mut self, _ticket: Ticket, _code: ErrorCode) {}

    /// What an earlier coordinator has decided is brought to its end.
    fn on_loaded(&mut self, (): &(), now: Now) {
        if self.config.mutations.forget_prepared {
            return;
        }
        let prepared = self.entries.iter().filter(|(_, e)| e.current.state.is_prepared());
        let ids: Vec<String> = prepared.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.tell_partitions(&id, now);
        }
    }

    fn on_committed(&mut self, ticket: Ticket, now: Now) {
        match self.writes.remove(&ticket) {
            None => {}
            Some(Then::Become { id, next, answer }) => {
                self.become_next(&id, *next, now);
                if let Some((token, response)) = answer {
                    self.respond(token, response);
                }
            }
            Some(Then::Forget(ids)) => {
                for id in ids {
                    self.entries.remove(&id);
                }
            }
        }
    }

    fn take_outputs(&mut self) -> Vec<Output<TransactionResponse>> {
        std::mem::take(&mut self.outputs)
    }

    fn next_deadline(&self) -> i64 {
        let abort_ms = if self.ongoing.is_empty() { i64::MAX } else { self.abort_due_ms };
        let expire_ms = if self.entries.is_empty() { i64::MAX } else { self.expire_due_ms };
        abort_ms.min(expire_ms)
    }

    fn tick(&mut self, (): &(), now: Now) {
        self.run_checks(now);
    }

    fn check(&self) {
        for (id, entry) in &self.entries {
            // An id whose first record is under way has no epoch yet.
            if entry.current.epoch >= 0 {
                entry.current.check();
            }
            let is_ongoing = entry.current.state == TransactionState::Ongoing;
            assert_eq!(is_ongoing, self.ongoing.contains(id), "{id}: is it ongoing?");
            assert!(entry.markers_left.is_subset(&entry.current.partitions), "{id}: markers for others");
        }
    }
}
