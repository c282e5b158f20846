//! Checkpoints of the goldens through the loader: both naming schemes, shards, each storage type,
//! widths that are padded. Every prepared value is compared with the recipe.

use std::collections::BTreeMap;

use half::{bf16, f16};
use qwen2vl::model::{
    checkpoint::{Checkpoint, CheckpointError, StoredType},
    config::{ConfigError, ModelConfig},
    weights::{HostTensor, LoadWarning, WIDTH_STEP, prepare},
};
use qwen2vl::units::FloatType;
use serde_json::Value;

use crate::support::checkpoint::{golden_cases, model_folder, not_yet, weight, weight_shapes};

/// (kind/model, spec) of every model that has weights, but the wide one, which has its own test.
fn specs() -> Vec<(String, Value)> {
    let mut specs = Vec::new();
    for kind in ["forward", "generate"] {
        for (name, spec) in golden_cases(kind)["models"].as_object().unwrap() {
            specs.push((format!("{kind}/{name}"), spec.clone()));
        }
    }
    specs.push(("rope".to_owned(), golden_cases("rope")["model"].clone()));
    specs
}

#[test]
fn every_golden_model_loads_or_is_listed() {
    let mut listed = not_yet("models");
    let mut loaded = 0;
    for (label, spec) in specs() {
        let folder = model_folder(&spec);
        let config = match ModelConfig::load(folder.path()) {
            Ok(config) => config,
            Err(ConfigError::Unsupported { .. }) if listed.remove(&label).is_some() => continue,
            Err(error) => panic!("{label}: {error}"),
        };
        assert!(!listed.contains_key(&label), "{label} loads, but is listed as not built");
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let mut tensors = Vec::new();
        let keep = |tensor: HostTensor<bf16>| -> Result<(), CheckpointError> {
            tensors.push(tensor);
            Ok(())
        };
        let (_, warnings) = prepare(&config, &checkpoint, keep).unwrap();
        check_warnings(&label, &spec, &warnings);
        let made: usize = tensors.iter().map(|tensor| check_tensor(&label, &spec, tensor)).sum();
        assert_eq!(made, weight_shapes(&spec["config"]).len(), "{label}: tensors prepared");
        loaded += 1;
    }
    println!("models: {loaded} loaded, {} not yet", not_yet("models").len());
    assert!(listed.is_empty(), "listed, but no such model: {listed:?}");
}

fn check_warnings(label: &str, spec: &Value, warnings: &[LoadWarning]) {
    let tensors = weight_shapes(&spec["config"]).len();
    let expected = match spec["weights"]["dtype"].as_str().unwrap() {
        "F32" => {
            vec![LoadWarning::Converted { to: FloatType::Bf16, from: StoredType::F32, tensors }]
        }
        "F16" => {
            vec![LoadWarning::Converted { to: FloatType::Bf16, from: StoredType::F16, tensors }]
        }
        _ => vec![],
    };
    assert_eq!(warnings, expected, "{label}");
}

/// Compares a prepared tensor with the recipe; the number of stored tensors in it.
fn check_tensor(label: &str, spec: &Value, tensor: &HostTensor<bf16>) -> usize {
    let shapes: BTreeMap<_, _> = weight_shapes(&spec["config"]).into_iter().collect();
    let seed = spec["weights"]["seed"].as_u64().unwrap();
    let dtype = spec["weights"]["dtype"].as_str().unwrap();
    let parts: Vec<String> = match tensor.name.as_str() {
        name if name.contains(".q_proj.") => {
            ["q_proj", "k_proj", "v_proj"].map(|part| name.replace("q_proj", part)).into()
        }
        name if name.contains("gate_proj") => vec![name.into(), name.replace("gate", "up")],
        name => vec![name.into()],
    };
    let mut values = Vec::new();
    for part in &parts {
        let shape = &shapes[part];
        let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
        let made = weight(seed, part, shape, 0..rows * columns);
        let stride = if shape.len() == 1 { 1 } else { columns.next_multiple_of(WIDTH_STEP) };
        for row in made.chunks(columns) {
            values.extend(row.iter().map(|value| stored(dtype, *value)));
            values.resize(values.len() + stride - columns, bf16::ZERO);
        }
        let padding = rows.next_multiple_of(WIDTH_STEP) - rows;
        values.resize(values.len() + padding * stride, bf16::ZERO);
    }
    assert!(tensor.values == values, "{label}: {}", tensor.name);
    assert_eq!(tensor.shape.iter().product::<usize>(), values.len(), "{label}: {}", tensor.name);
    parts.len()
}

/// A value as it is stored, then as bf16.
fn stored(dtype: &str, value: f32) -> bf16 {
    match dtype {
        "F16" => bf16::from_f32(f16::from_f32(value).to_f32()),
        _ => bf16::from_f32(value),
    }
}
