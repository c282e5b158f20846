//! `qwen2vl chat` behind a pipe.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const TRIANGLE: &str = "A yellow triangle is to the left of a red star on a cyan background.";

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo")
}

/// Runs the program with these lines on its standard input.
fn chat(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
    command.current_dir(demo()).args(["chat", "model", "--max-model-len", "512"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.env_remove("QWEN2VL_MODEL").spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_ref()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn turns_with_media_are_answered_in_order_and_alone_on_standard_output() {
    let input = "/image media/pair.png\nDescribe this image.\n\n/reset\n/image media/pair.png\n\
                 Describe this image.\n/quit\nnever read\n";
    let output = chat(&[], input);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), format!("{TRIANGLE}\n{TRIANGLE}\n"));
    let notes = text(&output.stderr);
    assert!(notes.contains("(the conversation is forgotten)"), "{notes}");
    // After a reset the prompt is as long as at first.
    assert_eq!(notes.matches("prompt tokens 49, new tokens 17").count(), 2, "{notes}");
    let quiet = chat(&["-q"], input);
    assert_eq!((text(&quiet.stdout), text(&quiet.stderr)), (text(&output.stdout), ""));
}

#[test]
fn a_turn_sees_those_before_it_and_undo_takes_them_back() {
    let input = "/image media/pair.png\nDescribe this image.\nHello!\n/undo\nHello!\n/tokens\n";
    let output = chat(&["--jsonl"], input);
    let documents: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(documents.len(), 3);
    assert_eq!(documents[0]["text"], TRIANGLE);
    let prompt = |i: usize| documents[i]["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt(1) > prompt(0) + 17, "the first turn and its answer are in the second prompt");
    assert_eq!(documents[2]["token_ids"], documents[1]["token_ids"], "undone and asked again");
    assert_eq!(
        (&documents[1]["schema"], &documents[1]["type"]),
        (&json!("qwen2vl.chat/1"), &json!("answer"))
    );
    assert!(text(&output.stderr).contains("tokens of 512; 2 turns)"), "{}", text(&output.stderr));
}

#[test]
fn a_saved_conversation_is_what_generate_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved.json");
    let input = format!(
        "/system You answer in one sentence.\n/image media/pair.png\nDescribe this image.\n\
         /regen\n/save {}\n",
        file.display()
    );
    let output = chat(&["--greedy"], input);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answers: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!((answers.len(), answers[0]), (2, answers[1]));
    let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let roles: Vec<&str> =
        saved.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    assert_eq!(saved[2]["content"], answers[0]);
    let asked = folder.path().join("asked.json");
    fs::write(&asked, json!([saved[0], saved[1]]).to_string()).unwrap();
    let generate = Command::new(env!("CARGO_BIN_EXE_qwen2vl"))
        .current_dir(demo())
        .args(["generate", "model", "--greedy", "--max-model-len", "512", "--messages"])
        .arg(&asked)
        .output()
        .unwrap();
    assert_eq!(text(&generate.stdout).trim_end(), answers[0]);
}

#[test]
fn a_line_that_fails_is_reported_and_the_chat_goes_on() {
    for (line, code, says) in [
        (&b"/image no-such-file.png"[..], "io", "no-such-file.png"),
        (b"/image", "invalid_request", "/image FILE"),
        (b"/sing a song", "invalid_request", "/help lists them"),
        (b"/undo", "invalid_request", "no turn"),
        (b"/regen", "invalid_request", "no question"),
        (b"/quit now", "invalid_request", "/quit takes nothing"),
        (b"\xff\xfe", "invalid_request", "UTF-8"),
        (b"/image media\nWhat is this?", "io", "media"),
    ] {
        let input = [line, b"\n/image media/pair.png\nDescribe this image."].concat();
        let output = chat(&["--jsonl"], input);
        let lines: Vec<Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let label = String::from_utf8_lossy(line);
        assert_eq!(lines.len(), 2, "{label}: {lines:?}");
        assert_eq!(lines[0]["type"], "error", "{label}");
        assert_eq!(lines[0]["code"], code, "{label}: {}", lines[0]);
        assert!(lines[0]["message"].as_str().unwrap().contains(says), "{label}: {}", lines[0]);
        assert_eq!(lines[1]["text"], TRIANGLE, "{label}");
        assert!(text(&output.stderr).contains(&format!("error[{code}]")), "{label}");
        assert!(output.status.code().is_some_and(|code| code != 0 && code < 100), "{label}");
    }
}

#[test]
fn a_question_may_begin_with_a_slash_and_help_names_every_command() {
    let output = chat(&["-n", "1"], "//image\n/help\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 1);
    for command in ["image", "video", "system", "reset", "undo", "regen", "tokens", "save", "quit"]
    {
        assert!(text(&output.stderr).contains(&format!("/{command}")), "{command}");
    }
    let refused = chat(&["--json"], "");
    assert_eq!(refused.status.code(), Some(2));
}
