//! Block formats: layout, reference dequantisers and reference quantisers.
//!
//! The formats are ggml's, and two families that GGUF files do not have: [`Affine`] (MLX's quantised weights) and
//! [`Fp8`].
//!
//! A tensor of a block format is a sequence of rows; a row is a sequence of blocks; a block of
//! [`BlockFormat::block_bytes`] bytes stands for [`BlockFormat::block_len`] consecutive elements.  Dequantisers do
//! float32 arithmetic in the order of ggml and gguf-py, so results are equal bit for bit.  [`BlockFormat::quantize`]
//! follows ggml's `quantize_row_*_ref`, [`BlockFormat::quantize_rows`] what ggml does for files, with the importance of
//! columns where it is known.
//!
//! This is the reference: one block at a time, no SIMD, no allocation.  Fast kernels live in the backends and are
//! compared with it.

mod affine;
mod fp4;
mod fp8;
mod grid_codes;
pub mod grids;
mod iq;
mod iq1_quantize;
mod iq4;
mod iq_quantize;
mod k;
mod k_quantize;
mod k_weighted;
mod lattice;
mod legacy;
mod rows;
mod search;
mod ternary;
mod weights;

pub use affine::{Affine, ScaleType};
pub use fp8::{E4M3, Fp8, to_e4m3};
use std::fmt;

/// A block format.
///
/// `Q8_1` and `Q8K` are ggml's formats for activations; they do not normally occur in files.
#[allow(non_camel_case_types, reason = "ggml's spelling")]
#[allow(missing_docs, reason = "the names are the documentation; see the table in `BlockFormat::layout`")]
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    IQ1S,
    IQ1M,
    IQ2XXS,
    IQ2XS,
    IQ2S,
    IQ3XXS,
    IQ3S,
    IQ4NL,
    IQ4XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Affine(Affine),
    Fp8(Fp8),
}

/// Why a block conversion was refused.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The two buffers do not describe the same whole number of blocks.
    #[error("{format}: {bytes} bytes and {elements} elements do not match: a block is {} bytes for {} elements", format.block_bytes(), format.block_len())]
    Length {
        /// The format of the blocks.
        format: BlockFormat,
        /// Bytes in the block buffer.
        bytes: usize,
        /// Elements in the f32 buffer.
        elements: usize,
    },
    /// The format has too few bits to be quantised to without the importance of columns.
    #[error("{0} cannot be quantised to without an importance matrix; give one, or choose one of {list}", list = quantizable())]
    NeedsImportance(BlockFormat),
    /// The importance does not have one entry per column.
    #[error("{format}: {found} entries of importance for rows of {columns} elements")]
    Importance {
        /// The format of the blocks.
        format: BlockFormat,
        /// Entries found.
        found: usize,
        /// Elements of a row.
        columns: usize,
    },
    /// No affine format has these numbers.
    #[error(
        "no affine format has codes of {bits} bits in groups of {group}; expected {:?} bits and groups of {:?}",
        Affine::BITS,
        Affine::GROUPS
    )]
    NoAffine {
        /// Bits of a code.
        bits: usize,
        /// Elements of a group.
        group: usize,
    },
    /// No fp8 format has groups of this size.
    #[error("no fp8 format has groups of {group} elements; expected one of {:?}", Fp8::GROUPS)]
    NoFp8 {
        /// Elements of a group.
        group: usize,
    },
}

fn quantizable() -> String {
    let names = BlockFormat::GGML.iter().filter(|f| f.has_quantizer()).map(|f| f.name());
    let others = ["affine<bits>_g<group>_<f16|bf16|f32>", "fp8_g<group>"];
    names.chain(others).collect::<Vec<_>>().join(", ")
}

use BlockFormat as F;

impl BlockFormat {
    /// The formats that ggml has, in declaration order.
    pub const GGML: &[BlockFormat] = &[
        F::Q4_0,
        F::Q4_1,
        F::Q5_0,
        F::Q5_1,
        F::Q8_0,
        F::Q8_1,
        F::Q2K,
        F::Q3K,
        F::Q4K,
        F::Q5K,
        F::Q6K,
        F::Q8K,
        F::IQ1S,
        F::IQ1M,
        F::IQ2XXS,
        F::IQ2XS,
        F::IQ2S,
        F::IQ3XXS,
        F::IQ3S,
        F::IQ4NL,
        F::IQ4XS,
        F::TQ1_0,
        F::TQ2_0,
        F::MXFP4,
        F::NVFP4,
    ];

    /// Every format: ggml's, then the affine and the fp8 ones.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::GGML.iter().copied().chain(Affine::all().map(F::Affine)).chain(Fp8::all().map(F::Fp8))
    }

    /// (elements per block, bytes per block, name, ggml's type number).
    const fn layout(self) -> (usize, usize, &'static str, Option<u32>) {
        let (len, bytes, name, number) = match self {
            F::Q4_0 => (32, 18, "Q4_0", 2),
            F::Q4_1 => (32, 20, "Q4_1", 3),
            F::Q5_0 => (32, 22, "Q5_0", 6),
            F::Q5_1 => (32, 24, "Q5_1", 7),
            F::Q8_0 => (32, 34, "Q8_0", 8),
            F::Q8_1 => (32, 36, "Q8_1", 9),
            F::Q2K => (256, 84, "Q2_K", 10),
            F::Q3K => (256, 110, "Q3_K", 11),
            F::Q4K => (256, 144, "Q4_K", 12),
            F::Q5K => (256, 176, "Q5_K", 13),
            F::Q6K => (256, 210, "Q6_K", 14),
            F::Q8K => (256, 292, "Q8_K", 15),
            F::IQ1S => (256, 50, "IQ1_S", 19),
            F::IQ1M => (256, 56, "IQ1_M", 29),
            F::IQ2XXS => (256, 66, "IQ2_XXS", 16),
            F::IQ2XS => (256, 74, "IQ2_XS", 17),
            F::IQ2S => (256, 82, "IQ2_S", 22),
            F::IQ3XXS => (256, 98, "IQ3_XXS", 18),
            F::IQ3S => (256, 110, "IQ3_S", 21),
            F::IQ4NL => (32, 18, "IQ4_NL", 20),
            F::IQ4XS => (256, 136, "IQ4_XS", 23),
            F::TQ1_0 => (256, 54, "TQ1_0", 34),
            F::TQ2_0 => (256, 66, "TQ2_0", 35),
            F::MXFP4 => (32, 17, "MXFP4", 39),
            F::NVFP4 => (64, 36, "NVFP4", 40),
            F::Affine(a) => return (a.group(), a.block_bytes(), a.name(), None),
            F::Fp8(f) => return (f.group(), f.block_bytes(), f.name(), None),
        };
        (len, bytes, name, Some(number))
    }

    /// Elements per block.
    pub const fn block_len(self) -> usize {
        self.layout().0
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.layout().1
    }

    /// The name: `Q4_K`, `IQ2_XXS`, ... in ggml's spelling, `affine4_g64_bf16`, `fp8_g128`.
    pub const fn name(self) -> &'static str {
        self.layout().2
    }

    /// ggml's type number, as stored in GGUF tensor descriptions; `None` for formats that ggml does not have.
    pub const fn ggml_type(self) -> Option<u32> {
        self.layout().3
    }

    /// The format with ggml's type number `number`.
    pub fn from_ggml_type(number: u32) -> Option<Self> {
        Self::GGML.iter().copied().find(|f| f.ggml_type() == Some(number))
    }

    /// The format named `name`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|f| f.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row of `cols` elements; `None` when `cols` is not a multiple of the block or the result overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether [`quantize`](Self::quantize) does the format: all but three need no importance matrix.
    pub const fn has_quantizer(self) -> bool {
        !matches!(self, F::IQ1S | F::IQ2XXS | F::IQ2XS)
    }

    /// Decodes whole blocks: `src` holds n × `block_bytes` bytes, `dst` n × `block_len` elements.
    ///
    /// Any bytes decode to something; NaN and infinite scales give NaN and infinite values.
    ///
    /// # Errors
    /// [`BlockError::Length`] when the two lengths are not the same whole number of blocks.
    pub fn dequantize(self, src: &[u8], dst: &mut [f32]) -> Result<(), BlockError> {
        self.check_lengths(src.len(), dst.len())?;
        match self {
            F::Q4_0 => decode(src, dst, legacy::dequantize_q4_0),
            F::Q4_1 => decode(src, dst, legacy::dequantize_q4_1),
            F::Q5_0 => decode(src, dst, legacy::dequantize_q5_0),
            F::Q5_1 => decode(src, dst, legacy::dequantize_q5_1),
            F::Q8_0 => decode(src, dst, legacy::dequantize_q8_0),
            F::Q8_1 => decode(src, dst, legacy::dequantize_q8_1),
            F::Q2K => decode(src, dst, k::dequantize_q2_k),
            F::Q3K => decode(src, dst, k::dequantize_q3_k),
            F::Q4K => decode(src, dst, k::dequantize_q4_k),
            F::Q5K => decode(src, dst, k::dequantize_q5_k),
            F::Q6K => decode(src, dst, k::dequantize_q6_k),
            F::Q8K => decode(src, dst, k::dequantize_q8_k),
            F::IQ1S => decode(src, dst, iq::dequantize_iq1_s),
            F::IQ1M => decode(src, dst, iq::dequantize_iq1_m),
            F::IQ2XXS => decode(src, dst, iq::dequantize_iq2_xxs),
            F::IQ2XS => decode(src, dst, iq::dequantize_iq2_xs),
            F::IQ2S => decode(src, dst, iq::dequantize_iq2_s),
            F::IQ3XXS => decode(src, dst, iq::dequantize_iq3_xxs),
            F::IQ3S => decode(src, dst, iq::dequantize_iq3_s),
            F::IQ4NL => decode(src, dst, iq4::dequantize_iq4_nl),
            F::IQ4XS => decode(src, dst, iq4::dequantize_iq4_xs),
            F::TQ1_0 => decode(src, dst, ternary::dequantize_tq1_0),
            F::TQ2_0 => decode(src, dst, ternary::dequantize_tq2_0),
            F::MXFP4 => decode(src, dst, fp4::dequantize_mxfp4),
            F::NVFP4 => decode(src, dst, fp4::dequantize_nvfp4),
            F::Affine(a) => a.dequantize(src, dst),
            F::Fp8(f) => f.dequantize(src, dst),
        }
        Ok(())
    }

    /// Encodes whole blocks: `src` holds n × `block_len` finite elements, `dst` n × `block_bytes` bytes.
    ///
    /// Values that are not finite give unspecified (but initialised) bytes in their block.
    ///
    /// # Errors
    /// [`BlockError::NeedsImportance`] for `IQ1_S`, `IQ2_XXS` and `IQ2_XS`, [`BlockError::Length`] when the two lengths
    /// are not the same whole number of blocks.
    pub fn quantize(self, src: &[f32], dst: &mut [u8]) -> Result<(), BlockError> {
        if !self.has_quantizer() {
            return Err(BlockError::NeedsImportance(self));
        }
        self.check_lengths(dst.len(), src.len())?;
        match self {
            F::Q4_0 => encode(src, dst, legacy::quantize_q4_0),
            F::Q4_1 => encode(src, dst, legacy::quantize_q4_1),
            F::Q5_0 => encode(src, dst, legacy::quantize_q5_0),
            F::Q5_1 => encode(src, dst, legacy::quantize_q5_1),
            F::Q8_0 => encode(src, dst, legacy::quantize_q8_0),
            F::Q8_1 => encode(src, dst, legacy::quantize_q8_1),
            F::Q2K => encode(src, dst, k_quantize::quantize_q2_k),
            F::Q3K => encode(src, dst, k_quantize::quantize_q3_k),
            F::Q4K => encode(src, dst, k_quantize::quantize_q4_k),
            F::Q5K => encode(src, dst, k_quantize::quantize_q5_k),
            F::Q6K => encode(src, dst, k_quantize::quantize_q6_k),
            F::Q8K => encode(src, dst, k_quantize::quantize_q8_k),
            F::IQ1M => encode(src, dst, |x, b| iq1_quantize::quantize_iq1_m(x, None, b)),
            F::IQ2S => encode(src, dst, |x, b| iq_quantize::quantize_iq2_s(x, None, b)),
            F::IQ3XXS => encode(src, dst, |x, b| iq_quantize::quantize_iq3_xxs(x, None, b)),
            F::IQ3S => encode(src, dst, |x, b| iq_quantize::quantize_iq3_s(x, None, b)),
            F::IQ4NL => encode(src, dst, iq4::quantize_iq4_nl),
            F::IQ4XS => encode(src, dst, |x, b| iq4::quantize_iq4_xs(x, None, b)),
            F::TQ1_0 => encode(src, dst, ternary::quantize_tq1_0),
            F::TQ2_0 => encode(src, dst, ternary::quantize_tq2_0),
            F::MXFP4 => encode(src, dst, fp4::quantize_mxfp4),
            F::NVFP4 => encode(src, dst, fp4::quantize_nvfp4),
            F::Affine(a) => a.quantize(src, dst),
            F::Fp8(f) => f.quantize(src, dst),
            F::IQ1S | F::IQ2XXS | F::IQ2XS => return Err(BlockError::NeedsImportance(self)),
        }
        Ok(())
    }

    fn check_lengths(self, bytes: usize, elements: usize) -> Result<(), BlockError> {
        match self.row_bytes(elements) {
            Some(needed) if needed == bytes => Ok(()),
            _ => Err(BlockError::Length { format: self, bytes, elements }),
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn decode<const B: usize, const N: usize>(src: &[u8], dst: &mut [f32], block: fn(&[u8; B], &mut [f32; N])) {
    let (blocks, values) = (src.as_chunks().0, dst.as_chunks_mut().0);
    for (b, y) in blocks.iter().zip(values) {
        block(b, y);
    }
}

fn encode<const N: usize, const B: usize>(src: &[f32], dst: &mut [u8], block: fn(&[f32; N], &mut [u8; B])) {
    let (values, blocks) = (src.as_chunks().0, dst.as_chunks_mut().0);
    for (x, b) in values.iter().zip(blocks) {
        block(x, b);
    }
}

/// The half-precision number at byte `at` of a block.
fn get_half(block: &[u8], at: usize) -> f32 {
    half::f16::from_bits(get_u16(block, at)).to_f32()
}

/// Stores `value` as half precision at byte `at` and returns what was stored.
fn put_half(block: &mut [u8], at: usize, value: f32) -> f32 {
    let stored = half::f16::from_f32(value);
    block[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

fn get_u16(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn get_u32(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// `1 / x`, and 0 for 0: the inverse scale of an all-zero block.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}
