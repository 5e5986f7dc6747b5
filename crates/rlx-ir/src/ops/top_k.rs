//! The largest elements.

use super::{OpDef, Sort};
use crate::{DType, Dim, Gen, Inferred, Samples, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// The k largest elements of the last dimension, largest first, the earlier first among equals.
/// x: […,N] numbers, N ≥ k → values […,k] of x's type, indices […,k] u32.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TopK {
    /// How many.
    pub k: usize,
}

impl OpDef for TopK {
    const NAME: &'static str = "top_k";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::tensor("x", x)?;
        let n = rule::constant("last dimension of x", rule::last("x", s)?)?;
        if d.is_block() || d == DType::Bool {
            return Err(rule::mismatch("x", x, "a tensor of numbers"));
        }
        if self.k == 0 || self.k > n {
            return Err(rule::mismatch("k", self.k, format!("1 to {n}, the last dimension of x")));
        }
        let mut s = s.to_vec();
        s.pop();
        s.push(Dim::from(self.k));
        Ok(vec![Type::tensor(d, s.clone()), Type::tensor(DType::U32, s)])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let last = ins[0].rank() - 1;
        let sorted = ins[0].with_all(Sort { descending: true }, &[]);
        Some(sorted.into_iter().map(|v| v.slice(last, 0, self.k)).collect())
    }

    fn samples(s: &mut Samples) {
        s.op(TopK { k: 8 }, &[Type::tensor(DType::F32, [5, 128])], Tol::EXACT);
        s.op(TopK { k: 1 }, &[Type::tensor(DType::F32, [2, 3, 33])], Tol::EXACT);
        s.op(TopK { k: 7 }, &[Type::tensor(DType::F32, [7])], Tol::EXACT);
        s.op_with(TopK { k: 5 }, &[(Type::tensor(DType::I32, [4, 19]), Gen::Uniform(0.0, 4.0))], Tol::EXACT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_must_fit_the_last_dimension() {
        let infer = |k, t: &str| TopK { k }.infer(&[&t.parse().unwrap()]);
        assert_eq!(infer(2, "f16[T,4]").unwrap()[1].to_string(), "u32[T,2]");
        assert!(infer(0, "f16[T,4]").is_err() && infer(5, "f16[T,4]").is_err());
        assert!(infer(1, "f32[4,T]").is_err() && infer(1, "f32[]").is_err() && infer(1, "bool[4]").is_err());
    }
}
