//! What the tools ask a group's coordinator (Kafka's `KafkaAdminClient`, the parts about consumer groups).

use std::collections::BTreeMap;
use std::time::Instant;

use protocol::api::ApiKey;
use protocol::codec::{Request, decode_all};
use protocol::error::ErrorCode;
use protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use protocol::messages::*;

use super::consumer::TopicPartition;
use super::metadata::{Broker, Topics};
use super::{Address, Answer, Client, ClientError, Target};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    pub group_id: String,
    pub protocol_type: String,
    pub state: String,
    pub kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupDescription {
    pub group_id: String,
    pub state: String,
    pub assignor: String,
    pub coordinator: i32,
    pub group_epoch: Option<i32>,
    pub assignment_epoch: Option<i32>,
    pub members: Vec<GroupMember>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMember {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub host: String,
    pub epoch: Option<i32>,
    pub assignment: Vec<TopicPartition>,
    pub target: Vec<TopicPartition>,
    /// Whether it speaks the new protocol, in a group that members of both may join.
    pub upgraded: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
}

/// Who commits; the default is nobody, for a group without members.
#[derive(Clone, Debug)]
pub struct Committer<'a> {
    pub generation: i32,
    pub member_id: &'a str,
    pub instance_id: Option<&'a str>,
}

impl Default for Committer<'_> {
    fn default() -> Self {
        Committer { generation: -1, member_id: "", instance_id: None }
    }
}

/// Whose coordinator is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum CoordinatorKind {
    Group = 0,
    Transaction = 1,
}

pub type PerPartition = BTreeMap<TopicPartition, Result<(), ClientError>>;

fn incomplete(what: &str) -> ClientError {
    ClientError::Malformed(format!("the answer to {what} has no result"))
}

fn outcome(code: i16, message: Option<&str>) -> Result<(), ClientError> {
    match ErrorCode::from_i16(code) {
        ErrorCode::None => Ok(()),
        code => Err(ClientError::server(code, message.filter(|text| !text.is_empty()).or(words(code)))),
    }
}

/// Words for errors that these APIs send without any, as scripts know them.
fn words(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::GroupIdNotFound => "The group id does not exist.",
        ErrorCode::NonEmptyGroup => "The group is not empty.",
        ErrorCode::InvalidGroupId => "The group id is invalid.",
        _ => return None,
    })
}

impl Client {
    /// The coordinator of a group or of a transactional id; its address joins the known brokers. One attempt.
    pub fn find_coordinator(&mut self, kind: CoordinatorKind, key: &str) -> Result<i32, ClientError> {
        let answer = self.once(Target::Any, |version| FindCoordinatorRequest {
            key: if version < 4 { key.into() } else { "".into() },
            key_type: kind as i8,
            coordinator_keys: if version < 4 { vec![] } else { vec![key.into()] },
            ..Default::default()
        })?;
        let response = answer.get()?;
        let (code, message, id, host, port) = match response.coordinators.first() {
            Some(c) => (c.error_code, c.error_message.as_deref(), c.node_id, &c.host, c.port),
            None => {
                let message = response.error_message.as_deref();
                (response.error_code, message, response.node_id, &response.host, response.port)
            }
        };
        outcome(code, message)?;
        let port = u16::try_from(port).map_err(|_| incomplete("FindCoordinator"))?;
        let address = Address { host: host.clone().into_owned(), port };
        self.metadata.brokers.entry(id).or_insert(Broker { address, rack: None });
        Ok(id)
    }

    fn group_call<R: Request>(
        &mut self,
        name: &str,
        group: &str,
        build: impl Fn(i16) -> R,
        verdict: impl Fn(&R::Response<'_>) -> ErrorCode,
    ) -> Result<(Answer<R>, i32), ClientError> {
        self.coordinator_call(name, CoordinatorKind::Group, group, build, verdict)
    }

    /// Asks the coordinator, wherever it moves meanwhile.
    pub fn coordinator_call<R: Request>(
        &mut self,
        name: &str,
        kind: CoordinatorKind,
        key: &str,
        build: impl Fn(i16) -> R,
        verdict: impl Fn(&R::Response<'_>) -> ErrorCode,
    ) -> Result<(Answer<R>, i32), ClientError> {
        let deadline = Instant::now() + self.settings.api_timeout;
        let mut found = false;
        loop {
            let attempt = self.find_coordinator(kind, key).and_then(|node| {
                found = true;
                Ok((self.once(Target::Broker(node), &build)?, node))
            });
            let error = match attempt {
                Ok((answer, node)) => {
                    let code = verdict(&answer.get()?);
                    if !code.is_retriable() {
                        return Ok((answer, node));
                    }
                    ClientError::server(code, None)
                }
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(error);
            }
            if Instant::now() >= deadline {
                let text = match found {
                    true => format!("Timed out waiting to send the call. Call: {name} ({error})"),
                    false => format!("Timed out waiting for a node assignment. Call: findCoordinator ({error})"),
                };
                return Err(ClientError::Timeout(text));
            }
            std::thread::sleep(self.settings.retry_backoff);
        }
    }

    /// Groups of all brokers. Filters that a broker does not know are applied here.
    pub fn list_groups(&mut self, states: &[String], types: &[String]) -> Result<Vec<GroupListing>, ClientError> {
        self.refresh("listGroups", Topics::None, false)?;
        let nodes: Vec<i32> = self.metadata.brokers.keys().copied().collect();
        let mut out = Vec::new();
        for node in nodes {
            let build = |version: i16| ListGroupsRequest {
                states_filter: if version >= 4 { states.iter().map(|s| s.as_str().into()).collect() } else { vec![] },
                types_filter: if version >= 5 { types.iter().map(|s| s.as_str().into()).collect() } else { vec![] },
                ..Default::default()
            };
            let answer = self
                .call("listGroups", Target::Broker(node), build, |response| ErrorCode::from_i16(response.error_code))?;
            let response = answer.get()?;
            outcome(response.error_code, None)?;
            out.extend(response.groups.iter().map(|group| GroupListing {
                group_id: group.group_id.to_string(),
                protocol_type: group.protocol_type.to_string(),
                state: group.group_state.to_string(),
                kind: group.group_type.to_string(),
            }));
        }
        let allowed = |filter: &[String], value: &str| {
            filter.is_empty() || value.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value))
        };
        out.retain(|group| allowed(states, &group.state) && allowed(types, &group.kind));
        Ok(out)
    }

    /// Groups of the new protocol answer to ConsumerGroupDescribe, all others to DescribeGroups (KIP-848).
    pub fn describe_group(&mut self, group: &str) -> Result<GroupDescription, ClientError> {
        if self.supports(ApiKey::ConsumerGroupDescribe)? {
            match self.describe_consumer_group(group) {
                Err(error)
                    if matches!(error, ClientError::Unsupported(_))
                        || matches!(error.code(), Some(ErrorCode::GroupIdNotFound | ErrorCode::UnsupportedVersion)) => {
                }
                result => return result,
            }
        }
        self.describe_classic_group(group)
    }

    fn describe_consumer_group(&mut self, group: &str) -> Result<GroupDescription, ClientError> {
        let build = |_: i16| ConsumerGroupDescribeRequest { group_ids: vec![group.into()], ..Default::default() };
        let (answer, coordinator) = self.group_call("describeConsumerGroups", group, build, |response| {
            response.groups.first().map_or(ErrorCode::None, |group| ErrorCode::from_i16(group.error_code))
        })?;
        let response = answer.get()?;
        let found = response.groups.first().ok_or_else(|| incomplete("ConsumerGroupDescribe"))?;
        outcome(found.error_code, found.error_message.as_deref())?;
        let partitions = |assignment: &consumer_group_describe_response::Assignment<'_>| {
            let topics = assignment.topic_partitions.iter();
            topics.flat_map(|t| t.partitions.iter().map(|p| (t.topic_name.to_string(), *p))).collect::<Vec<_>>()
        };
        Ok(GroupDescription {
            group_id: group.to_owned(),
            state: found.group_state.to_string(),
            assignor: found.assignor_name.to_string(),
            coordinator,
            group_epoch: Some(found.group_epoch),
            assignment_epoch: Some(found.assignment_epoch),
            members: found
                .members
                .iter()
                .map(|member| GroupMember {
                    member_id: member.member_id.to_string(),
                    instance_id: member.instance_id.as_deref().map(str::to_owned),
                    client_id: member.client_id.to_string(),
                    host: member.client_host.to_string(),
                    epoch: Some(member.member_epoch),
                    assignment: partitions(&member.assignment),
                    target: partitions(&member.target_assignment),
                    upgraded: (member.member_type >= 0).then_some(member.member_type == 1),
                })
                .collect(),
        })
    }

    fn describe_classic_group(&mut self, group: &str) -> Result<GroupDescription, ClientError> {
        let build = |_: i16| DescribeGroupsRequest { groups: vec![group.into()], ..Default::default() };
        let (answer, coordinator) = self.group_call("describeConsumerGroups", group, build, |response| {
            response.groups.first().map_or(ErrorCode::None, |group| ErrorCode::from_i16(group.error_code))
        })?;
        let response = answer.get()?;
        let found = response.groups.first().ok_or_else(|| incomplete("DescribeGroups"))?;
        outcome(found.error_code, found.error_message.as_deref())?;
        Ok(GroupDescription {
            group_id: group.to_owned(),
            state: found.group_state.to_string(),
            assignor: found.protocol_data.to_string(),
            coordinator,
            group_epoch: None,
            assignment_epoch: None,
            members: found
                .members
                .iter()
                .map(|member| GroupMember {
                    member_id: member.member_id.to_string(),
                    instance_id: member.group_instance_id.as_deref().map(str::to_owned),
                    client_id: member.client_id.to_string(),
                    host: member.client_host.to_string(),
                    assignment: decode_assignment(&member.member_assignment),
                    ..Default::default()
                })
                .collect(),
        })
    }

    /// Committed offsets: of all partitions, or of those named.
    pub fn committed(
        &mut self,
        group: &str,
        only: Option<&[TopicPartition]>,
    ) -> Result<BTreeMap<TopicPartition, Committed>, ClientError> {
        let grouped = only.map(|keys| by_topic(keys.iter().map(|key| (key, key.1))));
        let build = |version: i16| {
            use offset_fetch_request::{OffsetFetchRequestTopic, OffsetFetchRequestTopics};
            let group_id = group.into();
            if version < 8 {
                let topics = grouped.as_ref().map(|topics| {
                    let topic = |(name, partitions): (&String, &Vec<i32>)| OffsetFetchRequestTopic {
                        name: name.clone().into(),
                        partition_indexes: partitions.clone(),
                        ..Default::default()
                    };
                    topics.iter().map(topic).collect()
                });
                return OffsetFetchRequest { group_id, topics, ..Default::default() };
            }
            let topics = grouped.as_ref().map(|topics| {
                let topic = |(name, partitions): (&String, &Vec<i32>)| OffsetFetchRequestTopics {
                    name: name.clone().into(),
                    partition_indexes: partitions.clone(),
                    ..Default::default()
                };
                topics.iter().map(topic).collect()
            });
            let groups = vec![OffsetFetchRequestGroup { group_id, topics, ..Default::default() }];
            OffsetFetchRequest { groups, ..Default::default() }
        };
        let (answer, _) = self.group_call("listConsumerGroupOffsets", group, build, |response| {
            let code = response.groups.first().map_or(response.error_code, |group| group.error_code);
            ErrorCode::from_i16(code)
        })?;
        committed_of(&answer.get()?)
    }

    /// Commits, on behalf of a member or of nobody.
    pub fn commit(
        &mut self,
        group: &str,
        by: &Committer<'_>,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<PerPartition, ClientError> {
        let topics = by_topic(offsets.iter().map(|(key, offset)| (key, (key.1, *offset))));
        let build = |_: i16| OffsetCommitRequest {
            group_id: group.into(),
            generation_id_or_member_epoch: by.generation,
            member_id: by.member_id.into(),
            group_instance_id: by.instance_id.map(Into::into),
            topics: topics
                .iter()
                .map(|(name, partitions)| OffsetCommitRequestTopic {
                    name: name.as_str().into(),
                    partitions: partitions
                        .iter()
                        .map(|(partition, offset)| OffsetCommitRequestPartition {
                            partition_index: *partition,
                            committed_offset: *offset,
                            committed_leader_epoch: -1,
                            committed_metadata: Some("".into()),
                            ..Default::default()
                        })
                        .collect(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let (answer, _) = self.group_call("alterConsumerGroupOffsets", group, build, |response| {
            let codes = response.topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| p.error_code));
            let mut moved = codes.map(ErrorCode::from_i16).filter(|code| {
                matches!(
                    code,
                    ErrorCode::NotCoordinator
                        | ErrorCode::CoordinatorNotAvailable
                        | ErrorCode::CoordinatorLoadInProgress
                )
            });
            moved.next().unwrap_or(ErrorCode::None)
        })?;
        let response = answer.get()?;
        let mut out = PerPartition::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                let key = (topic.name.to_string(), partition.partition_index);
                out.insert(key, outcome(partition.error_code, None));
            }
        }
        Ok(out)
    }

    /// Forgets offsets. The outer error concerns the group.
    pub fn delete_offsets(&mut self, group: &str, partitions: &[TopicPartition]) -> Result<PerPartition, ClientError> {
        let topics = by_topic(partitions.iter().map(|key| (key, key.1)));
        let build = |_: i16| OffsetDeleteRequest {
            group_id: group.into(),
            topics: topics
                .iter()
                .map(|(name, partitions)| OffsetDeleteRequestTopic {
                    name: name.as_str().into(),
                    partitions: partitions
                        .iter()
                        .map(|p| OffsetDeleteRequestPartition { partition_index: *p })
                        .collect(),
                })
                .collect(),
        };
        let (answer, _) = self.group_call("deleteConsumerGroupOffsets", group, build, |response| {
            ErrorCode::from_i16(response.error_code)
        })?;
        let response = answer.get()?;
        outcome(response.error_code, None)?;
        let mut out = PerPartition::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                let key = (topic.name.to_string(), partition.partition_index);
                out.insert(key, outcome(partition.error_code, None));
            }
        }
        Ok(out)
    }

    pub fn delete_group(&mut self, group: &str) -> Result<(), ClientError> {
        let build = |_: i16| DeleteGroupsRequest { groups_names: vec![group.into()], ..Default::default() };
        let (answer, _) = self.group_call("deleteConsumerGroups", group, build, |response| {
            response.results.first().map_or(ErrorCode::None, |result| ErrorCode::from_i16(result.error_code))
        })?;
        let response = answer.get()?;
        let result = response.results.first().ok_or_else(|| incomplete("DeleteGroups"))?;
        outcome(result.error_code, None)
    }
}

fn by_topic<'a, T>(items: impl Iterator<Item = (&'a TopicPartition, T)>) -> BTreeMap<String, Vec<T>> {
    let mut out: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for (key, item) in items {
        out.entry(key.0.clone()).or_default().push(item);
    }
    out
}

fn committed_of(response: &OffsetFetchResponse<'_>) -> Result<BTreeMap<TopicPartition, Committed>, ClientError> {
    let mut found: Vec<(TopicPartition, i16, Committed)> = Vec::new();
    match response.groups.first() {
        Some(group) => {
            outcome(group.error_code, None)?;
            for topic in &group.topics {
                for p in &topic.partitions {
                    let committed = Committed { offset: p.committed_offset, leader_epoch: p.committed_leader_epoch };
                    found.push(((topic.name.to_string(), p.partition_index), p.error_code, committed));
                }
            }
        }
        None => {
            outcome(response.error_code, None)?;
            for topic in &response.topics {
                for p in &topic.partitions {
                    let committed = Committed { offset: p.committed_offset, leader_epoch: p.committed_leader_epoch };
                    found.push(((topic.name.to_string(), p.partition_index), p.error_code, committed));
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    for (key, code, committed) in found {
        if code == ErrorCode::UnknownTopicOrPartition as i16 {
            continue;
        }
        outcome(code, None)?;
        if committed.offset >= 0 {
            out.insert(key, committed);
        }
    }
    Ok(out)
}

/// What the leader assigned to a member: two bytes of version, then the message. What does not decode is nothing; it is
/// the group's own business.
pub fn decode_assignment(bytes: &[u8]) -> Vec<TopicPartition> {
    let Some((version, body)) = versioned(bytes) else { return vec![] };
    let newest = *<ConsumerProtocolAssignment<'_> as protocol::codec::Message>::VERSIONS.end();
    let Ok(assignment) = decode_all::<ConsumerProtocolAssignment<'_>>(body, version.min(newest)) else {
        return vec![];
    };
    let topics = assignment.assigned_partitions.iter();
    topics.flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic.to_string(), *partition))).collect()
}

pub fn versioned(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let version = i16::from_be_bytes(*bytes.first_chunk::<2>()?);
    (version >= 0).then_some((version, &bytes[2..]))
}
