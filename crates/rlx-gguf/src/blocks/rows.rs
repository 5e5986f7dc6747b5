//! Quantising rows as ggml does it for files: with the importance of columns where it is known.

use super::weights::{mean_square, weights};
use super::{BlockError, BlockFormat, encode, get_half, iq_quantize, iq1_quantize, iq4, k_weighted, legacy};

use BlockFormat as F;

impl BlockFormat {
    /// Whether [`quantize_rows`](Self::quantize_rows) makes any use of the importance of columns.
    pub const fn uses_importance(self) -> bool {
        let old = matches!(self, F::Q4_0 | F::Q4_1 | F::Q5_0 | F::Q5_1);
        let k = matches!(self, F::Q2K | F::Q3K | F::Q4K | F::Q5K | F::Q6K);
        let grid = matches!(self, F::IQ1S | F::IQ1M | F::IQ2XXS | F::IQ2XS | F::IQ2S | F::IQ3XXS | F::IQ3S);
        old || k || grid || matches!(self, F::IQ4NL | F::IQ4XS)
    }

    /// Encodes rows of `columns` finite elements: `src` holds n × `columns` elements, `dst` n × `row_bytes(columns)`.
    ///
    /// `importance` says per column how much its errors count: the mean square of the activations that the column
    /// multiplies, not negative.  Formats that have no use for it ignore it.  Without it this is
    /// [`quantize`](Self::quantize), but `IQ4_NL` searches its scales, as it does in files written by llama.cpp.
    ///
    /// Values that are not finite give unspecified (but initialised) bytes in their block or row.
    ///
    /// # Errors
    /// [`BlockError::Length`] when the lengths are not the same whole number of rows, [`BlockError::Importance`] when
    /// `importance` has not `columns` entries, [`BlockError::NeedsImportance`] for `IQ1_S`, `IQ2_XXS` and `IQ2_XS`
    /// without it.
    pub fn quantize_rows(self, src: &[f32], dst: &mut [u8], columns: usize, importance: Option<&[f32]>) -> Result<(), BlockError> {
        if !src.len().is_multiple_of(columns) || self.row_bytes(columns).is_none() {
            return Err(BlockError::Length { format: self, bytes: dst.len(), elements: src.len() });
        }
        let Some(importance) = importance.filter(|_| self.uses_importance()) else {
            if self == F::IQ4NL {
                self.check_lengths(dst.len(), src.len())?;
                encode(src, dst, |x, b| iq4::search_iq4_nl(x, None, b));
                return Ok(());
            }
            return self.quantize(src, dst);
        };
        self.check_lengths(dst.len(), src.len())?;
        if importance.len() != columns {
            return Err(BlockError::Importance { format: self, found: importance.len(), columns });
        }
        let row_bytes = self.row_bytes(columns).unwrap_or(0);
        if src.is_empty() || row_bytes == 0 {
            return Ok(());
        }
        for (x, b) in src.chunks_exact(columns).zip(dst.chunks_exact_mut(row_bytes)) {
            self.weighted_row(x, importance, b);
        }
        Ok(())
    }

    /// Whether the scales of all blocks are numbers.  Quantising values that are too large for a half-precision scale,
    /// or not finite themselves, makes scales that are not.
    pub fn scales_are_finite(self, blocks: &[u8]) -> bool {
        let halves: &[usize] = match self {
            F::Q4_0 | F::Q5_0 | F::Q8_0 | F::IQ4NL | F::IQ4XS => &[0],
            F::Q4_1 | F::Q5_1 | F::Q8_1 | F::Q4K | F::Q5K => &[0, 2],
            F::IQ1S | F::IQ2XXS | F::IQ2XS | F::IQ2S | F::IQ3XXS | F::IQ3S => &[0],
            F::Q2K => &[80, 82],
            F::Q3K => &[108],
            F::Q6K => &[208],
            F::TQ1_0 => &[52],
            F::TQ2_0 => &[64],
            // No half-precision scale at one place: look at what the blocks decode to.
            _ => return self.decodes_to_numbers(blocks),
        };
        blocks.chunks_exact(self.block_bytes()).all(|b| halves.iter().all(|at| get_half(b, *at).is_finite()))
    }

    fn decodes_to_numbers(self, blocks: &[u8]) -> bool {
        let mut values = vec![0.0; self.block_len()];
        blocks.chunks_exact(self.block_bytes()).all(|b| self.dequantize(b, &mut values).is_ok() && values.iter().all(|v| v.is_finite()))
    }

    /// One row of a format that uses importance.
    fn weighted_row(self, x: &[f32], importance: &[f32], b: &mut [u8]) {
        match self {
            F::Q4_0 => by_row(x, importance, b, legacy::weighted_q4_0),
            F::Q4_1 => by_row(x, importance, b, legacy::weighted_q4_1),
            F::Q5_0 => by_row(x, importance, b, legacy::weighted_q5_0),
            F::Q5_1 => by_row(x, importance, b, legacy::weighted_q5_1),
            F::Q2K => by_block(x, importance, b, k_weighted::quantize_q2_k),
            F::Q3K => by_block(x, importance, b, k_weighted::quantize_q3_k),
            F::Q4K => by_block(x, importance, b, k_weighted::quantize_q4_k),
            F::Q5K => by_block(x, importance, b, k_weighted::quantize_q5_k),
            F::Q6K => by_block(x, importance, b, k_weighted::quantize_q6_k),
            F::IQ1S => by_block(x, importance, b, iq1_quantize::quantize_iq1_s),
            F::IQ1M => by_block(x, importance, b, |x, i, b| iq1_quantize::quantize_iq1_m(x, Some(i), b)),
            F::IQ2XXS => by_block(x, importance, b, iq_quantize::quantize_iq2_xxs),
            F::IQ2XS => by_block(x, importance, b, iq_quantize::quantize_iq2_xs),
            F::IQ2S => by_block(x, importance, b, |x, i, b| iq_quantize::quantize_iq2_s(x, Some(i), b)),
            F::IQ3XXS => by_block(x, importance, b, |x, i, b| iq_quantize::quantize_iq3_xxs(x, Some(i), b)),
            F::IQ3S => by_block(x, importance, b, |x, i, b| iq_quantize::quantize_iq3_s(x, Some(i), b)),
            F::IQ4NL => by_block(x, importance, b, |x, i, b| iq4::search_iq4_nl(x, Some(i), b)),
            F::IQ4XS => by_block(x, importance, b, |x, i, b| iq4::quantize_iq4_xs(x, Some(i), b)),
            _ => debug_assert!(false, "{self} makes no use of importance"),
        }
    }
}

/// Weights of the formats of 32 elements: the mean square is that of the row.
fn by_row<const B: usize>(x: &[f32], importance: &[f32], b: &mut [u8], block: fn(&[f32; 32], &[f32; 32], &mut [u8; B])) {
    let sigma2 = mean_square(x);
    by_block(x, importance, b, |x, importance, b| block(x, &weights(x, importance, sigma2), b));
}

fn by_block<const N: usize, const B: usize>(
    x: &[f32],
    importance: &[f32],
    b: &mut [u8],
    block: impl Fn(&[f32; N], &[f32; N], &mut [u8; B]),
) {
    let inputs = x.as_chunks().0.iter().zip(importance.as_chunks().0);
    for ((x, importance), b) in inputs.zip(b.as_chunks_mut().0) {
        block(x, importance, b);
    }
}
