//! Repetition along dimensions of size 1.

use super::OpDef;
use super::binary::expand;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Inferred, Samples, Shape, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `x` repeated to `shape`, right-aligned as in NumPy.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Broadcast {
    /// New shape.
    pub shape: Vec<Dim>,
}

impl OpDef for Broadcast {
    const NAME: &'static str = "broadcast";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        if d.is_block() || rule::broadcast(s, &self.shape)? != self.shape {
            return Err(rule::mismatch("x", x, format!("a tensor that broadcasts to {}", Shape(self.shape.clone()))));
        }
        Ok(vec![Type::tensor(d, self.shape.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let shape = self.shape.iter().map(|d| d.eval(cx.dims)).collect::<Result<Vec<_>, _>>()?;
        Ok(vec![Value::Tensor(expand(ins[0].tensor(Self::NAME)?, &shape))])
    }

    fn samples(s: &mut Samples) {
        s.op(Broadcast { shape: Shape::from([4, 3, 7]).0 }, &[Type::tensor(DType::F32, [3, 1])], Tol::EXACT);
        s.op(Broadcast { shape: Shape::from([2, 3]).0 }, &[Type::tensor(DType::I32, Vec::new())], Tol::EXACT);
    }
}
