//! ApiVersions: what this listener serves, and the cluster's features (KIP-511, KIP-584).

use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use protocol::wire::DecodeError;

use crate::node::Node;
use crate::reply::ReplyTo;
use crate::request::Context;

impl Node {
    pub(crate) fn handle_api_versions(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let versions = ApiKey::ApiVersions.versions();
        if !versions.contains(&cx.reply.version) {
            // KIP-511: a client newer than we are is told in version 0, which it can read, what we know of this API.
            let known = ApiVersion {
                api_key: ApiKey::ApiVersions as i16,
                min_version: *versions.start(),
                max_version: *versions.end(),
                ..Default::default()
            };
            let response = ApiVersionsResponse {
                error_code: ErrorCode::UnsupportedVersion.into(),
                api_keys: vec![known],
                ..Default::default()
            };
            self.respond(ReplyTo { version: 0, ..cx.reply }, &response);
            return Ok(());
        }
        let request: ApiVersionsRequest<'_> = cx.decode(body)?;
        let valid = cx.reply.version < 3
            || (software_is_valid(&request.client_software_name)
                && software_is_valid(&request.client_software_version));
        if !valid {
            let response = ApiVersionsResponse { error_code: ErrorCode::InvalidRequest.into(), ..Default::default() };
            self.respond(cx.reply, &response);
            return Ok(());
        }
        if self.telemetry.is_on {
            self.note_software(cx, &request);
        }
        let response = self.api_versions(cx);
        self.respond(cx.reply, &response);
        Ok(())
    }

    /// Subscriptions to clients' metrics may ask for it.
    fn note_software(&mut self, cx: &Context, request: &ApiVersionsRequest<'_>) {
        const CHARS_MAX: usize = 100;
        let short = |text: &str| text.chars().take(CHARS_MAX).collect::<String>();
        if let Some(connection) = cx.reply.to.conn().and_then(|conn| self.connections.get_mut(conn)) {
            let software = (short(&request.client_software_name), short(&request.client_software_version));
            connection.software = Some(software);
        }
    }

    fn api_versions(&self, cx: &Context) -> ApiVersionsResponse<'static> {
        let api_keys = self
            .advertised(cx.kind)
            .into_iter()
            .map(|(key, min_version, max_version)| ApiVersion {
                api_key: key as i16,
                min_version,
                max_version,
                ..Default::default()
            })
            .collect();
        let supported_features = metadata::features::SUPPORTED
            .iter()
            // KAFKA-17011: clients before version 4 of this response do not take a minimum of 0.
            .filter(|feature| cx.reply.version >= 4 || feature.min > 0)
            .map(|feature| SupportedFeatureKey {
                name: feature.name.into(),
                min_version: feature.min,
                max_version: feature.max,
                ..Default::default()
            })
            .collect();
        let finalized_features = self
            .finalized_features()
            .map(|(name, level)| FinalizedFeatureKey {
                name: name.to_owned().into(),
                min_version_level: level,
                max_version_level: level,
                ..Default::default()
            })
            .collect();
        ApiVersionsResponse {
            api_keys,
            supported_features,
            finalized_features,
            finalized_features_epoch: self.published_offset(),
            ..Default::default()
        }
    }
}

/// KIP-511: letters, digits, and between them `-` and `.`.
fn software_is_valid(text: &str) -> bool {
    let alnum = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let bytes = text.as_bytes();
    alnum(bytes.first().copied())
        && alnum(bytes.last().copied())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-' || *c == b'.')
}
