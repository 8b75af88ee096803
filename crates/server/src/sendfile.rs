//! Bytes from a segment file to a socket without a copy. The one place that turns a file's number back into a handle.
#![allow(unsafe_code)] // `DiskFile::raw_fd` hands out a number, because the simulated disk has no handles.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use storage::FileRef;

/// Sends up to `len` bytes from `at`. `None` if the file is not one of the system.
pub fn sendfile(socket: impl AsFd, file: &FileRef, at: u64, len: usize) -> Option<io::Result<usize>> {
    let fd = file.raw_fd()?;
    // SAFETY: the file owns the descriptor and cannot close it while `file` is borrowed, which is longer than the call.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut at = at;
    Some(rustix::fs::sendfile(socket, file, Some(&mut at), len).map_err(io::Error::from))
}
