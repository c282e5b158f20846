//! `run`, `generate` and `forward` as a user types them, on the demo checkpoint.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo")
}

fn qwen2vl(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
    command.current_dir(demo()).args(arguments).env_remove("QWEN2VL_MODEL").output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn run_prints_the_answer_alone_and_sums_up_on_standard_error() {
    let output = qwen2vl(&["run", "model", "--image", "media/pair.png", "Describe this image."]);
    assert_eq!(
        text(&output.stdout),
        "A yellow triangle is to the left of a red star on a cyan background.\n"
    );
    let summary = text(&output.stderr).trim_end();
    assert!(
        summary.starts_with("(device: ") && summary.ends_with("image tokens 24, new tokens 17)")
    );
    assert_eq!(summary.lines().count(), 1, "{summary}");
    let quiet =
        qwen2vl(&["run", "model", "-q", "--image", "media/pair.png", "Describe this image."]);
    assert_eq!((text(&quiet.stdout), text(&quiet.stderr)), (text(&output.stdout), ""));
}

#[test]
fn run_gives_one_document_with_the_fields_of_its_contract() {
    let output =
        qwen2vl(&["run", "model", "--json", "--image", "media/pair.png", "Describe this image."]);
    let answer = document(&output);
    assert_eq!(answer["schema"], "qwen2vl.run/1");
    assert_eq!(answer["finish_reason"], "stop");
    assert_eq!(answer["token_ids"].as_array().unwrap().len(), 17);
    assert_eq!(
        answer["usage"],
        json!({ "prompt_tokens": 49, "text_tokens": 25, "image_tokens": 24, "video_tokens": 0, "completion_tokens": 17 })
    );
    for phase in ["load", "media", "vision", "prefill", "decode"] {
        assert!(answer["timings_ms"][phase].as_f64().unwrap() > 0.0, "{phase}");
    }
    assert!(answer["device"].is_string());
}

#[test]
fn run_answers_about_a_video_and_media_in_the_order_of_their_flags() {
    let clip = ["run", "model", "--json", "--video", "media/clip_gif.gif"];
    let question = "What happened in the video?";
    let answer = document(&qwen2vl(&[&clip[..], &[question]].concat()));
    let questions = fs::read(demo().join("questions.json")).unwrap();
    let questions: Value = serde_json::from_slice(&questions).unwrap();
    let cases = questions.as_array().unwrap();
    let case = cases.iter().find(|case| case["name"] == "clip_gif_video").unwrap();
    assert_eq!(answer["token_ids"], case["token_ids"]);
    assert_eq!(answer["usage"]["video_tokens"], 48);
    let used = &answer["media"][0];
    assert_eq!((&used["kind"], &used["grid_thw"]), (&json!("video"), &json!([3, 8, 8])));
    assert_eq!(used["frames"]["indices"], json!([0, 1, 2, 3, 4, 5]));
    assert_eq!(used["frames"]["timestamps"][5], 0.6);
    let mixed = ["--image", "media/pair.png", "--num-frames", "2", "-n", "1", question];
    let kinds = |arguments: &[&str]| -> Vec<Value> {
        let answer = document(&qwen2vl(arguments));
        answer["media"].as_array().unwrap().iter().map(|m| m["kind"].clone()).collect()
    };
    assert_eq!(kinds(&[&clip[..], &mixed].concat()), ["video", "image"]);
    let image_first = ["run", "model", "--json", "--image", "media/pair.png"];
    let then = ["--video", "media/clip_gif.gif", "-n", "1", question];
    assert_eq!(kinds(&[&image_first[..], &then].concat()), ["image", "video"]);
}

#[test]
fn every_compute_type_gives_the_same_answer() {
    let ask = ["run", "model", "--json", "--image", "media/pair.png", "Describe this image."];
    for (wish, dtype) in [("auto", "bf16"), ("bf16", "bf16"), ("f16", "f16"), ("f32", "f32")] {
        let output = qwen2vl(&[&ask[..], &["--dtype", wish]].concat());
        let answer = document(&output);
        assert_eq!(answer["dtype"], dtype);
        let expected = "A yellow triangle is to the left of a red star on a cyan background.";
        assert_eq!(answer["text"], expected, "{wish}");
        // The checkpoint is stored in bf16.
        let converted = text(&output.stderr).contains("were converted to");
        assert_eq!(converted, dtype != "bf16", "{wish}: {}", text(&output.stderr));
    }
}

#[test]
fn run_takes_the_checkpoint_in_each_documented_way() {
    let words = qwen2vl(&["run", "model", "Hello!"]);
    let flag = qwen2vl(&["run", "-m", "model", "Hello!"]);
    let variable = Command::new(env!("CARGO_BIN_EXE_qwen2vl"))
        .current_dir(demo())
        .args(["run", "Hello!"])
        .env("QWEN2VL_MODEL", "model")
        .output()
        .unwrap();
    assert!(words.status.success(), "{}", text(&words.stderr));
    assert_eq!(words.stdout, flag.stdout);
    assert_eq!(words.stdout, variable.stdout);
    let none = qwen2vl(&["run", "Hello!"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("run needs a checkpoint and a question"));
}

#[test]
fn tokens_stream_as_lines_whose_texts_are_the_answer() {
    let arguments =
        ["run", "model", "--jsonl", "--image", "media/pair.png", "Describe this image."];
    let output = qwen2vl(&arguments);
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (done, tokens) = lines.split_last().unwrap();
    assert_eq!(done["type"], "done");
    let streamed: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(streamed, done["text"].as_str().unwrap());
}

#[test]
fn a_list_of_conversations_is_a_batch_with_its_answers_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let media = demo().join("media");
    let picture = |name: &str| json!({ "type": "image", "path": media.join(name) });
    let ask = |parts: Vec<Value>| json!([{ "role": "user", "content": parts }]);
    let describe = || json!({ "type": "text", "text": "Describe this image." });
    let conversations = json!([
        ask(vec![picture("pair.png"), describe()]),
        [{ "role": "user", "content": "Hello!" }],
        ask(vec![picture("one_png.png"), describe()]),
    ]);
    let file = folder.path().join("messages.json");
    fs::write(&file, conversations.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let output = qwen2vl(&["generate", "model", "--messages", file, "--greedy", "--json"]);
    let answers = document(&output);
    let texts: Vec<&str> =
        answers.as_array().unwrap().iter().map(|a| a["text"].as_str().unwrap()).collect();
    assert_eq!(texts[0], "A yellow triangle is to the left of a red star on a cyan background.");
    assert_eq!(texts[2], "An orange circle on a gray background.");
    let lines = qwen2vl(&["generate", "model", "--messages", file, "--greedy", "--jsonl"]);
    assert_eq!(text(&lines.stdout).lines().count(), 3);
    fs::write(file, json!([conversations[1], ask(vec![picture("no-such.png")])]).to_string())
        .unwrap();
    let refused = qwen2vl(&["generate", "model", "--messages", file]);
    assert!(text(&refused.stderr).contains("conversation 1: "), "{}", text(&refused.stderr));
    // A batch of one is a list still, a conversation alone is an object.
    for (value, list) in [(json!([conversations[1]]), true), (conversations[1].clone(), false)] {
        fs::write(file, value.to_string()).unwrap();
        let output = qwen2vl(&["generate", "model", "--messages", file, "--greedy", "--json"]);
        assert_eq!(document(&output).is_array(), list);
    }
}

#[test]
fn process_writes_what_forward_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (messages, inputs, outputs) =
        (path("messages.json"), path("inputs.safetensors"), path("outputs.safetensors"));
    let picture = json!({ "type": "image", "path": demo().join("media/pair.png") });
    let conversation = json!([{ "role": "user", "content": [picture, { "type": "text", "text": "Describe this image." }] }]);
    fs::write(&messages, conversation.to_string()).unwrap();
    document(&qwen2vl(&[
        "process",
        "model",
        "--messages",
        &messages,
        "--output",
        &inputs,
        "--json",
    ]));
    let made = document(&qwen2vl(&[
        "forward",
        "model",
        "--inputs",
        &inputs,
        "--output",
        &outputs,
        "--hidden-states",
        "--json",
    ]));
    assert_eq!(made["tensors"]["logits"], json!([1, 49, 704]));
    assert_eq!(made["tensors"]["position_ids"], json!([3, 1, 49]));
    assert_eq!(made["tensors"]["vision/image/merger"], json!([24, 256]));
    assert_eq!(made["tensors"]["hidden_states/4"], json!([1, 49, 256]));
    // The first token of the answer is the best of the last row.
    let bytes = fs::read(&outputs).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    let row = &logits.data().as_chunks::<4>().0[48 * 704..];
    let value = |i: &usize| f32::from_le_bytes(row[*i]);
    let best = (0..704).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap();
    assert_eq!(best, 32, "\"A\" of the stored answer");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (arguments, code) in [
        (&["run", "model", "--max-new-tokens", "0", "Hello!"][..], "invalid_request"),
        (&["run", "model", "--image", "media/clip_h264.mp4", "Hello!"], "media_invalid"),
        (&["run", "no-such-folder", "Hello!"], "io"),
        (
            &[
                "run",
                "model",
                "--image",
                "media/pair.png",
                "--min-pixels",
                "1000000M",
                "--max-pixels",
                "1000000M",
                "Hello!",
            ],
            "limit_exceeded",
        ),
        (&["run", "model", "--max-model-len", "8", "Hello!"], "context_length_exceeded"),
    ] {
        let output = qwen2vl(&[arguments, &["--json"]].concat());
        let failed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(failed["error"]["code"], code, "{arguments:?}: {failed}");
        assert!(text(&output.stderr).contains(&format!("error[{code}]")), "{arguments:?}");
        assert!(matches!(output.status.code(), Some(2 | 3)), "{arguments:?}: {:?}", output.status);
    }
}

#[test]
fn a_budget_in_a_message_that_no_memory_holds_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages.json");
    let picture = json!({
        "type": "image", "path": demo().join("media/pair.png"),
        "min_pixels": 1_000_000_000_000u64, "max_pixels": 2_000_000_000_000u64,
    });
    fs::write(&file, json!([{ "role": "user", "content": [picture] }]).to_string()).unwrap();
    let file = file.to_str().unwrap();
    let output = folder.path().join("out.safetensors");
    for arguments in [
        &["generate", "model", "--messages", file][..],
        &["process", "model", "--messages", file, "--output", output.to_str().unwrap()],
        &["tokens", "model", "--messages", file],
    ] {
        let refused = qwen2vl(arguments);
        assert_eq!(refused.status.code(), Some(3), "{arguments:?}");
        let message = text(&refused.stderr);
        assert!(message.contains("error[limit_exceeded]"), "{arguments:?}: {message}");
    }
}

#[test]
fn an_output_is_written_through_a_link_and_a_failure_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let messages = path("messages.json");
    fs::write(&messages, json!([{ "role": "user", "content": "Hello!" }]).to_string()).unwrap();
    std::os::unix::fs::symlink(path("real.safetensors"), path("link.safetensors")).unwrap();
    let process = |output: &Path| {
        qwen2vl(&[
            "process",
            "model",
            "--messages",
            messages.to_str().unwrap(),
            "--output",
            output.to_str().unwrap(),
        ])
    };
    assert!(process(&path("link.safetensors")).status.success());
    assert!(path("link.safetensors").is_symlink());
    assert!(fs::metadata(path("real.safetensors")).unwrap().len() > 0);
    let nowhere = process(&path("no-such-folder/out.safetensors"));
    assert_eq!(nowhere.status.code(), Some(3));
    assert!(text(&nowhere.stderr).contains("error[io]"), "{}", text(&nowhere.stderr));
}
