//! Affine formats: groups of unsigned codes with a scale and a bias, as MLX stores quantised weights.
//!
//! A block is one group: `[scale][bias][codes]`, all little endian.  Code i of `bits` bits starts at bit `i * bits` of
//! the codes, lowest bits first, so the codes of a group are a contiguous run of bytes of MLX's packed `.weight`, and
//! scale and bias are one element each of its `.scales` and `.biases`.  An element is `scale * code + bias`.
//!
//! The quantiser follows `affine_quantize` of MLX's CPU backend: the end of the range with the larger magnitude is
//! represented exactly, and zero is a code wherever the range contains it.

use super::{BlockError, get_u16, get_u32};
use half::{bf16, f16};

/// The type of the scales and biases of an [`Affine`] format.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum ScaleType {
    F16,
    BF16,
    F32,
}

impl ScaleType {
    /// All of them.
    pub const ALL: [ScaleType; 3] = [ScaleType::F16, ScaleType::BF16, ScaleType::F32];

    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            ScaleType::F16 | ScaleType::BF16 => 2,
            ScaleType::F32 => 4,
        }
    }

    /// The number at byte `at` of a block.
    fn get(self, block: &[u8], at: usize) -> f32 {
        match self {
            ScaleType::F16 => f16::from_bits(get_u16(block, at)).to_f32(),
            ScaleType::BF16 => bf16::from_bits(get_u16(block, at)).to_f32(),
            ScaleType::F32 => f32::from_bits(get_u32(block, at)),
        }
    }

    /// Stores `value`, rounded to nearest even, at byte `at` of a block.
    fn put(self, block: &mut [u8], at: usize, value: f32) {
        match self {
            ScaleType::F16 => block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            ScaleType::BF16 => block[at..at + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            ScaleType::F32 => block[at..at + 4].copy_from_slice(&value.to_le_bytes()),
        }
    }
}

/// An affine format: bits per code, elements per group, type of scale and bias.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Affine {
    bits: u8,
    group: u8,
    scale: ScaleType,
}

impl Affine {
    /// Bits of a code that MLX has.
    pub const BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];
    /// Elements of a group that MLX has.
    pub const GROUPS: [usize; 3] = [32, 64, 128];

    /// The format with codes of `bits` bits in groups of `group` elements.
    ///
    /// # Errors
    /// [`BlockError::NoAffine`] for numbers that are not in [`BITS`](Self::BITS) and [`GROUPS`](Self::GROUPS).
    pub fn new(bits: usize, group: usize, scale: ScaleType) -> Result<Self, BlockError> {
        if Self::BITS.contains(&bits) && Self::GROUPS.contains(&group) {
            return Ok(Affine { bits: bits as u8, group: group as u8, scale });
        }
        Err(BlockError::NoAffine { bits, group })
    }

    /// Every affine format.
    pub fn all() -> impl Iterator<Item = Affine> {
        let formats = |bits: usize, group: usize| ScaleType::ALL.map(|scale| Affine { bits: bits as u8, group: group as u8, scale });
        Self::BITS.into_iter().flat_map(move |bits| Self::GROUPS.into_iter().flat_map(move |group| formats(bits, group)))
    }

    /// Bits of a code.
    pub const fn bits(self) -> usize {
        self.bits as usize
    }

    /// Elements of a group.
    pub const fn group(self) -> usize {
        self.group as usize
    }

    /// The type of scale and bias.
    pub const fn scale(self) -> ScaleType {
        self.scale
    }

    /// Byte of a block at which its codes start.
    pub const fn codes_at(self) -> usize {
        2 * self.scale.bytes()
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.codes_at() + self.group() * self.bits() / 8
    }

    /// `affine4_g64_bf16`
    pub(super) const fn name(self) -> &'static str {
        let bits = match self.bits {
            8 => 5,
            bits => bits as usize - 2,
        };
        NAMES[bits][self.group as usize / 64][self.scale as usize]
    }

    pub(super) fn dequantize(self, src: &[u8], dst: &mut [f32]) {
        match self.bits {
            2 => self.decode::<2>(src, dst),
            3 => self.decode::<3>(src, dst),
            4 => self.decode::<4>(src, dst),
            5 => self.decode::<5>(src, dst),
            6 => self.decode::<6>(src, dst),
            _ => self.decode::<8>(src, dst),
        }
    }

    fn decode<const BITS: usize>(self, src: &[u8], dst: &mut [f32]) {
        for (block, y) in src.chunks_exact(self.block_bytes()).zip(dst.chunks_exact_mut(self.group())) {
            let (scale, bias) = (self.scale.get(block, 0), self.scale.get(block, self.scale.bytes()));
            let codes = block[self.codes_at()..].as_chunks::<BITS>().0;
            for (bytes, y) in codes.iter().zip(y.as_chunks_mut::<8>().0) {
                let mut word = [0; 8];
                word[..BITS].copy_from_slice(bytes);
                let word = u64::from_le_bytes(word);
                for (i, y) in y.iter_mut().enumerate() {
                    *y = scale * (word >> (BITS * i) & ((1 << BITS) - 1)) as f32 + bias;
                }
            }
        }
    }

    pub(super) fn quantize(self, src: &[f32], dst: &mut [u8]) {
        for (x, block) in src.chunks_exact(self.group()).zip(dst.chunks_exact_mut(self.block_bytes())) {
            let top = ((1u32 << self.bits) - 1) as f32;
            let (scale, bias) = scale_and_bias(x, top);
            self.scale.put(block, 0, scale);
            self.scale.put(block, self.scale.bytes(), bias);
            for (x, bytes) in x.as_chunks::<8>().0.iter().zip(block[self.codes_at()..].chunks_exact_mut(self.bits())) {
                // The codes are found with the scale and bias before they are rounded to their type.
                let code = |x: f32| ((x - bias) / scale).round_ties_even().max(0.0).min(top) as u64;
                let word = x.iter().enumerate().fold(0, |w, (i, x)| w | code(*x) << (self.bits() * i));
                bytes.copy_from_slice(&word.to_le_bytes()[..self.bits()]);
            }
        }
    }
}

/// Scale and bias of a group with codes `0..=top`.
fn scale_and_bias(x: &[f32], top: f32) -> (f32, f32) {
    const LEAST_SCALE: f32 = 1e-7;
    let (min, max) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| (v.min(lo), v.max(hi)));
    let width = ((max - min) / top).max(LEAST_SCALE);
    let (edge, scale) = if min.abs() > max.abs() { (min, width) } else { (max, -width) };
    // Codes from the far edge to zero; the scale is adjusted so that they are a whole number.
    let to_zero = (edge / scale).round_ties_even();
    if to_zero == 0.0 { (scale, 0.0) } else { (edge / to_zero, edge) }
}

macro_rules! names {
    ($($bits:literal),*) => { [$([names!(@ $bits, 32), names!(@ $bits, 64), names!(@ $bits, 128)]),*] };
    (@ $bits:literal, $group:literal) => {
        [
            concat!("affine", $bits, "_g", $group, "_f16"),
            concat!("affine", $bits, "_g", $group, "_bf16"),
            concat!("affine", $bits, "_g", $group, "_f32"),
        ]
    };
}

const NAMES: [[[&str; 3]; 3]; 6] = names!(2, 3, 4, 5, 6, 8);
