//! f32 arithmetic over the file's bytes: f32, f16 and bf16 weights, and every block format through dequantisation.
//!
//! Few activation rows read the weights where they are: lanes run along `K`, as both operands lie in memory, and narrow
//! types are widened in registers. Many rows take turns with [`panel`]s of the weight.

use super::panel::{self, Rows};
use super::{Output, WeightType};
use crate::simd::element::{Bf16, Element, F16, F32};
use crate::simd::{Kernel, Level, Simd, dispatch};
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of the weight that work is split by among threads.
pub(super) const ROWS: usize = 4;
/// Most activation rows for which weights are widened in registers rather than turned into panels.
pub(super) const IN_REGISTERS: usize = 24;
/// How far before its use a single row's pass over the weights asks for memory, in bytes.
const AHEAD: usize = 2048;

/// Multiplies activation rows `all` with the weight's `rows`; where there are many, their tiles may be prepared.
///
/// # Safety
/// `w` holds all of these rows, the activations and the tiles are readable, and the output belongs to the caller.
pub(super) unsafe fn run(level: Level, ty: WeightType, w: &[u8], all: Rows, tiles: Option<*const f32>, rows: Range<usize>, y: Output) {
    let Rows { x, m, k, .. } = all;
    let job = Job { w: w.as_ptr(), row_bytes: ty.row_bytes(k), x, k, y };
    if m <= IN_REGISTERS || k == 0 {
        match ty {
            WeightType::F32 => return dispatch(level, InRegisters::<F32> { job, m, rows, element: PhantomData }),
            WeightType::F16 => return dispatch(level, InRegisters::<F16> { job, m, rows, element: PhantomData }),
            WeightType::BF16 => return dispatch(level, InRegisters::<Bf16> { job, m, rows, element: PhantomData }),
            WeightType::Block(_) => {}
        }
    }
    // SAFETY: the caller's promise.
    unsafe { panel::run(level, ty, job, all, tiles, rows) }
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
pub(super) struct Job {
    pub w: *const u8,
    pub row_bytes: usize,
    pub x: *const f32,
    pub k: usize,
    pub y: Output,
}

/// Writes `sums[row][t]` at the output's rows from `m` and columns from `row`.
#[inline(always)]
unsafe fn put<const R: usize, const T: usize>(y: Output, m: usize, row: usize, sums: &[[f32; T]; R]) {
    for t in 0..T {
        for r in 0..R {
            // SAFETY: the caller owns these elements of the output.
            unsafe {
                *y.ptr.add((m + t) * y.stride + y.col + row + r) = sums[r][t];
            }
        }
    }
}

/// Up to [`IN_REGISTERS`] activation rows, [`ROWS`] rows of the weight at a time; one activation row, a row at a time.
struct InRegisters<E> {
    job: Job,
    m: usize,
    rows: Range<usize>,
    element: PhantomData<E>,
}

impl<E: Element> Kernel for InRegisters<E> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut row = self.rows.start;
        if self.m == 1 {
            let Job { w, row_bytes, x, k, y } = self.job;
            for row in self.rows {
                // Memory is the limit: one stream, read in order.
                // SAFETY: `run` was promised valid operands.
                unsafe { put(y, 0, row, &dot::<S, E, 1, 1, 8>(s, w.add(row * row_bytes), row_bytes, x, k, k)) };
            }
            return;
        }
        while row + ROWS <= self.rows.end {
            self.rows::<S, ROWS>(s, row);
            row += ROWS;
        }
        while row < self.rows.end {
            self.rows::<S, 1>(s, row);
            row += 1;
        }
    }
}

impl<E: Element> InRegisters<E> {
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&self, s: S, row: usize) {
        let mut m = 0;
        // Accumulators, a weight and the activations fill 16 or 32 registers.
        if S::LANES == 16 {
            while m + 6 <= self.m {
                self.tokens::<S, R, 6>(s, m, row);
                m += 6;
            }
        }
        while m + 3 <= self.m {
            self.tokens::<S, R, 3>(s, m, row);
            m += 3;
        }
        match self.m - m {
            2 => self.tokens::<S, R, 2>(s, m, row),
            1 => self.tokens::<S, R, 1>(s, m, row),
            _ => {}
        }
    }

    #[inline(always)]
    fn tokens<S: Simd, const R: usize, const T: usize>(&self, s: S, m: usize, row: usize) {
        let Job { w, row_bytes, x, k, y } = self.job;
        // SAFETY: the weight holds R rows from `row`, the activations T rows from `m`.
        unsafe {
            let sums = dot::<S, E, R, T, 1>(s, w.add(row * row_bytes), row_bytes, x.add(m * k), k, k);
            put(y, m, row, &sums);
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
