//! Connections between machines: bytes arrive in order or not at all, sooner or later.
//!
//! A connection behaves like TCP's. While two machines are cut off from each other everything waits, as if it were
//! sent again and again; a process that ends closes its connections, a machine that loses power does not, and what is
//! sent to it after it has come back is answered by a reset.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use broker::{ConnId, LinkId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PipeId(pub u64);

/// Of a machine: the nodes by their ids, and that of all clients.
pub type Machine = i32;
pub const CLIENTS: Machine = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A connection that a node opened.
    Link {
        node: i32,
        incarnation: u32,
        link: LinkId,
    },
    /// One that a node accepted.
    Conn {
        node: i32,
        incarnation: u32,
        conn: ConnId,
    },
    Client {
        client: usize,
    },
}

impl End {
    pub fn machine(&self) -> Machine {
        match self {
            End::Link { node, .. } | End::Conn { node, .. } => *node,
            End::Client { .. } => CLIENTS,
        }
    }
}

pub enum Item {
    /// The connection that was asked for is there.
    Up,
    /// Nobody listens there.
    Refused,
    /// A frame without its length bytes.
    Frame(Vec<u8>),
    /// The other side has closed, or is gone.
    Closed,
}

pub struct Pipe {
    /// The one that dialled, and, once it has accepted, the other.
    pub ends: [Option<End>; 2],
    /// What is on its way to each end.
    pub queues: [VecDeque<Item>; 2],
    /// Where the ends are, also of one that has closed.
    pub machines: [Machine; 2],
    pub port: u16,
}

#[derive(Default)]
pub struct Network {
    pub pipes: BTreeMap<PipeId, Pipe>,
    pub delay_ms: (i64, i64),
    cut: BTreeSet<(Machine, Machine)>,
    pipe_next: u64,
}

impl Network {
    pub fn cut(&mut self, a: Machine, b: Machine) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn is_whole(&self) -> bool {
        self.cut.is_empty()
    }

    pub fn is_cut(&self, a: Machine, b: Machine) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub fn dial(&mut self, from: End, target: i32, port: u16) -> PipeId {
        self.pipe_next += 1;
        let id = PipeId(self.pipe_next);
        let pipe = Pipe {
            ends: [Some(from), None],
            queues: [VecDeque::new(), VecDeque::new()],
            machines: [from.machine(), target],
            port,
        };
        self.pipes.insert(id, pipe);
        id
    }

    /// The connection with this end, and on which side it is.
    pub fn find(&self, end: End) -> Option<(PipeId, usize)> {
        self.pipes.iter().find_map(|(id, pipe)| {
            let side = pipe.ends.iter().position(|e| *e == Some(end))?;
            Some((*id, side))
        })
    }

    /// All connections of a machine, by the side that it has in them.
    pub fn of_machine(&self, machine: Machine) -> Vec<(PipeId, usize)> {
        let side = |pipe: &Pipe| pipe.ends.iter().position(|end| end.is_some_and(|end| end.machine() == machine));
        self.pipes.iter().filter_map(|(id, pipe)| Some((*id, side(pipe)?))).collect()
    }
}
