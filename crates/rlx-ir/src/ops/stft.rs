//! Short-time Fourier transform.

use super::fft::real_dft;
use super::window::{bounded, windows};
use super::{Fft, FftKind, OpDef};
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{DType, Dim, Inferred, Samples, Shape, Tensor, Tol, Type, Val, rule};
use serde::{Deserialize, Serialize};

/// The transform of windowed frames.  x: […, L], window: `[n]`, both of one plain real type →
/// […, F, n/2+1, 2] (frames, then bins, then real and imaginary part), where frame `f` holds
/// `window[j] · x[f·hop + j]` and `F = floor((L − n)/hop) + 1`.
///
/// With `center` the signal is first reflected at both ends by `n/2` samples, without repeating
/// the end itself, so that frame `f` is centred on sample `f·hop` (torch.stft's default); it needs
/// L > n/2.  torch.stft has bins before frames.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stft {
    /// Samples from one frame to the next.
    pub hop: usize,
    /// Reflect at both ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub center: bool,
}

impl Stft {
    fn pad(&self, n: usize) -> usize {
        if self.center { n / 2 } else { 0 }
    }
}

impl OpDef for Stft {
    const NAME: &'static str = "stft";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x, window] = rule::arity(ins)?;
        let ((d, s), (e, [n])) = (rule::float("x", x)?, rule::ranked::<1>("window", window)?);
        if d != e {
            return Err(rule::mismatch("window", window, format!("of {d}, like x")));
        }
        let (len, n) = (rule::last("x", s)?, rule::constant("length of the window", n)?);
        bounded("hop", self.hop, 1)?;
        bounded("length of the window", n, 1)?;
        let pad = self.pad(n);
        if let Some(l) = len.as_const()
            && pad > 0
            && l <= pad
        {
            return Err(rule::mismatch("last dimension of x", l, format!("above {pad}, to reflect at its ends")));
        }
        let frames = windows(len, [pad, pad], n, 1, self.hop)?;
        let mut out = s.to_vec();
        out.pop();
        out.extend([frames, Dim::from(n / 2 + 1), Dim::from(2)]);
        Ok(vec![Type::tensor(d, out)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let (x, window) = (ins[0].tensor(Self::NAME)?, ins[1].tensor(Self::NAME)?);
        let (len, n) = (x.last(), window.numel());
        let pad = self.pad(n);
        if len + 2 * pad < n || pad > 0 && len <= pad {
            return Err(op_error(Self::NAME, format!("a signal of {len} samples is too short for a window of {n}")));
        }
        let frames = (len + 2 * pad - n) / self.hop + 1;
        let mut data = vec![];
        for signal in x.data.chunks(len) {
            for f in 0..frames {
                let sample = |j: usize| {
                    let at = (f * self.hop + j).abs_diff(pad); // reflected at the start
                    signal[at.min(2 * (len - 1) - at.min(2 * (len - 1)))] // and at the end
                };
                let frame: Vec<f64> = window.data.iter().enumerate().map(|(j, w)| w * sample(j)).collect();
                data.extend(real_dft(&frame).flatten());
            }
        }
        let shape = [&x.shape[..x.shape.len() - 1], &[frames, n / 2 + 1, 2]].concat();
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, data))])
    }

    /// Frames by an index table, then window and transform.
    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let (x, window, b) = (ins[0], ins[1], ins[0].builder());
        let (len, n) = (x.last_dim(), window.dim(0).as_const()?);
        let pad = self.pad(n);
        let frames = windows(&len, [pad, pad], n, 1, self.hop).ok()?;
        let start = b.iota(DType::I32, &frames).reshape([frames.clone(), Dim::from(1)]) * self.hop as f64;
        let mut at = start + b.iota(DType::I32, n) + -(pad as f64); // [F,n]
        if pad > 0 {
            let end = b.iota(DType::I32, &len).slice(0, len.clone() - Dim::from(1), 1); // L−1
            at = end - (end - at.abs()).abs();
        }
        let shape = Shape(x.shape());
        let outer = Shape::from(&shape.0[..shape.rank() - 1]);
        let rows = x.reshape([outer.numel(), len]).permute(&[1, 0]); // [L,outer]
        let framed = rows.gather(at, x.dtype()).permute(&[2, 0, 1]) * window; // [outer,F,n]
        let bins = framed.with(Fft { kind: FftKind::Real }, &[]);
        Some(vec![bins.reshape([&outer.0[..], &[frames, Dim::from(n / 2 + 1), Dim::from(2)]].concat())])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-10, max: 3e-5 };
        let f = |d: &[usize]| Type::tensor(DType::F32, d.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>());
        s.op(Stft { hop: 4, center: false }, &[f(&[2, 37]), f(&[16])], tol);
        s.op(Stft { hop: 3, center: true }, &[f(&[41]), f(&[15])], tol);
        s.op(Stft { hop: 160, center: true }, &[f(&[1, 1000]), f(&[400])], tol);
        s.op(Stft { hop: 5, center: true }, &[f(&[2, 3, 9]), f(&[16])], tol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_refused() {
        let infer = |hop, center, x: &str, w: &str| Stft { hop, center }.infer(&[&x.parse().unwrap(), &w.parse().unwrap()]).map(|t| t[0].to_string());
        assert_eq!(infer(160, true, "f32[B,L]", "f32[400]").unwrap(), "f32[B,floor(L, 160)+1,201,2]");
        assert!(infer(0, true, "f32[999]", "f32[400]").is_err());
        assert!(infer(160, true, "f32[200]", "f32[400]").is_err());
        assert!(infer(160, false, "f32[399]", "f32[400]").is_err());
        assert!(infer(160, false, "f32[999]", "f64[400]").is_err());
        assert!(infer(160, false, "f32[999]", "f32[N]").is_err());
    }
}
