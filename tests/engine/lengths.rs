//! Rotations that depend on the length of a pass, and sliding windows, in the steps of an engine.

use std::{fs, path::Path};

use qwen2vl::{
    engine::{
        Engine, EngineBuilder, ForwardInput, ForwardOptions, Generation, Request, Sampling, forward,
    },
    prompt::{Conversation, Message, Part, ProcessOptions},
    units::TokenId,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ask, choice, demo};

const NEW: usize = 8;

/// The demo checkpoint with other settings.
fn checkpoint(edit: impl Fn(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(demo().join("model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    edit(&mut config);
    fs::write(file, config.to_string()).unwrap();
    folder
}

/// Prompts of 15 to 60 tokens: passes and steps on both sides of these lengths.
fn checkpoints() -> Vec<(&'static str, TempDir)> {
    let list = |step: f64| (0..64).map(|j| 1.0 + step * f64::from(j)).collect::<Vec<_>>();
    let scaling = |object: Value, positions: usize| {
        move |config: &mut Value| {
            let sections = config["rope_scaling"]["mrope_section"].clone();
            config["rope_scaling"] = object.clone();
            config["rope_scaling"]["mrope_section"] = sections;
            config["max_position_embeddings"] = json!(positions);
        }
    };
    let dynamic = json!({"rope_type": "dynamic", "factor": 400.0});
    let long = json!({"rope_type": "longrope", "factor": 4.0, "short_factor": list(0.01),
        "long_factor": list(4.0)});
    vec![
        ("dynamic", checkpoint(scaling(dynamic, 17))),
        ("longrope", checkpoint(scaling(long, 26))),
        (
            "sliding",
            checkpoint(|config| {
                config["use_sliding_window"] = json!(true);
                config["sliding_window"] = json!(2);
                config["max_window_layers"] = json!(1);
            }),
        ),
    ]
}

fn builder(folder: &TempDir) -> EngineBuilder {
    Engine::builder(folder.path()).device(choice()).max_model_len(256)
}

fn requests() -> Vec<Request> {
    let texts = ["Hello!", "What is this?", "Hi, tell me more about everything that you can see."];
    let texts = texts.into_iter().map(|text| ask(&[], text));
    let all = texts.chain([ask(&["pair.png"], "Describe this image.")]);
    all.map(|request| request.max_new_tokens(NEW).sampling(Sampling::greedy())).collect()
}

fn answers(engine: &Engine, requests: Vec<Request>) -> Vec<Vec<TokenId>> {
    let running: Vec<Generation> =
        requests.into_iter().map(|request| engine.submit(request).unwrap()).collect();
    running.into_iter().map(|generation| generation.finish().unwrap().token_ids).collect()
}

#[test]
fn answers_do_not_depend_on_neighbours_or_chunks() {
    for (name, folder) in checkpoints() {
        let engine = builder(&folder).build().unwrap();
        let batch = answers(&engine, requests());
        let alone: Vec<Vec<TokenId>> =
            requests().into_iter().map(|one| answers(&engine, vec![one]).remove(0)).collect();
        assert_eq!(batch, alone, "{name}");
        // Slots are taken again by prompts of other lengths.
        let reversed: Vec<Request> = requests().into_iter().rev().collect();
        let mut reversed = answers(&engine, reversed);
        reversed.reverse();
        assert_eq!(batch, reversed, "{name}");
        let chunked = builder(&folder).prefill_chunk(7).max_batch(3).build().unwrap();
        assert_eq!(answers(&chunked, requests()), batch, "{name}");
    }
}

/// The steps of an engine against passes over a growing cache, each of its own length.
#[test]
fn steps_are_passes_of_their_own_length() {
    let plain = builder(&checkpoint(|_| {})).build().unwrap();
    for (name, folder) in checkpoints() {
        let engine = builder(&folder).build().unwrap();
        let mut differing = 0;
        for text in ["Hello!", "Hi, tell me more about everything that you can see."] {
            let greedy = ask(&[], text).max_new_tokens(NEW).sampling(Sampling::greedy());
            let got = answers(&engine, vec![greedy.clone()]).remove(0);
            let conversation = Conversation::new(vec![Message::user([Part::text(text)])]);
            let prompt = engine.processor().process(0, &conversation, ProcessOptions::default());
            let want = by_passes(folder.path(), prompt.unwrap().input_ids, got.len());
            assert_eq!(got, want, "{name}: {text}");
            differing += usize::from(answers(&plain, vec![greedy]).remove(0) != got);
        }
        assert!(differing > 0, "{name}: the settings change nothing");
    }
}

fn by_passes(folder: &Path, mut ids: Vec<TokenId>, count: usize) -> Vec<TokenId> {
    let options =
        ForwardOptions { device: choice(), key_values: true, ..ForwardOptions::default() };
    let mut found = Vec::new();
    let (mut past, mut rope_deltas) = (None, None);
    for _ in 0..count {
        let input = ForwardInput {
            batch: 1,
            length: ids.len(),
            input_ids: ids,
            past: past.take(),
            rope_deltas: rope_deltas.take(),
            ..ForwardInput::default()
        };
        let output = forward(folder, &input, &options).unwrap();
        let logits = output.tensor("logits").unwrap();
        let last = &logits.values[logits.values.len() - logits.shape[2]..];
        let top = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let token = last.iter().position(|score| *score == top).unwrap();
        let token = TokenId(u32::try_from(token).unwrap());
        found.push(token);
        ids = vec![token];
        (past, rope_deltas) = (output.past(), Some(output.rope_deltas));
    }
    found
}
