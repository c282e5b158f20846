//! `kernels/rms_norm.cu` against its oracle, on whatever device the machine has.

use half::bf16;
use qwen2vl::{
    device::Device,
    ops::OpError,
    ops::rms_norm::{RmsNorm, RmsNormResidual},
    reference::rms_norm::{add_residual, rms_norm},
    units::Tokens,
};

use crate::check::{assert_mostly_exact, bits};
use crate::guarded::Guarded;
use crate::orders::in_every_order;
use crate::support::{self, POISON, Rng, assert_ulps};

/// (T, C, why this shape)
const SHAPES: &[(usize, usize, &str)] = &[
    (1, 8, "one thread has work"),
    (3, 72, "part of a warp"),
    (5, 2048, "exactly one chunk"),
    (2, 2056, "one access past a chunk"),
    (7, 1536, "2B"),
    (1, 8192, "72B"),
    (257, 16, "many rows"),
];
/// (largest |x|, why this range)
const RANGES: &[(f32, &str)] = &[
    (1.0, "usual"),
    (0.0, "eps alone"),
    (1e-20, "squares underflow"),
    (1e17, "squares near the f32 limit"),
];
const EPS: f32 = 1e-6;

fn run(device: &Device, x: &[bf16], weight: &[bf16]) -> Result<Vec<bf16>, OpError> {
    let (x_device, weight_device) = (device.upload(x)?, device.upload(weight)?);
    let mut y = Guarded::new(device, x.len());
    let (rows, channels) = (Tokens(x.len() / weight.len()), weight.len());
    let (x, weight) = (x_device.view(), weight_device.view());
    RmsNorm {
        x: x.into(),
        weight: weight.into(),
        y: y.view_mut().into(),
        rows,
        channels,
        eps: EPS,
    }
    .launch(device)?;
    Ok(y.read(device, "rms_norm"))
}

/// The residual stream after the sum, and its norm.
fn run_residual(
    device: &Device,
    x: &[bf16],
    residual: &[bf16],
    weight: &[bf16],
) -> Result<(Vec<bf16>, Vec<bf16>), OpError> {
    let (x_device, weight_device) = (device.upload(x)?, device.upload(weight)?);
    let mut residual = Guarded::holding(device, residual);
    let mut y = Guarded::new(device, x.len());
    RmsNormResidual {
        x: x_device.view().into(),
        residual: residual.view_mut().into(),
        weight: weight_device.view().into(),
        y: y.view_mut().into(),
        rows: Tokens(x.len() / weight.len()),
        channels: weight.len(),
        eps: EPS,
    }
    .launch(device)?;
    Ok((residual.read(device, "rms_norm"), y.read(device, "rms_norm")))
}

fn check(shapes: &[(usize, usize, &str)]) {
    for &(rows, channels, shape) in shapes {
        for &(range, values) in RANGES {
            let label = format!("T={rows} C={channels} ({shape}), |x|<={range} ({values})");
            let mut rng = Rng::new(&label);
            let (x, weight) = (rng.bf16(rows * channels, range), rng.bf16(channels, 2.0));
            let got = run(support::device(), &x, &weight).expect(&label);
            // f32 sums may move the inner rounding by one step: two steps after the product.
            let want = rms_norm(&x, &weight, EPS);
            assert_ulps(&got, &want, 2, &label);
            assert_mostly_exact(got.into_iter().zip(want), &label);
        }
    }
}

#[test]
fn matches_the_oracle() {
    check(SHAPES);
}

#[test]
fn gpu_small_matches_the_oracle() {
    check(&SHAPES[..2]);
}

#[test]
fn the_residual_sum_is_rounded_once_and_then_normed() {
    for &(rows, channels, shape) in SHAPES {
        let label = format!("residual T={rows} C={channels} ({shape})");
        let mut rng = Rng::new(&label);
        let (x, old) = (rng.bf16(rows * channels, 1.0), rng.bf16(rows * channels, 3.0));
        let weight = rng.bf16(channels, 2.0);
        let (stream, y) = run_residual(support::device(), &x, &old, &weight).expect(&label);
        let want = add_residual(&old, &x);
        assert_eq!(bits(&stream), bits(&want), "{label}");
        // The norm of the sum has the bits of the plain kernel on that sum.
        let plain = run(support::device(), &want, &weight).expect(&label);
        assert_eq!(bits(&y), bits(&plain), "{label}");
    }
}

#[test]
fn the_order_of_blocks_and_warps_changes_no_bit() {
    let mut rng = Rng::new("rms_norm orders");
    let (x, old, weight) = (rng.bf16(9 * 2056, 1.0), rng.bf16(9 * 2056, 1.0), rng.bf16(2056, 1.0));
    in_every_order("rms_norm", || {
        let (stream, y) = run_residual(support::device(), &x, &old, &weight).unwrap();
        (bits(&stream), bits(&y))
    });
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let mut rng = Rng::new("rms_norm neighbours");
    let (mut x, weight) = (rng.bf16(9 * 1536, 1.0), rng.bf16(1536, 2.0));
    x[1536] = bf16::NAN;
    let together = run(support::device(), &x, &weight).unwrap();
    let alone = x.chunks(1536).flat_map(|row| run(support::device(), row, &weight).unwrap());
    assert_eq!(bits(&together), bits(&alone.collect::<Vec<_>>()));
    assert!(!together[..1536].iter().any(|value| value.is_nan()));
}

#[test]
fn no_rows_is_no_launch() {
    let weight = vec![POISON; 8];
    assert_eq!(run(support::device(), &[], &weight).unwrap(), []);
}

#[test]
fn a_width_that_is_no_multiple_of_8_is_refused() {
    let error = run(support::device(), &[POISON; 12], &[POISON; 12]).unwrap_err();
    assert_eq!(error.to_string(), "rms_norm: C = 12, but C must be a positive multiple of 8");
}

#[test]
fn a_matrix_of_another_length_is_refused() {
    let device = support::device();
    let (x, weight) = (device.upload(&[POISON; 16]).unwrap(), device.upload(&[POISON; 8]).unwrap());
    let mut y = device.upload(&[POISON; 16]).unwrap();
    let (x, weight, rows) = (x.view(), weight.view(), Tokens(3));
    let op = RmsNorm {
        x: x.into(),
        weight: weight.into(),
        y: y.view_mut().into(),
        rows,
        channels: 8,
        eps: EPS,
    };
    let error = op.launch(device).unwrap_err();
    assert_eq!(error.to_string(), "rms_norm: x has 16 elements, expected 24");
}
