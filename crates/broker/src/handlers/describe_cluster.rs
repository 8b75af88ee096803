//! DescribeCluster (KIP-700, KIP-919): brokers to those who ask a broker, controllers to those who ask a controller.

use protocol::error::ErrorCode;
use protocol::messages::describe_cluster_response::DescribeClusterBroker;
use protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};
use protocol::wire::DecodeError;

use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED};
use crate::effect::ListenerKind;
use crate::node::Node;
use crate::request::Context;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

impl Node {
    pub(crate) fn handle_describe_cluster(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: DescribeClusterRequest = cx.decode(body)?;
        let here = if cx.kind == ListenerKind::Broker { BROKERS } else { CONTROLLERS };
        if request.endpoint_type != here {
            let (code, message) = match request.endpoint_type {
                // Version 0 did not know of types.
                _ if cx.reply.version == 0 => {
                    (ErrorCode::InvalidRequest, "a controller is asked for controllers, in version 1 or newer")
                }
                BROKERS | CONTROLLERS => {
                    (ErrorCode::MismatchedEndpointType, "this listener does not know endpoints of that type")
                }
                _ => (ErrorCode::UnsupportedEndpointType, "endpoint types are 1 (brokers) and 2 (controllers)"),
            };
            let response = DescribeClusterResponse {
                error_code: code.into(),
                error_message: Some(message.into()),
                ..Default::default()
            };
            self.respond(cx.reply, &response);
            return Ok(());
        }
        let (brokers, controller_id) = match here {
            BROKERS => (self.cluster_brokers(cx, request.include_fenced_brokers), self.some_broker()),
            _ => (self.cluster_controllers(cx), self.quorum.leader_and_epoch().leader.unwrap_or(-1)),
        };
        let cluster_authorized_operations = match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => OPERATIONS_NOT_ASKED,
        };
        let response = DescribeClusterResponse {
            endpoint_type: here,
            cluster_id: self.cluster_id.clone().into(),
            controller_id,
            brokers,
            cluster_authorized_operations,
            ..Default::default()
        };
        self.respond(cx.reply, &response);
        Ok(())
    }

    fn cluster_brokers(&self, cx: &Context, with_fenced: bool) -> Vec<DescribeClusterBroker<'static>> {
        let listener = self.listener_name(cx.listener);
        let shown = self.image.brokers.values().filter(|b| with_fenced || !b.fenced);
        shown
            .filter_map(|broker| {
                let endpoint = broker.endpoint(listener)?;
                Some(DescribeClusterBroker {
                    broker_id: broker.id,
                    host: endpoint.host.clone().into(),
                    port: i32::from(endpoint.port),
                    rack: broker.rack.clone().map(Into::into),
                    is_fenced: broker.fenced && cx.reply.version >= 2,
                    ..Default::default()
                })
            })
            .collect()
    }

    fn cluster_controllers(&self, cx: &Context) -> Vec<DescribeClusterBroker<'static>> {
        let name = self.listener_name(cx.listener);
        let known = self.image.controllers.values().filter_map(|controller| {
            let endpoint = controller.endpoints.iter().find(|e| e.name.eq_ignore_ascii_case(name))?;
            Some(DescribeClusterBroker {
                broker_id: controller.id,
                host: endpoint.host.clone().into(),
                port: i32::from(endpoint.port),
                ..Default::default()
            })
        });
        known.collect()
    }
}
