//! Aborted transactions of a segment (`.txnindex`): what a read_committed consumer must skip.

use std::io::{self, IoSlice};
use std::path::Path;

use crate::disk::{Disk, OpenMode};

const ENTRY_LEN: usize = 34;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    pub producer_id: i64,
    pub first_offset: i64,
    pub last_offset: i64,
    pub last_stable_offset: i64,
}

impl AbortedTxn {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENTRY_LEN);
        out.extend_from_slice(&0i16.to_be_bytes());
        for v in [self.producer_id, self.first_offset, self.last_offset, self.last_stable_offset] {
            out.extend_from_slice(&v.to_be_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<AbortedTxn> {
        let field = |i: usize| bytes.get(2 + 8 * i..)?.first_chunk().map(|b| i64::from_be_bytes(*b));
        Some(AbortedTxn {
            producer_id: field(0)?,
            first_offset: field(1)?,
            last_offset: field(2)?,
            last_stable_offset: field(3)?,
        })
    }
}

pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<AbortedTxn>> {
    if !disk.exists(path) {
        return Ok(Vec::new());
    }
    let bytes = disk.read(path)?;
    Ok(bytes.chunks_exact(ENTRY_LEN).filter_map(AbortedTxn::decode).collect())
}

/// The file is made at the first aborted transaction.
pub fn append(disk: &dyn Disk, path: &Path, txn: &AbortedTxn) -> io::Result<()> {
    let file = disk.open(path, OpenMode::Create)?;
    let end = file.len()? / ENTRY_LEN as u64 * ENTRY_LEN as u64;
    file.write_at(&mut [IoSlice::new(&txn.encode())], end)
}

/// Drops what was aborted at or beyond an offset.
pub fn truncate(disk: &dyn Disk, path: &Path, end_offset: i64) -> io::Result<()> {
    let kept: Vec<u8> =
        read(disk, path)?.iter().filter(|t| t.last_offset < end_offset).flat_map(AbortedTxn::encode).collect();
    if disk.exists(path) {
        disk.open(path, OpenMode::Truncate)?.write_at(&mut [IoSlice::new(&kept)], 0)?;
    }
    Ok(())
}
