//! The cluster as Metadata shows it, and the calls that ask for it.

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::metadata_request::MetadataRequestTopic;
use protocol::messages::{MetadataRequest, MetadataResponse};
use protocol::wire::Uuid;

use super::{Address, Client, ClientError, Target};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub address: Address,
    pub rack: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub error: ErrorCode,
    /// −1 without a leader.
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub error: ErrorCode,
    pub id: Uuid,
    pub internal: bool,
    pub partitions: BTreeMap<i32, Partition>,
}

/// What is known of the cluster. Topics are kept until another answer names them.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pub cluster_id: Option<String>,
    pub controller: i32,
    pub brokers: BTreeMap<i32, Broker>,
    pub topics: BTreeMap<String, Topic>,
}

impl Metadata {
    /// Takes over an answer. A leader epoch lower than the one known is news of yesterday, from a broker that is
    /// behind, and is not taken (KIP-320).
    fn update(&mut self, response: &MetadataResponse<'_>) {
        self.cluster_id = response.cluster_id.as_deref().map(str::to_owned);
        self.controller = response.controller_id;
        self.brokers = response.brokers.iter().filter_map(broker).collect();
        for topic in &response.topics {
            let Some(name) = topic.name.as_deref() else { continue };
            let old = self.topics.get(name);
            let mut new = Topic {
                error: ErrorCode::from_i16(topic.error_code),
                id: topic.topic_id,
                internal: topic.is_internal,
                partitions: BTreeMap::new(),
            };
            for partition in &topic.partitions {
                let fresh = Partition {
                    error: ErrorCode::from_i16(partition.error_code),
                    leader: partition.leader_id,
                    leader_epoch: partition.leader_epoch,
                    replicas: partition.replica_nodes.clone(),
                    isr: partition.isr_nodes.clone(),
                };
                let known =
                    old.filter(|old| old.id == new.id).and_then(|old| old.partitions.get(&partition.partition_index));
                let keep = known.filter(|known| known.leader_epoch > fresh.leader_epoch);
                new.partitions.insert(partition.partition_index, keep.cloned().unwrap_or(fresh));
            }
            self.topics.insert(name.to_owned(), new);
        }
    }

    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.partitions.get(&partition)
    }

    /// The leader's id, if there is one and its address is known.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let leader = self.partition(topic, partition)?.leader;
        self.brokers.contains_key(&leader).then_some(leader)
    }

    /// KIP-951: an answer that refuses may name the new leader.
    pub fn hint(&mut self, topic: &str, partition: i32, leader: i32, epoch: i32) -> bool {
        let Some(known) = self.topics.get_mut(topic).and_then(|topic| topic.partitions.get_mut(&partition)) else {
            return false;
        };
        if leader < 0 || epoch <= known.leader_epoch {
            return false;
        }
        known.leader = leader;
        known.leader_epoch = epoch;
        true
    }
}

fn broker(broker: &protocol::messages::metadata_response::MetadataResponseBroker<'_>) -> Option<(i32, Broker)> {
    let port = u16::try_from(broker.port).ok()?;
    let address = Address { host: broker.host.clone().into_owned(), port };
    Some((broker.node_id, Broker { address, rack: broker.rack.as_deref().map(str::to_owned) }))
}

/// Which topics to ask for.
#[derive(Clone, Copy, Debug)]
pub enum Topics<'a> {
    All,
    None,
    Named(&'a [&'a str]),
}

fn request(topics: Topics<'_>, create: bool, version: i16) -> MetadataRequest<'_> {
    let named = |names: &'_ [&'_ str]| {
        names
            .iter()
            .map(|name| MetadataRequestTopic { name: Some((*name).to_owned().into()), ..Default::default() })
            .collect::<Vec<_>>()
    };
    let topics = match topics {
        Topics::All if version == 0 => Some(vec![]),
        Topics::All => None,
        Topics::None => Some(vec![]),
        Topics::Named(names) => Some(named(names)),
    };
    MetadataRequest { topics, allow_auto_topic_creation: create || version < 4, ..Default::default() }
}

impl Client {
    /// Asks, with repetition, and takes the answer over. Errors of single topics are in the topics.
    pub fn refresh(&mut self, name: &str, topics: Topics<'_>, create: bool) -> Result<(), ClientError> {
        let answer = self.call(name, Target::Any, |version| request(topics, create, version), |_| ErrorCode::None)?;
        self.metadata.update(&answer.get()?);
        Ok(())
    }

    /// The same with a single attempt.
    pub fn refresh_once(&mut self, topics: Topics<'_>, create: bool) -> Result<(), ClientError> {
        let answer = self.once(Target::Any, |version| request(topics, create, version))?;
        self.metadata.update(&answer.get()?);
        Ok(())
    }

    /// Removes a broker's connection so that the next question goes to another node.
    pub fn distrust(&mut self, id: i32) {
        self.drop_connection(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};

    fn answer(leader: i32, epoch: i32) -> MetadataResponse<'static> {
        let partition = MetadataResponsePartition { leader_id: leader, leader_epoch: epoch, ..Default::default() };
        let topic = MetadataResponseTopic { name: Some("t".into()), partitions: vec![partition], ..Default::default() };
        MetadataResponse { topics: vec![topic], ..Default::default() }
    }

    #[test]
    fn an_older_leader_epoch_is_not_taken() {
        let mut metadata = Metadata::default();
        metadata.update(&answer(1, 5));
        metadata.update(&answer(2, 4));
        assert_eq!(metadata.partition("t", 0).unwrap().leader, 1);
        assert!(metadata.hint("t", 0, 3, 6));
        assert!(!metadata.hint("t", 0, 2, 6));
        metadata.update(&answer(1, 5));
        assert_eq!(metadata.partition("t", 0).unwrap().leader, 3);
        metadata.update(&answer(2, 7));
        assert_eq!(metadata.partition("t", 0).unwrap().leader, 2);
    }
}
