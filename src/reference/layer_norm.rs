//! Scalar oracle of `kernels/layer_norm.cu`.

use crate::units::Float;

/// One channel before its rounding, and the size of what was added up for it.
#[derive(Clone, Copy, Debug)]
pub struct Normed {
    /// `(x - mean) / sqrt(var + eps) * weight + bias`.
    pub y: f64,
    /// The same with every sum of absolute values: the scale of an f32 evaluation's error.
    pub magnitude: f64,
}

/// `x` `[R, C]` with `C = weight.len()` (docs/spec.md, 8.3); var is the biased variance.
pub fn layer_norm<T: Float>(x: &[T], weight: &[T], bias: &[T], eps: f32) -> Vec<Normed> {
    let mut all = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let count = row.len() as f64;
        let mean = row.iter().map(|v| v.to_f64()).sum::<f64>() / count;
        let variance = row.iter().map(|v| (v.to_f64() - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        for (value, (weight, bias)) in row.iter().zip(weight.iter().zip(bias)) {
            let (value, weight, bias) = (value.to_f64(), weight.to_f64(), bias.to_f64());
            let y = (value - mean) * scale * weight + bias;
            let magnitude = (value.abs() + mean.abs()) * scale * weight.abs() + bias.abs();
            all.push(Normed { y, magnitude });
        }
    }
    all
}
