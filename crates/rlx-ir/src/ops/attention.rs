//! Scaled dot-product attention (Vaswani et al. 2017), dense or over ragged cached sequences.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{Builder, DType, Dim, Gen, Inferred, Samples, Segments, Tensor, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// Which keys a query may see.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// All keys of its sequence.
    #[default]
    Full,
    /// Keys at its own position and before.
    Causal,
}

/// `softmax(scale · q·kᵀ (+ bias), masked) · v`, heads grouped: query head `h` reads key head
/// `h / (H/K)`.
///
/// * Ragged (`ragged`): q `[T,H,D]`; k `[T,K,D]`, v `[T,K,Dv]` tensors, or both caches of such
///   rows; then seg → `[T,H,Dv]`.  A token sees keys of its own sequence only.
/// * Dense: q `[B,N,H,D]`, k `[B,M,K,D]`, v `[B,M,K,Dv]` → `[B,N,H,Dv]`; with a causal mask the
///   last query sits at the last key.
/// * `sinks`: one more input `[H]`, a logit that takes part in the softmax and contributes no
///   value (Xiao et al. 2023; GPT-OSS).
/// * `bias` (dense only): one more input, broadcast to `[B,H,N,M]`, added to the logits.
///
/// A query that may see no key gives zeros.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Attention {
    /// Factor on the logits.
    pub scale: f64,
    /// Causality.
    #[serde(default)]
    pub mask: Mask,
    /// A query at position p sees keys at positions above `p − window`; with [`Mask::Full`] also
    /// only those below `p + window`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Logits become `cap · tanh(logit / cap)` before masking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f64>,
    /// Segments follow q, k, v.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ragged: bool,
    /// Sink logits follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sinks: bool,
    /// A bias follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
}

impl Attention {
    /// Dense attention with this scale and mask.
    pub fn dense(scale: f64, mask: Mask) -> Attention {
        Attention { scale, mask, window: None, softcap: None, ragged: false, sinks: false, bias: false }
    }

    /// Causal attention over ragged sequences.
    pub fn causal(scale: f64) -> Attention {
        Attention { ragged: true, ..Attention::dense(scale, Mask::Causal) }
    }

    /// Positions of seg, sinks and bias among the inputs.
    pub fn extras(&self) -> [Option<usize>; 3] {
        let mut next = 3;
        [self.ragged, self.sinks, self.bias].map(|has| {
            has.then(|| {
                next += 1;
                next - 1
            })
        })
    }

    /// True where a query at position `q` may see a key at position `k`.
    pub fn visible(&self, q: usize, k: usize) -> bool {
        (self.mask == Mask::Full || k <= q) && self.window.is_none_or(|w| k + w > q && k < q + w)
    }
}

/// Rows of one sequence: what one softmax problem is about.
struct Problem<'a> {
    q: &'a [f64],
    k: &'a [f64],
    v: &'a [f64],
    /// Position of the first query among the keys.
    at: usize,
}

impl Attention {
    /// One sequence.  `q [N,H,D]`, `k [M,K,D]`, `v [M,K,Dv]`; appends `[N,H,Dv]` to `out`.
    fn solve(&self, p: &Problem<'_>, dims: [usize; 4], sinks: Option<&Tensor>, bias: impl Fn(usize, usize, usize) -> f64, out: &mut Vec<f64>) {
        let [h, kh, d, dv] = dims;
        let (n, m) = (p.q.len() / (h * d), p.k.len() / (kh * d));
        for i in 0..n {
            for head in 0..h {
                let q = &p.q[(i * h + head) * d..][..d];
                let g = head / (h / kh);
                let logits: Vec<Option<f64>> = (0..m)
                    .map(|j| {
                        let dot: f64 = q.iter().zip(&p.k[(j * kh + g) * d..][..d]).map(|(a, b)| a * b).sum();
                        let s = dot * self.scale;
                        let s = self.softcap.map_or(s, |c| c * (s / c).tanh());
                        self.visible(p.at + i, j).then(|| s + bias(head, i, j))
                    })
                    .collect();
                let sink = sinks.map(|s| s.data[head]);
                let max = logits.iter().flatten().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = logits.iter().map(|l| l.map_or(0.0, |l| (l - max).exp())).collect();
                let total = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - max).exp());
                for e in 0..dv {
                    let sum: f64 = weights.iter().enumerate().map(|(j, w)| w * p.v[(j * kh + g) * dv + e]).sum();
                    out.push(if total > 0.0 { sum / total } else { 0.0 });
                }
            }
        }
    }
}

impl OpDef for Attention {
    const NAME: &'static str = "attention";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let want = 3 + usize::from(self.ragged) + usize::from(self.sinks) + usize::from(self.bias);
        if ins.len() != want || self.ragged && self.bias {
            return Err(TypeError::Arity { expected: format!("{want} (q, k, v, seg if ragged, sinks, bias if dense)"), found: ins.len() });
        }
        let (d, q) = rule::float("q", ins[0])?;
        let rank = if self.ragged { 3 } else { 4 };
        if q.len() != rank {
            return Err(rule::mismatch("q", ins[0], format!("rank {rank}")));
        }
        let heads = |what: &str, t: &Type| match t {
            Type::Cache(_, s) if self.ragged && s.rank() == 2 => Ok((s.0[0].clone(), s.0[1].clone())),
            Type::Tensor(e, s) if *e == d && s.rank() == rank => {
                let kv = &s.0;
                rule::same(&format!("first dimension of {what}"), &kv[0], "q", &q[0])?;
                Ok((kv[rank - 2].clone(), kv[rank - 1].clone()))
            }
            other => Err(rule::mismatch(what, other, format!("{d} of rank {rank}{}", if self.ragged { " or a cache of [K,D] rows" } else { "" }))),
        };
        let ((kh, kd), (vh, vd)) = (heads("k", ins[1])?, heads("v", ins[2])?);
        if std::mem::discriminant(ins[1]) != std::mem::discriminant(ins[2]) {
            return Err(rule::mismatch("v", ins[2], "a cache or a tensor, as k is"));
        }
        rule::same("heads of v", &vh, "heads of k", &kh)?;
        rule::same("head dimension of k", &kd, "of q", &q[rank - 1])?;
        let (h, k) = (rule::constant("query heads", &q[rank - 2])?, rule::constant("key heads", &kh)?);
        if k == 0 || h % k != 0 {
            return Err(rule::mismatch("query heads", h, format!("a multiple of the {k} key heads")));
        }
        if let (Type::Tensor(_, k), Type::Tensor(_, v)) = (ins[1], ins[2]) {
            rule::same("keys", &k.0[rank - 3], "values", &v.0[rank - 3])?;
        }
        let [seg, sinks, bias] = self.extras();
        if let Some(i) = seg {
            rule::same("tokens of seg", rule::segments("seg", ins[i])?.1, "of q", &q[0])?;
        }
        if let Some(i) = sinks
            && *ins[i] != Type::tensor(d, [h])
        {
            return Err(rule::mismatch("sinks", ins[i], format!("{d}[{h}]")));
        }
        if let Some(i) = bias {
            let (_, s) = rule::float("bias", ins[i])?;
            let Type::Tensor(_, keys) = ins[1] else { return Err(rule::mismatch("k", ins[1], "a tensor")) };
            let full = [q[0].clone(), Dim::from(h), q[1].clone(), keys.0[1].clone()];
            if rule::broadcast(s, &full)? != full {
                return Err(rule::mismatch("bias", ins[i], crate::Shape::from(&full[..])));
            }
        }
        let mut out = q.to_vec();
        out[rank - 1] = vd;
        Ok(vec![Type::tensor(d, out)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let q = ins[0].tensor(Self::NAME)?;
        let [seg, sinks, bias] = self.extras();
        let sinks = sinks.map(|i| ins[i].tensor(Self::NAME)).transpose()?;
        let (h, d) = (q.shape[q.shape.len() - 2], q.last());
        let mut out = vec![];
        let none = |_: usize, _: usize, _: usize| 0.0;
        let mut shape = q.shape.clone();
        if let Some(i) = seg {
            let seg = ins[i].segments(Self::NAME)?;
            let cached = |v: &Value, range: std::ops::Range<usize>, past: usize, slot: u32| -> Result<Vec<f64>, EvalError> {
                match v {
                    Value::State(name) => {
                        let s = &cx.states[name];
                        let rows = s.slots.get(&slot).filter(|r| r.len() == (past + range.len()) * s.width);
                        rows.cloned().ok_or_else(|| op_error(Self::NAME, format!("slot {slot} of {name} does not hold {} rows", past + range.len())))
                    }
                    v => {
                        let t = v.tensor(Self::NAME)?;
                        let w: usize = t.shape[1..].iter().product();
                        Ok(t.data[range.start * w..range.end * w].to_vec())
                    }
                }
            };
            let width = |v: &Value| -> Result<usize, EvalError> { match v {
                Value::State(name) => Ok(cx.states[name].width),
                v => Ok(v.tensor(Self::NAME)?.shape[1..].iter().product()),
            }};
            let kh = width(ins[1])? / d;
            let dv = width(ins[2])? / kh;
            for (range, past, slot) in seg.iter() {
                let (k, v) = (cached(ins[1], range.clone(), past, slot)?, cached(ins[2], range.clone(), past, slot)?);
                let at = if matches!(ins[1], Value::State(_)) { past } else { 0 };
                let p = Problem { q: &q.data[range.start * h * d..range.end * h * d], k: &k, v: &v, at };
                self.solve(&p, [h, kh, d, dv], sinks, none, &mut out);
            }
            shape[2] = dv;
        } else {
            let (k, v) = (ins[1].tensor(Self::NAME)?, ins[2].tensor(Self::NAME)?);
            let [b, n, ..] = q.shape[..] else { return Err(op_error(Self::NAME, "q has the wrong rank")) };
            let (m, kh, dv) = (k.shape[1], k.shape[2], v.shape[3]);
            let full = bias.map(|i| ins[i].tensor(Self::NAME).map(|t| super::binary::expand(t, &[b, h, n, m]))).transpose()?;
            for i in 0..b {
                let rows = |t: &'_ Tensor| t.numel() / b;
                let p = Problem {
                    q: &q.data[i * rows(q)..(i + 1) * rows(q)],
                    k: &k.data[i * rows(k)..(i + 1) * rows(k)],
                    v: &v.data[i * rows(v)..(i + 1) * rows(v)],
                    at: m.saturating_sub(n),
                };
                let at = |head: usize, r: usize, c: usize| full.as_ref().map_or(0.0, |t| t.data[((i * h + head) * n + r) * m + c]);
                self.solve(&p, [h, kh, d, dv], sinks, at, &mut out);
            }
            shape[3] = dv;
        }
        Ok(vec![Value::Tensor(Tensor::new(q.dtype, shape, out))])
    }

    /// Over tensors only; caches need an attention kernel.
    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        if matches!(ins[1].ty(), Type::Cache(..)) {
            return None;
        }
        let [seg, sinks, bias] = self.extras();
        let dense = |v: Val<'g>| if self.ragged { v.reshape([&[Dim::from(1)], &v.shape()[..]].concat()) } else { v };
        let (q, k, v) = (dense(ins[0]), dense(ins[1]), dense(ins[2]));
        let [b, n, h, d] = q.shape().try_into().ok()?;
        let [_, m, kh, dv] = v.shape().try_into().ok()?;
        let (heads, groups) = (h.as_const()?, h.as_const()? / kh.as_const()?);
        let bld = q.builder();
        // [B,K,G,N,D] · [B,K,1,D,M]
        let g = Dim::from(groups);
        let q5 = q.reshape([b.clone(), n.clone(), kh.clone(), g.clone(), d.clone()]).permute(&[0, 2, 3, 1, 4]);
        let k5 = k.reshape([b.clone(), m.clone(), kh.clone(), Dim::from(1), d.clone()]).permute(&[0, 2, 3, 4, 1]);
        let v5 = v.reshape([b.clone(), m.clone(), kh.clone(), Dim::from(1), dv.clone()]).permute(&[0, 2, 3, 1, 4]);
        let flat = [b.clone(), h.clone(), n.clone(), m.clone()];
        let mut s = q5.matmul(k5).reshape(flat.clone()) * self.scale;
        if let Some(c) = self.softcap {
            s = (s / c).tanh() * c;
        }
        if let Some(i) = bias {
            s = s + ins[i];
        }
        let offset = if self.ragged { Dim::from(0) } else { m.clone() - &n };
        let (rows, cols) = (bld.iota(DType::I32, n.clone() + &offset).slice(0, offset, &n).reshape([n.clone(), Dim::from(1)]), bld.iota(DType::I32, &m));
        let mut masks: Vec<Val<'g>> = vec![];
        if self.mask == Mask::Causal {
            masks.push(cols.le(rows));
        }
        if let Some(w) = self.window {
            let w = rows.scalar(w as f64);
            masks.push(rows.lt(cols + w));
            masks.push(cols.lt(rows + w));
        }
        if let Some(i) = seg {
            let ids = ins[i].with(super::SegmentIds {}, &[]);
            masks.push(ids.reshape([n.clone(), Dim::from(1)]).eq(ids));
        }
        let lowest = s.scalar(-1e30);
        let seen = masks.into_iter().reduce(|a, b| a.and(b));
        if let Some(seen) = seen {
            s = seen.select(s, lowest);
        }
        let p = if let Some(i) = sinks {
            let col = ins[i].reshape([Dim::from(1), Dim::from(heads), Dim::from(1), Dim::from(1)]).broadcast_to([b.clone(), h.clone(), n.clone(), Dim::from(1)]);
            s.concat(3, &[col]).softmax().slice(3, 0, &m)
        } else {
            s.softmax()
        };
        // A row of a window that sees nothing would otherwise be uniform.
        let p = seen.map_or(p, |seen| seen.select(p, p.scalar(0.0)));
        let p5 = p.reshape([b.clone(), kh, g, n.clone(), m]);
        let out = p5.matmul(v5).permute(&[0, 3, 1, 2, 4]).reshape([b, n, h, dv]);
        Some(vec![if self.ragged { out.reshape([out.dim(1), out.dim(2), out.dim(3)]) } else { out }])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        let f = |d: [usize; 4]| Type::tensor(DType::F32, d);
        let plain = Attention::dense(0.3, Mask::Full);
        let qkv = [f([2, 5, 4, 16]), f([2, 7, 2, 16]), f([2, 7, 2, 16])];
        s.op(plain.clone(), &qkv, tol);
        s.op(Attention { mask: Mask::Causal, window: Some(3), softcap: Some(2.0), ..plain.clone() }, &qkv, tol);
        let with = |t: Type| [&qkv[..], &[t]].concat();
        s.op(Attention { sinks: true, mask: Mask::Causal, ..plain.clone() }, &with(Type::tensor(DType::F32, [4])), tol);
        s.op(Attention { bias: true, ..plain.clone() }, &with(f([1, 4, 5, 7])), tol);
        s.op(Attention { window: Some(2), ..plain }, &[f([1, 9, 3, 20]), f([1, 9, 1, 20]), f([1, 9, 1, 12])], tol);
        // Ragged over caches: prefill, decode, chunk, rollback, several sequences at once.
        let steps = [
            Segments::new([(3, 0, 0), (5, 0, 7)]),
            Segments::new([(1, 5, 7), (2, 3, 0)]),
            Segments::new([(1, 4, 0)]),
            Segments::new([(40, 0, 2), (1, 6, 7), (3, 2, 0)]),
            Segments::new([(1, 40, 2)]),
        ];
        let steps: Vec<(Segments, &[(&str, u64)])> = steps.into_iter().map(|s| (s, &[][..])).collect();
        let causal = Attention::causal(0.35);
        let variants = [
            (causal.clone(), 4, 2, 16, DType::F32, tol),
            (causal.clone(), 6, 2, 20, DType::F32, tol),
            (causal.clone(), 4, 1, 64, DType::F16, tol),
            (causal.clone(), 2, 2, 128, DType::BF16, tol),
            (Attention { window: Some(4), softcap: Some(3.0), ..causal.clone() }, 4, 2, 32, DType::F32, tol),
            (Attention { sinks: true, ..causal }, 4, 2, 32, DType::F32, tol),
        ];
        for (op, h, k, d, kv, tol) in variants {
            s.graph(&[Gen::Normal(1.0), Gen::Normal(1.0), Gen::Normal(1.0), Gen::Normal(1.0), Gen::Normal(1.0)], &steps, tol, |b| {
                ragged_case(b, &op, [h, k, d], kv)
            });
        }
        // Ragged without a cache: an encoder batch.
        let full = Attention { mask: Mask::Full, ..Attention::causal(0.25) };
        let one: [(Segments, &[(&str, u64)]); 1] = [(Segments::new([(4, 0, 0), (1, 0, 1), (6, 0, 2)]), &[])];
        for op in [full.clone(), Attention { window: Some(3), ..full }, Attention::causal(0.25)] {
            s.graph(&[Gen::Normal(1.0), Gen::Normal(1.0), Gen::Normal(1.0), Gen::Normal(1.0)], &one, tol, |b| {
                let seg = b.segments();
                let rows = |name: &str, h: usize| b.input(name, Type::tensor(DType::F32, [Dim::sym("T"), Dim::from(h), Dim::from(16)]));
                vec![rows("q", 4).attend(rows("k", 2), rows("v", 2), Some(seg), op)]
            });
        }
    }
}

/// Append k and v to caches of type `kv`, then attend; values that fit the cache type exactly are
/// not needed, since both sides round.
fn ragged_case<'g>(b: &'g Builder<'g>, op: &Attention, [h, k, d]: [usize; 3], kv: DType) -> Vec<Val<'g>> {
    let seg = b.segments();
    let rows = |name: &str, h: usize| b.input(name, Type::tensor(DType::F32, [Dim::sym("T"), Dim::from(h), Dim::from(d)]));
    let (q, key, value) = (rows("q", h), rows("k", k), rows("v", k));
    let cache = |name: &str, rows: Val<'g>| {
        let state = b.state(name, Type::Cache(kv, [k, d].into()));
        let new = state.with(super::CacheAppend {}, &[rows.cast(kv).cast(DType::F32), seg]);
        b.update(state, new);
        new
    };
    let mut ins = vec![cache("kc", key), cache("vc", value), seg];
    if op.sinks {
        ins.push(b.input("sinks", Type::tensor(DType::F32, [h])));
    }
    vec![q.with(op.clone(), &ins)]
}
