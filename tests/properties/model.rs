//! Weight files, configurations and positions.

use std::{fs, path::Path};

use proptest::prelude::*;
use qwen2vl::{
    model::{
        checkpoint::TensorFile,
        config::ModelConfig,
        generation_config::GenerationConfig,
        positions::{self, Grids},
    },
    units::{GridThw, TokenId},
};
use serde_json::{Value, json};

/// A safetensors file of this header and so many bytes of data.
fn open(header: &str, data: usize) -> Result<TensorFile, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&length[..], header.as_bytes(), &vec![0; data]].concat()).unwrap();
    TensorFile::open(&path).map_err(|error| error.to_string())
}

/// Numbers that files lie with.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0_u64..200).prop_map(|n| json!(n)),
        prop::sample::select(vec![u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62, 1 << 33, 1 << 31])
            .prop_map(|n| json!(n)),
        (-5_i64..0).prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        Just(Value::Null),
    ]
}

/// Any value for a key of a configuration.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        number(),
        any::<bool>().prop_map(Value::Bool),
        prop::sample::select(vec!["mrope", "linear", "silu", "bfloat16", "", "full_attention"])
            .prop_map(|text| json!(text)),
        prop::collection::vec(number(), 0..4).prop_map(Value::Array),
        prop::collection::vec((key(), number()), 0..3)
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "type",
        "mrope_section",
        "layer_types",
        "use_sliding_window",
        "max_window_layers",
        "text_config",
        "vision_config",
        "embed_dim",
        "num_heads",
        "mlp_ratio",
        "patch_size",
        "depth",
        "dtype",
        "spatial_merge_size",
        "temporal_patch_size",
        "top_k",
        "top_p",
        "temperature",
        "eos_token_id",
        "repetition_penalty",
        "max_new_tokens",
        "num_beams",
        "hidden_act",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn tensors_that_tile_a_file_are_found_again(
        shapes in prop::collection::vec(prop::collection::vec(0_usize..5, 0..4), 0..6), spare in 0..2_usize,
    ) {
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (number, shape) in shapes.iter().enumerate() {
            let begin = end;
            end += 2 * shape.iter().product::<usize>();
            let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
            header.insert(format!("t{number}"), entry);
        }
        let file = open(&Value::Object(header).to_string(), end + spare);
        prop_assert_eq!(file.is_ok(), spare == 0);
        let Ok(file) = file else { return Ok(()) };
        for (number, shape) in shapes.iter().enumerate() {
            let tensor = file.tensor(&format!("t{number}")).unwrap();
            prop_assert_eq!(tensor.shape, &shape[..]);
            prop_assert_eq!(tensor.bytes.len(), 2 * shape.iter().product::<usize>());
        }
    }

    #[test]
    fn a_header_that_lies_is_an_error(
        shape in prop::collection::vec(number(), 0..4), offsets in prop::collection::vec(number(), 1..4),
        data in 0..200_usize,
    ) {
        let header = json!({"t": {"dtype": "F32", "shape": shape, "data_offsets": offsets}});
        if let Ok(file) = open(&header.to_string(), data) {
            let tensor = file.tensor("t").unwrap();
            prop_assert_eq!(tensor.bytes.len(), data);
            prop_assert_eq!(tensor.to_f32().unwrap().len() * 4, data);
        }
    }

    #[test]
    fn settings_are_read_or_refused(pairs in prop::collection::vec((key(), value()), 0..8)) {
        let mut settings: serde_json::Map<_, _> = pairs.into_iter().collect();
        settings.insert("model_type".into(), json!("qwen2_vl"));
        let text = Value::Object(settings).to_string();
        let file = Path::new("c.json");
        for error in [
            ModelConfig::parse(text.as_bytes(), file).map(drop).err(),
            GenerationConfig::parse(text.as_bytes(), file).map(drop).err(),
        ].into_iter().flatten() {
            prop_assert!(error.to_string().starts_with("c.json"), "{error}");
        }
    }

    #[test]
    fn positions_go_on_past_the_largest(
        parts in prop::collection::vec((0_usize..6, 1_usize..4, 1_usize..4), 0..5), tail in 0_usize..4,
    ) {
        let config = config();
        let (mut ids, mut grids, mut next) = (Vec::new(), Vec::new(), 0);
        for (text, rows, columns) in parts {
            ids.extend(vec![TokenId(1); text]);
            ids.push(config.tokens.start);
            ids.extend(vec![config.tokens.image; rows * columns]);
            ids.push(config.tokens.end);
            grids.push(GridThw { t: 1, h: 2 * rows, w: 2 * columns });
            next += text + 2 + rows.max(columns);
        }
        ids.extend(vec![TokenId(1); tail]);
        let grids = Grids { images: &grids, videos: &[], seconds: None };
        let placed = positions::sequence(&config, &ids, grids).unwrap();
        prop_assert_eq!(placed.len(), ids.len());
        prop_assert_eq!(usize::try_from(placed.next).unwrap(), next + tail);
        let largest = placed.axes.iter().flatten().max().map_or(0, |largest| largest + 1);
        prop_assert!(placed.next == largest);
        // A grid that lacks its placeholders, or the other way round, is an error.
        let fewer = Grids { images: grids.images.split_last().map_or(&[], |(_, rest)| rest), videos: &[], seconds: None };
        if !fewer.images.is_empty() {
            prop_assert!(positions::sequence(&config, &ids, fewer).is_err());
        }
        let text = vec![TokenId(1); ids.len()];
        prop_assert_eq!(positions::sequence(&config, &text, grids).is_err(), !grids.images.is_empty());
    }
}

fn config() -> ModelConfig {
    let json = json!({
        "model_type": "qwen2_vl", "hidden_size": 64, "num_attention_heads": 2,
        "num_key_value_heads": 1, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {"hidden_size": 64},
    });
    ModelConfig::parse(json.to_string().as_bytes(), Path::new("c.json")).unwrap()
}
