//! A member of a consumer group of the new protocol (KIP-848): the coordinator assigns, each member goes from what it has
//! to what it shall have in its own time, and heartbeats carry both. As in [`super::member`], a turn never waits long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use protocol::error::ErrorCode;
use protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use protocol::messages::consumer_group_heartbeat_response::Assignment;
use protocol::messages::*;
use protocol::wire::Uuid;

use super::consumer::{Consumer, TopicPartition};
use super::groups::{Committer, CoordinatorKind};
use super::member::{MemberConfig, take_over};
use super::metadata::Topics;
use super::{Answer, ClientError, Target};
use crate::random::random_uuid;

/// Epochs with a meaning of their own.
const JOINING: i32 = 0;
const LEAVING: i32 = -1;
const LEAVING_FOR_NOW: i32 = -2;
const BACKOFF: Duration = Duration::from_millis(100);

pub struct NewMember {
    config: MemberConfig,
    member_id: String,
    epoch: i32,
    coordinator: Option<i32>,
    topics: BTreeSet<String>,
    /// What the coordinator knows already is left out of heartbeats.
    subscription_told: bool,
    /// What is read now.
    owned: BTreeSet<TopicPartition>,
    /// What shall be read, by topic id: a topic's name may not be known yet.
    target: Option<Vec<(Uuid, Vec<i32>)>>,
    /// The coordinator waits to hear that the target is reached.
    owes_owned: bool,
    next_heartbeat: Instant,
    next_commit: Instant,
    interval: Duration,
}

impl NewMember {
    pub fn new(config: MemberConfig) -> NewMember {
        let now = Instant::now();
        NewMember {
            config,
            member_id: random_uuid().to_string(),
            epoch: JOINING,
            coordinator: None,
            topics: BTreeSet::new(),
            subscription_told: false,
            owned: BTreeSet::new(),
            target: None,
            owes_owned: false,
            next_heartbeat: now,
            next_commit: now,
            interval: Duration::from_secs(5),
        }
    }

    pub fn subscribe(&mut self, topics: BTreeSet<String>) {
        if topics != self.topics {
            self.topics = topics;
            self.subscription_told = false;
            self.next_heartbeat = Instant::now();
        }
    }

    /// Does what is due; true if there are partitions to be read.
    pub fn turn(&mut self, consumer: &mut Consumer) -> Result<bool, ClientError> {
        let now = Instant::now();
        if self.config.auto_commit.is_some() && self.epoch > 0 && now >= self.next_commit {
            self.auto_commit(consumer);
        }
        if now >= self.next_heartbeat {
            match self.heartbeat(consumer) {
                Ok(()) => {}
                Err(ClientError::Network(_)) => {
                    self.coordinator = None;
                    self.next_heartbeat = now + BACKOFF;
                }
                Err(error) => self.on_error(error, consumer)?,
            }
        }
        if self.target.is_some() {
            self.reconcile(consumer)?;
        }
        if self.owned.is_empty() {
            std::thread::sleep(BACKOFF.min(self.next_heartbeat.saturating_duration_since(Instant::now())));
        }
        Ok(!self.owned.is_empty())
    }

    fn on_error(&mut self, error: ClientError, consumer: &mut Consumer) -> Result<(), ClientError> {
        self.next_heartbeat = Instant::now() + BACKOFF;
        match error.code() {
            Some(ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) => self.coordinator = None,
            Some(ErrorCode::CoordinatorLoadInProgress) => {}
            // The group has gone on without this member, whose partitions may be with others.
            Some(ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch) => {
                consumer.unassign_all();
                self.owned.clear();
                self.target = None;
                self.owes_owned = false;
                self.subscription_told = false;
                self.epoch = JOINING;
            }
            _ => return Err(error),
        }
        Ok(())
    }

    fn send(
        &mut self,
        epoch: i32,
        consumer: &mut Consumer,
    ) -> Result<Answer<ConsumerGroupHeartbeatRequest<'static>>, ClientError> {
        let client = &mut consumer.client;
        let coordinator = match self.coordinator {
            Some(id) => id,
            None => client.find_coordinator(CoordinatorKind::Group, &self.config.group)?,
        };
        self.coordinator = Some(coordinator);
        let whole = epoch == JOINING;
        let owned = (whole || self.owes_owned).then(|| self.owned_by_id(consumer));
        let topics = (whole || !self.subscription_told)
            .then(|| self.topics.iter().map(|topic| topic.clone().into()).collect::<Vec<_>>());
        let config = &self.config;
        consumer.client.once(Target::Broker(coordinator), |_| ConsumerGroupHeartbeatRequest {
            group_id: config.group.clone().into(),
            member_id: self.member_id.clone().into(),
            member_epoch: epoch,
            instance_id: config.instance_id.clone().map(Into::into),
            rebalance_timeout_ms: if whole { config.rebalance_timeout_ms } else { -1 },
            subscribed_topic_names: topics.clone(),
            server_assignor: config.remote_assignor.clone().filter(|_| whole).map(Into::into),
            topic_partitions: owned.clone(),
            ..Default::default()
        })
    }

    fn owned_by_id(&self, consumer: &Consumer) -> Vec<TopicPartitions> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in &self.owned {
            topics.entry(topic).or_default().push(*partition);
        }
        let known = &consumer.client.metadata.topics;
        topics
            .into_iter()
            .filter_map(|(topic, partitions)| {
                Some(TopicPartitions { topic_id: known.get(topic)?.id, partitions, ..Default::default() })
            })
            .collect()
    }

    fn heartbeat(&mut self, consumer: &mut Consumer) -> Result<(), ClientError> {
        let answer = self.send(self.epoch, consumer)?;
        let response = answer.get()?;
        match ErrorCode::from_i16(response.error_code) {
            ErrorCode::None => {}
            code => return Err(ClientError::server(code, response.error_message.as_deref())),
        }
        self.subscription_told = true;
        self.owes_owned = false;
        if self.epoch == JOINING {
            self.next_commit = Instant::now() + self.config.auto_commit.unwrap_or_default();
        }
        self.epoch = response.member_epoch;
        if let Ok(ms @ 1..) = u64::try_from(response.heartbeat_interval_ms) {
            self.interval = Duration::from_millis(ms);
        }
        self.next_heartbeat = Instant::now() + self.interval;
        if let Some(Assignment { topic_partitions, .. }) = &response.assignment {
            self.target =
                Some(topic_partitions.iter().map(|topic| (topic.topic_id, topic.partitions.clone())).collect());
        }
        Ok(())
    }

    /// Gives up what is no longer this member's, takes over what is new, and tells the coordinator.
    fn reconcile(&mut self, consumer: &mut Consumer) -> Result<(), ClientError> {
        let Some(target) = &self.target else { return Ok(()) };
        let names: BTreeMap<Uuid, String> =
            consumer.client.metadata.topics.iter().map(|(name, topic)| (topic.id, name.clone())).collect();
        if target.iter().any(|(id, _)| !names.contains_key(id)) {
            let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
            let _ = consumer.client.refresh_once(Topics::Named(&topics), false);
            std::thread::sleep(BACKOFF);
            return Ok(());
        }
        let wanted: BTreeSet<TopicPartition> = target
            .iter()
            .flat_map(|(id, partitions)| partitions.iter().map(|partition| (names[id].clone(), *partition)))
            .collect();
        let revoked: Vec<TopicPartition> = self.owned.difference(&wanted).cloned().collect();
        if !revoked.is_empty() {
            self.auto_commit(consumer);
            for key in &revoked {
                consumer.unassign(key);
            }
        }
        let added: Vec<TopicPartition> = wanted.difference(&self.owned).cloned().collect();
        if !added.is_empty() {
            take_over(&self.config.group, &added, consumer)?;
        }
        self.owned = wanted;
        self.target = None;
        self.owes_owned = true;
        self.next_heartbeat = Instant::now();
        Ok(())
    }

    pub fn committer(&self) -> Committer<'_> {
        Committer {
            generation: self.epoch,
            member_id: &self.member_id,
            instance_id: self.config.instance_id.as_deref(),
        }
    }

    fn auto_commit(&mut self, consumer: &mut Consumer) {
        let Some(interval) = self.config.auto_commit else { return };
        self.next_commit = Instant::now() + interval;
        super::member::commit_read(&self.config.group, &self.committer(), consumer);
    }

    /// Commits and says good-bye. A static member only goes for a while.
    pub fn leave(&mut self, consumer: &mut Consumer) {
        if self.epoch <= JOINING {
            return;
        }
        self.auto_commit(consumer);
        let epoch = if self.config.instance_id.is_some() { LEAVING_FOR_NOW } else { LEAVING };
        self.owes_owned = false;
        self.subscription_told = true;
        // Whatever the answer: there is nothing left to do about it.
        let _ = self.send(epoch, consumer);
        self.epoch = LEAVING;
    }
}
