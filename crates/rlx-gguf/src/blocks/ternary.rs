//! `TQ1_0` and `TQ2_0`: 256 elements of {-1, 0, 1} with one half-precision scale at the end of the block.
//!
//! `TQ2_0` keeps 2 bits per element.  `TQ1_0` keeps five base-3 digits per byte (four in its last four bytes), scaled
//! so that the digit k is the integer part of `3 * (byte * 3^k mod 256) / 256`.

use super::legacy::abs_max;
use super::{get_half, inverse, put_half};

/// Groups of `TQ1_0` bytes: (first byte, bytes, digits per byte, first element).
const TQ1_GROUPS: [(usize, usize, usize, usize); 3] = [(0, 32, 5, 0), (32, 16, 5, 160), (48, 4, 4, 240)];
const POWERS_OF_3: [u8; 5] = [1, 3, 9, 27, 81];

pub(super) fn dequantize_tq1_0(b: &[u8; 54], y: &mut [f32; 256]) {
    let d = get_half(b, 52);
    for (byte, n, digits, element) in TQ1_GROUPS {
        for (k, power) in POWERS_OF_3.iter().take(digits).enumerate() {
            for i in 0..n {
                let digit = (u16::from(b[byte + i].wrapping_mul(*power)) * 3) >> 8;
                y[element + k * n + i] = d * (f32::from(digit) - 1.0);
            }
        }
    }
}

pub(super) fn dequantize_tq2_0(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = get_half(b, 64);
    for (e, y) in y.iter_mut().enumerate() {
        let (half, shift, lane) = (e / 128, e / 32 % 4 * 2, e % 32);
        let code = b[half * 32 + lane] >> shift & 3;
        *y = d * (f32::from(code) - 1.0);
    }
}

/// The scale (largest magnitude) and the codes 0, 1, 2.
fn ternary(x: &[f32; 256]) -> (f32, [u8; 256]) {
    let d = abs_max(x);
    let scale = inverse(d);
    (d, x.map(|v| ((v * scale).round() as i8).clamp(-1, 1).wrapping_add(1) as u8))
}

pub(super) fn quantize_tq1_0(x: &[f32; 256], b: &mut [u8; 54]) {
    let (d, codes) = ternary(x);
    for (byte, n, digits, element) in TQ1_GROUPS {
        for i in 0..n {
            let value = (0..digits).fold(0u16, |v, k| v * 3 + u16::from(codes[element + k * n + i]));
            // Four digits leave the place of the fifth empty.
            let value = if digits == 4 { value * 3 } else { value };
            b[byte + i] = (value * 256).div_ceil(243) as u8;
        }
    }
    put_half(b, 52, d);
}

pub(super) fn quantize_tq2_0(x: &[f32; 256], b: &mut [u8; 66]) {
    let (d, codes) = ternary(x);
    for byte in 0..64 {
        let (half, lane) = (byte / 32, byte % 32);
        b[byte] = (0..4).fold(0, |v, k| v | codes[half * 128 + k * 32 + lane] << (2 * k));
    }
    put_half(b, 64, d);
}
