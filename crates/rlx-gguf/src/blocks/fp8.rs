//! 8-bit floats (e4m3) in groups with a scale, as checkpoints quantised to fp8 are held.
//!
//! A block is one group: `[f32 scale][codes]`, little endian.  Codes are the OCP 8-bit format E4M3: a sign, four bits of
//! exponent (bias 7), three of mantissa, subnormal numbers, no infinities, NaN at 0x7F and 0xFF, largest number 448.
//! An element is `scale * code`.

use super::legacy::abs_max;
use super::{BlockError, get_u32};

/// The largest e4m3 number.
const LARGEST: f32 = 448.0;

/// The number of each e4m3 code.
pub const E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = e4m3(code as u8);
        code += 1;
    }
    values
};

const fn e4m3(code: u8) -> f32 {
    let (sign, magnitude) = ((code as u32 & 0x80) << 24, code as u32 & 0x7F);
    if magnitude == 0x7F {
        return f32::from_bits(sign | f32::NAN.to_bits());
    }
    // The same fields at the places of f32 stand for a number 2^120 times smaller, the bias being 127.
    f32::from_bits(sign | magnitude << 20) * f32::from_bits((127 + 120) << 23)
}

/// The e4m3 code nearest to `x`, ties to even, saturating at ±448; NaN for NaN.
pub fn to_e4m3(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24 & 0x80) as u8;
    if x.is_nan() {
        return sign | 0x7F;
    }
    let x = x.abs().min(LARGEST);
    // Below 2^-6 numbers are 2^-9 apart.
    if x < 0.015625 {
        return sign | (x * 512.0).round_ties_even() as u8;
    }
    let bits = x.to_bits();
    let even = bits >> 20 & 1;
    let rounded = (bits + 0x0007_FFFF + even) >> 20;
    sign | (rounded - ((127 - 7) << 3)) as u8
}

/// An fp8 format: elements per group.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Fp8 {
    group: u8,
}

impl Fp8 {
    /// Elements that a group may have.
    pub const GROUPS: [usize; 3] = [32, 64, 128];
    /// Byte of a block at which its codes start.
    pub const CODES_AT: usize = 4;

    /// The format with groups of `group` elements.
    ///
    /// # Errors
    /// [`BlockError::NoFp8`] for a number that is not in [`GROUPS`](Self::GROUPS).
    pub fn new(group: usize) -> Result<Self, BlockError> {
        if Self::GROUPS.contains(&group) { Ok(Fp8 { group: group as u8 }) } else { Err(BlockError::NoFp8 { group }) }
    }

    /// Every fp8 format.
    pub fn all() -> impl Iterator<Item = Fp8> {
        Self::GROUPS.into_iter().map(|group| Fp8 { group: group as u8 })
    }

    /// Elements of a group.
    pub const fn group(self) -> usize {
        self.group as usize
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        Self::CODES_AT + self.group()
    }

    pub(super) const fn name(self) -> &'static str {
        match self.group {
            32 => "fp8_g32",
            64 => "fp8_g64",
            _ => "fp8_g128",
        }
    }

    pub(super) fn dequantize(self, src: &[u8], dst: &mut [f32]) {
        for (block, y) in src.chunks_exact(self.block_bytes()).zip(dst.chunks_exact_mut(self.group())) {
            let scale = f32::from_bits(get_u32(block, 0));
            for (y, code) in y.iter_mut().zip(&block[Self::CODES_AT..]) {
                *y = scale * E4M3[usize::from(*code)];
            }
        }
    }

    pub(super) fn quantize(self, src: &[f32], dst: &mut [u8]) {
        for (x, block) in src.chunks_exact(self.group()).zip(dst.chunks_exact_mut(self.block_bytes())) {
            let scale = abs_max(x) / LARGEST;
            block[..Self::CODES_AT].copy_from_slice(&scale.to_le_bytes());
            for (x, code) in x.iter().zip(&mut block[Self::CODES_AT..]) {
                *code = if scale == 0.0 { 0 } else { to_e4m3(x / scale) };
            }
        }
    }
}
