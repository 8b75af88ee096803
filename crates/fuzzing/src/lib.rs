//! Fuzz targets: whatever comes from a socket or a disk, handed to the code that reads it. None of it may panic, go on
//! for ever, or take more memory than a stated bound allows.
//!
//! A target is a function of bytes. libFuzzer calls it (`cargo xtask fuzz`, the crate in `fuzz/`), and so does a test
//! that any toolchain runs: on the inputs that once found something, kept in `fuzz/regressions`, and on mutations of
//! the seeds.

mod answers;
mod codec;
mod dump;
mod frames;
mod golden;
mod groups;
mod input;
mod memory;
mod metadata_records;
pub mod mutate;
mod node_files;
mod partition_files;
mod properties;
mod records;
mod world;

pub use memory::Bound;

pub struct Target {
    pub name: &'static str,
    pub about: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
    /// Valid or nearly valid inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, about: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, about, run, seeds }
}

pub const TARGETS: &[Target] = &[
    target("codec", "one message of any kind and version", codec::run, codec::seeds),
    target("records", "record batches, of producers and of files", records::run, records::seeds),
    target("metadata", "records of the metadata log", metadata_records::run, metadata_records::seeds),
    target("frames", "requests to a node, on both listeners", frames::run, frames::seeds),
    target("answers", "what other nodes answer", answers::run, answers::seeds),
    target(
        "partition-files",
        "the files of a partition, opened and used",
        partition_files::run,
        partition_files::seeds,
    ),
    target("node-files", "the files of a whole node, started on", node_files::run, node_files::seeds),
    target("groups", "the records of a partition of __consumer_offsets", groups::run, groups::seeds),
    target("properties", "server.properties", properties::run, properties::seeds),
    target("dump", "dump-log on any file", dump::run, dump::seeds),
];

pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
