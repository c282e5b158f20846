//! Tolerances of docs/numerics.md: how far an f32 evaluation with the reference's rounding points
//! may be from an f64 one.

use half::bf16;
use qwen2vl::reference::attn::Attended;

use crate::guarded::Number;

/// Distance of neighbouring bf16 values at `x`.
pub fn bf16_ulp(x: f64) -> f64 {
    ulp::<bf16>(x)
}

/// Distance of neighbouring values of a type at `x`.
pub fn ulp<T: Number>(x: f64) -> f64 {
    let exponent = x.abs().log2().floor().max(T::SMALLEST);
    (exponent - f64::from(T::FRACTION)).exp2()
}

/// Every element within its limit; NaN never passes.
#[track_caller]
pub fn assert_within<T: Number>(
    got: &[T],
    want: impl ExactSizeIterator<Item = (f64, f64)>,
    label: &str,
) {
    assert_eq!(got.len(), want.len(), "{label}");
    for (i, (got, (want, limit))) in got.iter().zip(want).enumerate() {
        let error = (got.to_f64() - want).abs();
        assert!(error <= limit, "{label}: element {i}: got {got}, want {want} within {limit:e}");
    }
}

/// Class D. Each p is rounded to the type, in bf16 off by up to 2^-8 of itself, and with few keys
/// nothing averages that. Sums are f32's, scores carry the error of an f32 exponent. `got` is
/// `[rows, H, D]` of `want`'s rows and heads.
#[track_caller]
pub fn assert_attended<T: Number>(got: &[T], want: &[Attended], label: &str) {
    let elements: Vec<(f64, f64)> = want
        .iter()
        .flat_map(|row| {
            let spread = 4.0 * (row.keys as f64).sqrt() + 8.0 * row.largest_score;
            let share = T::WEIGHT_ERROR + 2f64.powi(-22) * spread;
            row.o.iter().zip(&row.magnitude).map(move |(&o, &magnitude)| {
                let moved = share * magnitude;
                // The last rounding is that of the moved value, which may lie in the next binade.
                (o, moved + 0.5 * ulp::<T>(o.abs() + moved))
            })
        })
        .collect();
    assert_within(got, elements.into_iter(), label);
}
