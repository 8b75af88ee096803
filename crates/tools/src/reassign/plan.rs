//! Plans: what moves where, as JSON that other tools write and read, and the throttles that follow from them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Failure;
use crate::client::Moves;
use crate::client::consumer::TopicPartition;

/// Topic, partition and broker.
pub type Replica = (String, i32, i32);
pub type Assignment = BTreeMap<TopicPartition, Vec<i32>>;
const ANY: &str = "any";

/// Partitions as they are listed, and replicas that have to go to a certain directory.
#[derive(Debug, Default)]
pub struct Plan {
    pub partitions: Vec<(TopicPartition, Vec<i32>)>,
    pub dirs: BTreeMap<Replica, String>,
}

fn operation(message: impl Into<String>) -> Failure {
    Failure::thrown("org.apache.kafka.server.common.AdminOperationException", message)
}

fn command(message: impl Into<String>) -> Failure {
    Failure::thrown(super::COMMAND, message)
}

fn document(text: &str) -> Result<Value, Failure> {
    let value: Value = serde_json::from_str(text).map_err(|error| operation(format!("not valid JSON: {error}")))?;
    match value.get("version").map_or(Some(1), Value::as_i64) {
        Some(1) => Ok(value),
        version => {
            let shown = version.map_or_else(|| "that is no number".to_owned(), |version| version.to_string());
            Err(operation(format!("Not supported version field value {shown}")))
        }
    }
}

pub fn topics(text: &str) -> Result<Vec<String>, Failure> {
    let value = document(text)?;
    let entries = value.get("topics").and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |entry: &Value| {
        let name = entry.get("topic").and_then(Value::as_str).map(str::to_owned);
        name.ok_or_else(|| operation(format!("an entry of topics needs a topic: {entry}")))
    };
    entries.iter().map(name).collect()
}

impl Plan {
    pub fn parse(text: &str) -> Result<Plan, Failure> {
        let value = document(text)?;
        let mut plan = Plan::default();
        for entry in value.get("partitions").and_then(Value::as_array).into_iter().flatten() {
            plan.add(entry)?;
        }
        Ok(plan)
    }

    fn add(&mut self, entry: &Value) -> Result<(), Failure> {
        let id = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok());
        let wrong = || operation(format!("an entry of partitions needs topic, partition and replicas: {entry}"));
        let topic = entry.get("topic").and_then(Value::as_str).ok_or_else(wrong)?;
        let partition = entry.get("partition").and_then(id).ok_or_else(wrong)?;
        let replicas = entry.get("replicas").and_then(Value::as_array).ok_or_else(wrong)?;
        let replicas: Vec<i32> = replicas.iter().map(id).collect::<Option<_>>().ok_or_else(wrong)?;
        if let Some(dirs) = entry.get("log_dirs") {
            let dirs = dirs.as_array().ok_or_else(wrong)?;
            let dirs: Vec<&str> = dirs.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?;
            if dirs.len() != replicas.len() {
                return Err(command(format!(
                    "Size of replicas list [{}] is different from size of log dirs list [{}] for partition \
                     {topic}-{partition}",
                    ids(&replicas, ", "),
                    dirs.join(", ")
                )));
            }
            for (replica, dir) in replicas.iter().zip(dirs).filter(|(_, dir)| *dir != ANY) {
                self.dirs.insert((topic.to_owned(), partition, *replica), dir.to_owned());
            }
        }
        self.partitions.push(((topic.to_owned(), partition), replicas));
        Ok(())
    }

    /// Each partition once, each with replicas, each of those once.
    pub fn assignment(&self) -> Result<Assignment, Failure> {
        if self.partitions.is_empty() {
            return Err(command("Partition reassignment list cannot be empty"));
        }
        if self.partitions.iter().any(|(_, replicas)| replicas.is_empty()) {
            return Err(command("Partition replica list cannot be empty"));
        }
        let twice = repeated(self.partitions.iter().map(|(partition, _)| partition));
        if !twice.is_empty() {
            let twice: Vec<String> = twice.into_iter().map(shown).collect();
            let twice = twice.join(",");
            return Err(command(format!("Partition reassignment contains duplicate topic partitions: {twice}")));
        }
        let twice = self.partitions.iter().map(|(partition, replicas)| (partition, repeated(replicas)));
        let twice: Vec<String> = twice
            .filter(|(_, twice)| !twice.is_empty())
            .map(|(partition, twice)| {
                let twice: Vec<i32> = twice.into_iter().copied().collect();
                format!("{} contains multiple entries for {}", shown(partition), ids(&twice, ","))
            })
            .collect();
        if !twice.is_empty() {
            let twice = twice.join(". ");
            return Err(command(format!("Partition replica lists may not contain duplicate entries: {twice}")));
        }
        Ok(self.partitions.iter().cloned().collect())
    }
}

pub fn repeated<T: Ord>(all: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut all: Vec<T> = all.into_iter().collect();
    all.sort_unstable();
    let mut twice = BTreeSet::new();
    let mut last: Option<T> = None;
    for one in all {
        if last.as_ref() == Some(&one) {
            twice.insert(one);
        } else {
            last = Some(one);
        }
    }
    twice
}

pub fn shown((topic, partition): &TopicPartition) -> String {
    format!("{topic}-{partition}")
}

pub fn ids(ids: &[i32], separator: &str) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(separator)
}

/// In the form that `--execute` reads.
pub fn json(assignment: &Assignment, dirs: &BTreeMap<Replica, String>) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let one = |((topic, partition), replicas): (&TopicPartition, &Vec<i32>)| {
        let dir = |replica: &i32| quoted(dirs.get(&(topic.clone(), *partition, *replica)).map_or(ANY, |dir| dir));
        let dirs: Vec<String> = replicas.iter().map(dir).collect();
        format!(
            "{{\"topic\":{},\"partition\":{partition},\"replicas\":[{}],\"log_dirs\":[{}]}}",
            quoted(topic),
            ids(replicas, ","),
            dirs.join(",")
        )
    };
    let partitions: Vec<String> = assignment.iter().map(one).collect();
    format!("{{\"version\":1,\"partitions\":[{}]}}", partitions.join(","))
}

/// Where a partition's records come from, and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    pub sources: BTreeSet<i32>,
    pub destinations: BTreeSet<i32>,
}

/// Of everything that moves already, and of what is to move.
pub fn flows(
    moving: &BTreeMap<TopicPartition, Moves>,
    wanted: &Assignment,
    current: &Assignment,
) -> BTreeMap<TopicPartition, Flow> {
    let mut flows: BTreeMap<TopicPartition, Flow> = BTreeMap::new();
    for (partition, moves) in moving {
        let sources = moves.replicas.iter().filter(|r| !moves.adding.contains(r)).copied().collect();
        flows.insert(partition.clone(), Flow { sources, destinations: moves.adding.iter().copied().collect() });
    }
    for (partition, replicas) in wanted {
        let begun = flows.get(partition).map(|flow| flow.sources.clone());
        let sources = begun.unwrap_or_else(|| current.get(partition).into_iter().flatten().copied().collect());
        let destinations = replicas.iter().filter(|r| !sources.contains(r)).copied().collect();
        flows.insert(partition.clone(), Flow { sources, destinations });
    }
    flows
}

/// `partition:broker` of each topic, for one side of the flows, sorted as text as Kafka's tool has it.
pub fn throttled(
    flows: &BTreeMap<TopicPartition, Flow>,
    side: impl Fn(&Flow) -> &BTreeSet<i32>,
) -> BTreeMap<String, String> {
    let mut topics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for ((topic, partition), flow) in flows {
        let replicas = topics.entry(topic.clone()).or_default();
        replicas.extend(side(flow).iter().map(|broker| format!("{partition}:{broker}")));
    }
    topics.into_iter().map(|(topic, all)| (topic, all.into_iter().collect::<Vec<_>>().join(","))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> TopicPartition {
        ("t".to_owned(), partition)
    }

    #[test]
    fn a_plan_survives_being_written() {
        let assignment: Assignment = [(key(0), vec![1, 2]), (key(1), vec![2, 1])].into();
        let dirs = [(("t".to_owned(), 0, 2), "/d\"2".to_owned())].into();
        let text = json(&assignment, &dirs);
        assert!(
            text.starts_with("{\"version\":1,\"partitions\":[{\"topic\":\"t\",\"partition\":0,\"replicas\":[1,2],")
        );
        let plan = Plan::parse(&text).unwrap();
        assert_eq!(plan.assignment().unwrap(), assignment);
        assert_eq!(plan.dirs, dirs);
    }

    #[test]
    fn plans_with_mistakes() {
        let wrong = |partitions: &str| {
            let text = format!("{{\"version\":1,\"partitions\":[{partitions}]}}");
            Plan::parse(&text).and_then(|plan| plan.assignment()).is_err()
        };
        assert!(wrong(""));
        assert!(wrong("{\"topic\":\"t\",\"partition\":0,\"replicas\":[]}"));
        assert!(wrong("{\"topic\":\"t\",\"partition\":0,\"replicas\":[1,1]}"));
        assert!(wrong("{\"topic\":\"t\",\"partition\":0,\"replicas\":[1],\"log_dirs\":[]}"));
        assert!(wrong("{\"topic\":\"t\",\"replicas\":[1]}"));
        let one = "{\"topic\":\"t\",\"partition\":0,\"replicas\":[1]}";
        assert!(!wrong(one) && wrong(&format!("{one},{one}")));
        assert!(Plan::parse("{\"version\":2}").is_err() && Plan::parse("{").is_err());
    }

    #[test]
    fn throttles_of_a_plan() {
        let moves = Moves { replicas: vec![1, 2, 3], adding: vec![3], removing: vec![1] };
        let moving = [(key(5), moves)].into();
        let wanted = [(key(0), vec![2, 3])].into();
        let current = [(key(0), vec![1, 2])].into();
        let flows = flows(&moving, &wanted, &current);
        assert_eq!(throttled(&flows, |f| &f.sources)["t"], "0:1,0:2,5:1,5:2");
        assert_eq!(throttled(&flows, |f| &f.destinations)["t"], "0:3,5:3");
    }
}
