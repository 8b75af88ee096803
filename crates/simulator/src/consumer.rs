//! A consumer of one partition: reads on from where it is, whoever leads.

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::FetchRequest;
use protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use protocol::records::{Batches, Scratch};

use crate::checkers::Checkers;
use crate::client::{Directory, Question, decoded, frame};

const FETCH_VERSION: i16 = 17;

pub struct Consumer {
    pub partition: i32,
    pub position: i64,
    pub high_watermark: i64,
    scratch: Scratch,
}

impl Consumer {
    pub fn new(partition: i32) -> Self {
        Consumer { partition, position: 0, high_watermark: 0, scratch: Scratch::default() }
    }

    pub fn next_question(&mut self, directory: &Directory) -> Question {
        let partition = FetchPartition {
            partition: self.partition,
            fetch_offset: self.position,
            current_leader_epoch: -1,
            partition_max_bytes: 4_000,
            ..Default::default()
        };
        let topic = FetchTopic { topic_id: directory.topic_id, partitions: vec![partition], ..Default::default() };
        let request = FetchRequest {
            max_wait_ms: 100,
            min_bytes: 1,
            max_bytes: 10_000,
            session_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let frame = frame(ApiKey::Fetch, FETCH_VERSION, &request);
        Question { leader_of: Some(self.partition), key: ApiKey::Fetch, frame }
    }

    pub fn on_answer(&mut self, frame: &[u8], checkers: &mut Checkers) -> Result<(), String> {
        let response = decoded::<FetchRequest<'_>>(frame, FETCH_VERSION)?;
        let part = response.responses.first().and_then(|topic| topic.partitions.first());
        let part = part.ok_or("an answer without the partition")?;
        match ErrorCode::from_i16(part.error_code) {
            ErrorCode::None => {}
            error @ ErrorCode::OffsetOutOfRange => {
                let (partition, position) = (self.partition, self.position);
                checkers.violation(format!("offset {position} of partition {partition} was readable and is gone"));
                return Err(error.to_string());
            }
            error => return Err(error.to_string()),
        }
        let Checkers { high_watermark, acknowledged, violations, .. } = checkers;
        high_watermark.on_fetched(self.partition, part.high_watermark);
        self.high_watermark = part.high_watermark;
        let bytes = part.records.as_ref().map_or(&[][..], |records| records.bytes());
        for batch in Batches::new(bytes) {
            let batch = batch.map_err(|error| error.to_string())?;
            if let Err(error) = batch.verify_crc() {
                violations.push(format!("a batch at {} that was read: {error}", batch.header.base_offset));
            }
            let epoch = batch.header.partition_leader_epoch;
            for record in batch.records(&mut self.scratch).map_err(|error| error.to_string())? {
                let record = record.map_err(|error| error.to_string())?;
                if record.offset < self.position {
                    continue;
                }
                if record.offset >= part.high_watermark {
                    violations.push(format!(
                        "offset {} was read beyond high watermark {}",
                        record.offset, part.high_watermark
                    ));
                }
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                acknowledged.on_read(self.partition, self.position, record.offset, epoch, value, violations);
                self.position = record.offset + 1;
            }
            // Compaction may have taken the last records of a batch, or all of them.
            self.position = self.position.max(batch.header.next_offset());
        }
        Ok(())
    }
}
