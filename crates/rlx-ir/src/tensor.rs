//! Host tensors of the reference interpreter, and [`Segments`].

use crate::DType;
use rlx_gguf::blocks::{E4M3, to_e4m3};
use std::sync::Arc;

/// A dense row-major tensor on the host, every element held as f64 whatever its type.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// Element type the values stand for.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Arc<Vec<f64>>,
}

/// A byte buffer that does not fit the type and shape it is said to have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// Wrong number of bytes.
    #[error("{dtype}{shape:?} takes {expected} bytes, got {found}")]
    Bytes {
        /// Element type.
        dtype: DType,
        /// Shape.
        shape: Vec<usize>,
        /// Bytes the type and shape need.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Rows do not consist of whole blocks.
    #[error("{dtype}{shape:?} has rows of {} elements, expected a multiple of {block}", shape.last().unwrap_or(&1))]
    Blocks {
        /// Element type.
        dtype: DType,
        /// Shape.
        shape: Vec<usize>,
        /// Elements of a block.
        block: usize,
    },
    /// The size overflows.
    #[error("{dtype}{shape:?} has no size: the total must fit memory")]
    Size {
        /// Element type.
        dtype: DType,
        /// Shape.
        shape: Vec<usize>,
    },
    /// The block format cannot be written or read.
    #[error("{dtype}: {why}")]
    Format {
        /// Element type.
        dtype: DType,
        /// Reason.
        why: String,
    },
}

/// Bytes of a dense tensor of this type and shape.
pub fn tensor_bytes(dtype: DType, shape: &[usize]) -> Result<usize, TensorError> {
    let size = || TensorError::Size { dtype, shape: shape.to_vec() };
    let (last, outer) = shape.split_last().unwrap_or((&1, &[]));
    if let DType::Block(b) = dtype
        && !last.is_multiple_of(b.block_len())
    {
        return Err(TensorError::Blocks { dtype, shape: shape.to_vec(), block: b.block_len() });
    }
    let rows = outer.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).ok_or_else(size)?;
    dtype.row_bytes(*last).and_then(|r| r.checked_mul(rows)).ok_or_else(size)
}

macro_rules! plain {
    ($bytes:expr, $t:ty, $f:expr) => {
        $bytes.chunks_exact(size_of::<$t>()).map(|c| $f(<$t>::from_le_bytes(c.try_into().unwrap_or_default()))).collect()
    };
}

impl Tensor {
    /// A tensor from its elements; `data.len()` must be the product of `shape`.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Tensor {
        let shape = shape.into();
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Tensor { dtype, shape, data: Arc::new(data) }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.data.len()
    }

    /// Size of the last dimension (1 for a scalar).
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Reads little-endian storage, dequantising block formats by their reference.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
        let expected = tensor_bytes(dtype, shape)?;
        if bytes.len() != expected {
            return Err(TensorError::Bytes { dtype, shape: shape.to_vec(), expected, found: bytes.len() });
        }
        let data: Vec<f64> = match dtype {
            DType::F64 => plain!(bytes, f64, |v| v),
            DType::F32 => plain!(bytes, f32, f64::from),
            DType::F16 => plain!(bytes, u16, |v| half::f16::from_bits(v).to_f64()),
            DType::BF16 => plain!(bytes, u16, |v| half::bf16::from_bits(v).to_f64()),
            DType::F8E4M3 => bytes.iter().map(|b| f64::from(E4M3[usize::from(*b)])).collect(),
            DType::F8E5M2 => bytes.iter().map(|b| e5m2(*b)).collect(),
            DType::I64 => plain!(bytes, i64, |v| v as f64),
            DType::I32 => plain!(bytes, i32, f64::from),
            DType::I16 => plain!(bytes, i16, f64::from),
            DType::I8 => plain!(bytes, i8, f64::from),
            DType::U64 => plain!(bytes, u64, |v| v as f64),
            DType::U32 => plain!(bytes, u32, f64::from),
            DType::U16 => plain!(bytes, u16, f64::from),
            DType::U8 | DType::Bool => bytes.iter().map(|b| f64::from(*b)).collect(),
            DType::Block(b) => {
                let mut f = vec![0f32; shape.iter().product()];
                b.dequantize(bytes, &mut f).map_err(|e| TensorError::Format { dtype, why: e.to_string() })?;
                f.into_iter().map(f64::from).collect()
            }
        };
        Ok(Tensor::new(dtype, shape, data))
    }

    /// Writes little-endian storage, quantising block formats by their reference quantiser.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TensorError> {
        let d = self.data.iter();
        Ok(match self.dtype {
            DType::F64 => d.flat_map(|v| v.to_le_bytes()).collect(),
            DType::F32 => d.flat_map(|v| (*v as f32).to_le_bytes()).collect(),
            DType::F16 => d.flat_map(|v| half::f16::from_f64(*v).to_le_bytes()).collect(),
            DType::BF16 => d.flat_map(|v| half::bf16::from_f64(*v).to_le_bytes()).collect(),
            DType::F8E4M3 => d.map(|v| to_e4m3(DType::F8E4M3.round(*v) as f32)).collect(),
            DType::F8E5M2 => d.map(|v| to_e5m2(DType::F8E5M2.round(*v))).collect(),
            DType::I64 => d.flat_map(|v| (*v as i64).to_le_bytes()).collect(),
            DType::I32 => d.flat_map(|v| (*v as i32).to_le_bytes()).collect(),
            DType::I16 => d.flat_map(|v| (*v as i16).to_le_bytes()).collect(),
            DType::I8 => d.map(|v| *v as i8 as u8).collect(),
            DType::U64 => d.flat_map(|v| (*v as u64).to_le_bytes()).collect(),
            DType::U32 => d.flat_map(|v| (*v as u32).to_le_bytes()).collect(),
            DType::U16 => d.flat_map(|v| (*v as u16).to_le_bytes()).collect(),
            DType::U8 | DType::Bool => d.map(|v| *v as u8).collect(),
            DType::Block(b) => {
                let mut out = vec![0u8; tensor_bytes(self.dtype, &self.shape)?];
                let f: Vec<f32> = d.map(|v| *v as f32).collect();
                b.quantize(&f, &mut out).map_err(|e| TensorError::Format { dtype: self.dtype, why: e.to_string() })?;
                out
            }
        })
    }

    /// The same values after a trip through the storage of the tensor's own type.
    pub fn stored(&self) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(self.dtype, &self.shape, &self.to_bytes()?)
    }
}

/// The number of an e5m2 code: IEEE layout with bias 15, so the upper byte of a half float.
fn e5m2(code: u8) -> f64 {
    half::f16::from_bits(u16::from(code) << 8).to_f64()
}

/// The code of a number that e5m2 has.
fn to_e5m2(v: f64) -> u8 {
    (half::f16::from_f64(v).to_bits() >> 8) as u8
}

/// How a flat token axis divides into sequences.
///
/// Sequence `s` owns tokens `starts[s] .. starts[s+1]`; they sit at positions `past[s] ..` of that
/// sequence, whose cached rows and recurrent state live in slot `slots[s]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Segments {
    /// `[S+1]` token offsets, first 0, ascending.
    pub starts: Vec<u32>,
    /// `[S]` tokens each sequence has cached already.
    pub past: Vec<u32>,
    /// `[S]` cache slots, all different.
    pub slots: Vec<u32>,
}

impl Segments {
    /// One segment per `(new tokens, past tokens, slot)`.
    pub fn new(parts: impl IntoIterator<Item = (u32, u32, u32)>) -> Segments {
        let mut s = Segments { starts: vec![0], ..Segments::default() };
        for (new, past, slot) in parts {
            s.push(new, past, slot);
        }
        s
    }

    /// Empties the list, keeping its memory.
    pub fn clear(&mut self) {
        self.starts.clear();
        self.starts.push(0);
        self.past.clear();
        self.slots.clear();
    }

    /// Adds a segment.
    pub fn push(&mut self, new: u32, past: u32, slot: u32) {
        self.starts.push(self.starts.last().copied().unwrap_or(0) + new);
        self.past.push(past);
        self.slots.push(slot);
    }

    /// Number of segments, `S`.
    pub fn count(&self) -> usize {
        self.past.len()
    }

    /// Total new tokens, `T`.
    pub fn tokens(&self) -> usize {
        self.starts.last().copied().unwrap_or(0) as usize
    }

    /// `(token range, past, slot)` of each segment.
    pub fn iter(&self) -> impl Iterator<Item = (std::ops::Range<usize>, usize, u32)> + '_ {
        self.starts.windows(2).zip(self.past.iter().zip(&self.slots)).map(|(w, (p, s))| (w[0] as usize..w[1] as usize, *p as usize, *s))
    }

    /// Says what is inconsistent, if anything.
    pub fn check(&self) -> Result<(), String> {
        let n = self.past.len();
        if self.starts.len() != n + 1 || self.slots.len() != n {
            return Err(format!("{} starts, {n} pasts, {} slots; expected n+1, n, n", self.starts.len(), self.slots.len()));
        }
        if self.starts.first() != Some(&0) || self.starts.windows(2).any(|w| w[0] > w[1]) {
            return Err("starts must begin at 0 and ascend".into());
        }
        if (1..n).any(|i| self.slots[..i].contains(&self.slots[i])) {
            return Err("two segments use one slot".into());
        }
        Ok(())
    }
}
