//! Root-mean-square layer normalisation (Zhang & Sennrich 2019).

use super::OpDef;
use crate::{DType, Inferred, Samples, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// `y = x / sqrt(mean(x², last) + eps) · w`.  x: […,N], w: `[N]` in any real type → […,N] of x's
/// type.  Statistics in f32.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

impl OpDef for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x, w] = rule::arity(ins)?;
        let ((_, xs), (_, [n])) = (rule::float("x", x)?, rule::ranked::<1>("w", w)?);
        rule::float("w", w)?;
        rule::same("w", n, "last dimension of x", rule::last("x", xs)?)?;
        Ok(vec![x.clone()])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let x = ins[0].cast(if ins[0].dtype() == DType::F64 { DType::F64 } else { DType::F32 });
        let r = (x.square().mean_last() + self.eps).rsqrt();
        Some(vec![(x * r * ins[1].cast(x.dtype())).cast(ins[0].dtype())])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-12, max: 5e-6 };
        s.op(RmsNorm { eps: 1e-6 }, &[Type::tensor(DType::F32, [5, 64]), Type::tensor(DType::F32, [64])], tol);
        s.op(RmsNorm { eps: 1e-5 }, &[Type::tensor(DType::F32, [2, 3, 20]), Type::tensor(DType::BF16, [20])], tol);
        s.op(RmsNorm { eps: 1e-5 }, &[Type::tensor(DType::F32, [1, 1031]), Type::tensor(DType::F16, [1031])], tol);
    }
}
