//! A batch on its way: open for records, closed, sent, or waiting to be sent again.

use std::time::{Duration, Instant};

use protocol::records::{BatchBuilder, BatchSpec, CRC_AT, Compression, crc32c};

use super::Record;

/// Where the fields that make a batch idempotent lie in it.
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;

/// A batch's overhead, so that `batch.size` bounds the whole.
const OVERHEAD: usize = protocol::records::HEADER_LEN;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    Closed,
    Sent,
    /// Failed for now; sent again, alone and in order, from that moment on.
    Retry(Instant),
}

#[derive(Clone, Copy, Debug)]
pub struct Tag {
    pub tag: u64,
    pub key_len: Option<usize>,
    pub value_len: Option<usize>,
    pub sent_at: Instant,
}

pub struct Batch {
    pub id: u64,
    pub state: State,
    pub tags: Vec<Tag>,
    /// As counted when its records were taken over.
    pub size: usize,
    pub created: Instant,
    pub attempts: u32,
    /// Set when it is first sent, kept through all repetitions.
    pub sequence: Option<i32>,
    builder: Option<BatchBuilder>,
    bytes: Vec<u8>,
}

impl Batch {
    pub fn new(id: u64, compression: Compression, transactional: bool) -> Batch {
        let spec = BatchSpec { compression, transactional, ..Default::default() };
        Batch {
            id,
            state: State::Open,
            tags: Vec::new(),
            size: OVERHEAD,
            created: Instant::now(),
            attempts: 0,
            sequence: None,
            builder: Some(BatchBuilder::new(spec)),
            bytes: Vec::new(),
        }
    }

    pub fn takes(&self, size: usize, bytes_max: usize) -> bool {
        self.state == State::Open && self.size + size <= bytes_max
    }

    pub fn append(&mut self, record: &Record<'_>, size: usize) {
        let builder = self.builder.as_mut().expect("an open batch has a builder");
        builder.append(record.timestamp_ms, record.key, record.value, record.headers);
        self.size += size;
        self.tags.push(Tag {
            tag: record.tag,
            key_len: record.key.map(<[u8]>::len),
            value_len: record.value.map(<[u8]>::len),
            sent_at: Instant::now(),
        });
    }

    /// No more records.
    pub fn close(&mut self) {
        if let Some(builder) = self.builder.take() {
            self.bytes = builder.build();
            self.state = State::Closed;
        }
    }

    pub fn count(&self) -> i32 {
        self.tags.len() as i32
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// When it may leave.
    pub fn due(&self, linger: Duration) -> Instant {
        match self.state {
            State::Open => self.created + linger,
            State::Retry(at) => at,
            State::Closed | State::Sent => self.created,
        }
    }

    /// Gives the batch its place in the producer's sequence, before it is first sent.
    pub fn set_identity(&mut self, (id, epoch): (i64, i16), sequence: i32) {
        self.sequence = Some(sequence);
        self.bytes[PRODUCER_ID_AT..PRODUCER_EPOCH_AT].copy_from_slice(&id.to_be_bytes());
        self.bytes[PRODUCER_EPOCH_AT..BASE_SEQUENCE_AT].copy_from_slice(&epoch.to_be_bytes());
        self.bytes[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].copy_from_slice(&sequence.to_be_bytes());
        let crc = crc32c(&self.bytes[CRC_AT + 4..]);
        self.bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_leaves_a_valid_batch() {
        let mut batch = Batch::new(1, Compression::None, false);
        batch.append(&Record { value: Some(b"v"), timestamp_ms: 7, ..Default::default() }, 22);
        batch.close();
        batch.set_identity((9, 3), 41);
        let parsed = protocol::records::Batch::parse(batch.bytes()).unwrap();
        parsed.verify_crc().unwrap();
        assert_eq!((parsed.header.producer_id, parsed.header.producer_epoch), (9, 3));
        assert_eq!((parsed.header.base_sequence, parsed.header.records_count), (41, 1));
    }
}
