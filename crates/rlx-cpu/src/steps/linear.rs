//! Products with weights, and batched products of activations.

use super::elementwise::unary;
use crate::frame::{Frame, Step};
use crate::matmul::{ActSpec, Matmul, Mode, Output, WeightType};
use crate::simd::Level;
use crate::team::{Claims, Worker};
use rlx_ir::ops::UnaryOp;
use rlx_ir::{NodeId, ValueId};
use smallvec::SmallVec;

/// `act(x · [W₀; W₁; …]ᵀ + b) + r`.  Stage 0 prepares the activations, stage 1 multiplies.
pub(crate) struct LinearStep {
    pub node: NodeId,
    pub level: Level,
    pub x: ValueId,
    pub weights: SmallVec<[(ValueId, Matmul); 3]>,
    pub bias: Option<ValueId>,
    pub act: Option<UnaryOp>,
    pub residual: Option<ValueId>,
    pub y: ValueId,
    pub claims: Claims,
}

/// Rows of a weight that a thread takes on at a time, at the least: whole panels and groups of every instruction set.
const CLAIM: usize = 32;

/// The distinct forms of `m` rows of activations these weights read, in order of first use.
fn forms<'a>(weights: impl Iterator<Item = &'a Matmul>, m: usize) -> SmallVec<[ActSpec; 5]> {
    let mut out: SmallVec<[ActSpec; 5]> = SmallVec::new();
    for spec in weights.map(|w| w.activation_of(m)).filter(|s| s.bytes(m) > 0) {
        if !out.contains(&spec) {
            out.push(spec);
        }
    }
    out
}

/// Where each form starts in the scratch memory, and the total: 64-byte aligned.
fn places(forms: &[ActSpec], m: usize) -> (SmallVec<[usize; 5]>, usize) {
    let mut at = 0;
    let starts = forms
        .iter()
        .map(|s| {
            let start = at;
            at += s.bytes(m).next_multiple_of(64);
            start
        })
        .collect();
    (starts, at)
}

/// Bytes of each thread's room for groups that are packed as they are multiplied.
fn room<'a>(weights: impl Iterator<Item = &'a Matmul>) -> usize {
    weights.map(Matmul::room_bytes).max().unwrap_or(0).next_multiple_of(64)
}

/// Scratch bytes for `m` rows: the forms, then the threads' rooms.
pub(crate) fn scratch<'a>(weights: impl Iterator<Item = &'a Matmul> + Clone, m: usize, threads: usize) -> usize {
    places(&forms(weights.clone(), m), m).1 + threads * room(weights)
}

impl LinearStep {
    fn rows(&self, f: &Frame<'_>) -> usize {
        let shape = &f.slot(self.x).shape;
        shape[..shape.len() - 1].iter().product()
    }
}

impl Step for LinearStep {
    fn stages(&self, f: &Frame<'_>) -> usize {
        if forms(self.weights.iter().map(|w| &w.1), self.rows(f)).is_empty() { 1 } else { 2 }
    }

    fn run(&self, f: &Frame<'_>, stage: usize, w: Worker) {
        let m = self.rows(f);
        let forms = forms(self.weights.iter().map(|w| &w.1), m);
        let (starts, total) = places(&forms, m);
        let (scratch, len) = f.scratch(self.node.index());
        let room = room(self.weights.iter().map(|w| &w.1));
        debug_assert!(total + w.nth * room <= len);
        // SAFETY: x is dense and complete since an earlier phase.
        let x = unsafe { f.dense::<f32>(self.x) };
        if stage == 0 && !forms.is_empty() {
            for (spec, at) in forms.iter().zip(&starts) {
                // SAFETY: the scratch memory holds every form; threads write their own shares.
                unsafe { spec.prepare(x, m, scratch.add(*at), w.ith, w.nth) };
            }
            return;
        }
        // SAFETY: scratch memory has a room for each thread.
        let room = unsafe { std::slice::from_raw_parts_mut(scratch.add(total + w.ith * room), room) };
        let y = f.ptr(self.y).cast::<f32>();
        let stride: usize = self.weights.iter().map(|w| w.1.n()).sum();
        let units = |mm: &Matmul| mm.n().div_ceil(CLAIM);
        for mine in self.claims.share(w, self.weights.iter().map(|w| units(&w.1)).sum()) {
            let (mut first, mut col) = (0, 0);
            for (v, mm) in &self.weights {
                let here = mine.start.max(first)..mine.end.min(first + units(mm));
                if !here.is_empty() {
                    let rows = (here.start - first) * CLAIM..((here.end - first) * CLAIM).min(mm.n());
                    let groups = rows.start / mm.group_rows()..rows.end.div_ceil(mm.group_rows());
                    let spec = mm.activation_of(m);
                    let act: &[u8] = match forms.iter().position(|s| *s == spec) {
                        // SAFETY: stage 0 filled it, and nobody writes it in this stage.
                        Some(i) => unsafe { std::slice::from_raw_parts(scratch.add(starts[i]), spec.bytes(m)) },
                        None => &[],
                    };
                    // SAFETY: weights are complete; these output columns belong to this thread alone.
                    unsafe {
                        f.matrices(*v).multiply(mm, 0, x, act, m, groups, Output { ptr: y, stride, col }, room);
                        self.epilogue(f, y, stride, col + rows.start..col + rows.end, m);
                    }
                }
                first += units(mm);
                col += mm.n();
            }
        }
    }
}

impl LinearStep {
    /// Bias, activation and residual on columns `cols` of all rows.
    ///
    /// # Safety
    /// The columns belong to this thread.
    unsafe fn epilogue(&self, f: &Frame<'_>, y: *mut f32, stride: usize, cols: std::ops::Range<usize>, m: usize) {
        if cols.is_empty() || self.bias.is_none() && self.act.is_none() && self.residual.is_none() {
            return;
        }
        // SAFETY: bias and residual are dense, complete, and of the result's columns.
        unsafe {
            let bias = self.bias.map(|b| &f.dense::<f32>(b)[cols.clone()]);
            let residual = self.residual.map(|r| f.dense::<f32>(r));
            for row in 0..m {
                let at = row * stride + cols.start;
                let out = std::slice::from_raw_parts_mut(y.add(at), cols.len());
                if let Some(b) = bias {
                    out.iter_mut().zip(b).for_each(|(o, b)| *o += b);
                }
                if let Some(op) = self.act {
                    unary(self.level, op, out);
                }
                if let Some(r) = residual {
                    out.iter_mut().zip(&r[at..]).for_each(|(o, r)| *o += r);
                }
            }
        }
    }
}

/// `a · b` over batches.  Stage 0 transposes b into scratch memory, stage 1 multiplies.
pub(crate) struct MatmulStep {
    pub node: NodeId,
    pub level: Level,
    pub a: ValueId,
    pub b: ValueId,
    pub y: ValueId,
}

impl Step for MatmulStep {
    fn stages(&self, _: &Frame<'_>) -> usize {
        2
    }

    fn run(&self, f: &Frame<'_>, stage: usize, w: Worker) {
        let (a, b, y) = (f.view(self.a), f.view(self.b), f.view(self.y));
        let (la, lb) = (a.shape.len() - 2, b.shape.len() - 2);
        let (m, k, n) = (a.shape[la], a.shape[la + 1], b.shape[lb + 1]);
        if m == 0 || k == 0 || n == 0 {
            return;
        }
        let bt = f.scratch(self.node.index()).0.cast::<f32>();
        let lead_b: usize = b.shape[..lb].iter().product();
        if stage == 0 {
            let src = b.ptr.cast::<f32>();
            for r in w.share(lead_b * n) {
                let (batch, col) = (r / n, r % n);
                for i in 0..k {
                    // SAFETY: b is dense `[batch,K,N]`; row `r` of the transposed copy is this thread's.
                    unsafe { *bt.add(r * k + i) = *src.add((batch * k + i) * n + col) };
                }
            }
            return;
        }
        let lead = &y.shape[..y.shape.len() - 2];
        let batches: usize = lead.iter().product();
        let mm = Matmul::new(WeightType::F32, Mode::Exact, self.level, n, k);
        // Batch number of an operand whose leading dimensions broadcast.
        let batch = |shape: &[usize], i: usize| {
            let (mut rest, mut at, mut step) = (i, 0, 1);
            for d in (0..lead.len()).rev() {
                let ix = rest % lead[d];
                rest /= lead[d];
                if let Some(j) = (d + shape.len()).checked_sub(lead.len()) {
                    at += if shape[j] == 1 { 0 } else { ix * step };
                    step *= shape[j];
                }
            }
            at
        };
        let whole = batches >= w.nth;
        let mine = if whole { w.share(batches) } else { 0..batches };
        for i in mine {
            let groups = if whole { 0..mm.n_groups() } else { mm.share(w.ith, w.nth) };
            // SAFETY: the operands are dense and complete; these output columns are this thread's.
            unsafe {
                let x = std::slice::from_raw_parts(a.ptr.cast::<f32>().add(batch(&a.shape[..la], i) * m * k), m * k);
                let wt = std::slice::from_raw_parts(bt.add(batch(&b.shape[..lb], i) * n * k).cast::<u8>(), n * k * 4);
                let out = Output { ptr: y.ptr.cast::<f32>().add(i * m * n), stride: n, col: 0 };
                mm.run(wt, x, &[], m, groups, out);
            }
        }
    }
}
