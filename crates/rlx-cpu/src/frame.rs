//! What a step sees while it runs: addresses of values, the segments, the thread.

use crate::team::Worker;
use crate::weights::{CpuWeights, Held, Matrices};
use rlx_compile::{Arg, Layout, Plan, Pool, Ragged, Root, Slot};
use rlx_ir::ValueId;
use std::sync::Mutex;

/// One run of a program.
pub(crate) struct Frame<'a> {
    pub plan: &'a Plan,
    pub layout: &'a Layout,
    pub arena: *mut u8,
    pub args: &'a [Arg<'a>],
    pub weights: &'a CpuWeights,
    /// Which of the weights each parameter is.
    pub params: &'a [usize],
    /// First byte of each state.
    pub states: &'a [*mut u8],
    pub pool: Pool,
    pub dims: &'a rlx_ir::Bindings,
    /// The first mistake in input values (an index out of range).
    pub mistake: &'a Mutex<Option<String>>,
}

// SAFETY: the raw pointers are to memory that outlives the frame; steps write disjoint parts of it
// within a phase, and the barrier between phases orders the rest.
unsafe impl Sync for Frame<'_> {}

/// A strided tensor of 4-byte (or other) elements: address, sizes, element strides.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub ptr: *mut u8,
    pub shape: &'a [usize],
    pub strides: &'a [usize],
}

impl<'a> Frame<'a> {
    pub fn slot(&self, v: ValueId) -> &'a Slot {
        &self.layout.values[v.index()]
    }

    pub fn ptr(&self, v: ValueId) -> *mut u8 {
        let offset = self.slot(v).offset;
        let base = match self.plan.places[v.index()].as_ref().map(|p| p.root) {
            Some(Root::Arena) => self.arena,
            Some(Root::Input(i)) => match self.args[i as usize] {
                Arg::Tensor(b) => b.as_ptr().cast_mut(),
                Arg::Segments(_) => std::ptr::null_mut(),
            },
            Some(Root::Param(i)) => self.held(i).ptr().cast_mut(),
            Some(Root::State(i)) => self.states[i as usize],
            None => std::ptr::null_mut(),
        };
        base.wrapping_add(offset)
    }

    fn held(&self, param: u32) -> &'a Held {
        &self.weights.params[self.params[param as usize]].1
    }

    /// A weight, or activations, as matrices.
    pub fn matrices(&self, v: ValueId) -> Matrices<'a> {
        let unpacked = match self.plan.places[v.index()].as_ref().map(|p| p.root) {
            Some(Root::Param(i)) => self.held(i).unpacked(),
            _ => None,
        };
        Matrices { ptr: self.ptr(v), unpacked }
    }

    pub fn view(&self, v: ValueId) -> View<'a> {
        let s = self.slot(v);
        View { ptr: self.ptr(v), shape: &s.shape, strides: &s.strides }
    }

    /// A dense value as a slice.
    ///
    /// # Safety
    /// The value has elements of type `T`, is dense, complete, and written by nobody meanwhile.
    pub unsafe fn dense<T>(&self, v: ValueId) -> &'a [T] {
        let n = self.slot(v).shape.iter().product();
        // SAFETY: the caller's promise; the layout gives the size.
        unsafe { std::slice::from_raw_parts(self.ptr(v).cast::<T>(), n) }
    }

    /// Scratch memory of node `n`.
    pub fn scratch(&self, n: usize) -> (*mut u8, usize) {
        let (offset, len) = self.layout.scratch[n];
        (self.arena.wrapping_add(offset), len)
    }

    pub fn ragged(&self, v: ValueId) -> Ragged<'a> {
        match self.plan.places[v.index()] {
            None => {}
            Some(_) => unreachable!("segments have no place"),
        }
        let input = self.plan.graph.inputs.iter().position(|i| i.1 == v).expect("segments are an input");
        match self.args[input] {
            Arg::Segments(r) => r,
            Arg::Tensor(_) => unreachable!("arguments are checked"),
        }
    }

    /// A symbolic dimension; all of them were evaluated when the layout was made, so this cannot fail.
    pub fn dim(&self, d: &rlx_ir::Dim) -> usize {
        d.eval(self.dims).expect("the layout has these dimensions")
    }

    /// Reports a mistake in the values; the first one is kept.
    pub fn report(&self, why: impl FnOnce() -> String) {
        let mut m = self.mistake.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        m.get_or_insert_with(why);
    }
}

/// A step of a program: one node, in one or more stages with a barrier between them.
pub(crate) trait Step: Send + Sync {
    /// Number of stages, the same in all threads.
    fn stages(&self, _: &Frame<'_>) -> usize {
        1
    }
    /// Does this thread's share of a stage.
    fn run(&self, f: &Frame<'_>, stage: usize, w: Worker);
}

/// Most dimensions any kernel handles.
pub(crate) const MAX_RANK: usize = 8;

/// An iteration space over several strided operands, with neighbouring dimensions merged where all
/// operands allow it.  The last dimension is the row that kernels run along.
pub(crate) struct Walk<const N: usize> {
    rank: usize,
    shape: [usize; MAX_RANK],
    strides: [[usize; MAX_RANK]; N],
}

impl<const N: usize> Walk<N> {
    /// `shape` is the space; operands broadcast to it, right-aligned.
    pub fn new(shape: &[usize], operands: [(&[usize], &[usize]); N]) -> Walk<N> {
        let mut w = Walk { rank: 0, shape: [1; MAX_RANK], strides: [[0; MAX_RANK]; N] };
        // From the innermost dimension outwards; index 0 of the arrays is the innermost.
        for i in (0..shape.len()).rev().filter(|i| shape[*i] != 1) {
            let mut at = [0; N];
            for (k, (s, st)) in operands.iter().enumerate() {
                let own = (i + s.len()).checked_sub(shape.len());
                at[k] = own.map_or(0, |j| if s[j] == 1 { 0 } else { st[j] });
            }
            let r = w.rank;
            let merges = r > 0 && (0..N).all(|k| at[k] == w.strides[k][r - 1] * w.shape[r - 1]);
            if merges {
                w.shape[r - 1] *= shape[i];
            } else {
                w.shape[r] = shape[i];
                (0..N).for_each(|k| w.strides[k][r] = at[k]);
                w.rank += 1;
            }
        }
        if shape.contains(&0) {
            w.shape[0] = 0;
            w.rank = w.rank.max(1);
        }
        w
    }

    /// Elements of a row.
    pub fn row(&self) -> usize {
        self.shape[0]
    }

    /// Stride of operand `k` along a row.
    pub fn inner(&self, k: usize) -> usize {
        self.strides[k][0]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Element offset of each operand at row `r`.
    pub fn offsets(&self, mut r: usize) -> [usize; N] {
        let mut at = [0; N];
        for d in 1..self.rank.max(1) {
            let i = r % self.shape[d];
            r /= self.shape[d];
            (0..N).for_each(|k| at[k] += i * self.strides[k][d]);
        }
        at
    }

    /// Calls `f(offsets, len)` for this worker's share: whole rows, or pieces of one row when there
    /// are fewer rows than threads.
    pub fn share(&self, w: Worker, mut f: impl FnMut([usize; N], usize)) {
        let (rows, row) = (self.rows(), self.row());
        if rows >= w.nth {
            w.share(rows).for_each(|r| f(self.offsets(r), row));
            return;
        }
        for r in 0..rows {
            let mut at = self.offsets(r);
            // Cut at multiples of 16 elements, so that threads do not share cache lines.
            let cut = |i: usize| (row * i / w.nth).next_multiple_of(16).min(row);
            let piece = if w.ith + 1 == w.nth { cut(w.ith)..row } else { cut(w.ith)..cut(w.ith + 1) };
            if !piece.is_empty() {
                (0..N).for_each(|k| at[k] += piece.start * self.inner(k));
                f(at, piece.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_visit_every_element_once_and_merge_what_they_can() {
        let w = Walk::new(&[2, 3, 4], [(&[2, 3, 4], &[12, 4, 1]), (&[3, 1], &[1, 1])]);
        assert_eq!((w.rows(), w.row()), (6, 4));
        let w = Walk::new(&[2, 3, 4], [(&[2, 3, 4], &[12, 4, 1]), (&[2, 3, 4], &[12, 4, 1])]);
        assert_eq!((w.rows(), w.row()), (1, 24));
        for nth in 1..4 {
            let mut seen = [0; 24];
            (0..nth).for_each(|ith| w.share(Worker { ith, nth }, |at, n| seen[at[0]..at[0] + n].iter_mut().for_each(|s| *s += 1)));
            assert!(seen.iter().all(|s| *s == 1));
        }
        let w = Walk::new(&[5, 7], [(&[5, 7], &[9, 1])]);
        assert_eq!((0..5).map(|r| w.offsets(r)[0]).collect::<Vec<_>>(), [0, 9, 18, 27, 36]);
    }
}
