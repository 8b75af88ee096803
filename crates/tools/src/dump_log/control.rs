//! Control records as text: transaction markers, and what the quorum writes about itself, as JSON with Kafka's names.

use protocol::codec::{Decode, decode_all};
use protocol::messages::leader_change_message::Voter;
use protocol::messages::{
    EndTxnMarker, KRaftVersionRecord, LeaderChangeMessage, SnapshotFooterRecord, SnapshotHeaderRecord, VotersRecord,
};
use protocol::records::{ControlRecordType, Record};
use protocol::wire::Reader;

pub fn text(record: &Record<'_>) -> String {
    let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
    let shown = match ControlRecordType::parse(key) {
        Some(ControlRecordType::Abort) => marker("ABORT", value),
        Some(ControlRecordType::Commit) => marker("COMMIT", value),
        Some(ControlRecordType::LeaderChange) => leader_change(value),
        Some(ControlRecordType::SnapshotHeader) => decode(value).map(|header: SnapshotHeaderRecord| {
            let (version, timestamp) = (header.version, header.last_contained_log_timestamp);
            format!(" SnapshotHeader {{\"version\":{version},\"lastContainedLogTimestamp\":{timestamp}}}")
        }),
        Some(ControlRecordType::SnapshotFooter) => decode(value)
            .map(|footer: SnapshotFooterRecord| format!(" SnapshotFooter {{\"version\":{}}}", footer.version)),
        Some(ControlRecordType::KRaftVersion) => decode(value).map(|record: KRaftVersionRecord| {
            format!(" KRaftVersion {{\"version\":{},\"kRaftVersion\":{}}}", record.version, record.kraft_version)
        }),
        Some(ControlRecordType::KRaftVoters) => decode(value).map(|record: VotersRecord<'_>| voters(&record)),
        None => {
            let id = key.get(2..4).map_or(-1, |id| i16::from_be_bytes([id[0], id[1]]));
            Some(format!(" controlType: UNKNOWN({id})"))
        }
    };
    shown.unwrap_or_else(|| " (a control record that does not decode)".to_owned())
}

/// These messages begin with their own version, whatever it means: of LeaderChange it is the message's, the others
/// have one only.
fn decode<'a, M: Decode<'a>>(value: &'a [u8]) -> Option<M> {
    decode_all(value, 0).ok()
}

fn marker(name: &str, value: &[u8]) -> Option<String> {
    let mut reader = Reader::new(value);
    let version = reader.i16().ok()?.clamp(0, 0);
    let marker = EndTxnMarker::decode(&mut reader, version).ok()?;
    Some(format!(" endTxnMarker: {name} coordinatorEpoch: {}", marker.coordinator_epoch))
}

fn leader_change(value: &[u8]) -> Option<String> {
    let version = Reader::new(value).i16().ok()?.clamp(0, 1);
    let message: LeaderChangeMessage = decode_all(value, version).ok()?;
    let list = |voters: &[Voter]| {
        let one = |voter: &Voter| match version {
            0 => format!("{{\"voterId\":{}}}", voter.voter_id),
            _ => format!("{{\"voterId\":{},\"voterDirectoryId\":\"{}\"}}", voter.voter_id, voter.voter_directory_id),
        };
        voters.iter().map(one).collect::<Vec<_>>().join(",")
    };
    Some(format!(
        " LeaderChange: {{\"version\":{},\"leaderId\":{},\"voters\":[{}],\"grantingVoters\":[{}]}}",
        message.version,
        message.leader_id,
        list(&message.voters),
        list(&message.granting_voters)
    ))
}

fn voters(record: &VotersRecord<'_>) -> String {
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let voters: Vec<String> = record
        .voters
        .iter()
        .map(|voter| {
            let endpoints: Vec<String> = voter
                .endpoints
                .iter()
                .map(|e| format!("{{\"name\":{},\"host\":{},\"port\":{}}}", json(&e.name), json(&e.host), e.port))
                .collect();
            let feature = &voter.kraft_version_feature;
            format!(
                "{{\"voterId\":{},\"voterDirectoryId\":\"{}\",\"endpoints\":[{}],\"kRaftVersionFeature\":\
                 {{\"minSupportedVersion\":{},\"maxSupportedVersion\":{}}}}}",
                voter.voter_id,
                voter.voter_directory_id,
                endpoints.join(","),
                feature.min_supported_version,
                feature.max_supported_version
            )
        })
        .collect();
    format!(" KRaftVoters {{\"version\":{},\"voters\":[{}]}}", record.version, voters.join(","))
}
