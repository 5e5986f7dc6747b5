//! Quantisers of the K formats with the importance of columns, after ggml's `quantize_row_q*_K_impl`.
//!
//! Unlike the plain ones they search more scales, and choose the codes of the scales by weighted error too.

use super::k_quantize::{Affine, Codes, q6_k, store, store_q2_k, store_q3_k, store_q4_k, store_q5_k};
use super::search::{self, Search};
use super::weights::{mean_square, sum, weights};

/// The scales that every affine format tries when it has weights.
pub(super) const SEARCH: Search = Search { first: -0.9, step: 0.05, steps: 36, absolute: false };

/// Codes `0..=top` of `N` sub-blocks of `M` elements; scales and minima get codes `0..=top_scale`.
fn affine<const N: usize, const M: usize>(
    x: &[f32; 256],
    importance: &[f32; 256],
    sigma2: f32,
    top: i32,
    top_scale: i32,
) -> (Codes, Affine<N>) {
    let (mut codes, mut scales, mut mins, mut totals) = ([0u8; 256], [0.0; N], [0.0; N], [0.0; N]);
    let groups = x.as_chunks::<M>().0.iter().zip(importance.as_chunks::<M>().0);
    for (j, (x, importance)) in groups.enumerate() {
        let w = weights(x, importance, sigma2);
        totals[j] = sum(&w);
        let fit;
        (fit, mins[j]) = search::affine(x, &w, top, &SEARCH);
        scales[j] = fit.scale;
        store(&fit, &mut codes[j * M..]);
    }
    let (d, scales) = search::positive(&scales, &totals, top_scale);
    let (dmin, mins) = search::positive(&mins, &totals, top_scale);
    (codes, Affine { d, dmin, scales, mins })
}

pub(super) fn quantize_q2_k(x: &[f32; 256], importance: &[f32; 256], b: &mut [u8; 84]) {
    let (codes, fit) = affine::<16, 16>(x, importance, mean_square(x), 3, 15);
    store_q2_k(x, codes, &fit, b);
}

pub(super) fn quantize_q3_k(x: &[f32; 256], importance: &[f32; 256], b: &mut [u8; 110]) {
    let sigma2 = 2.0 * mean_square(x);
    let (mut codes, mut scales, mut totals) = ([0u8; 256], [0.0; 16], [0.0; 16]);
    let groups = x.as_chunks::<16>().0.iter().zip(importance.as_chunks::<16>().0);
    for (j, (x, importance)) in groups.enumerate() {
        let w = weights(x, importance, sigma2);
        totals[j] = sum(&w);
        let fit = search::symmetric(x, &w, 4);
        scales[j] = fit.scale;
        store(&fit, &mut codes[j * 16..]);
    }
    let fit = search::symmetric(&scales, &totals, 32);
    store_q3_k(x, codes, fit.scale, &fit.codes.map(|c| c as u8), b);
}

pub(super) fn quantize_q4_k(x: &[f32; 256], importance: &[f32; 256], b: &mut [u8; 144]) {
    let (codes, fit) = affine::<8, 32>(x, importance, 2.0 * mean_square(x), 15, 63);
    store_q4_k(x, codes, &fit, b);
}

pub(super) fn quantize_q5_k(x: &[f32; 256], importance: &[f32; 256], b: &mut [u8; 176]) {
    let (codes, fit) = affine::<8, 32>(x, importance, 2.0 * mean_square(x), 31, 63);
    store_q5_k(x, codes, &fit, b);
}

/// Here the importance alone is the weight.
pub(super) fn quantize_q6_k(x: &[f32; 256], importance: &[f32; 256], b: &mut [u8; 210]) {
    q6_k(x, importance.as_chunks().0, b);
}
