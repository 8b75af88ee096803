//! `.log` and `.checkpoint`: batches and their records.

use std::path::Path;

use protocol::records::{Batch, BatchHeader, Record, Scratch, TimestampType};

use super::batches::FileBatches;
use super::{Fatal, Findings, Options, absolute, base_offset, control};
use crate::terminal::Terminal;

pub fn dump(path: &Path, options: Options, findings: &mut Findings, terminal: &mut Terminal<'_>) -> Result<(), Fatal> {
    title(path, options, terminal)?;
    let mut batches = FileBatches::open(path, options.bytes_max)?;
    let mut scratch = Scratch::default();
    let mut previous = -1;
    loop {
        let position = batches.position();
        let parsed = batches.next().map(Batch::parse);
        let batch = match parsed {
            Some(Ok(batch)) => batch,
            other => {
                let why = other.map_or_else(
                    || "no batch".to_owned(),
                    |parsed| parsed.err().map_or(String::new(), |e| e.to_string()),
                );
                // What lies behind damage is worth seeing.
                let Some(next) = batches.skip_damage(position) else { break };
                findings.damaged(path, position, format!("{why}; the next whole batch is at position {next}"));
                continue;
            }
        };
        batch_line(&batch, position, options, terminal);
        if !options.deep {
            continue;
        }
        if let Err(why) = records(path, &batch, &mut scratch, &mut previous, options, findings, terminal) {
            let offset = batch.header.base_offset;
            findings.damaged(path, position, format!("the batch at offset {offset} is broken: {why}"));
        }
    }
    let left = batches.left();
    if left > 0 && options.bytes_max.is_none() {
        let name = path.file_name().unwrap_or_default().display();
        terminal.line(format_args!("Found {left} invalid bytes at the end of {name}"));
    }
    Ok(())
}

fn records(
    path: &Path,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    previous: &mut i64,
    options: Options,
    findings: &mut Findings,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    for record in batch.records(scratch).map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        if record.offset != *previous + 1 {
            findings.gaps.entry(absolute(path)).or_default().push((*previous, record.offset));
        }
        *previous = record.offset;
        record_line(&batch.header, &record, options, terminal)?;
    }
    Ok(())
}

fn title(path: &Path, options: Options, terminal: &mut Terminal<'_>) -> Result<(), Fatal> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.ends_with(".log") {
        let words = if options.old_form { "Starting offset" } else { "Log starting offset" };
        terminal.line(format_args!("{words}: {}", base_offset(path)?));
    } else if name == "bootstrap.checkpoint" {
        terminal.line("KRaft bootstrap snapshot");
    } else {
        let stem = name.strip_suffix(".checkpoint").unwrap_or(name);
        let id = stem
            .split_once('-')
            .and_then(|(offset, epoch)| Some((offset.parse::<i64>().ok()?, epoch.parse::<i32>().ok()?)));
        let (offset, epoch) = id.ok_or_else(|| Fatal(format!("{name} is no name of a snapshot")))?;
        terminal.line(format_args!("Snapshot end offset: {offset}, epoch: {epoch}"));
    }
    Ok(())
}

fn optional_long(value: Option<i64>) -> String {
    value.map_or_else(|| "OptionalLong.empty".to_owned(), |value| format!("OptionalLong[{value}]"))
}

fn timestamp_name(kind: TimestampType) -> &'static str {
    match kind {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn batch_line(batch: &Batch<'_>, position: u64, options: Options, terminal: &mut Terminal<'_>) {
    let header = &batch.header;
    let codec = header.compression().map_or("unknown", |codec| codec.name());
    let (horizon, codec) = match options.old_form {
        true => (String::new(), codec.to_uppercase()),
        false => (format!(" deleteHorizonMs: {}", optional_long(header.delete_horizon_ms())), codec.to_owned()),
    };
    terminal.line(format_args!(
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
         partitionLeaderEpoch: {} isTransactional: {} isControl: {}{horizon} position: {position} {}: {} size: {} \
         magic: 2 compresscodec: {codec} crc: {} isvalid: {}",
        header.base_offset,
        header.last_offset(),
        header.records_count,
        header.base_sequence,
        header.last_sequence(),
        header.producer_id,
        header.producer_epoch,
        header.partition_leader_epoch,
        header.is_transactional(),
        header.is_control(),
        timestamp_name(header.timestamp_type()),
        header.max_timestamp,
        header.size(),
        header.crc,
        batch.verify_crc().is_ok(),
    ));
}

fn record_line(
    header: &BatchHeader,
    record: &Record<'_>,
    options: Options,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    let mut line = String::new();
    let size = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
    if !options.skip_metadata {
        let keys: Vec<String> =
            record.headers.clone().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
        let (key_size, value_size) = if options.old_form { ("keysize", "valuesize") } else { ("keySize", "valueSize") };
        line = format!(
            "| offset: {} {}: {} {key_size}: {} {value_size}: {} sequence: {} headerKeys: [{}]",
            record.offset,
            timestamp_name(header.timestamp_type()),
            record.timestamp,
            size(record.key),
            size(record.value),
            record.sequence,
            keys.join(",")
        );
        if header.is_control() {
            line.push_str(&control::text(record));
        }
    }
    let mut wrong = None;
    if options.print_data && !header.is_control() {
        let mut prefix = if options.skip_metadata { "| " } else { " " };
        let (key, value) = options.decoder.show(record).unwrap_or_else(|why| {
            wrong = Some(format!("offset {}: {why}", record.offset));
            (None, None)
        });
        if let Some(key) = key {
            line.push_str(&format!("{prefix}key: {key}"));
            prefix = " ";
        }
        if let Some(value) = value {
            line.push_str(&format!("{prefix}payload: {value}"));
        }
    }
    terminal.line(line);
    wrong.map_or(Ok(()), Err)
}
