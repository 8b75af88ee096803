//! One replica's directory: every batch of every segment, and the files beside them.

use std::fs;
use std::path::Path;

use protocol::wire::Uuid;
use storage::real::RealDisk;
use storage::{Disk, ProducerStates, checkpoint};

use super::walk::{self, End, Order};
use super::{Report, topic_id};

const OFFSET_ENTRY: usize = 8;
const TIME_ENTRY: usize = 12;
const ABORTED_ENTRY: u64 = 34;

pub struct Replica {
    pub topic_id: Option<Uuid>,
    pub bytes: u64,
    /// Empty if there is nothing to say.
    pub report: Report,
}

pub fn look(dir: &Path, was_clean: bool) -> Replica {
    let mut report = Report::default();
    let id = topic_id(dir).unwrap_or_else(|why| {
        report.repair("partition.metadata", format!("{why}; it is written anew"));
        None
    });
    let mut replica = Replica { topic_id: id, bytes: 0, report };
    match RealDisk.read_dir(dir) {
        Ok(entries) => {
            let names: Vec<(String, u64)> = entries.into_iter().map(|entry| (entry.name, entry.len)).collect();
            segments(dir, &names, was_clean, &mut replica);
            leftovers(&names, &mut replica.report);
        }
        Err(error) => replica.report.refuse("directory", error.to_string()),
    }
    epochs(dir, &mut replica.report);
    replica
}

fn base_of(name: &str, suffix: &str) -> Option<i64> {
    name.strip_suffix(suffix).filter(|stem| stem.len() == 20)?.parse().ok()
}

fn segments(dir: &Path, names: &[(String, u64)], was_clean: bool, replica: &mut Replica) {
    let bases: Vec<(i64, &str, u64)> =
        names.iter().filter_map(|(name, len)| Some((base_of(name, ".log")?, name.as_str(), *len))).collect();
    if bases.is_empty() {
        replica.report.note("segments", "there are none: it begins empty");
    }
    let mut next = i64::MIN;
    for (i, (base, name, len)) in bases.iter().enumerate() {
        let is_last = i + 1 == bases.len();
        if *base < next {
            replica.report.refuse(*name, format!("begins before the segment in front of it ends, at {next}"));
        }
        let mut order = Order::from(*base);
        let end = walk::batches(&dir.join(name), |_, batch| {
            batch.header.compression().map_err(|error| error.to_string())?;
            order.follow(&batch.header)
        });
        next = order.next();
        replica.bytes += len;
        judge(name, end, *len, is_last, was_clean, &mut replica.report);
        index(dir, names, *base, *len, &mut replica.report);
    }
    for (name, len) in names {
        beside(dir, name, *len, next, &mut replica.report);
    }
}

fn judge(name: &str, end: std::io::Result<End>, len: u64, is_last: bool, was_clean: bool, report: &mut Report) {
    match end {
        Ok(End::Whole) => {}
        // As after any crash. A stop in order leaves nothing half written.
        Ok(End::CutOff { at }) if is_last && !was_clean => {
            report.repair(name, format!("the last {} bytes are no whole batch, and are cut off", len - at));
        }
        Ok(End::CutOff { at }) => report.refuse(name, format!("ends within a batch at position {at}")),
        Ok(End::Damaged { at, why }) => report.refuse(name, format!("damaged at position {at} of {len}: {why}")),
        Err(error) => report.refuse(name, error.to_string()),
    }
}

/// The two indexes of a segment: made anew if they are missing or cannot be right.
fn index(dir: &Path, names: &[(String, u64)], base: i64, log_len: u64, report: &mut Report) {
    for (suffix, size) in [("index", OFFSET_ENTRY), ("timeindex", TIME_ENTRY)] {
        let name = format!("{base:020}.{suffix}");
        if !names.iter().any(|(found, _)| *found == name) {
            report.repair(name, "is missing, and is rebuilt");
            continue;
        }
        match fs::read(dir.join(&name)) {
            Err(error) => report.refuse(name, error.to_string()),
            Ok(bytes) if is_sane(&bytes, size, log_len) => {}
            Ok(_) => report.repair(name, "does not fit its segment, and is rebuilt"),
        }
    }
}

/// Entries grow, up to the zeros behind the last one; positions lie within the segment.
fn is_sane(bytes: &[u8], size: usize, log_len: u64) -> bool {
    if !bytes.len().is_multiple_of(size) {
        return false;
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let mut last: Option<(u64, u64)> = None;
    for entry in bytes.chunks_exact(size) {
        if entry.iter().all(|byte| *byte == 0) {
            // Of an active segment, or of a first entry that says nothing.
            break;
        }
        let (head, tail) = entry.split_at(size - 4);
        let (key, value) = (number(head), number(tail));
        if size == OFFSET_ENTRY && value >= log_len.max(1) {
            return false;
        }
        if last.is_some_and(|(k, v)| key < k || value < v || (key == k && size == OFFSET_ENTRY)) {
            return false;
        }
        last = Some((key, value));
    }
    true
}

fn beside(dir: &Path, name: &str, len: u64, log_end: i64, report: &mut Report) {
    if name.ends_with(".txnindex") && !len.is_multiple_of(ABORTED_ENTRY) {
        report.refuse(name, "is cut off: a consumer could not know which transactions were aborted");
    }
    let Some(end) = base_of(name, ".snapshot") else { return };
    match ProducerStates::read_snapshot(&RealDisk, &dir.join(name), end) {
        None => report.repair(name, "is damaged: producers' states are replayed from the log"),
        // Only the one of a stop in order says how things stand.
        Some(states) if end == log_end => {
            let open = states.entries().values().filter_map(|entry| entry.current_txn_first_offset).min();
            if let Some(from) = open {
                report.note(
                    "open transaction",
                    format!("readers of committed records wait at offset {from}, as there is no coordinator to end it"),
                );
            }
        }
        Some(_) => {}
    }
}

fn leftovers(names: &[(String, u64)], report: &mut Report) {
    let count = |suffix: &str| names.iter().filter(|(name, _)| name.ends_with(suffix)).count();
    for (suffix, what) in [
        (".cleaned", "of an unfinished cleaning, removed"),
        (".swap", "of a finished cleaning, put in place"),
        (".deleted", "of deleted segments, removed"),
    ] {
        let count = count(suffix);
        if count > 0 {
            report.note(format!("*{suffix}"), format!("{count} files {what} at the start"));
        }
    }
}

fn epochs(dir: &Path, report: &mut Report) {
    const NAME: &str = "leader-epoch-checkpoint";
    let lines = match checkpoint::read_lines(&RealDisk, &dir.join(NAME)) {
        Ok(lines) => lines,
        Err(error) => return report.repair(NAME, format!("{error}; it is made anew from the batches")),
    };
    let parse = |line: &String| {
        let (epoch, start) = line.split_once(' ')?;
        Some((epoch.parse::<i32>().ok()?, start.parse::<i64>().ok()?))
    };
    let entries: Option<Vec<(i32, i64)>> = lines.iter().map(parse).collect();
    let grows =
        |entries: &Vec<(i32, i64)>| entries.windows(2).all(|pair| matches!(pair, [a, b] if a.0 < b.0 && a.1 <= b.1));
    if !entries.as_ref().is_some_and(grows) {
        report.repair(NAME, "its entries do not grow; it is made anew from the batches");
    }
}
