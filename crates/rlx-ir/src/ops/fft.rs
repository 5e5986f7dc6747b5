//! Discrete Fourier transform of real signals.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// Direction and form.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FftKind {
    /// `X[k] = Σ x[j]·e^(−2πijk/n)` for `k = 0 ..= n/2`.  […,n] → […, n/2+1, 2] (real, imaginary).
    Real,
    /// The inverse, with factor 1/n, to an even n.  […,m,2] → […, 2(m−1)], m ≥ 2.  The imaginary
    /// parts of the first and the last bin are ignored.
    InverseReal,
    /// The inverse to an odd n.  […,m,2] → […, 2m−1].  The imaginary part of the first bin is ignored.
    InverseRealOdd,
}

/// Transform over the last dimension of any length (the last but one where pairs stand for complex
/// numbers).  x: a plain real type → the same type.  Unscaled forward, 1/n backward.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fft {
    /// Direction and form.
    pub kind: FftKind,
}

/// The first `n/2+1` bins of the transform of `x`, as (real, imaginary).
pub(crate) fn real_dft(x: &[f64]) -> impl Iterator<Item = [f64; 2]> + '_ {
    let n = x.len();
    (0..n / 2 + 1).map(move |k| {
        x.iter().enumerate().fold([0.0, 0.0], |[re, im], (j, v)| {
            // The product modulo n keeps the angle, and its rounding error, small.
            let (sin, cos) = (-TAU * ((j * k) % n) as f64 / n as f64).sin_cos();
            [re + v * cos, im + v * sin]
        })
    })
}

/// The `n` real values whose first bins are `bins`.
fn inverse(bins: &[f64], n: usize) -> impl Iterator<Item = f64> + '_ {
    (0..n).map(move |j| {
        let term = |(k, c): (usize, &[f64])| {
            let (sin, cos) = (TAU * ((j * k) % n) as f64 / n as f64).sin_cos();
            // Every other bin stands for itself and its conjugate.
            if k == 0 || 2 * k == n { c[0] * cos } else { 2.0 * (c[0] * cos - c[1] * sin) }
        };
        bins.chunks(2).enumerate().map(term).sum::<f64>() / n as f64
    })
}

impl OpDef for Fft {
    const NAME: &'static str = "fft";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        let (d, s) = rule::float("x", x)?;
        let mut out = s.to_vec();
        match (self.kind, s) {
            (FftKind::Real, [.., n]) => {
                if n.as_const() == Some(0) {
                    return Err(rule::mismatch("last dimension of x", n, "at least 1"));
                }
                out.pop();
                out.extend([n.floor_div(2) + 1, Dim::from(2)]);
            }
            (kind, [.., m, pair]) if *pair == Dim::from(2) => {
                let (least, odd) = if kind == FftKind::InverseReal { (2, 0) } else { (1, 1) };
                if m.as_const().is_some_and(|m| m < least) {
                    return Err(rule::mismatch("number of bins", m, format!("at least {least}")));
                }
                let n = m.clone() * 2 + odd - Dim::from(2);
                out.truncate(s.len() - 2);
                out.push(n);
            }
            _ => return Err(rule::mismatch("x", x, "[…,n] forward, […,m,2] backward")),
        }
        Ok(vec![Type::tensor(d, out)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let (mut shape, last) = (x.shape.clone(), x.last().max(1));
        shape.pop();
        let data: Vec<f64> = if self.kind == FftKind::Real {
            shape.extend([last / 2 + 1, 2]);
            x.data.chunks(last).flat_map(real_dft).flatten().collect()
        } else {
            let m = shape.pop().unwrap_or(1);
            let n = if self.kind == FftKind::InverseReal { 2 * m - 2 } else { 2 * m - 1 };
            shape.push(n);
            x.data.chunks(2 * m).flat_map(|bins| inverse(bins, n)).collect()
        };
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, data))])
    }

    fn samples(s: &mut Samples) {
        let tol = Tol { nmse: 1e-10, max: 3e-5 };
        let f = |d: &[usize]| Type::tensor(DType::F32, d.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>());
        for shape in [vec![3, 16], vec![2, 2, 15], vec![1], vec![4, 400], vec![2, 97]] {
            s.op(Fft { kind: FftKind::Real }, &[f(&shape)], tol);
        }
        for (kind, shape) in [(FftKind::InverseReal, [3, 9, 2]), (FftKind::InverseRealOdd, [2, 8, 2]), (FftKind::InverseReal, [1, 201, 2]), (FftKind::InverseRealOdd, [2, 1, 2])] {
            s.op(Fft { kind }, &[f(&shape)], tol);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_undoes_the_transform() {
        for n in [2usize, 5, 8, 9, 30] {
            let x: Vec<f64> = (0..n).map(|i| ((i * i) % 7) as f64 - 2.5).collect();
            let bins: Vec<f64> = real_dft(&x).flatten().collect();
            assert!(inverse(&bins, n).zip(&x).all(|(a, b)| (a - b).abs() < 1e-12), "{n}");
        }
        // A cosine of two periods is one bin of size n/2.
        let bins: Vec<[f64; 2]> = real_dft(&[1.0, 0.0, -1.0, 0.0, 1.0, 0.0, -1.0, 0.0]).collect();
        assert!((bins[2][0] - 4.0).abs() < 1e-12 && bins[1][0].abs() < 1e-12);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let infer = |kind, t: &str| Fft { kind }.infer(&[&t.parse().unwrap()]).map(|t| t[0].to_string());
        assert_eq!(infer(FftKind::Real, "f32[B,L]").unwrap(), "f32[B,floor(L, 2)+1,2]");
        assert_eq!(infer(FftKind::InverseReal, "f32[B,L+1,2]").unwrap(), "f32[B,2*L]");
        assert!(infer(FftKind::Real, "f32[]").is_err() && infer(FftKind::Real, "f32[0]").is_err() && infer(FftKind::Real, "i32[8]").is_err());
        assert!(infer(FftKind::InverseReal, "f32[5,3]").is_err() && infer(FftKind::InverseReal, "f32[1,2]").is_err());
    }
}
