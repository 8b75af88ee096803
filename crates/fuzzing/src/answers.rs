//! Two nodes, and what they answer each other changed on its way: `([skip u8][kind u8][at u16][len u16][bytes])*`,
//! each for the next answer after so many that are left alone.

use crate::input::{Input, Output};
use crate::memory::Bound;
use crate::world::{World, config, formatted, prototype};

const BOUND: Bound = Bound { anyway: 64 << 20, per_byte: 4096 };
/// Answers that are long are records, cut anywhere; the number of the request that is answered stays right mostly.
const CORRELATION_LEN: usize = 4;

pub fn run(data: &[u8]) {
    let mut world = World::new();
    world.start(1, prototype().disk.copy(), config(1, "broker,controller")).expect("a directory of ours");
    BOUND.hold(data.len(), || {
        let bytes = data.to_vec();
        let mut read = 0;
        let mut left = None;
        world.tamper = Some(Box::new(move |_, frame| {
            let mut input = Input::new(&bytes[read..]);
            if input.is_empty() {
                return;
            }
            let skip = left.unwrap_or_else(|| input.u8());
            if skip > 0 {
                if left.is_none() {
                    read += 1;
                }
                left = Some(skip - 1);
                return;
            }
            if left.take().is_none() {
                read += 1;
            }
            let mut input = Input::new(&bytes[read..]);
            let (kind, at) = (input.u8(), usize::from(input.u16()));
            let change = input.sized();
            read = (read + 5 + change.len()).min(bytes.len());
            apply(frame, kind, at, change);
        }));
        // Answers are changed from the second node's first word on: registration, quorum, replication.
        let started = world.start(2, formatted(2), config(2, "broker"));
        started.expect("a directory of ours");
        world.run(3_000);
    });
}

fn apply(frame: &mut Vec<u8>, kind: u8, at: usize, change: &[u8]) {
    let from = if kind & 0x80 != 0 { 0 } else { CORRELATION_LEN };
    let at = (from + at).min(frame.len());
    match kind % 5 {
        0 => {
            let end = (at + change.len()).min(frame.len());
            frame.splice(at..end, change.iter().copied());
        }
        1 => frame.truncate(at),
        2 => drop(frame.splice(at..at, change.iter().copied())),
        3 => {
            frame.truncate(from.min(frame.len()));
            frame.extend_from_slice(change);
        }
        _ => {
            for (byte, change) in frame.iter_mut().skip(at).zip(change) {
                *byte = byte.wrapping_add(*change);
            }
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let edges: [&[u8]; 5] = [&[0xff; 8], &[0; 8], &[0x7f, 0xff, 0xff, 0xff], &[1], &[0x80, 0, 0, 0, 0, 0, 0, 0]];
    let mut out = Vec::new();
    for skip in 0..24 {
        for (kind, edge) in edges.iter().enumerate() {
            let mut seed = Output::default();
            seed.u8(skip).u8(kind as u8).u16(u16::from(skip) * 7 % 40).sized(edge);
            out.push(seed.0);
        }
    }
    out
}
