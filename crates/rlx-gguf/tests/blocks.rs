//! Block formats against the values and bytes that gguf-py computes (`tests/fixtures/quants`), and against the bytes of
//! ggml's own `quantize_row_*_ref` (ggml 0.13.1, same input) where gguf-py has no quantiser (`quantize_ggml.safetensors`).

use rlx_gguf::{BlockError, BlockFormat};
use safetensors::SafeTensors;
use std::path::PathBuf;

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quants").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(file: &[u8], name: &str) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let data = tensors.tensor(name).unwrap().data();
    data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn index() -> serde_json::Value {
    serde_json::from_slice(&fixture("index.json")).unwrap()
}

/// The types of the index that are block formats (F16 and BF16 are not).
fn formats() -> Vec<(BlockFormat, serde_json::Value)> {
    let index = index();
    let types = index["types"].as_object().unwrap();
    types.iter().filter_map(|(name, t)| Some((BlockFormat::from_name(name)?, t.clone()))).collect()
}

/// A fixed noise in -1..1, for tests that need any input.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    // The sum of three makes the middle likelier than the ends, as in weights.
    (0..n).map(|_| (next() + next() + next()) / 3.0).collect()
}

#[test]
fn dequantisers_are_bit_exact() {
    let formats = formats();
    assert_eq!(formats.len(), 23, "every format of the fixtures is known");
    for (format, _) in formats {
        let blocks = fixture(&format!("{format}.bin"));
        let expected = floats(&fixture(&format!("{format}.f32.safetensors")), "values");
        let mut values = vec![0.0f32; expected.len()];
        format.dequantize(&blocks, &mut values).unwrap();
        for (i, (got, want)) in values.iter().zip(&expected).enumerate() {
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(same, "{format}: block {}, element {}: {got:e} is not {want:e}", i / format.block_len(), i % format.block_len());
        }
    }
}

#[test]
fn quantisers_give_the_bytes_of_the_reference() {
    let file = fixture("quantize.safetensors");
    let input = floats(&file, "input");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut seen = 0;
    for (format, entry) in formats() {
        if entry["quantiser"] != true {
            continue;
        }
        seen += 1;
        let expected = tensors.tensor(&format!("{format}.bytes")).unwrap().data().to_vec();
        let mut bytes = vec![0; format.row_bytes(input.len()).unwrap()];
        format.quantize(&input, &mut bytes).unwrap();
        let n = format.block_bytes();
        for (i, (got, want)) in bytes.chunks(n).zip(expected.chunks(n)).enumerate() {
            assert_eq!(got, want, "{format}: block {i}");
        }
        assert_eq!(bytes.len(), expected.len(), "{format}");
    }
    assert_eq!(seen, 8);
}

#[test]
fn quantisers_without_a_python_reference_give_the_bytes_of_ggml() {
    let input = floats(&fixture("quantize.safetensors"), "input");
    let file = fixture("quantize_ggml.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.len(), 10);
    for (name, expected) in tensors.tensors() {
        let format = BlockFormat::from_name(name.trim_end_matches(".bytes")).unwrap();
        let mut bytes = vec![0; format.row_bytes(input.len()).unwrap()];
        format.quantize(&input, &mut bytes).unwrap();
        let n = format.block_bytes();
        assert_eq!(bytes.len(), expected.data().len(), "{format}");
        let differs = |i: &usize| {
            let (got, want) = (&bytes[i * n..][..n], &expected.data()[i * n..][..n]);
            // ggml leaves the codes of an all-zero IQ4_NL block as the last block had them; its scale is zero.
            let unspecified = format == BlockFormat::IQ4NL && want[..2] == [0, 0];
            if unspecified { got[..2] != want[..2] } else { got != want }
        };
        let wrong: Vec<_> = (0..bytes.len() / n).filter(differs).collect();
        assert!(wrong.is_empty(), "{format}: blocks {wrong:?} of {} differ", bytes.len() / n);
    }
}

#[test]
fn layout_agrees_with_the_reference() {
    for (format, entry) in formats() {
        assert_eq!(entry["block_size"], format.block_len(), "{format}");
        assert_eq!(entry["block_bytes"], format.block_bytes(), "{format}");
        assert_eq!(entry["ggml_type"].as_u64(), format.ggml_type().map(u64::from), "{format}");
    }
    for format in BlockFormat::GGML {
        assert_eq!(BlockFormat::from_ggml_type(format.ggml_type().unwrap()), Some(*format));
    }
    for format in BlockFormat::all() {
        assert_eq!(BlockFormat::from_name(format.name()), Some(format));
        // The decoder's own idea of the sizes: one block must decode completely.
        let mut values = vec![f32::NAN; format.block_len()];
        format.dequantize(&vec![0; format.block_bytes()], &mut values).unwrap();
        assert!(values.iter().all(|v| v.is_finite()), "{format} leaves elements unwritten");
    }
}

#[test]
fn row_bytes_refuses_partial_blocks_and_overflow() {
    assert_eq!(BlockFormat::Q4K.row_bytes(512), Some(288));
    assert_eq!(BlockFormat::Q4K.row_bytes(0), Some(0));
    assert_eq!(BlockFormat::Q4K.row_bytes(255), None);
    assert_eq!(BlockFormat::Q8_0.row_bytes(usize::MAX - 31), None);
}

#[test]
fn lengths_that_do_not_match_are_errors() {
    let mut values = [0.0; 64];
    let error = BlockFormat::Q4_0.dequantize(&[0; 18], &mut values).unwrap_err();
    assert_eq!(error, BlockError::Length { format: BlockFormat::Q4_0, bytes: 18, elements: 64 });
    assert!(BlockFormat::Q4_0.dequantize(&[0; 35], &mut values).is_err());
    assert!(BlockFormat::Q4_0.dequantize(&[0; 36], &mut values).is_ok());
    assert!(BlockFormat::Q4_0.quantize(&values, &mut [0; 18]).is_err());
    assert!(BlockFormat::Q4_0.quantize(&values, &mut [0; 36]).is_ok());
}

/// Relative root-mean-square error of quantising noise and decoding it again.
fn round_trip_error(format: BlockFormat, x: &[f32]) -> f64 {
    let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
    let mut y = vec![0.0; x.len()];
    format.quantize(x, &mut bytes).unwrap();
    format.dequantize(&bytes, &mut y).unwrap();
    let error: f64 = x.iter().zip(&y).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let power: f64 = x.iter().map(|a| f64::from(*a).powi(2)).sum();
    (error / power).sqrt()
}

#[test]
fn quantisation_error_is_what_the_bits_allow() {
    // About 5 % above what each format reaches on this noise: a wrong shift or scale is far outside.
    let limits = [
        (BlockFormat::Q2K, 0.30),
        (BlockFormat::Q3K, 0.16),
        (BlockFormat::Q4K, 0.075),
        (BlockFormat::Q5K, 0.038),
        (BlockFormat::Q6K, 0.019),
        (BlockFormat::Q8K, 0.008),
        (BlockFormat::Q8_1, 0.006),
        (BlockFormat::IQ4NL, 0.085),
        (BlockFormat::IQ4XS, 0.085),
        (BlockFormat::NVFP4, 0.11),
    ];
    let x = noise(256 * 64);
    for (format, limit) in limits {
        let error = round_trip_error(format, &x);
        eprintln!("{format}: relative error {error:.4}");
        assert!(error < limit, "{format}: relative error {error} above {limit}");
        assert!(error > limit / 3.0, "{format}: relative error {error}: the limit {limit} says nothing");
    }
}

#[test]
fn quantisers_survive_zeros_extremes_and_nan() {
    let mut mixed = noise(256);
    mixed[3] = f32::NAN;
    mixed[77] = f32::INFINITY;
    let rows = [
        vec![0.0; 256],
        vec![f32::NAN; 256],
        vec![f32::INFINITY; 256],
        vec![f32::MAX; 256],
        vec![f32::MIN_POSITIVE; 256],
        vec![1e-40; 256],
        vec![-3.5; 256],
        mixed,
    ];
    for format in BlockFormat::all().filter(|f| f.has_quantizer()) {
        let mut bytes = vec![0xAA; format.row_bytes(256).unwrap()];
        let mut values = vec![f32::NAN; 256];
        for row in &rows {
            format.quantize(row, &mut bytes).unwrap();
            format.dequantize(&bytes, &mut values).unwrap();
        }
        format.quantize(&rows[0], &mut bytes).unwrap();
        format.dequantize(&bytes, &mut values).unwrap();
        assert!(values.iter().all(|v| *v == 0.0), "{format} turns zeros into something else");
    }
}
