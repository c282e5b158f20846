//! Qwen2.5-VL: forward passes, positions and the processor against the reference, and the engine
//! against the forward pass.

use qwen2vl::{
    engine::{Engine, ForwardInput, ForwardOptions, Request, Sampling, forward},
    media::Resizer,
    model::config::{ModelConfig, TimeRule},
    model::positions::{self, Grids},
    prompt::{ControlText, Conversations, MediaInput, Processed},
    units::{FloatType, GridThw, TokenId, Tokens},
};
use serde_json::{Value, json};

use crate::forward::{check, input, options};
use crate::pixels::{grids, ids, pixel_values, process, processor};
use crate::rope::{check_positions, config_of};
use crate::support::checkpoint::{golden_cases, goldens, model_folder};

/// The cases of a type; there are `count`.
fn cases<'a>(document: &'a Value, kind: &str, count: usize) -> Vec<&'a Value> {
    let all = document["cases"].as_array().unwrap().iter();
    let cases: Vec<&Value> = all.filter(|case| case["type"] == kind).collect();
    assert_eq!(cases.len(), count, "{kind}");
    cases
}

#[test]
fn forward_passes_are_within_tolerance() {
    let document = golden_cases("qwen25");
    let folder = model_folder(&document["model"]);
    let types = [FloatType::F32, FloatType::Bf16];
    for case in cases(&document, "forward", 7) {
        assert_eq!(check(folder.path(), case, "qwen25", &types), 2, "{}", case["name"]);
    }
}

#[test]
fn positions_and_deltas_are_the_references() {
    let document = golden_cases("qwen25");
    let config = config_of(&document["model"]["config"]).unwrap();
    for case in cases(&document, "rope", 14) {
        check_positions(&config, case);
    }
}

/// What the processor needs of the model: no weights.
fn folder_spec(document: &Value) -> Value {
    json!({ "model": { "config": document["model"]["config"], "tokenizer": "tokenizer" } })
}

#[test]
fn processed_media_are_the_references() {
    let document = golden_cases("qwen25");
    let spec = folder_spec(&document);
    for case in cases(&document, "process", 3) {
        let (name, want) = (&case["name"], &case["process"]);
        let processor = processor(&spec, case, Resizer::Torchvision);
        let rows = process(&processor, case, "qwen25").unwrap();
        let found: Vec<_> = rows.iter().map(|row| ids(&row.input_ids)).collect();
        assert_eq!(json!(found), want["input_ids"], "{name}");
        let images: Vec<&MediaInput> = rows.iter().flat_map(Processed::images).collect();
        let videos: Vec<&MediaInput> = rows.iter().flat_map(Processed::videos).collect();
        for (media, grid, values) in [
            (&images, "image_grid_thw", "pixel_values"),
            (&videos, "video_grid_thw", "pixel_values_videos"),
        ] {
            assert_eq!(media.is_empty(), want[grid].is_null(), "{name}: {grid}");
            if media.is_empty() {
                continue;
            }
            assert_eq!(grids(media), want[grid], "{name}: {grid}");
            let pixels = pixel_values(&processor, media);
            let width = usize::try_from(want[values]["shape"][1].as_u64().unwrap()).unwrap();
            let means = want[values]["row_means"].as_array().unwrap();
            assert_eq!(pixels.len(), means.len() * width, "{name}: {values}");
            for (row, want) in pixels.chunks(width).zip(means) {
                let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64;
                assert!((mean - want.as_f64().unwrap()).abs() < 2e-3, "{name}: {mean}, {want}");
            }
        }
        let frames = videos.iter().filter_map(|video| video.used.frames.as_ref());
        let seconds: Vec<f64> = frames.map(|frames| frames.seconds_per_group).collect();
        let wanted = want["second_per_grid_ts"].as_array().cloned().unwrap_or_default();
        assert_eq!(json!(seconds), Value::Array(wanted), "{name}: second_per_grid_ts");
    }
}

/// docs/spec.md, section 16.3: (seconds, rule, times of the frames, next position).
#[test]
fn seconds_are_cut_before_or_after_the_product() {
    let document = golden_cases("qwen25");
    let mut config = config_of(&document["model"]["config"]).unwrap();
    let (start, video) = (config.tokens.start, config.tokens.video);
    let group = [vec![start], vec![video; 8], vec![config.tokens.end, TokenId(5)]].concat();
    let prompt = [vec![TokenId(5)], group].concat();
    let clip = [GridThw { t: 2, h: 4, w: 4 }];
    let table = [
        (None, TimeRule::Reference, [2, 4], 7),
        (Some(1.0), TimeRule::Reference, [2, 4], 7),
        (Some(0.5), TimeRule::Reference, [2, 2], 6),
        (Some(2.0), TimeRule::Reference, [2, 6], 9),
        (Some(1.5), TimeRule::Reference, [2, 4], 7),
        (Some(0.5), TimeRule::Exact, [2, 3], 6),
        (Some(1.5), TimeRule::Exact, [2, 5], 8),
    ];
    for (seconds, rule, times, next) in table {
        config.vision.windowed.as_mut().unwrap().time = rule;
        let list = seconds.map(|seconds| vec![seconds]);
        let grids = Grids { images: &[], videos: &clip, seconds: list.as_deref() };
        let placed = positions::sequence(&config, &prompt, grids).unwrap();
        let label = format!("{seconds:?}, {rule:?}");
        assert_eq!([placed.axes[0][2], placed.axes[0][6]], times, "{label}");
        assert_eq!(placed.next, next, "{label}");
    }
    for seconds in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
        let grids = Grids { images: &[], videos: &clip, seconds: Some(&[seconds]) };
        assert!(positions::sequence(&config, &prompt, grids).is_err(), "{seconds}");
    }
}

#[test]
fn the_rule_of_seconds_is_an_option_of_a_pass() {
    let document = golden_cases("qwen25");
    let folder = model_folder(&document["model"]);
    let slow = cases(&document, "forward", 7).into_iter().find(|case| case["name"] == "video-slow");
    let mut input = input(slow.unwrap());
    input.second_per_grid_ts = Some(vec![1.5]);
    let times = |time_rule| {
        let options = ForwardOptions { time_rule, ..options() };
        let output = forward(folder.path(), &input, &options).unwrap();
        let video: Vec<i64> = output.position_ids[3..15].iter().step_by(4).copied().collect();
        video.iter().map(|time| time - video[0]).collect::<Vec<_>>()
    };
    assert_eq!(times(TimeRule::Reference), [0, 2, 4]);
    assert_eq!(times(TimeRule::Exact), [0, 3, 6]);
}

/// A row has the same bits alone and beside a row with other media, in each type: windows, norms
/// and attentions see their own rows alone.
#[test]
fn a_row_alone_has_the_bits_of_the_batch() {
    let document = golden_cases("qwen25");
    let folder = model_folder(&document["model"]);
    let case = cases(&document, "forward", 7).into_iter().find(|case| case["name"] == "batch");
    let together = input(case.unwrap());
    let (length, mask) = (together.length, together.attention_mask.clone().unwrap());
    let row = |row: usize| ForwardInput {
        batch: 1,
        length,
        input_ids: together.input_ids[row * length..(row + 1) * length].to_vec(),
        attention_mask: Some(mask[row * length..(row + 1) * length].to_vec()),
        ..ForwardInput::default()
    };
    let picture = ForwardInput {
        pixel_values: together.pixel_values.clone(),
        image_grid_thw: together.image_grid_thw.clone(),
        ..row(0)
    };
    let clip = ForwardInput {
        pixel_values_videos: together.pixel_values_videos.clone(),
        video_grid_thw: together.video_grid_thw.clone(),
        second_per_grid_ts: together.second_per_grid_ts.clone(),
        ..row(1)
    };
    for dtype in FloatType::ALL {
        let options = ForwardOptions { dtype: Some(dtype), ..options() };
        let logits = |input: &ForwardInput| -> Vec<u32> {
            let output = forward(folder.path(), input, &options).unwrap();
            output.tensor("logits").unwrap().values.iter().map(|value| value.to_bits()).collect()
        };
        let alone = [logits(&picture), logits(&clip)].concat();
        assert!(logits(&together) == alone, "{dtype}");
    }
}

/// The first token of a greedy answer is the best of the forward pass over the same inputs.
#[test]
fn the_engine_and_the_forward_pass_agree() {
    let document = golden_cases("qwen25");
    let mut spec = document["model"].clone();
    spec["tokenizer"] = json!("tokenizer");
    let case = cases(&document, "process", 3)[2].clone();
    spec["preprocessor_config"] = case["preprocessor_config"].clone();
    let folder = model_folder(&spec);
    let config = ModelConfig::load(folder.path()).unwrap();

    let document = json!({ "model": folder_spec(&document)["model"] });
    let processor = processor(&document, &case, Resizer::Torchvision);
    let rows = process(&processor, &case, "qwen25").unwrap();
    let images: Vec<&MediaInput> = rows[0].images().collect();
    let videos: Vec<&MediaInput> = rows[0].videos().collect();
    let grid = |media: &[&MediaInput]| Some(media.iter().map(|medium| medium.used.grid).collect());
    let input = ForwardInput {
        batch: 1,
        length: rows[0].input_ids.len(),
        input_ids: rows[0].input_ids.clone(),
        pixel_values: Some(pixel_values(&processor, &images)),
        image_grid_thw: grid(&images),
        pixel_values_videos: Some(pixel_values(&processor, &videos)),
        video_grid_thw: grid(&videos),
        second_per_grid_ts: Some(vec![1.0; videos.len()]),
        ..ForwardInput::default()
    };
    let output = forward(folder.path(), &input, &options()).unwrap();
    let logits = output.tensor("logits").unwrap();
    let last = logits.values.rchunks(config.text.vocab_size).next().unwrap();
    let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();

    let engine = Engine::builder(folder.path()).device(options().device).max_model_len(256);
    let engine = engine.build().unwrap();
    assert_eq!(engine.dtype(), FloatType::F32);
    let messages = case["messages"].to_string();
    let media = goldens().join("qwen25");
    let conversation = Conversations::from_json(messages.as_bytes(), &media).unwrap();
    let conversation = conversation.list.into_iter().next().unwrap();
    let request = Request::conversation(conversation).control_text(ControlText::Trusted);
    let request = request.sampling(Sampling::greedy()).max_new_tokens(Tokens(3).0);
    let answer = engine.submit(request).unwrap().finish().unwrap();
    assert_eq!(answer.token_ids[0].0 as usize, best);
}
