//! Record batches that are wrong in every way: each is answered as Apache Kafka 4.3.1 answers it, and nothing of it is
//! appended. Batches and requests are made by hand here, so that the code under test does not check itself.

use std::time::Duration;

use super::cluster::Cluster;
use super::{Env, expect, wire};

/// A record batch, field by field; what is wrong with it is changed before it becomes bytes.
#[derive(Clone)]
struct Batch {
    magic: u8,
    attributes: i16,
    last_offset_delta: i32,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    count: i32,
    records: Vec<u8>,
    /// Added to the true length.
    length_error: i32,
    crc_error: u32,
}

impl Batch {
    /// One record without key.
    fn good() -> Batch {
        Batch {
            magic: 2,
            attributes: 0,
            last_offset_delta: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count: 1,
            records: record(0, b"value"),
            length_error: 0,
            crc_error: 0,
        }
    }

    fn with(change: impl FnOnce(&mut Batch)) -> Vec<u8> {
        let mut batch = Batch::good();
        change(&mut batch);
        batch.bytes()
    }

    fn of_producer(id: i64, epoch: i16, sequence: i32) -> Vec<u8> {
        Batch::with(|b| (b.producer_id, b.producer_epoch, b.base_sequence) = (id, epoch, sequence))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut checked = Vec::new();
        checked.extend(self.attributes.to_be_bytes());
        checked.extend(self.last_offset_delta.to_be_bytes());
        checked.extend(1_700_000_000_000i64.to_be_bytes());
        checked.extend(1_700_000_000_000i64.to_be_bytes());
        checked.extend(self.producer_id.to_be_bytes());
        checked.extend(self.producer_epoch.to_be_bytes());
        checked.extend(self.base_sequence.to_be_bytes());
        checked.extend(self.count.to_be_bytes());
        checked.extend(&self.records);
        let length = 4 + 1 + 4 + checked.len() as i32 + self.length_error;
        let mut out = 0i64.to_be_bytes().to_vec();
        out.extend(length.to_be_bytes());
        out.extend((-1i32).to_be_bytes());
        out.push(self.magic);
        out.extend((crc32c(&checked) ^ self.crc_error).to_be_bytes());
        out.extend(checked);
        out
    }
}

/// Attributes, no timestamp delta, the offset delta, no key, the value, no headers.
fn record(offset_delta: i32, value: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    varint(&mut body, 0);
    varint(&mut body, offset_delta);
    varint(&mut body, -1);
    varint(&mut body, value.len() as i32);
    body.extend(value);
    varint(&mut body, 0);
    let mut out = Vec::new();
    varint(&mut out, body.len() as i32);
    out.extend(body);
    out
}

fn varint(out: &mut Vec<u8>, value: i32) {
    let mut bits = ((value << 1) ^ (value >> 31)) as u32;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// What is sent, and the error code and base offset that Apache Kafka 4.3.1 answers with.
type Case = (&'static str, Vec<u8>, i16, i64);

fn cases() -> Vec<Case> {
    let garbage = |codec: i16| {
        Batch::with(|b| {
            b.attributes = codec;
            b.records = vec![0xa5; 50];
        })
    };
    let two = [Batch::good().bytes(), Batch::good().bytes()].concat();
    let mut cut = Batch::good().bytes();
    cut.truncate(cut.len() - 3);
    let mut tail = Batch::good().bytes();
    tail.extend([1, 2, 3]);
    vec![
        ("a good batch", Batch::good().bytes(), 0, 0),
        ("a wrong checksum", Batch::with(|b| b.crc_error = 1), 2, -1),
        ("magic 0", Batch::with(|b| b.magic = 0), 87, -1),
        ("magic 1", Batch::with(|b| b.magic = 1), 87, -1),
        ("magic 3", Batch::with(|b| b.magic = 3), 2, -1),
        ("garbage as gzip", garbage(1), -1, -1),
        ("garbage as snappy", garbage(2), -1, -1),
        ("garbage as lz4", garbage(3), -1, -1),
        ("garbage as zstd", garbage(4), -1, -1),
        ("two batches", two, 87, -1),
        ("a batch cut short", cut, 87, -1),
        ("a length too large", Batch::with(|b| b.length_error = 5), 87, -1),
        ("a length too small", Batch::with(|b| b.length_error = -5), 2, -1),
        ("a negative length", Batch::with(|b| b.length_error = -1_000), 2, -1),
        ("a control batch", Batch::with(|b| b.attributes = 0x20), 87, -1),
        ("no records", Batch::with(|b| (b.count, b.records) = (0, Vec::new())), 87, -1),
        ("one record said to be two", Batch::with(|b| (b.count, b.last_offset_delta) = (2, 1)), 87, -1),
        ("a count that the offsets deny", Batch::with(|b| b.last_offset_delta = 3), 87, -1),
        ("a negative count", Batch::with(|b| b.count = -1), 87, -1),
        ("a record too large", Batch::with(|b| b.records = record(0, &vec![7; 1_100_000])), 10, -1),
        ("nothing", Vec::new(), 87, -1),
        ("sequence 0 of producer 4711", Batch::of_producer(4711, 0, 0), 0, 1),
        ("sequence 0 again", Batch::of_producer(4711, 0, 0), 0, 1),
        ("sequence 5 after 0", Batch::of_producer(4711, 0, 5), 45, -1),
        ("sequence 1", Batch::of_producer(4711, 0, 1), 0, 2),
        ("epoch 1 from sequence 3", Batch::of_producer(4711, 1, 3), 45, -1),
        ("epoch 1 from sequence 0", Batch::of_producer(4711, 1, 0), 0, 3),
        ("epoch 0 after epoch 1", Batch::of_producer(4711, 0, 2), 47, -1),
        ("a producer without sequence", Batch::of_producer(4711, 1, -1), 87, -1),
        ("an unknown producer from 7", Batch::of_producer(815, 0, 7), 0, 4),
        // Refused on purpose where Apache Kafka says something else: it takes the first two (and drops the bytes behind
        // the batch, but keeps the inner offset), and has nothing but UNKNOWN_SERVER_ERROR for the others.
        ("bytes behind the batch", tail, 87, -1),
        ("an inner offset of 5", Batch::with(|b| b.records = record(5, b"value")), 87, -1),
        ("an unknown codec", garbage(5), 76, -1),
        ("a record of garbage", Batch::with(|b| b.records = vec![0xff; 30]), 87, -1),
        ("another good batch", Batch::good().bytes(), 0, 5),
    ]
}

pub fn story(env: &Env, notes: &mut Vec<String>) -> Result<(), String> {
    let cluster = Cluster::start(env, "bad-batches", "")?;
    let servers = cluster.bootstrap();
    let create = [
        "topics",
        "--bootstrap-server",
        &servers,
        "--create",
        "--topic",
        "batches",
        "--partitions",
        "1",
        "--replication-factor",
        "3",
    ];
    env.zwirn(&create)?.good()?;
    cluster.wait_for_isr("batches", 3, Duration::from_secs(10))?;
    let leader = cluster.leader("batches")?;
    let port = cluster.node(leader).port;
    let mut wrong = Vec::new();
    let cases = cases();
    for (name, batch, error, offset) in &cases {
        let said = wire::produce(port, "batches", batch).map_err(|why| format!("{name}: {why}"));
        if said != Ok((*error, *offset)) {
            wrong.push(format!("{name}: expected error {error} and offset {offset}, got {said:?}"));
        }
    }
    expect(wrong.is_empty(), || wrong.join("\n    "))?;
    let follower = (1..=3).find(|id| *id != leader).unwrap_or(1);
    let elsewhere = wire::produce(cluster.node(follower).port, "batches", &Batch::good().bytes())?;
    expect(elsewhere.0 == 6, || format!("a follower should answer NOT_LEADER_OR_FOLLOWER, not {elsewhere:?}"))?;
    let bytes = cluster.replicas_are_equal("batches-0", "00000000000000000000.log")?;
    notes.push(format!("{} batches answered as by Apache Kafka; {bytes} bytes in each replica", cases.len()));
    cluster.done();
    Ok(())
}
