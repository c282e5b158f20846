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

/// The bit patterns: comparison that tells NaNs and zeros apart.
pub fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}
