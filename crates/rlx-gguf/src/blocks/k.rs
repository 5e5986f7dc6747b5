//! `Q2_K` to `Q6_K` and `Q8_K`: 256 elements, in sub-blocks of 16 or 32 with quantised scales (and minima).
//!
//! Reference: ggml's `dequantize_row_q*_K`.  Their quantisers are in [`super::k_quantize`].

use super::get_half;

/// The 2-bit code of element `e`: `codes[32 * (e / 128) + e % 32]`, bits `2 * (e / 32 % 4)`.
fn code2(codes: &[u8], e: usize) -> u8 {
    codes[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2) & 3
}

/// The 4-bit code of element `e` of `Q4_K` and `Q5_K`: 32 low nibbles, then 32 high nibbles of the same bytes.
fn code4(codes: &[u8], e: usize) -> u8 {
    codes[e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4) & 15
}

/// Scale and minimum (6 bits each) of sub-block `j` out of the 12 packed bytes of `Q4_K` and `Q5_K`.
///
/// The first four of each lie in the low 6 bits of bytes 0..4 and 4..8; of the last four, bytes 8..12 hold the low
/// nibbles (scale low, minimum high) and the top bits of bytes 0..8 the rest.
pub(super) fn scale_min(packed: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        ((low & 15) | (packed[j - 4] >> 6) << 4, (low >> 4) | (packed[j] >> 6) << 4)
    }
}

/// Scale (-32..32) of sub-block `j` out of the 12 packed bytes of `Q3_K`: low nibbles in bytes 0..8, top bits in 8..12.
pub(super) fn scale_q3(packed: &[u8; 12], j: usize) -> i8 {
    let low = packed[j % 8] >> (j / 8 * 4) & 15;
    let high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

/// The 12 scale bytes that start at `at`.
pub(super) fn packed_scales(b: &[u8], at: usize) -> [u8; 12] {
    std::array::from_fn(|i| b[at + i])
}

/// Block: 16 bytes of scale (low) and minimum (high) nibbles per 16 elements, 64 bytes of codes, d, dmin.
pub(super) fn dequantize_q2_k(b: &[u8; 84], y: &mut [f32; 256]) {
    let (d, dmin) = (get_half(b, 80), get_half(b, 82));
    for (j, y) in y.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(b[j] & 15);
        let min = dmin * f32::from(b[j] >> 4);
        for (i, y) in y.iter_mut().enumerate() {
            *y = scale * f32::from(code2(&b[16..], j * 16 + i)) - min;
        }
    }
}

/// Block: 32 bytes of high bits (set: the code is not lowered by 4), 64 bytes of codes, 12 bytes of scales, d.
pub(super) fn dequantize_q3_k(b: &[u8; 110], y: &mut [f32; 256]) {
    let (d, scales) = (get_half(b, 108), packed_scales(b, 96));
    for (j, y) in y.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scale_q3(&scales, j));
        for (i, y) in y.iter_mut().enumerate() {
            let e = j * 16 + i;
            let high = b[e % 32] >> (e / 32) & 1;
            *y = scale * f32::from((code2(&b[32..], e) | high << 2) as i8 - 4);
        }
    }
}

/// Block: d, dmin, 12 bytes of scales and minima, 128 bytes of codes.
pub(super) fn dequantize_q4_k(b: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin, packed) = (get_half(b, 0), get_half(b, 2), packed_scales(b, 4));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&packed, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, y) in y.iter_mut().enumerate() {
            *y = scale * f32::from(code4(&b[16..], j * 32 + i)) - min;
        }
    }
}

/// Block: d, dmin, 12 bytes of scales and minima, 32 bytes of high bits, 128 bytes of codes.
pub(super) fn dequantize_q5_k(b: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin, packed) = (get_half(b, 0), get_half(b, 2), packed_scales(b, 4));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&packed, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, y) in y.iter_mut().enumerate() {
            let high = b[16 + i] >> j & 1;
            *y = scale * f32::from(code4(&b[48..], j * 32 + i) | high << 4) - min;
        }
    }
}

/// Block: 128 bytes of low nibbles, 64 bytes of 2-bit tops, 16 signed scales per 16 elements, d.
pub(super) fn dequantize_q6_k(b: &[u8; 210], y: &mut [f32; 256]) {
    let d = get_half(b, 208);
    for (j, y) in y.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(b[192 + j] as i8);
        for (i, y) in y.iter_mut().enumerate() {
            let e = j * 16 + i;
            let low = b[e / 128 * 64 + e % 64] >> (e / 64 % 2 * 4) & 15;
            let code = low | code2(&b[128..192], e) << 4;
            *y = scale * f32::from(code as i8 - 32);
        }
    }
}

/// Block: d (float32), 256 signed codes, 16 sums of 16 codes (ignored here).
pub(super) fn dequantize_q8_k(b: &[u8; 292], y: &mut [f32; 256]) {
    let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for (y, q) in y.iter_mut().zip(&b[4..260]) {
        *y = d * f32::from(*q as i8);
    }
}
