//! The reference's processor as a user meets it: every option of its template and its padding, and
//! ids back to text.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use qwen2vl::{
    model::checkpoint::TensorFile,
    prompt::{Detokenizer, Tokenizer},
    units::TokenId,
};
use serde_json::{Value, json};

use crate::support::checkpoint::{golden_cases, goldens, model_folder};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qwen2vl")).args(arguments).output().unwrap()
}

#[track_caller]
fn said(arguments: &[&str]) -> String {
    let done = run(arguments);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Exit status and message of a refusal.
#[track_caller]
fn refused(arguments: &[&str]) -> (i32, String) {
    let done = run(arguments);
    (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
}

/// A folder with a stub model of the goldens and a messages file.
struct Fixture {
    model: tempfile::TempDir,
}

impl Fixture {
    fn new(messages: &Value) -> Self {
        let this = Self { model: model_folder(&golden_cases("prompts")["model"]) };
        this.write("messages.json", &messages.to_string());
        this
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.model.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.model.path().join(name).display().to_string()
    }

    fn command(&self, name: &str, flags: &[&str]) -> Vec<String> {
        let (model, messages) = (self.path(""), self.path("messages.json"));
        let common = [name, &model, "--messages", &messages];
        common.into_iter().chain(flags.iter().copied()).map(str::to_owned).collect()
    }

    #[track_caller]
    fn render(&self, flags: &[&str]) -> String {
        let arguments = self.command("render", flags);
        said(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[track_caller]
    fn refuses(&self, flags: &[&str]) -> (i32, String) {
        let arguments = self.command("render", flags);
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A tensor of `process` as rows.
    fn process(&self, flags: &[&str], name: &str) -> Vec<Vec<i64>> {
        let output = self.path("out.safetensors");
        let mut arguments = self.command("process", flags);
        arguments.extend(["--output".to_owned(), output.clone()]);
        said(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let tensors = TensorFile::open(Path::new(&output)).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let (words, _) = tensor.bytes.as_chunks::<8>();
        let values: Vec<i64> = words.iter().map(|word| i64::from_le_bytes(*word)).collect();
        values.chunks(tensor.shape[1]).map(<[i64]>::to_vec).collect()
    }
}

fn turn(role: &str, text: &str) -> Value {
    json!({ "role": role, "content": text })
}

const SYSTEM: &str = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";

#[test]
fn a_prompt_ends_as_asked_for() {
    let fixture = Fixture::new(&json!([turn("user", "Hi"), turn("assistant", "Well, ")]));
    let turns = format!(
        "{SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell, <|im_end|>\n"
    );
    assert_eq!(fixture.render(&[]), format!("{turns}<|im_start|>assistant\n\n"));
    assert_eq!(fixture.render(&["--no-generation-prompt"]), format!("{turns}\n"));
    let open = turns.trim_end_matches("<|im_end|>\n");
    for policy in ["literal", "refuse", "trusted"] {
        let flags = ["--continue-final-message", "--control-text", policy];
        assert_eq!(fixture.render(&flags), format!("{open}\n"), "{policy}");
    }
    // The ids end with the open text as well.
    let ids = fixture.process(&["--continue-final-message"], "input_ids");
    let whole = fixture.process(&[], "input_ids");
    assert!(whole[0].starts_with(&ids[0]) && ids[0].len() < whole[0].len());
}

#[test]
fn a_prompt_that_cannot_be_continued_is_refused() {
    let picture = json!([{ "role": "user", "content": [{ "type": "image", "path": "a.png" }] }]);
    let fixture = Fixture::new(&picture);
    let (status, said) = fixture.refuses(&["--continue-final-message"]);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("message 0: continue_final_message finds no text"), "{said}");
}

#[test]
fn several_conversations_are_padded_on_either_side() {
    let batch = json!([[turn("user", "Hi")], [turn("user", "Hello, how are you today?")]]);
    let fixture = Fixture::new(&batch);
    let (ids, mask) = (fixture.process(&[], "input_ids"), fixture.process(&[], "attention_mask"));
    let long = ids[1].len();
    let missing = mask[0].iter().filter(|value| **value == 0).count();
    assert!(missing > 0 && mask[1] == vec![1; long]);
    // Left is what the tokenizer's settings ask for: <|endoftext|> is 610 there.
    assert!(ids[0][..missing].iter().all(|id| *id == 610), "{ids:?}");
    assert_eq!(mask[0][..missing], vec![0; missing]);
    let right = ["--padding-side", "right"];
    let moved = fixture.process(&right, "input_ids");
    assert_eq!(moved[0], [&ids[0][missing..], &vec![610; missing]].concat());
    assert_eq!(moved[1], ids[1]);
    assert_eq!(fixture.process(&right, "attention_mask")[0][long - missing..], vec![0; missing]);
    let rounded = fixture.process(&["--pad-to-multiple-of", "32"], "input_ids");
    assert_eq!(rounded[0].len(), long.next_multiple_of(32));
    assert!(rounded[1].ends_with(&ids[1]) && rounded[1][0] == 610);
    let wide = fixture.process(&["--max-length", "100"], "input_ids");
    assert_eq!((wide[0].len(), wide[1].len()), (100, 100));
    let mut short = fixture.command("process", &["--max-length", "5", "--output"]);
    short.push(fixture.path("o"));
    let (status, said) = refused(&short.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(status, 3, "{said}");
    assert!(said.contains("is over the limit of 5"), "a prompt is never cut: {said}");
    // The settings of a checkpoint can ask for the right side.
    let settings = fs::read_to_string(fixture.model.path().join("tokenizer_config.json")).unwrap();
    let mut settings: Value = serde_json::from_str(&settings).unwrap();
    settings["padding_side"] = "right".into();
    fixture.write("tokenizer_config.json", &settings.to_string());
    assert_eq!(fixture.process(&[], "input_ids"), moved);
}

#[test]
fn placeholders_of_pictures_are_marked_on_request() {
    let picture = goldens().join("pixels/media");
    let mut pictures = fs::read_dir(&picture).unwrap().map(|entry| entry.unwrap().path());
    let png = pictures.find(|path| path.extension().is_some_and(|end| end == "png")).unwrap();
    let parts = json!([{ "type": "image", "path": png.display().to_string() }]);
    let fixture = Fixture::new(&json!([{ "role": "user", "content": parts }]));
    let flags = ["--mm-token-type-ids"];
    let types = fixture.process(&flags, "mm_token_type_ids");
    let ids = fixture.process(&flags, "input_ids");
    let expected: Vec<i64> = ids[0].iter().map(|id| i64::from(*id == 622)).collect();
    assert!(expected.contains(&1));
    assert_eq!(types[0], expected);
}

#[test]
fn another_template_is_given_by_file_text_or_name() {
    let fixture = Fixture::new(&json!([turn("user", "Hi")]));
    let source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
    fixture.write("mine.jinja", source);
    let file = fixture.path("mine.jinja");
    assert_eq!(fixture.render(&["--chat-template", &file]), "[user] Hi\n");
    assert_eq!(fixture.render(&["--chat-template", source]), "[user] Hi\n");
    let named =
        json!({ "chat_template": { "default": "D{{ messages[0].content }}", "short": source } });
    fixture.write("chat_template.json", &named.to_string());
    assert_eq!(fixture.render(&[]), "DHi\n");
    assert_eq!(fixture.render(&["--chat-template", "short"]), "[user] Hi\n");
    let (status, said) = fixture.refuses(&["--chat-template", "shirt"]);
    assert_eq!(status, 2);
    assert!(
        said.contains("no chat template is named \"shirt\"; there are default, short"),
        "{said}"
    );
    let (status, said) = fixture.refuses(&["--chat-template", "{% if %}"]);
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("the chat template fails"), "{said}");
}

#[test]
fn a_checkpoint_without_a_template_needs_a_given_one() {
    let fixture = Fixture::new(&json!([turn("user", "Hi")]));
    for name in ["chat_template.json", "chat_template.jinja"] {
        drop(fs::remove_file(fixture.model.path().join(name)));
    }
    fixture.write("tokenizer_config.json", "{}");
    let (status, said) = fixture.refuses(&[]);
    assert_eq!(status, 4);
    assert!(said.contains("error[template_invalid]: no chat template in "), "{said}");
    assert_eq!(fixture.render(&["--chat-template", "{{ messages[0].content }}"]), "Hi\n");
}

#[test]
fn ids_become_text_with_and_without_control_tokens() {
    let model = goldens().join("tokenizer").display().to_string();
    let strings = fs::read(goldens().join("prompts/strings.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&strings).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids.json");
    // A list of lists, and what `generate --json` prints for a batch.
    let lists: Vec<&Value> = cases.iter().map(|case| &case["ids"]).collect();
    let answers: Vec<Value> = lists.iter().map(|ids| json!({ "token_ids": ids })).collect();
    for document in [json!(lists), json!(answers)] {
        fs::write(&file, document.to_string()).unwrap();
        let path = file.display().to_string();
        let common = ["decode", &model, "--ids", &path, "--json"];
        let texts = |flags: &[&str]| -> Value {
            let text = said(&[&common[..], flags].concat());
            serde_json::from_str::<Value>(&text).unwrap()["texts"].take()
        };
        let expected =
            |key: &str| -> Value { cases.iter().map(|case| case[key].clone()).collect() };
        assert_eq!(texts(&[]), expected("decoded"));
        assert_eq!(texts(&["--skip-special-tokens"]), expected("decoded_skip"));
    }
    assert_eq!(said(&["decode", &model, "612", "220"]), "<|im_end|> \n");
    assert_eq!(said(&["decode", &model, "612", "220", "--skip-special-tokens"]), " \n");
    // Unknown ids have no text, as in the reference.
    assert_eq!(said(&["decode", &model, "99999"]), "\n");
}

#[test]
fn blanks_before_punctuation_go_where_asked_for_or_set() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(goldens().join("tokenizer/tokenizer.json"), folder.path().join("tokenizer.json"))
        .unwrap();
    let model = folder.path().display().to_string();
    let text = "I do n't , it 's  . ' a ' ?";
    let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
    let ids: Vec<String> = tokenizer.encode(text).unwrap().iter().map(TokenId::to_string).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let decoded = |flags: &[&str]| said(&[&["decode", &model], &ids[..], flags].concat());
    let clean = "I don't, it's .'a '?\n";
    assert_eq!(decoded(&[]), format!("{text}\n"));
    assert_eq!(decoded(&["--clean-up-tokenization-spaces"]), clean);
    let settings = r#"{"clean_up_tokenization_spaces": true}"#;
    fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
    assert_eq!(decoded(&[]), clean);
    assert_eq!(decoded(&["--clean-up-tokenization-spaces=false"]), format!("{text}\n"));
    // An answer that streams is the same text.
    let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
    let mut stream = Detokenizer::new(false);
    let pieces = tokenizer.encode(text).unwrap().into_iter().map(|id| stream.push(&tokenizer, id));
    let streamed = pieces.collect::<String>() + &stream.finish();
    assert_eq!(streamed + "\n", clean);
}

#[test]
fn ids_that_are_none_are_refused() {
    let model = goldens().join("tokenizer").display().to_string();
    for (text, status) in [
        ("[1, -2]", 2),
        ("[1, 4294967296]", 2),
        ("[1.5]", 2),
        ("[[1], 2]", 2),
        ("{\"ids\": [1]}", 2),
        ("[1", 2),
        ("\"a\"", 2),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_qwen2vl"))
            .args(["decode", &model, "--ids", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(status), "{text}");
        assert!(String::from_utf8_lossy(&done.stderr).contains("error[invalid_request]"), "{text}");
    }
    assert_eq!(refused(&["decode", &model]).0, 2, "no ids at all");
    assert_eq!(refused(&["decode", &model, "--ids", "/nonexistent"]).0, 3);
}

/// Where the header of a format ends, in a file of it.
fn header(format: &str, bytes: &[u8]) -> usize {
    let after =
        |tag: &[u8]| bytes.windows(tag.len()).position(|window| window == tag).unwrap() + tag.len();
    match format {
        "png" => after(b"IDAT"),
        // The last segment before the scan has its length first.
        "jpg" => {
            let start = after(&[0xff, 0xda]);
            start + usize::from(u16::from_be_bytes([bytes[start], bytes[start + 1]]))
        }
        "bmp" => 54,
        "webp" => 64,
        _ => after(&[0x2c]) + 9,
    }
}

#[test]
fn tokens_are_counted_from_headers_alone() {
    let fixture = Fixture::new(&json!([]));
    let mut picture = image::RgbImage::new(200, 130);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        *pixel = image::Rgb([x, y, x ^ y].map(|value| u8::try_from(value).unwrap()));
    }
    for format in ["png", "jpg", "bmp", "webp", "gif"] {
        let file = fixture.path(&format!("a.{format}"));
        if format == "jpg" {
            let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/media/one_jpg.jpg");
            fs::copy(demo, &file).unwrap();
        } else {
            picture.save(&file).unwrap();
        }
        let messages = |file: &str| {
            json!([{ "role": "user", "content": [{ "type": "image", "path": file }] }]).to_string()
        };
        let count = |file: &str| -> Value {
            fixture.write("messages.json", &messages(file));
            let arguments = fixture.command("tokens", &["--json"]);
            let text = said(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
            let document: Value = serde_json::from_str(&text).unwrap();
            json!([document["prompt_tokens"], document["media"][0]["grid_thw"]])
        };
        let whole = count(&file);
        let bytes = fs::read(&file).unwrap();
        let end = header(format, &bytes);
        assert!(end < bytes.len() / 2, "{format}: {end} of {}", bytes.len());
        let cut = fixture.path(&format!("cut.{format}"));
        fs::write(&cut, &bytes[..end]).unwrap();
        assert_eq!(count(&cut), whole, "{format}");
        // The pixels are not there: whoever needs them fails.
        let mut process = fixture.command("process", &["--output"]);
        process.push(fixture.path("o"));
        let (status, said) = refused(&process.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(status, 3, "{format}: {said}");
    }
}

#[test]
fn a_prompt_with_its_control_tokens_is_processed_as_the_reference_does() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let (model, media) = (demo.join("model").display().to_string(), demo.join("media"));
    let path = |name: &str| media.join(name).display().to_string();
    let (first, second) = (path("pair_sizes_1.webp"), path("pair_sizes_2.png"));
    let clip = path("clip_gif.gif");
    let folder = tempfile::tempdir().unwrap();
    let messages = folder.path().join("messages.json");
    let parts = |files: &[(&str, &str)], text: &str| {
        let mut parts: Vec<Value> =
            files.iter().map(|(kind, path)| json!({ "type": kind, "path": path })).collect();
        parts.push(json!({ "type": "text", "text": text }));
        json!([{ "role": "user", "content": parts }])
    };
    let batch = json!([
        parts(&[("image", &first)], "What is this?"),
        parts(&[("image", &second), ("video", &clip)], "What moves?"),
    ]);
    fs::write(&messages, batch.to_string()).unwrap();
    let messages = messages.display().to_string();
    let texts: Vec<String> = {
        let text = said(&["render", &model, "--messages", &messages, "--json"]);
        let document: Value = serde_json::from_str(&text).unwrap();
        let results = document["results"].as_array().unwrap();
        results.iter().map(|one| one["text"].as_str().unwrap().to_owned()).collect()
    };
    let output = |name: &str| folder.path().join(name).display().to_string();
    let (expected, found) = (output("expected"), output("found"));
    said(&["process", &model, "--messages", &messages, "--output", &expected]);
    let call = ["process", &model, "--text", &texts[0], "--text", &texts[1]];
    let with = |media: &[&str]| -> Vec<String> {
        let arguments = [&call[..], &["--output", &found], media].concat();
        arguments.into_iter().map(str::to_owned).collect()
    };
    let borrowed = |arguments: &[String]| -> (i32, String) {
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let all = ["--image", &first, "--image", &second, "--video", &clip];
    assert_eq!(borrowed(&with(&all)).0, 0);
    assert!(fs::read(&expected).unwrap() == fs::read(&found).unwrap());
    // Too few and too many, by kind.
    for media in [&all[..2], &all[..4], &[&all[..], &["--image", &first]].concat()] {
        let (status, said) = borrowed(&with(media));
        assert_eq!(status, 3, "{said}");
        assert!(said.contains("error[prompt_invalid]: the prompt has "), "{said}");
    }
    assert_eq!(refused(&["process", &model, "--output", &found]).0, 2, "neither text nor messages");
}

#[test]
fn keys_without_effect_change_nothing() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let media = demo.join("media");
    let path = |name: &str| media.join(name).display().to_string();
    let fixture = Fixture::new(&json!([{ "role": "user", "content": [
        { "type": "image", "path": path("one_png.png") },
        { "type": "video", "path": path("clip_gif.gif") }]}]));
    let output = fixture.path("out.safetensors");
    let process = || -> Vec<u8> {
        let mut arguments = fixture.command("process", &["--output"]);
        arguments.push(output.clone());
        said(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        fs::read(&output).unwrap()
    };
    let settings = |more: Value| {
        let mut settings = json!({ "min_pixels": 3136, "max_pixels": 50176 });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        for name in ["preprocessor_config.json", "video_preprocessor_config.json"] {
            fixture.write(name, &settings.to_string());
        }
    };
    settings(json!({}));
    let plain = process();
    settings(json!({
        "size_divisor": 32, "default_to_square": true, "do_pad": true, "crop_size": null,
        "do_center_crop": false, "device": "cuda", "disable_grouping": true,
        "return_metadata": true, "data_format": "channels_first",
        "input_data_format": "channels_last", "return_tensors": "pt",
    }));
    assert!(process() == plain);
    settings(json!({ "merge_size": 1 }));
    assert!(process() != plain, "a key with an effect has it");
}

#[test]
fn budgets_of_the_page_bound_the_tokens_of_a_picture() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let model = demo.join("model").display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.png").display().to_string();
    let tokens = |(height, width): (u32, u32), flags: &[&str]| -> u64 {
        image::GrayImage::new(width, height).save(&file).unwrap();
        let arguments = [&["tokens", &model, "--image", &file, "--json"], flags].concat();
        let document: Value = serde_json::from_str(&said(&arguments)).unwrap();
        document["image_tokens"].as_u64().unwrap()
    };
    // Both are worked examples of the sizes in docs/spec.md, section 3.4.
    for flags in [
        ["--min-pixels", "256x28x28", "--max-pixels", "1024x28x28"],
        ["--min-image-tokens", "256", "--max-image-tokens", "1024"],
    ] {
        assert_eq!(tokens((224, 224), &flags), 256, "{flags:?}");
        assert_eq!(tokens((2048, 2048), &flags), 1024, "{flags:?}");
    }
    // The page's other pair.
    let square = ["--min-pixels", "224x224", "--max-pixels", "2048x2048"];
    assert_eq!(tokens((100, 100), &square), 64);
    assert_eq!(tokens((480, 640), &square), 17 * 23);
}
