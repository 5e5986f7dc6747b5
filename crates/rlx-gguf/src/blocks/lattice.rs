//! Finding the grid point for a group of elements: which codes are points, and which points are near those that are not.
//!
//! A grid of the IQ formats has a few hundred of the thousands of combinations of levels that `D` elements can have.
//! Rounding elements on their own gives a combination; where that is no point, the quantisers choose among the points
//! at the smallest few distances.  Reference: ggml's `iq2xs_init_impl` and `iq3xs_init_impl`.

use super::grid_codes as codes;
use std::sync::LazyLock;

/// Marks combinations that are no point of the grid.
const OFF: u16 = u16::MAX;

/// A grid of points of `D` elements with levels 0, 1, 2, …, which stand for 1, 3, 5, …
pub(super) struct Lattice<const D: usize> {
    /// Bits per element in packed combinations.
    bits: u32,
    /// The highest level.
    top: i32,
    /// The levels of each point.
    pub points: Vec<[u8; D]>,
    /// The levels of each point as odd numbers.
    pub values: Vec<[f32; D]>,
    /// The point of a packed combination, or [`OFF`].
    map: Vec<u16>,
    /// Start in `near` of the points near each packed combination, and the end of the last.
    starts: Vec<u32>,
    near: Vec<u16>,
}

/// `IQ2_XXS`.
pub(super) static IQ2XXS: LazyLock<Lattice<8>> = LazyLock::new(|| Lattice::new(&codes::IQ2XXS, 3, 2));
/// `IQ2_XS`.
pub(super) static IQ2XS: LazyLock<Lattice<8>> = LazyLock::new(|| Lattice::new(&codes::IQ2XS, 3, 2));
/// `IQ2_S`.
pub(super) static IQ2S: LazyLock<Lattice<8>> = LazyLock::new(|| Lattice::new(&codes::IQ2S, 3, 1));
/// `IQ3_XXS`.
pub(super) static IQ3XXS: LazyLock<Lattice<4>> = LazyLock::new(|| Lattice::new(&codes::IQ3XXS, 8, 2));
/// `IQ3_S`.
pub(super) static IQ3S: LazyLock<Lattice<4>> = LazyLock::new(|| Lattice::new(&codes::IQ3S, 8, 3));
/// `IQ1_S` and `IQ1_M`.
pub(super) static IQ1: LazyLock<Lattice<8>> = LazyLock::new(|| Lattice::new(&codes::IQ1S, 3, 3));

impl<const D: usize> Lattice<D> {
    /// `distances`: how many different distances count as near.
    fn new(packed: &[u16], levels: u8, distances: usize) -> Self {
        let bits = if D == 8 { 2 } else { 3 };
        let unpack = |p: usize| -> [u8; D] { std::array::from_fn(|k| (p >> (bits * k as u32) & ((1 << bits) - 1)) as u8) };
        let points: Vec<[u8; D]> = packed.iter().map(|p| unpack(usize::from(*p))).collect();
        let values = points.iter().map(|p| p.map(|l| f32::from(2 * l + 1))).collect();
        let top = levels - 1;
        let end = (0..D).fold(0, |p, k| p | usize::from(top) << (bits * k as u32)) + 1;
        let mut map = vec![OFF; end];
        for (i, p) in packed.iter().enumerate() {
            map[usize::from(*p)] = i as u16;
        }
        let (mut starts, mut near, mut away) = (vec![0; end + 1], vec![], vec![0u8; points.len()]);
        for p in 0..end {
            starts[p] = near.len() as u32;
            let combination = unpack(p);
            if map[p] == OFF && combination.iter().all(|l| *l <= top) {
                append_near(&combination, &points, distances, &mut away, &mut near);
            }
        }
        starts[end] = near.len() as u32;
        Self { bits, top: i32::from(top), points, values, map, starts, near }
    }

    /// The combination of the levels that `0.5 · (inverse_scale · x − 1)` rounds to.
    pub fn round(&self, x: &[f32; D], inverse_scale: f32) -> usize {
        let levels = x.map(|v| super::search::nearest_int(0.5 * (inverse_scale * v - 1.0)).clamp(0, self.top));
        levels.iter().rev().fold(0, |p, l| p << self.bits | *l as usize)
    }

    /// What the highest level stands for.
    pub fn highest(&self) -> f32 {
        (2 * self.top + 1) as f32
    }

    /// The combination of given levels.
    pub fn pack(&self, levels: &[u8; D]) -> usize {
        levels.iter().rev().fold(0, |p, l| p << self.bits | usize::from(*l))
    }

    /// The point of a combination, if it is one.
    pub fn point(&self, combination: usize) -> Option<u16> {
        self.map.get(combination).copied().filter(|i| *i != OFF)
    }

    /// The point near a combination that is none for which `error` of its number is least; the nearest one when no
    /// error is a number.
    pub fn best(&self, combination: usize, error: impl Fn(usize) -> f32) -> u16 {
        let near = &self.near[self.starts[combination] as usize..self.starts[combination + 1] as usize];
        let mut best = (f32::MAX, near[0]);
        for i in near {
            let e = error(usize::from(*i));
            if e < best.0 {
                best = (e, *i);
            }
        }
        best.1
    }
}

/// Appends the points at the smallest `distances` distances from `combination`, by distance and then by number.
fn append_near<const D: usize>(combination: &[u8; D], points: &[[u8; D]], distances: usize, away: &mut [u8], near: &mut Vec<u16>) {
    let mut present = [false; 256];
    for (away, point) in away.iter_mut().zip(points) {
        *away = (0..D).map(|k| combination[k].abs_diff(point[k])).map(|d| d * d).sum();
        present[usize::from(*away)] = true;
    }
    for (distance, _) in present.iter().enumerate().filter(|(_, p)| **p).take(distances) {
        let at_distance = away.iter().enumerate().filter(|(_, a)| usize::from(**a) == distance);
        near.extend(at_distance.map(|(i, _)| i as u16));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_found_and_other_combinations_have_neighbours() {
        fn check<const D: usize>(lattice: &Lattice<D>, n: usize) {
            assert_eq!(lattice.points.len(), n);
            for (i, levels) in lattice.points.iter().enumerate() {
                assert_eq!(lattice.point(lattice.pack(levels)), Some(i as u16));
                let values = lattice.values[i];
                assert_eq!(lattice.point(lattice.round(&values, 1.0)), Some(i as u16));
            }
            // One level away in one element: the point itself is among the nearest.
            for levels in &lattice.points {
                let mut moved = *levels;
                moved[0] = if moved[0] == 0 { 1 } else { moved[0] - 1 };
                let p = lattice.pack(&moved);
                if lattice.point(p).is_none() {
                    let away = |i: usize| (0..D).map(|k| (lattice.values[i][k] - f32::from(2 * moved[k] + 1)).powi(2)).sum();
                    assert_eq!(away(usize::from(lattice.best(p, away))), 4.0);
                }
            }
        }
        check(&IQ2XXS, 256);
        check(&IQ2XS, 512);
        check(&IQ2S, 1024);
        check(&IQ3XXS, 256);
        check(&IQ3S, 512);
        check(&IQ1, 2048);
    }
}
