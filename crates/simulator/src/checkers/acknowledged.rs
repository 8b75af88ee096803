//! Every acknowledged record is there exactly once, where it was said to be, and in the order in which its producer
//! sent it; what has been read once is read again the same.

use std::collections::{BTreeMap, BTreeSet};

use super::compacted::key_of;

struct Acknowledgement {
    partition: i32,
    offset: Option<i64>,
    values: Vec<String>,
}

#[derive(Default)]
pub struct Acknowledged {
    batches: Vec<Acknowledgement>,
    /// By partition and offset: the epoch and the value.
    read: BTreeMap<(i32, i64), (i32, String)>,
    producer_ids: BTreeSet<i64>,
    /// Only the latest value of each key has to be there.
    pub is_compacted: bool,
}

impl Acknowledged {
    pub fn on_producer_id(&mut self, id: i64, violations: &mut Vec<String>) {
        if !self.producer_ids.insert(id) {
            violations.push(format!("producer id {id} was given out twice"));
        }
    }

    pub fn on_acknowledged(&mut self, partition: i32, offset: Option<i64>, values: Vec<String>) {
        self.batches.push(Acknowledgement { partition, offset, values });
    }

    /// A record that was read from `position` on.
    pub fn on_read(
        &mut self,
        partition: i32,
        position: i64,
        offset: i64,
        epoch: i32,
        value: String,
        violations: &mut Vec<String>,
    ) {
        if offset != position && !(self.is_compacted && offset > position) {
            violations.push(format!("partition {partition} goes on at {offset} where {position} is due"));
        }
        match self.read.get(&(partition, offset)) {
            Some(before) if before.1 != value || before.0 != epoch => violations.push(format!(
                "partition {partition} offset {offset} was {:?} of epoch {} and is {value:?} of epoch {epoch}",
                before.1, before.0
            )),
            Some(_) => {}
            None => drop(self.read.insert((partition, offset), (epoch, value))),
        }
    }

    pub fn count(&self) -> usize {
        self.batches.iter().map(|batch| batch.values.len()).sum()
    }

    /// The last value of each key, by its number.
    pub fn latest_by_key(&self, partition: i32) -> BTreeMap<String, u64> {
        let of_partition = self.batches.iter().filter(|batch| batch.partition == partition);
        let mut latest = BTreeMap::new();
        for (key, number) in of_partition.flat_map(|batch| &batch.values).filter_map(|value| key_of(value)) {
            let known = latest.entry(key).or_insert(number);
            *known = number.max(*known);
        }
        latest
    }

    fn is_superseded(&self, partition: i32, value: &str) -> bool {
        let Some((key, number)) = key_of(value).filter(|_| self.is_compacted) else { return false };
        self.latest_by_key(partition).get(&key).is_some_and(|latest| *latest > number)
    }

    /// The end of all that was acknowledged.
    pub fn end_of(&self, partition: i32) -> i64 {
        let of_partition = self.batches.iter().filter(|batch| batch.partition == partition);
        of_partition.filter_map(|b| b.offset.map(|o| o + b.values.len() as i64)).max().unwrap_or(0)
    }

    /// To be called when everything has been read.
    pub fn finish(&self, violations: &mut Vec<String>) {
        let mut places: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
        let mut last_of: BTreeMap<(i32, &str), u64> = BTreeMap::new();
        for ((partition, offset), (_, value)) in &self.read {
            places.entry(value).or_default().push((*partition, *offset));
            let Some((producer, number)) = value.split_once(':') else { continue };
            let number: u64 = number.parse().unwrap_or(0);
            match last_of.insert((*partition, producer), number) {
                Some(last) if last >= number => {
                    violations
                        .push(format!("{producer}:{number} comes after {producer}:{last} in partition {partition}"));
                }
                _ => {}
            }
        }
        for (value, places) in places.iter().filter(|(_, places)| places.len() > 1) {
            violations.push(format!("{value} is there {} times: {places:?}", places.len()));
        }
        for batch in &self.batches {
            for (i, value) in batch.values.iter().enumerate() {
                let found = places.get(value.as_str()).and_then(|places| places.first());
                let due = batch.offset.map(|offset| (batch.partition, offset + i as i64));
                match (found, due) {
                    (None, _) if self.is_superseded(batch.partition, value) => {}
                    (None, _) => violations.push(format!("{value} was acknowledged at {due:?} and is not there")),
                    (Some(at), Some(due)) if *at != due => {
                        violations.push(format!("{value} was acknowledged at {due:?} and is at {at:?}"));
                    }
                    _ => {}
                }
            }
        }
    }
}
