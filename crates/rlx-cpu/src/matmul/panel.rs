//! Products of many activation rows: both operands are first laid out in the order in which they are read.
//!
//! Of the weight, [`PANEL`] vectors of rows by [`DEPTH`] elements become a *panel*, `[DEPTH][rows]`, whose lanes are
//! rows: sums stay in registers, no lane is summed, and every load is used by several multiplications. Of the
//! activations, a few rows by the same elements become a *tile*, `[DEPTH][rows]`, one after the other: read in order,
//! and without the rows falling into the same sets of the cache, as rows of a power of two elements would (Goto and van
//! de Geijn, Anatomy of High-Performance Matrix Multiplication).

use super::WeightType;
use super::dense::{Job, widen};
use crate::simd::element::{Element, F16};
use crate::simd::{Kernel, Level, Simd, dispatch};
use std::cell::RefCell;
use std::ops::Range;

/// Vectors of rows in a panel.
const PANEL: usize = 2;
/// Elements of each row in a panel (a multiple of every block length, or a part of a row that ends it).
const DEPTH: usize = 256;
/// Floats of a cache line.
const LINE: usize = 16;

/// Working memory of a thread, in floats.
#[derive(Default)]
struct Room {
    /// A vector of rows, `[LANES][DEPTH]`.
    wide: Vec<f32>,
    /// `[DEPTH][PANEL * LANES]`, from the first cache line that begins in it.
    panel: Vec<f32>,
    /// Tiles of a piece of a block of activation rows, where they were not prepared for all threads.
    tiles: Vec<f32>,
}

/// Activation rows of a block of so many bytes.
pub(super) fn block_rows(act_bytes: usize) -> usize {
    (act_bytes / (4 * DEPTH)).max(1)
}

/// The pieces of `m` rows of `k` elements in blocks of `block` rows, as (rows, elements): a piece's tiles are stored one
/// after the other, and begin at element [`place`].
fn pieces(m: usize, k: usize, block: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let rows = (0..m).step_by(block).map(move |m0| m0..m.min(m0 + block));
    rows.flat_map(move |rows| (0..k).step_by(DEPTH).map(move |k0| (rows.clone(), k0..k.min(k0 + DEPTH))))
}

/// Where the tiles of a piece of rows of `k` elements begin among those of all.
fn place(rows: &Range<usize>, elements: &Range<usize>, k: usize) -> usize {
    rows.start * k + rows.len() * elements.start
}

/// Activation rows of the next tile, where `left` are left: sums, a step of the panel and an activation fill 16 or 32
/// registers.
fn tile_rows(left: usize, lanes: usize) -> usize {
    match left {
        12.. if lanes != 8 => 12,
        6.. => 6,
        3.. => 3,
        _ => 1,
    }
}

/// Lays out the share of thread `ith` of `nth` of the tiles of `m` rows `x` of `k` elements.
///
/// # Safety
/// `x` is readable for the rows and `to` writable for as many floats, and nobody else touches this share.
pub(super) unsafe fn prepare(level: Level, x: *const f32, m: usize, k: usize, block: usize, to: *mut f32, ith: usize, nth: usize) {
    let mut turn = ith;
    for (rows, elements) in pieces(m, k, block) {
        // SAFETY: the caller's promise; the pieces' places are within the tiles.
        let to = unsafe { to.add(place(&rows, &elements, k)) };
        turn = dispatch(level, Tiles { x, m, k, rows, elements, to, turn, nth });
    }
}

/// Multiplies all `m` activation rows with the weight's `rows`, in blocks of `block` activation rows, whose tiles are
/// [prepared](prepare), or laid out here.
///
/// # Safety
/// The job's operands and the tiles are valid for them, and the output belongs to the caller.
pub(super) unsafe fn run(level: Level, ty: WeightType, block: usize, job: Job, prepared: Option<*const f32>, m: usize, rows: Range<usize>) {
    thread_local! {
        static ROOM: RefCell<Room> = RefCell::default();
    }
    let width = PANEL * level.lanes();
    ROOM.with_borrow_mut(|Room { wide, panel, tiles: own }| {
        wide.resize(level.lanes() * DEPTH, 0.0);
        panel.resize(width * DEPTH + LINE, 0.0);
        let begin = panel.as_ptr().align_offset(4 * LINE);
        let panel = &mut panel[begin..];
        for (now, k) in pieces(m, job.k, block) {
            let tiles = match prepared {
                // SAFETY: the caller's promise.
                Some(tiles) => unsafe { tiles.add(place(&now, &k, job.k)) },
                None => {
                    own.resize(now.len() * k.len(), 0.0);
                    let to = own.as_mut_ptr();
                    dispatch(level, Tiles { x: job.x, m, k: job.k, rows: now.clone(), elements: k.clone(), to, turn: 0, nth: 1 });
                    to.cast_const()
                }
            };
            for row in rows.clone().step_by(width) {
                let n = width.min(rows.end - row);
                dispatch(level, Fill { ty, job, row, n, k: k.clone(), wide, panel });
                let next = Next::after(ty, &job, row + width..rows.end.min(row + 2 * width), &k);
                dispatch(level, Multiply { panel, tiles, m: now.clone(), k: k.clone(), row, n, job, next });
            }
        }
    });
}

/// Lays out every `nth` tile from `turn` on of `elements` of activation rows `rows`, of `m` of `k` elements that there
/// are. Returns the turn of the next piece's tiles.
struct Tiles {
    x: *const f32,
    m: usize,
    k: usize,
    rows: Range<usize>,
    elements: Range<usize>,
    to: *mut f32,
    turn: usize,
    nth: usize,
}

impl Kernel for Tiles {
    type Out = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let (len, mut row, mut turn) = (self.elements.len(), self.rows.start, self.turn);
        while row < self.rows.end {
            let t = tile_rows(self.rows.end - row, S::LANES);
            if turn == 0 {
                // SAFETY: the caller was promised `m` rows of activations and room for the tiles of `rows`.
                unsafe {
                    let x = self.x.add(row * self.k + self.elements.start);
                    let out = self.to.add((row - self.rows.start) * len);
                    // Rows are read and stored by whole vectors: what is stored past a step is written again by the next,
                    // so the last steps, whose vectors would end past the tile, are not of these.
                    let vectors = t.next_multiple_of(S::LANES);
                    let whole = match (len * t).checked_sub(vectors) {
                        Some(last) if row + vectors <= self.m => (last / t + 1) / 8 * 8,
                        _ => 0,
                    };
                    for i in (0..whole).step_by(8) {
                        for first in (0..t).step_by(S::LANES) {
                            let words = s.load_rows(x.add(first * self.k + i).cast(), 4 * self.k);
                            for c in 0..8 {
                                s.store_b(out.add((i + c) * t + first).cast(), words[c]);
                            }
                        }
                    }
                    for i in whole..len {
                        for r in 0..t {
                            *out.add(i * t + r) = *x.add(r * self.k + i);
                        }
                    }
                }
            }
            turn = turn.checked_sub(1).unwrap_or(self.nth - 1);
            row += t;
        }
        turn
    }
}

/// Lays out elements `k` of the weight's `n` rows from `row` in a panel; rows that there are not are zero.
struct Fill<'a> {
    ty: WeightType,
    job: Job,
    row: usize,
    n: usize,
    k: Range<usize>,
    wide: &'a mut [f32],
    panel: &'a mut [f32],
}

impl Kernel for Fill<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (len, Job { w, row_bytes, .. }) = (self.k.len(), self.job);
        let (from, to) = (self.ty.row_bytes(self.k.start), self.ty.row_bytes(self.k.end));
        assert!(self.wide.len() >= S::LANES * DEPTH && self.panel.len() >= PANEL * S::LANES * DEPTH, "room of a panel");
        for v in 0..PANEL {
            let n = self.n.saturating_sub(v * S::LANES).min(S::LANES);
            let whole = n == S::LANES && len % 16 == 0;
            // SAFETY: the weight holds `n` rows from `row`, and the panel `len` steps.
            unsafe {
                let out = self.panel.as_mut_ptr().add(v * S::LANES);
                let rows = w.add((self.row + v * S::LANES) * row_bytes + from);
                match self.ty {
                    WeightType::F32 if whole => turn(s, rows, row_bytes, len, out),
                    WeightType::BF16 if whole => turn_bf16(s, rows, row_bytes, len, out),
                    _ => {
                        for (r, wide) in self.wide.chunks_exact_mut(DEPTH).take(S::LANES).enumerate() {
                            if r < n {
                                let bytes = std::slice::from_raw_parts(rows.add(r * row_bytes), to - from);
                                match self.ty {
                                    WeightType::F16 => widen_f16(s, bytes, &mut wide[..len]),
                                    ty => widen(ty, bytes, &mut wide[..len]),
                                }
                            } else {
                                wide[..len].fill(0.0);
                            }
                        }
                        turn(s, self.wide.as_ptr().cast(), 4 * DEPTH, len.next_multiple_of(8), out);
                    }
                }
            }
        }
    }
}

/// Turns f32 `[LANES][len]`, rows `stride` bytes apart, into steps of a panel.
///
/// # Safety
/// `len` is a multiple of 8, the rows are readable and the panel's steps writable.
#[inline(always)]
unsafe fn turn<S: Simd>(s: S, rows: *const u8, stride: usize, len: usize, out: *mut f32) {
    for i in (0..len).step_by(8) {
        // SAFETY: the caller's promise.
        unsafe {
            let words = s.load_rows(rows.add(4 * i), stride);
            for c in 0..8 {
                s.store_b(out.add((i + c) * PANEL * S::LANES).cast(), words[c]);
            }
        }
    }
}

/// As [`turn`], of bfloat16, which are two to a word.
///
/// # Safety
/// As there; `len` is a multiple of 16.
#[inline(always)]
unsafe fn turn_bf16<S: Simd>(s: S, rows: *const u8, stride: usize, len: usize, out: *mut f32) {
    for i in (0..len).step_by(16) {
        // SAFETY: the caller's promise.
        unsafe {
            let words = s.load_rows(rows.add(2 * i), stride);
            for c in 0..8 {
                for (h, v) in s.widen_bf16(words[c]).into_iter().enumerate() {
                    s.store(out.add((i + 2 * c + h) * PANEL * S::LANES), v);
                }
            }
        }
    }
}

/// Widens half floats.
#[inline(always)]
fn widen_f16<S: Simd>(s: S, bytes: &[u8], out: &mut [f32]) {
    let n = out.len().min(bytes.len() / 2);
    let mut i = 0;
    // SAFETY: all indices are below `n`, which both slices reach.
    unsafe {
        while i + S::LANES <= n {
            s.store(out.as_mut_ptr().add(i), F16::load(s, bytes.as_ptr().add(2 * i)));
            i += S::LANES;
        }
        while i < n {
            out[i] = F16::one(bytes.as_ptr().add(2 * i));
            i += 1;
        }
    }
}

/// Where the next panel's elements are: it is asked for while one is multiplied.
#[derive(Clone, Copy)]
struct Next {
    at: *const u8,
    rows: usize,
    row_bytes: usize,
    /// Cache lines of each row.
    lines: usize,
}

impl Next {
    fn after(ty: WeightType, job: &Job, rows: Range<usize>, k: &Range<usize>) -> Next {
        let bytes = ty.row_bytes(k.end) - ty.row_bytes(k.start);
        Next {
            at: job.w.wrapping_add(rows.start * job.row_bytes + ty.row_bytes(k.start)),
            rows: rows.len(),
            row_bytes: job.row_bytes,
            lines: bytes.div_ceil(64),
        }
    }

    /// Asks for the lines whose numbers are in `which`, counted row by row.
    #[inline(always)]
    fn ask<S: Simd>(&self, s: S, which: Range<usize>) {
        for i in which {
            s.prefetch(self.at.wrapping_add(i / self.lines * self.row_bytes + i % self.lines * 64));
        }
    }
}

/// A panel of `n` rows from `row` by elements `k`, times the tiles of activation rows `m`; adds where `k` is not the
/// first piece.
struct Multiply<'a> {
    panel: &'a [f32],
    tiles: *const f32,
    m: Range<usize>,
    k: Range<usize>,
    row: usize,
    n: usize,
    job: Job,
    next: Next,
}

impl Kernel for Multiply<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.panel.len() >= self.k.len() * PANEL * S::LANES, "elements of a panel");
        let mut m = self.m.start;
        let (lines, mut asked) = (self.next.rows * self.next.lines, 0);
        while m < self.m.end {
            let t = tile_rows(self.m.end - m, S::LANES);
            match t {
                12 if S::LANES != 8 => self.tile::<S, 12>(s, m),
                6 => self.tile::<S, 6>(s, m),
                3 => self.tile::<S, 3>(s, m),
                _ => self.tile::<S, 1>(s, m),
            }
            m += t;
            let upto = lines * (m - self.m.start) / self.m.len();
            self.next.ask(s, asked..upto);
            asked = upto;
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(&self, s: S, m: usize) {
        let (len, y) = (self.k.len(), self.job.y);
        let mut acc = [[s.splat(0.0); PANEL]; T];
        // SAFETY: the panel and the tile hold `len` steps; the output's elements are the caller's.
        unsafe {
            let out = y.ptr.add(m * y.stride + y.col + self.row);
            let at = |t: usize, v: usize| out.wrapping_add(t * y.stride + v * S::LANES);
            // The output is far away: it is asked for before the sums are made, and read after.
            for t in 0..T {
                for v in 0..PANEL {
                    s.prefetch(at(t, v).cast_const().cast());
                }
            }
            let (mut x, mut p) = (self.tiles.add((m - self.m.start) * len), self.panel.as_ptr());
            for _ in 0..len {
                let mut w = [s.load(p); PANEL];
                for v in 1..PANEL {
                    w[v] = s.load(p.add(v * S::LANES));
                }
                for t in 0..T {
                    let a = s.splat(*x.add(t));
                    for v in 0..PANEL {
                        acc[t][v] = s.fma(w[v], a, acc[t][v]);
                    }
                }
                x = x.add(T);
                p = p.add(PANEL * S::LANES);
            }
            for t in 0..T {
                for v in 0..PANEL {
                    let (at, count) = (at(t, v), S::LANES.min(self.n.saturating_sub(v * S::LANES)));
                    if self.k.start > 0 {
                        acc[t][v] = s.add(acc[t][v], s.load_first(at, count));
                    }
                    s.store_first(at, acc[t][v], count);
                }
            }
        }
    }
}
