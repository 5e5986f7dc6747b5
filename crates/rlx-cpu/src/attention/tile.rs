//! The kernels of attention: a tile of query rows over a range of keys.

use super::{Attention, Segment, Stats};
use crate::simd::element::{Element, F32};
use crate::simd::{Kernel, Simd, exp, exp_of_negative};
use std::marker::PhantomData;
use std::ops::Range;

/// Keys in a tile of scores.
pub(super) const KEYS: usize = 64;
/// Query rows in a tile of scores: as many as leave room in the first cache for a chunk of keys.
pub const ROWS: usize = 48;
/// Query rows for which keys and values are read once: a few tiles, whose queries and sums fit the second cache.
pub const MOST_ROWS: usize = 4 * ROWS;
/// Query rows from which on keys and values are copied once for all rows, widened and in the order they are read in.
const PACK_ROWS: usize = 6;
/// Keys whose scores are summed in registers at once: blocks are multiples of half of it.
pub(super) const CHUNK: usize = 32;

/// The rows from `first` on over keys `start..end`.
pub(super) struct Tile<'t> {
    pub at: &'t Attention,
    pub seg: &'t Segment<'t>,
    pub first: usize,
    pub start: usize,
    pub end: usize,
    /// Scaled queries, `[head_dim][rows]` of each [`group`].
    pub queries: &'t mut [f32],
    /// `[ROWS][KEYS]`, of the rows at hand.
    pub scores: &'t mut [f32],
    /// `[MOST_ROWS][value_dim]`.
    pub acc: &'t mut [f32],
    /// Packed keys, `[head_dim][width]` of each [`width`] of them, and values, `[KEYS][width]` of each of their elements.
    pub packed: &'t mut [f32],
    /// What each row sees, and what its sums belong to.
    pub rows: &'t mut [(Range<usize>, Stats)],
}

/// A tile over keys and values of type `E`.
pub(super) struct Typed<'t, E>(pub Tile<'t>, pub PhantomData<E>);

impl<E: Element> Kernel for Typed<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut tile = self.0;
        let packs = tile.rows.len() >= PACK_ROWS;
        tile.pack_queries(packs);
        let mut key = tile.start / (CHUNK / 2) * (CHUNK / 2);
        while key < tile.end {
            // Slots past `end` within the last chunk are read and masked: blocks hold whole chunks.
            let n_keys = KEYS.min(tile.end - key);
            if packs {
                tile.pack_keys::<S, E>(s, key, n_keys);
                tile.pack_values::<S, E>(s, key, n_keys);
            }
            for first in (0..tile.rows.len()).step_by(ROWS) {
                let rows = first..tile.rows.len().min(first + ROWS);
                // Keys that each row sees one of or that lie before such.
                let mut seen = [0; ROWS];
                for (seen, row) in seen.iter_mut().zip(&tile.rows[rows.clone()]) {
                    *seen = row.0.end.saturating_sub(key).min(n_keys);
                }
                if seen[rows.len() - 1] == 0 {
                    continue;
                }
                if packs {
                    tile.packed_scores(s, &rows, &seen, n_keys);
                } else {
                    tile.cached_scores::<S, E>(s, &rows, key, n_keys);
                }
                let mut rescale = [1f32; ROWS];
                for r in rows.clone() {
                    rescale[r - first] = tile.softmax(s, r, key, n_keys);
                }
                if packs {
                    tile.packed_values(s, &rows, &seen, key, n_keys, &rescale);
                } else {
                    tile.cached_values::<S, E>(s, &rows, key, n_keys, &rescale);
                }
            }
            key += n_keys;
        }
    }
}

/// Keys, or elements of a value, that are packed beside each other: two vectors, times [`group`] rows, fill the registers.
const fn width<S: Simd>() -> usize {
    if S::LANES == 16 { CHUNK } else { CHUNK / 2 }
}

/// Rows of the next group, whose sums are in registers at once, where `left` are left: in tiles that pack, many rows by
/// two vectors; else few rows by all the vectors that stream from memory together.
const fn group(packs: bool, left: usize) -> usize {
    match left {
        6.. if packs => 6,
        3.. => 3,
        _ => left,
    }
}

impl Tile<'_> {
    /// Queries, times the scale.
    #[inline(always)]
    fn pack_queries(&mut self, packs: bool) {
        let dim = self.at.head_dim;
        let mut r = 0;
        while r < self.rows.len() {
            let rows = group(packs, self.rows.len() - r);
            let to = &mut self.queries[r * dim..(r + rows) * dim];
            for t in 0..rows {
                let row = self.first + r + t;
                let at = (row / self.at.group) * self.seg.q_stride + (row % self.at.group) * dim;
                // SAFETY: the segment holds the queries of its rows.
                let q = unsafe { std::slice::from_raw_parts(self.seg.q.add(at), dim) };
                to[t..].iter_mut().step_by(rows).zip(q).for_each(|(to, q)| *to = q * self.at.scale);
            }
            r += rows;
        }
    }

    /// Block and slot of a key.
    fn find(&self, blocks: &[*const u8], key: usize) -> (*const u8, usize) {
        (blocks[key / self.at.block_tokens], key % self.at.block_tokens)
    }

    /// Key number `key`'s first element in the cache, for this head.
    fn key<E: Element>(&self, key: usize) -> *const u8 {
        let (block, slot) = self.find(self.seg.keys, key);
        block.wrapping_add((self.seg.kv_head * self.at.head_dim * self.at.block_tokens + slot) * E::BYTES)
    }

    /// Value number `key` in the cache, for this head.
    fn value<E: Element>(&self, key: usize) -> *const u8 {
        let (block, slot) = self.find(self.seg.values, key);
        block.wrapping_add((self.seg.kv_head * self.at.block_tokens + slot) * self.at.value_dim * E::BYTES)
    }

    /// Packs keys `key..key + n_keys`, widened.
    #[inline(always)]
    fn pack_keys<S: Simd, E: Element>(&mut self, s: S, key: usize, n_keys: usize) {
        let (dim, step, width) = (self.at.head_dim, self.at.block_tokens * E::BYTES, const { width::<S>() });
        for j in (0..n_keys).step_by(CHUNK / 2) {
            let from = self.key::<E>(key + j);
            let to = self.packed[j / width * width * dim..][..width * dim][j % width..].as_mut_ptr();
            for d in 0..dim {
                for v in (0..CHUNK / 2).step_by(S::LANES) {
                    // SAFETY: the block holds these slots, and the slice takes them.
                    unsafe { s.store(to.add(d * width + v), E::load(s, from.add(d * step + v * E::BYTES))) };
                }
            }
        }
    }

    /// Packs those of the values `key..key + n_keys` that a row may see, widened.
    #[inline(always)]
    fn pack_values<S: Simd, E: Element>(&mut self, s: S, key: usize, n_keys: usize) {
        let (dim, width) = (self.at.value_dim, const { width::<S>() });
        for j in self.start.saturating_sub(key)..n_keys {
            let from = self.value::<E>(key + j);
            for d0 in (0..dim).step_by(width) {
                let width = width.min(dim - d0);
                let to = self.packed[KEYS * (self.at.head_dim + d0) + j * width..][..width].as_mut_ptr();
                // SAFETY: the block holds the value, and the slice takes this part of it.
                unsafe {
                    let from = from.add(d0 * E::BYTES);
                    let mut d = 0;
                    while d + S::LANES <= width {
                        s.store(to.add(d), E::load(s, from.add(d * E::BYTES)));
                        d += S::LANES;
                    }
                    for d in d..width {
                        *to.add(d) = E::one(from.add(d * E::BYTES));
                    }
                }
            }
        }
    }

    /// Dot products of `rows` with keys `key..key + n_keys`, from where they are cached.
    #[inline(always)]
    fn cached_scores<S: Simd, E: Element>(&mut self, s: S, rows: &Range<usize>, key: usize, n_keys: usize) {
        let bt = self.at.block_tokens;
        let mut j = 0;
        while j < n_keys {
            let p = self.key::<E>(key + j);
            if bt - (key + j) % bt >= CHUNK && n_keys - j > CHUNK / 2 {
                self.few_rows::<S, E, CHUNK>(s, p, bt * E::BYTES, rows, j);
                j += CHUNK;
            } else {
                self.few_rows::<S, E, { CHUNK / 2 }>(s, p, bt * E::BYTES, rows, j);
                j += CHUNK / 2;
            }
        }
    }

    /// Dot products of `rows` with `C` keys, number `j` of the tile and on.
    #[inline(always)]
    fn few_rows<S: Simd, E: Element, const C: usize>(&mut self, s: S, keys: *const u8, step: usize, rows: &Range<usize>, j: usize) {
        let mut r = rows.start;
        while r < rows.end {
            let n = group(false, rows.end - r);
            match n {
                1 => self.dots::<S, E, 1, C>(s, keys, step, r, j),
                2 => self.dots::<S, E, 2, C>(s, keys, step, r, j),
                _ => self.dots::<S, E, 3, C>(s, keys, step, r, j),
            }
            r += n;
        }
    }

    /// Dot products of those of `rows` that see them with packed keys.
    #[inline(always)]
    fn packed_scores<S: Simd>(&mut self, s: S, rows: &Range<usize>, seen: &[usize; ROWS], n_keys: usize) {
        for j in (0..n_keys).step_by(const { width::<S>() }) {
            // Keys of a vector that are not there were not packed; their scores are not looked at.
            let keys = self.packed[j * self.at.head_dim..].as_ptr().cast();
            let mut r = rows.start;
            while r < rows.end {
                let n = group(true, rows.end - r);
                if seen[(r + n - 1) % ROWS] > j {
                    match (n, S::LANES == 16) {
                        (1, true) => self.dots::<S, F32, 1, CHUNK>(s, keys, CHUNK * 4, r, j),
                        (2, true) => self.dots::<S, F32, 2, CHUNK>(s, keys, CHUNK * 4, r, j),
                        (3, true) => self.dots::<S, F32, 3, CHUNK>(s, keys, CHUNK * 4, r, j),
                        (_, true) => self.dots::<S, F32, 6, CHUNK>(s, keys, CHUNK * 4, r, j),
                        (1, false) => self.dots::<S, F32, 1, { CHUNK / 2 }>(s, keys, CHUNK * 2, r, j),
                        (2, false) => self.dots::<S, F32, 2, { CHUNK / 2 }>(s, keys, CHUNK * 2, r, j),
                        (3, false) => self.dots::<S, F32, 3, { CHUNK / 2 }>(s, keys, CHUNK * 2, r, j),
                        (_, false) => self.dots::<S, F32, 6, { CHUNK / 2 }>(s, keys, CHUNK * 2, r, j),
                    }
                }
                r += n;
            }
        }
    }

    /// Dot products of a group of `T` rows with `C` keys, whose elements are `step` bytes apart.
    #[inline(always)]
    fn dots<S: Simd, E: Element, const T: usize, const C: usize>(&mut self, s: S, keys: *const u8, step: usize, row: usize, j: usize) {
        let dim = self.at.head_dim;
        let q = self.queries[row * dim..(row + T) * dim].as_ptr();
        let mut acc = [[s.splat(0.0); CHUNK / 4]; T];
        // SAFETY: keys are `head_dim` rows of at least C slots, and the tile's scores have room for whole chunks, KEYS
        // being a multiple of them.
        unsafe {
            for d in 0..dim {
                let mut ks = [s.splat(0.0); CHUNK / 4];
                for v in 0..C / S::LANES {
                    ks[v] = E::load(s, keys.add(d * step + v * S::LANES * E::BYTES));
                }
                for t in 0..T {
                    let q = s.splat(*q.add(d * T + t));
                    for v in 0..C / S::LANES {
                        acc[t][v] = s.fma(q, ks[v], acc[t][v]);
                    }
                }
            }
            for t in 0..T {
                for v in 0..C / S::LANES {
                    let at = (row + t) % ROWS * KEYS + j + v * S::LANES;
                    s.store(self.scores.as_mut_ptr().add(at), acc[t][v]);
                }
            }
        }
    }

    /// Turns a row's scores into weights relative to its new maximum; returns what its sums are multiplied by.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, r: usize, key: usize, n_keys: usize) -> f32 {
        let row = &mut self.scores[r % ROWS * KEYS..][..KEYS];
        let (visible, stats) = &mut self.rows[r];
        let clip = |k: usize| k.clamp(key, key + n_keys) - key;
        let (lo, hi) = (clip(visible.start.max(self.start)), clip(visible.end.min(self.end)));
        let padded = n_keys.next_multiple_of(S::LANES);
        if lo >= hi {
            row[..padded].fill(0.0);
            return 1.0;
        }
        // SAFETY: KEYS is a multiple of the lanes, so `padded` is at most KEYS.
        unsafe {
            if let Some(cap) = self.at.softcap {
                let p = row.as_mut_ptr();
                for i in (0..padded).step_by(S::LANES) {
                    // tanh(x) = 1 - 2 / (e^2x + 1)
                    let e = exp(s, s.mul(s.load(p.add(i)), s.splat(2.0 / cap)));
                    let t = s.div(s.splat(2.0), s.add(e, s.splat(1.0)));
                    s.store(p.add(i), s.fnma(t, s.splat(cap), s.splat(cap)));
                }
            }
            row[..lo].fill(f32::NEG_INFINITY);
            row[hi..padded].fill(f32::NEG_INFINITY);
            let p = row.as_mut_ptr();
            let mut top = s.splat(f32::NEG_INFINITY);
            for i in (0..padded).step_by(S::LANES) {
                top = s.max(top, s.load(p.add(i)));
            }
            let old = *stats;
            let max = old.max.max(s.hmax(top));
            let (base, mut sum) = (s.splat(max), s.splat(0.0));
            for i in (0..padded).step_by(S::LANES) {
                let e = exp_of_negative(s, s.sub(s.load(p.add(i)), base));
                sum = s.add(sum, e);
                s.store(p.add(i), e);
            }
            row[..lo].fill(0.0);
            row[hi..padded].fill(0.0);
            let rescale = if old.max == max { 1.0 } else { (old.max - max).exp() };
            *stats = Stats { max, sum: old.sum * rescale + s.sum(sum) };
            rescale
        }
    }

    /// Adds the weighted values of keys `key..key + n_keys` to the rescaled sums of `rows`, from where they are cached.
    #[inline(always)]
    fn cached_values<S: Simd, E: Element>(&mut self, s: S, rows: &Range<usize>, key: usize, n_keys: usize, rescale: &[f32; ROWS]) {
        let dim = self.at.value_dim;
        let mut j = 0;
        while j < n_keys {
            let run = (self.at.block_tokens - (key + j) % self.at.block_tokens).min(n_keys - j);
            // Keys before the first visible one share its chunk but may lie in a block that was never written.
            let skip = self.start.saturating_sub(key + j).min(run);
            let from = self.value::<E>(key + j).wrapping_add(skip * dim * E::BYTES);
            let factors = if j == 0 { rescale } else { &[1.0; ROWS] };
            let mut r = rows.start;
            while r < rows.end {
                let n = group(false, rows.end - r);
                for d in (0..dim).step_by(4 * S::LANES) {
                    let values = (from.wrapping_add(d * E::BYTES), dim);
                    match n {
                        1 => self.weigh::<S, E, 1, 4>(s, values, d, (r, j + skip, run - skip), factors),
                        2 => self.weigh::<S, E, 2, 4>(s, values, d, (r, j + skip, run - skip), factors),
                        _ => self.weigh::<S, E, 3, 4>(s, values, d, (r, j + skip, run - skip), factors),
                    }
                }
                r += n;
            }
            j += run;
        }
    }

    /// The same of packed values.
    #[inline(always)]
    fn packed_values<S: Simd>(
        &mut self,
        s: S,
        rows: &Range<usize>,
        seen: &[usize; ROWS],
        key: usize,
        n_keys: usize,
        rescale: &[f32; ROWS],
    ) {
        let (dim, width) = (self.at.value_dim, const { width::<S>() });
        let skip = self.start.saturating_sub(key).min(n_keys);
        for d in (0..dim).step_by(width) {
            let width = width.min(dim - d);
            let values = (self.packed[KEYS * (self.at.head_dim + d) + skip * width..].as_ptr().cast(), width);
            let mut r = rows.start;
            while r < rows.end {
                let n = group(true, rows.end - r);
                // Weights of values that no row of the group sees are zero.
                let which = (r, skip, seen[(r + n - 1) % ROWS].saturating_sub(skip));
                match (n, S::LANES == 4) {
                    (1, true) => self.weigh::<S, F32, 1, 4>(s, values, d, which, rescale),
                    (2, true) => self.weigh::<S, F32, 2, 4>(s, values, d, which, rescale),
                    (3, true) => self.weigh::<S, F32, 3, 4>(s, values, d, which, rescale),
                    (_, true) => self.weigh::<S, F32, 6, 4>(s, values, d, which, rescale),
                    (1, false) => self.weigh::<S, F32, 1, 2>(s, values, d, which, rescale),
                    (2, false) => self.weigh::<S, F32, 2, 2>(s, values, d, which, rescale),
                    (3, false) => self.weigh::<S, F32, 3, 2>(s, values, d, which, rescale),
                    (_, false) => self.weigh::<S, F32, 6, 2>(s, values, d, which, rescale),
                }
                r += n;
            }
        }
    }

    /// `acc = acc * factor + Σ weight · value` of a group of `T` rows, for at most `V` vectors of the elements, from `d` on,
    /// of `n` values from number `j` of the tile. `stride` elements are from a value to the next.
    #[inline(always)]
    fn weigh<S: Simd, E: Element, const T: usize, const V: usize>(
        &mut self,
        s: S,
        (values, stride): (*const u8, usize),
        d: usize,
        (row, j, n): (usize, usize, usize),
        factors: &[f32; ROWS],
    ) {
        let dim = self.at.value_dim;
        let weights: [*const f32; T] = std::array::from_fn(|t| self.scores[(row + t) % ROWS * KEYS + j..].as_ptr());
        let sums = self.acc[row * dim..(row + T) * dim][d..].as_mut_ptr();
        let width = (dim - d).min(V * S::LANES);
        // SAFETY: values are `n` rows of at least `width` elements, weights and sums are slices of the tile.
        unsafe {
            if width == V * S::LANES {
                // Loops, not closures, which would be left out of line and compiled without the instruction set.
                let mut acc = [[s.splat(0.0); V]; T];
                for t in 0..T {
                    let f = s.splat(factors[(row + t) % ROWS]);
                    for v in 0..V {
                        acc[t][v] = s.mul(f, s.load(sums.add(t * dim + v * S::LANES)));
                    }
                }
                for i in 0..n {
                    let mut xs = [s.splat(0.0); V];
                    for v in 0..V {
                        xs[v] = E::load(s, values.add((i * stride + v * S::LANES) * E::BYTES));
                    }
                    for t in 0..T {
                        let w = s.splat(*weights[t].add(i));
                        for v in 0..V {
                            acc[t][v] = s.fma(w, xs[v], acc[t][v]);
                        }
                    }
                }
                for t in 0..T {
                    for v in 0..V {
                        s.store(sums.add(t * dim + v * S::LANES), acc[t][v]);
                    }
                }
                return;
            }
            let mut d = 0;
            while d + S::LANES <= width {
                let mut acc = [s.splat(0.0); T];
                for t in 0..T {
                    acc[t] = s.mul(s.splat(factors[(row + t) % ROWS]), s.load(sums.add(t * dim + d)));
                }
                for i in 0..n {
                    let x = E::load(s, values.add((i * stride + d) * E::BYTES));
                    for t in 0..T {
                        acc[t] = s.fma(s.splat(*weights[t].add(i)), x, acc[t]);
                    }
                }
                for t in 0..T {
                    s.store(sums.add(t * dim + d), acc[t]);
                }
                d += S::LANES;
            }
            for d in d..width {
                for t in 0..T {
                    let p = sums.add(t * dim + d);
                    *p *= factors[(row + t) % ROWS];
                    for i in 0..n {
                        *p += *weights[t].add(i) * E::one(values.add((i * stride + d) * E::BYTES));
                    }
                }
            }
        }
    }
}
