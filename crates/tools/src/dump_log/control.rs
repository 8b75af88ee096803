//! Control records as text: transaction markers, and what the quorum writes about itself, as JSON with Kafka's names.

use protocol::codec::Decode;
use protocol::messages::EndTxnMarker;
use protocol::records::{ControlRecordType, Record};
use protocol::wire::Reader;
use protocol::{json, layout};

pub fn text(record: &Record<'_>) -> String {
    let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
    let shown = match ControlRecordType::parse(key) {
        Some(ControlRecordType::Abort) => marker("ABORT", value),
        Some(ControlRecordType::Commit) => marker("COMMIT", value),
        Some(ControlRecordType::LeaderChange) => message("LeaderChange:", "LeaderChangeMessage", value),
        Some(ControlRecordType::SnapshotHeader) => message("SnapshotHeader", "SnapshotHeaderRecord", value),
        Some(ControlRecordType::SnapshotFooter) => message("SnapshotFooter", "SnapshotFooterRecord", value),
        Some(ControlRecordType::KRaftVersion) => message("KRaftVersion", "KRaftVersionRecord", value),
        Some(ControlRecordType::KRaftVoters) => message("KRaftVoters", "VotersRecord", value),
        None => {
            let id = key.get(2..4).map_or(-1, |id| i16::from_be_bytes([id[0], id[1]]));
            Some(format!(" controlType: UNKNOWN({id})"))
        }
    };
    shown.unwrap_or_else(|| " (a control record that does not decode)".to_owned())
}

fn marker(name: &str, value: &[u8]) -> Option<String> {
    let mut reader = Reader::new(value);
    let version = reader.i16().ok()?.clamp(0, 0);
    let marker = EndTxnMarker::decode(&mut reader, version).ok()?;
    Some(format!(" endTxnMarker: {name} coordinatorEpoch: {}", marker.coordinator_epoch))
}

/// These messages begin with their own version; one newer than we know is read as the newest that we do.
fn message(title: &str, name: &str, value: &[u8]) -> Option<String> {
    let layout = layout::find(name)?;
    let version = Reader::new(value).i16().ok()?.clamp(layout.versions.0, layout.versions.1);
    let json = json::message(layout, &mut Reader::new(value), version).ok()?;
    Some(format!(" {title} {json}"))
}
