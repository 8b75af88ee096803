//! From a frame to its handler: header, listener, version, and the one place that dispatches on the API key.

use std::net::IpAddr;
use std::sync::Arc;

use protocol::api::ApiKey;
use protocol::codec::Decode;
use protocol::error::ErrorCode;
use protocol::header::decode_request_header;
use protocol::messages::EnvelopeRequest;
use protocol::time::Now;
use protocol::wire::{DecodeError, Reader};

use crate::api;
use crate::connections::Slot;
use crate::effect::{ConnId, ListenerKind};
use crate::handlers::security::is_answered_here;
use crate::node::Node;
use crate::reply::{Destination, ReplyTo};

/// What a handler knows of a request beside its body.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub reply: ReplyTo,
    pub kind: ListenerKind,
    /// Index of the listener that the client came by; `None` for requests of this node and of envelopes.
    pub listener: Option<usize>,
    pub peer: IpAddr,
    /// The client's id, if there are quotas.
    pub client: Option<Arc<str>>,
    /// What the client has to wait for the time that its requests took.
    pub throttle_ms: i32,
}

impl Context {
    /// Bytes behind the request are nobody's business: Kafka leaves them, too.
    pub fn decode<'a, M: Decode<'a>>(&self, body: &'a [u8]) -> Result<M, DecodeError> {
        M::decode(&mut Reader::new(body), self.reply.version)
    }
}

/// Requests that came before the node knew the cluster and was part of it.
#[derive(Default)]
pub(crate) struct Early {
    /// This broker has been unfenced since it started.
    is_open: bool,
    requests: Vec<(Context, Vec<u8>, usize)>,
    bytes: usize,
}

/// Questions about the cluster are small; clients that get no answer ask another broker.
const EARLY_BYTES_MAX: usize = 4 << 20;

impl Early {
    pub(crate) fn is_done(&self) -> bool {
        self.is_open && self.requests.is_empty()
    }

    fn hold(&mut self, cx: Context, frame: &[u8], body_at: usize) -> Result<(), String> {
        if self.bytes + frame.len() > EARLY_BYTES_MAX {
            return Err("this node has not caught up with the cluster, and too many wait for it".to_owned());
        }
        self.bytes += frame.len();
        self.requests.push((cx, frame.to_vec(), body_at));
        Ok(())
    }

    fn take(&mut self) -> Vec<(Context, Vec<u8>, usize)> {
        self.bytes = 0;
        std::mem::take(&mut self.requests)
    }
}

/// What stands before the body.
struct Head {
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    body_at: usize,
}

fn parse_head(frame: &[u8]) -> Result<Head, DecodeError> {
    let mut reader = Reader::new(frame);
    let header = decode_request_header(&mut reader)?;
    let key =
        ApiKey::try_from(header.request_api_key).map_err(|_| DecodeError::UnknownApiKey(header.request_api_key))?;
    Ok(Head {
        key,
        version: header.request_api_version,
        correlation_id: header.correlation_id,
        body_at: reader.position(),
    })
}

/// Whether a broker hands a client's request to the controller.
fn is_for_controller(key: ApiKey) -> bool {
    (key.is_forwardable() && !is_answered_here(key)) || key == ApiKey::AlterConfigs
}

/// The client id of a request whose header can be read; empty without one.
pub(crate) fn client_id(frame: &[u8]) -> String {
    let header = decode_request_header(&mut Reader::new(frame)).ok();
    header.and_then(|header| header.client_id.map(|id| id.into_owned())).unwrap_or_default()
}

impl Node {
    /// One request of a client, another broker or a controller; `frame` is without its four length bytes.
    pub fn frame(&mut self, conn: ConnId, frame: &mut [u8], now: Now) {
        let Some(connection) = self.connections.get(conn) else { return };
        let (kind, listener, peer) = (connection.kind, connection.listener, connection.peer);
        let head = match parse_head(frame) {
            Ok(head) => head,
            Err(error) => return self.close_connection(conn, format!("request header: {error}")),
        };
        let served = self.served(head.key, kind);
        if served.is_none_or(|(min, max)| head.version < min || head.version > max) && head.key != ApiKey::ApiVersions {
            let reason = format!("{} version {} is not served on this listener", head.key.name(), head.version);
            return self.close_connection(conn, reason);
        }
        let client = self.quota_client(frame);
        let mut throttle_ms = 0;
        if let Some(client) = client.as_ref().filter(|_| kind == ListenerKind::Broker) {
            throttle_ms = self.throttle_request(conn, client, now);
        }
        let throttle = head.key.throttle_at(head.version).filter(|_| throttle_ms > 0).map(|at| (at, throttle_ms));
        let slot = self.connections.take_slot(conn, throttle).expect("the connection was found above");
        let reply = ReplyTo {
            to: Destination::Client { conn, slot },
            key: head.key,
            version: head.version,
            correlation_id: head.correlation_id,
        };
        let context = Context { reply, kind, listener: Some(listener), peer, client, throttle_ms };
        if self.is_too_early(&context) {
            return self
                .early
                .hold(context, frame, head.body_at)
                .unwrap_or_else(|why| self.close_connection(conn, why));
        }
        if let Err(error) = self.dispatch(&context, frame, head.body_at, now) {
            self.close_connection(conn, format!("{} version {} request: {error}", head.key.name(), head.version));
        }
    }

    /// What a node that has just started replayed of the metadata log is of the past: its old leaders, its own ISR
    /// before it died. Apache Kafka does not listen for clients before it is unfenced; here only what concerns the
    /// cluster waits, since the node knows by itself which partitions it leads.
    fn is_too_early(&self, cx: &Context) -> bool {
        if cx.kind != ListenerKind::Broker || self.early.is_open {
            return false;
        }
        match cx.reply.key {
            ApiKey::Metadata
            | ApiKey::DescribeCluster
            | ApiKey::DescribeTopicPartitions
            | ApiKey::DescribeConfigs
            | ApiKey::FindCoordinator
            | ApiKey::ListGroups => {
                // A list without brokers says nothing to anybody, and who knows of no topic of offsets would create one.
                !self.replicas.is_published || self.image.brokers.values().all(|b| b.fenced)
            }
            // The controller would place nothing on a broker that is fenced.
            key => is_for_controller(key),
        }
    }

    /// Something was published: whoever can be answered now is.
    pub(crate) fn answer_early(&mut self, now: Now) {
        let epoch = self.lifecycle.as_ref().map_or(-1, |lifecycle| lifecycle.broker_epoch);
        let own = self.image.brokers.get(&self.config.node_id);
        self.early.is_open |= own.is_some_and(|broker| !broker.fenced && broker.epoch == epoch);
        for (cx, mut frame, body_at) in self.early.take() {
            if self.is_too_early(&cx) {
                // There was room for it before.
                let _ = self.early.hold(cx, &frame, body_at);
                continue;
            }
            let result = self.dispatch(&cx, &mut frame, body_at, now);
            if let (Err(error), Some(conn)) = (result, cx.reply.to.conn()) {
                self.close_connection(conn, format!("{} request: {error}", cx.reply.key.name()));
            }
        }
    }

    /// A request that this node, being the active controller, has for itself; `frame` has no length bytes.
    pub(crate) fn local_frame(&mut self, to: Destination, frame: &mut [u8], now: Now) -> Result<(), DecodeError> {
        let head = parse_head(frame)?;
        let reply = ReplyTo { to, key: head.key, version: head.version, correlation_id: head.correlation_id };
        let context = Context {
            reply,
            kind: ListenerKind::Controller,
            listener: None,
            peer: IpAddr::from([127, 0, 0, 1]),
            client: self.quota_client(frame),
            throttle_ms: 0,
        };
        self.dispatch(&context, frame, head.body_at, now)
    }

    fn dispatch(&mut self, cx: &Context, frame: &mut [u8], body_at: usize, now: Now) -> Result<(), DecodeError> {
        let on_broker = cx.kind == ListenerKind::Broker;
        if on_broker && is_for_controller(cx.reply.key) {
            self.forward(cx, frame, now);
            return Ok(());
        }
        let body = frame.get(body_at..).unwrap_or_default();
        match cx.reply.key {
            ApiKey::Produce => self.handle_produce(cx, frame, body_at, now),
            ApiKey::Fetch if on_broker => self.handle_fetch(cx, body, now),
            ApiKey::ListOffsets => self.handle_list_offsets(cx, body),
            ApiKey::Metadata => self.handle_metadata(cx, body, now),
            ApiKey::ApiVersions => self.handle_api_versions(cx, body),
            ApiKey::FindCoordinator
            | ApiKey::JoinGroup
            | ApiKey::ConsumerGroupHeartbeat
            | ApiKey::ConsumerGroupDescribe
            | ApiKey::SyncGroup
            | ApiKey::Heartbeat
            | ApiKey::LeaveGroup
            | ApiKey::OffsetCommit
            | ApiKey::OffsetFetch
            | ApiKey::OffsetDelete
            | ApiKey::ListGroups
            | ApiKey::DescribeGroups
            | ApiKey::DeleteGroups => self.handle_group_request(cx, frame, body_at, now),
            ApiKey::DeleteRecords => self.handle_delete_records(cx, body, now),
            ApiKey::InitProducerId => self.handle_init_producer_id(cx, body, now),
            ApiKey::AddPartitionsToTxn => self.handle_add_partitions(cx, body, now),
            ApiKey::AddOffsetsToTxn => self.handle_add_offsets(cx, body, now),
            ApiKey::EndTxn => self.handle_end_txn(cx, body, now),
            ApiKey::WriteTxnMarkers => self.handle_write_txn_markers(cx, body, now),
            ApiKey::TxnOffsetCommit => self.handle_txn_offset_commit(cx, body, now),
            ApiKey::DescribeProducers => self.handle_describe_producers(cx, body),
            ApiKey::DescribeTransactions => self.handle_describe_transactions(cx, body),
            ApiKey::ListTransactions => self.handle_list_transactions(cx, body, now),
            ApiKey::OffsetForLeaderEpoch => self.handle_offset_for_leader_epoch(cx, body),
            ApiKey::GetTelemetrySubscriptions => self.handle_get_telemetry_subscriptions(cx, frame, body_at, now),
            ApiKey::PushTelemetry => self.handle_push_telemetry(cx, frame, body_at, now),
            ApiKey::DescribeAcls | ApiKey::DescribeDelegationToken => self.handle_security_request(cx, body),
            key if is_answered_here(key) => self.handle_security_request(cx, body),
            ApiKey::DescribeUserScramCredentials => self.handle_describe_user_scram_credentials(cx, body),
            ApiKey::DescribeClientQuotas => self.handle_describe_client_quotas(cx, body),
            ApiKey::DescribeConfigs => self.handle_describe_configs(cx, body),
            ApiKey::ListConfigResources => self.handle_list_config_resources(cx, body),
            ApiKey::DescribeLogDirs => self.handle_describe_log_dirs(cx, body),
            ApiKey::DescribeCluster => self.handle_describe_cluster(cx, body),
            ApiKey::DescribeTopicPartitions => self.handle_describe_topic_partitions(cx, body),
            ApiKey::Fetch
            | ApiKey::Vote
            | ApiKey::BeginQuorumEpoch
            | ApiKey::EndQuorumEpoch
            | ApiKey::FetchSnapshot
            | ApiKey::UpdateRaftVoter
            | ApiKey::AddRaftVoter
            | ApiKey::RemoveRaftVoter
            | ApiKey::DescribeQuorum => self.handle_quorum_request(cx, body, now),
            ApiKey::Envelope => self.handle_envelope(cx, body, now),
            _ => self.handle_controller_request(cx, body, now),
        }
    }

    /// KIP-590: a broker hands over what its client asked of the controller.
    fn handle_envelope(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let Destination::Client { conn, slot } = cx.reply.to else {
            return Err(DecodeError::Invalid("an envelope inside an envelope"));
        };
        let envelope: EnvelopeRequest<'_> = cx.decode(body)?;
        let mut inner = envelope.request_data.to_vec();
        match self.open_envelope(&mut inner, (conn, slot, cx.reply.correlation_id), cx, now) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, peer = %cx.peer, "envelope cannot be opened");
                self.refuse_envelope(conn, slot, cx.reply.correlation_id, ErrorCode::InvalidRequest);
            }
        }
        Ok(())
    }

    fn open_envelope(
        &mut self,
        inner: &mut [u8],
        (conn, slot, correlation_id): (ConnId, Slot, i32),
        outer: &Context,
        now: Now,
    ) -> Result<(), DecodeError> {
        let head = parse_head(inner)?;
        let served = api::served(head.key, ListenerKind::Controller);
        if !is_for_controller(head.key) {
            return Err(DecodeError::Invalid("this API is not forwarded"));
        }
        if served.is_none_or(|(min, max)| head.version < min || head.version > max) {
            self.refuse_envelope(conn, slot, correlation_id, ErrorCode::UnsupportedVersion);
            return Ok(());
        }
        let reply = ReplyTo {
            to: Destination::Envelope { conn, slot, correlation_id },
            key: head.key,
            version: head.version,
            correlation_id: head.correlation_id,
        };
        let client = self.quota_client(inner);
        let context = Context { reply, listener: None, client, throttle_ms: 0, ..outer.clone() };
        self.dispatch(&context, inner, head.body_at, now)
    }
}
