//! The files of a whole node, damaged, and the node started on them: meta.properties, checkpoints, quorum-state, the
//! metadata log and its snapshots. `[directory u8]`, then changes as in `partition_files`.

use std::io::IoSlice;
use std::path::Path;

use storage::mem::MemDisk;
use storage::{Disk, OpenMode};

use crate::golden;
use crate::input::{Input, Output};
use crate::memory::Bound;
use crate::partition_files::damage;
use crate::world::{World, config, prototype};

const BOUND: Bound = Bound { anyway: 64 << 20, per_byte: 1024 };

fn directory(choice: u8) -> MemDisk {
    if choice.is_multiple_of(2) {
        return prototype().disk.copy();
    }
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("/data/__cluster_metadata-0")).expect("memory");
    for (name, bytes) in golden::NODE {
        let file = disk.open(&Path::new("/data").join(name), OpenMode::Create).expect("memory");
        file.write_at(&mut [IoSlice::new(bytes)], 0).expect("memory");
    }
    disk
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = directory(input.u8());
    damage(&disk, &mut input);
    BOUND.hold(data.len(), || {
        let mut world = World::new();
        match world.start(1, disk, config(1, "broker,controller")) {
            // It may well find that it cannot go on: metadata that makes no sense stops a node, with a message.
            Ok(()) => world.run(3_000),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for choice in 0..2 {
        for file in 0..directory(choice).paths().len() as u8 {
            for kind in 0..6 {
                let mut seed = Output::default();
                seed.u8(choice).u8(file).u8(kind).u16(u16::from(file) * 5).sized(&[0xff; 3]);
                out.push(seed.0);
            }
        }
    }
    out
}
