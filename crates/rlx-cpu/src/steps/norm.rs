//! Layer norm, and weights of any float type read on the way.

use super::rows::rows;
use crate::frame::{Frame, Step};
use crate::simd::element::{Bf16, Element, F16, F32};
use crate::simd::{Kernel, Level, Simd, dispatch};
use crate::team::Worker;
use rlx_ir::{DType, ValueId};

/// A dense vector of f32, f16 or bf16, widened as it is read.
#[derive(Clone, Copy)]
pub(super) struct Wide {
    ptr: *const u8,
    dtype: DType,
}

impl Wide {
    /// Types it reads.
    pub fn reads(d: DType) -> bool {
        matches!(d, DType::F32 | DType::F16 | DType::BF16)
    }

    pub fn new(f: &Frame<'_>, v: ValueId, dtype: DType) -> Wide {
        Wide { ptr: f.ptr(v), dtype }
    }

    /// Elements `i .. i + LANES`.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, i: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe {
            match self.dtype {
                DType::F16 => F16::load(s, self.ptr.add(2 * i)),
                DType::BF16 => Bf16::load(s, self.ptr.add(2 * i)),
                _ => F32::load(s, self.ptr.add(4 * i)),
            }
        }
    }

    /// Element `i`.
    ///
    /// # Safety
    /// It exists.
    #[inline(always)]
    pub unsafe fn one(self, i: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            match self.dtype {
                DType::F16 => F16::one(self.ptr.add(2 * i)),
                DType::BF16 => Bf16::one(self.ptr.add(2 * i)),
                _ => F32::one(self.ptr.add(4 * i)),
            }
        }
    }
}

/// Layer norm over the last dimension.
pub(crate) struct LayerNormStep {
    pub level: Level,
    pub eps: f64,
    pub x: ValueId,
    pub weight: Option<(ValueId, DType)>,
    pub bias: Option<(ValueId, DType)>,
    pub y: ValueId,
}

struct Row<'a> {
    x: &'a [f32],
    eps: f32,
    weight: Option<Wide>,
    bias: Option<Wide>,
    y: *mut f32,
}

impl Kernel for Row<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Row { x, eps, weight, bias, y } = self;
        let n = x.len();
        let whole = n / S::LANES * S::LANES;
        let p = x.as_ptr();
        // SAFETY: indices stay below n, and weight, bias and target have n elements.
        unsafe {
            let mut acc = s.splat(0.0);
            for i in (0..whole).step_by(S::LANES) {
                acc = s.add(acc, s.load(p.add(i)));
            }
            let mean = (s.sum(acc) + x[whole..].iter().sum::<f32>()) / n as f32;
            let (m, mut acc) = (s.splat(mean), s.splat(0.0));
            for i in (0..whole).step_by(S::LANES) {
                let c = s.sub(s.load(p.add(i)), m);
                acc = s.fma(c, c, acc);
            }
            let squares = s.sum(acc) + x[whole..].iter().map(|v| (v - mean) * (v - mean)).sum::<f32>();
            let factor = 1.0 / (squares / n as f32 + eps).sqrt();
            let f = s.splat(factor);
            for i in (0..whole).step_by(S::LANES) {
                let mut v = s.mul(s.sub(s.load(p.add(i)), m), f);
                if let Some(w) = weight {
                    v = s.mul(v, w.load(s, i));
                }
                if let Some(b) = bias {
                    v = s.add(v, b.load(s, i));
                }
                s.store(y.add(i), v);
            }
            for i in whole..n {
                let v = (x[i] - mean) * factor;
                *y.add(i) = v * weight.map_or(1.0, |w| w.one(i)) + bias.map_or(0.0, |b| b.one(i));
            }
        }
    }
}

impl Step for LayerNormStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.ptr(self.y).cast::<f32>());
        let n = x.shape.last().copied().unwrap_or(1);
        let [weight, bias] = [self.weight, self.bias].map(|v| v.map(|(v, d)| Wide::new(f, v, d)));
        rows(&x, w, |row, from| {
            // SAFETY: row `row` of the result is this thread's.
            unsafe {
                let x = std::slice::from_raw_parts(from, n);
                dispatch(self.level, Row { x, eps: self.eps as f32, weight, bias, y: y.add(row * n) });
            }
        });
    }
}
