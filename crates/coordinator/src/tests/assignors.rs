//! Our assignors beside Apache Kafka's (`xtask/java/Assignors.java` made the file). Ranges must be equal. Where Kafka's
//! result hangs on the order of its hash maps, ours must be as balanced and keep as much.

use std::collections::{BTreeMap, BTreeSet};

use protocol::wire::Uuid;

use crate::{Assignor, MemberSpec, Partitions};

const RECORDED: &str = include_str!("assignors.txt");

#[derive(Default)]
struct Step {
    assignor: String,
    counts: BTreeMap<Uuid, i32>,
    members: Vec<(String, Option<String>, BTreeSet<Uuid>, Partitions)>,
    results: BTreeMap<String, Partitions>,
}

fn topic(text: &str) -> Uuid {
    Uuid([text.parse().expect("a topic"); 16])
}

fn partitions(text: &str) -> Partitions {
    if text == "-" {
        return Partitions::new();
    }
    let one = |part: &str| {
        let (id, numbers) = part.split_once(':').expect("topic:partitions");
        (topic(id), numbers.split('.').map(|p| p.parse().expect("a partition")).collect())
    };
    text.split(';').map(one).collect()
}

fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in RECORDED.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["step", assignor] = words[..] {
            steps.push(Step { assignor: assignor.to_owned(), ..Step::default() });
            continue;
        }
        let step = steps.last_mut().expect("a step comes first");
        match words[..] {
            ["topic", id, count] => drop(step.counts.insert(topic(id), count.parse().expect("a count"))),
            ["member", id, instance, topics, assigned] => {
                let instance = Some(instance.to_owned()).filter(|instance| instance != "-");
                let topics = topics.split(',').map(topic).collect();
                step.members.push((id.to_owned(), instance, topics, partitions(assigned)));
            }
            ["result", id, assigned] => drop(step.results.insert(id.to_owned(), partitions(assigned))),
            _ => panic!("{line}"),
        }
    }
    steps
}

fn flat(partitions: &Partitions) -> BTreeSet<(Uuid, i32)> {
    partitions.iter().flat_map(|(topic, numbers)| numbers.iter().map(|p| (*topic, *p))).collect()
}

/// How uneven, and how much is kept.
fn measure(step: &Step, assigned: &BTreeMap<String, Partitions>) -> (usize, usize) {
    let loads = assigned.values().map(|partitions| flat(partitions).len());
    let kept = step.members.iter().map(|(id, _, _, before)| flat(before).intersection(&flat(&assigned[id])).count());
    (loads.map(|load| load * load).sum(), kept.sum())
}

#[test]
fn assignments_are_kafkas_or_as_good() {
    let (mut same, mut steps_of_uniform, mut kept, mut kept_by_kafka) = (0, 0, 0, 0);
    for step in steps() {
        let spec = |(id, instance, topics, assigned): &'static (String, Option<String>, BTreeSet<Uuid>, Partitions)| {
            MemberSpec { id, instance: instance.as_deref(), topics: topics.clone(), assigned }
        };
        let step: &'static Step = Box::leak(Box::new(step));
        let members: Vec<MemberSpec<'_>> = step.members.iter().map(spec).collect();
        let assignor = Assignor::from_name(&step.assignor).expect("a known one");
        let ours = assignor.assign(&members, &step.counts);
        let mut owners: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        for (id, _, topics, _) in &step.members {
            for partition in flat(&ours[id]) {
                assert!(topics.contains(&partition.0), "{id} does not subscribe to that");
                assert_eq!(owners.insert(partition, id), None, "two owners");
            }
        }
        let wanted: BTreeSet<Uuid> = step.members.iter().flat_map(|member| member.2.clone()).collect();
        let all: i32 = wanted.iter().map(|topic| step.counts[topic]).sum();
        assert_eq!(owners.len(), all as usize, "partitions without an owner");
        if assignor == Assignor::Range {
            assert_eq!(ours, step.results);
            continue;
        }
        let (uneven, keeps) = measure(step, &ours);
        let (uneven_of_kafka, keeps_of_kafka) = measure(step, &step.results);
        assert!(uneven <= uneven_of_kafka, "less balanced: {ours:?} {:?}", step.results);
        let alike = step.members.iter().all(|member| member.2 == step.members[0].2);
        assert!(!alike || keeps >= keeps_of_kafka, "moves more: {ours:?} {:?}", step.results);
        steps_of_uniform += 1;
        same += usize::from(ours == step.results);
        kept += keeps;
        kept_by_kafka += keeps_of_kafka;
    }
    assert!(kept >= kept_by_kafka, "{kept} partitions stay, with Kafka {kept_by_kafka}");
    assert!(same * 2 > steps_of_uniform, "{same} of {steps_of_uniform} are equal");
}
