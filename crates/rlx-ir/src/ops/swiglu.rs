//! The gated activation of SwiGLU feed-forward blocks (Shazeer 2020) and its relatives.

use super::{OpDef, Unary, UnaryOp};
use crate::{DType, Inferred, Samples, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// `act(x[…, :N]) · x[…, N:]`.  x: […,2N] (gate, then up) → […,N].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Swiglu {
    /// The activation of the gate: `silu` for SwiGLU, `gelu_tanh` for GeGLU, …
    pub act: UnaryOp,
}

impl OpDef for Swiglu {
    const NAME: &'static str = "swiglu";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::float("x", x)?;
        let n = rule::last("x", s)?;
        let half = n.floor_div(2);
        if half.clone() * 2 != *n {
            return Err(rule::mismatch("last dimension of x", n, "an even number"));
        }
        let mut s = s.to_vec();
        s.pop();
        s.push(half);
        Ok(vec![Type::tensor(d, s)])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let (x, last) = (ins[0], ins[0].rank() - 1);
        let n = x.last_dim().floor_div(2);
        let (gate, up) = (x.slice(last, 0, &n), x.slice(last, &n, &n));
        Some(vec![gate.with(Unary { op: self.act }, &[]) * up])
    }

    fn samples(s: &mut Samples) {
        for act in [UnaryOp::Silu, UnaryOp::GeluTanh, UnaryOp::Relu] {
            s.op(Swiglu { act }, &[Type::tensor(DType::F32, [3, 70])], Tol { nmse: 1e-11, max: 1e-5 });
        }
    }
}
