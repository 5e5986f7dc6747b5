//! Resampling, one axis after the other.

use crate::frame::{Frame, Step};
use crate::simd::{Kernel, Level, Simd, dispatch};
use crate::team::Worker;
use rlx_ir::ops::Resize;
use rlx_ir::{NodeId, ValueId};
use std::sync::{Arc, Mutex, PoisonError};

/// The input elements of every output element of an axis, and their weights.
struct Taps {
    from: usize,
    to: usize,
    /// `[to + 1]`
    starts: Vec<usize>,
    taps: Vec<(usize, f32)>,
}

impl Taps {
    fn new(op: &Resize, axis: usize, from: usize, to: usize) -> Taps {
        let (mut starts, mut taps) = (vec![0], vec![]);
        for row in op.taps(axis, from, to) {
            taps.extend(row.into_iter().map(|(j, w)| (j, w as f32)));
            starts.push(taps.len());
        }
        Taps { from, to, starts, taps }
    }

    fn at(&self, i: usize) -> &[(usize, f32)] {
        &self.taps[self.starts[i]..self.starts[i + 1]]
    }
}

/// Resampling of the last dimensions; stage `i` does the `i`th of them.
pub(crate) struct ResizeStep {
    node: NodeId,
    level: Level,
    op: Resize,
    x: ValueId,
    y: ValueId,
    /// Tables of the sizes seen last, per axis.
    tables: Mutex<Vec<Option<Arc<Taps>>>>,
}

/// Floats of the tensor after axis `axis` of the resized ones is done.
fn after(op: &Resize, x: &[usize], y: &[usize], axis: usize) -> usize {
    let first = x.len() - op.size.len();
    y[..=first + axis].iter().chain(&x[first + axis + 1..]).product()
}

/// Bytes of what lies between the stages.
pub(crate) fn resize_scratch(op: &Resize, x: &[usize], y: &[usize]) -> usize {
    (0..op.size.len() - 1).map(|i| 4 * after(op, x, y, i)).sum()
}

/// One row of the result: a weighted sum of rows.
struct Mix<'a> {
    taps: &'a [(usize, f32)],
    from: *const f32,
    y: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let n = self.y.len();
        for (k, (j, w)) in self.taps.iter().enumerate() {
            // SAFETY: row `j` of the input exists.
            let row = unsafe { std::slice::from_raw_parts(self.from.add(j * n), n) };
            if k == 0 {
                self.y.iter_mut().zip(row).for_each(|(y, x)| *y = w * x);
            } else {
                self.y.iter_mut().zip(row).for_each(|(y, x)| *y += w * x);
            }
        }
    }
}

impl ResizeStep {
    pub fn new(node: NodeId, level: Level, op: &Resize, x: ValueId, y: ValueId) -> ResizeStep {
        ResizeStep { node, level, x, y, tables: Mutex::new(vec![None; op.size.len()]), op: op.clone() }
    }

    fn table(&self, axis: usize, from: usize, to: usize) -> Arc<Taps> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let held = tables[axis].as_ref().filter(|t| t.from == from && t.to == to).map(Arc::clone);
        held.unwrap_or_else(|| {
            let new = Arc::new(Taps::new(&self.op, axis, from, to));
            tables[axis] = Some(Arc::clone(&new));
            new
        })
    }
}

impl Step for ResizeStep {
    fn stages(&self, _: &Frame<'_>) -> usize {
        self.op.size.len()
    }

    fn run(&self, f: &Frame<'_>, stage: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.view(self.y));
        let first = x.shape.len() - self.op.size.len();
        let axis = first + stage;
        let (from, to) = (x.shape[axis], y.shape[axis]);
        if y.shape.contains(&0) {
            return;
        }
        if from == 0 {
            f.report(|| format!("resize: axis {axis} goes from 0 to {to} elements, expected at least 1"));
            return;
        }
        let scratch = f.scratch(self.node.index()).0.cast::<f32>();
        let place = |i: usize| (0..i).map(|i| after(&self.op, x.shape, y.shape, i)).sum::<usize>();
        // SAFETY: scratch memory has room for all tensors between the stages.
        let (src, dst) = unsafe {
            let src = if stage == 0 { x.ptr.cast::<f32>() } else { scratch.add(place(stage - 1)) };
            (src, if stage + 1 == self.stages(f) { y.ptr.cast::<f32>() } else { scratch.add(place(stage)) })
        };
        let (outer, inner) = (y.shape[..axis].iter().product::<usize>(), x.shape[axis + 1..].iter().product::<usize>());
        let table = self.table(stage, from, to);
        for row in w.share(outer * to) {
            let taps = table.at(row % to);
            // SAFETY: the block exists since an earlier stage; row `row` of the result is this thread's.
            unsafe {
                let block = src.add(row / to * from * inner).cast_const();
                let out = dst.add(row * inner);
                if inner == 1 {
                    *out = taps.iter().map(|(j, w)| w * *block.add(*j)).sum();
                } else {
                    dispatch(self.level, Mix { taps, from: block, y: std::slice::from_raw_parts_mut(out, inner) });
                }
            }
        }
    }
}
