//! The state of the cluster as the metadata log tells it, and what a batch of records changed.
//!
//! The image changes only by [`MetadataImage::apply`], record by record, the same on every node. A record that is not
//! understood is an error: skipping a decision of the cluster would make this node differ from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use protocol::messages::*;
use protocol::wire::{DecodeError, Uuid};

use crate::features::{ELR_VERSION, METADATA_VERSION, MetadataVersion};

/// `Leader` of a partition that has none.
pub const NO_LEADER: i32 = -1;
/// `Leader` of a change that keeps the leader.
const LEADER_UNCHANGED: i32 = -2;

/// A configuration resource: type as on the wire (2 topic, 4 broker, 16 client metrics, 32 group) and name; an empty
/// broker name is the cluster-wide default.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigResource {
    pub kind: i8,
    pub name: String,
}

impl ConfigResource {
    pub const TOPIC: i8 = 2;
    pub const BROKER: i8 = 4;
    pub const CLIENT_METRICS: i8 = 16;

    pub fn topic(name: &str) -> Self {
        Self { kind: Self::TOPIC, name: name.to_owned() }
    }

    pub fn broker(id: i32) -> Self {
        Self { kind: Self::BROKER, name: id.to_string() }
    }

    pub fn all_brokers() -> Self {
        Self { kind: Self::BROKER, name: String::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub security_protocol: i16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerRegistration {
    pub id: i32,
    pub epoch: i64,
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub features: Vec<(String, i16, i16)>,
    pub rack: Option<String>,
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    pub is_migrating_zk: bool,
    pub log_dirs: Vec<Uuid>,
    pub cordoned_log_dirs: Option<Vec<Uuid>>,
}

impl BrokerRegistration {
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|e| e.name.eq_ignore_ascii_case(listener))
    }

    /// May lead and be in an ISR.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerRegistration {
    pub id: i32,
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub features: Vec<(String, i16, i16)>,
    pub zk_migration_ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub replicas: Vec<i32>,
    pub directories: Vec<Uuid>,
    pub isr: Vec<i32>,
    pub elr: Vec<i32>,
    pub last_known_elr: Vec<i32>,
    pub removing: Vec<i32>,
    pub adding: Vec<i32>,
    /// [`NO_LEADER`] if there is none.
    pub leader: i32,
    pub is_recovering: bool,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
}

impl Partition {
    pub fn has_leader(&self) -> bool {
        self.leader != NO_LEADER
    }

    /// Replicas are being added or removed (KIP-455).
    pub fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The directory that the partition's replica on a broker is assigned to.
    pub fn directory_of(&self, broker: i32) -> Option<Uuid> {
        let i = self.replicas.iter().position(|r| *r == broker)?;
        self.directories.get(i).copied()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub partitions: BTreeMap<i32, Partition>,
}

/// A quota's entity: (type, name), sorted by type, name `None` for the default entity.
pub type QuotaEntity = Vec<(String, Option<String>)>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataImage {
    pub features: BTreeMap<String, i16>,
    pub brokers: BTreeMap<i32, BrokerRegistration>,
    pub controllers: BTreeMap<i32, ControllerRegistration>,
    pub topics: BTreeMap<Uuid, Topic>,
    pub topic_ids: BTreeMap<String, Uuid>,
    pub configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    pub quotas: BTreeMap<QuotaEntity, BTreeMap<String, f64>>,
    pub producer_ids_next: i64,
    pub producer_ids_owner: (i32, i64),
    pub acls: BTreeMap<Uuid, AccessControlEntryRecord<'static>>,
    pub scram: BTreeMap<(String, i8), UserScramCredentialRecord<'static>>,
    pub tokens: BTreeMap<String, DelegationTokenRecord<'static>>,
    /// A metadata transaction (KIP-868) that has begun; its records are applied, not yet published.
    pub in_transaction: bool,
}

/// What changed since the delta was last taken.
#[derive(Clone, Debug, Default)]
pub struct MetadataDelta {
    pub topics_deleted: BTreeMap<Uuid, Topic>,
    pub topics_created: BTreeSet<Uuid>,
    pub partitions: BTreeSet<(Uuid, i32)>,
    pub brokers: BTreeSet<i32>,
    pub configs: BTreeSet<ConfigResource>,
    pub features_changed: bool,
    pub quotas_changed: bool,
    pub everything: bool,
}

impl MetadataDelta {
    pub fn concerns_quotas(&self) -> bool {
        self.quotas_changed || self.everything
    }

    pub fn is_empty(&self) -> bool {
        !self.everything
            && !self.features_changed
            && !self.quotas_changed
            && self.topics_deleted.is_empty()
            && self.topics_created.is_empty()
            && self.partitions.is_empty()
            && self.brokers.is_empty()
            && self.configs.is_empty()
    }
}

/// A record that cannot be applied: this node must stop, not guess.
#[derive(Debug)]
pub enum ReplayError {
    Decode(DecodeError),
    /// The record speaks of something that does not exist.
    Unknown {
        record: &'static str,
        what: String,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => write!(f, "metadata record cannot be read: {error}"),
            Self::Unknown { record, what } => write!(f, "{record} names unknown {what}"),
        }
    }
}

impl std::error::Error for ReplayError {}

impl From<DecodeError> for ReplayError {
    fn from(error: DecodeError) -> Self {
        ReplayError::Decode(error)
    }
}

fn owned(text: &str) -> String {
    text.to_owned()
}

impl MetadataImage {
    pub fn metadata_version(&self) -> MetadataVersion {
        MetadataVersion(self.features.get(METADATA_VERSION).copied().unwrap_or(7))
    }

    /// KIP-966.
    pub fn elr_is_on(&self) -> bool {
        self.features.get(ELR_VERSION).copied().unwrap_or(0) >= 1
    }

    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    pub fn partition(&self, topic: Uuid, partition: i32) -> Option<&Partition> {
        self.topics.get(&topic)?.partitions.get(&partition)
    }

    pub fn is_active_broker(&self, id: i32) -> bool {
        self.brokers.get(&id).is_some_and(BrokerRegistration::is_active)
    }

    pub fn config(&self, resource: &ConfigResource, key: &str) -> Option<&str> {
        self.configs.get(resource)?.get(key).map(String::as_str)
    }

    pub fn topic_configs(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.configs.get(&ConfigResource::topic(name))
    }

    pub fn partition_count(&self) -> usize {
        self.topics.values().map(|t| t.partitions.len()).sum()
    }

    pub fn apply(&mut self, record: &MetadataRecord<'_>, delta: &mut MetadataDelta) -> Result<(), ReplayError> {
        match record {
            MetadataRecord::RegisterBroker(r) => self.register_broker(r, delta),
            MetadataRecord::UnregisterBroker(r) => {
                self.brokers.remove(&r.broker_id);
                delta.brokers.insert(r.broker_id);
            }
            MetadataRecord::FenceBroker(r) => {
                return self.change_broker("FenceBrokerRecord", r.id, delta, |b| b.fenced = true);
            }
            MetadataRecord::UnfenceBroker(r) => {
                return self.change_broker("UnfenceBrokerRecord", r.id, delta, |b| b.fenced = false);
            }
            MetadataRecord::BrokerRegistrationChange(r) => {
                return self.change_broker("BrokerRegistrationChangeRecord", r.broker_id, delta, |b| {
                    change_registration(b, r)
                });
            }
            MetadataRecord::RegisterController(r) => self.register_controller(r),
            MetadataRecord::Topic(r) => {
                let topic = Topic { name: owned(&r.name), id: r.topic_id, partitions: BTreeMap::new() };
                self.topic_ids.insert(topic.name.clone(), topic.id);
                self.topics.insert(topic.id, topic);
                delta.topics_created.insert(r.topic_id);
            }
            MetadataRecord::Partition(r) => return self.set_partition(r, delta),
            MetadataRecord::PartitionChange(r) => return self.change_partition(r, delta),
            MetadataRecord::RemoveTopic(r) => return self.remove_topic(r.topic_id, delta),
            MetadataRecord::Config(r) => self.set_config(r, delta),
            MetadataRecord::FeatureLevel(r) => {
                delta.features_changed = true;
                if r.feature_level == 0 {
                    self.features.remove(r.name.as_ref());
                } else {
                    self.features.insert(owned(&r.name), r.feature_level);
                }
            }
            MetadataRecord::ProducerIds(r) => {
                self.producer_ids_next = r.next_producer_id;
                self.producer_ids_owner = (r.broker_id, r.broker_epoch);
            }
            MetadataRecord::ClientQuota(r) => {
                delta.quotas_changed = true;
                self.set_quota(r);
            }
            MetadataRecord::ClearElr(r) => return self.clear_elr(&r.topic_name, delta),
            MetadataRecord::BeginTransaction(_) => self.in_transaction = true,
            MetadataRecord::EndTransaction(_) | MetadataRecord::AbortTransaction(_) => self.in_transaction = false,
            MetadataRecord::NoOp(_) | MetadataRecord::ZkMigrationState(_) => {}
            other => self.apply_security(other),
        }
        Ok(())
    }

    fn apply_security(&mut self, record: &MetadataRecord<'_>) {
        match record {
            MetadataRecord::AccessControlEntry(r) => {
                let entry = AccessControlEntryRecord {
                    id: r.id,
                    resource_type: r.resource_type,
                    resource_name: owned(&r.resource_name).into(),
                    pattern_type: r.pattern_type,
                    principal: owned(&r.principal).into(),
                    host: owned(&r.host).into(),
                    operation: r.operation,
                    permission_type: r.permission_type,
                    ..Default::default()
                };
                self.acls.insert(r.id, entry);
            }
            MetadataRecord::RemoveAccessControlEntry(r) => {
                self.acls.remove(&r.id);
            }
            MetadataRecord::UserScramCredential(r) => {
                let credential = UserScramCredentialRecord {
                    name: owned(&r.name).into(),
                    mechanism: r.mechanism,
                    salt: r.salt.to_vec().into(),
                    stored_key: r.stored_key.to_vec().into(),
                    server_key: r.server_key.to_vec().into(),
                    iterations: r.iterations,
                    ..Default::default()
                };
                self.scram.insert((owned(&r.name), r.mechanism), credential);
            }
            MetadataRecord::RemoveUserScramCredential(r) => {
                self.scram.remove(&(owned(&r.name), r.mechanism));
            }
            MetadataRecord::DelegationToken(r) => {
                let token = DelegationTokenRecord {
                    owner: owned(&r.owner).into(),
                    requester: owned(&r.requester).into(),
                    renewers: r.renewers.iter().map(|n| owned(n).into()).collect(),
                    issue_timestamp: r.issue_timestamp,
                    max_timestamp: r.max_timestamp,
                    expiration_timestamp: r.expiration_timestamp,
                    token_id: owned(&r.token_id).into(),
                    ..Default::default()
                };
                self.tokens.insert(owned(&r.token_id), token);
            }
            MetadataRecord::RemoveDelegationToken(r) => {
                self.tokens.remove(r.token_id.as_ref());
            }
            other => unreachable!("{} is applied elsewhere", other.name()),
        }
    }

    fn register_broker(&mut self, r: &RegisterBrokerRecord<'_>, delta: &mut MetadataDelta) {
        let endpoint = |e: &register_broker_record::BrokerEndpoint<'_>| Endpoint {
            name: owned(&e.name),
            host: owned(&e.host),
            port: e.port,
            security_protocol: e.security_protocol,
        };
        let registration = BrokerRegistration {
            id: r.broker_id,
            epoch: r.broker_epoch,
            incarnation: r.incarnation_id,
            endpoints: r.end_points.iter().map(endpoint).collect(),
            features: r
                .features
                .iter()
                .map(|f| (owned(&f.name), f.min_supported_version, f.max_supported_version))
                .collect(),
            rack: r.rack.as_deref().map(owned),
            fenced: r.fenced,
            in_controlled_shutdown: r.in_controlled_shutdown,
            is_migrating_zk: r.is_migrating_zk_broker,
            log_dirs: r.log_dirs.clone(),
            cordoned_log_dirs: r.cordoned_log_dirs.clone(),
        };
        self.brokers.insert(r.broker_id, registration);
        delta.brokers.insert(r.broker_id);
    }

    fn change_broker(
        &mut self,
        record: &'static str,
        id: i32,
        delta: &mut MetadataDelta,
        change: impl FnOnce(&mut BrokerRegistration),
    ) -> Result<(), ReplayError> {
        let broker = self.brokers.get_mut(&id);
        let broker = broker.ok_or_else(|| ReplayError::Unknown { record, what: format!("broker {id}") })?;
        change(broker);
        delta.brokers.insert(id);
        Ok(())
    }

    fn register_controller(&mut self, r: &RegisterControllerRecord<'_>) {
        let endpoint = |e: &register_controller_record::ControllerEndpoint<'_>| Endpoint {
            name: owned(&e.name),
            host: owned(&e.host),
            port: e.port,
            security_protocol: e.security_protocol,
        };
        let registration = ControllerRegistration {
            id: r.controller_id,
            incarnation: r.incarnation_id,
            endpoints: r.end_points.iter().map(endpoint).collect(),
            features: r
                .features
                .iter()
                .map(|f| (owned(&f.name), f.min_supported_version, f.max_supported_version))
                .collect(),
            zk_migration_ready: r.zk_migration_ready,
        };
        self.controllers.insert(r.controller_id, registration);
    }

    fn topic_mut(&mut self, record: &'static str, id: Uuid) -> Result<&mut Topic, ReplayError> {
        self.topics.get_mut(&id).ok_or_else(|| ReplayError::Unknown { record, what: format!("topic {id}") })
    }

    fn set_partition(&mut self, r: &PartitionRecord, delta: &mut MetadataDelta) -> Result<(), ReplayError> {
        let directories = if r.directories.len() == r.replicas.len() {
            r.directories.clone()
        } else {
            vec![Uuid::ZERO; r.replicas.len()]
        };
        let partition = Partition {
            replicas: r.replicas.clone(),
            directories,
            isr: r.isr.clone(),
            elr: r.eligible_leader_replicas.clone().unwrap_or_default(),
            last_known_elr: r.last_known_elr.clone().unwrap_or_default(),
            removing: r.removing_replicas.clone(),
            adding: r.adding_replicas.clone(),
            leader: r.leader,
            is_recovering: r.leader_recovery_state == 1,
            leader_epoch: r.leader_epoch,
            partition_epoch: r.partition_epoch,
        };
        self.topic_mut("PartitionRecord", r.topic_id)?.partitions.insert(r.partition_id, partition);
        delta.partitions.insert((r.topic_id, r.partition_id));
        Ok(())
    }

    fn change_partition(&mut self, r: &PartitionChangeRecord, delta: &mut MetadataDelta) -> Result<(), ReplayError> {
        let record = "PartitionChangeRecord";
        let topic = self.topic_mut(record, r.topic_id)?;
        let unknown =
            || ReplayError::Unknown { record, what: format!("partition {} of {}", r.partition_id, r.topic_id) };
        let partition = topic.partitions.get_mut(&r.partition_id).ok_or_else(unknown)?;
        partition.merge(r);
        delta.partitions.insert((r.topic_id, r.partition_id));
        Ok(())
    }

    fn remove_topic(&mut self, id: Uuid, delta: &mut MetadataDelta) -> Result<(), ReplayError> {
        let unknown = || ReplayError::Unknown { record: "RemoveTopicRecord", what: format!("topic {id}") };
        let topic = self.topics.remove(&id).ok_or_else(unknown)?;
        self.topic_ids.remove(&topic.name);
        self.configs.remove(&ConfigResource::topic(&topic.name));
        delta.partitions.retain(|(topic, _)| *topic != id);
        delta.topics_created.remove(&id);
        delta.topics_deleted.insert(id, topic);
        Ok(())
    }

    fn set_config(&mut self, r: &ConfigRecord<'_>, delta: &mut MetadataDelta) {
        let resource = ConfigResource { kind: r.resource_type, name: owned(&r.resource_name) };
        let entries = self.configs.entry(resource.clone()).or_default();
        match &r.value {
            Some(value) => {
                entries.insert(owned(&r.name), owned(value));
            }
            None => {
                entries.remove(r.name.as_ref());
            }
        }
        if entries.is_empty() {
            self.configs.remove(&resource);
        }
        delta.configs.insert(resource);
    }

    fn set_quota(&mut self, r: &ClientQuotaRecord<'_>) {
        // One entity has one key here, in whatever order its record names its parts.
        let mut entity: QuotaEntity =
            r.entity.iter().map(|e| (owned(&e.entity_type), e.entity_name.as_deref().map(owned))).collect();
        entity.sort();
        let quotas = self.quotas.entry(entity.clone()).or_default();
        if r.remove {
            quotas.remove(r.key.as_ref());
        } else {
            quotas.insert(owned(&r.key), r.value);
        }
        if quotas.is_empty() {
            self.quotas.remove(&entity);
        }
    }

    fn clear_elr(&mut self, topic: &str, delta: &mut MetadataDelta) -> Result<(), ReplayError> {
        let ids: Vec<Uuid> = if topic.is_empty() {
            self.topics.keys().copied().collect()
        } else {
            let unknown = || ReplayError::Unknown { record: "ClearElrRecord", what: format!("topic {topic}") };
            vec![*self.topic_ids.get(topic).ok_or_else(unknown)?]
        };
        for id in ids {
            let Some(topic) = self.topics.get_mut(&id) else { continue };
            for (number, partition) in &mut topic.partitions {
                if partition.elr.is_empty() && partition.last_known_elr.is_empty() {
                    continue;
                }
                partition.elr.clear();
                partition.last_known_elr.clear();
                partition.partition_epoch += 1;
                delta.partitions.insert((id, *number));
            }
        }
        Ok(())
    }
}

impl Partition {
    /// `PartitionRegistration.merge`: the partition epoch rises with every change, the leader epoch whenever the
    /// change names a leader, be it the same.
    pub fn merge(&mut self, r: &PartitionChangeRecord) {
        if let Some(replicas) = &r.replicas {
            if replicas.len() != self.directories.len() && r.directories.is_none() {
                self.directories = vec![Uuid::ZERO; replicas.len()];
            }
            self.replicas.clone_from(replicas);
        }
        if let Some(directories) = &r.directories {
            self.directories.clone_from(directories);
        }
        if let Some(isr) = &r.isr {
            self.isr.clone_from(isr);
        }
        if let Some(elr) = &r.eligible_leader_replicas {
            self.elr.clone_from(elr);
        }
        if let Some(elr) = &r.last_known_elr {
            self.last_known_elr.clone_from(elr);
        }
        if let Some(removing) = &r.removing_replicas {
            self.removing.clone_from(removing);
        }
        if let Some(adding) = &r.adding_replicas {
            self.adding.clone_from(adding);
        }
        if r.leader != LEADER_UNCHANGED {
            self.leader = r.leader;
            self.leader_epoch += 1;
        }
        if r.leader_recovery_state >= 0 {
            self.is_recovering = r.leader_recovery_state == 1;
        }
        self.partition_epoch += 1;
    }
}

fn change_registration(broker: &mut BrokerRegistration, r: &BrokerRegistrationChangeRecord) {
    match r.fenced {
        1 => broker.fenced = true,
        -1 => broker.fenced = false,
        _ => {}
    }
    match r.in_controlled_shutdown {
        1 => broker.in_controlled_shutdown = true,
        -1 => broker.in_controlled_shutdown = false,
        _ => {}
    }
    if !r.log_dirs.is_empty() {
        broker.log_dirs.clone_from(&r.log_dirs);
    }
    if r.cordoned_log_dirs.is_some() {
        broker.cordoned_log_dirs.clone_from(&r.cordoned_log_dirs);
    }
}
