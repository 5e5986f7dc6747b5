//! Descriptions and views of tensors.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::TensorData;
use rlx_gguf::TensorType;
use rlx_ir::DType;
use std::fmt;

/// The element type of a tensor in a file.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StoredType {
    /// A type that can be computed with.
    Known(DType),
    /// A type of the safetensors format that has no meaning here; refused at use.
    Safetensors(::safetensors::Dtype),
    /// A ggml type number that has no meaning here; refused at use.
    Ggml(u32),
}

impl StoredType {
    /// The type, if it can be computed with.
    pub fn dtype(self) -> Option<DType> {
        match self {
            StoredType::Known(d) => Some(d),
            _ => None,
        }
    }

    /// Bits per element of the types of safetensors files.
    pub(super) fn bits(self) -> Option<usize> {
        match self {
            StoredType::Known(d) => d.size().map(|bytes| bytes * 8),
            StoredType::Safetensors(d) => Some(d.bitsize()),
            StoredType::Ggml(_) => None,
        }
    }

    /// The type of a tensor in a GGUF file.
    pub(super) fn ggml(ty: TensorType) -> StoredType {
        StoredType::Known(match ty {
            TensorType::F32 => DType::F32,
            TensorType::F16 => DType::F16,
            TensorType::BF16 => DType::BF16,
            TensorType::F64 => DType::F64,
            TensorType::I8 => DType::I8,
            TensorType::I16 => DType::I16,
            TensorType::I32 => DType::I32,
            TensorType::I64 => DType::I64,
            TensorType::Block(b) => DType::Block(b),
            TensorType::Unknown(n) => return StoredType::Ggml(n),
        })
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredType::Known(d) => d.fmt(f),
            StoredType::Safetensors(d) => write!(f, "{d:?}"),
            StoredType::Ggml(n) => write!(f, "ggml type {n}"),
        }
    }
}

/// What a tensor looks like and where it is.  The data lies inside its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorMeta {
    /// The name in the file.
    pub name: String,
    /// The element type.
    pub stored: StoredType,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// Which of [`Checkpoint::files`](super::Checkpoint::files) holds the data.
    pub file: u32,
    /// First byte of the data, from the start of that file.  For a weight put together from several tensors of the
    /// file: of its codes.
    pub offset: u64,
    /// Bytes of data, as [`Checkpoint::view`](super::Checkpoint::view) gives them.
    pub bytes: u64,
}

impl TensorMeta {
    /// The element type, if it can be computed with.
    pub fn dtype(&self) -> Option<DType> {
        self.stored.dtype()
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n, d| n.saturating_mul(*d as u64))
    }
}

/// A tensor: type, shape and bytes.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// The element type.
    pub dtype: DType,
    /// Row-major, outermost dimension first.
    pub shape: &'a [usize],
    /// The bytes, little endian, rows outermost first.
    pub data: TensorData,
}

impl TensorView<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }
}

/// The types that can be computed with, for messages.
pub(super) fn known_types() -> String {
    let plain = "f64, f32, f16, bf16, f8e4m3, f8e5m2, i64, i32, i16, i8, u64, u32, u16, u8, bool";
    let blocks = rlx_gguf::BlockFormat::GGML.iter().map(|b| b.name().to_ascii_lowercase());
    blocks.fold(plain.to_owned(), |list, b| list + ", " + &b)
}
