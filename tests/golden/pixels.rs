//! Pictures: decoded, resized, normalised, cut into patches, and the ids that stand for them.

use std::fs;

use qwen2vl::{
    media::{self, Frames, Limits, Resizer, Size},
    model::checkpoint::TensorFile,
    prompt::{
        ControlText, Conversations, MediaInput, ProcessOptions, Processed, Processor, PromptError,
        RenderOptions,
    },
    units::TokenId,
};
use serde_json::{Value, json};

use crate::sha256::sha256;
use crate::support::checkpoint::{golden_cases, goldens, model_folder, not_yet};

/// The product's processor for a case, with its flags.
pub(super) fn processor(document: &Value, case: &Value, resizer: Resizer) -> Processor {
    let mut spec = document["model"].clone();
    spec["preprocessor_config"] = case["preprocessor_config"].clone();
    let folder = model_folder(&spec);
    let flag = |name: &str| case["flags"][name].as_u64();
    let processor = Processor::from_dir(folder.path()).unwrap().with_resizer(resizer);
    processor.with_pixels(flag("min_pixels"), flag("max_pixels")).unwrap()
}

/// Its conversations, whose paths are relative to a kind of goldens.
pub(super) fn process(
    processor: &Processor,
    case: &Value,
    kind: &str,
) -> Result<Vec<Processed>, PromptError> {
    let folder = goldens().join(kind);
    let messages = case["messages"].to_string();
    let conversations = Conversations::from_json(messages.as_bytes(), &folder)?;
    let render = RenderOptions {
        add_generation_prompt: true,
        add_vision_id: case["flags"]["add_vision_id"] == true,
        ..RenderOptions::default()
    };
    let options = ProcessOptions { render, control_text: ControlText::Trusted };
    let list = conversations.list.iter().enumerate();
    list.map(|(index, conversation)| processor.process(index, conversation, options)).collect()
}

/// `[height, width, 3]` of one frame, from the planes that the device gets.
fn interleaved(frames: &Frames) -> Vec<u8> {
    let Size { height, width } = frames.size();
    let at = |y: usize, x: usize, c: usize| {
        frames.data()[c * frames.plane_bytes() + y * frames.row_pitch() + x]
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    pixels.flat_map(|(y, x)| [0, 1, 2].map(|c| at(y, x, c))).collect()
}

pub(super) fn ids(ids: &[TokenId]) -> Vec<u32> {
    ids.iter().map(|id| id.0).collect()
}

pub(super) fn grids(images: &[&MediaInput]) -> Value {
    json!(images.iter().map(|i| [i.used.grid.t, i.used.grid.h, i.used.grid.w]).collect::<Vec<_>>())
}

pub(super) fn pixel_values(processor: &Processor, images: &[&MediaInput]) -> Vec<f32> {
    images.iter().flat_map(|medium| processor.pixel_values(medium).unwrap()).collect()
}

#[test]
fn pictures_and_ids_are_the_references() {
    let document = golden_cases("pixels");
    let mut ran = 0;
    for case in document["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut checked = 0;
        for (which, resizer) in [("torchvision", Resizer::Torchvision), ("pillow", Resizer::Pillow)]
        {
            if let Some(expected) = case.get(which) {
                check_picture(&document, case, expected, (which, resizer));
                checked += 1;
            }
        }
        if case.get("process").is_some() {
            check_batch(&document, case);
            checked += 1;
        }
        assert!(checked > 0, "{name} is neither run nor listed");
        ran += 1;
    }
    println!("pixels: {ran} cases run");
    assert!(not_yet("pixels").is_empty(), "every case runs");
}

fn check_picture(document: &Value, case: &Value, expected: &Value, rule: (&str, Resizer)) {
    let label = format!("{} {}", case["name"], rule.0);
    let processor = processor(document, case, rule.1);
    let done = process(&processor, case, "pixels");
    if expected.get("skip").is_some() {
        // What the reference cannot do: torchvision has no such filter here either; the others work.
        let has_no_filter = label.contains("filter");
        assert_eq!(done.is_err(), has_no_filter, "{label}");
        return;
    }
    if let Some(error) = expected.get("error") {
        let got = done.expect_err(&label);
        assert!(matches!(got, PromptError::Media { .. }), "{label}: {got:?}, not {error}");
        return;
    }
    let rows = done.unwrap_or_else(|error| panic!("{label}: {error}: {error:?}"));
    let images: Vec<&MediaInput> = rows.iter().flat_map(Processed::images).collect();
    assert_eq!(grids(&images), expected["grid"], "{label}");
    let found: Vec<_> = rows.iter().map(|row| ids(&row.input_ids)).collect();
    assert_eq!(json!(found), expected["ids"], "{label}");
    for (index, image) in images.iter().enumerate() {
        let digest = sha256(&interleaved(&image.prepared.as_ref().unwrap().frames));
        let want = expected["u8"][index]["sha256"].as_str().unwrap();
        assert_eq!(digest, want, "{label}: resized picture {index}");
    }
    check_values(&processor, &images, case, expected, (rule.0, &label));
}

/// The rows that are stored of `pixel_values`, bit for bit; of every case mean and deviation.
fn check_values(
    processor: &Processor,
    images: &[&MediaInput],
    case: &Value,
    expected: &Value,
    (which, label): (&str, &str),
) {
    let values = pixel_values(processor, images);
    let width = processor.preprocessor().row_values();
    assert_eq!(json!([values.len() / width, width]), expected["shape"], "{label}");
    let count = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count;
    for (found, key) in [(mean, "mean"), (variance.sqrt(), "std")] {
        let want = expected[key].as_f64().unwrap();
        assert!(
            (found - want).abs() <= 1e-5 * want.abs().max(1.0),
            "{label}: {key} {found}, {want}"
        );
    }
    let file = goldens().join("pixels").join(case["file"].as_str().unwrap());
    if !file.exists() {
        return;
    }
    let stored = TensorFile::open(&file).unwrap();
    let tensor = stored.tensor(&format!("{which}/pixel_values")).unwrap();
    // Bytes where nothing was normalised.
    let Ok(want) = tensor.to_f32() else { return };
    let rows: Vec<usize> = match expected.get("rows") {
        Some(rows) => serde_json::from_value(rows.clone()).unwrap(),
        None => (0..values.len() / width).collect(),
    };
    let found: Vec<f32> =
        rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect();
    assert_eq!(found.len(), want.len(), "{label}");
    for (index, (found, want)) in found.iter().zip(&want).enumerate() {
        assert_eq!(found.to_bits(), want.to_bits(), "{label}: value {index}: {found}, {want}");
    }
}

/// A batch or several turns: padded ids, masks, grids, and the mean of each row of pixels.
fn check_batch(document: &Value, case: &Value) {
    let name = &case["name"];
    let processor = processor(document, case, Resizer::Torchvision);
    let rows = process(&processor, case, "pixels").unwrap();
    let batch = processor.pad(&rows).unwrap();
    let expected = &case["process"];
    let lines = |values: Vec<u32>| json!(values.chunks(batch.columns).collect::<Vec<_>>());
    assert_eq!(lines(ids(&batch.input_ids)), expected["input_ids"], "{name}");
    let mask = batch.attention_mask.iter().map(|mask| u32::from(*mask)).collect();
    assert_eq!(lines(mask), expected["attention_mask"], "{name}");
    let images: Vec<&MediaInput> = rows.iter().flat_map(Processed::images).collect();
    let videos: Vec<&MediaInput> = rows.iter().flat_map(Processed::videos).collect();
    for (media, grid, pixels) in [
        (images, "image_grid_thw", "pixel_values"),
        (videos, "video_grid_thw", "pixel_values_videos"),
    ] {
        check_media(&processor, &media, [expected.get(grid), expected.get(pixels)], name);
    }
}

/// Grids, and the mean of each row of pixels; none where the reference returns none.
fn check_media(
    processor: &Processor,
    media: &[&MediaInput],
    expected: [Option<&Value>; 2],
    name: &Value,
) {
    let [Some(expected_grids), Some(pixels)] = expected else {
        assert!(media.is_empty(), "{name}");
        return;
    };
    assert_eq!(grids(media), *expected_grids, "{name}");
    let means: Vec<f64> = serde_json::from_value(pixels["row_means"].clone()).unwrap();
    let values = pixel_values(processor, media);
    let rows = values.chunks(processor.preprocessor().row_values());
    assert_eq!(rows.len(), means.len(), "{name}");
    for (row, want) in rows.zip(means) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / row.len() as f64;
        assert!((mean - want).abs() < 1e-5, "{name}: {mean}, {want}");
    }
}

#[test]
fn decoded_pictures_are_the_references() {
    let (mut ran, mut near) = (0, Vec::new());
    let document = golden_cases("pixels");
    for case in document["cases"].as_array().unwrap() {
        let messages = case["messages"].as_array().unwrap();
        let parts = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
        let paths: Vec<&str> = parts.filter_map(|part| part["path"].as_str()).collect();
        let Some(digests) = case.get("rgb").and_then(Value::as_array) else { continue };
        for (path, digest) in paths.iter().zip(digests) {
            let bytes = fs::read(goldens().join("pixels").join(path)).unwrap();
            let picture = media::decode(&bytes, &Limits::default()).unwrap();
            let size = picture.size();
            assert_eq!(json!([size.height, size.width, 3]), digest["shape"], "{path}");
            assert_eq!(media::probe(&bytes, &Limits::default()).unwrap(), size, "{path}");
            if sha256(picture.data()) != digest["sha256"].as_str().unwrap() {
                near.push(*path);
            }
            ran += 1;
        }
    }
    println!("pixels: {ran} pictures decoded");
    assert!(ran > 80);
    assert_eq!(near, [""; 0], "pixels differ from Pillow's");
}
