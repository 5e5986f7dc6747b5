//! Selective state-space scan: Mamba (Gu & Dao 2023) and Mamba-2 (Dao & Gu 2024).

use super::OpDef;
use super::short_conv::{recur, recurrent_steps};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Gen, Inferred, Samples, Tensor, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// Per sequence, over its tokens t: `h ← exp(dtₜ·A) · h + dtₜ · xₜ ⊗ Bₜ`, `yₜ = h·Cₜ (+ D·xₜ)`.
///
/// Inputs, H heads of P channels with N states each, G groups that share B and C (head `i` reads
/// group `i / (H/G)`):
/// * x `[T, H, P]`, in a plain real type;
/// * dt `[T, H]`, of x's type, already positive (bias and softplus are separate ops);
/// * A `[H]` (Mamba-2) or `[H, N]` (Mamba), any plain real type, negative for a decaying state;
/// * B, C `[T, G, N]`, of x's type;
/// * seg;
/// * state `[S, H, P, N]` in a plain real type: h before the first token;
/// * with `skip` also D `[H]`, any plain real type.
///
/// Outputs: y `[T, H, P]` of x's type, and h after the last token `[S, H, P, N]`.
///
/// Mamba has H = its inner size, P = 1, G = 1.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SelectiveScan {
    /// D follows the state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip: bool,
}

impl OpDef for SelectiveScan {
    const NAME: &'static str = "selective_scan";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        if ins.len() != 7 + usize::from(self.skip) {
            return Err(TypeError::Arity { expected: "7 (x, dt, A, B, C, seg, state), or 8 with D".into(), found: ins.len() });
        }
        let (e, [t, h, p]) = (rule::float("x", ins[0])?.0, rule::ranked::<3>("x", ins[0])?.1);
        let [_, g, n] = rule::ranked::<3>("B", ins[3])?.1;
        let (count, tokens) = rule::segments("seg", ins[5])?;
        rule::same("tokens of seg", tokens, "of x", t)?;
        let (heads, groups) = (rule::constant("heads", h)?, rule::constant("groups", g)?);
        if groups == 0 || heads % groups != 0 {
            return Err(rule::mismatch("heads", heads, format!("a multiple of the {groups} groups")));
        }
        let d = |v: &[&Dim]| v.iter().map(|d| (*d).clone()).collect::<Vec<_>>();
        for (what, t, want) in [("dt", ins[1], d(&[t, h])), ("B", ins[3], d(&[t, g, n])), ("C", ins[4], d(&[t, g, n]))] {
            let want = Type::tensor(e, want);
            if *t != want {
                return Err(rule::mismatch(what, t, want));
            }
        }
        let a = rule::float("A", ins[2])?.1;
        if a != d(&[h]) && a != d(&[h, n]) {
            return Err(rule::mismatch("A", ins[2], format!("[{h}] or [{h},{n}]")));
        }
        let state = rule::float("state", ins[6])?.1;
        if state != d(&[count, h, p, n]) {
            return Err(rule::mismatch("state", ins[6], format!("[{count},{h},{p},{n}]")));
        }
        if self.skip && rule::float("D", ins[7])?.1 != d(&[h]) {
            return Err(rule::mismatch("D", ins[7], format!("[{h}]")));
        }
        Ok(vec![ins[0].clone(), ins[6].clone()])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let t = |i: usize| ins[i].tensor(Self::NAME);
        let (x, dt, a, b, c, state) = (t(0)?, t(1)?, t(2)?, t(3)?, t(4)?, t(6)?);
        let (seg, skip) = (ins[5].segments(Self::NAME)?, ins.get(7).map(|d| d.tensor(Self::NAME)).transpose()?);
        let (heads, p, g, n) = (x.shape[1], x.shape[2], b.shape[1], b.shape[2]);
        let (mut y, mut h) = (vec![0.0; x.numel()], state.data.to_vec());
        for (s, (range, ..)) in seg.iter().enumerate() {
            for (tok, i) in range.flat_map(|tok| (0..heads).map(move |i| (tok, i))) {
                let (dt, group) = (dt.data[tok * heads + i], (tok * g + i / (heads / g)) * n);
                let (b, c) = (&b.data[group..group + n], &c.data[group..group + n]);
                for j in 0..p {
                    let at = (tok * heads + i) * p + j;
                    let row = &mut h[((s * heads + i) * p + j) * n..][..n];
                    for (k, v) in row.iter_mut().enumerate() {
                        let a = if a.shape.len() == 1 { a.data[i] } else { a.data[i * n + k] };
                        *v = (dt * a).exp() * *v + dt * x.data[at] * b[k];
                    }
                    let dot: f64 = row.iter().zip(c).map(|(h, c)| h * c).sum();
                    y[at] = dot + skip.map_or(0.0, |d| d.data[i] * x.data[at]);
                }
            }
        }
        let tensor = |t: &Tensor, v| Value::Tensor(Tensor::new(t.dtype, t.shape.clone(), v));
        Ok(vec![tensor(x, y), tensor(state, h)])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        // [H, P, G, N], one A per head or per state, D.
        for (dims, wide, skip) in [([6, 1, 1, 16], true, true), ([4, 8, 2, 16], false, true), ([3, 5, 1, 7], false, false), ([8, 64, 1, 128], false, true)] {
            s.graph(&vec![Gen::Normal(1.0); 6 + usize::from(skip)], &recurrent_steps(), tol, |b| case(b, dims, wide, skip));
        }
    }
}

fn case<'g>(b: &'g crate::Builder<'g>, [h, p, g, n]: [usize; 4], wide: bool, skip: bool) -> Vec<Val<'g>> {
    let seg = b.segments();
    let rows = |name: &str, d: &[usize]| {
        let dims = std::iter::once(Dim::sym("T")).chain(d.iter().map(|n| Dim::from(*n))).collect::<Vec<_>>();
        b.input(name, Type::tensor(DType::F32, dims))
    };
    let (x, dt) = (rows("x", &[h, p]), rows("dt", &[h]).softplus());
    let a = b.input("a", if wide { Type::tensor(DType::F32, [h, n]) } else { Type::tensor(DType::F32, [h]) });
    let (bb, cc) = (rows("b", &[g, n]), rows("c", &[g, n]));
    let d = skip.then(|| b.input("d", Type::tensor(DType::F32, [h])));
    recur(b.state("ssm", Type::State(DType::F32, [h, p, n].into())), seg, |s0| {
        let ins: Vec<Val<'_>> = [dt, -a.exp(), bb, cc, seg, s0].into_iter().chain(d).collect();
        x.with_all(SelectiveScan { skip }, &ins)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_refused() {
        let good = ["f32[T,4,8]", "f32[T,4]", "f32[4]", "f32[T,2,16]", "f32[T,2,16]", "segments[S,T]", "f32[S,4,8,16]"];
        let infer = |ins: &[&str]| {
            let tys: Vec<Type> = ins.iter().map(|s| s.parse().unwrap()).collect();
            SelectiveScan { skip: false }.infer(&tys.iter().collect::<Vec<_>>())
        };
        assert!(infer(&good).is_ok());
        let bad = ["f32[T,3,8]", "f32[T,5]", "f32[8]", "f32[T,3,16]", "f16[T,2,16]", "segments[T,S]", "f32[S,8,4,16]"];
        for (i, ty) in bad.into_iter().enumerate() {
            let mut ins = good;
            ins[i] = ty;
            assert!(infer(&ins).is_err(), "{ty}");
        }
    }
}
