//! The records that the quorum writes about itself: who leads, who votes, and the ends of a snapshot.

use std::io;

use protocol::codec::{Decode, Message, decode_all, encode_all};
use protocol::messages::{
    KRaftVersionRecord, LeaderChangeMessage, SnapshotFooterRecord, SnapshotHeaderRecord, VotersRecord,
    leader_change_message, voters_record,
};
use protocol::records::{Batch, BatchBuilder, BatchSpec, Batches, ControlRecordType, Scratch, control_key};
use protocol::time::Now;

use crate::records::damaged;
use crate::types::{Endpoint, Endpoints, KRaftVersions, ReplicaKey};
use crate::voters::{Voter, VoterHistory, VoterSet};

/// Kafka writes LeaderChange in version 0, though the schema has 1.
const VERSION: i16 = 0;

#[derive(Clone, Debug, PartialEq)]
pub struct ControlRecord {
    kind: ControlRecordType,
    value: Vec<u8>,
}

impl ControlRecord {
    fn new<M: Message>(kind: ControlRecordType, message: &M) -> Self {
        let value = encode_all(message, VERSION).expect("our control records fit version 0");
        Self { kind, value }
    }

    pub fn leader_change(leader: i32, voters: &[i32], granting: &[i32]) -> Self {
        let list = |ids: &[i32]| {
            let voter = |&voter_id: &i32| leader_change_message::Voter { voter_id, ..Default::default() };
            ids.iter().map(voter).collect()
        };
        let message = LeaderChangeMessage {
            version: VERSION,
            leader_id: leader,
            voters: list(voters),
            granting_voters: list(granting),
            ..Default::default()
        };
        Self::new(ControlRecordType::LeaderChange, &message)
    }

    pub fn kraft_version(level: i16) -> Self {
        let message = KRaftVersionRecord { version: VERSION, kraft_version: level, ..Default::default() };
        Self::new(ControlRecordType::KRaftVersion, &message)
    }

    pub fn voters(voters: &VoterSet) -> Self {
        Self::new(ControlRecordType::KRaftVoters, &to_record(voters))
    }

    pub fn snapshot_header(last_contained_log_timestamp: i64) -> Self {
        let message = SnapshotHeaderRecord { version: VERSION, last_contained_log_timestamp, ..Default::default() };
        Self::new(ControlRecordType::SnapshotHeader, &message)
    }

    pub fn snapshot_footer() -> Self {
        let message = SnapshotFooterRecord { version: VERSION, ..Default::default() };
        Self::new(ControlRecordType::SnapshotFooter, &message)
    }
}

/// All of `records` in one control batch.
pub fn batch(base_offset: i64, epoch: i32, records: &[ControlRecord], now: Now) -> Vec<u8> {
    let spec = BatchSpec { base_offset, partition_leader_epoch: epoch, control: true, ..Default::default() };
    let mut builder = BatchBuilder::new(spec);
    for record in records {
        builder.append(now.wall_ms, Some(&control_key(record.kind)), Some(&record.value), &[]);
    }
    builder.build()
}

fn to_record(voters: &VoterSet) -> VotersRecord<'static> {
    let endpoint = |(name, endpoint): (&str, &Endpoint)| voters_record::Endpoint {
        name: name.to_owned().into(),
        host: endpoint.host.clone().into(),
        port: endpoint.port,
        ..Default::default()
    };
    let voter = |voter: &Voter| voters_record::Voter {
        voter_id: voter.key.id,
        voter_directory_id: voter.key.directory_or_zero(),
        endpoints: voter.endpoints.iter().map(endpoint).collect(),
        kraft_version_feature: voters_record::KRaftVersionFeature {
            min_supported_version: voter.kraft_versions.min,
            max_supported_version: voter.kraft_versions.max,
            ..Default::default()
        },
        ..Default::default()
    };
    VotersRecord { version: VERSION, voters: voters.iter().map(voter).collect(), ..Default::default() }
}

fn from_record(record: &VotersRecord<'_>) -> VoterSet {
    VoterSet::new(record.voters.iter().map(|voter| {
        let mut endpoints = Endpoints::default();
        for endpoint in &voter.endpoints {
            endpoints.insert(&endpoint.name, Endpoint::new(endpoint.host.clone(), endpoint.port));
        }
        let feature = &voter.kraft_version_feature;
        Voter {
            key: ReplicaKey::new(voter.voter_id, voter.voter_directory_id),
            endpoints,
            kraft_versions: KRaftVersions { min: feature.min_supported_version, max: feature.max_supported_version },
        }
    }))
}

/// The value of a control record names its own version first.
fn decode<'a, M: Decode<'a>>(value: &'a [u8]) -> io::Result<M> {
    let version = value.first_chunk::<2>().map_or(VERSION, |bytes| i16::from_be_bytes(*bytes));
    decode_all(value, version).map_err(damaged)
}

/// Takes over what the control batches among `bytes` say about the quorum. Everything in a snapshot counts as being at
/// `at`.
pub fn replay(bytes: &[u8], at: Option<i64>, history: &mut VoterHistory) -> io::Result<()> {
    let mut scratch = Scratch::default();
    for batch in Batches::new(bytes) {
        let batch = batch.map_err(damaged)?;
        if batch.header.is_control() {
            replay_batch(&batch, at, history, &mut scratch)?;
        }
    }
    Ok(())
}

fn replay_batch(
    batch: &Batch<'_>,
    at: Option<i64>,
    history: &mut VoterHistory,
    scratch: &mut Scratch,
) -> io::Result<()> {
    batch.verify_crc().map_err(damaged)?;
    for record in batch.records(scratch).map_err(damaged)? {
        let record = record.map_err(damaged)?;
        let offset = at.unwrap_or(record.offset);
        let value = record.value.unwrap_or_default();
        match ControlRecordType::parse(record.key.unwrap_or_default()) {
            Some(ControlRecordType::KRaftVoters) => {
                let voters = from_record(&decode(value)?);
                tracing::info!(offset, %voters, "the quorum's voters");
                history.add_voters(offset, voters);
            }
            Some(ControlRecordType::KRaftVersion) => {
                let record: KRaftVersionRecord = decode(value)?;
                tracing::info!(offset, level = record.kraft_version, "kraft.version");
                history.add_kraft_version(offset, record.kraft_version);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The time that a snapshot's first record says.
pub fn snapshot_timestamp(snapshot: &[u8]) -> io::Result<i64> {
    let batch = Batch::parse(snapshot).map_err(damaged)?;
    batch.verify_crc().map_err(damaged)?;
    let mut scratch = Scratch::default();
    let first = batch.records(&mut scratch).map_err(damaged)?.next();
    let not_a_snapshot = || io::Error::new(io::ErrorKind::InvalidData, "a snapshot begins with its header record");
    let first = first.ok_or_else(not_a_snapshot)?.map_err(damaged)?;
    if ControlRecordType::parse(first.key.unwrap_or_default()) != Some(ControlRecordType::SnapshotHeader) {
        return Err(not_a_snapshot());
    }
    let header: SnapshotHeaderRecord = decode(first.value.unwrap_or_default())?;
    Ok(header.last_contained_log_timestamp)
}
