//! The active controller: requests that change the cluster, their records on the way into the metadata log, and the
//! answers that wait until those are committed.

use std::collections::VecDeque;

use metadata::controller::{Bootstrap, Controller, ControllerResult, ControllerSettings};
use protocol::api::ApiKey;
use protocol::codec::Message;
use protocol::error::ErrorCode;
use protocol::header::encode_response;
use protocol::messages::*;
use protocol::time::Now;
use protocol::wire::DecodeError;

use crate::effect::Frame;
use crate::links::{Failure, Peer, Purpose};
use crate::node::{Node, Pending};
use crate::reply::{Destination, ReplyTo};
use crate::request::Context;

/// A broker whose connection broke is asked this often whether it still listens. A dying process may still take a
/// connection or two from its backlog; one that is merely busy answers in the end.
const PROBES_MAX: u32 = 20;
const PROBE_TIMEOUT_MS: i64 = 1_000;

pub(crate) struct ActiveController {
    pub controller: Controller,
    epoch: i32,
    /// Answers in log order, each with the offset that must be committed before it may leave.
    waiting: VecDeque<Waiting>,
    /// Last offset that this controller has appended.
    last_offset: i64,
    probes_due: Vec<(i64, i32, i64, u32)>,
}

struct Waiting {
    offset: i64,
    reply: ReplyTo,
    frame: Frame,
}

/// One broker that dies may change tens of thousands of partitions: more than one batch holds. What makes the changes
/// take effect (the fencing, the registration) is the last record, so that a failover in between repeats them.
const BATCH_RECORDS_MAX: usize = 10_000;
/// Half of what the quorum takes as one batch.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Runs of records that each fit into a batch.
fn batches(records: &[Vec<u8>]) -> Vec<&[Vec<u8>]> {
    let mut runs = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (i, record) in records.iter().enumerate() {
        if i > from && (i - from >= BATCH_RECORDS_MAX || bytes + record.len() > BATCH_BYTES_MAX) {
            runs.push(&records[from..i]);
            (from, bytes) = (i, 0);
        }
        bytes += record.len();
    }
    runs.push(&records[from..]);
    runs
}

impl ActiveController {
    pub fn next_deadline(&self) -> i64 {
        let probe = self.probes_due.iter().map(|p| p.0).min().unwrap_or(i64::MAX);
        self.controller.next_deadline().min(probe)
    }
}

impl Node {
    pub(crate) fn is_active_controller(&self) -> bool {
        self.active.is_some()
    }

    /// The quorum has a leader, another one, or none.
    pub(crate) fn on_quorum_leader(&mut self, leader: Option<i32>, epoch: i32, is_me: bool, now: Now) {
        tracing::info!(node = self.config.node_id, leader, epoch, "quorum leader");
        if self.active.as_ref().is_some_and(|active| !is_me || active.epoch != epoch) {
            self.lose_office(now);
        }
        if is_me && self.active.is_none() {
            self.take_office(epoch, now);
        }
        // Whoever led before may be frozen, and with it every request that waits for its answer.
        self.links.close_all(Purpose::Control, &mut self.effects);
        // A new controller wants to hear of us at once; its patience with us begins now.
        if let Some(lifecycle) = &mut self.lifecycle {
            lifecycle.hurry();
        }
    }

    fn take_office(&mut self, epoch: i32, now: Now) {
        let bootstrap = match Bootstrap::new(std::mem::take(&mut self.replay.bootstrap)) {
            Ok(bootstrap) => bootstrap,
            Err(_) if !self.image.features.is_empty() => Bootstrap::default(),
            Err(error) => {
                tracing::warn!(%error, "bootstrap.checkpoint is not usable; the defaults of this version are written");
                Bootstrap::default()
            }
        };
        let settings = ControllerSettings {
            node: self.config.clone(),
            kraft_version: self.quorum.kraft_version(),
            voters: self.quorum.voters().ids().collect(),
            bootstrap,
        };
        let (controller, records) = Controller::activate(self.image.clone(), settings, self.rng.u64(..), now);
        let last_offset = self.quorum.log_end().offset - 1;
        tracing::info!(
            node = self.config.node_id,
            epoch,
            records = records.len(),
            "this node is the active controller"
        );
        self.active = Some(Box::new(ActiveController {
            controller,
            epoch,
            waiting: VecDeque::new(),
            last_offset,
            probes_due: Vec::new(),
        }));
        self.append_records(records, now);
        self.probe_everybody(now);
    }

    /// What was promised to nobody is dropped: brokers ask the next controller, clients get a closed connection.
    fn lose_office(&mut self, now: Now) {
        let Some(active) = self.active.take() else { return };
        tracing::info!(
            node = self.config.node_id,
            epoch = active.epoch,
            waiting = active.waiting.len(),
            "no longer the active controller"
        );
        for waiting in active.waiting {
            match waiting.reply.to {
                Destination::Envelope { conn, slot, correlation_id } => {
                    self.refuse_envelope(conn, slot, correlation_id, ErrorCode::NotController);
                }
                Destination::Client { conn, .. } => {
                    self.close_connection(
                        conn,
                        "the active controller changed while the request was under way".to_owned(),
                    );
                }
                Destination::Local(_) => {}
            }
        }
        self.fail_local(now);
    }

    /// Whether there was anything to do.
    pub(crate) fn drive_controller(&mut self, now: Now) -> bool {
        let Some(active) = &mut self.active else { return false };
        let mut busy = false;
        if active.controller.next_deadline() <= now.mono_ms {
            let records = active.controller.tick(now);
            busy = self.append_records(records, now);
        }
        let Some(active) = &mut self.active else { return true };
        let (due, later) = std::mem::take(&mut active.probes_due).into_iter().partition(|p| p.0 <= now.mono_ms);
        active.probes_due = later;
        let due: Vec<(i64, i32, i64, u32)> = due;
        for (_, broker, epoch, attempt) in due {
            self.probe(broker, epoch, attempt, now);
        }
        busy
    }

    /// Puts records into the metadata log; they are in the controller's image already.
    fn append_records(&mut self, records: Vec<Vec<u8>>, now: Now) -> bool {
        let Some(active) = &mut self.active else { return false };
        if records.is_empty() {
            return false;
        }
        let epoch = active.epoch;
        for run in batches(&records) {
            match self.quorum.append(epoch, run, now) {
                Ok(last) => {
                    if let Some(active) = &mut self.active {
                        active.last_offset = last;
                    }
                }
                Err(error) => {
                    // The controller's image has the records, the log does not: its reign must end here.
                    tracing::warn!(%error, "metadata records were not appended; this controller resigns");
                    self.lose_office(now);
                    self.quorum.resign(epoch, now);
                    break;
                }
            }
        }
        true
    }

    /// Lets go what is committed and visible here.
    pub(crate) fn release_committed(&mut self) {
        loop {
            let Some(active) = &mut self.active else { return };
            let next = self.replay.next;
            let Some(waiting) = active.waiting.pop_front_if(|w| w.offset < next) else { return };
            self.deliver(waiting.reply, waiting.frame);
        }
    }

    fn answer_when_committed<M: Message>(&mut self, cx: &Context, result: ControllerResult<M>, now: Now) {
        let reply = cx.reply;
        self.append_records(result.records, now);
        let bytes = match encode_response(reply.key, reply.version, reply.correlation_id, &result.response) {
            Ok((bytes, _)) => bytes,
            Err(error) => {
                tracing::error!(api = reply.key.name(), version = reply.version, %error, "answer cannot be encoded");
                return self.hang_up(reply, format!("{} response: {error}", reply.key.name()));
            }
        };
        let frame = Frame { bytes, ..Frame::default() };
        match &mut self.active {
            // An answer may rest on records of earlier operations, so that it waits for those too.
            Some(active) if active.last_offset >= self.replay.next => {
                active.waiting.push_back(Waiting { offset: active.last_offset, reply, frame });
            }
            Some(_) => self.deliver(reply, frame),
            None => self.refuse_controller_request(cx),
        }
    }

    /// This node is not the active controller. Brokers hear it in a form that makes them look for the right one; others
    /// cannot get here, since clients' requests come in envelopes.
    fn refuse_controller_request(&mut self, cx: &Context) {
        let error_code = ErrorCode::NotController.into();
        match (cx.reply.to, cx.reply.key) {
            (Destination::Envelope { conn, slot, correlation_id }, _) => {
                self.refuse_envelope(conn, slot, correlation_id, ErrorCode::NotController);
            }
            (_, ApiKey::BrokerRegistration) => {
                self.respond(cx.reply, &BrokerRegistrationResponse { error_code, ..Default::default() });
            }
            (_, ApiKey::BrokerHeartbeat) => {
                self.respond(cx.reply, &BrokerHeartbeatResponse { error_code, ..Default::default() });
            }
            (_, ApiKey::ControllerRegistration) => {
                self.respond(cx.reply, &ControllerRegistrationResponse { error_code, ..Default::default() });
            }
            (_, ApiKey::AlterPartition) => {
                self.respond(cx.reply, &AlterPartitionResponse { error_code, ..Default::default() });
            }
            (_, ApiKey::AllocateProducerIds) => {
                self.respond(cx.reply, &AllocateProducerIdsResponse { error_code, ..Default::default() });
            }
            (_, ApiKey::AssignReplicasToDirs) => {
                self.respond(cx.reply, &AssignReplicasToDirsResponse { error_code, ..Default::default() });
            }
            (_, ApiKey::UnregisterBroker) => {
                self.respond(cx.reply, &UnregisterBrokerResponse { error_code, ..Default::default() });
            }
            (_, ApiKey::UpdateFeatures) => {
                self.respond(cx.reply, &UpdateFeaturesResponse { error_code, ..Default::default() });
            }
            (_, ApiKey::ElectLeaders) => {
                self.respond(cx.reply, &ElectLeadersResponse { error_code, ..Default::default() });
            }
            (_, key) => {
                self.hang_up(cx.reply, format!("{} was sent to a controller that is not the active one", key.name()))
            }
        }
    }

    pub(crate) fn handle_controller_request(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let Some(active) = &mut self.active else {
            self.refuse_controller_request(cx);
            return Ok(());
        };
        let controller = &mut active.controller;
        let mut quota = self.quotas.lend_mutations(cx, now);
        let forwarded = !matches!(cx.reply.to, Destination::Client { .. });
        macro_rules! answer {
            ($request:ty, |$r:ident| $call:expr) => {{
                let $r: $request = cx.decode(body)?;
                let result = $call;
                self.answer_when_committed(cx, result, now);
            }};
        }
        match cx.reply.key {
            ApiKey::BrokerRegistration => return self.handle_broker_registration(cx, body, now),
            ApiKey::BrokerHeartbeat => return self.handle_broker_heartbeat(cx, body, now),
            ApiKey::UnregisterBroker => answer!(UnregisterBrokerRequest, |r| controller.unregister_broker(&r)),
            ApiKey::ControllerRegistration => {
                answer!(ControllerRegistrationRequest<'_>, |r| controller.register_controller(&r))
            }
            ApiKey::AlterPartition => {
                answer!(AlterPartitionRequest, |r| controller.alter_partition(&r, cx.reply.version, now))
            }
            ApiKey::AllocateProducerIds => {
                answer!(AllocateProducerIdsRequest, |r| controller.allocate_producer_ids(&r))
            }
            ApiKey::CreateTopics => answer!(CreateTopicsRequest<'_>, |r| controller.create_topics(&r, &mut quota)),
            ApiKey::DeleteTopics => {
                answer!(DeleteTopicsRequest<'_>, |r| controller.delete_topics(&r, cx.reply.version, &mut quota))
            }
            ApiKey::CreatePartitions => {
                answer!(CreatePartitionsRequest<'_>, |r| controller.create_partitions(&r, &mut quota))
            }
            ApiKey::AlterUserScramCredentials => {
                answer!(AlterUserScramCredentialsRequest<'_>, |r| controller.alter_user_scram_credentials(&r))
            }
            ApiKey::AlterPartitionReassignments => {
                answer!(AlterPartitionReassignmentsRequest<'_>, |r| controller.alter_partition_reassignments(&r))
            }
            ApiKey::ListPartitionReassignments => {
                answer!(ListPartitionReassignmentsRequest<'_>, |r| controller.list_partition_reassignments(&r))
            }
            ApiKey::AlterClientQuotas => {
                answer!(AlterClientQuotasRequest<'_>, |r| controller.alter_client_quotas(&r))
            }
            ApiKey::ElectLeaders => answer!(ElectLeadersRequest<'_>, |r| controller.elect_leaders(&r)),
            ApiKey::IncrementalAlterConfigs => {
                answer!(IncrementalAlterConfigsRequest<'_>, |r| controller.incremental_alter_configs(&r, forwarded))
            }
            ApiKey::AlterConfigs => answer!(AlterConfigsRequest<'_>, |r| controller.alter_configs(&r, forwarded)),
            ApiKey::UpdateFeatures => answer!(UpdateFeaturesRequest<'_>, |r| controller.update_features(&r)),
            ApiKey::AssignReplicasToDirs => {
                answer!(AssignReplicasToDirsRequest, |r| controller.assign_replicas_to_dirs(&r))
            }
            key => return Err(DecodeError::UnknownApiKey(key as i16)),
        }
        self.quotas.give_back(cx, &quota);
        if let (1.., Destination::Client { conn, .. }) = (quota.throttle_ms(), cx.reply.to) {
            self.mute(conn, i64::from(quota.throttle_ms()), now);
        }
        Ok(())
    }

    fn handle_broker_heartbeat(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: BrokerHeartbeatRequest = cx.decode(body)?;
        let offset_next = self.quorum.log_end().offset;
        let active = self.active.as_mut().expect("the caller has checked");
        let result = active.controller.heartbeat(&request, offset_next, now);
        if result.response.error_code == 0 {
            self.note_broker(cx, request.broker_id);
        }
        self.answer_when_committed(cx, result, now);
        Ok(())
    }

    fn handle_broker_registration(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: BrokerRegistrationRequest<'_> = cx.decode(body)?;
        let offset_next = self.quorum.log_end().offset;
        let refused = |code: ErrorCode| BrokerRegistrationResponse { error_code: code.into(), ..Default::default() };
        if request.cluster_id != self.cluster_id {
            tracing::warn!(broker = request.broker_id, theirs = %request.cluster_id, ours = %self.cluster_id, "a broker of another cluster wants to register");
            self.respond(cx.reply, &refused(ErrorCode::InconsistentClusterId));
            return Ok(());
        }
        let active = self.active.as_mut().expect("the caller has checked");
        let result = active.controller.register_broker(&request, offset_next, now);
        if result.response.error_code == 0 {
            self.note_broker(cx, request.broker_id);
        }
        self.answer_when_committed(cx, result, now);
        Ok(())
    }

    // The failure of brokers, as their connections show it.

    /// This connection speaks for a broker: its end is news of that broker.
    fn note_broker(&mut self, cx: &Context, broker: i32) {
        if let Some(connection) = cx.reply.to.conn().and_then(|conn| self.connections.get_mut(conn)) {
            connection.broker = Some(broker);
        }
    }

    pub(crate) fn on_broker_hung_up(&mut self, broker: i32, now: Now) {
        let Some(active) = &self.active else { return };
        let registration = active.controller.image().brokers.get(&broker);
        let Some(epoch) = registration.filter(|b| !b.fenced).map(|b| b.epoch) else { return };
        if !self.connections.speaks_for(broker) {
            self.probe(broker, epoch, 1, now);
        }
    }

    /// A new controller knows nobody's connection: a broker that died together with the old one would stay in office
    /// until its session ends.
    fn probe_everybody(&mut self, now: Now) {
        let Some(active) = &self.active else { return };
        let brokers = active.controller.image().brokers.values();
        let unfenced: Vec<(i32, i64)> =
            brokers.filter(|b| !b.fenced && b.id != self.config.node_id).map(|b| (b.id, b.epoch)).collect();
        for (broker, epoch) in unfenced {
            self.probe(broker, epoch, 1, now);
        }
    }

    /// DIFFERS: Kafka waits for `broker.session.timeout.ms`. A process that is gone refuses connections, and that is
    /// proof; silence is not, and is left to the session.
    fn probe(&mut self, broker: i32, epoch: i64, attempt: u32, now: Now) {
        let Some(active) = &self.active else { return };
        let registration = active.controller.image().brokers.get(&broker).filter(|b| b.epoch == epoch && !b.fenced);
        let Some(endpoint) = registration.and_then(|b| b.endpoint(&self.config.inter_broker_listener_name)) else {
            return;
        };
        let peer = Peer { purpose: Purpose::Probe, host: endpoint.host.clone(), port: endpoint.port };
        let request = ApiVersionsRequest {
            client_software_name: "zwirn".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        let pending = (Pending::Probe { broker, epoch, attempt }, PROBE_TIMEOUT_MS);
        self.links.request(&peer, (ApiKey::ApiVersions, request), (3, 4), pending, now, &mut self.effects);
    }

    pub(crate) fn on_probe_failure(&mut self, broker: i32, epoch: i64, attempt: u32, failure: Failure, now: Now) {
        let spoken_for = self.connections.speaks_for(broker);
        let Some(active) = &mut self.active else { return };
        let is_same = active.controller.image().brokers.get(&broker).is_some_and(|b| b.epoch == epoch && !b.fenced);
        if !is_same {
            return;
        }
        match failure {
            Failure::Refused if !spoken_for => {
                tracing::warn!(
                    broker,
                    epoch,
                    "the broker's connection broke and its port refuses new ones: it is fenced"
                );
                let records = active.controller.broker_died(broker, now);
                self.append_records(records, now);
            }
            Failure::Refused | Failure::Disconnected if attempt < PROBES_MAX => {
                let wait_ms = i64::from(attempt) * 2;
                active.probes_due.push((now.mono_ms + wait_ms, broker, epoch, attempt + 1));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_records_become_several_batches() {
        let small = vec![vec![0u8; 100]; 25_000];
        let lengths: Vec<usize> = batches(&small).iter().map(|run| run.len()).collect();
        assert_eq!(lengths, [10_000, 10_000, 5_000]);
        let large = vec![vec![0u8; 1 << 20]; 9];
        let lengths: Vec<usize> = batches(&large).iter().map(|run| run.len()).collect();
        assert_eq!(lengths, [4, 4, 1]);
        assert_eq!(batches(&small[..1]).len(), 1);
    }
}
