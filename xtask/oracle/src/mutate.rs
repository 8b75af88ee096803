//! Damage: what a broken or hostile peer might send instead of a message.

use fastrand::Rng;

/// Values at the edges of lengths, counts and numbers of variable length, and bytes that are no UTF-8.
const EDGES: &[&[u8]] = &[
    &[0x00],
    &[0x01],
    &[0x02],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0x7f, 0xff],
    &[0x80, 0x00],
    &[0x80, 0x01],
    &[0xc0, 0x80],
    &[0xed, 0xa0, 0x80],
    &[0xf0, 0x9f, 0x92],
    &[0xf4, 0x90, 0x80, 0x80],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xfe],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0x81, 0x80, 0x80, 0x80, 0x10],
    &[0x80, 0x80, 0x80, 0x80, 0x80],
];

/// One to three changes.
pub fn damage(rng: &mut Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..rng.usize(1..4) {
        change(rng, &mut out, other);
    }
    out
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.usize(0..=bytes.len());
    let edge = *rng.choice(EDGES).expect("edges");
    match rng.u8(0..8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, edge.iter().copied())),
        2 | 3 => {
            let end = (at + edge.len()).min(bytes.len());
            drop(bytes.splice(at..end, edge.iter().copied()));
        }
        4 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
        5 => {
            let from = rng.usize(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        6 => {
            let end = rng.usize(at..=bytes.len());
            drop(bytes.drain(at..end));
        }
        _ => bytes.extend_from_slice(edge),
    }
}
