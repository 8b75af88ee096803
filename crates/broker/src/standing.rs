//! This broker towards the controller: what [`Lifecycle`] decides is sent here, and its answers come back.

use protocol::api::ApiKey;
use protocol::messages::broker_registration_request::{Feature, Listener};
use protocol::messages::{BrokerHeartbeatResponse, BrokerRegistrationRequest, BrokerRegistrationResponse};
use protocol::time::Now;
use protocol::wire::UnknownTags;

use crate::control::ControlOp;
use crate::lifecycle::{Ask, State};
use crate::links::Failure;
use crate::node::Node;

impl Node {
    pub(crate) fn poll_lifecycle(&mut self, now: Now) {
        let Some(lifecycle) = &mut self.lifecycle else { return };
        match lifecycle.poll(now) {
            Some(Ask::Register) => {
                let request = self.registration_request();
                self.ask_controller(ControlOp::Register, ApiKey::BrokerRegistration, request, now);
            }
            Some(Ask::Heartbeat) => {
                // Before the first publication nothing is applied, however much is replayed.
                let applied = if self.replicas.is_published { self.replay.next - 1 } else { -1 };
                let request = lifecycle.heartbeat(applied);
                self.ask_controller(ControlOp::Heartbeat, ApiKey::BrokerHeartbeat, request, now);
            }
            None => {}
        }
    }

    fn registration_request(&self) -> BrokerRegistrationRequest<'static> {
        let listeners = self.config.advertised_listeners.iter().map(|e| Listener {
            name: e.name.clone().into(),
            host: e.host.clone().into(),
            port: e.port,
            security_protocol: e.security_protocol,
            ..Default::default()
        });
        let features = metadata::features::SUPPORTED.iter().map(|f| Feature {
            name: f.name.into(),
            min_supported_version: f.min,
            max_supported_version: f.max,
            ..Default::default()
        });
        let lifecycle = self.lifecycle.as_ref().expect("only brokers register");
        let dirs = self.online_dirs().map(|index| &self.log_dirs[index]);
        // KIP-966: the last epoch, the same in all directories, proves that nothing was lost.
        // DIFFERS: Kafka knows it only after a clean stop. Here a process that was killed on a machine that stayed up
        // has lost nothing either, and its replicas stay eligible; else a cluster whose brokers are all killed would
        // have to choose its leaders blindly.
        let epochs = || dirs.clone().map(storage::LogDir::intact_broker_epoch);
        let first = epochs().next().unwrap_or(-1);
        // A registration whose answer never came leaves an epoch that nobody has noted: the controller may know one of
        // the incarnations that have asked.
        let mut incarnations = dirs.clone().next().map(|dir| dir.intact_incarnations().to_vec()).unwrap_or_default();
        incarnations.retain(|incarnation| dirs.clone().all(|dir| dir.intact_incarnations().contains(incarnation)));
        let incarnations: Vec<u8> = incarnations.iter().flat_map(|incarnation| incarnation.0).collect();
        let unknown_tags = match incarnations.is_empty() {
            true => UnknownTags::default(),
            false => UnknownTags::one(metadata::INTACT_INCARNATIONS_TAG, &incarnations),
        };
        let previous_broker_epoch = match lifecycle.broker_epoch {
            -1 if epochs().all(|e| e == first) => first,
            -1 => -1,
            own => own,
        };
        let mut log_dirs: Vec<_> = dirs.clone().map(|d| d.id).collect();
        log_dirs.sort();
        BrokerRegistrationRequest {
            broker_id: self.config.node_id,
            cluster_id: self.cluster_id.clone().into(),
            incarnation_id: lifecycle.incarnation,
            listeners: listeners.collect(),
            features: features.collect(),
            rack: self.config.broker_rack.clone().map(Into::into),
            log_dirs,
            previous_broker_epoch,
            unknown_tags,
            ..Default::default()
        }
    }

    pub(crate) fn on_registered(&mut self, response: &BrokerRegistrationResponse, now: Now) {
        if let Some(lifecycle) = &mut self.lifecycle {
            lifecycle.on_registered(response, now);
            // A refusal gives no epoch, and takes none away.
            let broker_epoch = lifecycle.broker_epoch;
            let failed = &self.offline.failed;
            let online = self.log_dirs.iter().enumerate().filter(|(index, _)| !failed.contains(index));
            for (_, dir) in online.filter(|_| broker_epoch >= 0) {
                // Without the note a crash counts as one that may have lost something.
                if let Err(error) = dir.note_registered(lifecycle.incarnation, broker_epoch) {
                    tracing::warn!(dir = %dir.path.display(), %error, "the broker epoch cannot be noted");
                }
            }
        }
        // The registration may have been replayed before its answer came.
        self.on_image_changed(now);
    }

    pub(crate) fn on_heartbeat(&mut self, response: &BrokerHeartbeatResponse, now: Now) {
        let Some(lifecycle) = &mut self.lifecycle else { return };
        let before = lifecycle.state;
        lifecycle.on_heartbeat(response, now);
        if before != State::Running && lifecycle.state == State::Running {
            // The words are those that scripts around Kafka wait for.
            tracing::info!(broker = self.config.node_id, "Transitioning from RECOVERY to RUNNING");
        }
    }

    pub(crate) fn on_lifecycle_failure(&mut self, failure: Failure, now: Now) {
        if let Some(lifecycle) = &mut self.lifecycle {
            lifecycle.on_failure(failure, now);
        }
    }

    /// Where the active controller takes requests, as the quorum knows it.
    pub(crate) fn controller_endpoint(&self) -> Option<(String, u16)> {
        let (leader, endpoint) = self.quorum.leader_endpoint()?;
        // As long as this node is to lead but has not taken office, nobody can be asked.
        (leader != self.config.node_id).then_some((endpoint.host, endpoint.port))
    }
}
