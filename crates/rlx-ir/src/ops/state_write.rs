//! Recurrent states of ragged sequences, written at the end of a run.

use super::OpDef;
use super::state_read::state;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{Inferred, Samples, Type, rule};
use serde::{Deserialize, Serialize};

/// Puts a tensor per segment into its slot.  state of shape `r…`, value `[S, r…]` of the state's
/// type, seg → the state afterwards.  Slots of other sequences keep what they hold.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StateWrite {}

impl OpDef for StateWrite {
    const NAME: &'static str = "state_write";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [st, value, seg] = rule::arity(ins)?;
        let ((d, shape), (count, _)) = (state("state", st)?, rule::segments("seg", seg)?);
        let want = Type::tensor(d, [std::slice::from_ref(count), &shape.0[..]].concat());
        if *value != want {
            return Err(rule::mismatch("value", value, want));
        }
        Ok(vec![st.clone()])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let (name, value, seg) = (ins[0].state(Self::NAME)?, ins[1].tensor(Self::NAME)?, ins[2].segments(Self::NAME)?);
        let state = cx.states.get_mut(name).ok_or_else(|| op_error(Self::NAME, format!("no state named {name}")))?;
        for ((_, _, slot), row) in seg.iter().zip(value.data.chunks(state.width.max(1))) {
            state.slots.insert(slot, row.to_vec());
        }
        Ok(vec![Value::State(name.clone())])
    }

    fn samples(_: &mut Samples) {
        // A written state is only seen by reading it: see the cases of `state_read`.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_must_have_the_shape_and_type_of_the_state() {
        let t = |s: &str| s.parse::<Type>().unwrap();
        let infer = |v: &str| StateWrite {}.infer(&[&t("state f32[2,3]"), &t(v), &t("segments[S,T]")]);
        assert_eq!(infer("f32[S,2,3]").unwrap(), [t("state f32[2,3]")]);
        for v in ["f16[S,2,3]", "f32[T,2,3]", "f32[S,6]"] {
            assert!(infer(v).is_err(), "{v}");
        }
    }
}
