//! Logits processors: every case through the code of `process-logits`, which is that of generation.

use std::{collections::BTreeSet, path::Path};

use qwen2vl::{
    device::DeviceChoice,
    engine::{EngineError, LogitsInput, generation_config::GenerationConfig, process_logits},
    settings,
    units::TokenId,
};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::checkpoint::{golden_cases, goldens};

/// Largest relative error of a score that stays (compare.py).
const SCORE: f64 = 1e-5;

/// A case with the scores that go in and come out.
struct Case {
    name: String,
    config: Value,
    input: LogitsInput,
    want: Vec<f32>,
    ties: bool,
}

fn cases() -> Vec<Case> {
    let document = golden_cases("logits");
    let bytes = std::fs::read(goldens().join("logits/scores.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: String| -> Vec<f32> {
        let words = tensors.tensor(&name).unwrap();
        words.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let case = |case: &Value| {
        let name = case["name"].as_str().unwrap().to_owned();
        let ids: Vec<Vec<u32>> = serde_json::from_value(case["input_ids"].clone()).unwrap();
        let scores = floats(format!("{name}/scores"));
        let input = LogitsInput {
            batch: ids.len(),
            length: ids[0].len(),
            prompt_length: usize::try_from(case["prompt_length"].as_u64().unwrap()).unwrap(),
            vocabulary: scores.len() / ids.len(),
            input_ids: ids.concat().into_iter().map(TokenId).collect(),
            scores,
        };
        let want = floats(format!("{name}/out"));
        let ties = case["ties"].as_bool().unwrap();
        Case { config: case["generation_config"].clone(), name, input, want, ties }
    };
    document["cases"].as_array().unwrap().iter().map(case).collect()
}

fn process(config: &Value, input: &LogitsInput) -> Result<Vec<f32>, EngineError> {
    let choice: DeviceChoice =
        settings::text(settings::DEVICE).map_or(DeviceChoice::Auto, |text| text.parse().unwrap());
    let text = config.to_string();
    let config = GenerationConfig::parse(text.as_bytes(), Path::new("case")).unwrap();
    process_logits(choice, &config, input)
}

/// What differs, if anything: the same entries are removed, the others are near.
fn difference(case: &Case, got: &[f32]) -> Option<String> {
    let (mut got, mut want) = (got.to_vec(), case.want.clone());
    if case.ties {
        for rows in [&mut got, &mut want] {
            rows.chunks_mut(case.input.vocabulary).for_each(|row| row.sort_by(f32::total_cmp));
        }
    }
    let differs = |(got, want): (&f32, &f32)| {
        let (got, want) = (f64::from(*got), f64::from(*want));
        let near = want.is_finite() && (got - want).abs() <= SCORE * want.abs().max(1.0);
        got != want && !near
    };
    let at = got.iter().zip(&want).position(differs)?;
    Some(format!("{}: entry {at} is {}, not {}", case.name, got[at], want[at]))
}

#[test]
fn processed_scores_are_the_references() {
    let cases = cases();
    for case in &cases {
        let difference = difference(case, &process(&case.config, &case.input).unwrap());
        assert_eq!(difference, None);
    }
    println!("logits: {} cases run, 0 not yet", cases.len());
    assert_eq!(cases.len(), 113);
}

#[test]
fn every_setting_is_missed_when_it_is_taken_out() {
    let cases = cases();
    let mut keys: BTreeSet<String> = BTreeSet::new();
    for case in &cases {
        keys.extend(case.config.as_object().unwrap().keys().cloned());
    }
    // It fills padded rows, which scores do not have.
    keys.remove("pad_token_id");
    for key in keys {
        let missed = cases.iter().filter(|case| case.config.get(&key).is_some()).any(|case| {
            let mut config = case.config.clone();
            config.as_object_mut().unwrap().remove(&key);
            // Without remove_invalid_values there is no result.
            process(&config, &case.input).map_or(true, |got| difference(case, &got).is_some())
        });
        assert!(missed, "no case needs {key}");
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    for case in cases().iter().filter(|case| case.input.batch > 1) {
        let together = process(&case.config, &case.input).unwrap();
        for row in 0..case.input.batch {
            let (ids, scores) = (case.input.length, case.input.vocabulary);
            let alone = LogitsInput {
                batch: 1,
                input_ids: case.input.input_ids[row * ids..(row + 1) * ids].to_vec(),
                scores: case.input.scores[row * scores..(row + 1) * scores].to_vec(),
                ..case.input.clone()
            };
            let alone = process(&case.config, &alone).unwrap();
            let bits = |row: &[f32]| row.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
            let own = &together[row * scores..(row + 1) * scores];
            assert_eq!(bits(own), bits(&alone), "{}, row {row}", case.name);
        }
    }
}
