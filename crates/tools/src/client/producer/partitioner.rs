//! Which partition a record goes to: by its key, or, without one, to one partition for a while and then another.

use std::collections::BTreeMap;

/// Without keys, records stay with one partition until a batch's worth of bytes has gone there (KIP-794).
pub struct Partitioner {
    rng: fastrand::Rng,
    sticky_bytes: usize,
    current: BTreeMap<String, (i32, usize)>,
}

impl Partitioner {
    pub fn new(sticky_bytes: usize) -> Partitioner {
        Partitioner { rng: crate::random::rng(), sticky_bytes: sticky_bytes.max(1), current: BTreeMap::new() }
    }

    pub fn choose(&mut self, topic: &str, key: Option<&[u8]>, size: usize, count: i32) -> i32 {
        if let Some(key) = key {
            return (murmur2(key) & i32::MAX) % count.max(1);
        }
        let stale =
            self.current.get(topic).is_none_or(|(partition, bytes)| *bytes >= self.sticky_bytes || *partition >= count);
        if stale {
            let next = self.rng.i32(0..count.max(1));
            self.current.insert(topic.to_owned(), (next, 0));
        }
        let (partition, bytes) = self.current.get_mut(topic).expect("chosen above");
        *bytes += size;
        *partition
    }
}

/// MurmurHash2 with Kafka's seed: all Kafka clients must agree where a key lives.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^= h >> 15;
    h as i32
}

#[cfg(test)]
mod tests {
    use super::murmur2;

    #[test]
    fn hashes_that_other_clients_compute() {
        // Published test values of Kafka's own unit test.
        assert_eq!(murmur2(b"21"), -973_932_308);
        assert_eq!(murmur2(b"foobar"), -790_332_482);
        assert_eq!(murmur2(b"a-little-bit-long-string"), -985_981_536);
        assert_eq!(murmur2(b"abc"), 479_470_107);
    }
}
