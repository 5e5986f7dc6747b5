//! Conversion of element types.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `x` in another type.  Reals round to nearest even; to integers they truncate and saturate; to
/// bool, non-zero is true.  From a block format this dequantises; there is no cast to one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cast {
    /// Target type.
    pub to: DType,
}

impl OpDef for Cast {
    const NAME: &'static str = "cast";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (_, s) = rule::tensor("x", x)?;
        if self.to.is_block() {
            return Err(rule::mismatch("to", self.to, "a type that is not block-quantised"));
        }
        Ok(vec![Type::tensor(self.to, s)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let data = x.data.iter().map(|v| self.to.round(*v)).collect();
        Ok(vec![Value::Tensor(Tensor::new(self.to, x.shape.clone(), data))])
    }

    fn samples(s: &mut Samples) {
        use DType::*;
        for (from, to) in [(F32, F16), (F32, BF16), (F16, F32), (BF16, F32), (I32, F32), (F32, I32), (U32, F32), (Bool, F32), (F32, Bool), (I32, U32)] {
            s.op(Cast { to }, &[Type::tensor(from, [3, 35])], Tol::EXACT);
        }
    }
}
