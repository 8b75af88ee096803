//! Partition logs on disk, in Kafka's formats, over the trait [`Disk`].

pub mod disk;

pub use disk::{DirEntry, Disk, DiskFile, DiskRef, FileRef, OpenMode};
