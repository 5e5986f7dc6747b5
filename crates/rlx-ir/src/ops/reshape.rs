//! Other shape, same elements in the same order.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Inferred, Samples, Shape, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `x` with another shape of as many elements.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reshape {
    /// New shape.
    pub shape: Vec<Dim>,
}

impl OpDef for Reshape {
    const NAME: &'static str = "reshape";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        let to = Shape(self.shape.clone());
        if !to.is_manageable() || !Shape::from(s).is_manageable() {
            return Err(rule::mismatch("shape", &to, "one of simpler dimensions"));
        }
        if to.numel() != Shape::from(s).numel() {
            return Err(rule::mismatch("shape", &to, format!("as many elements as {}", Shape::from(s))));
        }
        if d.is_block() && self.shape.last() != s.last() {
            return Err(rule::mismatch("shape", &to, format!("the same last dimension as {x}, whose blocks run along it")));
        }
        Ok(vec![Type::Tensor(d, to)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let shape = self.shape.iter().map(|d| d.eval(cx.dims)).collect::<Result<Vec<_>, _>>()?;
        Ok(vec![Value::Tensor(Tensor { dtype: x.dtype, shape, data: x.data.clone() })])
    }

    fn samples(s: &mut Samples) {
        s.op(Reshape { shape: Shape::from([6, 4]).0 }, &[Type::tensor(DType::F32, [2, 3, 4])], Tol::EXACT);
        s.op(Reshape { shape: Shape::from([24]).0 }, &[Type::tensor(DType::F32, [2, 3, 4])], Tol::EXACT);
    }
}
