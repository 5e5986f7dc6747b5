//! Softmax.

use super::OpDef;
use crate::{DType, Gen, Inferred, Samples, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// `exp(x − max) / Σ exp(x − max)` over the last dimension.  x: […,N] → same.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Softmax {}

impl OpDef for Softmax {
    const NAME: &'static str = "softmax";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (_, s) = rule::float("x", x)?;
        rule::last("x", s)?;
        Ok(vec![x.clone()])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let last = [ins[0].rank() - 1];
        let e = (ins[0] - ins[0].max(&last)).exp();
        Some(vec![e / e.sum(&last)])
    }

    fn samples(s: &mut Samples) {
        for shape in [vec![4, 33], vec![2, 3, 128], vec![1, 1]] {
            let ty = Type::tensor(DType::F32, shape.into_iter().map(crate::Dim::from).collect::<Vec<_>>());
            s.op_with(Softmax {}, &[(ty, Gen::Normal(8.0))], Tol { nmse: 1e-11, max: 1e-5 });
        }
    }
}
