//! A plain fuzzer without a view into the code: seeds, changed at random. It finds less than libFuzzer, on any
//! toolchain.

use fastrand::Rng;

/// Values at the edges of lengths, counts and variable-length integers.
const EDGES: &[&[u8]] = &[
    &[0x00],
    &[0x01],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0x7f, 0xff],
    &[0x80, 0x00],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// One input made of two seeds.
pub fn mutated(rng: &mut Rng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.usize(1..6) {
        change(rng, &mut bytes, other);
    }
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.usize(0..=bytes.len());
    let edge = rng.choice(EDGES).expect("edges");
    match rng.u8(0..8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, edge.iter().copied())),
        2 | 3 => {
            let end = (at + edge.len()).min(bytes.len());
            bytes.splice(at..end, edge.iter().copied());
        }
        4 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
        // Both, one behind the other: most inputs are lists.
        5 => bytes.extend_from_slice(other),
        6 => {
            let end = rng.usize(at..=bytes.len()).min(at + 16);
            drop(bytes.drain(at..end));
        }
        _ => {
            let from = rng.usize(0..=other.len());
            let to = rng.usize(from..=other.len()).min(from + 32);
            bytes.splice(at..at, other[from..to].iter().copied());
        }
    }
}
