//! `kafka-dump-log`: shows what the files of a partition's directory hold. Reads files only, no broker.

mod control;
mod index;
mod segment;
mod state;

use std::collections::BTreeMap;
use std::path::Path;

use crate::java::hash_order;
use crate::jopt::{Stop, Usage, flag, value};
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
        flag("print-data-log", "Show keys and values too; includes --deep-iteration."),
        flag("deep-iteration", "Show each record, not only batches."),
        flag("skip-record-metadata", "Show nothing of a record but its key and value."),
        flag("index-sanity-check", "Only check indexes, as a broker does at its start."),
        flag("verify-index-only", "Compare indexes with the log, show differences only."),
        value("max-message-size", "Accepted; batches are read whole, whatever their size."),
        value("max-bytes", "Read so many bytes of each .log file at most."),
        value("key-decoder-class", "Kafka's StringDecoder (the default) only."),
        value("value-decoder-class", "The same for values."),
    ],
};

const DECODERS: &[&str] = &["StringDecoder", "DefaultDecoder"];

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub print_data: bool,
    pub deep: bool,
    pub skip_metadata: bool,
    pub sanity_only: bool,
    pub verify_only: bool,
    pub bytes_max: Option<u64>,
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
    0
}

fn read(parsed: &crate::jopt::Parsed) -> Result<(Vec<String>, Options), Stop> {
    parsed.require(&["files"])?;
    for decoder in ["key-decoder-class", "value-decoder-class"] {
        let class = parsed.get(decoder)?.unwrap_or("StringDecoder");
        if !DECODERS.contains(&class.rsplit('.').next().unwrap_or(class)) {
            return Err(Stop::Message(format!("--{decoder} {class}: only Kafka's StringDecoder is built in")));
        }
    }
    let files = parsed.get("files")?.unwrap_or_default().split(',').map(|file| file.trim().to_owned()).collect();
    let print_data = parsed.has("print-data-log");
    let options = Options {
        print_data,
        deep: print_data || parsed.has("deep-iteration"),
        skip_metadata: parsed.has("skip-record-metadata"),
        sanity_only: parsed.has("index-sanity-check"),
        verify_only: parsed.has("verify-index-only"),
        bytes_max: parsed.number("max-bytes")?,
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
        if !self.not_found.is_empty() {
            terminal.error("The following indexed offsets are not found in the log.");
            for (offset, found) in self.not_found.values().flatten() {
                terminal.error(format_args!("Indexed offset: {offset}, found log offset: {found}"));
            }
        }
        section(&self.gaps, "Non-consecutive offsets in ", terminal, |(before, after)| {
            format!("  {before} is followed by {after}")
        });
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
