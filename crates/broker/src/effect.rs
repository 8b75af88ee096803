//! What a `Node` asks its driver to do. The server does it with sockets and threads, the simulator with seeded delays.

use protocol::wire::Splice;
use storage::FileRef;

/// A connection that a client, broker or controller opened to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A connection that this node opens to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Names one flush until its completion comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlushId(pub u64);

/// Names one pass of the log cleaner until it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CleanId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    Broker,
    Controller,
}

/// Bytes of a segment file that go to a socket without passing through the node.
#[derive(Clone)]
pub struct Region {
    pub file: FileRef,
    pub at: u64,
    pub len: u32,
}

/// A whole frame, its four length bytes included.
#[derive(Clone, Default)]
pub struct Frame {
    pub bytes: Vec<u8>,
    /// Regions to insert, in order; `splices[i]` says before which byte `regions[i]` belongs.
    pub splices: Vec<Splice>,
    pub regions: Vec<Region>,
}

pub enum Effect {
    /// Answers go out in the order in which they are given; the node keeps each connection's request order.
    Respond {
        conn: ConnId,
        frame: Frame,
    },
    /// The peer broke the protocol, or asked for a close; `reason` goes to the log.
    Close {
        conn: ConnId,
        reason: String,
    },
    /// Open a connection; `link_up` or `link_down` follows.
    Connect {
        link: LinkId,
        host: String,
        port: u16,
    },
    Send {
        link: LinkId,
        frame: Frame,
    },
    Disconnect {
        link: LinkId,
    },
    /// Run it where it may block, then call `flushed`.
    Flush {
        id: FlushId,
        work: storage::FlushWork,
    },
    /// Run it where it may take long, not faster than said, then call `cleaned`.
    Clean {
        id: CleanId,
        work: Box<storage::CleanWork>,
        bytes_per_second: f64,
    },
    /// The node has finished its controlled shutdown; stop calling it.
    Stopped,
    /// An invariant or the disk failed; the process must end with this message.
    Fatal {
        message: String,
    },
}
