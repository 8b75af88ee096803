//! Kafka's `RangeAssignor`: of each topic every member gets a run of neighbouring partitions, the first ones one more
//! if it does not come out even.

use std::collections::BTreeMap;

use super::consumer::TopicPartition;

pub struct Subscriber {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub topics: Vec<String>,
}

/// Static members come first, by instance id, so that their partitions do not depend on new member ids.
fn order(a: &Subscriber, b: &Subscriber) -> std::cmp::Ordering {
    match (&a.instance_id, &b.instance_id) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.member_id.cmp(&b.member_id),
    }
}

/// `partitions` says how many each topic has; topics it does not know are left out.
pub fn assign(
    mut members: Vec<Subscriber>,
    partitions: &BTreeMap<String, usize>,
) -> BTreeMap<String, Vec<TopicPartition>> {
    members.sort_by(order);
    let mut out: BTreeMap<String, Vec<TopicPartition>> =
        members.iter().map(|member| (member.member_id.clone(), vec![])).collect();
    for (topic, count) in partitions {
        let readers: Vec<&Subscriber> = members.iter().filter(|member| member.topics.contains(topic)).collect();
        if readers.is_empty() {
            continue;
        }
        let (each, more) = (count / readers.len(), count % readers.len());
        let mut next = 0;
        for (i, reader) in readers.iter().enumerate() {
            let take = each + usize::from(i < more);
            let run = (next..next + take).filter_map(|p| Some((topic.clone(), i32::try_from(p).ok()?)));
            out.entry(reader.member_id.clone()).or_default().extend(run);
            next += take;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, instance: Option<&str>, topics: &[&str]) -> Subscriber {
        let topics = topics.iter().map(|t| (*t).to_owned()).collect();
        Subscriber { member_id: id.to_owned(), instance_id: instance.map(str::to_owned), topics }
    }

    #[test]
    fn runs_of_partitions() {
        let counts = BTreeMap::from([("a".to_owned(), 5), ("b".to_owned(), 1)]);
        let found = assign(vec![member("m2", None, &["a", "b"]), member("m1", None, &["a", "gone"])], &counts);
        let run = |topic: &str, range: std::ops::Range<i32>| range.map(|p| (topic.to_owned(), p)).collect::<Vec<_>>();
        assert_eq!(found["m1"], run("a", 0..3));
        assert_eq!(found["m2"], [run("a", 3..5), run("b", 0..1)].concat());
    }

    #[test]
    fn static_members_first() {
        let counts = BTreeMap::from([("a".to_owned(), 1)]);
        let found = assign(vec![member("m1", None, &["a"]), member("m9", Some("i"), &["a"])], &counts);
        assert!(found["m1"].is_empty() && found["m9"].len() == 1);
    }
}
