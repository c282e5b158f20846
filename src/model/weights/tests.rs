//! Padding, stacking and conversion on a checkpoint of a few hundred values.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value, json};

use super::*;

/// Feed-forward widths 20 and 42 and 21 tokens are no multiples of 16; the patch row has 24 values.
fn config(tie: Value) -> ModelConfig {
    let json = json!({
        "model_type": "qwen2_vl", "hidden_size": 32, "intermediate_size": 20, "vocab_size": 21,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "tie_word_embeddings": tie, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {"depth": 1, "embed_dim": 32, "num_heads": 1, "hidden_size": 32,
            "mlp_ratio": 1.3125, "patch_size": 2, "spatial_merge_size": 2}
    });
    ModelConfig::parse(json.to_string().as_bytes(), Path::new("c.json")).unwrap()
}

/// Element `i` of tensor number `n`: exact in every storage type.
fn value(n: usize, i: usize) -> f32 {
    f32::from(u8::try_from((n * 31 + i * 7) % 100).unwrap()) - 50.0
}

type Stored = BTreeMap<String, (&'static str, Vec<usize>, Vec<u8>)>;

/// All tensors that `config` expects, stored as F32.
fn stored(config: &ModelConfig) -> Stored {
    let expected = names::expected(config).enumerate();
    expected
        .map(|(n, Expected { name, shape })| {
            let count = shape.iter().product();
            let bytes = (0..count).flat_map(|i| value(n, i).to_le_bytes()).collect();
            (name, ("F32", shape, bytes))
        })
        .collect()
}

fn open(stored: &Stored) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in stored {
        let offsets = [data.len(), data.len() + bytes.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        header.insert(name.clone(), entry);
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let length = u64::try_from(header.len()).unwrap().to_le_bytes();
    let content = [&length, header.as_bytes(), &data].concat();
    fs::write(folder.path().join("model.safetensors"), content).unwrap();
    Checkpoint::open(folder.path()).unwrap()
}

fn host(
    config: &ModelConfig,
    stored: &Stored,
) -> Result<(WeightSet<HostTensor<bf16>>, Vec<LoadWarning>), CheckpointError> {
    prepare(config, &open(stored), Ok)
}

/// The values of a tensor with zeros where padding is expected.
fn expected(config: &ModelConfig, parts: &[&str], columns: usize, padded: [usize; 2]) -> Vec<bf16> {
    let mut values = Vec::new();
    for part in parts {
        let n = names::expected(config).position(|tensor| tensor.name == *part).unwrap();
        let shape = names::expected(config).nth(n).unwrap().shape;
        let rows = shape[0];
        for row in 0..padded[0] {
            for column in 0..padded[1] {
                let inside = row < rows && column < columns;
                let real = if inside { value(n, row * columns + column) } else { 0.0 };
                values.push(bf16::from_f32(real));
            }
        }
    }
    values
}

#[test]
fn widths_are_padded_and_parts_stacked() {
    let config = config(json!(false));
    let (weights, _) = host(&config, &stored(&config)).unwrap();
    let (block, layer) = (&weights.vision.blocks[0], &weights.text.layers[0]);
    let attention = |part: &str| format!("model.layers.0.self_attn.{part}_proj");
    let [q, k, v] = ["q", "k", "v"].map(attention);
    let [qw, kw, vw] = [&q, &k, &v].map(|name| format!("{name}.weight"));
    let [qb, kb, vb] = [&q, &k, &v].map(|name| format!("{name}.bias"));
    let mlp = "model.layers.0.mlp";
    let [gate, up, down] = ["gate", "up", "down"].map(|part| format!("{mlp}.{part}_proj.weight"));
    /// (tensor, its shape, its parts, their columns, a part's padded rows and columns)
    type Case<'a> = (&'a HostTensor<bf16>, &'a [usize], &'a [&'a str], usize, [usize; 2]);
    let cases: [Case<'_>; 11] = [
        (&weights.vision.patch_embed, &[32, 32], &[names::PATCH_EMBED], 24, [32, 32]),
        (&block.up_weight, &[48, 32], &["visual.blocks.0.mlp.fc1.weight"], 32, [48, 32]),
        (&block.up_bias, &[48], &["visual.blocks.0.mlp.fc1.bias"], 1, [48, 1]),
        (&block.down_weight, &[32, 48], &["visual.blocks.0.mlp.fc2.weight"], 42, [32, 48]),
        (
            &weights.vision.merger.fc2_weight,
            &[32, 128],
            &["visual.merger.mlp.2.weight"],
            128,
            [32, 128],
        ),
        (&layer.qkv_weight, &[96, 32], &[&qw, &kw, &vw], 32, [32, 32]),
        (&layer.qkv_bias, &[96], &[&qb, &kb, &vb], 1, [32, 1]),
        (&layer.gate_up_weight, &[64, 32], &[&gate, &up], 32, [32, 32]),
        (&layer.down_weight, &[32, 32], &[&down], 20, [32, 32]),
        (&weights.text.embed, &[32, 32], &[names::EMBED], 32, [32, 32]),
        (weights.text.head.as_ref().unwrap(), &[32, 32], &[names::HEAD], 32, [32, 32]),
    ];
    for (tensor, shape, parts, columns, padded) in cases {
        assert_eq!(tensor.shape, shape, "{}", tensor.name);
        assert_eq!(tensor.name, parts[0]);
        let expected = expected(&config, parts, columns, padded);
        assert_eq!(tensor.values, expected, "{}", tensor.name);
    }
}

#[test]
fn the_plan_is_what_is_prepared() {
    let config = config(json!(false));
    let mut bytes = 0;
    let count = |tensor: HostTensor<bf16>| -> Result<(), CheckpointError> {
        bytes += (u64::try_from(tensor.values.len()).unwrap() * 2).next_multiple_of(256);
        Ok(())
    };
    prepare(&config, &open(&stored(&config)), count).unwrap();
    // Stacked vectors share one buffer, so the plan may only be larger, by less than one alignment
    // for each part.
    let planned = planned_bytes(&config, FloatType::Bf16).unwrap().0;
    assert!((bytes..bytes + 4 * 256).contains(&planned), "{planned} planned, {bytes} prepared");
    let mut huge = config;
    huge.text.num_hidden_layers = usize::MAX;
    assert_eq!(planned_bytes(&huge, FloatType::Bf16), None);
}

#[test]
fn every_storage_type_gives_the_same_weights() {
    let config = config(json!(true));
    let single = stored(&config);
    let (expected, warnings) = host(&config, &single).unwrap();
    let all = names::expected(&config).count();
    assert_eq!(
        warnings,
        [LoadWarning::Converted { to: FloatType::Bf16, from: StoredType::F32, tensors: all }]
    );
    assert!(expected.text.head.is_none());
    for (dtype, from) in [("BF16", StoredType::Bf16), ("F16", StoredType::F16)] {
        let half = |word: &[u8; 4]| match from {
            StoredType::F16 => half::f16::from_f32(f32::from_le_bytes(*word)).to_le_bytes(),
            _ => bf16::from_f32(f32::from_le_bytes(*word)).to_le_bytes(),
        };
        let narrow: Stored = single
            .iter()
            .map(|(name, (_, shape, bytes))| {
                let bytes = bytes.as_chunks().0.iter().flat_map(half).collect();
                (name.clone(), (dtype, shape.clone(), bytes))
            })
            .collect();
        let (found, warnings) = host(&config, &narrow).unwrap();
        assert_eq!(found.text.embed, expected.text.embed, "{dtype}");
        assert_eq!(found.text.layers[0].down_weight, expected.text.layers[0].down_weight);
        assert_eq!(warnings.len(), usize::from(from == StoredType::F16), "{dtype}");
    }
}

#[test]
fn a_weight_too_large_for_bf16_is_named() {
    let config = config(json!(true));
    let mut stored = stored(&config);
    let down = stored.get_mut("model.layers.0.mlp.down_proj.weight").unwrap();
    down.2[400..404].copy_from_slice(&f32::MAX.to_le_bytes());
    let error = host(&config, &stored).unwrap_err();
    assert!(matches!(error, CheckpointError::TooLarge { index: 100, .. }), "{error}");
    let down = stored.get_mut("model.layers.0.mlp.down_proj.weight").unwrap();
    down.2[400..404].copy_from_slice(&f32::INFINITY.to_le_bytes());
    host(&config, &stored).unwrap();
}

#[test]
fn each_compute_type_gets_the_nearest_numbers() {
    const DOWN: &str = "model.layers.0.mlp.down_proj.weight";
    let config = config(json!(true));
    let mut stored = stored(&config);
    let number = f32::from_bits(0x3f80_1001);
    stored.get_mut(DOWN).unwrap().2[..4].copy_from_slice(&number.to_le_bytes());
    fn first<T: Float>(config: &ModelConfig, stored: &Stored) -> (T, usize) {
        let (set, warnings) =
            prepare::<T, _, _>(config, &open(stored), Ok::<_, CheckpointError>).unwrap();
        (set.text.layers[0].down_weight.values[0], warnings.len())
    }
    assert_eq!(first::<f32>(&config, &stored), (number, 0));
    assert_eq!(first::<bf16>(&config, &stored), (bf16::from_f32(number), 1));
    assert_eq!(first::<f16>(&config, &stored), (f16::from_f32(number), 1));
    // 65,520 is half a step past the largest f16: bf16 holds a neighbour of it, f16 nothing.
    stored.get_mut(DOWN).unwrap().2[4..8].copy_from_slice(&65_520f32.to_le_bytes());
    let load = prepare::<f16, _, _>(&config, &open(&stored), Ok::<_, CheckpointError>);
    let error = load.unwrap_err();
    let found = matches!(error, CheckpointError::TooLarge { index: 1, to: FloatType::F16, .. });
    assert!(found, "{error}");
}

#[test]
fn what_the_model_lacks_is_a_warning() {
    let config = config(json!(true));
    let mut stored = stored(&config);
    stored.insert("lm_head.weight".into(), ("F32", vec![1], vec![0; 4]));
    stored.insert("model.extra".into(), ("I64", vec![1], vec![0; 8]));
    let (_, warnings) = host(&config, &stored).unwrap();
    let codes: Vec<_> = warnings.iter().map(LoadWarning::code).collect();
    assert_eq!(codes, ["dtype_converted", "ignored_tensor", "ignored_tensor"]);
    assert!(matches!(warnings[1], LoadWarning::HeadIgnored { .. }));
}

#[test]
fn each_difference_from_the_configuration_is_found() {
    let config = config(json!(false));
    let mut stored = stored(&config);
    stored.remove("model.norm.weight");
    stored.get_mut("visual.merger.ln_q.bias").unwrap().1 = vec![16, 2];
    stored.insert("lm_head.weight".into(), ("I64", vec![21, 32], vec![0; 21 * 32 * 8]));
    let checkpoint = open(&stored);
    let problems = problems(&config, &checkpoint);
    assert!(
        matches!(
            problems[..],
            [
                CheckpointError::WrongShape { .. },
                CheckpointError::MissingTensor { .. },
                CheckpointError::WrongType { found: StoredType::I64, .. }
            ]
        ),
        "{problems:?}"
    );
    let first = prepare::<bf16, _, _>(&config, &checkpoint, Ok::<_, CheckpointError>).unwrap_err();
    assert_eq!(first.to_string(), problems[0].to_string());
}

#[test]
fn a_claim_of_endless_layers_ends_at_the_first_missing_tensor() {
    let small = config(json!(true));
    let checkpoint = open(&stored(&small));
    let mut huge = small;
    huge.text.num_hidden_layers = (1 << 31) - 1;
    let error = prepare::<bf16, _, _>(&huge, &checkpoint, Ok::<_, CheckpointError>).unwrap_err();
    assert!(error.to_string().ends_with("has no tensor model.layers.1.input_layernorm.weight"));
    assert_eq!(problems(&huge, &checkpoint).len(), MAX_PROBLEMS);
}
