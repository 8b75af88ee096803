//! The offset map: for each key of the dirty section, the offset of its latest record. Open addressing over entries of
//! 24 bytes, hash and offset (`SkimpyOffsetMap`); keys themselves are not kept.

use super::md5::md5;

/// Hash and offset.
pub const ENTRY_BYTES: u64 = 24;
/// Kafka's most memory for the map of one thread.
const MAP_BYTES_MAX: u64 = i32::MAX as u64;

#[derive(Clone, Copy)]
struct Entry {
    hash: [u8; 16],
    /// −1 in an empty slot.
    offset: i64,
}

pub struct OffsetMap {
    slots: Vec<Entry>,
    used: usize,
    /// Keys that fit, so that looking for one stays short.
    keys_max: usize,
    /// The last offset that the map speaks of: what comes after it stays as it is.
    pub latest_offset: i64,
}

impl OffsetMap {
    /// A map that takes as many keys as Kafka's of `bytes`, but only with the memory that `keys` of them need.
    pub fn new(bytes: i64, load_factor: f64, keys: u64) -> OffsetMap {
        let slots_max = (bytes.max(0) as u64).min(MAP_BYTES_MAX) / ENTRY_BYTES;
        let keys_max = (slots_max as f64 * load_factor) as u64;
        let slots = ((keys as f64 / load_factor.max(0.01)) as u64 + 2).min(slots_max.max(1));
        let empty = Entry { hash: [0; 16], offset: -1 };
        OffsetMap { slots: vec![empty; slots as usize], used: 0, keys_max: keys_max as usize, latest_offset: -1 }
    }

    /// Whether no key fits any more, be it one that is in the map already.
    pub fn is_full(&self) -> bool {
        self.used >= self.keys_max.min(self.slots.len() - 1)
    }

    pub fn len(&self) -> usize {
        self.used
    }

    pub fn put(&mut self, key: &[u8], offset: i64) {
        let hash = md5(key);
        let at = self.find(&hash);
        let slot = &mut self.slots[at];
        if slot.offset < 0 {
            self.used += 1;
        }
        *slot = Entry { hash, offset };
        self.latest_offset = offset;
    }

    pub fn get(&self, key: &[u8]) -> Option<i64> {
        let offset = self.slots[self.find(&md5(key))].offset;
        (offset >= 0).then_some(offset)
    }

    /// The slot of a hash, or the empty one that it would take: there is always an empty one.
    fn find(&self, hash: &[u8; 16]) -> usize {
        let [start, step] = [0, 8].map(|at| {
            let half: [u8; 8] = hash[at..at + 8].try_into().expect("eight bytes");
            u64::from_be_bytes(half)
        });
        let count = self.slots.len() as u64;
        let mut at = (start % count) as usize;
        // First with a stride of the key's own, so that keys that met once part again; then slot by slot.
        for attempt in 0..self.slots.len() + 8 {
            let slot = &self.slots[at];
            if slot.offset < 0 || slot.hash == *hash {
                break;
            }
            let stride = if attempt < 8 { (step >> (attempt * 8)) % count } else { 1 };
            at = ((at as u64 + stride.max(1)) % count) as usize;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::{ENTRY_BYTES, OffsetMap};

    #[test]
    fn every_key_has_its_latest_offset_up_to_the_last_one_that_fits() {
        let mut map = OffsetMap::new(1000 * ENTRY_BYTES as i64, 0.9, 1 << 40);
        for round in 0..2 {
            for key in 0..900i64 {
                if round == 0 {
                    assert!(!map.is_full(), "{key}");
                }
                map.put(&key.to_be_bytes(), round * 1000 + key);
            }
        }
        assert!(map.is_full());
        assert_eq!((map.len(), map.latest_offset), (900, 1899));
        for key in 0..900i64 {
            assert_eq!(map.get(&key.to_be_bytes()), Some(1000 + key));
        }
        assert_eq!(map.get(b"never seen"), None);
    }

    #[test]
    fn a_small_section_takes_little_memory_and_is_never_full() {
        let mut map = OffsetMap::new(128 << 20, 0.9, 10);
        assert!(map.slots.len() < 20);
        for key in 0..10i64 {
            assert!(!map.is_full());
            map.put(&key.to_be_bytes(), key);
        }
        assert!(!map.is_full());
    }
}
