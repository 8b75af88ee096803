//! `.snapshot` (producers) and `.txnindex` (aborted transactions).

use std::path::Path;

use protocol::codec::Decode;
use protocol::messages::{AbortedTxn, ProducerSnapshot};
use protocol::records::crc32c;
use protocol::wire::Reader;

use super::Fatal;
use crate::terminal::Terminal;

/// The version, two bytes, stands in front of both messages.
const VERSION_LEN: usize = 2;
const SNAPSHOT_CRC_LEN: usize = 4;
const ABORTED_LEN: usize = 34;

pub fn dump_producers(path: &Path, terminal: &mut Terminal<'_>) -> Result<(), Fatal> {
    let bytes = std::fs::read(path).map_err(|error| Fatal::io(path, &error))?;
    let mut reader = Reader::new(&bytes);
    let version = reader.i16().unwrap_or(-1);
    let Ok(snapshot) = ProducerSnapshot::decode(&mut reader, version) else {
        terminal.error(format_args!("Snapshot {} is corrupt: it does not decode as version {version}", path.display()));
        return Ok(());
    };
    let computed = crc32c(bytes.get(VERSION_LEN + SNAPSHOT_CRC_LEN..).unwrap_or_default());
    if computed != snapshot.crc {
        let stored = snapshot.crc;
        terminal.error(format_args!("Snapshot {} is corrupt: its crc is {stored}, not {computed}", path.display()));
        return Ok(());
    }
    for entry in &snapshot.producer_entries {
        let first = match entry.current_txn_first_offset {
            ..0 => "OptionalLong.empty".to_owned(),
            offset => format!("OptionalLong[{offset}]"),
        };
        let mut line = format!(
            "producerId: {} producerEpoch: {} coordinatorEpoch: {} currentTxnFirstOffset: {first} lastTimestamp: {}",
            entry.producer_id, entry.epoch, entry.coordinator_epoch, entry.timestamp
        );
        // Without a batch of its own, after an end marker, there is nothing to say about its last one.
        if entry.last_offset >= 0 {
            line.push_str(&format!(
                " firstSequence: {} lastSequence: {} lastOffset: {} offsetDelta: {} timestamp: {}",
                first_sequence(entry.last_sequence, entry.offset_delta),
                entry.last_sequence,
                entry.last_offset,
                entry.offset_delta,
                entry.timestamp
            ));
        }
        terminal.line(line);
    }
    Ok(())
}

/// Sequence numbers go round at the end of i32.
fn first_sequence(last: i32, delta: i32) -> i32 {
    (i64::from(last) - i64::from(delta)).rem_euclid(i64::from(i32::MAX) + 1) as i32
}

pub fn dump_aborted(path: &Path, terminal: &mut Terminal<'_>) -> Result<(), Fatal> {
    let bytes = std::fs::read(path).map_err(|error| Fatal::io(path, &error))?;
    let (entries, rest) = bytes.as_chunks::<ABORTED_LEN>();
    for entry in entries {
        let mut reader = Reader::new(entry);
        let version = reader.i16().unwrap_or(-1);
        let aborted = AbortedTxn::decode(&mut reader, version)
            .map_err(|error| Fatal(format!("{} is corrupt: {error}", path.display())))?;
        terminal.line(format_args!(
            "version: {version} producerId: {} firstOffset: {} lastOffset: {} lastStableOffset: {}",
            aborted.producer_id, aborted.first_offset, aborted.last_offset, aborted.last_stable_offset
        ));
    }
    if !rest.is_empty() {
        terminal.error(format_args!("{} is corrupt: {} bytes at its end are no entry", path.display(), rest.len()));
    }
    Ok(())
}
