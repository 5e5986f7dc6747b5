//! Recurrent states of ragged sequences, read at the start of a run.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{DType, Inferred, Samples, Segments, Shape, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// The state of every segment's slot.  state of shape `r…`, seg → `[S, r…]` of the state's type.
/// A segment without past starts at zero, whatever its slot holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StateRead {}

/// Type and shape of input `what`, a state.
pub(crate) fn state<'a>(what: &str, t: &'a Type) -> Result<(DType, &'a Shape), crate::TypeError> {
    match t {
        Type::State(d, s) if d.is_float() && !d.is_block() => Ok((*d, s)),
        other => Err(rule::mismatch(what, other, "a state of plain reals")),
    }
}

impl OpDef for StateRead {
    const NAME: &'static str = "state_read";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [st, seg] = rule::arity(ins)?;
        let ((d, shape), (count, _)) = (state("state", st)?, rule::segments("seg", seg)?);
        Ok(vec![Type::tensor(d, [std::slice::from_ref(count), &shape.0[..]].concat())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let (name, seg) = (ins[0].state(Self::NAME)?, ins[1].segments(Self::NAME)?);
        let state = cx.states.get(name).ok_or_else(|| op_error(Self::NAME, format!("no state named {name}")))?;
        let mut data = Vec::with_capacity(seg.count() * state.width);
        for (_, past, slot) in seg.iter() {
            match state.slots.get(&slot) {
                _ if past == 0 => data.resize(data.len() + state.width, 0.0),
                Some(held) if held.len() == state.width => data.extend_from_slice(held),
                _ => return Err(op_error(Self::NAME, format!("slot {slot} of {name} is empty, the segment has a past of {past}"))),
            }
        }
        let shape = [&[seg.count()], &state.shape[..]].concat();
        Ok(vec![Value::Tensor(Tensor::new(state.dtype, shape, data))])
    }

    fn samples(s: &mut Samples) {
        // Doubles the state and adds one, so that what is read shows how often a slot ran.
        let steps = [
            Segments::new([(3, 0, 0), (5, 0, 7)]),
            Segments::new([(1, 5, 7), (2, 3, 0), (0, 0, 3)]),
            Segments::new([(4, 0, 0)]),
            Segments::new([(1, 4, 0), (1, 6, 7)]),
        ];
        let steps: Vec<(Segments, &[(&str, u64)])> = steps.into_iter().map(|s| (s, &[][..])).collect();
        for d in [DType::F32, DType::BF16] {
            s.graph(&[crate::Gen::Normal(1.0)], &steps, Tol::EXACT, |b| {
                let seg = b.segments();
                let state = b.state("s", Type::State(d, [2, 5].into()));
                let old = state.with(StateRead {}, &[seg]);
                let new = old + old + 1.0;
                b.update(state, state.with(super::StateWrite {}, &[new, seg]));
                vec![old, new]
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_states_are_read() {
        let t = |s: &str| s.parse::<Type>().unwrap();
        let infer = |s: &str, seg: &str| StateRead {}.infer(&[&t(s), &t(seg)]);
        assert_eq!(infer("state f32[2,3]", "segments[S,T]").unwrap()[0].to_string(), "f32[S,2,3]");
        for s in ["cache f32[2,3]", "f32[S,2,3]", "state u32[2]", "state q8_0[32]"] {
            assert!(infer(s, "segments[S,T]").is_err(), "{s}");
        }
        assert!(infer("state f32[2,3]", "f32[S]").is_err());
    }
}
