//! Which sequence every token belongs to.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Inferred, Samples, Segments, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// Number of the segment of every token.  seg → u32 `[T]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SegmentIds {}

impl OpDef for SegmentIds {
    const NAME: &'static str = "segment_ids";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [seg] = rule::arity(ins)?;
        let (_, tokens) = rule::segments("seg", seg)?;
        Ok(vec![Type::tensor(DType::U32, [tokens.clone()])])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let seg = ins[0].segments(Self::NAME)?;
        let data: Vec<f64> = seg.iter().enumerate().flat_map(|(i, (r, ..))| r.map(move |_| i as f64)).collect();
        Ok(vec![Value::Tensor(Tensor::new(DType::U32, [data.len()], data))])
    }

    fn samples(s: &mut Samples) {
        let seg = Segments::new([(3, 0, 0), (1, 7, 2), (2, 5, 1)]);
        s.graph(&[crate::Gen::Normal(1.0)], &[(seg, &[])], Tol::EXACT, |b| vec![b.segments().with(SegmentIds {}, &[])]);
    }
}
