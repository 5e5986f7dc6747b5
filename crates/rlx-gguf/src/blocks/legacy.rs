//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `Q8_1`: 32 elements with one scale, in some formats one minimum.
//!
//! Layout of a block, all scales half precision: `d`, then `m` in the `_1` formats (in `Q8_1` the sum of all elements
//! times `d` instead), then 32 high bits in the 5-bit formats, then the codes.  Byte i of 4-bit codes holds element i
//! in its low and element i + 16 in its high nibble.

use super::k_weighted::SEARCH;
use super::search;
use super::{get_half, get_u32, inverse, put_half};

/// Calls `put(element, low four bits of its code)` for 16 bytes of nibbles.
fn nibbles(codes: &[u8], mut put: impl FnMut(usize, u8)) {
    for (i, c) in codes.iter().take(16).enumerate() {
        put(i, c & 15);
        put(i + 16, c >> 4);
    }
}

/// Stores 32 codes of up to 4 bits (higher bits are dropped) as 16 bytes.
fn pack_nibbles(codes: &[u8; 32], out: &mut [u8]) {
    let (low, high) = codes.split_at(16);
    for ((byte, lo), hi) in out.iter_mut().zip(low).zip(high) {
        *byte = (lo & 15) | (hi << 4);
    }
}

/// Bit 4 of 32 codes, element 0 in the lowest bit.
fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let bits = codes.iter().enumerate().fold(0u32, |bits, (i, c)| bits | (u32::from(c >> 4 & 1) << i));
    bits.to_le_bytes()
}

/// The element of largest magnitude, with its sign (also that of a zero); the first one of equals.
pub(super) fn signed_max(x: &[f32]) -> f32 {
    x.iter().copied().reduce(|best, v| if v.abs() > best.abs() { v } else { best }).unwrap_or(0.0)
}

/// The largest magnitude.
pub(super) fn abs_max(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, v| v.abs().max(m))
}

fn min_max(x: &[f32; 32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| (v.min(lo), v.max(hi)))
}

pub(super) fn dequantize_q4_0(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = get_half(b, 0);
    nibbles(&b[2..], |i, q| y[i] = d * f32::from(q as i8 - 8));
}

pub(super) fn dequantize_q4_1(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (get_half(b, 0), get_half(b, 2));
    nibbles(&b[4..], |i, q| y[i] = d * f32::from(q) + m);
}

pub(super) fn dequantize_q5_0(b: &[u8; 22], y: &mut [f32; 32]) {
    let (d, high) = (get_half(b, 0), get_u32(b, 2));
    nibbles(&b[6..], |i, q| y[i] = d * f32::from((q | ((high >> i & 1) << 4) as u8) as i8 - 16));
}

pub(super) fn dequantize_q5_1(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m, high) = (get_half(b, 0), get_half(b, 2), get_u32(b, 4));
    nibbles(&b[8..], |i, q| y[i] = d * f32::from(q | ((high >> i & 1) << 4) as u8) + m);
}

pub(super) fn dequantize_q8_0(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = get_half(b, 0);
    for (y, q) in y.iter_mut().zip(&b[2..]) {
        *y = f32::from(*q as i8) * d;
    }
}

pub(super) fn dequantize_q8_1(b: &[u8; 36], y: &mut [f32; 32]) {
    let d = get_half(b, 0);
    for (y, q) in y.iter_mut().zip(&b[4..]) {
        *y = f32::from(*q as i8) * d;
    }
}

/// Codes of a symmetric format: the element of largest magnitude gets the code of `-levels`.
fn symmetric(x: &[f32; 32], levels: f32) -> (f32, [u8; 32]) {
    let d = signed_max(x) / -levels;
    let scale = inverse(d);
    (d, x.map(|v| ((v * scale + (levels + 0.5)) as u8).min(2 * levels as u8 - 1)))
}

/// Codes of a format with a minimum: (scale, minimum, codes `0..=top`).
fn affine(x: &[f32; 32], top: f32) -> (f32, f32, [u8; 32]) {
    let (min, max) = min_max(x);
    let d = (max - min) / top;
    let scale = inverse(d);
    (d, min, x.map(|v| (((v - min) * scale + 0.5) as u8).min(top as u8)))
}

pub(super) fn quantize_q4_0(x: &[f32; 32], b: &mut [u8; 18]) {
    let (d, codes) = symmetric(x, 8.0);
    put_half(b, 0, d);
    pack_nibbles(&codes, &mut b[2..]);
}

pub(super) fn quantize_q4_1(x: &[f32; 32], b: &mut [u8; 20]) {
    let (d, m, codes) = affine(x, 15.0);
    put_half(b, 0, d);
    put_half(b, 2, m);
    pack_nibbles(&codes, &mut b[4..]);
}

pub(super) fn quantize_q5_0(x: &[f32; 32], b: &mut [u8; 22]) {
    let (d, codes) = symmetric(x, 16.0);
    put_half(b, 0, d);
    b[2..6].copy_from_slice(&fifth_bits(&codes));
    pack_nibbles(&codes, &mut b[6..]);
}

pub(super) fn quantize_q5_1(x: &[f32; 32], b: &mut [u8; 24]) {
    let (d, m, codes) = affine(x, 31.0);
    put_half(b, 0, d);
    put_half(b, 2, m);
    b[4..8].copy_from_slice(&fifth_bits(&codes));
    pack_nibbles(&codes, &mut b[8..]);
}

pub(super) fn quantize_q8_0(x: &[f32; 32], b: &mut [u8; 34]) {
    let d = abs_max(x) / 127.0;
    let scale = inverse(d);
    put_half(b, 0, d);
    for (q, v) in b[2..].iter_mut().zip(x) {
        *q = (v * scale).round() as i8 as u8;
    }
}

pub(super) fn quantize_q8_1(x: &[f32; 32], b: &mut [u8; 36]) {
    let d = abs_max(x) / 127.0;
    let scale = inverse(d);
    put_half(b, 0, d);
    let mut sum = 0i32;
    for (q, v) in b[4..].iter_mut().zip(x) {
        let code = (v * scale).round() as i8;
        sum += i32::from(code);
        *q = code as u8;
    }
    put_half(b, 2, sum as f32 * d);
}

/// Quantises a block with the weights of its elements.
pub(super) fn weighted_q4_0(x: &[f32; 32], w: &[f32; 32], b: &mut [u8; 18]) {
    let fit = search::symmetric(x, w, 8);
    put_half(b, 0, fit.scale);
    pack_nibbles(&fit.codes.map(|c| c as u8), &mut b[2..]);
}

/// Quantises a block with the weights of its elements.
pub(super) fn weighted_q5_0(x: &[f32; 32], w: &[f32; 32], b: &mut [u8; 22]) {
    let fit = search::symmetric(x, w, 16);
    put_half(b, 0, fit.scale);
    let codes = fit.codes.map(|c| c as u8);
    b[2..6].copy_from_slice(&fifth_bits(&codes));
    pack_nibbles(&codes, &mut b[6..]);
}

/// Quantises a block with the weights of its elements.
pub(super) fn weighted_q4_1(x: &[f32; 32], w: &[f32; 32], b: &mut [u8; 20]) {
    let (fit, min) = search::affine(x, w, 15, &SEARCH);
    put_half(b, 0, fit.scale);
    put_half(b, 2, -min);
    pack_nibbles(&fit.codes.map(|c| c as u8), &mut b[4..]);
}

/// Quantises a block with the weights of its elements.
pub(super) fn weighted_q5_1(x: &[f32; 32], w: &[f32; 32], b: &mut [u8; 24]) {
    let (fit, min) = search::affine(x, w, 31, &SEARCH);
    put_half(b, 0, fit.scale);
    put_half(b, 2, -min);
    let codes = fit.codes.map(|c| c as u8);
    b[4..8].copy_from_slice(&fifth_bits(&codes));
    pack_nibbles(&codes, &mut b[8..]);
}
