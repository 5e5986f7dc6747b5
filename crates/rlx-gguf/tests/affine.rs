//! Affine and fp8 formats against MLX (`tests/fixtures/affine.py`) and against their definition.

use half::{bf16, f16};
use rlx_gguf::blocks::{E4M3, to_e4m3};
use rlx_gguf::{Affine, BlockError, BlockFormat, Fp8, GgufError, GgufWriter, ScaleType, TensorType};
use safetensors::SafeTensors;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/affine.safetensors");

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Calls `each(format, input, tensor)` for every tensor of the fixture with this suffix; returns how many there are.
fn fixture(suffix: &str, each: impl Fn(BlockFormat, &[f32], &[u8])) -> usize {
    let file = std::fs::read(FIXTURE).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let input = floats(tensors.tensor("input").unwrap().data());
    let named: Vec<_> = tensors.tensors().into_iter().filter_map(|(n, t)| Some((n.strip_suffix(suffix)?.to_owned(), t))).collect();
    for (name, tensor) in &named {
        each(BlockFormat::from_name(name).unwrap(), &input, tensor.data());
    }
    named.len()
}

fn quantise(format: BlockFormat, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xAA; format.row_bytes(x.len()).unwrap()];
    format.quantize(x, &mut bytes).unwrap();
    bytes
}

fn dequantise(format: BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; bytes.len() / format.block_bytes() * format.block_len()];
    format.dequantize(bytes, &mut values).unwrap();
    values
}

#[test]
fn affine_blocks_are_those_of_mlx() {
    let n = fixture(".bytes", |format, input, want| {
        let (got, block) = (quantise(format, input), format.block_bytes());
        for (i, (got, want)) in got.chunks(block).zip(want.chunks(block)).enumerate() {
            assert_eq!(got, want, "{format}: group {i}");
        }
        assert_eq!(got.len(), want.len(), "{format}");
    });
    assert!(n >= 18, "{n} formats");
}

#[test]
fn affine_values_are_those_of_mlx() {
    let n = fixture(".values", |format, input, want| {
        let got = dequantise(format, &quantise(format, input));
        for (i, (got, want)) in got.iter().zip(floats(want)).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{format}: element {i} is {got}, not {want}");
        }
    });
    assert!(n >= 6, "{n} formats");
}

#[test]
fn affine_codes_are_packed_lowest_bits_first() {
    for a in Affine::all() {
        let format = BlockFormat::Affine(a);
        let mut bytes: Vec<u8> = (0..3 * format.block_bytes()).map(|i| (i * 151 + 7) as u8).collect();
        let (scale, bias) = (0.25f32, -1.5f32);
        for block in bytes.chunks_mut(format.block_bytes()) {
            let numbers: Vec<u8> = match a.scale() {
                ScaleType::F16 => [scale, bias].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                ScaleType::BF16 => [scale, bias].iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                ScaleType::F32 => [scale, bias].iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            block[..a.codes_at()].copy_from_slice(&numbers);
        }
        let values = dequantise(format, &bytes);
        for (block, values) in bytes.chunks(format.block_bytes()).zip(values.chunks(a.group())) {
            let bit = |at: usize| u32::from(block[a.codes_at() + at / 8] >> (at % 8) & 1);
            for (i, v) in values.iter().enumerate() {
                let code = (0..a.bits()).fold(0, |c, b| c | bit(i * a.bits() + b) << b);
                assert_eq!(*v, scale * code as f32 + bias, "{format}: element {i}");
            }
        }
    }
}

#[test]
fn names_are_bits_group_and_scale_type() {
    let affine = |bits, group, scale| BlockFormat::Affine(Affine::new(bits, group, scale).unwrap());
    assert_eq!(affine(4, 64, ScaleType::BF16).name(), "affine4_g64_bf16");
    assert_eq!(affine(8, 32, ScaleType::F16).name(), "affine8_g32_f16");
    assert_eq!(affine(3, 128, ScaleType::F32).name(), "affine3_g128_f32");
    assert_eq!(BlockFormat::Fp8(Fp8::new(128).unwrap()).name(), "fp8_g128");
    for a in Affine::all() {
        let scale = format!("{:?}", a.scale()).to_lowercase();
        assert_eq!(BlockFormat::Affine(a).name(), format!("affine{}_g{}_{scale}", a.bits(), a.group()));
    }
    let all: Vec<_> = BlockFormat::all().collect();
    assert_eq!(all.len(), BlockFormat::GGML.len() + 6 * 3 * 3 + 3);
    for format in all {
        assert_eq!(BlockFormat::from_name(format.name()), Some(format));
    }
    for name in ["affine7_g64_f16", "affine4_g48_f16", "affine4_g64", "fp8_g16", "affine4_g64_f64"] {
        assert_eq!(BlockFormat::from_name(name), None, "{name}");
    }
}

#[test]
fn numbers_that_no_format_has_are_errors_with_those_it_could_be() {
    let error = Affine::new(7, 64, ScaleType::F16).unwrap_err();
    assert_eq!(error, BlockError::NoAffine { bits: 7, group: 64 });
    assert!(error.to_string().contains("7 bits") && error.to_string().contains("[2, 3, 4, 5, 6, 8]"), "{error}");
    assert!(Affine::new(4, 48, ScaleType::F16).is_err());
    assert!(Affine::new(usize::MAX, usize::MAX, ScaleType::F16).is_err());
    assert!(Affine::new(8, 128, ScaleType::F32).is_ok());
    assert!(Fp8::new(16).unwrap_err().to_string().contains("[32, 64, 128]"));
    assert!(Fp8::new(32).is_ok());
}

/// The value of an e4m3 code by the definition of the format.
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match exponent {
        15 if mantissa == 7.0 => f64::NAN,
        0 => mantissa / 8.0 * 2f64.powi(-6),
        e => (1.0 + mantissa / 8.0) * 2f64.powi(e - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[test]
fn e4m3_codes_are_numbers_of_the_ocp_format() {
    for code in 0..=255u8 {
        let (got, want) = (E4M3[usize::from(code)], e4m3(code));
        assert!(f64::from(got).to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{code:#x}: {got}, not {want}");
        assert_eq!(to_e4m3(got), code, "{code:#x}");
    }
    assert_eq!(E4M3[0x7E], 448.0);
    assert!(E4M3[0x7F].is_nan() && E4M3[0xFF].is_nan());
}

#[test]
fn numbers_become_the_nearest_e4m3_code_ties_to_even() {
    for x in (0..40_000).map(|i| f64::from(i) * 0.0123 * 2f64.powi(-(i % 17))) {
        let x = x as f32;
        let distance = |code: u8| (e4m3(code) - f64::from(x).min(448.0)).abs();
        let nearest = (0..0x7Fu8).min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1)))).unwrap();
        assert_eq!(to_e4m3(x), nearest, "{x}");
        assert_eq!(to_e4m3(-x), nearest | 0x80, "-{x}");
    }
    for (x, code) in [(17.0, 0x58), (19.0, 0x5A), (1e30, 0x7E), (f32::INFINITY, 0x7E), (1e-40, 0), (0.5 / 512.0, 0), (1.5 / 512.0, 2)] {
        assert_eq!(to_e4m3(x), code, "{x}");
    }
}

#[test]
fn fp8_is_scale_times_code_and_its_largest_element_is_exact() {
    for f in Fp8::all() {
        let format = BlockFormat::Fp8(f);
        let x: Vec<f32> = (0..2 * f.group()).map(|i| (i as f32 * 0.7).sin() * if i < f.group() { 0.03 } else { 500.0 }).collect();
        let bytes = quantise(format, &x);
        for ((block, x), y) in bytes.chunks(format.block_bytes()).zip(x.chunks(f.group())).zip(dequantise(format, &bytes).chunks(f.group()))
        {
            let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert_eq!(scale, largest / 448.0);
            assert!(y.iter().any(|v| (v.abs() - largest).abs() <= largest * 1e-6));
            for ((x, y), code) in x.iter().zip(y).zip(&block[Fp8::CODES_AT..]) {
                assert_eq!(*y, scale * E4M3[usize::from(*code)]);
                assert!((x - y).abs() <= x.abs() / 16.0 + scale / 1024.0, "{format}: {x} became {y}");
            }
        }
        let mut nan = bytes.clone();
        nan[Fp8::CODES_AT + 5] = 0xFF;
        assert!(dequantise(format, &nan)[5].is_nan());
    }
}

#[test]
fn gguf_files_cannot_hold_formats_that_ggml_lacks() {
    let mut writer = GgufWriter::new();
    for name in ["affine4_g64_bf16", "fp8_g128"] {
        let format = BlockFormat::from_name(name).unwrap();
        assert_eq!(format.ggml_type(), None);
        let data = vec![0; format.row_bytes(128).unwrap()];
        let error = writer.tensor("w", TensorType::Block(format), &[1, 128], data).unwrap_err();
        assert!(matches!(error, GgufError::Unwritable { .. }));
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("Q4_K") && !text.contains("expected affine"), "{text}");
    }
    let q8 = BlockFormat::Q8_0;
    assert!(writer.tensor("w", TensorType::Block(q8), &[1, 128], vec![0; q8.row_bytes(128).unwrap()]).is_ok());
}
