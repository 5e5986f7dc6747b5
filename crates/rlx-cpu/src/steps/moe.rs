//! Mixtures of experts: choosing them, and products with their matrices.

use super::index::index;
use super::norm::Wide;
use super::order::best;
use crate::frame::{Frame, Step};
use crate::matmul::{Matmul, Output};
use crate::team::Worker;
use rlx_ir::ops::Route;
use rlx_ir::ops::route::RouterScore;
use rlx_ir::{DType, NodeId, ValueId};
use smallvec::SmallVec;
use std::ops::Range;

/// The k experts of every token and their weights, from logits `[T,E]`.
pub(crate) struct RouteStep {
    pub op: Route,
    pub logits: ValueId,
    pub bias: Option<ValueId>,
    pub weights: ValueId,
    pub ids: ValueId,
}

fn softmax(v: &mut [f64]) {
    let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    v.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f64 = v.iter().sum();
    v.iter_mut().for_each(|x| *x /= sum);
}

impl RouteStep {
    /// Closes the experts of all but the best groups.
    fn close_groups(&self, choice: &mut [f64]) {
        let size = choice.len() / self.op.groups;
        let mut top: SmallVec<[u32; 16]> = SmallVec::from_elem(0, self.op.group_top);
        let mut worth: SmallVec<[f64; 64]> = SmallVec::new();
        for g in choice.chunks(size) {
            best(size, |i| g[i], |a, b| a.total_cmp(&b), &mut top);
            worth.push(top.iter().map(|i| g[*i as usize]).sum());
        }
        let mut kept: SmallVec<[u32; 64]> = SmallVec::from_elem(0, self.op.top_groups);
        best(worth.len(), |i| worth[i], |a, b| a.total_cmp(&b), &mut kept);
        let closed = choice.chunks_mut(size).enumerate().filter(|(i, _)| !kept.contains(&(*i as u32)));
        closed.for_each(|(_, g)| g.fill(f64::NEG_INFINITY));
    }
}

impl Step for RouteStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, k) = (f.view(self.logits), self.op.k);
        let (weights, ids) = (f.ptr(self.weights).cast::<f32>(), f.ptr(self.ids).cast::<u32>());
        let [tokens, experts] = x.shape[..] else { return };
        // SAFETY: the bias is dense and complete.
        let bias = self.bias.map(|b| unsafe { f.dense::<f32>(b) });
        let (mut scores, mut choice): (SmallVec<[f64; 512]>, SmallVec<[f64; 512]>) = Default::default();
        let mut chosen: SmallVec<[f64; 32]> = SmallVec::new();
        for t in w.share(tokens) {
            // SAFETY: rows are contiguous; row `t` of both results is this thread's.
            let (row, weights, ids) = unsafe {
                let row = std::slice::from_raw_parts(x.ptr.cast::<f32>().add(t * x.strides[0]), experts);
                (row, std::slice::from_raw_parts_mut(weights.add(t * k), k), std::slice::from_raw_parts_mut(ids.add(t * k), k))
            };
            scores.clear();
            scores.extend(row.iter().map(|v| f64::from(*v)));
            match self.op.score {
                RouterScore::Softmax => softmax(&mut scores),
                RouterScore::Sigmoid => scores.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp())),
                RouterScore::SoftmaxChosen => {}
            }
            choice.clear();
            choice.extend(scores.iter().enumerate().map(|(i, s)| s + bias.map_or(0.0, |b| f64::from(b[i]))));
            if self.op.groups > 1 {
                self.close_groups(&mut choice);
            }
            best(experts, |i| choice[i], |a, b| a.total_cmp(&b), ids);
            chosen.clear();
            chosen.extend(ids.iter().map(|i| scores[*i as usize]));
            if self.op.score == RouterScore::SoftmaxChosen {
                softmax(&mut chosen);
            }
            let sum = if self.op.normalise { chosen.iter().sum::<f64>().max(1e-20) } else { 1.0 };
            weights.iter_mut().zip(&chosen).for_each(|(w, v)| *w = (v / sum * self.op.scale) as f32);
        }
    }
}

/// `y[t,j] = x[t] · W[ids[t,j]]ᵀ (+ b[ids[t,j]])`.
///
/// Stage 0 sorts the choices by expert and brings their activations into the form of the kernel;
/// stage 1 multiplies each chosen expert's matrix with its rows.  Other experts are not read.
pub(crate) struct ExpertStep {
    pub node: NodeId,
    pub name: String,
    pub experts: usize,
    /// The layout of each expert's matrix.
    pub each: Matmul,
    pub x: ValueId,
    pub weight: ValueId,
    pub ids: (ValueId, DType),
    pub bias: Option<(ValueId, DType)>,
    pub y: ValueId,
}

/// What scratch memory holds, as byte offsets: R choices of E experts.
struct Room {
    /// u32 `[R]`: choices sorted by expert.
    order: usize,
    /// Activations of the sorted choices, in the kernel's form.
    rows: usize,
    /// f32 `[R,N]`: results of the sorted choices.
    out: usize,
    /// u32 `[threads][2][E+1]`: each thread's counters.
    counters: usize,
    /// `[threads]`: groups that are packed as they are multiplied.
    packed: usize,
}

/// Places, for `r` choices.
fn room(each: &Matmul, experts: usize, r: usize, threads: usize) -> Room {
    let order = 0;
    let rows = (order + 4 * r).next_multiple_of(64);
    let act = each.activation().bytes(r);
    let out = (rows + if act == 0 { 4 * r * each.k() } else { act }).next_multiple_of(64);
    let counters = (out + 4 * r * each.n()).next_multiple_of(64);
    Room { order, rows, out, counters, packed: (counters + threads * 8 * (experts + 1)).next_multiple_of(64) }
}

/// Bytes of scratch for `r` choices.
pub(crate) fn expert_scratch(each: &Matmul, experts: usize, r: usize, threads: usize) -> usize {
    room(each, experts, r, threads).packed + threads * each.room_bytes().next_multiple_of(64)
}

/// Work on an expert beside that on its rows, in rows: bringing its weights from memory.
const EXPERT_COST: usize = 4;

/// The groups of an expert that a thread computes: `cost` per group, the first at `from`, of which the
/// thread does those that begin in `mine`.
fn groups(mine: &Range<usize>, from: usize, cost: usize, count: usize) -> Range<usize> {
    let cut = |at: usize| at.saturating_sub(from).div_ceil(cost).min(count);
    cut(mine.start)..cut(mine.end)
}

impl ExpertStep {
    fn choice(&self, f: &Frame<'_>, i: usize) -> usize {
        // SAFETY: there is an id per choice.
        let e = unsafe { index(f.ptr(self.ids.0), self.ids.1, i) };
        if e >= self.experts {
            f.report(|| format!("{}: expert {e} is outside the {} experts", self.name, self.experts));
            return 0;
        }
        e
    }

    /// Stage 0.
    ///
    /// # Safety
    /// The scratch memory is that of [`expert_scratch`], the counters are this thread's.
    unsafe fn gather(&self, f: &Frame<'_>, scratch: *mut u8, room: &Room, counters: &mut [u32], r: usize, w: Worker) {
        let (starts, cursor) = counters.split_at_mut(self.experts + 1);
        starts.fill(0);
        (0..r).for_each(|i| starts[self.choice(f, i) + 1] += 1);
        for e in 0..self.experts {
            starts[e + 1] += starts[e];
        }
        cursor.copy_from_slice(starts);
        let (x, k, spec, mine) = (f.view(self.x), self.each.k(), self.each.activation(), w.share(r));
        let per_row = r / x.shape[0].max(1);
        for i in 0..r {
            let e = self.choice(f, i);
            let at = cursor[e] as usize;
            cursor[e] += 1;
            if !mine.contains(&at) {
                continue;
            }
            let row = if x.shape.len() == 3 { i } else { i / per_row };
            let first = starts[e] as usize;
            // SAFETY: place `at` of the order and of the rows is this thread's; x is dense.
            unsafe {
                *scratch.add(room.order).cast::<u32>().add(at) = i as u32;
                let from = x.ptr.cast::<f32>().add(row * k);
                if spec.bytes(1) == 0 {
                    std::ptr::copy_nonoverlapping(from, scratch.add(room.rows).cast::<f32>().add(at * k), k);
                } else {
                    let act = scratch.add(room.rows + spec.bytes(first));
                    spec.prepare_row(std::slice::from_raw_parts(from, k), at - first, (starts[e + 1] as usize) - first, act);
                }
            }
        }
    }

    /// Stage 1.
    ///
    /// # Safety
    /// Stage 0 is complete.
    unsafe fn multiply(&self, f: &Frame<'_>, scratch: *mut u8, room: &Room, starts: &[u32], r: usize, w: Worker) {
        let (mm, n, k) = (&self.each, self.each.n(), self.each.k());
        let (y, weight, spec) = (f.ptr(self.y).cast::<f32>(), f.matrices(self.weight), mm.activation());
        let bias = self.bias.map(|(v, d)| Wide::new(f, v, d));
        let size = mm.room_bytes();
        // SAFETY: scratch memory has room for each thread.
        let packed = unsafe { std::slice::from_raw_parts_mut(scratch.add(room.packed + w.ith * size.next_multiple_of(64)), size) };
        // SAFETY: stage 0 filled the order.
        let order = unsafe { std::slice::from_raw_parts(scratch.add(room.order).cast::<u32>(), r) };
        let chosen = || starts.windows(2).enumerate().filter(|(_, s)| s[1] > s[0]).map(|(e, s)| (e, s[0] as usize..s[1] as usize));
        let cost = |rows: &Range<usize>| rows.len() + EXPERT_COST;
        let mine = w.share(chosen().map(|(_, rows)| cost(&rows) * mm.n_groups()).sum());
        let mut from = 0;
        for (e, rows) in chosen() {
            let (m, cost) = (rows.len(), cost(&rows));
            let groups = groups(&mine, from, cost, mm.n_groups());
            from += cost * mm.n_groups();
            if groups.is_empty() {
                continue;
            }
            let cols = groups.start * mm.group_rows()..(groups.end * mm.group_rows()).min(n);
            // SAFETY: the matrix is complete; these columns of these rows are this thread's.
            unsafe {
                let (x, act): (&[f32], &[u8]) = match spec.bytes(1) {
                    0 => (std::slice::from_raw_parts(scratch.add(room.rows).cast::<f32>().add(rows.start * k), m * k), &[]),
                    bytes => (&[], std::slice::from_raw_parts(scratch.add(room.rows + rows.start * bytes), m * bytes)),
                };
                // A single row goes straight to its place.
                let out =
                    if m == 1 { y.add(order[rows.start] as usize * n) } else { scratch.add(room.out).cast::<f32>().add(rows.start * n) };
                weight.multiply(mm, e, x, act, m, groups, Output { ptr: out, stride: n, col: 0 }, packed);
                for (i, at) in order[rows].iter().enumerate() {
                    let to = std::slice::from_raw_parts_mut(y.add(*at as usize * n + cols.start), cols.len());
                    if m > 1 {
                        std::ptr::copy_nonoverlapping(out.add(i * n + cols.start), to.as_mut_ptr(), cols.len());
                    }
                    if let Some(b) = bias {
                        to.iter_mut().enumerate().for_each(|(j, v)| *v += b.one(e * n + cols.start + j));
                    }
                }
            }
        }
    }
}

impl Step for ExpertStep {
    fn stages(&self, _: &Frame<'_>) -> usize {
        2
    }

    fn run(&self, f: &Frame<'_>, stage: usize, w: Worker) {
        let r: usize = f.slot(self.ids.0).shape.iter().product();
        let (scratch, len) = f.scratch(self.node.index());
        let room = room(&self.each, self.experts, r, w.nth);
        debug_assert!(expert_scratch(&self.each, self.experts, r, w.nth) <= len);
        if r == 0 {
            return;
        }
        let n = 2 * (self.experts + 1);
        // SAFETY: scratch memory has counters for every thread, and these are this thread's in both stages.
        unsafe {
            let counters = std::slice::from_raw_parts_mut(scratch.add(room.counters).cast::<u32>().add(w.ith * n), n);
            match stage {
                0 => self.gather(f, scratch, &room, counters, r, w),
                _ => self.multiply(f, scratch, &room, &counters[..=self.experts], r, w),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_divide_the_groups_of_all_experts() {
        for nth in 1..7 {
            let experts = [(5usize, 3usize), (11, 3), (4, 3)]; // cost, groups
            let total: usize = experts.iter().map(|(c, n)| c * n).sum();
            let mut from = 0;
            for (cost, n) in experts {
                let parts: Vec<_> = (0..nth).flat_map(|ith| groups(&Worker { ith, nth }.share(total), from, cost, n)).collect();
                assert_eq!(parts, (0..n).collect::<Vec<_>>(), "{nth} threads");
                from += cost * n;
            }
        }
    }
}
