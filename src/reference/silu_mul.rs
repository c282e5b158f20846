//! Scalar oracle of `kernels/silu_mul.cu`.

use half::bf16;

/// `gate_up` `[T, 2F]` to `[T, F]`: `bf16(bf16(g / (1 + exp(-g))) * u)`.
pub fn silu_mul(gate_up: &[bf16], width: usize) -> Vec<bf16> {
    let mut y = Vec::with_capacity(gate_up.len() / 2);
    for row in gate_up.chunks_exact(2 * width) {
        let (gates, ups) = row.split_at(width);
        for (gate, up) in gates.iter().zip(ups) {
            let g = gate.to_f64();
            let silu = bf16::from_f64(g / (1.0 + (-g).exp()));
            y.push(bf16::from_f64(silu.to_f64() * up.to_f64()));
        }
    }
    y
}
