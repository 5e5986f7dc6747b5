//! Bounds on memory and processor time, for tests and fuzz targets.
//!
//! Input: a closure that reads hostile bytes.  Output: what it returns, or a panic that says by how much it went over.
//! What is measured is the calling thread alone, so tests may run side by side and a busy machine does not matter.
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: rlx_bounds::Counting = rlx_bounds::Counting;
//!
//! let bytes = [7; 100];
//! assert_eq!(rlx_bounds::bounded(bytes.len(), || bytes.to_vec().len()), 100);
//! ```
#![allow(clippy::panic, reason = "a broken bound is reported by a panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// The system's allocator, which counts what the current thread holds and the most it held.  A block that grows counts
/// twice while it is copied.
///
/// A program that bounds memory makes it its `#[global_allocator]`.
pub struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(by: isize) {
    // Both are gone while a thread ends.
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
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// What a closure cost.
#[derive(Copy, Clone, Debug)]
pub struct Cost {
    /// Most bytes held beyond what was held before; 0 unless [`Counting`] is the allocator.
    pub peak: usize,
    /// Processor time of this thread; elapsed time where the system does not tell it.
    pub took: Duration,
}

/// Processor time that the current thread has used: waiting for other work does not count.
#[cfg(unix)]
fn clock() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the result; every Unix that Rust supports has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

#[cfg(not(unix))]
fn clock() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// Runs `f` and measures it.  Calls inside each other measure the inner part only.
pub fn measured<T>(f: impl FnOnce() -> T) -> (T, Cost) {
    let before = HELD.get();
    PEAK.set(before);
    let start = clock();
    let out = f();
    let took = clock() - start;
    (out, Cost { peak: (PEAK.get() - before).max(0).cast_unsigned(), took })
}

/// Whether [`Counting`] sees what this program allocates.
fn is_counted() -> bool {
    let before = HELD.get();
    let probe = std::hint::black_box(Box::new(0u8));
    let counted = HELD.get() != before;
    drop(probe);
    counted
}

/// Runs `f`, which may hold `bytes` beyond what is held now, `usize::MAX` for any number, and may compute for `time`.
///
/// # Panics
/// It held or computed more; or memory is bounded and [`Counting`] is not the allocator, so that no bound could break.
#[track_caller]
pub fn within<T>(bytes: usize, time: Duration, f: impl FnOnce() -> T) -> T {
    assert!(
        bytes == usize::MAX || is_counted(),
        "at most {bytes} bytes allowed and none counted: `rlx_bounds::Counting` is not this program's `#[global_allocator]`"
    );
    let (out, cost) = measured(f);
    assert!(cost.peak <= bytes, "peak of {} bytes, at most {bytes} allowed", cost.peak);
    assert!(cost.took <= time, "computed for {:?}, at most {time:?} allowed", cost.took);
    out
}

/// Runs `f` on a hostile input of so many bytes: 64 KiB + 4 × `input` bytes, and one second.
///
/// # Panics
/// It held or computed more.
#[track_caller]
pub fn bounded<T>(input: usize, f: impl FnOnce() -> T) -> T {
    within(64 * 1024 + 4 * input, Duration::from_secs(1), f)
}

/// Runs `f`, which may compute for a second and hold what it likes.
///
/// # Panics
/// It computed more.
#[track_caller]
pub fn quick<T>(f: impl FnOnce() -> T) -> T {
    within(usize::MAX, Duration::from_secs(1), f)
}
