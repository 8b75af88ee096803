//! Logs on disks that fail, are full, or give back something else than was written. What was acknowledged is there
//! afterwards, or the log says that it is not; what can be made again is made again.

use std::io::{ErrorKind, IoSlice};
use std::path::Path;
use std::sync::Arc;

use protocol::records::{Batch, BatchBuilder, BatchSpec, Batches};
use protocol::time::Now;
use storage::mem::MemDisk;
use storage::{
    AppendError, AppendInfo, AppendOrigin, Disk, Evidence, Log, LogConfig, OpenMode, OpenOptions, StorageError,
    Verification,
};

const DIR: &str = "/logs/t-0";
const NOW: Now = Now { mono_ms: 0, wall_ms: 1_700_000_100_000 };
const PRODUCER: i64 = 7;

fn config() -> LogConfig {
    LogConfig { segment_bytes: 900, index_bytes: 600, index_interval_bytes: 100, ..LogConfig::default() }
}

fn open(disk: &MemDisk, evidence: Evidence, recovery_point: i64) -> Result<Log, StorageError> {
    let options = OpenOptions { topic_id: None, evidence, recovery_point, log_start_offset: 0, now: NOW };
    Log::open(Arc::new(disk.clone()), Path::new(DIR), config(), &options)
}

fn new_disk() -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("memory");
    disk
}

/// One batch of an idempotent producer, of one record.
fn append(log: &mut Log, sequence: i32, epoch: i32) -> Result<AppendInfo, AppendError> {
    let spec = BatchSpec { producer_id: PRODUCER, producer_epoch: 0, base_sequence: sequence, ..BatchSpec::default() };
    let mut builder = BatchBuilder::new(spec);
    builder.append(NOW.wall_ms + i64::from(sequence), Some(b"key"), Some(&value(sequence)), &[]);
    log.append_as_leader(&mut builder.build(), epoch, AppendOrigin::Client(Verification::Off), NOW)
}

fn value(sequence: i32) -> Vec<u8> {
    format!("{sequence:0>40}").into_bytes()
}

/// Sequences in the log from its start to its end, each batch checked.
fn sequences(log: &mut Log) -> Vec<i32> {
    let mut out = Vec::new();
    let mut offset = log.log_start_offset();
    while offset < log.end_offset() {
        let bytes = log.read(offset, 1 << 20, true, None).expect("in range").bytes().expect("memory");
        for batch in Batches::new(&bytes) {
            let batch = batch.expect("whole batches");
            batch.verify_crc().expect("as it was written");
            assert_eq!(batch.header.base_offset, offset, "no gap");
            out.push(batch.header.base_sequence);
            offset = batch.header.next_offset();
        }
    }
    out
}

fn overwrite(disk: &MemDisk, name: &str, at: u64, bytes: &[u8]) {
    let file = disk.open(&Path::new(DIR).join(name), OpenMode::ReadWrite).expect("it is there");
    file.write_at(&mut [IoSlice::new(bytes)], at).expect("memory");
}

/// A log of 40 batches in several segments, two epochs, closed in order or not at all.
fn forty(is_closed: bool) -> MemDisk {
    let disk = new_disk();
    let mut log = open(&disk, Evidence::CleanShutdown, 0).expect("empty");
    for sequence in 0..40 {
        append(&mut log, sequence, 1 + sequence / 20).expect("memory");
    }
    assert!(log.segment_count() > 3);
    if is_closed {
        log.close().expect("memory");
    }
    disk
}

/// Every write of a life with rolls may be the first that fails: what was acknowledged before is there afterwards, in
/// order and once, whatever is known of the machine, and the log goes on.
#[test]
fn wherever_a_disk_fails_nothing_acknowledged_is_lost() {
    for writes in 0.. {
        let disk = new_disk();
        let mut log = open(&disk, Evidence::CleanShutdown, 0).expect("empty");
        disk.fail_after(writes, ErrorKind::Other);
        let acknowledged = (0..25).take_while(|s| append(&mut log, *s, 1 + s / 10).is_ok()).count() as i32;
        drop(log);
        disk.heal();
        for evidence in [Evidence::SameBoot, Evidence::Unknown] {
            let disk = disk.copy();
            let mut log = open(&disk, evidence, 0).expect("mended");
            log.check();
            // The one that failed may be there all the same: nobody was told that it is not.
            let found = sequences(&mut log);
            let expected: Vec<i32> = (0..found.len() as i32).collect();
            assert_eq!(found, expected, "write {writes}");
            assert!(found.len() as i32 >= acknowledged, "write {writes}: {acknowledged} of {found:?}");
            // Its producer sends it again, and is recognised if it was.
            for sequence in acknowledged..25 {
                let info = append(&mut log, sequence, 3).expect("mended");
                assert_eq!(
                    (info.first_offset, info.is_duplicate),
                    (i64::from(sequence), (sequence as usize) < found.len())
                );
            }
            assert_eq!(sequences(&mut log), (0..25).collect::<Vec<_>>());
        }
        if acknowledged == 25 {
            assert!(writes > 60, "the life is long enough to be interesting: {writes} writes");
            return;
        }
    }
}

/// Where a disk fills up, the same log goes on as soon as there is room, without having been opened again.
#[test]
fn a_log_on_a_full_disk_goes_on_when_there_is_room() {
    let mut refused = 0;
    for room in (0..4_000).step_by(37) {
        let disk = new_disk();
        let mut log = open(&disk, Evidence::CleanShutdown, 0).expect("empty");
        disk.leave_room(DIR, room);
        let mut sequence = 0;
        while sequence < 30 {
            match append(&mut log, sequence, 1 + sequence / 10) {
                Ok(_) => sequence += 1,
                Err(AppendError::Storage(error)) => {
                    assert_eq!(error.error.kind(), ErrorKind::StorageFull);
                    refused += 1;
                    let copy = disk.copy();
                    let mut again = open(&copy, Evidence::SameBoot, 0).expect("it starts as it is");
                    assert_eq!(sequences(&mut again), (0..sequence).collect::<Vec<_>>());
                    disk.heal();
                }
                Err(error) => panic!("{error}"),
            }
            log.check();
        }
        assert_eq!(sequences(&mut log), (0..30).collect::<Vec<_>>());
        log.close().expect("there is room");
        let mut again = open(&disk, Evidence::CleanShutdown, 30).expect("closed");
        assert_eq!(sequences(&mut again), (0..30).collect::<Vec<_>>());
        assert_eq!(again.epochs().entries().len(), 3);
    }
    assert!(refused > 50);
}

/// A bit that flipped above the recovery point ends the log there after a loss of power; below it the batch goes out as
/// it is, and whoever reads it sees that its checksum is wrong.
#[test]
fn a_flipped_bit_is_never_taken_for_data() {
    let disk = forty(false);
    let names: Vec<_> = disk.paths().into_iter().filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    for path in names {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let base: i64 = name.strip_suffix(".log").expect("a log").parse().expect("a number");
        for at in [30, 80, 170, 250] {
            let disk = disk.copy();
            let bytes = disk.read(&path).expect("memory");
            let Some(byte) = bytes.get(at as usize) else { continue };
            overwrite(&disk, &name, at, &[byte ^ 4]);
            let damaged = base + Batches::new(&bytes[..at as usize]).count() as i64;
            let mut log = open(&disk, Evidence::Unknown, 0).expect("it can be cut");
            assert_eq!(log.end_offset(), damaged, "{name} at {at}");
            assert_eq!(sequences(&mut log), (0..damaged as i32).collect::<Vec<_>>());
            // Nobody looks below the recovery point.
            let disk = disk.copy();
            overwrite(&disk, &name, 0, &bytes);
            overwrite(&disk, &name, at, &[byte ^ 4]);
            let mut log = open(&disk, Evidence::CleanShutdown, 40).expect("closed");
            let Ok(plan) = log.read(damaged, 1, true, None) else { continue };
            let served = plan.bytes().expect("memory");
            if let Ok(batch) = Batch::parse(&served).map_err(|_| ()) {
                assert!(batch.verify_crc().is_err());
            }
            let mut follower = open(&new_disk(), Evidence::CleanShutdown, 0).expect("empty");
            assert!(!matches!(follower.append_as_follower(&served, 9, NOW), Ok(Some(_))), "{name} at {at}");
        }
    }
}

#[test]
fn a_short_file_and_a_zeroed_tail_end_the_log_where_it_is_whole() {
    for evidence in [Evidence::SameBoot, Evidence::Unknown] {
        for zeroed in [false, true] {
            let disk = forty(false);
            let last = disk.paths().into_iter().rfind(|p| p.extension().is_some_and(|e| e == "log")).expect("a log");
            let len = disk.read(&last).expect("memory").len() as u64;
            let base: i64 = last.file_stem().expect("a name").to_string_lossy().parse().expect("a number");
            let file = disk.open(&last, OpenMode::ReadWrite).expect("memory");
            file.set_len(len - 10).expect("memory");
            if zeroed {
                file.set_len(len + 5_000).expect("memory");
            }
            let mut log = open(&disk, evidence, 0).expect("it can be cut");
            assert_eq!(log.end_offset(), 39, "only the last batch is gone; {base}");
            assert_eq!(sequences(&mut log), (0..39).collect::<Vec<_>>());
            assert_eq!(append(&mut log, 39, 3).expect("goes on").first_offset, 39);
        }
    }
}

/// Everything but the batches themselves is made again from them.
#[test]
fn what_is_missing_or_nonsense_is_made_again() {
    for is_closed in [true, false] {
        for damage in ["missing", "empty", "nonsense"] {
            let disk = forty(is_closed);
            for path in disk.paths().into_iter().filter(|p| p.extension().is_none_or(|e| e != "log")) {
                let one = disk.copy();
                let file = one.open(&path, OpenMode::ReadWrite).expect("memory");
                match damage {
                    "missing" => one.remove_file(&path).expect("memory"),
                    "empty" => file.set_len(0).expect("memory"),
                    _ => file.write_at(&mut [IoSlice::new(&[0xa5; 64])], 0).expect("memory"),
                }
                let evidence = if is_closed { Evidence::CleanShutdown } else { Evidence::SameBoot };
                let what = format!("{} {damage}, {evidence:?}", path.display());
                let mut log = open(&one, evidence, 0).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(sequences(&mut log), (0..40).collect::<Vec<_>>(), "{what}");
                let epochs: Vec<_> = log.epochs().entries().iter().map(|e| (e.epoch, e.start_offset)).collect();
                assert_eq!(epochs, [(1, 0), (2, 20)], "{what}");
                assert!(append(&mut log, 39, 2).expect("known").is_duplicate, "{what}");
                let found = log.offset_for_timestamp(NOW.wall_ms + 33, i64::MAX).expect("memory").expect("it is there");
                assert_eq!(found.offset, 33, "{what}");
            }
        }
    }
}

#[test]
fn leftovers_are_cleared_away() {
    let disk = forty(true);
    for name in ["00000000000000000000.log.deleted", "00000000000000000000.log.cleaned", "leader-epoch-checkpoint.tmp"]
    {
        disk.open(&Path::new(DIR).join(name), OpenMode::Create).expect("memory").set_len(100).expect("memory");
    }
    let mut log = open(&disk, Evidence::CleanShutdown, 40).expect("closed");
    assert_eq!(sequences(&mut log), (0..40).collect::<Vec<_>>());
    let left = |suffix: &str| disk.paths().iter().any(|p| p.to_string_lossy().ends_with(suffix));
    assert!(![".deleted", ".cleaned", ".tmp"].into_iter().any(left));
}

/// A reader hears of a disk that cannot be read; it is not told that there is nothing.
#[test]
fn an_unreadable_log_is_an_error() {
    use storage::mem::Op;
    let disk = forty(true);
    let mut log = open(&disk, Evidence::CleanShutdown, 40).expect("closed");
    disk.plant(DIR, Op::Read, ErrorKind::Other);
    let read = log.read(3, 1000, true, None);
    assert!(read.is_err() || read.is_ok_and(|plan| plan.bytes().is_err()));
    assert!(open(&disk, Evidence::CleanShutdown, 40).is_err());
    disk.heal();
    disk.plant(DIR, Op::Sync, ErrorKind::Other);
    let mut log = open(&disk, Evidence::CleanShutdown, 40).expect("closed");
    append(&mut log, 40, 3).expect("the page cache takes it");
    assert!(log.close().is_err(), "a stop that did not reach the disk is none in order");
}
