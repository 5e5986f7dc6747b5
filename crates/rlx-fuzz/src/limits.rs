//! Bounds on memory and time that every target keeps, whatever the machine does beside it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// An allocator that counts what the current thread holds, and the most it held.  A binary that wants memory bounds
/// checked makes it its global allocator; elsewhere only time is checked.
pub struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(by: isize) {
    let _ = HELD.try_with(|held| {
        held.set(held.get() + by);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counters are plain thread-local numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Processor time that the current thread has used: waiting for a busy machine does not count.
fn thread_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the result; the clock exists on every system this is built for.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Runs `f`, which may hold `bytes` beyond what is held now, and may compute for `seconds`.
pub fn within<T>(bytes: usize, seconds: u64, f: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    PEAK.set(before);
    let start = thread_time();
    let out = f();
    let (took, peak) = (thread_time() - start, PEAK.get() - before);
    assert!(peak <= bytes as isize, "peak of {peak} bytes, at most {bytes} allowed");
    assert!(took <= Duration::from_secs(seconds), "computed for {took:?}, at most {seconds} s allowed");
    out
}

/// The bounds of hostile files: 64 KiB + 4 × `input` bytes and one second.
pub fn bounded<T>(input: usize, f: impl FnOnce() -> T) -> T {
    within(64 * 1024 + 4 * input, 1, f)
}

/// An error message is one line, not empty, and short whatever the input contains.
pub fn check_message(message: &str) {
    assert!(!message.is_empty() && message.len() < 2000 && !message.contains('\n'), "{message}");
}
