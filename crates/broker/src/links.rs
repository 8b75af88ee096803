//! Connections that this node opens to others: version negotiation, requests in flight, time-outs.
//!
//! A link belongs to one [`Peer`], a purpose and an address, so that a slow fetch never delays a vote. Links do not
//! retry: a lost link hands every request it held back to its owner, who knows what still makes sense.

use std::collections::{BTreeMap, VecDeque};

use protocol::api::ApiKey;
use protocol::codec::{Decode, Message};
use protocol::header::{decode_response_header, encode_request};
use protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use protocol::time::Now;
use protocol::wire::{EncodeError, Reader};

use crate::effect::{Effect, Frame, LinkId};

/// Requests that may wait on one link; owners keep far fewer in flight, so that reaching it is a defect.
const REQUESTS_MAX: usize = 4096;
/// Time for TCP and ApiVersions together. A dead host that answers nothing must not hold a request longer.
const CONNECT_TIMEOUT_MS: i64 = 5_000;
const CLIENT_SOFTWARE: &str = "zwirn";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Votes and fetches of the metadata quorum.
    Quorum,
    /// Requests of this broker to the active controller.
    Control,
    /// Fetches of this broker from a partition leader.
    Replication,
    /// Transactions: coordinators to partition leaders, and the other way round.
    Transactions,
    /// Finding out whether a broker's process still listens.
    Probe,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub purpose: Purpose,
    pub host: String,
    pub port: u16,
}

/// Why a request came back without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The other side closed, or could not be reached.
    Disconnected,
    /// Nobody listens there: the process is gone, or not yet there.
    Refused,
    TimedOut,
    /// The peer knows no version of this request that we know.
    UnsupportedVersion,
}

/// Makes the frame once the version is known.
type Build = Box<dyn FnOnce(i16, i32) -> Result<Vec<u8>, EncodeError> + Send>;

struct Queued<P> {
    key: ApiKey,
    /// Version range that the sender can build.
    versions: (i16, i16),
    build: Build,
    pending: P,
    timeout_ms: i64,
}

struct InFlight<P> {
    key: ApiKey,
    version: i16,
    deadline_ms: i64,
    pending: P,
}

enum State {
    Connecting,
    Negotiating,
    Up,
}

struct Link<P> {
    peer: Peer,
    state: State,
    versions: BTreeMap<i16, (i16, i16)>,
    deadline_ms: i64,
    queue: VecDeque<Queued<P>>,
    in_flight: BTreeMap<i32, InFlight<P>>,
    correlation_next: i32,
}

/// An answer that belongs to one of our requests. The body starts at `body_at` of the frame.
pub struct Answered<P> {
    pub pending: P,
    pub version: i16,
    pub body_at: usize,
}

pub struct Links<P> {
    node_id: i32,
    next: u64,
    by_id: BTreeMap<LinkId, Link<P>>,
    by_peer: BTreeMap<Peer, LinkId>,
    /// Requests that came back; drained by the node.
    pub failed: VecDeque<(P, Failure)>,
}

impl<P> Links<P> {
    pub fn new(node_id: i32) -> Self {
        Self { node_id, next: 0, by_id: BTreeMap::new(), by_peer: BTreeMap::new(), failed: VecDeque::new() }
    }

    /// Sends a request, opening the link if there is none. `versions` narrows what the message type itself offers.
    pub fn request<M>(
        &mut self,
        peer: &Peer,
        (key, message): (ApiKey, M),
        versions: (i16, i16),
        (pending, timeout_ms): (P, i64),
        now: Now,
        effects: &mut Vec<Effect>,
    ) where
        M: Message + Send + 'static,
    {
        let client_id = self.node_id.to_string();
        let build: Build = Box::new(move |version, id| encode_request(key, version, id, Some(&client_id), &message));
        let id = self.link_to(peer, now, effects);
        let link = self.by_id.get_mut(&id).expect("link_to made or found it");
        if link.queue.len() + link.in_flight.len() >= REQUESTS_MAX {
            self.failed.push_back((pending, Failure::Disconnected));
            return;
        }
        link.queue.push_back(Queued { key, versions, build, pending, timeout_ms });
        self.drain(id, now, effects);
    }

    fn link_to(&mut self, peer: &Peer, now: Now, effects: &mut Vec<Effect>) -> LinkId {
        if let Some(id) = self.by_peer.get(peer) {
            return *id;
        }
        let id = LinkId(self.next);
        self.next += 1;
        effects.push(Effect::Connect { link: id, host: peer.host.clone(), port: peer.port });
        let link = Link {
            peer: peer.clone(),
            state: State::Connecting,
            versions: BTreeMap::new(),
            deadline_ms: now.mono_ms + CONNECT_TIMEOUT_MS,
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            correlation_next: 0,
        };
        self.by_id.insert(id, link);
        self.by_peer.insert(peer.clone(), id);
        id
    }

    pub fn up(&mut self, id: LinkId, effects: &mut Vec<Effect>) {
        let Some(link) = self.by_id.get_mut(&id) else { return };
        link.state = State::Negotiating;
        let hello = ApiVersionsRequest {
            client_software_name: CLIENT_SOFTWARE.into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        // Version 3 is the newest that every broker since 2.4 reads; ours needs nothing of a newer one.
        let frame = encode_request(ApiKey::ApiVersions, 3, -1, Some(&self.node_id.to_string()), &hello)
            .expect("a fixed small message fits its fields");
        effects.push(Effect::Send { link: id, frame: Frame { bytes: frame, ..Frame::default() } });
    }

    /// Takes a frame of the other side; `None` if it was the link's own, or nonsense (the link is then closed).
    pub fn frame(&mut self, id: LinkId, frame: &[u8], now: Now, effects: &mut Vec<Effect>) -> Option<Answered<P>> {
        let link = self.by_id.get_mut(&id)?;
        if matches!(link.state, State::Negotiating) {
            let Some(versions) = negotiated(frame) else {
                tracing::warn!(peer = %link.peer.host, port = link.peer.port, "peer sent no valid ApiVersions response");
                self.drop_link(id, Failure::Disconnected, effects);
                return None;
            };
            link.versions = versions;
            link.state = State::Up;
            self.drain(id, now, effects);
            return None;
        }
        let correlation = frame.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes));
        let Some(request) = correlation.and_then(|c| link.in_flight.remove(&c)) else {
            tracing::warn!(peer = %link.peer.host, port = link.peer.port, "peer answered what was not asked");
            self.drop_link(id, Failure::Disconnected, effects);
            return None;
        };
        let mut reader = Reader::new(frame);
        if decode_response_header(&mut reader, request.key, request.version).is_err() {
            self.failed.push_back((request.pending, Failure::Disconnected));
            self.drop_link(id, Failure::Disconnected, effects);
            return None;
        }
        let body_at = reader.position();
        Some(Answered { pending: request.pending, version: request.version, body_at })
    }

    pub fn down(&mut self, id: LinkId, refused: bool) {
        let failure = if refused { Failure::Refused } else { Failure::Disconnected };
        self.forget(id, failure);
    }

    /// Closes the link to a peer, if there is one; its requests come back as disconnected.
    pub fn close(&mut self, peer: &Peer, effects: &mut Vec<Effect>) {
        if let Some(id) = self.by_peer.get(peer).copied() {
            self.drop_link(id, Failure::Disconnected, effects);
        }
    }

    /// Closes all links of a purpose; their requests come back as disconnected.
    pub fn close_all(&mut self, purpose: Purpose, effects: &mut Vec<Effect>) {
        let ids: Vec<LinkId> = self.by_peer.iter().filter(|(p, _)| p.purpose == purpose).map(|(_, id)| *id).collect();
        for id in ids {
            self.drop_link(id, Failure::Disconnected, effects);
        }
    }

    pub fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let late: Vec<LinkId> =
            self.by_id.iter().filter(|(_, link)| link.deadline() <= now.mono_ms).map(|(id, _)| *id).collect();
        for id in late {
            self.drop_link(id, Failure::TimedOut, effects);
        }
    }

    pub fn next_deadline(&self) -> i64 {
        self.by_id.values().map(Link::deadline).min().unwrap_or(i64::MAX)
    }

    fn drop_link(&mut self, id: LinkId, failure: Failure, effects: &mut Vec<Effect>) {
        effects.push(Effect::Disconnect { link: id });
        self.forget(id, failure);
    }

    fn forget(&mut self, id: LinkId, failure: Failure) {
        let Some(link) = self.by_id.remove(&id) else { return };
        self.by_peer.remove(&link.peer);
        for (_, request) in link.in_flight {
            self.failed.push_back((request.pending, failure));
        }
        for request in link.queue {
            self.failed.push_back((request.pending, failure));
        }
    }

    fn drain(&mut self, id: LinkId, now: Now, effects: &mut Vec<Effect>) {
        let Some(link) = self.by_id.get_mut(&id) else { return };
        if !matches!(link.state, State::Up) {
            return;
        }
        while let Some(request) = link.queue.pop_front() {
            let theirs = link.versions.get(&(request.key as i16)).copied().unwrap_or((0, -1));
            let version = theirs.1.min(request.versions.1);
            if version < theirs.0 || version < request.versions.0 {
                self.failed.push_back((request.pending, Failure::UnsupportedVersion));
                continue;
            }
            let correlation = link.correlation_next;
            link.correlation_next = link.correlation_next.wrapping_add(1) & i32::MAX;
            match (request.build)(version, correlation) {
                Ok(bytes) => effects.push(Effect::Send { link: id, frame: Frame { bytes, ..Frame::default() } }),
                Err(error) => {
                    tracing::error!(api = request.key.name(), version, %error, "request does not fit the peer's version");
                    self.failed.push_back((request.pending, Failure::UnsupportedVersion));
                    continue;
                }
            }
            let in_flight = InFlight {
                key: request.key,
                version,
                deadline_ms: now.mono_ms + request.timeout_ms,
                pending: request.pending,
            };
            link.in_flight.insert(correlation, in_flight);
        }
    }
}

impl<P> Link<P> {
    fn deadline(&self) -> i64 {
        match self.state {
            State::Up => self.in_flight.values().map(|r| r.deadline_ms).min().unwrap_or(i64::MAX),
            _ => self.deadline_ms,
        }
    }
}

fn negotiated(frame: &[u8]) -> Option<BTreeMap<i16, (i16, i16)>> {
    let mut reader = Reader::new(frame);
    decode_response_header(&mut reader, ApiKey::ApiVersions, 3).ok()?;
    let response = ApiVersionsResponse::decode(&mut reader, 3).ok()?;
    if response.error_code != 0 {
        return None;
    }
    Some(response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect())
}
