//! `MXFP4` and `NVFP4`: 4-bit floats (e2m1) with shared scales.
//!
//! `MXFP4` (OCP Microscaling Formats 1.0): one power-of-two scale byte (e8m0) for 32 elements.  `NVFP4`: four
//! unsigned e4m3 scales, each for 16 of 64 elements.  Byte i of a scale's codes holds element i in its low nibble and
//! the element half a group later in its high nibble.  Levels are stored doubled, so scales decode to half their value.

use super::legacy::abs_max;

/// Twice the value of each e2m1 code.
pub(super) const LEVELS: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Half of `2^(e - 127)`; the two smallest exponents are subnormal numbers.
fn e8m0_half(e: u8) -> f32 {
    let bits = if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 };
    f32::from_bits(bits)
}

/// Half of an unsigned e4m3 number (bias 7, bit 7 ignored); 0x7F is read as zero.
fn ue4m3_half(x: u8) -> f32 {
    if x == 0 || x == 0x7F {
        return 0.0;
    }
    let (exponent, mantissa) = (i32::from(x >> 3 & 15), f32::from(x & 7));
    let value = if exponent == 0 { mantissa / 512.0 } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) };
    value * 0.5
}

/// The unsigned e4m3 number nearest to `x` (halves round up in magnitude), at most 448.
fn to_ue4m3(x: f32) -> u8 {
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    let bits = x.min(448.0).to_bits();
    let exponent = (bits >> 23 & 0xFF) as i32 - 127 + 7;
    if exponent <= 0 {
        return ((x * 512.0 + 0.5) as u8).min(7);
    }
    let code = (exponent as u32) << 3 | bits >> 20 & 7;
    (code + (bits >> 19 & 1)).min(0x7E) as u8
}

/// The code whose level times `d` is nearest to `x`; the first of equals.
fn nearest(x: f32, d: f32) -> u8 {
    let mut best = (f32::INFINITY, 0);
    for (code, level) in LEVELS.iter().enumerate() {
        let error = (d * level - x).abs();
        if error < best.0 {
            best = (error, code as u8);
        }
    }
    best.1
}

pub(super) fn dequantize_mxfp4(b: &[u8; 17], y: &mut [f32; 32]) {
    let d = e8m0_half(b[0]);
    for i in 0..16 {
        let codes = b[1 + i];
        y[i] = d * LEVELS[usize::from(codes & 15)];
        y[i + 16] = d * LEVELS[usize::from(codes >> 4)];
    }
}

pub(super) fn quantize_mxfp4(x: &[f32; 32], b: &mut [u8; 17]) {
    let max = abs_max(x);
    b[0] = if max > 0.0 { (max.log2().floor() - 2.0 + 127.0) as u8 } else { 0 };
    let d = e8m0_half(b[0]);
    for i in 0..16 {
        b[1 + i] = nearest(x[i], d) | nearest(x[i + 16], d) << 4;
    }
}

pub(super) fn dequantize_nvfp4(b: &[u8; 36], y: &mut [f32; 64]) {
    for group in 0..4 {
        let d = ue4m3_half(b[group]);
        for i in 0..8 {
            let codes = b[4 + group * 8 + i];
            y[group * 16 + i] = d * LEVELS[usize::from(codes & 15)];
            y[group * 16 + i + 8] = d * LEVELS[usize::from(codes >> 4)];
        }
    }
}

pub(super) fn quantize_nvfp4(x: &[f32; 64], b: &mut [u8; 36]) {
    for group in 0..4 {
        let x = &x[group * 16..][..16];
        b[group] = to_ue4m3(abs_max(x) / 6.0);
        let d = ue4m3_half(b[group]);
        for i in 0..8 {
            b[4 + group * 8 + i] = nearest(x[i], d) | nearest(x[i + 8], d) << 4;
        }
    }
}
