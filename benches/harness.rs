//! What the benches share: one device, names of rows, device times.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each bench uses a part of the helpers; they fail by panicking"
)]

use std::sync::LazyLock;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use half::bf16;
use qwen2vl::device::{Buffer, Device, Element};
use qwen2vl::ops::{Cost, OpError};
use qwen2vl::settings;

/// On a GPU a launch rotates through copies of so many bytes, so that no L2 cache serves it.
const ROTATED: usize = 160 << 20;
/// Repeated in large inputs; a prime, so that no row length divides it.
const NOISE: usize = 1_000_003;

/// The demo checkpoint, its pictures and questions.
pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

/// The rows of one bench binary.
///
/// Names of rows are keys of `tools/gpu/compare.py`. A time taken on the software device says
/// nothing about a GPU, so it never bears such a key: its name begins with `software/`.
pub struct Bench {
    pub criterion: Criterion,
    pub device: &'static Device,
    pub software: bool,
    random: u64,
    noise: Vec<bf16>,
}

impl Bench {
    /// Short measurements; the command line overrides them.
    pub fn new() -> Self {
        let device = device();
        let criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(800))
            .sample_size(10)
            .nresamples(5_000)
            .configure_from_args();
        let software = device.located().software;
        let mut bench = Self { criterion, device, software, random: 1, noise: Vec::new() };
        bench.noise = bench.f32s(NOISE, 1.0).into_iter().map(bf16::from_f32).collect();
        bench
    }

    /// The sizes for the device at hand.
    pub fn sizes<'a, T>(&self, software: &'a [T], gpu: &'a [T]) -> &'a [T] {
        if self.software { software } else { gpu }
    }

    /// The row's group and its name within it.
    pub fn name<'a>(&self, id: &'a str) -> (String, &'a str) {
        let (group, name) = id.split_once('/').expect("a row's name is GROUP/NAME");
        (if self.software { format!("software/{group}") } else { group.to_owned() }, name)
    }

    /// Times launches between two events. Bytes are the least that a launch moves, "elements" are
    /// its floating-point operations. `launch` gets a number that counts up, to rotate by.
    pub fn kernel(
        &mut self,
        id: &str,
        cost: Cost,
        mut launch: impl FnMut(usize, &Device) -> Result<(), OpError>,
    ) {
        let device = self.device;
        let (group, name) = self.name(id);
        let bytes = cost.read.0 + cost.written.0;
        let throughput = match cost.flop {
            0 => Throughput::Bytes(bytes),
            flop => Throughput::ElementsAndBytes { elements: flop, bytes },
        };
        let mut group = self.criterion.benchmark_group(group);
        group.throughput(throughput);
        let mut count = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|launches| {
                let start = device.record().unwrap();
                for _ in 0..launches {
                    launch(count, device).unwrap();
                    count += 1;
                }
                let end = device.record().unwrap();
                start.until(&end).unwrap()
            });
        });
        group.finish();
    }

    /// Random values in [-1, 1), never zeros: those run faster.
    pub fn random(&self, len: usize) -> Buffer<bf16> {
        let values: Vec<bf16> = self.noise.iter().copied().cycle().take(len).collect();
        self.device.upload(&values).unwrap()
    }

    /// The same as often as [`Bench::copies`] says.
    pub fn rotated(&self, len: usize) -> Vec<Buffer<bf16>> {
        (0..self.copies(2 * len, 24)).map(|_| self.random(len)).collect()
    }

    /// Copies of `bytes` that pass every L2 cache, at most `most`; 1 on the software device.
    pub fn copies(&self, bytes: usize, most: usize) -> usize {
        if self.software { 1 } else { ROTATED.div_ceil(bytes).clamp(1, most) }
    }

    /// The next of a fixed sequence of random numbers.
    pub fn next(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [_, _, _, _, high @ ..] = self.random.to_le_bytes();
        u32::from_le_bytes(high)
    }

    /// In [-scale, scale).
    pub fn f32s(&mut self, len: usize, scale: f32) -> Vec<f32> {
        let half = f64::from(1u32 << 31);
        let unit = |bits: u32| nearest(f64::from(bits) / half - 1.0);
        (0..len).map(|_| unit(self.next()) * scale).collect()
    }

    pub fn upload<T: Element>(&self, values: &[T]) -> Buffer<T> {
        self.device.upload(values).unwrap()
    }

    pub fn alloc<T: Element>(&self, len: usize) -> Buffer<T> {
        self.device.alloc(len).unwrap()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the nearest f32")]
fn nearest(value: f64) -> f32 {
    value as f32
}

/// The one device of the process; its name is printed once, so that a log says what was timed.
fn device() -> &'static Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| {
        let choice = settings::text(settings::DEVICE).unwrap_or_else(|| "auto".into());
        let device = Device::open(choice.parse().unwrap()).unwrap();
        eprintln!("device: {} ({}; {})", device.name(), device.located(), device.located().reason);
        device
    });
    &DEVICE
}

/// As the kernels take it.
pub fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap()
}
