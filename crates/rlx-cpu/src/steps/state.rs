//! Recurrent states in their slots, and the short convolution that keeps one.

use super::norm::Wide;
use crate::frame::{Frame, Step};
use crate::simd::{Kernel, Level, Simd, dispatch};
use crate::team::Worker;
use rlx_ir::{DType, ValueId};
use smallvec::SmallVec;

/// Copies states between their slots and a dense `[S, r…]`.
pub(crate) struct StateStep {
    pub name: String,
    /// From the slots (reading) or into them.
    pub read: bool,
    /// Bytes per element.
    pub size: usize,
    pub state: ValueId,
    pub seg: ValueId,
    /// The dense side.
    pub value: ValueId,
}

impl Step for StateStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (dense, slots) = (f.view(self.value), f.ptr(self.state));
        let width = dense.shape[1..].iter().product::<usize>() * self.size;
        let mine = w.share(width);
        for (i, (_, past, slot)) in f.ragged(self.seg).segments.iter().enumerate() {
            let slot = slot as usize;
            if slot >= f.pool.slots {
                f.report(|| format!("{}: slot {slot} of {}", self.name, f.pool.slots));
                continue;
            }
            // SAFETY: the state holds `slots` rows of this width; threads move disjoint parts of each row.
            unsafe {
                let (row, held) = (dense.ptr.add(i * width + mine.start), slots.add(slot * width + mine.start));
                match (self.read, past) {
                    (true, 0) => std::ptr::write_bytes(row, 0, mine.len()),
                    (true, _) => std::ptr::copy_nonoverlapping(held, row, mine.len()),
                    (false, _) => std::ptr::copy_nonoverlapping(row, held, mine.len()),
                }
            }
        }
    }
}

/// Causal convolution of `[T,C]` along each sequence, the rows before it in a state `[S,C,k−1]`.
pub(crate) struct ShortConvStep {
    pub level: Level,
    pub x: ValueId,
    pub weight: (ValueId, DType),
    pub seg: ValueId,
    pub state: ValueId,
    pub bias: Option<(ValueId, DType)>,
    pub y: ValueId,
    /// The state afterwards.
    pub last: ValueId,
}

/// Channels done at once.
const CHANNELS: usize = 64;

/// One segment's tokens on up to [`CHANNELS`] channels.
struct Taps<'a> {
    /// `[k][CHANNELS]`, for these channels.
    weight: &'a [f32],
    /// `[k-1][CHANNELS]`: the rows before the first.
    before: &'a [f32],
    bias: &'a [f32; CHANNELS],
    /// First channel of the first token, and floats between tokens.
    x: (*const f32, usize),
    y: (*mut f32, usize),
    tokens: usize,
    channels: usize,
}

impl Kernel for Taps<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let k = self.weight.len() / CHANNELS;
        for t in 0..self.tokens {
            let mut sum = *self.bias;
            for (j, w) in self.weight.chunks_exact(CHANNELS).enumerate() {
                // SAFETY: row `t + j - (k - 1)` of the sequence is before it or inside it.
                let row = unsafe {
                    match (t + j).checked_sub(k - 1) {
                        Some(at) => self.x.0.add(at * self.x.1),
                        None => self.before.as_ptr().add((t + j) * CHANNELS),
                    }
                };
                // SAFETY: these channels exist in the row.
                (0..self.channels).for_each(|c| sum[c] += w[c] * unsafe { *row.add(c) });
            }
            // SAFETY: these channels of the result are this thread's.
            unsafe { std::ptr::copy_nonoverlapping(sum.as_ptr(), self.y.0.add(t * self.y.1), self.channels) };
        }
    }
}

impl Step for ShortConvStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, state) = (f.view(self.x), f.ptr(self.state).cast::<f32>());
        let (y, last) = (f.ptr(self.y).cast::<f32>(), f.ptr(self.last).cast::<f32>());
        let [c, k] = f.slot(self.weight.0).shape[..] else { return };
        let weight = Wide::new(f, self.weight.0, self.weight.1);
        let bias = self.bias.map(|(v, d)| Wide::new(f, v, d));
        let (mut taps, mut before): (SmallVec<[f32; 4 * CHANNELS]>, SmallVec<[f32; 4 * CHANNELS]>) = Default::default();
        taps.resize(k * CHANNELS, 0.0);
        before.resize((k - 1) * CHANNELS, 0.0);
        for first in w.share(c.div_ceil(CHANNELS)).map(|i| i * CHANNELS) {
            let n = CHANNELS.min(c - first);
            let mut start = [0f32; CHANNELS];
            // SAFETY: channels `first .. first + n` exist in all operands, and in the results are this thread's.
            unsafe {
                for i in 0..n {
                    (0..k).for_each(|j| taps[j * CHANNELS + i] = weight.one((first + i) * k + j));
                    start[i] = bias.map_or(0.0, |b| b.one(first + i));
                }
                for (s, (range, ..)) in f.ragged(self.seg).segments.iter().enumerate() {
                    let held = (s * c + first) * (k - 1);
                    for (i, j) in (0..n).flat_map(|i| (0..k - 1).map(move |j| (i, j))) {
                        before[j * CHANNELS + i] = *state.add(held + i * (k - 1) + j);
                    }
                    let from = x.ptr.cast::<f32>().add(range.start * x.strides[0] + first);
                    let kernel = Taps {
                        weight: &taps,
                        before: &before,
                        bias: &start,
                        x: (from, x.strides[0]),
                        y: (y.add(range.start * c + first), c),
                        tokens: range.len(),
                        channels: n,
                    };
                    dispatch(self.level, kernel);
                    for (i, j) in (0..n).flat_map(|i| (0..k - 1).map(move |j| (i, j))) {
                        *last.add(held + i * (k - 1) + j) = match (range.len() + j).checked_sub(k - 1) {
                            Some(at) => *from.add(at * x.strides[0] + i),
                            None => before[(range.len() + j) * CHANNELS + i],
                        };
                    }
                }
            }
        }
    }
}
