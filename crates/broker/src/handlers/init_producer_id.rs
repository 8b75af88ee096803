//! InitProducerId for idempotent producers (KIP-98): an id from this broker's block, epoch 0. With a transactional id
//! it is the transaction coordinator's.

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, InitProducerIdRequest, InitProducerIdResponse,
};
use protocol::time::Now;
use protocol::wire::DecodeError;

use crate::control::ControlOp;
use crate::lifecycle;
use crate::node::Node;
use crate::reply::ReplyTo;
use crate::request::Context;

impl Node {
    pub(crate) fn handle_init_producer_id(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: InitProducerIdRequest<'_> = cx.decode(body)?;
        let is_half = (request.producer_id == -1) != (request.producer_epoch == -1);
        if is_half || request.transactional_id.as_deref() == Some("") {
            self.refuse_producer_id(cx.reply, ErrorCode::InvalidRequest);
            return Ok(());
        }
        if request.transactional_id.is_some() {
            self.init_transactional_producer(cx.reply, &request, now);
            return Ok(());
        }
        match self.producer_ids.take() {
            Some(id) => self.grant_producer_id(cx.reply, id),
            None if self.producer_ids.wait(cx.reply) => {}
            None => self.refuse_producer_id(cx.reply, ErrorCode::CoordinatorLoadInProgress),
        }
        self.poll_producer_ids(now);
        Ok(())
    }

    fn grant_producer_id(&mut self, reply: ReplyTo, producer_id: i64) {
        self.respond(reply, &InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() });
    }

    fn refuse_producer_id(&mut self, reply: ReplyTo, code: ErrorCode) {
        let response = InitProducerIdResponse {
            error_code: code.into(),
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        self.respond(reply, &response);
    }

    /// Asks for a block ahead of need.
    pub(crate) fn poll_producer_ids(&mut self, now: Now) {
        let Some(lifecycle) = &self.lifecycle else { return };
        if lifecycle.state != lifecycle::State::Running || !self.producer_ids.wants_block() {
            return;
        }
        self.producer_ids.asked = true;
        let request = AllocateProducerIdsRequest {
            broker_id: self.config.node_id,
            broker_epoch: lifecycle.broker_epoch,
            ..Default::default()
        };
        self.ask_controller(ControlOp::AllocateProducerIds, ApiKey::AllocateProducerIds, request, now);
    }

    pub(crate) fn on_producer_ids(&mut self, response: &AllocateProducerIdsResponse, now: Now) {
        let code = ErrorCode::from_i16(response.error_code);
        if code != ErrorCode::None || response.producer_id_len <= 0 {
            tracing::debug!(error = code.name(), "no block of producer ids");
            return self.on_producer_ids_failed(now);
        }
        self.producer_ids.asked = false;
        self.producer_ids.add_block(response.producer_id_start, i64::from(response.producer_id_len));
        for reply in self.producer_ids.take_waiting() {
            match self.producer_ids.take() {
                Some(id) => self.grant_producer_id(reply, id),
                None => self.refuse_producer_id(reply, ErrorCode::CoordinatorLoadInProgress),
            }
        }
    }

    /// Producers come back by themselves; this broker asks again when one does.
    pub(crate) fn on_producer_ids_failed(&mut self, _now: Now) {
        self.producer_ids.asked = false;
        for reply in self.producer_ids.take_waiting() {
            self.refuse_producer_id(reply, ErrorCode::CoordinatorLoadInProgress);
        }
    }
}
