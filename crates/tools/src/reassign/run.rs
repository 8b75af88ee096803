//! The actions, over the admin client.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use metadata::controller::{Placer, UsableBroker};
use protocol::error::ErrorCode;

use super::plan::{self, Assignment, Plan, Replica, ids, shown};
use super::{COMMAND, Failure};
use crate::client::consumer::TopicPartition;
use crate::client::{Client, ClientError, LogDir, Moves, Resource, exception_class};
use crate::java::hash_order;
use crate::random;
use crate::terminal::Terminal;

const BROKER_THROTTLES: [&str; 3] = [LEADER_RATE, FOLLOWER_RATE, DIR_RATE];
const TOPIC_THROTTLES: [&str; 2] = [LEADER_REPLICAS, FOLLOWER_REPLICAS];
const LEADER_RATE: &str = "leader.replication.throttled.rate";
const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
const DIR_RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
const LEADER_REPLICAS: &str = "leader.replication.throttled.replicas";
const FOLLOWER_REPLICAS: &str = "follower.replication.throttled.replicas";
/// Topics are described in pieces of so many partitions.
const PAGE: i32 = 2_000;

pub struct Run<'a, 't> {
    pub client: &'a mut Client,
    pub terminal: &'a mut Terminal<'t>,
    pub timeout_ms: i64,
}

/// How `--execute` is to go about it; a negative throttle is none.
pub struct Wish {
    pub additional: bool,
    pub may_change_factor: bool,
    pub throttle: i64,
    pub dir_throttle: i64,
}

/// Where a replica is, and where it is on its way to.
#[derive(Clone, Debug, Default)]
struct Place {
    current: Option<String>,
    future: Option<String>,
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn listed<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> String {
    partitions.into_iter().map(shown).collect::<Vec<_>>().join(",")
}

fn unknown(message: String) -> Failure {
    let class = exception_class(ErrorCode::UnknownTopicOrPartition);
    Failure::thrown("java.util.concurrent.ExecutionException", format!("{class}: {message}"))
}

impl Run<'_, '_> {
    pub fn list(&mut self) -> Result<(), Failure> {
        let moving = self.client.reassignments()?;
        if moving.is_empty() {
            self.terminal.line("No partition reassignments found.");
            return Ok(());
        }
        self.terminal.line("Current partition reassignments:");
        for (partition, Moves { replicas, adding, removing }) in &moving {
            let part = |name: &str, list: &[i32]| match list {
                [] => String::new(),
                list => format!(" {name}: {}.", ids(list, ",")),
            };
            let (adding, removing) = (part("adding", adding), part("removing", removing));
            let replicas = ids(replicas, ",");
            self.terminal.line(format_args!("{}: replicas: {replicas}.{adding}{removing}", shown(partition)));
        }
        Ok(())
    }

    pub fn generate(&mut self, text: &str, brokers: &str, by_rack: bool) -> Result<(), Failure> {
        let number = |id: &str| {
            let class = "java.lang.NumberFormatException";
            id.parse::<i32>().map_err(|_| Failure::thrown(class, format!("For input string: \"{id}\"")))
        };
        let brokers: Vec<i32> = brokers.split(',').map(number).collect::<Result<_, _>>()?;
        let twice = plan::repeated(brokers.iter().copied());
        if !twice.is_empty() {
            let twice: Vec<i32> = twice.into_iter().collect();
            let message = format!("Broker list contains duplicate entries: [{}]", ids(&twice, ", "));
            return Err(Failure::thrown(COMMAND, message));
        }
        let topics = plan::topics(text)?;
        let twice: Vec<&String> = plan::repeated(&topics).into_iter().collect();
        if !twice.is_empty() {
            let message = format!("List of topics to reassign contains duplicate entries: {twice:?}").replace('"', "");
            return Err(Failure::thrown(COMMAND, message));
        }
        let current = self.assignment_of(&topics)?;
        let dirs = self.current_dirs(&current)?;
        let usable = self.usable(&brokers, by_rack)?;
        let proposed = propose(&current, &usable)?;
        self.terminal.line("Current partition replica assignment");
        self.terminal.line(format_args!("{}\n", plan::json(&current, &dirs)));
        self.terminal.line("Proposed partition reassignment configuration");
        self.terminal.line(plan::json(&proposed, &BTreeMap::new()));
        Ok(())
    }

    fn usable(&mut self, brokers: &[i32], by_rack: bool) -> Result<Vec<UsableBroker>, Failure> {
        let nodes = self.client.describe_cluster(false)?.nodes;
        let wanted = nodes.into_iter().filter(|node| brokers.contains(&node.id));
        let usable: Vec<UsableBroker> = wanted
            .map(|node| UsableBroker { id: node.id, rack: node.rack.filter(|_| by_rack), fenced: false })
            .collect();
        let without = usable.iter().filter(|broker| broker.rack.is_none()).count();
        if by_rack && without != 0 && without != usable.len() {
            let message = "Not all brokers have rack information. Add --disable-rack-aware in command line to make \
                           replica assignment without rack information.";
            return Err(Failure::thrown("org.apache.kafka.server.common.AdminOperationException", message));
        }
        Ok(usable)
    }

    pub fn execute(&mut self, text: &str, wish: &Wish) -> Result<(), Failure> {
        let plan = Plan::parse(text)?;
        let wanted = plan.assignment()?;
        let moving = self.client.reassignments()?;
        if !wish.additional && !moving.is_empty() {
            return Err(Failure::Terse(
                "Cannot execute because there is an existing partition assignment.  Use --additional to override \
                 this and create a new partition assignment in addition to the existing one. The --additional flag \
                 can also be used to change the throttle by resubmitting the current reassignment."
                    .to_owned(),
            ));
        }
        let known = self.client.learn_nodes()?;
        let brokers: BTreeSet<i32> = wanted.values().flatten().copied().collect();
        if let Some(id) = brokers.iter().find(|id| !known.contains(id)) {
            return Err(Failure::thrown(COMMAND, format!("Unknown broker id {id}")));
        }
        let current = self.current(&wanted)?;
        let dirs = self.current_dirs(&current)?;
        self.terminal.line(format_args!("Current partition replica assignment\n\n{}\n", plan::json(&current, &dirs)));
        self.terminal.line("Save this to use as the --reassignment-json-file option during rollback");
        if wish.throttle >= 0 || wish.dir_throttle >= 0 {
            self.terminal.line(
                "Warning: You must run --verify periodically, until the reassignment completes, to ensure the \
                 throttle is removed.",
            );
            self.throttle(&plan::flows(&moving, &wanted, &current), &plan, wish)?;
        }
        let wanted = wanted.into_iter().map(|(partition, replicas)| (partition, Some(replicas))).collect();
        let results = self.client.alter_reassignments(&wanted, wish.may_change_factor)?;
        let failed = failures(results);
        if !failed.is_empty() {
            return Err(Failure::Terse(format!("Error reassigning partition(s):\n{}", failed.join("\n"))));
        }
        let (plural, all) = (plural(wanted.len()), listed(wanted.keys()));
        self.terminal.line(format_args!("Successfully started partition reassignment{plural} for {all}"));
        self.move_dirs(plan.dirs)
    }

    fn throttle(
        &mut self,
        flows: &BTreeMap<TopicPartition, plan::Flow>,
        plan: &Plan,
        wish: &Wish,
    ) -> Result<(), Failure> {
        if wish.throttle >= 0 {
            let leaders = plan::throttled(flows, |flow| &flow.sources);
            let followers = plan::throttled(flows, |flow| &flow.destinations);
            for (topic, leaders) in leaders {
                let followers = followers.get(&topic).cloned().unwrap_or_default();
                let set = [(LEADER_REPLICAS.to_owned(), leaders), (FOLLOWER_REPLICAS.to_owned(), followers)];
                self.client.alter_configs(&Resource { kind: Resource::TOPIC, name: topic }, &[], &set)?;
            }
            let brokers: BTreeSet<i32> =
                flows.values().flat_map(|flow| flow.sources.iter().chain(&flow.destinations)).copied().collect();
            let rate = wish.throttle.to_string();
            let set = [(LEADER_RATE.to_owned(), rate.clone()), (FOLLOWER_RATE.to_owned(), rate)];
            self.set_on_brokers(brokers, &set)?;
            self.terminal.line(format_args!("The inter-broker throttle limit was set to {} B/s", wish.throttle));
        }
        if wish.dir_throttle >= 0 {
            let brokers = plan.dirs.keys().map(|(_, _, broker)| *broker).collect();
            self.set_on_brokers(brokers, &[(DIR_RATE.to_owned(), wish.dir_throttle.to_string())])?;
            self.terminal
                .line(format_args!("The replica-alter-dir throttle limit was set to {} B/s", wish.dir_throttle));
        }
        Ok(())
    }

    fn set_on_brokers(&mut self, brokers: BTreeSet<i32>, set: &[(String, String)]) -> Result<(), Failure> {
        for broker in brokers {
            let resource = Resource { kind: Resource::BROKER, name: broker.to_string() };
            self.client.alter_configs(&resource, &[], set)?;
        }
        Ok(())
    }

    pub fn verify(&mut self, text: &str, preserve: bool) -> Result<(), Failure> {
        let plan = Plan::parse(text)?;
        let moving = self.client.reassignments()?;
        self.terminal.line("Status of partition reassignment:");
        let mut partitions = plan.partitions.clone();
        partitions.sort();
        partitions.dedup_by(|a, b| a.0 == b.0);
        for (partition, wanted) in &partitions {
            let name = shown(partition);
            if moving.contains_key(partition) {
                self.terminal.line(format_args!("Reassignment of partition {name} is still in progress."));
                continue;
            }
            let current = match self.assignment_of(std::slice::from_ref(&partition.0)) {
                Ok(mut topic) => topic.remove(partition).unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            if current == *wanted {
                self.terminal.line(format_args!("Reassignment of partition {name} is completed."));
            } else {
                let (current, wanted) = (ids(&current, ","), ids(wanted, ","));
                self.terminal.line(format_args!(
                    "There is no active reassignment of partition {name}, but replica set is {current} rather than \
                     {wanted}."
                ));
            }
        }
        let (text, dirs_move) = self.dir_states(&plan.dirs)?;
        self.terminal.line(text);
        if moving.is_empty() && !dirs_move && !preserve {
            self.clear_throttles(&plan)?;
        }
        Ok(())
    }

    /// A line for each replica that has to go to a directory, and whether any is still on its way.
    fn dir_states(&mut self, wanted: &BTreeMap<Replica, String>) -> Result<(String, bool), Failure> {
        let places = self.places(wanted.keys())?;
        let mut replicas: Vec<(&Replica, &String)> = wanted.iter().collect();
        replicas.sort_by_key(|((topic, partition, broker), _)| (*broker, topic, *partition));
        let mut lines = Vec::new();
        let mut dirs_move = false;
        for (replica @ (topic, partition, broker), target) in replicas {
            let name = format!("{topic}-{partition}");
            let place = places.get(replica).cloned().unwrap_or_default();
            lines.push(match (place.current, place.future) {
                (None, _) => format!(
                    "Partition {name} is not found in any live log dir on broker {broker}. There is likely an offline \
                     log directory on the broker."
                ),
                (Some(current), None) if current == *target => {
                    format!("Reassignment of replica {name}-{broker} completed successfully.")
                }
                (Some(current), None) => format!(
                    "Partition {name} on broker {broker} is not being moved from log dir {current} to {target}."
                ),
                (Some(_), Some(future)) => {
                    dirs_move = true;
                    if future == *target {
                        format!("Reassignment of replica {name}-{broker} is still in progress.")
                    } else {
                        format!(
                            "Partition {name} on broker {broker} is being moved to log dir {future} instead of {target}."
                        )
                    }
                }
            });
        }
        Ok((lines.join("\n"), dirs_move))
    }

    fn clear_throttles(&mut self, plan: &Plan) -> Result<(), Failure> {
        let mut brokers: BTreeSet<i32> = self.client.learn_nodes()?.into_iter().collect();
        brokers.extend(plan.partitions.iter().flat_map(|(_, replicas)| replicas));
        let all: Vec<i32> = brokers.iter().copied().collect();
        let (s, shown) = (plural(all.len()), ids(&all, ","));
        self.terminal.line(format_args!("Clearing broker-level throttles on broker{s} {shown}"));
        let broker_keys = BROKER_THROTTLES.map(str::to_owned);
        for broker in brokers {
            let resource = Resource { kind: Resource::BROKER, name: broker.to_string() };
            self.client.alter_configs(&resource, &broker_keys, &[])?;
        }
        let topics: BTreeSet<&str> = plan.partitions.iter().map(|((topic, _), _)| topic.as_str()).collect();
        let mut topics: Vec<&str> = topics.into_iter().collect();
        hash_order(&mut topics, |topic| topic, false);
        let (s, shown) = (plural(topics.len()), topics.join(","));
        self.terminal.line(format_args!("Clearing topic-level throttles on topic{s} {shown}"));
        let topic_keys = TOPIC_THROTTLES.map(str::to_owned);
        for topic in topics {
            let resource = Resource { kind: Resource::TOPIC, name: topic.to_owned() };
            self.client.alter_configs(&resource, &topic_keys, &[])?;
        }
        Ok(())
    }

    pub fn cancel(&mut self, text: &str, preserve: bool) -> Result<(), Failure> {
        let plan = Plan::parse(text)?;
        let moving = self.client.reassignments()?;
        let named: BTreeSet<&TopicPartition> = plan.partitions.iter().map(|(partition, _)| partition).collect();
        let active: BTreeMap<TopicPartition, Option<Vec<i32>>> =
            moving.into_keys().filter(|partition| named.contains(partition)).map(|p| (p, None)).collect();
        if active.is_empty() {
            self.terminal.line("None of the specified partition reassignments are active.");
        } else {
            let failed = failures(self.client.alter_reassignments(&active, true)?);
            if !failed.is_empty() {
                let s = plural(failed.len());
                let failed = failed.join("\n");
                return Err(Failure::Terse(format!("Error cancelling partition reassignment{s} for:\n{failed}")));
            }
            let (s, all) = (plural(active.len()), listed(active.keys()));
            self.terminal.line(format_args!("Successfully cancelled partition reassignment{s} for: {all}"));
        }
        let places = self.places(plan.dirs.keys())?;
        let back = places.into_iter().filter(|(_, place)| place.future.is_some());
        let back: BTreeMap<Replica, String> =
            back.filter_map(|(replica, place)| Some((replica, place.current?))).collect();
        if back.is_empty() {
            // Kafka's tool ends this line nowhere.
            let _ = self.terminal.out.write_all(b"None of the specified partition moves are active.");
        } else {
            self.move_dirs(back)?;
        }
        if preserve { Ok(()) } else { self.clear_throttles(&plan) }
    }

    /// A replica that was moved to a broker and to a directory there must arrive first.
    fn move_dirs(&mut self, mut pending: BTreeMap<Replica, String>) -> Result<(), Failure> {
        if pending.is_empty() {
            return Ok(());
        }
        self.client.learn_nodes()?;
        let until = Instant::now() + Duration::from_millis(self.timeout_ms.max(0) as u64);
        loop {
            for (replica, dir) in self.begin_dir_moves(&pending)? {
                let (topic, partition, broker) = &replica;
                self.terminal.line(format_args!(
                    "Successfully started moving log directory to {dir} for replica {topic}-{partition} with broker \
                     {broker} "
                ));
                pending.remove(&replica);
            }
            if pending.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let names: Vec<String> = pending.keys().map(|(t, p, broker)| format!("{t}-{p}-{broker}")).collect();
                let s = plural(names.len());
                let names = names.join(",");
                return Err(Failure::Terse(format!(
                    "Timed out before log directory move{s} could be started for: {names}"
                )));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn begin_dir_moves(&mut self, pending: &BTreeMap<Replica, String>) -> Result<Vec<(Replica, String)>, Failure> {
        let brokers: BTreeSet<i32> = pending.keys().map(|(_, _, broker)| *broker).collect();
        let mut begun = Vec::new();
        for broker in brokers {
            let of_broker = pending.iter().filter(|((_, _, b), _)| *b == broker);
            let moves: Vec<(TopicPartition, String)> =
                of_broker.map(|((topic, partition, _), dir)| ((topic.clone(), *partition), dir.clone())).collect();
            for ((topic, partition), result) in self.client.alter_replica_log_dirs(broker, &moves)? {
                let replica = (topic, partition, broker);
                match result {
                    Ok(()) => {
                        let dir = pending.get(&replica).cloned().unwrap_or_default();
                        begun.push((replica, dir));
                    }
                    Err(error) if error.code() == Some(ErrorCode::ReplicaNotAvailable) => {}
                    Err(_) => {
                        let (topic, partition, broker) = replica;
                        let message = format!("Failed to alter dir for {topic}-{partition}-{broker}");
                        return Err(Failure::thrown(COMMAND, message));
                    }
                }
            }
        }
        Ok(begun)
    }

    /// Every partition of some topics.
    fn assignment_of(&mut self, topics: &[String]) -> Result<Assignment, Failure> {
        let mut out = Assignment::new();
        for topic in topics.iter().collect::<BTreeSet<_>>() {
            let described = self.client.describe_topics(std::slice::from_ref(topic), PAGE);
            let described = described.map_err(|error| match error.code() {
                Some(ErrorCode::UnknownTopicOrPartition) => unknown(format!("Topic {topic} not found.")),
                _ => Failure::from(error),
            })?;
            for description in described {
                let of = |p: crate::client::PartitionDescription| ((description.name.clone(), p.partition), p.replicas);
                out.extend(description.partitions.into_iter().map(of));
            }
        }
        Ok(out)
    }

    /// The partitions of a plan as they are.
    fn current(&mut self, wanted: &Assignment) -> Result<Assignment, Failure> {
        let topics: Vec<String> = wanted.keys().map(|(topic, _)| topic.clone()).collect();
        let mut current = self.assignment_of(&topics)?;
        current.retain(|partition, _| wanted.contains_key(partition));
        let missing: Vec<String> = wanted.keys().filter(|p| !current.contains_key(*p)).map(shown).collect();
        match missing.is_empty() {
            true => Ok(current),
            false => Err(unknown(format!("Unable to find partition: {}", missing.join(", ")))),
        }
    }

    fn current_dirs(&mut self, current: &Assignment) -> Result<BTreeMap<Replica, String>, Failure> {
        let all = current.iter().flat_map(|((topic, partition), replicas)| {
            replicas.iter().map(move |broker| (topic.clone(), *partition, *broker))
        });
        let all: Vec<Replica> = all.collect();
        let places = self.places(&all)?;
        Ok(places.into_iter().filter_map(|(replica, place)| Some((replica, place.current?))).collect())
    }

    /// In which directories replicas are; nothing of those whose broker has none.
    fn places<'r>(
        &mut self,
        replicas: impl IntoIterator<Item = &'r Replica>,
    ) -> Result<BTreeMap<Replica, Place>, Failure> {
        let replicas: BTreeSet<&Replica> = replicas.into_iter().collect();
        let mut places: BTreeMap<Replica, Place> = BTreeMap::new();
        if replicas.is_empty() {
            return Ok(places);
        }
        let known = self.client.learn_nodes()?;
        let brokers: BTreeSet<i32> = replicas.iter().map(|(_, _, broker)| *broker).collect();
        for broker in brokers.into_iter().filter(|broker| known.contains(broker)) {
            let dirs: Result<Vec<LogDir>, ClientError> = self.client.describe_log_dirs(broker);
            for dir in dirs? {
                for (topic, partition, _, _, is_future) in dir.replicas {
                    let replica = (topic, partition, broker);
                    if !replicas.contains(&replica) {
                        continue;
                    }
                    let place = places.entry(replica).or_default();
                    let field = if is_future { &mut place.future } else { &mut place.current };
                    *field = Some(dir.path.clone());
                }
            }
        }
        Ok(places)
    }
}

/// Sorted by partition, each with what was wrong.
fn failures(results: Vec<(TopicPartition, Result<(), ClientError>)>) -> Vec<String> {
    let failed = results.into_iter().filter_map(|(partition, result)| Some((partition, result.err()?)));
    let failed: BTreeMap<TopicPartition, ClientError> = failed.collect();
    failed.iter().map(|(partition, error)| format!("{}: {error}", shown(partition))).collect()
}

/// As many replicas as a topic's partitions have, placed as new ones would be.
fn propose(current: &Assignment, usable: &[UsableBroker]) -> Result<Assignment, Failure> {
    let mut topics: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for ((topic, _), replicas) in current {
        topics.entry(topic).or_insert((0, replicas.len())).0 += 1;
    }
    let mut rng = random::rng();
    let mut out = Assignment::new();
    for (topic, (partitions, factor)) in topics {
        let mut placer = Placer::new(usable.to_vec(), &mut rng);
        if let Some(why) = placer.refusal(factor as i32) {
            let class = exception_class(ErrorCode::InvalidReplicationFactor);
            return Err(Failure::thrown(&class, why));
        }
        for (partition, _) in (0..).zip(0..partitions) {
            out.insert((topic.to_owned(), partition), placer.place(factor, &mut rng));
        }
    }
    Ok(out)
}
