//! The kernels of attention: a tile of query rows over a range of keys.

use super::{Attention, Segment, Stats};
use crate::simd::element::{Element, F32};
use crate::simd::{Kernel, Simd, exp};
use std::marker::PhantomData;

/// Keys in a tile of scores.
pub(super) const KEYS: usize = 64;
/// Query rows in a tile of scores.
pub(super) const ROWS: usize = 36;
/// Query rows from which on narrow keys and values are widened once for all rows, rather than in registers.
const WIDEN_ROWS: usize = 6;
/// Keys whose scores are summed in registers at once: blocks are multiples of half of it.
pub(super) const CHUNK: usize = 32;

/// Rows `first..first + n` over keys `start..end`.
pub(super) struct Tile<'t> {
    pub at: &'t Attention,
    pub seg: &'t Segment<'t>,
    pub first: usize,
    pub n: usize,
    pub start: usize,
    pub end: usize,
    /// `[ROWS][KEYS]`.
    pub scores: &'t mut [f32],
    /// `[ROWS][value_dim]`.
    pub acc: &'t mut [f32],
    /// Widened keys `[head_dim][KEYS]` and values `[KEYS][value_dim]`.
    pub wide: &'t mut [f32],
    pub stats: &'t mut [Stats; ROWS],
}

/// A tile over keys and values of type `E`.
pub(super) struct Typed<'t, E>(pub Tile<'t>, pub PhantomData<E>);

impl<E: Element> Kernel for Typed<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut tile = self.0;
        let (bt, kv_head) = (tile.at.block_tokens, tile.seg.kv_head);
        let keys = Blocks { at: tile.seg.keys, tokens: bt, kv_head, first: 0 };
        let values = Blocks { at: tile.seg.values, ..keys };
        let widen = E::BYTES < 4 && tile.n >= WIDEN_ROWS;
        let (wide_keys, wide_values) = tile.wide.split_at_mut(tile.at.head_dim * KEYS);
        let (wide_keys, wide_values) = (wide_keys.as_mut_ptr(), wide_values.as_mut_ptr());
        let mut key = tile.start / (CHUNK / 2) * (CHUNK / 2);
        while key < tile.end {
            // Slots past `end` within the last chunk are read and masked: blocks hold whole chunks.
            let n_keys = KEYS.min(tile.end - key);
            if widen {
                // SAFETY: the room takes KEYS keys and values.
                unsafe {
                    tile.widen_keys::<S, E>(s, keys, key, n_keys, wide_keys);
                    tile.widen_values::<S, E>(s, values, key, n_keys, wide_values);
                }
                let (k, v) = ([wide_keys.cast::<u8>().cast_const()], [wide_values.cast::<u8>().cast_const()]);
                let one = |at| Blocks { at, tokens: KEYS, kv_head: 0, first: key };
                tile.step::<S, F32>(s, one(&k), one(&v), key, n_keys);
            } else {
                tile.step::<S, E>(s, keys, values, key, n_keys);
            }
            key += n_keys;
        }
    }
}

/// Where keys or values are: in blocks of some tokens, from key `first` on.
#[derive(Clone, Copy)]
struct Blocks<'b> {
    at: &'b [*const u8],
    tokens: usize,
    kv_head: usize,
    first: usize,
}

impl Blocks<'_> {
    /// Block and slot of a key.
    fn find(&self, key: usize) -> (*const u8, usize) {
        let i = key - self.first;
        (self.at[i / self.tokens], i % self.tokens)
    }
}

impl Tile<'_> {
    fn query(&self, row: usize) -> *const f32 {
        let row = self.first + row;
        let at = (row / self.at.group) * self.seg.q_stride + (row % self.at.group) * self.at.head_dim;
        // SAFETY: the segment holds the queries of its rows.
        unsafe { self.seg.q.add(at) }
    }

    /// All rows over keys `key..key + n_keys`.
    #[inline(always)]
    fn step<S: Simd, E: Element>(&mut self, s: S, keys: Blocks<'_>, values: Blocks<'_>, key: usize, n_keys: usize) {
        self.scores::<S, E>(s, keys, key, n_keys);
        let mut rescale = [1f32; ROWS];
        for r in 0..self.n {
            rescale[r] = self.softmax(s, r, key, n_keys);
        }
        self.values::<S, E>(s, values, key, n_keys, &rescale);
    }

    /// Widens keys `key..key + n_keys`, in whole chunks, to `[head_dim][KEYS]`.
    ///
    /// # Safety
    /// `to` is writable for that, and the blocks hold the chunks.
    #[inline(always)]
    unsafe fn widen_keys<S: Simd, E: Element>(&self, s: S, from: Blocks<'_>, key: usize, n_keys: usize, to: *mut f32) {
        let dim = self.at.head_dim;
        for j in (0..n_keys).step_by(CHUNK / 2) {
            let (block, slot) = from.find(key + j);
            for d in 0..dim {
                for v in (0..CHUNK / 2).step_by(S::LANES) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let p = block.add(((from.kv_head * dim + d) * from.tokens + slot + v) * E::BYTES);
                        s.store(to.add(d * KEYS + j + v), E::load(s, p));
                    }
                }
            }
        }
    }

    /// Widens values `key..key + n_keys` to `[KEYS][value_dim]`; those before the tile's first key may lie in a block
    /// that was never written, and become zeros.
    ///
    /// # Safety
    /// `to` is writable for that, and the blocks hold the values.
    #[inline(always)]
    unsafe fn widen_values<S: Simd, E: Element>(&self, s: S, from: Blocks<'_>, key: usize, n_keys: usize, to: *mut f32) {
        let dim = self.at.value_dim;
        for j in 0..n_keys {
            // SAFETY: the caller's promise.
            unsafe {
                let to = to.add(j * dim);
                if key + j < self.start {
                    std::slice::from_raw_parts_mut(to, dim).fill(0.0);
                    continue;
                }
                let (block, slot) = from.find(key + j);
                let p = block.add((from.kv_head * from.tokens + slot) * dim * E::BYTES);
                let mut d = 0;
                while d + S::LANES <= dim {
                    s.store(to.add(d), E::load(s, p.add(d * E::BYTES)));
                    d += S::LANES;
                }
                for d in d..dim {
                    *to.add(d) = E::one(p.add(d * E::BYTES));
                }
            }
        }
    }

    /// Dot products of all rows with keys `key..key + n_keys`.
    #[inline(always)]
    fn scores<S: Simd, E: Element>(&mut self, s: S, keys: Blocks<'_>, key: usize, n_keys: usize) {
        let dim = self.at.head_dim;
        let mut j = 0;
        while j < n_keys {
            let (block, slot) = keys.find(key + j);
            let whole = keys.tokens - slot >= CHUNK && n_keys - j > CHUNK / 2;
            let step = keys.tokens * E::BYTES;
            // SAFETY: the block holds this chunk of slots.
            let p = unsafe { block.add(keys.kv_head * dim * step + slot * E::BYTES) };
            let mut r = 0;
            while r < self.n {
                let left = self.n - r;
                r += match (S::LANES == 16, whole) {
                    (true, true) if left >= 6 => self.dots::<S, E, 6, CHUNK>(s, p, step, r, j),
                    (_, true) if left >= 3 => self.dots::<S, E, 3, CHUNK>(s, p, step, r, j),
                    (_, true) if left >= 2 => self.dots::<S, E, 2, CHUNK>(s, p, step, r, j),
                    (_, true) => self.dots::<S, E, 1, CHUNK>(s, p, step, r, j),
                    (_, false) if left >= 3 => self.dots::<S, E, 3, { CHUNK / 2 }>(s, p, step, r, j),
                    (_, false) => self.dots::<S, E, 1, { CHUNK / 2 }>(s, p, step, r, j),
                };
            }
            j += if whole { CHUNK } else { CHUNK / 2 };
        }
    }

    /// Dot products of `T` rows with `C` keys, whose elements are `step` bytes apart; returns `T`.
    #[inline(always)]
    fn dots<S: Simd, E: Element, const T: usize, const C: usize>(
        &mut self,
        s: S,
        keys: *const u8,
        step: usize,
        row: usize,
        j: usize,
    ) -> usize {
        let q: [*const f32; T] = std::array::from_fn(|t| self.query(row + t));
        let mut acc = [[s.splat(0.0); CHUNK / 4]; T];
        // SAFETY: keys are `head_dim` rows of at least C slots, queries have `head_dim` elements, and the tile's
        // scores have room for whole chunks, KEYS being a multiple of them.
        unsafe {
            for d in 0..self.at.head_dim {
                let p = keys.add(d * step);
                let qs: [S::F; T] = std::array::from_fn(|t| s.splat(*q[t].add(d)));
                for v in 0..C / S::LANES {
                    let k = E::load(s, p.add(v * S::LANES * E::BYTES));
                    for t in 0..T {
                        acc[t][v] = s.fma(qs[t], k, acc[t][v]);
                    }
                }
            }
            for t in 0..T {
                for v in 0..C / S::LANES {
                    let at = (row + t) * KEYS + j + v * S::LANES;
                    s.store(self.scores.as_mut_ptr().add(at), acc[t][v]);
                }
            }
        }
        T
    }

    /// Turns a row's dot products into weights relative to its new maximum; returns what its sums are multiplied by.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, r: usize, key: usize, n_keys: usize) -> f32 {
        let row = &mut self.scores[r * KEYS..(r + 1) * KEYS];
        let visible = self.at.visible(self.seg, self.first + r);
        let clip = |k: usize| k.clamp(key, key + n_keys) - key;
        let (lo, hi) = (clip(visible.start.max(self.start)), clip(visible.end.min(self.end)));
        let padded = n_keys.next_multiple_of(S::LANES);
        if lo >= hi {
            row[..padded].fill(0.0);
            return 1.0;
        }
        let scale = s.splat(self.at.scale);
        row[..lo].fill(0.0);
        row[hi..padded].fill(0.0);
        // SAFETY: KEYS is a multiple of the lanes, so `padded` is at most KEYS.
        unsafe {
            let p = row.as_mut_ptr();
            for i in (0..padded).step_by(S::LANES) {
                let mut v = s.mul(s.load(p.add(i)), scale);
                if let Some(cap) = self.at.softcap {
                    // tanh(x) = 1 - 2 / (e^2x + 1)
                    let e = exp(s, s.mul(v, s.splat(2.0 / cap)));
                    let t = s.div(s.splat(2.0), s.add(e, s.splat(1.0)));
                    v = s.fnma(t, s.splat(cap), s.splat(cap));
                }
                s.store(p.add(i), v);
            }
            row[..lo].fill(f32::NEG_INFINITY);
            row[hi..padded].fill(f32::NEG_INFINITY);
            let p = row.as_mut_ptr();
            let mut top = s.splat(f32::NEG_INFINITY);
            for i in (0..padded).step_by(S::LANES) {
                top = s.max(top, s.load(p.add(i)));
            }
            let old = self.stats[r];
            let max = old.max.max(s.hmax(top));
            let (base, mut sum) = (s.splat(max), s.splat(0.0));
            for i in (0..padded).step_by(S::LANES) {
                let e = exp(s, s.sub(s.load(p.add(i)), base));
                sum = s.add(sum, e);
                s.store(p.add(i), e);
            }
            let rescale = if old.max == max { 1.0 } else { (old.max - max).exp() };
            self.stats[r] = Stats { max, sum: old.sum * rescale + s.sum(sum) };
            rescale
        }
    }

    /// Adds the weighted values of keys `key..key + n_keys` to the rescaled sums of all rows.
    #[inline(always)]
    fn values<S: Simd, E: Element>(&mut self, s: S, values: Blocks<'_>, key: usize, n_keys: usize, rescale: &[f32; ROWS]) {
        let dim = self.at.value_dim;
        let mut j = 0;
        let mut fresh = true;
        while j < n_keys {
            let (block, slot) = values.find(key + j);
            let run = (values.tokens - slot).min(n_keys - j);
            // Keys before the first visible one share its chunk but may lie in a block that was never written.
            let skip = self.start.saturating_sub(key + j).min(run);
            let at = (values.kv_head * values.tokens + slot + skip) * dim * E::BYTES;
            // SAFETY: the block holds these slots.
            let v = unsafe { block.add(at) };
            let mut r = 0;
            while r < self.n {
                let factors = |i: usize| if fresh { rescale[i] } else { 1.0 };
                let (left, j, n) = (self.n - r, j + skip, run - skip);
                r += match S::LANES == 16 {
                    true if left >= 6 => self.weigh::<S, E, 6>(s, v, r, j, n, factors),
                    _ if left >= 3 => self.weigh::<S, E, 3>(s, v, r, j, n, factors),
                    _ if left >= 2 => self.weigh::<S, E, 2>(s, v, r, j, n, factors),
                    _ => self.weigh::<S, E, 1>(s, v, r, j, n, factors),
                };
            }
            fresh = false;
            j += run;
        }
    }

    /// `acc = acc * factor + Σ weight · value` for `T` rows and `n` values; returns `T`.
    #[inline(always)]
    fn weigh<S: Simd, E: Element, const T: usize>(
        &mut self,
        s: S,
        values: *const u8,
        row: usize,
        j: usize,
        n: usize,
        factor: impl Fn(usize) -> f32,
    ) -> usize {
        const V: usize = 4;
        let dim = self.at.value_dim;
        let weights: [*const f32; T] = std::array::from_fn(|t| self.scores[(row + t) * KEYS + j..].as_ptr());
        let factors: [f32; T] = std::array::from_fn(|t| factor(row + t));
        let sums = self.acc[row * dim..(row + T) * dim].as_mut_ptr();
        let mut d = 0;
        // SAFETY: values are `n` rows of `dim` elements, weights and sums are slices of the tile.
        unsafe {
            while d < dim {
                let lanes = |v: usize| d + v * S::LANES;
                if lanes(V) <= dim {
                    let mut acc: [[S::F; V]; T] = std::array::from_fn(|t| {
                        let f = s.splat(factors[t]);
                        std::array::from_fn(|v| s.mul(f, s.load(sums.add(t * dim + lanes(v)))))
                    });
                    for i in 0..n {
                        let p = values.add((i * dim + d) * E::BYTES);
                        let w: [S::F; T] = std::array::from_fn(|t| s.splat(*weights[t].add(i)));
                        for v in 0..V {
                            let x = E::load(s, p.add(v * S::LANES * E::BYTES));
                            for t in 0..T {
                                acc[t][v] = s.fma(w[t], x, acc[t][v]);
                            }
                        }
                    }
                    for t in 0..T {
                        for v in 0..V {
                            s.store(sums.add(t * dim + lanes(v)), acc[t][v]);
                        }
                    }
                    d += V * S::LANES;
                } else if lanes(1) <= dim {
                    let mut acc: [S::F; T] = std::array::from_fn(|t| s.mul(s.splat(factors[t]), s.load(sums.add(t * dim + d))));
                    for i in 0..n {
                        let x = E::load(s, values.add((i * dim + d) * E::BYTES));
                        for t in 0..T {
                            acc[t] = s.fma(s.splat(*weights[t].add(i)), x, acc[t]);
                        }
                    }
                    for t in 0..T {
                        s.store(sums.add(t * dim + d), acc[t]);
                    }
                    d += S::LANES;
                } else {
                    for t in 0..T {
                        let p = sums.add(t * dim + d);
                        *p *= factors[t];
                        for i in 0..n {
                            *p += *weights[t].add(i) * E::one(values.add((i * dim + d) * E::BYTES));
                        }
                    }
                    d += 1;
                }
            }
        }
        T
    }
}
