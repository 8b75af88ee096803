//! The life of brokers and controllers: registration, heartbeats, fencing, controlled shutdown
//! (`ClusterControlManager`, `ReplicationControlManager.processBrokerHeartbeat`).

use protocol::error::ErrorCode;
use protocol::messages::*;
use protocol::time::Now;
use protocol::wire::Uuid;

use super::{ApiError, Controller, ControllerResult, Record, outcome, own, refused};
use crate::features::{KRAFT_VERSION, METADATA_VERSION};

/// What a broker may be, as its heartbeats see it (`BrokerControlState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ControlState {
    Fenced,
    Unfenced,
    ControlledShutdown,
    ShutdownNow,
}

/// A tagged field of a BrokerRegistration between nodes of Zwirn: the incarnations of the broker whose writes are all
/// there, though they stopped without writing that down. Kafka skips it, as every field that it does not know.
pub const INTACT_INCARNATIONS_TAG: u32 = 0x5a57;

impl ControlState {
    fn is_fenced(self) -> bool {
        matches!(self, ControlState::Fenced | ControlState::ShutdownNow)
    }
}

impl Controller {
    /// A broker joins, or comes back. `offset_next` is the end of the log that this operation's records go to; it
    /// becomes the broker epoch. The cluster id is the caller's to compare.
    pub fn register_broker(
        &mut self,
        request: &BrokerRegistrationRequest<'_>,
        offset_next: i64,
        now: Now,
    ) -> ControllerResult<BrokerRegistrationResponse> {
        if let Err(error) = self.check_registration(request, now) {
            tracing::info!(broker = request.broker_id, error = ?error, "registration refused");
            return refused(BrokerRegistrationResponse { error_code: error.code(), ..Default::default() });
        }
        let broker = request.broker_id;
        let existing = self.image.brokers.get(&broker);
        let same = existing.filter(|b| b.incarnation == request.incarnation_id);
        let mut record = register_broker_record(request, self.image.metadata_version().has_directories());
        let mut records: Vec<Record> = Vec::new();
        let is_same = same.is_some();
        match same {
            Some(old) => {
                record.fenced = old.fenced;
                record.in_controlled_shutdown = old.in_controlled_shutdown;
                record.broker_epoch = old.epoch;
            }
            None => {
                record.broker_epoch = offset_next;
                // Only the epoch that the broker wrote down when it stopped cleanly proves that nothing it
                // acknowledged was lost (KIP-966).
                let is_clean = existing.is_some_and(|b| {
                    b.epoch == request.previous_broker_epoch || names_as_intact(request, b.incarnation)
                });
                records = self.replicas_restarted(broker, is_clean);
            }
        }
        let broker_epoch = record.broker_epoch;
        records.push(MetadataRecord::RegisterBroker(record));
        let register_offset = offset_next + records.len() as i64 - 1;
        if is_same {
            let session = self.sessions.get_mut(broker).expect("a registered broker has a session");
            session.register_offset = register_offset;
            session.metadata_offset = -1;
        } else {
            self.sessions.replace(broker, broker_epoch, register_offset);
        }
        let records = self.emit(records);
        tracing::info!(broker, epoch = broker_epoch, amended = is_same, "broker registered");
        ControllerResult { records, response: BrokerRegistrationResponse { broker_epoch, ..Default::default() } }
    }

    fn check_registration(&self, request: &BrokerRegistrationRequest<'_>, now: Now) -> Result<(), ApiError> {
        let broker = request.broker_id;
        let invalid = |why: &str| Err(ApiError::new(ErrorCode::InvalidRegistration, why));
        let existing = self.image.brokers.get(&broker);
        if existing.is_some_and(|b| b.incarnation != request.incarnation_id) && self.sessions.is_valid(broker, now) {
            let why = "another process with this id has a live session";
            return Err(ApiError::new(ErrorCode::DuplicateBrokerRegistration, why));
        }
        if broker < 0 {
            return invalid("the broker id is negative");
        }
        if request.is_migrating_zk_broker {
            return Err(ApiError::new(
                ErrorCode::BrokerIdNotRegistered,
                "brokers that migrate from ZooKeeper cannot join",
            ));
        }
        if self.image.metadata_version().has_directories() {
            let dirs = &request.log_dirs;
            if dirs.is_empty() {
                return invalid("no log directory is named");
            }
            if dirs.iter().any(Uuid::is_reserved) {
                return invalid("a directory has a reserved id");
            }
            if dirs.iter().enumerate().any(|(i, dir)| dirs[..i].contains(dir)) {
                return invalid("two directories have the same id");
            }
            let mut others = self.image.brokers.values().filter(|b| b.id != broker);
            if others.any(|b| b.log_dirs.iter().any(|dir| dirs.contains(dir))) {
                return invalid("another broker is registered with one of the directories");
            }
        }
        self.check_broker_features(request)
    }

    /// The broker must support every finalized feature at its level, also those that it does not mention.
    fn check_broker_features(&self, request: &BrokerRegistrationRequest<'_>) -> Result<(), ApiError> {
        let range = |name: &str| {
            let feature = request.features.iter().find(|f| f.name == name);
            feature.map(|f| (f.min_supported_version, f.max_supported_version))
        };
        if range(METADATA_VERSION).is_none() {
            return Err(ApiError::new(ErrorCode::InvalidRegistration, "the features do not contain metadata.version"));
        }
        let finalized = |name: &str| match name {
            KRAFT_VERSION => self.settings.kraft_version,
            _ => self.image.features.get(name).copied().unwrap_or(0),
        };
        let named = request.features.iter().map(|f| f.name.as_ref());
        let known = self.image.features.keys().map(String::as_str);
        for name in named.chain(known).chain([KRAFT_VERSION]) {
            let level = finalized(name);
            let (min, max) = range(name).unwrap_or((0, 0));
            if min > max || level < min || level > max {
                let why = format!("the broker supports {name} {min} to {max}, the cluster is at {level}");
                return Err(ApiError::new(ErrorCode::UnsupportedVersion, why));
            }
        }
        Ok(())
    }

    /// A broker reports. `offset_next` is the end of the log before this operation's records.
    pub fn heartbeat(
        &mut self,
        request: &BrokerHeartbeatRequest,
        offset_next: i64,
        now: Now,
    ) -> ControllerResult<BrokerHeartbeatResponse> {
        let broker = request.broker_id;
        if let Err(error) = self.check_broker_epoch(broker, request.broker_epoch) {
            return refused(BrokerHeartbeatResponse { error_code: error.code(), ..Default::default() });
        }
        self.sessions.heard(broker, now);
        let current = self.control_state(broker);
        let next = self.next_control_state(current, request);
        let mut records = Vec::new();
        if current != next {
            tracing::info!(broker, from = ?current, to = ?next, "broker changes state");
            records = match next {
                ControlState::Fenced | ControlState::ShutdownNow => self.fence_records(broker),
                ControlState::Unfenced => self.unfence_records(broker),
                ControlState::ControlledShutdown => self.controlled_shutdown_records(broker),
            };
        }
        let mut encoded = self.emit(records);
        let directories = self.directory_changes(request);
        encoded.extend(self.emit(directories));
        let end_offset = offset_next + encoded.len() as i64 - 1;
        let session = self.sessions.get_mut(broker).expect("a registered broker has a session");
        session.metadata_offset = request.current_metadata_offset;
        let is_caught_up = request.current_metadata_offset >= session.register_offset;
        if next == ControlState::ControlledShutdown {
            session.controlled_shutdown_offset.get_or_insert(end_offset);
        } else if next.is_fenced() {
            session.controlled_shutdown_offset = None;
        }
        if next == ControlState::ShutdownNow {
            // DIFFERS: Kafka keeps the session of a broker that it has let go, so that one which is started again at
            // once is refused as a duplicate until `broker.session.timeout.ms` is over.
            self.sessions.end(broker);
        }
        let response = BrokerHeartbeatResponse {
            is_caught_up,
            is_fenced: next.is_fenced(),
            should_shut_down: next == ControlState::ShutdownNow,
            ..Default::default()
        };
        ControllerResult { records: encoded, response }
    }

    fn control_state(&self, broker: i32) -> ControlState {
        if self.sessions.is_shutting_down(broker) {
            ControlState::ControlledShutdown
        } else if self.image.brokers.get(&broker).is_none_or(|b| b.fenced) {
            ControlState::Fenced
        } else {
            ControlState::Unfenced
        }
    }

    /// `BrokerHeartbeatManager.calculateNextBrokerState`.
    fn next_control_state(&self, current: ControlState, request: &BrokerHeartbeatRequest) -> ControlState {
        let broker = request.broker_id;
        let session = self.sessions.get(broker).expect("a registered broker has a session");
        match current {
            ControlState::Fenced if request.want_shut_down => ControlState::ShutdownNow,
            ControlState::Fenced => {
                let is_caught_up = request.current_metadata_offset >= session.register_offset;
                if !request.want_fence && is_caught_up { ControlState::Unfenced } else { ControlState::Fenced }
            }
            ControlState::Unfenced if request.want_fence && request.want_shut_down => ControlState::ShutdownNow,
            ControlState::Unfenced if request.want_fence => ControlState::Fenced,
            ControlState::Unfenced if request.want_shut_down => {
                if self.has_leaderships(broker) {
                    ControlState::ControlledShutdown
                } else {
                    ControlState::ShutdownNow
                }
            }
            ControlState::Unfenced => ControlState::Unfenced,
            ControlState::ControlledShutdown => {
                // Clients of the partitions that moved must find their new leaders: every broker that serves has to
                // have seen the move.
                let granted_at = session.controlled_shutdown_offset.unwrap_or(i64::MAX);
                let seen_by_all = granted_at <= self.sessions.lowest_active_offset(&self.image);
                if !self.has_leaderships(broker) && seen_by_all {
                    ControlState::ShutdownNow
                } else {
                    ControlState::ControlledShutdown
                }
            }
            ControlState::ShutdownNow => ControlState::ShutdownNow,
        }
    }

    fn has_leaderships(&self, broker: i32) -> bool {
        self.image.topics.values().flat_map(|t| t.partitions.values()).any(|p| p.leader == broker)
    }

    fn fence_records(&self, broker: i32) -> Vec<Record> {
        let mut records = self.replicas_fenced(broker);
        records.extend(self.registration_change(broker, |r| r.fenced = 1));
        records
    }

    fn unfence_records(&self, broker: i32) -> Vec<Record> {
        let mut records: Vec<Record> = self.registration_change(broker, |r| r.fenced = -1).into_iter().collect();
        records.extend(self.replicas_unfenced(broker));
        records
    }

    fn controlled_shutdown_records(&self, broker: i32) -> Vec<Record> {
        let mut records = Vec::new();
        if self.image.brokers.get(&broker).is_some_and(|b| !b.in_controlled_shutdown) {
            records.extend(self.registration_change(broker, |r| r.in_controlled_shutdown = 1));
        }
        records.extend(self.replicas_fenced(broker));
        records
    }

    pub(super) fn registration_change(
        &self,
        broker: i32,
        change: impl FnOnce(&mut BrokerRegistrationChangeRecord),
    ) -> Option<Record> {
        let epoch = self.image.brokers.get(&broker)?.epoch;
        let mut record =
            BrokerRegistrationChangeRecord { broker_id: broker, broker_epoch: epoch, ..Default::default() };
        change(&mut record);
        Some(MetadataRecord::BrokerRegistrationChange(record))
    }

    /// Evidence that a broker's process is gone, such as its connection closed and a new one refused: it is fenced now
    /// instead of at the end of its session, and another incarnation may register at once.
    ///
    /// DIFFERS: Kafka waits for `broker.session.timeout.ms` in any case.
    pub fn broker_died(&mut self, broker: i32, _now: Now) -> Vec<Vec<u8>> {
        let Some(registration) = self.image.brokers.get(&broker) else { return Vec::new() };
        let records = if registration.fenced { Vec::new() } else { self.fence_records(broker) };
        if !records.is_empty() {
            tracing::warn!(broker, "the broker's process is gone, it is fenced");
        }
        self.sessions.end(broker);
        self.emit(records)
    }

    /// Fences whoever was not heard of for a whole session, one after the other, each seeing the one before.
    pub(super) fn fence_expired(&mut self, now: Now) -> Vec<Vec<u8>> {
        let mut encoded = Vec::new();
        for broker in self.sessions.expired(now) {
            let is_fenced = self.image.brokers.get(&broker).is_none_or(|b| b.fenced);
            let records = if is_fenced { Vec::new() } else { self.fence_records(broker) };
            if !records.is_empty() {
                tracing::warn!(broker, "the broker's session ended without a heartbeat, it is fenced");
            }
            self.sessions.end(broker);
            encoded.extend(self.emit(records));
        }
        encoded
    }

    pub fn unregister_broker(
        &mut self,
        request: &UnregisterBrokerRequest,
    ) -> ControllerResult<UnregisterBrokerResponse<'static>> {
        let broker = request.broker_id;
        let Some(registration) = self.image.brokers.get(&broker) else {
            // Tools print this message.
            let why = format!("Broker ID {broker} is not currently registered");
            let (error_code, error_message) = outcome(Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, why)));
            return refused(UnregisterBrokerResponse { error_code, error_message, ..Default::default() });
        };
        let record =
            UnregisterBrokerRecord { broker_id: broker, broker_epoch: registration.epoch, ..Default::default() };
        let mut records = self.replicas_unregistered(broker);
        records.push(MetadataRecord::UnregisterBroker(record));
        self.sessions.remove(broker);
        let records = self.emit(records);
        let response = UnregisterBrokerResponse { error_message: None, ..Default::default() };
        ControllerResult { records, response }
    }

    pub fn register_controller(
        &mut self,
        request: &ControllerRegistrationRequest<'_>,
    ) -> ControllerResult<ControllerRegistrationResponse<'static>> {
        if !self.image.metadata_version().has_controller_registration() {
            let why = "controllers cannot register at this metadata.version";
            let (error_code, error_message) = outcome(Err(ApiError::new(ErrorCode::UnsupportedVersion, why)));
            return refused(ControllerRegistrationResponse { error_code, error_message, ..Default::default() });
        }
        use register_controller_record::{ControllerEndpoint, ControllerFeature};
        let end_points = request.listeners.iter().map(|l| ControllerEndpoint {
            name: own(&l.name),
            host: own(&l.host),
            port: l.port,
            security_protocol: l.security_protocol,
            ..Default::default()
        });
        let features = request.features.iter().map(|f| ControllerFeature {
            name: own(&f.name),
            min_supported_version: f.min_supported_version,
            max_supported_version: f.max_supported_version,
            ..Default::default()
        });
        let record = RegisterControllerRecord {
            controller_id: request.controller_id,
            incarnation_id: request.incarnation_id,
            zk_migration_ready: false,
            end_points: end_points.collect(),
            features: features.collect(),
            ..Default::default()
        };
        let records = self.emit(vec![MetadataRecord::RegisterController(record)]);
        let response = ControllerRegistrationResponse { error_message: None, ..Default::default() };
        ControllerResult { records, response }
    }

    /// Requests of brokers carry their epoch; one of an older registration must not change anything.
    pub(super) fn check_broker_epoch(&self, broker: i32, epoch: i64) -> Result<(), ApiError> {
        match self.image.brokers.get(&broker) {
            Some(registration) if registration.epoch == epoch => Ok(()),
            _ => Err(ErrorCode::StaleBrokerEpoch.into()),
        }
    }
}

fn register_broker_record(
    request: &BrokerRegistrationRequest<'_>,
    has_directories: bool,
) -> RegisterBrokerRecord<'static> {
    use register_broker_record::{BrokerEndpoint, BrokerFeature};
    let end_points = request.listeners.iter().map(|l| BrokerEndpoint {
        name: own(&l.name),
        host: own(&l.host),
        port: l.port,
        security_protocol: l.security_protocol,
        ..Default::default()
    });
    let features = request.features.iter().map(|f| BrokerFeature {
        name: own(&f.name),
        min_supported_version: f.min_supported_version,
        max_supported_version: f.max_supported_version,
        ..Default::default()
    });
    RegisterBrokerRecord {
        broker_id: request.broker_id,
        incarnation_id: request.incarnation_id,
        end_points: end_points.collect(),
        features: features.collect(),
        rack: request.rack.as_deref().map(own),
        fenced: true,
        in_controlled_shutdown: false,
        log_dirs: if has_directories { request.log_dirs.clone() } else { Vec::new() },
        ..Default::default()
    }
}

/// Whether the broker says that nothing of what this incarnation wrote was lost.
fn names_as_intact(request: &BrokerRegistrationRequest<'_>, incarnation: Uuid) -> bool {
    let named = request.unknown_tags.iter().find(|(tag, _)| *tag == INTACT_INCARNATIONS_TAG);
    named.is_some_and(|(_, ids)| ids.chunks(16).any(|id| id == incarnation.0))
}
