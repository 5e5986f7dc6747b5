//! The gated delta rule (Yang et al. 2024), as in Qwen3-Next and Kimi Linear.

use super::OpDef;
use super::short_conv::{recur, recurrent_steps};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Gen, Inferred, Samples, Tensor, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// Per sequence and value head, over its tokens t:
/// `M ← diag(exp(gₜ))·M`, `M ← M + kₜ ⊗ βₜ(vₜ − Mᵀkₜ)`, `yₜ = scale · Mᵀqₜ`.
///
/// Inputs: q, k `[T, H, Dk]`, v `[T, V, Dv]` with V a multiple of H (value head `i` reads key head
/// `i / (V/H)`); g `[T, V]`, or `[T, V, Dk]` for a decay per key channel, the logarithm of the
/// decay; beta `[T, V]`; all of one plain real type; then seg and state `[S, V, Dk, Dv]` in a plain
/// real type: M before the first token.
///
/// Outputs: y `[T, V, Dv]` of v's type, and M after the last token `[S, V, Dk, Dv]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GatedDeltaRule {
    /// Factor on the result, usually `1/√Dk`.
    pub scale: f64,
    /// q and k become `x / sqrt(Σx² + eps)` first, with this eps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<f64>,
}

impl OpDef for GatedDeltaRule {
    const NAME: &'static str = "gated_delta_rule";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [q, k, v, g, beta, seg, state] = rule::arity(ins)?;
        let (e, [t, h, dk]) = (rule::float("q", q)?.0, rule::ranked::<3>("q", q)?.1);
        let (_, [_, vh, dv]) = rule::ranked::<3>("v", v)?;
        let (count, tokens) = rule::segments("seg", seg)?;
        rule::same("tokens of seg", tokens, "of q", t)?;
        let (heads, values) = (rule::constant("key heads", h)?, rule::constant("value heads", vh)?);
        if heads == 0 || values % heads != 0 {
            return Err(rule::mismatch("value heads", values, format!("a multiple of the {heads} key heads")));
        }
        let d = |v: &[&Dim]| Type::tensor(e, v.iter().map(|d| (*d).clone()).collect::<Vec<_>>());
        for (what, ty, want) in [("k", k, d(&[t, h, dk])), ("v", v, d(&[t, vh, dv])), ("beta", beta, d(&[t, vh]))] {
            if *ty != want {
                return Err(rule::mismatch(what, ty, want));
            }
        }
        if *g != d(&[t, vh]) && *g != d(&[t, vh, dk]) {
            return Err(rule::mismatch("g", g, format!("{e}[{t},{vh}] or {e}[{t},{vh},{dk}]")));
        }
        if rule::float("state", state)?.1 != [count, vh, dk, dv].map(Dim::clone) {
            return Err(rule::mismatch("state", state, format!("[{count},{vh},{dk},{dv}]")));
        }
        Ok(vec![v.clone(), state.clone()])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let t = |i: usize| ins[i].tensor(Self::NAME);
        let (q, k, v, g, beta, state) = (t(0)?, t(1)?, t(2)?, t(3)?, t(4)?, t(6)?);
        let seg = ins[5].segments(Self::NAME)?;
        let (h, dk, vh, dv) = (q.shape[1], q.shape[2], v.shape[1], v.shape[2]);
        let unit = |x: &[f64]| {
            let r = self.qk_norm.map_or(1.0, |eps| 1.0 / (x.iter().map(|v| v * v).sum::<f64>() + eps).sqrt());
            x.iter().map(|v| v * r).collect::<Vec<_>>()
        };
        let (mut y, mut memory) = (vec![0.0; v.numel()], state.data.to_vec());
        for (s, (range, ..)) in seg.iter().enumerate() {
            for (tok, i) in range.flat_map(|tok| (0..vh).map(move |i| (tok, i))) {
                let (row, key) = (tok * vh + i, (tok * h + i / (vh / h)) * dk);
                let (q, k) = (unit(&q.data[key..key + dk]), unit(&k.data[key..key + dk]));
                let m = &mut memory[(s * vh + i) * dk * dv..][..dk * dv]; // [Dk,Dv]
                for (a, m) in m.chunks_mut(dv).enumerate() {
                    let decay = if g.shape.len() == 2 { g.data[row] } else { g.data[row * dk + a] };
                    m.iter_mut().for_each(|m| *m *= decay.exp());
                }
                for e in 0..dv {
                    let recalled: f64 = (0..dk).map(|a| m[a * dv + e] * k[a]).sum();
                    let change = beta.data[row] * (v.data[row * dv + e] - recalled);
                    (0..dk).for_each(|a| m[a * dv + e] += k[a] * change);
                    y[row * dv + e] = self.scale * (0..dk).map(|a| m[a * dv + e] * q[a]).sum::<f64>();
                }
            }
        }
        let tensor = |t: &Tensor, v| Value::Tensor(Tensor::new(t.dtype, t.shape.clone(), v));
        Ok(vec![tensor(v, y), tensor(state, memory)])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-10, max: 3e-5 };
        // [H, Dk, V, Dv], decay per channel.
        for (dims, wide) in [([2, 8, 4, 6], false), ([1, 16, 1, 16], true), ([3, 5, 3, 7], false), ([2, 64, 4, 64], false)] {
            s.graph(&vec![Gen::Normal(1.0); 6], &recurrent_steps(), tol, |b| case(b, dims, wide));
        }
    }
}

fn case<'g>(b: &'g crate::Builder<'g>, [h, dk, vh, dv]: [usize; 4], wide: bool) -> Vec<Val<'g>> {
    let seg = b.segments();
    let rows = |name: &str, d: &[usize]| {
        let dims = std::iter::once(Dim::sym("T")).chain(d.iter().map(|n| Dim::from(*n))).collect::<Vec<_>>();
        b.input(name, Type::tensor(DType::F32, dims))
    };
    let (q, k, v) = (rows("q", &[h, dk]), rows("k", &[h, dk]), rows("v", &[vh, dv]));
    let g = -if wide { rows("g", &[vh, dk]) } else { rows("g", &[vh]) }.softplus();
    let beta = rows("beta", &[vh]).sigmoid();
    let op = GatedDeltaRule { scale: (dk as f64).powf(-0.5), qk_norm: Some(1e-6) };
    recur(b.state("memory", Type::State(DType::F32, [vh, dk, dv].into())), seg, |s0| q.with_all(op, &[k, v, g, beta, seg, s0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_refused() {
        let good = ["f32[T,2,8]", "f32[T,2,8]", "f32[T,4,6]", "f32[T,4]", "f32[T,4]", "segments[S,T]", "f32[S,4,8,6]"];
        let infer = |ins: &[&str]| {
            let tys: Vec<Type> = ins.iter().map(|s| s.parse().unwrap()).collect();
            GatedDeltaRule { scale: 1.0, qk_norm: None }.infer(&tys.iter().collect::<Vec<_>>())
        };
        assert!(infer(&good).is_ok());
        let bad = ["f32[T,3,8]", "f16[T,2,8]", "f32[T,3,6]", "f32[T,4,6]", "f32[T,2]", "segments[T,S]", "f32[S,4,6,8]"];
        for (i, ty) in bad.into_iter().enumerate() {
            let mut ins = good;
            ins[i] = ty;
            assert!(infer(&ins).is_err(), "{ty}");
        }
    }
}
