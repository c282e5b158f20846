//! `forward` with caches and `compare` with dumps, as a user types them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use safetensors::{SafeTensors, tensor::Dtype};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::checkpoint::{golden_cases, input_tensors, model_folder, write_safetensors};

/// Name, type, shape, bytes.
type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

struct Bench {
    model: TempDir,
    case: Value,
}

impl Bench {
    fn new(name: &str) -> Self {
        let document = golden_cases("forward");
        let case = document["cases"].as_array().unwrap().iter().find(|case| case["name"] == name);
        let case = case.unwrap().clone();
        let model = model_folder(&document["models"][case["model"].as_str().unwrap()]);
        Self { model, case }
    }

    fn inputs(&self) -> Vec<Tensor> {
        input_tensors(&self.case["inputs"])
    }

    fn file(&self, name: &str) -> PathBuf {
        self.model.path().join(name)
    }

    fn write(&self, name: &str, tensors: &[Tensor]) -> PathBuf {
        let file = self.file(name);
        write_safetensors(&file, tensors);
        file
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
        program.arg(command).arg(self.model.path()).args(arguments).args(["--dtype", "bf16"]);
        program.output().unwrap()
    }

    fn forward(&self, inputs: &Path, output: &str, flags: &[&str]) -> Vec<Tensor> {
        let output = self.file(output);
        let files = ["--inputs", path(inputs), "--output", path(&output)];
        let done = self.run("forward", &[&files, flags].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        read(&output)
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn read(file: &Path) -> Vec<Tensor> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = tensors.names().into_iter();
    names
        .map(|name| {
            let tensor = tensors.tensor(name).unwrap();
            let dtype = if tensor.dtype() == Dtype::I64 { "I64" } else { "F32" };
            (name.to_owned(), dtype, tensor.shape().to_vec(), tensor.data().to_vec())
        })
        .collect()
}

fn find<'a>(tensors: &'a [Tensor], name: &str) -> &'a Tensor {
    tensors.iter().find(|tensor| tensor.0 == name).unwrap_or_else(|| panic!("{name} is missing"))
}

#[test]
fn a_dump_of_itself_agrees_and_a_changed_tensor_is_named() {
    let bench = Bench::new("heads-32-batch-left");
    let inputs = bench.inputs();
    let file = bench.write("in.safetensors", &inputs);
    let flags = ["--hidden-states", "--attentions", "--kv", "--vision-features"];
    let outputs = bench.forward(&file, "out.safetensors", &flags);
    let dump = || [inputs.clone(), outputs.clone()].concat();
    let compare = |tensors: &[Tensor], flags: &[&str]| {
        let file = bench.write("dump.safetensors", tensors);
        bench.run("compare", &[&[path(&file)], flags].concat())
    };
    let same = compare(&dump(), &["--json", "--rms", "0", "--max", "0"]);
    let document: Value = serde_json::from_slice(&same.stdout).unwrap();
    assert_eq!(same.status.code(), Some(0), "{document}");
    assert_eq!((&document["within"], &document["first"]), (&true.into(), &Value::Null));
    // 2 positions, logits, 3 hidden states, 2 of attentions, 4 of the cache, 2 times 4 of the
    // tower, 2 pictures and a video.
    assert_eq!(document["tensors"].as_array().unwrap().len(), 2 + 1 + 3 + 2 + 4 + 8 + 3);
    for (name, layer) in [
        ("position_ids", "positions"),
        ("vision/image/block_1", "vision block 1 (image)"),
        ("vision/video/merger", "vision tower (video)"),
        ("image_features/1", "vision item 1"),
        ("hidden_states/0", "embeddings"),
        ("past/0/values", "layer 0"),
        ("hidden_states/1", "layer 0"),
        ("attentions/1", "layer 1"),
        ("hidden_states/2", "layer 1"),
        ("logits", "head"),
    ] {
        let mut changed = dump();
        let tensor = changed.iter_mut().find(|tensor| tensor.0 == name).unwrap();
        // The last element of the last row belongs to a token in all of them.
        let end = tensor.3.len();
        let wrong = match tensor.1 {
            "I64" => 77i64.to_le_bytes().to_vec(),
            _ => 1e3f32.to_le_bytes().to_vec(),
        };
        tensor.3[end - wrong.len()..].copy_from_slice(&wrong);
        let output = compare(&changed, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(7), "{name}: {text}");
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("first out of tolerance"), "{name}: {text}");
        assert!(last.ends_with(&format!("{layer}, {name}")), "{name}: {last}");
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        assert!(
            line.ends_with("OUT") && line.contains(if tensor_is_int(name) { "77" } else { "1000" })
        );
    }
    // Padding is free, a missing tensor no difference, and a shape that no pass has is one.
    let mut free = dump();
    free.retain(|tensor| !tensor.0.starts_with("attentions") && tensor.0 != "logits");
    for tensor in &mut free {
        if tensor.0.starts_with("hidden_states") {
            // Row 0 is padded on the left.
            tensor.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    }
    assert_eq!(compare(&free, &[]).status.code(), Some(0));
    let mut other = dump();
    let logits = other.iter_mut().find(|tensor| tensor.0 == "logits").unwrap();
    logits.2.swap(0, 1);
    assert_eq!(compare(&other, &[]).status.code(), Some(7));
    let nothing = compare(&inputs, &[]);
    assert_eq!(nothing.status.code(), Some(2), "{}", String::from_utf8_lossy(&nothing.stderr));
}

fn tensor_is_int(name: &str) -> bool {
    name == "position_ids"
}

#[test]
fn a_file_with_a_cache_goes_on() {
    let bench = Bench::new("heads-32-text");
    let inputs = bench.inputs();
    let ids = find(&inputs, "input_ids").clone();
    let length = ids.2[1];
    let part = |from: usize, to: usize| -> Vec<Tensor> {
        let bytes = ids.3[from * 8..to * 8].to_vec();
        vec![("input_ids".to_owned(), "I64", vec![1, to - from], bytes)]
    };
    let whole = bench.write("in.safetensors", &part(0, length));
    let whole = bench.forward(&whole, "whole.safetensors", &["--logits-to-keep", "2"]);
    assert_eq!(find(&whole, "logits").2, [1, 2, 640]);
    let first = bench.write("first.safetensors", &part(0, length - 2));
    let first_out = bench.forward(&first, "first-out.safetensors", &["--kv"]);
    assert_eq!(find(&first_out, "past/0/keys").2, [1, 4, length - 2, 32]);
    let rest = bench.write("rest.safetensors", &part(length - 2, length));
    let cache = bench.file("first-out.safetensors");
    let rest_out = bench.forward(&rest, "rest-out.safetensors", &["--past", path(&cache)]);
    assert_eq!(find(&rest_out, "logits").3, find(&whole, "logits").3);
    // The same with the cache among the inputs.
    let mut all = part(length - 2, length);
    all.extend(first_out.into_iter().filter(|t| t.0.starts_with("past/") || t.0 == "rope_deltas"));
    let all = bench.write("all.safetensors", &all);
    let again = bench.forward(&all, "again.safetensors", &[]);
    assert_eq!(find(&again, "logits").3, find(&whole, "logits").3);
    // A pass without --kv has no cache to go on from.
    let output = bench.file("never.safetensors");
    let files = ["--inputs", path(&rest), "--output", path(&output), "--past"];
    let refused = bench.run("forward", &[&files[..], &[path(&output)]].concat());
    assert_eq!(refused.status.code(), Some(3));
    let whole = bench.file("whole.safetensors");
    let refused = bench.run("forward", &[&files[..], &[path(&whole)]].concat());
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("holds no past/"), "{message}");
}

#[test]
fn tensors_that_are_no_inputs_are_refused_by_name() {
    let bench = Bench::new("heads-32-text");
    let output = bench.file("never.safetensors");
    let ids = || find(&bench.inputs(), "input_ids").clone();
    let one = |name: &str, dtype, shape: &[usize], bytes: usize| {
        vec![ids(), (name.to_owned(), dtype, shape.to_vec(), vec![0; bytes])]
    };
    let cases = [
        (one("logits", "F32", &[1], 4), "\"logits\" is no input of a forward pass"),
        (one("attention_mask", "I64", &[1, 1, 1, 1], 8), "attention_mask has shape [1, 1, 1, 1]"),
        (one("labels", "F32", &[1, 1], 4), "labels is F32, but must be I64 or I32"),
        (one("position_ids", "I64", &[1], 8), "position_ids must be [B, S], [3, B, S]"),
        (one("past/0/keys", "F32", &[1, 4, 1, 32], 512), "past/0/values"),
        (one("past/zero", "F32", &[1], 4), "must be past/i/keys"),
        (one("num_items_in_batch", "I64", &[1], 8), "must be one positive number"),
        (vec![], "input_ids (or inputs_embeds) is missing"),
    ];
    for (tensors, message) in cases {
        let inputs = bench.write("in.safetensors", &tensors);
        let files = ["--inputs", path(&inputs), "--output", path(&output)];
        let refused = bench.run("forward", &files);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(matches!(refused.status.code(), Some(2 | 3)), "{message}: {error}");
        assert!(error.contains(message), "{message}: {error}");
    }
}
