//! Element types and descriptions of tensors.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::blocks::{BlockError, BlockFormat};
use std::fmt;

/// The element type of a tensor.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the variants are the types of ggml")]
pub enum TensorType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Block(BlockFormat),
    /// A ggml type number whose layout is not known here: removed, newer, or not yet implemented.
    Unknown(u32),
}

use TensorType as T;

impl TensorType {
    const PLAIN: [(TensorType, u32, usize, &'static str); 8] = [
        (T::F32, 0, 4, "F32"),
        (T::F16, 1, 2, "F16"),
        (T::I8, 24, 1, "I8"),
        (T::I16, 25, 2, "I16"),
        (T::I32, 26, 4, "I32"),
        (T::I64, 27, 8, "I64"),
        (T::F64, 28, 8, "F64"),
        (T::BF16, 30, 2, "BF16"),
    ];

    /// The type with ggml's number `number`.
    pub fn from_ggml_type(number: u32) -> Self {
        let plain = Self::PLAIN.iter().find(|p| p.1 == number).map(|p| p.0);
        plain.or_else(|| BlockFormat::from_ggml_type(number).map(T::Block)).unwrap_or(T::Unknown(number))
    }

    /// ggml's number of the type; `None` for block formats that ggml does not have.
    pub fn ggml_type(self) -> Option<u32> {
        match self {
            T::Block(format) => format.ggml_type(),
            T::Unknown(number) => Some(number),
            plain => Self::PLAIN.iter().find(|p| p.0 == plain).map(|p| p.1),
        }
    }

    /// The type named `name` (`F16`, `Q4_K`, `affine4_g64_bf16`), in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = Self::PLAIN.iter().find(|p| p.3.eq_ignore_ascii_case(name)).map(|p| p.0);
        plain.or_else(|| BlockFormat::from_name(name).map(T::Block))
    }

    /// Elements per block: 1 for plain types, `None` for unknown ones.
    pub fn block_len(self) -> Option<usize> {
        match self {
            T::Block(format) => Some(format.block_len()),
            T::Unknown(_) => None,
            _ => Some(1),
        }
    }

    /// Bytes of a row of `cols` elements; `None` for partial blocks, unknown types and on overflow.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            T::Block(format) => format.row_bytes(cols),
            plain => cols.checked_mul(Self::PLAIN.iter().find(|p| p.0 == plain)?.2),
        }
    }

    /// Every type that can be read, for messages.
    pub(crate) fn readable() -> String {
        let plain = Self::PLAIN.iter().map(|p| p.3);
        plain.chain(BlockFormat::GGML.iter().map(|f| f.name())).collect::<Vec<_>>().join(", ")
    }

    /// What is known about a number that is not a type of this crate, for messages.
    pub(crate) fn note(number: u32) -> &'static str {
        match number {
            4 | 5 => " (Q4_2/Q4_3, removed from ggml)",
            31..=33 => " (a Q4_0 interleaved for ARM, removed from ggml; use the plain Q4_0 file)",
            36..=38 => " (an IQ4_NL interleaved for ARM, removed from ggml; use the plain IQ4_NL file)",
            41 => " (Q1_0)",
            _ => "",
        }
    }

    /// Converts `dst.len()` elements to f32; 64-bit types and I32 are rounded.
    ///
    /// # Errors
    /// [`BlockError::Length`] when a block format's lengths do not match.  For plain types the shorter side decides.
    pub(crate) fn decode(self, src: &[u8], dst: &mut [f32]) -> Result<(), BlockError> {
        fn each<const N: usize>(src: &[u8], dst: &mut [f32], f: impl Fn([u8; N]) -> f32) {
            for (b, y) in src.as_chunks::<N>().0.iter().zip(dst) {
                *y = f(*b);
            }
        }
        match self {
            T::F32 => each(src, dst, f32::from_le_bytes),
            T::F16 => each(src, dst, |b| half::f16::from_le_bytes(b).to_f32()),
            T::BF16 => each(src, dst, |b| half::bf16::from_le_bytes(b).to_f32()),
            T::F64 => each(src, dst, |b| f64::from_le_bytes(b) as f32),
            T::I8 => each(src, dst, |b| f32::from(i8::from_le_bytes(b))),
            T::I16 => each(src, dst, |b| f32::from(i16::from_le_bytes(b))),
            T::I32 => each(src, dst, |b| i32::from_le_bytes(b) as f32),
            T::I64 => each(src, dst, |b| i64::from_le_bytes(b) as f32),
            T::Block(format) => return format.dequantize(src, dst),
            T::Unknown(_) => dst.fill(f32::NAN),
        }
        Ok(())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            T::Block(format) => format.fmt(f),
            T::Unknown(number) => write!(f, "ggml type {number}"),
            plain => f.write_str(Self::PLAIN.iter().find(|p| p.0 == *plain).map_or("?", |p| p.3)),
        }
    }
}

/// Where a tensor is and what it looks like.  Read from a file, it is validated: the data lies inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name: not empty, no NUL, at most 1024 bytes.
    pub name: String,
    /// The element type.
    pub ty: TensorType,
    /// Row-major, outermost dimension first (ggml's `ne` reversed).  Empty for a scalar; no dimension is 0.
    pub shape: Vec<u64>,
    /// First byte of the data, counted from the start of the file it is in.
    pub offset: u64,
    /// Bytes of data.  For unknown types: the bytes up to the next tensor or the end of the file.
    pub bytes: u64,
    /// Which part of a split file holds the data; 0 for files that are not split.
    pub part: u32,
}

impl TensorInfo {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        // The parser has checked that the product fits.
        self.shape.iter().fold(1, |n, d| n.saturating_mul(*d))
    }
}

/// Why a shape has no size in bytes.
pub(crate) enum SizeError {
    Overflow,
    Row { columns: u64, format: BlockFormat },
}

/// Elements and bytes of a tensor; bytes are `None` for unknown types.  `shape` is outermost first.
pub(crate) fn size(ty: TensorType, shape: &[u64]) -> Result<(u64, Option<u64>), SizeError> {
    let columns = shape.last().copied().unwrap_or(1);
    let elements =
        shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| i64::try_from(*n).is_ok()).ok_or(SizeError::Overflow)?;
    if let T::Unknown(_) = ty {
        return Ok((elements, None));
    }
    if let T::Block(format) = ty
        && !columns.is_multiple_of(format.block_len() as u64)
    {
        return Err(SizeError::Row { columns, format });
    }
    // Rows are whole, so the tensor is one long row.
    let bytes = usize::try_from(elements).ok().and_then(|n| ty.row_bytes(n));
    Ok((elements, Some(bytes.ok_or(SizeError::Overflow)? as u64)))
}
