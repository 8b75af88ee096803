//! Reads topics as a member of a group: subscription, membership and fetching in one. For tools that want records and
//! to know when partitions come and go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use protocol::error::ErrorCode;
use regex_lite::Regex;

use super::consumer::{Consumer, FetchConfig, Message, TopicPartition};
use super::member::MemberConfig;
use super::membership::Member;
use super::metadata::Topics;
use super::{Client, ClientError, Settings};

/// How often to look whether the cluster has more topics or partitions.
const REFRESH: Duration = Duration::from_secs(30);
/// The same while a topic is not there yet.
const REFRESH_UNKNOWN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub enum Subscribed {
    Topic(String),
    Matching(Regex),
}

pub struct GroupReader {
    consumer: Consumer,
    member: Member,
    group: String,
    subscribed: Subscribed,
    refresh_at: Instant,
}

impl GroupReader {
    pub fn new(settings: Settings, fetch: FetchConfig, member: MemberConfig, subscribed: Subscribed) -> GroupReader {
        let group = member.group.clone();
        let consumer = Consumer::new(Client::new(settings), fetch);
        GroupReader { consumer, member: Member::new(member), group, subscribed, refresh_at: Instant::now() }
    }

    /// Takes part in the group, and fetches once if there is something to read. Records that come go to `take` until
    /// it returns false.
    pub fn poll(&mut self, wait: Duration, take: impl FnMut(&Message<'_>) -> bool) -> Result<(), ClientError> {
        self.maybe_refresh()?;
        if self.member.turn(&mut self.consumer)? {
            self.consumer.poll(wait, take)?;
        }
        Ok(())
    }

    /// The partitions that the group has given to this member.
    pub fn assigned(&self) -> Vec<TopicPartition> {
        self.consumer.assigned()
    }

    pub fn commit(&mut self, offsets: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        self.member.commit(&self.group, &offsets.iter().cloned().collect(), &mut self.consumer)
    }

    pub fn leave(&mut self) {
        self.member.leave(&mut self.consumer);
    }

    fn maybe_refresh(&mut self) -> Result<(), ClientError> {
        let now = Instant::now();
        if now < self.refresh_at {
            return Ok(());
        }
        self.refresh_at = now + REFRESH_UNKNOWN;
        let result = match &self.subscribed {
            Subscribed::Topic(topic) => {
                let watched = self.member.watched().into_iter().filter(|other| other != topic);
                let names: Vec<&str> = [topic.as_str()].into_iter().chain(watched).collect();
                self.consumer.client.refresh_once(Topics::Named(&names), true)
            }
            Subscribed::Matching(_) => self.consumer.client.refresh_once(Topics::All, false),
        };
        match result {
            Err(ClientError::Network(_)) => return Ok(()),
            result => result?,
        }
        let mut topics = BTreeSet::new();
        let mut known = true;
        for (name, topic) in &self.consumer.client.metadata.topics {
            match &self.subscribed {
                Subscribed::Matching(regex) if topic.internal || !regex.is_match(name) => continue,
                Subscribed::Topic(wanted) if wanted != name => continue,
                _ => {}
            }
            match topic.error {
                ErrorCode::None => {}
                ErrorCode::InvalidTopicException => {
                    let message = format!("Invalid topics: [{name}]");
                    return Err(ClientError::Server { code: topic.error, message });
                }
                code if code.is_retriable() => known = false,
                code => return Err(ClientError::server(code, None)),
            }
            topics.insert(name.clone());
        }
        // A topic that is yet to come is subscribed to as well.
        if let Subscribed::Topic(topic) = &self.subscribed {
            topics.insert(topic.clone());
        }
        self.member.subscribe(topics, &mut self.consumer);
        self.member.check_partitions(&mut self.consumer);
        if known {
            self.refresh_at = now + REFRESH;
        }
        Ok(())
    }
}
