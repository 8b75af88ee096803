//! Reading a replica: bounded by the high watermark or the last stable offset for clients, by the end for followers.

use protocol::error::ErrorCode;
use protocol::time::Now;
use storage::{AbortedTxn, EpochEnd, OutOfRange, ReadPlan, StorageError, TimestampOffset};

use crate::partition::{Partition, Role};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Followers.
    LogEnd,
    HighWatermark,
    /// read_committed
    Committed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Follower {
        id: i32,
        broker_epoch: i64,
    },
    /// `from_any_replica`: the client knows KIP-392 and may read a follower.
    Consumer {
        from_any_replica: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    pub offset: i64,
    pub bytes_max: u32,
    /// A batch larger than `bytes_max` is given whole, or the reader would never get on (KIP-74).
    pub whole_first: bool,
    pub isolation: Isolation,
    /// −1: not given.
    pub leader_epoch: i32,
    pub last_fetched_epoch: i32,
}

pub struct ReadResult {
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start: i64,
    /// Set instead of data (rule 12): the reader's history is not ours.
    pub diverging: Option<EpochEnd>,
    pub plan: Option<ReadPlan>,
    pub aborted: Vec<AbortedTxn>,
}

#[derive(Debug)]
pub enum ReadFailure {
    Code(ErrorCode),
    Storage(StorageError),
}

impl From<ErrorCode> for ReadFailure {
    fn from(code: ErrorCode) -> Self {
        ReadFailure::Code(code)
    }
}

impl From<OutOfRange> for ReadFailure {
    fn from(error: OutOfRange) -> Self {
        match error {
            OutOfRange::OffsetOutOfRange => ReadFailure::Code(ErrorCode::OffsetOutOfRange),
            OutOfRange::Storage(error) => ReadFailure::Storage(error),
        }
    }
}

/// ListOffsets' question, its negative codes spelt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampQuery {
    Latest,
    Earliest,
    /// KIP-734
    MaxTimestamp,
    /// KIP-405: without tiered storage the same as earliest.
    EarliestLocal,
    At(i64),
}

impl Partition {
    fn readable_end(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::LogEnd => self.log.end_offset(),
            Isolation::HighWatermark => self.high_watermark,
            Isolation::Committed => self.last_stable_offset(),
        }
    }

    fn check_reader(&self, reader: Reader, claimed_epoch: i32) -> Result<(), ErrorCode> {
        self.check_epoch(claimed_epoch)?;
        match (&self.role, reader) {
            // It may be a replica that this leader has not yet heard of; who claims no epoch is told to look again.
            (Role::Leader(_), Reader::Follower { id, .. }) if !self.is_replica(id) => match claimed_epoch {
                ..0 => Err(ErrorCode::NotLeaderOrFollower),
                _ => Err(ErrorCode::UnknownLeaderEpoch),
            },
            (Role::Leader(_), _) | (Role::Follower { .. }, Reader::Consumer { from_any_replica: true }) => Ok(()),
            _ => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// What a fetch gets; it does not yet count as a follower's acknowledgement.
    pub fn read(&mut self, request: &ReadRequest, reader: Reader) -> Result<ReadResult, ReadFailure> {
        self.check_reader(reader, request.leader_epoch)?;
        let in_log = (self.log.log_start_offset()..=self.log.end_offset()).contains(&request.offset);
        if !in_log && !self.is_leader() {
            // DIFFERS: Kafka answers OFFSET_OUT_OF_RANGE, which makes a consumer with stale metadata give up its position
            // because of a replica that is merely behind.
            return Err(ErrorCode::NotLeaderOrFollower.into());
        }
        let mut result = ReadResult {
            high_watermark: self.high_watermark,
            last_stable_offset: self.last_stable_offset(),
            log_start: self.log.log_start_offset(),
            diverging: None,
            plan: None,
            aborted: Vec::new(),
        };
        if self.diverges(request) {
            let ends = self.log.epochs().end_offset_for(request.last_fetched_epoch, self.log.end_offset());
            result.diverging = Some(ends.ok_or(ErrorCode::OffsetOutOfRange)?);
            return Ok(result);
        }
        if !self.is_leader() && request.offset > self.log.end_offset() {
            // DIFFERS: KIP-392 has a follower say that it is not there yet; Kafka says OFFSET_OUT_OF_RANGE, and a
            // consumer whose metadata is old takes that for the leader's word and begins anew elsewhere.
            return Err(ErrorCode::OffsetNotAvailable.into());
        }
        let upto = self.readable_end(request.isolation);
        let plan = self.log.read(request.offset, request.bytes_max, request.whole_first, Some(upto))?;
        if request.isolation == Isolation::Committed && plan.len > 0 {
            // A read does not go beyond its segment.
            let upto = upto.min(self.log.segment_end(plan.base_offset));
            result.aborted = self.log.aborted_transactions(request.offset, upto).map_err(ReadFailure::Storage)?;
        }
        result.plan = (plan.len > 0).then_some(plan);
        Ok(result)
    }

    /// Whether the reader's last epoch ends elsewhere in our history.
    pub(crate) fn diverges(&self, request: &ReadRequest) -> bool {
        if request.last_fetched_epoch < 0 {
            return false;
        }
        let ends = self.log.epochs().end_offset_for(request.last_fetched_epoch, self.log.end_offset());
        ends.is_none_or(|ends| ends.epoch < request.last_fetched_epoch || ends.end_offset < request.offset)
    }

    /// Bytes that a waiting fetch would get, up to `enough`; an error counts as enough, for the reader must hear of it.
    pub fn readable_bytes(&mut self, request: &ReadRequest, reader: Reader, enough: u64) -> u64 {
        if self.check_reader(reader, request.leader_epoch).is_err() {
            return u64::MAX;
        }
        let (start, end) = (self.log.log_start_offset(), self.log.end_offset());
        if request.offset < start || request.offset > end || self.diverges(request) {
            return u64::MAX;
        }
        let upto = self.readable_end(request.isolation);
        if request.offset >= upto { 0 } else { self.log.bytes_from(request.offset, upto, enough) }
    }

    /// Rule 4 and KIP-79, 207, 734: offset by time. Only leaders answer. `follower` asks about the log's end.
    pub fn offset_for(
        &mut self,
        query: TimestampQuery,
        isolation: Isolation,
        leader_epoch: i32,
    ) -> Result<Option<TimestampOffset>, ReadFailure> {
        self.check_epoch(leader_epoch)?;
        let Role::Leader(leader) = &self.role else { return Err(ErrorCode::NotLeaderOrFollower.into()) };
        let upto = self.readable_end(isolation);
        // KIP-207: a new leader does not know yet how far its predecessor had come; answering with its old high
        // watermark would let a consumer's position go back.
        let unsettled = isolation != Isolation::LogEnd && self.high_watermark < leader.epoch_start;
        let epoch_at = |offset: i64| self.log.epochs().epoch_at(offset).filter(|e| *e >= 0);
        match query {
            TimestampQuery::Earliest | TimestampQuery::EarliestLocal => {
                let offset = self.log.log_start_offset();
                Ok(Some(TimestampOffset { timestamp: -1, offset, leader_epoch: epoch_at(offset) }))
            }
            TimestampQuery::Latest if unsettled => Err(ErrorCode::OffsetNotAvailable.into()),
            TimestampQuery::Latest => {
                let leader_epoch = Some(self.state.leader_epoch).filter(|e| *e >= 0);
                Ok(Some(TimestampOffset { timestamp: -1, offset: upto, leader_epoch }))
            }
            TimestampQuery::MaxTimestamp => self.log.offset_of_max_timestamp(upto).map_err(ReadFailure::Storage),
            TimestampQuery::At(timestamp) => {
                let found = self.log.offset_for_timestamp(timestamp, upto).map_err(ReadFailure::Storage)?;
                if found.is_none() && unsettled {
                    return Err(ErrorCode::OffsetNotAvailable.into());
                }
                Ok(found)
            }
        }
    }

    /// OffsetForLeaderEpoch (rule 12): `None` if the epoch is beyond what this leader knows.
    pub fn end_offset_for_epoch(&self, claimed: i32, epoch: i32) -> Result<Option<EpochEnd>, ErrorCode> {
        self.check_epoch(claimed)?;
        if !self.is_leader() {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        Ok(self.log.epochs().end_offset_for(epoch, self.log.end_offset()))
    }

    /// Where this follower goes on, for its next fetch: (offset, log start, last epoch, −1 without one).
    pub fn fetch_position(&self) -> (i64, i64, i32) {
        let end = self.log.end_offset();
        (end, self.log.log_start_offset(), self.log.latest_epoch().unwrap_or(-1))
    }

    pub fn tick(&mut self, now: Now) -> Result<(), StorageError> {
        self.log.poll(now)?;
        Ok(())
    }
}
