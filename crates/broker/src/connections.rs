//! Connections that others opened to us: who is on the other side, and the order in which answers leave.
//!
//! Kafka's clients send requests ahead of the answers and match answers by order. Apache Kafka keeps the order by not
//! reading a connection's second request before the first is answered; here requests are taken as they come and each
//! gets a slot, so that a produce request waiting for its followers does not hold up the next one's append.

use std::collections::VecDeque;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::effect::{ConnId, Effect, Frame, ListenerKind};

/// Requests of one connection that may wait for their answers. Clients default to 5 (`max.in.flight.requests`),
/// librdkafka to far more; beyond this the connection is not read until an answer leaves.
pub const IN_FLIGHT_MAX: usize = 256;

/// A request's place in the order of answers of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u64);

enum Answer {
    Waiting,
    Ready(Frame),
    /// acks=0: the request has no answer.
    Nothing,
}

pub struct Connection {
    pub listener: usize,
    pub kind: ListenerKind,
    pub peer: IpAddr,
    /// The broker that registered or sent heartbeats here: its death is seen by the close of this connection.
    pub broker: Option<i32>,
    slot_first: u64,
    answers: VecDeque<Answer>,
}

#[derive(Default)]
pub struct Connections {
    open: FxHashMap<ConnId, Connection>,
}

impl Connections {
    pub fn opened(&mut self, conn: ConnId, listener: usize, kind: ListenerKind, peer: IpAddr) {
        let fresh = Connection { listener, kind, peer, broker: None, slot_first: 0, answers: VecDeque::new() };
        let before = self.open.insert(conn, fresh);
        assert!(before.is_none(), "the driver reused connection {conn:?}");
    }

    pub fn closed(&mut self, conn: ConnId) -> Option<Connection> {
        self.open.remove(&conn)
    }

    pub fn get(&self, conn: ConnId) -> Option<&Connection> {
        self.open.get(&conn)
    }

    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.open.get_mut(&conn)
    }

    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Whether some open connection is the one by which this broker speaks to us.
    pub fn speaks_for(&self, broker: i32) -> bool {
        self.open.values().any(|conn| conn.broker == Some(broker))
    }

    pub fn may_read(&self, conn: ConnId) -> bool {
        self.open.get(&conn).is_some_and(|conn| conn.answers.len() < IN_FLIGHT_MAX)
    }

    /// Takes the next place in the order of answers; `None` if the connection is gone.
    pub fn take_slot(&mut self, conn: ConnId) -> Option<Slot> {
        let conn = self.open.get_mut(&conn)?;
        conn.answers.push_back(Answer::Waiting);
        Some(Slot(conn.slot_first + conn.answers.len() as u64 - 1))
    }

    /// Puts an answer (or, for acks=0, none) into its place and releases all that are now first in order.
    pub fn answer(&mut self, id: ConnId, slot: Slot, frame: Option<Frame>, effects: &mut Vec<Effect>) {
        let Some(conn) = self.open.get_mut(&id) else { return };
        let place = (slot.0 - conn.slot_first) as usize;
        let answer = conn.answers.get_mut(place).expect("a slot is answered once");
        assert!(matches!(answer, Answer::Waiting), "a slot is answered once");
        *answer = frame.map_or(Answer::Nothing, Answer::Ready);
        while let Some(first) = conn.answers.pop_front_if(|a| !matches!(a, Answer::Waiting)) {
            conn.slot_first += 1;
            if let Answer::Ready(frame) = first {
                effects.push(Effect::Respond { conn: id, frame });
            }
        }
    }
}
