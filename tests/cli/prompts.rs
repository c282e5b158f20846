//! `process`, `render` and `tokens` as a user runs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use qwen2vl::model::checkpoint::TensorFile;
use serde_json::{Value, json};

use crate::support::checkpoint::{golden_cases, goldens, model_folder};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo")
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qwen2vl")).args(arguments).output().unwrap()
}

/// Standard output of a run that must succeed.
#[track_caller]
fn said(arguments: &[&str]) -> String {
    let done = run(arguments);
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{errors}");
    String::from_utf8(done.stdout).unwrap()
}

/// A messages file beside the goldens' pictures.
struct Messages {
    folder: tempfile::TempDir,
}

impl Messages {
    fn new(messages: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = messages.to_string();
        // Paths are relative to the file.
        let media = goldens().join("pixels/media").display().to_string();
        text = text.replace("\"media/", &format!("\"{media}/"));
        fs::write(folder.path().join("messages.json"), text).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

fn case<'a>(document: &'a Value, name: &str) -> &'a Value {
    let cases = document["cases"].as_array().unwrap();
    cases.iter().find(|case| case["name"] == name).unwrap()
}

fn integers(file: &TensorFile, name: &str) -> Vec<i64> {
    let tensor = file.tensor(name).unwrap();
    tensor.bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

fn flat(value: &Value) -> Vec<i64> {
    match value {
        Value::Array(list) => list.iter().flat_map(flat).collect(),
        value => vec![value.as_i64().unwrap()],
    }
}

#[test]
fn process_writes_the_references_tensors() {
    let document = golden_cases("pixels");
    for (name, which) in [
        ("three-sizes", "torchvision"),
        ("three-sizes", "pillow"),
        ("min-max-flags", "torchvision"),
        ("jpeg-exif-6", "pillow"),
    ] {
        let case = case(&document, name);
        let mut spec = document["model"].clone();
        spec["preprocessor_config"] = case["preprocessor_config"].clone();
        let (model, messages) = (model_folder(&spec), Messages::new(&case["messages"]));
        let (file, output) = (messages.path("messages.json"), messages.path("out.safetensors"));
        let model = model.path().display().to_string();
        let mut arguments = vec!["process", &model, "--messages", &file, "--output", &output];
        arguments.extend(["--resize", which]);
        let flag = |name: &str| case["flags"].get(name).map(ToString::to_string);
        let (min, max) = (flag("min_pixels"), flag("max_pixels"));
        if let (Some(min), Some(max)) = (&min, &max) {
            arguments.extend(["--min-pixels", min, "--max-pixels", max]);
        }
        let table = said(&arguments);
        let expected = &case[which];
        let tensors = TensorFile::open(Path::new(&output)).unwrap();
        assert_eq!(integers(&tensors, "input_ids"), flat(&expected["ids"]), "{name}");
        let mask = integers(&tensors, "attention_mask");
        assert!(mask.len() == flat(&expected["ids"]).len() && mask.iter().all(|m| *m == 1));
        assert_eq!(integers(&tensors, "image_grid_thw"), flat(&expected["grid"]), "{name}");
        let pixels = tensors.tensor("pixel_values").unwrap();
        assert_eq!(json!(pixels.shape), expected["shape"], "{name}");
        let values = pixels.to_f32().unwrap();
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let want = expected["mean"].as_f64().unwrap();
        assert!((mean - want).abs() < 1e-5, "{name} {which}: {mean}, {want}");
        assert_eq!(table.lines().count(), 4, "one line for each tensor: {table}");
    }
}

#[test]
fn a_batch_is_padded_on_the_left() {
    let document = golden_cases("pixels");
    let case = case(&document, "batch-text");
    let model = model_folder(&document["model"]);
    let messages = Messages::new(&case["messages"]);
    let output = messages.path("out.safetensors");
    let model = model.path().display().to_string();
    let file = messages.path("messages.json");
    let arguments = ["process", &model, "--messages", &file, "--output", &output, "--json"];
    let printed: Value = serde_json::from_str(&said(&arguments)).unwrap();
    let tensors = TensorFile::open(Path::new(&output)).unwrap();
    for name in ["input_ids", "attention_mask"] {
        assert_eq!(integers(&tensors, name), flat(&case["process"][name]), "{name}");
    }
    let rows = case["process"]["input_ids"].as_array().unwrap();
    assert_eq!(
        printed["tensors"]["input_ids"],
        json!([rows.len(), rows[0].as_array().unwrap().len()])
    );
    assert_eq!((&printed["schema"], &printed["media"]), (&json!("qwen2vl.process/1"), &json!([])));
}

#[test]
fn render_prints_text_or_ids_and_nothing_else() {
    let document = golden_cases("prompts");
    let model = model_folder(&document["model"]);
    let model = model.path().display().to_string();
    for name in ["page+ids", "special-in-text", "newlines", "extra-keys", "page+nogen"] {
        let case = case(&document, name);
        let messages = Messages::new(&case["conversation"]);
        let file = messages.path("messages.json");
        let mut arguments =
            vec!["render", &model, "--messages", &file, "--control-text", "trusted"];
        if case["add_vision_id"] == true {
            arguments.push("--add-vision-id");
        }
        if case["add_generation_prompt"] == false {
            arguments.push("--no-generation-prompt");
        }
        let text = case["text"].as_str().unwrap();
        assert_eq!(said(&arguments), format!("{text}\n"), "{name}");
        let ids = said(&[arguments.as_slice(), &["--ids"]].concat());
        let ids: Vec<i64> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids, flat(&case["ids"]), "{name}");
        if name == "extra-keys" {
            continue; // names a picture that is not there
        }
        arguments.push("--json");
        if name == "special-in-text" {
            // As JSON it is what the model sees, and a placeholder without a picture is an error.
            assert_eq!(run(&arguments).status.code(), Some(3));
            continue;
        }
        let document: Value = serde_json::from_str(&said(&arguments)).unwrap();
        assert_eq!((&document["text"], &document["ids"]), (&case["text"], &case["ids"]), "{name}");
    }
}

#[test]
fn control_tokens_in_a_message_are_text_by_default_and_said_so() {
    let document = golden_cases("prompts");
    let model = model_folder(&document["model"]);
    let model = model.path().display().to_string();
    let case = case(&document, "special-in-text");
    let messages = Messages::new(&case["conversation"]);
    let file = messages.path("messages.json");
    let done = run(&["render", &model, "--messages", &file, "--ids"]);
    let ids = String::from_utf8(done.stdout).unwrap();
    let count = |id: &str| ids.split_whitespace().filter(|found| *found == id).count();
    // Two turns end, one head of an answer is open; no picture, no end of text.
    assert_eq!(["612", "611", "622", "610"].map(count), [2, 3, 0, 0], "{ids}");
    let warned = String::from_utf8(done.stderr).unwrap();
    assert!(warned.starts_with("warning[control_text_escaped]: 3 control token(s)"), "{warned}");
}

#[test]
fn tokens_are_counted_as_they_are_processed() {
    let model = demo().join("model").display().to_string();
    let (first, second) = (demo().join("media/pair.png"), demo().join("media/two_exif6.jpg"));
    let (first, second) = (first.display().to_string(), second.display().to_string());
    let question = "What is different?";
    let common = ["tokens", &model, "--image", &first, "--image", &second, question];
    let counted: Value = serde_json::from_str(&said(&[&common[..], &["--json"]].concat())).unwrap();
    let messages = Messages::new(&json!([{"role": "user", "content": [
        {"type": "image", "path": first}, {"type": "image", "path": second},
        {"type": "text", "text": question}]}]));
    let (file, output) = (messages.path("messages.json"), messages.path("out"));
    let process = ["process", &model, "--messages", &file, "--output", &output, "--json"];
    let processed: Value = serde_json::from_str(&said(&process)).unwrap();
    assert_eq!(counted["prompt_tokens"], processed["tensors"]["input_ids"][1]);
    assert_eq!(counted["media"], processed["media"]);
    let visual: u64 =
        counted["media"].as_array().unwrap().iter().map(|m| m["tokens"].as_u64().unwrap()).sum();
    assert_eq!(counted["image_tokens"], visual);
    let table = said(&common);
    assert!(table.lines().last().unwrap().starts_with("total"), "{table}");
}

#[test]
fn the_largest_picture_that_fits_is_found() {
    let model = demo().join("model").display().to_string();
    let picture = demo().join("media/large_png.png").display().to_string();
    let count = |flags: &[&str]| -> Value {
        let common = ["tokens", &model, "--image", &picture, "hello", "--json"];
        serde_json::from_str(&said(&[&common[..], flags].concat())).unwrap()
    };
    let fit = count(&["--fit", "40"])["fitting_max_pixels"].as_u64().unwrap();
    let tokens = |max: u64| {
        let flags = ["--min-pixels", "784", "--max-pixels", &max.to_string()];
        count(&flags)["prompt_tokens"].as_u64().unwrap()
    };
    assert!(tokens(fit) <= 40, "{fit} fits");
    assert!(tokens(fit + 784) > 40, "{fit} is the largest");
    let done = run(&["tokens", &model, "--image", &picture, "hello", "--fit", "5"]);
    assert_eq!(done.status.code(), Some(3));
}

#[test]
fn a_request_without_a_prompt_is_a_usage_error() {
    let model = demo().join("model").display().to_string();
    let done = run(&["tokens", &model]);
    assert_eq!(done.status.code(), Some(2));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("give --messages FILE, or --image FILE and a prompt"), "{said}");
}

#[test]
fn a_closed_standard_output_is_an_error() {
    let model = demo().join("model").display().to_string();
    for arguments in ["tokens MODEL hello", "--help", "tokens MODEL hello --json"] {
        let arguments = arguments.replace("MODEL", &model);
        let command = format!("exec {} {arguments} >&-", env!("CARGO_BIN_EXE_qwen2vl"));
        let done = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert_eq!(done.status.code(), Some(3), "{arguments}");
        let quiet = arguments == "--help";
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(quiet || said.contains("error[io]: standard output is closed"), "{said}");
    }
    let command = format!("{} tokens {model} hello >/dev/null", env!("CARGO_BIN_EXE_qwen2vl"));
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&said(&[arguments, &["--json"]].concat())).unwrap()
}

fn codes(document: &Value) -> Vec<&str> {
    document["warnings"].as_array().unwrap().iter().map(|w| w["code"].as_str().unwrap()).collect()
}

#[test]
fn the_turn_of_a_picture_can_be_ignored() {
    let model = demo().join("model").display().to_string();
    let picture = demo().join("media/two_exif6.jpg").display().to_string();
    let common = ["tokens", &model, "--image", &picture, "hello"];
    let applied = json_of(&common);
    let ignored = json_of(&[&common[..], &["--exif", "ignore"]].concat());
    let size = |document: &Value| flat(&document["media"][0]["decoded"]);
    let swapped: Vec<i64> = size(&ignored).into_iter().rev().collect();
    assert_eq!(size(&applied), swapped);
    assert_ne!(size(&applied), size(&ignored));
    assert!(codes(&applied).contains(&"exif_rotated"), "{applied}");
    assert!(!codes(&ignored).contains(&"exif_rotated"), "{ignored}");
    let done = run(&common);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("warning[exif_rotated]: "), "{said}");
}

#[test]
fn transparency_is_dropped_or_laid_on_white() {
    let model = demo().join("model").display().to_string();
    let messages = Messages::new(&json!([{"role": "user", "content": [
        {"type": "image", "path": "a.png"}]}]));
    let (file, output) = (messages.path("messages.json"), messages.path("out"));
    let values = |alpha: &str| -> (Vec<u8>, Value) {
        let arguments = ["process", &model, "--messages", &file, "--output", &output];
        let document = json_of(&[&arguments[..], &["--alpha", alpha]].concat());
        let tensors = TensorFile::open(Path::new(&output)).unwrap();
        (tensors.tensor("pixel_values").unwrap().bytes.to_vec(), document)
    };
    let transparent = image::RgbaImage::from_pixel(112, 112, image::Rgba([40, 80, 120, 0]));
    transparent.save(messages.path("a.png")).unwrap();
    let ((dropped, warned), (white, silent)) = (values("drop"), values("white"));
    assert_eq!((codes(&warned), codes(&silent).len()), (vec!["alpha_dropped"], 0));
    let opaque = |color| {
        image::RgbImage::from_pixel(112, 112, image::Rgb(color))
            .save(messages.path("a.png"))
            .unwrap();
        values("drop").0
    };
    assert!(dropped == opaque([40, 80, 120]) && white == opaque([255; 3]));
}

#[test]
fn budgets_are_given_in_pixels_or_in_visual_tokens() {
    let model = demo().join("model").display().to_string();
    let picture = demo().join("media/large_png.png").display().to_string();
    let common = ["tokens", &model, "--image", &picture, "hello", "--min-pixels", "784"];
    let few = json_of(&[&common[..], &["--max-image-tokens", "20"]].concat());
    assert_eq!(few, json_of(&[&common[..], &["--max-pixels", "15680"]].concat()));
    assert_eq!(few, json_of(&[&common[..], &["--image-max-tokens", "20"]].concat()));
    assert!(few["image_tokens"].as_u64().unwrap() <= 20, "{few}");
    let both = [&common[..], &["--max-image-tokens", "20", "--max-pixels", "99999"]].concat();
    assert_eq!(run(&both).status.code(), Some(2));
}

#[test]
fn grounding_tokens_can_be_made_text() {
    let model = demo().join("model").display().to_string();
    let messages = Messages::new(&json!([{"role": "user", "content": "a<|box_start|>"}]));
    let file = messages.path("messages.json");
    let common = ["render", &model, "--messages", &file];
    let active = json_of(&common);
    let text = json_of(&[&common[..], &["--control-text-allow", "none"]].concat());
    assert_eq!(active["text"], text["text"]);
    assert!(flat(&active["ids"]).len() < flat(&text["ids"]).len(), "{active} {text}");
    let refused =
        [&common[..], &["--control-text-allow", "none", "--control-text", "refuse"]].concat();
    assert_eq!(run(&refused).status.code(), Some(3));
}

#[test]
fn render_shows_what_the_model_saw() {
    let (model, media) = (demo().join("model").display().to_string(), demo().join("media"));
    let path = |name: &str| media.join(name).display().to_string();
    let messages = Messages::new(&json!([{"role": "user", "content": [
        {"type": "text", "text": "a"}, {"type": "image", "path": path("large_png.png")},
        {"type": "video", "path": path("clip_gif.gif")}, {"type": "text", "text": "b"}]}]));
    let (file, output) = (messages.path("messages.json"), messages.path("out.safetensors"));
    let folder = messages.path("seen");
    let shown = json_of(&["render", &model, "--messages", &file, "--images", &folder]);
    said(&["process", &model, "--messages", &file, "--output", &output]);
    let tensors = TensorFile::open(Path::new(&output)).unwrap();
    assert_eq!(flat(&shown["input_ids"]), integers(&tensors, "input_ids"));
    for name in ["image_grid_thw", "video_grid_thw"] {
        assert_eq!(flat(&shown[name]), integers(&tensors, name), "{name}");
    }
    // Positions are those that `forward` uses for the same tensors.
    let forward = messages.path("forward.safetensors");
    said(&["forward", &model, "--inputs", &output, "--output", &forward]);
    let forward = TensorFile::open(Path::new(&forward)).unwrap();
    assert_eq!(flat(&shown["position_ids"]), integers(&forward, "position_ids"));
    assert_eq!(flat(&shown["rope_delta"]), integers(&forward, "rope_deltas"));
    // Pieces are the text, and know who wrote them.
    let pieces = shown["pieces"].as_array().unwrap();
    let joined: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    assert_eq!(joined, shown["text"].as_str().unwrap());
    let own: Vec<_> = pieces.iter().filter(|piece| piece["origin"] == "message").collect();
    assert_eq!((own.len(), &own[1]["part"], &own[1]["text"]), (2, &json!(3), &json!("b")));
    // Each frame is a picture of the size that the model saw.
    for (index, count) in [(0, 1), (1, shown["video_grid_thw"][0][0].as_u64().unwrap() * 2)] {
        let medium = &shown["media"][index];
        let files = medium["files"].as_array().unwrap();
        assert_eq!(files.len() as u64, count, "{medium}");
        for file in files {
            let picture = image::open(file.as_str().unwrap()).unwrap();
            let size = json!([picture.width(), picture.height()]);
            assert_eq!(size, medium["resized"], "{file}");
        }
    }
    // The picture holds the model's own pixels: at its size no resize changes it.
    let seen = shown["media"][0]["files"][0].as_str().unwrap();
    let again = Messages::new(&json!([{"role": "user", "content": [
        {"type": "image", "path": seen}]}]));
    let (file, second) = (again.path("messages.json"), again.path("out"));
    said(&["process", &model, "--messages", &file, "--output", &second]);
    let second = TensorFile::open(Path::new(&second)).unwrap();
    let pixels = |file: &TensorFile| file.tensor("pixel_values").unwrap().bytes.to_vec();
    assert!(pixels(&tensors) == pixels(&second));
    // Without files the same is read from headers.
    let alone = messages.path("messages.json");
    let counted = json_of(&["render", &model, "--messages", &alone]);
    assert_eq!(counted["position_ids"], shown["position_ids"]);
    assert!(counted["media"][0].get("files").is_none());
}
