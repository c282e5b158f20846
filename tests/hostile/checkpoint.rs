//! Broken checkpoints, each made from a good one: a typed error in the library, and through the
//! program a message, the exit status of a bad checkpoint, and never a panic.

use std::{fs, path::Path};

use half::bf16;
use qwen2vl::model::{
    checkpoint::{Checkpoint, CheckpointError},
    config::ModelConfig,
    weights::prepare,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    program::{self, CHECKPOINT, INPUT, USAGE},
    support::checkpoint::{frame, model_folder},
};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// A change that breaks a folder.
type Break = Box<dyn FnOnce(&Path)>;

/// A good model; `shards` files.
fn good(shards: usize) -> TempDir {
    let config = json!({
        "model_type": "qwen2_vl", "hidden_size": 64, "intermediate_size": 40, "vocab_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "tie_word_embeddings": false, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {"depth": 1, "embed_dim": 32, "num_heads": 1, "hidden_size": 64,
            "mlp_ratio": 2}
    });
    let weights = json!({"seed": 1, "dtype": "BF16", "shards": shards});
    model_folder(&json!({"config": config, "weights": weights}))
}

/// Opens and loads a folder; the error that stops it.
fn load(folder: &Path) -> Result<(), CheckpointError> {
    let config = ModelConfig::load(folder).unwrap();
    let checkpoint = Checkpoint::open(folder)?;
    prepare::<bf16, _, _>(&config, &checkpoint, Ok::<_, CheckpointError>).map(drop)
}

/// The header's JSON and the data of a safetensors file.
fn split(content: &[u8]) -> (Value, Vec<u8>) {
    let length = usize::try_from(u64::from_le_bytes(content[..8].try_into().unwrap())).unwrap();
    let header = serde_json::from_slice(&content[8..8 + length]).unwrap();
    (header, content[8 + length..].to_vec())
}

/// Replaces the header of the single weight file by what `change` makes of it.
fn change_header(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join(WEIGHTS);
    let (mut header, data) = split(&fs::read(&path).unwrap());
    change(&mut header);
    fs::write(path, [frame(&header.to_string()), data].concat()).unwrap();
}

fn change_index(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join(INDEX);
    let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

/// Puts `content` in place of the weight file.
fn weights_of(content: &[u8]) -> Break {
    let content = content.to_vec();
    Box::new(move |folder| fs::write(folder.join(WEIGHTS), content).unwrap())
}

#[test]
fn the_unbroken_folders_load() {
    for shards in [1, 2] {
        let folder = good(shards);
        load(folder.path()).unwrap();
        program::run(&["inspect"], folder.path()).assert_status(0);
    }
}

fn cut(bytes: usize) -> Break {
    Box::new(move |folder| {
        let content = fs::read(folder.join(WEIGHTS)).unwrap();
        fs::write(folder.join(WEIGHTS), &content[..content.len() - bytes]).unwrap();
    })
}

fn entry(name: &'static str, key: &'static str, value: Value) -> Break {
    Box::new(move |folder| change_header(folder, |header| header[name][key] = value))
}

const NORM: &str = "model.norm.weight";

#[test]
fn a_broken_weight_file_is_a_typed_error() {
    let huge_length = u64::MAX.to_le_bytes();
    let past_end = 99_999_999u64.to_le_bytes();
    let duplicate =
        format!(r#"{{"a":{0},"a":{0}}}"#, r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#);
    let many = json!({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]});
    let many: Value = (0..100_001).map(|i| (i.to_string(), many.clone())).collect();
    let cases: Vec<(&str, Break, &str)> = vec![
        ("empty", weights_of(b""), "TooShort"),
        ("seven bytes", weights_of(&[0; 7]), "TooShort"),
        ("header past the end", weights_of(&[&past_end[..], b"{}"].concat()), "HeaderPastEnd"),
        ("header of 2^64 bytes", weights_of(&[&huge_length[..], b"{}"].concat()), "HeaderTooLong"),
        ("header of no bytes", weights_of(&[0; 8]), "Header {"),
        ("header that is no JSON", weights_of(&frame("hello")), "Header {"),
        ("header that is a list", weights_of(&frame("[]")), "Header {"),
        ("header that is not UTF-8", weights_of(&[1, 0, 0, 0, 0, 0, 0, 0, 255]), "Header {"),
        ("deep JSON", weights_of(&frame(&"[".repeat(100_000))), "Header {"),
        ("a name twice", weights_of(&frame(&duplicate)), "Duplicate"),
        ("too many tensors", weights_of(&frame(&many.to_string())), "TooManyTensors"),
        ("one byte missing", cut(1), "Offsets"),
        (
            "all data missing",
            Box::new(|folder: &Path| {
                let (header, _) = split(&fs::read(folder.join(WEIGHTS)).unwrap());
                fs::write(folder.join(WEIGHTS), frame(&header.to_string())).unwrap();
            }),
            "Offsets",
        ),
        (
            "bytes behind the last tensor",
            Box::new(|folder: &Path| {
                let content = fs::read(folder.join(WEIGHTS)).unwrap();
                fs::write(folder.join(WEIGHTS), [&content[..], b"x"].concat()).unwrap();
            }),
            "Gap",
        ),
        ("an offset past the end", entry(NORM, "data_offsets", json!([0, u64::MAX])), "Offsets"),
        ("offsets that run backwards", entry(NORM, "data_offsets", json!([128, 0])), "Offsets"),
        ("a negative offset", entry(NORM, "data_offsets", json!([-1, 127])), "Header {"),
        ("a fractional side", entry(NORM, "shape", json!([64.5])), "Header {"),
        ("one offset", entry(NORM, "data_offsets", json!([0])), "Header {"),
        ("no shape", entry(NORM, "shape", Value::Null), "Header {"),
        ("overlapping offsets", entry(NORM, "data_offsets", json!([0, 128])), "Overlap"),
        (
            "a tensor removed",
            Box::new(|folder: &Path| {
                change_header(folder, |header| {
                    drop(header.as_object_mut().unwrap().shift_remove(NORM))
                });
            }),
            "Gap",
        ),
        ("an absurd shape", entry(NORM, "shape", json!([u64::MAX, u64::MAX])), "ShapeOverflow"),
        (
            "a shape that wraps to the size",
            entry(NORM, "shape", json!([64, 1u64 << 60, 16])),
            "ShapeOverflow",
        ),
        ("a shape of another size", entry(NORM, "shape", json!([65])), "Size"),
        (
            "a name that clears the screen",
            weights_of(&frame(
                r#"{"\u001b[2J": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}"#,
            )),
            "Name {",
        ),
        ("an unknown type", entry(NORM, "dtype", json!("BF17")), "UnknownType"),
        ("a type of another size", entry(NORM, "dtype", json!("F32")), "Size"),
        ("a type that is no float", entry(NORM, "dtype", json!("I16")), "WrongType"),
        ("a wrong shape", entry(NORM, "shape", json!([8, 8])), "WrongShape"),
        (
            "a missing tensor",
            Box::new(|folder: &Path| {
                change_header(folder, |header| {
                    let norm = header.as_object_mut().unwrap().shift_remove(NORM).unwrap();
                    header["other"] = norm;
                });
            }),
            "MissingTensor",
        ),
        (
            "one tensor under both naming schemes",
            Box::new(|folder: &Path| {
                change_header(folder, |header| {
                    header["language_model.norm.weight"] =
                        json!({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]});
                });
            }),
            "Duplicate",
        ),
        (
            "a folder in place of the file",
            Box::new(|folder: &Path| {
                fs::remove_file(folder.join(WEIGHTS)).unwrap();
                fs::create_dir(folder.join(WEIGHTS)).unwrap();
            }),
            "NotAFile",
        ),
        (
            "no weights at all",
            Box::new(|folder: &Path| {
                fs::remove_file(folder.join(WEIGHTS)).unwrap();
            }),
            "NoWeights",
        ),
    ];
    for (label, change, variant) in cases {
        check(label, good(1), change, variant);
    }
}

#[test]
fn a_broken_index_is_a_typed_error() {
    fn text(content: &'static str) -> Break {
        Box::new(move |folder| fs::write(folder.join(INDEX), content).unwrap())
    }
    fn place(tensor: &'static str, shard: &'static str) -> Break {
        Box::new(move |folder| {
            change_index(folder, |index| index["weight_map"][tensor] = json!(shard));
        })
    }
    let cases: Vec<(&str, Break, &str)> = vec![
        ("no JSON", text("{"), "Index {"),
        ("no map", text("{}"), "Index {"),
        ("a map of numbers", text(r#"{"weight_map": {"a": 1}}"#), "Index {"),
        ("a tensor named twice", text(r#"{"weight_map": {"a": "b", "a": "b"}}"#), "Duplicate"),
        ("a parent folder", place(NORM, "../model.safetensors"), "ShardName"),
        ("an absolute path", place(NORM, "/etc/passwd"), "ShardName"),
        ("a path of another system", place(NORM, r"..\model.safetensors"), "ShardName"),
        ("no name", place(NORM, ""), "ShardName"),
        ("a name that clears the screen", place(NORM, "\u{1b}[2J"), "ShardName"),
        ("a tensor that clears the screen", place("\u{1b}[2J", SHARDS[0]), "Name {"),
        ("the folder itself", place(NORM, ".."), "ShardName"),
        ("a shard that is not there", place(NORM, "model-3.safetensors"), "MissingShard"),
        ("a tensor in another shard", place(NORM, SHARDS[0]), "NotInShard"),
        ("a tensor in no shard", place("model.other", SHARDS[0]), "NotInShard"),
        (
            "a tensor in both shards",
            Box::new(|folder: &Path| {
                fs::copy(folder.join(SHARDS[0]), folder.join("copy.safetensors")).unwrap();
                change_index(folder, |index| {
                    index["weight_map"]["visual.merger.ln_q.weight"] = json!("copy.safetensors");
                });
            }),
            "Duplicate",
        ),
        (
            "too many shards",
            Box::new(|folder: &Path| {
                let map: Value = (0..1001).map(|i| (i.to_string(), json!(i.to_string()))).collect();
                change_index(folder, |index| index["weight_map"] = map);
            }),
            "TooManyShards",
        ),
        (
            "a cut shard",
            Box::new(|folder: &Path| {
                let path = folder.join(SHARDS[1]);
                let content = fs::read(&path).unwrap();
                fs::write(path, &content[..content.len() / 2]).unwrap();
            }),
            "Offsets",
        ),
    ];
    for (label, change, variant) in cases {
        check(label, good(2), change, variant);
    }
}

/// Breaks a folder; the library must give `variant` and the program status 4 with a message.
fn check(label: &str, folder: TempDir, change: Break, variant: &str) {
    change(folder.path());
    let error = load(folder.path()).expect_err(label);
    assert!(format!("{error:?}").starts_with(variant), "{label}: {error:?}");
    assert_eq!(error.code(), "checkpoint_invalid", "{label}");
    let done = program::run(&["inspect"], folder.path());
    done.assert_status(CHECKPOINT);
    assert!(!done.said().trim().is_empty(), "{label}: no message");
}

#[test]
fn a_broken_configuration_has_its_status_and_names_the_file() {
    let deep = "[".repeat(100_000);
    let cases: Vec<(&str, String, u8, &str)> = vec![
        ("NaN", r#"{"model_type": "qwen2_vl", "rope_theta": NaN}"#.into(), CHECKPOINT, "JSON"),
        ("cut", r#"{"model_type": "qwen2_vl""#.into(), CHECKPOINT, "JSON"),
        ("empty", String::new(), CHECKPOINT, "JSON"),
        ("a list", "[1]".into(), CHECKPOINT, "object"),
        ("deep", deep, CHECKPOINT, "JSON"),
        ("no model type", "{}".into(), CHECKPOINT, "model_type"),
        ("another model", r#"{"model_type": "llama"}"#.into(), USAGE, "model_type"),
        ("no rotary settings", r#"{"model_type": "qwen2_vl"}"#.into(), CHECKPOINT, "rope_scaling"),
    ];
    for (label, content, status, word) in cases {
        let folder = good(1);
        fs::write(folder.path().join("config.json"), content).unwrap();
        let done = program::run(&["inspect"], folder.path());
        done.assert_status(status);
        assert!(done.said().contains("config.json"), "{label}: {}", done.said());
        assert!(done.said().contains(word), "{label}: {}", done.said());
    }
    let folder = good(1);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    program::run(&["inspect"], folder.path()).assert_status(INPUT);
}

#[test]
fn a_setting_of_generation_that_is_not_built_is_refused() {
    let folder = good(1);
    let path = folder.path().join("generation_config.json");
    fs::write(path, r#"{"guidance_scale": 4.0}"#).unwrap();
    let done = program::run(&["inspect"], folder.path());
    done.assert_status(USAGE);
    assert!(done.said().contains("guidance_scale = 4.0 is not supported"), "{}", done.said());
}

/// Every single byte of the header changed, to a few values: an error or a good load, no panic.
#[test]
fn flipped_bytes_of_the_header_never_panic() {
    let folder = good(1);
    let path = folder.path().join(WEIGHTS);
    let content = fs::read(&path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(content[..8].try_into().unwrap())).unwrap();
    let (mut refused, mut loaded) = (0, 0);
    for position in 0..8 + length.min(600) {
        for value in [0, b'9', b'"', 255] {
            let mut broken = content.clone();
            broken[position] = value;
            fs::write(&path, &broken).unwrap();
            match load(folder.path()) {
                Ok(()) => loaded += 1,
                Err(_) => refused += 1,
            }
        }
    }
    // A few changes give the byte that was there, or another name for metadata that nobody reads.
    assert!(refused > 20 * loaded, "{refused} refused, {loaded} loaded");
}
