//! `IQ1_S`, `IQ1_M`, `IQ2_XXS`, `IQ2_XS`, `IQ2_S`, `IQ3_XXS`, `IQ3_S`: 256 elements as indices into grids of points.
//!
//! Every group of 32 (or 16) elements has a small integer scale that multiplies the block's half-precision `d`.  Signs
//! are stored as 8 bits per 8 elements, or as 7 bits with the eighth implied by parity ([`grids::signs`]).
//! Reference: ggml's `dequantize_row_iq*`; dequantisation only.

use super::{get_half, get_u16, get_u32, grids};

/// Writes `scale * magnitude`, negated where the bit of `signs` is set.
fn signed_points(y: &mut [f32], scale: f32, magnitudes: &[u8], signs: u8) {
    for (k, (y, m)) in y.iter_mut().zip(magnitudes).enumerate() {
        let value = scale * f32::from(*m);
        *y = if signs >> k & 1 == 1 { -value } else { value };
    }
}

/// Block: d, then per 32 elements four grid indices (bytes) and a word of four 7-bit signs and a 4-bit scale.
pub(super) fn dequantize_iq2_xxs(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = get_half(b, 0);
    for (group, y) in y.chunks_exact_mut(32).enumerate() {
        let at = 2 + 8 * group;
        let word = get_u32(b, at + 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for (k, y) in y.chunks_exact_mut(8).enumerate() {
            let point = &grids::IQ2XXS[usize::from(b[at + k])];
            signed_points(y, scale, point, grids::signs((word >> (7 * k)) as u8));
        }
    }
}

/// Block: d, 32 words of a 9-bit grid index and a 7-bit sign, 8 bytes of 4-bit scales per 16 elements.
pub(super) fn dequantize_iq2_xs(b: &[u8; 74], y: &mut [f32; 256]) {
    let d = get_half(b, 0);
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let word = get_u16(b, 2 + 2 * k);
        let scale = d * (0.5 + f32::from(scale4(&b[66..], k / 2))) * 0.25;
        signed_points(y, scale, &grids::IQ2XS[usize::from(word & 511)], grids::signs((word >> 9) as u8));
    }
}

/// Block: d, 32 low index bytes, 32 sign bytes, 8 bytes of 2-bit index tops, 8 bytes of 4-bit scales per 16 elements.
pub(super) fn dequantize_iq2_s(b: &[u8; 82], y: &mut [f32; 256]) {
    let d = get_half(b, 0);
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let high = usize::from(b[66 + k / 4] >> (k % 4 * 2) & 3);
        let index = usize::from(b[2 + k]) | high << 8;
        let scale = d * (0.5 + f32::from(scale4(&b[74..], k / 2))) * 0.25;
        signed_points(y, scale, &grids::IQ2S[index], b[34 + k]);
    }
}

/// Block: d, 64 grid indices, 8 words of four 7-bit signs and a 4-bit scale.
pub(super) fn dequantize_iq3_xxs(b: &[u8; 98], y: &mut [f32; 256]) {
    let d = get_half(b, 0);
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let word = get_u32(b, 66 + k / 4 * 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        let signs = grids::signs((word >> (k % 4 * 7)) as u8);
        let (first, second) = y.split_at_mut(4);
        signed_points(first, scale, &grids::IQ3XXS[usize::from(b[2 + 2 * k])], signs);
        signed_points(second, scale, &grids::IQ3XXS[usize::from(b[3 + 2 * k])], signs >> 4);
    }
}

/// Block: d, 64 low index bytes, 64 ninth index bits, 32 sign bytes, 4 bytes of 4-bit scales per 32 elements.
pub(super) fn dequantize_iq3_s(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = get_half(b, 0);
    for (k, y) in y.chunks_exact_mut(4).enumerate() {
        let high = usize::from(b[66 + k / 8] >> (k % 8) & 1);
        let index = usize::from(b[2 + k]) | high << 8;
        let scale = d * f32::from(1 + 2 * scale4(&b[106..], k / 8));
        signed_points(y, scale, &grids::IQ3S[index], b[74 + k / 2] >> (k % 2 * 4));
    }
}

/// Block: d, 32 low index bytes, 8 words of four 3-bit index tops, a 3-bit scale and the sign of the offset.
pub(super) fn dequantize_iq1_s(b: &[u8; 50], y: &mut [f32; 256]) {
    let d = get_half(b, 0);
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let word = get_u16(b, 34 + k / 4 * 2);
        let high = usize::from(word >> (k % 4 * 3) & 7);
        let scale = d * f32::from(2 * (word >> 12 & 7) + 1);
        ternary_points(y, scale, usize::from(b[2 + k]) | high << 8, word & 0x8000 != 0);
    }
}

/// Block: 32 low index bytes, 16 bytes of nibbles (3-bit index top, sign of the offset), 4 words of four 3-bit scales
/// per 16 elements; the top nibbles of these words are the half-precision d.
pub(super) fn dequantize_iq1_m(b: &[u8; 56], y: &mut [f32; 256]) {
    let bits = (0..4).fold(0u16, |bits, k| bits | (get_u16(b, 48 + 2 * k) >> 12) << (4 * k));
    let d = half::f16::from_bits(bits).to_f32();
    for (k, y) in y.chunks_exact_mut(8).enumerate() {
        let nibble = b[32 + k / 2] >> (k % 2 * 4) & 15;
        let small = get_u16(b, 48 + k / 8 * 2) >> (k / 2 % 4 * 3) & 7;
        let scale = d * f32::from(2 * small + 1);
        ternary_points(y, scale, usize::from(b[k]) | usize::from(nibble & 7) << 8, nibble & 8 != 0);
    }
}

fn ternary_points(y: &mut [f32], scale: f32, index: usize, negative_offset: bool) {
    let offset = if negative_offset { -0.125 } else { 0.125 };
    for (y, v) in y.iter_mut().zip(&grids::IQ1[index]) {
        *y = scale * (f32::from(*v) + offset);
    }
}

/// The `i`-th 4-bit scale, low nibble first.
fn scale4(scales: &[u8], i: usize) -> u8 {
    scales[i / 2] >> (i % 2 * 4) & 15
}
