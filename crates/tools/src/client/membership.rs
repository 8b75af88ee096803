//! A member of a consumer group, of whichever protocol the configuration says.

use std::collections::{BTreeMap, BTreeSet};

use super::ClientError;
use super::consumer::{Consumer, TopicPartition};
use super::groups::Committer;
use super::member::{ClassicMember, MemberConfig};
use super::new_member::NewMember;

pub enum Member {
    Classic(Box<ClassicMember>),
    New(Box<NewMember>),
}

impl Member {
    pub fn new(config: MemberConfig) -> Member {
        match config.new_protocol {
            true => Member::New(Box::new(NewMember::new(config))),
            false => Member::Classic(Box::new(ClassicMember::new(config))),
        }
    }

    /// The topics to read.
    pub fn subscribe(&mut self, topics: BTreeSet<String>, consumer: &mut Consumer) {
        match self {
            Member::Classic(member) => member.subscribe(topics, consumer),
            Member::New(member) => member.subscribe(topics),
        }
    }

    /// Names of topics whose partitions this member has to know for others: as the leader of a classic group.
    pub fn watched(&self) -> Vec<&str> {
        match self {
            Member::Classic(member) => member.watched().collect(),
            Member::New(_) => vec![],
        }
    }

    /// Called when metadata is fresh.
    pub fn check_partitions(&mut self, consumer: &mut Consumer) {
        if let Member::Classic(member) = self {
            member.check_partitions(consumer);
        }
    }

    /// Does what is due; true if there may be something to read.
    pub fn turn(&mut self, consumer: &mut Consumer) -> Result<bool, ClientError> {
        match self {
            Member::Classic(member) => member.turn(consumer),
            Member::New(member) => member.turn(consumer),
        }
    }

    fn committer(&self) -> Committer<'_> {
        match self {
            Member::Classic(member) => member.committer(),
            Member::New(member) => member.committer(),
        }
    }

    /// Commits these offsets, as this member. The first partition's error counts.
    pub fn commit(
        &self,
        group: &str,
        offsets: &BTreeMap<TopicPartition, i64>,
        consumer: &mut Consumer,
    ) -> Result<(), ClientError> {
        consumer.client.commit(group, &self.committer(), offsets)?.into_values().collect()
    }

    /// Says good-bye, so that the others need not wait.
    pub fn leave(&mut self, consumer: &mut Consumer) {
        match self {
            Member::Classic(member) => member.leave(consumer),
            Member::New(member) => member.leave(consumer),
        }
    }
}
