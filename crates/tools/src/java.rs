//! The order in which a Java program walks a `HashMap` of strings. Kafka's tools print some lists in it, and whoever
//! compares outputs compares that too.

/// `String.hashCode`, over UTF-16 units, spread as `HashMap` does.
fn spread_hash(text: &str) -> u32 {
    let hash = text.encode_utf16().fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
    hash ^ (hash >> 16)
}

/// `TopicPartition.hashCode`, spread.
fn partition_hash(topic: &str, partition: i32) -> u32 {
    let topic = topic.encode_utf16().fold(0u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
    let hash = 31u32.wrapping_mul(31u32.wrapping_add(partition as u32)).wrapping_add(topic);
    hash ^ (hash >> 16)
}

/// Sorts as a `HashMap` by partition that grew from its default size is walked.
pub fn partition_order<T>(items: &mut [T], key: impl Fn(&T) -> (&str, i32)) {
    let mut capacity = 16;
    while items.len() * 4 > capacity * 3 {
        capacity *= 2;
    }
    items.sort_by_key(|item| {
        let (topic, partition) = key(item);
        partition_hash(topic, partition) as usize & (capacity - 1)
    });
}

/// Sorts as a `HashMap` filled in the given order is walked. `sized`: the map was made for that many entries, rather
/// than growing from its default.
pub fn hash_order<T>(items: &mut [T], key: impl Fn(&T) -> &str, sized: bool) {
    let mut capacity = if sized { items.len().max(1).next_power_of_two() } else { 16 };
    while items.len() * 4 > capacity * 3 {
        capacity *= 2;
    }
    // Stable: entries of one bucket keep the order in which they came.
    items.sort_by_key(|item| spread_hash(key(item)) as usize & (capacity - 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_order_of_topics() {
        let mut topics = ["t-assigned", "t-one", "t-part"];
        hash_order(&mut topics, |t| t, true);
        assert_eq!(topics, ["t-part", "t-assigned", "t-one"]);
    }

    #[test]
    fn a_recorded_order_of_partitions() {
        let mut partitions = [("t-one", 0), ("t-one", 3)];
        partition_order(&mut partitions, |p| *p);
        assert_eq!(partitions, [("t-one", 3), ("t-one", 0)]);
    }

    #[test]
    fn hashes_are_those_of_java() {
        assert_eq!(spread_hash(""), 0);
        assert_eq!(spread_hash("a"), 97);
        let hello: u32 = 99_162_322; // "hello".hashCode()
        assert_eq!(spread_hash("hello"), hello ^ (hello >> 16));
    }
}
