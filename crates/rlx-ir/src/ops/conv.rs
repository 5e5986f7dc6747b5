//! Convolution over one, two or three spatial dimensions.

use super::OpDef;
use super::window::{bounded, offset, positions, spatial, three, windows};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Inferred, Samples, Tensor, Tol, Type, TypeError, rule};
use serde::{Deserialize, Serialize};

/// Cross-correlation, as deep learning frameworks define convolution.
///
/// x: `[B, C, spatial…]`, w: `[O, C/groups, kernel…]` in any plain real type, with `bias` also
/// b: `[O]` in any plain real type → `[B, O, out…]` of x's type, where
/// `out = floor((size + lo + hi − dilation·(kernel−1) − 1) / stride) + 1`.  The surroundings are
/// zeros.  Depthwise: `groups = C`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Conv {
    /// Step between windows, per spatial dimension.
    pub stride: Vec<usize>,
    /// Zeros before and after, per spatial dimension.
    pub padding: Vec<[usize; 2]>,
    /// Step between taps, per spatial dimension.
    pub dilation: Vec<usize>,
    /// Channels divide into this many groups that do not mix.
    pub groups: usize,
    /// A bias follows the weight.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
}

impl Conv {
    /// Stride and dilation 1, no padding, one group, no bias, over `n` spatial dimensions.
    pub fn plain(n: usize) -> Conv {
        Conv { stride: vec![1; n], padding: vec![[0, 0]; n], dilation: vec![1; n], groups: 1, bias: false }
    }
}

impl OpDef for Conv {
    const NAME: &'static str = "conv";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        if ins.len() != 2 + usize::from(self.bias) {
            return Err(TypeError::Arity { expected: "2 (x, w), or 3 with a bias".into(), found: ins.len() });
        }
        let ((d, x), (_, w)) = (rule::float("x", ins[0])?, rule::float("w", ins[1])?);
        let lengths = [("stride", self.stride.len()), ("padding", self.padding.len()), ("dilation", self.dilation.len())];
        let n = spatial(x.len(), &lengths)?;
        if w.len() != x.len() {
            return Err(rule::mismatch("w", ins[1], format!("rank {}, like x", x.len())));
        }
        let w = w.iter().map(|d| rule::constant("dimension of w", d)).collect::<Result<Vec<_>, _>>()?;
        let c = rule::constant("channels of x", &x[1])?;
        bounded("groups", self.groups, 1)?;
        if c % self.groups != 0 || w[0] % self.groups != 0 || w[1] != c / self.groups {
            let want = format!("[O, C/groups, kernel…] for {c} channels in {} groups, O a multiple of groups", self.groups);
            return Err(rule::mismatch("w", ins[1], want));
        }
        if self.bias {
            let (_, [b]) = (rule::float("bias", ins[2])?, rule::ranked::<1>("bias", ins[2])?.1);
            rule::same("bias", b, "output channels", &Dim::from(w[0]))?;
        }
        let mut out = vec![x[0].clone(), Dim::from(w[0])];
        for i in 0..n {
            bounded("stride", self.stride[i], 1)?;
            bounded("dilation", self.dilation[i], 1)?;
            bounded("kernel", w[2 + i], 1)?;
            self.padding[i].iter().try_for_each(|p| bounded("padding", *p, 0))?;
            out.push(windows(&x[2 + i], self.padding[i], w[2 + i], self.dilation[i], self.stride[i])?);
        }
        Ok(vec![Type::tensor(d, out)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let ts = ins.iter().map(|v| v.tensor(Self::NAME)).collect::<Result<Vec<_>, _>>()?;
        let (x, w) = (ts[0], ts[1]);
        let (size, kernel) = (three(&x.shape[2..], 1), three(&w.shape[2..], 1));
        let (stride, dilation, pad) = (three(&self.stride, 1), three(&self.dilation, 1), three(&self.padding, [0, 0]));
        let out_size = [0, 1, 2].map(|i| {
            let padded = size[i] + pad[i][0] + pad[i][1] + stride[i];
            padded.saturating_sub(dilation[i] * (kernel[i] - 1) + 1) / stride[i]
        });
        let (b, c, o) = (x.shape[0], x.shape[1], w.shape[0]);
        let (cg, og) = (c / self.groups, o / self.groups);
        let (plane, taps) = (size.iter().product::<usize>(), kernel.iter().product::<usize>());
        let mut out = Vec::with_capacity(b * o * out_size.iter().product::<usize>());
        for (n, f) in (0..b).flat_map(|n| (0..o).map(move |f| (n, f))) {
            let first = n * c + f / og * cg;
            for at in positions(out_size) {
                let mut sum = if self.bias { ts[2].data[f] } else { 0.0 };
                for k in positions(kernel) {
                    let from = [0, 1, 2].map(|i| (at[i] * stride[i] + k[i] * dilation[i]).wrapping_sub(pad[i][0]));
                    if (0..3).all(|i| from[i] < size[i]) {
                        let (from, k) = (offset(from, size), offset(k, kernel));
                        sum += (0..cg).map(|j| x.data[(first + j) * plane + from] * w.data[(f * cg + j) * taps + k]).sum::<f64>();
                    }
                }
                out.push(sum);
            }
        }
        let n = x.shape.len() - 2;
        let shape = [&[b, o], &out_size[3 - n..]].concat();
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, out))])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        let f = |d: &[usize]| Type::tensor(DType::F32, d.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>());
        let one = Conv::plain(1);
        s.op(one.clone(), &[f(&[2, 3, 11]), f(&[5, 3, 3])], tol);
        let whisper = Conv { stride: vec![2], padding: vec![[1, 1]], bias: true, ..one.clone() };
        s.op(whisper, &[f(&[1, 8, 17]), Type::tensor(DType::F16, [6, 8, 3]), f(&[6])], tol);
        let causal = Conv { padding: vec![[6, 0]], dilation: vec![3], groups: 6, bias: true, ..one };
        s.op(causal, &[f(&[2, 6, 9]), f(&[6, 1, 3]), f(&[6])], tol);
        let two = Conv::plain(2);
        s.op(two.clone(), &[f(&[1, 3, 7, 5]), f(&[4, 3, 1, 1])], tol);
        let patches = Conv { stride: vec![4, 4], bias: true, ..two.clone() };
        s.op(patches, &[f(&[2, 3, 9, 12]), f(&[10, 3, 4, 4]), f(&[10])], tol);
        let same = Conv { padding: vec![[1, 1], [1, 1]], bias: true, ..two.clone() };
        s.op(same, &[f(&[1, 16, 13, 9]), f(&[24, 16, 3, 3]), f(&[24])], tol);
        let odd = Conv { stride: vec![2, 1], padding: vec![[2, 1], [0, 3]], dilation: vec![1, 2], groups: 2, ..two.clone() };
        s.op(odd, &[f(&[2, 4, 8, 9]), Type::tensor(DType::BF16, [6, 2, 5, 2])], tol);
        let depthwise = Conv { padding: vec![[3, 3], [3, 3]], groups: 5, ..two };
        s.op(depthwise, &[f(&[1, 5, 6, 10]), f(&[5, 1, 7, 7])], tol);
        let three = Conv { stride: vec![2, 2, 2], padding: vec![[0, 0], [1, 1], [0, 1]], bias: true, ..Conv::plain(3) };
        s.op(three, &[f(&[1, 3, 4, 6, 7]), f(&[5, 3, 2, 3, 2]), f(&[5])], tol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn infer(op: &Conv, x: &str, w: &str) -> Result<String, String> {
        let (x, w): (Type, Type) = (x.parse().unwrap(), w.parse().unwrap());
        op.infer(&[&x, &w]).map(|t| t[0].to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn symbolic_sizes_give_symbolic_lengths() {
        let op = Conv { stride: vec![2], padding: vec![[1, 1]], ..Conv::plain(1) };
        assert_eq!(infer(&op, "f32[B,8,L]", "f32[4,8,3]").unwrap(), "f32[B,4,floor(L+1, 2)]");
        assert_eq!(infer(&op, "f32[B,8,2*L]", "f32[4,8,2]").unwrap(), "f32[B,4,L+1]");
    }

    #[test]
    fn wrong_shapes_and_attributes_are_refused() {
        let op = Conv::plain(2);
        assert!(infer(&op, "f32[1,8,9,9]", "f32[4,8,3,3]").is_ok());
        for (x, w) in [("f32[1,8,9]", "f32[4,8,3]"), ("f32[1,8,9,9]", "f32[4,7,3,3]"), ("f32[1,8,2,9]", "f32[4,8,3,3]"), ("i32[1,8,9,9]", "f32[4,8,3,3]"), ("f32[1,8,9,9]", "f32[4,8,3,0]"), ("f32[1,8,9,9]", "f32[4,8,K,3]")] {
            assert!(infer(&op, x, w).is_err(), "{x} {w}");
        }
        for bad in [Conv { groups: 0, ..op.clone() }, Conv { groups: 3, ..op.clone() }, Conv { stride: vec![0, 1], ..op.clone() }, Conv { dilation: vec![1, usize::MAX], ..op.clone() }, Conv { padding: vec![[0, 0]], ..op.clone() }] {
            assert!(infer(&bad, "f32[1,8,9,9]", "f32[4,8,3,3]").is_err(), "{bad:?}");
        }
    }
}
