//! Choice of experts in mixture-of-experts layers.

use super::window::bounded;
use super::{OpDef, TopK};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Gen, Inferred, Samples, Tensor, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// How router logits become scores.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterScore {
    /// Softmax over all experts, then choose (Qwen3-MoE, OLMoE, DeepSeek-V2).
    Softmax,
    /// Sigmoid of each logit, then choose (DeepSeek-V3, GLM-4.5, Llama 4).
    Sigmoid,
    /// Choose by the logits, then softmax over the chosen ones (GPT-OSS, Mixtral).
    SoftmaxChosen,
}

/// The k experts of every token and their weights.
///
/// Inputs: logits `[T, E]` in a plain real type; with `bias` also a bias `[E]` of the same type.
/// Outputs: weights `[T, k]` of that type, ids `[T, k]` u32, in order of the choice, best first
/// and the lower id first among equals.
///
/// The choice is by `score + bias`; the weights are the scores, without the bias.  With
/// `groups > 1` the experts form groups of equal size, one after the other; a group is worth the
/// sum of its `group_top` best choices, and only the `top_groups` best groups take part (DeepSeek).
/// Computed in f32.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Experts per token.
    pub k: usize,
    /// Scores.
    pub score: RouterScore,
    /// Divide the weights by their sum.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub normalise: bool,
    /// Factor on the weights, last.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub scale: f64,
    /// A bias on the choice follows the logits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
    /// Number of groups; 0 or 1 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub groups: usize,
    /// How many groups take part.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub top_groups: usize,
    /// How many experts of a group count for its worth: 1 in DeepSeek-V2, 2 in DeepSeek-V3.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub group_top: usize,
}

fn one() -> f64 {
    1.0
}
fn is_one(v: &f64) -> bool {
    *v == 1.0
}
fn is_zero(v: &usize) -> bool {
    *v == 0
}

impl Route {
    /// `k` experts with this score and nothing else.
    pub fn plain(k: usize, score: RouterScore) -> Route {
        Route { k, score, normalise: false, scale: 1.0, bias: false, groups: 0, top_groups: 0, group_top: 0 }
    }

    /// The chosen experts of one token, best first, by `choice`.
    fn choose(&self, choice: &[f64]) -> Vec<usize> {
        let best = |v: &[f64], k: usize| {
            let mut ix: Vec<usize> = (0..v.len()).collect();
            ix.sort_by(|a, b| v[*b].total_cmp(&v[*a]));
            ix.truncate(k);
            ix
        };
        let mut open = choice.to_vec();
        if self.groups > 1 {
            let size = choice.len() / self.groups;
            let worth: Vec<f64> = choice.chunks(size).map(|g| best(g, self.group_top).into_iter().map(|i| g[i]).sum()).collect();
            let kept = best(&worth, self.top_groups);
            open.chunks_mut(size).enumerate().filter(|(i, _)| !kept.contains(i)).for_each(|(_, g)| g.fill(f64::NEG_INFINITY));
        }
        best(&open, self.k)
    }
}

fn softmax(v: &[f64]) -> Vec<f64> {
    let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = v.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|x| x / sum).collect()
}

impl OpDef for Route {
    const NAME: &'static str = "route";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        if ins.len() != 1 + usize::from(self.bias) {
            return Err(TypeError::Arity { expected: "1 (logits), or 2 with a bias".into(), found: ins.len() });
        }
        let (d, [t, e]) = (rule::float("logits", ins[0])?.0, rule::ranked::<2>("logits", ins[0])?.1);
        let n = rule::constant("experts", e)?;
        if self.k == 0 || self.k > n {
            return Err(rule::mismatch("k", self.k, format!("1 to {n}, the number of experts")));
        }
        if self.bias && *ins[1] != Type::tensor(d, [n]) {
            return Err(rule::mismatch("bias", ins[1], Type::tensor(d, [n])));
        }
        if self.groups > 1 {
            [self.groups, self.top_groups, self.group_top].iter().try_for_each(|v| bounded("groups", *v, 1))?;
            let size = n / self.groups;
            if n % self.groups != 0 || self.top_groups > self.groups || self.group_top > size || self.k > self.top_groups * size {
                let found = format!("{n} in {} groups, {} of them with {} best each, k {}", self.groups, self.top_groups, self.group_top, self.k);
                return Err(rule::mismatch("experts", found, "groups of equal size that hold k experts"));
            }
        }
        let out = [t.clone(), Dim::from(self.k)];
        Ok(vec![Type::tensor(d, out.clone()), Type::tensor(DType::U32, out)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let logits = ins[0].tensor(Self::NAME)?;
        let bias = ins.get(1).map(|b| b.tensor(Self::NAME)).transpose()?;
        let (mut weights, mut ids) = (vec![], vec![]);
        for row in logits.data.chunks(logits.last()) {
            let scores = match self.score {
                RouterScore::Softmax => softmax(row),
                RouterScore::Sigmoid => row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
                RouterScore::SoftmaxChosen => row.to_vec(),
            };
            let choice: Vec<f64> = scores.iter().enumerate().map(|(i, s)| s + bias.map_or(0.0, |b| b.data[i])).collect();
            let chosen = self.choose(&choice);
            let mut w: Vec<f64> = chosen.iter().map(|i| scores[*i]).collect();
            if self.score == RouterScore::SoftmaxChosen {
                w = softmax(&w);
            }
            if self.normalise {
                let sum = w.iter().sum::<f64>().max(1e-20);
                w.iter_mut().for_each(|v| *v /= sum);
            }
            weights.extend(w.into_iter().map(|v| v * self.scale));
            ids.extend(chosen.into_iter().map(|i| i as f64));
        }
        let shape = [logits.shape[0], self.k];
        Ok(vec![Value::Tensor(Tensor::new(logits.dtype, shape, weights)), Value::Tensor(Tensor::new(DType::U32, shape, ids))])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let x = ins[0].cast(DType::F32);
        let (t, n) = (x.dim(0), x.dim(1).as_const()?);
        let scores = match self.score {
            RouterScore::Softmax => x.softmax(),
            RouterScore::Sigmoid => x.sigmoid(),
            RouterScore::SoftmaxChosen => x,
        };
        let mut choice = ins.get(1).map_or(scores, |b| scores + b.cast(DType::F32));
        if self.groups > 1 {
            let g = Dim::from(self.groups);
            let grouped = choice.reshape([t.clone(), g.clone(), Dim::from(n / self.groups)]);
            let worth = grouped.with(TopK { k: self.group_top }, &[]).sum(&[2]).reshape([t.clone(), g.clone()]);
            let kept = worth.with_all(TopK { k: self.top_groups }, &[])[1].cast(DType::I32);
            // [T, top_groups, 1] against 0..groups: true where a group is among the kept ones.
            let kept = kept.reshape([t.clone(), Dim::from(self.top_groups), Dim::from(1)]);
            let hits = kept.eq(x.builder().iota(DType::I32, &g)).cast(DType::F32).max(&[1]).reshape([t.clone(), g, Dim::from(1)]);
            choice = hits.cast(DType::Bool).select(grouped, grouped.scalar(-1e30)).reshape([t, Dim::from(n)]);
        }
        let ids = choice.with_all(TopK { k: self.k }, &[])[1];
        let mut w = scores.with(super::GatherAxis { axis: 1 }, &[ids]);
        if self.score == RouterScore::SoftmaxChosen {
            w = w.softmax();
        }
        if self.normalise {
            w = w / w.sum(&[1]).maximum(w.scalar(1e-20));
        }
        if self.scale != 1.0 {
            w = w * self.scale;
        }
        Some(vec![w.cast(ins[0].dtype()), ids])
    }

    fn samples(s: &mut Samples) {
        use RouterScore::*;
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        let logits = |t: usize, e: usize| (Type::tensor(DType::F32, [t, e]), Gen::Normal(2.0));
        let bias = |e: usize| (Type::tensor(DType::F32, [e]), Gen::Normal(0.3));
        s.op_with(Route::plain(2, Softmax), &[logits(5, 8)], tol);
        s.op_with(Route { normalise: true, ..Route::plain(8, Softmax) }, &[logits(3, 128)], tol);
        s.op_with(Route::plain(4, SoftmaxChosen), &[logits(7, 33)], tol);
        s.op_with(Route::plain(1, Sigmoid), &[logits(4, 16)], tol);
        let v2 = Route { groups: 4, top_groups: 2, group_top: 1, scale: 16.0, ..Route::plain(3, Softmax) };
        s.op_with(v2, &[logits(6, 20)], tol);
        let v3 = Route { normalise: true, scale: 2.5, bias: true, groups: 8, top_groups: 4, group_top: 2, ..Route::plain(6, Sigmoid) };
        s.op_with(v3, &[logits(9, 64), bias(64)], tol);
        s.op_with(Route { bias: true, normalise: true, ..Route::plain(3, Sigmoid) }, &[logits(1, 10), bias(10)], tol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_groups_and_biases_are_refused() {
        let (x, b): (Type, Type) = ("f32[T,64]".parse().unwrap(), "f32[64]".parse().unwrap());
        let op = Route { groups: 8, top_groups: 4, group_top: 2, ..Route::plain(6, RouterScore::Sigmoid) };
        assert!(op.infer(&[&x]).is_ok());
        assert!(op.infer(&[&x, &b]).is_err());
        for bad in [Route { groups: 7, ..op.clone() }, Route { top_groups: 9, ..op.clone() }, Route { group_top: 9, ..op.clone() }, Route { k: 33, ..op.clone() }, Route { bias: true, ..op.clone() }, Route { top_groups: 0, ..op }] {
            assert!(bad.infer(&[&x]).is_err(), "{bad:?}");
        }
    }
}
