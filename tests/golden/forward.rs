//! Forward passes in each type against the reference's f32 run, within the tolerances of the
//! goldens' README: in f32 a fixed one, in bf16 and f16 1.5 times the rms and 2.5 times the largest
//! error of the reference's own run in that type.

use std::collections::BTreeMap;

use qwen2vl::{
    device::DeviceChoice,
    engine::{ForwardInput, ForwardOptions, ForwardOutput, PositionIds, forward},
    settings,
    units::{FloatType, GridThw, TokenId},
};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::checkpoint::{golden_cases, goldens, input_tensors, model_folder};

/// (rms, largest) error of a run in f32.
const EXACT: (f64, f64) = (2e-5, 1e-4);
/// (times the rms error, times the largest error) of the reference's run in bf16 or f16.
const NARROW: (f64, f64) = (1.5, 2.5);
/// The same for attentions, whose files keep six rows: in each a few large weights decide, so that
/// single runs of equal quality lie up to 1.6 times apart (their mean over all cases is 1.03).
const FEW_ROWS: f64 = 2.0;
/// No limit of bf16 or f16 is below these.
const FLOOR_BF16: (f64, f64) = (2e-3, 6e-3);
const FLOOR_F16: (f64, f64) = (3e-4, 1e-3);
#[test]
fn forward_passes_are_within_tolerance() {
    let document = golden_cases("forward");
    let mut by_model: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for case in document["cases"].as_array().unwrap() {
        by_model.entry(case["model"].as_str().unwrap()).or_default().push(case);
    }
    let mut run = 0;
    for (model, cases) in by_model {
        let folder = model_folder(&document["models"][model]);
        for case in cases {
            run += check(folder.path(), case, "forward", &FloatType::ALL);
        }
    }
    println!("forward: {run} runs");
    assert!(run >= 112, "only {run} runs");
}

#[test]
fn the_real_widths_are_within_tolerance() {
    let document = golden_cases("wide");
    let folder = model_folder(&document["model"]);
    for case in document["cases"].as_array().unwrap() {
        assert_eq!(check(folder.path(), case, "wide", &[FloatType::Bf16]), 1);
    }
}

/// Runs a case in those of `types` for which there is something to compare with; how many.
pub(crate) fn check(
    folder: &std::path::Path,
    case: &Value,
    kind: &str,
    types: &[FloatType],
) -> usize {
    let has = |dtype: &FloatType| limits(case, *dtype).is_some();
    let run = types.iter().copied().filter(has);
    run.map(|dtype| check_as(folder, case, kind, dtype)).count()
}

/// The (rms, largest) error that a tensor may have in a type, if it is compared in that type.
type Limits<'a> = Box<dyn Fn(&str) -> Option<(f64, f64)> + 'a>;

fn limits(case: &Value, dtype: FloatType) -> Option<Limits<'_>> {
    let floor = match dtype {
        FloatType::F32 => return Some(Box::new(|_| Some(EXACT))),
        FloatType::Bf16 => FLOOR_BF16,
        FloatType::F16 => FLOOR_F16,
    };
    let errors = &case["error"][dtype.to_string().to_uppercase()];
    errors.is_object().then(|| -> Limits<'_> {
        Box::new(move |name| {
            let error = &errors[name];
            let rms = error["rms"].as_f64()?;
            let max = error["max"].as_f64()?;
            Some(((NARROW.0 * rms).max(floor.0), (NARROW.1 * max).max(floor.1)))
        })
    })
}

fn check_as(folder: &std::path::Path, case: &Value, kind: &str, dtype: FloatType) {
    let label = format!("{kind}/{} in {dtype}", case["name"].as_str().unwrap());
    let limits = limits(case, dtype).unwrap();
    let input = input(case);
    let compared = case["compare"].as_object().unwrap();
    let attentions = compared.keys().any(|name| name.starts_with("attentions"));
    let options =
        ForwardOptions { hidden_states: true, attentions, dtype: Some(dtype), ..options() };
    let output = forward(folder, &input, &options).unwrap_or_else(|error| {
        panic!("{label}: {error}");
    });
    check_positions(&label, case, &input, &output);
    let bytes = std::fs::read(goldens().join(kind).join(case["file"].as_str().unwrap())).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut compared = 0;
    for (name, kept) in case["compare"].as_object().unwrap() {
        let Some(limits) = limits(name) else { continue };
        let tensor = output.tensors.iter().find(|tensor| tensor.name == *name);
        let tensor = tensor.unwrap_or_else(|| panic!("{label}: {name} is missing"));
        let shape: Vec<usize> = serde_json::from_value(kept["shape"].clone()).unwrap();
        // The reference's loss has no dimension, its file one.
        let found = if name == "loss" { &[1][..] } else { &tensor.shape };
        assert_eq!(found, shape, "{label}: {name}");
        let columns = *shape.last().unwrap();
        let rows: Vec<usize> = serde_json::from_value(kept["rows"].clone()).unwrap();
        let got: Vec<f32> = rows
            .iter()
            .flat_map(|row| tensor.values[row * columns..(row + 1) * columns].iter().copied())
            .collect();
        let want = floats(stored.tensor(name).unwrap().data());
        let mut limits = limits;
        if name == "loss" && dtype != FloatType::F32 {
            let chance = chance(case, &stored, want[0], dtype);
            limits = (limits.0.max(chance), limits.1.max(chance));
        }
        if name.starts_with("attentions") && dtype != FloatType::F32 {
            limits.0 *= FEW_ROWS / NARROW.0;
        }
        close(&format!("{label}: {name}"), &got, &want, limits);
        compared += 1;
    }
    assert!(compared > 0, "{label}: nothing was compared");
}

/// Three standard errors of the loss: a mean of n surprises, each the difference of two numbers
/// that err as the logits of the reference's own run do. One run of it says little: it may
/// err by a tenth of this.
fn chance(case: &Value, stored: &SafeTensors<'_>, loss: f32, dtype: FloatType) -> f64 {
    let logits = floats(stored.tensor("logits").unwrap().data());
    let squares: f64 = logits.iter().map(|value| f64::from(*value).powi(2)).sum();
    let size = (squares / logits.len() as f64).sqrt();
    let error =
        case["error"][dtype.to_string().to_uppercase()]["logits"]["rms"].as_f64().unwrap() * size;
    let labels = case["inputs"]["labels"]["ids"].as_array().unwrap();
    let labels = labels.iter().flat_map(|row| row.as_array().unwrap().iter().skip(1));
    let counted = labels.filter(|label| label.as_i64() != Some(-100)).count();
    3.0 * error * (2.0 / counted as f64).sqrt() / f64::from(loss)
}

pub(crate) fn input(case: &Value) -> ForwardInput {
    let mut input = ForwardInput::default();
    for (name, _, shape, bytes) in input_tensors(&case["inputs"]) {
        let long = || -> Vec<i64> {
            bytes.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word)).collect()
        };
        let grids = || {
            let rows = long();
            let side = |value: i64| usize::try_from(value).unwrap();
            let grid = |row: &[i64]| GridThw { t: side(row[0]), h: side(row[1]), w: side(row[2]) };
            Some(rows.chunks(3).map(grid).collect())
        };
        match name.as_str() {
            "input_ids" => {
                (input.batch, input.length) = (shape[0], shape[1]);
                let id = |value: i64| TokenId(u32::try_from(value).unwrap());
                input.input_ids = long().into_iter().map(id).collect();
            }
            "attention_mask" => {
                input.attention_mask = Some(long().into_iter().map(|held| held == 1).collect());
            }
            "inputs_embeds" => {
                (input.batch, input.length) = (shape[0], shape[1]);
                input.inputs_embeds = Some(floats(&bytes));
            }
            "position_ids" => {
                input.position_ids = Some(PositionIds { axes: shape[0], values: long() });
            }
            "labels" => input.labels = Some(long()),
            "pixel_values" => input.pixel_values = Some(floats(&bytes)),
            "pixel_values_videos" => input.pixel_values_videos = Some(floats(&bytes)),
            "image_grid_thw" => input.image_grid_thw = grids(),
            "video_grid_thw" => input.video_grid_thw = grids(),
            "second_per_grid_ts" => input.second_per_grid_ts = Some(floats(&bytes)),
            other => panic!("{other} is not built"),
        }
    }
    input
}

/// The device that the environment asks for.
pub(crate) fn options() -> ForwardOptions {
    let device: DeviceChoice =
        settings::text(settings::DEVICE).map_or(DeviceChoice::Auto, |text| text.parse().unwrap());
    ForwardOptions { device, ..Default::default() }
}

fn check_positions(label: &str, case: &Value, input: &ForwardInput, output: &ForwardOutput) {
    let Some(axes) = case["position_ids"].as_array() else { return };
    let want: Vec<i64> = axes
        .iter()
        .flat_map(|axis| axis.as_array().unwrap())
        .flat_map(|row| row.as_array().unwrap())
        .map(|value| value.as_i64().unwrap())
        .collect();
    let slots = input.batch * input.length;
    let held = |slot: usize| input.attention_mask.as_ref().is_none_or(|mask| mask[slot % slots]);
    assert_eq!(output.position_ids.len(), want.len(), "{label}: position_ids");
    for (slot, (got, want)) in output.position_ids.iter().zip(&want).enumerate() {
        assert!(!held(slot) || got == want, "{label}: position of slot {slot}: {got}, not {want}");
    }
    let deltas: Vec<i64> = case["rope_deltas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row.as_i64().unwrap_or_else(|| row[0].as_i64().unwrap()))
        .collect();
    assert_eq!(output.rope_deltas, deltas, "{label}: rope_deltas");
}

/// Errors relative to the size of what is wanted; NaN never passes.
pub(crate) fn close(label: &str, got: &[f32], want: &[f32], limits: (f64, f64)) {
    assert_eq!(got.len(), want.len(), "{label}");
    let (mut squares, mut size, mut largest, mut top) = (0.0, 0.0, 0.0f64, 0.0f64);
    for (got, want) in got.iter().zip(want) {
        assert!(got.is_finite(), "{label}: not finite");
        let (want, difference) = (f64::from(*want), f64::from(*got) - f64::from(*want));
        squares += difference * difference;
        size += want * want;
        largest = largest.max(difference.abs());
        top = top.max(want.abs());
    }
    let (rms, max) = ((squares / size.max(1e-24)).sqrt(), largest / top.max(1e-12));
    assert!(
        rms <= limits.0 && max <= limits.1,
        "{label}: rms {rms:.3e} (limit {:.3e}), max {max:.3e} (limit {:.3e})",
        limits.0,
        limits.1
    );
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}
