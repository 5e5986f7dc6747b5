//! Rows written into a table by index.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{DType, Gen, Inferred, Samples, Shape, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// What a row does to the row of the table.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScatterMode {
    /// Replaces it.  Of several rows with one index the last one stays.
    Set,
    /// Is added to it.
    Add,
}

/// A copy of a table with some rows changed.  base: `[V, r…]` of a plain type, index: integers
/// `[I]` below V, updates: `[I, r…]` of base's type → `[V, r…]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Scatter {
    /// Set or add.
    pub mode: ScatterMode,
}

impl OpDef for Scatter {
    const NAME: &'static str = "scatter";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [base, index, updates] = rule::arity(ins)?;
        let ((d, b), (_, i)) = (rule::tensor("base", base)?, rule::int("index", index)?);
        let [n] = i else {
            return Err(rule::mismatch("index", index, "a tensor of rank 1"));
        };
        rule::last("base", b)?;
        if d.is_block() || d == DType::Bool && self.mode == ScatterMode::Add {
            return Err(rule::mismatch("base", base, "a tensor of a plain type (of numbers, to add)"));
        }
        let want = Type::Tensor(d, Shape([std::slice::from_ref(n), &b[1..]].concat()));
        if *updates != want {
            return Err(rule::mismatch("updates", updates, want));
        }
        Ok(vec![base.clone()])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let [base, index, updates] = [ins[0].tensor(Self::NAME)?, ins[1].tensor(Self::NAME)?, ins[2].tensor(Self::NAME)?];
        let (rows, width) = (base.shape[0], base.shape[1..].iter().product::<usize>());
        let mut data = base.data.to_vec();
        for (n, i) in index.data.iter().enumerate() {
            if *i < 0.0 || *i >= rows as f64 {
                return Err(op_error(Self::NAME, format!("index {i} is outside the table of {rows} rows")));
            }
            let (to, from) = (&mut data[*i as usize * width..][..width], &updates.data[n * width..][..width]);
            match self.mode {
                ScatterMode::Set => to.copy_from_slice(from),
                ScatterMode::Add => to.iter_mut().zip(from).for_each(|(a, b)| *a += b),
            }
        }
        Ok(vec![Value::Tensor(Tensor::new(base.dtype, base.shape.clone(), data))])
    }

    fn samples(s: &mut Samples) {
        let f = |d: [usize; 2]| (Type::tensor(DType::F32, d), Gen::Normal(1.0));
        // Seven draws below five: some index comes twice.
        let index = (Type::tensor(DType::U32, [7]), Gen::Uniform(0.0, 5.0));
        for mode in [ScatterMode::Set, ScatterMode::Add] {
            s.op_with(Scatter { mode }, &[f([5, 33]), index.clone(), f([7, 33])], Tol::F32);
        }
        let ints = |n: usize| (Type::tensor(DType::I32, [n]), Gen::Uniform(-9.0, 9.0));
        s.op_with(Scatter { mode: ScatterMode::Add }, &[ints(6), (Type::tensor(DType::I32, [3]), Gen::Values(vec![5.0, 0.0, 5.0])), ints(3)], Tol::EXACT);
        let mask = |n: usize| (Type::tensor(DType::Bool, [n, 2]), Gen::Uniform(0.0, 2.0));
        s.op_with(Scatter { mode: ScatterMode::Set }, &[mask(6), (Type::tensor(DType::I64, [3]), Gen::Values(vec![5.0, 0.0, 2.0])), mask(3)], Tol::EXACT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bindings, Builder, Interpreter};

    #[test]
    fn wrong_types_are_refused() {
        let t = |s: &str| s.parse::<Type>().unwrap();
        let infer = |mode, b: &str, i: &str, u: &str| Scatter { mode }.infer(&[&t(b), &t(i), &t(u)]);
        assert!(infer(ScatterMode::Set, "bool[V,4]", "u32[T]", "bool[T,4]").is_ok());
        assert!(infer(ScatterMode::Add, "bool[V,4]", "u32[T]", "bool[T,4]").is_err());
        assert!(infer(ScatterMode::Set, "f32[V,4]", "f32[T]", "f32[T,4]").is_err());
        assert!(infer(ScatterMode::Set, "f32[V,4]", "u32[T]", "f32[T,5]").is_err());
        assert!(infer(ScatterMode::Set, "f32[V,4]", "u32[T]", "f16[T,4]").is_err());
        assert!(infer(ScatterMode::Set, "f32[]", "u32[T]", "f32[T]").is_err());
    }

    #[test]
    fn an_index_outside_the_table_is_an_error() {
        let b = Builder::new("t");
        let ids = {
            let (x, i, u) = (b.constant(DType::F32, &[2], vec![0.0; 2]), b.constant(DType::I32, &[1], vec![2.0]), b.constant(DType::F32, &[1], vec![1.0]));
            [x.with(Scatter { mode: ScatterMode::Set }, &[i, u]).id()]
        };
        let mut it = Interpreter::new(b.finish_ids(&ids).unwrap(), |_| None).unwrap();
        assert!(it.run(&Bindings::new(), &[]).unwrap_err().to_string().contains("index 2 is outside"));
    }
}
