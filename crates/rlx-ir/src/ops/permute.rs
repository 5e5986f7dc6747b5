//! Reordered dimensions.

use super::OpDef;
use super::binary::indices;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// Dimension `i` of the result is dimension `axes[i]` of `x`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Permute {
    /// A permutation of `0..rank`.
    pub axes: Vec<usize>,
}

impl OpDef for Permute {
    const NAME: &'static str = "permute";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        let mut seen = vec![false; s.len()];
        let fits = self.axes.len() == s.len() && self.axes.iter().all(|a| seen.get_mut(*a).is_some_and(|b| !std::mem::replace(b, true)));
        if !fits || d.is_block() {
            return Err(rule::mismatch("axes", format!("{:?}", self.axes), format!("a permutation of the {} axes of a plain tensor", s.len())));
        }
        Ok(vec![Type::tensor(d, self.axes.iter().map(|a| s[*a].clone()).collect::<Vec<_>>())])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let shape: Vec<usize> = self.axes.iter().map(|a| x.shape[*a]).collect();
        let mut from = vec![0; shape.len()];
        let data = indices(&shape)
            .map(|ix| {
                self.axes.iter().zip(&ix).for_each(|(a, i)| from[*a] = *i);
                x.data[from.iter().zip(&x.shape).fold(0, |f, (i, n)| f * n + i)]
            })
            .collect();
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, data))])
    }

    fn samples(s: &mut Samples) {
        s.op(Permute { axes: vec![1, 0, 2] }, &[Type::tensor(DType::F32, [3, 5, 8])], Tol::EXACT);
        s.op(Permute { axes: vec![2, 0, 1] }, &[Type::tensor(DType::F32, [3, 5, 8])], Tol::EXACT);
        s.op(Permute { axes: vec![0, 2, 3, 1] }, &[Type::tensor(DType::I32, [2, 3, 4, 5])], Tol::EXACT);
    }
}
