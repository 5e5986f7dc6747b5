//! f32 arithmetic over the file's bytes: f32, f16 and bf16 weights, and every block format through dequantisation.
//!
//! Lanes run along `K`, for both operands lie in memory that way. Few activation rows read the weights where they
//! are, widening in registers; many rows widen a tile of [`ROWS`] rows into a buffer once, in pieces of [`DEPTH`] (f32
//! needs no buffer).

use super::{Output, WeightType};
use crate::simd::element::{Bf16, Element, F16, F32};
use crate::simd::{Kernel, Level, Simd, dispatch};
use half::{bf16, f16};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of the weight in a tile.
pub(super) const ROWS: usize = 4;
/// Elements of each row that are widened at once (a multiple of every block length).
const DEPTH: usize = 1024;
/// Bytes of activations that are multiplied with all weights before the next rows' turn.
const ACT_BLOCK_BYTES: usize = 256 << 10;
/// Most activation rows for which weights are widened in registers.
const FEW: usize = 3;
/// Most activation rows for which a piece of the weights is widened in registers rather than in a buffer.
const IN_REGISTERS: usize = 12;
/// How far before its use a single row's pass over the weights asks for memory, in bytes.
const AHEAD: usize = 2048;

/// Multiplies `m` rows `x` of `k` elements with the weight's `rows`.
///
/// # Safety
/// `w` holds all of these rows, `x` is `m * k` long, and the output belongs to the caller.
pub(super) unsafe fn run(level: Level, ty: WeightType, w: &[u8], x: &[f32], m: usize, k: usize, rows: Range<usize>, y: Output) {
    let job = Job { w: w.as_ptr(), row_bytes: ty.row_bytes(k), x: x.as_ptr(), k, y };
    if m <= FEW {
        match ty {
            WeightType::F32 => return few::<F32>(level, job, m, rows),
            WeightType::F16 => return few::<F16>(level, job, m, rows),
            WeightType::BF16 => return few::<Bf16>(level, job, m, rows),
            WeightType::Block(_) => {}
        }
    }
    let block = (ACT_BLOCK_BYTES / (4 * DEPTH.min(k))).max(24) / 24 * 24;
    for m0 in (0..m).step_by(block) {
        for k0 in (0..k).step_by(DEPTH) {
            let piece = Piece { level, ty, w, m: m0..m.min(m0 + block), k: k0..k.min(k0 + DEPTH), rows: rows.clone() };
            // SAFETY: the piece is within the operands.
            unsafe { piece.run(job) }
        }
    }
}

/// Widens the elements of part of a row, or dequantises its blocks, exactly.
pub(super) fn widen(ty: WeightType, bytes: &[u8], out: &mut [f32]) {
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match ty {
        WeightType::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        WeightType::F16 => out.iter_mut().zip(halves()).for_each(|(o, b)| *o = f16::from_bits(b).to_f32()),
        WeightType::BF16 => out.iter_mut().zip(halves()).for_each(|(o, b)| *o = bf16::from_bits(b).to_f32()),
        WeightType::Block(f) => f.dequantize(bytes, out).expect("whole blocks on both sides"),
    }
}

/// Operands in memory.
#[derive(Clone, Copy)]
struct Job {
    w: *const u8,
    row_bytes: usize,
    x: *const f32,
    k: usize,
    y: Output,
}

/// All weight rows times up to [`FEW`] activation rows.
fn few<E: Element>(level: Level, job: Job, m: usize, rows: Range<usize>) {
    match m {
        1 => dispatch(level, Few::<E, 1> { job, rows, element: PhantomData }),
        2 => dispatch(level, Few::<E, 2> { job, rows, element: PhantomData }),
        3 => dispatch(level, Few::<E, 3> { job, rows, element: PhantomData }),
        _ => unreachable!("few rows are at most three"),
    }
}

struct Few<E, const T: usize> {
    job: Job,
    rows: Range<usize>,
    element: PhantomData<E>,
}

impl<E: Element, const T: usize> Kernel for Few<E, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Job { w, row_bytes, x, k, y } = self.job;
        let mut row = self.rows.start;
        while row < self.rows.end {
            // SAFETY: `run` was promised valid operands.
            unsafe {
                let at = w.add(row * row_bytes);
                if T == 1 {
                    // Memory is the limit: one stream, read in order.
                    let sums = dot::<S, E, 1, T, 8>(s, at, row_bytes, x, k, k);
                    put(y, 0, row, &sums, false);
                    row += 1;
                } else if row + ROWS <= self.rows.end {
                    let sums = dot::<S, E, ROWS, T, 1>(s, at, row_bytes, x, k, k);
                    put(y, 0, row, &sums, false);
                    row += ROWS;
                } else {
                    let sums = dot::<S, E, 1, T, 2>(s, at, row_bytes, x, k, k);
                    put(y, 0, row, &sums, false);
                    row += 1;
                }
            }
        }
    }
}

/// Writes or adds `sums[row][t]` at the output's rows from `m` and columns from `row`.
#[inline(always)]
unsafe fn put<const R: usize, const T: usize>(y: Output, m: usize, row: usize, sums: &[[f32; T]; R], add: bool) {
    for t in 0..T {
        for r in 0..R {
            // SAFETY: the caller owns these elements of the output.
            unsafe {
                let p = y.ptr.add((m + t) * y.stride + y.col + row + r);
                *p = if add { *p + sums[r][t] } else { sums[r][t] };
            }
        }
    }
}

/// A block of activation rows, a piece of `K`, and the weight's rows.
struct Piece<'a> {
    level: Level,
    ty: WeightType,
    w: &'a [u8],
    m: Range<usize>,
    k: Range<usize>,
    rows: Range<usize>,
}

impl Piece<'_> {
    /// # Safety
    /// As for [`run`].
    unsafe fn run(self, job: Job) {
        thread_local! {
            static TILE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        TILE.with_borrow_mut(|tile| {
            tile.resize(ROWS * DEPTH, 0.0);
            let depth = self.k.len();
            let (from, to) = (self.ty.row_bytes(self.k.start), self.ty.row_bytes(self.k.end));
            for row in self.rows.clone().step_by(ROWS) {
                let n = ROWS.min(self.rows.end - row);
                let many = Many {
                    tile: self.w[row * job.row_bytes + from..].as_ptr(),
                    row_bytes: job.row_bytes,
                    n,
                    depth,
                    // SAFETY: the piece is within the activations.
                    x: unsafe { job.x.add(self.k.start) },
                    stride: job.k,
                    m: self.m.clone(),
                    row,
                    y: job.y,
                    add: self.k.start > 0,
                    element: PhantomData,
                };
                match self.ty {
                    WeightType::F32 => dispatch(self.level, many),
                    WeightType::F16 if self.m.len() <= IN_REGISTERS => dispatch(self.level, many.of::<F16>()),
                    WeightType::BF16 if self.m.len() <= IN_REGISTERS => dispatch(self.level, many.of::<Bf16>()),
                    ty => {
                        for r in 0..n {
                            let bytes = &self.w[(row + r) * job.row_bytes..][from..to];
                            let out = &mut tile[r * DEPTH..][..depth];
                            dispatch(self.level, Widen { ty, bytes, out });
                        }
                        let tile = tile.as_ptr().cast();
                        dispatch(self.level, Many { tile, row_bytes: 4 * DEPTH, ..many });
                    }
                }
            }
        });
    }
}

/// [`widen`], compiled for the level.
struct Widen<'a> {
    ty: WeightType,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.ty {
            WeightType::F32 => widen_with::<S, F32>(s, self.bytes, self.out),
            WeightType::F16 => widen_with::<S, F16>(s, self.bytes, self.out),
            WeightType::BF16 => widen_with::<S, Bf16>(s, self.bytes, self.out),
            WeightType::Block(_) => widen(self.ty, self.bytes, self.out),
        }
    }
}

#[inline(always)]
fn widen_with<S: Simd, E: Element>(s: S, bytes: &[u8], out: &mut [f32]) {
    let n = out.len().min(bytes.len() / E::BYTES);
    let mut i = 0;
    // SAFETY: all indices are below `n`, which both slices reach.
    unsafe {
        while i + S::LANES <= n {
            s.store(out.as_mut_ptr().add(i), E::load(s, bytes.as_ptr().add(i * E::BYTES)));
            i += S::LANES;
        }
        while i < n {
            out[i] = E::one(bytes.as_ptr().add(i * E::BYTES));
            i += 1;
        }
    }
}

/// A tile of `n` weight rows, `row_bytes` apart, times activation rows `m`.
struct Many<E> {
    tile: *const u8,
    row_bytes: usize,
    n: usize,
    depth: usize,
    x: *const f32,
    stride: usize,
    m: Range<usize>,
    row: usize,
    y: Output,
    add: bool,
    element: PhantomData<E>,
}

impl Many<F32> {
    /// The same tile of another element type.
    fn of<E>(self) -> Many<E> {
        let Many { tile, row_bytes, n, depth, x, stride, m, row, y, add, .. } = self;
        Many { tile, row_bytes, n, depth, x, stride, m, row, y, add, element: PhantomData }
    }
}

impl<E: Element> Kernel for Many<E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.n < ROWS {
            for r in 0..self.n {
                // SAFETY: row `r` of the tile.
                self.rows::<S, 1>(s, self.row + r, unsafe { self.tile.add(r * self.row_bytes) });
            }
        } else {
            self.rows::<S, ROWS>(s, self.row, self.tile);
        }
    }
}

impl<E: Element> Many<E> {
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&self, s: S, row: usize, tile: *const u8) {
        let mut m = self.m.start;
        // Accumulators, a weight and the activations fill 16 or 32 registers.
        if S::LANES == 16 {
            while m + 6 <= self.m.end {
                self.tokens::<S, R, 6>(s, m, row, tile);
                m += 6;
            }
        }
        while m + 3 <= self.m.end {
            self.tokens::<S, R, 3>(s, m, row, tile);
            m += 3;
        }
        match self.m.end - m {
            2 => self.tokens::<S, R, 2>(s, m, row, tile),
            1 => self.tokens::<S, R, 1>(s, m, row, tile),
            _ => {}
        }
    }

    #[inline(always)]
    fn tokens<S: Simd, const R: usize, const T: usize>(&self, s: S, m: usize, row: usize, tile: *const u8) {
        // SAFETY: the tile holds R rows, the activations T rows from `m`.
        unsafe {
            let x = self.x.add(m * self.stride);
            let sums = dot::<S, E, R, T, 1>(s, tile, self.row_bytes, x, self.stride, self.depth);
            put(self.y, m, row, &sums, self.add);
        }
    }
}

/// Dot products of `R` weight rows and `T` activation rows of `k` elements, in `U` independent sums each.
///
/// # Safety
/// The rows, `row_bytes` bytes and `stride` floats apart, are readable.
#[inline(always)]
unsafe fn dot<S: Simd, E: Element, const R: usize, const T: usize, const U: usize>(
    s: S,
    w: *const u8,
    row_bytes: usize,
    x: *const f32,
    stride: usize,
    k: usize,
) -> [[f32; T]; R] {
    let mut acc = [[[s.splat(0.0); T]; R]; U];
    let mut i = 0;
    // SAFETY: all indices are below `k`.
    unsafe {
        while i + U * S::LANES <= k {
            for u in 0..U {
                let at = i + u * S::LANES;
                let xs: [S::F; T] = std::array::from_fn(|t| s.load(x.add(t * stride + at)));
                for r in 0..R {
                    let ws = E::load(s, w.add(r * row_bytes + at * E::BYTES));
                    if U == 8 {
                        s.prefetch(w.wrapping_add(r * row_bytes + at * E::BYTES + AHEAD));
                    }
                    for t in 0..T {
                        acc[u][r][t] = s.fma(ws, xs[t], acc[u][r][t]);
                    }
                }
            }
            i += U * S::LANES;
        }
        while i + S::LANES <= k {
            let xs: [S::F; T] = std::array::from_fn(|t| s.load(x.add(t * stride + i)));
            for r in 0..R {
                let ws = E::load(s, w.add(r * row_bytes + i * E::BYTES));
                for t in 0..T {
                    acc[0][r][t] = s.fma(ws, xs[t], acc[0][r][t]);
                }
            }
            i += S::LANES;
        }
        let mut sums = [[0f32; T]; R];
        for r in 0..R {
            for t in 0..T {
                let mut v = acc[0][r][t];
                for u in 1..U {
                    v = s.add(v, acc[u][r][t]);
                }
                sums[r][t] = s.sum(v);
            }
        }
        while i < k {
            for r in 0..R {
                let one = E::one(w.add(r * row_bytes + i * E::BYTES));
                for t in 0..T {
                    sums[r][t] += one * *x.add(t * stride + i);
                }
            }
            i += 1;
        }
        sums
    }
}
