//! Reductions.

use super::OpDef;
use super::binary::indices;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Gen, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// Which reduction.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the usual meanings
pub enum ReduceOp {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
}

/// Reduces `axes`, which stay with size 1.  x: numbers; the result has its type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reduce {
    /// Which.
    pub op: ReduceOp,
    /// Distinct axes, in any order.
    pub axes: Vec<usize>,
}

impl OpDef for Reduce {
    const NAME: &'static str = "reduce";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        if d.is_block() || d == DType::Bool || self.op == ReduceOp::Mean && !d.is_float() {
            return Err(rule::mismatch("x", x, "a tensor of numbers (reals for a mean)"));
        }
        let mut s = s.to_vec();
        for a in &self.axes {
            rule::axis(*a, s.len())?;
            s[*a] = Dim::from(1);
        }
        Ok(vec![Type::tensor(d, s)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let mut shape = x.shape.clone();
        self.axes.iter().for_each(|a| shape[*a] = 1);
        let n: usize = shape.iter().product();
        let start = match self.op {
            ReduceOp::Sum | ReduceOp::Mean => 0.0,
            ReduceOp::Max => f64::NEG_INFINITY,
            ReduceOp::Min => f64::INFINITY,
            ReduceOp::Prod => 1.0,
        };
        let mut out = vec![start; n];
        for (ix, v) in indices(&x.shape).zip(x.data.iter()) {
            let at = ix.iter().zip(&shape).fold(0, |f, (i, n)| f * n + if *n == 1 { 0 } else { *i });
            out[at] = match self.op {
                ReduceOp::Sum | ReduceOp::Mean => out[at] + v,
                ReduceOp::Max => out[at].max(*v),
                ReduceOp::Min => out[at].min(*v),
                ReduceOp::Prod => out[at] * v,
            };
        }
        if self.op == ReduceOp::Mean {
            let count = x.numel() as f64 / n as f64;
            out.iter_mut().for_each(|v| *v /= count);
        }
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, out))])
    }

    fn samples(s: &mut Samples) {
        let x = [Type::tensor(DType::F32, [3, 5, 33])];
        for op in [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod] {
            for axes in [vec![2], vec![0], vec![0, 2], vec![0, 1, 2]] {
                // Products of many normal numbers leave the range of f32.
                let g = if op == ReduceOp::Prod { Gen::Uniform(0.95, 1.05) } else { Gen::Normal(1.0) };
                s.op_with(Reduce { op, axes }, &[(x[0].clone(), g)], Tol { nmse: 1e-11, max: 1e-5 });
            }
        }
        s.op(Reduce { op: ReduceOp::Sum, axes: vec![1] }, &[Type::tensor(DType::I32, [4, 9])], Tol::EXACT);
    }
}
