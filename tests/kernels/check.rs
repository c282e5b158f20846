//! Outputs with guards around them, and the tolerance classes of docs/numerics.md.

use half::bf16;
use qwen2vl::device::{Buffer, Device, DeviceError, Element, ViewMut, as_bytes};

use crate::support;

/// Bytes of guard on each side of an output.
const GUARD: usize = 4096;

/// Device memory between two guards, which a kernel must not touch.
pub struct Guarded<T> {
    buffer: Buffer<T>,
    poison: T,
    guard: usize,
}

impl<T: Element> Guarded<T> {
    /// `content` on the device, with guards of `poison`.
    pub fn new(device: &Device, content: &[T], poison: T) -> Result<Self, DeviceError> {
        let guard = GUARD / size_of::<T>();
        let around = vec![poison; guard];
        let buffer = device.upload(&[&around, content, &around].concat())?;
        Ok(Self { buffer, poison, guard })
    }

    /// `len` elements of `poison` between guards of the same: what stays unwritten shows.
    pub fn poisoned(device: &Device, len: usize, poison: T) -> Result<Self, DeviceError> {
        Self::new(device, &vec![poison; len], poison)
    }

    /// The memory between the guards.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        let inside = self.guard..self.buffer.len() - self.guard;
        self.buffer.view_mut().slice(inside).expect("guards are whole 16-byte units")
    }

    /// What lies between the guards, which must be as they were.
    #[track_caller]
    pub fn read(&self, device: &Device) -> Result<Vec<T>, DeviceError> {
        let all = device.download(&self.buffer)?;
        let (before, rest) = all.split_at(self.guard);
        let (content, after) = rest.split_at(rest.len() - self.guard);
        let want = vec![self.poison; self.guard];
        assert_eq!(as_bytes(before), as_bytes(&want), "written before the output");
        assert_eq!(as_bytes(after), as_bytes(&want), "written past the output");
        Ok(content.to_vec())
    }
}

/// Half a bf16 step at `value`.
pub fn half_ulp(value: f64) -> f64 {
    let exponent = if value == 0.0 { -126.0 } else { value.abs().log2().floor().max(-126.0) };
    (exponent - 8.0).exp2()
}

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
