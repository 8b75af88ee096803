//! `kafka-dump-log`: shows what the files of a partition's directory hold. Reads files only, no broker.

mod batches;
mod control;
mod decoder;
mod index;
mod segment;
mod state;

use std::collections::BTreeMap;
use std::path::Path;

use self::decoder::Decoder;
use crate::java::hash_order;
use crate::jopt::{Parsed, Stop, Usage, flag, optional, value};
use crate::terminal::Terminal;

const USAGE: Usage = Usage {
    about: "Shows what is in the files of a partition: batches and records, indexes, producers, snapshots.",
    examples: &[
        "zwirn dump-log --print-data-log --files /data/orders-0/00000000000000000000.log",
        "zwirn dump-log --index-sanity-check --files /data/orders-0/00000000000000000000.index",
    ],
    options: &[
        value(
            "files",
            "Files, separated by commas: .log, .checkpoint, .index, .timeindex, .snapshot, .txnindex. Required.",
        ),
        flag(
            "print-data-log",
            "Show keys and values too; includes --deep-iteration, and is included in every decoder.",
        ),
        flag("deep-iteration", "Show each record, not only batches."),
        flag("skip-record-metadata", "Show nothing of a record but its key and value; control records stay empty."),
        flag("index-sanity-check", "Only check indexes, as a broker does at its start."),
        flag("verify-index-only", "Compare indexes with the log, show differences only."),
        value("max-message-size", "Accepted; batches are read whole, whatever their size."),
        value("max-bytes", "Read so many bytes of each .log file at most."),
        optional("key-decoder-class", "StringDecoder (the default), IntegerDecoder or LongDecoder."),
        optional("value-decoder-class", "The same for values."),
        flag("offsets-decoder", "Records of __consumer_offsets, as JSON."),
        flag("transaction-log-decoder", "Records of __transaction_state, as JSON."),
        flag("share-group-state-decoder", "Records of __share_group_state, as JSON."),
        flag("cluster-metadata-decoder", "Records of __cluster_metadata and of its snapshots, as JSON."),
        flag("remote-log-metadata-decoder", "Records of __remote_log_metadata, which tiered storage writes."),
    ],
};

/// Set to `2.7`, the records look as books of that time show them.
const FORM_VARIABLE: &str = "ZWIRN_COMPAT_OUTPUT";

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub print_data: bool,
    pub deep: bool,
    pub skip_metadata: bool,
    pub sanity_only: bool,
    pub verify_only: bool,
    pub bytes_max: Option<u64>,
    pub decoder: Decoder,
    /// As Kafka 2.7 wrote it.
    pub old_form: bool,
}

/// What was found wrong, by file; told at the end, on stderr.
#[derive(Debug, Default)]
pub struct Findings {
    /// Index offset and the offset in the log.
    index_mismatches: BTreeMap<String, Vec<(i64, i64)>>,
    time_mismatches: BTreeMap<String, Vec<(i64, i64)>>,
    out_of_order: BTreeMap<String, Vec<(i64, i64)>>,
    not_found: BTreeMap<String, Vec<(i64, i64)>>,
    gaps: BTreeMap<String, Vec<(i64, i64)>>,
    /// Files that are not whole: where, and what is wrong there.
    damages: BTreeMap<String, Vec<(u64, String)>>,
}

/// A file that ends the tool: what the exception says.
pub struct Fatal(String);

impl Fatal {
    fn io(path: &Path, error: &std::io::Error) -> Fatal {
        let text = match error.kind() {
            std::io::ErrorKind::NotFound => format!("java.nio.file.NoSuchFileException: {}", path.display()),
            _ => format!("java.io.IOException: {}: {error}", path.display()),
        };
        Fatal(format!("Exception in thread \"main\" {text}"))
    }
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let (files, options) = match USAGE.parse(args, terminal).and_then(|parsed| read(&parsed)) {
        Ok(read) => read,
        Err(Stop::Message(message)) => return Stop::Usage(message).report(&USAGE, terminal),
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    dump(&files, options, terminal)
}

/// As Java writes a path: no doubled slashes, none at the end.
fn java_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("{}{}", if path.starts_with('/') { "/" } else { "" }, parts.join("/"))
}

/// Shows the files, one after the other.
pub fn dump(files: &[String], options: Options, terminal: &mut Terminal<'_>) -> u8 {
    let mut findings = Findings::default();
    for file in files {
        let file = java_path(file);
        terminal.line(format_args!("Dumping {file}"));
        if let Err(Fatal(message)) = dump_file(Path::new(&file), options, &mut findings, terminal) {
            terminal.error(message);
            return 1;
        }
    }
    findings.report(terminal);
    u8::from(!findings.damages.is_empty())
}

fn read(parsed: &Parsed) -> Result<(Vec<String>, Options), Stop> {
    parsed.require(&["files"])?;
    let files = parsed.get("files")?.unwrap_or_default().split(',').map(|file| file.trim().to_owned()).collect();
    let decoders = decoder::OPTIONS.iter().map(|(name, _)| *name);
    let shows_data = ["print-data-log", "key-decoder-class", "value-decoder-class"];
    let print_data = decoders.chain(shows_data).any(|name| parsed.has(name));
    parsed.number::<i32>("max-message-size")?;
    let bytes_max = parsed.number::<i32>("max-bytes")?.filter(|max| *max != i32::MAX);
    let options = Options {
        print_data,
        deep: print_data || parsed.has("deep-iteration"),
        skip_metadata: parsed.has("skip-record-metadata"),
        sanity_only: parsed.has("index-sanity-check"),
        verify_only: parsed.has("verify-index-only"),
        bytes_max: bytes_max.map(|max| u64::try_from(max).unwrap_or(0)),
        decoder: Decoder::of(parsed)?,
        old_form: std::env::var(FORM_VARIABLE).is_ok_and(|form| form == "2.7"),
    };
    Ok((files, options))
}

fn dump_file(path: &Path, options: Options, findings: &mut Findings, terminal: &mut Terminal<'_>) -> Result<(), Fatal> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("log" | "checkpoint") => segment::dump(path, options, findings, terminal),
        Some("index") => index::dump_offsets(path, options, findings, terminal),
        Some("timeindex") => index::dump_times(path, options, findings, terminal),
        Some("snapshot") => state::dump_producers(path, terminal),
        Some("txnindex") => state::dump_aborted(path, terminal),
        _ => {
            terminal.error(format_args!("Ignoring unknown file {}", path.display()));
            Ok(())
        }
    }
}

/// The offset in a file's name.
fn base_offset(path: &Path) -> Result<i64, Fatal> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let digits = name.split('.').next().unwrap_or_default();
    digits.parse().map_err(|_| {
        Fatal(format!("Exception in thread \"main\" java.lang.NumberFormatException: For input string: \"{digits}\""))
    })
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

impl Findings {
    fn damaged(&mut self, path: &Path, position: u64, what: String) {
        self.damages.entry(absolute(path)).or_default().push((position, what));
    }

    fn report(&self, terminal: &mut Terminal<'_>) {
        section(&self.index_mismatches, "Mismatches in :", terminal, |(index, log)| {
            format!("  Index offset: {index}, log offset: {log}")
        });
        section(&self.time_mismatches, "Found timestamp mismatch in :", terminal, |(index, log)| {
            format!("  Index timestamp: {index}, log timestamp: {log}")
        });
        section(&self.out_of_order, "Found out of order timestamp in :", terminal, |(index, previous)| {
            format!("  Index timestamp: {index}, Previously indexed timestamp: {previous}")
        });
        let mut files: Vec<&String> = self.not_found.keys().collect();
        hash_order(&mut files, |file| file, false);
        for file in files {
            terminal.error(format_args!("The following indexed offsets are not found in :{file}"));
            for (offset, found) in &self.not_found[file] {
                terminal.error(format_args!("Indexed offset: {offset}, found log offset: {found}"));
            }
        }
        section(&self.gaps, "Non-consecutive offsets in ", terminal, |(before, after)| {
            format!("  {before} is followed by {after}")
        });
        // DIFFERS: Kafka's tool ends where damage begins, with a stack trace; this one says where that is, goes on
        // behind it, and still exits with 1.
        for (file, damages) in &self.damages {
            terminal.error(format_args!("Damage in {file}"));
            for (position, what) in damages {
                terminal.error(format_args!("  position {position}: {what}"));
            }
        }
    }
}

fn section(
    found: &BTreeMap<String, Vec<(i64, i64)>>,
    title: &str,
    terminal: &mut Terminal<'_>,
    line: impl Fn(&(i64, i64)) -> String,
) {
    let mut files: Vec<&String> = found.keys().collect();
    hash_order(&mut files, |file| file, false);
    for file in files {
        terminal.error(format_args!("{title}{file}"));
        for pair in &found[file] {
            terminal.error(line(pair));
        }
    }
}

#[cfg(test)]
mod tests;
