//! Random damage to valid files: errors are fine, panics and long waits are not.

mod common;

use common::{Raw, fixture};
use proptest::prelude::*;
use rlx_gguf::Gguf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static MODEL: LazyLock<Vec<u8>> = LazyLock::new(|| std::fs::read(fixture("qwen3-Q4_0.gguf")).unwrap());
static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| Raw::default().build());

/// Opens the file and touches all of it.
fn exercise(bytes: Vec<u8>) {
    let start = Instant::now();
    if let Ok(gguf) = Gguf::from_bytes(bytes) {
        let _ = gguf.architecture();
        for (key, value) in gguf.metadata().iter() {
            assert_eq!(gguf.get(key).map(|v| v.type_name()), Some(value.type_name()));
        }
        for t in gguf.tensors() {
            if let Ok(values) = gguf.tensor_f32(t) {
                assert_eq!(values.len() as u64, t.elements());
            }
        }
    }
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// Overwrites bytes, 64-bit words and inserts or removes a stretch.
fn damage(file: &[u8], bytes: &[(usize, u8)], words: &[(usize, u64)], cut: (usize, usize, u8)) -> Vec<u8> {
    let mut out = file.to_vec();
    let n = out.len();
    for (at, b) in bytes {
        out[at % n] = *b;
    }
    for (at, w) in words {
        let at = at % (n - 8);
        out[at..at + 8].copy_from_slice(&w.to_le_bytes());
    }
    let (at, length, mode) = (cut.0 % n, cut.1, cut.2 % 4);
    match mode {
        0 => out.truncate(at),
        1 => drop(out.drain(at..(at + length).min(n))),
        2 => drop(out.splice(at..at, vec![0xFF; length])),
        _ => {}
    }
    out
}

fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(1 << 63), Just(1 << 32), 0..4096u64, any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_small_files_do_not_panic(
        bytes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        words in prop::collection::vec((any::<usize>(), extreme()), 0..2),
        cut in (any::<usize>(), 0..64usize, any::<u8>()),
    ) {
        exercise(damage(&SMALL, &bytes, &words, cut));
    }

    #[test]
    fn arbitrary_bytes_after_the_magic_do_not_panic(tail in prop::collection::vec(any::<u8>(), 0..512)) {
        exercise([b"GGUF\x03\0\0\0".as_slice(), &tail].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_models_do_not_panic(
        bytes in prop::collection::vec((0..24_000usize, any::<u8>()), 0..4),
        words in prop::collection::vec((0..24_000usize, extreme()), 0..2),
        cut in (any::<usize>(), 0..64usize, 0..16u8),
    ) {
        exercise(damage(&MODEL, &bytes, &words, cut));
    }
}
