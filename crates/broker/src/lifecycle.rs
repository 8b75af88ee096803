//! This broker's standing with the active controller: registration, heartbeats, controlled shutdown (KIP-631).
//!
//! Mirrors `BrokerLifecycleManager`. It decides what to ask and when; sending is the node's.

use protocol::error::ErrorCode;
use protocol::messages::{BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationResponse};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::links::Failure;

/// After a failure, or while the controller has not caught up with our last news. Far below the heartbeat interval,
/// so that a start, or a change of controllers, costs milliseconds.
const RETRY_MS: i64 = 20;
/// A registration refused because our predecessor's session is still open is asked for again after this.
const DUPLICATE_RETRY_MS: i64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No broker epoch yet.
    Registering,
    /// Registered; the controller keeps us fenced until we have replayed our own registration.
    Recovery,
    Running,
    /// Leaderships move away; the controller says when we may go.
    ShuttingDown,
    /// The controller let us go.
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Register,
    Heartbeat,
}

#[derive(Debug)]
pub struct Lifecycle {
    pub node_id: i32,
    pub incarnation: Uuid,
    pub state: State,
    /// −1 until registered; the offset of our registration in the metadata log.
    pub broker_epoch: i64,
    /// When the controller last answered.
    pub heard_ms: i64,
    heartbeat_interval_ms: i64,
    next_ms: i64,
    in_flight: bool,
    shutdown_wanted: bool,
    offline_dirs: Vec<Uuid>,
}

impl Lifecycle {
    pub fn new(node_id: i32, incarnation: Uuid, heartbeat_interval_ms: i64) -> Self {
        Self {
            node_id,
            incarnation,
            state: State::Registering,
            broker_epoch: -1,
            heard_ms: i64::MIN,
            heartbeat_interval_ms,
            next_ms: 0,
            in_flight: false,
            shutdown_wanted: false,
            offline_dirs: Vec::new(),
        }
    }

    pub fn next_deadline(&self) -> i64 {
        if self.in_flight || self.state == State::Released { i64::MAX } else { self.next_ms }
    }

    /// What is due now; the caller sends it and reports the end of it.
    pub fn poll(&mut self, now: Now) -> Option<Ask> {
        if self.in_flight || now.mono_ms < self.next_ms || self.state == State::Released {
            return None;
        }
        self.in_flight = true;
        match self.state {
            State::Registering if self.shutdown_wanted => {
                // Never registered: nobody waits for us.
                self.state = State::Released;
                None
            }
            State::Registering => Some(Ask::Register),
            _ => Some(Ask::Heartbeat),
        }
    }

    /// News for the controller (metadata replayed up to our registration, a failed directory) or a new controller:
    /// do not wait for the interval.
    pub fn hurry(&mut self) {
        self.next_ms = i64::MIN;
    }

    /// Our own registration is in the image: the controller may let us in.
    pub fn on_replayed(&mut self) {
        if self.state == State::Recovery {
            self.hurry();
        }
    }

    pub fn heartbeat(&self, metadata_offset_applied: i64) -> BrokerHeartbeatRequest {
        BrokerHeartbeatRequest {
            broker_id: self.node_id,
            broker_epoch: self.broker_epoch,
            current_metadata_offset: metadata_offset_applied,
            want_fence: false,
            want_shut_down: self.shutdown_wanted,
            offline_log_dirs: self.offline_dirs.clone(),
            cordoned_log_dirs: Some(Vec::new()),
            ..Default::default()
        }
    }

    pub fn begin_shutdown(&mut self) {
        self.shutdown_wanted = true;
        if self.state == State::Registering {
            self.state = State::Released;
        } else {
            self.state = State::ShuttingDown;
        }
        self.hurry();
    }

    pub fn directory_failed(&mut self, id: Uuid) {
        if !self.offline_dirs.contains(&id) {
            self.offline_dirs.push(id);
        }
        self.hurry();
    }

    pub fn on_registered(&mut self, response: &BrokerRegistrationResponse, now: Now) {
        self.in_flight = false;
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {
                self.broker_epoch = response.broker_epoch;
                self.state = State::Recovery;
                self.next_ms = now.mono_ms;
                tracing::info!(broker = self.node_id, epoch = self.broker_epoch, "registered with the controller");
            }
            ErrorCode::DuplicateBrokerRegistration => {
                tracing::warn!(
                    broker = self.node_id,
                    "another process with this node.id has a live session; trying again"
                );
                self.next_ms = now.mono_ms + DUPLICATE_RETRY_MS;
            }
            ErrorCode::NotController => self.next_ms = now.mono_ms + RETRY_MS,
            error => {
                tracing::error!(broker = self.node_id, error = error.name(), "the controller refuses our registration");
                self.next_ms = now.mono_ms + self.heartbeat_interval_ms;
            }
        }
    }

    pub fn on_heartbeat(&mut self, response: &BrokerHeartbeatResponse, now: Now) {
        self.in_flight = false;
        self.heard_ms = now.mono_ms;
        self.next_ms = now.mono_ms + self.heartbeat_interval_ms;
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {}
            ErrorCode::NotController => {
                self.next_ms = now.mono_ms + RETRY_MS;
                return;
            }
            // DIFFERS: Kafka keeps sending heartbeats of an epoch that is gone until an operator restarts the broker;
            // a new registration of the same incarnation is what that restart would do.
            ErrorCode::StaleBrokerEpoch | ErrorCode::BrokerIdNotRegistered if !self.shutdown_wanted => {
                tracing::warn!(
                    broker = self.node_id,
                    epoch = self.broker_epoch,
                    "registration is gone; registering again"
                );
                self.state = State::Registering;
                self.next_ms = now.mono_ms;
                return;
            }
            error => {
                tracing::warn!(broker = self.node_id, error = error.name(), "heartbeat refused");
                return;
            }
        }
        match self.state {
            State::Recovery if !response.is_fenced => {
                self.state = State::Running;
                tracing::info!(broker = self.node_id, epoch = self.broker_epoch, "unfenced: this broker serves");
            }
            State::Recovery => self.next_ms = now.mono_ms + RETRY_MS,
            State::ShuttingDown if response.should_shut_down => {
                self.state = State::Released;
                tracing::info!(broker = self.node_id, "the controller has moved our leaderships; shutting down");
            }
            State::ShuttingDown => self.next_ms = now.mono_ms + RETRY_MS,
            _ => {}
        }
    }

    pub fn on_failure(&mut self, failure: Failure, now: Now) {
        self.in_flight = false;
        self.next_ms = now.mono_ms + RETRY_MS;
        tracing::debug!(broker = self.node_id, ?failure, state = ?self.state, "the controller did not answer");
    }
}
