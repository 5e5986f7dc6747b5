//! Constant padding, around and between elements.

use super::OpDef;
use super::binary::indices;
use super::window::bounded;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `value` before (`lo`), after (`hi`) and between (`interior`) the elements of every dimension:
/// a dimension `d` becomes `lo + d + interior·(d−1) + hi`.  x: any plain type → same type.
/// A dimension with interior padding must not be 0.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pad {
    /// Elements before, per dimension.
    pub lo: Vec<usize>,
    /// Elements after, per dimension.
    pub hi: Vec<usize>,
    /// Elements between two neighbours, per dimension; empty for none anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interior: Vec<usize>,
    /// What to fill with; finite.
    pub value: f64,
}

impl Pad {
    fn interior(&self, axis: usize) -> usize {
        self.interior.get(axis).copied().unwrap_or(0)
    }
}

impl OpDef for Pad {
    const NAME: &'static str = "pad";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        if d.is_block() {
            return Err(rule::mismatch("x", x, "a tensor that is not block-quantised"));
        }
        let fits = self.lo.len() == s.len() && self.hi.len() == s.len() && (self.interior.is_empty() || self.interior.len() == s.len());
        if !fits {
            let found = format!("{}, {} and {}", self.lo.len(), self.hi.len(), self.interior.len());
            return Err(rule::mismatch("lengths of lo, hi, interior", found, format!("{}, the rank of x", s.len())));
        }
        if !self.value.is_finite() || d.round(self.value) != self.value && !d.is_float() {
            return Err(rule::mismatch("value", self.value, format!("a finite number that {d} can hold")));
        }
        let mut out = Vec::with_capacity(s.len());
        for (i, d) in s.iter().enumerate() {
            let (lo, hi, inner) = (self.lo[i], self.hi[i], self.interior(i));
            [lo, hi, inner].iter().try_for_each(|v| bounded("padding", *v, 0))?;
            if inner > 0 && d.as_const() == Some(0) {
                return Err(rule::mismatch(format!("dimension {i}"), d, "at least 1, to pad between elements"));
            }
            out.push(d.clone() * (inner + 1) + (lo + hi) - Dim::from(inner));
        }
        Ok(vec![Type::tensor(d, out)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let size = |(i, n): (usize, &usize)| (n * (self.interior(i) + 1) + self.lo[i] + self.hi[i]).saturating_sub(self.interior(i));
        let shape: Vec<usize> = x.shape.iter().enumerate().map(size).collect();
        let mut out = vec![x.dtype.round(self.value); shape.iter().product()];
        for (ix, v) in indices(&x.shape).zip(x.data.iter()) {
            let at = ix.iter().enumerate().fold(0, |f, (i, j)| f * shape[i] + self.lo[i] + j * (self.interior(i) + 1));
            out[at] = *v;
        }
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, out))])
    }

    fn samples(s: &mut Samples) {
        let x = Type::tensor(DType::F32, [3, 4, 5]);
        let op = Pad { lo: vec![0, 2, 1], hi: vec![0, 0, 3], interior: vec![], value: 0.0 };
        s.op(op.clone(), std::slice::from_ref(&x), Tol::EXACT);
        s.op(Pad { interior: vec![1, 0, 3], value: -2.5, ..op }, &[x], Tol::EXACT);
        let op = Pad { lo: vec![1], hi: vec![1], interior: vec![2], value: 7.0 };
        s.op(op.clone(), &[Type::tensor(DType::I32, [9])], Tol::EXACT);
        s.op(op, &[Type::tensor(DType::U8, [1])], Tol::EXACT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_attributes_are_refused() {
        let x: Type = "i32[T,4]".parse().unwrap();
        let op = Pad { lo: vec![1, 0], hi: vec![2, 0], interior: vec![1, 0], value: 3.0 };
        assert_eq!(op.infer(&[&x]).unwrap()[0].to_string(), "i32[2*T+2,4]");
        for bad in [Pad { lo: vec![1], ..op.clone() }, Pad { interior: vec![1], ..op.clone() }, Pad { value: f64::NAN, ..op.clone() }, Pad { value: 0.5, ..op.clone() }, Pad { hi: vec![usize::MAX, 0], ..op.clone() }] {
            assert!(bad.infer(&[&x]).is_err(), "{bad:?}");
        }
    }
}
