//! Comparisons of the linear layers and activations; see also `tolerance.rs`.

use half::bf16;

use crate::support;

/// Factor of class C: tensor cores truncate where the software device rounds.
pub fn linear_factor() -> f64 {
    if support::device().located().software { 1.0 } else { 8.0 }
}

/// Class B with room near zero: `limit` steps, or within `slack` of the wanted value.
#[track_caller]
pub fn assert_near(got: bf16, want: bf16, limit: u32, slack: f64, label: &str) {
    let steps = support::bf16_rank(got).abs_diff(support::bf16_rank(want));
    let near = steps <= limit || (got.to_f64() - want.to_f64()).abs() <= slack;
    assert!(!got.is_nan() && near, "{label}: got {got}, want {want}");
}

/// Nearly all elements exactly as wanted: an f32 error moves an inner rounding once in thousands of
/// elements, a rounding point that is missing or one too many moves a quarter of them.
#[track_caller]
pub fn assert_mostly_exact(pairs: impl Iterator<Item = (bf16, bf16)>, label: &str) {
    let (mut all, mut other) = (0, 0);
    for (got, want) in pairs {
        all += 1;
        other += usize::from(support::bf16_rank(got) != support::bf16_rank(want));
    }
    assert!(other * 50 <= all + 50, "{label}: {other} of {all} elements are not exact");
}

/// The bit patterns: comparison that tells NaNs and zeros apart.
pub fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}
