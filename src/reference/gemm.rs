//! Scalar oracle of `kernels/gemm.cu` and `kernels/gemv.cu`.

use crate::units::Float;

/// One output of a linear layer before any rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum {
    /// `sum_k x[k] * weight[k] + bias`.
    pub value: f64,
    /// `sum_k |x[k] * weight[k]|`: what the error of a sum in f32 is in proportion to.
    pub magnitude: f64,
}

/// `x` `[M, K]` times `weight` `[N, K]` transposed, plus `bias` `[N]`: `[M, N]`, in f64.
pub fn linear<T: Float>(x: &[T], weight: &[T], bias: Option<&[T]>, inputs: usize) -> Vec<Sum> {
    let weight: Vec<f64> = weight.iter().map(|w| w.to_f64()).collect();
    let mut sums = Vec::new();
    for row in x.chunks_exact(inputs) {
        let row: Vec<f64> = row.iter().map(|x| x.to_f64()).collect();
        for (n, column) in weight.chunks_exact(inputs).enumerate() {
            let start = bias.map_or(0.0, |bias| bias[n].to_f64());
            let mut sum = Sum { value: start, magnitude: 0.0 };
            for (x, w) in row.iter().zip(column) {
                sum.value += x * w;
                sum.magnitude += (x * w).abs();
            }
            sums.push(sum);
        }
    }
    sums
}

/// `E(x * E(sigmoid(E(1.702 x))))`: QuickGELU with the reference's rounding points.
pub fn quick_gelu<T: Float>(x: T) -> T {
    let scaled = T::from_f32(1.702 * x.to_f32());
    let gate = T::from_f64(1.0 / (1.0 + (-scaled.to_f64()).exp()));
    T::from_f64(x.to_f64() * gate.to_f64())
}

/// `E(x / 2 * (1 + erf(x / sqrt(2))))`.
pub fn gelu_erf<T: Float>(x: T) -> T {
    let x = x.to_f64();
    // 1 + erf(-a) = erfc(a): no cancellation far below zero.
    T::from_f64(0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2))
}

/// The complementary error function, to about 1e-15 relative.
pub(super) fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        return 1.0 - erf_series(x);
    }
    if x > 27.0 {
        return 0.0; // below the smallest f64
    }
    // Continued fraction (Abramowitz and Stegun 7.1.14), from the inside out.
    let mut fraction = x;
    for k in (1..=120_u32).rev() {
        fraction = x + 0.5 * f64::from(k) / fraction;
    }
    (-x * x).exp() / (fraction * std::f64::consts::PI.sqrt())
}

/// `erf` by its Taylor series (Abramowitz and Stegun 7.1.5), for arguments below 2.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..60_u32 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_known_values() {
        // Abramowitz and Stegun, table 7.1, and 7.1.23 for the tail.
        let cases = [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (-1.0, 1.842_700_792_949_715),
        ];
        for (x, want) in cases {
            assert!((erfc(x) - want).abs() <= 1e-13 * want, "erfc({x}) = {}", erfc(x));
        }
        // Both forms agree where they meet.
        assert!((1.0 - erf_series(2.0) - erfc(2.0)).abs() < 1e-14);
    }
}
