//! Convolution over one to three spatial dimensions.
//!
//! Depthwise convolutions run directly.  All others bring the windows of a tile of output positions
//! into a matrix and multiply it with the weights; tiles are divided among the threads, and output
//! channels too where there are few tiles.

use super::norm::Wide;
use crate::frame::{Frame, Step};
use crate::matmul::{Matmul, Mode, Output, WeightType};
use crate::simd::{Kernel, Level, Simd, dispatch};
use crate::team::Worker;
use rlx_ir::ops::Conv;
use rlx_ir::{DType, NodeId, ValueId};
use std::ops::Range;

/// `v`, preceded by as many `fill` as make it 3 long.
fn three<T: Copy>(v: &[T], fill: T) -> [T; 3] {
    let mut out = [fill; 3];
    let lead = 3usize.saturating_sub(v.len());
    out[lead..].iter_mut().zip(v).for_each(|(o, v)| *o = *v);
    out
}

/// Sizes of one convolution, all with three spatial dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    batch: usize,
    groups: usize,
    /// Input and output channels of a group.
    cg: usize,
    og: usize,
    size: [usize; 3],
    out: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    dilation: [usize; 3],
    pad: [usize; 3],
}

impl Sizes {
    pub fn new(op: &Conv, x: &[usize], w: &[usize], y: &[usize]) -> Sizes {
        let pad = three(&op.padding, [0, 0]).map(|p| p[0]);
        Sizes {
            batch: x[0],
            groups: op.groups,
            cg: w[1],
            og: w[0] / op.groups,
            size: three(&x[2..], 1),
            out: three(&y[2..], 1),
            kernel: three(&w[2..], 1),
            stride: three(&op.stride, 1),
            dilation: three(&op.dilation, 1),
            pad,
        }
    }

    fn plane(&self) -> usize {
        self.size.iter().product()
    }

    fn out_plane(&self) -> usize {
        self.out.iter().product()
    }

    /// Elements of a window: channels of a group times taps.
    fn window(&self) -> usize {
        self.cg * self.kernel.iter().product::<usize>()
    }

    fn depthwise(&self) -> bool {
        self.cg == 1 && self.groups > 1
    }

    /// Output positions of a tile: enough to amortise reading the weights, few enough that every
    /// thread gets tiles and that a tile stays in the cache.
    fn tile(&self, threads: usize) -> usize {
        let spread = (self.batch * self.groups * self.out_plane()).div_ceil(4 * threads);
        spread.clamp(16, 128).min(self.out_plane().max(1)).next_multiple_of(4)
    }

    /// Ranges of output channels each tile is divided into.
    fn splits(&self, threads: usize) -> usize {
        let tiles = self.batch * self.groups * self.out_plane().div_ceil(self.tile(threads));
        threads.div_ceil(tiles.max(1)).min(self.og.div_ceil(16)).max(1)
    }

    /// Floats of the widened weights, which come first in the scratch memory.
    fn widened(&self, weight: DType) -> usize {
        if weight == DType::F32 || self.depthwise() { 0 } else { (self.groups * self.og * self.window()).next_multiple_of(16) }
    }

    /// Bytes of scratch memory.
    pub fn scratch(&self, weight: DType, threads: usize) -> usize {
        let tiles = if self.depthwise() { 0 } else { threads * self.tile(threads) * self.window().next_multiple_of(16) };
        4 * (self.widened(weight) + tiles)
    }

    /// First input coordinate of the window at output coordinate `at`; wraps below zero.
    fn origin(&self, at: [usize; 3]) -> [usize; 3] {
        [0, 1, 2].map(|i| (at[i] * self.stride[i]).wrapping_sub(self.pad[i]))
    }
}

/// Convolution.  Stage 0 widens 16-bit weights.
pub(crate) struct ConvStep {
    pub node: NodeId,
    pub level: Level,
    pub op: Conv,
    pub x: ValueId,
    pub weight: (ValueId, DType),
    pub bias: Option<(ValueId, DType)>,
    pub y: ValueId,
}

/// Copies the windows of `positions` of one plane of channels, one row per position.
struct Windows<'a> {
    z: &'a Sizes,
    /// Channel 0 of the group.
    x: *const f32,
    positions: Range<usize>,
    to: *mut f32,
}

impl Kernel for Windows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let z = self.z;
        let ([_, sy, sx], [kz, ky, kx], d, plane) = (z.size, z.kernel, z.dilation, z.plane());
        let reach = [0, 1, 2].map(|i| z.dilation[i] * (z.kernel[i] - 1));
        let mut to = self.to;
        for p in self.positions {
            let o = z.origin([p / (z.out[1] * z.out[2]), p / z.out[2] % z.out[1], p % z.out[2]]);
            let inside = (0..3).all(|i| o[i] < z.size[i] && o[i] + reach[i] < z.size[i]);
            for c in 0..z.cg {
                for (a, b) in (0..kz).flat_map(|a| (0..ky).map(move |b| (a, b))) {
                    let (iz, iy) = (o[0].wrapping_add(a * d[0]), o[1].wrapping_add(b * d[1]));
                    let row = (c * plane).wrapping_add(iz.wrapping_mul(sy).wrapping_add(iy).wrapping_mul(sx));
                    // SAFETY: reads are checked against the sizes, or known to be inside; a window has this many elements.
                    unsafe {
                        if inside {
                            let from = self.x.add(row + o[2]);
                            (0..kx).for_each(|i| *to.add(i) = *from.add(i * d[2]));
                        } else {
                            let valid = iz < z.size[0] && iy < sy;
                            for i in 0..kx {
                                let ix = o[2].wrapping_add(i * d[2]);
                                *to.add(i) = if valid && ix < sx { *self.x.add(row + ix) } else { 0.0 };
                            }
                        }
                        to = to.add(kx);
                    }
                }
            }
        }
    }
}

/// One row of a depthwise output plane.
struct DepthRow<'a> {
    z: &'a Sizes,
    /// The input plane.
    x: *const f32,
    weight: Wide,
    /// First tap in the weight.
    first: usize,
    bias: f32,
    /// Output coordinates of the row.
    at: [usize; 2],
    y: &'a mut [f32],
}

impl Kernel for DepthRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (z, y) = (self.z, self.y);
        let ([_, sy, sx], [kz, ky, kx]) = (z.size, z.kernel);
        y.fill(self.bias);
        let o = z.origin([self.at[0], self.at[1], 0]);
        for (a, b) in (0..kz).flat_map(|a| (0..ky).map(move |b| (a, b))) {
            let (iz, iy) = (o[0].wrapping_add(a * z.dilation[0]), o[1].wrapping_add(b * z.dilation[1]));
            if iz >= z.size[0] || iy >= sy {
                continue;
            }
            for i in 0..kx {
                // The output columns whose tap `i` is inside: 0 <= col·stride + off − pad < sx.
                let (off, pad, stride) = (i * z.dilation[2], z.pad[2], z.stride[2]);
                let lo = pad.saturating_sub(off).div_ceil(stride);
                let hi = (sx + pad).saturating_sub(off).div_ceil(stride).min(y.len());
                // SAFETY: the tap exists, and the columns were chosen so that the reads are inside.
                unsafe {
                    let w = self.weight.one(self.first + (a * ky + b) * kx + i);
                    let row = self.x.add((iz * sy + iy) * sx);
                    if lo < hi {
                        let from = row.add(lo * stride + off - pad);
                        let y = &mut y[lo..hi];
                        match stride {
                            1 => y.iter_mut().enumerate().for_each(|(j, y)| *y += w * *from.add(j)),
                            s => y.iter_mut().enumerate().for_each(|(j, y)| *y += w * *from.add(j * s)),
                        }
                    }
                }
            }
        }
    }
}

impl ConvStep {
    fn sizes(&self, f: &Frame<'_>) -> Sizes {
        Sizes::new(&self.op, &f.slot(self.x).shape, &f.slot(self.weight.0).shape, &f.slot(self.y).shape)
    }

    fn depthwise(&self, f: &Frame<'_>, z: &Sizes, w: Worker) {
        let (x, y, weight) = (f.ptr(self.x).cast::<f32>(), f.ptr(self.y).cast::<f32>(), Wide::new(f, self.weight.0, self.weight.1));
        let bias = self.bias.map(|(v, d)| Wide::new(f, v, d));
        let (rows, channels, taps) = (z.out[0] * z.out[1], z.groups * z.og, z.window());
        for r in w.share(z.batch * channels * rows) {
            let (plane, row) = (r / rows, r % rows);
            let (n, o) = (plane / channels, plane % channels);
            // SAFETY: row `r` of the result is this thread's; planes and taps exist.
            unsafe {
                let row = DepthRow {
                    z,
                    x: x.add((n * z.groups + o / z.og) * z.plane()),
                    weight,
                    first: o * taps,
                    bias: bias.map_or(0.0, |b| b.one(o)),
                    at: [row / z.out[1], row % z.out[1]],
                    y: std::slice::from_raw_parts_mut(y.add(r * z.out[2]), z.out[2]),
                };
                dispatch(self.level, row);
            }
        }
    }

    /// Products of the tiles' windows with the weights.
    ///
    /// # Safety
    /// Stage 0 is complete.
    unsafe fn tiles(&self, f: &Frame<'_>, z: &Sizes, w: Worker) {
        let (x, y, k) = (f.ptr(self.x).cast::<f32>(), f.ptr(self.y).cast::<f32>(), z.window());
        let bias = self.bias.map(|(v, d)| Wide::new(f, v, d));
        let scratch = f.scratch(self.node.index()).0.cast::<f32>();
        let (tile, splits, out_plane) = (z.tile(w.nth), z.splits(w.nth), z.out_plane());
        let tiles = out_plane.div_ceil(tile);
        // SAFETY: scratch memory has room for the widened weights and a tile per thread.
        let (weights, windows) = unsafe {
            let windows = scratch.add(z.widened(self.weight.1) + w.ith * tile * k.next_multiple_of(16));
            (if z.widened(self.weight.1) > 0 { scratch } else { f.ptr(self.weight.0).cast::<f32>() }, windows)
        };
        let mut held = None;
        for unit in w.share(z.batch * z.groups * tiles * splits) {
            let (at, part) = (unit / splits, unit % splits);
            let (n, g, first) = (at / tiles / z.groups, at / tiles % z.groups, at % tiles * tile);
            let (positions, channels) = (first..(first + tile).min(out_plane), z.og * part / splits..z.og * (part + 1) / splits);
            let count = positions.len();
            // SAFETY: the plane exists; these channels of these positions are this thread's.
            unsafe {
                if held != Some(at) {
                    let x = x.add((n * z.groups + g) * z.cg * z.plane()).cast_const();
                    dispatch(self.level, Windows { z, x, positions, to: windows });
                    held = Some(at);
                }
                let data = std::slice::from_raw_parts(windows.cast::<u8>(), 4 * count * k);
                let rows = std::slice::from_raw_parts(weights.add((g * z.og + channels.start) * k), channels.len() * k);
                let to = y.add(((n * z.groups + g) * z.og + channels.start) * out_plane);
                let mm = Matmul::new(WeightType::F32, Mode::Exact, self.level, count, k);
                mm.run(data, rows, &[], channels.len(), 0..mm.n_groups(), Output { ptr: to, stride: out_plane, col: first });
                if let Some(b) = bias {
                    for (i, o) in channels.enumerate() {
                        let (row, b) = (std::slice::from_raw_parts_mut(to.add(i * out_plane + first), count), b.one(g * z.og + o));
                        row.iter_mut().for_each(|v| *v += b);
                    }
                }
            }
        }
    }
}

impl Step for ConvStep {
    fn stages(&self, _: &Frame<'_>) -> usize {
        if self.weight.1 == DType::F32 { 1 } else { 2 }
    }

    fn run(&self, f: &Frame<'_>, stage: usize, w: Worker) {
        let z = self.sizes(f);
        if stage + 1 < self.stages(f) {
            let weight = Wide::new(f, self.weight.0, self.weight.1);
            let scratch = f.scratch(self.node.index()).0.cast::<f32>();
            if z.widened(self.weight.1) > 0 {
                // SAFETY: scratch memory has room for all weights; these are this thread's.
                w.share(z.groups * z.og * z.window()).for_each(|i| unsafe { *scratch.add(i) = weight.one(i) });
            }
        } else if z.depthwise() {
            self.depthwise(f, &z, w);
        } else {
            // SAFETY: stage 0 comes before, with a barrier between.
            unsafe { self.tiles(f, &z, w) };
        }
    }
}
