//! Groups of the classic protocol and their offsets: each request finds its shard, or learns where to look.

use coordinator::transactions::TRANSACTIONS_TOPIC;
use coordinator::{CONSUMER, ClientInfo, OFFSETS_TOPIC, OffsetTopic, partition_of};
use protocol::api::ApiKey;
use protocol::error::ErrorCode;
use protocol::header::decode_request_header;
use protocol::messages::consumer_group_describe_response::DescribedGroup;
use protocol::messages::find_coordinator_response::Coordinator;
use protocol::messages::list_groups_response::ListedGroup;
use protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use protocol::messages::*;
use protocol::time::Now;
use protocol::wire::{DecodeError, Reader};

use crate::node::Node;
use crate::request::Context;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// From here on many coordinators are asked for at a time.
const MANY_KEYS_FROM: i16 = 4;
/// From here on topics go by id.
const COMMIT_TOPIC_IDS_FROM: i16 = 10;
/// From here on a member says which protocol it speaks.
const MEMBER_TYPE_FROM: i16 = 1;
/// From here on an unknown group is an error and not a dead group.
const GROUP_NOT_FOUND_FROM: i16 = 6;
const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;
const NOT_AVAILABLE: &str = "the coordinator's partition has no leader yet";
/// From here on a member has to say which protocol it believes in.
const SYNC_PROTOCOL_FROM: i16 = 5;
/// The feature level from which on there are consumer groups.
const CONSUMER_GROUPS_FROM: i16 = 1;

impl Node {
    pub(crate) fn handle_group_request(
        &mut self,
        cx: &Context,
        frame: &[u8],
        body_at: usize,
        now: Now,
    ) -> Result<(), DecodeError> {
        let body = frame.get(body_at..).unwrap_or_default();
        match cx.reply.key {
            ApiKey::FindCoordinator => self.handle_find_coordinator(cx, body, now),
            ApiKey::JoinGroup => {
                let request: JoinGroupRequest<'_> = cx.decode(body)?;
                let client = client_info(cx, frame)?;
                match self.member_call(&request.group_id, cx.reply) {
                    Ok((shard, token, facts)) => shard.join(&request, cx.reply.version, client, &facts, token, now),
                    Err(code) => self.refuse_group_request(cx.reply, code),
                }
                Ok(())
            }
            ApiKey::SyncGroup => {
                let request: SyncGroupRequest<'_> = cx.decode(body)?;
                let has_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
                if cx.reply.version >= SYNC_PROTOCOL_FROM && !has_protocol {
                    self.refuse_group_request(cx.reply, ErrorCode::InconsistentGroupProtocol);
                    return Ok(());
                }
                match self.member_call(&request.group_id, cx.reply) {
                    Ok((shard, token, facts)) => shard.sync(&request, &facts, token, now),
                    Err(code) => self.refuse_group_request(cx.reply, code),
                }
                Ok(())
            }
            ApiKey::Heartbeat => {
                let request: HeartbeatRequest<'_> = cx.decode(body)?;
                let code = match self.group_shard(&request.group_id) {
                    _ if request.group_id.is_empty() => ErrorCode::InvalidGroupId,
                    Ok(shard) => shard.heartbeat(&request, now),
                    Err(code) => code,
                };
                self.respond(cx.reply, &HeartbeatResponse { error_code: code.into(), ..Default::default() });
                Ok(())
            }
            ApiKey::LeaveGroup => {
                let request: LeaveGroupRequest<'_> = cx.decode(body)?;
                match self.member_call(&request.group_id, cx.reply) {
                    Ok((shard, token, facts)) => shard.leave(&request, cx.reply.version, &facts, token, now),
                    Err(code) => self.refuse_group_request(cx.reply, code),
                }
                Ok(())
            }
            ApiKey::ConsumerGroupHeartbeat => self.handle_consumer_group_heartbeat(cx, frame, body, now),
            ApiKey::ConsumerGroupDescribe => self.handle_consumer_group_describe(cx, body),
            ApiKey::OffsetCommit => self.handle_offset_commit(cx, body, now),
            ApiKey::OffsetFetch => self.handle_offset_fetch(cx, body),
            ApiKey::OffsetDelete => self.handle_offset_delete(cx, body),
            ApiKey::ListGroups => self.handle_list_groups(cx, body),
            ApiKey::DescribeGroups => self.handle_describe_groups(cx, body),
            _ => {
                let request: DeleteGroupsRequest<'_> = cx.decode(body)?;
                let names = distinct(&request.groups_names);
                self.delete_groups(cx.reply, names);
                Ok(())
            }
        }
    }

    fn handle_find_coordinator(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: FindCoordinatorRequest<'_> = cx.decode(body)?;
        if cx.reply.version < MANY_KEYS_FROM {
            let found = self.find_coordinator(cx, &request.key, request.key_type, now);
            let response = FindCoordinatorResponse {
                error_code: found.error_code,
                error_message: found.error_message.filter(|_| cx.reply.version >= 1),
                node_id: found.node_id,
                host: found.host,
                port: found.port,
                ..Default::default()
            };
            self.respond(cx.reply, &response);
            return Ok(());
        }
        let keys = request.coordinator_keys.iter();
        let coordinators = keys.map(|key| self.find_coordinator(cx, key, request.key_type, now)).collect();
        self.respond(cx.reply, &FindCoordinatorResponse { coordinators, ..Default::default() });
        Ok(())
    }

    fn find_coordinator(&mut self, cx: &Context, key: &str, key_type: i8, now: Now) -> Coordinator<'static> {
        let failed = |code: ErrorCode, message: &'static str| Coordinator {
            key: key.to_owned().into(),
            node_id: -1,
            port: -1,
            error_code: code.into(),
            error_message: Some(message.into()),
            ..Default::default()
        };
        let name = match key_type {
            GROUP => OFFSETS_TOPIC,
            TRANSACTION => TRANSACTIONS_TOPIC,
            _ => return failed(ErrorCode::InvalidRequest, "there is no coordinator of this type here"),
        };
        let Some(topic) = self.image.topic(name) else {
            match key_type {
                GROUP => self.create_offsets_topic(now),
                _ => self.create_transactions_topic(now),
            }
            return failed(ErrorCode::CoordinatorNotAvailable, NOT_AVAILABLE);
        };
        let partition = partition_of(key, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
        match self.leader_hint((topic.id, partition), cx.listener) {
            None => failed(ErrorCode::CoordinatorNotAvailable, NOT_AVAILABLE),
            Some(leader) => Coordinator {
                key: key.to_owned().into(),
                node_id: leader.leader,
                host: leader.host.into(),
                port: leader.port,
                ..Default::default()
            },
        }
    }

    fn handle_offset_commit(&mut self, cx: &Context, body: &[u8], now: Now) -> Result<(), DecodeError> {
        let request: OffsetCommitRequest<'_> = cx.decode(body)?;
        let by_id = cx.reply.version >= COMMIT_TOPIC_IDS_FROM;
        let resolve = |topic: &offset_commit_request::OffsetCommitRequestTopic<'_>| {
            let known = match by_id {
                true => self.image.topics.get(&topic.topic_id),
                false => self.image.topic(&topic.name),
            };
            match known {
                Some(known) => OffsetTopic {
                    name: known.name.clone(),
                    id: known.id,
                    partitions: i32::try_from(known.partitions.len()).unwrap_or(i32::MAX),
                    error: None,
                },
                None => OffsetTopic {
                    name: topic.name.clone().into_owned(),
                    id: topic.topic_id,
                    partitions: 0,
                    error: Some(if by_id { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition }),
                },
            }
        };
        let topics: Vec<OffsetTopic> = request.topics.iter().map(resolve).collect();
        match self.group_call(&request.group_id, cx.reply) {
            Ok((shard, token)) => shard.commit_offsets(&request, cx.reply.version, &topics, token, now),
            Err(code) => {
                let refused = |topic: &offset_commit_request::OffsetCommitRequestTopic<'_>| OffsetCommitResponseTopic {
                    name: topic.name.clone().into_owned().into(),
                    topic_id: topic.topic_id,
                    partitions: topic
                        .partitions
                        .iter()
                        .map(|p| OffsetCommitResponsePartition {
                            partition_index: p.partition_index,
                            error_code: code.into(),
                            ..Default::default()
                        })
                        .collect(),
                    ..Default::default()
                };
                let topics = request.topics.iter().map(refused).collect();
                self.respond(cx.reply, &OffsetCommitResponse { topics, ..Default::default() });
            }
        }
        Ok(())
    }

    fn handle_offset_delete(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: OffsetDeleteRequest<'_> = cx.decode(body)?;
        match self.member_call(&request.group_id, cx.reply) {
            Ok((shard, token, _)) => shard.delete_offsets(&request, token),
            Err(code) => {
                self.respond(cx.reply, &OffsetDeleteResponse { error_code: code.into(), ..Default::default() });
            }
        }
        Ok(())
    }

    fn handle_list_groups(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: ListGroupsRequest<'_> = cx.decode(body)?;
        let asks_for = |filter: &[protocol::wire::Str<'_>], value: &str| {
            filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value))
        };
        let response = match self.groups.serving() {
            Err(code) => ListGroupsResponse { error_code: code.into(), ..Default::default() },
            Ok(shards) => {
                let groups = shards.into_iter().flat_map(|shard| shard.list());
                let wanted = groups
                    .filter(|g| asks_for(&request.states_filter, g.state) && asks_for(&request.types_filter, g.kind));
                let version = cx.reply.version;
                let groups = wanted.map(|g| ListedGroup {
                    group_id: g.group.into(),
                    protocol_type: g.protocol_type.into(),
                    group_state: if version >= 4 { g.state.into() } else { "".into() },
                    group_type: if version >= 5 { g.kind.into() } else { "".into() },
                    ..Default::default()
                });
                ListGroupsResponse { groups: groups.collect(), ..Default::default() }
            }
        };
        self.respond(cx.reply, &response);
        Ok(())
    }

    fn handle_consumer_group_heartbeat(
        &mut self,
        cx: &Context,
        frame: &[u8],
        body: &[u8],
        now: Now,
    ) -> Result<(), DecodeError> {
        let request: ConsumerGroupHeartbeatRequest<'_> = cx.decode(body)?;
        let client = client_info(cx, frame)?;
        if !self.has_consumer_groups() {
            self.refuse_group_request(cx.reply, ErrorCode::UnsupportedVersion);
            return Ok(());
        }
        match self.group_call_with_facts(&request.group_id, cx.reply) {
            Ok((shard, token, facts)) => {
                shard.consumer_heartbeat(&request, cx.reply.version, client, &facts, token, now);
            }
            Err(code) => self.refuse_group_request(cx.reply, code),
        }
        Ok(())
    }

    fn has_consumer_groups(&self) -> bool {
        let is_enabled = self.config.group_coordinator_rebalance_protocols.iter().any(|name| name == CONSUMER);
        is_enabled && self.image.features.get("group.version").is_some_and(|level| *level >= CONSUMER_GROUPS_FROM)
    }

    fn handle_consumer_group_describe(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: ConsumerGroupDescribeRequest<'_> = cx.decode(body)?;
        let are_known = self.has_consumer_groups();
        let mut groups = Vec::with_capacity(request.group_ids.len());
        for name in &request.group_ids {
            let failed = |code: ErrorCode, message: Option<String>| DescribedGroup {
                group_id: name.clone().into_owned().into(),
                error_code: code.into(),
                error_message: message.map(Into::into),
                ..Default::default()
            };
            let mut described = match self.group_shard_with_facts(name) {
                _ if !are_known => failed(ErrorCode::UnsupportedVersion, None),
                _ if name.is_empty() => failed(ErrorCode::InvalidGroupId, None),
                Err(code) => failed(code, None),
                Ok((shard, facts)) => shard.describe_consumer(name, &facts).unwrap_or_else(|| {
                    let message = match shard.knows(name) {
                        true => format!("Group {name} is not a consumer group."),
                        false => format!("Group {name} not found."),
                    };
                    failed(ErrorCode::GroupIdNotFound, Some(message))
                }),
            };
            if cx.reply.version < MEMBER_TYPE_FROM {
                described.members.iter_mut().for_each(|member| member.member_type = -1);
            }
            described.authorized_operations = match request.include_authorized_operations {
                true => GROUP_OPERATIONS,
                false => super::OPERATIONS_NOT_ASKED,
            };
            groups.push(described);
        }
        self.respond(cx.reply, &ConsumerGroupDescribeResponse { groups, ..Default::default() });
        Ok(())
    }

    fn handle_describe_groups(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: DescribeGroupsRequest<'_> = cx.decode(body)?;
        let version = cx.reply.version;
        let mut groups = Vec::with_capacity(request.groups.len());
        for name in &request.groups {
            let mut described = match self.group_shard(name) {
                Ok(shard) => {
                    let mut described = shard.describe(name);
                    let missing = match (shard.is_consumer_group(name), shard.knows(name)) {
                        (true, _) => Some(format!("Group {name} is not a classic group.")),
                        (false, false) => Some(format!("Group {name} not found.")),
                        (false, true) => None,
                    };
                    if let Some(message) = missing.filter(|_| version >= GROUP_NOT_FOUND_FROM) {
                        described.error_code = ErrorCode::GroupIdNotFound.into();
                        described.error_message = Some(message.into());
                    }
                    described
                }
                Err(code) => describe_groups_response::DescribedGroup {
                    error_code: code.into(),
                    group_id: name.clone().into_owned().into(),
                    ..Default::default()
                },
            };
            if version < 4 {
                described.members.iter_mut().for_each(|m| m.group_instance_id = None);
            }
            let is_told = request.include_authorized_operations && described.error_code == 0;
            described.authorized_operations = match is_told {
                true => GROUP_OPERATIONS,
                false => super::OPERATIONS_NOT_ASKED,
            };
            groups.push(described);
        }
        self.respond(cx.reply, &DescribeGroupsResponse { groups, ..Default::default() });
        Ok(())
    }
}

/// Each name once, in the order of the request.
fn distinct(names: &[protocol::wire::Str<'_>]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for name in names {
        if !out.iter().any(|known| known == name.as_ref()) {
            out.push(name.clone().into_owned());
        }
    }
    out
}

/// Who sent a request.
fn client_info(cx: &Context, frame: &[u8]) -> Result<ClientInfo, DecodeError> {
    let client_id = decode_request_header(&mut Reader::new(frame))?.client_id;
    Ok(ClientInfo {
        client_id: client_id.map(|id| id.into_owned()).unwrap_or_default(),
        client_host: format!("/{}", cx.peer),
    })
}
