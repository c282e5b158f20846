//! Outputs filled with NaN between guard bands: what a kernel does not write, or writes outside,
//! shows.

use half::{bf16, f16};
use qwen2vl::{
    device::{Buffer, Device, Element, ViewMut, as_bytes},
    ops::sample::SampleResult,
    units::Float,
};

use crate::support::POISON;

/// Bytes of a guard band.
const GUARD: usize = 4096;

/// A type with a value, for floats a NaN, that no kernel makes by itself.
pub trait Poison: Element {
    const POISON: Self;
    /// Whether it is that value, bit for bit.
    fn is_poison(self) -> bool;
}

impl Poison for bf16 {
    const POISON: Self = POISON;
    fn is_poison(self) -> bool {
        self.to_bits() == POISON.to_bits()
    }
}

impl Poison for f16 {
    const POISON: Self = f16::from_bits(0x7fc1);
    fn is_poison(self) -> bool {
        self.to_bits() == Self::POISON.to_bits()
    }
}

impl Poison for f32 {
    const POISON: Self = f32::from_bits(0x7fc1_7fc1);
    fn is_poison(self) -> bool {
        self.to_bits() == Self::POISON.to_bits()
    }
}

impl Poison for u32 {
    const POISON: Self = 0x7fc1_7fc1;
    fn is_poison(self) -> bool {
        self == Self::POISON
    }
}

impl Poison for i32 {
    const POISON: Self = 0x7fc1_7fc1;
    fn is_poison(self) -> bool {
        self == Self::POISON
    }
}

impl Poison for u16 {
    const POISON: Self = 0x7fc1;
    fn is_poison(self) -> bool {
        self == Self::POISON
    }
}

impl Poison for SampleResult {
    const POISON: Self = Self { token: -7, status: 0x77, logprob: f32::POISON, pad: 0x7777 };
    fn is_poison(self) -> bool {
        as_bytes(&[self]) == as_bytes(&[Self::POISON])
    }
}

/// The number types that kernels are built for.
pub trait Number: Float + Poison {
    /// Bits of the fraction.
    const FRACTION: i32;
    /// Exponent of the smallest normal number.
    const SMALLEST: f64;
    /// How far p, at most 1, may be from its rounded value in P V.
    const WEIGHT_ERROR: f64;
    /// A signalling NaN.
    const UNREADABLE: Self;
    /// Its bit pattern.
    fn pattern(self) -> u32;
}

impl Number for bf16 {
    const FRACTION: i32 = 7;
    const SMALLEST: f64 = -126.0;
    const WEIGHT_ERROR: f64 = 1.0 / 256.0;
    const UNREADABLE: Self = bf16::from_bits(0x7f81);
    fn pattern(self) -> u32 {
        self.to_bits().into()
    }
}

impl Number for f16 {
    const FRACTION: i32 = 10;
    const SMALLEST: f64 = -14.0;
    const WEIGHT_ERROR: f64 = 1.0 / 2048.0;
    const UNREADABLE: Self = f16::from_bits(0x7d01);
    fn pattern(self) -> u32 {
        self.to_bits().into()
    }
}

impl Number for f32 {
    const FRACTION: i32 = 23;
    const SMALLEST: f64 = -126.0;
    const WEIGHT_ERROR: f64 = 0.0;
    const UNREADABLE: Self = f32::from_bits(0x7f80_0001);
    fn pattern(self) -> u32 {
        self.to_bits()
    }
}

/// An output of `len` elements.
pub struct Guarded<T> {
    buffer: Buffer<T>,
    len: usize,
}

impl<T: Poison> Guarded<T> {
    /// All of it poison.
    pub fn new(device: &Device, len: usize) -> Self {
        Self::holding(device, &vec![T::POISON; len])
    }

    /// With content, for what a kernel works on in place.
    pub fn holding(device: &Device, content: &[T]) -> Self {
        let guard = vec![T::POISON; GUARD / size_of::<T>()];
        let all = [&guard, content, &guard].concat();
        Self { buffer: device.upload(&all).unwrap(), len: content.len() }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        let start = GUARD / size_of::<T>();
        self.buffer.view_mut().slice(start..start + self.len).unwrap()
    }

    /// The content, after a check that the guards are whole.
    #[track_caller]
    pub fn read(&self, device: &Device, label: &str) -> Vec<T> {
        let all = device.download(&self.buffer).expect(label);
        let start = GUARD / size_of::<T>();
        let guards = all[..start].iter().chain(&all[start + self.len..]);
        assert!(guards.copied().all(Poison::is_poison), "{label}: written outside of the output");
        all[start..start + self.len].to_vec()
    }
}
