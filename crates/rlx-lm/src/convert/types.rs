//! Which type every tensor gets, and how affine blocks become MLX's three tensors.

use super::Target;
use crate::{LmError, Result};
use rlx_core::convert::ConvertError;
use rlx_gguf::BlockFormat;
use rlx_gguf::blocks::{Affine as AffineFormat, BlockError, ScaleType};
use rlx_ir::DType;

/// The type of floating-point tensors in a safetensors checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FloatType {
    /// What loses nothing: matrices keep their type, or become f32 where they were quantised; vectors get the type of
    /// the matrices if that is exact.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the range of f32.
    BF16,
}

/// The types of a GGUF file's matrices; vectors are f32, as llama.cpp has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GgufTypes {
    /// What loses nothing: matrices keep their type where ggml has it, else they become f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16.
    BF16,
    /// Q8_0; f16 where rows are no whole blocks.
    Q8_0,
}

impl FloatType {
    fn dtype(self) -> Option<DType> {
        match self {
            FloatType::Auto => None,
            FloatType::F32 => Some(DType::F32),
            FloatType::F16 => Some(DType::F16),
            FloatType::BF16 => Some(DType::BF16),
        }
    }
}

/// A weight of the model.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// Checkpoint name.
    pub name: String,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// The type it gets.
    pub to: DType,
}

/// All weights.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub tensors: Vec<Planned>,
    /// The type of most matrices.
    pub main: DType,
}

impl Planned {
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n, d| n.saturating_mul(*d as u64))
    }

    pub fn affine(&self) -> Option<Affine> {
        match self.to {
            DType::Block(BlockFormat::Affine(format)) => Some(Affine(format)),
            _ => None,
        }
    }
}

/// Tells whether the weight of a name survives being stored in a type.
type IsExact<'a> = &'a dyn Fn(&str, DType) -> Result<bool>;

/// Chooses.  `sources` are name, type and shape.
pub(super) fn plan(target: Target, sources: Vec<(String, DType, Vec<usize>)>, exact: IsExact<'_>) -> Result<Plan> {
    let main = main_type(sources.iter().map(|(_, d, s)| (*d, s.as_slice())));
    let mut tensors = Vec::with_capacity(sources.len());
    for (name, from, shape) in sources {
        let to = match target {
            Target::Gguf { types, .. } => gguf_type(types, from, &shape),
            Target::Safetensors { dtype, .. } => match dtype.dtype() {
                Some(d) => float_or(from, d),
                None => lossless(&name, from, &shape, main.unwrap_or(DType::F32), exact)?,
            },
            Target::Mlx { bits, group, .. } => {
                // Scales have the type of the model; f16 where all of it is quantised otherwise.
                let scale = main.unwrap_or(DType::F16);
                match mlx_type(&name, &shape, bits, group, scale)? {
                    Some(affine) => affine,
                    None => lossless(&name, from, &shape, scale, exact)?,
                }
            }
        };
        tensors.push(Planned { name, shape, to });
    }
    let main = most(tensors.iter().filter(|t| t.shape.len() > 1).map(|t| (t.to, t.elements()))).unwrap_or(DType::F32);
    Ok(Plan { tensors, main })
}

/// The 16- or 32-bit float that most matrices are of; `None` when none is.
fn main_type<'a>(all: impl Iterator<Item = (DType, &'a [usize])>) -> Option<DType> {
    let plain = |d: &DType| matches!(d, DType::F32 | DType::F16 | DType::BF16);
    let matrices = all.filter(|(d, s)| s.len() > 1 && plain(d));
    most(matrices.map(|(d, s)| (d, s.iter().fold(1, |n: u64, v| n.saturating_mul(*v as u64)))))
}

fn most(all: impl Iterator<Item = (DType, u64)>) -> Option<DType> {
    let mut sums: Vec<(DType, u64)> = vec![];
    for (d, n) in all {
        match sums.iter_mut().find(|s| s.0 == d) {
            Some(s) => s.1 += n,
            None => sums.push((d, n)),
        }
    }
    sums.into_iter().max_by_key(|s| s.1).map(|s| s.0)
}

/// `to` for floating-point tensors; others stay.
fn float_or(from: DType, to: DType) -> DType {
    if from.is_float() { to } else { from }
}

fn gguf_type(types: GgufTypes, from: DType, shape: &[usize]) -> DType {
    if !from.is_float() {
        return from;
    }
    if shape.len() < 2 {
        return DType::F32;
    }
    let q8_0 = DType::Block(BlockFormat::Q8_0);
    match types {
        GgufTypes::F32 => DType::F32,
        GgufTypes::F16 => DType::F16,
        GgufTypes::BF16 => DType::BF16,
        GgufTypes::Q8_0 if q8_0.row_bytes(shape.last().copied().unwrap_or(1)).is_some() => q8_0,
        GgufTypes::Q8_0 => DType::F16,
        GgufTypes::Auto => match from {
            DType::F16 | DType::BF16 => from,
            DType::Block(b) if b.ggml_type().is_some() => from,
            _ => DType::F32,
        },
    }
}

/// A safetensors type in which nothing is lost.
fn lossless(name: &str, from: DType, shape: &[usize], main: DType, exact: IsExact<'_>) -> Result<DType> {
    Ok(match from {
        d if !d.is_float() => d,
        DType::F32 if shape.len() < 2 && main != DType::F32 && exact(name, main)? => main,
        DType::F32 | DType::F16 | DType::BF16 => from,
        _ => DType::F32,
    })
}

/// The affine format of a matrix that MLX quantises: weights of linear layers and embeddings with rows of whole groups.
fn mlx_type(name: &str, shape: &[usize], bits: usize, group: usize, scale: DType) -> Result<Option<DType>> {
    let scale = match scale {
        DType::F32 => ScaleType::F32,
        DType::BF16 => ScaleType::BF16,
        _ => ScaleType::F16,
    };
    let refuse = |e: BlockError| ConvertError::Cast { from: DType::F32, to: DType::F32, why: e.to_string() };
    let format = AffineFormat::new(bits, group, scale).map_err(|e| LmError::from(refuse(e)))?;
    let fits = shape.len() == 2 && shape.get(1).is_some_and(|c| c.is_multiple_of(group)) && name.ends_with(".weight");
    Ok(fits.then_some(DType::Block(BlockFormat::Affine(format))))
}

/// An affine format as MLX stores it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affine(AffineFormat);

impl Affine {
    /// The type of scales and biases.
    pub fn scale(self) -> DType {
        match self.0.scale() {
            ScaleType::F16 => DType::F16,
            ScaleType::BF16 => DType::BF16,
            ScaleType::F32 => DType::F32,
        }
    }

    /// Names, types and shapes of the three tensors of `X.weight` `[rows, columns]`.
    pub fn parts(self, name: &str, shape: &[usize]) -> [(String, DType, Vec<usize>); 3] {
        let (rows, columns) = (shape.first().copied().unwrap_or(1), shape.last().copied().unwrap_or(1));
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        let groups = vec![rows, columns / self.0.group()];
        [
            (name.to_owned(), DType::U32, vec![rows, columns * self.0.bits() / 32]),
            (format!("{stem}.scales"), self.scale(), groups.clone()),
            (format!("{stem}.biases"), self.scale(), groups),
        ]
    }

    /// Hands out the codes of all blocks, then all scales, then all biases.
    pub fn split(self, blocks: &[u8], write: &mut dyn FnMut(&[u8]) -> Result<(), ConvertError>) -> Result<(), ConvertError> {
        let (codes, scale) = (self.0.codes_at(), self.0.scale().bytes());
        let mut piece = Vec::with_capacity(1 << 16);
        for range in [codes..self.0.block_bytes(), 0..scale, scale..codes] {
            for run in blocks.chunks(self.0.block_bytes() * 1024) {
                piece.clear();
                run.chunks(self.0.block_bytes()).for_each(|b| piece.extend_from_slice(b.get(range.clone()).unwrap_or_default()));
                write(&piece)?;
            }
        }
        Ok(())
    }
}
