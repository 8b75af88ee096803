//! Every change of a group's written state is one record. A handler makes changes, a replay reads them: both apply them
//! here, so that what another coordinator reads is what this one had.

use std::collections::BTreeMap;

use protocol::messages::consumer_group_current_member_assignment_value::TopicPartitions;
use protocol::messages::consumer_group_member_metadata_value::{ClassicMemberMetadata, ClassicProtocol};
use protocol::messages::consumer_group_target_assignment_member_value::TopicPartition;
use protocol::messages::*;

use super::group::{About, ConsumerGroup, Current, LEAVE_EPOCH, Owned, Partitions, Resolved};
use crate::records::{Record, record};

/// `None` deletes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// (epoch, metadata hash); without it the group is gone.
    Group(Option<(i32, i64)>),
    /// The PartitionMetadata of coordinators before 4.1: only its presence matters.
    OldMetadata(bool),
    About(String, Option<About>),
    /// (assignment epoch, time of the assignment)
    Assignment(Option<(i32, i64)>),
    Target(String, Option<Partitions>),
    Current(String, Option<Current>),
    Regex(String, Option<Resolved>),
}

/// Records of one group, in the order in which their changes were made.
pub(crate) struct Changes {
    group_id: String,
    pub records: Vec<Record>,
}

impl Changes {
    pub fn new(group_id: &str) -> Self {
        Self { group_id: group_id.to_owned(), records: Vec::new() }
    }

    pub fn group_id(&self) -> &str {
        &self.group_id
    }

    pub fn make(&mut self, group: &mut ConsumerGroup, change: Change) {
        self.records.push(change.to_record(&self.group_id));
        group.apply(change);
    }

    /// A record whose effect is elsewhere.
    pub fn add(&mut self, change: &Change) {
        self.records.push(change.to_record(&self.group_id));
    }

    /// Everything of a member, in the order that Kafka's replay asks for.
    pub fn drop_member(&mut self, group: &mut ConsumerGroup, id: &str) {
        self.make(group, Change::Current(id.to_owned(), None));
        self.make(group, Change::Target(id.to_owned(), None));
        self.make(group, Change::About(id.to_owned(), None));
    }

    /// Deletes all that is written of a group, in the order that Kafka's replay asks for.
    pub fn tombstones(&mut self, group: &ConsumerGroup) {
        for id in group.members.keys() {
            self.add(&Change::Current(id.clone(), None));
        }
        for id in group.members.keys() {
            self.add(&Change::Target(id.clone(), None));
        }
        self.add(&Change::Assignment(None));
        for id in group.members.keys() {
            self.add(&Change::About(id.clone(), None));
        }
        for regex in group.regexes.keys() {
            self.add(&Change::Regex(regex.clone(), None));
        }
        self.add(&Change::OldMetadata(false));
        self.add(&Change::Group(None));
    }

    /// Writes down a group that was made of a classic one.
    pub fn whole(&mut self, group: &ConsumerGroup) {
        for (id, member) in &group.members {
            self.add(&Change::About(id.clone(), Some(member.about.clone())));
        }
        self.add(&Change::Group(Some((group.epoch, group.metadata_hash))));
        for (id, target) in &group.target {
            self.add(&Change::Target(id.clone(), Some(target.clone())));
        }
        self.add(&Change::Assignment(Some((group.assignment_epoch, group.assigned_at_ms))));
        for (id, member) in &group.members {
            self.add(&Change::Current(id.clone(), Some(member.current.clone())));
        }
    }
}

impl ConsumerGroup {
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Group(Some((epoch, hash))) => {
                self.epoch = epoch;
                self.metadata_hash = hash;
            }
            // Whoever deletes a group drops it from its map.
            Change::Group(None) => {}
            Change::OldMetadata(there) => self.has_old_metadata = there,
            Change::About(id, Some(about)) => self.set_about(&id, about),
            Change::About(id, None) => self.remove_member(&id),
            Change::Assignment(assignment) => {
                (self.assignment_epoch, self.assigned_at_ms) = assignment.unwrap_or((-1, 0));
            }
            Change::Target(id, Some(target)) => {
                self.target.insert(id, target);
            }
            Change::Target(id, None) => {
                self.target.remove(&id);
            }
            Change::Current(id, Some(current)) => self.set_current(&id, current),
            Change::Current(id, None) => {
                if self.members.contains_key(&id) {
                    let gone = Current { epoch: LEAVE_EPOCH, previous_epoch: LEAVE_EPOCH, ..Current::default() };
                    self.set_current(&id, gone);
                }
            }
            Change::Regex(regex, Some(resolved)) => {
                self.regexes.insert(regex, resolved);
            }
            Change::Regex(regex, None) => {
                self.regexes.remove(&regex);
            }
        }
    }
}

impl Change {
    fn to_record(&self, group: &str) -> Record {
        match self {
            Change::Group(value) => {
                let value = value.map(|(epoch, metadata_hash)| ConsumerGroupMetadataValue {
                    epoch,
                    metadata_hash,
                    ..Default::default()
                });
                record(&ConsumerGroupMetadataKey { group_id: group.into() }, value.as_ref(), 0)
            }
            Change::OldMetadata(_) => {
                let key = ConsumerGroupPartitionMetadataKey { group_id: group.into() };
                record(&key, None::<&ConsumerGroupPartitionMetadataValue<'_>>, 0)
            }
            Change::About(id, about) => {
                let key = ConsumerGroupMemberMetadataKey { group_id: group.into(), member_id: id.as_str().into() };
                record(&key, about.as_ref().map(about_value).as_ref(), 0)
            }
            Change::Assignment(value) => {
                let value =
                    value.map(|(assignment_epoch, assignment_timestamp)| ConsumerGroupTargetAssignmentMetadataValue {
                        assignment_epoch,
                        assignment_timestamp,
                        ..Default::default()
                    });
                record(&ConsumerGroupTargetAssignmentMetadataKey { group_id: group.into() }, value.as_ref(), 0)
            }
            Change::Target(id, target) => {
                let key =
                    ConsumerGroupTargetAssignmentMemberKey { group_id: group.into(), member_id: id.as_str().into() };
                let value = target.as_ref().map(|target| ConsumerGroupTargetAssignmentMemberValue {
                    topic_partitions: target
                        .iter()
                        .map(|(topic, partitions)| TopicPartition {
                            topic_id: *topic,
                            partitions: partitions.iter().copied().collect(),
                            ..Default::default()
                        })
                        .collect(),
                    ..Default::default()
                });
                record(&key, value.as_ref(), 0)
            }
            Change::Current(id, current) => {
                let key =
                    ConsumerGroupCurrentMemberAssignmentKey { group_id: group.into(), member_id: id.as_str().into() };
                record(&key, current.as_ref().map(current_value).as_ref(), 0)
            }
            Change::Regex(regex, resolved) => {
                let key = ConsumerGroupRegularExpressionKey {
                    group_id: group.into(),
                    regular_expression: regex.as_str().into(),
                };
                let value = resolved.as_ref().map(|resolved| ConsumerGroupRegularExpressionValue {
                    topics: resolved.topics.iter().map(|topic| topic.as_str().into()).collect(),
                    version: resolved.version,
                    timestamp: resolved.resolved_at_ms,
                    ..Default::default()
                });
                record(&key, value.as_ref(), 0)
            }
        }
    }
}

fn about_value(about: &About) -> ConsumerGroupMemberMetadataValue<'_> {
    ConsumerGroupMemberMetadataValue {
        instance_id: about.instance.as_deref().map(Into::into),
        rack_id: about.rack.as_deref().map(Into::into),
        client_id: about.client.client_id.as_str().into(),
        client_host: about.client.client_host.as_str().into(),
        subscribed_topic_names: about.topics.iter().map(|topic| topic.as_str().into()).collect(),
        subscribed_topic_regex: Some(about.regex.as_str().into()),
        rebalance_timeout_ms: about.rebalance_timeout_ms,
        server_assignor: about.assignor.as_deref().map(Into::into),
        classic_member_metadata: about.classic.as_ref().map(|classic| ClassicMemberMetadata {
            session_timeout_ms: classic.session_timeout_ms,
            supported_protocols: classic
                .protocols
                .iter()
                .map(|(name, metadata)| ClassicProtocol {
                    name: name.as_str().into(),
                    metadata: metadata.as_slice().into(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn current_value(current: &Current) -> ConsumerGroupCurrentMemberAssignmentValue {
    let partitions = |owned: &Owned| {
        let topic = |(topic, partitions): (&_, &BTreeMap<i32, i32>)| TopicPartitions {
            topic_id: *topic,
            partitions: partitions.keys().copied().collect(),
            assignment_epochs: Some(partitions.values().copied().collect()),
            ..Default::default()
        };
        owned.iter().map(topic).collect()
    };
    ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: current.epoch,
        previous_member_epoch: current.previous_epoch,
        state: current.state.to_i8(),
        assigned_partitions: partitions(&current.assigned),
        partitions_pending_revocation: partitions(&current.revoking),
        ..Default::default()
    }
}

/// Partitions as a request or a record lists them; what is named twice counts once.
pub(crate) fn partitions_of<'a>(listed: impl Iterator<Item = (protocol::wire::Uuid, &'a [i32])>) -> Partitions {
    let mut partitions = Partitions::new();
    for (topic, listed) in listed {
        if !listed.is_empty() {
            partitions.entry(topic).or_default().extend(listed);
        }
    }
    partitions
}
