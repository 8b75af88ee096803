//! Kafka's bytes: primitive types, messages, request and response headers, record batches, error codes. No I/O.

pub mod api;
pub mod codec;
pub mod error;
pub mod header;
pub mod json;
pub mod layout;
mod metadata_value;
pub mod records;
pub mod registry;
pub mod time;
pub mod wire;

/// Every message of Kafka 4.3, generated from `schema/` by `cargo xtask codegen`.
#[rustfmt::skip]
#[allow(unused_variables, unused_mut, unused_imports, clippy::all)]
#[path = "generated/mod.rs"]
pub mod messages;
