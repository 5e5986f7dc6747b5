//! Transposed convolution.

use super::window::{bounded, offset, positions, spatial, three};
use super::{Conv, OpDef, Pad};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Inferred, Samples, Tensor, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// The transpose of [`Conv`] as a linear map, as in PyTorch's `conv_transpose1d/2d/3d`.
///
/// x: `[B, C, spatial…]`, w: `[C, O/groups, kernel…]` in any plain real type, with `bias` also
/// b: `[O]` in any plain real type → `[B, O, out…]` of x's type, where
/// `out = (size − 1)·stride − lo − hi + dilation·(kernel−1) + 1 + output_padding`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConvTranspose {
    /// Step between the windows written, per spatial dimension.
    pub stride: Vec<usize>,
    /// Results dropped before and after, per spatial dimension.
    pub padding: Vec<[usize; 2]>,
    /// Results added after, per spatial dimension.
    pub output_padding: Vec<usize>,
    /// Step between taps, per spatial dimension.
    pub dilation: Vec<usize>,
    /// Channels divide into this many groups that do not mix.
    pub groups: usize,
    /// A bias follows the weight.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
}

impl ConvTranspose {
    /// This stride, nothing else, over `stride.len()` spatial dimensions.
    pub fn plain(stride: &[usize]) -> ConvTranspose {
        let n = stride.len();
        let (padding, output_padding, dilation) = (vec![[0, 0]; n], vec![0; n], vec![1; n]);
        ConvTranspose { stride: stride.to_vec(), padding, output_padding, dilation, groups: 1, bias: false }
    }
}

impl OpDef for ConvTranspose {
    const NAME: &'static str = "conv_transpose";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        if ins.len() != 2 + usize::from(self.bias) {
            return Err(TypeError::Arity { expected: "2 (x, w), or 3 with a bias".into(), found: ins.len() });
        }
        let ((d, x), (_, w)) = (rule::float("x", ins[0])?, rule::float("w", ins[1])?);
        let lengths = [("stride", self.stride.len()), ("padding", self.padding.len()), ("dilation", self.dilation.len())];
        let n = spatial(x.len(), &lengths)?;
        spatial(x.len(), &[("output_padding", self.output_padding.len())])?;
        if w.len() != x.len() {
            return Err(rule::mismatch("w", ins[1], format!("rank {}, like x", x.len())));
        }
        let w = w.iter().map(|d| rule::constant("dimension of w", d)).collect::<Result<Vec<_>, _>>()?;
        let c = rule::constant("channels of x", &x[1])?;
        bounded("groups", self.groups, 1)?;
        bounded("output channels per group", w[1], 1)?;
        if c % self.groups != 0 || w[0] != c {
            return Err(rule::mismatch("w", ins[1], format!("[C, O/groups, kernel…] for {c} channels in {} groups", self.groups)));
        }
        let o = w[1] * self.groups;
        if self.bias {
            let (_, [b]) = (rule::float("bias", ins[2])?, rule::ranked::<1>("bias", ins[2])?.1);
            rule::same("bias", b, "output channels", &Dim::from(o))?;
        }
        let mut out = vec![x[0].clone(), Dim::from(o)];
        for i in 0..n {
            bounded("stride", self.stride[i], 1)?;
            bounded("dilation", self.dilation[i], 1)?;
            bounded("kernel", w[2 + i], 1)?;
            let [lo, hi] = self.padding[i];
            [lo, hi, self.output_padding[i]].iter().try_for_each(|p| bounded("padding", *p, 0))?;
            let whole = x[2 + i].clone() * self.stride[i] + (self.dilation[i] * (w[2 + i] - 1) + 1 + self.output_padding[i]);
            if let (Some(whole), Some(size)) = (whole.as_const(), x[2 + i].as_const())
                && (size == 0 || whole < self.stride[i] + lo + hi)
            {
                return Err(rule::mismatch("padding", format!("{lo} and {hi}"), "no more than there are results, of at least 1 element"));
            }
            out.push(whole - Dim::from(self.stride[i] + lo + hi));
        }
        Ok(vec![Type::tensor(d, out)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let ts = ins.iter().map(|v| v.tensor(Self::NAME)).collect::<Result<Vec<_>, _>>()?;
        let (x, w) = (ts[0], ts[1]);
        let (size, kernel) = (three(&x.shape[2..], 1), three(&w.shape[2..], 1));
        let (stride, dilation, pad) = (three(&self.stride, 1), three(&self.dilation, 1), three(&self.padding, [0, 0]));
        let more = three(&self.output_padding, 0);
        let out_size = [0, 1, 2].map(|i| {
            let whole = size[i] * stride[i] + dilation[i] * (kernel[i] - 1) + 1 + more[i];
            whole.saturating_sub(stride[i] + pad[i][0] + pad[i][1])
        });
        let (b, c, og) = (x.shape[0], x.shape[1], w.shape[1]);
        let (cg, o) = (c / self.groups, og * self.groups);
        let [plane, taps, out_plane] = [size, kernel, out_size].map(|s| s.iter().product::<usize>());
        let mut out: Vec<f64> = (0..b * o * out_plane).map(|i| if self.bias { ts[2].data[i / out_plane % o] } else { 0.0 }).collect();
        for (n, j, f) in (0..b).flat_map(|n| (0..c).flat_map(move |j| (0..og).map(move |f| (n, j, f)))) {
            let to_plane = (n * o + j / cg * og + f) * out_plane;
            for (at, k) in positions(size).flat_map(|at| positions(kernel).map(move |k| (at, k))) {
                let to = [0, 1, 2].map(|i| (at[i] * stride[i] + k[i] * dilation[i]).wrapping_sub(pad[i][0]));
                if (0..3).all(|i| to[i] < out_size[i]) {
                    let v = x.data[(n * c + j) * plane + offset(at, size)] * w.data[(j * og + f) * taps + offset(k, kernel)];
                    out[to_plane + offset(to, out_size)] += v;
                }
            }
        }
        let shape = [&[b, o], &out_size[5 - x.shape.len()..]].concat();
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, out))])
    }

    /// Zeros between the elements of x, then a convolution with the flipped kernel.
    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let (x, w) = (ins[0], ins[1]);
        let shape: Vec<usize> = w.shape().iter().map(Dim::as_const).collect::<Option<_>>()?;
        let (c, og, kernel) = (shape[0], shape[1], &shape[2..]);
        let (taps, groups, n) = (kernel.iter().product::<usize>(), self.groups, kernel.len());
        // Reversing the flattened taps flips every spatial dimension.
        let order = x.builder().constant(DType::I32, &[taps], (0..taps).rev().map(|i| i as f64).collect());
        let w = w.reshape([groups, c / groups, og, taps]).permute(&[3, 0, 2, 1]).gather(order, x.dtype()).permute(&[1, 2, 3, 0]);
        let w = w.reshape([&[Dim::from(groups * og), Dim::from(c / groups)], &w_dims(kernel)[..]].concat());

        let reach = |i: usize| self.dilation[i] * (kernel[i] - 1);
        let mut pad = Pad { lo: vec![0; 2], hi: vec![0; 2], interior: vec![0; 2], value: 0.0 };
        for i in 0..n {
            pad.lo.push(reach(i).saturating_sub(self.padding[i][0]));
            pad.hi.push((reach(i) + self.output_padding[i]).saturating_sub(self.padding[i][1]));
            pad.interior.push(self.stride[i] - 1);
        }
        let conv = Conv { dilation: self.dilation.clone(), groups, bias: self.bias, ..Conv::plain(n) };
        let more: Vec<Val<'g>> = std::iter::once(w).chain(ins.get(2).copied()).collect();
        let mut y = x.with(pad, &[]).with(conv, &more);
        // Padding beyond the reach of the kernel drops results that the convolution has made.
        for i in 0..n {
            let lo = self.padding[i][0].saturating_sub(reach(i));
            let hi = self.padding[i][1].saturating_sub(reach(i) + self.output_padding[i]);
            if lo + hi > 0 {
                y = y.slice(2 + i, lo, y.dim(2 + i) - Dim::from(lo + hi));
            }
        }
        Some(vec![y])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        let f = |d: &[usize]| Type::tensor(DType::F32, w_dims(d));
        s.op(ConvTranspose::plain(&[1]), &[f(&[2, 3, 7]), f(&[3, 4, 3])], tol);
        let one = ConvTranspose { padding: vec![[3, 3]], output_padding: vec![1], bias: true, ..ConvTranspose::plain(&[5]) };
        s.op(one, &[f(&[1, 6, 9]), Type::tensor(DType::F16, [6, 5, 11]), f(&[5])], tol);
        let deep = ConvTranspose { padding: vec![[3, 2]], ..ConvTranspose::plain(&[2]) };
        s.op(deep, &[f(&[1, 2, 9]), f(&[2, 3, 2])], tol);
        let two = ConvTranspose::plain(&[2, 2]);
        s.op(ConvTranspose { bias: true, ..two.clone() }, &[f(&[1, 8, 5, 4]), f(&[8, 6, 2, 2]), f(&[6])], tol);
        let odd = ConvTranspose { padding: vec![[1, 0], [2, 1]], output_padding: vec![1, 0], dilation: vec![2, 1], groups: 2, ..two.clone() };
        s.op(odd, &[f(&[2, 4, 3, 5]), f(&[4, 3, 3, 4])], tol);
        s.op(ConvTranspose { groups: 5, ..two }, &[f(&[1, 5, 3, 4]), f(&[5, 1, 3, 3])], tol);
        s.op(ConvTranspose::plain(&[1, 2, 3]), &[f(&[1, 2, 3, 2, 4]), f(&[2, 3, 2, 3, 2])], tol);
    }
}

/// Constant dimensions.
fn w_dims(d: &[usize]) -> Vec<Dim> {
    d.iter().map(|n| Dim::from(*n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_and_attributes_are_refused() {
        let op = ConvTranspose { padding: vec![[1, 1]], ..ConvTranspose::plain(&[2]) };
        let infer = |op: &ConvTranspose, x: &str, w: &str| op.infer(&[&x.parse().unwrap(), &w.parse().unwrap()]).map(|t| t[0].to_string());
        assert_eq!(infer(&op, "f32[B,8,L]", "f32[8,4,4]").unwrap(), "f32[B,4,2*L]");
        assert!(infer(&op, "f32[B,8,L]", "f32[4,8,4]").is_err());
        assert!(infer(&op, "f32[B,8,0]", "f32[8,4,4]").is_err());
        assert!(infer(&op, "f32[B,8,1]", "f32[8,4,1]").is_err());
        assert!(infer(&ConvTranspose { output_padding: vec![], ..op.clone() }, "f32[B,8,L]", "f32[8,4,4]").is_err());
        assert!(infer(&ConvTranspose { stride: vec![0], ..op }, "f32[B,8,L]", "f32[8,4,4]").is_err());
    }
}
