//! Layer normalisation (Ba et al. 2016).

use super::OpDef;
use crate::{DType, Dim, Inferred, Samples, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// `(x − mean) / sqrt(var + eps) · w + b` over the last dimension.
///
/// x: […,N]; then, where the flags say so, w: `[N]` and b: `[N]` in any plain real type → […,N]
/// of x's type.  Statistics in f32, variance over N (not N−1).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
    /// A scale follows x.
    pub weight: bool,
    /// A shift follows.
    pub bias: bool,
}

/// Checks the scale and shift of a norm over `n` elements: every input after the first.
pub(crate) fn check_affine(ins: &[&Type], flags: [bool; 2], n: &Dim) -> Result<(), TypeError> {
    let want = 1 + flags.iter().filter(|f| **f).count();
    if ins.len() != want {
        return Err(TypeError::Arity { expected: format!("{want} (x, then w and b as the flags say)"), found: ins.len() });
    }
    for t in &ins[1..] {
        let (_, [len]) = (rule::float("w or b", t)?, rule::ranked::<1>("w or b", t)?.1);
        rule::same("w or b", len, "normalised size", n)?;
    }
    Ok(())
}

/// The type statistics are computed in for elements of type `d`.
pub(crate) fn wide(d: DType) -> DType {
    if d == DType::F64 { DType::F64 } else { DType::F32 }
}

/// `(x − mean) / sqrt(var + eps)` over the last dimension.
pub(crate) fn standardise<'g>(x: Val<'g>, eps: f64) -> Val<'g> {
    let c = x - x.mean_last();
    c * (c.square().mean_last() + eps).rsqrt()
}

impl OpDef for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let Some(x) = ins.first() else {
            return Err(TypeError::Arity { expected: "1 to 3 (x, w, b)".into(), found: 0 });
        };
        let (_, s) = rule::float("x", x)?;
        check_affine(ins, [self.weight, self.bias], rule::last("x", s)?)?;
        Ok(vec![(*x).clone()])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let d = wide(ins[0].dtype());
        let mut y = standardise(ins[0].cast(d), self.eps);
        let mut more = ins[1..].iter();
        if self.weight {
            y = y * more.next()?.cast(d);
        }
        if self.bias {
            y = y + more.next()?.cast(d);
        }
        Some(vec![y.cast(ins[0].dtype())])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        let (f, op) = (|n: usize| Type::tensor(DType::F32, [n]), LayerNorm { eps: 1e-5, weight: true, bias: true });
        s.op(op.clone(), &[Type::tensor(DType::F32, [5, 64]), f(64), f(64)], tol);
        s.op(LayerNorm { bias: false, ..op.clone() }, &[Type::tensor(DType::F32, [2, 3, 33]), Type::tensor(DType::BF16, [33])], tol);
        s.op(LayerNorm { weight: false, bias: false, eps: 1e-6 }, &[Type::tensor(DType::F32, [1, 1031])], tol);
        s.op(op, &[Type::tensor(DType::F32, [3, 1]), Type::tensor(DType::F16, [1]), f(1)], tol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_inputs_must_agree() {
        let (x, w, bad): (Type, Type, Type) = ("f32[T,8]".parse().unwrap(), "f32[8]".parse().unwrap(), "f32[7]".parse().unwrap());
        let op = LayerNorm { eps: 1e-5, weight: true, bias: false };
        assert_eq!(op.infer(&[&x, &w]).unwrap()[0], x);
        assert!(op.infer(&[&x]).is_err() && op.infer(&[]).is_err());
        assert!(op.infer(&[&x, &w, &w]).is_err());
        assert!(op.infer(&[&x, &bad]).unwrap_err().to_string().contains("normalised size"));
    }
}
