//! The records of `__consumer_offsets`: a key with its type, a value with its version, no value to delete.

use std::fmt;

use protocol::codec::{Message, decode_all};
use protocol::messages::{GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue};
use protocol::wire::{DecodeError, Writer};

const OFFSET_COMMIT_LEGACY: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
const GROUP_METADATA: i16 = 2;
/// The versions that every broker from 2.1 on reads.
const VALUE_VERSION: i16 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// A record that cannot be read. The shard stays as it is without it.
#[derive(Debug)]
pub enum ReplayError {
    Decode(DecodeError),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => write!(f, "a record cannot be read: {error}"),
        }
    }
}

impl std::error::Error for ReplayError {}

impl From<DecodeError> for ReplayError {
    fn from(error: DecodeError) -> Self {
        ReplayError::Decode(error)
    }
}

/// What a record says.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed<'a> {
    Offset {
        key: OffsetCommitKey<'a>,
        value: Option<OffsetCommitValue<'a>>,
    },
    Group {
        key: GroupMetadataKey<'a>,
        value: Option<GroupMetadataValue<'a>>,
    },
    /// A record of a kind of group that is not served here. It is kept in the log as it is.
    Other,
}

fn encode(prefix: i16, message: &impl Message, version: i16) -> Vec<u8> {
    let mut w = Writer::new();
    w.i16(prefix);
    message.encode(&mut w, version);
    w.finish_inline().expect("names and metadata of a request fit the same fields of a record")
}

pub(crate) fn offset_record(group: &str, topic: &str, partition: i32, value: Option<&OffsetCommitValue<'_>>) -> Record {
    let key = OffsetCommitKey { group: group.into(), topic: topic.into(), partition };
    Record {
        key: encode(OFFSET_COMMIT, &key, 0),
        value: value.map(|value| encode(VALUE_VERSION, value, VALUE_VERSION)),
    }
}

pub(crate) fn group_record(group: &str, value: Option<&GroupMetadataValue<'_>>) -> Record {
    let key = GroupMetadataKey { group: group.into() };
    Record {
        key: encode(GROUP_METADATA, &key, 0),
        value: value.map(|value| encode(VALUE_VERSION, value, VALUE_VERSION)),
    }
}

fn split(bytes: &[u8]) -> Result<(i16, &[u8]), DecodeError> {
    let prefix = bytes.first_chunk::<2>().ok_or(DecodeError::Invalid("a record without its version"))?;
    Ok((i16::from_be_bytes(*prefix), bytes.get(2..).unwrap_or_default()))
}

pub(crate) fn parse<'a>(key: &'a [u8], value: Option<&'a [u8]>) -> Result<Parsed<'a>, ReplayError> {
    let (kind, key) = split(key)?;
    let value = value.map(split).transpose()?;
    Ok(match kind {
        OFFSET_COMMIT_LEGACY | OFFSET_COMMIT => Parsed::Offset {
            key: decode_all(key, 0)?,
            value: value.map(|(version, bytes)| decode_all(bytes, version)).transpose()?,
        },
        GROUP_METADATA => Parsed::Group {
            key: decode_all(key, 0)?,
            value: value.map(|(version, bytes)| decode_all(bytes, version)).transpose()?,
        },
        _ => Parsed::Other,
    })
}
