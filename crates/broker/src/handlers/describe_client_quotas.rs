//! DescribeClientQuotas (KIP-546).

use protocol::messages::DescribeClientQuotasRequest;
use protocol::wire::DecodeError;

use crate::node::Node;
use crate::request::Context;

impl Node {
    pub(crate) fn handle_describe_client_quotas(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: DescribeClientQuotasRequest<'_> = cx.decode(body)?;
        let response = self.image.describe_client_quotas(&request);
        self.respond(cx.reply, &response);
        Ok(())
    }
}
