//! Records within a batch, read where they lie.

use super::{BatchHeader, RecordError, TimestampType};
use crate::wire::{DecodeError, Reader};

#[derive(Clone, Debug)]
pub struct Record<'a> {
    pub offset: i64,
    pub timestamp: i64,
    /// −1 without a producer.
    pub sequence: i32,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
    /// Key, value and headers as they lie there.
    pub(super) tail: &'a [u8],
}

/// The headers of a record, checked when the record was read. Keys may repeat.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    count: usize,
    reader: Reader<'a>,
}

impl Headers<'_> {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let key = sized(&mut self.reader).ok()??;
        Some((key, sized(&mut self.reader).ok()?))
    }
}

/// A varint length and as many bytes; −1 is null.
fn sized<'a>(r: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    match r.varint()? {
        -1 => Ok(None),
        len => {
            let len = usize::try_from(len).map_err(|_| DecodeError::BadLength(i64::from(len)))?;
            r.take(len).map(Some)
        }
    }
}

/// Yields exactly as many records as the header counts, or an error and then nothing.
#[derive(Clone)]
pub struct RecordIter<'a> {
    header: BatchHeader,
    reader: Reader<'a>,
    left: i32,
}

impl<'a> RecordIter<'a> {
    pub(super) fn new(header: BatchHeader, bytes: &'a [u8]) -> Self {
        Self { header, reader: Reader::new(bytes), left: header.records_count }
    }

    fn read(&mut self) -> Result<Record<'a>, DecodeError> {
        let size = self.reader.varint()?;
        let size = usize::try_from(size).map_err(|_| DecodeError::BadLength(i64::from(size)))?;
        let mut r = Reader::new(self.reader.take(size)?);
        r.i8()?;
        let timestamp_delta = r.varlong()?;
        let offset_delta = r.varint()?;
        let tail = r.rest();
        let key = sized(&mut r)?;
        let value = sized(&mut r)?;
        let count = r.varint()?;
        let count = usize::try_from(count).map_err(|_| DecodeError::BadLength(i64::from(count)))?;
        let headers = Headers { count, reader: r.clone() };
        for _ in 0..count {
            sized(&mut r)?.ok_or(DecodeError::Invalid("a header without a key"))?;
            sized(&mut r)?;
        }
        r.finish()?;
        let header = &self.header;
        let timestamp = match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => header.base_timestamp.wrapping_add(timestamp_delta),
        };
        let sequence = match header.base_sequence {
            ..0 => -1,
            base => super::header::sequence_after(base, offset_delta.max(0)),
        };
        let offset = header.base_offset.wrapping_add(i64::from(offset_delta));
        Ok(Record { offset, timestamp, sequence, offset_delta, key, value, headers, tail })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            let trailing = self.left == 0 && self.reader.left() > 0;
            self.left = -1;
            return trailing.then_some(Err(RecordError::Malformed("bytes after the last record")));
        }
        self.left -= 1;
        let record = self.read();
        if record.is_err() {
            self.left = -1;
        }
        Some(record.map_err(|_| RecordError::Malformed("a record's fields do not fit it")))
    }
}
