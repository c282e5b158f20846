//! Sizes: smart_resize alone, and grids through the processor.

use std::fs;

use qwen2vl::{
    media::{PixelBudget, Size, smart_resize},
    prompt::{Conversation, Message, Part, ProcessOptions, Processor},
};

use crate::support::checkpoint::{golden_cases, goldens, model_folder};

#[test]
fn sizes_are_the_references() {
    let table = fs::read_to_string(goldens().join("resize/table.csv")).unwrap();
    let (mut sizes, mut refused) = (0, 0);
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |index: usize| fields[index].parse::<u64>().unwrap();
        let side = |index: usize| usize::try_from(number(index)).unwrap();
        let size = Size { height: side(0), width: side(1) };
        let budget = PixelBudget { min: number(3), max: number(4) };
        let got = smart_resize(size, side(2), budget);
        if fields[5].ends_with("Error") {
            assert!(got.is_err(), "{line}");
            refused += 1;
        } else {
            let expected = Size { height: side(5), width: side(6) };
            assert_eq!(got.unwrap_or_else(|error| panic!("{line}: {error}")), expected, "{line}");
            sizes += 1;
        }
    }
    println!("resize: {sizes} sizes, {refused} refusals");
    assert_eq!(sizes + refused, 4200);
}

#[test]
fn grids_of_plain_pictures_are_the_references() {
    let document = golden_cases("resize");
    let model = model_folder(&document["model"]);
    let pictures = tempfile::tempdir().unwrap();
    for case in document["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let sizes: Vec<Vec<u32>> = serde_json::from_value(case["sizes"].clone()).unwrap();
        let parts = sizes.iter().enumerate().map(|(i, size)| {
            let path = pictures.path().join(format!("{i}.png"));
            image::RgbImage::new(size[1], size[0]).save(&path).unwrap();
            Part::image_file(path)
        });
        let conversation = Conversation::new([Message::user(parts)]);
        let processor = Processor::from_dir(model.path()).unwrap();
        let (min, max) = (case["min_pixels"].as_u64(), case["max_pixels"].as_u64());
        let done = processor.with_pixels(min, max).map_err(|error| error.to_string()).and_then(
            |processor| {
                let done = processor.process(0, &conversation, ProcessOptions::default());
                done.map_err(|error| error.to_string())
            },
        );
        if !case["error"].is_null() {
            assert!(done.is_err(), "{name}: the reference refuses");
            continue;
        }
        let done = done.unwrap_or_else(|error| panic!("{name}: {error}"));
        let grids: Vec<_> =
            done.images().map(|i| (i.used.grid.t, i.used.grid.h, i.used.grid.w)).collect();
        let expected: Vec<_> =
            sizes.iter().map(|size| (1, size[2] as usize, size[3] as usize)).collect();
        assert_eq!(grids, expected, "{name}");
    }
}
