//! The two snapshots that formatting writes: `bootstrap.checkpoint` with the first records of the metadata log, and,
//! for a dynamic quorum, the snapshot 0-0 with the first voters (KIP-853). Byte for byte as Kafka 4.3 writes them.

use protocol::codec::encode_all;
use protocol::messages::voters_record::{Endpoint, KRaftVersionFeature, Voter as VoterRecord};
use protocol::messages::{
    FeatureLevelRecord, KRaftVersionRecord, MetadataRecord, SnapshotFooterRecord, SnapshotHeaderRecord, VotersRecord,
};
use protocol::records::{BatchBuilder, BatchSpec, ControlRecordType, control_key};
use protocol::wire::Uuid;

pub const BOOTSTRAP_CHECKPOINT: &str = "bootstrap.checkpoint";
pub const FIRST_SNAPSHOT: &str = "00000000000000000000-0000000000.checkpoint";
pub const METADATA_DIR: &str = "__cluster_metadata-0";

/// A member of the first quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    pub id: i32,
    pub host: String,
    pub port: u16,
    pub directory_id: Uuid,
}

impl Voter {
    /// `id@host:port:directory-id`, the host in brackets if it has colons.
    pub fn parse(text: &str) -> Result<Voter, String> {
        let bad =
            |what: &str| format!("--initial-controllers: {what} in '{text}' (expected id@host:port:directory-id)");
        let (id, rest) = text.trim().split_once('@').ok_or_else(|| bad("no @"))?;
        let id: i32 = id.parse().ok().filter(|id| *id >= 0).ok_or_else(|| bad("no node id before the @"))?;
        let (host, rest) = match rest.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once("]:").ok_or_else(|| bad("no ] and port behind the host"))?,
            None => rest.split_once(':').ok_or_else(|| bad("no port"))?,
        };
        let (port, directory) = rest.split_once(':').ok_or_else(|| bad("no directory id"))?;
        let port: u16 = port.parse().map_err(|_| bad("no valid port"))?;
        let directory_id = Uuid::parse(directory).ok_or_else(|| bad("no valid directory id"))?;
        if host.is_empty() {
            return Err(bad("no host"));
        }
        Ok(Voter { id, host: host.to_owned(), port, directory_id })
    }
}

/// Batches one behind the other, with the offsets that follow.
struct SnapshotWriter {
    bytes: Vec<u8>,
    next: i64,
}

impl SnapshotWriter {
    fn batch(&mut self, at_ms: i64, control: bool, records: &[(Option<[u8; 4]>, Vec<u8>)]) {
        let spec = BatchSpec { base_offset: self.next, partition_leader_epoch: 0, control, ..Default::default() };
        let mut builder = BatchBuilder::new(spec);
        for (key, value) in records {
            builder.append(at_ms, key.as_ref().map(|key| key.as_slice()), Some(value), &[]);
        }
        self.next += records.len() as i64;
        self.bytes.extend(builder.build());
    }
}

fn header(last_contained_log_timestamp: i64) -> (Option<[u8; 4]>, Vec<u8>) {
    let record = SnapshotHeaderRecord { version: 0, last_contained_log_timestamp, ..Default::default() };
    (Some(control_key(ControlRecordType::SnapshotHeader)), encode_all(&record, 0).expect("a few fixed fields"))
}

fn footer() -> (Option<[u8; 4]>, Vec<u8>) {
    let record = SnapshotFooterRecord::default();
    (Some(control_key(ControlRecordType::SnapshotFooter)), encode_all(&record, 0).expect("a few fixed fields"))
}

/// `bootstrap.checkpoint`: a header, the levels of the features, a footer, each in a batch of its own. The moments are
/// those of the three batches.
pub fn bootstrap(features: &[(String, i16)], at_ms: [i64; 3]) -> Vec<u8> {
    let mut writer = SnapshotWriter { bytes: Vec::new(), next: 0 };
    writer.batch(at_ms[0], true, &[header(0)]);
    let records: Vec<_> = features
        .iter()
        .map(|(name, level)| {
            let record = FeatureLevelRecord { name: name.as_str().into(), feature_level: *level, ..Default::default() };
            (None, MetadataRecord::FeatureLevel(record).encode(0).expect("a short name and a number"))
        })
        .collect();
    writer.batch(at_ms[1], false, &records);
    writer.batch(at_ms[2], true, &[footer()]);
    writer.bytes
}

/// Snapshot 0-0: header, kraft.version and voters in one batch, then the footer. The moments are the header's, and
/// those of the two batches.
pub fn first_voters(voters: &[Voter], listener: &str, kraft_version: i16, at_ms: [i64; 3]) -> Vec<u8> {
    let version = KRaftVersionRecord { version: 0, kraft_version, ..Default::default() };
    let mut sorted: Vec<&Voter> = voters.iter().collect();
    sorted.sort_by_key(|voter| voter.id);
    let voters = VotersRecord {
        version: 0,
        voters: sorted
            .into_iter()
            .map(|voter| VoterRecord {
                voter_id: voter.id,
                voter_directory_id: voter.directory_id,
                endpoints: vec![Endpoint {
                    name: listener.into(),
                    host: voter.host.as_str().into(),
                    port: voter.port,
                    ..Default::default()
                }],
                kraft_version_feature: KRaftVersionFeature {
                    min_supported_version: 0,
                    max_supported_version: 1,
                    ..Default::default()
                },
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let version =
        (Some(control_key(ControlRecordType::KRaftVersion)), encode_all(&version, 0).expect("a few fixed fields"));
    let voters =
        (Some(control_key(ControlRecordType::KRaftVoters)), encode_all(&voters, 0).expect("host names are short"));
    let mut writer = SnapshotWriter { bytes: Vec::new(), next: 0 };
    writer.batch(at_ms[1], true, &[header(at_ms[0]), version, voters]);
    writer.batch(at_ms[2], true, &[footer()]);
    writer.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_snapshot_of_the_first_voters() {
        let voter = Voter::parse("1@127.0.0.1:19344:l80hAY-KTYqBP5SK69UEbQ").unwrap();
        let bytes = first_voters(&[voter], "CONTROLLER", 1, [1_795_410_480_686, 1_795_410_480_705, 1_795_410_480_745]);
        assert_eq!(bytes, include_bytes!("../../tests/golden/first-voters.checkpoint"));
    }

    #[test]
    fn the_recorded_bootstrap_checkpoint() {
        let recorded = include_bytes!("../../tests/golden/bootstrap.checkpoint");
        let times: Vec<i64> =
            protocol::records::Batches::new(recorded).map(|b| b.unwrap().header.base_timestamp).collect();
        let features = super::super::format::Formatting::default_features();
        assert_eq!(bootstrap(&features, times.try_into().unwrap()), recorded);
    }

    #[test]
    fn voters_that_are_none() {
        assert_eq!(Voter::parse("1@[::1]:9093:l80hAY-KTYqBP5SK69UEbQ").unwrap().host, "::1");
        for bad in ["1", "x@h:1:l80hAY-KTYqBP5SK69UEbQ", "1@h", "1@h:1", "1@h:1:x", "-1@h:1:l80hAY-KTYqBP5SK69UEbQ"] {
            assert!(Voter::parse(bad).is_err(), "{bad}");
        }
    }
}
