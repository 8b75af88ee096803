//! A member of a consumer group of the classic protocol, eager rebalances with the range assignor (Kafka's
//! `ConsumerCoordinator`). It runs in its owner's thread: [`ClassicMember::turn`] is called between fetches, sends what is due
//! and never waits long, so that signals and timeouts are noticed during a rebalance too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use protocol::codec::{Message, Request, decode_all, encode_all};
use protocol::error::ErrorCode;
use protocol::messages::join_group_request::JoinGroupRequestProtocol;
use protocol::messages::leave_group_request::MemberIdentity;
use protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use protocol::messages::*;

use super::consumer::{Consumer, Reset, TopicPartition};
use super::groups::{Committer, CoordinatorKind, decode_assignment, versioned};
use super::metadata::Topics;
use super::range::{Subscriber, assign};
use super::{Answer, ClientError, Connection};

const PROTOCOL_TYPE: &str = "consumer";
const ASSIGNOR: &str = "range";
/// How long one turn waits for an answer to JoinGroup or SyncGroup, which may take as long as other members need.
const WAIT: Duration = Duration::from_millis(100);
/// How long the coordinator may take for what it answers at once.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct MemberConfig {
    pub group: String,
    pub instance_id: Option<String>,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub heartbeat: Duration,
    /// How often offsets are committed; `None` if never.
    pub auto_commit: Option<Duration>,
    /// `group.protocol=consumer` (KIP-848): see [`super::new_member`].
    pub new_protocol: bool,
    /// Who assigns on the coordinator, in the new protocol; its choice if left out.
    pub remote_assignor: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unjoined,
    /// JoinGroup in this version is on its way.
    Joining(i16),
    Syncing(i16),
    Stable,
}

pub struct ClassicMember {
    config: MemberConfig,
    /// To the coordinator, apart from the one that fetches: a JoinGroup holds up whatever is behind it.
    connection: Option<Connection>,
    member_id: String,
    generation: i32,
    state: State,
    topics: BTreeSet<String>,
    /// The topics that this member looks after as the leader of the group, with their partitions when it assigned them.
    led: Option<BTreeMap<String, usize>>,
    next_attempt: Instant,
    next_heartbeat: Instant,
    next_commit: Instant,
}

impl ClassicMember {
    pub fn new(config: MemberConfig) -> ClassicMember {
        let now = Instant::now();
        ClassicMember {
            config,
            connection: None,
            member_id: String::new(),
            generation: -1,
            state: State::Unjoined,
            topics: BTreeSet::new(),
            led: None,
            next_attempt: now,
            next_heartbeat: now,
            next_commit: now,
        }
    }

    /// The topics to read. Others than before mean another rebalance.
    pub fn subscribe(&mut self, topics: BTreeSet<String>, consumer: &mut Consumer) {
        if topics != self.topics {
            self.topics = topics;
            if self.state == State::Stable {
                self.rejoin(consumer);
            }
        }
    }

    /// Names of all topics whose partitions the leader has to know, beyond its own.
    pub fn watched(&self) -> impl Iterator<Item = &str> {
        self.led.iter().flat_map(|led| led.keys().map(String::as_str))
    }

    /// As leader: assigns anew when a topic has got other partitions.
    pub fn check_partitions(&mut self, consumer: &mut Consumer) {
        let Some(led) = &self.led else { return };
        let changed = led.iter().any(|(topic, count)| partition_count(consumer, topic) != *count);
        if changed && self.state == State::Stable {
            self.rejoin(consumer);
        }
    }

    /// Does what is due; true if the partitions are there to be read.
    pub fn turn(&mut self, consumer: &mut Consumer) -> Result<bool, ClientError> {
        if Instant::now() < self.next_attempt {
            std::thread::sleep(WAIT.min(self.next_attempt - Instant::now()));
            return Ok(false);
        }
        let result = match self.state {
            State::Unjoined => self.send_join(consumer),
            State::Joining(version) => self.await_join(version, consumer),
            State::Syncing(version) => self.await_sync(version, consumer),
            State::Stable => self.keep_alive(consumer),
        };
        match result {
            Ok(()) => {}
            Err(ClientError::Network(_)) => {
                self.connection = None;
                self.again();
                if self.state != State::Stable {
                    self.state = State::Unjoined;
                }
            }
            Err(error) => self.on_error(error, consumer)?,
        }
        Ok(self.state == State::Stable)
    }

    fn again(&mut self) {
        self.next_attempt = Instant::now() + WAIT;
    }

    /// What the coordinator's errors ask for; those that no repetition helps against are handed back.
    fn on_error(&mut self, error: ClientError, consumer: &mut Consumer) -> Result<(), ClientError> {
        match error.code() {
            Some(ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) => {
                self.connection = None;
                self.again();
                if self.state != State::Stable {
                    self.state = State::Unjoined;
                }
            }
            Some(ErrorCode::CoordinatorLoadInProgress) => {
                self.again();
                if self.state != State::Stable {
                    self.state = State::Unjoined;
                }
            }
            Some(ErrorCode::RebalanceInProgress) => self.rejoin(consumer),
            Some(ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration) => {
                // The partitions may be with others by now: nothing that this member knows of them counts.
                if error.code() == Some(ErrorCode::UnknownMemberId) {
                    self.member_id.clear();
                }
                self.generation = -1;
                consumer.unassign_all();
                self.state = State::Unjoined;
            }
            _ => return Err(error),
        }
        Ok(())
    }

    /// Eager: what is read is committed and given up before the group comes together.
    fn rejoin(&mut self, consumer: &mut Consumer) {
        self.auto_commit(consumer);
        consumer.unassign_all();
        self.led = None;
        self.state = State::Unjoined;
    }

    fn connection(&mut self, consumer: &mut Consumer) -> Result<&mut Connection, ClientError> {
        if self.connection.is_none() {
            let client = &mut consumer.client;
            let id = client.find_coordinator(CoordinatorKind::Group, &self.config.group)?;
            let address = client.metadata.brokers.get(&id).map(|broker| broker.address.clone());
            let address = address.ok_or_else(|| ClientError::Network(format!("broker {id} is not in the cluster")))?;
            let (name, timeout) = (client.settings.client_id.clone(), client.settings.connect_timeout);
            self.connection = Some(Connection::open(&address, &name, timeout)?);
        }
        self.connection.as_mut().ok_or_else(|| ClientError::Network("no connection".to_owned()))
    }

    fn send<R: Request>(
        &mut self,
        consumer: &mut Consumer,
        build: impl Fn(&ClassicMember, i16) -> R,
    ) -> Result<i16, ClientError> {
        let version = self.connection(consumer)?.versions.common(R::KEY)?;
        let request = build(self, version);
        self.connection(consumer)?.send(version, &request)?;
        Ok(version)
    }

    /// An answer if it has come.
    fn received<R: Request>(&mut self, version: i16) -> Result<Option<Answer<R>>, ClientError> {
        let lost = || ClientError::Network("the connection to the coordinator is gone".to_owned());
        let connection = self.connection.as_mut().ok_or_else(lost)?;
        if !connection.readable(WAIT)? {
            return Ok(None);
        }
        let frame = connection.receive(Instant::now() + ANSWER)?;
        Answer::new(frame, version).map(Some)
    }

    fn send_join(&mut self, consumer: &mut Consumer) -> Result<(), ClientError> {
        let subscription = ConsumerProtocolSubscription {
            topics: self.topics.iter().map(|topic| topic.as_str().into()).collect(),
            generation_id: self.generation,
            ..Default::default()
        };
        let metadata = encode_versioned(&subscription)?;
        let version = self.send(consumer, |member, version| JoinGroupRequest {
            group_id: member.config.group.clone().into(),
            session_timeout_ms: member.config.session_timeout_ms,
            rebalance_timeout_ms: if version >= 1 { member.config.rebalance_timeout_ms } else { -1 },
            member_id: member.member_id.clone().into(),
            group_instance_id: member.config.instance_id.clone().filter(|_| version >= 5).map(Into::into),
            protocol_type: PROTOCOL_TYPE.into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: ASSIGNOR.into(),
                metadata: metadata.clone().into(),
                ..Default::default()
            }],
            ..Default::default()
        })?;
        self.state = State::Joining(version);
        Ok(())
    }

    fn await_join(&mut self, version: i16, consumer: &mut Consumer) -> Result<(), ClientError> {
        let Some(answer) = self.received::<JoinGroupRequest<'_>>(version)? else { return Ok(()) };
        let response = answer.get()?;
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {}
            // KIP-394: the first answer names the member, who then joins under that name.
            ErrorCode::MemberIdRequired => {
                self.member_id = response.member_id.to_string();
                self.state = State::Unjoined;
                return Ok(());
            }
            code => {
                self.state = State::Unjoined;
                return Err(ClientError::server(code, None));
            }
        }
        self.member_id = response.member_id.to_string();
        self.generation = response.generation_id;
        let assignments = if response.leader == response.member_id && !response.skip_assignment {
            self.assignments(&response, consumer)?
        } else {
            vec![]
        };
        let protocol = response.protocol_name.as_deref().unwrap_or(ASSIGNOR).to_owned();
        let version = self.send(consumer, |member, version| SyncGroupRequest {
            group_id: member.config.group.clone().into(),
            generation_id: member.generation,
            member_id: member.member_id.clone().into(),
            group_instance_id: member.config.instance_id.clone().filter(|_| version >= 3).map(Into::into),
            protocol_type: (version >= 5).then(|| PROTOCOL_TYPE.into()),
            protocol_name: (version >= 5).then(|| protocol.clone().into()),
            assignments: assignments
                .iter()
                .map(|(member, bytes)| SyncGroupRequestAssignment {
                    member_id: member.clone().into(),
                    assignment: bytes.clone().into(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })?;
        self.state = State::Syncing(version);
        Ok(())
    }

    /// The leader's part: who reads what.
    fn assignments(
        &mut self,
        response: &JoinGroupResponse<'_>,
        consumer: &mut Consumer,
    ) -> Result<Vec<(String, Vec<u8>)>, ClientError> {
        let members: Vec<Subscriber> = response
            .members
            .iter()
            .map(|member| Subscriber {
                member_id: member.member_id.to_string(),
                instance_id: member.group_instance_id.as_deref().map(str::to_owned),
                topics: decode_topics(&member.metadata),
            })
            .collect();
        let topics: BTreeSet<&str> = members.iter().flat_map(|m| m.topics.iter().map(String::as_str)).collect();
        let names: Vec<&str> = topics.into_iter().collect();
        consumer.client.refresh("metadata", Topics::Named(&names), false)?;
        let counts: BTreeMap<String, usize> =
            names.iter().map(|name| ((*name).to_owned(), partition_count(consumer, name))).collect();
        let assigned = assign(members, &counts);
        self.led = Some(counts);
        assigned
            .into_iter()
            .map(|(member, partitions)| {
                let mut message = ConsumerProtocolAssignment::default();
                for (topic, partition) in partitions {
                    use consumer_protocol_assignment::TopicPartition;
                    match message.assigned_partitions.last_mut() {
                        Some(last) if last.topic == topic.as_str() => last.partitions.push(partition),
                        _ => message
                            .assigned_partitions
                            .push(TopicPartition { topic: topic.into(), partitions: vec![partition] }),
                    }
                }
                Ok((member, encode_versioned(&message)?))
            })
            .collect()
    }

    fn await_sync(&mut self, version: i16, consumer: &mut Consumer) -> Result<(), ClientError> {
        let Some(answer) = self.received::<SyncGroupRequest<'_>>(version)? else { return Ok(()) };
        let response = answer.get()?;
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {}
            code => {
                self.state = State::Unjoined;
                return Err(ClientError::server(code, None));
            }
        }
        let assigned = decode_assignment(&response.assignment);
        take_over(&self.config.group, &assigned, consumer)?;
        self.state = State::Stable;
        let now = Instant::now();
        self.next_heartbeat = now + self.config.heartbeat;
        self.next_commit = now + self.config.auto_commit.unwrap_or_default();
        Ok(())
    }

    fn keep_alive(&mut self, consumer: &mut Consumer) -> Result<(), ClientError> {
        let now = Instant::now();
        if self.config.auto_commit.is_some() && now >= self.next_commit {
            self.auto_commit(consumer);
        }
        if now < self.next_heartbeat {
            return Ok(());
        }
        self.next_heartbeat = now + self.config.heartbeat;
        let version = self.send(consumer, |member, version| HeartbeatRequest {
            group_id: member.config.group.clone().into(),
            generation_id: member.generation,
            member_id: member.member_id.clone().into(),
            group_instance_id: member.config.instance_id.clone().filter(|_| version >= 3).map(Into::into),
            ..Default::default()
        })?;
        let frame = self.connection(consumer)?.receive(now + ANSWER)?;
        let answer = Answer::<HeartbeatRequest<'_>>::new(frame, version)?;
        match ErrorCode::from_i16(answer.get()?.error_code) {
            ErrorCode::None => Ok(()),
            code => Err(ClientError::server(code, None)),
        }
    }

    pub fn committer(&self) -> Committer<'_> {
        Committer {
            generation: self.generation,
            member_id: &self.member_id,
            instance_id: self.config.instance_id.as_deref(),
        }
    }

    fn auto_commit(&mut self, consumer: &mut Consumer) {
        let Some(interval) = self.config.auto_commit else { return };
        self.next_commit = Instant::now() + interval;
        if self.generation >= 0 {
            commit_read(&self.config.group, &self.committer(), consumer);
        }
    }

    /// Commits and says good-bye, so that the others need not wait for the session to time out. A static member stays.
    pub fn leave(&mut self, consumer: &mut Consumer) {
        consumer.client.settings.api_timeout = consumer.client.settings.api_timeout.min(ANSWER);
        if self.state == State::Stable {
            self.auto_commit(consumer);
        } else {
            // An answer to JoinGroup or SyncGroup may be outstanding; a fresh connection has none in front.
            self.connection = None;
        }
        if self.member_id.is_empty() || self.config.instance_id.is_some() {
            return;
        }
        let sent = self.send(consumer, |member, version| {
            let identity = MemberIdentity {
                member_id: member.member_id.clone().into(),
                reason: (version >= 5).then(|| "the consumer is being closed".into()),
                ..Default::default()
            };
            LeaveGroupRequest {
                group_id: member.config.group.clone().into(),
                member_id: if version < 3 { member.member_id.clone().into() } else { "".into() },
                members: if version < 3 { vec![] } else { vec![identity] },
                ..Default::default()
            }
        });
        // Whatever the answer: there is nothing left to do about it.
        if sent.is_ok()
            && let Ok(connection) = self.connection(consumer)
        {
            let _ = connection.receive(Instant::now() + ANSWER);
        }
        self.member_id.clear();
        self.state = State::Unjoined;
    }
}

/// Takes partitions over where the group has left off.
pub fn take_over(group: &str, assigned: &[TopicPartition], consumer: &mut Consumer) -> Result<(), ClientError> {
    if assigned.is_empty() {
        return Ok(());
    }
    let names: BTreeSet<&str> = assigned.iter().map(|key| key.0.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    consumer.client.refresh("metadata", Topics::Named(&names), false)?;
    let committed = consumer.client.committed(group, Some(assigned))?;
    for key in assigned {
        let offset = committed.get(key).map(|found| found.offset);
        if offset.is_none() && consumer.reset() == Reset::None {
            let message = format!("Undefined offset with no reset policy for partitions: [{}-{}]", key.0, key.1);
            return Err(ClientError::Server { code: ErrorCode::OffsetOutOfRange, message });
        }
        consumer.assign(&key.0, key.1, offset);
    }
    Ok(())
}

/// Commits what was read so far. An error costs no more than reading again after a crash, and the next commit tries
/// again, so it only is a warning, as in Kafka.
pub fn commit_read(group: &str, by: &Committer<'_>, consumer: &mut Consumer) {
    let offsets = consumer.positions();
    if offsets.is_empty() {
        return;
    }
    let failed = match consumer.client.commit(group, by, &offsets) {
        Ok(results) => results.into_values().find_map(Result::err),
        Err(error) => Some(error),
    };
    if let Some(error) = failed.filter(|error| error.code() != Some(ErrorCode::RebalanceInProgress)) {
        consumer.client.warn(&format!("Auto-commit of offsets failed: {error}"));
    }
}

fn partition_count(consumer: &Consumer, topic: &str) -> usize {
    let known = consumer.client.metadata.topics.get(topic).filter(|known| known.error == ErrorCode::None);
    known.map_or(0, |known| known.partitions.len())
}

fn encode_versioned<M: Message>(message: &M) -> Result<Vec<u8>, ClientError> {
    let version = *M::VERSIONS.end();
    let body = encode_all(message, version).map_err(|error| ClientError::Encode(error.to_string()))?;
    Ok([&version.to_be_bytes()[..], &body].concat())
}

fn decode_topics(bytes: &[u8]) -> Vec<String> {
    let Some((version, body)) = versioned(bytes) else { return vec![] };
    let newest = *<ConsumerProtocolSubscription<'_> as Message>::VERSIONS.end();
    let decoded = decode_all::<ConsumerProtocolSubscription<'_>>(body, version.min(newest));
    decoded.map_or(vec![], |subscription| subscription.topics.iter().map(|topic| topic.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_and_assignments_survive_the_wire() {
        let subscription = ConsumerProtocolSubscription { topics: vec!["a".into(), "b".into()], ..Default::default() };
        assert_eq!(decode_topics(&encode_versioned(&subscription).unwrap()), ["a", "b"]);
        use consumer_protocol_assignment::TopicPartition;
        let message = ConsumerProtocolAssignment {
            assigned_partitions: vec![TopicPartition { topic: "a".into(), partitions: vec![0, 2] }],
            ..Default::default()
        };
        let bytes = encode_versioned(&message).unwrap();
        assert_eq!(decode_assignment(&bytes), [("a".to_owned(), 0), ("a".to_owned(), 2)]);
        assert!(decode_assignment(&bytes[..5]).is_empty() && decode_topics(&[0xff, 0xff, 0]).is_empty());
    }
}
