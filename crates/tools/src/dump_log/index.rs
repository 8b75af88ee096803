//! `.index` and `.timeindex`, compared with the log beside them.

use std::path::{Path, PathBuf};

use protocol::records::{Batch, Scratch};

use super::batches::FileBatches;
use super::{Fatal, Findings, Options, absolute, base_offset};
use crate::terminal::Terminal;

const OFFSET_ENTRY: usize = 8;
const TIME_ENTRY: usize = 12;

struct LogBatch {
    position: u64,
    last_offset: i64,
    timestamp_max: i64,
}

fn read(path: &Path) -> Result<Vec<u8>, Fatal> {
    std::fs::read(path).map_err(|error| Fatal::io(path, &error))
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("log")
}

/// Where each batch lies, and the largest timestamp of its records.
fn log_batches(path: &Path) -> Result<Vec<LogBatch>, Fatal> {
    let mut file = FileBatches::open(path, None)?;
    let mut out = Vec::new();
    let mut scratch = Scratch::default();
    let mut position = 0;
    while let Some(bytes) = file.next() {
        let Ok(batch) = Batch::parse(bytes) else { break };
        // The header's maximum may be that of records which compaction has removed.
        let records = batch.records(&mut scratch).into_iter().flatten().flatten();
        let timestamp_max = records.map(|record| record.timestamp).max().unwrap_or(-1);
        out.push(LogBatch { position, last_offset: batch.header.last_offset(), timestamp_max });
        position += bytes.len() as u64;
    }
    Ok(out)
}

/// Entries up to the first that is all zeros: an open segment's index is allocated ahead.
fn offset_entries(bytes: &[u8], base: i64) -> Vec<(i64, i32)> {
    let (entries, _) = bytes.as_chunks::<OFFSET_ENTRY>();
    let decoded = entries.iter().map(|entry| {
        let [a, b, c, d, e, f, g, h] = *entry;
        (base + i64::from(u32::from_be_bytes([a, b, c, d])), i32::from_be_bytes([e, f, g, h]))
    });
    decoded.enumerate().take_while(|(i, (offset, _))| *i == 0 || *offset != base).map(|(_, entry)| entry).collect()
}

fn time_entries(bytes: &[u8], base: i64) -> Vec<(i64, i64)> {
    let (entries, _) = bytes.as_chunks::<TIME_ENTRY>();
    let decoded = entries.iter().map(|entry| {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *entry;
        let timestamp = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        (timestamp, base + i64::from(u32::from_be_bytes([i, j, k, l])))
    });
    decoded.enumerate().take_while(|(i, (_, offset))| *i == 0 || *offset != base).map(|(_, entry)| entry).collect()
}

fn is_sane(len: usize, entry: usize, base: i64, last: Option<i64>) -> Result<(), String> {
    if !len.is_multiple_of(entry) {
        return Err(format!("its {len} bytes are no multiple of {entry}"));
    }
    match last {
        Some(last) if last < base => Err(format!("its last offset {last} is before its base offset {base}")),
        _ => Ok(()),
    }
}

fn sanity(path: &Path, result: Result<(), String>, terminal: &mut Terminal<'_>) -> Result<(), Fatal> {
    match result {
        Ok(()) => {
            terminal.line(format_args!("{} passed sanity check.", path.display()));
            Ok(())
        }
        Err(what) => Err(Fatal(format!("Corrupt index found: {}: {what}", path.display()))),
    }
}

pub fn dump_offsets(
    path: &Path,
    options: Options,
    findings: &mut Findings,
    terminal: &mut Terminal<'_>,
) -> Result<(), Fatal> {
    let base = base_offset(path)?;
    let bytes = read(path)?;
    let entries = offset_entries(&bytes, base);
    if bytes.len() < OFFSET_ENTRY {
        terminal.line(format_args!("{} is empty.", path.display()));
        return Ok(());
    }
    if options.sanity_only {
        return sanity(path, is_sane(bytes.len(), OFFSET_ENTRY, base, entries.last().map(|(o, _)| *o)), terminal);
    }
    let batches = log_batches(&log_of(path))?;
    for (offset, position) in entries {
        let batch = batches.iter().find(|batch| batch.position == u64::try_from(position).unwrap_or(u64::MAX));
        let found = batch.map_or(-1, |batch| batch.last_offset);
        if found != offset {
            findings.index_mismatches.entry(absolute(path)).or_default().insert(0, (offset, found));
        }
        if !options.verify_only {
            terminal.line(format_args!("offset: {offset} position: {position}"));
        }
    }
    Ok(())
}

pub fn dump_times(
    path: &Path,
    options: Options,
    findings: &mut Findings,
    terminal: &mut Terminal<'_>,
) -> Result<(), Fatal> {
    let base = base_offset(path)?;
    let bytes = read(path)?;
    let entries = time_entries(&bytes, base);
    if options.sanity_only {
        return sanity(path, is_sane(bytes.len(), TIME_ENTRY, base, entries.last().map(|(_, o)| *o)), terminal);
    }
    let batches = log_batches(&log_of(path))?;
    let mut previous = -1;
    for (timestamp, offset) in entries {
        match batches.iter().find(|batch| batch.last_offset >= offset) {
            Some(batch) if batch.last_offset == offset => {
                if batch.timestamp_max != timestamp {
                    let pair = (timestamp, batch.timestamp_max);
                    findings.time_mismatches.entry(absolute(path)).or_default().push(pair);
                }
                if previous >= timestamp {
                    findings.out_of_order.entry(absolute(path)).or_default().push((timestamp, previous));
                }
            }
            other => {
                let found = other.map_or(-1, |batch| batch.last_offset);
                findings.not_found.entry(absolute(path)).or_default().push((offset, found));
            }
        }
        if !options.verify_only {
            terminal.line(format_args!("timestamp: {timestamp} offset: {offset}"));
        }
        previous = timestamp;
    }
    Ok(())
}
