//! Kernels along the last dimension: norms, softmax, gated activations, reductions.

use super::elementwise::unary;
use crate::frame::{Frame, Step, View, Walk};
use crate::simd::{Kernel, Level, Simd, dispatch, exp};
use crate::team::Worker;
use rlx_ir::ops::{ReduceOp, UnaryOp};
use rlx_ir::{DType, ValueId};

/// Rows of a tensor whose last dimension is contiguous: calls `f(row number, first element)` for
/// this worker's share.
pub(super) fn rows(x: &View<'_>, w: Worker, mut f: impl FnMut(usize, *mut f32)) {
    let (n, outer) = x.shape.split_last().map_or((1, &[][..]), |(n, o)| (*n, o));
    let walk = Walk::new(outer, [(outer, &x.strides[..outer.len()])]);
    if n == 0 {
        return;
    }
    let (count, len, step) = (walk.rows(), walk.row(), walk.inner(0));
    for r in w.share(count * len) {
        let [at] = walk.offsets(r / len);
        // SAFETY: the walk stays inside the tensor.
        f(r, unsafe { x.ptr.cast::<f32>().add(at + r % len * step) });
    }
}

/// `dst = src · factor · weight`.
struct Scale<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: *mut f32,
}

impl Kernel for Scale<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.len();
        let whole = n / S::LANES * S::LANES;
        let (x, g) = (self.x.as_ptr(), self.weight.as_ptr());
        // SAFETY: indices stay below n, and weight and target have n elements.
        unsafe {
            let mut acc = [s.splat(0.0); 2];
            for (k, i) in (0..whole).step_by(S::LANES).enumerate() {
                let v = s.load(x.add(i));
                acc[k % 2] = s.fma(v, v, acc[k % 2]);
            }
            let mut sum = s.sum(s.add(acc[0], acc[1]));
            for i in whole..n {
                sum += *x.add(i) * *x.add(i);
            }
            let factor = 1.0 / (sum / n as f32 + self.eps).sqrt();
            let f = s.splat(factor);
            for i in (0..whole).step_by(S::LANES) {
                s.store(self.y.add(i), s.mul(s.mul(s.load(x.add(i)), f), s.load(g.add(i))));
            }
            for i in whole..n {
                *self.y.add(i) = *x.add(i) * factor * *g.add(i);
            }
        }
    }
}

/// Root-mean-square norm, optionally of a sum that is also a result.
pub(crate) struct RmsNormStep {
    pub level: Level,
    pub eps: f64,
    pub x: ValueId,
    /// Added to `x` first; the sum goes to the second entry.
    pub residual: Option<(ValueId, ValueId)>,
    pub weight: ValueId,
    pub weight_type: DType,
    pub y: ValueId,
}

impl Step for RmsNormStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.ptr(self.y).cast::<f32>());
        let n = x.shape.last().copied().unwrap_or(1);
        let mut wide = [0f32; 256];
        let mut heap;
        let weight: &[f32] = match self.weight_type {
            // SAFETY: parameters are complete.
            DType::F32 => unsafe { f.dense::<f32>(self.weight) },
            d => {
                let g = f.view(self.weight);
                let room: &mut [f32] = if n <= wide.len() {
                    &mut wide[..n]
                } else {
                    heap = vec![0f32; n];
                    &mut heap
                };
                // SAFETY: the weight has n elements of type d.
                room.iter_mut().enumerate().for_each(|(i, v)| *v = unsafe { super::elementwise::number(&g, d, i) } as f32);
                room
            }
        };
        // SAFETY: the residual is dense and complete.
        let sum = self.residual.map(|(r, s)| (unsafe { f.dense::<f32>(r) }, f.ptr(s).cast::<f32>()));
        rows(&x, w, |row, from| {
            // SAFETY: row `row` of every result is this thread's.
            unsafe {
                let mut x = std::slice::from_raw_parts(from, n);
                if let Some((r, s)) = &sum {
                    let s = std::slice::from_raw_parts_mut(s.add(row * n), n);
                    s.iter_mut().zip(x).zip(&r[row * n..]).for_each(|((s, x), r)| *s = x + r);
                    x = s;
                }
                dispatch(self.level, Scale { x, weight, eps: self.eps as f32, y: y.add(row * n) });
            }
        });
    }
}

/// Softmax of one row, in place.
struct SoftmaxRow<'a>(&'a mut [f32]);

impl Kernel for SoftmaxRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let y = self.0;
        let max = y.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        y.iter_mut().for_each(|v| *v -= max);
        let whole = y.len() / S::LANES * S::LANES;
        let mut total = s.splat(0.0);
        // SAFETY: indices stay below the length; the tail goes through a buffer of the widest size.
        let sum = unsafe {
            let p = y.as_mut_ptr();
            for i in (0..whole).step_by(S::LANES) {
                let e = exp(s, s.load(p.add(i)));
                total = s.add(total, e);
                s.store(p.add(i), e);
            }
            let mut tail = [f32::NEG_INFINITY; 16];
            let rest = y.len() - whole;
            tail[..rest].copy_from_slice(&y[whole..]);
            s.store(tail.as_mut_ptr(), exp(s, s.load(tail.as_ptr())));
            y[whole..].copy_from_slice(&tail[..rest]);
            s.sum(total) + tail[..rest].iter().sum::<f32>()
        };
        y.iter_mut().for_each(|v| *v /= sum);
    }
}

/// Softmax over the last dimension.
pub(crate) struct SoftmaxStep {
    pub level: Level,
    pub x: ValueId,
    pub y: ValueId,
}

impl Step for SoftmaxStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.ptr(self.y).cast::<f32>());
        let n = x.shape.last().copied().unwrap_or(1);
        rows(&x, w, |row, from| {
            // SAFETY: row `row` of the result is this thread's.
            let y = unsafe {
                std::ptr::copy_nonoverlapping(from, y.add(row * n), n);
                std::slice::from_raw_parts_mut(y.add(row * n), n)
            };
            dispatch(self.level, SoftmaxRow(y));
        });
    }
}

/// `act(first half) · second half` of every row.
pub(crate) struct SwigluStep {
    pub level: Level,
    pub act: UnaryOp,
    pub x: ValueId,
    pub y: ValueId,
}

impl Step for SwigluStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.ptr(self.y).cast::<f32>());
        let n = x.shape.last().copied().unwrap_or(0) / 2;
        let count: usize = x.shape[..x.shape.len() - 1].iter().product();
        let one = Worker { ith: 0, nth: 1 };
        // Few rows (decoding): split each row; many: split the rows.
        let (row_share, cols) = if count < w.nth { (one, w.share(n)) } else { (w, 0..n) };
        rows(&x, row_share, |row, from| {
            // SAFETY: these columns of row `row` are this thread's.
            unsafe {
                let y = std::slice::from_raw_parts_mut(y.add(row * n + cols.start), cols.len());
                std::ptr::copy_nonoverlapping(from.add(cols.start), y.as_mut_ptr(), y.len());
                unary(self.level, self.act, y);
                let up = from.add(n + cols.start);
                y.iter_mut().enumerate().for_each(|(i, v)| *v *= *up.add(i));
            }
        });
    }
}

/// Reduction over any axes, of f32 or i32.
pub(crate) struct ReduceStep {
    pub op: ReduceOp,
    pub dtype: DType,
    pub x: ValueId,
    pub y: ValueId,
}

impl Step for ReduceStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.view(self.y));
        let rank = x.shape.len();
        // The reduced axes as an inner space; kept ones index the result.
        let (mut keep, mut inner) = (([1usize; 8], [0usize; 8]), ([1usize; 8], [0usize; 8]));
        for i in 0..rank {
            let side = if y.shape[i] == 1 && x.shape[i] != 1 { &mut inner } else { &mut keep };
            (side.0[i], side.1[i]) = (x.shape[i], x.strides[i]);
        }
        let outer = Walk::new(&keep.0[..rank], [(&keep.0[..rank], &keep.1[..rank])]);
        let inner = Walk::new(&inner.0[..rank], [(&inner.0[..rank], &inner.1[..rank])]);
        let count = (inner.rows() * inner.row()) as f64;
        let row = outer.row();
        for r in w.share(outer.rows() * row) {
            let [at] = outer.offsets(r / row);
            let base = at + r % row * outer.inner(0);
            let mut acc = match self.op {
                ReduceOp::Sum | ReduceOp::Mean => 0.0,
                ReduceOp::Max => f64::NEG_INFINITY,
                ReduceOp::Min => f64::INFINITY,
                ReduceOp::Prod => 1.0,
            };
            for k in 0..inner.rows() {
                let [off] = inner.offsets(k);
                for i in 0..inner.row() {
                    // SAFETY: both walks stay inside the tensor.
                    let v = unsafe { super::elementwise::number(&x, self.dtype, base + off + i * inner.inner(0)) };
                    acc = match self.op {
                        ReduceOp::Sum | ReduceOp::Mean => acc + v,
                        ReduceOp::Max => acc.max(v),
                        ReduceOp::Min => acc.min(v),
                        ReduceOp::Prod => acc * v,
                    };
                }
            }
            if self.op == ReduceOp::Mean {
                acc /= count;
            }
            // SAFETY: element `r` of the dense result is this thread's.
            unsafe { super::elementwise::set(&y, self.dtype, r, acc) };
        }
    }
}
