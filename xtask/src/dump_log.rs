//! `cargo xtask dump-log [DIR]`: Apache Kafka's dump-log and ours have to say the same of the same files, in every mode.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::jars::Kafka;
use crate::stages::{Outcome, target_dir};
use crate::stories::release_binary;

/// Recorded directories of Apache Kafka.
const RECORDED: &str = "crates/tools/tests/golden";
const CLASS: &str = "org.apache.kafka.tools.DumpLogSegments";

/// Which files, and the options that are tried on them.
struct Mode {
    options: &'static [&'static str],
    endings: &'static [&'static str],
    /// A part of the path; empty for all.
    within: &'static str,
}

const fn mode(options: &'static [&'static str], endings: &'static [&'static str], within: &'static str) -> Mode {
    Mode { options, endings, within }
}

const LOGS: &[&str] = &[".log", ".checkpoint"];
const INDEXES: &[&str] = &[".index", ".timeindex"];

const MODES: &[Mode] = &[
    mode(&[], &[".log", ".checkpoint", ".index", ".timeindex", ".snapshot", ".txnindex"], ""),
    mode(&["--print-data-log"], LOGS, ""),
    mode(&["--deep-iteration", "--max-bytes", "700"], LOGS, ""),
    mode(&["--print-data-log", "--skip-record-metadata"], LOGS, ""),
    mode(&["--index-sanity-check"], INDEXES, ""),
    mode(&["--verify-index-only"], INDEXES, ""),
    mode(&["--offsets-decoder"], LOGS, "__consumer_offsets"),
    mode(&["--transaction-log-decoder"], LOGS, "__transaction_state"),
    mode(&["--share-group-state-decoder"], LOGS, "__share_group_state"),
    mode(&["--cluster-metadata-decoder"], LOGS, "metadata"),
    // The wrong decoder: what is said of records that are none of its own.
    mode(&["--remote-log-metadata-decoder", "--skip-record-metadata"], LOGS, "disk/plain"),
];

pub fn run(root: &Path, args: &[&str]) -> Result<(), String> {
    let kafka = Kafka::get(root).map_err(|missing| missing.0)?;
    let dir = match args {
        [] => root.join(RECORDED),
        [dir] => PathBuf::from(dir),
        _ => return Err("usage: cargo xtask dump-log [DIR]".to_owned()),
    };
    println!("{}", compare(root, &kafka, &dir)?);
    Ok(())
}

pub fn stage(root: &Path) -> Result<Outcome, String> {
    match Kafka::get(root) {
        Ok(kafka) => compare(root, &kafka, &root.join(RECORDED)).map(Outcome::Note),
        Err(missing) => Ok(Outcome::LeftOut(missing.0)),
    }
}

fn compare(root: &Path, kafka: &Kafka, dir: &Path) -> Result<String, String> {
    let ours = release_binary(root)?;
    let mut all = Vec::new();
    files_below(dir, &mut all)?;
    all.sort();
    let (mut lines, mut faults) = (0, Vec::new());
    for mode in MODES {
        let files: Vec<&str> = all
            .iter()
            .map(String::as_str)
            .filter(|file| mode.endings.iter().any(|end| file.ends_with(end)) && file.contains(mode.within))
            .collect();
        if files.is_empty() {
            continue;
        }
        let list = files.join(",");
        let mut command = kafka.tool(CLASS);
        command.args(mode.options).args(["--files", &list]);
        let theirs = said(command)?;
        let mut command = Command::new(&ours);
        command.arg("dump-log").args(mode.options).args(["--files", &list]);
        let shown = mode.options.join(" ");
        println!("    {} files {shown}: {} lines", files.len(), theirs.out.lines().count());
        lines += theirs.out.lines().count();
        if let Some(fault) = difference(&theirs, &said(command)?) {
            faults.push(format!("dump-log {shown}: {fault}"));
        }
    }
    if !faults.is_empty() {
        let path = target_dir(root).join("dump-log-differences.txt");
        let text = faults.join("\n\n");
        std::fs::write(&path, &text).map_err(|e| format!("{}: {e}", path.display()))?;
        return Err(text);
    }
    Ok(format!("{} files, {lines} lines are the same", all.len()))
}

fn files_below(dir: &Path, out: &mut Vec<String>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            files_below(&path, out)?;
        } else if is_named_by_offset(&path) {
            out.push(path.display().to_string());
        }
    }
    Ok(())
}

/// Kafka's tool ends at a file whose name is not an offset.
fn is_named_by_offset(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "bootstrap.checkpoint"
        || (name.len() > 20 && name.bytes().take(20).all(|byte| byte.is_ascii_digit()) && !name.ends_with(".cleaned"))
}

struct Said {
    out: String,
    /// Without the order of files in it, which is that of a hash map.
    err: Vec<String>,
    code: Option<i32>,
}

fn said(mut command: Command) -> Result<Said, String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let err = String::from_utf8_lossy(&output.stderr);
    let mut err: Vec<String> = err.lines().map(str::to_owned).collect();
    err.sort();
    Ok(Said { out: String::from_utf8_lossy(&output.stdout).into_owned(), err, code: output.status.code() })
}

fn difference(theirs: &Said, ours: &Said) -> Option<String> {
    let both = theirs.out.lines().zip(ours.out.lines()).enumerate();
    for (i, (kafka, zwirn)) in both {
        // What is wrong with a record is told in our own words.
        let is_error = |line: &str| line.contains("payload: Error at ") || line.contains("key: Error at ");
        if kafka != zwirn && !(is_error(kafka) && is_error(zwirn)) {
            return Some(format!("line {}\nkafka: {kafka}\nzwirn: {zwirn}", i + 1));
        }
    }
    let (kafka, zwirn) = (theirs.out.lines().count(), ours.out.lines().count());
    if kafka != zwirn {
        return Some(format!("{kafka} lines of Kafka's, {zwirn} of ours"));
    }
    if theirs.code != ours.code {
        return Some(format!(
            "exit {:?} and {:?}\nkafka: {:?}\nzwirn: {:?}",
            theirs.code, ours.code, theirs.err, ours.err
        ));
    }
    let differs = theirs.err.iter().zip(&ours.err).find(|(kafka, zwirn)| kafka != zwirn);
    match differs {
        Some((kafka, zwirn)) => Some(format!("stderr\nkafka: {kafka}\nzwirn: {zwirn}")),
        None if theirs.err.len() != ours.err.len() => {
            Some(format!("stderr\nkafka: {:?}\nzwirn: {:?}", theirs.err, ours.err))
        }
        None => None,
    }
}
