//! A range along one axis.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{DType, Dim, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// Elements `start .. start+len` along `axis`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// Axis.
    pub axis: usize,
    /// First element.
    pub start: Dim,
    /// Number of elements.
    pub len: Dim,
}

impl OpDef for Slice {
    const NAME: &'static str = "slice";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        rule::axis(self.axis, s.len())?;
        if d.is_block() {
            return Err(rule::mismatch("x", x, "a tensor that is not block-quantised"));
        }
        let end = self.start.clone() + &self.len;
        if let (Some(end), Some(size)) = (end.as_const(), s[self.axis].as_const())
            && end > size
        {
            return Err(rule::mismatch("start + len", end, format!("at most {size}, the size of axis {}", self.axis)));
        }
        let mut s = s.to_vec();
        s[self.axis] = self.len.clone();
        Ok(vec![Type::tensor(d, s)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let (start, len, size) = (self.start.eval(cx.dims)?, self.len.eval(cx.dims)?, x.shape[self.axis]);
        if start + len > size {
            return Err(op_error(Self::NAME, format!("{start}+{len} is beyond the size {size} of axis {}", self.axis)));
        }
        let inner: usize = x.shape[self.axis + 1..].iter().product();
        let data = x.data.chunks(size * inner.max(1)).flat_map(|c| &c[start * inner..(start + len) * inner]).copied().collect();
        let mut shape = x.shape.clone();
        shape[self.axis] = len;
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, data))])
    }

    fn samples(s: &mut Samples) {
        let x = [Type::tensor(DType::F32, [3, 8, 5])];
        for (axis, start, len) in [(0, 1, 2), (1, 0, 8), (1, 3, 4), (2, 4, 1)] {
            s.op(Slice { axis, start: Dim::from(start), len: Dim::from(len) }, &x, Tol::EXACT);
        }
    }
}
