//! The codec alone: `[message u16][version u8][bytes]`. What decodes must encode again, and to the same.

use protocol::registry::{self, ReencodeError};
use protocol::wire::EncodeError;

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;

/// A struct of some 200 bytes can be one byte long on the wire.
const BOUND: Bound = Bound { anyway: 4096, per_byte: 256 };

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let entries = registry::all();
    let entry = &entries[usize::from(input.u16()) % entries.len()];
    let versions = entry.versions.end() - entry.versions.start() + 1;
    if versions <= 0 {
        return;
    }
    let version = entry.versions.start() + i16::from(input.u8()) % versions;
    let bytes = input.rest();
    match BOUND.hold(bytes.len(), || entry.reencode(bytes, version)) {
        Ok(once) => {
            let twice = entry.reencode(&once, version);
            assert_eq!(twice.as_ref(), Ok(&once), "{} v{version}", entry.name);
        }
        // Replacement characters are longer than the bytes they replace.
        Err(ReencodeError::Encode(EncodeError::TooLong { what: "string", .. })) => {}
        Err(ReencodeError::Encode(e)) => panic!("{} v{version}: decoded but: {e}", entry.name),
        Err(ReencodeError::Decode(_)) => {}
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for message in golden::messages() {
        let index = registry::all().iter().position(|e| e.name == message.entry.name).expect("a known message");
        let version = (message.version - message.entry.versions.start()) as u8;
        let mut seed = Output::default();
        seed.u16(index as u16).u8(version).raw(&message.bytes);
        out.push(seed.0);
    }
    out
}
