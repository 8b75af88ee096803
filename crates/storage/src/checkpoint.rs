//! Kafka's checkpoint files: a version line, a count line, then a line per entry.

use std::io;
use std::path::Path;

use crate::disk::{Disk, OpenMode};

const VERSION: &str = "0";
/// Entries that a file may announce; far beyond the partitions of any broker.
const ENTRIES_MAX: usize = 10_000_000;

/// The entry lines of a checkpoint; a missing or empty file has none.
pub fn read_lines(disk: &dyn Disk, path: &Path) -> io::Result<Vec<String>> {
    if !disk.exists(path) {
        return Ok(Vec::new());
    }
    let bytes = disk.read(path)?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| bad("not UTF-8"))?;
    if !text.ends_with('\n') {
        return Err(bad("the last line is cut off"));
    }
    let mut lines = text.lines();
    if lines.next() != Some(VERSION) {
        return Err(bad("the first line is not version 0"));
    }
    let count: usize = lines.next().and_then(|n| n.trim().parse().ok()).ok_or_else(|| bad("no count in line 2"))?;
    let entries: Vec<String> = lines.map(str::to_owned).take(ENTRIES_MAX).collect();
    if entries.len() != count {
        return Err(bad(&format!("announces {count} entries and has {}", entries.len())));
    }
    Ok(entries)
}

pub fn format_lines(lines: impl ExactSizeIterator<Item = String>) -> String {
    let mut text = format!("{VERSION}\n{}\n", lines.len());
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// `topic partition offset` lines, as the three offset checkpoints of a log directory hold them.
pub fn read_offsets(disk: &dyn Disk, path: &Path) -> io::Result<Vec<(String, i32, i64)>> {
    let bad =
        |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: malformed line {line:?}", path.display()));
    let parse = |line: String| {
        let mut words = line.split(' ');
        let entry = (|| {
            let topic = words.next()?.to_owned();
            Some((topic, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })();
        entry.ok_or_else(|| bad(&line))
    };
    read_lines(disk, path)?.into_iter().map(parse).collect()
}

pub fn format_offsets(entries: &[(String, i32, i64)]) -> Vec<u8> {
    let lines = entries.iter().map(|(topic, partition, offset)| format!("{topic} {partition} {offset}"));
    format_lines(lines).into_bytes()
}

/// There is no room, which is no damage.
pub fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Replaces a file that the log is as good without: on a full disk the old one stays, and recovery does more.
pub fn replace_if_room(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match replace(disk, path, bytes) {
        Err(error) if is_full(error.kind()) => {
            tracing::warn!(path = %path.display(), "the disk is full; this file stays as it was");
            let mut tmp = path.as_os_str().to_owned();
            tmp.push(".tmp");
            disk.remove_file(tmp.as_ref())
                .or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        }
        replaced => replaced,
    }
}

/// Replaces a file that can be rebuilt: atomic, but not forced to disk.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let file = disk.open(tmp.as_ref(), OpenMode::Truncate)?;
    file.write_at(&mut [io::IoSlice::new(bytes)], 0)?;
    disk.rename(tmp.as_ref(), path)
}
