//! Weights of elements out of the importance of their columns.

/// How much an error of each element counts: its column's importance times √(σ² + x²).
///
/// `sigma2` is the mean square of the elements around (times a factor of the format).  The importance of a column is
/// the mean square of the activations that it multiplies.
pub(super) fn weights<const N: usize>(x: &[f32; N], importance: &[f32; N], sigma2: f32) -> [f32; N] {
    std::array::from_fn(|i| importance[i] * (sigma2 + x[i] * x[i]).sqrt())
}

/// The mean of the squares, summed in order.
pub(super) fn mean_square(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |s, v| s + v * v) / x.len() as f32
}

/// The sum, in order.
pub(super) fn sum(w: &[f32]) -> f32 {
    w.iter().fold(0.0, |s, w| s + w)
}
