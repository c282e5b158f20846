//! `kernels/layer_norm.cu` against its oracle, on whatever device there is.

use half::bf16;
use qwen2vl::ops::{OpError, layer_norm::LayerNorm};
use qwen2vl::reference::layer_norm::layer_norm as oracle;
use qwen2vl::units::PatchRows;

use crate::guarded::Guarded;
use crate::orders::in_every_order;
use crate::paged::assert_same_bits;
use crate::support::{Rng, device};
use crate::tolerance::{assert_within, bf16_ulp};

const EPS: f32 = 1e-6;

/// (R, C, why this shape)
const SHAPES: &[(usize, usize, &str)] = &[
    (1, 8, "one thread has work"),
    (3, 72, "part of a warp"),
    (2, 2048, "exactly one chunk"),
    (2, 2056, "one access past a chunk"),
    (17, 1280, "the published tower"),
    (1, 8200, "more than four chunks"),
];
/// (mean, spread, why these values)
const VALUES: &[(f32, f32, &str)] = &[
    (0.0, 1.0, "usual"),
    (0.0, 0.0, "eps alone"),
    (0.0, 1e-20, "squares underflow"),
    (0.0, 1e15, "squares far above one"),
    (1000.0, 8.0, "a mean that E[x^2] - mean^2 would cancel"),
];

fn run(x: &[bf16], weight: &[bf16], bias: &[bf16], label: &str) -> Result<Vec<bf16>, OpError> {
    let mut y = Guarded::new(device(), x.len());
    let (x_device, weight_device) = (device().upload(x)?, device().upload(weight)?);
    let bias_device = device().upload(bias)?;
    LayerNorm {
        x: x_device.view().into(),
        weight: weight_device.view().into(),
        bias: bias_device.view().into(),
        y: y.view_mut().into(),
        rows: PatchRows(x.len() / weight.len()),
        channels: weight.len(),
        eps: EPS,
    }
    .launch(device())?;
    Ok(y.read(device(), label))
}

fn check(rows: usize, channels: usize, (mean, spread): (f32, f32), why: &str) {
    let label = format!("layer_norm R={rows} C={channels} {mean} +- {spread}: {why}");
    let mut rng = Rng::new(&label);
    let x = rng.f32s(rows * channels, spread);
    let x: Vec<_> = x.into_iter().map(|v| bf16::from_f32(v + mean)).collect();
    let (weight, bias) = (rng.bf16(channels, 2.0), rng.bf16(channels, 1.0));
    let got = in_every_order(&label, || run(&x, &weight, &bias, &label).expect(&label));
    // Class B with one rounding; f32 sums of C terms err by a few of their steps.
    let want = oracle(&x, &weight, &bias, EPS).into_iter();
    let limit = |y: f64, magnitude: f64| bf16_ulp(y) + 2f64.powi(-20) * magnitude;
    assert_within(&got, want.map(|n| (n.y, limit(n.y, n.magnitude))), &label);
}

#[test]
fn matches_the_oracle() {
    for &(rows, channels, shape) in SHAPES {
        for &(mean, spread, values) in VALUES {
            check(rows, channels, (mean, spread), &format!("{shape}, {values}"));
        }
    }
}

#[test]
fn matches_the_oracle_gpu_small() {
    check(3, 1280, (0.0, 1.0), "three rows of the tower");
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let mut rng = Rng::new("layer_norm neighbours");
    let (x, weight, bias) = (rng.bf16(9 * 1280, 1.0), rng.bf16(1280, 2.0), rng.bf16(1280, 1.0));
    let together = run(&x, &weight, &bias, "together").unwrap();
    let alone = x.chunks(1280).flat_map(|row| run(row, &weight, &bias, "alone").unwrap());
    assert_same_bits(&together, &alone.collect::<Vec<_>>(), "together and alone");
}

#[test]
fn no_rows_are_no_launch() {
    assert_eq!(run(&[], &[bf16::ONE; 8], &[bf16::ONE; 8], "no rows").unwrap(), []);
}

#[test]
fn a_width_that_is_no_multiple_of_8_is_refused() {
    let row = [bf16::ONE; 12];
    let error = run(&row, &row, &row, "C 12").unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: C = 12, but C must be a positive multiple of 8");
}

#[test]
fn a_bias_of_another_length_is_refused() {
    let error = run(&[bf16::ONE; 16], &[bf16::ONE; 16], &[bf16::ONE; 8], "bias").unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: bias has 8 elements, expected 16");
}
