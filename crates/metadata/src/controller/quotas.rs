//! AlterClientQuotas (`ClientQuotaControlManager`), and the quota on how fast the cluster may be changed (KIP-599).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use protocol::error::ErrorCode;
use protocol::messages::alter_client_quotas_request::EntryData as Asked;
use protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use protocol::messages::*;

use super::{ApiError, Controller, ControllerResult, RECORDS_MAX_PER_OPERATION, Record, outcome, own};
use crate::image::QuotaEntity;
use crate::quotas::{CLIENT_ID, IP, IP_KEYS, USER, USER_AND_CLIENT_KEYS};

/// What a client may still change, in partitions created or deleted. A value that the caller keeps per client and lends
/// to each operation.
#[derive(Clone, Debug, PartialEq)]
pub struct MutationQuota {
    /// `None` without a limit.
    bucket: Option<Bucket>,
    /// A strict quota refuses what comes when nothing is left; a permissive one lets it pass and only says how long
    /// to wait afterwards. Versions of an API that do not know the error have a permissive one.
    strict: bool,
    throttle_ms: i64,
}

/// A token bucket: it fills at `rate` per second up to `burst`, and may be overdrawn once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub rate: f64,
    pub burst: f64,
    pub tokens: f64,
    pub updated_ms: i64,
}

impl Bucket {
    pub fn full(rate: f64, burst: f64, now_ms: i64) -> Self {
        Self { rate, burst, tokens: burst, updated_ms: now_ms }
    }

    pub fn refill(&mut self, now_ms: i64) {
        let elapsed = (now_ms - self.updated_ms).max(0) as f64 / 1000.0;
        self.tokens = self.burst.min(self.tokens + self.rate * elapsed);
        self.updated_ms = now_ms;
    }

    /// Until the bucket is not overdrawn any more.
    fn wait_ms(&self) -> i64 {
        if self.tokens >= 0.0 { 0 } else { (-self.tokens / self.rate * 1000.0).round() as i64 }
    }
}

impl MutationQuota {
    pub fn unlimited() -> Self {
        Self { bucket: None, strict: false, throttle_ms: 0 }
    }

    pub fn limited(mut bucket: Bucket, strict: bool, now_ms: i64) -> Self {
        bucket.refill(now_ms);
        Self { bucket: Some(bucket), strict, throttle_ms: 0 }
    }

    /// What is left, for the caller to keep.
    pub fn bucket(&self) -> Option<Bucket> {
        self.bucket
    }

    /// How long the client should wait before its next change.
    pub fn throttle_ms(&self) -> i32 {
        i32::try_from(self.throttle_ms).unwrap_or(i32::MAX)
    }

    pub(super) fn take(&mut self, partitions: usize) -> Result<(), ApiError> {
        let Some(bucket) = &mut self.bucket else { return Ok(()) };
        if self.strict && bucket.tokens < 0.0 {
            self.throttle_ms = bucket.wait_ms();
            let why = "The throttling quota has been exceeded.";
            return Err(ApiError::new(ErrorCode::ThrottlingQuotaExceeded, why));
        }
        bucket.tokens -= partitions as f64;
        if !self.strict {
            self.throttle_ms = bucket.wait_ms();
        }
        Ok(())
    }
}

impl Controller {
    pub fn alter_client_quotas(
        &mut self,
        request: &AlterClientQuotasRequest<'_>,
    ) -> ControllerResult<AlterClientQuotasResponse<'static>> {
        let mut seen: BTreeSet<QuotaEntity> = BTreeSet::new();
        let mut records: Vec<Record> = Vec::new();
        let mut entries = Vec::with_capacity(request.entries.len());
        for asked in &request.entries {
            let entity = entity_of(asked);
            let result = if seen.contains(&entity) {
                Err(ApiError::new(ErrorCode::InvalidRequest, "the entity is named more than once"))
            } else {
                self.quota_records(asked, &entity, records.len())
            };
            let (error_code, error_message) = outcome(result.map(|new| records.extend(new)));
            if seen.insert(entity.clone()) {
                entries.push(EntryData { error_code, error_message, entity: told(&entity), ..Default::default() });
            } else if let Some(first) = entries.iter_mut().find(|e| e.entity == told(&entity)) {
                (first.error_code, first.error_message) = (error_code, error_message);
            }
        }
        let records = if request.validate_only { Vec::new() } else { self.emit(records) };
        ControllerResult { records, response: AlterClientQuotasResponse { entries, ..Default::default() } }
    }

    fn quota_records(
        &self,
        asked: &Asked<'_>,
        entity: &QuotaEntity,
        records_before: usize,
    ) -> Result<Vec<Record>, ApiError> {
        let invalid = |why: String| Err(ApiError::new(ErrorCode::InvalidRequest, why));
        let keys = keys_of(entity)?;
        let current = self.image.quotas.get(entity);
        let mut wanted: BTreeMap<&str, Option<f64>> = BTreeMap::new();
        for op in &asked.ops {
            if wanted.insert(&op.key, (!op.remove).then_some(op.value)).is_some() {
                return invalid(format!("Duplicate quota key {} not updating quota for this entity", op.key));
            }
        }
        let mut records = Vec::new();
        for (key, value) in wanted {
            let before = current.and_then(|quotas| quotas.get(key)).copied();
            if let Some(value) = value {
                check_value(keys, key, value)?;
            }
            if before == value {
                continue;
            }
            let named = entity.iter().map(|(kind, name)| client_quota_record::EntityData {
                entity_type: own(kind),
                entity_name: name.as_deref().map(own),
                ..Default::default()
            });
            records.push(MetadataRecord::ClientQuota(ClientQuotaRecord {
                entity: named.collect(),
                key: own(key),
                value: value.unwrap_or(0.0),
                remove: value.is_none(),
                ..Default::default()
            }));
        }
        if records_before + records.len() > RECORDS_MAX_PER_OPERATION {
            return Err(ApiError::new(ErrorCode::PolicyViolation, "the request alters too many quotas at once"));
        }
        Ok(records)
    }
}

/// By type, each once; of a type that is named twice the last counts.
fn entity_of(asked: &Asked<'_>) -> QuotaEntity {
    let named = asked.entity.iter().map(|e| (e.entity_type.to_string(), e.entity_name.as_deref().map(str::to_owned)));
    named.collect::<BTreeMap<_, _>>().into_iter().collect()
}

fn told(entity: &QuotaEntity) -> Vec<EntityData<'static>> {
    let told = |(kind, name): &(String, Option<String>)| EntityData {
        entity_type: own(kind),
        entity_name: name.as_deref().map(own),
        ..Default::default()
    };
    entity.iter().map(told).collect()
}

/// The keys that such an entity may have.
fn keys_of(entity: &QuotaEntity) -> Result<&'static [(&'static str, Option<f64>)], ApiError> {
    let invalid = |why: String| Err(ApiError::new(ErrorCode::InvalidRequest, why));
    if entity.is_empty() {
        return invalid("Invalid empty client quota entity".to_owned());
    }
    for (kind, name) in entity {
        if ![USER, CLIENT_ID, IP].contains(&kind.as_str()) {
            return invalid(format!("Unhandled client quota entity type: {kind}"));
        }
        if name.as_ref().is_some_and(String::is_empty) {
            return invalid(format!("Empty {kind} not supported"));
        }
    }
    match entity.iter().find(|(kind, _)| kind == IP) {
        None => Ok(&USER_AND_CLIENT_KEYS),
        Some(_) if entity.len() > 1 => invalid("an address cannot be combined with a user or a client id".to_owned()),
        // DIFFERS: Kafka takes any name that its controller can resolve, and each broker resolves it for itself.
        Some((_, Some(ip))) if ip.parse::<IpAddr>().is_err() => {
            invalid(format!("{ip} is not a valid IP or resolvable host."))
        }
        Some(_) => Ok(&IP_KEYS),
    }
}

fn check_value(keys: &[(&str, Option<f64>)], key: &str, value: f64) -> Result<(), ApiError> {
    let invalid = |why: String| Err(ApiError::new(ErrorCode::InvalidRequest, why));
    let Some((_, whole_max)) = keys.iter().find(|(name, _)| *name == key) else {
        return invalid(format!("Invalid configuration key {key}"));
    };
    // DIFFERS: Kafka stores NaN, which limits nothing and cannot be compared.
    if value.is_nan() || value <= 0.0 {
        return invalid(format!("Quota {key} must be greater than 0"));
    }
    match whole_max {
        Some(max) if value > *max => {
            let size = if *max > f64::from(i32::MAX) { "a LONG" } else { "an INT" };
            invalid(format!("Proposed value for {key} is too large for {size}."))
        }
        Some(_) if (value % 1.0).abs() > 1e-6 => invalid(format!("{key} cannot be a fractional value.")),
        _ => Ok(()),
    }
}
