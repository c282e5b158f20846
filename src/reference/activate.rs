//! Scalar oracle of `kernels/activate.cu`.

use super::gemm::{erfc, quick_gelu};
use crate::units::{Activation, Float};

/// What becomes of `x`; QuickGELU with its inner roundings, all others before the one rounding.
pub fn activate<T: Float>(function: Activation, x: T) -> f64 {
    let rounded = x;
    let x = x.to_f64();
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    let gelu = 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
    match function {
        Activation::Linear => x,
        Activation::QuickGelu => quick_gelu(rounded).to_f64(),
        Activation::Gelu => gelu,
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            // 1 + tanh(a) = 2 / (1 + exp(-2 a)): no cancellation below zero.
            x / (1.0 + (-2.0 * inner).exp())
        }
        Activation::Gelu10 => gelu.clamp(-10.0, 10.0),
        Activation::Silu => x * sigmoid,
        Activation::Relu => x.max(0.0),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::LeakyRelu => x.max(0.01 * x),
        Activation::Sigmoid => sigmoid,
        Activation::Tanh => x.tanh(),
        Activation::Mish => x * if x > 40.0 { x } else { x.exp().ln_1p() }.tanh(),
    }
}
