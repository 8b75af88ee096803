//! What happened, as a digest: two runs with the same digest did the same things in the same order at the same times.

use std::hash::Hasher;

use rustc_hash::FxHasher;

#[derive(Default)]
pub struct Trace {
    digest: FxHasher,
    pub events: u64,
    /// Print every event, for whoever looks for the cause of a failure.
    pub is_printed: bool,
}

impl Trace {
    pub fn event(&mut self, now_ms: i64, what: &str, bytes: &[u8]) {
        self.events += 1;
        self.digest.write_i64(now_ms);
        self.digest.write(what.as_bytes());
        self.digest.write_usize(bytes.len());
        self.digest.write(bytes);
        if self.is_printed && !what.starts_with('~') {
            eprintln!("{now_ms:>8} {what}");
        }
    }

    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }
}
