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

#[test]
fn a_size_is_asked_for_by_flags_and_beside_a_part() {
    let root = env!("CARGO_MANIFEST_DIR");
    let (model, image) =
        (format!("{root}/assets/demo/model"), format!("{root}/assets/demo/media/pair.png"));
    let clip = format!("{root}/assets/demo/media/clip_gif.gif");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.json").display().to_string();
    let parts = json!([
        { "type": "image", "path": image },
        { "type": "image", "path": image, "resized_height": 85, "resized_width": 200 },
        { "type": "video", "path": clip, "total_pixels": 24000, "min_pixels": 784, "num_frames": 4 },
    ]);
    std::fs::write(&file, json!([{ "role": "user", "content": parts }]).to_string()).unwrap();
    let media = |flags: &[&str]| -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
        let output = command.args(["tokens", &model, "--messages", &file, "--json"]).args(flags);
        let output = output.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let got: Value = serde_json::from_slice(&output.stdout).unwrap();
        got["media"].as_array().unwrap().clone()
    };
    let plain = media(&[]);
    assert_eq!(plain[0]["resized"], json!([168, 112]));
    assert_eq!(plain[1]["resized"], json!([196, 84]), "rounded to multiples of 28");
    // Two frames share the pixels of one: 24,000 * 2 / 4 a frame, within the budget of the model.
    assert_eq!((&plain[2]["max_pixels"], &plain[2]["min_pixels"]), (&json!(12_000), &json!(784)));
    assert_eq!(plain[2]["resized"], json!([84, 84]));
    assert_eq!(plain[2]["frames"]["num_frames"], 4);
    let flags = media(&["--resized-height", "112", "--resized-width", "140"]);
    assert_eq!(flags[0]["resized"], json!([140, 112]));
    assert_eq!(flags[1]["resized"], json!([196, 84]), "a part's own size stands before");
    let wide =
        media(&["--min-pixels", "28x28", "--max-pixels", "28x28", "--video-max-pixels", "12k"]);
    assert_eq!(wide[0]["resized"], json!([28, 28]));
    assert_eq!(wide[2]["resized"], json!([84, 84]), "bounds of pictures are not those of videos");
}
