//! Scale searches of the K- and I-quantisers: given a handful of elements and their weights, find a scale (and minimum)
//! whose rounded codes have the least weighted squared error.
//!
//! Reference: ggml's `make_qx_quants`, `make_q3_quants`, `make_qkx2_quants` (`make_qkx3_quants` is the same with other
//! steps) and `make_qp_quants`, float32 sums in element order.

/// Groups whose largest magnitude is below this are stored as zero.
pub(super) const NEGLIGIBLE: f32 = 1e-15;

/// Rounds to the nearest integer, halves to even; for magnitudes below 2^22, as in the reference.
///
/// Adding 1.5 · 2^23 leaves the integer in the lowest bits of the mantissa.  Unlike `round_ties_even` this needs no
/// instruction beyond the oldest ones of any processor.
pub(super) fn nearest_int(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// What a search found: `x ≈ scale * code` (plus `min` where the format has one; codes of symmetric formats are raised,
/// but negligible elements have code 0, as in the reference).
pub(super) struct Fit<const N: usize> {
    pub scale: f32,
    pub codes: [i32; N],
}

/// Weighted sums of a candidate: Σ w·x·l and Σ w·l².
#[derive(Default, Clone, Copy)]
struct Sums {
    xl: f32,
    l2: f32,
}

fn symmetric_codes<const N: usize>(x: &[f32; N], w: &[f32; N], inverse_scale: f32, levels: i32) -> ([i32; N], Sums) {
    let codes = x.map(|v| nearest_int(inverse_scale * v).clamp(-levels, levels - 1));
    let mut sums = Sums::default();
    for ((v, w), l) in x.iter().zip(w).zip(codes) {
        let l = l as f32;
        sums.xl += w * v * l;
        sums.l2 += w * l * l;
    }
    (codes, sums)
}

/// The weights of a quantiser that knows nothing better.
pub(super) fn squares<const N: usize>(x: &[f32; N]) -> [f32; N] {
    x.map(|v| v * v)
}

/// Symmetric codes in `-levels..levels`, raised by `levels`: tries 19 scales around the one given by the largest element.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], w: &[f32; N], levels: i32) -> Fit<N> {
    let max = super::legacy::signed_max(x);
    if max.is_nan() || max.abs() < NEGLIGIBLE {
        return Fit { scale: 0.0, codes: [0; N] };
    }
    let (codes, sums) = symmetric_codes(x, w, -(levels as f32) / max, levels);
    let scale = if sums.l2 > 0.0 { sums.xl / sums.l2 } else { 0.0 };
    let mut best = Fit { scale, codes };
    let mut score = scale * sums.xl;
    for step in (-9..=9).filter(|s| *s != 0) {
        let inverse_scale = -(levels as f32 + 0.1 * step as f32) / max;
        let (codes, sums) = symmetric_codes(x, w, inverse_scale, levels);
        if sums.l2 > 0.0 && sums.xl * sums.xl > score * sums.l2 {
            let scale = sums.xl / sums.l2;
            score = scale * sums.xl;
            best = Fit { scale, codes };
        }
    }
    best.codes = best.codes.map(|c| c + levels);
    best
}

/// Symmetric codes in `-levels..levels`, raised by `levels`, weights x²: up to five rounds of moving single codes to where they fit better.
pub(super) fn symmetric_by_moves<const N: usize>(x: &[f32; N], levels: i32) -> Fit<N> {
    let max = super::legacy::signed_max(x);
    if max.is_nan() || max.abs() < NEGLIGIBLE {
        return Fit { scale: 0.0, codes: [0; N] };
    }
    let (mut codes, mut sums) = symmetric_codes(x, &squares(x), -(levels as f32) / max, levels);
    for _ in 0..5 {
        let mut moved = false;
        for (v, code) in x.iter().zip(&mut codes) {
            let (w, l) = (v * v, *code as f32);
            let mut rest = Sums { xl: sums.xl - w * v * l, l2: sums.l2 - w * l * l };
            if rest.xl <= 0.0 {
                continue;
            }
            let candidate = nearest_int(v * rest.l2 / rest.xl).clamp(-levels, levels - 1);
            if candidate == *code {
                continue;
            }
            let l = candidate as f32;
            rest.xl += w * v * l;
            rest.l2 += w * l * l;
            if rest.l2 > 0.0 && rest.xl * rest.xl * sums.l2 > sums.xl * sums.xl * rest.l2 {
                *code = candidate;
                sums = rest;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    Fit { scale: if sums.l2 > 0.0 { sums.xl / sums.l2 } else { 0.0 }, codes: codes.map(|c| c + levels) }
}

/// Which scales [`affine`] tries: inverse scales `(first + step * i + top) / (max - min)` for `i` in `0..=steps`.
pub(super) struct Search {
    pub first: f32,
    pub step: f32,
    pub steps: i32,
    /// Compare candidates by absolute instead of squared error.
    pub absolute: bool,
}

/// Codes in `0..=top` with a minimum that is not positive: returns the fit and the *negated* minimum.
///
/// As in the reference, each candidate starts from the best minimum found so far.
pub(super) fn affine<const N: usize>(x: &[f32; N], w: &[f32; N], top: i32, search: &Search) -> (Fit<N>, f32) {
    let mut min = x.iter().fold(f32::INFINITY, |m, v| v.min(m));
    let max = x.iter().fold(f32::NEG_INFINITY, |m, v| v.max(m));
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    for (v, w) in x.iter().zip(w) {
        sum_w += w;
        sum_x += w * v;
    }
    min = min.min(0.0);
    if max == min {
        return (Fit { scale: 0.0, codes: [0; N] }, -min);
    }
    let codes_for = |inverse_scale: f32, min: f32| x.map(|v| nearest_int(inverse_scale * (v - min)).clamp(0, top));
    let error_of = |scale: f32, min: f32, codes: &[i32; N]| {
        let mut error = 0.0;
        for ((v, w), l) in x.iter().zip(w).zip(codes) {
            let diff = scale * *l as f32 + min - v;
            error += w * if search.absolute { diff.abs() } else { diff * diff };
        }
        error
    };
    let inverse_scale = top as f32 / (max - min);
    let mut best = Fit { scale: 1.0 / inverse_scale, codes: codes_for(inverse_scale, min) };
    let mut best_error: f32 = error_of(best.scale, min, &best.codes);
    for i in 0..=search.steps {
        let inverse_scale = (search.first + search.step * i as f32 + top as f32) / (max - min);
        let codes = codes_for(inverse_scale, min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((v, w), l) in x.iter().zip(w).zip(&codes) {
            let l = *l as f32;
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * v;
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        if det.is_nan() || det <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        if this_min > 0.0 {
            this_min = 0.0;
            scale = sum_xl / sum_l2;
        }
        let error = error_of(scale, this_min, &codes);
        if error < best_error {
            best = Fit { scale, codes };
            best_error = error;
            min = this_min;
        }
    }
    (best, -min)
}

/// Σ w·(x − scale·code(x))².
fn error_of<const N: usize>(x: &[f32; N], w: &[f32; N], scale: f32, code: impl Fn(f32) -> f32) -> f32 {
    x.iter().zip(w).fold(0.0, |error, (v, w)| {
        let diff = v - scale * code(*v);
        error + w * diff * diff
    })
}

/// Codes in `0..=top` for elements that are (mostly) positive: nine scales compete by squared error, then up to five
/// rounds move single codes.  Returns the scale and the codes.
///
/// Codes are bytes and wrap for negative elements, as in the reference: the rounds see the wrapped code, and with it
/// the scale comes out as in the reference.
pub(super) fn positive<const N: usize>(x: &[f32; N], w: &[f32; N], top: i32) -> (f32, [u8; N]) {
    let max = x.iter().fold(0.0f32, |m, v| if *v > m { *v } else { m });
    if max < NEGLIGIBLE {
        return (0.0, [0; N]);
    }
    let mut inverse_scale = top as f32 / max;
    let mut best = error_of(x, w, 1.0 / inverse_scale, |v| f32::from(nearest_int(inverse_scale * v) as u8));
    for step in (-4..=4).filter(|s| *s != 0) {
        let candidate = (0.1 * step as f32 + top as f32) / max;
        let error = error_of(x, w, 1.0 / candidate, |v| nearest_int(candidate * v).min(top) as f32);
        if error < best {
            (best, inverse_scale) = (error, candidate);
        }
    }
    let (mut codes, mut sums) = ([0u8; N], Sums::default());
    for ((v, w), code) in x.iter().zip(w).zip(&mut codes) {
        let l = nearest_int(inverse_scale * v).min(top);
        *code = l as u8;
        sums.xl += w * v * l as f32;
        sums.l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut moved = false;
        for ((v, w), code) in x.iter().zip(w).zip(&mut codes) {
            let l = f32::from(*code);
            let mut rest = Sums { xl: sums.xl - w * v * l, l2: sums.l2 - w * l * l };
            if rest.xl.is_nan() || rest.l2.is_nan() || rest.xl <= 0.0 || rest.l2 <= 0.0 {
                continue;
            }
            let candidate = nearest_int(v * rest.l2 / rest.xl).min(top);
            if candidate == i32::from(*code) {
                continue;
            }
            let l = candidate as f32;
            rest.xl += w * v * l;
            rest.l2 += w * l * l;
            if rest.xl * rest.xl * sums.l2 > sums.xl * sums.xl * rest.l2 {
                *code = candidate as u8;
                sums = rest;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    (if sums.l2 > 0.0 { sums.xl / sums.l2 } else { 0.0 }, codes)
}
