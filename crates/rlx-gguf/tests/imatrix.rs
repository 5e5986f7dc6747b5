//! Importance matrices: both layouts, and damaged files.  Errors are fine; panics, long waits and guesses are not.

mod common;

use common::{ARRAY, F32, Raw, STRING, U32, array, tensor, text};
use proptest::prelude::*;
use rlx_gguf::GgufError;
use rlx_gguf::quantize::ImportanceMatrix;
use std::time::{Duration, Instant};

/// A file of the older layout: name, calls and sums of each tensor, then chunks and data set.
fn legacy(tensors: &[(&str, i32, &[f32])]) -> Vec<u8> {
    let mut out = (tensors.len() as i32).to_le_bytes().to_vec();
    for (name, calls, sums) in tensors {
        out.extend((name.len() as i32).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(calls.to_le_bytes());
        out.extend((sums.len() as i32).to_le_bytes());
        sums.iter().for_each(|v| out.extend(v.to_le_bytes()));
    }
    out.extend(9i32.to_le_bytes());
    out.extend(4i32.to_le_bytes());
    out.extend(b"wiki");
    out
}

fn usual() -> Vec<u8> {
    legacy(&[("blk.0.attn_q.weight", 2, &[2.0, 4.0, 0.0, 1.0]), ("output.weight", 0, &[3.0])])
}

/// A GGUF file with the tensors `a.in_sum2` (2 experts of 4 columns) and `a.counts`.
fn gguf(sums: [f32; 8], counts: &[f32]) -> Vec<u8> {
    let values: Vec<u8> = sums.iter().chain(counts).flat_map(|v| v.to_le_bytes()).collect();
    let mut raw = Raw::default()
        .entry(b"imatrix.datasets", ARRAY, &array(STRING, 1, &text(b"wiki")))
        .entry(b"imatrix.chunk_count", U32, &9u32.to_le_bytes())
        .entry(b"imatrix.chunk_size", U32, &512u32.to_le_bytes());
    raw.tensors = vec![tensor(b"a.in_sum2", &[4, 2], F32, 0), tensor(b"a.counts", &[counts.len() as u64], F32, 32)];
    raw.data = values;
    raw.build()
}

fn message(bytes: &[u8]) -> String {
    ImportanceMatrix::from_bytes(bytes).expect_err("the file is wrong").to_string()
}

#[test]
fn both_layouts_give_means_per_column() {
    let m = ImportanceMatrix::from_bytes(&usual()).unwrap();
    assert_eq!((m.len(), m.chunks, m.datasets.as_slice()), (2, 9, ["wiki".to_owned()].as_slice()));
    assert_eq!(m.get("blk.0.attn_q.weight"), Some([1.0, 2.0, 0.0, 0.5].as_slice()));
    assert_eq!(m.get("output.weight"), Some([3.0].as_slice()), "no calls: sums are means");
    assert_eq!(m.get("blk.0.attn_k.weight"), None);

    let m = ImportanceMatrix::from_bytes(&gguf([2.0, 4.0, 6.0, 8.0, 1.0, 1.0, 1.0, 1.0], &[2.0, 0.0])).unwrap();
    assert_eq!((m.len(), m.chunks, m.datasets.as_slice()), (1, 9, ["wiki".to_owned()].as_slice()));
    assert_eq!(m.get("a"), Some([1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0, 1.0].as_slice()), "an expert that was never used");
}

#[test]
fn tensors_can_be_left_out() {
    let mut m = ImportanceMatrix::from_bytes(&usual()).unwrap();
    m.retain(|name| name.contains("attn"));
    assert_eq!(m.tensors().collect::<Vec<_>>(), ["blk.0.attn_q.weight"]);
    assert_eq!((m.len(), m.get("output.weight")), (1, None));
}

#[test]
fn counts_that_exceed_the_file_are_refused_before_anything_is_allocated() {
    for (at, field) in [(0, "the number of tensors"), (4, "the length of tensor name 0"), (31, "the number of columns of tensor 0")] {
        for bad in [i32::MAX, -1, 1 << 20] {
            let mut bytes = usual();
            bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
            let text = message(&bytes);
            assert!(text.contains(field) && text.contains(&format!("at byte {at}")) && text.contains(&bad.to_string()), "{text}");
        }
    }
    assert!(message(b"").contains("the number of tensors"));
    assert!(message(&0i32.to_le_bytes()).contains("the number of tensors"));
}

#[test]
fn values_that_mean_nothing_are_refused_with_tensor_and_column() {
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let text = message(&legacy(&[("x", 1, &[1.0, bad])]));
        assert!(text.contains("\"x\"") && text.contains("column 1"), "{text}");
    }
    assert!(ImportanceMatrix::from_bytes(&legacy(&[("x", 1, &[1.0, 0.0])])).is_ok());
    assert!(matches!(ImportanceMatrix::from_bytes(&legacy(&[("x", 1, &[1.0]), ("x", 1, &[1.0])])), Err(GgufError::DuplicateTensor { .. })));
}

#[test]
fn counts_and_sums_of_gguf_files_must_fit_together() {
    let text = message(&gguf([1.0; 8], &[1.0, 1.0, 1.0]));
    assert!(text.contains("a.counts") && text.contains("divides 8"), "{text}");
    assert!(ImportanceMatrix::from_bytes(&gguf([1.0; 8], &[1.0, 1.0, 1.0, 1.0])).is_ok());
    // A model is no importance matrix.
    let model = std::fs::read(common::fixture("qwen3-Q4_0.gguf")).unwrap();
    assert!(message(&model).contains("imatrix.datasets"), "{}", message(&model));
}

/// Reads the file and touches all of it.
fn exercise(bytes: &[u8]) {
    let start = Instant::now();
    if let Ok(m) = ImportanceMatrix::from_bytes(bytes) {
        for name in m.tensors() {
            assert!(m.get(name).unwrap().iter().all(|v| v.is_finite() && *v >= 0.0));
        }
    }
    assert!(start.elapsed() < Duration::from_secs(1));
}

fn damage(file: &[u8], bytes: &[(usize, u8)], words: &[(usize, i32)], cut: usize) -> Vec<u8> {
    let mut out = file.to_vec();
    let n = out.len();
    for (at, b) in bytes {
        out[at % n] = *b;
    }
    for (at, w) in words {
        let at = at % (n - 4);
        out[at..at + 4].copy_from_slice(&w.to_le_bytes());
    }
    out.truncate(cut % (2 * n));
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_do_not_panic(
        new in any::<bool>(),
        bytes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        words in prop::collection::vec((any::<usize>(), prop_oneof![Just(0), Just(-1), Just(i32::MAX), 0..64i32]), 0..2),
        cut in any::<usize>(),
    ) {
        let file = if new { gguf([1.0; 8], &[1.0, 2.0]) } else { usual() };
        exercise(&damage(&file, &bytes, &words, cut));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        exercise(&bytes);
    }
}
