//! The files that a node reads before it says anything: quorum-state and the snapshots of producers. Kafka's readers
//! and writers against ours, not just the messages inside.

use std::path::Path;

use fastrand::Rng;
use protocol::codec::encode_all;
use protocol::messages::producer_snapshot::{ProducerEntry, ProducerSnapshot};
use protocol::records::crc32c;
use protocol::registry::ReencodeError;
use protocol::wire::{DecodeError, Uuid};
use raft::{ElectionState, Endpoint, ReplicaKey, VoterSet, state_file};
use storage::mem::MemDisk;
use storage::{Disk, ProducerStates};

use crate::compare::Findings;
use crate::kafka::{Answer, Kafka, Question};
use crate::mutate;

const SNAPSHOT_VERSION: i16 = 1;

/// How many files were compared.
pub fn compare(kafka: &mut Kafka, findings: &mut Findings, values: u64, seed: u64) -> Result<u64, String> {
    let mut rng = Rng::with_seed(seed ^ 0xf11e);
    for _ in 0..values {
        for kraft_version in [0, 1] {
            quorum_states(kafka, findings, kraft_version, &mut rng)?;
        }
        producer_snapshots(kafka, findings, &mut rng)?;
    }
    Ok(4 * values)
}

fn quorum_states(kafka: &mut Kafka, findings: &mut Findings, kraft_version: i16, rng: &mut Rng) -> Result<(), String> {
    let voters = (1..=rng.i32(1..6)).map(|id| (id, Endpoint::new("localhost", 9093))).collect();
    let voters = VoterSet::from_config("CONTROLLER", &voters);
    // Whoever has voted in version 0 does not know for which directory.
    let directory = Some(Uuid(rng.u128(..).to_be_bytes())).filter(|_| kraft_version > 0);
    let voted = ReplicaKey { id: rng.i32(0..), directory_id: directory };
    let state = ElectionState {
        epoch: rng.i32(0..),
        leader: rng.bool().then(|| rng.i32(0..)),
        voted: rng.bool().then_some(voted),
    };
    let ours = state_file::render(&state, &voters, kraft_version).into_bytes();
    let answers = kafka.ask(&[Question::quorum_state(kraft_version, &ours)])?;
    for answer in answers {
        let what = format!("the file in version {kraft_version}");
        findings.compare("quorum-state", &what, &ours, &answer, &Ok(ours.clone()));
        let Answer::Done { bytes, .. } = answer else { continue };
        if state_file::parse(&bytes).as_ref() != Ok(&state) {
            findings.fault("quorum-state", format!("is read as {:?}, not as {state:?}", state_file::parse(&bytes)));
        }
    }
    Ok(())
}

/// One as it was written, one damaged.
fn producer_snapshots(kafka: &mut Kafka, findings: &mut Findings, rng: &mut Rng) -> Result<(), String> {
    let mut ids: Vec<i64> = (0..rng.usize(0..5)).map(|_| rng.i64(0..)).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut producer_entries: Vec<ProducerEntry> = Vec::new();
    for producer_id in ids {
        producer_entries.push(producer(producer_id, rng));
    }
    let message = encode_all(&ProducerSnapshot { crc: 0, producer_entries }, SNAPSHOT_VERSION);
    let body = message.map_err(|e| e.to_string())?.split_off(4);
    let whole = [&SNAPSHOT_VERSION.to_be_bytes()[..], &crc32c(&body).to_be_bytes(), &body].concat();
    let damaged = mutate::damage(rng, &whole, &whole);
    for (what, bytes) in [("the file", whole), ("the damaged file", damaged)] {
        for answer in kafka.ask(&[Question::producer_snapshot(&bytes)])? {
            findings.compare("producer snapshot", what, &bytes, &answer, &rewritten(&bytes));
        }
    }
    Ok(())
}

/// A producer of whom nothing but a marker is known has no batch.
fn producer(producer_id: i64, rng: &mut Rng) -> ProducerEntry {
    let has_batch = rng.u8(0..4) > 0;
    ProducerEntry {
        producer_id,
        epoch: rng.i16(0..),
        last_sequence: if has_batch { rng.i32(0..) } else { -1 },
        last_offset: if has_batch { rng.i64(0..) } else { -1 },
        offset_delta: if has_batch { rng.i32(0..1000) } else { 0 },
        timestamp: rng.i64(-1..),
        coordinator_epoch: rng.i32(-1..),
        current_txn_first_offset: if rng.bool() { rng.i64(0..) } else { -1 },
    }
}

fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, ReencodeError> {
    let refused = || ReencodeError::Decode(DecodeError::Invalid("no snapshot of producers"));
    let (disk, dir) = (MemDisk::new(), Path::new("/data"));
    disk.create_dir_all(dir).map_err(|_| refused())?;
    let path = dir.join("00000000000000000000.snapshot");
    disk.write_atomically(&path, bytes).map_err(|_| refused())?;
    let states = ProducerStates::read_snapshot(&disk, &path, 0).ok_or_else(refused)?;
    states.write_snapshot(&disk, dir).map_err(|_| refused())?;
    disk.read(&path).map_err(|_| refused())
}
