//! Partition logs on disk, in Kafka's formats, over the trait [`Disk`].
//!
//! Start at [`Log`]: one replica's segments, indexes, leader epochs and producer state. [`LogDir`] is an entry of
//! `log.dirs` with its lock, identity and checkpoints.

pub mod checkpoint;
mod cleaner;
mod config;
pub mod disk;
mod epochs;
mod flush;
mod index;
mod log;
mod log_dir;
pub mod mem;
mod producers;
pub mod real;
mod recovery;
mod retention;
mod segment;
mod txn_index;
mod verification;

#[cfg(test)]
mod tests;

pub use cleaner::{CleanLimits, CleanStats, CleanStep, CleanWork, Cleanable, Rewritten};
pub use config::{LogConfig, TimestampType};
pub use disk::{DirEntry, Disk, DiskFile, DiskRef, FileRef, OpenMode};
pub use epochs::{EpochEnd, EpochEntry, LeaderEpochs};
pub use flush::FlushWork;
pub use log::{
    AppendError, AppendInfo, AppendOrigin, Evidence, Log, OpenOptions, OutOfRange, ReadPlan, StorageError,
    TimestampOffset,
};
pub use log_dir::{
    BootNote, Checkpoints, DirError, DirKind, LogDir, META_PROPERTIES, MetaProperties, parse_partition_dir,
    partition_dir,
};
pub use producers::{ProducerEntry, ProducerStates};
pub use txn_index::AbortedTxn;
pub use verification::{Guard, Verification};
