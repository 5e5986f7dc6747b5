//! int8 kernels over packed groups: `R` output columns times a tile of `T` activation rows.
//!
//! Decode (one row) and prefill (many) are the same code with different `T`: weights are unpacked once per tile, and
//! a tile's sums stay in registers.

use super::act::{self, b32, s256};
use super::{Layout, Output};
use crate::simd::{Kernel, Level, Simd, dispatch};
use std::ops::Range;

/// Bytes of prepared activations that are multiplied with all row groups before the next rows' turn.
const ACT_BLOCK_BYTES: usize = 256 << 10;
/// Bytes of weights that are multiplied with all tiles of such a block before the next weights' turn.
const WEIGHT_BLOCK_BYTES: usize = 128 << 10;
/// How far before its use a single row's pass over the weights asks for memory.
const AHEAD: usize = 2048;

/// A product's operands, checked by the caller.
#[derive(Clone, Copy)]
pub(super) struct Job {
    /// Packed weight.
    pub w: *const u8,
    pub group_bytes: usize,
    pub header_bytes: usize,
    /// Blocks of a row.
    pub n_blocks: usize,
    /// Rows of the weight.
    pub n: usize,
    /// Prepared activations.
    pub act: *const u8,
    pub y: Output,
}

/// Multiplies `m` prepared rows with the rows of `groups`.
///
/// # Safety
/// The job's pointers are valid for these rows and groups; the output belongs to the caller.
pub(super) unsafe fn run(level: Level, layout: Layout, job: Job, m: usize, groups: Range<usize>) {
    match layout {
        Layout::Q4_0 => blocked::<Q4_0>(level, job, m, groups),
        Layout::Q8_0 => blocked::<Q8_0>(level, job, m, groups),
        Layout::Q4K => blocked::<Q4K>(level, job, m, groups),
        Layout::Q5K => blocked::<Q5K>(level, job, m, groups),
        Layout::Q6K => blocked::<Q6K>(level, job, m, groups),
        Layout::Raw => unreachable!("the file's bytes have no int8 kernel"),
    }
}

fn blocked<Q: Quant>(level: Level, job: Job, m: usize, groups: Range<usize>) {
    let tile = level.tile();
    let row_bytes = job.n_blocks * Q::RECORD;
    let block_rows = (ACT_BLOCK_BYTES / row_bytes).max(tile) / tile * tile;
    let block_groups = (WEIGHT_BLOCK_BYTES / job.group_bytes).max(1);
    let mut m0 = 0;
    while m0 < m {
        let rows = block_rows.min(m - m0);
        let whole = rows / tile * tile;
        let mut g0 = groups.start;
        while g0 < groups.end {
            // A single tile needs no blocking of the weights.
            let g1 = if rows == 1 || rows == tile { groups.end } else { groups.end.min(g0 + block_groups) };
            if whole > 0 {
                tiles::<Q>(level, tile, job, g0..g1, m0..m0 + whole);
            }
            for (start, t) in act::tiles(rows - whole, tile) {
                let first = m0 + whole + start;
                tiles::<Q>(level, t, job, g0..g1, first..first + t);
            }
            g0 = g1;
        }
        m0 += rows;
    }
}

/// Rows in tiles of `t`.
fn tiles<Q: Quant>(level: Level, t: usize, job: Job, groups: Range<usize>, rows: Range<usize>) {
    match t {
        1 => dispatch(level, Tiles::<Q, 1>::new(job, groups, rows)),
        2 => dispatch(level, Tiles::<Q, 2>::new(job, groups, rows)),
        4 => dispatch(level, Tiles::<Q, 4>::new(job, groups, rows)),
        8 => dispatch(level, Tiles::<Q, 8>::new(job, groups, rows)),
        _ => unreachable!("tiles are 1, 2, 4 or 8 rows"),
    }
}

struct Tiles<Q, const T: usize> {
    job: Job,
    groups: Range<usize>,
    rows: Range<usize>,
    format: std::marker::PhantomData<Q>,
}

impl<Q: Quant, const T: usize> Tiles<Q, T> {
    fn new(job: Job, groups: Range<usize>, rows: Range<usize>) -> Self {
        Tiles { job, groups, rows, format: std::marker::PhantomData }
    }
}

impl<Q: Quant, const T: usize> Kernel for Tiles<Q, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if T > S::TILE {
            return;
        }
        let Job { w, group_bytes, header_bytes, n_blocks, n, act, y } = self.job;
        for group in self.groups {
            let column = group * S::LANES;
            let count = S::LANES.min(n - column);
            for row in self.rows.clone().step_by(T) {
                // SAFETY: `run` was promised valid operands for these groups and rows.
                unsafe {
                    let header = w.add(group * group_bytes);
                    let sums = Q::tile::<S, T>(s, header.cast(), header.add(header_bytes), act.add(row * n_blocks * Q::RECORD), n_blocks);
                    for t in 0..T {
                        s.store_first(y.ptr.add((row + t) * y.stride + y.col + column), sums[t], count);
                    }
                }
            }
        }
    }
}

/// A packed format's arithmetic.
trait Quant: 'static {
    /// Bytes of an activation record: one row's elements of one block.
    const RECORD: usize;

    /// Sums over all blocks of one group's rows times `T` activation rows.
    ///
    /// # Safety
    /// `header` and `body` are a group's, `act` a tile's, each of `n` blocks.
    unsafe fn tile<S: Simd, const T: usize>(s: S, header: *const u16, body: *const u8, act: *const u8, n: usize) -> [S::F; T];
}

/// The f32 at byte `at`.
#[inline(always)]
unsafe fn float<S: Simd>(s: S, p: *const u8, at: usize) -> S::F {
    // SAFETY: the caller points into an activation record.
    unsafe { s.splat(p.add(at).cast::<f32>().read_unaligned()) }
}

struct Q4_0;

impl Quant for Q4_0 {
    const RECORD: usize = b32::BYTES;

    /// `d·da·(Σ q·a) - 8·d·da·Σ a`, codes `q` in 0..16.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, header: *const u16, body: *const u8, act: *const u8, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        let eight = s.splat(8.0);
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (q, a) = (body.add(b * 16 * S::LANES), act.add(b * T * b32::BYTES));
                let mut part = [s.part(); T];
                for v in 0..4 {
                    let w = words::<S, T>(s, q.add(v * 4 * S::LANES));
                    nibbles(s, &mut part, w, a.add(8 * v), b32::BYTES);
                }
                let d = s.load_f16(header.add(b * S::LANES));
                for t in 0..T {
                    let a = a.add(t * b32::BYTES);
                    let offset = s.mul(eight, float(s, a, b32::SUM));
                    let scale = float(s, a, b32::SCALE);
                    let dot = s.to_f(s.part_to_i(part[t]));
                    acc[t] = s.fma(s.sub(s.mul(dot, scale), offset), d, acc[t]);
                }
            }
        }
        acc
    }
}

/// A vector of weights, where they pass only once asking for those to come.
///
/// # Safety
/// `p` is readable for a vector.
#[inline(always)]
unsafe fn words<S: Simd, const T: usize>(s: S, p: *const u8) -> S::B {
    if T == 1 {
        s.prefetch(p.wrapping_add(AHEAD));
    }
    // SAFETY: the caller's promise.
    unsafe { s.load_b(p) }
}

/// Adds the products of two chunks of codes (low and high nibbles of `w`) with the eight activations at `a`.
#[inline(always)]
unsafe fn nibbles<S: Simd, const T: usize>(s: S, part: &mut [S::Part; T], w: S::B, a: *const u8, step: usize) {
    let (lo, hi) = (s.bits_shr::<0>(w, 15), s.bits_shr::<4>(w, 15));
    for t in 0..T {
        // SAFETY: the caller points at eight activations of each of T records, `step` bytes apart.
        unsafe {
            let a = a.add(t * step).cast::<i8>();
            part[t] = s.dot(part[t], lo, s.dup4(a));
            part[t] = s.dot(part[t], hi, s.dup4(a.add(4)));
        }
    }
}

struct Q8_0;

impl Quant for Q8_0 {
    const RECORD: usize = b32::BYTES;

    /// `d·da·(Σ w·a)`, less the bias of packed weights times `Σ a`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, header: *const u16, body: *const u8, act: *const u8, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        let bias = s.splat(f32::from(S::I8_BIAS));
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (q, a) = (body.add(b * 32 * S::LANES), act.add(b * T * b32::BYTES));
                let mut sum = [s.isplat(0); T];
                for c in 0..8 {
                    let w = s.prep8(words::<S, T>(s, q.add(c * 4 * S::LANES)));
                    for t in 0..T {
                        sum[t] = s.dot8(sum[t], w, s.dup4(a.add(t * b32::BYTES + 4 * c).cast()));
                    }
                }
                let d = s.load_f16(header.add(b * S::LANES));
                for t in 0..T {
                    let a = a.add(t * b32::BYTES);
                    let mut dot = s.mul(s.to_f(sum[t]), float(s, a, b32::SCALE));
                    if S::I8_BIAS != 0 {
                        dot = s.fnma(bias, float(s, a, b32::SUM), dot);
                    }
                    acc[t] = s.fma(dot, d, acc[t]);
                }
            }
        }
        acc
    }
}

/// The end of a Q4_K or Q5_K block: `acc += d·da·sums - dmin·da·Σ min·(Σ a)`.
///
/// # Safety
/// `header` is the block's, `mins` its packed mins, `a` its records.
#[inline(always)]
unsafe fn with_mins<S: Simd, const T: usize>(
    s: S,
    acc: &mut [S::F; T],
    sums: [S::I; T],
    header: *const u16,
    mins: *const u8,
    a: *const u8,
) {
    // SAFETY: offsets are within the block's header, mins and records.
    unsafe {
        let mut low = [s.isplat(0); T];
        for p in 0..4 {
            let m = s.load_pairs_u8(mins.add(2 * p * S::LANES));
            for t in 0..T {
                let pair = a.add(t * s256::BYTES + s256::SUMS32 + 4 * p).cast();
                low[t] = s.madd(low[t], m, s.dup_pair(pair));
            }
        }
        let (d, dmin) = (s.load_f16(header), s.load_f16(header.add(S::LANES)));
        for t in 0..T {
            let scale = float(s, a, t * s256::BYTES + s256::SCALE);
            acc[t] = s.fma(s.to_f(sums[t]), s.mul(d, scale), acc[t]);
            acc[t] = s.fnma(s.to_f(low[t]), s.mul(dmin, scale), acc[t]);
        }
    }
}

struct Q4K;

impl Quant for Q4K {
    const RECORD: usize = s256::BYTES;

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, header: *const u16, body: *const u8, act: *const u8, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (block, a) = (body.add(b * 144 * S::LANES), act.add(b * T * s256::BYTES));
                let codes = block.add(16 * S::LANES);
                let mut sums = [s.isplat(0); T];
                for p in 0..4 {
                    let scales = s.load_pairs_u8(block.add(2 * p * S::LANES));
                    for (h, scale) in [s.first(scales), s.second(scales)].into_iter().enumerate() {
                        let sub = 2 * p + h;
                        let mut part = [s.part(); T];
                        for v in 0..4 {
                            let w = words::<S, T>(s, codes.add((4 * sub + v) * 4 * S::LANES));
                            nibbles(s, &mut part, w, a.add(32 * sub + 8 * v), s256::BYTES);
                        }
                        for t in 0..T {
                            sums[t] = s.flush(sums[t], part[t], scale);
                        }
                    }
                }
                with_mins(s, &mut acc, sums, header.add(2 * b * S::LANES), block.add(8 * S::LANES), a);
            }
        }
        acc
    }
}

struct Q5K;

impl Quant for Q5K {
    const RECORD: usize = s256::BYTES;

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, header: *const u16, body: *const u8, act: *const u8, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (block, a) = (body.add(b * 176 * S::LANES), act.add(b * T * s256::BYTES));
                let codes = block.add(16 * S::LANES);
                let mut sums = [s.isplat(0); T];
                for p in 0..4 {
                    let scales = s.load_pairs_u8(block.add(2 * p * S::LANES));
                    for (h, scale) in [s.first(scales), s.second(scales)].into_iter().enumerate() {
                        let sub = 2 * p + h;
                        let codes = codes.add(sub * 20 * S::LANES);
                        let fifth = words::<S, T>(s, codes);
                        let low = |v: usize| words::<S, T>(s, codes.add((1 + v) * 4 * S::LANES));
                        let high = [
                            (s.bits_shl::<4>(fifth, 16), s.bits_shl::<3>(fifth, 16)),
                            (s.bits_shl::<2>(fifth, 16), s.bits_shl::<1>(fifth, 16)),
                            (s.bits_shr::<0>(fifth, 16), s.bits_shr::<1>(fifth, 16)),
                            (s.bits_shr::<2>(fifth, 16), s.bits_shr::<3>(fifth, 16)),
                        ];
                        let mut part = [s.part(); T];
                        for v in 0..4 {
                            let w = low(v);
                            let even = s.or(s.bits_shr::<0>(w, 15), high[v].0);
                            let odd = s.or(s.bits_shr::<4>(w, 15), high[v].1);
                            for t in 0..T {
                                let a = a.add(t * s256::BYTES + 32 * sub + 8 * v).cast::<i8>();
                                part[t] = s.dot(part[t], even, s.dup4(a));
                                part[t] = s.dot(part[t], odd, s.dup4(a.add(4)));
                                if (2 * v + 2) % S::U5_DOTS == 0 {
                                    sums[t] = s.flush(sums[t], part[t], scale);
                                    part[t] = s.part();
                                }
                            }
                        }
                    }
                }
                with_mins(s, &mut acc, sums, header.add(2 * b * S::LANES), block.add(8 * S::LANES), a);
            }
        }
        acc
    }
}

struct Q6K;

impl Quant for Q6K {
    const RECORD: usize = s256::BYTES;

    /// `d·da·(Σ scale·(Σ q·a) - 32·Σ scale·(Σ a))`, codes `q` in 0..64.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(s: S, header: *const u16, body: *const u8, act: *const u8, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (block, a) = (body.add(b * 208 * S::LANES), act.add(b * T * s256::BYTES));
                let codes = block.add(16 * S::LANES);
                let mut sums = [s.isplat(0); T];
                let mut low = [s.isplat(0); T];
                for p in 0..8 {
                    let scales = s.load_pairs_i8(block.add(2 * p * S::LANES));
                    for (h, scale) in [s.first(scales), s.second(scales)].into_iter().enumerate() {
                        let unit = 2 * p + h;
                        let codes = codes.add(unit * 12 * S::LANES);
                        let load = |i: usize| words::<S, T>(s, codes.add(i * 4 * S::LANES));
                        let (l0, l1, high) = (load(0), load(1), load(2));
                        let w = [
                            s.or(s.bits_shr::<0>(l0, 15), s.bits_shl::<4>(high, 48)),
                            s.or(s.bits_shr::<4>(l0, 15), s.bits_shl::<2>(high, 48)),
                            s.or(s.bits_shr::<0>(l1, 15), s.bits_shr::<0>(high, 48)),
                            s.or(s.bits_shr::<4>(l1, 15), s.bits_shr::<2>(high, 48)),
                        ];
                        for t in 0..T {
                            let a = a.add(t * s256::BYTES + 16 * unit).cast::<i8>();
                            let mut part = s.part();
                            for c in 0..4 {
                                part = s.dot(part, w[c], s.dup4(a.add(4 * c)));
                                if (c + 1) % S::U6_DOTS == 0 {
                                    sums[t] = s.flush(sums[t], part, scale);
                                    part = s.part();
                                }
                            }
                        }
                    }
                    for t in 0..T {
                        let pair = a.add(t * s256::BYTES + s256::SUMS16 + 4 * p).cast();
                        low[t] = s.madd(low[t], scales, s.dup_pair(pair));
                    }
                }
                let d = s.load_f16(header.add(b * S::LANES));
                for t in 0..T {
                    let sum = s.isub(sums[t], s.ishl::<5>(low[t]));
                    let scale = float(s, a, t * s256::BYTES + s256::SCALE);
                    acc[t] = s.fma(s.to_f(sum), s.mul(d, scale), acc[t]);
                }
            }
        }
        acc
    }
}
