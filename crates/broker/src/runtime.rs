//! The coordinator runtime: a shard for each partition of an internal topic that this broker leads, loaded from the
//! partition's log, written through it, and dropped with the leadership. What the shards decide is theirs; this file
//! knows of records, offsets and leader epochs only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use coordinator::{Output, Producer, Proof, Record, Shard, Ticket, Token};
use protocol::error::ErrorCode;
use protocol::records::{
    Batch, BatchBuilder, BatchSpec, Batches, ControlRecordType, RecordError, Scratch, end_txn_marker,
};
use protocol::time::Now;
use protocol::wire::Uuid;
use replication::{AppendRefused, PartitionKey};
use storage::{AppendOrigin, Guard, StorageError, Verification};

use crate::replicas::Replicas;

/// Bytes of a shard's log replayed per turn: a large one must not keep the node from everything else.
const LOAD_BYTES_PER_TURN: u32 = 1 << 20;

/// What happens to a shard when the high watermark passes what was written.
enum Written {
    Ticket(Ticket),
    /// The end of a producer's transaction.
    End {
        producer_id: i64,
        commit: bool,
    },
}

/// The end of a transaction as its coordinator sends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndMarker {
    pub producer: Producer,
    pub commit: bool,
    pub coordinator_epoch: i32,
    pub transaction_version: i16,
}

impl EndMarker {
    pub fn batch(&self, now: Now) -> Vec<u8> {
        let kind = if self.commit { ControlRecordType::Commit } else { ControlRecordType::Abort };
        end_txn_marker(self.producer.id, self.producer.epoch, kind, self.coordinator_epoch, now.wall_ms)
    }

    pub fn origin(&self) -> AppendOrigin {
        AppendOrigin::Marker { transaction_version: self.transaction_version }
    }
}

struct Loaded<S> {
    shard: S,
    key: PartitionKey,
    leader_epoch: i32,
    /// The next offset to replay; `None` once the shard serves.
    loading: Option<i64>,
    /// Written and not committed, with the high watermark that each waits for.
    writes: VecDeque<(i64, Written)>,
    /// When the shard wants to be driven even if nothing happens; an entry of `due`.
    due_ms: i64,
}

/// How a request to a shard ends; `W` is what its owner keeps for it.
pub(crate) enum Outcome<W, R> {
    Answered(W, R),
    /// The shard is gone; its successor may be here or elsewhere.
    Refused(W, ErrorCode),
}

/// Invariants: a shard's partition was led by this broker in the shard's leader epoch when it was last driven, and
/// `changed` names it if that is no longer so; every waiting token belongs to a shard that is here; `due` has one entry
/// for each shard with a deadline; a shard that loads, or that somebody spoke with, is in `touched`.
pub(crate) struct Runtime<S: Shard, W> {
    topic: Option<Uuid>,
    shards: BTreeMap<i32, Loaded<S>>,
    waiting: BTreeMap<Token, (i32, W)>,
    token_next: u64,
    /// Partitions whose role may have changed.
    changed: BTreeSet<i32>,
    /// Shards that may have something to do: somebody spoke with them, or their partition moved on.
    touched: BTreeSet<i32>,
    due: BTreeSet<(i64, i32)>,
    outcomes: Vec<Outcome<W, S::Response>>,
    /// Shards that were driven since somebody asked.
    driven: BTreeSet<i32>,
    /// `transaction.partition.verification.enable`
    pub verifies: bool,
}

impl<S: Shard, W> Runtime<S, W> {
    pub fn new() -> Self {
        Self {
            topic: None,
            shards: BTreeMap::new(),
            waiting: BTreeMap::new(),
            token_next: 0,
            changed: BTreeSet::new(),
            touched: BTreeSet::new(),
            due: BTreeSet::new(),
            outcomes: Vec::new(),
            driven: BTreeSet::new(),
            verifies: true,
        }
    }

    pub fn next_deadline(&self) -> i64 {
        self.due.first().map_or(i64::MAX, |(due_ms, _)| *due_ms)
    }

    /// The role of a partition of any topic may have changed.
    pub fn on_role_changed(&mut self, topic: &str, partition: i32) {
        if topic == S::TOPIC {
            self.changed.insert(partition);
        }
    }

    /// The log or the high watermark of a partition of any topic has moved.
    pub fn on_moved(&mut self, key: PartitionKey) {
        if self.topic == Some(key.0) {
            self.touched.insert(key.1);
        }
    }

    /// The shard of a partition, if this broker serves it.
    pub fn serving(&mut self, partition: i32) -> Result<&mut S, ErrorCode> {
        match self.shards.get_mut(&partition) {
            None => Err(ErrorCode::NotCoordinator),
            Some(loaded) if loaded.loading.is_some() => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(loaded) => {
                self.touched.insert(partition);
                Ok(&mut loaded.shard)
            }
        }
    }

    /// A shard and a token for a request whose answer comes from [`Runtime::drive`].
    pub fn call(&mut self, partition: i32, waiter: W) -> Result<(&mut S, Token), (W, ErrorCode)> {
        if let Err(code) = self.serving(partition) {
            return Err((waiter, code));
        }
        let token = Token(self.token_next);
        self.token_next += 1;
        self.waiting.insert(token, (partition, waiter));
        let loaded = self.shards.get_mut(&partition).expect("it serves");
        Ok((&mut loaded.shard, token))
    }

    /// Every shard that serves, to be told of something.
    pub fn tell(&mut self, mut news: impl FnMut(&mut S)) {
        for (partition, loaded) in self.shards.iter_mut().filter(|(_, loaded)| loaded.loading.is_none()) {
            news(&mut loaded.shard);
            self.touched.insert(*partition);
        }
    }

    /// All shards, if all of them serve.
    pub fn all_serving(&self) -> Result<Vec<&S>, ErrorCode> {
        if self.shards.values().any(|s| s.loading.is_some()) {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        Ok(self.shards.values().map(|s| &s.shard).collect())
    }

    /// A serving shard, without giving it anything to do.
    pub fn peek(&self, partition: i32) -> Option<&S> {
        self.shards.get(&partition).filter(|loaded| loaded.loading.is_none()).map(|loaded| &loaded.shard)
    }

    /// Shards that were driven since the last call, and may have something beside their answers.
    pub fn take_driven(&mut self) -> Vec<(i32, &mut S)> {
        let driven = std::mem::take(&mut self.driven);
        let shards = self.shards.iter_mut().filter(|(partition, _)| driven.contains(partition));
        shards.map(|(partition, loaded)| (*partition, &mut loaded.shard)).collect()
    }

    pub fn shards_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.shards.values_mut().map(|loaded| &mut loaded.shard)
    }

    /// Appends the end of a transaction to a shard's partition. The shard hears of it when it is committed. Answers where
    /// the high watermark must come to.
    pub fn end_transaction(
        &mut self,
        partition: i32,
        marker: &EndMarker,
        replicas: &mut Replicas,
        now: Now,
    ) -> Result<i64, AppendRefused> {
        // While the partition is loaded its records do not all have their places yet.
        let not_here = AppendRefused::Code(ErrorCode::NotLeaderOrFollower);
        let loaded = self.shards.get_mut(&partition).filter(|loaded| loaded.loading.is_none());
        let Some(loaded) = loaded else { return Err(not_here) };
        let replica = replicas.all.get_mut(&loaded.key);
        let replica = replica.filter(|r| r.partition.leader_epoch() == loaded.leader_epoch);
        let Some(replica) = replica else { return Err(not_here) };
        let info = replica.partition.append_as_leader(&mut marker.batch(now), marker.origin(), true, now)?;
        let end = info.last_offset + 1;
        replicas.touched.insert(loaded.key);
        loaded.writes.push_back((end, Written::End { producer_id: marker.producer.id, commit: marker.commit }));
        Ok(end)
    }

    /// Loads, writes, commits; whether there was anything. `topic` is the internal topic's id, if it exists. The error
    /// is a disk's.
    pub fn drive(
        &mut self,
        topic: Option<Uuid>,
        replicas: &mut Replicas,
        make: &mut dyn FnMut(i32) -> S,
        world: &S::World<'_>,
        now: Now,
    ) -> Result<bool, String> {
        self.topic = topic;
        let mut busy = self.follow_roles(replicas, make);
        while let Some((due_ms, partition)) = self.due.first().copied().filter(|(due_ms, _)| *due_ms <= now.mono_ms) {
            self.due.remove(&(due_ms, partition));
            if let Some(loaded) = self.shards.get_mut(&partition) {
                loaded.due_ms = i64::MAX;
                self.touched.insert(partition);
            }
        }
        for partition in std::mem::take(&mut self.touched) {
            busy |= self.drive_shard(partition, replicas, world, now)?;
        }
        Ok(busy || !self.outcomes.is_empty())
    }

    pub fn take_outcomes(&mut self) -> Vec<Outcome<W, S::Response>> {
        std::mem::take(&mut self.outcomes)
    }

    pub fn drop_all(&mut self) {
        let partitions: Vec<i32> = self.shards.keys().copied().collect();
        for partition in partitions {
            self.drop_shard(partition, ErrorCode::NotCoordinator);
        }
    }

    /// KAFKA-20634: a shard lives for one leader epoch of one topic, and never longer.
    fn follow_roles(&mut self, replicas: &Replicas, make: &mut dyn FnMut(i32) -> S) -> bool {
        let mut busy = false;
        for partition in std::mem::take(&mut self.changed) {
            let key = self.topic.map(|topic| (topic, partition));
            let led = key.and_then(|key| replicas.get(key)).filter(|p| p.is_leader());
            let led = led.map(|p| (p.key, p.leader_epoch(), p.log().log_start_offset()));
            let known = self.shards.get(&partition).map(|s| (s.key, s.leader_epoch));
            if known == led.map(|(key, epoch, _)| (key, epoch)) {
                continue;
            }
            busy = true;
            if known.is_some() {
                self.drop_shard(partition, ErrorCode::NotCoordinator);
            }
            if let Some((key, leader_epoch, start)) = led {
                let loaded = Loaded {
                    shard: make(leader_epoch),
                    key,
                    leader_epoch,
                    loading: Some(start),
                    writes: VecDeque::new(),
                    due_ms: i64::MAX,
                };
                self.shards.insert(partition, loaded);
                self.touched.insert(partition);
            }
        }
        busy
    }

    /// Whoever waits is sent to look for the coordinator again.
    fn drop_shard(&mut self, partition: i32, code: ErrorCode) {
        if let Some(loaded) = self.shards.remove(&partition) {
            self.due.remove(&(loaded.due_ms, partition));
        }
        let gone = self.waiting.extract_if(.., |_, (of, _)| *of == partition);
        self.outcomes.extend(gone.map(|(_, (_, waiter))| Outcome::Refused(waiter, code)));
    }

    fn drive_shard(
        &mut self,
        partition: i32,
        replicas: &mut Replicas,
        world: &S::World<'_>,
        now: Now,
    ) -> Result<bool, String> {
        let Some(loaded) = self.shards.get_mut(&partition) else { return Ok(false) };
        let led = replicas.get(loaded.key).filter(|p| p.is_leader() && p.leader_epoch() == loaded.leader_epoch);
        let Some(high_watermark) = led.map(|p| p.high_watermark()) else {
            self.drop_shard(partition, ErrorCode::NotCoordinator);
            self.changed.insert(partition);
            return Ok(true);
        };
        if let Some(from) = loaded.loading {
            return self.load_shard(partition, from, replicas, world, now);
        }
        self.driven.insert(partition);
        while let Some((_, written)) = loaded.writes.pop_front_if(|(end, _)| *end <= high_watermark) {
            match written {
                Written::Ticket(ticket) => loaded.shard.on_committed(ticket, now),
                Written::End { producer_id, commit } => loaded.shard.on_transaction_end(producer_id, commit),
            }
        }
        if loaded.shard.next_deadline() <= now.mono_ms {
            loaded.shard.tick(world, now);
        }
        if cfg!(debug_assertions) {
            loaded.shard.check();
        }
        let outputs = loaded.shard.take_outputs();
        let due_ms = loaded.shard.next_deadline();
        if due_ms != loaded.due_ms {
            self.due.remove(&(loaded.due_ms, partition));
            loaded.due_ms = due_ms;
            if due_ms < i64::MAX {
                self.due.insert((due_ms, partition));
            }
        }
        let busy = !outputs.is_empty();
        for output in outputs {
            match output {
                Output::Respond(token, response) => {
                    let waiter = self.waiting.remove(&token);
                    self.outcomes.extend(waiter.map(|(_, waiter)| Outcome::Answered(waiter, response)));
                }
                Output::Write(ticket, records) => {
                    let batch = self.batch(BatchSpec::default(), &records, now);
                    if !self.write(partition, ticket, batch, AppendOrigin::Internal, replicas, now) {
                        break;
                    }
                }
                Output::WriteInTransaction(ticket, producer, proof, records) => {
                    let batch = self.batch(in_transaction(producer), &records, now);
                    let origin = AppendOrigin::Offsets(self.shown(proof));
                    if !self.write(partition, ticket, batch, origin, replicas, now) {
                        break;
                    }
                }
            }
        }
        Ok(busy)
    }

    /// Replays what earlier coordinators have written. The shard serves once all of it is committed.
    fn load_shard(
        &mut self,
        partition: i32,
        from: i64,
        replicas: &mut Replicas,
        world: &S::World<'_>,
        now: Now,
    ) -> Result<bool, String> {
        let Some(loaded) = self.shards.get_mut(&partition) else { return Ok(false) };
        let Some(replica) = replicas.all.get_mut(&loaded.key) else { return Ok(false) };
        let end = replica.partition.log().end_offset();
        if from >= end {
            // Otherwise the next move of the high watermark comes back here.
            let is_settled = replica.partition.high_watermark() >= end;
            if is_settled {
                loaded.loading = None;
                loaded.shard.on_loaded(world, now);
                self.touched.insert(partition);
                tracing::info!(topic = S::TOPIC, partition, end, "coordinator has loaded");
            }
            return Ok(is_settled);
        }
        self.touched.insert(partition);
        let Ok(plan) = replica.partition.log_mut().read(from, LOAD_BYTES_PER_TURN, true, None) else {
            // Retention moved the start on.
            loaded.loading = Some(replica.partition.log().log_start_offset().max(from + 1));
            return Ok(true);
        };
        let bytes = match plan.bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                let path = replica.partition.log().dir().to_owned();
                replicas.failures.push(StorageError { path, error });
                return Ok(false);
            }
        };
        let mut next = from;
        let mut scratch = Scratch::default();
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            next = batch.header.next_offset().max(next);
            let producer_id = batch.header.is_transactional().then_some(batch.header.producer_id);
            if batch.header.is_control() {
                if let (Some(producer_id), Ok(Some(commit))) = (producer_id, ends_by_commit(&batch, &mut scratch)) {
                    loaded.shard.on_transaction_end(producer_id, commit);
                }
                continue;
            }
            let Ok(records) = batch.records(&mut scratch) else { continue };
            for record in records.map_while(Result::ok) {
                let Some(record_key) = record.key else { continue };
                if let Err(error) = loaded.shard.replay(producer_id, record_key, record.value, now) {
                    tracing::warn!(topic = S::TOPIC, partition, offset = record.offset, %error, "record is passed over");
                }
            }
        }
        // A batch larger than a turn's share is read whole; nothing read means that something is not a batch.
        loaded.loading = Some(if next == from { end } else { next });
        Ok(true)
    }

    fn batch(&self, spec: BatchSpec, records: &[Record], now: Now) -> Vec<u8> {
        let mut builder = BatchBuilder::new(BatchSpec { base_sequence: S::BASE_SEQUENCE, ..spec });
        for record in records {
            builder.append(now.wall_ms, Some(&record.key), record.value.as_deref(), &[]);
        }
        builder.build()
    }

    fn shown(&self, proof: Proof) -> Verification {
        match proof {
            _ if !self.verifies => Verification::Off,
            Proof(Some(guard)) => Verification::Asked(Guard(guard)),
            Proof(None) => Verification::Open,
        }
    }

    /// Appends; false if that failed, and then the shard begins anew from what the log has.
    fn write(
        &mut self,
        partition: i32,
        ticket: Ticket,
        mut batch: Vec<u8>,
        origin: AppendOrigin,
        replicas: &mut Replicas,
        now: Now,
    ) -> bool {
        let Some(loaded) = self.shards.get_mut(&partition) else { return false };
        let Some(replica) = replicas.all.get_mut(&loaded.key) else { return false };
        match replica.partition.append_as_leader(&mut batch, origin, true, now) {
            Ok(info) => {
                replicas.touched.insert(loaded.key);
                loaded.writes.push_back((info.last_offset + 1, Written::Ticket(ticket)));
                true
            }
            Err(AppendRefused::Code(code)) if is_the_producers(code) => {
                loaded.shard.on_refused(ticket, code);
                self.touched.insert(partition);
                true
            }
            Err(error) => {
                let error = match error {
                    AppendRefused::Storage(error) => {
                        let shown = error.to_string();
                        replicas.failures.push(error);
                        shown
                    }
                    AppendRefused::Code(code) => code.name().to_owned(),
                };
                tracing::warn!(
                    topic = S::TOPIC,
                    partition,
                    error,
                    "records cannot be written; the coordinator loads again"
                );
                self.drop_shard(partition, ErrorCode::CoordinatorNotAvailable);
                self.changed.insert(partition);
                false
            }
        }
    }
}

fn in_transaction(producer: Producer) -> BatchSpec {
    BatchSpec { producer_id: producer.id, producer_epoch: producer.epoch, transactional: true, ..Default::default() }
}

/// Errors that say something of the producer, not of the partition.
fn is_the_producers(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::InvalidTxnState | ErrorCode::InvalidProducerEpoch)
}

/// Whether a control batch ends a transaction, and how.
fn ends_by_commit(batch: &Batch<'_>, scratch: &mut Scratch) -> Result<Option<bool>, RecordError> {
    let Some(record) = batch.records(scratch)?.next() else { return Ok(None) };
    Ok(match record?.key.and_then(ControlRecordType::parse) {
        Some(ControlRecordType::Commit) => Some(true),
        Some(ControlRecordType::Abort) => Some(false),
        _ => None,
    })
}
