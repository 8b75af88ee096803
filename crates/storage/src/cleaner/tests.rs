//! Passes over small logs: what stays, what goes, and a process that dies at every step of it.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use protocol::records::{BatchBuilder, BatchSpec, Batches, Compression, ControlRecordType, Scratch, control_key};
use protocol::time::Now;

use super::{CleanLimits, CleanStep};
use crate::disk::{DirEntry, Disk, DiskFile, DiskRef, FileRef, OpenMode};
use crate::mem::MemDisk;
use crate::{AppendOrigin, Evidence, Log, LogConfig, OpenOptions};

const DIR: &str = "/logs/t-0";
const LIMITS: CleanLimits = CleanLimits { map_bytes: 1 << 20, load_factor: 0.9, io_bytes: 300 };
const BEGIN_MS: i64 = 1_700_000_000_000;

fn at(ms: i64) -> Now {
    Now { mono_ms: ms, wall_ms: BEGIN_MS + ms }
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 1200,
        index_interval_bytes: 100,
        index_bytes: 400,
        compact: true,
        delete: false,
        min_cleanable_ratio: 0.0,
        delete_retention_ms: 1000,
        ..LogConfig::default()
    }
}

fn open(disk: DiskRef, evidence: Evidence) -> Log {
    let options = OpenOptions { topic_id: None, evidence, recovery_point: 0, log_start_offset: 0, now: at(0) };
    Log::open(disk, Path::new(DIR), config(), &options).expect("opens")
}

#[derive(Clone, Copy)]
struct Producer {
    id: i64,
    sequence: i32,
    transactional: bool,
}

/// Appends one batch; a value that is `None` is a tombstone.
fn put(log: &mut Log, producer: Producer, compression: Compression, records: &[(&str, Option<&str>)]) -> i64 {
    let mut batch = BatchBuilder::new(BatchSpec {
        compression,
        producer_id: producer.id,
        producer_epoch: if producer.id < 0 { -1 } else { 0 },
        base_sequence: producer.sequence,
        transactional: producer.transactional,
        ..Default::default()
    });
    for (i, (key, value)) in records.iter().enumerate() {
        let header: (&[u8], Option<&[u8]>) = (b"h", Some(b"x"));
        batch.append(BEGIN_MS + i as i64, Some(key.as_bytes()), value.map(str::as_bytes), &[header]);
    }
    log.append_as_leader(&mut batch.build(), 0, AppendOrigin::Internal, at(0)).expect("taken").first_offset
}

const NOBODY: Producer = Producer { id: -1, sequence: -1, transactional: false };

fn put_one(log: &mut Log, key: &str, value: Option<&str>) {
    put(log, NOBODY, Compression::None, &[(key, value)]);
}

fn end_transaction(log: &mut Log, id: i64, kind: ControlRecordType) {
    let mut batch = BatchBuilder::new(BatchSpec {
        producer_id: id,
        producer_epoch: 0,
        transactional: true,
        control: true,
        ..Default::default()
    });
    batch.append(BEGIN_MS, Some(&control_key(kind)), Some(&[0; 6]), &[]);
    log.append_as_leader(&mut batch.build(), 0, AppendOrigin::Internal, at(0)).expect("taken");
}

fn roll(log: &mut Log) {
    log.roll(log.end_offset(), at(0)).expect("rolls");
}

/// One pass; whether there was anything to do.
fn clean(log: &mut Log, now: Now) -> io::Result<bool> {
    let end = log.end_offset();
    let stable = log.last_stable_offset(end);
    let Some(found) = log.cleanable(stable, now)?.filter(|found| found.is_due) else { return Ok(false) };
    let mut work = log.begin_cleaning(&found, LIMITS, now);
    loop {
        match work.run(&mut |_| {})? {
            CleanStep::Rewritten(rewritten) => assert!(log.swap_in(&mut work, &rewritten, now)?),
            CleanStep::Finished { end_offset } => {
                assert!(log.on_cleaned(&work, end_offset));
                return Ok(true);
            }
            CleanStep::Cancelled => panic!("nobody cancelled"),
        }
    }
}

type Found = Vec<(i64, String, Option<String>)>;

/// Every data record, in order.
fn records(log: &mut Log) -> Found {
    let mut found = Vec::new();
    for batch in batches(log) {
        let batch = protocol::records::Batch::parse(&batch).expect("whole");
        batch.verify_crc().expect("sound");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if batch.header.is_control() {
            continue;
        }
        for record in batch.records(&mut Scratch::default()).expect("readable") {
            let record = record.expect("readable");
            assert_eq!(record.headers.len(), 1);
            found.push((record.offset, text(record.key.expect("keyed")), record.value.map(text)));
        }
    }
    found
}

fn batches(log: &mut Log) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut offset = log.log_start_offset();
    while offset < log.end_offset() {
        let bytes = log.read(offset, 1 << 20, true, None).expect("in range").bytes().expect("memory");
        for batch in Batches::new(&bytes) {
            let batch = batch.expect("valid");
            offset = batch.header.next_offset();
            out.push(batch.bytes.to_vec());
        }
        if bytes.is_empty() {
            break;
        }
    }
    out
}

fn latest(found: &Found) -> BTreeMap<String, (i64, Option<String>)> {
    found.iter().map(|(offset, key, value)| (key.clone(), (*offset, value.clone()))).collect()
}

fn memory() -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("memory");
    disk
}

fn fill(log: &mut Log) {
    let codecs = [Compression::None, Compression::Zstd, Compression::Lz4, Compression::Gzip, Compression::Snappy];
    for i in 0..60 {
        let keys: Vec<String> = (0..4).map(|j| format!("k{}", (i * 7 + j * 3) % 17)).collect();
        let value = format!("v{i}");
        let records: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(value.as_str()))).collect();
        put(log, Producer { id: 7, sequence: i * 4, transactional: false }, codecs[i as usize % 5], &records);
    }
    put_one(log, "k3", None);
    roll(log);
}

#[test]
fn the_latest_record_of_each_key_stays_under_its_offset() {
    let disk: DiskRef = Arc::new(memory());
    let mut log = open(disk.clone(), Evidence::CleanShutdown);
    fill(&mut log);
    let (before, segments) = (records(&mut log), log.segment_count());
    assert!(segments > 5);
    assert!(clean(&mut log, at(0)).expect("clean"));
    let after = records(&mut log);
    assert_eq!(latest(&after), latest(&before));
    // Sixteen values and the tombstone; nothing else. The batch that holds the producer's last sequence stays anyway.
    assert_eq!(after.len(), 17);
    assert_eq!(log.cleaned_upto(), Some(log.end_offset()));
    assert!(!clean(&mut log, at(0)).expect("clean"), "nothing is dirty any more");
    // What has become small is merged by the next pass.
    put_one(&mut log, "k0", Some("last"));
    roll(&mut log);
    assert!(clean(&mut log, at(0)).expect("clean"));
    assert!(log.segment_count() < segments / 2);
    let after = records(&mut log);
    assert_eq!(after.len(), 17);
    log.close().expect("closes");
    let mut again = open(disk, Evidence::Unknown);
    assert_eq!(records(&mut again), after);
    assert_eq!(again.producers().entries()[&7].batches.back().map(|b| b.last_sequence), Some(239));
}

#[test]
fn a_tombstone_goes_a_retention_after_the_pass_that_saw_it() {
    let mut log = open(Arc::new(memory()), Evidence::CleanShutdown);
    put_one(&mut log, "a", Some("1"));
    put_one(&mut log, "a", None);
    put_one(&mut log, "b", Some("1"));
    roll(&mut log);
    assert!(clean(&mut log, at(0)).expect("clean"));
    assert_eq!(latest(&records(&mut log))["a"], (1, None));
    let horizon = |log: &mut Log| {
        let all = batches(log);
        let header = protocol::records::BatchHeader::parse(&all[0]).expect("a batch");
        (header.delete_horizon_ms(), header.max_timestamp)
    };
    assert_eq!(horizon(&mut log), (Some(BEGIN_MS + 1000), BEGIN_MS));
    for (now, is_there) in [(999, true), (1000, false)] {
        put_one(&mut log, "c", Some("1"));
        roll(&mut log);
        assert!(clean(&mut log, at(now)).expect("clean"));
        assert_eq!(latest(&records(&mut log)).contains_key("a"), is_there, "{now}");
    }
}

#[test]
fn aborted_data_goes_and_markers_stay_until_it_is_gone() {
    let mut log = open(Arc::new(memory()), Evidence::CleanShutdown);
    let txn = |id, sequence| Producer { id, sequence, transactional: true };
    put(&mut log, txn(1, 0), Compression::None, &[("a", Some("committed"))]);
    put(&mut log, txn(2, 0), Compression::None, &[("a", Some("aborted")), ("z", Some("aborted"))]);
    end_transaction(&mut log, 1, ControlRecordType::Commit);
    end_transaction(&mut log, 2, ControlRecordType::Abort);
    put(&mut log, txn(1, 1), Compression::None, &[("b", Some("open"))]);
    roll(&mut log);
    put_one(&mut log, "c", Some("1"));
    roll(&mut log);
    let end = log.end_offset();
    log.on_high_watermark(end);
    assert!(!clean(&mut log, at(0)).expect("clean"), "the open transaction lies in the first segment");
    end_transaction(&mut log, 1, ControlRecordType::Commit);
    let end = log.end_offset();
    log.on_high_watermark(end);
    assert!(clean(&mut log, at(0)).expect("clean"));
    let found = records(&mut log);
    let keys: Vec<&str> = found.iter().map(|(_, key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    let control = |log: &mut Log| -> Vec<i64> {
        let all = batches(log);
        let headers = all.iter().map(|b| protocol::records::BatchHeader::parse(b).expect("a batch"));
        headers.filter(|h| h.is_control()).map(|h| h.base_offset).collect()
    };
    assert_eq!(control(&mut log), [3, 4, 7]);
    assert_eq!(log.aborted_transactions(0, 100).expect("memory").len(), 1);
    // While producer 2 is remembered, an empty batch keeps its sequence, and the marker its transaction.
    let day = 86_400_000;
    let (all, rest) = ([3, 4, 7], [3, 7]);
    for (now, markers, indexed) in
        [(10, &all[..], 1), (day, &all, 1), (day + 10, &all, 0), (day + 1009, &all, 0), (day + 1010, &rest, 0)]
    {
        log.expire_producers(at(now));
        put_one(&mut log, "c", Some("2"));
        roll(&mut log);
        assert!(clean(&mut log, at(now)).expect("clean"));
        assert_eq!(control(&mut log), markers, "{now}");
        assert_eq!(log.aborted_transactions(0, 100).expect("memory").len(), indexed, "{now}");
    }
}

#[test]
fn a_map_that_is_full_cleans_a_part_and_the_next_pass_goes_on() {
    let mut log = open(Arc::new(memory()), Evidence::CleanShutdown);
    fill(&mut log);
    let before = latest(&records(&mut log));
    let limits = CleanLimits { map_bytes: 24 * 8, ..LIMITS };
    for _ in 0..60 {
        let end = log.end_offset();
        let Some(found) = log.cleanable(end, at(0)).expect("readable").filter(|f| f.is_due) else { break };
        let mut work = log.begin_cleaning(&found, limits, at(0));
        while let CleanStep::Rewritten(new) = work.run(&mut |_| {}).expect("memory") {
            assert!(log.swap_in(&mut work, &new, at(0)).expect("memory"));
        }
        let CleanStep::Finished { end_offset } = work.run(&mut |_| {}).expect("memory") else { panic!("no end") };
        assert!(log.on_cleaned(&work, end_offset));
        assert_eq!(latest(&records(&mut log)), before);
    }
    assert_eq!(log.cleaned_upto(), Some(log.end_offset()));
}

#[test]
fn a_log_that_is_cut_meanwhile_keeps_what_it_has() {
    let disk = memory();
    let mut log = open(Arc::new(disk.clone()), Evidence::CleanShutdown);
    fill(&mut log);
    let end = log.end_offset();
    let found = log.cleanable(end, at(0)).expect("readable").expect("dirty");
    let mut work = log.begin_cleaning(&found, LIMITS, at(0));
    let CleanStep::Rewritten(new) = work.run(&mut |_| {}).expect("memory") else { panic!("no group") };
    log.truncate_to(100, at(0)).expect("memory");
    let before = records(&mut log);
    assert!(!log.swap_in(&mut work, &new, at(0)).expect("memory"));
    assert!(matches!(work.run(&mut |_| {}).expect("memory"), CleanStep::Cancelled));
    assert_eq!(records(&mut log), before);
    let left = disk.read_dir(Path::new(DIR)).expect("memory");
    assert!(left.iter().all(|entry| !entry.name.ends_with(".cleaned")), "{left:?}");
}

/// A disk on which a number of changes still succeed, and then none: a process that is killed.
#[derive(Clone)]
struct Fuse {
    disk: MemDisk,
    left: Arc<AtomicI64>,
}

struct FuseFile(FileRef, Arc<AtomicI64>);

fn spend(left: &AtomicI64) -> io::Result<()> {
    if left.fetch_sub(1, Ordering::Relaxed) > 0 { Ok(()) } else { Err(io::Error::other("killed")) }
}

impl Disk for Fuse {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<FileRef> {
        if matches!(mode, OpenMode::Create | OpenMode::Truncate) {
            spend(&self.left)?;
        }
        Ok(Arc::new(FuseFile(self.disk.open(path, mode)?, self.left.clone())))
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.read_dir(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        spend(&self.left)?;
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        spend(&self.left)?;
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn set_read_only(&self, path: &Path) -> io::Result<()> {
        self.disk.set_read_only(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }
    fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.disk.space(path)
    }
}

impl DiskFile for FuseFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buf, at)
    }
    fn write_at(&self, bufs: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        spend(&self.1)?;
        self.0.write_at(bufs, at)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        spend(&self.1)?;
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn preallocate(&self, end: u64) -> io::Result<()> {
        self.0.preallocate(end)
    }
    fn raw_fd(&self) -> Option<i32> {
        None
    }
}

#[test]
fn a_process_that_dies_at_any_step_leaves_a_log_that_is_whole() {
    let mut steps = 0;
    for step in 0.. {
        let disk = memory();
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let mut log = open(Arc::new(Fuse { disk: disk.clone(), left: left.clone() }), Evidence::CleanShutdown);
        fill(&mut log);
        let before = latest(&records(&mut log));
        log.flush_now().expect("memory");
        left.store(step, Ordering::Relaxed);
        let died = clean(&mut log, at(0)).is_err();
        drop(log);
        let evidence = if step % 2 == 0 { Evidence::SameBoot } else { Evidence::Unknown };
        let mut log = open(Arc::new(disk.clone()), evidence);
        assert_eq!(latest(&records(&mut log)), before, "killed at step {step}");
        assert_eq!(log.end_offset(), 241, "killed at step {step}");
        assert_eq!(log.producers().entries()[&7].batches.back().map(|b| b.last_sequence), Some(239));
        let names: Vec<String> =
            disk.read_dir(Path::new(DIR)).expect("memory").into_iter().map(|entry| entry.name).collect();
        let is_temporary = |name: &String| [".cleaned", ".swap", ".deleted"].iter().any(|s| name.ends_with(s));
        assert!(!names.iter().any(is_temporary), "killed at step {step}: {names:?}");
        while clean(&mut log, at(0)).expect("clean") {}
        assert_eq!(latest(&records(&mut log)), before, "cleaned again after step {step}");
        assert_eq!(records(&mut log).len(), 17);
        steps += 1;
        if !died {
            break;
        }
    }
    assert!(steps > 50, "only {steps} steps");
    println!("{steps} steps");
}
