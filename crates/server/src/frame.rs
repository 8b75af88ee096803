//! Frames from a stream of bytes: four bytes of length, then as many bytes.
//!
//! A connection between frames owns no memory: bytes are read into a buffer of the loop, and whole frames are handed on
//! where they lie. Only the beginning of a frame that is still under way is kept, in a buffer that grows as bytes come
//! in, never because of what the length promises.

use std::cmp::min;

/// How much a buffer of its own takes at least, once more than the first read was needed.
const GROWTH_BYTES_MIN: usize = 4096;
/// Between 64 KiB and 2 MiB, buffers are kept and used again: their pages are warm.
const SPARE_BYTES_MIN: usize = 64 * 1024;
const SPARE_BYTES_MAX: usize = 2 * 1024 * 1024;
const SPARES_MAX: usize = 16;

#[derive(Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length is negative, zero, or beyond the limit. The four bytes say what the peer may really speak.
    BadLength { announced: i32, limit: usize },
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FrameError::BadLength { announced, limit } = self;
        let guess = match announced.to_be_bytes() {
            [0x16, 0x03, _, _] => "; this looks like TLS, but the listener speaks plain text",
            [b'G', b'E', b'T', b' '] | [b'P', b'O', b'S', b'T'] | [b'H', b'E', b'A', b'D'] => {
                "; this looks like HTTP, see --http-listen"
            }
            _ => "",
        };
        write!(f, "a frame of {announced} bytes, allowed are 1 to {limit} (socket.request.max.bytes){guess}")
    }
}

/// All memory that unfinished frames hold, and its limit.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: usize,
    spares: Vec<Vec<u8>>,
}

impl Budget {
    pub fn new(limit: usize) -> Budget {
        Budget { limit, used: 0, spares: Vec::new() }
    }

    pub fn used(&self) -> usize {
        self.used
    }

    pub fn allows(&self, more: usize) -> bool {
        self.used.saturating_add(more) <= self.limit
    }

    /// A zeroed or once used buffer of at least `len` bytes with `filled` in front, in place of `old`.
    fn grow(&mut self, old: Vec<u8>, filled: usize, len: usize) -> Vec<u8> {
        self.used -= old.len();
        let spare = (len >= SPARE_BYTES_MIN).then(|| self.spares.iter().position(|s| s.len() >= len)).flatten();
        let new = match spare {
            Some(at) => {
                let mut spare = self.spares.swap_remove(at);
                spare[..filled].copy_from_slice(&old[..filled]);
                spare
            }
            None => {
                let mut old = old;
                old.resize(len, 0);
                old
            }
        };
        self.used += new.len();
        new
    }

    fn release(&mut self, buffer: Vec<u8>) {
        self.used -= buffer.len();
        if (SPARE_BYTES_MIN..=SPARE_BYTES_MAX).contains(&buffer.len()) && self.spares.len() < SPARES_MAX {
            self.spares.push(buffer);
        }
    }
}

/// What a reader needs before it can take more bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// Nothing is kept: read into the loop's buffer and `feed` from there.
    Shared,
    /// Read into `spare()`, then `advance`.
    Own,
    /// The budget is used up: `missing` bytes of the frame are to come, and the buffer must grow by `growth` now.
    Exhausted { missing: usize, growth: usize },
}

#[derive(Debug)]
pub struct FrameReader {
    /// Every byte of it is initialised; bytes `start..filled` were received.
    own: Vec<u8>,
    start: usize,
    filled: usize,
    limit: usize,
}

impl FrameReader {
    /// `limit` bounds one frame, its length bytes not counted.
    pub fn new(limit: usize) -> FrameReader {
        FrameReader { own: Vec::new(), start: 0, filled: 0, limit }
    }

    /// Bytes kept because their frame is not complete, or was not wanted yet.
    pub fn kept(&self) -> usize {
        self.filled - self.start
    }

    /// A whole frame is kept: `pump` has something to hand on.
    pub fn has_frame(&self) -> bool {
        let kept = &self.own[self.start..self.filled];
        length(kept).is_some_and(|announced| kept.len() - 4 >= usize::try_from(announced).unwrap_or(0))
    }

    /// Hands on the frames that lie in `own`, until `take` says that it wants no more.
    pub fn pump(&mut self, budget: &mut Budget, take: &mut impl FnMut(&mut [u8]) -> bool) -> Result<(), FrameError> {
        if self.filled == self.start {
            return Ok(());
        }
        self.start += deliver(&mut self.own[self.start..self.filled], self.limit, take)?;
        if self.start == self.filled {
            self.start = 0;
            self.filled = 0;
            budget.release(std::mem::take(&mut self.own));
        }
        Ok(())
    }

    /// Hands on the frames that lie in `input`, and keeps the rest. Nothing may be kept from before.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        budget: &mut Budget,
        take: &mut impl FnMut(&mut [u8]) -> bool,
    ) -> Result<(), FrameError> {
        debug_assert_eq!(self.kept(), 0);
        let used = deliver(input, self.limit, take)?;
        let rest = &input[used..];
        if !rest.is_empty() {
            self.own = rest.to_vec();
            self.filled = rest.len();
            budget.used += self.own.len();
        }
        Ok(())
    }

    /// Makes room for the frame under way. `over_budget` lets this reader finish although the budget is used up.
    pub fn make_room(&mut self, budget: &mut Budget, over_budget: bool) -> Room {
        if self.filled == self.start {
            return Room::Shared;
        }
        if self.start > 0 {
            self.own.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
        }
        let wanted = match length(&self.own[..self.filled]) {
            Some(announced) => (announced.max(0) as usize).saturating_add(4).max(self.filled),
            None => GROWTH_BYTES_MIN,
        };
        if self.filled < self.own.len() {
            return Room::Own;
        }
        let len = min(wanted, (2 * self.filled).max(GROWTH_BYTES_MIN)).max(self.filled + 1);
        if !over_budget && !budget.allows(len - self.own.len()) {
            let missing = wanted.saturating_sub(self.filled);
            return Room::Exhausted { missing, growth: len - self.own.len() };
        }
        self.own = budget.grow(std::mem::take(&mut self.own), self.filled, len);
        Room::Own
    }

    /// Where the next bytes go, after `make_room` answered `Own`. Never beyond the frame under way, if it is known.
    pub fn spare(&mut self) -> &mut [u8] {
        let end = match length(&self.own[self.start..self.filled]) {
            Some(announced) => {
                let frame_end = self.start.saturating_add(4).saturating_add(announced.max(0) as usize);
                min(self.own.len(), frame_end.max(self.filled))
            }
            None => self.own.len(),
        };
        &mut self.own[self.filled..end]
    }

    pub fn advance(&mut self, read: usize) {
        self.filled = min(self.filled + read, self.own.len());
    }

    /// Gives back what it holds; the connection is gone.
    pub fn discard(&mut self, budget: &mut Budget) {
        self.start = 0;
        self.filled = 0;
        budget.release(std::mem::take(&mut self.own));
    }
}

fn length(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes))
}

/// Hands on whole frames from the front of `bytes`; returns how many bytes they were.
fn deliver(bytes: &mut [u8], limit: usize, take: &mut impl FnMut(&mut [u8]) -> bool) -> Result<usize, FrameError> {
    let mut at = 0;
    while let Some(announced) = length(&bytes[at..]) {
        let len = usize::try_from(announced).unwrap_or(0);
        if len == 0 || len > limit {
            return Err(FrameError::BadLength { announced, limit });
        }
        let Some(frame) = bytes.get_mut(at + 4..at + 4 + len) else { break };
        at += 4 + len;
        if !take(frame) {
            break;
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a socket: bytes come in pieces of `step`, through a loop buffer of 64 bytes.
    fn read_all(
        reader: &mut FrameReader,
        budget: &mut Budget,
        mut bytes: &[u8],
        step: usize,
    ) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut frames = Vec::new();
        let mut take = |frame: &mut [u8]| {
            frames.push(frame.to_vec());
            true
        };
        while !bytes.is_empty() {
            let mut shared = [0; 64];
            let room = match reader.make_room(budget, false) {
                Room::Shared => &mut shared[..],
                Room::Own => reader.spare(),
                Room::Exhausted { .. } => panic!("the budget suffices"),
            };
            let n = step.min(bytes.len()).min(room.len());
            room[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if reader.kept() == 0 {
                reader.feed(&mut shared[..n], budget, &mut take)?;
            } else {
                reader.advance(n);
                reader.pump(budget, &mut take)?;
            }
        }
        Ok(frames)
    }

    fn framed(bodies: &[Vec<u8>]) -> Vec<u8> {
        bodies.iter().flat_map(|body| [&(body.len() as i32).to_be_bytes()[..], body].concat()).collect()
    }

    #[test]
    fn frames_come_out_whole_however_they_were_cut() {
        let bodies: Vec<Vec<u8>> =
            [1, 3, 70, 200_000, 2, 5000].iter().map(|&n| (0..n).map(|i| i as u8).collect()).collect();
        let bytes = framed(&bodies);
        for step in [1, 2, 3, 5, 63, 64, 1000, usize::MAX] {
            let mut budget = Budget::new(1 << 20);
            let mut reader = FrameReader::new(1 << 20);
            assert_eq!(read_all(&mut reader, &mut budget, &bytes, step).expect("valid"), bodies, "step {step}");
            assert_eq!((reader.kept(), budget.used()), (0, 0), "step {step}");
        }
    }

    #[test]
    fn a_promise_costs_nothing() {
        let mut budget = Budget::new(1 << 20);
        let mut reader = FrameReader::new(100 << 20);
        let mut bytes = (50_i32 << 20).to_be_bytes().to_vec();
        bytes.extend([7; 6]);
        assert_eq!(read_all(&mut reader, &mut budget, &bytes, usize::MAX), Ok(vec![]));
        assert_eq!(reader.kept(), 10);
        assert_eq!(budget.used(), 10);
        assert_eq!(reader.make_room(&mut budget, false), Room::Own);
        assert!(budget.used() <= GROWTH_BYTES_MIN);
        reader.discard(&mut budget);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn oversized_and_negative_lengths_are_refused_at_once() {
        for announced in [-1, 0, 1001, i32::MAX, i32::MIN, i32::from_be_bytes(*b"GET ")] {
            let mut reader = FrameReader::new(1000);
            let read = read_all(&mut reader, &mut Budget::new(1 << 20), &announced.to_be_bytes(), 2);
            assert_eq!(read, Err(FrameError::BadLength { announced, limit: 1000 }));
        }
    }

    #[test]
    fn a_reader_that_is_told_to_stop_keeps_the_rest() {
        let bodies = [vec![1; 3], vec![2; 3], vec![3; 3]];
        let mut budget = Budget::new(1 << 20);
        let mut reader = FrameReader::new(1000);
        let mut seen = 0;
        let mut one = |_: &mut [u8]| {
            seen += 1;
            false
        };
        reader.feed(&mut framed(&bodies), &mut budget, &mut one).expect("valid");
        assert_eq!(reader.kept(), 14);
        reader.pump(&mut budget, &mut one).expect("valid");
        reader.pump(&mut budget, &mut one).expect("valid");
        assert_eq!((seen, reader.kept(), budget.used()), (3, 0, 0));
    }

    #[test]
    fn without_budget_a_large_frame_waits_until_it_may_exceed_it() {
        let mut budget = Budget::new(64);
        let mut reader = FrameReader::new(1 << 20);
        let mut bytes = 100_000_i32.to_be_bytes().to_vec();
        bytes.extend([1; 20]);
        reader.feed(&mut bytes, &mut budget, &mut |_| true).expect("valid");
        let exhausted = Room::Exhausted { missing: 99_980, growth: GROWTH_BYTES_MIN - 24 };
        assert_eq!(reader.make_room(&mut budget, false), exhausted);
        assert_eq!(reader.make_room(&mut budget, true), Room::Own);
    }
}
