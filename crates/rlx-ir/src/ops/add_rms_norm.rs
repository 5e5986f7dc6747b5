//! A residual sum and the norm that reads it, in one pass over memory.

use super::{OpDef, RmsNorm};
use crate::{DType, Inferred, Samples, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// `sum = a + b`, `normed = rms_norm(sum, w)`.  a, b: […,N] of one real type, w: `[N]` in any
/// real type → sum and normed, both of a's type and shape.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AddRmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

impl OpDef for AddRmsNorm {
    const NAME: &'static str = "add_rms_norm";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [a, b, w] = rule::arity(ins)?;
        if a != b {
            return Err(rule::mismatch("b", b, format!("{a}, like a")));
        }
        let normed = RmsNorm { eps: self.eps }.infer(&[a, w])?;
        Ok([vec![a.clone()], normed].concat())
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let sum = ins[0] + ins[1];
        Some(vec![sum, sum.with(RmsNorm { eps: self.eps }, &[ins[2]])])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-12, max: 5e-6 };
        let f = |d: [usize; 2]| Type::tensor(DType::F32, d);
        s.op(AddRmsNorm { eps: 1e-6 }, &[f([5, 64]), f([5, 64]), Type::tensor(DType::F32, [64])], tol);
        s.op(AddRmsNorm { eps: 1e-5 }, &[f([1, 515]), f([1, 515]), Type::tensor(DType::BF16, [515])], tol);
        let x = Type::tensor(DType::F32, [2, 3, 20]);
        s.op(AddRmsNorm { eps: 1e-5 }, &[x.clone(), x, Type::tensor(DType::F16, [20])], tol);
    }
}
