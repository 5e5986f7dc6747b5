//! Elements picked along one axis, with an index for every element.

use super::OpDef;
use super::binary::indices;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{DType, Gen, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `y[…, i, …] = x[…, index[…, i, …], …]` along `axis` (NumPy's `take_along_axis`).
///
/// x: a tensor of a plain type; index: integers of x's rank, equal to x's shape but for `axis`,
/// below x's size there → index's shape, x's type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GatherAxis {
    /// Axis.
    pub axis: usize,
}

impl OpDef for GatherAxis {
    const NAME: &'static str = "gather_axis";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x, index] = rule::arity(ins)?;
        let ((d, s), (_, i)) = (rule::tensor("x", x)?, rule::int("index", index)?);
        rule::axis(self.axis, s.len())?;
        let fits = i.len() == s.len() && (0..s.len()).all(|k| k == self.axis || i[k] == s[k]);
        if d.is_block() || !fits {
            return Err(rule::mismatch("index", index, format!("the shape of {x} but for axis {}, x of a plain type", self.axis)));
        }
        Ok(vec![Type::tensor(d, i)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let (x, index) = (ins[0].tensor(Self::NAME)?, ins[1].tensor(Self::NAME)?);
        let size = x.shape[self.axis];
        let mut data = Vec::with_capacity(index.numel());
        for (mut ix, i) in indices(&index.shape).zip(index.data.iter()) {
            if *i < 0.0 || *i >= size as f64 {
                return Err(op_error(Self::NAME, format!("index {i} is outside axis {} of size {size}", self.axis)));
            }
            ix[self.axis] = *i as usize;
            data.push(x.data[ix.iter().zip(&x.shape).fold(0, |f, (i, n)| f * n + i)]);
        }
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, index.shape.clone(), data))])
    }

    fn samples(s: &mut Samples) {
        let x = (Type::tensor(DType::F32, [3, 5, 7]), Gen::Normal(1.0));
        for (axis, shape, n) in [(0, [2, 5, 7], 3.0), (1, [3, 9, 7], 5.0), (2, [3, 5, 1], 7.0)] {
            s.op_with(GatherAxis { axis }, &[x.clone(), (Type::tensor(DType::U32, shape), Gen::Uniform(0.0, n))], Tol::EXACT);
        }
        let x = (Type::tensor(DType::I32, [4, 6]), Gen::Uniform(-9.0, 9.0));
        s.op_with(GatherAxis { axis: 1 }, &[x, (Type::tensor(DType::I32, [4, 2]), Gen::Uniform(0.0, 6.0))], Tol::EXACT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_types_are_refused() {
        let t = |s: &str| s.parse::<Type>().unwrap();
        let infer = |x: &str, i: &str, axis| GatherAxis { axis }.infer(&[&t(x), &t(i)]);
        assert!(infer("f32[T,8]", "u32[T,K]", 1).is_ok());
        for (x, i, axis) in [("f32[T,8]", "u32[S,K]", 1), ("f32[T,8]", "u32[T]", 1), ("f32[T,8]", "f32[T,2]", 1), ("f32[T,8]", "u32[T,8]", 2), ("q8_0[T,32]", "u32[T,1]", 1)] {
            assert!(infer(x, i, axis).is_err(), "{x} {i} {axis}");
        }
    }
}
