//! Bytes that no honest peer sends: decoding them never panics, never takes much more memory than they are long, and
//! what does decode encodes again.

#![allow(unsafe_code)] // an allocator that counts

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use fastrand::Rng;
use protocol::header::decode_request_header;
use protocol::messages::MetadataRecord;
use protocol::registry::{self, Entry, ReencodeError};
use protocol::wire::{EncodeError, Reader};
use support::{bodies, frames};

/// Live bytes of one thread, and the most they were.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get() + layout.size();
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get() - before)
}

/// Decoded and encoded again, a frame may take this many times its own length: a struct of some 200 bytes can be one
/// byte long on the wire.
const MEMORY_PER_BYTE: usize = 256;
const MEMORY_ANYWAY: usize = 4096;

struct Sample {
    entry: &'static Entry,
    version: i16,
    bytes: Vec<u8>,
}

fn samples() -> Vec<Sample> {
    let from_bodies =
        bodies().into_iter().map(|body| Sample { entry: body.entry, version: body.version, bytes: body.bytes });
    // With their headers still in front, frames are bodies whose first fields are wrong.
    let from_frames =
        frames().into_iter().map(|frame| Sample { entry: frame.entry, version: frame.version, bytes: frame.bytes });
    from_bodies.chain(from_frames).collect()
}

fn try_one(entry: &Entry, version: i16, bytes: &[u8]) {
    let (result, peak) = peak_of(|| entry.reencode(bytes, version));
    let allowed = MEMORY_ANYWAY + bytes.len() * MEMORY_PER_BYTE;
    assert!(peak <= allowed, "{} v{version}: {peak} bytes for {} of {bytes:02x?}", entry.name, bytes.len());
    match result {
        Ok(once) => {
            let twice = entry.reencode(&once, version);
            assert_eq!(twice.as_ref(), Ok(&once), "{} v{version}: {bytes:02x?}", entry.name);
        }
        // Replacement characters are longer than the bytes they replace.
        Err(ReencodeError::Encode(EncodeError::TooLong { what: "string", .. })) => {}
        Err(ReencodeError::Encode(e)) => panic!("{} v{version}: decoded but: {e}: {bytes:02x?}", entry.name),
        Err(ReencodeError::Decode(_)) => {}
    }
}

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
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0x80, 0x80, 0x80, 0x80, 0x80],
];

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.usize(0..=bytes.len());
    let edge = rng.choice(EDGES).expect("edges");
    match rng.u8(0..7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, edge.iter().copied())),
        2 => {
            let end = (at + edge.len()).min(bytes.len());
            bytes.splice(at..end, edge.iter().copied());
        }
        3 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
        4 => {
            let from = rng.usize(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        5 => {
            let end = rng.usize(at..=bytes.len());
            drop(bytes.drain(at..end));
        }
        _ => {
            // A long run of one byte: many elements of the shortest form.
            bytes.truncate(at);
            let len = bytes.len() + rng.usize(0..2000);
            bytes.resize(len, rng.u8(0..4));
        }
    }
}

#[test]
fn mutated_messages_are_refused_or_come_back() {
    let samples = samples();
    let mut rng = Rng::with_seed(4);
    for _ in 0..120_000 {
        let sample = rng.choice(&samples).expect("samples");
        let other = rng.choice(&samples).expect("samples");
        let mut bytes = sample.bytes.clone();
        for _ in 0..rng.usize(1..4) {
            mutate(&mut rng, &mut bytes, &other.bytes);
        }
        let versions = &sample.entry.versions;
        let version = if rng.bool() { sample.version } else { rng.i16(*versions.start()..=*versions.end()) };
        try_one(sample.entry, version, &bytes);
    }
}

/// A message that ends early is never taken for a shorter one.
#[test]
fn every_prefix_is_refused() {
    let mut rng = Rng::with_seed(5);
    for body in bodies() {
        for _ in 0..20.min(body.bytes.len()) {
            let len = rng.usize(0..body.bytes.len());
            let cut = body.entry.reencode(&body.bytes[..len], body.version);
            assert!(matches!(cut, Err(ReencodeError::Decode(_))), "{} v{}", body.entry.name, body.version);
        }
    }
}

#[test]
fn arrays_cost_no_more_than_their_bytes() {
    for entry in registry::all() {
        for version in entry.versions.clone() {
            for fill in [0u8, 1, 2, 3, 0x7f, 0x80, 0xff] {
                try_one(entry, version, &[fill; 3000]);
            }
        }
    }
}

#[test]
fn headers_and_metadata_records_are_parsed_with_care() {
    let samples = samples();
    let mut rng = Rng::with_seed(6);
    for _ in 0..60_000 {
        let sample = rng.choice(&samples).expect("samples");
        let mut bytes = sample.bytes.clone();
        if rng.bool() {
            // The frame of a metadata record.
            bytes.splice(0..0, [1, rng.u8(0..32), rng.u8(0..4)]);
        }
        mutate(&mut rng, &mut bytes, &[]);
        let _ = decode_request_header(&mut Reader::new(&bytes));
        if let Ok(record) = MetadataRecord::decode(&bytes) {
            let mut frame = Reader::new(&bytes);
            let [_, _, version] = [(); 3].map(|()| frame.uvarint().expect("it was decoded"));
            let version = i16::try_from(version).expect("it was decoded");
            let again = record.encode(version).unwrap_or_else(|e| panic!("{}: {e}", record.name()));
            assert_eq!(MetadataRecord::decode(&again).as_ref(), Ok(&record));
        }
    }
}
