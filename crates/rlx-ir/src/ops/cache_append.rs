//! Appending rows to a cache.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{Inferred, Samples, Shape, Type, rule};
use serde::{Deserialize, Serialize};

/// Writes the new rows of every segment behind the rows its slot has cached.
///
/// Inputs: a cache of rows `r…`, rows `[T, r…]` in a real type (rounded to the cache's), seg →
/// the cache afterwards.  Rows a slot holds beyond `past` are forgotten first, which is how a
/// sequence rolls back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CacheAppend {}

impl OpDef for CacheAppend {
    const NAME: &'static str = "cache_append";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [cache, rows, seg] = rule::arity(ins)?;
        let Type::Cache(_, row) = cache else {
            return Err(rule::mismatch("cache", cache, "a cache"));
        };
        let (_, s) = rule::float("rows", rows)?;
        let (_, tokens) = rule::segments("seg", seg)?;
        if s.split_first().is_none_or(|(t, r)| t != tokens || r != row.0) {
            return Err(rule::mismatch("rows", rows, Shape([std::slice::from_ref(tokens), &row.0[..]].concat())));
        }
        Ok(vec![cache.clone()])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let (name, rows, seg) = (ins[0].state(Self::NAME)?, ins[1].tensor(Self::NAME)?, ins[2].segments(Self::NAME)?);
        let state = cx.states.get_mut(name).ok_or_else(|| op_error(Self::NAME, format!("no cache named {name}")))?;
        let w = state.width;
        for (range, past, slot) in seg.iter() {
            let held = state.slots.entry(slot).or_default();
            if held.len() < past * w {
                return Err(op_error(Self::NAME, format!("slot {slot} of {name} holds {} rows, the segment says {past}", held.len() / w.max(1))));
            }
            held.truncate(past * w);
            held.extend_from_slice(&rows.data[range.start * w..range.end * w]);
        }
        Ok(vec![Value::State(name.clone())])
    }

    fn samples(_: &mut Samples) {
        // A cache is only seen through attention: see the cases there.
    }
}
