//! Connections that others opened to us: who is on the other side, and the order in which answers leave.
//!
//! Kafka's clients send requests ahead of the answers and match answers by order. Apache Kafka keeps the order by not
//! reading a connection's second request before the first is answered; here requests are taken as they come and each
//! gets a slot, so that a produce request waiting for its followers does not hold up the next one's append.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::effect::{ConnId, Effect, Frame, ListenerKind};

/// Requests of one connection that may wait for their answers. Clients default to 5 (`max.in.flight.requests`),
/// librdkafka to far more; beyond this the connection is not read until an answer leaves.
pub const IN_FLIGHT_MAX: usize = 256;

/// A request's place in the order of answers of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u64);

enum Answer {
    /// With the throttle time that the answer is to tell, and where in it that stands.
    Waiting(Option<(usize, i32)>),
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
    /// The client id of its last request, while quotas ask for it.
    pub client: Option<Arc<str>>,
    /// Name and version of its software, where clients' metrics are wanted.
    pub software: Option<(String, String)>,
    /// A broker replicates over it: quotas are for clients.
    pub is_internal: bool,
    /// Not read before this time, for its client is over a quota.
    muted_until_ms: i64,
    /// Closed when it would be read again.
    is_doomed: bool,
    slot_first: u64,
    answers: VecDeque<Answer>,
}

/// Invariant: `muted` holds, with their times, exactly the connections that are not read for the sake of a quota.
#[derive(Default)]
pub struct Connections {
    open: FxHashMap<ConnId, Connection>,
    muted: BTreeSet<(i64, ConnId)>,
}

const NOT_MUTED: i64 = i64::MIN;

impl Connections {
    pub fn opened(&mut self, conn: ConnId, listener: usize, kind: ListenerKind, peer: IpAddr) {
        let fresh = Connection {
            listener,
            kind,
            peer,
            broker: None,
            client: None,
            software: None,
            is_internal: false,
            muted_until_ms: NOT_MUTED,
            is_doomed: false,
            slot_first: 0,
            answers: VecDeque::new(),
        };
        let before = self.open.insert(conn, fresh);
        assert!(before.is_none(), "the driver reused connection {conn:?}");
    }

    pub fn closed(&mut self, conn: ConnId) -> Option<Connection> {
        let closed = self.open.remove(&conn)?;
        if closed.muted_until_ms != NOT_MUTED {
            self.muted.remove(&(closed.muted_until_ms, conn));
        }
        Some(closed)
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
        let open = self.open.get(&conn);
        open.is_some_and(|conn| conn.answers.len() < IN_FLIGHT_MAX && conn.muted_until_ms == NOT_MUTED)
    }

    /// The connection is not read until then, or until later if that was said before.
    pub fn mute(&mut self, id: ConnId, until_ms: i64) {
        let Some(conn) = self.open.get_mut(&id).filter(|conn| conn.muted_until_ms < until_ms) else { return };
        self.muted.remove(&(conn.muted_until_ms, id));
        conn.muted_until_ms = until_ms;
        self.muted.insert((until_ms, id));
    }

    /// The connection is never read, and closed then.
    pub fn doom(&mut self, id: ConnId, at_ms: i64) {
        self.mute(id, at_ms);
        if let Some(conn) = self.open.get_mut(&id) {
            conn.is_doomed = true;
        }
    }

    /// Those that have been mute long enough are read again; returns one that is to be closed instead, as long as there
    /// are any.
    pub fn unmute(&mut self, now_ms: i64) -> Option<ConnId> {
        while let Some((_, id)) = self.muted.first().copied().filter(|(until_ms, _)| *until_ms <= now_ms) {
            self.muted.pop_first();
            let conn = self.open.get_mut(&id).expect("a mute connection is open");
            conn.muted_until_ms = NOT_MUTED;
            if conn.is_doomed {
                return Some(id);
            }
        }
        None
    }

    pub fn next_deadline(&self) -> i64 {
        self.muted.first().map_or(i64::MAX, |(until_ms, _)| *until_ms)
    }

    /// Takes the next place in the order of answers; `None` if the connection is gone. The answer may have to tell a
    /// throttle time: where in its frame, and how long.
    pub fn take_slot(&mut self, conn: ConnId, throttle: Option<(usize, i32)>) -> Option<Slot> {
        let conn = self.open.get_mut(&conn)?;
        conn.answers.push_back(Answer::Waiting(throttle));
        Some(Slot(conn.slot_first + conn.answers.len() as u64 - 1))
    }

    /// Puts an answer (or, for acks=0, none) into its place and releases all that are now first in order.
    pub fn answer(&mut self, id: ConnId, slot: Slot, frame: Option<Frame>, effects: &mut Vec<Effect>) {
        let Some(conn) = self.open.get_mut(&id) else { return };
        let place = (slot.0 - conn.slot_first) as usize;
        let answer = conn.answers.get_mut(place).expect("a slot is answered once");
        let Answer::Waiting(throttle) = answer else { unreachable!("a slot is answered once") };
        let throttle = *throttle;
        *answer = frame.map_or(Answer::Nothing, |mut frame| {
            if let Some((at, ms)) = throttle {
                tell_throttle(&mut frame.bytes, at, ms);
            }
            Answer::Ready(frame)
        });
        while let Some(first) = conn.answers.pop_front_if(|a| !matches!(a, Answer::Waiting(_))) {
            conn.slot_first += 1;
            if let Answer::Ready(frame) = first {
                effects.push(Effect::Respond { conn: id, frame });
            }
        }
    }
}

/// The longer of two throttle times is told: the one that the answer has, and this.
fn tell_throttle(bytes: &mut [u8], at: usize, ms: i32) {
    let Some(field) = bytes.get_mut(at..at + 4) else { return };
    let told = i32::from_be_bytes([field[0], field[1], field[2], field[3]]);
    field.copy_from_slice(&ms.max(told).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_rest_and_are_read_again() {
        let mut connections = Connections::default();
        let (a, b, c) = (ConnId(1), ConnId(2), ConnId(3));
        for conn in [a, b, c] {
            connections.opened(conn, 0, ListenerKind::Broker, IpAddr::from([127, 0, 0, 1]));
        }
        connections.mute(a, 200);
        connections.mute(a, 100);
        connections.doom(b, 150);
        connections.mute(c, 50);
        connections.closed(c);
        assert!(!connections.may_read(a) && !connections.may_read(b));
        assert_eq!(connections.next_deadline(), 150);
        assert_eq!(connections.unmute(149), None);
        assert_eq!(connections.unmute(200), Some(b));
        connections.closed(b);
        assert_eq!(connections.unmute(200), None);
        assert!(connections.may_read(a), "the longer of two times counts, and it is over");
        assert_eq!(connections.next_deadline(), i64::MAX);
    }

    #[test]
    fn answers_tell_the_longer_throttle() {
        let mut connections = Connections::default();
        connections.opened(ConnId(1), 0, ListenerKind::Broker, IpAddr::from([127, 0, 0, 1]));
        let mut told = |own: i32, of_quota: i32| {
            let slot = connections.take_slot(ConnId(1), Some((2, of_quota))).expect("it is open");
            let bytes = [&[9, 9], &own.to_be_bytes()[..], &[9]].concat();
            let mut effects = Vec::new();
            connections.answer(ConnId(1), slot, Some(Frame { bytes, ..Frame::default() }), &mut effects);
            let Some(Effect::Respond { frame, .. }) = effects.pop() else { panic!("an answer leaves") };
            i32::from_be_bytes(frame.bytes[2..6].try_into().expect("four bytes"))
        };
        assert_eq!((told(0, 70), told(90, 70)), (70, 90));
    }
}
