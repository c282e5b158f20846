//! Checkpoints made by the goldens' recipe: every weight is a function of seed, name and index.
//!
//! The recipe is that of `tools/goldens/recipe.py`; names and shapes are written down here a second
//! time on purpose, so that the library is not asked for what it should find.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
/// Elements made and written at a time.
const CHUNK: usize = 1 << 20;

/// Folder of the golden vectors.
pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/goldens")
}

/// `cases.json` of a kind of goldens.
pub fn golden_cases(kind: &str) -> Value {
    let path = goldens().join(kind).join("cases.json");
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Cases of a kind that are not built yet, each with its reason (`not_yet.json`). A test must run
/// or find here every case of its kind, and nothing here that it runs.
pub fn not_yet(kind: &str) -> BTreeMap<String, String> {
    let path = goldens().join("not_yet.json");
    let mut kinds: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    kinds.remove(kind).unwrap_or_default()
}

fn fnv1a64(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn mix64(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn key(seed: u64, name: &str) -> u64 {
    mix64(fnv1a64(name.as_bytes()) ^ mix64(seed))
}

/// Element `i` of the unit sequence of a key, in [-1, 1).
fn unit(key: u64, i: usize) -> f32 {
    let word = mix64(key.wrapping_add((i as u64 + 1).wrapping_mul(GAMMA)));
    (word >> 40) as f32 * (-23f32).exp2() - 1.0
}

/// (scale, offset) of a weight.
fn scale_of(name: &str, shape: &[usize]) -> (f32, f32) {
    if name.ends_with(".bias") {
        return (0.1, 0.0);
    }
    if shape.len() == 1 {
        return (0.25, 1.0);
    }
    if name == "model.embed_tokens.weight" {
        return (0.25, 0.0);
    }
    let fan_in: usize = shape[1..].iter().product();
    let gain = match name {
        "lm_head.weight" => 4.0,
        _ if name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight") => 1.5,
        _ if name.ends_with("attn.qkv.weight") => 1.25,
        _ => 1.0,
    };
    ((gain * (3.0 / fan_in as f64).sqrt()) as f32, 0.0)
}

/// Elements `range` of a weight with its published name.
pub fn weight(seed: u64, name: &str, shape: &[usize], range: std::ops::Range<usize>) -> Vec<f32> {
    let (scale, offset) = scale_of(name, shape);
    let key = key(seed, name);
    // With offset 0 the sum would turn -0 into 0.
    let value =
        |i| if offset == 0.0 { scale * unit(key, i) } else { scale * unit(key, i) + offset };
    range.map(value).collect()
}

/// Published name and shape of each tensor, in the order of the files, from `config.json`.
pub fn weight_shapes(config: &Value) -> Vec<(String, Vec<usize>)> {
    let mut text = config.as_object().unwrap().clone();
    text.extend(config["text_config"].as_object().cloned().unwrap_or_default());
    let vision = config["vision_config"].as_object().unwrap();
    let of = |map: &Map<String, Value>, key: &str, default: Option<u64>| -> usize {
        let value = map.get(key).map_or(default, Value::as_u64);
        value.unwrap_or_else(|| panic!("config has no count {key}")) as usize
    };
    let mut shapes = Vec::new();
    let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
    let windowed = config["model_type"] == "qwen2_5_vl";
    let (width, out) =
        if windowed { ("hidden_size", "out_hidden_size") } else { ("embed_dim", "hidden_size") };
    let (e, out) = (of(vision, width, None), of(vision, out, None));
    let f = match windowed {
        true => of(vision, "intermediate_size", None),
        false => (e as f64 * vision["mlp_ratio"].as_f64().unwrap()) as usize,
    };
    let (p, m) = (of(vision, "patch_size", Some(14)), of(vision, "spatial_merge_size", Some(2)));
    let frames = of(vision, "temporal_patch_size", Some(2));
    add("visual.patch_embed.proj.weight".into(), &[e, 3, frames, p, p]);
    for i in 0..of(vision, "depth", None) {
        let name = |tensor: &str| format!("visual.blocks.{i}.{tensor}");
        for norm in ["norm1", "norm2"] {
            add(name(&format!("{norm}.weight")), &[e]);
            if !windowed {
                add(name(&format!("{norm}.bias")), &[e]);
            }
        }
        let attention = [("attn.qkv", 3 * e, e), ("attn.proj", e, e)];
        let feed_forward = match windowed {
            true => vec![("mlp.gate_proj", f, e), ("mlp.up_proj", f, e), ("mlp.down_proj", e, f)],
            false => vec![("mlp.fc1", f, e), ("mlp.fc2", e, f)],
        };
        for (layer, rows, columns) in attention.into_iter().chain(feed_forward) {
            add(name(&format!("{layer}.weight")), &[rows, columns]);
            add(name(&format!("{layer}.bias")), &[rows]);
        }
    }
    let c = e * m * m;
    add("visual.merger.ln_q.weight".into(), &[e]);
    if !windowed {
        add("visual.merger.ln_q.bias".into(), &[e]);
    }
    for (layer, rows) in [("mlp.0", c), ("mlp.2", out)] {
        add(format!("visual.merger.{layer}.weight"), &[rows, c]);
        add(format!("visual.merger.{layer}.bias"), &[rows]);
    }
    let (h, f) = (of(&text, "hidden_size", None), of(&text, "intermediate_size", None));
    let heads = of(&text, "num_attention_heads", None);
    let kv = of(&text, "num_key_value_heads", None) * (h / heads);
    let vocab = of(&text, "vocab_size", None);
    add("model.embed_tokens.weight".into(), &[vocab, h]);
    for i in 0..of(&text, "num_hidden_layers", None) {
        let name = |tensor: &str| format!("model.layers.{i}.{tensor}");
        add(name("input_layernorm.weight"), &[h]);
        for (part, rows) in [("q", h), ("k", kv), ("v", kv)] {
            add(name(&format!("self_attn.{part}_proj.weight")), &[rows, h]);
            add(name(&format!("self_attn.{part}_proj.bias")), &[rows]);
        }
        add(name("self_attn.o_proj.weight"), &[h, h]);
        add(name("post_attention_layernorm.weight"), &[h]);
        add(name("mlp.gate_proj.weight"), &[f, h]);
        add(name("mlp.up_proj.weight"), &[f, h]);
        add(name("mlp.down_proj.weight"), &[h, f]);
    }
    add("model.norm.weight".into(), &[h]);
    if config["tie_word_embeddings"] != true {
        add("lm_head.weight".into(), &[vocab, h]);
    }
    shapes
}

/// The name that files of later library versions use.
fn nested_name(name: &str) -> String {
    match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None if name.starts_with("visual.") => format!("model.{name}"),
        None => name.to_owned(),
    }
}

/// Values as the little-endian bytes of a storage type.
pub fn encode(values: &[f32], dtype: &str) -> Vec<u8> {
    match dtype {
        "F32" => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        "BF16" => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        "F16" => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        _ => panic!("no storage type {dtype}"),
    }
}

/// The first bytes of a safetensors file: length and header; entries are (name, type, shape).
pub fn header(tensors: &[(String, &str, Vec<usize>)]) -> Vec<u8> {
    let mut entries = Map::new();
    let mut offset = 0;
    for (name, dtype, shape) in tensors {
        let width = match *dtype {
            "I64" => 8,
            "F32" | "I32" => 4,
            _ => 2,
        };
        let end = offset + shape.iter().product::<usize>() * width;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
        entries.insert(name.clone(), entry);
        offset = end;
    }
    frame(&Value::Object(entries).to_string())
}

/// Length and text of a header, padded with spaces as writers do.
pub fn frame(json: &str) -> Vec<u8> {
    let mut text = json.as_bytes().to_vec();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

/// Writes a safetensors file of (name, type, shape, bytes).
pub fn write_safetensors(path: &Path, tensors: &[(String, &str, Vec<usize>, Vec<u8>)]) {
    let entries: Vec<_> = tensors.iter().map(|(n, d, s, _)| (n.clone(), *d, s.clone())).collect();
    let mut content = header(&entries);
    tensors.iter().for_each(|(_, _, _, bytes)| content.extend(bytes));
    fs::write(path, content).unwrap();
}

/// Makes the checkpoint folder of a model spec (see the goldens' description of specs).
pub fn write_model(spec: &Value, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let stub = || serde_json::from_slice(&fs::read(goldens().join("stub_config.json")).unwrap());
    let config = match &spec["config"] {
        Value::String(name) if name == "stub" => stub().unwrap(),
        config => config.clone(),
    };
    let write = |name: &str, value: &Value| {
        fs::write(folder.join(name), value.to_string()).unwrap();
    };
    write("config.json", &config);
    for name in ["generation_config", "preprocessor_config"] {
        if spec[name].as_object().is_some_and(|object| !object.is_empty()) {
            write(&format!("{name}.json"), &spec[name]);
        }
    }
    if let Some(tokenizer) = spec["tokenizer"].as_str() {
        for entry in fs::read_dir(goldens().join(tokenizer)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
    if !spec["weights"].is_null() {
        write_weights(&config, &spec["weights"], folder);
    }
}

/// A model spec's folder that is removed with the value.
pub fn model_folder(spec: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(spec, folder.path());
    folder
}

fn write_weights(config: &Value, weights: &Value, folder: &Path) {
    let seed = weights["seed"].as_u64().unwrap();
    let dtype = weights["dtype"].as_str().unwrap();
    let shards = weights["shards"].as_u64().unwrap_or(1) as usize;
    let nested = weights["names"] == "nested";
    let stored = |name: &str| if nested { nested_name(name) } else { name.to_owned() };
    let shapes = weight_shapes(config);
    let mut placed = Map::new();
    for shard in 0..shards {
        let part = &shapes[shard * shapes.len() / shards..(shard + 1) * shapes.len() / shards];
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
        };
        let entries: Vec<_> =
            part.iter().map(|(name, shape)| (stored(name), dtype, shape.clone())).collect();
        let mut out = BufWriter::new(fs::File::create(folder.join(&file)).unwrap());
        out.write_all(&header(&entries)).unwrap();
        for (name, shape) in part {
            let total: usize = shape.iter().product();
            for start in (0..total).step_by(CHUNK) {
                let values = weight(seed, name, shape, start..total.min(start + CHUNK));
                out.write_all(&encode(&values, dtype)).unwrap();
            }
            placed.insert(stored(name), Value::String(file.clone()));
        }
        out.flush().unwrap();
    }
    if shards > 1 {
        let index = json!({ "metadata": {}, "weight_map": placed });
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

/// Tensors of an input spec: `ids` are I64, `f32` and `recipe` F32; (name, type, shape, bytes).
pub fn input_tensors(spec: &Value) -> Vec<(String, &'static str, Vec<usize>, Vec<u8>)> {
    spec.as_object().unwrap().iter().map(|(name, spec)| input_tensor(name, spec)).collect()
}

fn input_tensor(name: &str, spec: &Value) -> (String, &'static str, Vec<usize>, Vec<u8>) {
    let name = name.to_owned();
    if let Some(recipe) = spec.get("recipe") {
        let seeded = key(recipe["seed"].as_u64().unwrap(), recipe["name"].as_str().unwrap());
        let shape: Vec<usize> = serde_json::from_value(recipe["shape"].clone()).unwrap();
        let scale = recipe["scale"].as_f64().unwrap() as f32;
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| scale * unit(seeded, i)).collect();
        return (name, "F32", shape, encode(&values, "F32"));
    }
    let (dtype, nested) = match spec.get("f32") {
        Some(values) => ("F32", values),
        None => ("I64", &spec["ids"]),
    };
    let mut shape = Vec::new();
    let mut inner = nested;
    while let Value::Array(list) = inner {
        shape.push(list.len());
        inner = list.first().unwrap_or(&Value::Null);
    }
    let mut bytes = Vec::new();
    flatten(nested, &mut |value| match dtype {
        "F32" => bytes.extend((value.as_f64().unwrap() as f32).to_le_bytes()),
        _ => bytes.extend(value.as_i64().unwrap().to_le_bytes()),
    });
    (name, dtype, shape, bytes)
}

fn flatten(value: &Value, take: &mut impl FnMut(&Value)) {
    match value {
        Value::Array(list) => list.iter().for_each(|inner| flatten(inner, take)),
        value => take(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_has_its_check_values() {
        assert_eq!((fnv1a64(b"a"), mix64(1)), (0xaf63_dc4c_8601_ec8c, 0x5692_161d_100b_05e5));
        let cases = [
            (0, "", 0xf52a_15e9_a9b5_e89b, [0x3f4b_0fa6, 0xbf31_6344, 0xbe2e_1418]),
            (
                1,
                "lm_head.weight",
                0xdb49_5aa1_961b_db24,
                [0x3eba_cf18, 0xbf01_aaa4, 0x3f04_a6f8u32],
            ),
            (
                20_240_917,
                "visual.patch_embed.proj.weight",
                0xf20c_6182_710e_efa7,
                [0x3da6_de90, 0xbf35_0f16, 0x3ddc_7c40],
            ),
        ];
        for (seed, name, expected, units) in cases {
            assert_eq!(key(seed, name), expected, "{name}");
            assert_eq!([0, 1, 2].map(|i| unit(expected, i).to_bits()), units, "{name}");
        }
        let name = "model.layers.0.self_attn.q_proj.weight";
        let first = weight(7, name, &[256, 256], 0..3);
        let bits: Vec<_> = first.iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, [0xbd9a_bcbf, 0x3d06_d696, 0xbe12_07cc]);
        assert_eq!(encode(&first, "BF16"), [0x9b, 0xbd, 0x07, 0x3d, 0x12, 0xbe]);
    }
}
