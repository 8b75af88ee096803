//! Stands in for `storage::Log` until that is there: one file, no segments, no indexes. Goes with it.

use protocol::records::Batches;
use std::io::{self, IoSlice};
use std::path::Path;
use storage::{DiskRef, FileRef, OpenMode};
#[derive(Clone, Default)]
pub struct LogConfig;
pub struct FlushWork {
    file: FileRef,
}
impl std::fmt::Debug for FlushWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlushWork")
    }
}
impl FlushWork {
    pub fn run(&self) -> io::Result<()> {
        self.file.sync()
    }
}
pub struct Log {
    file: FileRef,
    data: Vec<u8>,
    start: i64,
    end: i64,
    epochs: Vec<(i32, i64)>,
    index: Vec<(i64, usize)>,
    disk: DiskRef,
    dir: std::path::PathBuf,
}
impl Log {
    pub fn open(disk: DiskRef, dir: &Path, _c: LogConfig) -> io::Result<Self> {
        let file = disk.open(&dir.join("00000000000000000000.log"), OpenMode::Create)?;
        let mut all = vec![0; file.len()? as usize];
        let n = file.read_at(&mut all, 0)?;
        all.truncate(n);
        let sp = dir.join("start");
        let start = if disk.exists(&sp) { i64::from_be_bytes(disk.read(&sp)?[..].try_into().unwrap()) } else { 0 };
        let mut log =
            Log { file, data: vec![], start, end: start, epochs: vec![], index: vec![], disk, dir: dir.to_owned() };
        let mut good = 0;
        for b in Batches::new(&all) {
            let Ok(b) = b else { break };
            if b.verify_crc().is_err() {
                break;
            }
            if b.header.base_offset < log.end && log.index.is_empty() {
                good += b.bytes.len();
                continue;
            }
            log.note(&b.header, b.bytes);
            good += b.bytes.len();
        }
        log.file.set_len(good as u64)?;
        let f = log.disk.open(&dir.join("00000000000000000000.log"), OpenMode::Truncate)?;
        f.write_at(&mut [IoSlice::new(&log.data)], 0)?;
        f.sync()?;
        log.file = f;
        Ok(log)
    }
    fn note(&mut self, h: &protocol::records::BatchHeader, bytes: &[u8]) {
        self.index.push((h.base_offset, self.data.len()));
        self.data.extend_from_slice(bytes);
        if self.epochs.last().is_none_or(|e| e.0 < h.partition_leader_epoch) {
            self.epochs.push((h.partition_leader_epoch, h.base_offset));
        }
        self.end = h.next_offset();
    }
    pub fn log_start_offset(&self) -> i64 {
        self.start
    }
    pub fn log_end_offset(&self) -> i64 {
        self.end
    }
    pub fn latest_epoch(&self) -> Option<i32> {
        self.epochs.last().map(|e| e.0)
    }
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        if self.latest_epoch() == Some(epoch) {
            return Some((epoch, self.end));
        }
        let higher = self.epochs.iter().find(|e| e.0 > epoch)?;
        match self.epochs.iter().rev().find(|e| e.0 <= epoch) {
            None => Some((epoch, higher.1)),
            Some(f) => Some((f.0, higher.1)),
        }
    }
    pub fn assign_epoch_start(&mut self, epoch: i32) -> io::Result<()> {
        let e = self.end;
        if self.epochs.last().is_none_or(|x| x.0 < epoch) {
            while self.epochs.last().is_some_and(|x| x.1 >= e) {
                self.epochs.pop();
            }
            self.epochs.push((epoch, e));
        }
        Ok(())
    }
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        for b in Batches::new(bytes) {
            let b = b.unwrap();
            assert_eq!(b.header.base_offset, self.end);
            let at = self.data.len();
            self.note(&b.header, b.bytes);
            self.file.write_at(&mut [IoSlice::new(b.bytes)], at as u64)?;
        }
        Ok(())
    }
    pub fn truncate_to(&mut self, o: i64) -> io::Result<()> {
        while self.index.last().is_some_and(|i| i.0 >= o) {
            let (b, p) = self.index.pop().unwrap();
            self.data.truncate(p);
            self.end = b;
        }
        if self.end > o {
            let (b, p) = self.index.pop().unwrap();
            self.data.truncate(p);
            self.end = b;
        }
        let end = self.end;
        self.epochs.retain(|e| e.1 < end);
        self.file.set_len(self.data.len() as u64)
    }
    pub fn truncate_fully_and_start_at(&mut self, o: i64) -> io::Result<()> {
        self.data.clear();
        self.index.clear();
        self.epochs.clear();
        self.start = o;
        self.end = o;
        self.file.set_len(0)?;
        self.file.sync()?;
        self.disk.write_atomically(&self.dir.join("start"), &o.to_be_bytes())
    }
    pub fn increment_start(&mut self, o: i64) -> io::Result<()> {
        if o > self.start {
            self.start = o;
            self.disk.write_atomically(&self.dir.join("start"), &o.to_be_bytes())?;
            let keep = self.epochs.iter().rposition(|e| e.1 <= o);
            if let Some(k) = keep {
                self.epochs.drain(..k);
                if self.epochs[0].1 < o {
                    self.epochs[0].1 = o;
                }
            }
        }
        Ok(())
    }
    pub fn size(&self) -> u64 {
        self.data.len() as u64
    }
    pub fn read(&self, from: i64, upto: i64, max: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![];
        for (i, (b, p)) in self.index.iter().enumerate() {
            let next = self.index.get(i + 1);
            let nb = next.map_or(self.end, |n| n.0);
            let np = next.map_or(self.data.len(), |n| n.1);
            if nb <= from {
                continue;
            }
            if *b >= upto {
                break;
            }
            if !out.is_empty() && out.len() + np - p > max {
                break;
            }
            out.extend_from_slice(&self.data[*p..np]);
        }
        Ok(out)
    }
    pub fn flush_work(&self) -> FlushWork {
        FlushWork { file: self.file.clone() }
    }
}
