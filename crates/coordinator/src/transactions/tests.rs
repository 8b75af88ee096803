//! A transactional id from its first producer to its end, over what its clients and partitions hear.

use protocol::error::ErrorCode;
use protocol::records::{Batches, Scratch};
use protocol::time::Now;

use super::*;
use crate::records::Record;

struct Bench {
    shard: TransactionShard,
    now: Now,
    token: u64,
    /// Everything that was committed, for a second coordinator to replay.
    log: Vec<Record>,
    answers: Vec<(Token, TransactionResponse)>,
    markers: Vec<Markers>,
}

const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };

fn bench(version: i16) -> Bench {
    let shard = TransactionShard::new(TransactionConfig::default(), 5, version, NOW);
    Bench { shard, now: NOW, token: 0, log: Vec::new(), answers: Vec::new(), markers: Vec::new() }
}

fn partition(topic: &str, number: i32) -> TopicPartition {
    (topic.to_owned(), number)
}

impl Bench {
    /// Commits what is written at once, and collects the answers and markers.
    fn settle(&mut self) {
        loop {
            self.shard.check();
            let outputs = self.shard.take_outputs();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                match output {
                    Output::Respond(token, response) => self.answers.push((token, response)),
                    Output::WriteInTransaction(..) => unreachable!("this topic takes part in no transaction"),
                    Output::Write(ticket, records) => {
                        self.log.extend(records);
                        self.shard.on_committed(ticket, self.now);
                    }
                }
            }
        }
        self.markers.extend(self.shard.take_markers());
    }

    fn token(&mut self) -> Token {
        self.token += 1;
        if self.shard.wants_id() {
            self.shard.supply_id(1_000 + self.token as i64);
        }
        Token(self.token)
    }

    fn answer(&mut self) -> TransactionResponse {
        self.settle();
        self.answers.pop().expect("an answer").1
    }

    fn init(&mut self, expected: Option<Producer>) -> Result<Producer, ErrorCode> {
        let token = self.token();
        self.shard.init("t", 60_000, expected, token, self.now);
        match self.answer() {
            TransactionResponse::Init(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn add(&mut self, producer: Producer, number: i32, client_version: i16) -> ErrorCode {
        let token = self.token();
        self.shard.add_partitions("t", producer, vec![partition("a", number)], client_version, token, self.now);
        match self.answer() {
            TransactionResponse::Added(code) => code,
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, producer: Producer, commit: bool, client_version: i16) -> Result<Option<Producer>, ErrorCode> {
        let token = self.token();
        self.shard.end("t", producer, commit, client_version, token, self.now);
        match self.answer() {
            TransactionResponse::Ended(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// All partitions take the markers that they were sent.
    fn mark(&mut self) -> Vec<Markers> {
        let sent = std::mem::take(&mut self.markers);
        for markers in &sent {
            self.shard.on_marked(&markers.transactional_id, markers.producer, &markers.partitions);
        }
        self.settle();
        sent
    }

    fn state(&self) -> String {
        self.shard.describe("t").transaction_state.into_owned()
    }

    /// The coordinator moves to another broker.
    fn move_on(&mut self) {
        let mut next = TransactionShard::new(TransactionConfig::default(), 6, self.shard.version, self.now);
        for record in &self.log {
            next.replay(None, &record.key, record.value.as_deref(), self.now).expect("written by ourselves");
        }
        next.on_loaded(&(), self.now);
        self.shard = next;
        self.markers.clear();
        self.settle();
    }
}

fn raised(producer: Producer) -> Producer {
    Producer { epoch: producer.epoch + 1, ..producer }
}

#[test]
fn each_end_has_an_epoch_of_its_own_and_may_be_asked_for_again() {
    let mut b = bench(2);
    let first = b.init(None).expect("new");
    assert_eq!(first.epoch, 0);
    assert_eq!(b.end(first, true, 2), Err(ErrorCode::InvalidTxnState), "nothing to commit");
    assert_eq!(b.add(first, 0, 2), ErrorCode::None);
    assert_eq!(b.add(first, 1, 2), ErrorCode::None);
    let second = raised(first);
    assert_eq!(b.end(first, true, 2), Ok(Some(second)));
    assert_eq!(b.state(), "PrepareCommit");
    assert_eq!(b.add(second, 0, 2), ErrorCode::ConcurrentTransactions, "the partitions do not know yet");
    // One partition has its marker when the coordinator moves; the next one sends it again.
    b.shard.on_marked("t", second, &[partition("a", 0)]);
    b.move_on();
    assert_eq!(b.end(first, true, 2), Err(ErrorCode::ConcurrentTransactions));
    let sent = b.mark();
    assert_eq!((sent[0].partitions.len(), sent[0].commit, sent[0].coordinator_epoch), (2, true, 6));
    assert_eq!(sent[0].producer, second);
    assert_eq!(b.state(), "CompleteCommit");
    assert_eq!(b.end(first, true, 2), Ok(Some(second)), "the answer was lost");
    assert_eq!(b.end(first, false, 2), Err(ErrorCode::InvalidTxnState), "it was a commit");
    assert_eq!(b.add(first, 0, 2), ErrorCode::ProducerFenced);
    assert_eq!(b.shard.verify("t", second, &[partition("a", 0)]), Ok(vec![ErrorCode::TransactionAbortable]));
    // An abort of nothing has no partitions to tell.
    assert_eq!(b.end(second, false, 2), Ok(Some(raised(second))));
    assert_eq!((b.state().as_str(), b.markers.len()), ("CompleteAbort", 0));
}

#[test]
fn a_second_producer_aborts_the_first_ones_transaction() {
    for version in [0, 1, 2] {
        let mut b = bench(version);
        let old = b.init(None).expect("new");
        assert_eq!(b.add(old, 0, version), ErrorCode::None);
        assert_eq!(b.init(None), Err(ErrorCode::ConcurrentTransactions), "first the abort");
        let sent = b.mark();
        assert_eq!((sent[0].producer, sent[0].commit), (raised(old), false));
        assert_eq!(sent[0].transaction_version, if version == 2 { 2 } else { 0 });
        let new = b.init(None).expect("the abort is through");
        assert_eq!((new.id, new.epoch), (old.id, 2));
        assert_eq!(b.add(old, 0, version), ErrorCode::ProducerFenced);
        assert_eq!(b.end(old, true, version), Err(ErrorCode::ProducerFenced));
        assert_eq!(b.init(Some(old)), Err(ErrorCode::ProducerFenced));
        assert_eq!(b.init(Some(new)), Ok(raised(new)), "goes on after an error");
        assert_eq!(b.init(Some(new)), Ok(raised(new)), "the answer was lost");
    }
}

#[test]
fn with_one_epoch_for_all_ends_a_retry_is_told_by_the_state() {
    let mut b = bench(1);
    let producer = b.init(None).expect("new");
    assert_eq!(b.add(producer, 0, 0), ErrorCode::None);
    assert_eq!(b.end(producer, false, 0), Ok(None));
    assert_eq!(b.end(producer, false, 0), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(b.mark()[0].producer, producer, "the marker has the transaction's epoch");
    assert_eq!(b.end(producer, false, 0), Ok(None));
    assert_eq!(b.end(producer, true, 0), Err(ErrorCode::InvalidTxnState));
}

#[test]
fn used_up_epochs_bring_a_new_id() {
    let mut b = bench(2);
    let producer = b.init(None).expect("new");
    assert_eq!(b.add(producer, 0, 2), ErrorCode::None);
    let last = Producer { epoch: i16::MAX - 1, ..producer };
    b.shard.entries.get_mut("t").expect("initialized").current.epoch = last.epoch;
    let next = b.end(last, true, 2).expect("ends").expect("a new producer");
    assert!(next.id != last.id && next.epoch == 0);
    assert_eq!(b.mark()[0].producer, Producer { epoch: i16::MAX, ..last });
    assert_eq!(b.end(last, true, 2), Ok(Some(next)), "the answer was lost");
    b.move_on();
    assert_eq!(b.end(last, true, 2), Ok(Some(next)), "elsewhere, too");
    assert_eq!(b.add(next, 0, 2), ErrorCode::None);
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_an_unused_id_forgotten() {
    let mut b = bench(2);
    let producer = b.init(None).expect("new");
    assert_eq!(b.shard.next_deadline(), 1_000 + 3_600_000, "nothing is open");
    assert_eq!(b.add(producer, 0, 2), ErrorCode::None);
    for _ in 0..7 {
        b.now = Now { mono_ms: b.now.mono_ms + 10_000, wall_ms: b.now.wall_ms + 10_000 };
        b.shard.tick(&(), b.now);
    }
    b.settle();
    assert_eq!(b.state(), "PrepareAbort");
    assert_eq!(b.mark()[0].producer, raised(producer));
    assert_eq!(b.end(producer, true, 2), Err(ErrorCode::InvalidTxnState), "taken for a retry of the abort");
    b.now = Now { mono_ms: b.now.mono_ms + 604_800_000, wall_ms: b.now.wall_ms + 604_800_000 };
    b.shard.tick(&(), b.now);
    b.settle();
    assert_eq!(b.shard.describe("t").error_code, ErrorCode::TransactionalIdNotFound as i16);
    assert_eq!(b.log.last().map(|record| record.value.is_none()), Some(true));
    b.move_on();
    assert_eq!(b.shard.describe("t").error_code, ErrorCode::TransactionalIdNotFound as i16);
}

/// `__transaction_state-0` as Apache Kafka 4.3.1 has written it.
#[test]
fn records_of_kafka_are_read_and_written_alike() {
    let bytes = include_bytes!("../../tests/golden/transaction_state.log");
    let mut shard = TransactionShard::new(TransactionConfig::default(), 0, 2, NOW);
    let mut scratch = Scratch::default();
    let mut seen = 0;
    for batch in Batches::new(bytes).map(|batch| batch.expect("whole")) {
        for record in batch.records(&mut scratch).expect("not compressed").map(|record| record.expect("whole")) {
            let (id, transaction) = state::parse(record.key.expect("keyed"), record.value).expect("known");
            let again = transaction.expect("no tombstone").record(&id, 1);
            assert_eq!((again.key.as_slice(), again.value.as_deref()), (record.key.expect("keyed"), record.value));
            shard.replay(None, record.key.expect("keyed"), record.value, NOW).expect("known");
            shard.check();
            seen += 1;
        }
    }
    assert_eq!((seen, shard.describe("tx-1").transaction_state.as_ref()), (14, "CompleteAbort"));
}
