//! GetTelemetrySubscriptions and PushTelemetry (KIP-714), where they are offered.

use protocol::error::ErrorCode;
use protocol::messages::{
    GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse, PushTelemetryRequest, PushTelemetryResponse,
};
use protocol::records::{Compression, decompress};
use protocol::time::Now;
use protocol::wire::{DecodeError, Uuid};

use crate::node::Node;
use crate::request::Context;
use crate::telemetry::{ClientInfo, ClientSeries};

/// In the order in which clients are to prefer them: zstd, lz4, gzip, snappy.
const COMPRESSION_TYPES: [i8; 4] = [4, 3, 1, 2];

impl Node {
    /// The last values that clients have pushed.
    pub fn client_series(&self) -> impl Iterator<Item = ClientSeries<'_>> {
        self.telemetry.series()
    }

    fn client_info(&self, cx: &Context, frame: &[u8], instance: Uuid) -> ClientInfo {
        let connection = cx.reply.to.conn().and_then(|conn| self.connections.get(conn));
        let software = connection.and_then(|connection| connection.software.clone()).unwrap_or_default();
        ClientInfo {
            instance,
            client_id: crate::request::client_id(frame),
            software_name: software.0,
            software_version: software.1,
            address: Some(cx.peer),
        }
    }

    pub(crate) fn handle_get_telemetry_subscriptions(
        &mut self,
        cx: &Context,
        frame: &[u8],
        body_at: usize,
        now: Now,
    ) -> Result<(), DecodeError> {
        let request: GetTelemetrySubscriptionsRequest = cx.decode(frame.get(body_at..).unwrap_or_default())?;
        let instance = match request.client_instance_id {
            id if id.is_zero() => Node::random_uuid(&mut self.rng),
            id => id,
        };
        let info = self.client_info(cx, frame, instance);
        let response = match self.telemetry.ask(&info, now) {
            Ok(wanted) => GetTelemetrySubscriptionsResponse {
                client_instance_id: instance,
                subscription_id: wanted.id,
                accepted_compression_types: COMPRESSION_TYPES.to_vec(),
                push_interval_ms: i32::try_from(wanted.interval_ms).unwrap_or(i32::MAX),
                telemetry_max_bytes: i32::try_from(self.telemetry.bytes_max()).unwrap_or(i32::MAX),
                delta_temporality: true,
                requested_metrics: wanted.metrics.into_iter().map(Into::into).collect(),
                ..Default::default()
            },
            Err(code) => GetTelemetrySubscriptionsResponse { error_code: code.into(), ..Default::default() },
        };
        self.respond(cx.reply, &response);
        Ok(())
    }

    pub(crate) fn handle_push_telemetry(
        &mut self,
        cx: &Context,
        frame: &[u8],
        body_at: usize,
        now: Now,
    ) -> Result<(), DecodeError> {
        let request: PushTelemetryRequest<'_> = cx.decode(frame.get(body_at..).unwrap_or_default())?;
        let info = self.client_info(cx, frame, request.client_instance_id);
        let of = (request.compression_type, request.metrics.len());
        let checked = self.telemetry.check_push(&info, request.subscription_id, request.terminating, of, now);
        let result = checked.and_then(|()| {
            if request.metrics.is_empty() {
                return Ok(());
            }
            let bytes_max = self.telemetry.bytes_max();
            let bytes = Compression::from_id(request.compression_type)
                .and_then(|codec| decompress(codec, &request.metrics, bytes_max, &mut self.scratch))
                .ok();
            self.telemetry.take(info.instance, bytes)
        });
        let error_code = result.err().unwrap_or(ErrorCode::None).into();
        self.respond(cx.reply, &PushTelemetryResponse { error_code, ..Default::default() });
        Ok(())
    }
}
