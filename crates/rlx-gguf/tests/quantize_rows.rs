//! Quantisers with the importance of columns against the bytes of ggml's `ggml_quantize_chunk` (ggml 0.25.3;
//! `tests/fixtures/quantize_rows.py` records them).

use rlx_gguf::{BlockError, BlockFormat};
use safetensors::SafeTensors;
use std::path::PathBuf;

const COLUMNS: usize = 512;

fn fixture() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantize_rows.safetensors");
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    tensors.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn quantize(format: BlockFormat, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0xAA; format.row_bytes(x.len()).unwrap()];
    format.quantize_rows(x, &mut bytes, COLUMNS, importance).unwrap();
    bytes
}

/// Σ (x − y)² of quantised bytes.
fn squared_error(format: BlockFormat, x: &[f32], bytes: &[u8]) -> f64 {
    let mut y = vec![0.0; x.len()];
    format.dequantize(bytes, &mut y).unwrap();
    x.iter().zip(&y).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn rows_are_quantised_to_the_bytes_of_ggml() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let (x, importance) = (floats(&tensors, "x"), floats(&tensors, "importance"));
    let (mut wrong, mut seen) = (vec![], 0);
    for (name, expected) in tensors.tensors() {
        let Some((format, label)) = name.split_once('.') else { continue };
        let format = BlockFormat::from_name(format).unwrap();
        let importance = label.parse().ok().map(|i: usize| &importance[i * COLUMNS..][..COLUMNS]);
        let bytes = quantize(format, &x, importance);
        let n = format.block_bytes();
        let differs = |i: &usize| {
            let (got, want) = (&bytes[i * n..][..n], &expected.data()[i * n..][..n]);
            let x = &x[i * format.block_len()..][..format.block_len()];
            // ggml does not step over the codes of an all-zero group of IQ3_S, so that later groups get those of others.
            let misplaced = format == BlockFormat::IQ3S && x.chunks(32).any(|g| g.iter().all(|v| *v == 0.0));
            if misplaced { squared_error(format, x, got) > 0.9 * squared_error(format, x, want) } else { got != want }
        };
        let differ: Vec<_> = (0..bytes.len() / n).filter(differs).collect();
        seen += 1;
        if !differ.is_empty() {
            let ratio = squared_error(format, &x, &bytes) / squared_error(format, &x, expected.data());
            wrong.push(format!("{name}: blocks {differ:?} of {}, squared error × {ratio:.4}", bytes.len() / n));
        }
    }
    assert_eq!(seen, 56);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn importance_is_weighed() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let (x, importance) = (floats(&tensors, "x"), floats(&tensors, "importance"));
    let importance = &importance[..COLUMNS];
    for format in BlockFormat::all().filter(|f| f.uses_importance() && f.has_quantizer()) {
        let error = |bytes: &[u8]| -> f64 {
            let mut y = vec![0.0; x.len()];
            format.dequantize(bytes, &mut y).unwrap();
            let weighted = |(i, (a, b)): (usize, (&f32, &f32))| f64::from(importance[i % COLUMNS]) * f64::from(a - b).powi(2);
            x.iter().zip(&y).enumerate().map(weighted).sum()
        };
        let (plain, weighted) = (error(&quantize(format, &x, None)), error(&quantize(format, &x, Some(importance))));
        assert!(weighted < plain, "{format}: {weighted} is not less than {plain}");
    }
}

#[test]
fn three_formats_need_importance_and_say_so() {
    let mut refused = vec![];
    for format in BlockFormat::all() {
        match format.quantize_rows(&[0.5; 256], &mut vec![0; format.row_bytes(256).unwrap()], 256, None) {
            Ok(()) => {}
            Err(e) => {
                assert_eq!(e, BlockError::NeedsImportance(format));
                assert!(e.to_string().contains("importance matrix") && e.to_string().contains("IQ3_S"), "{e}");
                refused.push(format.name());
            }
        }
    }
    assert_eq!(refused, ["IQ1_S", "IQ2_XXS", "IQ2_XS"]);
}

#[test]
fn sizes_that_do_not_match_are_errors() {
    let (x, mut b) = ([0.5; 512], [0; 288]);
    let format = BlockFormat::Q4K;
    assert_eq!(format.quantize_rows(&x, &mut b, 256, Some(&[1.0; 256])), Ok(()));
    let found = format.quantize_rows(&x, &mut b, 256, Some(&[1.0; 512]));
    assert_eq!(found, Err(BlockError::Importance { format, found: 512, columns: 256 }));
    for columns in [0, 128, 300, 1024] {
        assert!(matches!(format.quantize_rows(&x, &mut b, columns, None), Err(BlockError::Length { .. })), "{columns}");
    }
    assert!(matches!(format.quantize_rows(&x, &mut b[..144], 256, None), Err(BlockError::Length { .. })));
}

#[test]
fn zeros_extremes_nan_and_unimportant_columns_are_survived() {
    let (mut nan, mut sparse) = (vec![0.25; COLUMNS], vec![0.0; COLUMNS]);
    nan[3] = f32::NAN;
    nan[77] = f32::INFINITY;
    nan[300] = f32::NEG_INFINITY;
    sparse[5] = -1.5;
    let rows = [vec![0.0; COLUMNS], nan, vec![f32::MAX; COLUMNS], vec![1e-40; COLUMNS], vec![-3.5; COLUMNS], sparse];
    let importances = [vec![0.0; COLUMNS], vec![1.0; COLUMNS], vec![f32::MAX; COLUMNS], vec![f32::MIN_POSITIVE; COLUMNS]];
    for format in BlockFormat::all() {
        let mut values = vec![f32::NAN; COLUMNS];
        for importance in &importances {
            for row in &rows {
                format.dequantize(&quantize(format, row, Some(importance)), &mut values).unwrap();
            }
            format.dequantize(&quantize(format, &rows[0], Some(importance)), &mut values).unwrap();
            assert!(values.iter().all(|v| *v == 0.0), "{format} turns zeros into something else");
        }
    }
}
