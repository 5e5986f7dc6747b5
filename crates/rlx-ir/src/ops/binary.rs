//! Elementwise functions of two tensors, broadcast as in NumPy.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Gen, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// Which function.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // named as in NumPy and PyTorch; the meaning is `BinaryOp::apply`
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Max,
    Min,
    Lt,
    Le,
    Eq,
    And,
    Or,
}

impl BinaryOp {
    /// Every function.
    pub const ALL: [BinaryOp; 12] = {
        use BinaryOp::*;
        [Add, Sub, Mul, Div, Pow, Max, Min, Lt, Le, Eq, And, Or]
    };

    /// The function in f64; comparisons give 0 or 1.
    pub fn apply(self, a: f64, b: f64) -> f64 {
        let bit = |b| f64::from(u8::from(b));
        match self {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            BinaryOp::Pow => a.powf(b),
            BinaryOp::Max => a.max(b),
            BinaryOp::Min => a.min(b),
            BinaryOp::Lt => bit(a < b),
            BinaryOp::Le => bit(a <= b),
            BinaryOp::Eq => bit(a == b),
            BinaryOp::And => bit(a != 0.0 && b != 0.0),
            BinaryOp::Or => bit(a != 0.0 || b != 0.0),
        }
    }

    /// True for functions whose result is bool.
    pub fn is_predicate(self) -> bool {
        use BinaryOp::*;
        matches!(self, Lt | Le | Eq | And | Or)
    }
}

/// `op(a, b)` per element.  Both of one type; result of that type, or bool for comparisons.
/// Integer division rounds towards zero.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Binary {
    /// The function.
    pub op: BinaryOp,
}

impl OpDef for Binary {
    const NAME: &'static str = "binary";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [a, b] = rule::arity(ins)?;
        let ((da, sa), (db, sb)) = (rule::tensor("a", a)?, rule::tensor("b", b)?);
        if da != db {
            return Err(rule::mismatch("b", b, format!("a tensor of {da}, like a")));
        }
        let logical = matches!(self.op, BinaryOp::And | BinaryOp::Or);
        if da.is_block() || logical != (da == DType::Bool) {
            return Err(rule::mismatch("a", a, if logical { "a tensor of bool" } else { "a tensor of numbers" }));
        }
        let out = if self.op.is_predicate() { DType::Bool } else { da };
        Ok(vec![Type::tensor(out, rule::broadcast(sa, sb)?)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let (a, b) = (ins[0].tensor(Self::NAME)?, ins[1].tensor(Self::NAME)?);
        let shape = broadcast_shape(&a.shape, &b.shape);
        let (a, b) = (expand(a, &shape), expand(b, &shape));
        let dtype = if self.op.is_predicate() { DType::Bool } else { a.dtype };
        let f = |x, y| {
            let r = self.op.apply(x, y);
            if dtype.is_int() { r.trunc() } else { r }
        };
        let data = a.data.iter().zip(b.data.iter()).map(|(x, y)| f(*x, *y)).collect();
        Ok(vec![Value::Tensor(Tensor::new(dtype, shape, data))])
    }

    fn samples(s: &mut Samples) {
        for op in BinaryOp::ALL {
            let (d, g) = match op {
                BinaryOp::And | BinaryOp::Or => (DType::Bool, Gen::Uniform(0.0, 2.0)),
                BinaryOp::Pow | BinaryOp::Div => (DType::F32, Gen::Uniform(0.2, 3.0)),
                _ => (DType::F32, Gen::Normal(2.0)),
            };
            let tol = Tol { nmse: 1e-12, max: 5e-6 };
            let ty = |s: &[usize]| Type::tensor(d, s.iter().map(|n| (*n).into()).collect::<Vec<_>>());
            s.op_with(Binary { op }, &[(ty(&[2, 5, 33]), g.clone()), (ty(&[2, 5, 33]), g.clone())], tol);
            s.op_with(Binary { op }, &[(ty(&[2, 1, 33]), g.clone()), (ty(&[5, 1]), g.clone())], tol);
            s.op_with(Binary { op }, &[(ty(&[7, 64]), g.clone()), (ty(&[]), g)], tol);
        }
        let ints = Type::tensor(DType::I32, [4, 9]);
        s.op(Binary { op: BinaryOp::Add }, &[ints.clone(), ints.clone()], Tol::EXACT);
        s.op(Binary { op: BinaryOp::Le }, &[ints.clone(), ints], Tol::EXACT);
    }
}

/// The shape two concrete shapes broadcast to (they are known to fit).
pub(crate) fn broadcast_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let n = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(n).map_or(1, |j| s[j]);
    (0..n).map(|i| if at(a, i) == 1 { at(b, i) } else { at(a, i) }).collect()
}

/// `t` repeated to `shape`, right-aligned.
pub(crate) fn expand(t: &Tensor, shape: &[usize]) -> Tensor {
    if t.shape == shape {
        return t.clone();
    }
    let lead = shape.len() - t.shape.len();
    let data = indices(shape)
        .map(|ix| {
            let flat = t.shape.iter().enumerate().fold(0, |f, (i, n)| f * n + if *n == 1 { 0 } else { ix[lead + i] });
            t.data[flat]
        })
        .collect();
    Tensor::new(t.dtype, shape, data)
}

/// All index tuples of a shape, row-major.
pub(crate) fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let shape = shape.to_vec();
    let total: usize = shape.iter().product();
    (0..total).map(move |mut flat| {
        let mut ix = vec![0; shape.len()];
        for (i, n) in shape.iter().enumerate().rev() {
            ix[i] = flat % n;
            flat /= n;
        }
        ix
    })
}
