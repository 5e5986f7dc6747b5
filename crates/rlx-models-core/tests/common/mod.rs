//! What the tests share: a counting allocator, small files, the oracle's directory.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};
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

/// Runs `f` under the bounds of malformed input: 64 KiB + 4 × input at the peak, one second.
pub fn bounded<T>(input: usize, f: impl FnOnce() -> T) -> T {
    let before = HELD.with(Cell::get);
    PEAK.with(|p| p.set(before));
    let start = Instant::now();
    let out = f();
    let (took, peak) = (start.elapsed(), PEAK.with(Cell::get) - before);
    let limit = (64 * 1024 + 4 * input) as isize;
    assert!(peak <= limit, "peak of {peak} bytes for an input of {input}, at most {limit} allowed");
    assert!(took < Duration::from_secs(1), "took {took:?} for an input of {input}");
    out
}

/// A safetensors file from its header and data.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    safetensors_bytes(header.as_bytes(), data)
}

pub fn safetensors_bytes(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(data);
    file
}

/// A temporary directory with these files.
pub fn dir_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// The committed copy of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The directory of the full set of reference fixtures, where the checkout has it beside it.
pub fn oracle() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle/lm/fixtures");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("NOT TESTED: {} is absent; only the committed fixtures are covered", dir.display());
    None
}
