//! `kernels/activate.cu` against its oracle, in every type and function.

use half::{bf16, f16};
use qwen2vl::ops::activate::Activate;
use qwen2vl::reference::activate::activate as oracle;
use qwen2vl::units::Activation;

use crate::guarded::{Guarded, Number};
use crate::support::{Rng, device};
use crate::tolerance::{assert_within, ulp};

/// (numbers, largest, why)
const CASES: &[(usize, f32, &str)] = &[
    (8, 1.0, "one thread has work"),
    (2048, 3.0, "exactly one block"),
    (2056, 8.0, "one access past a block, bends at 6 and 10"),
    (4096, 60.0, "saturated, exp overflows f32's square"),
    (64, 1e-3, "small"),
];

fn run<T: Number>(x: &[T], function: Activation, label: &str) -> Vec<T> {
    let mut y = Guarded::holding(device(), x);
    Activate { y: y.view_mut().into(), function }.launch(device()).expect(label);
    y.read(device(), label)
}

fn check<T: Number>() {
    for function in Activation::ALL {
        for &(count, largest, why) in CASES {
            let label = format!("{} {function:?} {count}: {why}", T::TYPE);
            let x: Vec<T> = Rng::new(&label).floats(count, largest);
            let want = x.iter().map(|x| {
                let y = oracle(function, *x);
                let steps = if function == Activation::QuickGelu { 3.0 } else { 1.0 };
                // 1 + tanh and 1 + erf cancel below zero, as in the reference.
                let cancelled = 2f64.powi(-22) * x.to_f64().abs();
                (y, steps * ulp::<T>(y) + 2f64.powi(-20) * y.abs() + cancelled)
            });
            assert_within(&run(&x, function, &label), want, &label);
        }
    }
}

#[test]
fn matches_the_oracle_in_every_type() {
    check::<bf16>();
    check::<f16>();
    check::<f32>();
}

#[test]
fn nan_stays_and_infinity_saturates() {
    for function in Activation::ALL {
        let mut x = [0.5f32; 8];
        (x[1], x[2]) = (f32::NAN, f32::INFINITY);
        let y = run(&x, function, &format!("{function:?}"));
        assert!(y[1].is_nan() && !y[2].is_nan() && y[0].is_finite(), "{function:?}: {y:?}");
    }
}

#[test]
fn a_ragged_count_is_refused() {
    let mut y = device().zeros::<f32>(12).unwrap();
    let launch = Activate { y: y.view_mut().into(), function: Activation::Relu };
    let error = launch.launch(device()).unwrap_err();
    assert_eq!(error.to_string(), "activate: n = 12, but n must be a multiple of 8");
}
