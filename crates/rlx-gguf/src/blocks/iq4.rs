//! `IQ4_NL` and `IQ4_XS`: 4-bit codes of the 16 uneven levels [`IQ4`].
//!
//! `IQ4_NL` has one half-precision scale for 32 elements.  `IQ4_XS` has 256 elements: d, 8 × 2 scale top bits, 4 bytes
//! of 8 scale nibbles, 128 bytes of codes; the 6-bit scales are offset by 32.  References: ggml's
//! `dequantize_row_iq4_*`, `quantize_row_iq4_*_ref` and `quantize_row_iq4_nl_impl`.

use super::grids::IQ4;
use super::legacy::signed_max;
use super::search::{NEGLIGIBLE, nearest_int, squares};
use super::weights::{mean_square, weights};
use super::{get_half, get_u16, inverse, put_half};

/// Scales tried on either side of the one that the largest element gives.
const TRIES: i32 = 7;

fn decode_codes(codes: &[u8], scale: f32, y: &mut [f32]) {
    for (i, c) in codes.iter().enumerate() {
        y[i] = scale * f32::from(IQ4[usize::from(c & 15)]);
        y[i + 16] = scale * f32::from(IQ4[usize::from(c >> 4)]);
    }
}

pub(super) fn dequantize_iq4_nl(b: &[u8; 18], y: &mut [f32; 32]) {
    decode_codes(&b[2..18], get_half(b, 0), y);
}

pub(super) fn dequantize_iq4_xs(b: &[u8; 136], y: &mut [f32; 256]) {
    let (d, high) = (get_half(b, 0), get_u16(b, 2));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let scale = (b[4 + j / 2] >> (j % 2 * 4) & 15) | ((high >> (2 * j) & 3) << 4) as u8;
        decode_codes(&b[8 + 16 * j..][..16], d * f32::from(scale as i8 - 32), y);
    }
}

/// The code of the level nearest to `x`; the higher of equals.
fn nearest_level(x: f32) -> u8 {
    let above = IQ4.partition_point(|level| f32::from(*level) < x);
    match above {
        0 => 0,
        16 => 15,
        _ => {
            let (low, high) = (f32::from(IQ4[above - 1]), f32::from(IQ4[above]));
            if x - low < high - x { above as u8 - 1 } else { above as u8 }
        }
    }
}

/// Codes for an inverse scale, and the weighted sums Σ w·q·x and Σ w·q².
fn codes_for(x: &[f32; 32], w: &[f32; 32], inverse_scale: f32) -> ([u8; 32], f32, f32) {
    let codes = x.map(|v| nearest_level(inverse_scale * v));
    let (mut qx, mut q2) = (0.0, 0.0);
    for ((v, w), c) in x.iter().zip(w).zip(codes) {
        let q = f32::from(IQ4[usize::from(c)]);
        qx += w * q * v;
        q2 += w * q * q;
    }
    (codes, qx, q2)
}

/// Scale of 32 elements.  `tries` = 0 takes the scale that the largest element gives; otherwise 2 × `tries` + 1
/// scales around it compete.
fn fit(x: &[f32; 32], w: &[f32; 32], tries: i32) -> (f32, [u8; 32]) {
    let max = signed_max(x);
    if max.is_nan() || max.abs() < NEGLIGIBLE {
        return (0.0, [0; 32]);
    }
    let end = f32::from(IQ4[0]);
    let start = if tries > 0 { -max / end } else { max / end };
    let (mut codes, qx, q2) = codes_for(x, w, 1.0 / start);
    let mut scale = if q2 > 0.0 { qx / q2 } else { 0.0 };
    let mut score = scale * qx;
    if tries > 0 {
        for step in -tries..=tries {
            let (candidate, qx, q2) = codes_for(x, w, (step as f32 + end) / max);
            if q2 > 0.0 && qx * qx > score * q2 {
                (scale, codes) = (qx / q2, candidate);
                score = scale * qx;
            }
        }
    }
    (scale, codes)
}

fn encode_codes(codes: &[u8; 32], out: &mut [u8]) {
    for (i, byte) in out.iter_mut().take(16).enumerate() {
        *byte = codes[i] | codes[i + 16] << 4;
    }
}

/// The reference quantiser: the scale that the largest element gives.
pub(super) fn quantize_iq4_nl(x: &[f32; 32], b: &mut [u8; 18]) {
    let (scale, codes) = fit(x, &squares(x), 0);
    put_half(b, 0, scale);
    encode_codes(&codes, &mut b[2..]);
}

/// What ggml does for whole files: a search of scales, by weights where there are any.
pub(super) fn search_iq4_nl(x: &[f32; 32], importance: Option<&[f32; 32]>, b: &mut [u8; 18]) {
    let w = importance.map_or_else(|| squares(x), |i| weights(x, i, 2.0 * mean_square(x)));
    let (scale, _) = fit(x, &w, TRIES);
    put_half(b, 0, scale);
    let inverse_scale = inverse(scale);
    encode_codes(&x.map(|v| nearest_level(inverse_scale * v)), &mut b[2..]);
}

pub(super) fn quantize_iq4_xs(x: &[f32; 256], importance: Option<&[f32; 256]>, b: &mut [u8; 136]) {
    let groups = x.as_chunks::<32>().0;
    let sigma2 = 2.0 * mean_square(x);
    let mut scales = [0.0; 8];
    for (j, (scale, x)) in scales.iter_mut().zip(groups).enumerate() {
        let importance = importance.and_then(|i| i.as_chunks::<32>().0.get(j));
        let w = importance.map_or_else(|| squares(x), |i| weights(x, i, sigma2));
        *scale = fit(x, &w, TRIES).0;
    }
    let d = -signed_max(&scales) / 32.0;
    b.fill(0);
    put_half(b, 0, d);
    let inverse_d = inverse(d);
    let mut high = 0u16;
    for (j, x) in groups.iter().enumerate() {
        let l = nearest_int(inverse_d * scales[j]).clamp(-32, 31);
        let inverse_scale = inverse(d * l as f32);
        encode_codes(&x.map(|v| nearest_level(inverse_scale * v)), &mut b[8 + 16 * j..]);
        let l = (l + 32) as u8;
        b[4 + j / 2] |= (l & 15) << (j % 2 * 4);
        high |= u16::from(l >> 4) << (2 * j);
    }
    b[2..4].copy_from_slice(&high.to_le_bytes());
}
