//! Sorting.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Gen, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Sorts the last dimension.  x: […,N] numbers → values […,N] of x's type, indices […,N] u32 (where
/// each value was).  Stable both ways: of equal elements the earlier comes first.  NaN counts as
/// larger than everything.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sort {
    /// Largest first.
    pub descending: bool,
}

/// Numbers in order, NaN last.
fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

impl OpDef for Sort {
    const NAME: &'static str = "sort";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        rule::last("x", s)?;
        if d.is_block() || d == DType::Bool {
            return Err(rule::mismatch("x", x, "a tensor of numbers"));
        }
        Ok(vec![x.clone(), Type::tensor(DType::U32, s)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let (mut values, mut at) = (Vec::with_capacity(x.numel()), Vec::with_capacity(x.numel()));
        for row in x.data.chunks(x.last().max(1)) {
            let mut ix: Vec<usize> = (0..row.len()).collect();
            ix.sort_by(|a, b| if self.descending { order(row[*b], row[*a]) } else { order(row[*a], row[*b]) });
            values.extend(ix.iter().map(|i| row[*i]));
            at.extend(ix.iter().map(|i| *i as f64));
        }
        let tensor = |d, v| Value::Tensor(Tensor::new(d, x.shape.clone(), v));
        Ok(vec![tensor(x.dtype, values), tensor(DType::U32, at)])
    }

    fn samples(s: &mut Samples) {
        for descending in [false, true] {
            s.op(Sort { descending }, &[Type::tensor(DType::F32, [3, 4, 33])], Tol::EXACT);
            // Few distinct values: stability shows in the indices.
            s.op_with(Sort { descending }, &[(Type::tensor(DType::I32, [2, 70]), Gen::Uniform(-3.0, 4.0))], Tol::EXACT);
        }
        s.op(Sort { descending: false }, &[Type::tensor(DType::F16, [5, 1])], Tol::EXACT);
        let odd = Gen::Values(vec![1.0, f64::NAN, f64::NEG_INFINITY, 0.0, f64::INFINITY, f64::NAN, -2.0]);
        s.op_with(Sort { descending: true }, &[(Type::tensor(DType::F32, [7]), odd)], Tol::EXACT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_types_are_refused() {
        for t in ["f32[]", "bool[4]", "q8_0[32]", "segments[S,T]"] {
            assert!(Sort { descending: false }.infer(&[&t.parse().unwrap()]).is_err(), "{t}");
        }
    }
}
