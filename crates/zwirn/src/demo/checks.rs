//! What the demo proves: replicas are byte-equal, and every acknowledged record is there, once and in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tools::dump_log;
use tools::terminal::Terminal;

/// The segment files of a partition's directory, by name.
fn segments(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let name = path.file_name().unwrap_or_default().display().to_string();
            out.insert(name, std::fs::read(&path).map_err(failed)?);
        }
    }
    Ok(out)
}

pub fn sizes(dir: &Path) -> u64 {
    segments(dir).map_or(0, |all| all.values().map(|bytes| bytes.len() as u64).sum())
}

/// The directories hold the same segment files with the same bytes.
pub fn logs_equal(dirs: &[PathBuf]) -> Result<(), String> {
    let Some((first, others)) = dirs.split_first() else { return Ok(()) };
    let expected = segments(first)?;
    if expected.is_empty() {
        return Err(format!("{} has no segment file", first.display()));
    }
    for other in others {
        let found = segments(other)?;
        for (name, bytes) in &expected {
            let Some(others) = found.get(name) else { return Err(format!("{} has no {name}", other.display())) };
            if others != bytes {
                let at = bytes.iter().zip(others).take_while(|(a, b)| a == b).count();
                return Err(format!(
                    "{name} has {} bytes in {}, {} in {}; they differ from byte {at} on",
                    bytes.len(),
                    first.display(),
                    others.len(),
                    other.display()
                ));
            }
        }
        if found.len() != expected.len() {
            return Err(format!("{} has more segment files than {}", other.display(), first.display()));
        }
    }
    Ok(())
}

/// The line that dump-log prints for a file's first record.
pub fn dumped_record(segment: &Path) -> Option<String> {
    let mut out = Vec::new();
    let options = dump_log::Options { print_data: true, deep: true, ..Default::default() };
    let mut terminal = Terminal { out: &mut out, err: &mut Vec::new() };
    let files = [segment.display().to_string()];
    (dump_log::dump(&files, options, &mut terminal) == 0).then_some(())?;
    String::from_utf8_lossy(&out).lines().find(|line| line.starts_with('|')).map(str::to_owned)
}

/// `values` are what was read back, in order of offset; each is `record N`.
pub fn acknowledged_are_there(acked: &[u64], values: &[Vec<u8>]) -> Result<String, String> {
    let mut found = BTreeMap::new();
    let mut previous = None;
    for value in values {
        let text = String::from_utf8_lossy(value);
        let number: u64 = text
            .strip_prefix("record ")
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("read back \"{text}\", which nobody wrote"))?;
        *found.entry(number).or_insert(0u32) += 1;
        if previous.is_some_and(|previous| number < previous) {
            return Err(format!("record {number} stands behind record {}", previous.unwrap_or_default()));
        }
        previous = Some(number);
    }
    let lost: Vec<u64> = acked.iter().copied().filter(|number| !found.contains_key(number)).collect();
    if let Some(first) = lost.first() {
        return Err(format!(
            "{} of {} acknowledged records are lost, the first is record {first}",
            lost.len(),
            acked.len()
        ));
    }
    if let Some((number, times)) = found.iter().find(|(_, times)| **times > 1) {
        return Err(format!("record {number} is there {times} times"));
    }
    Ok(format!("all {} acknowledged records are there, each once, in order.", acked.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_would_catch() {
        let values = |numbers: &[u64]| -> Vec<Vec<u8>> {
            numbers.iter().map(|number| format!("record {number}").into_bytes()).collect()
        };
        assert!(acknowledged_are_there(&[0, 1, 2], &values(&[0, 1, 2, 3])).is_ok());
        assert!(acknowledged_are_there(&[0, 1, 2], &values(&[0, 2])).unwrap_err().contains("lost"));
        assert!(acknowledged_are_there(&[0, 1], &values(&[0, 1, 1])).unwrap_err().contains("2 times"));
        assert!(acknowledged_are_there(&[0, 1], &values(&[1, 0])).unwrap_err().contains("behind"));
        assert!(acknowledged_are_there(&[], &[b"other".to_vec()]).is_err());
    }
}
