//! `frames` as a user runs it.

use std::process::{Command, Output};

use serde_json::{Value, json};

fn frames(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
    command.arg("frames").args(arguments).output().unwrap()
}

fn document(arguments: &[&str]) -> Value {
    let output = frames(&[arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn indices_stand_alone_on_standard_output() {
    let output = frames(&["--total", "10", "--source-fps", "30", "--num-frames", "5"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\n2\n5\n7\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn json_has_the_times_of_the_frames() {
    let got = document(&["--total", "100", "--source-fps", "25", "--fps", "1"]);
    assert_eq!(got["indices"], json!([0, 25, 50, 75]));
    assert_eq!(got["timestamps"], json!([0.0, 1.0, 2.0, 3.0]));
    assert_eq!(document(&["--total", "2"])["timestamps"], Value::Null);
    let cut = ["--total", "100", "--source-fps", "25", "--fps", "1", "--start", "2", "--end", "3"];
    assert_eq!(document(&cut)["indices"], json!([50, 56, 63, 69]), "min_frames is 4");
}

fn demo(name: &str) -> String {
    format!("{}/assets/demo/media/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_file_or_a_folder_says_how_many_frames_it_has() {
    let got = document(&[&demo("clip_gif.gif")]);
    assert_eq!((&got["total"], &got["indices"]), (&json!(6), &json!([0, 1, 2, 3, 4, 5])));
    assert_eq!(got["source_fps"], 6.0 / 0.72, "12 hundredths of a second each");
    let folder = document(&[&demo("clip_frames_odd_frames"), "--num-frames", "4"]);
    assert_eq!((&folder["total"], &folder["indices"]), (&json!(5), &json!([0, 1, 2, 3])));
    assert_eq!(folder["timestamps"], Value::Null);
    let timed = document(&[&demo("clip_frames_odd_frames"), "--source-fps", "2", "--start", "1"]);
    assert_eq!(timed["timestamps"], json!([1.0, 1.5, 2.0]));
}

#[test]
fn what_cannot_be_sampled_is_refused() {
    for (arguments, status) in [
        (&["--total", "1", "--source-fps", "30", "--fps", "1"][..], 2),
        (&["--total", "9", "--fps", "1"], 2),
        (&["--total", "9", "--source-fps", "30", "--fps", "1", "--num-frames", "4"], 2),
        (&["--total", "9", "--source-fps", "30", "--num-frames", "12"], 2),
        (&["--total", "9", "--source-fps", "0", "--fps", "1"], 2),
        (&["--total", "9000000", "--source-fps", "30"], 3),
        (&["--source-fps", "30"], 2),
        (&["a.gif", "--total", "9"], 2),
        (&["no-such.gif"], 3),
    ] {
        let output = frames(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
