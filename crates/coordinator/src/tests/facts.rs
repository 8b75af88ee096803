//! A cluster of topics that tests change as they like.

use std::collections::BTreeMap;

use protocol::wire::Uuid;

use crate::{Facts, GroupSettings};

#[derive(Clone, Debug)]
pub struct TestTopic {
    pub name: String,
    pub partitions: i32,
    pub racks: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct TestFacts {
    pub version: i64,
    pub topics: BTreeMap<Uuid, TestTopic>,
    pub settings: GroupSettings,
}

impl TestFacts {
    pub fn put(&mut self, number: u8, name: &str, partitions: i32) -> Uuid {
        let id = Uuid([number; 16]);
        self.version += 1;
        self.topics.insert(id, TestTopic { name: name.to_owned(), partitions, racks: Vec::new() });
        id
    }
}

impl Facts for TestFacts {
    fn version(&self) -> i64 {
        self.version
    }

    fn topic_id(&self, name: &str) -> Option<Uuid> {
        self.topics.iter().find(|(_, topic)| topic.name == name).map(|(id, _)| *id)
    }

    fn topic_name(&self, id: Uuid) -> Option<&str> {
        self.topics.get(&id).map(|topic| topic.name.as_str())
    }

    fn partition_count(&self, id: Uuid) -> Option<i32> {
        self.topics.get(&id).map(|topic| topic.partitions)
    }

    fn partition_racks(&self, id: Uuid, _: i32) -> Vec<&str> {
        self.topics.get(&id).into_iter().flat_map(|topic| &topic.racks).map(String::as_str).collect()
    }

    fn topic_names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.topics.values().map(|topic| topic.name.as_str()))
    }

    fn group_settings(&self, _: &str) -> GroupSettings {
        self.settings
    }
}
