//! One kernel by hand: upload, launch, compare with its oracle, and the least that it must move.
//! Runs on a GPU, or on the software device where there is none.
//!
//! `cargo run --release --example one_kernel`
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use half::bf16;
use qwen2vl::device::{Device, DeviceChoice};
use qwen2vl::ops::rms_norm::RmsNorm;
use qwen2vl::reference;
use qwen2vl::units::Tokens;

const ROWS: usize = 4;
const CHANNELS: usize = 1536;
const EPS: f32 = 1e-6;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::open(DeviceChoice::Auto)?;
    let wave = |i: usize| bf16::from_f64((i as f64 * 0.7).sin());
    let x: Vec<bf16> = (0..ROWS * CHANNELS).map(wave).collect();
    let weight: Vec<bf16> =
        (0..CHANNELS).map(|i| bf16::from_f64(1.0 + i as f64 / 4096.0)).collect();

    let (on_device, weight_on_device) = (device.upload(&x)?, device.upload(&weight)?);
    let mut y = device.alloc::<bf16>(x.len())?;
    let launch = RmsNorm {
        x: on_device.view().into(),
        weight: weight_on_device.view().into(),
        y: y.view_mut().into(),
        rows: Tokens(ROWS),
        channels: CHANNELS,
        eps: EPS,
    };
    let cost = launch.cost();
    launch.launch(&device)?;

    let want = reference::rms_norm::rms_norm(&x, &weight, EPS);
    let same = device.download(&y)?.iter().zip(&want).filter(|(got, want)| got == want).count();
    println!("{}: {same} of {} elements have the oracle's bits", device.name(), want.len());
    println!("least bytes: {} read, {} written", cost.read.0, cost.written.0);
    Ok(())
}
