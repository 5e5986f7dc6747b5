//! Rotation of keys on their way into the cache.

use super::{Attention, CacheAppend, OpDef, Rope, RopeStyle};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{Builder, DType, Dim, Gen, Inferred, Samples, Segments, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// `cache_append(cache, rope(k, positions), seg)`.
///
/// Inputs: a cache of rows `[H,D]`, k `[T,H,D]`, positions as [`Rope`] takes them, seg → the cache
/// afterwards.  k itself stays unrotated.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RopeAppend {
    /// The rotation.
    pub rope: Rope,
}

impl OpDef for RopeAppend {
    const NAME: &'static str = "rope_append";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [cache, k, positions, seg] = rule::arity(ins)?;
        let rotated = self.rope.infer(&[k, positions])?;
        CacheAppend {}.infer(&[cache, &rotated[0], seg])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let rotated = self.rope.eval(cx, &[ins[1], ins[2]])?;
        CacheAppend {}.eval(cx, &[ins[0], &rotated[0], ins[3]])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let rotated = ins[1].rope(&self.rope, ins[2]);
        Some(vec![ins[0].with(CacheAppend {}, &[rotated, ins[3]])])
    }

    /// A cache is only seen through attention.
    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 2e-5 };
        let steps = [Segments::new([(3, 0, 0), (5, 0, 4)]), Segments::new([(1, 5, 4), (2, 3, 0)]), Segments::new([(2, 4, 0)])];
        let steps: Vec<(Segments, &[(&str, u64)])> = steps.into_iter().map(|s| (s, &[][..])).collect();
        let interleaved = Rope { style: RopeStyle::Interleaved, ..Rope::new(16, 1e4) };
        for (rope, h, k, d) in [(Rope::new(16, 1e4), 4, 2, 16), (Rope::new(32, 1e6), 2, 1, 40), (interleaved, 2, 2, 16)] {
            s.graph(&[Gen::Normal(1.0), Gen::Normal(1.0), Gen::Normal(1.0)], &steps, tol, |b| case(b, rope, [h, k, d]));
        }
    }
}

/// Append rotated keys and plain values, attend.
fn case<'g>(b: &'g Builder<'g>, rope: Rope, [h, k, d]: [usize; 3]) -> Vec<Val<'g>> {
    let seg = b.segments();
    let rows = |name: &str, h: usize| b.input(name, Type::tensor(DType::F32, [Dim::sym("T"), Dim::from(h), Dim::from(d)]));
    let (q, key) = (rows("q", h), rows("k", k));
    let values = b.root().cache("vc", rows("v", k), seg);
    let state = b.state("kc", Type::Cache(DType::F32, [k, d].into()));
    let cache = state.with(RopeAppend { rope: rope.clone() }, &[key, seg.positions(), seg]);
    b.update(state, cache);
    vec![q.rope(&rope, seg.positions()).attend(cache, values, Some(seg), Attention::causal(0.3))]
}
