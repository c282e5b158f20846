//! Scalar oracle of `kernels/rms_norm.cu`.

use crate::units::Float;

/// `x` `[T, C]` with `C = weight.len()` to `y` `[T, C]`: `E(weight * E(x / rms(x)))`.
///
/// Sums in f64, so that its own error is far below one bf16 step.
pub fn rms_norm<T: Float>(x: &[T], weight: &[T], eps: f32) -> Vec<T> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let squares: f64 = row.iter().map(|v| v.to_f64() * v.to_f64()).sum();
        let scale = 1.0 / (squares / row.len() as f64 + f64::from(eps)).sqrt();
        for (value, weight) in row.iter().zip(weight) {
            let normed = T::from_f64(value.to_f64() * scale);
            y.push(T::from_f64(weight.to_f64() * normed.to_f64()));
        }
    }
    y
}

/// The residual stream with `x` added: `E(residual + x)`, one rounding of an f32 sum.
pub fn add_residual<T: Float>(residual: &[T], x: &[T]) -> Vec<T> {
    residual.iter().zip(x).map(|(old, new)| T::from_f32(old.to_f32() + new.to_f32())).collect()
}
