//! `kernels/gemm.cu` against its oracle, on whatever device the machine has; and rule N1: every
//! tile and every few-row form gives the same bits.

use half::bf16;
use qwen2vl::{
    device::Device,
    ops::OpError,
    ops::gemm::{Gemm, Output, TILES, Variant},
    ops::gemv::FORMS,
    reference::gemm::{gelu_erf, linear, quick_gelu},
    reference::rms_norm::add_residual,
};

use crate::check::{assert_mostly_exact, assert_near, bits, linear_factor};
use crate::guarded::Guarded;
use crate::orders::in_every_order;
use crate::support::{self, Rng};
use crate::tolerance::bf16_ulp;

/// One linear layer on the host.
#[derive(Clone)]
pub struct Case {
    pub x: Vec<bf16>,
    pub weight: Vec<bf16>,
    pub bias: Option<Vec<bf16>>,
    pub rows: usize,
    pub outputs: usize,
    pub inputs: usize,
}

/// What to do with the sums.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    Store,
    Residual(&'a [bf16]),
    QuickGelu,
    GeluErf,
}

impl Case {
    pub fn random(label: &str, rows: usize, outputs: usize, inputs: usize) -> Self {
        let mut rng = Rng::new(label);
        let x = rng.bf16(rows * inputs, 2.0);
        let weight = rng.bf16(outputs * inputs, 1.0);
        let bias = Some(rng.bf16(outputs, 4.0));
        Self { x, weight, bias, rows, outputs, inputs }
    }

    /// Through one variant; `None` is the product's own choice.
    pub fn run(
        &self,
        device: &Device,
        variant: Option<&Variant>,
        kind: Kind<'_>,
    ) -> Result<Vec<bf16>, OpError> {
        let len = self.rows * self.outputs;
        let mut y = match kind {
            Kind::Residual(old) => Guarded::holding(device, old),
            _ => Guarded::new(device, len),
        };
        let view = y.view_mut();
        let output = match kind {
            Kind::Store => Output::Store(view.into()),
            Kind::Residual(_) => Output::Residual(view.into()),
            Kind::QuickGelu => Output::QuickGelu(view.into()),
            Kind::GeluErf => Output::GeluErf(view.into()),
        };
        self.launch(device, variant, output)?;
        Ok(y.read(device, "gemm"))
    }

    pub fn logits(&self, device: &Device, variant: &Variant) -> Result<Vec<f32>, OpError> {
        let mut y = Guarded::new(device, self.rows * self.outputs);
        self.launch(device, Some(variant), Output::Logits(y.view_mut()))?;
        Ok(y.read(device, "gemm"))
    }

    fn launch(
        &self,
        device: &Device,
        variant: Option<&Variant>,
        y: Output<'_>,
    ) -> Result<(), OpError> {
        let (x, weight) = (device.upload(&self.x)?, device.upload(&self.weight)?);
        let bias = self.bias.as_ref().map(|bias| device.upload(bias)).transpose()?;
        let op = Gemm {
            x: x.view().into(),
            weight: weight.view().into(),
            bias: bias.as_ref().map(|bias| bias.view().into()),
            y,
            rows: self.rows,
            outputs: self.outputs,
            inputs: self.inputs,
        };
        match variant {
            Some(variant) => op.launch_as(variant, device),
            None => op.launch(device),
        }
    }

    /// Every variant that takes these rows and fits the device.
    pub fn variants(&self) -> Vec<&'static Variant> {
        let shared = support::device().shared_limit().0;
        let all = TILES.iter().chain(&FORMS);
        all.filter(|variant| variant.any_rows || self.rows <= variant.rows)
            .filter(|variant| u64::from(variant.shared_bytes) <= shared)
            .collect()
    }

    /// Class C: half a step for the rounding, and the error of a sum in f32.
    pub fn check(&self, got: &[bf16], label: &str) {
        let sums = linear(&self.x, &self.weight, self.bias.as_deref(), self.inputs);
        assert_eq!(got.len(), sums.len(), "{label}");
        let steps = (self.inputs.div_ceil(16) as f64).sqrt();
        for (i, (got, sum)) in got.iter().zip(sums).enumerate() {
            let error = linear_factor() * 2f64.powi(-24) * steps * sum.magnitude;
            let limit = 0.5 * bf16_ulp(sum.value) + error;
            let distance = (got.to_f64() - sum.value).abs();
            let (m, n) = (i / self.outputs, i % self.outputs);
            assert!(distance <= limit, "{label}: y[{m}, {n}] = {got}, want {}", sum.value);
        }
    }

    /// The oracle once, and the same bits from every variant.
    pub fn check_variants(&self, label: &str) {
        let device = support::device();
        let mut first: Option<Vec<bf16>> = None;
        for variant in self.variants() {
            let label = format!("{label}, {}", variant.name());
            let got = self.run(device, Some(variant), Kind::Store).expect(&label);
            match &first {
                Some(first) => assert_eq!(bits(&got), bits(first), "{label}"),
                None => {
                    self.check(&got, &label);
                    first = Some(got);
                }
            }
        }
    }
}

/// (M, N, K, why this shape)
type Shape = (usize, usize, usize, &'static str);
const TAILS: &[Shape] = &[
    (1, 8, 16, "the smallest"),
    (2, 24, 48, "parts of a tile in M, N and K"),
    (7, 120, 240, "one step before a group's end"),
    (8, 128, 256, "exactly one group"),
    (15, 136, 272, "one step into the second group"),
    (16, 8, 512, "two groups"),
    (17, 24, 1184, "the patch embedding's depth"),
    (63, 120, 16, "one row before a tile's end"),
    (64, 128, 64, "exactly a tile and a step"),
    (65, 136, 128, "one row past a tile; two steps"),
    (127, 24, 192, "three steps"),
    (129, 128, 272, "one row past the largest tile"),
];
const LARGE: &[Shape] = &[
    (255, 8, 512, "narrow"),
    (256, 120, 48, "shallow"),
    (257, 136, 320, "tails everywhere"),
    (1100, 72, 16, "more than eight tiles down: two bands of the grid"),
];
const MODELS: &[Shape] = &[
    (3, 1536, 1536, "2B: attention output"),
    (4, 1280, 1184, "tower: patch embedding"),
    (2, 104, 8960, "2B: down, few outputs"),
    (5, 40, 18_944, "7B: down, few outputs"),
    (1, 24, 29_568, "72B: down, few outputs"),
];

fn check_shapes(shapes: &[Shape]) {
    for &(rows, outputs, inputs, why) in shapes {
        let label = format!("M={rows} N={outputs} K={inputs} ({why})");
        Case::random(&label, rows, outputs, inputs).check_variants(&label);
    }
}

#[test]
fn gpu_small_every_variant_matches_the_oracle_in_the_same_bits() {
    check_shapes(&TAILS[1..2]);
}

#[test]
fn tails_match_the_oracle_in_the_same_bits() {
    check_shapes(TAILS);
}

#[test]
fn large_shapes_match_the_oracle_in_the_same_bits() {
    check_shapes(LARGE);
}

#[test]
fn model_shapes_match_the_oracle_in_the_same_bits() {
    check_shapes(MODELS);
}

/// N1 as docs/numerics.md states it, with the software device's definition of an mma: f32, pairs of
/// k ascending, the odd one of a pair first.
fn n1(x: &[bf16], weight: &[bf16], bias: bf16) -> bf16 {
    let mut total = 0.0_f32;
    for (x, w) in x.chunks(256).zip(weight.chunks(256)) {
        let mut sum = 0.0_f32;
        for (x, w) in x.chunks(2).zip(w.chunks(2)) {
            sum = x[1].to_f32().mul_add(w[1].to_f32(), sum);
            sum = x[0].to_f32().mul_add(w[0].to_f32(), sum);
        }
        total += sum;
    }
    bf16::from_f32(total + bias.to_f32())
}

#[test]
fn on_the_software_device_the_bits_are_those_of_n1() {
    if !support::device().located().software {
        eprintln!("skipped: a GPU defines its own mma");
        return;
    }
    for (rows, outputs, inputs) in [(1, 24, 2320), (6, 40, 272), (70, 72, 784)] {
        let case = Case::random("n1", rows, outputs, inputs);
        let got = case.run(support::device(), None, Kind::Store).unwrap();
        let bias = case.bias.clone().expect("random cases have one");
        let want = case.x.chunks(inputs).flat_map(|x| {
            let columns = case.weight.chunks(inputs).zip(&bias);
            columns.map(move |(weight, bias)| n1(x, weight, *bias))
        });
        assert_eq!(bits(&got), bits(&want.collect::<Vec<_>>()), "M={rows} N={outputs} K={inputs}");
    }
}

#[test]
fn the_order_of_blocks_and_warps_changes_no_bit() {
    let case = Case::random("orders", 140, 200, 336);
    for variant in case.variants() {
        let run = || bits(&case.run(support::device(), Some(variant), Kind::GeluErf).unwrap());
        in_every_order(variant.name(), run);
    }
}

#[test]
fn without_a_bias_nothing_is_added() {
    let mut case = Case::random("no bias", 9, 40, 96);
    case.bias = None;
    case.check_variants("no bias");
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let device = support::device();
    let mut case = Case::random("gemm neighbours", 70, 136, 528);
    case.x[3 * case.inputs] = bf16::NAN;
    let together = case.run(device, None, Kind::Store).unwrap();
    // Alone, in pairs, in tens: through the few-row forms and the tiles.
    for size in [1, 2, 10, 35] {
        for start in (0..case.rows).step_by(size).take(8) {
            let rows = size.min(case.rows - start);
            let x = case.x[start * case.inputs..][..rows * case.inputs].to_vec();
            let part = Case { x, rows, ..case.clone() };
            let got = part.run(device, None, Kind::Store).unwrap();
            let want = &together[start * case.outputs..][..rows * case.outputs];
            assert_eq!(bits(&got), bits(want), "rows {start} to {}", start + rows);
        }
    }
    let others = together.iter().enumerate().filter(|(i, _)| i / case.outputs != 3);
    assert!(others.clone().count() > 0 && others.clone().all(|(_, value)| !value.is_nan()));
}

#[test]
fn rows_in_another_order_give_the_same_rows() {
    let device = support::device();
    let case = Case::random("gemm shuffled", 33, 72, 272);
    let mut order: Vec<usize> = (0..case.rows).collect();
    let mut rng = Rng::new("order");
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let straight = case.run(device, None, Kind::Store).unwrap();
    let rows = |of: &[bf16], width: usize| -> Vec<bf16> {
        order.iter().flat_map(|row| of[row * width..][..width].to_vec()).collect()
    };
    let shuffled = Case { x: rows(&case.x, case.inputs), ..case.clone() };
    let got = shuffled.run(device, None, Kind::Store).unwrap();
    assert_eq!(bits(&got), bits(&rows(&straight, case.outputs)));
}

#[test]
fn gpu_small_outputs_round_where_the_reference_rounds() {
    let device = support::device();
    let case = Case::random("outputs", 7, 72, 80);
    let old = Rng::new("old rows").bf16(case.rows * case.outputs, 3.0);
    for variant in case.variants() {
        let label = variant.name();
        // Checked against the oracle above: the others start from the same rounded sums.
        let sums = case.run(device, Some(variant), Kind::Store).unwrap();
        let residual = case.run(device, Some(variant), Kind::Residual(&old)).unwrap();
        assert_eq!(bits(&residual), bits(&add_residual(&old, &sums)), "{label}");
        let logits = case.logits(device, variant).unwrap();
        let want: Vec<u32> = sums.iter().map(|sum| sum.to_f32().to_bits()).collect();
        assert_eq!(logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>(), want, "{label}");
        let quick = case.run(device, Some(variant), Kind::QuickGelu).unwrap();
        let gelu = case.run(device, Some(variant), Kind::GeluErf).unwrap();
        for ((sum, quick), gelu) in sums.iter().zip(quick).zip(gelu) {
            assert_near(quick, quick_gelu(*sum), 3, 0.0, &format!("{label}: QuickGELU({sum})"));
            assert_near(gelu, gelu_erf(*sum), 1, erf_slack(*sum), &format!("{label}: GELU({sum})"));
        }
    }
}

/// `1 + erf` cancels for negative arguments in f32, in the reference too.
fn erf_slack(x: bf16) -> f64 {
    x.to_f64().abs() * 2f64.powi(-23)
}

#[test]
fn activations_are_right_for_every_finite_value() {
    // A weight of ones on the diagonal: y[m, n] is the activation of x[m, n].
    let all = (0..=u16::MAX).map(bf16::from_bits);
    let x: Vec<bf16> = all.map(|v| if v.is_finite() { v } else { bf16::ZERO }).collect();
    let weight = (0..256).map(|i| bf16::from_f32(if i / 16 == i % 16 { 1.0 } else { 0.0 }));
    let (rows, weight) = (x.len() / 16, weight.collect());
    let case = Case { x, weight, bias: None, rows, outputs: 16, inputs: 16 };
    let device = support::device();
    let quick = case.run(device, None, Kind::QuickGelu).unwrap();
    let gelu = case.run(device, None, Kind::GeluErf).unwrap();
    // Away from where exp overflows and 1 + erf cancels.
    let usual = |x: &bf16| x.to_f32().abs() > 1e-3 && x.to_f32() > -1.0;
    let exact = |got: &[bf16], want: fn(bf16) -> bf16, label: &str| {
        let pairs = case.x.iter().zip(got).filter(|(x, _)| usual(x));
        assert_mostly_exact(pairs.map(|(x, got)| (*got, want(*x))), label);
    };
    exact(&quick, quick_gelu, "QuickGELU");
    exact(&gelu, gelu_erf, "GELU");
    for ((x, quick), gelu) in case.x.iter().zip(quick).zip(gelu) {
        // Two inner roundings; exp overflows f32 far below zero, in the reference too.
        let slack = 2f64.powi(-126) * x.to_f64().abs().clamp(1.0, 200.0);
        assert_near(quick, quick_gelu(*x), 3, slack, &format!("QuickGELU({x})"));
        assert_near(gelu, gelu_erf(*x), 1, erf_slack(*x), &format!("GELU({x})"));
    }
}

/// Row 0 is as `edit` makes it; every other row must have the bits that it has without.
fn with_edited_row(edit: impl Fn(&mut [bf16], &mut [bf16])) -> Vec<bf16> {
    let device = support::device();
    let plain = Case { bias: None, ..Case::random("adversarial", 3, 24, 272) };
    let mut case = plain.clone();
    let inputs = case.inputs;
    edit(&mut case.x[..inputs], &mut case.weight[..inputs]);
    let mut first: Option<Vec<bf16>> = None;
    for variant in case.variants() {
        let got = case.run(device, Some(variant), Kind::Store).unwrap();
        let first = first.get_or_insert_with(|| got.clone());
        assert_eq!(bits(&got), bits(first), "{}", variant.name());
    }
    first.expect("every device takes a tile")
}

#[test]
fn infinities_and_nans_behave_as_ieee_says() {
    let infinite = with_edited_row(|x, w| {
        (x[100], w[100]) = (bf16::INFINITY, bf16::ONE);
    });
    assert_eq!(infinite[0], bf16::INFINITY);
    let undefined = with_edited_row(|x, w| {
        (x[100], w[100]) = (bf16::INFINITY, bf16::ZERO);
    });
    assert!(undefined[0].is_nan(), "inf * 0");
    let both = with_edited_row(|x, w| {
        (x[100], w[100]) = (bf16::INFINITY, bf16::ONE);
        (x[271], w[271]) = (bf16::NEG_INFINITY, bf16::ONE);
    });
    assert!(both[0].is_nan(), "inf - inf, in two groups");
    for rows in [infinite, undefined, both] {
        assert!(rows[24..].iter().all(|value| value.is_finite()), "other rows");
    }
}

#[test]
fn one_huge_value_swallows_the_rest() {
    let huge = bf16::from_f32(3e38);
    let got = with_edited_row(|x, w| (x[7], w[7]) = (huge, bf16::ONE));
    assert_eq!(got[0], huge);
}

#[test]
fn values_that_cancel_leave_a_small_sum() {
    let got = with_edited_row(|x, w| {
        for (k, x) in x.iter_mut().enumerate() {
            *x = bf16::from_f32(if k % 2 == 0 { 1000.0 } else { -1000.0 });
        }
        w.fill(bf16::ONE);
    });
    assert_eq!(got[0].to_f32(), 0.0);
}

#[test]
fn zeros_give_positive_zeros() {
    let got = with_edited_row(|x, _w| x.fill(bf16::NEG_ZERO));
    assert_eq!(bits(&got[..24]), [0; 24]);
}

#[test]
fn subnormal_products_are_not_lost() {
    let got = with_edited_row(|x, w| {
        x.fill(bf16::ZERO);
        (x[3], w[3]) = (bf16::from_bits(1), bf16::from_f32(256.0));
    });
    // The device that flushes them is a wrong one for this project.
    assert_eq!(got[0], bf16::from_bits(256));
}

#[test]
fn no_rows_is_no_launch() {
    let case = Case::random("no rows", 0, 8, 16);
    assert_eq!(case.run(support::device(), None, Kind::Store).unwrap(), []);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let refused = |rows, outputs, inputs| {
        let case = Case::random("refused", rows, outputs, inputs);
        case.run(support::device(), None, Kind::Store).unwrap_err().to_string()
    };
    assert_eq!(refused(1, 12, 16), "gemm: N = 12, but N must be a positive multiple of 8");
    assert_eq!(refused(1, 0, 16), "gemm: N = 0, but N must be a positive multiple of 8");
    assert_eq!(refused(1, 8, 24), "gemm: K = 24, but K must be a positive multiple of 16");
    assert_eq!(refused(1, 8, 0), "gemm: K = 0, but K must be a positive multiple of 16");
    let mut case = Case::random("refused", 2, 8, 16);
    case.bias = Some(vec![bf16::ONE; 7]);
    let error = case.run(support::device(), None, Kind::Store).unwrap_err();
    assert_eq!(error.to_string(), "gemm: bias has 7 elements, expected 8");
    let case = Case { rows: 3, ..Case::random("refused", 2, 8, 16) };
    let error = case.run(support::device(), None, Kind::Store).unwrap_err();
    assert_eq!(error.to_string(), "gemm: x has 32 elements, expected 48");
}
