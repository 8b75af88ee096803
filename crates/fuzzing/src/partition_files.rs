//! The files of a partition, damaged, opened, and used: `[directory u8][evidence u8][recovery point i64][log start i64]`,
//! then changes (see [`damage`]).

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use protocol::records::{BatchBuilder, BatchSpec, Batches};
use protocol::time::Now;
use storage::mem::MemDisk;
use storage::{AppendOrigin, Disk, Evidence, Log, LogConfig, OpenMode, OpenOptions, Verification};

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;

/// The largest directory has some 40 kB, which are read and copied a few times.
const BOUND: Bound = Bound { anyway: 4 << 20, per_byte: 256 };
const DIR: &str = "/logs/t-0";
const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_795_409_260_000 };
const LEFTOVERS: [&str; 6] = [".deleted", ".cleaned", ".swap", ".tmp", "", ".log"];

/// `([file u8][kind u8][at u16][len u16][bytes])*`: overwrites, cuts, grows, removes, replaces or renames one of the
/// files each.
pub fn damage(disk: &MemDisk, input: &mut Input<'_>) {
    while !input.is_empty() {
        let paths = disk.paths();
        if paths.is_empty() {
            return;
        }
        let path = paths[usize::from(input.u8()) % paths.len()].clone();
        let (kind, at) = (input.u8(), u64::from(input.u16()));
        let bytes = input.sized();
        let file = disk.open(&path, OpenMode::Create).expect("memory");
        let len = file.len().expect("memory");
        match kind % 6 {
            0 => file.write_at(&mut [IoSlice::new(bytes)], at.min(len)),
            1 => file.set_len(at.min(len)),
            2 => file.set_len(len + at),
            3 => disk.remove_file(&path),
            4 => file.set_len(0).and_then(|()| file.write_at(&mut [IoSlice::new(bytes)], 0)),
            _ => {
                let mut name = path.into_os_string();
                if !bytes.is_empty() && !bytes.contains(&b'/') && bytes.len() < 60 {
                    name = Path::new(&name).with_file_name(String::from_utf8_lossy(bytes).as_ref()).into_os_string();
                } else {
                    name.push(LEFTOVERS[at as usize % LEFTOVERS.len()]);
                }
                disk.open(Path::new(&name), OpenMode::Create)
                    .and_then(|to| to.write_at(&mut [IoSlice::new(&read(&*file, len))], 0))
            }
        }
        .expect("memory");
    }
}

fn read(file: &dyn storage::DiskFile, len: u64) -> Vec<u8> {
    let mut out = vec![0; len.min(1 << 16) as usize];
    let n = file.read_at(&mut out, 0).expect("memory");
    out.truncate(n);
    out
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let files = golden::PARTITIONS[usize::from(input.u8()) % golden::PARTITIONS.len()];
    let evidence = match input.u8() % 3 {
        0 => Evidence::Unknown,
        1 => Evidence::SameBoot,
        _ => Evidence::CleanShutdown,
    };
    let (recovery_point, log_start_offset) = (input.i64(), input.i64());
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("memory");
    for (name, bytes) in files {
        let file = disk.open(&Path::new(DIR).join(name), OpenMode::Create).expect("memory");
        file.write_at(&mut [IoSlice::new(bytes)], 0).expect("memory");
    }
    damage(&disk, &mut input);
    let options = OpenOptions { topic_id: None, evidence, recovery_point, log_start_offset, now: NOW };
    BOUND.hold(data.len(), || {
        let Some(end) = open_and_use(&disk, &options) else { return };
        // After a clean stop everything is there again.
        let options = OpenOptions { evidence: Evidence::CleanShutdown, recovery_point: end, ..options };
        let again =
            Log::open(Arc::new(disk.clone()), Path::new(DIR), config(), &options).expect("a log that we closed");
        assert_eq!(again.end_offset(), end);
    });
}

fn config() -> LogConfig {
    LogConfig { index_bytes: 600, index_interval_bytes: 150, segment_bytes: 1 << 16, ..LogConfig::default() }
}

/// What a broker does with a log in its life; its end when it was closed, or nothing if it could not be opened.
fn open_and_use(disk: &MemDisk, options: &OpenOptions) -> Option<i64> {
    let mut log = Log::open(Arc::new(disk.clone()), Path::new(DIR), config(), options).ok()?;
    log.check();
    read_through(&mut log);
    let _ = log.offset_for_timestamp(1, i64::MAX);
    let _ = log.offset_for_timestamp(i64::MAX, i64::MAX);
    let _ = log.offset_of_max_timestamp(i64::MAX);
    let _ = log.aborted_transactions(log.log_start_offset(), log.end_offset());
    let _ = log.epochs().end_offset_for(log.latest_epoch().unwrap_or(0), log.end_offset());
    log.last_stable_offset(log.end_offset());
    log.on_high_watermark(log.end_offset());
    for producer_id in [-1, 1000] {
        let spec = BatchSpec { producer_id, producer_epoch: 0, base_sequence: 0, ..BatchSpec::default() };
        let mut builder = BatchBuilder::new(spec);
        builder.append(NOW.wall_ms, None, Some(b"v"), &[]);
        match log.append_as_leader(&mut builder.build(), i32::MAX - 1, AppendOrigin::Client(Verification::Off), NOW) {
            Ok(_) | Err(storage::AppendError::Refused(_)) => {}
            // An offset so large that there is no next one: the log takes nothing more, and says so.
            Err(_) => return None,
        }
        log.check();
    }
    let end = log.end_offset();
    read_through(&mut log);
    log.roll(end, NOW).expect("memory");
    log.truncate_to(end - 1, NOW).expect("memory");
    log.check();
    let middle = log.log_start_offset() + (log.end_offset() - log.log_start_offset()) / 2;
    log.set_log_start(middle, NOW).expect("memory");
    log.apply_retention(end, NOW).expect("memory");
    log.poll(Now { mono_ms: NOW.mono_ms + 100_000, wall_ms: NOW.wall_ms }).expect("memory");
    log.check();
    log.close().expect("memory");
    Some(log.end_offset())
}

/// As consumers read: from one batch to the next, never the same twice.
fn read_through(log: &mut Log) {
    let mut offset = log.log_start_offset();
    while let Ok(plan) = log.read(offset, 4096, true, None) {
        let bytes = plan.bytes().expect("memory");
        let next = Batches::new(&bytes).flatten().last().map(|b| b.header.next_offset());
        match next.filter(|next| *next > offset) {
            Some(next) => offset = next,
            None => return,
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for directory in 0..golden::PARTITIONS.len() as u8 {
        for file in 0..golden::PARTITIONS[usize::from(directory)].len() as u8 {
            for kind in 0..6 {
                let mut seed = Output::default();
                seed.u8(directory)
                    .u8(kind + file)
                    .raw(&[0; 16])
                    .u8(file)
                    .u8(kind)
                    .u16(u16::from(file) * 9)
                    .sized(&[0xff; 3]);
                out.push(seed.0);
            }
        }
    }
    out
}
