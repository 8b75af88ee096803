//! The way to the active controller, which may be this node: requests of the broker itself, and requests that clients
//! sent to a broker but that only the controller can carry out (KIP-590).

use std::collections::{BTreeMap, VecDeque};

use protocol::api::ApiKey;
use protocol::codec::{Decode, Message, decode_all};
use protocol::error::ErrorCode;
use protocol::header::{decode_response_header, encode_request};
use protocol::messages::{DefaultPrincipalData, EnvelopeRequest, EnvelopeResponse};
use protocol::time::Now;
use protocol::wire::{DecodeError, Reader, Writer};
use replication::PartitionKey;

use crate::effect::Frame;
use crate::links::{Failure, Peer, Purpose};
use crate::node::{Node, Pending};
use crate::reply::{Destination, LocalId, ReplyTo};
use crate::request::Context;

/// Client requests waiting for a controller to be elected; beyond it they are refused at once.
const FORWARDS_WAITING_MAX: usize = 10_000;
/// How long a client's request waits for a controller; clients give up after `request.timeout.ms`, 30 s by default.
const FORWARD_TIMEOUT_MS: i64 = 30_000;
/// Shorter heartbeat intervals do not make a busy controller faster.
const HEARTBEAT_TIMEOUT_MIN_MS: i64 = 1_000;
/// Between attempts while the controller is not known or says that it is none.
const RETRY_MS: i64 = 20;

/// What one request to the controller is for, and so what its answer (or the lack of one) means.
pub(crate) enum ControlOp {
    Register,
    Heartbeat,
    RegisterController,
    /// The partitions whose ISR the request changes, each with its partition epoch.
    AlterPartition(Vec<(PartitionKey, i32)>),
    AllocateProducerIds,
    /// Topics that a metadata request asked to create.
    AutoCreate(Vec<String>),
    AssignDirectories,
    Forward(Box<Forward>),
}

/// A client's request on its way to the controller.
pub(crate) struct Forward {
    reply: ReplyTo,
    /// Header and body as the client sent them.
    request: Vec<u8>,
    client_host: Vec<u8>,
    deadline_ms: i64,
    not_before_ms: i64,
}

#[derive(Default)]
pub(crate) struct ControlChannel {
    local_next: u64,
    local: BTreeMap<LocalId, (ControlOp, ApiKey, i16)>,
    /// Forwards that found no controller, or one that had just lost its office.
    waiting: VecDeque<Box<Forward>>,
}

impl ControlChannel {
    /// Names a request of this node to itself, whatever it is for.
    pub fn new_local_id(&mut self) -> LocalId {
        let id = LocalId(self.local_next);
        self.local_next += 1;
        id
    }

    pub fn next_deadline(&self) -> i64 {
        self.waiting.iter().map(|f| f.not_before_ms.min(f.deadline_ms)).min().unwrap_or(i64::MAX)
    }
}

impl Node {
    /// Asks the active controller. The end comes back through `on_control_answer` or `on_control_failure`, perhaps at
    /// once.
    pub(crate) fn ask_controller<M>(&mut self, op: ControlOp, key: ApiKey, message: M, now: Now)
    where
        M: Message + Send + 'static,
    {
        // A heartbeat that is late is worth nothing; the next one may find another connection, or another controller.
        let timeout_ms = match key {
            ApiKey::BrokerHeartbeat => self.config.broker_heartbeat_interval_ms.max(HEARTBEAT_TIMEOUT_MIN_MS),
            _ => self.config.controller_request_timeout_ms(),
        };
        let versions = (*M::VERSIONS.start(), *M::VERSIONS.end());
        if self.is_active_controller() {
            let version = versions.1;
            let id = self.local_id(op, key, version);
            let client_id = self.config.node_id.to_string();
            let mut frame = encode_request(key, version, 0, Some(&client_id), &message)
                .expect("a request of our own fits its newest version");
            let request = frame.get_mut(4..).expect("a frame begins with its length");
            if let Err(error) = self.local_frame(Destination::Local(id), request, now) {
                unreachable!("this node cannot read its own {}: {error}", key.name());
            }
        } else if let Some(peer) = self.controller_peer() {
            let request = (key, message);
            self.links.request(&peer, request, versions, (Pending::Control(op), timeout_ms), now, &mut self.effects);
        } else {
            self.on_control_failure(op, Failure::Disconnected, now);
        }
    }

    fn local_id(&mut self, op: ControlOp, key: ApiKey, version: i16) -> LocalId {
        let id = self.control.new_local_id();
        self.control.local.insert(id, (op, key, version));
        id
    }

    fn controller_peer(&self) -> Option<Peer> {
        let (host, port) = self.controller_endpoint()?;
        Some(Peer { purpose: Purpose::Control, host, port })
    }

    /// A client's request that the controller must carry out; `frame` is header and body.
    pub(crate) fn forward(&mut self, cx: &Context, frame: &[u8], now: Now) {
        let client_host = match cx.peer {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let forward = Forward {
            reply: cx.reply,
            request: frame.to_vec(),
            client_host,
            deadline_ms: now.mono_ms + FORWARD_TIMEOUT_MS,
            not_before_ms: now.mono_ms,
        };
        self.send_forward(Box::new(forward), now);
    }

    fn send_forward(&mut self, forward: Box<Forward>, now: Now) {
        if self.is_active_controller() {
            let mut request = forward.request.clone();
            let (key, version) = (forward.reply.key, forward.reply.version);
            let id = self.local_id(ControlOp::Forward(forward), key, version);
            if let Err(error) = self.local_frame(Destination::Local(id), &mut request, now) {
                if let Some((ControlOp::Forward(forward), ..)) = self.control.local.remove(&id) {
                    self.hang_up(forward.reply, format!("{} request: {error}", key.name()));
                }
            }
        } else if let Some(peer) = self.controller_peer() {
            let envelope = EnvelopeRequest {
                request_data: forward.request.clone().into(),
                request_principal: Some(anonymous_principal().into()),
                client_host_address: forward.client_host.clone().into(),
                ..Default::default()
            };
            let left_ms = (forward.deadline_ms - now.mono_ms).max(1);
            let pending = (Pending::Control(ControlOp::Forward(forward)), left_ms);
            self.links.request(&peer, (ApiKey::Envelope, envelope), (0, 0), pending, now, &mut self.effects);
        } else {
            self.forward_later(forward, now);
        }
    }

    fn forward_later(&mut self, mut forward: Box<Forward>, now: Now) {
        if self.control.waiting.len() >= FORWARDS_WAITING_MAX {
            return self.hang_up(forward.reply, "too many requests wait for a controller".to_owned());
        }
        forward.not_before_ms = now.mono_ms + RETRY_MS;
        self.control.waiting.push_back(forward);
    }

    /// Tries what waits for a controller again, and gives up what has waited too long.
    pub(crate) fn poll_forwards(&mut self, now: Now) {
        let due = |f: &Forward| f.deadline_ms <= now.mono_ms || f.not_before_ms <= now.mono_ms;
        if !self.control.waiting.iter().any(|f| due(f)) {
            return;
        }
        for forward in std::mem::take(&mut self.control.waiting) {
            if forward.deadline_ms <= now.mono_ms {
                // A client that waited this long has given up; a close makes it ask another broker.
                self.hang_up(forward.reply, "no controller was found in time".to_owned());
            } else if forward.not_before_ms <= now.mono_ms {
                self.send_forward(forward, now);
            } else {
                self.control.waiting.push_back(forward);
            }
        }
    }

    /// Answers that this node gave itself.
    pub(crate) fn drain_local_answers(&mut self, now: Now) -> bool {
        let mut any = false;
        while let Some((id, frame)) = self.local_answers.pop_front() {
            any = true;
            if let Some((op, key, version)) = self.on_local_transaction_answer(id) {
                self.on_transaction_answer(op, version, body_of(&frame, key, version), now);
                continue;
            }
            let Some((op, key, version)) = self.control.local.remove(&id) else { continue };
            if let ControlOp::Forward(forward) = op {
                self.deliver_forwarded(forward.reply, frame, now);
                continue;
            }
            self.on_control_answer(op, version, body_of(&frame, key, version), now);
        }
        any
    }

    /// This node was the active controller and is no more: what it asked itself was perhaps done, perhaps not.
    pub(crate) fn fail_local(&mut self, now: Now) {
        for (_, (op, ..)) in std::mem::take(&mut self.control.local) {
            self.on_control_failure(op, Failure::Disconnected, now);
        }
    }

    /// The answer to one request to the controller; `body` is without its header.
    pub(crate) fn on_control_answer(&mut self, op: ControlOp, version: i16, body: &[u8], now: Now) {
        let outcome = match op {
            ControlOp::Register => decode_all(body, version).map(|r| self.on_registered(&r, now)),
            ControlOp::Heartbeat => decode_all(body, version).map(|r| self.on_heartbeat(&r, now)),
            ControlOp::RegisterController => decode_all(body, version).map(|r| self.on_controller_registered(&r, now)),
            ControlOp::AlterPartition(asked) => {
                decode_all(body, version).map(|r| self.on_partitions_altered(&asked, &r, now))
            }
            ControlOp::AllocateProducerIds => decode_all(body, version).map(|r| self.on_producer_ids(&r, now)),
            ControlOp::AutoCreate(names) => {
                self.on_auto_created(&names);
                Ok(())
            }
            ControlOp::AssignDirectories => Ok(()),
            ControlOp::Forward(forward) => self.on_forwarded(forward, body, now),
        };
        if let Err(error) = outcome {
            tracing::error!(%error, "the controller's answer cannot be read");
        }
    }

    fn on_forwarded(&mut self, forward: Box<Forward>, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let envelope = EnvelopeResponse::decode(&mut Reader::new(body), 0)?;
        match ErrorCode::from_i16(envelope.error_code) {
            ErrorCode::None => {
                let data = envelope.response_data.unwrap_or_default();
                let mut bytes = Vec::with_capacity(data.len() + 4);
                bytes.extend_from_slice(&(data.len() as i32).to_be_bytes());
                bytes.extend_from_slice(&data);
                self.deliver_forwarded(forward.reply, bytes, now);
            }
            ErrorCode::NotController => self.forward_later(forward, now),
            error => self.hang_up(forward.reply, format!("the controller refused the envelope: {}", error.name())),
        }
        Ok(())
    }

    /// The controller may have found that the client changes the cluster too fast: it is this broker that knows the
    /// client's connection (KIP-599).
    fn deliver_forwarded(&mut self, reply: ReplyTo, bytes: Vec<u8>, now: Now) {
        let at = reply.key.throttle_at(reply.version);
        let field = at.and_then(|at| bytes.get(at..at + 4)).and_then(|field| field.try_into().ok());
        let throttle_ms = field.map_or(0, i32::from_be_bytes);
        if let (1.., Some(conn)) = (throttle_ms, reply.to.conn()) {
            self.mute(conn, i64::from(throttle_ms), now);
        }
        self.deliver(reply, Frame { bytes, ..Frame::default() });
    }

    pub(crate) fn on_control_failure(&mut self, op: ControlOp, failure: Failure, now: Now) {
        match op {
            ControlOp::Register | ControlOp::Heartbeat => self.on_lifecycle_failure(failure, now),
            ControlOp::RegisterController => self.on_controller_registration_failed(now),
            ControlOp::AlterPartition(asked) => self.on_alter_partition_failed(&asked, now),
            ControlOp::AllocateProducerIds => self.on_producer_ids_failed(now),
            ControlOp::AutoCreate(names) => self.on_auto_created(&names),
            ControlOp::AssignDirectories => {}
            ControlOp::Forward(forward) => self.forward_later(forward, now),
        }
    }
}

/// What follows the header of an answer that this node has written.
fn body_of(frame: &[u8], key: ApiKey, version: i16) -> &[u8] {
    let mut reader = Reader::new(frame.get(4..).unwrap_or_default());
    decode_response_header(&mut reader, key, version).expect("this node wrote the header");
    frame.get(4 + reader.position()..).unwrap_or_default()
}

/// `User:ANONYMOUS` as `DefaultKafkaPrincipalBuilder` serializes it: the version, then the message.
fn anonymous_principal() -> Vec<u8> {
    let principal = DefaultPrincipalData { type_: "User".into(), name: "ANONYMOUS".into(), ..Default::default() };
    let mut writer = Writer::new();
    writer.i16(0);
    principal.encode(&mut writer, 0);
    writer.finish_inline().expect("a fixed small message fits its fields")
}
