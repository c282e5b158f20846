//! Real containers as a user gives them, where the machine has an ffmpeg.

use std::process::Command;

use serde_json::{Value, json};

use crate::support;

/// (file, frames, frames a second, what it is)
const CLIPS: &[(&str, usize, f64, &str)] = &[
    ("clip.webm", 15, 30000.0 / 1001.0, "VP9, times rounded to milliseconds"),
    ("clip.mkv", 15, 30000.0 / 1001.0, "the same stream in another box"),
    ("clip.mov", 10, 10.0, "H.264 with frames out of order"),
    ("vp8.webm", 10, 10.0, "packets that are no frames"),
];

#[test]
fn containers_say_how_many_frames_they_have_and_when() {
    let Some(ffmpeg) = support::ffmpeg() else { return };
    for (name, frames, fps, what) in CLIPS {
        let file = format!("{}/tests/data/video/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
        command.args(["frames", &file, "--num-frames", "4", "--json"]);
        let output = command.env("QWEN2VL_FFMPEG", &ffmpeg.program).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let got: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&got["total"], &got["source_fps"]), (&json!(frames), &json!(fps)), "{what}");
        let expected: Vec<usize> = (0..4).map(|i| i * frames / 4).collect();
        assert_eq!(got["indices"], json!(expected), "{what}");
    }
}
