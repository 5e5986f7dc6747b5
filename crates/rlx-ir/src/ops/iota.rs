//! Counting.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `0, 1, …, len-1`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Iota {
    /// Element type.
    pub dtype: DType,
    /// Length; may be symbolic.
    pub len: Dim,
}

impl OpDef for Iota {
    const NAME: &'static str = "iota";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [] = rule::arity(ins)?;
        if self.dtype.is_block() || self.dtype == DType::Bool {
            return Err(rule::mismatch("dtype", self.dtype, "a type of numbers"));
        }
        Ok(vec![Type::tensor(self.dtype, [self.len.clone()])])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, _: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let n = self.len.eval(cx.dims)?;
        Ok(vec![Value::Tensor(Tensor::new(self.dtype, [n], (0..n).map(|i| i as f64).collect()))])
    }

    fn samples(s: &mut Samples) {
        for dtype in [DType::F32, DType::I32, DType::U32] {
            s.op(Iota { dtype, len: Dim::from(19) }, &[], Tol::EXACT);
        }
    }
}
