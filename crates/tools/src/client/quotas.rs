//! Client quotas, as the admin client asks for them.

use protocol::error::ErrorCode;
use protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use protocol::messages::describe_client_quotas_request::ComponentData;
use protocol::messages::{AlterClientQuotasRequest, DescribeClientQuotasRequest};

use super::admin::{incomplete, outcome};
use super::{Client, ClientError, Target};

/// Type and name; no name is the default of the type.
pub type Entity = (String, Option<String>);

#[derive(Clone, Debug, PartialEq)]
pub struct QuotaEntry {
    pub entity: Vec<Entity>,
    pub values: Vec<(String, f64)>,
}

/// A key and its new value; `None` deletes.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    pub key: String,
    pub value: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    kind: String,
    match_type: i8,
    name: Option<String>,
}

impl Filter {
    /// One entity, or the default one.
    pub fn one(kind: &str, name: Option<String>) -> Filter {
        Filter { kind: kind.to_owned(), match_type: i8::from(name.is_none()), name }
    }

    pub fn any(kind: &str) -> Filter {
        Filter { kind: kind.to_owned(), match_type: 2, name: None }
    }
}

impl Client {
    /// Entities that have exactly the parts of the filter.
    pub fn describe_quotas(&mut self, filter: &[Filter]) -> Result<Vec<QuotaEntry>, ClientError> {
        let build = |_: i16| DescribeClientQuotasRequest {
            components: filter
                .iter()
                .map(|part| ComponentData {
                    entity_type: part.kind.as_str().into(),
                    match_type: part.match_type,
                    match_: part.name.as_deref().map(Into::into),
                    ..Default::default()
                })
                .collect(),
            strict: true,
            ..Default::default()
        };
        let answer =
            self.call("describeClientQuotas", Target::Any, build, |response| ErrorCode::from_i16(response.error_code))?;
        let response = answer.get()?;
        outcome(response.error_code, response.error_message.as_deref())?;
        let entries = response.entries.iter().flatten().map(|entry| QuotaEntry {
            entity: entry
                .entity
                .iter()
                .map(|e| (e.entity_type.to_string(), e.entity_name.as_deref().map(str::to_owned)))
                .collect(),
            values: entry.values.iter().map(|value| (value.key.to_string(), value.value)).collect(),
        });
        Ok(entries.collect())
    }

    pub fn alter_quotas(&mut self, entity: &[Entity], quotas: &[Quota]) -> Result<(), ClientError> {
        let build = |_: i16| AlterClientQuotasRequest {
            entries: vec![EntryData {
                entity: entity
                    .iter()
                    .map(|(kind, name)| EntityData {
                        entity_type: kind.as_str().into(),
                        entity_name: name.as_deref().map(Into::into),
                        ..Default::default()
                    })
                    .collect(),
                ops: quotas
                    .iter()
                    .map(|quota| OpData {
                        key: quota.key.as_str().into(),
                        value: quota.value.unwrap_or(0.0),
                        remove: quota.value.is_none(),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = self.call("alterClientQuotas", Target::Any, build, |response| {
            response.entries.first().map_or(ErrorCode::None, |entry| ErrorCode::from_i16(entry.error_code))
        })?;
        let response = answer.get()?;
        let result = response.entries.first().ok_or_else(|| incomplete("AlterClientQuotas"))?;
        outcome(result.error_code, result.error_message.as_deref())
    }
}
