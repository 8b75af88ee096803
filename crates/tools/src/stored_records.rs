//! Records of Kafka's own topics as JSON: the two halves of a coordinator's record, metadata records, and what tiered
//! storage writes about its segments. Shared by dump-log and by console-consumer's formatters.

use protocol::codec::decode_all;
use protocol::json;
use protocol::layout::{self, Layout};
use protocol::messages::{
    GroupMetadataValue, RemoteLogSegmentMetadataRecord, RemoteLogSegmentMetadataSnapshotRecord,
    RemoteLogSegmentMetadataUpdateRecord, RemotePartitionDeleteMetadataRecord,
};
use protocol::wire::{DecodeError, Reader, Uuid};

/// Whose topic it is: each coordinator numbers its records for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinator {
    Group,
    Transaction,
    Share,
}

impl Coordinator {
    fn layout(self, kind: &str, record_type: i16) -> Result<&'static Layout, Unreadable> {
        let table = match self {
            Coordinator::Group => "group-coordinator-records",
            Coordinator::Transaction => "transaction-coordinator-records",
            Coordinator::Share => "share-coordinator-records",
        };
        layout::of_record(table, kind, record_type).ok_or(Unreadable::UnknownType(record_type))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    UnknownType(i16),
    Broken(String),
}

/// A number, which is the record's type in a key and the version in a value, and the JSON of the rest.
pub type Half = (i16, String);

fn version<'a>(bytes: &'a [u8], what: &str) -> Result<(i16, Reader<'a>), Unreadable> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16().map_err(|_| Unreadable::Broken(format!("The {what} is too short for a version.")))?;
    Ok((version, reader))
}

fn broken(what: &str, version: i16) -> impl Fn(DecodeError) -> Unreadable {
    move |error| Unreadable::Broken(format!("The {what}, of version {version}, does not decode: {error}."))
}

pub fn key(coordinator: Coordinator, bytes: &[u8]) -> Result<Half, Unreadable> {
    let (record_type, mut reader) = version(bytes, "key")?;
    let layout = coordinator.layout("coordinator-key", record_type)?;
    // Keys have one version, which is not theirs alone: the number in front is the type.
    let json = json::message(layout, &mut reader, 0).map_err(broken("key", record_type))?;
    Ok((record_type, json))
}

pub fn value(coordinator: Coordinator, record_type: i16, bytes: &[u8]) -> Result<Half, Unreadable> {
    value_with(coordinator, record_type, bytes, &|_, _| None)
}

fn value_with(
    coordinator: Coordinator,
    record_type: i16,
    bytes: &[u8],
    show_bytes: json::ShowBytes<'_>,
) -> Result<Half, Unreadable> {
    let (version, mut reader) = version(bytes, "value")?;
    let layout = coordinator.layout("coordinator-value", record_type)?;
    if !layout.has_version(version) {
        return Err(Unreadable::Broken(format!("Found an unknown record version {version} for {record_type} type")));
    }
    let json = json::message_with(layout, &mut reader, version, show_bytes).map_err(broken("value", version))?;
    Ok((version, json))
}

/// The same, with what consumers say in a classic group's members shown as JSON too.
pub fn value_with_members(coordinator: Coordinator, record_type: i16, bytes: &[u8]) -> Result<Half, Unreadable> {
    if coordinator == Coordinator::Group && record_type == GROUP_METADATA && is_of_consumers(bytes) {
        return value_with(coordinator, record_type, bytes, &|field, bytes| match field {
            "subscription" => embedded("ConsumerProtocolSubscription", bytes),
            "assignment" => embedded("ConsumerProtocolAssignment", bytes),
            _ => None,
        });
    }
    value(coordinator, record_type, bytes)
}

const GROUP_METADATA: i16 = 2;

fn is_of_consumers(bytes: &[u8]) -> bool {
    let Ok((version, mut reader)) = version(bytes, "value") else { return false };
    GroupMetadataValue::read(&mut reader, version).is_ok_and(|value| value.protocol_type == "consumer")
}

/// What does not decode stays bytes.
fn embedded(name: &str, bytes: &[u8]) -> Option<String> {
    let (version, mut reader) = version(bytes, name).ok()?;
    json::message(layout::find(name)?, &mut reader, version).ok()
}

/// A metadata record: its type, its version, its fields.
pub fn metadata(bytes: &[u8]) -> Result<String, String> {
    let (layout, version, mut reader) = framed("metadata-records", bytes)?;
    let json = json::message(layout, &mut reader, version).map_err(|error| error.to_string())?;
    reader.finish().map_err(|error| error.to_string())?;
    Ok(format!("{{\"type\":\"{}\",\"version\":{version},\"data\":{json}}}", upper_snake(layout.name)))
}

/// Frame version, type and version in front of a record of the metadata log, or of the log of remote segments.
fn framed<'a>(table: &str, bytes: &'a [u8]) -> Result<(&'static Layout, i16, Reader<'a>), String> {
    let mut reader = Reader::new(bytes);
    let mut number = |what: &str| {
        let number = reader.uvarint().map_err(|_| format!("The record is too short for its {what}."))?;
        i16::try_from(number).map_err(|_| format!("The {what} {number} is too large."))
    };
    let frame = number("frame version")?;
    if frame != 1 {
        return Err(format!("The record has frame version {frame}, only 1 is known."));
    }
    let (key, version) = (number("type")?, number("version")?);
    let layout =
        layout::of_record(table, "metadata", key).ok_or_else(|| format!("Unknown metadata record type {key}"))?;
    Ok((layout, version, reader))
}

/// `PartitionChangeRecord` → `PARTITION_CHANGE_RECORD`.
fn upper_snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_uppercase());
    }
    out
}

/// A record of `__remote_log_metadata`, as Kafka's classes call themselves.
pub fn remote_log(bytes: &[u8]) -> Result<String, String> {
    let (layout, version, mut reader) = framed("storage-and-raft-files", bytes)?;
    let body = reader.take(reader.left()).map_err(|error| error.to_string())?;
    let shown = match layout.name {
        "RemoteLogSegmentMetadataRecord" => remote_segment(body, version),
        "RemoteLogSegmentMetadataUpdateRecord" => remote_update(body, version),
        "RemotePartitionDeleteMetadataRecord" => remote_delete(body, version),
        _ => remote_snapshot(body, version),
    };
    shown.map_err(|error| error.to_string())
}

const SEGMENT_STATES: &[&str] =
    &["COPY_SEGMENT_STARTED", "COPY_SEGMENT_FINISHED", "DELETE_SEGMENT_STARTED", "DELETE_SEGMENT_FINISHED"];
const PARTITION_STATES: &[&str] = &["DELETE_PARTITION_MARKED", "DELETE_PARTITION_STARTED", "DELETE_PARTITION_FINISHED"];

fn state(names: &[&'static str], id: i8) -> &'static str {
    usize::try_from(id).ok().and_then(|id| names.get(id)).copied().unwrap_or("null")
}

fn segment_id(topic_id: Uuid, topic: &str, partition: i32, id: Uuid) -> String {
    format!("RemoteLogSegmentId{{topicIdPartition={topic_id}:{topic}-{partition}, id={id}}}")
}

fn custom(metadata: Option<&[u8]>) -> String {
    metadata.map_or_else(
        || "Optional.empty".to_owned(),
        |bytes| format!("Optional[CustomMetadata{{{} bytes}}]", bytes.len()),
    )
}

fn epochs(epochs: impl Iterator<Item = (i32, i64)>) -> String {
    let shown: Vec<String> = epochs.map(|(epoch, offset)| format!("{epoch}={offset}")).collect();
    format!("{{{}}}", shown.join(", "))
}

fn remote_segment(body: &[u8], version: i16) -> Result<String, DecodeError> {
    let r: RemoteLogSegmentMetadataRecord<'_> = decode_all(body, version)?;
    let id = &r.remote_log_segment_id;
    let of = &id.topic_id_partition;
    Ok(format!(
        "RemoteLogSegmentMetadata{{remoteLogSegmentId={}, startOffset={}, endOffset={}, brokerId={}, \
         maxTimestampMs={}, eventTimestampMs={}, segmentLeaderEpochs={}, segmentSizeInBytes={}, customMetadata={}, \
         state={}, txnIdxEmpty={}}}",
        segment_id(of.id, &of.name, of.partition, id.id),
        r.start_offset,
        r.end_offset,
        r.broker_id,
        r.max_timestamp_ms,
        r.event_timestamp_ms,
        epochs(r.segment_leader_epochs.iter().map(|e| (e.leader_epoch, e.offset))),
        r.segment_size_in_bytes,
        custom(r.custom_metadata.as_deref()),
        state(SEGMENT_STATES, r.remote_log_segment_state),
        r.txn_index_empty
    ))
}

fn remote_update(body: &[u8], version: i16) -> Result<String, DecodeError> {
    let r: RemoteLogSegmentMetadataUpdateRecord<'_> = decode_all(body, version)?;
    let id = &r.remote_log_segment_id;
    let of = &id.topic_id_partition;
    Ok(format!(
        "RemoteLogSegmentMetadataUpdate{{remoteLogSegmentId={}, customMetadata={}, state={}, eventTimestampMs={}, \
         brokerId={}}}",
        segment_id(of.id, &of.name, of.partition, id.id),
        custom(r.custom_metadata.as_deref()),
        state(SEGMENT_STATES, r.remote_log_segment_state),
        r.event_timestamp_ms,
        r.broker_id
    ))
}

fn remote_delete(body: &[u8], version: i16) -> Result<String, DecodeError> {
    let r: RemotePartitionDeleteMetadataRecord<'_> = decode_all(body, version)?;
    let of = &r.topic_id_partition;
    Ok(format!(
        "RemotePartitionDeleteMetadata{{topicPartition={}:{}-{}, state={}, eventTimestampMs={}, brokerId={}}}",
        of.id,
        of.name,
        of.partition,
        state(PARTITION_STATES, r.remote_partition_delete_state),
        r.event_timestamp_ms,
        r.broker_id
    ))
}

fn remote_snapshot(body: &[u8], version: i16) -> Result<String, DecodeError> {
    let r: RemoteLogSegmentMetadataSnapshotRecord<'_> = decode_all(body, version)?;
    Ok(format!(
        "RemoteLogSegmentMetadataSnapshot{{segmentId={}, startOffset={}, endOffset={}, maxTimestampMs={}, \
         segmentLeaderEpochs={}, segmentSizeInBytes={}, customMetadata={}, state={}, txnIdxEmpty={}}}",
        r.segment_id,
        r.start_offset,
        r.end_offset,
        r.max_timestamp_ms,
        epochs(r.segment_leader_epochs.iter().map(|e| (e.leader_epoch, e.offset))),
        r.segment_size_in_bytes,
        custom(r.custom_metadata.as_deref()),
        state(SEGMENT_STATES, r.remote_log_segment_state),
        r.txn_index_empty
    ))
}
