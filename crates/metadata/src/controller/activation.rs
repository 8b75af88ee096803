//! What a controller writes first (`ActivationRecordsGenerator`): on an empty log the records of bootstrap.checkpoint
//! inside a metadata transaction (KIP-868), later only the end of a transaction that its predecessor left open.

use protocol::messages::*;

use super::{Controller, MIN_INSYNC_REPLICAS, Record, own};
use crate::features::{KRAFT_VERSION, METADATA_VERSION, MetadataVersion, SUPPORTED};
use crate::image::{ConfigResource, MetadataDelta, MetadataImage, ReplayError};

/// The records of `bootstrap.checkpoint`: read, understood, and able to begin an empty log.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    values: Vec<Vec<u8>>,
    metadata_version: MetadataVersion,
    elr: bool,
}

impl Bootstrap {
    /// Checks values read from disk: each must be a metadata record that applies in this order.
    pub fn new(values: Vec<Vec<u8>>) -> Result<Self, ReplayError> {
        let mut image = MetadataImage::default();
        for value in &values {
            image.apply(&MetadataRecord::decode(value)?, &mut MetadataDelta::default())?;
        }
        if !image.features.contains_key(METADATA_VERSION) {
            let what = "metadata.version: no FeatureLevelRecord names its level".to_owned();
            return Err(ReplayError::Unknown { record: "bootstrap.checkpoint", what });
        }
        Ok(Self { metadata_version: image.metadata_version(), elr: image.elr_is_on(), values })
    }

    pub fn metadata_version(&self) -> MetadataVersion {
        self.metadata_version
    }
}

impl Default for Bootstrap {
    /// What `storage format` finalizes when it is asked for nothing else.
    fn default() -> Self {
        let mut values = Vec::new();
        for feature in SUPPORTED.iter().filter(|f| f.name != KRAFT_VERSION && f.format_level > 0) {
            let record = FeatureLevelRecord {
                name: own(feature.name),
                feature_level: feature.format_level,
                ..Default::default()
            };
            values.push(MetadataRecord::FeatureLevel(record).encode(0).expect("version 0 holds every field"));
        }
        Self::new(values).expect("made above")
    }
}

impl Controller {
    pub(super) fn activation_records(&mut self) -> Vec<Vec<u8>> {
        let log_is_empty = !self.image.features.contains_key(METADATA_VERSION);
        if !log_is_empty {
            return if self.image.in_transaction { self.emit(vec![abort_transaction()]) } else { Vec::new() };
        }
        let bootstrap = self.settings.bootstrap.clone();
        let mut encoded = Vec::with_capacity(bootstrap.values.len() + 4);
        let in_transaction = bootstrap.metadata_version.has_transactions();
        if in_transaction {
            let mut before = Vec::new();
            if self.image.in_transaction {
                before.push(abort_transaction());
            }
            let begin = BeginTransactionRecord { name: Some(own("Bootstrap records")), ..Default::default() };
            before.push(MetadataRecord::BeginTransaction(begin));
            encoded.extend(self.emit(before));
        }
        encoded.extend(self.emit_bootstrap(&bootstrap));
        let mut after: Vec<Record> = Vec::new();
        if bootstrap.elr {
            // KIP-966: with ELR the minimum must be the same on all nodes, so the first controller makes it the cluster's.
            let value = self.settings.node.min_insync_replicas.to_string();
            after.push(config_record(&ConfigResource::all_brokers(), MIN_INSYNC_REPLICAS, Some(&value)));
        }
        if in_transaction {
            after.push(MetadataRecord::EndTransaction(EndTransactionRecord::default()));
        }
        encoded.extend(self.emit(after));
        encoded
    }

    /// The bootstrap records go to the log as they are on disk, whatever their versions.
    fn emit_bootstrap(&mut self, bootstrap: &Bootstrap) -> Vec<Vec<u8>> {
        for value in &bootstrap.values {
            let record = MetadataRecord::decode(value).expect("Bootstrap::new decoded it");
            self.image.apply(&record, &mut MetadataDelta::default()).expect("Bootstrap::new applied it");
        }
        bootstrap.values.clone()
    }
}

fn abort_transaction() -> Record {
    let reason = Some(own("Controller failover"));
    MetadataRecord::AbortTransaction(AbortTransactionRecord { reason, ..Default::default() })
}

pub(super) fn config_record(resource: &ConfigResource, name: &str, value: Option<&str>) -> Record {
    MetadataRecord::Config(ConfigRecord {
        resource_type: resource.kind,
        resource_name: own(&resource.name),
        name: own(name),
        value: value.map(own),
        ..Default::default()
    })
}
