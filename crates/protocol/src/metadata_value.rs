//! A metadata record as the value of a log record: frame version, api key and version as unsigned varints, message.

use crate::messages::MetadataRecord;
use crate::wire::{DecodeError, EncodeError, Reader, Writer};

/// Kafka writes 1 and refuses 0, whatever its comments say.
const FRAME_VERSION: u32 = 1;

impl<'a> MetadataRecord<'a> {
    /// Unknown frame versions, records and record versions are errors: a node that skips a decision of the cluster
    /// diverges from it.
    // DIFFERS: Kafka reads a record of a version that it does not know as if it were the last one that it knows.
    pub fn decode(value: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(value);
        if r.uvarint()? != FRAME_VERSION {
            return Err(DecodeError::Invalid("metadata record frame version is not 1"));
        }
        let api_key = i16::try_from(r.uvarint()?).map_err(|_| DecodeError::BadVarint)?;
        let version = i16::try_from(r.uvarint()?).map_err(|_| DecodeError::BadVarint)?;
        let record = Self::read(api_key, &mut r, version)?;
        r.finish()?;
        Ok(record)
    }

    pub fn encode(&self, version: i16) -> Result<Vec<u8>, EncodeError> {
        let mut w = Writer::new();
        w.uvarint(FRAME_VERSION);
        w.uvarint(self.api_key() as u32);
        w.uvarint(version as u32);
        self.write(&mut w, version);
        w.finish_inline()
    }
}
