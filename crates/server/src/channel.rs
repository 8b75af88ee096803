//! One socket of the loop: its frames in, its bytes out, and why it is not read just now.

use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;

use broker::{ConnId, LinkId, Node};
use mio::net::TcpStream;

use crate::clock;
use crate::frame::{Budget, FrameError, FrameReader, Room};
use crate::metrics::Metrics;
use crate::output::Output;

/// One connection's share of a turn.
const TURN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The same for tiny requests, whose answers may be many times their size.
const TURN_FRAMES_MAX: usize = 1000;
/// A peer that does not take its answers is not read on until it does.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// Opened by a client, a broker or a controller.
    Conn { id: ConnId, listener: usize, peer: IpAddr },
    /// Opened by us.
    Link { id: LinkId, connected: bool },
}

/// Why reading stopped, and so when it goes on.
#[derive(Debug)]
pub enum ReadEnd {
    /// Nothing more is there; the socket's readiness will say.
    Drained,
    /// The turn's share is used up.
    More,
    /// The node or the output is full.
    Paused,
    /// The budget of receive memory is used up, see `Room::Exhausted`.
    Exhausted { missing: usize, growth: usize },
    /// The peer closed.
    Closed,
    /// The network or the peer broke it.
    Broken(io::Error),
    /// The peer sent what no frame can be.
    Refused(FrameError),
}

pub struct Channel {
    pub stream: TcpStream,
    pub purpose: Purpose,
    pub reader: FrameReader,
    pub output: Output,
    /// Readiness is told once (edge-triggered); this remembers it.
    pub readable: bool,
    /// The peer will send no more: read until the end, however short the reads.
    pub hung_up: bool,
    pub write_blocked: bool,
    pub last_active_ms: i64,
    /// Last time its unfinished frame grew.
    pub last_read_ms: i64,
}

impl Channel {
    pub fn new(stream: TcpStream, purpose: Purpose, frame_bytes_max: usize, now_ms: i64) -> Channel {
        Channel {
            stream,
            purpose,
            reader: FrameReader::new(frame_bytes_max),
            output: Output::default(),
            readable: false,
            hung_up: false,
            write_blocked: false,
            last_active_ms: now_ms,
            last_read_ms: now_ms,
        }
    }

    /// What paused it is still there.
    pub fn is_held_back(&self, node: &Node) -> bool {
        !self.may_read(node)
    }

    fn may_read(&self, node: &Node) -> bool {
        match self.purpose {
            Purpose::Conn { id, .. } => self.output.bytes() < OUTPUT_BYTES_MAX && node.may_read(id),
            Purpose::Link { .. } => true,
        }
    }

    /// Reads frames and gives each to the node where it lies.
    pub fn read(&mut self, at: &mut ReadContext<'_>) -> ReadEnd {
        let mut total = 0;
        let mut frames = 0;
        loop {
            if !self.may_read(at.node) {
                return ReadEnd::Paused;
            }
            let purpose = self.purpose;
            let mut take = |frame: &mut [u8]| {
                frames += 1;
                hand_on(purpose, frame, at.node, at.metrics)
            };
            if let Err(error) = self.reader.pump(at.budget, &mut take) {
                return ReadEnd::Refused(error);
            }
            if !self.may_read(at.node) {
                return ReadEnd::Paused;
            }
            if total >= TURN_BYTES_MAX || frames >= TURN_FRAMES_MAX {
                return ReadEnd::More;
            }
            let (room, is_shared) = match self.reader.make_room(at.budget, at.over_budget) {
                Room::Shared => (&mut at.scratch[..], true),
                Room::Own => (self.reader.spare(), false),
                Room::Exhausted { missing, growth } => return ReadEnd::Exhausted { missing, growth },
            };
            let wanted = room.len();
            let n = match self.stream.read(room) {
                Ok(0) => return ReadEnd::Closed,
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return ReadEnd::Drained,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return ReadEnd::Broken(error),
            };
            total += n;
            at.metrics.bytes_in += n as u64;
            self.last_active_ms = at.now_ms;
            self.last_read_ms = at.now_ms;
            if is_shared {
                let mut take = |frame: &mut [u8]| {
                    frames += 1;
                    hand_on(purpose, frame, at.node, at.metrics)
                };
                if let Err(error) = self.reader.feed(&mut at.scratch[..n], at.budget, &mut take) {
                    return ReadEnd::Refused(error);
                }
            } else {
                self.reader.advance(n);
            }
            // A short read means that the socket is empty (epoll(7)), unless its end was announced already. What was
            // kept may hold whole frames, if the node wanted no more of them.
            if n < wanted && !self.hung_up && (is_shared || !self.reader.has_frame()) {
                return if self.may_read(at.node) { ReadEnd::Drained } else { ReadEnd::Paused };
            }
        }
    }
}

/// What reading needs of the loop.
pub struct ReadContext<'a> {
    pub node: &'a mut Node,
    pub scratch: &'a mut [u8],
    pub budget: &'a mut Budget,
    pub metrics: &'a mut Metrics,
    pub now_ms: i64,
    pub over_budget: bool,
}

/// Whether the next frame of the same channel may follow.
fn hand_on(purpose: Purpose, frame: &mut [u8], node: &mut Node, metrics: &mut Metrics) -> bool {
    let now = clock::now();
    match purpose {
        Purpose::Conn { id, .. } => {
            metrics.count_request(frame);
            if node.wants_request_times() {
                let before = std::time::Instant::now();
                node.frame(id, frame, now);
                node.request_took(id, before.elapsed().as_nanos() as u64, now);
            } else {
                node.frame(id, frame, now);
            }
            node.may_read(id)
        }
        Purpose::Link { id, .. } => {
            node.link_frame(id, frame, now);
            true
        }
    }
}

/// Whether a connection attempt has ended, and how.
pub fn connect_result(stream: &TcpStream) -> Option<io::Result<()>> {
    match stream.take_error() {
        Ok(Some(error)) | Err(error) => return Some(Err(error)),
        Ok(None) => {}
    }
    match stream.peer_addr() {
        Ok(_) => Some(Ok(())),
        Err(error) if error.kind() == ErrorKind::NotConnected => None,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => None,
        Err(error) => Some(Err(error)),
    }
}
