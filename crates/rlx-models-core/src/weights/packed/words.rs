//! Numbers in byte slices, as parts of weights keep them.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::super::StoredType;
use super::TensorMeta;
use rlx_ir::DType;

/// The types of scales that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Real {
    F32,
    F16,
    BF16,
    /// Powers of two, exponent plus 127.
    E8M0,
}

impl Real {
    pub const NAMES: &'static str = "f32, f16 or bf16";

    /// The type of a tensor of scales.
    pub fn of(t: &TensorMeta) -> Option<Real> {
        match t.stored {
            StoredType::Known(DType::F32) => Some(Real::F32),
            StoredType::Known(DType::F16) => Some(Real::F16),
            StoredType::Known(DType::BF16) => Some(Real::BF16),
            StoredType::Safetensors(safetensors::Dtype::F8_E8M0) => Some(Real::E8M0),
            _ => None,
        }
    }

    /// Number `i`; 0 beyond the end.
    pub fn get(self, bytes: &[u8], i: usize) -> f32 {
        match self {
            Real::F32 => f32::from_bits(word(bytes, i)),
            Real::F16 => half::f16::from_le_bytes(half_word(bytes, i)).to_f32(),
            Real::BF16 => half::bf16::from_le_bytes(half_word(bytes, i)).to_f32(),
            Real::E8M0 => power(bytes.get(i).copied().unwrap_or_default()),
        }
    }
}

/// `2^(e - 127)`; NaN for 255.
pub(super) fn power(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

fn half_word(bytes: &[u8], i: usize) -> [u8; 2] {
    bytes.as_chunks().0.get(i).copied().unwrap_or_default()
}

/// Little-endian word `i`; 0 beyond the end.
pub(super) fn word(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(bytes.as_chunks().0.get(i).copied().unwrap_or_default())
}

/// Code `i` of `bits` bits in words of 32 that are filled from the lowest bit on without gaps.  `stride` is the
/// distance of one word to the next, `first` the first of them.
pub(super) fn code(bytes: &[u8], first: usize, stride: usize, bits: usize, i: usize) -> u32 {
    let (at, shift) = (i * bits / 32, i * bits % 32);
    let low = word(bytes, first + at * stride) >> shift;
    let high = if shift + bits > 32 { word(bytes, first + (at + 1) * stride) << (32 - shift) } else { 0 };
    (low | high) & ((1u32 << bits) - 1)
}

/// Writes `pieces` one after the other to the start of `out`.
pub(super) fn put(out: &mut [u8], pieces: &[&[u8]]) {
    let mut rest = out;
    for piece in pieces {
        let Some((here, after)) = rest.split_at_mut_checked(piece.len()) else { return };
        here.copy_from_slice(piece);
        rest = after;
    }
}
