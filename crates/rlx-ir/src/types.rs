//! Types of graph values, and the errors of type rules.

use crate::{DType, Dim};
use std::fmt;

/// A tensor shape, outermost dimension first.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Whether the product of all dimensions stays a short expression; texts can claim shapes of which it does not.
    pub fn is_manageable(&self) -> bool {
        self.0.iter().try_fold(1usize, |n, d| n.checked_mul(d.complexity().max(1)).filter(|n| *n <= 128)).is_some()
    }

    /// Product of all dimensions.
    pub fn numel(&self) -> Dim {
        self.0.iter().cloned().product()
    }
}

impl<D: Into<Dim>, const N: usize> From<[D; N]> for Shape {
    fn from(dims: [D; N]) -> Shape {
        Shape(dims.into_iter().map(Into::into).collect())
    }
}
impl From<Vec<Dim>> for Shape {
    fn from(dims: Vec<Dim>) -> Shape {
        Shape(dims)
    }
}
impl From<&[Dim]> for Shape {
    fn from(dims: &[Dim]) -> Shape {
        Shape(dims.to_vec())
    }
}
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}

/// The type of a value in a graph.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    /// A dense tensor, row-major.
    Tensor(DType, Shape),
    /// How a flat token axis of `tokens` rows divides into `count` sequences, and what each has
    /// cached (see [`crate::Segments`]).
    Segments {
        /// Number of sequences, `S`.
        count: Dim,
        /// Total new tokens, `T`.
        tokens: Dim,
    },
    /// The rows a cache state holds for every sequence, of shape `row` each.
    Cache(DType, Shape),
    /// One tensor of this shape per sequence (a recurrent state).
    State(DType, Shape),
    /// The type of a value whose definition failed; silences follow-up errors.
    Poison,
}

impl Type {
    /// A tensor type.
    pub fn tensor(dtype: DType, shape: impl Into<Shape>) -> Type {
        Type::Tensor(dtype, shape.into())
    }

    /// Refuses rows that do not consist of whole blocks.  Symbolic rows pass.
    ///
    /// # Errors
    /// The length of a row, the block format and its block length.
    pub fn check_blocks(&self) -> Result<(), String> {
        let Type::Tensor(DType::Block(format), shape) = self else { return Ok(()) };
        let row = shape.0.last().map_or(Some(1), Dim::as_const);
        match row {
            Some(n) if !n.is_multiple_of(format.block_len()) => {
                Err(format!("{self} has rows of {n} elements, expected a multiple of {} for {format}", format.block_len()))
            }
            _ => Ok(()),
        }
    }
}

impl std::str::FromStr for Type {
    type Err = String;

    fn from_str(s: &str) -> Result<Type, String> {
        let bad = || format!("`{s}` is not a type (for example f32[T,64], segments[S,T], cache f16[2,64])");
        let (head, dims) = s.trim().strip_suffix(']').and_then(|s| s.split_once('[')).ok_or_else(bad)?;
        let mut shape = Vec::new();
        // Commas inside `floor(a, n)` do not separate dimensions.
        let (mut depth, mut from) = (0usize, 0);
        for (i, c) in dims.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    shape.push(dims[from..i].parse::<Dim>()?);
                    from = i + 1;
                }
                _ => {}
            }
        }
        if !dims.trim().is_empty() {
            shape.push(dims[from..].parse::<Dim>()?);
        }
        let shape = Shape(shape);
        if !shape.is_manageable() {
            return Err(format!("the dimensions of `{s}` are too complicated"));
        }
        let head = head.trim();
        if head == "segments" {
            let [count, tokens] = <[Dim; 2]>::try_from(shape.0).map_err(|_| bad())?;
            return Ok(Type::Segments { count, tokens });
        }
        let ty = match head.split_once(' ') {
            Some(("cache", d)) => Type::Cache(d.trim().parse()?, shape),
            Some(("state", d)) => Type::State(d.trim().parse()?, shape),
            Some(_) => return Err(bad()),
            None => Type::Tensor(head.parse()?, shape),
        };
        ty.check_blocks()?;
        Ok(ty)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(d, s) => write!(f, "{d}{s}"),
            Type::Segments { count, tokens } => write!(f, "segments[{count},{tokens}]"),
            Type::Cache(d, s) => write!(f, "cache {d}{s}"),
            Type::State(d, s) => write!(f, "state {d}{s}"),
            Type::Poison => f.write_str("poison"),
        }
    }
}

/// Why an op does not accept its inputs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// Wrong number of inputs.
    #[error("takes {expected} inputs, got {found}")]
    Arity {
        /// What the op takes, in words.
        expected: String,
        /// Inputs given.
        found: usize,
    },
    /// An input has the wrong kind, type or rank.
    #[error("{what} is {found}, expected {expected}")]
    Mismatch {
        /// Which input or dimension.
        what: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// An attribute is out of its range.
    #[error("{0}")]
    Attribute(String),
}

/// Result of a type rule: one type per output.
pub type Inferred = Result<Vec<Type>, TypeError>;

/// Helpers for type rules.
pub mod rule {
    use super::*;

    /// A mismatch error.
    pub fn mismatch(what: impl Into<String>, found: impl fmt::Display, expected: impl fmt::Display) -> TypeError {
        TypeError::Mismatch { what: what.into(), found: found.to_string(), expected: expected.to_string() }
    }

    /// Exactly `N` inputs.
    pub fn arity<'a, const N: usize>(ins: &[&'a Type]) -> Result<[&'a Type; N], TypeError> {
        ins.try_into().map_err(|_| TypeError::Arity { expected: N.to_string(), found: ins.len() })
    }

    /// Input `what` as a tensor.
    pub fn tensor<'a>(what: &str, t: &'a Type) -> Result<(DType, &'a [Dim]), TypeError> {
        match t {
            Type::Tensor(d, s) => Ok((*d, &s.0)),
            other => Err(mismatch(what, other, "a tensor")),
        }
    }

    /// Input `what` as a tensor of rank `N`.
    pub fn ranked<'a, const N: usize>(what: &str, t: &'a Type) -> Result<(DType, &'a [Dim; N]), TypeError> {
        let (d, s) = tensor(what, t)?;
        let s: &[Dim; N] = s.try_into().map_err(|_| mismatch(what, t, format!("a tensor of rank {N}")))?;
        Ok((d, s))
    }

    /// Input `what` as a floating-point (not block) tensor.
    pub fn float<'a>(what: &str, t: &'a Type) -> Result<(DType, &'a [Dim]), TypeError> {
        let (d, s) = tensor(what, t)?;
        if !d.is_float() || d.is_block() {
            return Err(mismatch(what, t, "a tensor of f32, f16, bf16 or f64"));
        }
        Ok((d, s))
    }

    /// Input `what` as an integer tensor.
    pub fn int<'a>(what: &str, t: &'a Type) -> Result<(DType, &'a [Dim]), TypeError> {
        let (d, s) = tensor(what, t)?;
        if !d.is_int() {
            return Err(mismatch(what, t, "a tensor of integers"));
        }
        Ok((d, s))
    }

    /// Input `what` as segments: (count, tokens).
    pub fn segments<'a>(what: &str, t: &'a Type) -> Result<(&'a Dim, &'a Dim), TypeError> {
        match t {
            Type::Segments { count, tokens } => Ok((count, tokens)),
            other => Err(mismatch(what, other, "segments")),
        }
    }

    /// Two dimensions that must be the same expression.
    pub fn same(what_a: &str, a: &Dim, what_b: &str, b: &Dim) -> Result<(), TypeError> {
        if a == b { Ok(()) } else { Err(mismatch(what_a, a, format!("{b} ({what_b})"))) }
    }

    /// A dimension that must be a constant.
    pub fn constant(what: &str, d: &Dim) -> Result<usize, TypeError> {
        d.as_const().ok_or_else(|| mismatch(what, d, "a constant"))
    }

    /// The last dimension of a shape.
    pub fn last<'a>(what: &str, s: &'a [Dim]) -> Result<&'a Dim, TypeError> {
        s.last().ok_or_else(|| mismatch(what, "a scalar", "a tensor of rank 1 or more"))
    }

    /// `axis` must be below `rank`.
    pub fn axis(axis: usize, rank: usize) -> Result<(), TypeError> {
        if axis < rank { Ok(()) } else { Err(mismatch("axis", axis, format!("below the rank, {rank}"))) }
    }

    /// The shape both broadcast to, right-aligned as in NumPy.
    pub fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, TypeError> {
        let one = Dim::from(1);
        let n = a.len().max(b.len());
        let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(n).and_then(|j| s.get(j)).cloned().unwrap_or(one.clone());
        (0..n)
            .map(|i| match (at(a, i), at(b, i)) {
                (x, y) if x == y => Ok(x),
                (x, y) if y == one => Ok(x),
                (x, y) if x == one => Ok(y),
                (..) => Err(mismatch("shape", Shape::from(b), format!("one that broadcasts with {}", Shape::from(a)))),
            })
            .collect()
    }
}
