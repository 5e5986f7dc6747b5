//! Moving elements: strided copies, joins, table rows, constants.

use super::elementwise::{number, set};
use crate::frame::{Frame, Step, View, Walk};
use crate::matmul::Matmul;
use crate::team::Worker;
use rlx_ir::ops::Constant;
use rlx_ir::{DType, ValueId};

/// Copies `shape` elements of `size` bytes between two strided tensors.
///
/// # Safety
/// Both tensors hold the elements, and this thread's share of the target is its own.
unsafe fn copy(size: usize, from: &View<'_>, to: &View<'_>, w: Worker) {
    let walk = Walk::new(to.shape, [(to.shape, to.strides), (from.shape, from.strides)]);
    walk.share(w, |[a, b], n| {
        // SAFETY: the caller's promise.
        unsafe {
            let (dst, src) = (to.ptr.add(a * size), from.ptr.add(b * size));
            match (walk.inner(0), walk.inner(1)) {
                (1, 1) => std::ptr::copy_nonoverlapping(src, dst, n * size),
                (st, ss) => {
                    (0..n).for_each(|i| std::ptr::copy_nonoverlapping(src.add(i * ss * size), dst.add(i * st * size), size));
                }
            }
        }
    });
}

/// Reshape, permute, slice or broadcast of a value that could not stay a view.
pub(crate) struct CopyStep {
    pub size: usize,
    pub x: ValueId,
    pub y: ValueId,
    /// The view of `x`: permuted axes, or the start along an axis.
    pub how: How,
}

/// How a copy reads its input.
pub(crate) enum How {
    /// In order.
    Flat,
    /// Axis `i` of the result is this axis of the input.
    Permute(Vec<usize>),
    /// From an offset along an axis (evaluated from the shapes at run time when symbolic).
    Slice(usize, rlx_ir::Dim),
}

impl Step for CopyStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.view(self.y));
        let (mut shape, mut strides) = ([1usize; 8], [0usize; 8]);
        let rank = x.shape.len();
        shape[..rank].copy_from_slice(x.shape);
        strides[..rank].copy_from_slice(x.strides);
        let mut from = View { ptr: x.ptr, shape: &shape[..rank], strides: &strides[..rank] };
        let (mut ps, mut pt) = ([1usize; 8], [0usize; 8]);
        // SAFETY: sizes follow from the type rules of the ops.
        unsafe {
            match &self.how {
                How::Flat if x.shape == y.shape || rank < y.shape.len() && self.size > 0 && broadcasts(x.shape, y.shape) => {
                    copy(self.size, &from, &y, w);
                }
                How::Flat => flat(self.size, &from, &y, w),
                How::Permute(axes) => {
                    for (i, a) in axes.iter().enumerate() {
                        (ps[i], pt[i]) = (x.shape[*a], x.strides[*a]);
                    }
                    copy(self.size, &View { ptr: x.ptr, shape: &ps[..rank], strides: &pt[..rank] }, &y, w);
                }
                How::Slice(axis, start) => {
                    let start = match start.as_const() {
                        Some(s) => s,
                        None => f.dim(start),
                    };
                    from.ptr = x.ptr.add(start * x.strides[*axis] * self.size);
                    ps[..rank].copy_from_slice(y.shape);
                    copy(self.size, &View { ptr: from.ptr, shape: &ps[..rank], strides: from.strides }, &y, w);
                }
            }
        }
    }
}

fn broadcasts(from: &[usize], to: &[usize]) -> bool {
    from.iter().rev().zip(to.iter().rev()).all(|(a, b)| a == b || *a == 1) && from.iter().product::<usize>() != to.iter().product::<usize>()
}

/// Copies in row-major order of the source, whatever the target's (dense) shape.
///
/// # Safety
/// As for [`copy`].
unsafe fn flat(size: usize, from: &View<'_>, to: &View<'_>, w: Worker) {
    let walk = Walk::new(from.shape, [(from.shape, from.strides)]);
    let (rows, row) = (walk.rows(), walk.row());
    for r in w.share(rows) {
        let [at] = walk.offsets(r);
        // SAFETY: the caller's promise.
        unsafe {
            let (dst, src) = (to.ptr.add(r * row * size), from.ptr.add(at * size));
            match walk.inner(0) {
                1 => std::ptr::copy_nonoverlapping(src, dst, row * size),
                s => (0..row).for_each(|i| std::ptr::copy_nonoverlapping(src.add(i * s * size), dst.add(i * size), size)),
            }
        }
    }
}

/// Inputs one after the other along an axis.
pub(crate) struct ConcatStep {
    pub size: usize,
    pub axis: usize,
    pub ins: Vec<ValueId>,
    pub y: ValueId,
}

impl Step for ConcatStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let y = f.view(self.y);
        let mut at = 0;
        for v in &self.ins {
            let x = f.view(*v);
            // SAFETY: the parts fill the target along `axis`.
            unsafe {
                let part = View { ptr: y.ptr.add(at * y.strides[self.axis] * self.size), shape: x.shape, strides: y.strides };
                copy(self.size, &x, &part, w);
            }
            at += x.shape[self.axis];
        }
    }
}

/// Table rows by index, widened to f32 where the table is a weight.
pub(crate) struct GatherStep {
    pub name: String,
    /// The layout of a table that is a weight.
    pub weight: Option<Matmul>,
    /// Types of the table and the result, where they differ and the table is no weight.
    pub cast: Option<(DType, DType)>,
    pub size: usize,
    pub table: ValueId,
    pub index: ValueId,
    pub y: ValueId,
}

impl Step for GatherStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (table, y) = (f.view(self.table), f.view(self.y));
        // SAFETY: indices are dense 4-byte integers, complete since an earlier phase.
        let index = unsafe { f.dense::<u32>(self.index) };
        let rows = table.shape[0];
        let width: usize = table.shape[1..].iter().product();
        for i in w.share(index.len()) {
            let mut row = index[i] as usize;
            if row >= rows {
                f.report(|| format!("{}: index {row} is outside the table of {rows} rows", self.name));
                row = 0;
            }
            // SAFETY: row `i` of the result is this thread's; `row` is inside the table.
            unsafe {
                match (&self.weight, self.cast) {
                    (Some(m), _) => {
                        let out = std::slice::from_raw_parts_mut(y.ptr.cast::<f32>().add(i * width), width);
                        f.matrices(self.table).row(m, row, out);
                    }
                    (None, Some((from, to))) => {
                        (0..width).for_each(|j| set(&y, to, i * width + j, number(&table, from, row * width + j)));
                    }
                    (None, None) => {
                        let bytes = width * self.size;
                        std::ptr::copy_nonoverlapping(table.ptr.add(row * bytes), y.ptr.add(i * bytes), bytes);
                    }
                }
            }
        }
    }
}

/// Writes a constant.
pub(crate) struct ConstantStep {
    pub op: Constant,
    pub y: ValueId,
}

impl Step for ConstantStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let y = f.view(self.y);
        for i in w.share(self.op.data.len()) {
            // SAFETY: element `i` is this thread's.
            unsafe { set(&y, self.op.dtype, i, self.op.data[i]) };
        }
    }
}

/// `0, 1, 2, …`
pub(crate) struct IotaStep {
    pub dtype: DType,
    pub y: ValueId,
}

impl Step for IotaStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let y = f.view(self.y);
        for i in w.share(y.shape[0]) {
            // SAFETY: element `i` is this thread's.
            unsafe { set(&y, self.dtype, i, i as f64) };
        }
    }
}

/// Per-token numbers of the segments: positions, or segment ids.
pub(crate) struct TokenStep {
    pub positions: bool,
    pub seg: ValueId,
    pub y: ValueId,
}

impl Step for TokenStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        if w.ith != 0 {
            return;
        }
        let y = f.ptr(self.y).cast::<u32>();
        for (i, (range, past, _)) in f.ragged(self.seg).segments.iter().enumerate() {
            for (k, t) in range.enumerate() {
                // SAFETY: the value has one element per token.
                unsafe { *y.add(t) = if self.positions { past + k } else { i } as u32 };
            }
        }
    }
}
