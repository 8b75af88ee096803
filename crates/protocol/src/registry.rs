//! Every message by name, for tests, fuzzing and tools. No server code comes here.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use crate::codec::{Decode, Message, decode_all, encode_all};
use crate::messages::registry::ENTRIES;
use crate::wire::{DecodeError, EncodeError};

/// What can be done with a message whose type is not known where the code is written.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    /// As in the schema: request, response, header, data, metadata, coordinator-key, coordinator-value.
    pub kind: &'static str,
    pub versions: RangeInclusive<i16>,
    pub(crate) transcode: fn(&[u8], i16, i16) -> Result<Vec<u8>, ReencodeError>,
    pub(crate) debug: fn(&[u8], i16) -> Result<String, DecodeError>,
    pub(crate) default_bytes: fn(i16) -> Result<Vec<u8>, EncodeError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReencodeError {
    Decode(DecodeError),
    Encode(EncodeError),
}

impl Entry {
    /// Decodes a whole message and encodes it again.
    pub fn reencode(&self, bytes: &[u8], version: i16) -> Result<Vec<u8>, ReencodeError> {
        (self.transcode)(bytes, version, version)
    }

    /// Decodes a whole message of one version and encodes it in another: what that one cannot carry is dropped where
    /// the schema allows it, and is an error elsewhere.
    pub fn transcode(&self, bytes: &[u8], from: i16, to: i16) -> Result<Vec<u8>, ReencodeError> {
        (self.transcode)(bytes, from, to)
    }

    /// The decoded message as `Debug` shows it.
    pub fn debug(&self, bytes: &[u8], version: i16) -> Result<String, DecodeError> {
        (self.debug)(bytes, version)
    }

    /// The message with nothing set.
    pub fn default_bytes(&self, version: i16) -> Result<Vec<u8>, EncodeError> {
        (self.default_bytes)(version)
    }
}

pub fn all() -> &'static [Entry] {
    ENTRIES
}

pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

pub(crate) fn transcode<'a, M: Decode<'a>>(bytes: &'a [u8], from: i16, to: i16) -> Result<Vec<u8>, ReencodeError> {
    let message: M = decode_all(bytes, from).map_err(ReencodeError::Decode)?;
    encode_all(&message, to).map_err(ReencodeError::Encode)
}

pub(crate) fn debug<'a, M: Decode<'a> + Debug>(bytes: &'a [u8], version: i16) -> Result<String, DecodeError> {
    Ok(format!("{:?}", decode_all::<M>(bytes, version)?))
}

pub(crate) fn default_bytes<M: Message + Default>(version: i16) -> Result<Vec<u8>, EncodeError> {
    encode_all(&M::default(), version)
}

/// The closures let each call choose the message's lifetime.
macro_rules! entry {
    ($kind:literal, $message:ident) => {
        Entry {
            name: <$message as $crate::codec::Message>::NAME,
            kind: $kind,
            versions: <$message as $crate::codec::Message>::VERSIONS,
            transcode: |bytes, from, to| $crate::registry::transcode::<$message>(bytes, from, to),
            debug: |bytes, version| $crate::registry::debug::<$message>(bytes, version),
            default_bytes: |version| $crate::registry::default_bytes::<$message>(version),
        }
    };
}
pub(crate) use entry;
