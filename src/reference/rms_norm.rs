//! Scalar oracle of `kernels/rms_norm.cu`.

use half::bf16;

/// `x` `[T, C]` with `C = weight.len()` to `y` `[T, C]`: `bf16(weight * bf16(x / rms(x)))`.
///
/// Sums in f64, so that its own error is far below one bf16 step.
pub fn rms_norm(x: &[bf16], weight: &[bf16], eps: f32) -> Vec<bf16> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let squares: f64 = row.iter().map(|v| v.to_f64() * v.to_f64()).sum();
        let scale = 1.0 / (squares / row.len() as f64 + f64::from(eps)).sqrt();
        for (value, weight) in row.iter().zip(weight) {
            let normed = bf16::from_f64(value.to_f64() * scale);
            y.push(bf16::from_f64(weight.to_f64() * normed.to_f64()));
        }
    }
    y
}

/// The residual stream with `x` added: `bf16(residual + x)`, one rounding of an f32 sum.
pub fn add_residual(residual: &[bf16], x: &[bf16]) -> Vec<bf16> {
    residual.iter().zip(x).map(|(old, new)| bf16::from_f32(old.to_f32() + new.to_f32())).collect()
}
