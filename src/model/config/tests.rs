//! Both layouts of `config.json`, and one line for each rule that refuses a file.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::units::Activation;

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
        rope_scaling: RopeScaling::Default,
        windows: vec![None, None],
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
        activation: Activation::QuickGelu,
        windowed: None,
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

/// docs/spec.md, section 1.5.
#[test]
fn windows_reach_the_layers_that_the_file_says() {
    let window = |size| Some(Tokens(size));
    let given = |edit: &dyn Fn(&mut Value)| {
        let mut config = with("num_hidden_layers", json!(4));
        config["use_sliding_window"] = json!(true);
        edit(&mut config);
        parse(&config).map(|config| config.text.windows)
    };
    let found = given(&|c| {
        c["max_window_layers"] = json!(2);
        c["sliding_window"] = json!(7);
    });
    assert_eq!(found.unwrap(), [None, None, window(7), window(7)]);
    // max_window_layers is 80 where the file does not say, the window 4096.
    assert_eq!(given(&|_| {}).unwrap(), [None; 4]);
    assert_eq!(given(&|c| c["max_window_layers"] = json!(3)).unwrap()[3], window(4096));
    let null = given(&|c| {
        c["max_window_layers"] = json!(0);
        c["sliding_window"] = Value::Null;
    });
    assert_eq!(null.unwrap(), [None; 4]);
    let types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"];
    let listed = given(&|c| {
        c["layer_types"] = json!(types);
        c["sliding_window"] = json!(5);
    });
    assert_eq!(listed.unwrap(), [window(5), None, None, window(5)]);
    let off = given(&|c| {
        c["layer_types"] = json!(types);
        c["use_sliding_window"] = json!(false);
    });
    assert!(off.unwrap_err().to_string().contains("a sliding layer needs"));
}

/// docs/spec.md, sections 1.4 and 10.
#[test]
fn every_rope_type_is_read_with_the_references_defaults() {
    let scaling = |object: Value, edit: &dyn Fn(&mut Value)| {
        let mut config = with("rope_scaling", object);
        config["rope_scaling"]["mrope_section"] = json!([16, 24, 24]);
        config["max_position_embeddings"] = json!(512);
        edit(&mut config);
        let config = parse(&config).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.warnings, []);
        config.text.rope_scaling
    };
    let plain = |object| scaling(object, &|_| {});
    assert_eq!(plain(json!({"rope_type": "mrope"})), RopeScaling::Default);
    // `type` wins over `rope_type`.
    let both = plain(json!({"type": "linear", "rope_type": "yarn", "factor": 2}));
    assert_eq!(both, RopeScaling::Linear { factor: 2.0 });
    let yarn = plain(json!({"rope_type": "yarn", "factor": 4, "beta_fast": 0}));
    let RopeScaling::Yarn { factor, attention, .. } = yarn else { panic!("{yarn:?}") };
    assert_eq!((factor, attention), (4.0, 1.138_629_436_111_989));
    let all = json!({"rope_type": "yarn", "factor": 4, "mscale": 0.5, "mscale_all_dim": 2,
        "truncate": false, "beta_slow": 2, "original_max_position_embeddings": 64});
    let RopeScaling::Yarn { attention, ramp: [low, high], .. } = plain(all) else { panic!() };
    assert_eq!(attention, (0.05 * 4f64.ln() + 1.0) / (0.2 * 4f64.ln() + 1.0));
    assert!(low == 0.0 && (high - 11.311_5).abs() < 1e-3, "{low} {high}");
    let list = |start: f64| (0..64).map(|j| start + f64::from(j)).collect::<Vec<_>>();
    let long = |extra: Value| {
        let mut object = json!({"rope_type": "longrope", "short_factor": list(1.0),
            "long_factor": list(2.0)});
        object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        object
    };
    let longrope = |scaling| match scaling {
        RopeScaling::Longrope { threshold, attention, .. } => (threshold, attention),
        other => panic!("{other:?}"),
    };
    assert_eq!(longrope(plain(long(json!({"factor": 4})))), (512, 1.105_541_596_785_133_4));
    assert_eq!(longrope(plain(long(json!({"attention_factor": 1.5})))), (512, 1.5));
    // Only the key outside of the object is a threshold.
    let inner = long(json!({"factor": 4, "original_max_position_embeddings": 64}));
    assert_eq!(longrope(plain(inner)).0, 512);
    let outer = scaling(long(json!({})), &|config| {
        config["original_max_position_embeddings"] = json!(128);
    });
    assert_eq!(longrope(outer), (128, (1.0 + 4f64.ln() / 128f64.ln()).sqrt()));
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
        ("num_hidden_layers", json!(65_537), "a model has at most 65,536 layers"),
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
        (
            "rope_scaling",
            json!({"type": "longrope", "short_factor": [1], "long_factor": [1], "factor": 2,
                "mrope_section": [16, 24, 24]}),
            "rope_scaling.short_factor = [1] and head_dim = 128, but it must have head_dim/2 entries",
        ),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": -2, "mrope_section": [16, 24, 24]}),
            "rope_scaling.factor = -2, but it must be positive",
        ),
        (
            "rope_scaling",
            json!({"type": "yarn", "factor": 2, "beta_fast": -1, "mrope_section": [16, 24, 24]}),
            "these numbers give no finite frequencies",
        ),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": 1e-60, "mrope_section": [16, 24, 24]}),
            "its numbers give frequencies that are not finite",
        ),
        (
            "rope_scaling",
            json!({"type": "llama3", "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4,
                "mrope_section": [16, 24, 24]}),
            "missing field rope_scaling.original_max_position_embeddings",
        ),
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
        ("model_type", json!("qwen3_vl"), "model_type"),
        ("quantization_config", json!({"bits": 4}), "quantization_config"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("vision_config.hidden_act", json!("laplace"), "vision_config.hidden_act"),
        ("num_attention_heads", json!(1), "num_attention_heads"),
        ("vision_config.num_heads", json!(1), "vision_config.num_heads"),
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
fn activations_of_the_tower_are_read_by_their_names() {
    for (name, activation) in [
        ("gelu", Activation::Gelu),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("swish", Activation::Silu),
        ("relu", Activation::Relu),
        ("linear", Activation::Linear),
    ] {
        let config = parse(&with("vision_config.hidden_act", json!(name))).unwrap();
        assert_eq!(config.vision.activation, activation, "{name}");
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

/// The settings of the published Qwen2.5-VL-3B that its tower depends on.
fn windowed(key: &str, value: Value) -> Result<ModelConfig, ConfigError> {
    let mut config = json!({
        "model_type": "qwen2_5_vl", "hidden_size": 2048, "num_attention_heads": 16,
        "num_key_value_heads": 2, "num_hidden_layers": 36, "intermediate_size": 11008,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 2048, "tokens_per_second": 2, "hidden_act": "silu"},
    });
    config["vision_config"][key] = value;
    ModelConfig::parse(config.to_string().as_bytes(), Path::new("c.json"))
}

#[test]
fn the_tower_of_qwen2_5_is_read_under_its_own_names() {
    let config = windowed("depth", json!(32)).unwrap();
    assert_eq!(config.family, Family::Qwen25Vl);
    let vision = &config.vision;
    assert_eq!((vision.embed_dim, vision.mlp_width, vision.hidden_size), (1280, 3420, 2048));
    let windowed = vision.windowed.as_ref().unwrap();
    assert_eq!(windowed.window, 4);
    assert_eq!(windowed.full_blocks, [7, 15, 23, 31]);
    assert_eq!(windowed.tokens_per_second, 2.0);
}

#[test]
fn bad_settings_of_windows_are_refused_by_key() {
    for (key, value) in [
        ("window_size", json!(27)),
        ("window_size", json!("wide")),
        ("fullatt_block_indexes", json!(7)),
        ("fullatt_block_indexes", json!([7, -1])),
        ("tokens_per_second", json!(-1)),
        ("hidden_act", json!("quick_gelu")),
        ("num_heads", json!(7)),
        ("out_hidden_size", json!(1280)),
    ] {
        let error = windowed(key, value.clone()).unwrap_err().to_string();
        assert!(error.contains(key), "{key} = {value}: {error}");
    }
    windowed("fullatt_block_indexes", json!([99])).unwrap();
}
