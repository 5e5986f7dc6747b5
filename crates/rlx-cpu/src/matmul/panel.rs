//! Products of many activation rows: both operands are first laid out in the order in which they are read.
//!
//! Of the weight, [`PANEL`] vectors of rows by [`DEPTH`] elements become a *panel*, `[DEPTH][rows]`, whose lanes are
//! rows: sums stay in registers, no lane is summed, and every load is used by several multiplications. Of the
//! activations, a few rows by the same elements become a *tile*, `[DEPTH][rows]`, one after the other: read in order,
//! and without the rows falling into the same sets of the cache, as rows of a power of two elements would (Goto and van
//! de Geijn, Anatomy of High-Performance Matrix Multiplication).
//!
//! A step of either is a word per row: an f32, or where the processor multiplies them as they are ([`Words::Bf16`]), two
//! consecutive bfloat16, to which activations are then rounded.

use super::dense::{Job, widen};
use super::{Output, WeightType};
use crate::simd::element::{Element, F16};
use crate::simd::{Kernel, Level, Simd, dispatch, dispatch_bf16};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// Vectors of rows in a panel.
const PANEL: usize = 2;
/// Elements of each row in a panel (a multiple of every block length, or a part of a row that ends it).
const DEPTH: usize = 256;
/// Floats of a cache line.
const LINE: usize = 16;
/// Rows of the widest vector, and so of what a tile's rows are rounded into.
const MOST_LANES: usize = 16;

/// What the words of panels and tiles are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Words {
    /// An element, as f32.
    F32,
    /// Two elements, as bfloat16; the second is zero where a row ends with the first.
    Bf16,
}

impl Words {
    /// Words of a row's `len` elements.
    pub(super) fn of(self, len: usize) -> usize {
        match self {
            Words::F32 => len,
            Words::Bf16 => len.div_ceil(2),
        }
    }
}

/// Working memory of a thread, in words.
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

/// A piece of the activations: a block of rows by at most [`DEPTH`] elements, whose tiles are stored one after the other.
#[derive(Clone)]
struct Piece {
    words: Words,
    rows: Range<usize>,
    elements: Range<usize>,
    /// Where its tiles begin among those of all pieces.
    place: usize,
}

impl Piece {
    /// The pieces of `m` rows of `k` elements in blocks of `block` rows.
    fn all(words: Words, m: usize, k: usize, block: usize) -> impl Iterator<Item = Piece> {
        let rows = (0..m).step_by(block).map(move |m0| m0..m.min(m0 + block));
        rows.flat_map(move |rows| {
            (0..k).step_by(DEPTH).map(move |k0| Piece {
                words,
                place: rows.start * words.of(k) + rows.len() * words.of(k0),
                rows: rows.clone(),
                elements: k0..k.min(k0 + DEPTH),
            })
        })
    }

    /// Steps of its panels and tiles.
    fn steps(&self) -> usize {
        self.words.of(self.elements.len())
    }
}

/// Activation rows of the next tile, where `left` are left: sums, a step of the panel and an activation fill 16 or 32
/// registers. Fewer than four rows take as long as four, whose eight sums are as many as multiplications in flight.
fn tile_rows(left: usize, lanes: usize) -> usize {
    match left {
        12.. if lanes != 8 => 12,
        12.. | 6 | 9 | 10 => 6,
        4.. => 4,
        n => n,
    }
}

/// Activations: `m` rows of `k` elements, read in blocks of `block` rows.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub x: *const f32,
    pub m: usize,
    pub k: usize,
    pub block: usize,
    pub words: Words,
}

/// Lays out the share of thread `ith` of `nth` of the tiles.
///
/// # Safety
/// The rows are readable, `to` is writable for all their words, and nobody else touches this share.
pub(super) unsafe fn prepare(level: Level, rows: Rows, to: *mut f32, ith: usize, nth: usize) {
    let mut turn = ith;
    for piece in Piece::all(rows.words, rows.m, rows.k, rows.block) {
        // SAFETY: the caller's promise; the pieces' places are within the tiles.
        let to = unsafe { to.add(piece.place) };
        turn = dispatch(level, Tiles { all: rows, piece, to, turn, nth });
    }
}

/// Multiplies all activation rows with the weight's `rows`; their tiles are [prepared](prepare), or laid out here.
///
/// # Safety
/// The job's operands and the tiles are valid for them, and the output belongs to the caller.
pub(super) unsafe fn run(level: Level, ty: WeightType, job: Job, all: Rows, prepared: Option<*const f32>, rows: Range<usize>) {
    thread_local! {
        static ROOM: RefCell<Room> = RefCell::default();
    }
    let width = PANEL * level.lanes();
    ROOM.with_borrow_mut(|Room { wide, panel, tiles: own }| {
        wide.resize(level.lanes() * DEPTH, 0.0);
        panel.resize(width * DEPTH + LINE, 0.0);
        let begin = panel.as_ptr().align_offset(4 * LINE);
        let panel = &mut panel[begin..];
        for piece in Piece::all(all.words, all.m, all.k, all.block) {
            let tiles = match prepared {
                // SAFETY: the caller's promise.
                Some(tiles) => unsafe { tiles.add(piece.place) },
                None => {
                    own.resize(piece.rows.len() * piece.steps(), 0.0);
                    let to = own.as_mut_ptr();
                    dispatch(level, Tiles { all, piece: piece.clone(), to, turn: 0, nth: 1 });
                    to.cast_const()
                }
            };
            for row in rows.clone().step_by(width) {
                let n = width.min(rows.end - row);
                dispatch(level, Fill { ty, job, row, n, piece: &piece, wide, panel });
                let next = Next::after(ty, &job, row + width..rows.end.min(row + 2 * width), &piece.elements);
                let multiply = Multiply { panel, tiles, piece: &piece, row, n, y: job.y, next };
                match piece.words {
                    Words::F32 => dispatch(level, Of::<F32s>(multiply, PhantomData)),
                    Words::Bf16 => dispatch_bf16(level, Of::<Pairs>(multiply, PhantomData)),
                }
            }
        }
    });
}

/// Lays out every `nth` tile of a piece from number `turn` on. Returns the turn of the next piece's tiles.
struct Tiles {
    all: Rows,
    piece: Piece,
    to: *mut f32,
    turn: usize,
    nth: usize,
}

impl Kernel for Tiles {
    type Out = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let Rows { x, m, k, .. } = self.all;
        let Piece { words, rows, elements, .. } = &self.piece;
        let (steps, mut row, mut turn) = (self.piece.steps(), rows.start, self.turn);
        let mut rounded = [0u32; MOST_LANES * DEPTH / 2];
        while row < rows.end {
            let t = tile_rows(rows.end - row, S::LANES);
            if turn == 0 {
                // SAFETY: the caller was promised `m` rows of activations and room for the tiles of `rows`.
                unsafe {
                    let x = x.add(row * k + elements.start);
                    let out = self.to.add((row - rows.start) * steps);
                    match words {
                        Words::F32 => tile(s, x.cast(), 4 * k, m - row, t, steps, out.cast()),
                        Words::Bf16 => {
                            for (r, to) in rounded.chunks_exact_mut(DEPTH / 2).take(t).enumerate() {
                                round(std::slice::from_raw_parts(x.add(r * k), elements.len()), to);
                            }
                            tile(s, rounded.as_ptr().cast(), 2 * DEPTH, MOST_LANES, t, steps, out.cast());
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

/// Lays out `t` rows of `steps` words, `stride` bytes apart, in a tile; `readable` rows may be read.
///
/// # Safety
/// They can be, and `out` is writable for the tile.
#[inline(always)]
unsafe fn tile<S: Simd>(s: S, x: *const u8, stride: usize, readable: usize, t: usize, steps: usize, out: *mut u32) {
    // Rows are read and stored by whole vectors: what is stored past a step is written again by the next, so the last
    // steps, whose vectors would end past the tile, are not of these.
    let vectors = t.next_multiple_of(S::LANES);
    let whole = match (steps * t).checked_sub(vectors) {
        Some(last) if vectors <= readable => (last / t + 1) / 8 * 8,
        _ => 0,
    };
    // SAFETY: rows up to `vectors` are readable, and vectors of steps below `whole` end within the tile.
    unsafe {
        for i in (0..whole).step_by(8) {
            // Backwards, so that what a vector writes past the step's rows, which are the next step's first ones, is written
            // before those.
            for first in (0..t).step_by(S::LANES).rev() {
                let words = s.load_rows(x.add(first * stride + 4 * i), stride);
                for c in 0..8 {
                    s.store_b(out.add((i + c) * t + first).cast(), words[c]);
                }
            }
        }
        for i in whole..steps {
            for r in 0..t {
                *out.add(i * t + r) = x.add(r * stride + 4 * i).cast::<u32>().read_unaligned();
            }
        }
    }
}

/// Rounds floats to the nearest bfloat16, ties to even, two to a word.
#[inline(always)]
fn round(x: &[f32], out: &mut [u32]) {
    let one = |v: f32| {
        let bits = v.to_bits();
        // NaN stays one: rounding would carry into the sign, and cutting off could leave an infinity.
        if v.is_nan() { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
    };
    let (pairs, odd) = x.as_chunks::<2>();
    for (o, [a, b]) in out.iter_mut().zip(pairs) {
        *o = one(*a) | one(*b) << 16;
    }
    if let [last] = odd {
        out[pairs.len()] = one(*last);
    }
}

/// Lays out a piece's elements of the weight's `n` rows from `row` in a panel; rows that there are not are zero.
struct Fill<'a> {
    ty: WeightType,
    job: Job,
    row: usize,
    n: usize,
    piece: &'a Piece,
    wide: &'a mut [f32],
    panel: &'a mut [f32],
}

impl Kernel for Fill<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Piece { words, elements, .. } = self.piece;
        let (len, steps, Job { w, row_bytes, .. }) = (elements.len(), self.piece.steps(), self.job);
        let (from, to) = (self.ty.row_bytes(elements.start), self.ty.row_bytes(elements.end));
        assert!(self.wide.len() >= S::LANES * DEPTH && self.panel.len() >= PANEL * S::LANES * DEPTH, "room of a panel");
        for v in 0..PANEL {
            let n = self.n.saturating_sub(v * S::LANES).min(S::LANES);
            let whole = n == S::LANES && len % 16 == 0;
            // SAFETY: the weight holds `n` rows from `row`, and the panel `steps` steps.
            unsafe {
                let out = self.panel.as_mut_ptr().add(v * S::LANES);
                let rows = w.add((self.row + v * S::LANES) * row_bytes + from);
                match (words, self.ty) {
                    (Words::F32, WeightType::F32) | (Words::Bf16, _) if whole => turn(s, rows, row_bytes, steps, out),
                    (Words::F32, WeightType::BF16) if whole => turn_bf16(s, rows, row_bytes, len, out),
                    _ => {
                        for (r, wide) in self.wide.chunks_exact_mut(DEPTH).take(S::LANES).enumerate() {
                            if r >= n {
                                wide[..steps].fill(0.0);
                            } else {
                                let bytes = std::slice::from_raw_parts(rows.add(r * row_bytes), to - from);
                                match (words, self.ty) {
                                    (Words::Bf16, _) => {
                                        // An odd row ends with half a word.
                                        wide[steps - 1] = 0.0;
                                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), wide.as_mut_ptr().cast(), bytes.len());
                                    }
                                    (_, WeightType::F16) => widen_f16(s, bytes, &mut wide[..len]),
                                    (_, ty) => widen(ty, bytes, &mut wide[..len]),
                                }
                            }
                        }
                        turn(s, self.wide.as_ptr().cast(), 4 * DEPTH, steps.next_multiple_of(8), out);
                    }
                }
            }
        }
    }
}

/// Turns words `[LANES][steps]`, rows `stride` bytes apart, into steps of a panel.
///
/// # Safety
/// `steps` is a multiple of 8, the rows are readable and the panel's steps writable.
#[inline(always)]
unsafe fn turn<S: Simd>(s: S, rows: *const u8, stride: usize, steps: usize, out: *mut f32) {
    for i in (0..steps).step_by(8) {
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

/// Arithmetic over words.
trait Arithmetic: 'static {
    /// A word in each lane.
    type V<S: Simd>: Copy;
    /// # Safety
    /// `p` is readable for a vector.
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> Self::V<S>;
    /// # Safety
    /// `p` is readable.
    unsafe fn dup<S: Simd>(s: S, p: *const f32) -> Self::V<S>;
    fn multiply_add<S: Simd>(s: S, w: Self::V<S>, a: Self::V<S>, sum: S::F) -> S::F;
}

/// Of [`Words::F32`].
struct F32s;

impl Arithmetic for F32s {
    type V<S: Simd> = S::F;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: the method's contract.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn dup<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: the method's contract.
        s.splat(unsafe { *p })
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, w: S::F, a: S::F, sum: S::F) -> S::F {
        s.fma(w, a, sum)
    }
}

/// Of [`Words::Bf16`].
struct Pairs;

impl Arithmetic for Pairs {
    type V<S: Simd> = S::B;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::B {
        // SAFETY: the method's contract.
        unsafe { s.load_b(p.cast()) }
    }
    #[inline(always)]
    unsafe fn dup<S: Simd>(s: S, p: *const f32) -> S::B {
        // SAFETY: the method's contract.
        unsafe { s.dup4(p.cast()) }
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, w: S::B, a: S::B, sum: S::F) -> S::F {
        s.dot_bf16(sum, w, a)
    }
}

/// A panel of `n` rows from `row`, times the tiles of a piece; adds where the piece is not the first of its rows.
struct Multiply<'a> {
    panel: &'a [f32],
    tiles: *const f32,
    piece: &'a Piece,
    row: usize,
    n: usize,
    y: Output,
    next: Next,
}

/// [`Multiply`] with an arithmetic.
struct Of<'a, A>(Multiply<'a>, PhantomData<A>);

impl<A: Arithmetic> Kernel for Of<'_, A> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Multiply { panel, piece, next, .. } = &self.0;
        assert!(panel.len() >= piece.steps() * PANEL * S::LANES, "steps of a panel");
        let rows = &piece.rows;
        let (lines, mut asked, mut m) = (next.rows * next.lines, 0, rows.start);
        while m < rows.end {
            let t = tile_rows(rows.end - m, S::LANES);
            match t {
                12 if S::LANES != 8 => self.tile::<S, 12>(s, m),
                6 => self.tile::<S, 6>(s, m),
                4 => self.tile::<S, 4>(s, m),
                3 => self.tile::<S, 3>(s, m),
                2 => self.tile::<S, 2>(s, m),
                _ => self.tile::<S, 1>(s, m),
            }
            m += t;
            let upto = lines * (m - rows.start) / rows.len();
            next.ask(s, asked..upto);
            asked = upto;
        }
    }
}

impl<A: Arithmetic> Of<'_, A> {
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(&self, s: S, m: usize) {
        let Multiply { panel, tiles, piece, row, n, y, .. } = &self.0;
        let steps = piece.steps();
        let mut acc = [[s.splat(0.0); PANEL]; T];
        // SAFETY: the panel and the tile hold the steps; the output's elements are the caller's.
        unsafe {
            let out = y.ptr.add(m * y.stride + y.col + row);
            let at = |t: usize, v: usize| out.wrapping_add(t * y.stride + v * S::LANES);
            // The output is far away: it is asked for before the sums are made, and read after.
            for t in 0..T {
                for v in 0..PANEL {
                    s.prefetch(at(t, v).cast_const().cast());
                }
            }
            let (mut x, mut p) = (tiles.add((m - piece.rows.start) * steps), panel.as_ptr());
            for _ in 0..steps {
                let mut w = [A::load(s, p); PANEL];
                for v in 1..PANEL {
                    w[v] = A::load(s, p.add(v * S::LANES));
                }
                for t in 0..T {
                    let a = A::dup(s, x.add(t));
                    for v in 0..PANEL {
                        acc[t][v] = A::multiply_add(s, w[v], a, acc[t][v]);
                    }
                }
                x = x.add(T);
                p = p.add(PANEL * S::LANES);
            }
            for t in 0..T {
                for v in 0..PANEL {
                    let (at, count) = (at(t, v), S::LANES.min(n.saturating_sub(v * S::LANES)));
                    if piece.elements.start > 0 {
                        acc[t][v] = s.add(acc[t][v], s.load_first(at, count));
                    }
                    s.store_first(at, acc[t][v], count);
                }
            }
        }
    }
}
