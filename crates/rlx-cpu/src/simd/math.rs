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

/// `e^x` for `x` of at most 0 with an error of at most 1.2e-7, relative to 1, for two thirds of the work of [`exp`]; what is
/// smaller than `2^-125` becomes that.
#[inline(always)]
pub fn exp_of_negative<S: Simd>(s: S, x: S::F) -> S::F {
    // In this order of operands NaN stays NaN.
    let t = s.max(s.splat(-125.0), s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let n = s.to_i(t);
    let r = s.sub(t, s.to_f(n));
    // 2^r for r of at most a half, exactly 1 at 0: of the polynomials that begin like it, that of least relative error, 1.1e-7.
    let mut p = s.splat(1.330_026_5e-3);
    for c in [9.669_709e-3, 5.550_56e-2, 0.240_222_81, std::f32::consts::LN_2, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.mul(p, s.bits_to_f(s.ishl::<23>(s.iadd(n, s.isplat(127)))))
}
