//! Sliding windows over spatial dimensions, shared by the convolutions.

use crate::{Dim, TypeError, rule};

/// Largest stride, dilation, padding or count an attribute may ask for.
const MOST: usize = 1 << 24;

/// An attribute of a sane size, so that shapes computed from it cannot overflow.
pub(crate) fn bounded(what: &str, v: usize, least: usize) -> Result<(), TypeError> {
    if (least..=MOST).contains(&v) { Ok(()) } else { Err(TypeError::Attribute(format!("{what} is {v}, expected {least} to {MOST}"))) }
}

/// `x` has 1 to 3 spatial dimensions after batch and channels, and every attribute one entry per
/// spatial dimension; returns how many there are.
pub(crate) fn spatial(rank: usize, attributes: &[(&str, usize)]) -> Result<usize, TypeError> {
    let n = rank.saturating_sub(2);
    if !(1..=3).contains(&n) {
        return Err(rule::mismatch("rank of x", rank, "3 to 5: batch, channels, 1 to 3 spatial dimensions"));
    }
    for (what, len) in attributes {
        if *len != n {
            return Err(rule::mismatch(format!("length of {what}"), len, format!("{n}, one per spatial dimension")));
        }
    }
    Ok(n)
}

/// Number of windows: `floor((size + lo + hi − dilation·(kernel−1) − 1) / stride) + 1`.
pub(crate) fn windows(size: &Dim, [lo, hi]: [usize; 2], kernel: usize, dilation: usize, stride: usize) -> Result<Dim, TypeError> {
    let reach = dilation * (kernel - 1) + 1;
    if let Some(n) = size.as_const()
        && n + lo + hi < reach
    {
        return Err(rule::mismatch("padded size", n + lo + hi, format!("at least {reach}, the reach of the kernel")));
    }
    Ok((size.clone() + (lo + hi + stride) - Dim::from(reach)).floor_div(stride as u64))
}

/// `v`, preceded by as many `fill` as make it 3 long.
pub(crate) fn three<T: Copy>(v: &[T], fill: T) -> [T; 3] {
    let mut out = [fill; 3];
    let lead = 3usize.saturating_sub(v.len());
    out.iter_mut().skip(lead).zip(v).for_each(|(o, v)| *o = *v);
    out
}

/// All positions in a box of this size, row-major.
pub(crate) fn positions(size: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [a, b, c] = size;
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| [i, j, k])))
}

/// Row-major offset of `at` in a box of this size.
pub(crate) fn offset(at: [usize; 3], size: [usize; 3]) -> usize {
    (at[0] * size[1] + at[1]) * size[2] + at[2]
}
