//! Joining along one axis.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Inferred, Samples, Tensor, Tol, Type, TypeError, rule};
use serde::{Deserialize, Serialize};

/// Inputs one after the other along `axis`; all other dimensions equal.  At least one input.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Concat {
    /// Axis.
    pub axis: usize,
}

impl OpDef for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let Some((first, rest)) = ins.split_first() else {
            return Err(TypeError::Arity { expected: "one or more".into(), found: 0 });
        };
        let (d, s) = rule::tensor("input 0", first)?;
        rule::axis(self.axis, s.len())?;
        let mut out = s.to_vec();
        for (i, t) in rest.iter().enumerate() {
            let (e, r) = rule::tensor(&format!("input {}", i + 1), t)?;
            let fits = r.len() == s.len() && (0..s.len()).all(|k| k == self.axis || r[k] == s[k]);
            if e != d || d.is_block() || !fits {
                return Err(rule::mismatch(format!("input {}", i + 1), t, format!("like {first} but for axis {}", self.axis)));
            }
            out[self.axis] = out[self.axis].clone() + &r[self.axis];
        }
        Ok(vec![Type::tensor(d, out)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let ts = ins.iter().map(|v| v.tensor(Self::NAME)).collect::<Result<Vec<_>, _>>()?;
        let mut shape = ts[0].shape.clone();
        shape[self.axis] = ts.iter().map(|t| t.shape[self.axis]).sum();
        let outer: usize = shape[..self.axis].iter().product();
        let mut data = Vec::with_capacity(shape.iter().product());
        for o in 0..outer {
            for t in &ts {
                let n: usize = t.shape[self.axis..].iter().product();
                data.extend_from_slice(&t.data[o * n..(o + 1) * n]);
            }
        }
        Ok(vec![Value::Tensor(Tensor::new(ts[0].dtype, shape, data))])
    }

    fn samples(s: &mut Samples) {
        let f = |d: [usize; 3]| Type::tensor(DType::F32, d);
        s.op(Concat { axis: 0 }, &[f([1, 4, 3]), f([2, 4, 3])], Tol::EXACT);
        s.op(Concat { axis: 1 }, &[f([2, 4, 3]), f([2, 1, 3]), f([2, 2, 3])], Tol::EXACT);
        s.op(Concat { axis: 2 }, &[f([2, 4, 3]), f([2, 4, 5])], Tol::EXACT);
    }
}
