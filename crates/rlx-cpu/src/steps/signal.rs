//! Fourier transforms of real signals, whole or in windowed frames.
//!
//! Any length, in mixed radix (Stockham's order, one pass per prime factor, pairs of twos together).
//! Two real signals make one complex one, and [`LANES`] of those are transformed side by side.

use crate::frame::{Frame, Step, View};
use crate::simd::{Kernel, Level, Simd, dispatch};
use crate::team::Worker;
use rlx_ir::ops::fft::FftKind;
use rlx_ir::{NodeId, ValueId};
use std::sync::{Arc, Mutex, PoisonError};

/// Complex signals that are transformed side by side.
const LANES: usize = 8;
/// Real signals in them.
const ROWS: usize = 2 * LANES;

type V = [f32; LANES];

/// Factors and roots of unity of one length.
struct Table {
    n: usize,
    factors: Vec<usize>,
    /// `e^(−2πij/n)`
    roots: Vec<[f32; 2]>,
}

impl Table {
    fn new(n: usize) -> Table {
        let (mut rest, mut factors, mut p) = (n, vec![], 4);
        while rest > 1 {
            if rest.is_multiple_of(p) {
                factors.push(p);
                rest /= p;
            } else {
                // 4, 2, 3, 5, 7, …; composite candidates never divide.
                p = match p {
                    4 => 2,
                    2 => 3,
                    p if p * p > rest => rest,
                    p => p + 2,
                };
            }
        }
        let root = |j: usize| {
            let (sin, cos) = (-std::f64::consts::TAU * j as f64 / n as f64).sin_cos();
            [cos as f32, sin as f32]
        };
        Table { n, factors, roots: (0..n).map(root).collect() }
    }
}

/// `a · w` for every lane.
#[inline(always)]
fn turn(re: V, im: V, w: [f32; 2]) -> (V, V) {
    let (mut a, mut b) = (re, im);
    for l in 0..LANES {
        a[l] = re[l] * w[0] - im[l] * w[1];
        b[l] = re[l] * w[1] + im[l] * w[0];
    }
    (a, b)
}

#[inline(always)]
fn add(a: V, b: V) -> V {
    std::array::from_fn(|l| a[l] + b[l])
}

#[inline(always)]
fn sub(a: V, b: V) -> V {
    std::array::from_fn(|l| a[l] - b[l])
}

/// A forward transform between two buffers of `[n]` real and `[n]` imaginary parts.
struct Transform<'a> {
    table: &'a Table,
    buffers: [&'a mut [V]; 2],
}

impl Kernel for Transform<'_> {
    /// Which buffer the result is in.
    type Out = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        let n = self.table.n;
        let [mut x, mut y] = self.buffers;
        let (mut len, mut stride) = (n, 1);
        for p in &self.table.factors {
            let ((xr, xi), (yr, yi)) = (x.split_at(n), y.split_at_mut(n));
            pass(&self.table.roots, *p, len, stride, (xr, xi), (yr, yi));
            (len, stride) = (len / p, stride * p);
            std::mem::swap(&mut x, &mut y);
        }
        self.table.factors.len() % 2
    }
}

/// One pass of radix `p` over sequences of `len`, `stride` of them interleaved.
#[inline(always)]
fn pass(roots: &[[f32; 2]], p: usize, len: usize, stride: usize, x: (&[V], &[V]), y: (&mut [V], &mut [V])) {
    let (n, m) = (roots.len(), len / p);
    for k in 0..m {
        for q in 0..stride {
            let at = |r: usize| q + stride * (k + m * r);
            let to = |j: usize| q + stride * (p * k + j);
            let mut put = |j: usize, re: V, im: V| {
                let (re, im) = if j * k == 0 { (re, im) } else { turn(re, im, roots[j * k * stride % n]) };
                (y.0[to(j)], y.1[to(j)]) = (re, im);
            };
            if p == 2 {
                let (a, b) = ((x.0[at(0)], x.1[at(0)]), (x.0[at(1)], x.1[at(1)]));
                put(0, add(a.0, b.0), add(a.1, b.1));
                put(1, sub(a.0, b.0), sub(a.1, b.1));
            } else if p == 4 {
                let [a, b, c, d] = [0, 1, 2, 3].map(|r| (x.0[at(r)], x.1[at(r)]));
                let (s, t) = ((add(a.0, c.0), add(a.1, c.1)), (sub(a.0, c.0), sub(a.1, c.1)));
                let (u, v) = ((add(b.0, d.0), add(b.1, d.1)), (sub(b.0, d.0), sub(b.1, d.1)));
                put(0, add(s.0, u.0), add(s.1, u.1));
                put(1, add(t.0, v.1), sub(t.1, v.0));
                put(2, sub(s.0, u.0), sub(s.1, u.1));
                put(3, sub(t.0, v.1), add(t.1, v.0));
            } else {
                for j in 0..p {
                    let (mut re, mut im) = (x.0[at(0)], x.1[at(0)]);
                    for r in 1..p {
                        let (a, b) = turn(x.0[at(r)], x.1[at(r)], roots[j * r % p * (n / p)]);
                        (re, im) = (add(re, a), add(im, b));
                    }
                    put(j, re, im);
                }
            }
        }
    }
}

/// Frames of a signal, as in a short-time transform.
pub(crate) struct Frames {
    pub hop: usize,
    pub center: bool,
    pub window: ValueId,
}

/// Transform of rows, or of frames of rows.
pub(crate) struct FftStep {
    pub node: NodeId,
    pub level: Level,
    pub kind: FftKind,
    pub frames: Option<Frames>,
    pub x: ValueId,
    pub y: ValueId,
    table: Mutex<Option<Arc<Table>>>,
}

/// Bytes of scratch for transforms of length `n`.
pub(crate) fn fft_scratch(n: usize, threads: usize) -> usize {
    threads * 4 * n * size_of::<V>()
}

impl FftStep {
    pub fn new(node: NodeId, level: Level, kind: FftKind, frames: Option<Frames>, x: ValueId, y: ValueId) -> FftStep {
        FftStep { node, level, kind, frames, x, y, table: Mutex::new(None) }
    }

    fn table(&self, n: usize) -> Arc<Table> {
        let mut held = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let same = held.as_ref().filter(|t| t.n == n).map(Arc::clone);
        same.unwrap_or_else(|| {
            let new = Arc::new(Table::new(n));
            *held = Some(Arc::clone(&new));
            new
        })
    }

    /// Fills `[n]` with row `row` of the (framed) signal.
    ///
    /// # Safety
    /// The row exists.
    unsafe fn read(&self, f: &Frame<'_>, x: &View<'_>, row: usize, n: usize, mut put: impl FnMut(usize, f32)) {
        let x_ptr = x.ptr.cast::<f32>();
        let Some(fr) = &self.frames else {
            // SAFETY: the caller's promise; x is dense.
            return (0..n).for_each(|j| put(j, unsafe { *x_ptr.add(row * n + j) }));
        };
        // SAFETY: the window is dense and complete.
        let window = unsafe { f.dense::<f32>(fr.window) };
        let (len, pad) = (x.shape[x.shape.len() - 1], if fr.center { n / 2 } else { 0 });
        let count = (len + 2 * pad - n) / fr.hop + 1;
        let (first, end) = (row % count * fr.hop, 2 * (len - 1));
        for (j, w) in window.iter().enumerate() {
            let at = (first + j).abs_diff(pad);
            // SAFETY: reflected at the start and at the end, the index is inside the signal.
            put(j, w * unsafe { *x_ptr.add(row / count * len + at.min(end - at.min(end))) });
        }
    }
}

impl Step for FftStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.view(self.y));
        let forward = self.kind == FftKind::Real;
        let n = match (&self.frames, forward) {
            (Some(fr), _) => f.slot(fr.window).shape[0],
            (None, true) => x.shape[x.shape.len() - 1],
            (None, false) => y.shape[y.shape.len() - 1],
        };
        let bins = n / 2 + 1;
        let each = if forward { 2 * bins } else { n };
        let rows = y.shape.iter().product::<usize>() / each.max(1);
        if rows == 0 || n == 0 {
            return;
        }
        if let Some(fr) = &self.frames
            && fr.center
            && x.shape.last().is_some_and(|len| *len <= n / 2)
        {
            return f.report(|| format!("stft: a signal of {:?} samples is too short for a window of {n}", x.shape.last()));
        }
        let table = self.table(n);
        // SAFETY: scratch memory has two buffers of `[2][n]` vectors for every thread.
        let (mut a, mut b) = unsafe {
            let own = f.scratch(self.node.index()).0.cast::<V>().add(w.ith * 4 * n);
            (std::slice::from_raw_parts_mut(own, 2 * n), std::slice::from_raw_parts_mut(own.add(2 * n), 2 * n))
        };
        for first in w.share(rows.div_ceil(ROWS)).map(|i| i * ROWS) {
            a.fill([0.0; LANES]);
            for r in first..(first + ROWS).min(rows) {
                let (lane, imaginary) = ((r - first) / 2, r % 2 == 1);
                // SAFETY: the row exists.
                unsafe {
                    if forward {
                        self.read(f, &x, r, n, |j, v| a[if imaginary { n + j } else { j }][lane] = v);
                    } else {
                        spread(x.ptr.cast::<f32>().add(r * 2 * bins), n, lane, imaginary, a);
                    }
                }
            }
            if dispatch(self.level, Transform { table: &table, buffers: [&mut *a, &mut *b] }) == 1 {
                std::mem::swap(&mut a, &mut b);
            }
            for r in first..(first + ROWS).min(rows) {
                let (lane, imaginary) = ((r - first) / 2, r % 2 == 1);
                // SAFETY: row `r` of the result is this thread's.
                unsafe {
                    if forward {
                        unpack(a, n, lane, imaginary, y.ptr.cast::<f32>().add(r * 2 * bins));
                    } else {
                        // The transform of the conjugate is the conjugate of the inverse.
                        let (part, factor) = if imaginary { (n, -1.0 / n as f32) } else { (0, 1.0 / n as f32) };
                        (0..n).for_each(|j| *y.ptr.cast::<f32>().add(r * n + j) = a[part + j][lane] * factor);
                    }
                }
            }
        }
    }
}

/// The bins of the first (or second) of two signals that were transformed as one.
///
/// # Safety
/// `to` has room for `n/2 + 1` pairs.
unsafe fn unpack(z: &[V], n: usize, lane: usize, second: bool, to: *mut f32) {
    for k in 0..n / 2 + 1 {
        let m = (n - k) % n;
        let ((a, b), (c, d)) = ((z[k][lane], z[n + k][lane]), (z[m][lane], z[n + m][lane]));
        // Z[k] ± conj(Z[n−k]), halved; divided by i for the second.
        let (re, im) = if second { (b + d, c - a) } else { (a + c, b - d) };
        // SAFETY: the caller's promise.
        unsafe { (*to.add(2 * k), *to.add(2 * k + 1)) = (0.5 * re, 0.5 * im) };
    }
}

/// Adds the conjugate spectrum of the real signal with these bins to lane `lane`; times −i for the
/// second of two, so that it comes back as the (negative) imaginary part.
///
/// # Safety
/// `from` holds `n/2 + 1` pairs.
unsafe fn spread(from: *const f32, n: usize, lane: usize, second: bool, z: &mut [V]) {
    for k in 0..n {
        let m = k.min(n - k);
        // SAFETY: `m` is at most n/2.
        let (re, im) = unsafe { (*from.add(2 * m), *from.add(2 * m + 1)) };
        // The first bin, and the last of an even length, are real.
        let im = if m == 0 || 2 * m == n { 0.0 } else { im };
        // conj(X[k]): the upper half is the conjugate of the lower.
        let (re, im) = (re, if k <= n - k { -im } else { im });
        let (dr, di) = if second { (im, -re) } else { (re, im) };
        z[k][lane] += dr;
        z[n + k][lane] += di;
    }
}
