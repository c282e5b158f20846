//! `kernels/silu_mul.cu` against its oracle, on whatever device the machine has.

use half::bf16;
use qwen2vl::{
    device::Device,
    ops::{OpError, silu_mul::SiluMul},
    reference::silu_mul::silu_mul,
    units::Tokens,
};

use crate::check::{assert_mostly_exact, assert_near, bits};
use crate::guarded::Guarded;
use crate::support::{self, POISON, Rng};

/// (T, F, why this shape)
const SHAPES: &[(usize, usize, &str)] = &[
    (1, 8, "one thread has work"),
    (3, 72, "part of a block"),
    (2, 2048, "exactly one block"),
    (2, 2056, "one access past a block"),
    (3, 8960, "2B"),
    (65, 24, "many rows"),
];
/// (largest |value|, why this range)
const RANGES: &[(f32, &str)] = &[
    (4.0, "usual"),
    (0.0, "zeros"),
    (200.0, "exp overflows"),
    (1e-38, "subnormal products"),
    (1e30, "products pass the range"),
];

fn run(device: &Device, gate_up: &[bf16], width: usize) -> Result<Vec<bf16>, OpError> {
    let rows = Tokens(gate_up.len() / (2 * width));
    let gate_up = device.upload(gate_up)?;
    let mut y = Guarded::new(device, rows.0 * width);
    SiluMul { gate_up: gate_up.view().into(), y: y.view_mut().into(), rows, width }
        .launch(device)?;
    Ok(y.read(device, "silu_mul"))
}

fn check(shapes: &[(usize, usize, &str)]) {
    for &(rows, width, shape) in shapes {
        for &(range, values) in RANGES {
            let label = format!("T={rows} F={width} ({shape}), |x|<={range} ({values})");
            let gate_up = Rng::new(&label).bf16(rows * 2 * width, range);
            let got = run(support::device(), &gate_up, width).expect(&label);
            let want = silu_mul(&gate_up, width);
            let plain = got.iter().copied().zip(want.iter().copied());
            let plain = plain.filter(|(_, want)| want.to_f64().abs() > 2f64.powi(-100));
            assert_mostly_exact(plain, &label);
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let at = i / width * 2 * width + i % width;
                let product = gate_up[at].to_f64() * gate_up[at + width].to_f64();
                // exp(-g) overflows f32 below -88.7 and the result is 0, in the reference too.
                let slack = 2f64.powi(-126) * product.abs().max(1.0);
                assert_near(*got, want, 2, slack, &format!("{label}: element {i}"));
            }
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
fn every_gate_value_matches_the_oracle() {
    // All finite bf16 as gates, 1 as up: the sigmoid over its whole range.
    let all = (0..=u16::MAX).map(bf16::from_bits).filter(|value| value.is_finite());
    let gates: Vec<bf16> = all.collect();
    let gate_up = [gates.clone(), vec![bf16::ONE; gates.len()]].concat();
    let got = run(support::device(), &gate_up, gates.len()).unwrap();
    for ((got, want), gate) in got.iter().zip(silu_mul(&gate_up, gates.len())).zip(gates) {
        let slack = 2f64.powi(-126) * gate.to_f64().abs().clamp(1.0, 200.0);
        assert_near(*got, want, 1, slack, &format!("gate {gate}"));
    }
}

#[test]
fn infinities_behave_as_ieee_says() {
    let value = |bits: f32| bf16::from_f32(bits);
    let gates = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, 0.0, 0.0, 3e38, -3e38].map(value);
    let ups = [1.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY, -1.0, 2.0, 2.0].map(value);
    let got = run(support::device(), &[gates, ups].concat(), 8).unwrap();
    assert_eq!(got[0], bf16::INFINITY);
    assert!(got[1].is_nan() && got[2].is_nan(), "-inf / (1 + inf), and NaN");
    assert_eq!(got[3], bf16::INFINITY);
    assert!(got[4].is_nan(), "0 * inf");
    assert_eq!(bits(&got[5..]), bits(&[-0.0, f32::INFINITY, -0.0].map(value)));
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let mut gate_up = Rng::new("silu_mul neighbours").bf16(5 * 144, 2.0);
    gate_up[144] = bf16::NAN;
    let together = run(support::device(), &gate_up, 72).unwrap();
    let alone = gate_up.chunks(144).flat_map(|row| run(support::device(), row, 72).unwrap());
    assert_eq!(bits(&together), bits(&alone.collect::<Vec<_>>()));
}

#[test]
fn a_width_that_is_no_multiple_of_8_is_refused() {
    let error = run(support::device(), &[POISON; 24], 12).unwrap_err();
    assert_eq!(error.to_string(), "silu_mul: F = 12, but F must be a positive multiple of 8");
}

#[test]
fn no_rows_is_no_launch() {
    assert_eq!(run(support::device(), &[], 8).unwrap(), []);
}
