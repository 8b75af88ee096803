//! What every message of the protocol can do.

use std::ops::RangeInclusive;

use crate::api::ApiKey;
use crate::wire::{DecodeError, EncodeError, Reader, Writer};

pub trait Message {
    const NAME: &'static str;
    /// Every version that the codec knows; for an API's stable ones see [`ApiKey::versions`].
    const VERSIONS: RangeInclusive<i16>;
    /// First version with compact lengths and tagged fields; `i16::MAX` if there is none.
    const FLEXIBLE_FROM: i16;

    /// Appends the message to the writer, which remembers the first field that does not fit this version.
    fn encode(&self, w: &mut Writer, version: i16);
}

pub trait Decode<'a>: Message + Sized + Default {
    fn decode(r: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError>;
}

/// A record of the metadata log or of a coordinator's topic. Its type stands in front of it: as api key in the frame of
/// a metadata record, as version in the key of a coordinator's record.
pub trait Record: Message {
    const TYPE: i16;
}

pub trait Request: Message {
    const KEY: ApiKey;
    type Response<'r>: Decode<'r>;
}

/// Decodes bytes that hold one message and nothing else.
pub fn decode_all<'a, M: Decode<'a>>(bytes: &'a [u8], version: i16) -> Result<M, DecodeError> {
    let mut reader = Reader::new(bytes);
    let message = M::decode(&mut reader, version)?;
    reader.finish()?;
    Ok(message)
}

/// The bytes of one message; it must not hold external records.
pub fn encode_all<M: Message>(message: &M, version: i16) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer::new();
    message.encode(&mut writer, version);
    writer.finish_inline()
}
