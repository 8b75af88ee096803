//! Logs that Kafka wrote, damage of every kind, and a long random life against a simple model.

use std::io::IoSlice;
use std::path::Path;

use protocol::error::ErrorCode;
use protocol::records::{Batch, BatchBuilder, BatchSpec, Batches, ControlRecordType, crc32c, end_txn_marker};
use protocol::time::Now;

use crate::disk::{Disk, DiskRef, OpenMode};
use crate::mem::MemDisk;
use crate::{AppendOrigin, Evidence, Log, LogConfig, OpenOptions, Verification};

const DIR: &str = "/logs/t-0";
const CLIENT: AppendOrigin = AppendOrigin::Client(Verification::Open);
const NOW: Now = Now { mono_ms: 0, wall_ms: 1_700_000_100_000 };

fn open(disk: &MemDisk, config: &LogConfig, evidence: Evidence) -> Log {
    open_at(disk, config, evidence, NOW)
}

fn open_at(disk: &MemDisk, config: &LogConfig, evidence: Evidence, now: Now) -> Log {
    let disk: DiskRef = std::sync::Arc::new(disk.clone());
    let options = OpenOptions { topic_id: None, evidence, recovery_point: 0, log_start_offset: 0, now };
    Log::open(disk, Path::new(DIR), config.clone(), &options).expect("opens")
}

fn put(disk: &MemDisk, name: &str, bytes: &[u8]) {
    let file = disk.open(&Path::new(DIR).join(name), OpenMode::Truncate).expect("a file in memory");
    file.write_at(&mut [IoSlice::new(bytes)], 0).expect("memory");
}

fn golden(name: &str) -> (MemDisk, Vec<(String, Vec<u8>)>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("memory");
    let mut files = Vec::new();
    for entry in crate::real::RealDisk.read_dir(&dir).expect("golden directory") {
        let bytes = crate::real::RealDisk.read(&dir.join(&entry.name)).expect("golden file");
        put(&disk, &entry.name, &bytes);
        files.push((entry.name, bytes));
    }
    (disk, files)
}

/// The settings with which the directory `segments` was recorded.
fn small_segments() -> LogConfig {
    LogConfig { index_bytes: 600, index_interval_bytes: 150, segment_bytes: 1 << 20, ..LogConfig::default() }
}

fn read_all(log: &mut Log) -> Vec<u8> {
    let mut out = Vec::new();
    let mut offset = log.log_start_offset();
    while offset < log.end_offset() {
        let bytes = log.read(offset, 1 << 20, true, None).expect("in range").bytes().expect("memory");
        let last = Batches::new(&bytes).last().expect("progress").expect("valid");
        offset = last.header.next_offset();
        let whole = bytes.len() - {
            let mut b = Batches::new(&bytes);
            b.by_ref().for_each(drop);
            b.rest().len()
        };
        out.extend_from_slice(&bytes[..whole]);
    }
    out
}

#[test]
fn what_kafka_derived_is_derived_again_to_the_byte() {
    for name in ["segments", "transactions", "idempotent", "epochs"] {
        let config = if name == "segments" { small_segments() } else { LogConfig::default() };
        let (disk, files) = golden(name);
        let last_snapshot = files.iter().filter(|(n, _)| n.ends_with(".snapshot")).map(|(n, _)| n).max();
        // The log `epochs` was loaded from its earlier snapshot when all who are in that had long expired.
        let (kept, now) = match name {
            "epochs" => ("00000000000000000006.snapshot", Now { mono_ms: 0, wall_ms: NOW.wall_ms + 7 * 86_400_000 }),
            _ => ("", NOW),
        };
        let derived = |n: &str| !n.ends_with(".log") && n != "partition.metadata" && n != kept;
        for (file, _) in files.iter().filter(|(n, _)| derived(n)) {
            disk.remove_file(&Path::new(DIR).join(file)).expect("was put there");
        }
        let mut log = open_at(&disk, &config, Evidence::Unknown, now);
        log.close().expect("memory");
        for (file, bytes) in files.iter().filter(|(n, _)| derived(n)) {
            if file.ends_with(".snapshot") && Some(file) != last_snapshot {
                continue;
            }
            let again = disk.read(&Path::new(DIR).join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
            if file.ends_with(".snapshot") {
                // Kafka writes the entries in the order of a hash map.
                assert_eq!(snapshot_entries(&again), snapshot_entries(bytes), "{name}/{file}");
                continue;
            }
            assert_eq!(again, *bytes, "{name}/{file}");
        }
    }
}

fn snapshot_entries(bytes: &[u8]) -> Vec<&[u8]> {
    let mut entries: Vec<&[u8]> = bytes[10..].chunks(46).collect();
    entries.sort();
    entries
}

#[test]
fn a_clean_directory_of_kafka_is_opened_as_it_is() {
    let (disk, files) = golden("segments");
    let mut log = open(&disk, &small_segments(), Evidence::CleanShutdown);
    assert_eq!((log.log_start_offset(), log.end_offset(), log.segment_count()), (0, 300, 4));
    let logs: Vec<u8> = files.iter().filter(|(n, _)| n.ends_with(".log")).flat_map(|(_, b)| b.clone()).collect();
    assert_eq!(read_all(&mut log), logs);
    assert_eq!(log.read(98, 1, true, None).expect("in range").base_offset, 98);
    assert_eq!(log.read(99, 1, true, None).expect("the next segment").base_offset, 99);
    let (disk, _) = golden("transactions");
    let mut log = open(&disk, &LogConfig::default(), Evidence::CleanShutdown);
    assert_eq!(log.end_offset(), 16);
    let aborted = log.aborted_transactions(0, 16).expect("memory");
    assert_eq!(aborted.len(), 2);
    assert!(log.last_stable_offset(16) < 16, "one transaction is open");
}

#[test]
fn a_torn_tail_is_cut_at_the_last_whole_batch() {
    let (disk, files) = golden("idempotent");
    let bytes = &files.iter().find(|(n, _)| n.ends_with(".log")).expect("a log").1;
    let ends: Vec<(usize, i64)> = {
        let mut at = 0;
        let batch_end = |b: Batch<'_>| {
            at += b.bytes.len();
            (at, b.header.next_offset())
        };
        Batches::new(bytes).map(|b| b.expect("valid")).map(batch_end).collect()
    };
    for evidence in [Evidence::SameBoot, Evidence::Unknown] {
        for len in 0..bytes.len() {
            put(&disk, "00000000000000000000.log", &bytes[..len]);
            let mut log = open(&disk, &small_segments(), evidence);
            let (size, next) = ends.iter().rev().find(|(end, _)| *end <= len).copied().unwrap_or((0, 0));
            assert_eq!((log.size_bytes() as usize, log.end_offset()), (size, next), "cut at {len}");
            log.close().expect("memory");
        }
        let mut flipped = bytes.clone();
        let at = ends[ends.len() - 2].0 + 30;
        flipped[at] ^= 0x40;
        put(&disk, "00000000000000000000.log", &flipped);
        assert_eq!(open(&disk, &small_segments(), evidence).end_offset(), ends[ends.len() - 2].1);
        put(&disk, "00000000000000000000.log", bytes);
    }
}

fn batch(producer: i64, sequence: i32, count: i32, size: usize) -> Vec<u8> {
    let spec = BatchSpec { producer_id: producer, producer_epoch: 0, base_sequence: sequence, ..BatchSpec::default() };
    let mut builder = BatchBuilder::new(spec);
    for i in 0..count {
        builder.append(NOW.wall_ms + i64::from(i), None, Some(&vec![b'x'; size]), &[]);
    }
    builder.build()
}

#[test]
fn retries_are_recognised_and_gaps_refused() {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("memory");
    let mut log = open(&disk, &LogConfig::default(), Evidence::CleanShutdown);
    let append = |log: &mut Log, sequence| log.append_as_leader(&mut batch(7, sequence, 2, 10), 0, CLIENT, NOW);
    for i in 0..8 {
        let info = append(&mut log, 2 * i).expect("in order");
        assert_eq!((info.first_offset, info.is_duplicate), (2 * i64::from(i), false));
    }
    let again = append(&mut log, 8).expect("among the last five");
    assert_eq!((again.first_offset, again.last_offset, again.is_duplicate), (8, 9, true));
    assert!(append(&mut log, 4).is_err(), "older than the last five");
    assert!(append(&mut log, 18).is_err(), "a gap");
    // The state comes back from the batches, a snapshot or not.
    drop(log);
    let mut log = open(&disk, &LogConfig::default(), Evidence::SameBoot);
    assert!(append(&mut log, 8).expect("recognised after a restart").is_duplicate);
    assert!(append(&mut log, 18).is_err());
    assert!(!append(&mut log, 16).expect("goes on").is_duplicate);
}

#[test]
fn a_long_random_life_matches_a_model() {
    for seed in 0..20 {
        random_life(seed);
    }
}

/// The model is the list of batches that should be there.
fn random_life(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("memory");
    let config = LogConfig { segment_bytes: 4000, index_interval_bytes: 200, index_bytes: 400, ..LogConfig::default() };
    let mut log = open(&disk, &config, Evidence::CleanShutdown);
    let mut model: Vec<Vec<u8>> = Vec::new();
    let mut epoch = 0;
    for _ in 0..300 {
        match rng.u32(0..20) {
            0 => {
                log.close().expect("memory");
                log = open(&disk, &config, Evidence::CleanShutdown);
            }
            1 => log = open(&disk, &config, Evidence::SameBoot),
            2 => log = open(&disk, &config, Evidence::Unknown),
            3 if !model.is_empty() => {
                let keep = rng.usize(0..model.len());
                let offset = Batch::parse(&model[keep]).expect("of the model").header.base_offset;
                log.truncate_to(offset, NOW).expect("memory");
                model.truncate(keep);
            }
            4 => {
                epoch += 1;
                log.assign_epoch_start(epoch).expect("memory");
            }
            _ => {
                let (count, size) = (rng.i32(1..5), rng.usize(0..300));
                let mut bytes = batch(-1, -1, count, size);
                let info = log.append_as_leader(&mut bytes, epoch, CLIENT, NOW).expect("memory");
                assert_eq!(info.first_offset, Batch::parse(&bytes).expect("valid").header.base_offset);
                model.push(bytes);
            }
        }
        log.check();
        assert_eq!(read_all(&mut log), model.concat(), "seed {seed}");
        for _ in 0..3 {
            let Some(bytes) = rng.choice(&model) else { break };
            let header = Batch::parse(bytes).expect("of the model").header;
            let offset = rng.i64(header.base_offset..header.next_offset());
            let plan = log.read(offset, 1, true, None).expect("in range");
            assert_eq!(plan.bytes().expect("memory"), *bytes, "seed {seed}: whole first batch");
            let upto = log.read(offset, 1 << 20, true, Some(header.next_offset())).expect("in range");
            assert_eq!(upto.bytes().expect("memory"), *bytes, "seed {seed}: nothing beyond the bound");
            assert_eq!(log.epochs().epoch_at(offset), Some(header.partition_leader_epoch), "seed {seed}");
        }
    }
}

#[test]
fn a_gap_between_segments_ends_a_log_unless_a_cleaner_may_have_made_it() {
    for compact in [false, true] {
        let disk = MemDisk::new();
        disk.create_dir_all(Path::new(DIR)).expect("memory");
        let config = LogConfig { compact, ..LogConfig::default() };
        let mut log = open(&disk, &config, Evidence::CleanShutdown);
        for base_offset in [0, 10] {
            log.roll(base_offset, NOW).expect("memory");
            let mut bytes = batch(7, 2 * (base_offset / 10) as i32, 2, 10);
            protocol::records::set_base_offset(&mut bytes, base_offset);
            log.append_as_follower(&bytes, 0, NOW).expect("goes on");
        }
        log.flush_now().expect("memory");
        drop(log);
        let log = open(&disk, &config, Evidence::Unknown);
        assert_eq!(log.end_offset(), if compact { 12 } else { 2 }, "compact: {compact}");
    }
}

fn in_transaction(epoch: i16, sequence: i32) -> Vec<u8> {
    let spec = BatchSpec {
        producer_id: 7,
        producer_epoch: epoch,
        base_sequence: sequence,
        transactional: true,
        ..Default::default()
    };
    let mut builder = BatchBuilder::new(spec);
    builder.append(NOW.wall_ms, None, Some(b"v"), &[]);
    builder.build()
}

fn end(
    log: &mut Log,
    epoch: i16,
    kind: ControlRecordType,
    coordinator_epoch: i32,
    version: i16,
) -> Result<i64, String> {
    let mut marker = end_txn_marker(7, epoch, kind, coordinator_epoch, NOW.wall_ms);
    let origin = AppendOrigin::Marker { transaction_version: version };
    log.append_as_leader(&mut marker, 0, origin, NOW).map(|info| info.first_offset).map_err(|e| e.to_string())
}

#[test]
fn a_transaction_begins_only_with_a_fresh_guard_and_ends_once() {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("memory");
    let mut log = open(&disk, &LogConfig::default(), Evidence::CleanShutdown);
    let append = |log: &mut Log, mut batch: Vec<u8>, shown| {
        log.append_as_leader(&mut batch, 0, AppendOrigin::Client(shown), NOW).map_err(|e| e.to_string())
    };
    let refused = |code: ErrorCode| Err(code.to_string());
    let first = in_transaction(0, 0);
    assert_eq!(append(&mut log, first.clone(), Verification::Open).map(drop), refused(ErrorCode::InvalidTxnState));
    let guard = log.begin_verification((7, 0), 0, true, NOW).expect("new").expect("must be asked about");
    append(&mut log, first, Verification::Asked(guard)).expect("asked");
    let second = in_transaction(0, 1);
    assert_eq!(log.begin_verification((7, 0), 1, true, NOW), Ok(None), "open");
    append(&mut log, second, Verification::Open).expect("goes on");
    let mut plain = in_transaction(0, 2);
    plain[22] = 0;
    let crc = crc32c(&plain[21..]);
    plain[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(append(&mut log, plain, Verification::Open).map(drop), refused(ErrorCode::InvalidTxnState));
    assert_eq!(log.last_stable_offset(2), 0);

    assert_eq!(end(&mut log, 0, ControlRecordType::Abort, 3, 2), Err(ErrorCode::InvalidProducerEpoch.to_string()));
    assert_eq!(end(&mut log, 1, ControlRecordType::Abort, 3, 2), Ok(2));
    assert_eq!(log.last_stable_offset(3), 0, "the end is not replicated");
    log.on_high_watermark(3);
    assert_eq!(log.last_stable_offset(3), 3);
    let aborted = log.aborted_transactions(0, 3).expect("memory");
    assert_eq!(
        aborted.iter().map(|t| (t.first_offset, t.last_offset, t.last_stable_offset)).collect::<Vec<_>>(),
        [(0, 2, 3)]
    );
    assert_eq!(end(&mut log, 1, ControlRecordType::Abort, 3, 2), Ok(3), "sent again");
    assert_eq!(
        end(&mut log, 2, ControlRecordType::Abort, 2, 2),
        Err(ErrorCode::TransactionCoordinatorFenced.to_string())
    );

    // What was under way when the transaction ended begins none, whatever it shows.
    let late = in_transaction(0, 2);
    assert_eq!(append(&mut log, late, Verification::Asked(guard)).map(drop), refused(ErrorCode::InvalidProducerEpoch));
    let next = in_transaction(1, 0);
    assert_eq!(
        append(&mut log, next.clone(), Verification::Asked(guard)).map(drop),
        refused(ErrorCode::InvalidTxnState)
    );
    let guard = log.begin_verification((7, 1), 0, true, NOW).expect("new").expect("must be asked about");
    // The last transaction's marker comes once more, and is no end of the one being asked about.
    end(&mut log, 1, ControlRecordType::Abort, 3, 2).expect("again");
    let skipped = in_transaction(1, 1);
    assert_eq!(
        append(&mut log, skipped, Verification::Asked(guard)).map(drop),
        refused(ErrorCode::OutOfOrderSequenceNumber)
    );
    let at = append(&mut log, next, Verification::Asked(guard)).expect("asked").first_offset;
    // The same after a restart, from the batches alone.
    drop(log);
    let mut log = open(&disk, &LogConfig::default(), Evidence::SameBoot);
    log.on_high_watermark(at);
    assert_eq!(log.last_stable_offset(i64::MAX), at);
    append(&mut log, in_transaction(1, 1), Verification::Open).expect("goes on");
    end(&mut log, 2, ControlRecordType::Commit, 3, 2).expect("ends");
    log.on_high_watermark(log.end_offset());
    assert_eq!(log.last_stable_offset(log.end_offset()), log.end_offset());
}
