//! Group normalisation (Wu & He 2018); with one channel per group, instance normalisation.

use super::layer_norm::{check_affine, standardise, wide};
use super::window::bounded;
use super::OpDef;
use crate::{DType, Dim, Inferred, Samples, Shape, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// `(x − mean) / sqrt(var + eps) · w + b`, statistics over the channels of a group and all spatial
/// dimensions, scale and shift per channel.
///
/// x: `[B, C, spatial…]`; then, where the flags say so, w: `[C]` and b: `[C]` in any plain real
/// type → x's shape and type.  Statistics in f32.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GroupNorm {
    /// Number of groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// A scale follows x.
    pub weight: bool,
    /// A shift follows.
    pub bias: bool,
}

impl OpDef for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let Some(x) = ins.first() else {
            return Err(TypeError::Arity { expected: "1 to 3 (x, w, b)".into(), found: 0 });
        };
        let (_, s) = rule::float("x", x)?;
        let [_, c, ..] = s else {
            return Err(rule::mismatch("x", x, "a tensor of rank 2 or more: batch, channels, spatial"));
        };
        bounded("groups", self.groups, 1)?;
        let n = rule::constant("channels of x", c)?;
        if n % self.groups != 0 {
            return Err(rule::mismatch("channels of x", n, format!("a multiple of {} groups", self.groups)));
        }
        check_affine(ins, [self.weight, self.bias], c)?;
        Ok(vec![(*x).clone()])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let (x, d) = (ins[0], wide(ins[0].dtype()));
        let shape = Shape(x.shape());
        let per_group = Shape::from(&shape.0[1..]).numel().floor_div(self.groups as u64);
        let grouped = x.cast(d).reshape([shape.0[0].clone(), Dim::from(self.groups), per_group]);
        let mut y = standardise(grouped, self.eps).reshape(shape.clone());
        let mut per_channel = vec![Dim::from(1); shape.rank() - 1];
        per_channel[0] = shape.0[1].clone();
        let mut more = ins[1..].iter().map(|v| v.cast(d).reshape(per_channel.clone()));
        if self.weight {
            y = y * more.next()?;
        }
        if self.bias {
            y = y + more.next()?;
        }
        Some(vec![y.cast(x.dtype())])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        let (f, op) = (|n: usize| Type::tensor(DType::F32, [n]), GroupNorm { groups: 4, eps: 1e-5, weight: true, bias: true });
        s.op(op.clone(), &[Type::tensor(DType::F32, [2, 12, 5, 7]), f(12), f(12)], tol);
        s.op(GroupNorm { groups: 1, ..op.clone() }, &[Type::tensor(DType::F32, [1, 6, 33]), Type::tensor(DType::BF16, [6]), f(6)], tol);
        s.op(GroupNorm { groups: 3, weight: false, bias: false, ..op.clone() }, &[Type::tensor(DType::F32, [2, 3, 9])], tol);
        s.op(GroupNorm { bias: false, ..op }, &[Type::tensor(DType::F32, [3, 8]), f(8)], tol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_must_divide_the_channels() {
        let x: Type = "f32[B,12,H,W]".parse().unwrap();
        let op = |groups| GroupNorm { groups, eps: 1e-5, weight: false, bias: false };
        assert!(op(4).infer(&[&x]).is_ok());
        for groups in [0, 5, 13] {
            assert!(op(groups).infer(&[&x]).is_err(), "{groups}");
        }
        assert!(op(1).infer(&[&"f32[12]".parse().unwrap()]).is_err());
    }
}
