//! Normalisation to unit length.

use super::OpDef;
use super::layer_norm::wide;
use crate::{DType, Inferred, Samples, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// x divided by its Euclidean length over the last dimension.  x: […,N] → same.  In f32.
///
/// `x / sqrt(Σx² + eps)`, or `x / max(sqrt(Σx²), eps)` with `clamp` (PyTorch's
/// `functional.normalize`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct L2Norm {
    /// Added to the sum of squares, or with `clamp` the least length.
    pub eps: f64,
    /// Which of the two forms.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clamp: bool,
}

impl OpDef for L2Norm {
    const NAME: &'static str = "l2_norm";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (_, s) = rule::float("x", x)?;
        rule::last("x", s)?;
        Ok(vec![x.clone()])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let x = ins[0].cast(wide(ins[0].dtype()));
        let sum = x.square().sum(&[x.rank() - 1]);
        let y = if self.clamp { x / sum.sqrt().maximum(x.scalar(self.eps)) } else { x * (sum + self.eps).rsqrt() };
        Some(vec![y.cast(ins[0].dtype())])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        s.op(L2Norm { eps: 1e-6, clamp: false }, &[Type::tensor(DType::F32, [3, 4, 33])], tol);
        s.op(L2Norm { eps: 1e-12, clamp: true }, &[Type::tensor(DType::F32, [2, 384])], tol);
        s.op(L2Norm { eps: 40.0, clamp: true }, &[Type::tensor(DType::F32, [5, 7])], tol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_scalars_are_refused() {
        let op = L2Norm { eps: 1e-6, clamp: false };
        for t in ["i32[4]", "f32[]", "q8_0[32]"] {
            assert!(op.infer(&[&t.parse().unwrap()]).is_err(), "{t}");
        }
        assert!(op.infer(&[&"f16[4]".parse().unwrap()]).is_ok());
    }
}
