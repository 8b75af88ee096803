//! An allocator that counts, so that every target can say how much memory its input may cost.

#![allow(unsafe_code)] // an allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Live bytes of one thread, and the most they were.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc(layout) }
    }

    /// Zeros that nobody touches cost no memory, but what asks for them by the gigabyte is wrong all the same.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn note(size: usize) {
    let live = LIVE.get() + size;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How much memory an input may cost: so much anyway, and so much for each of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub anyway: usize,
    pub per_byte: usize,
}

impl Bound {
    /// Does the work and panics if it took more than an input of `len` bytes may.
    pub fn hold<T>(self, len: usize, work: impl FnOnce() -> T) -> T {
        let before = LIVE.get();
        PEAK.set(before);
        let result = work();
        let peak = PEAK.get() - before;
        let allowed = self.anyway + len * self.per_byte;
        assert!(peak <= allowed, "{peak} bytes of memory for an input of {len}; {allowed} are allowed");
        result
    }
}
