//! Answers: of the goldens' models, each in its own type, up to the first step where another token is
//! near, beam searches in f32, and of the demo checkpoint.

use std::path::Path;

use qwen2vl::{
    device::DeviceChoice,
    engine::{Choice, Completion, Engine, Generation, Request, Sampling},
    prompt::{ControlText, Conversations},
    settings,
    units::FloatType,
};
use serde_json::{Value, json};

use crate::support::{
    self,
    checkpoint::{golden_cases, goldens, model_folder, not_yet},
};

#[test]
fn answers_are_the_references() {
    let document = golden_cases("generate");
    let mut listed = not_yet("generate");
    let mut run = 0;
    for case in document["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut spec = document["models"][case["model"].as_str().unwrap()].clone();
        for (key, value) in case["generation_config"].as_object().unwrap() {
            spec["generation_config"][key] = value.clone();
        }
        let folder = model_folder(&spec);
        let searches = case["generation_config"]["num_beams"].as_u64().unwrap_or(1) > 1;
        let exact = searches.then_some(FloatType::F32);
        if searches && spec["weights"]["dtype"] != "F32" {
            assert!(listed.remove(name).is_some(), "{name} runs in another type and is not listed");
        }
        let engine = engine(folder.path(), exact);
        let messages = case["messages"].to_string();
        let add_vision_id = case["flags"]["add_vision_id"] == json!(true);
        let max_new = usize::try_from(case["max_new_tokens"].as_u64().unwrap()).unwrap();
        let answers = answers(&engine, &messages, &goldens().join("generate"), |request| {
            let request = request.max_new_tokens(max_new).add_vision_id(add_vision_id);
            // Searches are not greedy; none of the models' settings draw.
            if searches { request } else { request.sampling(Sampling::greedy()) }
        });
        let choices: Vec<Choice> = answers.iter().flat_map(Completion::choices).collect();
        assert_eq!(choices.len(), case["token_ids"].as_array().unwrap().len(), "{name}");
        for (row, choice) in choices.iter().enumerate() {
            if searches {
                check_beam(name, row, choice, case);
            } else {
                check_greedy(name, row, choice, case);
            }
        }
        run += 1;
    }
    println!("generate: {run} cases run, {} of them in another type", not_yet("generate").len());
    assert!(listed.is_empty(), "listed, but no such case: {listed:?}");
    assert_eq!(run, 44, "cases of tests/data/goldens/generate/cases.json");
}

/// The reference's answer with its score: of a search in f32, where nothing is a matter of rounding.
fn check_beam(name: &str, row: usize, answer: &Choice, case: &Value) {
    let want: Vec<u32> = serde_json::from_value(case["token_ids"][row].clone()).unwrap();
    let got: Vec<u32> = answer.token_ids.iter().map(|id| id.0).collect();
    assert_eq!(got, want, "{name}, row {row}");
    assert_eq!(answer.text, case["text"][row].as_str().unwrap(), "{name}, row {row}");
    let want = case["sequences_scores"][row].as_f64().unwrap();
    let score = f64::from(answer.score.expect("a beam has a score"));
    assert!((score - want).abs() <= 1e-4, "{name}, row {row}: score {score}, not {want}");
}

/// Equal, or different only from a step on where the other choice is as good.
fn check_greedy(name: &str, row: usize, answer: &Choice, case: &Value) {
    let want: Vec<u32> = serde_json::from_value(case["token_ids"][row].clone()).unwrap();
    let got: Vec<u32> = answer.token_ids.iter().map(|id| id.0).collect();
    if got == want {
        assert_eq!(answer.text, case["text"][row].as_str().unwrap(), "{name}, row {row}");
        return;
    }
    let step = got.iter().zip(&want).position(|(got, want)| got != want);
    let step = step.unwrap_or_else(|| panic!("{name}, row {row}: {got:?}, not {want:?}"));
    let near = &case["near"][row][step.to_string()];
    let near: Vec<u32> = serde_json::from_value(near.clone()).unwrap_or_default();
    assert!(near.contains(&got[step]), "{name}, row {row}, step {step}: {got:?}, not {want:?}");
}

#[test]
fn the_demo_checkpoint_answers_every_question() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let text = std::fs::read_to_string(demo.join("questions.json")).unwrap();
    let questions: Value = serde_json::from_str(&text).unwrap();
    let engine = engine(&demo.join("model"), None);
    let ffmpeg = support::ffmpeg();
    let (mut run, mut containers) = (0, 0);
    for case in questions.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let messages = with_sampling(&case["messages"], &case["options"]).to_string();
        if messages.contains(".mp4") {
            containers += 1;
            if ffmpeg.is_none() {
                continue;
            }
        }
        let add_vision_id = case["options"]["add_vision_id"] == json!(true);
        let answers = answers(&engine, &messages, &demo, |request| {
            let request = request.max_new_tokens(64).add_vision_id(add_vision_id);
            request.sampling(Sampling::greedy())
        });
        let got: Vec<u32> = answers[0].token_ids.iter().map(|id| id.0).collect();
        let want: Vec<u32> = serde_json::from_value(case["token_ids"].clone()).unwrap();
        assert_eq!(got, want, "{name}: {}", answers[0].text);
        assert_eq!(answers[0].text, case["expected_text"].as_str().unwrap(), "{name}");
        run += 1;
    }
    println!("demo: {run} questions answered, {containers} with a container");
    let expected = if ffmpeg.is_some() { 64 } else { 59 };
    assert_eq!((run, containers), (expected, 5), "questions of assets/demo/questions.json");
}

/// The messages with the sampling of a question beside each video.
fn with_sampling(messages: &Value, options: &Value) -> Value {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().unwrap() {
        let Some(parts) = message["content"].as_array_mut() else { continue };
        for part in parts.iter_mut().filter(|part| part["type"] == "video") {
            for key in ["fps", "num_frames"] {
                if let Some(value) = options.get(key) {
                    part[key] = value.clone();
                }
            }
        }
    }
    messages
}

fn engine(folder: &Path, dtype: Option<FloatType>) -> Engine {
    let choice: DeviceChoice =
        settings::text(settings::DEVICE).map_or(DeviceChoice::Auto, |text| text.parse().unwrap());
    let builder = Engine::builder(folder).device(choice).max_model_len(1024);
    let builder = builder.ffmpeg(support::ffmpeg().unwrap_or_default());
    let builder = match dtype {
        Some(dtype) => builder.dtype(dtype),
        None => builder,
    };
    builder.build().unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// One answer for each conversation, all of them running at once.
fn answers(
    engine: &Engine,
    messages: &str,
    folder: &Path,
    configure: impl Fn(Request) -> Request,
) -> Vec<Completion> {
    let conversations = Conversations::from_json(messages.as_bytes(), folder).unwrap();
    let requests = conversations.list.into_iter().map(|conversation| {
        let request = Request::conversation(conversation).control_text(ControlText::Trusted);
        configure(request)
    });
    let running: Vec<Generation> = requests.map(|r| engine.submit(r).unwrap()).collect();
    running.into_iter().map(|generation| generation.finish().unwrap()).collect()
}
