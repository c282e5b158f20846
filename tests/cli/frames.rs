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
    ] {
        let output = frames(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
