//! What the test binaries share: one device a process, seeded inputs, comparisons.
#![allow(
    dead_code,
    clippy::print_stderr,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::allow_attributes,
    reason = "each test binary uses a part of the helpers; they fail by panicking and cast small values"
)]

pub mod checkpoint;

use std::sync::LazyLock;

use half::bf16;
use qwen2vl::{
    device::Device,
    media::{Ffmpeg, Limits},
    settings,
    units::Float,
};

/// Fills outputs before a launch: what stays unwritten is NaN.
pub const POISON: bf16 = bf16::from_bits(0x7fc1);

/// The one device of the process; its name is printed once, so that a log says what was tested.
pub fn device() -> &'static Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| {
        let choice = settings::text(settings::DEVICE).unwrap_or_else(|| "auto".into());
        let device = Device::open(choice.parse().expect("QWEN2VL_DEVICE")).expect("a device");
        eprintln!("device: {} ({}; {})", device.name(), device.located(), device.located().reason);
        device
    });
    &DEVICE
}

/// A seeded generator: the label of a case is its seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(label: &str) -> Self {
        let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        Self(label.bytes().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// In [-scale, scale).
    pub fn f32(&mut self, scale: f32) -> f32 {
        ((self.next() >> 40) as f32 / 8_388_608.0 - 1.0) * scale
    }

    pub fn f32s(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.f32(scale)).collect()
    }

    pub fn bf16(&mut self, n: usize, scale: f32) -> Vec<bf16> {
        self.floats(n, scale)
    }

    pub fn floats<T: Float>(&mut self, n: usize, scale: f32) -> Vec<T> {
        (0..n).map(|_| T::from_f32(self.f32(scale))).collect()
    }
}

/// Position of a value on the line of bf16 values: neighbours differ by 1, both zeros are 0.
pub fn bf16_rank(value: bf16) -> i32 {
    let bits = i32::from(value.to_bits());
    if bits & 0x8000 != 0 { -(bits & 0x7fff) } else { bits }
}

/// Every element within `limit` bf16 steps; NaN never passes.
#[track_caller]
pub fn assert_ulps(got: &[bf16], want: &[bf16], limit: u32, label: &str) {
    assert_eq!(got.len(), want.len(), "{label}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let near = !g.is_nan() && bf16_rank(*g).abs_diff(bf16_rank(*w)) <= limit;
        assert!(near, "{label}: element {i}: got {g}, want {w}");
    }
}

/// The ffmpeg program of this machine: `QWEN2VL_FFMPEG`, else `ffmpeg` of the path. Says which it is,
/// so that a log tells whether real containers were read.
pub fn ffmpeg() -> Option<Ffmpeg> {
    static FOUND: LazyLock<Option<Ffmpeg>> = LazyLock::new(|| {
        let named = settings::text(settings::FFMPEG);
        let ffmpeg = named.map_or_else(Ffmpeg::default, |name| Ffmpeg { program: name.into() });
        match ffmpeg.version(&Limits::default()) {
            Ok(version) => {
                eprintln!("ffmpeg: {} ({version})", ffmpeg.program.display());
                Some(ffmpeg)
            }
            Err(error) => {
                eprintln!("ffmpeg: none, real containers are not read ({error})");
                None
            }
        }
    });
    FOUND.clone()
}
