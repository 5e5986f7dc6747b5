//! Bounds on time and memory, measured.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Counts the bytes that the current thread holds, and the most it held.
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

/// Processor time of this thread where the system tells it (waiting for other work does not count), else time.
fn clock() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = stat.as_deref().and_then(|s| s.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

/// Bytes of a graph per byte of its text.  A file's bytes are looked at where they lie; a text is turned into another
/// form, and a line of 24 bytes (`%1 = softmax %0 : f32[4]`) into a value, a node and their types.
const GRAPH_BYTES: usize = 32;

/// Runs `f`, which may hold 64 KiB + [`GRAPH_BYTES`] × `input` bytes and take a second per MiB of input begun.
pub fn bounded<T>(input: usize, f: impl FnOnce() -> T) -> T {
    let start = clock();
    let before = HELD.get();
    PEAK.set(before);
    let out = f();
    let peak = PEAK.get() - before;
    let took = clock() - start;
    let limit = (64 * 1024 + GRAPH_BYTES * input) as isize;
    println!("peak of {peak} bytes ({:.1} x the input), {took:?}", peak as f64 / input as f64);
    assert!(peak <= limit, "peak of {peak} bytes for an input of {input}, at most {limit} allowed");
    assert!(took < Duration::from_secs(1 + (input >> 20) as u64), "took {took:?} for an input of {input}");
    out
}
