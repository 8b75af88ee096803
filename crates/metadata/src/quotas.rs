//! Client quotas as the metadata log holds them: who may have which key, and what DescribeClientQuotas finds
//! (KIP-546, KIP-612). What a quota means to a request is the broker's.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::describe_client_quotas_request::ComponentData;
use protocol::messages::describe_client_quotas_response::{EntityData, EntryData, ValueData};
use protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use crate::image::{MetadataImage, QuotaEntity};

pub const USER: &str = "user";
pub const CLIENT_ID: &str = "client-id";
pub const IP: &str = "ip";

pub const PRODUCER_BYTE_RATE: &str = "producer_byte_rate";
pub const CONSUMER_BYTE_RATE: &str = "consumer_byte_rate";
pub const REQUEST_PERCENTAGE: &str = "request_percentage";
pub const CONTROLLER_MUTATION_RATE: &str = "controller_mutation_rate";
pub const CONNECTION_CREATION_RATE: &str = "connection_creation_rate";

/// Keys of users and clients, with the largest whole number each may have; `None` where fractions are allowed.
pub const USER_AND_CLIENT_KEYS: [(&str, Option<f64>); 4] = [
    (PRODUCER_BYTE_RATE, Some(i64::MAX as f64)),
    (CONSUMER_BYTE_RATE, Some(i64::MAX as f64)),
    (REQUEST_PERCENTAGE, None),
    (CONTROLLER_MUTATION_RATE, None),
];
pub const IP_KEYS: [(&str, Option<f64>); 1] = [(CONNECTION_CREATION_RATE, Some(i32::MAX as f64))];

const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const SPECIFIED: i8 = 2;

/// What a filter wants of the types it names: one entity (`None`: the default one), or any.
#[derive(Default)]
struct Filter {
    exact: BTreeMap<String, Option<String>>,
    any: Vec<String>,
}

impl Filter {
    fn names(&self, kind: &str) -> bool {
        self.exact.contains_key(kind) || self.any.iter().any(|any| any == kind)
    }

    fn add(&mut self, component: &ComponentData<'_>) -> Result<(), (ErrorCode, String)> {
        let invalid = |why: String| Err((ErrorCode::InvalidRequest, why));
        let kind = component.entity_type.as_ref();
        if kind.is_empty() {
            return invalid("Invalid empty entity type.".to_owned());
        }
        if self.names(kind) {
            return invalid(format!("Entity type {kind} cannot appear more than once in the filter."));
        }
        if ![USER, CLIENT_ID, IP].contains(&kind) {
            return Err((ErrorCode::UnsupportedVersion, format!("Unsupported entity type {kind}")));
        }
        match (component.match_type, component.match_.as_deref()) {
            (EXACT, Some(name)) => drop(self.exact.insert(kind.to_owned(), Some(name.to_owned()))),
            (EXACT, None) => return invalid("an exact match needs a name".to_owned()),
            (DEFAULT, None) => drop(self.exact.insert(kind.to_owned(), None)),
            (SPECIFIED, None) => self.any.push(kind.to_owned()),
            (DEFAULT | SPECIFIED, Some(_)) => {
                return invalid("only an exact match may have a name".to_owned());
            }
            (unknown, _) => return invalid(format!("Unknown match type {unknown}")),
        }
        Ok(())
    }

    fn matches(&self, entity: &QuotaEntity, strict: bool) -> bool {
        if strict && entity.len() != self.exact.len() + self.any.len() {
            return false;
        }
        let named = |kind: &str| entity.iter().find(|(k, _)| k == kind).map(|(_, name)| name);
        self.exact.iter().all(|(kind, name)| named(kind) == Some(name)) && self.any.iter().all(|k| named(k).is_some())
    }
}

impl MetadataImage {
    pub fn describe_client_quotas(
        &self,
        request: &DescribeClientQuotasRequest<'_>,
    ) -> DescribeClientQuotasResponse<'static> {
        let refused = |(code, why): (ErrorCode, String)| DescribeClientQuotasResponse {
            error_code: code.into(),
            error_message: Some(why.into()),
            entries: None,
            ..Default::default()
        };
        let mut filter = Filter::default();
        for component in &request.components {
            if let Err(error) = filter.add(component) {
                return refused(error);
            }
        }
        if filter.names(IP) && (filter.names(USER) || filter.names(CLIENT_ID)) {
            let why = "an address cannot be combined with a user or a client id in one filter";
            return refused((ErrorCode::InvalidRequest, why.to_owned()));
        }
        let found = self.quotas.iter().filter(|(entity, _)| filter.matches(entity, request.strict));
        let entries = found.map(|(entity, values)| EntryData {
            entity: entity
                .iter()
                .map(|(kind, name)| EntityData {
                    entity_type: kind.clone().into(),
                    entity_name: name.clone().map(Into::into),
                    ..Default::default()
                })
                .collect(),
            values: values
                .iter()
                .map(|(key, value)| ValueData { key: key.clone().into(), value: *value, ..Default::default() })
                .collect(),
            ..Default::default()
        });
        DescribeClientQuotasResponse { error_message: None, entries: Some(entries.collect()), ..Default::default() }
    }
}
