//! Running sums.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `y[i] = Σ x[j]` over `j ≤ i` along `axis`; `j < i` when exclusive, `j ≥ i` (or `j > i`) when
/// reversed.  x: numbers → same shape and type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cumsum {
    /// Axis.
    pub axis: usize,
    /// Leave out the element itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// Sum from the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reverse: bool,
}

impl OpDef for Cumsum {
    const NAME: &'static str = "cumsum";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        rule::axis(self.axis, s.len())?;
        if d.is_block() || d == DType::Bool {
            return Err(rule::mismatch("x", x, "a tensor of numbers"));
        }
        Ok(vec![x.clone()])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let (n, inner) = (x.shape[self.axis], x.shape[self.axis + 1..].iter().product::<usize>());
        let outer: usize = x.shape[..self.axis].iter().product();
        let mut out = vec![0.0; x.numel()];
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let mut sum = 0.0;
            for step in 0..n {
                let k = if self.reverse { n - 1 - step } else { step };
                let at = (o * n + k) * inner + i;
                let before = sum;
                sum += x.data[at];
                out[at] = if self.exclusive { before } else { sum };
            }
        }
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, x.shape.clone(), out))])
    }

    fn samples(s: &mut Samples) {
        let x = Type::tensor(DType::F32, [3, 17, 5]);
        for axis in 0..3 {
            for (exclusive, reverse) in [(false, false), (true, false), (true, true)] {
                s.op(Cumsum { axis, exclusive, reverse }, std::slice::from_ref(&x), Tol { nmse: 1e-11, max: 1e-5 });
            }
        }
        s.op(Cumsum { axis: 1, exclusive: false, reverse: true }, &[Type::tensor(DType::I32, [2, 33])], Tol::EXACT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_types_are_refused() {
        let infer = |t: &str, axis| Cumsum { axis, exclusive: false, reverse: false }.infer(&[&t.parse().unwrap()]);
        assert!(infer("i32[T]", 0).is_ok());
        assert!(infer("i32[T]", 1).is_err() && infer("bool[T]", 0).is_err() && infer("q4_0[32]", 0).is_err());
    }
}
