//! UpdateFeatures (`FeatureControlManager`): a level is finalized only if every broker and controller supports it.

use protocol::error::ErrorCode;
use protocol::messages::*;

use super::activation::config_record;
use super::{ApiError, Controller, ControllerResult, MIN_INSYNC_REPLICAS, Record, own, refused};
use crate::features::{self, ELR_VERSION, KRAFT_VERSION, METADATA_VERSION, MetadataVersion};
use crate::image::ConfigResource;

/// How a caller means an update (`FeatureUpdate.UpgradeType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpgradeType {
    Upgrade,
    SafeDowngrade,
    UnsafeDowngrade,
}

impl Controller {
    pub fn update_features(
        &mut self,
        request: &UpdateFeaturesRequest<'_>,
    ) -> ControllerResult<UpdateFeaturesResponse<'static>> {
        let mut records = Vec::new();
        for update in &request.feature_updates {
            if let Err(error) = self.update_feature(update, request, &mut records) {
                // All or nothing, and tools print the message.
                let why = format!(
                    "The update failed for all features since the following feature had an error: {}",
                    error.message.as_deref().unwrap_or(error.error.name())
                );
                return refused(UpdateFeaturesResponse {
                    error_code: error.code(),
                    error_message: Some(why.into()),
                    ..Default::default()
                });
            }
        }
        let result = |update: &update_features_request::FeatureUpdateKey<'_>| {
            let feature = own(&update.feature);
            // Kafka fills in the name of "no error".
            let error_message = Some("NONE".into());
            update_features_response::UpdatableFeatureResult { feature, error_message, ..Default::default() }
        };
        // Version 2 has no results; they are not written there.
        let results = request.feature_updates.iter().map(result).collect();
        let response = UpdateFeaturesResponse { error_message: None, results, ..Default::default() };
        if request.validate_only {
            return refused(response);
        }
        let turns_elr_on =
            |u: &update_features_request::FeatureUpdateKey<'_>| u.feature == ELR_VERSION && u.max_version_level > 0;
        if request.feature_updates.iter().any(turns_elr_on) {
            let mut before = self.elr_safety_records();
            before.append(&mut records);
            records = before;
        }
        ControllerResult { records: self.emit(records), response }
    }

    fn update_feature(
        &self,
        update: &update_features_request::FeatureUpdateKey<'_>,
        request: &UpdateFeaturesRequest<'_>,
        records: &mut Vec<Record>,
    ) -> Result<(), ApiError> {
        let name = update.feature.as_ref();
        let level = update.max_version_level;
        let invalid = |why: String| {
            let why = format!("Invalid update version {level} for feature {name}. {why}");
            Err(ApiError::new(ErrorCode::InvalidUpdateVersion, why))
        };
        let upgrade_type = match update.upgrade_type {
            // Version 0 knew only whether a downgrade is allowed; later versions leave that field out.
            1 if update.allow_downgrade => UpgradeType::SafeDowngrade,
            1 => UpgradeType::Upgrade,
            2 => UpgradeType::SafeDowngrade,
            3 => UpgradeType::UnsafeDowngrade,
            _ => return invalid("The controller does not support the given upgrade type.".to_owned()),
        };
        let current = match name {
            KRAFT_VERSION => self.settings.kraft_version,
            METADATA_VERSION => self.image.metadata_version().0,
            _ => self.image.features.get(name).copied().unwrap_or(0),
        };
        if level < 0 {
            return invalid("A feature version cannot be less than 0.".to_owned());
        }
        if let Some(why) = self.reason_not_supported(name, level) {
            return invalid(why);
        }
        if level < current && upgrade_type == UpgradeType::Upgrade {
            return invalid(
                "Can't downgrade the version of this feature without setting the upgrade type to either safe or \
                 unsafe downgrade."
                    .to_owned(),
            );
        }
        if level > current && upgrade_type != UpgradeType::Upgrade {
            return invalid("Can't downgrade to a newer version.".to_owned());
        }
        match name {
            METADATA_VERSION => check_metadata_downgrade(current, level)?,
            KRAFT_VERSION if level == current => return Ok(()),
            // DIFFERS: Kafka rewrites the voter set's control records in place; here a quorum keeps the version that
            // its directories were formatted with.
            KRAFT_VERSION => return invalid("the quorum keeps the version that it was formatted with".to_owned()),
            _ => self.check_dependencies(name, level, request)?,
        }
        let record = FeatureLevelRecord { name: own(name), feature_level: level, ..Default::default() };
        records.push(MetadataRecord::FeatureLevel(record));
        Ok(())
    }

    /// This node, then every broker, then every other controller; tools print the reason.
    fn reason_not_supported(&self, name: &str, level: i16) -> Option<String> {
        let reason = |who: String, (min, max): (i16, i16)| {
            if level >= min && level <= max {
                return None;
            }
            Some(if max == 0 {
                format!("{who} does not support this feature.")
            } else if min == max {
                format!("{who} only supports versions {min}")
            } else {
                format!("{who} only supports versions {min}-{max}")
            })
        };
        let of = |supported: &[(String, i16, i16)]| {
            let found = supported.iter().find(|(n, _, _)| n == name);
            found.map_or((0, 0), |(_, min, max)| (*min, *max))
        };
        let node = self.settings.node.node_id;
        let local = features::find(name).map_or((0, 0), |f| (f.min, f.max));
        let mine = reason(format!("Local controller {node}"), local);
        let brokers = || self.image.brokers.values().find_map(|b| reason(format!("Broker {}", b.id), of(&b.features)));
        let others = || {
            let others = self.image.controllers.values().filter(|c| c.id != node);
            others.into_iter().find_map(|c| reason(format!("Controller {}", c.id), of(&c.features)))
        };
        mine.or_else(brokers).or_else(|| {
            if !self.image.metadata_version().has_controller_registration() {
                return None;
            }
            let unknown = |id: &&i32| **id != node && !self.image.controllers.contains_key(id);
            others().or_else(|| {
                let silent = self.settings.voters.iter().find(unknown)?;
                Some(format!("controller {silent} has not registered, and may not support this feature"))
            })
        })
    }

    fn check_dependencies(&self, name: &str, level: i16, request: &UpdateFeaturesRequest<'_>) -> Result<(), ApiError> {
        const ELR_NEEDS: MetadataVersion = MetadataVersion(23);
        let asked = request.feature_updates.iter().find(|u| u.feature == METADATA_VERSION);
        let metadata_version = asked.map_or(self.image.metadata_version().0, |u| u.max_version_level);
        if name == ELR_VERSION && level > 0 && metadata_version < ELR_NEEDS.0 {
            let why = format!(
                "Invalid update version {level} for feature {name}. {name} could not be set to {level} because it \
                 depends on metadata.version level {}",
                ELR_NEEDS.0
            );
            return Err(ApiError::new(ErrorCode::InvalidUpdateVersion, why));
        }
        Ok(())
    }

    /// KIP-966: with ELR the minimum of in-sync replicas is the cluster's and no broker's.
    fn elr_safety_records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let cluster = ConfigResource::all_brokers();
        if self.image.config(&cluster, MIN_INSYNC_REPLICAS).is_none() {
            let value = self.settings.node.min_insync_replicas.to_string();
            records.push(config_record(&cluster, MIN_INSYNC_REPLICAS, Some(&value)));
        }
        let single = self.image.configs.iter().filter(|(resource, entries)| {
            let is_broker = resource.kind == ConfigResource::BROKER && !resource.name.is_empty();
            is_broker && entries.contains_key(MIN_INSYNC_REPLICAS)
        });
        records.extend(single.map(|(resource, _)| config_record(resource, MIN_INSYNC_REPLICAS, None)));
        records
    }
}

/// Levels of metadata.version that brought new or changed records: going below one would lose what they say.
const METADATA_CHANGED: &[i16] = &[7, 8, 11, 13, 14, 15, 17, 23, 30];

fn check_metadata_downgrade(current: i16, level: i16) -> Result<(), ApiError> {
    if METADATA_CHANGED.iter().any(|changed| level < *changed && *changed <= current) {
        let why = format!(
            "Unsupported metadata.version downgrade from {current} to {level}. Refusing to perform the requested \
             downgrade because it might delete metadata information."
        );
        return Err(ApiError::new(ErrorCode::InvalidUpdateVersion, why));
    }
    Ok(())
}
