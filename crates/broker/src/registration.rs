//! A controller makes itself known to the active one (KIP-919), so that its features count and tools can find it.

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::controller_registration_request::{Feature, Listener};
use protocol::messages::{ControllerRegistrationRequest, ControllerRegistrationResponse};
use protocol::time::Now;
use protocol::wire::Uuid;

use crate::control::ControlOp;
use crate::node::Node;

const RETRY_MS: i64 = 100;

#[derive(Debug)]
pub(crate) struct ControllerRegistration {
    pub incarnation: Uuid,
    in_flight: bool,
    next_ms: i64,
}

impl ControllerRegistration {
    pub fn new(incarnation: Uuid) -> Self {
        Self { incarnation, in_flight: false, next_ms: i64::MAX }
    }

    pub fn next_deadline(&self) -> i64 {
        if self.in_flight { i64::MAX } else { self.next_ms }
    }
}

impl Node {
    /// The image changed: are we in it as we are?
    pub(crate) fn check_controller_registration(&mut self, now: Now) {
        let Some(registration) = &mut self.registration else { return };
        let known = self.image.controllers.get(&self.config.node_id);
        let is_known = known.is_some_and(|c| c.incarnation == registration.incarnation);
        if is_known || !self.image.metadata_version().has_controller_registration() || self.image.features.is_empty() {
            registration.next_ms = i64::MAX;
        } else if registration.next_ms == i64::MAX {
            registration.next_ms = now.mono_ms;
        }
    }

    pub(crate) fn poll_controller_registration(&mut self, now: Now) {
        let Some(registration) = &mut self.registration else { return };
        if registration.in_flight || now.mono_ms < registration.next_ms {
            return;
        }
        registration.in_flight = true;
        let listeners = self.config.controller_advertised.iter().map(|e| Listener {
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
        let request = ControllerRegistrationRequest {
            controller_id: self.config.node_id,
            incarnation_id: registration.incarnation,
            zk_migration_ready: false,
            listeners: listeners.collect(),
            features: features.collect(),
            ..Default::default()
        };
        self.ask_controller(ControlOp::RegisterController, ApiKey::ControllerRegistration, request, now);
    }

    pub(crate) fn on_controller_registered(&mut self, response: &ControllerRegistrationResponse<'_>, now: Now) {
        let code = ErrorCode::from_i16(response.error_code);
        if code != ErrorCode::None && code != ErrorCode::NotController {
            tracing::warn!(error = code.name(), "this controller's registration was refused");
        }
        self.on_controller_registration_failed(now);
    }

    /// Whatever the answer, the image says whether we are registered; until it does, ask again.
    pub(crate) fn on_controller_registration_failed(&mut self, now: Now) {
        if let Some(registration) = &mut self.registration {
            registration.in_flight = false;
            registration.next_ms = now.mono_ms + RETRY_MS;
        }
        self.check_controller_registration(now);
    }
}
