//! Table rows by index.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{DType, Gen, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// Rows of a table.  table: `[V, r…]` of any type (block formats dequantise), index: integers
/// `[i…]` below V → `[i…, r…]` of type `to`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Gather {
    /// Type of the result; for an integer table it must be the table's own.
    pub to: DType,
}

impl OpDef for Gather {
    const NAME: &'static str = "gather";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [table, index] = rule::arity(ins)?;
        let ((d, t), (_, i)) = (rule::tensor("table", table)?, rule::int("index", index)?);
        rule::last("table", t)?;
        if self.to.is_block() || d != self.to && !(d.is_float() && self.to.is_float()) {
            return Err(rule::mismatch("to", self.to, format!("{d}, or a real type for a table of reals")));
        }
        Ok(vec![Type::tensor(self.to, [i, &t[1..]].concat())])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let (t, ix) = (ins[0].tensor(Self::NAME)?, ins[1].tensor(Self::NAME)?);
        let (rows, width) = (t.shape[0], t.shape[1..].iter().product::<usize>());
        let mut data = Vec::with_capacity(ix.numel() * width);
        for i in ix.data.iter() {
            if *i < 0.0 || *i >= rows as f64 {
                return Err(op_error(Self::NAME, format!("index {i} is outside the table of {rows} rows")));
            }
            data.extend_from_slice(&t.data[*i as usize * width..][..width]);
        }
        let shape = [&ix.shape[..], &t.shape[1..]].concat();
        Ok(vec![Value::Tensor(Tensor::new(self.to, shape, data))])
    }

    fn samples(s: &mut Samples) {
        use rlx_gguf::blocks::BlockFormat::{self, Q4_0, Q4K, Q6K, Q8_0};
        let index = (Type::tensor(DType::U32, [6]), Gen::Uniform(0.0, 13.0));
        for d in [DType::F32, DType::BF16, DType::F16, DType::Block(Q8_0), DType::Block(Q4_0), DType::Block(Q4K), DType::Block(Q6K)] {
            s.op_with(Gather { to: DType::F32 }, &[(Type::tensor(d, [13, 256]), Gen::Normal(1.0)), index.clone()], Tol::F32);
        }
        for b in BlockFormat::all() {
            let table = (Type::tensor(DType::Block(b), [13, 256]), Gen::Bytes);
            s.op_with(Gather { to: DType::F32 }, &[table, index.clone()], Tol::F32);
        }
        let index = (Type::tensor(DType::I32, [2, 3]), Gen::Uniform(0.0, 5.0));
        s.op_with(Gather { to: DType::I32 }, &[(Type::tensor(DType::I32, [5, 3]), Gen::Uniform(-9.0, 9.0)), index], Tol::EXACT);
    }
}
