//! Short causal convolution over ragged sequences (Mamba, LFM2, gated delta nets).

use super::OpDef;
use super::window::bounded;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Gen, Inferred, Samples, Segments, Tensor, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// `y[t,c] = Σⱼ w[c,j] · x[t−(k−1)+j, c] (+ b[c])`, where rows before a segment's first come from
/// its state, oldest first.
///
/// Inputs: x `[T, C]` in a plain real type; w `[C, k]`, k ≥ 2, in any plain real type; seg; state
/// `[S, C, k−1]` in a plain real type; with `bias` also b `[C]` in any plain real type.
/// Outputs: y `[T, C]` of x's type, and the last k−1 rows of each sequence, `[S, C, k−1]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShortConv {
    /// A bias follows the state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
}

impl OpDef for ShortConv {
    const NAME: &'static str = "short_conv";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        if ins.len() != 4 + usize::from(self.bias) {
            return Err(TypeError::Arity { expected: "4 (x, w, seg, state), or 5 with a bias".into(), found: ins.len() });
        }
        for (what, t) in ["x", "w", "", "state", "bias"].iter().zip(ins).filter(|(w, _)| !w.is_empty()) {
            rule::float(what, t)?;
        }
        let ((_, [t, c]), (_, [wc, k])) = (rule::ranked::<2>("x", ins[0])?, rule::ranked::<2>("w", ins[1])?);
        let (count, tokens) = rule::segments("seg", ins[2])?;
        let (d, _) = rule::tensor("state", ins[3])?;
        rule::same("tokens of seg", tokens, "of x", t)?;
        rule::same("channels of w", wc, "of x", c)?;
        let k = rule::constant("kernel", k)?;
        bounded("kernel", k, 2)?;
        let state = Type::tensor(d, [count.clone(), c.clone(), Dim::from(k - 1)]);
        if *ins[3] != state {
            return Err(rule::mismatch("state", ins[3], state));
        }
        if self.bias {
            let (_, [b]) = rule::ranked::<1>("bias", ins[4])?;
            rule::same("channels of the bias", b, "of x", c)?;
        }
        Ok(vec![ins[0].clone(), state])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let [x, w, state] = [ins[0].tensor(Self::NAME)?, ins[1].tensor(Self::NAME)?, ins[3].tensor(Self::NAME)?];
        let (seg, bias) = (ins[2].segments(Self::NAME)?, ins.get(4).map(|b| b.tensor(Self::NAME)).transpose()?);
        let (c, k) = (w.shape[0], w.shape[1]);
        let (mut y, mut last) = (vec![0.0; x.numel()], vec![0.0; state.numel()]);
        for (s, (range, ..)) in seg.iter().enumerate() {
            for j in 0..c {
                let at = (s * c + j) * (k - 1);
                let mut row = state.data[at..at + k - 1].to_vec();
                row.extend(range.clone().map(|t| x.data[t * c + j]));
                for (t, window) in range.clone().zip(row.windows(k)) {
                    let dot: f64 = window.iter().zip(&w.data[j * k..]).map(|(a, b)| a * b).sum();
                    y[t * c + j] = dot + bias.map_or(0.0, |b| b.data[j]);
                }
                last[at..at + k - 1].copy_from_slice(&row[range.len()..]);
            }
        }
        let tensor = |t: &Tensor, v| Value::Tensor(Tensor::new(t.dtype, t.shape.clone(), v));
        Ok(vec![tensor(x, y), tensor(state, last)])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        for (c, k, bias) in [(6, 4, false), (33, 3, true), (5, 2, false)] {
            s.graph(&vec![Gen::Normal(1.0); 3 + usize::from(bias)], &recurrent_steps(), tol, |b| {
                let (seg, f) = (b.segments(), |d: Vec<Dim>| Type::tensor(DType::F32, d));
                let x = b.input("x", f(vec![Dim::sym("T"), Dim::from(c)]));
                let w = b.input("w", f(vec![Dim::from(c), Dim::from(k)]));
                let bias = bias.then(|| b.input("b", f(vec![Dim::from(c)])));
                let ty = Type::State(DType::F32, [c, k - 1].into());
                recur(b.state("conv", ty), seg, |s0| {
                    let ins: Vec<Val<'_>> = [w, seg, s0].into_iter().chain(bias).collect();
                    x.with_all(ShortConv { bias: bias.is_some() }, &ins)
                })
            });
        }
    }
}

/// Prefill, decode, chunks, a new sequence in a used slot, several sequences at once.
pub(crate) fn recurrent_steps() -> Vec<(Segments, &'static [(&'static str, u64)])> {
    let steps = [
        Segments::new([(3, 0, 0), (5, 0, 7)]),
        Segments::new([(1, 5, 7), (2, 3, 0)]),
        Segments::new([(1, 5, 0)]),
        Segments::new([(19, 0, 2), (1, 6, 7), (1, 0, 0)]),
        Segments::new([(1, 19, 2), (1, 1, 0), (4, 7, 7)]),
    ];
    steps.into_iter().map(|s| (s, &[][..])).collect()
}

/// Reads `state`, lets `f` compute (result, final state) from it, writes the state, and returns
/// both.
pub(crate) fn recur<'g>(state: Val<'g>, seg: Val<'g>, f: impl FnOnce(Val<'g>) -> Vec<Val<'g>>) -> Vec<Val<'g>> {
    let out = f(state.with(super::StateRead {}, &[seg]));
    state.builder().update(state, state.with(super::StateWrite {}, &[out[1], seg]));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_refused() {
        let t = |s: &str| s.parse::<Type>().unwrap();
        let infer = |x: &str, w: &str, st: &str| ShortConv { bias: false }.infer(&[&t(x), &t(w), &t("segments[S,T]"), &t(st)]);
        assert!(infer("f16[T,8]", "bf16[8,4]", "f32[S,8,3]").is_ok());
        for (x, w, st) in [("f32[T,8]", "f32[8,1]", "f32[S,8,0]"), ("f32[S,8]", "f32[8,4]", "f32[S,8,3]"), ("f32[T,8]", "f32[8,4]", "f32[S,8,4]"), ("f32[T,8]", "f32[7,4]", "f32[S,8,3]"), ("f32[T,8]", "i8[8,4]", "f32[S,8,3]")] {
            assert!(infer(x, w, st).is_err(), "{x} {w} {st}");
        }
    }
}
