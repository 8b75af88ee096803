//! The records of `__consumer_offsets`: a key with its type, a value with its version, no value to delete.

use std::fmt;

use protocol::codec::{Message, Record as TypedRecord, decode_all};
use protocol::messages::*;
use protocol::wire::{DecodeError, Writer};

use crate::consumer::Change;
use crate::consumer::replay::{about_of, current_of, resolved_of, target_of};

const OFFSET_COMMIT_LEGACY: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
const GROUP_METADATA: i16 = 2;
/// As Kafka 4.3 writes them: brokers from 2.3 on read groups, brokers from 4.1 on read offsets.
const GROUP_VERSION: i16 = 3;
const OFFSET_VERSION: i16 = 4;

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
    /// Of a group of the consumer protocol.
    Consumer {
        group: String,
        change: Change,
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

/// A record whose key carries its type.
pub(crate) fn record<K: TypedRecord, V: Message>(key: &K, value: Option<&V>, version: i16) -> Record {
    Record { key: encode(K::TYPE, key, 0), value: value.map(|value| encode(version, value, version)) }
}

pub(crate) fn offset_record(group: &str, topic: &str, partition: i32, value: Option<&OffsetCommitValue<'_>>) -> Record {
    let key = OffsetCommitKey { group: group.into(), topic: topic.into(), partition };
    Record {
        key: encode(OFFSET_COMMIT, &key, 0),
        value: value.map(|value| encode(OFFSET_VERSION, value, OFFSET_VERSION)),
    }
}

pub(crate) fn group_record(group: &str, value: Option<&GroupMetadataValue<'_>>) -> Record {
    let key = GroupMetadataKey { group: group.into() };
    Record {
        key: encode(GROUP_METADATA, &key, 0),
        value: value.map(|value| encode(GROUP_VERSION, value, GROUP_VERSION)),
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
        _ => match parse_consumer(kind, key, value)? {
            Some((group, change)) => Parsed::Consumer { group, change },
            None => Parsed::Other,
        },
    })
}

fn parse_consumer(kind: i16, key: &[u8], value: Option<(i16, &[u8])>) -> Result<Option<(String, Change)>, ReplayError> {
    Ok(Some(match kind {
        ConsumerGroupMetadataKey::TYPE => {
            let key: ConsumerGroupMetadataKey<'_> = decode_all(key, 0)?;
            let value: Option<ConsumerGroupMetadataValue> = decode_value(value)?;
            (key.group_id.into_owned(), Change::Group(value.map(|value| (value.epoch, value.metadata_hash))))
        }
        ConsumerGroupPartitionMetadataKey::TYPE => {
            let key: ConsumerGroupPartitionMetadataKey<'_> = decode_all(key, 0)?;
            (key.group_id.into_owned(), Change::OldMetadata(value.is_some()))
        }
        ConsumerGroupMemberMetadataKey::TYPE => {
            let key: ConsumerGroupMemberMetadataKey<'_> = decode_all(key, 0)?;
            let value: Option<ConsumerGroupMemberMetadataValue<'_>> = decode_value(value)?;
            (key.group_id.into_owned(), Change::About(key.member_id.into_owned(), value.as_ref().map(about_of)))
        }
        ConsumerGroupTargetAssignmentMetadataKey::TYPE => {
            let key: ConsumerGroupTargetAssignmentMetadataKey<'_> = decode_all(key, 0)?;
            let value: Option<ConsumerGroupTargetAssignmentMetadataValue> = decode_value(value)?;
            let value = value.map(|value| (value.assignment_epoch, value.assignment_timestamp));
            (key.group_id.into_owned(), Change::Assignment(value))
        }
        ConsumerGroupTargetAssignmentMemberKey::TYPE => {
            let key: ConsumerGroupTargetAssignmentMemberKey<'_> = decode_all(key, 0)?;
            let value: Option<ConsumerGroupTargetAssignmentMemberValue> = decode_value(value)?;
            (key.group_id.into_owned(), Change::Target(key.member_id.into_owned(), value.as_ref().map(target_of)))
        }
        ConsumerGroupCurrentMemberAssignmentKey::TYPE => {
            let key: ConsumerGroupCurrentMemberAssignmentKey<'_> = decode_all(key, 0)?;
            let value: Option<ConsumerGroupCurrentMemberAssignmentValue> = decode_value(value)?;
            (key.group_id.into_owned(), Change::Current(key.member_id.into_owned(), value.as_ref().map(current_of)))
        }
        ConsumerGroupRegularExpressionKey::TYPE => {
            let key: ConsumerGroupRegularExpressionKey<'_> = decode_all(key, 0)?;
            let value: Option<ConsumerGroupRegularExpressionValue<'_>> = decode_value(value)?;
            let change = Change::Regex(key.regular_expression.into_owned(), value.as_ref().map(resolved_of));
            (key.group_id.into_owned(), change)
        }
        _ => return Ok(None),
    }))
}

fn decode_value<'a, M: protocol::codec::Decode<'a>>(value: Option<(i16, &'a [u8])>) -> Result<Option<M>, DecodeError> {
    value.map(|(version, bytes)| decode_all(bytes, version)).transpose()
}
