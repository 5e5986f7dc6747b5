//! Recurrences over ragged sequences: selective state-space scan and gated delta rule.
//!
//! Token by token; threads divide the rows (or columns) of each segment's state, which never mix.

use super::norm::Wide;
use crate::frame::{Frame, Step, View};
use crate::simd::{Kernel, Level, Simd, dispatch, exp};
use crate::team::Worker;
use rlx_ir::{DType, ValueId};
use smallvec::SmallVec;
use std::ops::Range;

/// Room for a row of a state, padded to whole vectors.
type Buffer = SmallVec<[f32; 256]>;

/// Length padded to whole vectors of any instruction set.
fn padded(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// `y = e^(x·factor)`, both padded to whole vectors.
#[inline(always)]
fn exp_all<S: Simd>(s: S, x: &[f32], factor: f32, y: &mut [f32]) {
    let n = x.len().min(y.len()) / S::LANES * S::LANES;
    for i in (0..n).step_by(S::LANES) {
        // SAFETY: indices stay below both lengths.
        unsafe { s.store(y.as_mut_ptr().add(i), exp(s, s.mul(s.load(x.as_ptr().add(i)), s.splat(factor)))) };
    }
}

/// `h ← exp(dt·A)·h + dt·x⊗B`, `y = h·C (+ D·x)`.
pub(crate) struct SelectiveScanStep {
    pub level: Level,
    pub x: ValueId,
    pub dt: ValueId,
    pub a: ValueId,
    pub b: ValueId,
    pub c: ValueId,
    pub seg: ValueId,
    pub state: ValueId,
    pub skip: Option<(ValueId, DType)>,
    pub y: ValueId,
    pub last: ValueId,
}

/// Some channels of one head over the tokens of a segment.
struct Channels<'a> {
    tokens: Range<usize>,
    /// `A` of this head: one number, or one per state and padded.
    a: &'a [f32],
    decay: &'a mut [f32],
    /// First element of token 0, and floats between tokens.
    x: (*const f32, usize),
    dt: (*const f32, usize),
    b: (*const f32, usize),
    c: (*const f32, usize),
    d: f32,
    y: (*mut f32, usize),
    /// `[channels][n]`.
    h: *mut f32,
    channels: usize,
    n: usize,
}

impl Kernel for Channels<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for t in self.tokens.clone() {
            // SAFETY: the token is inside all operands.
            let dt = unsafe { *self.dt.0.add(t * self.dt.1) };
            if let [a] = self.a {
                let decay = (dt * a).exp();
                self.token::<S, false>(s, t, dt, decay);
            } else {
                exp_all(s, self.a, dt, self.decay);
                self.token::<S, true>(s, t, dt, 1.0);
            }
        }
    }
}

impl Channels<'_> {
    #[inline(always)]
    fn token<S: Simd, const WIDE: bool>(&mut self, s: S, t: usize, dt: f32, decay: f32) {
        let whole = self.channels / 4 * 4;
        for p in (0..whole).step_by(4) {
            self.rows::<S, WIDE, 4>(s, t, p, dt, decay);
        }
        for p in whole..self.channels {
            self.rows::<S, WIDE, 1>(s, t, p, dt, decay);
        }
    }

    /// Channels `p .. p + R` at token `t`.
    #[inline(always)]
    fn rows<S: Simd, const WIDE: bool, const R: usize>(&mut self, s: S, t: usize, p: usize, dt: f32, decay: f32) {
        let n = self.n;
        // SAFETY: token and channels are inside the operands, the states `0 .. n` inside their rows.
        unsafe {
            let (b, c) = (self.b.0.add(t * self.b.1), self.c.0.add(t * self.c.1));
            let (x, h) = (self.x.0.add(t * self.x.1 + p), self.h.add(p * n));
            let xs: [f32; R] = std::array::from_fn(|r| *x.add(r));
            let xv: [S::F; R] = std::array::from_fn(|r| s.splat(dt * xs[r]));
            let mut acc = [s.splat(0.0); R];
            let mut i = 0;
            while i + S::LANES <= n {
                let (bv, cv) = (s.load(b.add(i)), s.load(c.add(i)));
                let f = if WIDE { s.load(self.decay.as_ptr().add(i)) } else { s.splat(decay) };
                for r in 0..R {
                    let at = h.add(r * n + i);
                    let v = s.fma(s.load(at), f, s.mul(bv, xv[r]));
                    s.store(at, v);
                    acc[r] = s.fma(v, cv, acc[r]);
                }
                i += S::LANES;
            }
            let mut sums: [f32; R] = std::array::from_fn(|r| s.sum(acc[r]));
            while i < n {
                let f = if WIDE { self.decay[i] } else { decay };
                for r in 0..R {
                    let at = h.add(r * n + i);
                    *at = f * *at + dt * xs[r] * *b.add(i);
                    sums[r] += *at * *c.add(i);
                }
                i += 1;
            }
            let y = self.y.0.add(t * self.y.1 + p);
            (0..R).for_each(|r| *y.add(r) = sums[r] + self.d * xs[r]);
        }
    }
}

/// Row `at` of the second dimension of `[T, …]`: its first element at token 0, and floats between tokens.
///
/// # Safety
/// The row exists.
unsafe fn along(v: &View<'_>, at: usize) -> (*const f32, usize) {
    // SAFETY: the caller's promise.
    (unsafe { v.ptr.cast::<f32>().add(at * v.strides[1]) }.cast_const(), v.strides[0])
}

impl Step for SelectiveScanStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let [x, dt, a, b, c] = [self.x, self.dt, self.a, self.b, self.c].map(|v| f.view(v));
        let (y, state, last) = (f.ptr(self.y).cast::<f32>(), f.ptr(self.state).cast::<f32>(), f.ptr(self.last).cast::<f32>());
        let (&[_, heads, p], &[_, groups, n]) = (x.shape, b.shape) else { return };
        let skip = self.skip.map(|(v, d)| Wide::new(f, v, d));
        let each = a.shape.get(1).copied().unwrap_or(1);
        // One number stays one number, for it is multiplied outside the loops.
        let room = if a.shape.len() == 1 { 1 } else { padded(n).max(2) };
        let (mut rates, mut decay) = (Buffer::from_elem(0.0, room), Buffer::from_elem(0.0, room));
        for (i, (tokens, ..)) in f.ragged(self.seg).segments.iter().enumerate() {
            let mine = w.share(heads * p);
            let mut at = mine.start;
            while at < mine.end {
                let (head, first) = (at / p, at % p);
                let channels = (p - first).min(mine.end - at);
                let group = head / (heads / groups);
                let held = ((i * heads + head) * p + first) * n;
                // SAFETY: these channels exist; their states and results are this thread's.
                unsafe {
                    std::ptr::copy_nonoverlapping(a.ptr.cast::<f32>().add(head * each), rates.as_mut_ptr(), each);
                    std::ptr::copy_nonoverlapping(state.add(held), last.add(held), channels * n);
                    let (xs, token) = along(&x, head);
                    let kernel = Channels {
                        tokens: tokens.clone(),
                        a: &rates,
                        decay: &mut decay,
                        x: (xs.add(first * x.strides[2]), token),
                        dt: along(&dt, head),
                        b: along(&b, group),
                        c: along(&c, group),
                        d: skip.map_or(0.0, |d| d.one(head)),
                        y: (y.add(head * p + first), heads * p),
                        h: last.add(held),
                        channels,
                        n,
                    };
                    dispatch(self.level, kernel);
                }
                at += channels;
            }
        }
    }
}

/// `M ← diag(e^g)·M`, `M ← M + k⊗β(v − Mᵀk)`, `y = scale·Mᵀq`.
pub(crate) struct GatedDeltaStep {
    pub level: Level,
    pub op: rlx_ir::ops::GatedDeltaRule,
    pub q: ValueId,
    pub k: ValueId,
    pub v: ValueId,
    pub g: ValueId,
    pub beta: ValueId,
    pub seg: ValueId,
    pub state: ValueId,
    pub y: ValueId,
    pub last: ValueId,
}

/// Columns of the state that are updated together: with every number of lanes they fit the
/// registers, and their rows of a head fit the first cache.
const COLUMNS: usize = 32;

/// Columns of one head's memory over the tokens of a segment.
struct Columns<'a> {
    tokens: Range<usize>,
    scale: f32,
    norm: Option<f32>,
    /// First element of token 0, and floats between tokens.
    q: (*const f32, usize),
    k: (*const f32, usize),
    v: (*const f32, usize),
    g: (*const f32, usize),
    beta: (*const f32, usize),
    y: (*mut f32, usize),
    /// One decay per row of the memory.
    wide: bool,
    /// `[dk][stride]`, from the first of these columns.
    m: *mut f32,
    dk: usize,
    stride: usize,
    columns: usize,
    /// `[4][dk]`, padded: decay, key, decayed key, decayed query.
    room: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for t in self.tokens.clone() {
            let qk = self.prepare(s, t);
            match COLUMNS / S::LANES {
                2 if self.columns == COLUMNS => self.update::<S, 2>(s, t, qk),
                4 if self.columns == COLUMNS => self.update::<S, 4>(s, t, qk),
                8 if self.columns == COLUMNS => self.update::<S, 8>(s, t, qk),
                _ => self.update_some(t, qk),
            }
        }
    }
}

/// `Σ a·b`.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let whole = n / S::LANES * S::LANES;
    let mut acc = s.splat(0.0);
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: indices stay below both lengths.
        acc = unsafe { s.fma(s.load(a.as_ptr().add(i)), s.load(b.as_ptr().add(i)), acc) };
    }
    s.sum(acc) + (whole..n).map(|i| a[i] * b[i]).sum::<f32>()
}

impl Columns<'_> {
    /// Fills the room for token `t`; returns `q·k`.
    #[inline(always)]
    fn prepare<S: Simd>(&mut self, s: S, t: usize) -> f32 {
        let (dk, pad) = (self.dk, padded(self.dk));
        let (decay, rest) = self.room.split_at_mut(pad);
        let (key, rest) = rest.split_at_mut(pad);
        let (keyed, queried) = rest.split_at_mut(pad);
        // SAFETY: the token is inside all operands.
        unsafe {
            let q = std::slice::from_raw_parts(self.q.0.add(t * self.q.1), dk);
            let k = std::slice::from_raw_parts(self.k.0.add(t * self.k.1), dk);
            let g = self.g.0.add(t * self.g.1);
            if self.wide {
                std::ptr::copy_nonoverlapping(g, keyed.as_mut_ptr(), dk);
                exp_all(s, keyed, 1.0, decay);
            } else {
                decay[..dk].fill((*g).exp());
            }
            let unit = |x: &[f32]| self.norm.map_or(1.0, |eps| 1.0 / (dot(s, x, x) + eps).sqrt());
            let (nq, nk) = (unit(q), unit(k));
            for a in 0..dk {
                key[a] = k[a] * nk;
                keyed[a] = key[a] * decay[a];
                queried[a] = q[a] * nq * decay[a];
            }
            dot(s, q, &key[..dk]) * nq
        }
    }

    /// All columns of a full block, `V` vectors wide.
    #[inline(always)]
    fn update<S: Simd, const V: usize>(&mut self, s: S, t: usize, qk: f32) {
        let pad = padded(self.dk);
        // SAFETY: token and columns are inside the operands.
        unsafe {
            let (mut recalled, mut y) = ([s.splat(0.0); V], [s.splat(0.0); V]);
            let (decay, key) = (&self.room[..pad], &self.room[pad..2 * pad]);
            let (keyed, queried) = (&self.room[2 * pad..3 * pad], &self.room[3 * pad..4 * pad]);
            for a in 0..self.dk {
                let (ka, qa, row) = (s.splat(keyed[a]), s.splat(queried[a]), self.m.add(a * self.stride));
                for j in 0..V {
                    let m = s.load(row.add(j * S::LANES));
                    recalled[j] = s.fma(m, ka, recalled[j]);
                    y[j] = s.fma(m, qa, y[j]);
                }
            }
            let (v, out) = (self.v.0.add(t * self.v.1), self.y.0.add(t * self.y.1));
            let (beta, scale, qk) = (s.splat(*self.beta.0.add(t * self.beta.1)), s.splat(self.scale), s.splat(qk));
            let mut change = recalled;
            for j in 0..V {
                change[j] = s.mul(beta, s.sub(s.load(v.add(j * S::LANES)), recalled[j]));
                s.store(out.add(j * S::LANES), s.mul(scale, s.fma(qk, change[j], y[j])));
            }
            for a in 0..self.dk {
                let (d, ka, row) = (s.splat(decay[a]), s.splat(key[a]), self.m.add(a * self.stride));
                for j in 0..V {
                    let at = row.add(j * S::LANES);
                    s.store(at, s.fma(ka, change[j], s.mul(d, s.load(at))));
                }
            }
        }
    }

    /// The columns of a block that is not full.
    #[inline(always)]
    fn update_some(&mut self, t: usize, qk: f32) {
        let (pad, n) = (padded(self.dk), self.columns.min(COLUMNS));
        let (mut recalled, mut y) = ([0f32; COLUMNS], [0f32; COLUMNS]);
        // SAFETY: token and columns are inside the operands.
        unsafe {
            for a in 0..self.dk {
                let (ka, qa, row) = (self.room[2 * pad + a], self.room[3 * pad + a], self.m.add(a * self.stride));
                for j in 0..n {
                    recalled[j] += ka * *row.add(j);
                    y[j] += qa * *row.add(j);
                }
            }
            let (v, out) = (self.v.0.add(t * self.v.1), self.y.0.add(t * self.y.1));
            let beta = *self.beta.0.add(t * self.beta.1);
            let mut change = [0f32; COLUMNS];
            for j in 0..n {
                change[j] = beta * (*v.add(j) - recalled[j]);
                *out.add(j) = self.scale * (y[j] + qk * change[j]);
            }
            for a in 0..self.dk {
                let (d, ka, row) = (self.room[a], self.room[pad + a], self.m.add(a * self.stride));
                (0..n).for_each(|j| *row.add(j) = d * *row.add(j) + ka * change[j]);
            }
        }
    }
}

impl Step for GatedDeltaStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let [q, k, v, g, beta] = [self.q, self.k, self.v, self.g, self.beta].map(|v| f.view(v));
        let (y, state, last) = (f.ptr(self.y).cast::<f32>(), f.ptr(self.state).cast::<f32>(), f.ptr(self.last).cast::<f32>());
        let (&[_, heads, dk], &[_, values, dv]) = (q.shape, v.shape) else { return };
        let blocks = dv.div_ceil(COLUMNS);
        let mut room: SmallVec<[f32; 1024]> = SmallVec::from_elem(0.0, 4 * padded(dk));
        for (i, (tokens, ..)) in f.ragged(self.seg).segments.iter().enumerate() {
            for unit in w.share(values * blocks) {
                let (head, first) = (unit / blocks, unit % blocks * COLUMNS);
                let (key, columns) = (head / (values / heads), COLUMNS.min(dv - first));
                let held = (i * values + head) * dk * dv + first;
                // SAFETY: these columns exist; in the results they are this thread's.
                unsafe {
                    (0..dk).for_each(|a| std::ptr::copy_nonoverlapping(state.add(held + a * dv), last.add(held + a * dv), columns));
                    let (vs, token) = along(&v, head);
                    let kernel = Columns {
                        tokens: tokens.clone(),
                        scale: self.op.scale as f32,
                        norm: self.op.qk_norm.map(|e| e as f32),
                        q: along(&q, key),
                        k: along(&k, key),
                        v: (vs.add(first), token),
                        g: along(&g, head),
                        beta: along(&beta, head),
                        y: (y.add(head * dv + first), values * dv),
                        wide: g.shape.len() == 3,
                        m: last.add(held),
                        dk,
                        stride: dv,
                        columns,
                        room: &mut room,
                    };
                    dispatch(self.level, kernel);
                }
            }
        }
    }
}
