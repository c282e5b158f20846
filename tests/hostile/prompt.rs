//! Broken conversations, templates and tokenizers: a typed error with its exit status.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qwen2vl::prompt::{Conversations, Processor, PromptError};
use tempfile::TempDir;

use crate::program::{self, CHECKPOINT, INPUT, USAGE};

/// The demo's tokenizer, template and settings, without weights.
fn good() -> TempDir {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(demo).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension != "safetensors") {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

/// (messages, further flags, exit status, what the message names)
const CONVERSATIONS: &[(&str, &[&str], u8, &str)] = &[
    ("", &[], USAGE, "not valid JSON"),
    ("[{", &[], USAGE, "not valid JSON"),
    ("[]", &[], USAGE, "no messages"),
    ("[[], []]", &[], USAGE, "no messages"),
    ("{\"role\": \"user\"}", &[], USAGE, "a conversation is a list"),
    (r#"[{"role": "user"}]"#, &[], USAGE, "message 0: a message needs content"),
    (
        r#"[{"role": "user", "content": "a<|im_end|>"}]"#,
        &["--control-text", "refuse"],
        INPUT,
        "message 0: control token <|im_end|> at byte 1",
    ),
    (
        r#"[{"role": "user<|im_end|>", "content": "a"}]"#,
        &[],
        INPUT,
        "message 0: role contains the control token <|im_end|>",
    ),
    (
        r#"[{"role": "user", "content": "a", "name": {"x": ["<|im_start|>"]}}]"#,
        &[],
        INPUT,
        "message 0: x contains the control token <|im_start|>",
    ),
    (
        r#"[{"role": "user", "content": "a"}, {"role": "robot", "content": "a"}]"#,
        &[],
        USAGE,
        "message 1: unknown role \"robot\"",
    ),
    (
        r#"[{"role": "user", "content": [{"type": "audio", "audio": "x.wav"}]}]"#,
        &[],
        USAGE,
        "message 0, part 0: unknown part type \"audio\"",
    ),
    (
        r#"[{"role": "user", "content": [{"type": "txt", "text": "x"}]}]"#,
        &[],
        USAGE,
        "did you mean \"text\"?",
    ),
    (
        r#"[{"role": "user", "content": [{"type": "text", "txt": "x"}]}]"#,
        &[],
        USAGE,
        "message 0, part 0: a part needs what its type names",
    ),
    (r#"[{"role": "user", "content": [{}]}]"#, &[], USAGE, "message 0, part 0: a part needs"),
];

#[test]
fn a_broken_conversation_is_named() {
    let model = good();
    let file = model.path().join("m.json");
    let path = file.display().to_string();
    for (messages, flags, status, reason) in CONVERSATIONS {
        fs::write(&file, messages).unwrap();
        let arguments = [&["render", "--messages", &path], *flags].concat();
        let done = program::run(&arguments, model.path());
        done.assert_status(*status);
        assert!(done.said().contains(reason), "{messages}: {}", done.said());
    }
    let done = program::run(&["render", "--messages", "/nonexistent.json"], model.path());
    done.assert_status(INPUT);
}

/// (messages, exit status, what the message names): with media
const MEDIA: &[(&str, u8, &str)] = &[
    (r#"{"type": "image"}"#, USAGE, "an image part needs one of image, url"),
    (r#"{"type": "image", "path": 3}"#, USAGE, "path is 3, expected"),
    (
        r#"{"type": "image", "url": "https://example.org/a.png"}"#,
        USAGE,
        "network sources are disabled",
    ),
    (r#"{"type": "image", "url": "data:image/png;base64,****"}"#, INPUT, "incorrect image source"),
    (
        r#"{"type": "image", "path": "a.png", "max_pixel": 3}"#,
        USAGE,
        "did you mean \"max_pixels\"?",
    ),
    (
        r#"{"type": "image", "path": "a.png", "resized_width": 28}"#,
        USAGE,
        "resized_height and resized_width go together",
    ),
    (
        r#"{"type": "image", "path": "a.png", "max_pixels": 1}"#,
        USAGE,
        "min_pixels 7056 is above max_pixels 1",
    ),
    (
        r#"{"type": "image", "path": "a.png", "detail": "low"}"#,
        USAGE,
        "unsupported: a detail other",
    ),
    (r#"{"type": "video", "path": "no.gif"}"#, INPUT, "cannot read"),
    (r#"{"type": "video", "video": []}"#, INPUT, "a video needs at least one frame"),
    (r#"{"type": "video", "video": ["a.png", "no.png"]}"#, INPUT, "cannot read"),
    (r#"{"type": "video", "video": ["a.png", "b.png"]}"#, INPUT, "frame 1 is 31x30, the first is"),
    (r#"{"type": "video", "path": ["a.png"], "fps": 0}"#, USAGE, "fps is 0"),
    (
        r#"{"type": "video", "path": ["a.png", "a.png"], "fps": 1}"#,
        USAGE,
        "the source has no frame rate",
    ),
    (
        r#"{"type": "video", "path": ["a.png"], "fps": 1, "num_frames": 2}"#,
        USAGE,
        "mutually exclusive",
    ),
    (r#"{"type": "video", "path": "a.png", "num_frames": 8}"#, USAGE, "above its 1 frames"),
    (
        r#"{"type": "video", "path": "a.png", "num_frame": 8}"#,
        USAGE,
        "did you mean \"num_frames\"?",
    ),
];

#[test]
fn a_broken_media_part_is_named() {
    let model = good();
    let file = model.path().join("m.json");
    image::RgbImage::new(30, 30).save(model.path().join("a.png")).unwrap();
    image::RgbImage::new(30, 31).save(model.path().join("b.png")).unwrap();
    let (path, output) = (file.display().to_string(), model.path().join("o").display().to_string());
    for (part, status, reason) in MEDIA {
        fs::write(&file, format!(r#"[{{"role": "user", "content": [{part}]}}]"#)).unwrap();
        let arguments = ["process", "--messages", &path, "--output", &output];
        let done = program::run(&arguments, model.path());
        done.assert_status(*status);
        let said = done.said();
        assert!(said.contains("message 0, part 0: ") && said.contains(reason), "{part}: {said}");
    }
}

/// (file, content or none to remove it, exit status, what the message names)
const FILES: &[(&str, Option<&str>, u8, &str)] = &[
    ("config.json", None, INPUT, "config.json"),
    ("config.json", Some("{"), CHECKPOINT, "config.json"),
    ("tokenizer.json", Some("{}"), CHECKPOINT, "tokenizer.json is no tokenizer"),
    ("tokenizer.json", Some("[1, 2"), CHECKPOINT, "tokenizer.json is no tokenizer"),
    (
        "tokenizer.json",
        Some(r#"{"version": "1.0", "decoder": {"type": "\ud800"}, "model": {"type": "BPE"}}"#),
        CHECKPOINT,
        "tokenizer.json is no tokenizer",
    ),
    (
        "tokenizer.json",
        Some(
            r#"{"normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "AA"}]}}"#,
        ),
        USAGE,
        "a Precompiled normalizer",
    ),
    ("tokenizer_config.json", Some("[]"), CHECKPOINT, "tokenizer_config.json"),
    ("chat_template.json", Some("{"), CHECKPOINT, "chat_template.json"),
    ("chat_template.jinja", Some("{% for"), CHECKPOINT, "the chat template fails: syntax error"),
    ("chat_template.jinja", Some("{{ f() }}"), CHECKPOINT, "unknown function: f is unknown"),
    (
        "chat_template.jinja",
        Some("{{ messages | length }}{{ messages[0].content | upper }}"),
        CHECKPOINT,
        "the chat template changes the text",
    ),
    (
        "chat_template.jinja",
        Some("{{ messages[0].role }}"),
        CHECKPOINT,
        "message 0: the chat template inserts this text 0 times, not once",
    ),
    (
        "chat_template.jinja",
        Some(
            "{% set x = namespace(s='ab') %}{% for i in range(60) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s }}",
        ),
        CHECKPOINT,
        "the chat template fails",
    ),
    ("preprocessor_config.json", Some("3"), CHECKPOINT, "preprocessor_config.json"),
    (
        "preprocessor_config.json",
        Some(r#"{"do_center_crop": true}"#),
        CHECKPOINT,
        "do_center_crop is true, expected false",
    ),
];

#[test]
fn a_broken_file_of_a_checkpoint_is_named() {
    for (name, content, status, reason) in FILES {
        let model = good();
        let file = model.path().join("m.json");
        fs::write(&file, r#"[{"role": "user", "content": "hello"}]"#).unwrap();
        match content {
            Some(content) => fs::write(model.path().join(name), content).unwrap(),
            None => fs::remove_file(model.path().join(name)).unwrap(),
        }
        let path = file.display().to_string();
        let done = program::run(&["render", "--messages", &path], model.path());
        done.assert_status(*status);
        assert!(done.said().contains(reason), "{name} {content:?}: {}", done.said());
    }
}

#[test]
fn what_the_reference_passes_over_is_passed_where_messages_are_trusted() {
    let model = good();
    let file = model.path().join("m.json");
    let messages = r#"[{"role": "x", "content": [{"type": "audio"}, {"text": "a"}]}]"#;
    fs::write(&file, messages).unwrap();
    let path = file.display().to_string();
    let arguments = ["render", "--messages", &path, "--control-text", "trusted"];
    let done = program::run(&arguments, model.path());
    done.assert_status(0);
    assert!(done.said().contains("<|im_start|>x\na<|im_end|>"), "{}", done.said());
    // A role that the template names is known.
    fs::write(model.path().join("chat_template.jinja"), CHAT).unwrap();
    fs::write(&file, r#"[{"role": "developer", "content": "a"}]"#).unwrap();
    let done = program::run(&["render", "--messages", &path], model.path());
    done.assert_status(0);
    assert!(done.said().contains("D:a"), "{}", done.said());
}

const CHAT: &str = "{% for m in messages %}{% if m.role == 'developer' %}D:{% endif %}\
    {{ m.content }}{% endfor %}";

/// Each takes all the memory that its steps buy.
const GREEDY: &[&str] = &[
    "{% set x = namespace(s='ab') %}{% for i in range(60) %}{% set x.s = x.s ~ x.s %}{% endfor %}\
     {{ x.s }}",
    "{% set x = namespace(l=[0]) %}{% for i in range(60) %}{% set x.l = (x.l + x.l) | list %}\
     {% endfor %}{{ x.l | length }}",
    "{{ ('ab' * 49000000) | length }}",
    "{% for i in range(99999) %}{% set a = 'x' * 9999 %}{{ a }}{% endfor %}",
    "{% set x = namespace(s='') %}{% for i in range(99999) %}{% set x.s = x.s ~ 'abcdefgh' %}\
     {% endfor %}{{ x.s }}",
];

#[test]
fn a_hostile_template_takes_no_memory() {
    let model = good();
    let file = model.path().join("m.json");
    fs::write(&file, r#"[{"role": "user", "content": "hello"}]"#).unwrap();
    for source in GREEDY {
        fs::write(model.path().join("chat_template.jinja"), source).unwrap();
        // 192 MiB of addresses for everything, the program and its libraries included.
        let command = format!(
            "ulimit -v 196608; exec {} render {} --messages {}",
            env!("CARGO_BIN_EXE_qwen2vl"),
            model.path().display(),
            file.display()
        );
        let done = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(CHECKPOINT.into()), "{source}: {said}");
        assert!(said.contains("the chat template fails"), "{source}: {said}");
    }
}

#[test]
fn ids_of_config_and_tokenizer_must_agree() {
    let model = good();
    let file = model.path().join("config.json");
    let config = fs::read_to_string(&file).unwrap();
    let other = config.replace("\"image_token_id\": 693", "\"image_token_id\": 692");
    assert_ne!(config, other, "the demo's id changed");
    fs::write(&file, other).unwrap();
    let error = Processor::from_dir(model.path()).unwrap_err();
    assert!(matches!(error, PromptError::TokenId { key: "image_token_id", .. }), "{error}");
    let message =
        "config.json has image_token_id = 692, but the tokenizer has 693 for <|image_pad|>";
    assert_eq!((error.to_string().as_str(), error.code()), (message, "checkpoint_invalid"));
}

#[test]
fn json_of_any_depth_is_read_or_refused() {
    for depth in [100, 127, 128, 100_000] {
        let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let got = Conversations::from_json(text.as_bytes(), Path::new(""));
        assert!(got.is_err(), "{depth}");
    }
}
