//! Resampling of images and other grids.

use super::OpDef;
use super::window::bounded;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{DType, Dim, Inferred, Samples, Tensor, Tol, Type, TypeError, rule};
use serde::{Deserialize, Serialize};

/// Which neighbours count, and how much.
#[derive(Copy, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The element at `floor(i · step)`.  The product is rounded to f32 first, as in PyTorch,
    /// because `floor` makes that rounding visible.
    Nearest,
    /// The element at `floor((i + ½) · step)`, rounded likewise.
    NearestExact,
    /// Two neighbours per axis: bilinear on images.
    Linear,
    /// Four neighbours per axis, by Keys' kernel with this parameter: bicubic on images.
    /// PyTorch: −0.75, and −0.5 with antialias; Pillow: −0.5.
    Cubic(f64),
}

/// Resamples the last `size.len()` dimensions, as PyTorch's `interpolate` does.
///
/// x: […, d₁ … dₙ] in a plain real type → […, size₁ … sizeₙ] of that type.  The step per axis is
/// `d / size`, or `1 / scale` where `scale` is given, or `(d−1)/(size−1)` with `align_corners`.
/// Element centres lie at ½ unless `align_corners`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Resize {
    /// New sizes.
    pub size: Vec<Dim>,
    /// Kernel.
    pub mode: ResizeMode,
    /// The first and the last element of an axis stay where they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub align_corners: bool,
    /// Widen the kernel when shrinking (linear and cubic).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub antialias: bool,
    /// The factor to use instead of `size / d`, per axis (PyTorch's `scale_factor`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Vec<f64>>,
}

/// Keys' cubic convolution kernel with parameter `a`.
fn cubic(a: f64, x: f64) -> f64 {
    let x = x.abs();
    match x {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

impl Resize {
    /// To this size, with half-pixel centres and no antialiasing.
    pub fn plain(size: Vec<Dim>, mode: ResizeMode) -> Resize {
        Resize { size, mode, align_corners: false, antialias: false, scale: None }
    }

    /// For every output element of axis number `axis`, the input elements it mixes and their
    /// weights.  Backends build their tables from this.
    pub fn taps(&self, axis: usize, from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
        let step = match (&self.scale, self.align_corners) {
            (_, true) => (from - 1) as f64 / to.saturating_sub(1).max(1) as f64,
            (Some(s), _) => 1.0 / s[axis],
            (None, _) => from as f64 / to as f64,
        };
        let step = if self.align_corners && to == 1 { 0.0 } else { step };
        (0..to).map(|i| self.taps_at(i, from, step)).collect()
    }

    fn taps_at(&self, i: usize, from: usize, step: f64) -> Vec<(usize, f64)> {
        let last = from - 1;
        let kernel = |x: f64| match self.mode {
            ResizeMode::Cubic(a) => cubic(a, x),
            _ => (1.0 - x.abs()).max(0.0),
        };
        if self.antialias {
            let widen = step.max(1.0);
            let reach = widen * if let ResizeMode::Cubic(_) = self.mode { 2.0 } else { 1.0 };
            let centre = step * (i as f64 + 0.5);
            let (lo, hi) = ((centre - reach + 0.5).max(0.0) as usize, ((centre + reach + 0.5) as usize).min(from));
            let taps: Vec<(usize, f64)> = (lo..hi).map(|j| (j, kernel((j as f64 - centre + 0.5) / widen))).collect();
            let sum: f64 = taps.iter().map(|t| t.1).sum();
            return taps.into_iter().map(|(j, w)| (j, if sum == 0.0 { w } else { w / sum })).collect();
        }
        let shift = if self.align_corners { 0.0 } else { 0.5 };
        let at = (i as f64 + shift) * step - shift;
        match self.mode {
            ResizeMode::Nearest => vec![(((i as f32 * step as f32) as usize).min(last), 1.0)],
            ResizeMode::NearestExact => vec![((((i as f32 + 0.5) * step as f32) as usize).min(last), 1.0)],
            ResizeMode::Linear => {
                let at = at.clamp(0.0, last as f64);
                let (j, t) = (at as usize, at.fract());
                vec![(j, 1.0 - t), ((j + 1).min(last), t)]
            }
            ResizeMode::Cubic(_) => {
                let base = at.floor();
                (-1..=2).map(|k| ((base + f64::from(k)).clamp(0.0, last as f64) as usize, kernel(at - base - f64::from(k)))).collect()
            }
        }
    }
}

impl OpDef for Resize {
    const NAME: &'static str = "resize";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::float("x", x)?;
        let n = self.size.len();
        if n == 0 || n > s.len() {
            return Err(rule::mismatch("number of sizes", n, format!("1 to {}, the rank of x", s.len())));
        }
        let nearest = matches!(self.mode, ResizeMode::Nearest | ResizeMode::NearestExact);
        if nearest && (self.align_corners || self.antialias) {
            return Err(TypeError::Attribute("align_corners and antialias need linear or cubic".into()));
        }
        if self.scale.as_ref().is_some_and(|s| s.len() != n || s.iter().any(|v| !(1e-6..=1e6).contains(v)))
            || matches!(self.mode, ResizeMode::Cubic(a) if !a.is_finite())
        {
            return Err(TypeError::Attribute(format!("scale and the cubic parameter must be finite, {n} scales above 0")));
        }
        let (keep, old) = s.split_at(s.len() - n);
        for (old, new) in old.iter().zip(&self.size) {
            for v in [old, new].into_iter().filter_map(Dim::as_const) {
                bounded("size", v, 1)?;
            }
        }
        Ok(vec![Type::tensor(d, [keep, &self.size[..]].concat())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let mut x = ins[0].tensor(Self::NAME)?.clone();
        let first = x.shape.len() - self.size.len();
        for (i, size) in self.size.iter().enumerate() {
            let (axis, to) = (first + i, size.eval(cx.dims)?);
            let (from, inner) = (x.shape[axis], x.shape[axis + 1..].iter().product::<usize>());
            if from == 0 || to == 0 {
                return Err(op_error(Self::NAME, format!("axis {axis} goes from {from} to {to} elements, expected at least 1")));
            }
            let taps = self.taps(i, from, to);
            let mut data = Vec::with_capacity(x.numel() / from * to);
            for block in x.data.chunks((from * inner).max(1)) {
                for taps in &taps {
                    data.extend((0..inner).map(|k| taps.iter().map(|(j, w)| w * block[j * inner + k]).sum::<f64>()));
                }
            }
            let mut shape = x.shape.clone();
            shape[axis] = to;
            x = Tensor::new(x.dtype, shape, data);
        }
        Ok(vec![Value::Tensor(x)])
    }

    fn samples(s: &mut Samples) {
        use ResizeMode::*;
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        let x = Type::tensor(DType::F32, [2, 3, 7, 10]);
        let to = |h: usize, w: usize| vec![Dim::from(h), Dim::from(w)];
        for (mode, a) in [(Linear, None), (Cubic(-0.75), Some(-0.5))] {
            for (h, w) in [(14, 20), (5, 4), (7, 33), (1, 1)] {
                let op = Resize::plain(to(h, w), mode);
                s.op(op.clone(), std::slice::from_ref(&x), tol);
                s.op(Resize { align_corners: true, ..op.clone() }, std::slice::from_ref(&x), tol);
                s.op(Resize { antialias: true, mode: a.map_or(mode, Cubic), ..op }, std::slice::from_ref(&x), tol);
            }
        }
        for mode in [Nearest, NearestExact] {
            s.op(Resize::plain(to(14, 20), mode), std::slice::from_ref(&x), tol);
            s.op(Resize::plain(to(3, 27), mode), std::slice::from_ref(&x), tol);
        }
        let vol = Type::tensor(DType::F32, [1, 2, 3, 5, 4]);
        s.op(Resize::plain(vec![Dim::from(6), Dim::from(4), Dim::from(9)], Linear), &[vol], tol);
        let scaled = Resize { scale: Some(vec![5.1 / 7.0, 9.1 / 10.0]), ..Resize::plain(to(5, 9), Cubic(-0.75)) };
        s.op(scaled, &[x], tol);
        s.op(Resize::plain(vec![Dim::from(13)], Linear), &[Type::tensor(DType::F32, [4, 6])], tol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_attributes_are_refused() {
        let x: Type = "f32[B,3,H,W]".parse().unwrap();
        let op = Resize::plain(vec!["T".into(), Dim::from(8)], ResizeMode::Linear);
        assert_eq!(op.infer(&[&x]).unwrap()[0].to_string(), "f32[B,3,T,8]");
        let bad = [
            Resize { size: vec![], ..op.clone() },
            Resize { size: vec![Dim::from(1); 5], ..op.clone() },
            Resize { size: vec![Dim::from(0)], ..op.clone() },
            Resize { mode: ResizeMode::Nearest, antialias: true, ..op.clone() },
            Resize { scale: Some(vec![0.0, 1.0]), ..op.clone() },
            Resize { mode: ResizeMode::Cubic(f64::NAN), ..op.clone() },
        ];
        for op in bad {
            assert!(op.infer(&[&x]).is_err(), "{op:?}");
        }
        assert!(op.infer(&[&"u8[3,4,4]".parse().unwrap()]).is_err());
    }
}
