//! Where an answer goes, and how it gets there: to a connection, through an envelope, or back into this node.

use protocol::api::ApiKey;
use protocol::codec::Message;
use protocol::error::ErrorCode;
use protocol::header::encode_response;
use protocol::messages::EnvelopeResponse;

use crate::connections::Slot;
use crate::effect::{ConnId, Effect, Frame, Region};
use crate::node::Node;

/// The address of one answer. Copied into whatever must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub to: Destination,
    pub key: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    Client {
        conn: ConnId,
        slot: Slot,
    },
    /// The request came inside an Envelope (KIP-590); so does its answer.
    Envelope {
        conn: ConnId,
        slot: Slot,
        correlation_id: i32,
    },
    /// This node asked itself, because it is the active controller.
    Local(LocalId),
}

impl Destination {
    pub fn conn(&self) -> Option<ConnId> {
        match self {
            Destination::Client { conn, .. } | Destination::Envelope { conn, .. } => Some(*conn),
            Destination::Local(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalId(pub u64);

impl Node {
    pub(crate) fn respond(&mut self, reply: ReplyTo, message: &impl Message) {
        self.respond_with_regions(reply, message, Vec::new());
    }

    /// `regions[i]` is where the bytes of the message's i-th external records are.
    pub(crate) fn respond_with_regions(&mut self, reply: ReplyTo, message: &impl Message, regions: Vec<Region>) {
        match encode_response(reply.key, reply.version, reply.correlation_id, message) {
            Ok((bytes, splices)) => {
                assert_eq!(splices.len(), regions.len(), "every external records field has its region");
                self.deliver(reply, Frame { bytes, splices, regions });
            }
            Err(error) => {
                // A value of ours does not fit the client's version: our defect, and the client must not wait.
                tracing::error!(api = reply.key.name(), version = reply.version, %error, "answer cannot be encoded");
                self.hang_up(reply, format!("{} response: {error}", reply.key.name()));
            }
        }
    }

    /// An answer that is encoded already: a whole frame with its header.
    pub(crate) fn deliver(&mut self, reply: ReplyTo, frame: Frame) {
        match reply.to {
            Destination::Client { conn, slot } => {
                self.connections.answer(conn, slot, Some(frame), &mut self.effects);
            }
            Destination::Envelope { conn, slot, correlation_id } => {
                assert!(frame.regions.is_empty(), "no forwarded request is answered with file regions");
                let inner = frame.bytes.get(4..).unwrap_or_default();
                let envelope = EnvelopeResponse { response_data: Some(inner.into()), ..Default::default() };
                self.answer_envelope(conn, slot, correlation_id, &envelope);
            }
            Destination::Local(id) => self.local_answers.push_back((id, frame.bytes)),
        }
    }

    /// An Envelope that could not be opened or handled as such.
    pub(crate) fn refuse_envelope(&mut self, conn: ConnId, slot: Slot, correlation_id: i32, error: ErrorCode) {
        let envelope = EnvelopeResponse { error_code: error.into(), ..Default::default() };
        self.answer_envelope(conn, slot, correlation_id, &envelope);
    }

    fn answer_envelope(&mut self, conn: ConnId, slot: Slot, correlation_id: i32, envelope: &EnvelopeResponse<'_>) {
        let (bytes, _) = encode_response(ApiKey::Envelope, 0, correlation_id, envelope)
            .expect("an envelope holds any frame that was itself encoded");
        self.connections.answer(conn, slot, Some(Frame { bytes, ..Frame::default() }), &mut self.effects);
    }

    /// A request that has no answer (acks=0).
    pub(crate) fn respond_nothing(&mut self, reply: ReplyTo) {
        if let Destination::Client { conn, slot } = reply.to {
            self.connections.answer(conn, slot, None, &mut self.effects);
        }
    }

    /// The request cannot be answered in a way that the peer would understand.
    pub(crate) fn hang_up(&mut self, reply: ReplyTo, reason: String) {
        if let Some(conn) = reply.to.conn() {
            self.close_connection(conn, reason);
        }
    }

    /// Closes from our side: nothing that the connection still waits for will be answered.
    pub(crate) fn close_connection(&mut self, conn: ConnId, reason: String) {
        if self.connections.closed(conn).is_some() {
            self.effects.push(Effect::Close { conn, reason });
        }
    }
}
