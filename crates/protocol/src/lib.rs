//! Kafka's bytes: primitive types, messages, request and response headers, record batches, error codes. No I/O.

pub mod time;
pub mod wire;
