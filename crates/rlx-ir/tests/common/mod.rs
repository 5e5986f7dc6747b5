//! Bounds on time and memory.

use std::time::Duration;

/// Bytes of a graph per byte of its text.  A file's bytes are looked at where they lie; a text is turned into another
/// form, and a line of 24 bytes (`%1 = softmax %0 : f32[4]`) into a value, a node and their types.
const GRAPH_BYTES: usize = 32;

/// Runs `f`, which may hold 64 KiB + [`GRAPH_BYTES`] × `input` bytes and take a second per MiB of input begun.
pub fn bounded<T>(input: usize, f: impl FnOnce() -> T) -> T {
    rlx_bounds::within(64 * 1024 + GRAPH_BYTES * input, Duration::from_secs(1 + (input >> 20) as u64), f)
}
