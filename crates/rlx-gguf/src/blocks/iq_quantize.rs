//! Quantisers of `IQ2_XXS`, `IQ2_XS`, `IQ2_S`, `IQ3_XXS` and `IQ3_S`, after ggml's `quantize_row_iq2_*_impl` and
//! `quantize_row_iq3_*_impl`.
//!
//! A group of 16 or 32 elements has one scale.  Its magnitudes are rounded to the levels 1, 3, 5, … times a candidate
//! scale; pieces of 8 (IQ2) or 4 (IQ3) magnitudes whose levels are no point of the grid take the near point of least
//! weighted error ([`super::lattice`]).  The candidate of least weighted error wins and its scale is fitted; scales are
//! then quantised against the largest of the block.

use super::lattice::{self, Lattice};
use super::search::{self, NEGLIGIBLE, nearest_int};
use super::weights::{mean_square, weights};
use super::{get_u32, put_half};
use std::sync::LazyLock;

type Importance<'a> = Option<&'a [f32; 256]>;

/// How a format searches the scale of a group.
struct Recipe<const D: usize> {
    lattice: &'static LazyLock<Lattice<D>>,
    /// Candidates on either side of the scale that puts the largest magnitude on the highest level.
    tries: i32,
    /// How far apart candidates are, in levels.
    step: f32,
    /// Which pieces are looked up again with the fitted scale.
    refit: Refit,
    /// Groups whose largest magnitude is below this are zero.
    negligible: f32,
    /// Signs are stored as 7 of 8 bits: an odd one out is flipped where it costs least.
    even_signs: bool,
    /// What the mean square of the block is multiplied by for the weights.
    sigma: f32,
    /// The part of that which is added to squares where the importance of columns is not known.
    plain: f32,
}

#[derive(PartialEq, Clone, Copy)]
enum Refit {
    /// Those that were off the grid.
    OffGrid,
    /// All of them if any was off the grid, or no candidate was any good.
    AllIfAnyOffGrid,
    /// All of them.
    All,
}

/// What was found for a group: points of the grid, and signs per 8 elements.
struct Group {
    points: [u16; 8],
    signs: [u8; 4],
}

/// Magnitudes and signs of 8 elements; with `even`, the one that matters least may change its sign (and then has a
/// negative magnitude).
fn split_signs(x: &[f32; 8], w: &[f32; 8], even: bool) -> ([f32; 8], u8) {
    let mut magnitudes = x.map(f32::abs);
    let mut signs = (0..8).fold(0u8, |s, i| s | u8::from(x[i] < 0.0) << i);
    if even && signs.count_ones() % 2 == 1 {
        let costs: [f32; 8] = std::array::from_fn(|i| w[i] * x[i] * x[i]);
        let least = (1..8).fold(0, |least, i| if costs[i] < costs[least] { i } else { least });
        magnitudes[least] = -magnitudes[least];
        signs ^= 1 << least;
    }
    (magnitudes, signs)
}

/// Weighted sums Σ w·x·q and Σ w·q² over the levels of `points`.
fn sums<const D: usize, const N: usize>(lattice: &Lattice<D>, points: &[u16; 8], x: &[f32; N], w: &[f32; N]) -> (f32, f32) {
    let (mut qx, mut q2) = (0.0, 0.0);
    for ((x, w), point) in x.as_chunks::<D>().0.iter().zip(w.as_chunks::<D>().0).zip(points) {
        let values = &lattice.values[usize::from(*point)];
        for i in 0..D {
            let q = values[i];
            qx += w[i] * x[i] * q;
            q2 += w[i] * q * q;
        }
    }
    (qx, q2)
}

/// The point for `x` under a scale, and whether its levels were on the grid.  `root`: square roots of the weights.
fn point<const D: usize>(lattice: &Lattice<D>, x: &[f32; D], root: &[f32; D], inverse_scale: f32, scale: f32) -> (u16, bool) {
    let combination = lattice.round(x, inverse_scale);
    if let Some(point) = lattice.point(combination) {
        return (point, true);
    }
    let error = |point: usize| {
        let (values, mut error) = (&lattice.values[point], 0.0);
        for i in 0..D {
            let diff = scale * values[i] - x[i];
            error += root[i] * diff * diff;
        }
        error
    };
    (lattice.best(combination, error), false)
}

impl<const D: usize> Recipe<D> {
    /// Points and scale of a group of magnitudes.  `reach`: what the highest level should about stand for; `start`: the
    /// scale when no candidate is any good.
    fn search<const N: usize>(&self, x: &[f32; N], w: &[f32; N], reach: f32, start: f32) -> ([u16; 8], f32) {
        let lattice: &Lattice<D> = self.lattice;
        let root = w.map(f32::sqrt);
        let pieces = || x.as_chunks::<D>().0.iter().zip(root.as_chunks::<D>().0).enumerate();
        let (mut points, mut scale, mut score) = ([0; 8], start, 0.0);
        let mut on_grid = [self.refit == Refit::OffGrid; 8];
        for s in -self.tries..=self.tries {
            let inverse_scale = (lattice.highest() + s as f32 * self.step) / reach;
            let (mut candidate, mut hit) = ([0; 8], [true; 8]);
            for (k, (x, root)) in pieces() {
                (candidate[k], hit[k]) = point(lattice, x, root, inverse_scale, 1.0 / inverse_scale);
            }
            let (qx, q2) = sums(lattice, &candidate, x, w);
            if q2 > 0.0 && qx * qx > score * q2 {
                scale = qx / q2;
                score = scale * qx;
                (points, on_grid) = (candidate, hit);
            }
        }
        let all_on_grid = on_grid.iter().take(N / D).all(|hit| *hit);
        if scale > 0.0 && (self.refit == Refit::All || !all_on_grid) {
            for (k, (x, root)) in pieces() {
                if self.refit != Refit::OffGrid || !on_grid[k] {
                    points[k] = point(lattice, x, root, 1.0 / scale, scale).0;
                }
            }
            let (qx, q2) = sums(lattice, &points, x, w);
            if q2 > 0.0 {
                scale = qx / q2;
            }
        }
        (points, scale)
    }

    /// The scales of all groups of `N` elements; `put` gets what else a group stores.  Groups that are zero have none.
    fn groups<const N: usize>(&self, x: &[f32; 256], importance: Importance<'_>, mut put: impl FnMut(usize, &Group)) -> [f32; 16] {
        let sigma2 = self.sigma * mean_square(x);
        let mut scales = [0.0; 16];
        for (j, x) in x.as_chunks::<N>().0.iter().enumerate() {
            let w = match importance {
                Some(i) => weights(x, &i.as_chunks::<N>().0[j], sigma2),
                None => x.map(|v| self.plain * sigma2 + v * v),
            };
            let (mut magnitudes, mut signs) = ([0.0; N], [0u8; 4]);
            for (k, out) in magnitudes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                (*out, signs[k]) = split_signs(&x.as_chunks().0[k], &w.as_chunks().0[k], self.even_signs);
            }
            let max = magnitudes.iter().fold(magnitudes[0], |m, v| if *v > m { *v } else { m });
            if max.is_nan() || max <= 0.0 || max < self.negligible {
                continue;
            }
            let Some((reach, start)) = self.start(&magnitudes, &w, max) else {
                continue;
            };
            let (points, mut scale) = self.search(&magnitudes, &w, reach, start);
            if scale < 0.0 {
                scale = -scale;
                signs = signs.map(|s| !s);
            }
            scales[j] = scale;
            put(j, &Group { points, signs });
        }
        scales
    }

    /// Where the search of a group begins, and its scale should that find nothing.
    fn start<const N: usize>(&self, magnitudes: &[f32; N], w: &[f32; N], max: f32) -> Option<(f32, f32)> {
        if self.refit != Refit::All {
            return Some((max, max / self.lattice.highest()));
        }
        // One level more than the grid has, and the highest one for what three of them reach.
        let (scale, _) = search::positive(magnitudes, w, 4);
        Some((scale * 3.0, scale)).filter(|(reach, _)| *reach > 0.0)
    }
}

/// The scale of the block, and the 4-bit codes of the groups' scales; nothing for a block of zeros.
fn scale_codes(scales: &[f32; 16]) -> Option<(f32, [u8; 16])> {
    let max = scales.iter().fold(0.0f32, |m, s| if *s > m { *s } else { m });
    if max == 0.0 {
        return None;
    }
    let d = max / 31.0;
    let inverse = 1.0 / d;
    Some((d, scales.map(|s| nearest_int(0.5 * (inverse * s - 1.0)).clamp(0, 15) as u8)))
}

/// Four 7-bit signs in a word.
fn sign_word(signs: &[u8; 4]) -> u32 {
    signs.iter().rev().fold(0, |word, s| word << 7 | u32::from(s & 127))
}

/// Sets the 4-bit scale at the top of a word.
fn put_scale_bits(b: &mut [u8], at: usize, scale: u8) {
    let word = get_u32(b, at) | u32::from(scale) << 28;
    b[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

pub(super) fn quantize_iq2_xxs(x: &[f32; 256], importance: &[f32; 256], b: &mut [u8; 66]) {
    const RECIPE: Recipe<8> = Recipe {
        lattice: &lattice::IQ2XXS,
        tries: 6,
        step: 0.1,
        refit: Refit::All,
        negligible: NEGLIGIBLE,
        even_signs: true,
        sigma: 1.0,
        plain: 0.0,
    };
    b.fill(0);
    let scales = RECIPE.groups::<32>(x, Some(importance), |j, group| {
        for (byte, point) in b[2 + 8 * j..][..4].iter_mut().zip(group.points) {
            *byte = point as u8;
        }
        b[6 + 8 * j..][..4].copy_from_slice(&sign_word(&group.signs).to_le_bytes());
    });
    let Some((d, codes)) = scale_codes(&scales) else {
        return b.fill(0);
    };
    put_half(b, 0, d);
    (0..8).for_each(|j| put_scale_bits(b, 6 + 8 * j, codes[j]));
}

pub(super) fn quantize_iq2_xs(x: &[f32; 256], importance: &[f32; 256], b: &mut [u8; 74]) {
    const RECIPE: Recipe<8> = Recipe {
        lattice: &lattice::IQ2XS,
        tries: 9,
        step: 0.1,
        refit: Refit::OffGrid,
        negligible: NEGLIGIBLE,
        even_signs: true,
        sigma: 1.0,
        plain: 0.0,
    };
    b.fill(0);
    let scales = RECIPE.groups::<16>(x, Some(importance), |j, group| {
        for k in 0..2 {
            let word = group.points[k] | u16::from(group.signs[k] & 127) << 9;
            b[2 + 4 * j + 2 * k..][..2].copy_from_slice(&word.to_le_bytes());
        }
    });
    let Some((d, codes)) = scale_codes(&scales) else {
        return b.fill(0);
    };
    put_half(b, 0, d);
    (0..8).for_each(|i| b[66 + i] = codes[2 * i] | codes[2 * i + 1] << 4);
}

pub(super) fn quantize_iq2_s(x: &[f32; 256], importance: Importance<'_>, b: &mut [u8; 82]) {
    const RECIPE: Recipe<8> = Recipe {
        lattice: &lattice::IQ2S,
        tries: 9,
        step: 0.1,
        refit: Refit::OffGrid,
        negligible: 1e-8,
        even_signs: false,
        sigma: 2.0,
        plain: 0.25,
    };
    b.fill(0);
    let scales = RECIPE.groups::<16>(x, importance, |j, group| {
        for k in 0..2 {
            let i = 2 * j + k;
            b[2 + i] = group.points[k] as u8;
            b[34 + i] = group.signs[k];
            b[66 + i / 4] |= ((group.points[k] >> 8) as u8) << (i % 4 * 2);
        }
    });
    if let Some((d, codes)) = scale_codes(&scales) {
        put_half(b, 0, d * 0.9875);
        (0..8).for_each(|i| b[74 + i] = codes[2 * i] | codes[2 * i + 1] << 4);
    }
}

pub(super) fn quantize_iq3_xxs(x: &[f32; 256], importance: Importance<'_>, b: &mut [u8; 98]) {
    const RECIPE: Recipe<4> = Recipe {
        lattice: &lattice::IQ3XXS,
        tries: 15,
        step: 0.2,
        refit: Refit::OffGrid,
        negligible: 1e-8,
        even_signs: true,
        sigma: 2.0,
        plain: 0.0,
    };
    b.fill(0);
    let scales = RECIPE.groups::<32>(x, importance, |j, group| {
        for (byte, point) in b[2 + 8 * j..][..8].iter_mut().zip(group.points) {
            *byte = point as u8;
        }
        b[66 + 4 * j..][..4].copy_from_slice(&sign_word(&group.signs).to_le_bytes());
    });
    let Some((d, codes)) = scale_codes(&scales) else {
        return b.fill(0);
    };
    put_half(b, 0, d * 1.0125);
    (0..8).for_each(|j| put_scale_bits(b, 66 + 4 * j, codes[j]));
}

pub(super) fn quantize_iq3_s(x: &[f32; 256], importance: Importance<'_>, b: &mut [u8; 110]) {
    const RECIPE: Recipe<4> = Recipe {
        lattice: &lattice::IQ3S,
        tries: 9,
        step: 0.2,
        refit: Refit::AllIfAnyOffGrid,
        negligible: 0.0,
        even_signs: false,
        sigma: 2.0,
        plain: 0.0,
    };
    b.fill(0);
    let scales = RECIPE.groups::<32>(x, importance, |j, group| {
        for (k, point) in group.points.iter().enumerate() {
            b[2 + 8 * j + k] = *point as u8;
            b[66 + j] |= ((point >> 8) as u8) << k;
        }
        b[74 + 4 * j..][..4].copy_from_slice(&group.signs);
    });
    if let Some((d, codes)) = scale_codes(&scales) {
        put_half(b, 0, d * 1.033);
        (0..4).for_each(|i| b[106 + i] = codes[2 * i] | codes[2 * i + 1] << 4);
    }
}
