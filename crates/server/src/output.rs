//! What waits to leave through a socket: frames in order, their bytes gathered into few calls, their file regions by
//! sendfile.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsFd;

use broker::Frame;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use storage::FileRef;

use crate::sendfile::sendfile;

/// Slices in one call; Linux takes 1024, few answers need more than two.
const SLICES_MAX: usize = 64;
/// Up to this size, what waits is gathered into one buffer.
const GATHER_BYTES_MAX: usize = 16 * 1024;
/// One connection's share of a turn, so that a fast reader does not keep others waiting.
const TURN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One read of a file that sendfile cannot send.
const COPY_BYTES: usize = 64 * 1024;

enum Piece {
    Bytes { bytes: Vec<u8>, at: usize },
    Region { file: FileRef, at: u64, left: usize },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left.
    Empty,
    /// The socket takes no more; its readiness will say when.
    Blocked,
    /// The turn's share is used up; more could go at once.
    More,
}

#[derive(Default)]
pub struct Output {
    pieces: VecDeque<Piece>,
    /// Regions included.
    bytes: usize,
}

impl Output {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn push_bytes(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        match self.pieces.back_mut() {
            // A crowd of small answers becomes few buffers: less memory, fewer slices.
            Some(Piece::Bytes { bytes: last, .. }) if last.len() + bytes.len() <= GATHER_BYTES_MAX => {
                last.extend_from_slice(&bytes);
            }
            _ if bytes.is_empty() => {}
            _ => self.pieces.push_back(Piece::Bytes { bytes, at: 0 }),
        }
    }

    pub fn push(&mut self, frame: Frame) {
        let Frame { mut bytes, splices, regions } = frame;
        // From the back, so that each part is split off its buffer once.
        let mut tail = Vec::with_capacity(2 * regions.len());
        for (splice, region) in splices.iter().zip(regions).rev() {
            let after = bytes.split_off(splice.at.min(bytes.len()));
            if !after.is_empty() {
                tail.push(Piece::Bytes { bytes: after, at: 0 });
            }
            if region.len > 0 {
                tail.push(Piece::Region { file: region.file, at: region.at, left: region.len as usize });
            }
        }
        self.push_bytes(bytes);
        for piece in tail.into_iter().rev() {
            self.bytes += match &piece {
                Piece::Bytes { bytes, .. } => bytes.len(),
                Piece::Region { left, .. } => *left,
            };
            self.pieces.push_back(piece);
        }
    }

    /// Writes what the socket takes. Returns how much that was; an error ends the connection.
    pub fn write(&mut self, socket: impl AsFd) -> io::Result<(usize, Progress)> {
        let mut written = 0;
        while written < TURN_BYTES_MAX {
            let sent = match self.pieces.front() {
                None => return Ok((written, Progress::Empty)),
                Some(Piece::Bytes { .. }) => self.send_bytes(&socket),
                Some(Piece::Region { file, at, left }) => {
                    send_region(&socket, file, *at, *left, TURN_BYTES_MAX - written)
                }
            };
            match sent {
                Ok(n) => {
                    written += n;
                    self.consume(n);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((written, Progress::Blocked)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((written, if self.pieces.is_empty() { Progress::Empty } else { Progress::More }))
    }

    fn send_bytes(&self, socket: &impl AsFd) -> io::Result<usize> {
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(self.pieces.len().min(SLICES_MAX));
        let mut flags = SendFlags::NOSIGNAL;
        for piece in &self.pieces {
            match piece {
                Piece::Bytes { bytes, at } if slices.len() < SLICES_MAX => slices.push(IoSlice::new(&bytes[*at..])),
                // What follows belongs into the same packet.
                _ => {
                    flags |= SendFlags::MORE;
                    break;
                }
            }
        }
        let sent = rustix::net::sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags)?;
        if sent == 0 { Err(ErrorKind::WriteZero.into()) } else { Ok(sent) }
    }

    fn consume(&mut self, mut n: usize) {
        self.bytes -= n;
        while n > 0 {
            let Some(front) = self.pieces.front_mut() else { return };
            let done = match front {
                Piece::Bytes { bytes, at } => {
                    let step = n.min(bytes.len() - *at);
                    *at += step;
                    n -= step;
                    *at == bytes.len()
                }
                Piece::Region { at, left, .. } => {
                    let step = n.min(*left);
                    *at += step as u64;
                    *left -= step;
                    n -= step;
                    *left == 0
                }
            };
            if done {
                self.pieces.pop_front();
            }
        }
    }
}

/// The frame's length is promised, so a file that ends early ends the connection.
fn send_region(socket: &impl AsFd, file: &FileRef, at: u64, left: usize, most: usize) -> io::Result<usize> {
    let len = left.min(most);
    let sent = match sendfile(socket, file, at, len) {
        Some(sent) => sent?,
        None => {
            let mut copy = vec![0; len.min(COPY_BYTES)];
            let read = file.read_at(&mut copy, at)?;
            match read {
                0 => 0,
                _ => rustix::net::send(socket, &copy[..read], SendFlags::NOSIGNAL)?,
            }
        }
    };
    if sent == 0 {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "a segment ended before what was promised of it"));
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use broker::Region;
    use protocol::wire::Splice;
    use storage::mem::MemDisk;
    use storage::{Disk, OpenMode};

    use super::*;

    #[test]
    fn bytes_and_regions_leave_in_order() {
        let dir = std::env::temp_dir().join(format!("zwirn-output-{}", std::process::id()));
        let real = storage::real::RealDisk;
        let memory = MemDisk::default();
        let disks: [(&dyn Disk, _); 2] = [(&real, dir.clone()), (&memory, "/x".into())];
        for (disk, dir) in disks {
            disk.create_dir_all(&dir).expect("a directory");
            let file = disk.open(&dir.join("segment"), OpenMode::Truncate).expect("a new file");
            file.write_at(&mut [IoSlice::new(b"0123456789")], 0).expect("room");
            let mut output = Output::default();
            output.push(Frame { bytes: b"first".to_vec(), ..Frame::default() });
            let region = |at, len| Region { file: file.clone(), at, len };
            output.push(Frame {
                bytes: b"abcdef".to_vec(),
                splices: vec![
                    Splice { at: 2, len: 3, id: 0 },
                    Splice { at: 2, len: 1, id: 1 },
                    Splice { at: 6, len: 2, id: 2 },
                ],
                regions: vec![region(4, 3), region(0, 1), region(8, 2)],
            });
            assert_eq!(output.bytes(), 17);
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            assert_eq!(output.write(&ours).expect("written"), (17, Progress::Empty));
            drop(ours);
            let mut read = String::new();
            theirs.read_to_string(&mut read).expect("read");
            assert_eq!(read, "firstab4560cdef89");
        }
        std::fs::remove_dir_all(dir).expect("ours");
    }
}
