//! Requests about what a listener without authentication does not have: ACLs without an authorizer, and delegation
//! tokens, which nobody may ask for over an unprotected connection. They get the errors that Kafka gives there.

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::create_acls_response::AclCreationResult;
use protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use protocol::messages::*;
use protocol::wire::DecodeError;

use crate::node::Node;
use crate::request::Context;

const NO_AUTHORIZER: &str = "No Authorizer is configured.";
const NOT_ALLOWED: ErrorCode = ErrorCode::DelegationTokenRequestNotAllowed;

/// Whether any node answers this by itself, although the controller would carry it out where it is offered.
pub(crate) fn is_answered_here(key: ApiKey) -> bool {
    matches!(
        key,
        ApiKey::CreateAcls
            | ApiKey::DeleteAcls
            | ApiKey::CreateDelegationToken
            | ApiKey::RenewDelegationToken
            | ApiKey::ExpireDelegationToken
    )
}

impl Node {
    pub(crate) fn handle_security_request(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let disabled = i16::from(ErrorCode::SecurityDisabled);
        match cx.reply.key {
            ApiKey::DescribeAcls => {
                let _: DescribeAclsRequest<'_> = cx.decode(body)?;
                let response = DescribeAclsResponse {
                    error_code: disabled,
                    error_message: Some(NO_AUTHORIZER.into()),
                    ..Default::default()
                };
                self.respond(cx.reply, &response);
            }
            ApiKey::CreateAcls => {
                let request: CreateAclsRequest<'_> = cx.decode(body)?;
                let refused = AclCreationResult {
                    error_code: disabled,
                    error_message: Some(NO_AUTHORIZER.into()),
                    ..Default::default()
                };
                let results = vec![refused; request.creations.len()];
                self.respond(cx.reply, &CreateAclsResponse { results, ..Default::default() });
            }
            ApiKey::DeleteAcls => {
                let request: DeleteAclsRequest<'_> = cx.decode(body)?;
                let refused = DeleteAclsFilterResult {
                    error_code: disabled,
                    error_message: Some(NO_AUTHORIZER.into()),
                    ..Default::default()
                };
                let filter_results = vec![refused; request.filters.len()];
                self.respond(cx.reply, &DeleteAclsResponse { filter_results, ..Default::default() });
            }
            _ => return self.handle_token_request(cx, body),
        }
        Ok(())
    }

    fn handle_token_request(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let error_code = i16::from(NOT_ALLOWED);
        match cx.reply.key {
            ApiKey::CreateDelegationToken => {
                let request: CreateDelegationTokenRequest<'_> = cx.decode(body)?;
                let named = request.owner_principal_name.as_deref().filter(|name| !name.is_empty());
                let owner_type = request.owner_principal_type.as_deref().filter(|_| named.is_some());
                let response = CreateDelegationTokenResponse {
                    error_code,
                    principal_type: owner_type.unwrap_or("User").to_owned().into(),
                    principal_name: named.unwrap_or("ANONYMOUS").to_owned().into(),
                    token_requester_principal_type: if cx.reply.version > 2 { "User".into() } else { "".into() },
                    token_requester_principal_name: if cx.reply.version > 2 { "ANONYMOUS".into() } else { "".into() },
                    issue_timestamp_ms: -1,
                    expiry_timestamp_ms: -1,
                    max_timestamp_ms: -1,
                    ..Default::default()
                };
                self.respond(cx.reply, &response);
            }
            ApiKey::RenewDelegationToken => {
                let _: RenewDelegationTokenRequest<'_> = cx.decode(body)?;
                let response =
                    RenewDelegationTokenResponse { error_code, expiry_timestamp_ms: -1, ..Default::default() };
                self.respond(cx.reply, &response);
            }
            ApiKey::ExpireDelegationToken => {
                let _: ExpireDelegationTokenRequest<'_> = cx.decode(body)?;
                let response =
                    ExpireDelegationTokenResponse { error_code, expiry_timestamp_ms: -1, ..Default::default() };
                self.respond(cx.reply, &response);
            }
            _ => {
                let _: DescribeDelegationTokenRequest<'_> = cx.decode(body)?;
                self.respond(cx.reply, &DescribeDelegationTokenResponse { error_code, ..Default::default() });
            }
        }
        Ok(())
    }

    pub(crate) fn handle_describe_user_scram_credentials(
        &mut self,
        cx: &Context,
        body: &[u8],
    ) -> Result<(), DecodeError> {
        let request: DescribeUserScramCredentialsRequest<'_> = cx.decode(body)?;
        let response = self.image.describe_user_scram_credentials(&request);
        self.respond(cx.reply, &response);
        Ok(())
    }
}
