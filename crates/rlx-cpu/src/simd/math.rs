//! Elementary functions over any [`Simd`].

use super::Simd;

/// e^x in every lane, within 2 units in the last place; 0 below -87.3, the largest finite result above 88.3.
///
/// Range reduction by ln 2 in two parts and the polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let lowest = s.splat(-87.3);
    // In this order of operands NaN stays NaN.
    let y = s.max(lowest, s.min(s.splat(88.3), x));
    let n = s.to_i(s.mul(y, s.splat(std::f32::consts::LOG2_E)));
    let nf = s.to_f(n);
    let r = s.fnma(nf, s.splat(0.693_359_4), y);
    let r = s.fnma(nf, s.splat(-2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    let scale = s.bits_to_f(s.ishl::<23>(s.iadd(n, s.isplat(127))));
    s.select_lt(x, lowest, s.splat(0.0), s.mul(p, scale))
}
