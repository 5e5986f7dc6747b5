//! The bounds hold what they say, and break where they should.
#![allow(clippy::unwrap_used)]

use rlx_bounds::{Counting, bounded, measured, quick, within};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `f` complains of.
fn complaint(f: impl FnOnce()) -> String {
    let caught = catch_unwind(AssertUnwindSafe(f)).expect_err("a broken bound");
    caught.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn the_peak_counts_and_not_what_is_left() {
    let (kept, cost) = measured(|| {
        drop(vec![1u8; 1 << 20]);
        vec![1u8; 1000]
    });
    assert_eq!((kept.len(), cost.peak), (1000, 1 << 20));
    // What was there before does not count, and giving it back makes no room.
    let (_, cost) = measured(|| {
        drop(kept);
        std::hint::black_box(vec![0u8; 500]);
    });
    assert_eq!(cost.peak, 0);
}

#[test]
fn memory_is_bounded_by_the_input() {
    let take = |bytes: usize| move || drop(std::hint::black_box(vec![1u8; bytes]));
    bounded(1000, take(64 * 1024 + 4000));
    let found = complaint(|| bounded(1000, take(64 * 1024 + 4001)));
    assert_eq!(found, "peak of 69537 bytes, at most 69536 allowed");
}

#[test]
fn other_threads_and_waiting_do_not_count() {
    let (_, cost) = measured(|| {
        std::thread::scope(|s| s.spawn(|| std::hint::black_box(vec![1u8; 8 << 20]).len()).join().unwrap());
        std::thread::sleep(Duration::from_millis(100));
    });
    assert!(cost.peak < 1 << 20, "{cost:?}");
    assert!(!cfg!(unix) || cost.took < Duration::from_millis(90), "{cost:?}");
}

#[test]
fn computing_counts() {
    let spin = |time: Duration| {
        let start = Instant::now();
        let mut n = 0u64;
        while start.elapsed() < time {
            n = std::hint::black_box(n + 1);
        }
    };
    quick(|| spin(Duration::from_millis(1)));
    // On a busy machine this thread may get a small part of the time.
    let found = complaint(|| within(1 << 20, Duration::from_micros(10), || spin(Duration::from_millis(200))));
    assert!(found.starts_with("computed for"), "{found}");
}
