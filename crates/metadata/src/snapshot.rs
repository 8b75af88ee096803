//! The image as records, in the order in which Kafka's `MetadataImage.write` puts them into a snapshot: whoever applies
//! them to an empty image has this one.

use protocol::messages::client_quota_record::EntityData;
use protocol::messages::register_broker_record::{BrokerEndpoint, BrokerFeature};
use protocol::messages::register_controller_record::{ControllerEndpoint, ControllerFeature};
use protocol::messages::*;
use protocol::wire::EncodeError;

use crate::features::METADATA_VERSION;
use crate::image::{BrokerRegistration, ControllerRegistration, MetadataImage, Partition, Topic};

type Record = MetadataRecord<'static>;

impl MetadataImage {
    /// Encoded record values. Not to be called within a metadata transaction. Fails for an image that holds what its own
    /// `metadata.version` cannot say; no controller makes one.
    pub fn to_records(&self) -> Result<Vec<Vec<u8>>, EncodeError> {
        assert!(!self.in_transaction, "a snapshot holds no half of a transaction");
        let mut records = Vec::new();
        self.feature_records(&mut records);
        records.extend(self.brokers.values().map(broker_record));
        records.extend(self.controllers.values().map(controller_record));
        for topic in self.topics.values() {
            records.push(MetadataRecord::Topic(TopicRecord {
                name: topic.name.clone().into(),
                topic_id: topic.id,
                ..Default::default()
            }));
            records.extend(topic.partitions.iter().map(|(number, p)| partition_record(topic, *number, p)));
        }
        self.config_records(&mut records);
        if self.producer_ids_next > 0 {
            records.push(MetadataRecord::ProducerIds(ProducerIdsRecord {
                broker_id: self.producer_ids_owner.0,
                broker_epoch: self.producer_ids_owner.1,
                next_producer_id: self.producer_ids_next,
                ..Default::default()
            }));
        }
        records.extend(self.acls.values().cloned().map(MetadataRecord::AccessControlEntry));
        records.extend(self.scram.values().cloned().map(MetadataRecord::UserScramCredential));
        records.extend(self.tokens.values().cloned().map(MetadataRecord::DelegationToken));
        let level = self.metadata_version();
        records.iter().map(|r| r.encode(crate::controller::record_version(r, level))).collect()
    }

    /// metadata.version first: it decides in which versions the rest is written.
    fn feature_records(&self, records: &mut Vec<Record>) {
        let first = self.features.get_key_value(METADATA_VERSION);
        let others = self.features.iter().filter(|(name, _)| *name != METADATA_VERSION);
        for (name, level) in first.into_iter().chain(others) {
            let record = FeatureLevelRecord { name: name.clone().into(), feature_level: *level, ..Default::default() };
            records.push(MetadataRecord::FeatureLevel(record));
        }
    }

    fn config_records(&self, records: &mut Vec<Record>) {
        for (resource, entries) in &self.configs {
            for (name, value) in entries {
                records.push(MetadataRecord::Config(ConfigRecord {
                    resource_type: resource.kind,
                    resource_name: resource.name.clone().into(),
                    name: name.clone().into(),
                    value: Some(value.clone().into()),
                    ..Default::default()
                }));
            }
        }
        for (entity, quotas) in &self.quotas {
            for (key, value) in quotas {
                let entity = entity.iter().map(|(kind, name)| EntityData {
                    entity_type: kind.clone().into(),
                    entity_name: name.clone().map(Into::into),
                    ..Default::default()
                });
                records.push(MetadataRecord::ClientQuota(ClientQuotaRecord {
                    entity: entity.collect(),
                    key: key.clone().into(),
                    value: *value,
                    remove: false,
                    ..Default::default()
                }));
            }
        }
    }
}

fn broker_record(broker: &BrokerRegistration) -> Record {
    let end_points = broker.endpoints.iter().map(|e| BrokerEndpoint {
        name: e.name.clone().into(),
        host: e.host.clone().into(),
        port: e.port,
        security_protocol: e.security_protocol,
        ..Default::default()
    });
    let features = broker.features.iter().map(|(name, min, max)| BrokerFeature {
        name: name.clone().into(),
        min_supported_version: *min,
        max_supported_version: *max,
        ..Default::default()
    });
    MetadataRecord::RegisterBroker(RegisterBrokerRecord {
        broker_id: broker.id,
        is_migrating_zk_broker: broker.is_migrating_zk,
        incarnation_id: broker.incarnation,
        broker_epoch: broker.epoch,
        end_points: end_points.collect(),
        features: features.collect(),
        rack: broker.rack.clone().map(Into::into),
        fenced: broker.fenced,
        in_controlled_shutdown: broker.in_controlled_shutdown,
        log_dirs: broker.log_dirs.clone(),
        cordoned_log_dirs: broker.cordoned_log_dirs.clone(),
        ..Default::default()
    })
}

fn controller_record(controller: &ControllerRegistration) -> Record {
    let end_points = controller.endpoints.iter().map(|e| ControllerEndpoint {
        name: e.name.clone().into(),
        host: e.host.clone().into(),
        port: e.port,
        security_protocol: e.security_protocol,
        ..Default::default()
    });
    let features = controller.features.iter().map(|(name, min, max)| ControllerFeature {
        name: name.clone().into(),
        min_supported_version: *min,
        max_supported_version: *max,
        ..Default::default()
    });
    MetadataRecord::RegisterController(RegisterControllerRecord {
        controller_id: controller.id,
        incarnation_id: controller.incarnation,
        zk_migration_ready: controller.zk_migration_ready,
        end_points: end_points.collect(),
        features: features.collect(),
        ..Default::default()
    })
}

fn partition_record(topic: &Topic, number: i32, p: &Partition) -> Record {
    let some = |list: &Vec<i32>| (!list.is_empty()).then(|| list.clone());
    // Zero ids only: written at a level that knew no directories.
    let has_directories = p.directories.iter().any(|id| !id.is_zero());
    MetadataRecord::Partition(PartitionRecord {
        partition_id: number,
        topic_id: topic.id,
        replicas: p.replicas.clone(),
        isr: p.isr.clone(),
        removing_replicas: p.removing.clone(),
        adding_replicas: p.adding.clone(),
        leader: p.leader,
        leader_recovery_state: i8::from(p.is_recovering),
        leader_epoch: p.leader_epoch,
        partition_epoch: p.partition_epoch,
        directories: if has_directories { p.directories.clone() } else { Vec::new() },
        eligible_leader_replicas: some(&p.elr),
        last_known_elr: some(&p.last_known_elr),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ConfigResource, MetadataDelta};
    use protocol::wire::Uuid;

    #[test]
    fn an_image_survives_its_snapshot() {
        let mut image = MetadataImage::default();
        image.features.insert(METADATA_VERSION.to_owned(), 30);
        image.features.insert("group.version".to_owned(), 1);
        let id = Uuid::from_random([7; 16]);
        let partition = Partition {
            replicas: vec![1, 2, 3],
            directories: vec![Uuid::from_random([1; 16]); 3],
            isr: vec![1],
            elr: vec![2],
            last_known_elr: vec![],
            removing: vec![3],
            adding: vec![],
            leader: 1,
            is_recovering: true,
            leader_epoch: 4,
            partition_epoch: 9,
        };
        image.topic_ids.insert("t".to_owned(), id);
        let topic = Topic { name: "t".to_owned(), id, partitions: [(0, partition)].into() };
        image.topics.insert(id, topic);
        image.configs.insert(ConfigResource::topic("t"), [("retention.ms".to_owned(), "1".to_owned())].into());
        image.quotas.insert(vec![("user".to_owned(), None)], [("producer_byte_rate".to_owned(), 5.0)].into());
        image.producer_ids_next = 1_000;
        image.producer_ids_owner = (2, 17);
        image.brokers.insert(
            1,
            BrokerRegistration {
                id: 1,
                epoch: 5,
                incarnation: Uuid::from_random([9; 16]),
                endpoints: Vec::new(),
                features: vec![(METADATA_VERSION.to_owned(), 7, 30)],
                rack: Some("r".to_owned()),
                fenced: true,
                in_controlled_shutdown: false,
                is_migrating_zk: false,
                log_dirs: vec![Uuid::from_random([1; 16])],
                cordoned_log_dirs: None,
            },
        );
        let mut again = MetadataImage::default();
        for value in image.to_records().expect("a level that can say all") {
            let record = MetadataRecord::decode(&value).expect("own records decode");
            again.apply(&record, &mut MetadataDelta::default()).expect("own records apply");
        }
        assert_eq!(again, image);
    }
}
