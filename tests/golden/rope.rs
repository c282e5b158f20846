//! M-RoPE positions and rotary tables through the library.

use std::path::Path;

use qwen2vl::{
    model::{
        checkpoint::TensorFile,
        config::{ConfigError, ModelConfig},
        positions::{self, Grids},
        rope::{Rope, RopeBlocks, RopePlace, RopeState},
    },
    units::{GridThw, TokenId},
};
use serde_json::{Value, json};

use crate::support::checkpoint::{golden_cases, goldens};

pub(crate) fn config_of(value: &Value) -> Result<ModelConfig, ConfigError> {
    ModelConfig::parse(value.to_string().as_bytes(), Path::new("config.json"))
}

fn rows(value: &Value) -> Vec<Vec<i64>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn grids(inputs: &Value, name: &str) -> Option<Vec<GridThw>> {
    let list = inputs.get(name)?;
    let sides = |row: &Vec<i64>| row.iter().map(|side| usize::try_from(*side).unwrap()).collect();
    let grid = |row: &Vec<i64>| {
        let sides: Vec<usize> = sides(row);
        GridThw { t: sides[0], h: sides[1], w: sides[2] }
    };
    Some(rows(&list["ids"]).iter().map(grid).collect())
}

#[test]
fn positions_and_deltas_are_the_references() {
    let document = golden_cases("rope");
    let config = config_of(&document["model"]["config"]).unwrap();
    let cases = document["cases"].as_array().unwrap();
    assert!(cases.len() >= 64);
    for case in cases {
        check_positions(&config, case);
    }
}

pub(crate) fn check_positions(config: &ModelConfig, case: &Value) {
    let (name, inputs) = (&case["name"], &case["inputs"]);
    let ids = rows(&inputs["input_ids"]["ids"]);
    let mask: Vec<Vec<bool>> = match inputs.get("attention_mask") {
        Some(mask) => rows(&mask["ids"])
            .iter()
            .map(|row| row.iter().map(|held| *held == 1).collect())
            .collect(),
        None => ids.iter().map(|row| vec![true; row.len()]).collect(),
    };
    let sequences: Vec<Vec<TokenId>> = ids
        .iter()
        .zip(&mask)
        .map(|(ids, mask)| {
            let held = ids.iter().zip(mask).filter(|(_, held)| **held);
            held.map(|(id, _)| TokenId(u32::try_from(*id).unwrap())).collect()
        })
        .collect();
    let (images, videos) = (grids(inputs, "image_grid_thw"), grids(inputs, "video_grid_thw"));
    let seconds: Option<Vec<f64>> = inputs
        .get("second_per_grid_ts")
        .map(|tensor| serde_json::from_value(tensor["f32"].clone()).unwrap());
    let given = (images.is_some() || videos.is_some()).then_some(Grids {
        images: images.as_deref().unwrap_or_default(),
        videos: videos.as_deref().unwrap_or_default(),
        seconds: seconds.as_deref(),
    });
    let placed = positions::batch(config, &sequences, given);
    let placed = placed.unwrap_or_else(|error| panic!("{name}: {error}"));
    let (found, deltas) = positions::padded(&placed, &mask.concat());
    let expected: Vec<Vec<Vec<i64>>> =
        serde_json::from_value(case["position_ids"].clone()).unwrap();
    // Padding has position 1 in the reference too.
    assert_eq!(found, expected.concat().concat(), "{name}");
    assert_eq!(deltas, rows(&case["rope_deltas"]).concat(), "{name}");
}

/// The tables of the spec's section 7.1, with M = 2: (ids, mask, images, videos, positions, delta).
#[test]
fn the_worked_examples_hold() {
    let config = config_of(&golden_cases("rope")["model"]["config"]).unwrap();
    let text = |count| vec![TokenId(5); count];
    let group = |mark: TokenId, count| {
        [vec![config.tokens.start], vec![mark; count], vec![config.tokens.end]].concat()
    };
    let (image, video) = (config.tokens.image, config.tokens.video);
    let picture = [GridThw { t: 1, h: 4, w: 6 }];
    let clip = [GridThw { t: 2, h: 4, w: 4 }];
    let ids = [text(1), group(image, 6), group(video, 8), text(1)].concat();
    let grids = Grids { images: &picture, videos: &clip, seconds: None };
    let placed = positions::sequence(&config, &ids, grids).unwrap();
    let axes = [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7, 7, 7, 7, 8, 8, 8, 8, 9, 10],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 7, 8, 8, 7, 7, 8, 8, 9, 10],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 7, 8, 7, 8, 7, 8, 9, 10],
    ];
    assert_eq!(placed.axes.each_ref().map(Vec::as_slice), axes.each_ref().map(|a| &a[..]));
    assert_eq!((placed.next, placed.delta(ids.len())), (11, -9));
    // Ours: a row with one token and padding counts its real tokens.
    assert_eq!(positions::text(1).unwrap().delta(4), -3);
}

/// Frequencies may be one step off the reference's power function; cosine and sine then differ by
/// that step times the position, and by one rounding.
#[test]
fn rotary_tables_are_the_references() {
    let document = golden_cases("rope");
    let file = TensorFile::open(&goldens().join("rope/tables.safetensors")).unwrap();
    let values = |name: String| file.tensor(&name).unwrap().to_f32().unwrap();
    let cases = document["tables"].as_array().unwrap();
    assert!(cases.len() >= 11);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let config = config_of(&table_config(&document, &case["config"]));
        let config = config.unwrap_or_else(|error| panic!("{name}: {error}"));
        let rope = Rope::new(&config.text);
        let scaling: f32 = serde_json::from_value(case["attention_scaling"].clone()).unwrap();
        assert_eq!(rope.attention_scaling(), scaling, "{name}");
        let positions: Vec<usize> = rows(&case["positions"])
            .concat()
            .iter()
            .map(|position| usize::try_from(*position).unwrap())
            .collect();
        let most = positions.iter().max().unwrap() + 1;
        let state = rope.state(most);
        let frequencies = rope.frequencies(state);
        let expected = values(format!("{name}/inv_freq"));
        assert_eq!(frequencies.len(), expected.len());
        for (j, (found, expected)) in frequencies.iter().zip(&expected).enumerate() {
            let steps = found.to_bits().abs_diff(expected.to_bits());
            assert!(steps <= 2, "{name}: frequency {j} is {found}, not {expected}");
        }
        let (cos, sin) = (values(format!("{name}/cos")), values(format!("{name}/sin")));
        let table = rope.table(state, most);
        for (row, position) in positions.iter().enumerate() {
            for (j, frequency) in frequencies.iter().enumerate() {
                let at = (position * frequencies.len() + j) * 2;
                let angle = *position as f32 * frequency;
                let limit = (2.0 * angle + 2.0) * f32::EPSILON * scaling;
                for (found, expected) in [(table[at], &cos), (table[at + 1], &sin)] {
                    let expected = expected[row * frequencies.len() + j];
                    let error = (found - expected).abs();
                    assert!(error <= limit, "{name}: position {position}, {j}: off by {error}");
                }
            }
        }
    }
}

/// docs/spec.md, section 10: lengths of passes and the state that each leaves type dynamic in, for
/// 512 positions, when they are a sequence's own.
#[test]
fn a_stateful_type_follows_the_length_of_a_pass() {
    let document = golden_cases("rope");
    let of_table = |name: &str| {
        let cases = document["tables"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == name).unwrap();
        let mut text = case["config"].clone();
        text["max_position_embeddings"] = json!(512);
        Rope::new(&config_of(&table_config(&document, &text)).unwrap().text)
    };
    let dynamic = of_table("dynamic-short");
    let states = [11, 512, 513, 1001].map(|length| dynamic.state(length));
    let length = RopeState::Length;
    assert_eq!(states, [RopeState::Base, RopeState::Base, length(513), length(1001)]);
    assert_ne!(dynamic.frequencies(length(513)), dynamic.frequencies(length(1001)));
    let longrope = of_table("longrope-short");
    let states = [512, 513, 900].map(|length| longrope.state(length));
    assert_eq!(states, [RopeState::Base, RopeState::Long, RopeState::Long]);
    for (rope, rows) in [(dynamic, 1800), (longrope, 1200)] {
        let mut blocks = RopeBlocks::new(rope.clone(), 600, 2);
        assert_eq!(blocks.total_rows(), rows);
        let mut values = blocks.values();
        assert_eq!(values.len(), rows * 128);
        let row = |values: &[f32], row: usize| values[row * 128..(row + 1) * 128].to_vec();
        let in_state = |length: usize, position: usize| {
            let table = rope.table(rope.state(length), position + 1);
            table[position * 128..].to_vec()
        };
        // A decoding row is in the state of the pass that ends with it.
        assert_eq!(row(&values, 511), in_state(512, 511));
        assert_eq!(row(&values, 515), in_state(516, 515));
        // A short prompt needs no block, a long one has all rows in one state.
        let short = blocks.place(1, 512).unwrap();
        assert_eq!(short, RopePlace { first_row: 0, missing: None });
        let long = blocks.place(1, 520).unwrap();
        if let Some(missing) = long.missing {
            assert_eq!(missing.len(), 520 * 128);
            values[long.first_row * 128..][..missing.len()].copy_from_slice(&missing);
        }
        assert_eq!(row(&values, long.first_row + 100), in_state(520, 100));
        assert_ne!(row(&values, long.first_row + 100), row(&values, 100));
        // What is written stays for the next prompt of the same state.
        let again = RopePlace { first_row: long.first_row, missing: None };
        assert_eq!((blocks.place(1, 520), blocks.place(0, 601)), (Some(again), None));
    }
}

/// A whole `config.json` with the text settings of a table.
fn table_config(document: &Value, text: &Value) -> Value {
    let mut config = document["model"]["config"].clone();
    let config = config.as_object_mut().unwrap();
    config.extend(text.as_object().unwrap().clone());
    let mut vision = config["vision_config"].clone();
    vision["hidden_size"] = json!(config["hidden_size"]);
    config.insert("vision_config".into(), vision);
    Value::Object(config.clone())
}
