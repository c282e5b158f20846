//! Scalar oracle of `kernels/silu_mul.cu`.

use crate::units::Float;

/// `gate_up` `[T, 2F]` to `[T, F]`: `E(E(g / (1 + exp(-g))) * u)`.
pub fn silu_mul<T: Float>(gate_up: &[T], width: usize) -> Vec<T> {
    let mut y = Vec::with_capacity(gate_up.len() / 2);
    for row in gate_up.chunks_exact(2 * width) {
        let (gates, ups) = row.split_at(width);
        for (gate, up) in gates.iter().zip(ups) {
            let g = gate.to_f64();
            let silu = T::from_f64(g / (1.0 + (-g).exp()));
            y.push(T::from_f64(silu.to_f64() * up.to_f64()));
        }
    }
    y
}
