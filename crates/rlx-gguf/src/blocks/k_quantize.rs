//! Quantisers of the K formats, after ggml's `quantize_row_q*_K_ref`.
//!
//! Each finds float scales (and minima) of the sub-blocks by [`super::search`], quantises those against the largest of
//! them, and then rounds the elements again with the scales as they were stored.  The `store_*` functions do the latter
//! and write the block; [`super::k_weighted`] uses them too.

use super::k::{packed_scales, scale_min, scale_q3};
use super::legacy::signed_max;
use super::put_half;
use super::search::{self, Fit, NEGLIGIBLE, Search, nearest_int};

/// Codes of 256 elements.
pub(super) type Codes = [u8; 256];

/// Packs 2-bit codes; the mirror of `code2` of the dequantisers.
fn pack2(codes: &Codes, out: &mut [u8]) {
    for (i, byte) in out.iter_mut().take(64).enumerate() {
        let first = i / 32 * 128 + i % 32;
        *byte = (0..4).fold(0, |v, k| v | (codes[first + 32 * k] & 3) << (2 * k));
    }
}

/// Packs the low nibbles of codes, 32 low then 32 high per 32 bytes.
fn pack4(codes: &Codes, out: &mut [u8]) {
    for (i, byte) in out.iter_mut().take(128).enumerate() {
        let first = i / 32 * 64 + i % 32;
        *byte = (codes[first] & 15) | (codes[first + 32] & 15) << 4;
    }
}

/// Rounds the elements of sub-block `j` with the stored `scale` and minimum; leaves the searched codes at scale 0.
fn requantize(x: &[f32], codes: &mut [u8], scale: f32, min: f32, lowest: i32, highest: i32) {
    if scale == 0.0 {
        return;
    }
    for (code, v) in codes.iter_mut().zip(x) {
        *code = (nearest_int((v + min) / scale).clamp(lowest, highest) - lowest) as u8;
    }
}

/// The largest of `values` and +0.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| if *v > m { *v } else { m })
}

/// `top / max` or 0 where there is nothing to scale.
fn ratio(top: f32, max: f32) -> f32 {
    if max > 0.0 { top / max } else { 0.0 }
}

pub(super) fn quantize_q2_k(x: &[f32; 256], b: &mut [u8; 84]) {
    const SEARCH: Search = Search { first: -0.5, step: 0.1, steps: 15, absolute: true };
    let (mut scales, mut mins, mut codes) = ([0.0; 16], [0.0; 16], [0u8; 256]);
    for (j, x) in x.as_chunks::<16>().0.iter().enumerate() {
        let fit;
        (fit, mins[j]) = search::affine(x, &x.map(f32::abs), 3, &SEARCH);
        scales[j] = fit.scale;
        store(&fit, &mut codes[j * 16..]);
    }
    let (max_scale, max_min) = (largest(&scales), largest(&mins));
    let scales = scales.map(|s| nearest_int(ratio(15.0, max_scale) * s).clamp(0, 15) as u8);
    let mins = mins.map(|m| nearest_int(ratio(15.0, max_min) * m).clamp(0, 15) as u8);
    store_q2_k(x, codes, &Affine { d: max_scale / 15.0, dmin: max_min / 15.0, scales, mins }, b);
}

/// Scales and minima of `N` sub-blocks as codes, and what a code of one stands for.
pub(super) struct Affine<const N: usize> {
    pub d: f32,
    pub dmin: f32,
    pub scales: [u8; N],
    pub mins: [u8; N],
}

pub(super) fn store_q2_k(x: &[f32; 256], mut codes: Codes, fit: &Affine<16>, b: &mut [u8; 84]) {
    for j in 0..16 {
        b[j] = fit.scales[j] | fit.mins[j] << 4;
    }
    let d = put_half(b, 80, fit.d);
    let dmin = put_half(b, 82, fit.dmin);
    for (j, x) in x.chunks_exact(16).enumerate() {
        let (scale, min) = (d * f32::from(b[j] & 15), dmin * f32::from(b[j] >> 4));
        requantize(x, &mut codes[j * 16..], scale, min, 0, 3);
    }
    pack2(&codes, &mut b[16..80]);
}

pub(super) fn quantize_q3_k(x: &[f32; 256], b: &mut [u8; 110]) {
    let (mut scales, mut codes) = ([0.0; 16], [0u8; 256]);
    for (j, x) in x.as_chunks::<16>().0.iter().enumerate() {
        let fit = search::symmetric_by_moves(x, 4);
        scales[j] = fit.scale;
        store(&fit, &mut codes[j * 16..]);
    }
    let max_scale = signed_max(&scales);
    if max_scale == 0.0 {
        return store_q3_k(x, codes, 0.0, &[0; 16], b);
    }
    let inverse_scale = -32.0 / max_scale;
    let scales = scales.map(|s| (nearest_int(inverse_scale * s).clamp(-32, 31) + 32) as u8);
    store_q3_k(x, codes, 1.0 / inverse_scale, &scales, b);
}

/// `scales` are 6-bit codes, 32 more than the integer that multiplies `d`.
pub(super) fn store_q3_k(x: &[f32; 256], mut codes: Codes, d: f32, scales: &[u8; 16], b: &mut [u8; 110]) {
    let mut packed = [0u8; 12];
    for (j, l) in scales.iter().enumerate() {
        packed[j % 8] |= (l & 15) << (j / 8 * 4);
        packed[8 + j % 4] |= (l >> 4) << (j / 4 * 2);
    }
    let d = put_half(b, 108, d);
    b[96..108].copy_from_slice(&packed);
    for (j, x) in x.chunks_exact(16).enumerate() {
        requantize(x, &mut codes[j * 16..], d * f32::from(scale_q3(&packed, j)), 0.0, -4, 3);
    }
    for (lane, byte) in b[..32].iter_mut().enumerate() {
        *byte = (0..8).fold(0, |v, k| v | (codes[k * 32 + lane] >> 2 & 1) << k);
    }
    pack2(&codes, &mut b[32..96]);
}

pub(super) fn quantize_q4_k(x: &[f32; 256], b: &mut [u8; 144]) {
    const SEARCH: Search = Search { first: -1.0, step: 0.1, steps: 20, absolute: false };
    let (codes, fit) = affine_k(x, 15, &SEARCH);
    store_q4_k(x, codes, &fit, b);
}

pub(super) fn store_q4_k(x: &[f32; 256], mut codes: Codes, fit: &Affine<8>, b: &mut [u8; 144]) {
    store_affine(x, &mut codes, fit, 15, &mut b[..16]);
    pack4(&codes, &mut b[16..]);
}

pub(super) fn quantize_q5_k(x: &[f32; 256], b: &mut [u8; 176]) {
    const SEARCH: Search = Search { first: -0.5, step: 0.1, steps: 15, absolute: false };
    let (codes, fit) = affine_k(x, 31, &SEARCH);
    store_q5_k(x, codes, &fit, b);
}

pub(super) fn store_q5_k(x: &[f32; 256], mut codes: Codes, fit: &Affine<8>, b: &mut [u8; 176]) {
    store_affine(x, &mut codes, fit, 31, &mut b[..16]);
    for (lane, byte) in b[16..48].iter_mut().enumerate() {
        *byte = (0..8).fold(0, |v, k| v | (codes[k * 32 + lane] >> 4 & 1) << k);
    }
    pack4(&codes, &mut b[48..]);
}

/// The search that `Q4_K` and `Q5_K` share: codes `0..=top`, scales and minima.
fn affine_k(x: &[f32; 256], top: i32, search: &Search) -> (Codes, Affine<8>) {
    let (mut scales, mut mins, mut codes) = ([0.0; 8], [0.0; 8], [0u8; 256]);
    for (j, x) in x.as_chunks::<32>().0.iter().enumerate() {
        let sum_x2 = x.iter().fold(0.0, |s, v| s + v * v);
        let average = (sum_x2 / 32.0).sqrt();
        let fit;
        (fit, mins[j]) = search::affine(x, &x.map(|v| average + v.abs()), top, search);
        scales[j] = fit.scale;
        store(&fit, &mut codes[j * 32..]);
    }
    let (max_scale, max_min) = (largest(&scales), largest(&mins));
    let scales = scales.map(|s| nearest_int(ratio(63.0, max_scale) * s).clamp(0, 63) as u8);
    let mins = mins.map(|m| nearest_int(ratio(63.0, max_min) * m).clamp(0, 63) as u8);
    (codes, Affine { d: max_scale / 63.0, dmin: max_min / 63.0, scales, mins })
}

/// Writes d, dmin and the 12 bytes of scales to `head`, and rounds the codes `0..=top` again.
fn store_affine(x: &[f32; 256], codes: &mut Codes, fit: &Affine<8>, top: i32, head: &mut [u8]) {
    let mut packed = [0u8; 12];
    for j in 0..8 {
        let (scale, min) = (fit.scales[j], fit.mins[j]);
        if j < 4 {
            packed[j] = scale;
            packed[j + 4] = min;
        } else {
            packed[j + 4] = (scale & 15) | (min & 15) << 4;
            packed[j - 4] |= (scale >> 4) << 6;
            packed[j] |= (min >> 4) << 6;
        }
    }
    let d = put_half(head, 0, fit.d);
    let dmin = put_half(head, 2, fit.dmin);
    head[4..16].copy_from_slice(&packed);
    for (j, x) in x.chunks_exact(32).enumerate() {
        let (scale, min) = scale_min(&packed_scales(head, 4), j);
        requantize(x, &mut codes[j * 32..], d * f32::from(scale), dmin * f32::from(min), 0, top);
    }
}

pub(super) fn quantize_q6_k(x: &[f32; 256], b: &mut [u8; 210]) {
    q6_k(x, search::squares(x).as_chunks().0, b);
}

/// `w`: the weights of the elements, per sub-block.
pub(super) fn q6_k(x: &[f32; 256], w: &[[f32; 16]], b: &mut [u8; 210]) {
    let (mut scales, mut codes) = ([0.0; 16], [0u8; 256]);
    for (j, (x, w)) in x.as_chunks::<16>().0.iter().zip(w).enumerate() {
        let fit = search::symmetric(x, w, 32);
        scales[j] = fit.scale;
        store(&fit, &mut codes[j * 16..]);
    }
    let max_scale = signed_max(&scales);
    b.fill(0);
    if max_scale.abs() < NEGLIGIBLE {
        return;
    }
    let inverse_scale = -128.0 / max_scale;
    let d = put_half(b, 208, 1.0 / inverse_scale);
    for (j, x) in x.chunks_exact(16).enumerate() {
        let scale = nearest_int(inverse_scale * scales[j]).clamp(-128, 127) as i8;
        b[192 + j] = scale as u8;
        requantize(x, &mut codes[j * 16..], d * f32::from(scale), 0.0, -32, 31);
    }
    for (i, byte) in b[..128].iter_mut().enumerate() {
        let first = i / 64 * 128 + i % 64;
        *byte = (codes[first] & 15) | (codes[first + 64] & 15) << 4;
    }
    pack2(&codes.map(|c| c >> 4), &mut b[128..192]);
}

pub(super) fn quantize_q8_k(x: &[f32; 256], b: &mut [u8; 292]) {
    let max = signed_max(x);
    b.fill(0);
    if max == 0.0 {
        return;
    }
    let inverse_scale = -127.0 / max;
    b[..4].copy_from_slice(&(1.0 / inverse_scale).to_le_bytes());
    for (j, x) in x.chunks_exact(16).enumerate() {
        let mut sum = 0i16;
        for (i, v) in x.iter().enumerate() {
            let code = nearest_int(inverse_scale * v).clamp(-128, 127) as i8;
            b[4 + j * 16 + i] = code as u8;
            sum += i16::from(code);
        }
        b[260 + 2 * j..][..2].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Stores the codes of a fit.
pub(super) fn store<const N: usize>(fit: &Fit<N>, out: &mut [u8]) {
    for (out, code) in out.iter_mut().zip(fit.codes) {
        *out = code as u8;
    }
}
