//! Steps over ragged sequences: rotary embedding, cache writes, attention.

use crate::attention::{Attention, KvType, MOST_ROWS, ROWS, Segment, Stats};
use crate::frame::{Frame, Step};
use crate::simd::Level;
use crate::team::Worker;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rlx_ir::ops::{Mask, Rope, RopeStyle};
use rlx_ir::{DType, NodeId, ValueId};
use smallvec::SmallVec;
use std::ops::Range;

/// Frequencies of a rotation, ready to use.
pub(crate) struct Rotation {
    rope: Rope,
    /// Per pair: position axis and radians per position.
    pairs: Vec<(usize, f64)>,
    factor: f64,
}

impl Rotation {
    pub fn new(rope: &Rope) -> Rotation {
        let (freqs, factor) = rope.frequencies();
        Rotation { pairs: freqs.iter().enumerate().map(|(i, f)| (rope.axis(i), *f)).collect(), factor, rope: rope.clone() }
    }

    /// Cosine and sine of every pair at the positions of one token.
    fn table(&self, positions: &[u32], out: &mut SmallVec<[(f32, f32); 64]>) {
        out.clear();
        out.extend(self.pairs.iter().map(|(axis, f)| {
            let (sin, cos) = (f64::from(positions[*axis]) * f).sin_cos();
            ((cos * self.factor) as f32, (sin * self.factor) as f32)
        }));
    }

    /// Rotates one head.
    fn apply(&self, table: &[(f32, f32)], x: &[f32], y: &mut [f32]) {
        let half = table.len();
        y[2 * half..].copy_from_slice(&x[2 * half..]);
        match self.rope.style {
            RopeStyle::Half => {
                let (u, v) = x.split_at(half);
                let (yu, yv) = y.split_at_mut(half);
                for (i, (c, s)) in table.iter().enumerate() {
                    yu[i] = u[i] * c - v[i] * s;
                    yv[i] = v[i] * c + u[i] * s;
                }
            }
            RopeStyle::Interleaved => {
                for (i, (c, s)) in table.iter().enumerate() {
                    let (u, v) = (x[2 * i], x[2 * i + 1]);
                    (y[2 * i], y[2 * i + 1]) = (u * c - v * s, v * c + u * s);
                }
            }
        }
    }
}

/// Rotary embedding of `[T,H,D]`.
pub(crate) struct RopeStep {
    pub rotation: Rotation,
    pub x: ValueId,
    pub positions: ValueId,
    pub y: ValueId,
}

impl Step for RopeStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.ptr(self.y).cast::<f32>());
        let [t, h, d] = x.shape[..] else { return };
        // SAFETY: positions are dense u32 or non-negative i32, complete since an earlier phase.
        let positions = unsafe { f.dense::<u32>(self.positions) };
        let axes = positions.len() / t.max(1);
        let mut table = SmallVec::new();
        let mut of = usize::MAX;
        for r in w.share(t * h) {
            let (token, head) = (r / h, r % h);
            if token != of {
                self.rotation.table(&positions[token * axes..(token + 1) * axes], &mut table);
                of = token;
            }
            // SAFETY: heads are contiguous; row `r` of the result is this thread's.
            unsafe {
                let from = x.ptr.cast::<f32>().add(token * x.strides[0] + head * x.strides[1]);
                let to = std::slice::from_raw_parts_mut(y.add(r * d), d);
                self.rotation.apply(&table, std::slice::from_raw_parts(from, d), to);
            }
        }
    }
}

/// Which of attention's operands a cache is; it decides the layout of its blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// `[head][element][token]`.
    Key,
    /// `[head][token][element]`.
    Value,
}

/// Element type of a cache.
pub(crate) fn kv_type(d: DType) -> Option<KvType> {
    match d {
        DType::F32 => Some(KvType::F32),
        DType::F16 => Some(KvType::F16),
        DType::BF16 => Some(KvType::BF16),
        _ => None,
    }
}

/// Writes rows `[T,K,D]` behind what the segments have cached, rotated first where there is a rotation.
pub(crate) struct AppendStep {
    pub role: Role,
    pub kv: KvType,
    pub heads: usize,
    pub dim: usize,
    pub rotation: Option<(Rotation, ValueId)>,
    pub state: ValueId,
    pub rows: ValueId,
    pub seg: ValueId,
}

impl Step for AppendStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, base, ragged, bt) = (f.view(self.rows), f.ptr(self.state), f.ragged(self.seg), f.pool.block_tokens);
        let block_elements = self.heads * self.dim * bt;
        // By heads of tokens, so that one token, too, is work for all threads.
        let (mine, h) = (w.share(x.shape[0] * self.heads), self.heads);
        let mut table = SmallVec::new();
        let mut rotated: SmallVec<[f32; 256]> = SmallVec::from_elem(0.0, self.dim);
        let mut narrow: SmallVec<[u16; 256]> = SmallVec::from_elem(0, self.dim);
        for (i, (range, past, _)) in ragged.segments.iter().enumerate() {
            let blocks = &ragged.blocks[ragged.block_starts[i] as usize..];
            for t in range.start.max(mine.start / h)..range.end.min(mine.end.div_ceil(h)) {
                let position = past + t - range.start;
                let (block, slot) = (blocks[position / bt] as usize, position % bt);
                if let Some((r, p)) = &self.rotation {
                    // SAFETY: as in `RopeStep`.
                    let p = unsafe { f.dense::<u32>(*p) };
                    let axes = p.len() / x.shape[0];
                    r.table(&p[t * axes..(t + 1) * axes], &mut table);
                }
                for head in mine.start.saturating_sub(t * h)..h.min(mine.end - t * h) {
                    // SAFETY: the arguments are checked: blocks are inside the pool, and no two segments
                    // share one that is written to; heads are contiguous, and this one is this thread's.
                    unsafe {
                        let from = x.ptr.cast::<f32>().add(t * x.strides[0] + head * x.strides[1]);
                        let mut row = std::slice::from_raw_parts(from, self.dim);
                        if let Some((r, _)) = &self.rotation {
                            r.apply(&table, row, &mut rotated);
                            row = &rotated;
                        }
                        let block = base.add(block * block_elements * self.kv.bytes());
                        let (at, step) = match self.role {
                            Role::Key => (head * self.dim * bt + slot, bt),
                            Role::Value => ((head * bt + slot) * self.dim, 1),
                        };
                        match self.kv {
                            KvType::F32 => store(block.cast::<f32>().add(at), step, row),
                            KvType::F16 => {
                                narrow.reinterpret_cast_mut::<f16>().convert_from_f32_slice(row);
                                store(block.cast::<u16>().add(at), step, &narrow);
                            }
                            KvType::BF16 => {
                                narrow.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(row);
                                store(block.cast::<u16>().add(at), step, &narrow);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Writes `row` to every `step`th element.
///
/// # Safety
/// They are writable.
unsafe fn store<T: Copy>(to: *mut T, step: usize, row: &[T]) {
    for (d, x) in row.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { *to.add(d * step) = *x };
    }
}

/// Attention over cached sequences.  Stage 0 computes, stage 1 merges ranges of keys where a
/// problem was split over several threads.
pub(crate) struct AttentionStep {
    pub node: NodeId,
    pub level: Level,
    pub op: rlx_ir::ops::Attention,
    pub kv: KvType,
    pub kv_heads: usize,
    pub value_dim: usize,
    pub q: ValueId,
    pub keys: ValueId,
    pub values: ValueId,
    pub seg: ValueId,
    pub sinks: Option<ValueId>,
    pub y: ValueId,
}

/// Fewest keys worth a thread of their own.
const SPLIT_KEYS: usize = 256;
/// Most ranges of keys one problem is split into.
pub(crate) const MAX_SPLITS: usize = 16;

/// Ranges of keys that `units` problems over `n_keys` keys are split into for `nth` threads.
fn splits(units: usize, n_keys: usize, nth: usize) -> usize {
    if units >= 2 * nth { 1 } else { (2 * nth).div_ceil(units.max(1)).min(n_keys / SPLIT_KEYS).clamp(1, MAX_SPLITS) }
}

/// Tokens of a unit of work of prefill: whole tiles, as many as read keys and values together, or fewer where each thread
/// would have less than four units.
fn unit_tokens(tokens: usize, group: usize, kv_heads: usize, nth: usize) -> usize {
    let tile = (ROWS / group).max(1);
    (tokens * kv_heads / (4 * nth)).next_multiple_of(tile).clamp(tile, (MOST_ROWS / group).max(1))
}

/// Bytes of partial results of one decode token: sums and statistics of every head and split.
pub(crate) fn attention_scratch(tokens: usize, segments: usize, heads: usize, value_dim: usize) -> usize {
    // Only decoding (one token per segment) is split.
    if tokens > segments { 0 } else { tokens * heads * MAX_SPLITS * (value_dim + 2) * 4 }
}

impl AttentionStep {
    /// Calls `f(segment number, token range, past, kv head, tokens of the unit)` for every unit of at most `most` tokens.
    fn units(&self, f: &Frame<'_>, most: usize, mut each: impl FnMut(usize, usize, &Range<usize>, usize, usize, Range<usize>)) {
        let mut unit = 0;
        for (i, (range, past, _)) in f.ragged(self.seg).segments.iter().enumerate() {
            for first in (0..range.len()).step_by(most) {
                for head in 0..self.kv_heads {
                    each(unit, i, &range, past, head, first..(first + most).min(range.len()));
                    unit += 1;
                }
            }
        }
    }
}

impl Step for AttentionStep {
    fn stages(&self, _: &Frame<'_>) -> usize {
        2
    }

    fn run(&self, f: &Frame<'_>, stage: usize, w: Worker) {
        let q = f.view(self.q);
        let [tokens, heads, dim] = q.shape[..] else { return };
        let (y, ragged, bt) = (f.ptr(self.y).cast::<f32>(), f.ragged(self.seg), f.pool.block_tokens);
        let group = heads / self.kv_heads;
        let at = Attention {
            level: self.level,
            kv: self.kv,
            n_kv_heads: self.kv_heads,
            group,
            head_dim: dim,
            value_dim: self.value_dim,
            block_tokens: bt,
            scale: self.op.scale as f32,
            softcap: self.op.softcap.map(|c| c as f32),
            window: self.op.window,
            causal: self.op.mask == Mask::Causal,
        };
        // SAFETY: sinks are dense and complete.
        let sinks = self.sinks.map(|s| unsafe { f.dense::<f32>(s) });
        let (key_base, value_base) = (f.ptr(self.keys), f.ptr(self.values));
        let (key_bytes, value_bytes) = (at.key_block_bytes(), at.value_block_bytes());
        let segments = ragged.segments.count();
        let decode = tokens == segments;
        let units = segments * self.kv_heads;
        let (partial, _) = f.scratch(self.node.index());
        let part_floats = group * (self.value_dim + 2);

        let (mut keys, mut values): (SmallVec<[*const u8; 128]>, SmallVec<[*const u8; 128]>) = (SmallVec::new(), SmallVec::new());
        let mut of = usize::MAX;
        self.units(f, unit_tokens(tokens, group, self.kv_heads, w.nth), |unit, i, range, past, kv_head, toks| {
            let n_keys = past + range.len();
            let n = if decode { splits(units, n_keys, w.nth) } else { 1 };
            let mine = (0..n).any(|s| (unit * n + s) % w.nth == w.ith);
            if !mine || stage == 1 && (n == 1 || unit % w.nth != w.ith) {
                return;
            }
            if of != i {
                let blocks = &ragged.blocks[ragged.block_starts[i] as usize..][..n_keys.div_ceil(bt)];
                keys.clear();
                values.clear();
                // SAFETY: block numbers are checked against the pool.
                keys.extend(blocks.iter().map(|b| unsafe { key_base.add(*b as usize * key_bytes) }.cast_const()));
                // SAFETY: as above.
                values.extend(blocks.iter().map(|b| unsafe { value_base.add(*b as usize * value_bytes) }.cast_const()));
                of = i;
            }
            // SAFETY: heads of q are contiguous; outputs of this unit are this thread's; partial results of
            // each split have their own place in the scratch memory.
            unsafe {
                let seg = Segment {
                    q: q.ptr.cast::<f32>().add(range.start * q.strides[0] + kv_head * group * q.strides[1]),
                    q_stride: q.strides[0],
                    n_tokens: range.len(),
                    position: past,
                    n_keys,
                    kv_head,
                    keys: &keys,
                    values: &values,
                };
                let out_stride = heads * self.value_dim;
                let out = y.add(range.start * out_stride + kv_head * group * self.value_dim);
                let sinks = sinks.map(|s| &s[kv_head * group..(kv_head + 1) * group]);
                if n == 1 {
                    at.run(&seg, toks.start * group..toks.end * group, sinks, out, out_stride);
                    return;
                }
                let part = |s: usize| partial.cast::<f32>().add((unit * MAX_SPLITS + s) * part_floats);
                let cut = |s: usize| (n_keys * s / n).next_multiple_of(bt).min(n_keys);
                if stage == 0 {
                    for s in (0..n).filter(|s| (unit * n + s) % w.nth == w.ith) {
                        let end = if s + 1 == n { n_keys } else { cut(s + 1) };
                        let sums = std::slice::from_raw_parts_mut(part(s), group * self.value_dim);
                        let stats = std::slice::from_raw_parts_mut(part(s).add(group * self.value_dim).cast::<Stats>(), group);
                        at.partial(&seg, 0..group, cut(s)..end, sums, stats);
                    }
                } else {
                    for row in 0..group {
                        let parts = (0..n).map(|s| {
                            let stats = part(s).add(group * self.value_dim).cast::<Stats>().add(row);
                            (std::slice::from_raw_parts(part(s).add(row * self.value_dim), self.value_dim), *stats)
                        });
                        at.merge(row, parts, sinks, std::slice::from_raw_parts_mut(out.add(row * self.value_dim), self.value_dim));
                    }
                }
            }
        });
    }
}
