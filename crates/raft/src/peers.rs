//! One request at a time to each peer, with timeouts and backoff (`RequestManager`).
//!
//! A fetch has a stricter rule: none is sent while any request to any peer is unanswered, because two answers to
//! fetches at the same offset would be appended twice.

use std::collections::BTreeMap;

use crate::types::Endpoint;

/// Whom a request goes to. Bootstrap servers have ids below −1, since nobody knows who listens there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: i32,
    pub endpoint: Endpoint,
}

impl Peer {
    pub fn is_bootstrap(&self) -> bool {
        self.id < -1
    }
}

/// Id of the first bootstrap server; the following ones count down.
pub const FIRST_BOOTSTRAP_ID: i32 = -2;

/// Names one request until its response, or until it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestToken(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Awaiting { token: RequestToken, until_ms: i64 },
    BackingOff { until_ms: i64 },
}

#[derive(Debug)]
pub struct Peers {
    /// A peer that is not here is ready.
    connections: BTreeMap<i32, Connection>,
    bootstrap: Vec<Peer>,
    request_timeout_ms: i64,
    retry_backoff_ms: i64,
    token_next: u64,
    /// Requests nobody waits for any more; whoever owns the links may close theirs.
    given_up: Vec<(i32, RequestToken)>,
}

impl Peers {
    pub fn new(bootstrap: Vec<Peer>, request_timeout_ms: i64, retry_backoff_ms: i64) -> Self {
        Self {
            connections: BTreeMap::new(),
            bootstrap,
            request_timeout_ms,
            retry_backoff_ms,
            token_next: 1,
            given_up: Vec::new(),
        }
    }

    /// Gives up requests that timed out, which lets their peers back off, and makes those ready whose backoff is over.
    /// First thing in every turn.
    pub fn expire(&mut self, now_ms: i64) {
        let (given_up, backoff_ms) = (&mut self.given_up, self.retry_backoff_ms);
        self.connections.retain(|&id, connection| match *connection {
            Connection::Awaiting { token, until_ms } if until_ms <= now_ms => {
                given_up.push((id, token));
                *connection = Connection::BackingOff { until_ms: now_ms + backoff_ms };
                true
            }
            Connection::BackingOff { until_ms } => until_ms > now_ms,
            Connection::Awaiting { .. } => true,
        });
    }

    pub fn take_given_up(&mut self) -> Vec<(i32, RequestToken)> {
        std::mem::take(&mut self.given_up)
    }

    pub fn is_ready(&self, id: i32) -> bool {
        !self.connections.contains_key(&id)
    }

    pub fn is_backing_off(&self, id: i32) -> bool {
        matches!(self.connections.get(&id), Some(Connection::BackingOff { .. }))
    }

    pub fn has_any_in_flight(&self) -> bool {
        self.connections.values().any(|c| matches!(c, Connection::Awaiting { .. }))
    }

    pub fn on_sent(&mut self, id: i32, now_ms: i64) -> RequestToken {
        assert!(self.is_ready(id), "a second request to peer {id}");
        let token = RequestToken(self.token_next);
        self.token_next += 1;
        self.connections.insert(id, Connection::Awaiting { token, until_ms: now_ms + self.request_timeout_ms });
        token
    }

    /// The peer whose answer to `token` is still awaited; late answers have none.
    pub fn awaiting(&self, token: RequestToken) -> Option<i32> {
        self.connections.iter().find_map(|(&id, connection)| match connection {
            Connection::Awaiting { token: t, .. } if *t == token => Some(id),
            _ => None,
        })
    }

    /// The answer to `token` was dealt with. Does nothing if a change of role has dropped the request meanwhile.
    pub fn on_result(&mut self, token: RequestToken, good: bool, now_ms: i64) {
        let Some(id) = self.awaiting(token) else { return };
        if good {
            self.connections.remove(&id);
        } else {
            self.connections.insert(id, Connection::BackingOff { until_ms: now_ms + self.retry_backoff_ms });
        }
    }

    pub fn reset(&mut self, id: i32) {
        self.connections.remove(&id);
    }

    /// After a change of role nothing that was asked before matters.
    pub fn reset_all(&mut self) {
        self.connections.clear();
    }

    /// A bootstrap server to ask for the leader, if no request is under way anywhere.
    pub fn ready_bootstrap(&self, rng: &mut fastrand::Rng) -> Option<Peer> {
        if self.bootstrap.is_empty() || self.has_any_in_flight() {
            return None;
        }
        let start = rng.usize(..self.bootstrap.len());
        let (before, from) = self.bootstrap.split_at(start);
        from.iter().chain(before).find(|peer| self.is_ready(peer.id)).cloned()
    }

    /// When [`Peers::expire`] has something to do next.
    pub fn next_deadline(&self) -> i64 {
        let until = |connection: &Connection| match *connection {
            Connection::Awaiting { until_ms, .. } | Connection::BackingOff { until_ms } => until_ms,
        };
        self.connections.values().map(until).min().unwrap_or(i64::MAX)
    }
}
