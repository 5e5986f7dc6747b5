//! Attention of one segment's new tokens over a paged key-value cache, for one key-value head at a time.
//!
//! Queries, outputs and all arithmetic are f32; keys and values are f32, f16 or bf16. Softmax is computed online over
//! tiles of keys. A range of keys can be computed apart from the rest ([`Attention::partial`]) and merged
//! ([`Attention::merge`]), so that long contexts split over threads.
//!
//! # Blocks
//!
//! The cache consists of blocks of [`Attention::block_tokens`] positions, a multiple of 16 (32 makes 16-bit keys
//! stream in whole cache lines). Key `j` of a segment is slot `j % block_tokens` of its block `j / block_tokens`.
//!
//! * keys: `[n_kv_heads][head_dim][block_tokens]`, so that lanes are keys and scores need no horizontal sums;
//! * values: `[n_kv_heads][block_tokens][value_dim]`.
//!
//! Slots that are not written yet may hold anything.

mod tile;

use crate::simd::element::{Bf16, F16, F32};
use crate::simd::{Level, dispatch};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use tile::{CHUNK, KEYS, Tile, Typed};
pub use tile::{MOST_ROWS, ROWS};

/// Element type of keys and values in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// bfloat16.
    BF16,
}

impl KvType {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 | KvType::BF16 => 2,
        }
    }

    /// # Safety
    /// `base` is writable for `at + 1` elements.
    unsafe fn write(self, base: *mut u8, at: usize, value: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                KvType::F32 => base.cast::<f32>().add(at).write_unaligned(value),
                KvType::F16 => {
                    let bits = half::f16::from_f32(value).to_bits();
                    base.cast::<u16>().add(at).write_unaligned(bits);
                }
                KvType::BF16 => {
                    let bits = half::bf16::from_f32(value).to_bits();
                    base.cast::<u16>().add(at).write_unaligned(bits);
                }
            }
        }
    }
}

/// Working memory of a thread: floats, and what each row of a tile sees with its statistics.
type Scratch = (Vec<f32>, Vec<(Range<usize>, Stats)>);

/// The fixed properties of an attention layer and of its cache.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Instruction set.
    pub level: Level,
    /// Elements of the cache.
    pub kv: KvType,
    /// Key-value heads in a block.
    pub n_kv_heads: usize,
    /// Query heads per key-value head.
    pub group: usize,
    /// Elements of a query or key.
    pub head_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    /// Positions of a block, a multiple of 16.
    pub block_tokens: usize,
    /// Factor of the dot products.
    pub scale: f32,
    /// `cap · tanh(score / cap)` of the scaled scores.
    pub softcap: Option<f32>,
    /// How many positions up to its own a token sees; all where absent.
    pub window: Option<usize>,
    /// Whether a token sees no position after its own.
    pub causal: bool,
}

/// New tokens of one segment, and the segment's cache.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Queries of the first new token and of the first query head that shares the key-value head.
    pub q: *const f32,
    /// Floats from a token's queries to the next token's. Heads lie `head_dim` apart.
    pub q_stride: usize,
    /// Number of new tokens.
    pub n_tokens: usize,
    /// Position of the first new token.
    pub position: usize,
    /// Keys in the cache, the new tokens' among them.
    pub n_keys: usize,
    /// Which of the block's heads.
    pub kv_head: usize,
    /// Key blocks; those below every window are not read.
    pub keys: &'a [*const u8],
    /// Value blocks.
    pub values: &'a [*const u8],
}

/// Largest score of a query row and the sum of `exp(score - max)`, which its unnormalised output belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// Largest score; -∞ where the row saw no key.
    pub max: f32,
    /// Sum of `exp(score - max)`.
    pub sum: f32,
}

impl Attention {
    /// Bytes of a block of keys.
    pub fn key_block_bytes(&self) -> usize {
        self.n_kv_heads * self.head_dim * self.block_tokens * self.kv.bytes()
    }

    /// Bytes of a block of values.
    pub fn value_block_bytes(&self) -> usize {
        self.n_kv_heads * self.value_dim * self.block_tokens * self.kv.bytes()
    }

    /// Rounds a key and a value to the cache's type and writes them to `slot` of `kv_head` of their blocks.
    ///
    /// # Safety
    /// The blocks have the sizes above, and nobody else touches these elements meanwhile.
    pub unsafe fn store(&self, keys: *mut u8, values: *mut u8, kv_head: usize, slot: usize, k: &[f32], v: &[f32]) {
        assert!(kv_head < self.n_kv_heads && slot < self.block_tokens, "slot {slot} of head {kv_head}");
        assert!(k.len() == self.head_dim && v.len() == self.value_dim, "elements of a key and a value");
        // SAFETY: head and slot are within the blocks.
        unsafe {
            for (d, &x) in k.iter().enumerate() {
                self.kv.write(keys, (kv_head * self.head_dim + d) * self.block_tokens + slot, x);
            }
            for (d, &x) in v.iter().enumerate() {
                self.kv.write(values, (kv_head * self.block_tokens + slot) * self.value_dim + d, x);
            }
        }
    }

    /// Query rows of a segment: token `i`'s head `h` of the group is row `i * group + h`.
    pub fn n_rows(&self, seg: &Segment<'_>) -> usize {
        seg.n_tokens * self.group
    }

    /// The keys that a row sees.
    pub fn visible(&self, seg: &Segment<'_>, row: usize) -> Range<usize> {
        let at = seg.position + row / self.group;
        let end = if self.causal { seg.n_keys.min(at + 1) } else { seg.n_keys };
        let start = self.window.map_or(0, |w| (at + 1).saturating_sub(w));
        start.min(end)..end
    }

    /// Attention of `rows` over all their keys. Row `r`'s result, `value_dim` floats, goes to
    /// `out + (r / group) * out_stride + (r % group) * value_dim`.
    ///
    /// `sinks`: a logit per head of the group that takes part in the softmax without a value. Rows that see no key
    /// become zeros.
    ///
    /// # Safety
    /// Queries and blocks are readable as described, and the rows' outputs belong to the caller.
    pub unsafe fn run(&self, seg: &Segment<'_>, rows: Range<usize>, sinks: Option<&[f32]>, out: *mut f32, out_stride: usize) {
        let place = |row: usize| (row / self.group) * out_stride + (row % self.group) * self.value_dim;
        // SAFETY: the caller's promise.
        unsafe {
            self.tiles(seg, rows, 0..seg.n_keys, |row, acc, stats| {
                let factor = self.normaliser(row, stats, sinks);
                let out = std::slice::from_raw_parts_mut(out.add(place(row)), self.value_dim);
                out.iter_mut().zip(acc).for_each(|(o, a)| *o = a * factor);
            });
        }
    }

    /// The part of `rows`' attention that comes from `keys`: unnormalised sums `[rows][value_dim]` and their [`Stats`].
    ///
    /// # Safety
    /// Queries and blocks are readable as described.
    ///
    /// # Panics
    /// When a slice has not the size of `rows`.
    pub unsafe fn partial(&self, seg: &Segment<'_>, rows: Range<usize>, keys: Range<usize>, sums: &mut [f32], stats: &mut [Stats]) {
        assert!(sums.len() == rows.len() * self.value_dim && stats.len() == rows.len(), "sizes of {} rows", rows.len());
        let first = rows.start;
        // SAFETY: the caller's promise.
        unsafe {
            self.tiles(seg, rows, keys, |row, acc, s| {
                sums[(row - first) * self.value_dim..][..self.value_dim].copy_from_slice(acc);
                stats[row - first] = s;
            });
        }
    }

    /// Merges the parts of one row over disjoint ranges of keys and writes its `value_dim` results.
    pub fn merge<'p>(&self, row: usize, parts: impl Iterator<Item = (&'p [f32], Stats)> + Clone, sinks: Option<&[f32]>, out: &mut [f32]) {
        let max = parts.clone().fold(f32::NEG_INFINITY, |m, (_, s)| m.max(s.max));
        out.fill(0.0);
        let mut sum = 0.0;
        for (sums, stats) in parts.filter(|(_, s)| s.sum > 0.0) {
            let weight = (stats.max - max).exp();
            sum += stats.sum * weight;
            out.iter_mut().zip(sums).for_each(|(o, a)| *o += a * weight);
        }
        let factor = self.normaliser(row, Stats { max, sum }, sinks);
        out.iter_mut().for_each(|o| *o *= factor);
    }

    /// What unnormalised sums are multiplied by.
    fn normaliser(&self, row: usize, s: Stats, sinks: Option<&[f32]>) -> f32 {
        if s.max == f32::NEG_INFINITY {
            return 0.0;
        }
        match sinks {
            None => 1.0 / s.sum,
            Some(logits) => {
                // With the sink the largest score is `top`; sums are relative to `s.max`.
                let sink = logits[row % self.group];
                let top = s.max.max(sink);
                let kept = (s.max - top).exp();
                kept / (s.sum * kept + (sink - top).exp())
            }
        }
    }

    /// Runs tiles of rows over `keys` and hands each row's unnormalised sums and statistics to `done`.
    unsafe fn tiles(&self, seg: &Segment<'_>, rows: Range<usize>, keys: Range<usize>, mut done: impl FnMut(usize, &[f32], Stats)) {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = const { RefCell::new((Vec::new(), Vec::new())) };
        }
        assert_eq!(self.block_tokens % (CHUNK / 2), 0, "positions of a block");
        assert!(rows.end <= self.n_rows(seg), "row {} of {}", rows.end, self.n_rows(seg));
        SCRATCH.with_borrow_mut(|(floats, tile_rows)| {
            floats.resize((MOST_ROWS + KEYS) * (self.head_dim + self.value_dim) + ROWS * KEYS, 0.0);
            let (scores, rest) = floats.split_at_mut(ROWS * KEYS);
            let (queries, rest) = rest.split_at_mut(MOST_ROWS * self.head_dim);
            let (acc, packed) = rest.split_at_mut(MOST_ROWS * self.value_dim);
            for first in rows.clone().step_by(MOST_ROWS) {
                let n = MOST_ROWS.min(rows.end - first);
                tile_rows.clear();
                tile_rows.extend((first..first + n).map(|r| (self.visible(seg, r), Stats { max: f32::NEG_INFINITY, sum: 0.0 })));
                acc[..n * self.value_dim].fill(0.0);
                // Rows of a tile are in order of position, so the first sees the earliest and the last the latest key.
                let start = tile_rows[0].0.start.max(keys.start);
                let end = tile_rows[n - 1].0.end.min(keys.end);
                let tile = Tile { at: self, seg, first, start, end, queries, scores, acc, packed, rows: tile_rows };
                match self.kv {
                    KvType::F32 => dispatch(self.level, Typed::<F32>(tile, PhantomData)),
                    KvType::F16 => dispatch(self.level, Typed::<F16>(tile, PhantomData)),
                    KvType::BF16 => dispatch(self.level, Typed::<Bf16>(tile, PhantomData)),
                }
                for (r, (_, stats)) in tile_rows.iter().enumerate() {
                    done(first + r, &acc[r * self.value_dim..][..self.value_dim], *stats);
                }
            }
        });
    }
}
