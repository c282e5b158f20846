//! Both layouts of `config.json`, and one line for each rule that refuses a file.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn parse(value: &Value) -> Result<ModelConfig, ConfigError> {
    ModelConfig::parse(value.to_string().as_bytes(), Path::new("c.json"))
}

/// A small model with flat text settings.
fn flat() -> Value {
    json!({
        "model_type": "qwen2_vl", "hidden_size": 256, "intermediate_size": 456, "vocab_size": 640,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6, "rope_theta": 10000, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "image_token_id": 622, "use_sliding_window": false,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {"depth": 3, "embed_dim": 160, "num_heads": 2, "hidden_size": 256,
            "mlp_ratio": 2.01, "in_chans": 3}
    })
}

/// `flat` with one value set; `path` is a key, or two with a dot between them.
fn with(path: &str, value: Value) -> Value {
    let mut config = flat();
    match path.split_once('.') {
        Some((outer, key)) => config[outer][key] = value,
        None => config[path] = value,
    }
    config
}

#[test]
fn the_flat_layout_is_read() {
    let config = parse(&flat()).unwrap();
    let text = TextConfig {
        vocab_size: 640,
        hidden_size: 256,
        intermediate_size: 456,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 128,
        max_position_embeddings: 32_768,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        rope_theta: 10_000.0,
        mrope_section: [16, 24, 24],
    };
    let vision = VisionConfig {
        depth: 3,
        embed_dim: 160,
        num_heads: 2,
        head_dim: 80,
        mlp_width: 321,
        hidden_size: 256,
        in_channels: 3,
        patch_size: 14,
        spatial_merge_size: 2,
        temporal_patch_size: 2,
        patch_width: 1176,
        merged_width: 640,
    };
    let tokens = VisionTokens {
        image: TokenId(622),
        video: TokenId(151_656),
        start: TokenId(151_652),
        end: TokenId(151_653),
    };
    assert_eq!((config.text, config.vision, config.tokens), (text, vision, tokens));
    assert_eq!((config.stored_type, config.warnings), (Some(FloatType::Bf16), vec![]));
}

#[test]
fn absent_fields_have_the_class_defaults() {
    let config = parse(&json!({
        "model_type": "qwen2_vl", "vision_config": {"hidden_size": 8192},
        "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}
    }))
    .unwrap();
    let text = &config.text;
    assert_eq!(
        (text.vocab_size, text.hidden_size, text.intermediate_size),
        (152_064, 8192, 29_568)
    );
    assert_eq!((text.num_hidden_layers, text.num_key_value_heads), (80, 8));
    assert_eq!((text.rms_norm_eps, text.rope_theta), (1e-5, 1e6));
    assert!(!text.tie_word_embeddings);
    let vision = &config.vision;
    assert_eq!((vision.depth, vision.embed_dim, vision.mlp_width), (32, 1280, 5120));
}

#[test]
fn in_the_nested_layout_the_inner_settings_alone_count() {
    let mut config = flat();
    let mut inner = flat();
    let inner = inner.as_object_mut().unwrap();
    inner.remove("tie_word_embeddings");
    inner.remove("image_token_id");
    inner.insert("video_token_id".into(), json!(7));
    inner.insert("vocab_size".into(), json!(648));
    config["text_config"] = Value::Object(inner.clone());
    let config = parse(&config).unwrap();
    assert!(!config.text.tie_word_embeddings, "the outer flag is ignored");
    assert_eq!(config.text.vocab_size, 648);
    assert_eq!((config.tokens.image, config.tokens.video), (TokenId(622), TokenId(7)));
    let null = parse(&with("text_config", Value::Null)).unwrap();
    assert_eq!(null, parse(&flat()).unwrap());
}

#[test]
fn null_key_value_heads_are_the_query_heads() {
    let config = parse(&with("num_key_value_heads", Value::Null)).unwrap();
    assert_eq!(config.text.num_key_value_heads, 2);
}

#[test]
fn later_rope_parameters_hold_the_base() {
    let mut config = flat();
    config.as_object_mut().unwrap().remove("rope_scaling");
    config["rope_parameters"] =
        json!({"rope_type": "mrope", "rope_theta": 5e5, "mrope_section": [16, 24, 24]});
    let config = parse(&config).unwrap();
    assert_eq!((config.text.rope_theta, config.warnings), (5e5, vec![]));
}

#[test]
fn a_window_that_reaches_no_layer_is_accepted() {
    let mut config = with("use_sliding_window", json!(true));
    config["max_window_layers"] = json!(2);
    parse(&config).unwrap();
    config["max_window_layers"] = json!(1);
    assert_eq!(parse(&config).unwrap_err().code(), "unsupported");
    config["sliding_window"] = Value::Null;
    parse(&config).unwrap();
}

#[test]
fn an_unknown_rope_key_is_a_warning() {
    let config = parse(&with("rope_scaling.colour", json!(1))).unwrap();
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["c.json: unknown key rope_scaling.colour has no effect"]);
}

#[test]
fn a_bad_value_is_named() {
    let cases = [
        ("model_type", json!(null), "missing field model_type"),
        ("hidden_size", json!(255), "hidden_size must be divisible by num_attention_heads"),
        ("hidden_size", json!(-1), "hidden_size = -1, but must be an integer"),
        ("hidden_size", json!(256.5), "hidden_size = 256.5, but must be an integer"),
        ("hidden_size", json!(1u64 << 40), "hidden_size = 1099511627776, but must be an integer"),
        ("hidden_size", json!(null), "hidden_size = null, but must be a positive integer"),
        ("vocab_size", json!("640"), "vocab_size = \"640\", but must be an integer"),
        ("num_key_value_heads", json!(3), "must be a multiple of num_key_value_heads"),
        ("num_key_value_heads", json!(0), "num_key_value_heads = 0"),
        ("head_dim", json!(64), "head_dim = 64 and hidden_size / num_attention_heads = 128"),
        ("rms_norm_eps", json!(-1e-6), "rms_norm_eps = -1e-6, but it must lie between 0 and 1"),
        ("tie_word_embeddings", json!(1), "tie_word_embeddings = 1, but must be true or false"),
        ("torch_dtype", json!("int8"), "it must be float32, bfloat16 or float16"),
        ("image_token_id", json!(-1), "image_token_id = -1, but must be a token id"),
        ("rope_scaling", json!(null), "missing field rope_scaling"),
        ("rope_scaling", json!([]), "rope_scaling = [], but must be an object"),
        ("rope_scaling", json!({"mrope_section": [16, 24, 24]}), "field rope_scaling.rope_type"),
        ("rope_scaling", json!({"type": "linear"}), "missing field rope_scaling.factor"),
        ("rope_scaling", json!({"type": "mrope"}), "missing field rope_scaling.mrope_section"),
        ("rope_scaling.type", json!("ntk"), "it is an unsupported rope_type"),
        ("rope_scaling.mrope_section", json!([16, 24]), "must be a list of three counts"),
        ("rope_scaling.mrope_section", json!([16, 24, 25]), "must sum to head_dim/2"),
        ("rope_theta", json!(0), "rope_theta = 0, but it must be a positive number"),
        ("layer_types", json!(["full_attention"]), "one entry for each layer"),
        ("layer_types", json!(["full_attention", "linear_attention"]), "unknown layer type"),
        ("vision_config", json!(3), "vision_config = 3, but must be an object"),
        ("vision_config.hidden_size", json!(128), "must have one width"),
        ("vision_config.in_channels", json!(1), "pictures have 3 channels"),
        ("vision_config.num_heads", json!(3), "embed_dim must be divisible by num_heads"),
        ("vision_config.mlp_ratio", json!(1e300), "embed_dim * mlp_ratio must be a width"),
        ("vision_config.patch_size", json!(65_536), "a patch row is too wide"),
        ("vision_config.spatial_merge_size", json!(65_536), "a merged row is too wide"),
    ];
    for (path, value, message) in cases {
        let error = parse(&with(path, value)).unwrap_err();
        assert!(error.to_string().contains(message), "{path}: {error}");
        assert!(error.to_string().starts_with("c.json: "), "{error}");
        assert_eq!(error.code(), "checkpoint_invalid", "{path}: {error}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_key() {
    let cases = [
        ("model_type", json!("qwen2_5_vl"), "model_type"),
        ("quantization_config", json!({"bits": 4}), "quantization_config"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("vision_config.hidden_act", json!("silu"), "vision_config.hidden_act"),
        ("num_attention_heads", json!(1), "num_attention_heads"),
        ("vision_config.num_heads", json!(1), "vision_config.num_heads"),
        ("rope_scaling", json!({"type": "linear", "factor": 2}), "rope_scaling.type"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "layer_types"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
    ];
    for (path, value, key) in cases {
        match parse(&with(path, value)).unwrap_err() {
            ConfigError::Unsupported { key: found, .. } => assert_eq!(found, key),
            other => panic!("{path}: {other}"),
        }
    }
}

#[test]
fn a_window_of_no_tokens_is_refused() {
    let mut config = with("use_sliding_window", json!(true));
    config["sliding_window"] = json!(0);
    let error = parse(&config).unwrap_err().to_string();
    assert_eq!(error, "c.json: sliding_window = 0, but sliding_window must be positive");
}

#[test]
fn text_that_is_no_object_is_refused() {
    for (json, message) in [
        ("[]", "c.json must hold a JSON object"),
        ("{\"rope_theta\": NaN}", "c.json is not valid JSON"),
        ("{\"hidden_size\": 1", "c.json is not valid JSON"),
        ("", "c.json is not valid JSON"),
    ] {
        let error = ModelConfig::parse(json.as_bytes(), Path::new("c.json")).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
