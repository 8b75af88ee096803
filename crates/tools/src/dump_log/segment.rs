//! `.log` and `.checkpoint`: batches and their records.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use protocol::records::{Batch, BatchHeader, HEADER_LEN, LOG_OVERHEAD, Record, Scratch, TimestampType};

use super::{Fatal, Findings, Options, absolute, base_offset, control};
use crate::terminal::Terminal;

pub fn dump(path: &Path, options: Options, findings: &mut Findings, terminal: &mut Terminal<'_>) -> Result<(), Fatal> {
    title(path, terminal)?;
    let mut batches = FileBatches::open(path, options.bytes_max)?;
    let mut scratch = Scratch::default();
    let (mut previous, mut position) = (-1, 0);
    while let Some(bytes) = batches.next() {
        let Ok(batch) = Batch::parse(bytes) else { break };
        batch_line(&batch, position, terminal);
        position += bytes.len() as u64;
        if !options.deep {
            continue;
        }
        let broken = |error| {
            Fatal(format!("{}: the batch at offset {} is broken: {error}", path.display(), batch.header.base_offset))
        };
        for record in batch.records(&mut scratch).map_err(broken)? {
            let record = record.map_err(broken)?;
            if record.offset != previous + 1 {
                findings.gaps.entry(absolute(path)).or_default().push((previous, record.offset));
            }
            previous = record.offset;
            record_line(&batch.header, &record, options, terminal);
        }
    }
    let left = batches.len - position.min(batches.len);
    if left > 0 && options.bytes_max.is_none() {
        let name = path.file_name().unwrap_or_default().display();
        terminal.line(format_args!("Found {left} invalid bytes at the end of {name}"));
    }
    Ok(())
}

fn title(path: &Path, terminal: &mut Terminal<'_>) -> Result<(), Fatal> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.ends_with(".log") {
        terminal.line(format_args!("Log starting offset: {}", base_offset(path)?));
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

/// The batches of a file, one in memory at a time.
pub struct FileBatches {
    reader: BufReader<File>,
    buffer: Vec<u8>,
    len: u64,
    left: u64,
}

impl FileBatches {
    pub fn open(path: &Path, bytes_max: Option<u64>) -> Result<FileBatches, Fatal> {
        let file = File::open(path).map_err(|error| Fatal::io(path, &error))?;
        let len = file.metadata().map_err(|error| Fatal::io(path, &error))?.len();
        let len = bytes_max.map_or(len, |max| len.min(max));
        Ok(FileBatches { reader: BufReader::with_capacity(1 << 16, file), buffer: Vec::new(), len, left: len })
    }

    /// `None` where the file ends or holds no whole batch of format 2.
    pub fn next(&mut self) -> Option<&[u8]> {
        let mut overhead = [0; LOG_OVERHEAD];
        if self.left < LOG_OVERHEAD as u64 || self.reader.read_exact(&mut overhead).is_err() {
            return None;
        }
        let length = i32::from_be_bytes([overhead[8], overhead[9], overhead[10], overhead[11]]);
        let size = u64::try_from(length).ok()? + LOG_OVERHEAD as u64;
        if size > self.left || size < HEADER_LEN as u64 {
            return None;
        }
        self.left -= size;
        self.buffer.clear();
        self.buffer.extend_from_slice(&overhead);
        let rest = u64::try_from(length).ok()?;
        self.reader.by_ref().take(rest).read_to_end(&mut self.buffer).ok()?;
        (self.buffer.len() as u64 == size).then_some(&self.buffer)
    }
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

fn batch_line(batch: &Batch<'_>, position: u64, terminal: &mut Terminal<'_>) {
    let header = &batch.header;
    let codec = header.compression().map_or("unknown", |codec| codec.name());
    terminal.line(format_args!(
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
         partitionLeaderEpoch: {} isTransactional: {} isControl: {} deleteHorizonMs: {} position: {position} {}: {} \
         size: {} magic: 2 compresscodec: {codec} crc: {} isvalid: {}",
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
        optional_long(header.delete_horizon_ms()),
        timestamp_name(header.timestamp_type()),
        header.max_timestamp,
        header.size(),
        header.crc,
        batch.verify_crc().is_ok(),
    ));
}

fn record_line(header: &BatchHeader, record: &Record<'_>, options: Options, terminal: &mut Terminal<'_>) {
    let mut line = String::new();
    let size = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
    if !options.skip_metadata {
        let keys: Vec<String> =
            record.headers.clone().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
        line = format!(
            "| offset: {} {}: {} keySize: {} valueSize: {} sequence: {} headerKeys: [{}]",
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
    if options.print_data && !header.is_control() {
        let mut prefix = if options.skip_metadata { "| " } else { " " };
        if let Some(key) = record.key {
            line.push_str(&format!("{prefix}key: {}", String::from_utf8_lossy(key)));
            prefix = " ";
        }
        if let Some(value) = record.value {
            line.push_str(&format!("{prefix}payload: {}", String::from_utf8_lossy(value)));
        }
    }
    terminal.line(line);
}
