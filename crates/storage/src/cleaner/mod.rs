//! Log compaction: of records with the same key only the latest stays (`LogCleaner`, `Cleaner`).
//!
//! A pass over a log reads its dirty section into an [`OffsetMap`](map::OffsetMap), and then writes the segments from
//! the log's beginning anew, group by group, without the records that the map has a later offset for. [`Log::cleanable`]
//! says whether that is worth it, [`Log::begin_cleaning`] makes a [`CleanWork`]. That is a value which runs where it may
//! block; it reads only sealed segments, by name, and shares nothing with the log but the mark that cancels it. After
//! each group the log's owner puts the new segment in the place of the old ones ([`Log::swap_in`]) and runs the work
//! again, until it has finished.
//!
//! Names of files are Kafka's, so that either of us finishes what the other was killed at: `.cleaned` is half made and
//! goes, `.swap` is whole and takes the place of what it was made from.

mod filter;
mod log;
mod map;
mod md5;
mod reader;
mod transactions;
mod work;

#[cfg(test)]
mod tests;

pub use log::Cleanable;
pub use work::{CleanLimits, CleanStats, CleanStep, CleanWork, Rewritten};
