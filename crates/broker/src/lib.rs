//! The node: everything of a broker and controller above sockets, threads and clocks.

pub mod effect;

pub use effect::{ConnId, Effect, Frame, FlushId, LinkId, ListenerKind, Region};
