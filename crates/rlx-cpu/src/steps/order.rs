//! Along one axis: sorting, the largest elements, running sums.

use super::elementwise::{number, set};
use crate::frame::{Frame, MAX_RANK, Step, View, Walk};
use crate::team::Worker;
use rlx_ir::{DType, ValueId};
use std::cmp::Ordering;

/// Calls `f(first element of x, first element of y)` for this worker's share of the lines along
/// `axis`; x and y agree in all other dimensions.
fn lines(x: &View<'_>, y: &View<'_>, axis: usize, w: Worker, mut f: impl FnMut(usize, usize)) {
    let without = |v: &[usize]| {
        let mut out = [0; MAX_RANK];
        v.iter().enumerate().filter(|(i, _)| *i != axis).zip(&mut out).for_each(|((_, v), o)| *o = *v);
        out
    };
    let (shape, sx, sy) = (without(x.shape), without(x.strides), without(y.strides));
    let n = x.shape.len() - 1;
    let walk = Walk::new(&shape[..n], [(&shape[..n], &sx[..n]), (&shape[..n], &sy[..n])]);
    let row = walk.row();
    for i in w.share(walk.rows() * row) {
        let [a, b] = walk.offsets(i / row);
        f(a + i % row * walk.inner(0), b + i % row * walk.inner(1));
    }
}

/// Numbers in order, NaN last.
fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Sorts the last dimension, stable, with the indices.
pub(crate) struct SortStep {
    pub descending: bool,
    pub dtype: DType,
    pub x: ValueId,
    pub values: ValueId,
    pub indices: ValueId,
}

impl Step for SortStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y, at) = (f.view(self.x), f.view(self.values), f.ptr(self.indices).cast::<u32>());
        let (last, d) = (x.shape.len() - 1, self.dtype);
        let n = x.shape[last];
        lines(&x, &y, last, w, |from, to| {
            // SAFETY: lines of the last dimension are contiguous; this line of both results is this thread's.
            unsafe {
                let ix = std::slice::from_raw_parts_mut(at.add(to), n);
                ix.iter_mut().enumerate().for_each(|(i, v)| *v = i as u32);
                let key = |i: u32| number(&x, d, from + i as usize);
                // Ties go by index, which makes the sort in place a stable one.
                ix.sort_unstable_by(|a, b| {
                    let by = order(key(*a), key(*b));
                    if self.descending { by.reverse() } else { by }.then(a.cmp(b))
                });
                ix.iter().enumerate().for_each(|(i, a)| set(&y, d, to + i, key(*a)));
            }
        });
    }
}

/// Fills `out` with the positions of the largest of `n` keys, best first, the earlier first among
/// equals.  Meant for few: the worst case is `n · out.len()`.
pub(super) fn best(n: usize, key: impl Fn(usize) -> f64, by: impl Fn(f64, f64) -> Ordering, out: &mut [u32]) {
    let (k, mut len, mut worst) = (out.len(), 0, 0.0);
    for i in 0..n {
        let v = key(i);
        if len == k && (k == 0 || by(v, worst) != Ordering::Greater) {
            continue;
        }
        let mut at = len.min(k - 1);
        while at > 0 && by(v, key(out[at - 1] as usize)) == Ordering::Greater {
            out[at] = out[at - 1];
            at -= 1;
        }
        out[at] = i as u32;
        len = (len + 1).min(k);
        worst = key(out[len - 1] as usize);
    }
}

/// Largest `k` that [`TopKStep`] is made for; beyond that, sorting is better.
pub(crate) const MOST_BEST: usize = 64;

/// The k largest elements of the last dimension.
pub(crate) struct TopKStep {
    pub k: usize,
    pub dtype: DType,
    pub x: ValueId,
    pub values: ValueId,
    pub indices: ValueId,
}

impl Step for TopKStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y, at) = (f.view(self.x), f.view(self.values), f.ptr(self.indices).cast::<u32>());
        let (last, d) = (x.shape.len() - 1, self.dtype);
        let n = x.shape[last];
        lines(&x, &y, last, w, |from, to| {
            // SAFETY: as in `SortStep`.
            unsafe {
                let ix = std::slice::from_raw_parts_mut(at.add(to), self.k);
                match d {
                    DType::F32 => {
                        let x = std::slice::from_raw_parts(x.ptr.cast::<f32>().add(from), n);
                        best(n, |i| f64::from(x[i]), order, ix);
                    }
                    d => best(n, |i| number(&x, d, from + i), order, ix),
                }
                ix.iter().enumerate().for_each(|(i, a)| set(&y, d, to + i, number(&x, d, from + *a as usize)));
            }
        });
    }
}

/// Running sums along an axis.
pub(crate) struct CumsumStep {
    pub op: rlx_ir::ops::Cumsum,
    pub dtype: DType,
    pub x: ValueId,
    pub y: ValueId,
}

impl Step for CumsumStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y, axis) = (f.view(self.x), f.view(self.y), self.op.axis);
        let (n, sx, sy) = (x.shape[axis], x.strides[axis], y.strides[axis]);
        lines(&x, &y, axis, w, |from, to| {
            let mut sum = 0.0;
            for step in 0..n {
                let k = if self.op.reverse { n - 1 - step } else { step };
                // SAFETY: the line is inside both tensors; this line of the result is this thread's.
                unsafe {
                    let before = sum;
                    sum += number(&x, self.dtype, from + k * sx);
                    set(&y, self.dtype, to + k * sy, if self.op.exclusive { before } else { sum });
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_ties_keep_their_order() {
        let keys = [1.0, 5.0, f64::NAN, 5.0, -1.0, 7.0, 5.0];
        for k in 0..=keys.len() {
            let mut want: Vec<u32> = (0..keys.len() as u32).collect();
            want.sort_by(|a, b| order(keys[*b as usize], keys[*a as usize]));
            let mut out = vec![0; k];
            best(keys.len(), |i| keys[i], order, &mut out);
            assert_eq!(out, want[..k], "{k}");
        }
    }
}
