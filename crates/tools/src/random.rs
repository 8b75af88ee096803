//! Random ids, from the operating system: two nodes formatted in the same millisecond must not get the same id.

use std::fs::File;
use std::io::Read;

use protocol::wire::Uuid;

pub fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .expect("every Unix has a readable /dev/urandom");
    bytes
}

/// As Kafka's own random ids: never reserved, and never with a leading dash, which a command line takes for a flag.
pub fn random_uuid() -> Uuid {
    loop {
        let id = Uuid::from_random(random_bytes());
        if !id.is_reserved() && !id.to_string().starts_with('-') {
            return id;
        }
    }
}

pub fn rng() -> fastrand::Rng {
    let [a, b, c, d, e, f, g, h, ..] = random_bytes();
    fastrand::Rng::with_seed(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}
