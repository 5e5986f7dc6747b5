//! int8 kernels over packed groups: `R` output columns times a tile of `T` activation rows.
//!
//! Decode (one row) and prefill (many) are the same code with different `T`: weights are unpacked once per tile, and
//! a tile's sums stay in registers.

use super::act::{self, block, s256};
use super::affine::Group;
use super::codes::{Plain, Records, Scaled, codes4, codes5, codes6, codes8};
use super::{Layout, Output};
use crate::simd::{Kernel, Level, Simd, dispatch_int8};
use crate::tuning::Blocks;
use std::ops::Range;

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
    pub blocks: Blocks,
}

/// Multiplies `m` prepared rows with the rows of `groups`.
///
/// # Safety
/// The job's pointers are valid for these rows and groups; the output belongs to the caller.
pub(super) unsafe fn run(level: Level, layout: Layout, job: Job, m: usize, groups: Range<usize>) {
    match layout {
        Layout::Q4_0 => blocked(level, Q4_0, job, m, groups),
        Layout::Q8_0 => blocked(level, Q8_0, job, m, groups),
        Layout::Q4K => blocked(level, Q4K, job, m, groups),
        Layout::Q5K => blocked(level, Q5K, job, m, groups),
        Layout::Q6K => blocked(level, Q6K, job, m, groups),
        Layout::Affine(a) => match a.bits() {
            2 => blocked(level, Group::<2>(a), job, m, groups),
            3 => blocked(level, Group::<3>(a), job, m, groups),
            4 => blocked(level, Group::<4>(a), job, m, groups),
            5 => blocked(level, Group::<5>(a), job, m, groups),
            6 => blocked(level, Group::<6>(a), job, m, groups),
            _ => blocked(level, Group::<8>(a), job, m, groups),
        },
        Layout::Raw => unreachable!("the file's bytes have no int8 kernel"),
    }
}

fn blocked<Q: Quant>(level: Level, q: Q, job: Job, m: usize, groups: Range<usize>) {
    let tile = level.tile();
    let row_bytes = job.n_blocks * q.record();
    let block_rows = (job.blocks.act / row_bytes).max(tile) / tile * tile;
    let block_groups = (job.blocks.weight / job.group_bytes).max(1);
    let mut m0 = 0;
    while m0 < m {
        let rows = block_rows.min(m - m0);
        let whole = rows / tile * tile;
        let pairs = if Q::TWO_TILES && tile == 4 { rows / (2 * tile) * (2 * tile) } else { 0 };
        let mut g0 = groups.start;
        while g0 < groups.end {
            // A single tile needs no blocking of the weights.
            let g1 = if rows == 1 || rows == tile { groups.end } else { groups.end.min(g0 + block_groups) };
            if pairs > 0 {
                tiles(level, 2 * tile, q, job, g0..g1, m0..m0 + pairs);
            }
            if whole > pairs {
                tiles(level, tile, q, job, g0..g1, m0 + pairs..m0 + whole);
            }
            for (start, t) in act::tiles(rows - whole, tile) {
                let first = m0 + whole + start;
                tiles(level, t, q, job, g0..g1, first..first + t);
            }
            g0 = g1;
        }
        m0 += rows;
    }
}

/// Rows in tiles of `t`.
fn tiles<Q: Quant>(level: Level, t: usize, q: Q, job: Job, groups: Range<usize>, rows: Range<usize>) {
    match t {
        1 => dispatch_int8(level, Tiles::<Q, 1> { q, job, groups, rows }),
        2 => dispatch_int8(level, Tiles::<Q, 2> { q, job, groups, rows }),
        4 => dispatch_int8(level, Tiles::<Q, 4> { q, job, groups, rows }),
        8 => dispatch_int8(level, Tiles::<Q, 8> { q, job, groups, rows }),
        _ => unreachable!("tiles are 1, 2, 4 or 8 rows"),
    }
}

struct Tiles<Q, const T: usize> {
    q: Q,
    job: Job,
    groups: Range<usize>,
    rows: Range<usize>,
}

impl<Q: Quant, const T: usize> Kernel for Tiles<Q, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if T > S::TILE * (1 + usize::from(Q::TWO_TILES)) {
            return;
        }
        let Job { w, group_bytes, header_bytes, n_blocks, n, act, y, .. } = self.job;
        for group in self.groups {
            let column = group * S::LANES;
            let count = S::LANES.min(n - column);
            for row in self.rows.clone().step_by(T) {
                // SAFETY: `run` was promised valid operands for these groups and rows.
                unsafe {
                    let header = w.add(group * group_bytes);
                    let tile = |t: usize| act.wrapping_add((row + t) * n_blocks * self.q.record());
                    let records = Records { tiles: [tile(0), tile(S::TILE)], step: self.q.record() };
                    let sums = self.q.tile::<S, T>(s, header, header.add(header_bytes), records, n_blocks);
                    for t in 0..T {
                        s.store_first(y.ptr.add((row + t) * y.stride + y.col + column), sums[t], count);
                    }
                }
            }
        }
    }
}

/// Rows of a tile of which `T` rows are multiplied: a tile's, where `T` is two tiles.
pub(super) const fn rows<S: Simd, const T: usize>() -> usize {
    if T > S::TILE { S::TILE } else { T }
}

/// A packed format's arithmetic.
pub(super) trait Quant: Copy + 'static {
    /// Whether two tiles of four rows are multiplied at once: it pays where codes take many instructions to expand and a
    /// tile's partial sums end with each unit; other formats would have more sums than registers.
    const TWO_TILES: bool = false;

    /// Bytes of an activation record: one row's elements of one block.
    fn record(self) -> usize;

    /// Sums over all blocks of one group's rows times `T` activation rows.
    ///
    /// # Safety
    /// `header` and `body` are a group's, `act` a tile's, each of `n` blocks.
    unsafe fn tile<S: Simd, const T: usize>(self, s: S, header: *const u8, body: *const u8, act: Records, n: usize) -> [S::F; T];
}

/// The f32 at byte `at`.
///
/// # Safety
/// It is readable.
#[inline(always)]
pub(super) unsafe fn float<S: Simd>(s: S, p: *const u8, at: usize) -> S::F {
    // SAFETY: the caller points into an activation record.
    unsafe { s.splat(p.add(at).cast::<f32>().read_unaligned()) }
}

/// The scale of each row, number `i` of the header's.
///
/// # Safety
/// The header holds it.
#[inline(always)]
unsafe fn half<S: Simd>(s: S, header: *const u8, i: usize) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { s.load_f16(header.cast::<u16>().add(i * S::LANES)) }
}

#[derive(Clone, Copy)]
struct Q4_0;

impl Quant for Q4_0 {
    fn record(self) -> usize {
        block::bytes(32)
    }

    /// `d·da·(Σ q·a) - 8·d·da·Σ a`, codes `q` in 0..16.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(self, s: S, header: *const u8, body: *const u8, act: Records, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        let eight = s.splat(8.0);
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (q, a) = (body.add(b * 16 * S::LANES), act.add(b * rows::<S, T>() * block::bytes(32)));
                let mut sums = [s.isplat(0); T];
                codes4(s, &mut sums, q, a, Plain);
                let d = half(s, header, b);
                for t in 0..T {
                    let a = a.row::<S>(t);
                    let offset = s.mul(eight, float(s, a, block::sum(32)));
                    let scale = float(s, a, block::scale(32));
                    acc[t] = s.fma(s.sub(s.mul(s.to_f(sums[t]), scale), offset), d, acc[t]);
                }
            }
        }
        acc
    }
}

#[derive(Clone, Copy)]
struct Q8_0;

impl Quant for Q8_0 {
    fn record(self) -> usize {
        block::bytes(32)
    }

    /// `d·da·(Σ w·a)`, less the bias of packed weights times `Σ a`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(self, s: S, header: *const u8, body: *const u8, act: Records, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        let bias = s.splat(f32::from(S::I8_BIAS));
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (q, a) = (body.add(b * 32 * S::LANES), act.add(b * rows::<S, T>() * block::bytes(32)));
                let mut sums = [s.isplat(0); T];
                codes8(s, &mut sums, q, a);
                let d = half(s, header, b);
                for t in 0..T {
                    let a = a.row::<S>(t);
                    let mut dot = s.mul(s.to_f(sums[t]), float(s, a, block::scale(32)));
                    if S::I8_BIAS != 0 {
                        dot = s.fnma(bias, float(s, a, block::sum(32)), dot);
                    }
                    acc[t] = s.fma(dot, d, acc[t]);
                }
            }
        }
        acc
    }
}

/// The end of block `b` of Q4_K or Q5_K: `acc += d·da·sums - dmin·da·Σ min·(Σ a)`.
///
/// # Safety
/// `header` is the group's, `mins` the block's packed mins, `a` its records.
#[inline(always)]
unsafe fn with_mins<S: Simd, const T: usize>(
    s: S,
    acc: &mut [S::F; T],
    sums: [S::I; T],
    (header, b): (*const u8, usize),
    mins: *const u8,
    a: Records,
) {
    // SAFETY: offsets are within the block's header, mins and records.
    unsafe {
        let mut low = [s.isplat(0); T];
        for p in 0..4 {
            let m = s.load_pairs_u8(mins.add(2 * p * S::LANES));
            for t in 0..T {
                let pair = a.row::<S>(t).add(s256::SUMS32 + 4 * p).cast();
                low[t] = s.madd(low[t], m, s.dup_pair(pair));
            }
        }
        let (d, dmin) = (half(s, header, 2 * b), half(s, header, 2 * b + 1));
        for t in 0..T {
            let scale = float(s, a.row::<S>(t), s256::SCALE);
            acc[t] = s.fma(s.to_f(sums[t]), s.mul(d, scale), acc[t]);
            acc[t] = s.fnma(s.to_f(low[t]), s.mul(dmin, scale), acc[t]);
        }
    }
}

#[derive(Clone, Copy)]
struct Q4K;

impl Quant for Q4K {
    fn record(self) -> usize {
        s256::BYTES
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(self, s: S, header: *const u8, body: *const u8, act: Records, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (block, a) = (body.add(b * 144 * S::LANES), act.add(b * rows::<S, T>() * s256::BYTES));
                let codes = block.add(16 * S::LANES);
                let mut sums = [s.isplat(0); T];
                for p in 0..4 {
                    let scales = s.load_pairs_u8(block.add(2 * p * S::LANES));
                    for (h, scale) in [s.first(scales), s.second(scales)].into_iter().enumerate() {
                        let sub = 2 * p + h;
                        codes4(s, &mut sums, codes.add(sub * 16 * S::LANES), a.add(32 * sub), Scaled(scale));
                    }
                }
                with_mins(s, &mut acc, sums, (header, b), block.add(8 * S::LANES), a);
            }
        }
        acc
    }
}

#[derive(Clone, Copy)]
struct Q5K;

impl Quant for Q5K {
    fn record(self) -> usize {
        s256::BYTES
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(self, s: S, header: *const u8, body: *const u8, act: Records, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (block, a) = (body.add(b * 176 * S::LANES), act.add(b * rows::<S, T>() * s256::BYTES));
                let codes = block.add(16 * S::LANES);
                let mut sums = [s.isplat(0); T];
                for p in 0..4 {
                    let scales = s.load_pairs_u8(block.add(2 * p * S::LANES));
                    for (h, scale) in [s.first(scales), s.second(scales)].into_iter().enumerate() {
                        let sub = 2 * p + h;
                        codes5(s, &mut sums, codes.add(sub * 20 * S::LANES), a.add(32 * sub), Scaled(scale));
                    }
                }
                with_mins(s, &mut acc, sums, (header, b), block.add(8 * S::LANES), a);
            }
        }
        acc
    }
}

#[derive(Clone, Copy)]
struct Q6K;

impl Quant for Q6K {
    const TWO_TILES: bool = true;

    fn record(self) -> usize {
        s256::BYTES
    }

    /// `d·da·(Σ scale·(Σ q·a) - 32·Σ scale·(Σ a))`, codes `q` in 0..64.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize>(self, s: S, header: *const u8, body: *const u8, act: Records, n: usize) -> [S::F; T] {
        let mut acc = [s.splat(0.0); T];
        for b in 0..n {
            // SAFETY: block `b` of the group and of the tile.
            unsafe {
                let (block, a) = (body.add(b * 208 * S::LANES), act.add(b * rows::<S, T>() * s256::BYTES));
                let codes = block.add(16 * S::LANES);
                let mut sums = [s.isplat(0); T];
                for p in 0..8 {
                    let scales = s.load_pairs_i8(block.add(2 * p * S::LANES));
                    for (h, scale) in [s.first(scales), s.second(scales)].into_iter().enumerate() {
                        let unit = 2 * p + h;
                        codes6(s, &mut sums, codes.add(unit * 12 * S::LANES), a.add(16 * unit), Scaled(scale));
                    }
                }
                // Afterwards, because two tiles' sums fill the registers.
                let mut low = [s.isplat(0); T];
                for p in 0..8 {
                    let scales = s.load_pairs_i8(block.add(2 * p * S::LANES));
                    for t in 0..T {
                        let pair = a.row::<S>(t).add(s256::SUMS16 + 4 * p).cast();
                        low[t] = s.madd(low[t], scales, s.dup_pair(pair));
                    }
                }
                let d = half(s, header, b);
                for t in 0..T {
                    let sum = s.isub(sums[t], s.ishl::<5>(low[t]));
                    let scale = float(s, a.row::<S>(t), s256::SCALE);
                    acc[t] = s.fma(s.to_f(sum), s.mul(d, scale), acc[t]);
                }
            }
        }
        acc
    }
}
