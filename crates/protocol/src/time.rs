//! Clock values, handed in by whoever owns a clock: nothing below `server` reads one.

/// One reading of both clocks, taken once per event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back; its zero means nothing. For timers and deadlines.
    pub mono_ms: i64,
    /// Milliseconds since 1970 (UTC). For record timestamps and everything a user sees.
    pub wall_ms: i64,
}
