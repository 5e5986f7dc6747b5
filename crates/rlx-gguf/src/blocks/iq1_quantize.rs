//! Quantisers of `IQ1_S` and `IQ1_M`, after ggml's `quantize_row_iq1_*_impl`.
//!
//! The values are {-1, 0, 1} plus or minus an eighth, times a scale.  In ascending order a group of elements falls into
//! three runs, so the best assignment is found exactly: all pairs of boundaries compete, their sums taken from prefix
//! sums.  Pieces of 8 that are no point of the grid then take the near point of least error.

use super::lattice::{IQ1, Lattice};
use super::search::nearest_int;
use super::weights::{mean_square, weights};
use super::{get_u16, put_half};

/// The three values under a positive and a negative offset.
const VALUES: [[f32; 3]; 2] = [[-0.875, 0.125, 1.125], [-1.125, -0.125, 0.875]];

/// Best boundaries of a group in ascending order.
struct Split {
    /// Elements before this one are low, those from `second` on are high.
    first: usize,
    second: usize,
    scale: f32,
    /// Which offsets the pieces have: bit `k` is set where that of piece `k` (of a half, in `IQ1_M`) is negative.
    offsets: usize,
}

/// Keeps the candidate with the largest Σ(w·q·x)² / Σ(w·q²); the first of equals.
struct Best {
    score: f32,
    split: Option<Split>,
}

impl Best {
    fn new() -> Self {
        Self { score: -f32::MAX, split: None }
    }

    fn offer(&mut self, qx: f32, q2: f32, first: usize, second: usize, offsets: usize) {
        if q2 > 0.0 && qx * qx > self.score * q2 {
            let scale = qx / q2;
            self.score = scale * qx;
            self.split = Some(Split { first, second, scale, offsets });
        }
    }
}

/// The indices of `x` in ascending order; equals keep their order.
fn ascending<const N: usize>(x: &[f32; N]) -> [usize; N] {
    let mut order = std::array::from_fn(|i| i);
    order.sort_by(|a: &usize, b: &usize| x[*a].partial_cmp(&x[*b]).unwrap_or(std::cmp::Ordering::Equal));
    order
}

/// The best split of a group of `IQ1_S`, which has one offset.
fn split_s(x: &[f32; 32], w: &[f32; 32], order: &[usize; 32]) -> Option<Split> {
    let (mut sum_x, mut sum_w) = ([0.0f32; 33], [0.0f32; 33]);
    for (j, i) in order.iter().enumerate() {
        sum_x[j + 1] = sum_x[j] + w[*i] * x[*i];
        sum_w[j + 1] = sum_w[j] + w[*i];
    }
    let mut best = Best::new();
    for first in 0..=32 {
        // Sums for every second boundary at once; the compiler makes vectors of them.
        let mut sums = [[0.0f32; 33]; 4];
        for (offset, [low, middle, high]) in VALUES.into_iter().enumerate() {
            for second in 0..33 {
                sums[2 * offset][second] =
                    sum_x[first] * low + (sum_x[second] - sum_x[first]) * middle + (sum_x[32] - sum_x[second]) * high;
                sums[2 * offset + 1][second] =
                    sum_w[first] * low * low + (sum_w[second] - sum_w[first]) * middle * middle + (sum_w[32] - sum_w[second]) * high * high;
            }
        }
        for second in first..=32 {
            best.offer(sums[0][second], sums[1][second], first, second, 0);
            best.offer(sums[2][second], sums[3][second], first, second, 1);
        }
    }
    best.split
}

/// The best split of a group of `IQ1_M`, whose halves have an offset each.
fn split_m(x: &[f32; 16], w: &[f32; 16], order: &[usize; 16]) -> Option<Split> {
    // Prefix sums per half.
    let (mut sum_x, mut sum_w) = ([[0.0f32; 17]; 2], [[0.0f32; 17]; 2]);
    for (j, i) in order.iter().enumerate() {
        for half in 0..2 {
            let here = i / 8 == half;
            sum_x[half][j + 1] = if here { sum_x[half][j] + w[*i] * x[*i] } else { sum_x[half][j] };
            sum_w[half][j + 1] = if here { sum_w[half][j] + w[*i] } else { sum_w[half][j] };
        }
    }
    let mut best = Best::new();
    for first in 0..=16 {
        // Neighbouring values differ by one, so the sum over three runs is the total at the high value less two prefixes.
        let (mut qx, mut q2) = ([[[0.0f32; 17]; 2]; 2], [[[0.0f32; 17]; 2]; 2]);
        for half in 0..2 {
            for (offset, [low, middle, high]) in VALUES.into_iter().enumerate() {
                let (step1, step2) = (low * low - middle * middle, middle * middle - high * high);
                for second in 0..17 {
                    qx[half][offset][second] = sum_x[half][16] * high - (sum_x[half][first] + sum_x[half][second]);
                    q2[half][offset][second] = sum_w[half][16] * high * high + sum_w[half][first] * step1 + sum_w[half][second] * step2;
                }
            }
        }
        for second in first..=16 {
            for (offsets, (a, b)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
                let sum = |q: &[[[f32; 17]; 2]; 2]| q[0][a][second] + q[1][b][second];
                best.offer(sum(&qx), sum(&q2), first, second, offsets);
            }
        }
    }
    best.split
}

/// The levels 0, 1, 2 of the elements.
fn levels<const N: usize>(split: &Split, order: &[usize; N]) -> [u8; N] {
    let mut levels = [0u8; N];
    for (j, i) in order.iter().enumerate() {
        levels[*i] = u8::from(j >= split.first) + u8::from(j >= split.second);
    }
    levels
}

/// Points of the grid for the pieces of a group, and the scale, fitted again where a piece was off the grid.
fn points<const N: usize>(x: &[f32; N], w: &[f32; N], levels: &[u8; N], scale: f32, values: [&[f32; 3]; 4]) -> ([u16; 4], f32) {
    let lattice: &Lattice<8> = &IQ1;
    let pieces = || x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0).zip(values).enumerate();
    let (mut points, mut all_on_grid) = ([0; 4], true);
    for ((k, ((x, w), values)), levels) in pieces().zip(levels.as_chunks::<8>().0) {
        let combination = lattice.pack(levels);
        points[k] = lattice.point(combination).unwrap_or_else(|| {
            all_on_grid = false;
            lattice.best(combination, |point| {
                let mut error = 0.0;
                for i in 0..8 {
                    let diff = scale * values[usize::from(lattice.points[point][i])] - x[i];
                    error += w[i] * diff * diff;
                }
                error
            })
        });
    }
    if all_on_grid {
        return (points, scale);
    }
    let mut sums = Sums::default();
    for (k, ((x, w), values)) in pieces() {
        sums.add(x, w, lattice.points[usize::from(points[k])].map(|l| values[usize::from(l)]));
    }
    (points, sums.scale().unwrap_or(scale))
}

/// Weighted sums Σ w·q·x and Σ w·q².
#[derive(Default)]
struct Sums {
    qx: f32,
    q2: f32,
}

impl Sums {
    fn add(&mut self, x: &[f32; 8], w: &[f32; 8], q: [f32; 8]) {
        for i in 0..8 {
            self.qx += w[i] * q[i] * x[i];
            self.q2 += w[i] * q[i] * q[i];
        }
    }

    fn scale(&self) -> Option<f32> {
        (self.qx > 0.0 && self.q2 > 0.0).then(|| self.qx / self.q2)
    }
}

/// The scale of the block and the inverse of it, from the largest of the groups' scales; nothing for zeros.
fn block_scale(scales: &[f32]) -> Option<(f32, f32)> {
    let max = scales.iter().fold(0.0f32, |m, s| if *s > m { *s } else { m });
    (max != 0.0).then(|| (max / 15.0, 1.0 / (max / 15.0)))
}

/// The 3-bit code of a group's scale.
fn scale_code(scale: f32, inverse: f32) -> u16 {
    nearest_int(0.5 * (inverse * scale - 1.0)).clamp(0, 7) as u16
}

fn is_negligible(x: &[f32], limit: f32) -> bool {
    let max = super::legacy::abs_max(x);
    max.is_nan() || max < limit
}

pub(super) fn quantize_iq1_s(x: &[f32; 256], importance: &[f32; 256], b: &mut [u8; 50]) {
    b.fill(0);
    let sigma2 = 2.0 * mean_square(x);
    let (mut scales, mut negative) = ([0.0; 8], [false; 8]);
    for (j, (x, importance)) in x.as_chunks::<32>().0.iter().zip(importance.as_chunks::<32>().0).enumerate() {
        let w = weights(x, importance, sigma2);
        let order = ascending(x);
        let Some(mut split) = Some(()).filter(|()| !is_negligible(x, 1e-12)).and_then(|()| split_s(x, &w, &order)) else {
            continue;
        };
        let mut levels = levels(&split, &order);
        if split.scale < 0.0 {
            levels = levels.map(|l| 2 - l);
            split.scale = -split.scale;
            split.offsets = 1 - split.offsets;
        }
        let (points, scale) = points(x, &w, &levels, split.scale, [&VALUES[split.offsets]; 4]);
        let mut high = 0;
        for (k, point) in points.iter().enumerate() {
            b[2 + 4 * j + k] = *point as u8;
            high |= (point >> 8) << (3 * k);
        }
        b[34 + 2 * j..][..2].copy_from_slice(&high.to_le_bytes());
        (scales[j], negative[j]) = (scale, split.offsets == 1);
    }
    let Some((d, inverse)) = block_scale(&scales) else {
        return;
    };
    // Found by experiment by the format's author, like the correction of IQ1_M.
    put_half(b, 0, d * 1.125);
    for j in 0..8 {
        let code = scale_code(scales[j], inverse) | u16::from(negative[j]) << 3;
        let word = get_u16(b, 34 + 2 * j) | code << 12;
        b[34 + 2 * j..][..2].copy_from_slice(&word.to_le_bytes());
    }
}

/// The values of the two pieces of a group of `IQ1_M`.
fn values_m(offsets: usize) -> [&'static [f32; 3]; 4] {
    let (first, second) = (&VALUES[offsets >> 1], &VALUES[offsets & 1]);
    [first, second, first, second]
}

pub(super) fn quantize_iq1_m(x: &[f32; 256], importance: Option<&[f32; 256]>, b: &mut [u8; 56]) {
    b.fill(0);
    let sigma2 = 2.0 * mean_square(x);
    let groups = x.as_chunks::<16>().0;
    let weight = |j: usize| match importance {
        Some(i) => weights(&groups[j], &i.as_chunks::<16>().0[j], sigma2),
        None => super::search::squares(&groups[j]),
    };
    let (mut scales, mut offsets, mut found) = ([0.0; 16], [0; 16], [[0u16; 4]; 16]);
    for (j, x) in groups.iter().enumerate() {
        let w = weight(j);
        let order = ascending(x);
        let Some(mut split) = Some(()).filter(|()| !is_negligible(x, 1e-7)).and_then(|()| split_m(x, &w, &order)) else {
            continue;
        };
        let mut levels = levels(&split, &order);
        if split.scale < 0.0 {
            levels = levels.map(|l| 2 - l);
            split.scale = -split.scale;
            split.offsets = 3 - split.offsets;
        }
        (found[j], scales[j]) = points(x, &w, &levels, split.scale, values_m(split.offsets));
        offsets[j] = split.offsets;
        b[2 * j] = found[j][0] as u8;
        b[2 * j + 1] = found[j][1] as u8;
        b[32 + j] = (found[j][0] >> 8 | found[j][1] >> 8 << 4) as u8;
    }
    let Some((mut d, inverse)) = block_scale(&scales) else {
        return;
    };
    let mut sums = Sums::default();
    let mut words = [0u16; 4];
    for (j, x) in groups.iter().enumerate() {
        let code = scale_code(scales[j], inverse);
        words[j / 4] |= code << (3 * (j % 4));
        b[32 + j] |= (offsets[j] as u8 & 2) << 2 | (offsets[j] as u8 & 1) << 7;
        let (w, values) = (weight(j), values_m(offsets[j]));
        for k in 0..2 {
            let point = IQ1.points[usize::from(found[j][k])];
            let q = point.map(|l| values[k][usize::from(l)] * f32::from(2 * code + 1));
            sums.add(&x.as_chunks().0[k], &w.as_chunks().0[k], q);
        }
    }
    if sums.q2 > 0.0 {
        d = sums.qx / sums.q2;
    }
    let bits = half::f16::from_f32(d * 1.1125).to_bits();
    for (k, word) in words.iter().enumerate() {
        let word = word | (bits >> (4 * k) & 15) << 12;
        b[48 + 2 * k..][..2].copy_from_slice(&word.to_le_bytes());
    }
}
