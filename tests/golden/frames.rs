//! Videos: which frames are taken, and what becomes of them.

use std::fs;

use qwen2vl::{
    media::{FrameSampling, Resizer},
    model::checkpoint::TensorFile,
    prompt::{MediaInput, Processed, PromptError},
};
use serde_json::{Value, json};

use crate::pixels::{grids, ids, pixel_values, process, processor};
use crate::support::checkpoint::{golden_cases, goldens};

#[test]
fn sampled_frames_are_the_references() {
    let table = fs::read(goldens().join("frames/table.json")).unwrap();
    let table: Value = serde_json::from_slice(&table).unwrap();
    let (mut sampled, mut refused) = (0, 0);
    for row in table["rows"].as_array().unwrap() {
        let whole = |column: usize| row[column].as_u64();
        let limits = FrameSampling::default();
        let sampling = FrameSampling {
            fps: row[2].as_f64(),
            num_frames: whole(3),
            min_frames: whole(4).unwrap_or(limits.min_frames),
            max_frames: whole(5).unwrap_or(limits.max_frames),
            ..limits
        };
        let total = usize::try_from(whole(0).unwrap()).unwrap();
        let patch = usize::try_from(whole(6).unwrap_or(2)).unwrap();
        let got = sampling.indices(total, row[1].as_f64(), patch);
        if row[7] == "TypeError" {
            // With neither a rate nor a number the reference fails, and all frames are taken here.
            assert_eq!(got.unwrap(), (0..total).collect::<Vec<_>>(), "{row}");
        } else if row[7].is_string() {
            assert!(got.is_err(), "{row}: {got:?}");
            refused += 1;
        } else {
            let want: Vec<usize> = serde_json::from_value(row[7].clone()).unwrap();
            assert_eq!(got.unwrap_or_else(|error| panic!("{row}: {error}")), want, "{row}");
            sampled += 1;
        }
    }
    println!("frames: {sampled} samplings, {refused} refusals");
    assert_eq!((sampled, refused), (1625, 344));
}

#[test]
fn videos_of_frame_files_are_the_references() {
    let document = golden_cases("frames");
    let mut ran = 0;
    for case in document["cases"].as_array().unwrap() {
        let name = &case["name"];
        let processor = processor(&document, case, Resizer::Torchvision);
        let done = process(&processor, case, "frames");
        ran += 1;
        if let Some(error) = case.get("error") {
            let got = done.expect_err("refused");
            assert!(matches!(got, PromptError::Media { .. }), "{name}: {got:?}, not {error}");
            continue;
        }
        let rows = done.unwrap_or_else(|error| panic!("{name}: {error}: {error:?}"));
        let found: Vec<_> = rows.iter().map(|row| ids(&row.input_ids)).collect();
        assert_eq!(json!(found), case["ids"], "{name}");
        let videos: Vec<&MediaInput> = rows.iter().flat_map(Processed::videos).collect();
        assert_eq!(grids(&videos), case["grid"], "{name}");
        if let Some(grid) = case.get("image_grid") {
            let images: Vec<&MediaInput> = rows.iter().flat_map(Processed::images).collect();
            assert_eq!(grids(&images), *grid, "{name}");
        }
        check_values(&pixel_values(&processor, &videos), case);
    }
    println!("frames: {ran} videos run");
    assert_eq!(ran, 16);
}

/// The rows that are stored, bit for bit, and the mean of every row.
fn check_values(values: &[f32], case: &Value) {
    let name = &case["name"];
    let width = usize::try_from(case["shape"][1].as_u64().unwrap()).unwrap();
    assert_eq!(json!([values.len() / width, width]), case["shape"], "{name}");
    let means: Vec<f64> = serde_json::from_value(case["row_means"].clone()).unwrap();
    for (row, want) in values.chunks(width).zip(means) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / row.len() as f64;
        assert!((mean - want).abs() < 1e-5, "{name}: {mean}, {want}");
    }
    let file = goldens().join("frames").join(case["file"].as_str().unwrap());
    let stored = TensorFile::open(&file).unwrap();
    let want = stored.tensor("pixel_values_videos").unwrap().to_f32().unwrap();
    let rows: Vec<usize> = serde_json::from_value(case["rows"].clone()).unwrap();
    let found = rows.iter().flat_map(|row| &values[row * width..][..width]);
    assert_eq!(rows.len() * width, want.len(), "{name}");
    for (index, (found, want)) in found.zip(&want).enumerate() {
        assert_eq!(found.to_bits(), want.to_bits(), "{name}: value {index}: {found}, {want}");
    }
}
