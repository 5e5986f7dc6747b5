//! Choice by a condition.

use super::OpDef;
use super::binary::{broadcast_shape, expand};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `c ? a : b` per element; all three broadcast.  c: bool; a, b of one type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Select {}

impl OpDef for Select {
    const NAME: &'static str = "select";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [c, a, b] = rule::arity(ins)?;
        let ((dc, sc), (da, sa), (db, sb)) = (rule::tensor("c", c)?, rule::tensor("a", a)?, rule::tensor("b", b)?);
        if dc != DType::Bool {
            return Err(rule::mismatch("c", c, "a tensor of bool"));
        }
        if da != db || da.is_block() {
            return Err(rule::mismatch("b", b, format!("a tensor of {da}, like a")));
        }
        Ok(vec![Type::tensor(da, rule::broadcast(&rule::broadcast(sc, sa)?, sb)?)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let [c, a, b] = [ins[0].tensor(Self::NAME)?, ins[1].tensor(Self::NAME)?, ins[2].tensor(Self::NAME)?];
        let shape = broadcast_shape(&broadcast_shape(&c.shape, &a.shape), &b.shape);
        let (c, a, b) = (expand(c, &shape), expand(a, &shape), expand(b, &shape));
        let data = c.data.iter().zip(a.data.iter().zip(b.data.iter())).map(|(c, (a, b))| if *c != 0.0 { *a } else { *b }).collect();
        Ok(vec![Value::Tensor(Tensor::new(a.dtype, shape, data))])
    }

    fn samples(s: &mut Samples) {
        let f = |d: [usize; 2]| Type::tensor(DType::F32, d);
        s.op(Select {}, &[Type::tensor(DType::Bool, [4, 9]), f([4, 9]), f([4, 9])], Tol::EXACT);
        s.op(Select {}, &[Type::tensor(DType::Bool, [4, 1]), f([1, 9]), Type::tensor(DType::F32, Vec::new())], Tol::EXACT);
    }
}
