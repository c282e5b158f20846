//! `kernels/gemm_f32.cu` against the oracle of gemm, and the linear layer in f16: class C, and the
//! same bits from every form.

use half::f16;
use qwen2vl::ops::gemm::{Gemm, Output, TILES, Variant};
use qwen2vl::ops::{OpError, gemm_f32, gemv::FORMS};
use qwen2vl::reference::gemm::{Sum, gelu_erf, linear, quick_gelu};
use qwen2vl::reference::rms_norm::add_residual;
use qwen2vl::units::FloatType;

use crate::check::linear_factor;
use crate::guarded::{Guarded, Number};
use crate::orders::in_every_order;
use crate::paged::assert_same_bits;
use crate::support::{Rng, device};
use crate::tolerance::{assert_within, ulp};

/// (M, N, K, why)
const SHAPES: &[(usize, usize, usize, &str)] = &[
    (1, 8, 16, "the smallest"),
    (2, 24, 48, "a part of each tile"),
    (7, 120, 240, "a short group"),
    (8, 64, 256, "one group"),
    (16, 72, 272, "the small tile, a step past a group"),
    (17, 136, 512, "one row past the small tile"),
    (33, 8, 1184, "a row of pixels"),
    (64, 128, 256, "whole large tiles"),
    (65, 136, 528, "one past a large tile in both directions"),
    (130, 40, 16, "many rows of one step"),
    (3, 1536, 1536, "2B"),
];

/// What to do with the sums.
#[derive(Clone, Copy)]
enum Kind {
    Store,
    Residual,
    QuickGelu,
    GeluErf,
}

struct Case<T> {
    x: Vec<T>,
    weight: Vec<T>,
    bias: Vec<T>,
    rows: usize,
    outputs: usize,
    inputs: usize,
}

impl<T: Number> Case<T> {
    fn random(label: &str, [rows, outputs, inputs]: [usize; 3]) -> Self {
        let mut rng = Rng::new(label);
        let x = rng.floats(rows * inputs, 2.0);
        let weight = rng.floats(outputs * inputs, 1.0);
        let bias = rng.floats(outputs, 4.0);
        Self { x, weight, bias, rows, outputs, inputs }
    }

    fn run(
        &self,
        variant: Option<&Variant>,
        old: Option<&[T]>,
        output: Kind,
    ) -> Result<Vec<T>, OpError> {
        let (x, weight) = (device().upload(&self.x)?, device().upload(&self.weight)?);
        let bias = device().upload(&self.bias)?;
        let mut y = match old {
            Some(old) => Guarded::holding(device(), old),
            None => Guarded::new(device(), self.rows * self.outputs),
        };
        let gemm = Gemm {
            x: x.view().into(),
            weight: weight.view().into(),
            bias: Some(bias.view().into()),
            y: match output {
                Kind::Store => Output::Store(y.view_mut().into()),
                Kind::Residual => Output::Residual(y.view_mut().into()),
                Kind::QuickGelu => Output::QuickGelu(y.view_mut().into()),
                Kind::GeluErf => Output::GeluErf(y.view_mut().into()),
            },
            rows: self.rows,
            outputs: self.outputs,
            inputs: self.inputs,
        };
        match variant {
            Some(variant) => gemm.launch_as(variant, device())?,
            None => gemm.launch(device())?,
        }
        Ok(y.read(device(), "gemm"))
    }

    fn variants(&self) -> impl Iterator<Item = &'static Variant> {
        let shared = device().shared_limit().0;
        let all = TILES.iter().chain(&FORMS).chain(&gemm_f32::FORMS);
        all.filter(|variant| variant.entry(T::TYPE).is_some())
            .filter(|variant| variant.any_rows || self.rows <= variant.rows)
            .filter(move |variant| u64::from(variant.shared_bytes) <= shared)
    }

    fn sums(&self) -> Vec<Sum> {
        linear(&self.x, &self.weight, Some(&self.bias), self.inputs)
    }

    /// What class C allows; in exact mode a sum is rounded after each product.
    fn limit(&self, sum: Sum) -> f64 {
        let rounded =
            if T::TYPE == FloatType::F32 { self.inputs } else { self.inputs.div_ceil(16) };
        let steps = (rounded as f64).sqrt();
        let error = linear_factor() * 2f64.powi(-24) * steps * sum.magnitude;
        0.5 * ulp::<T>(sum.value) + error
    }
}

fn check<T: Number>(shapes: &[(usize, usize, usize, &str)]) {
    for &(rows, outputs, inputs, why) in shapes {
        let label = format!("{} gemm M={rows} N={outputs} K={inputs}: {why}", T::TYPE);
        let case = Case::<T>::random(&label, [rows, outputs, inputs]);
        let first = case.run(None, None, Kind::Store).expect(&label);
        let want = case.sums().into_iter().map(|sum| (sum.value, case.limit(sum)));
        assert_within(&first, want, &label);
        for variant in case.variants() {
            let label = format!("{label}, {}", variant.entry(T::TYPE).unwrap());
            let run = || case.run(Some(variant), None, Kind::Store).expect(&label);
            assert_same_bits(&in_every_order(&label, run), &first, &label);
        }
    }
}

/// Bias first, then the activation or the residual, each after its rounding point.
fn check_epilogues<T: Number>() {
    let label = format!("{} epilogues", T::TYPE);
    let case = Case::<T>::random(&label, [19, 72, 272]);
    let old: Vec<T> = Rng::new("residual").floats(19 * 72, 3.0);
    for variant in case.variants() {
        let stored = case.run(Some(variant), None, Kind::Store).unwrap();
        let added = case.run(Some(variant), Some(&old), Kind::Residual).unwrap();
        assert_same_bits(&added, &add_residual(&stored, &old), &label);
        let near = |got: &[T], want: fn(T) -> T| {
            let want = stored.iter().map(|g| (want(*g).to_f64(), g.to_f64().abs()));
            // Class B: three steps, and the f32 error of 1 + erf, of which little is left far below
            // zero.
            let limit =
                |y: f64, g: f64| 3.0 * ulp::<T>(y) + 2f64.powi(-20) * y.abs() + g * 2f64.powi(-23);
            assert_within(got, want.map(|(y, g)| (y, limit(y, g))), &label);
        };
        near(&case.run(Some(variant), None, Kind::QuickGelu).unwrap(), quick_gelu);
        near(&case.run(Some(variant), None, Kind::GeluErf).unwrap(), gelu_erf);
    }
}

#[test]
fn matches_the_oracle_in_f32() {
    check::<f32>(SHAPES);
}

#[test]
fn matches_the_oracle_in_f32_gpu_small() {
    check::<f32>(&SHAPES[..2]);
}

#[test]
fn matches_the_oracle_in_f16() {
    check::<f16>(SHAPES);
}

#[test]
fn epilogues_match_the_oracle() {
    check_epilogues::<f32>();
    check_epilogues::<f16>();
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let mut case = Case::<f32>::random("f32 rows", [70, 72, 528]);
    case.x[528] = f32::NAN;
    case.x[2 * 528] = f32::INFINITY;
    let together = case.run(None, None, Kind::Store).unwrap();
    for row in [0, 1, 2, 3, 15, 16, 63, 64, 69] {
        let (x, weight) = (case.x[row * 528..(row + 1) * 528].to_vec(), case.weight.clone());
        let alone = Case { x, weight, bias: case.bias.clone(), rows: 1, ..case };
        let alone = alone.run(None, None, Kind::Store).unwrap();
        assert_same_bits(&together[row * 72..(row + 1) * 72], &alone, &format!("row {row}"));
    }
}

#[test]
fn a_form_of_another_type_is_refused() {
    let case = Case::<f32>::random("refused", [1, 8, 16]);
    let error = case.run(Some(&TILES[0]), None, Kind::Store).unwrap_err();
    assert_eq!(error.to_string(), "gemm: E = 4, but the form is not built for the type of x");
}

#[test]
fn numbers_of_two_types_are_refused() {
    let (x, weight) = (device().zeros::<f16>(16).unwrap(), device().zeros::<f32>(128).unwrap());
    let mut y = device().zeros::<f16>(8).unwrap();
    let gemm = Gemm {
        x: x.view().into(),
        weight: weight.view().into(),
        bias: None,
        y: Output::Store(y.view_mut().into()),
        rows: 1,
        outputs: 8,
        inputs: 16,
    };
    let error = gemm.launch(device()).unwrap_err();
    let types = (FloatType::F16, FloatType::F32);
    let refused = matches!(error, OpError::Type { argument: "weight", expected, found, .. }
        if (expected, found) == types);
    assert!(refused, "{error}");
}
