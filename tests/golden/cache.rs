//! Passes that go on from the keys and values of an earlier one.

use qwen2vl::engine::{ForwardInput, ForwardOptions, ForwardOutput, forward};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::{
    forward::{close, floats, input, options},
    support::checkpoint::{golden_cases, goldens, model_folder},
};

/// Relative errors of bf16 keys and values against the reference's f32 ones, measured.
const LIMITS: (f64, f64) = (0.02, 0.05);

#[test]
fn a_pass_goes_on_from_a_cache_with_the_bits_of_a_single_pass() {
    let document = golden_cases("forward");
    let cases = document["cases"].as_array().unwrap();
    let cases: Vec<_> = cases.iter().filter(|case| !case["past"].is_null()).collect();
    assert!(cases.len() >= 3);
    for case in cases {
        let folder = model_folder(&document["models"][case["model"].as_str().unwrap()]);
        check(folder.path(), case);
    }
}

fn check(folder: &std::path::Path, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let whole = input(case);
    let past = usize::try_from(case["past"].as_u64().unwrap()).unwrap();
    let with_cache = ForwardOptions { key_values: true, ..options() };
    let single = forward(folder, &whole, &with_cache).unwrap();
    let mut first = whole.clone();
    first.length = past;
    first.input_ids.truncate(past);
    first.attention_mask.as_mut().unwrap().truncate(past);
    let first = forward(folder, &first, &with_cache).unwrap();
    // As in the reference: new ids alone, a mask over all slots, the cache's own deltas.
    let rest = ForwardInput {
        batch: 1,
        length: whole.length - past,
        input_ids: whole.input_ids[past..].to_vec(),
        attention_mask: whole.attention_mask.clone(),
        rope_deltas: Some(first.rope_deltas.clone()),
        past: first.past(),
        cache_position: Some(
            (past..whole.length).map(|slot| i64::try_from(slot).unwrap()).collect(),
        ),
        ..Default::default()
    };
    let rest = forward(folder, &rest, &with_cache).unwrap();
    let columns = *single.tensor("logits").unwrap().shape.last().unwrap();
    let (all, part) = (values(&single, "logits"), values(&rest, "logits"));
    assert!(all[past * columns..] == *part, "{name}: logits differ");
    assert_eq!(rest.rope_deltas, single.rope_deltas, "{name}");
    let bytes = std::fs::read(goldens().join("forward").join(case["file"].as_str().unwrap()));
    let bytes = bytes.unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let rows: Vec<usize> = serde_json::from_value(case["past_rows"].clone()).unwrap();
    let mut compared = 0;
    for tensor in stored.names().into_iter().filter(|tensor| tensor.starts_with("past/")) {
        assert!(values(&single, tensor) == values(&rest, tensor), "{name}: {tensor} differs");
        let shape = &rest.tensor(tensor).unwrap().shape;
        let [1, heads, slots, width] = shape[..] else { panic!("{name}: {shape:?}") };
        let found = values(&rest, tensor);
        let kept: Vec<f32> = (0..heads)
            .flat_map(|head| rows.iter().map(move |row| (head * slots + row) * width))
            .flat_map(|start| found[start..start + width].to_vec())
            .collect();
        let want = floats(stored.tensor(tensor).unwrap().data());
        close(&format!("{name}: {tensor}"), &kept, &want, LIMITS);
        compared += 1;
    }
    assert_eq!(compared, 4, "{name}");
}

fn values<'a>(output: &'a ForwardOutput, name: &str) -> &'a [f32] {
    &output.tensor(name).unwrap_or_else(|| panic!("{name} is missing")).values
}
