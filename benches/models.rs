//! Steps of a model with published shapes and random weights: decode, prefill, vision, first token.
//!
//! Times are the engine's own of each part, a step's one read-back included; `ttft` is vision and
//! prefill together, so decoding and resizing the picture are not in it. On the software device a
//! tiny model takes the place of the published one, which keeps this file in working order.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use image::{ImageFormat, RgbImage};
use qwen2vl::engine::{Completion, Engine, Request, Sampling};
use qwen2vl::prompt::{Message, Part};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::checkpoint::write_model;
use crate::harness::{Bench, DEMO};
use crate::shapes::{DECODERS, Decoder, VISION, VISION_HEADS};

/// Files of the demo that any shape can use.
const FILES: [&str; 7] = [
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
];
/// Decode steps of one request at most, so that its context is the stated one.
const STEPS: usize = 64;
/// A token of the demo's tokenizer.
const WORD: &str = " red";
/// Side of a merged patch in pixels.
const MERGED: usize = 28;

/// What stands in for a published model on the software device.
const TINY: Decoder = Decoder {
    name: "tiny",
    hidden: 256,
    feed_forward: 640,
    layers: 2,
    heads: 2,
    kv_heads: 1,
    vocabulary: 704,
};

/// All rows of this file.
pub(crate) fn models(bench: &mut Bench) {
    let model = bench.sizes(&[TINY], &DECODERS)[0];
    let longest = bench.sizes(&[1024], &[8192])[0] + 2 * STEPS;
    let folder = checkpoint(&model, bench.software);
    let engine = Engine::builder(folder.path())
        .pixels(Some(4 * MERGED as u64), Some((4096 * MERGED * MERGED) as u64))
        .max_batch(bench.sizes(&[4], &[32])[0])
        .max_model_len(longest)
        .build()
        .unwrap();
    for &(batch, context) in
        bench.sizes(&[(1, 128), (4, 128)], &[(1, 1024), (8, 1024), (32, 1024), (1, 8192)])
    {
        let id = format!("decode/{}/B{batch}/ctx{context}", model.name);
        part(bench, &id, |steps| decode(&engine, batch, context, steps));
    }
    for &tokens in bench.sizes(&[256], &[1024, 4096]) {
        let id = format!("prefill/{}/T{tokens}", model.name);
        let request = words(tokens).max_new_tokens(1);
        repeated(bench, &id, &engine, &request, |done| {
            assert_eq!(done.usage.prompt_tokens, tokens);
            done.timings.prefill
        });
    }
    for &side in bench.sizes(&[8], &[16, 32, 64]) {
        let (id, request) = (format!("vit/{}/{}", model.name, side * side), picture(side));
        repeated(bench, &id, &engine, &request, |done| {
            assert_eq!(done.usage.image_tokens, side * side);
            done.timings.vision
        });
    }
    let (id, request) = (format!("ttft/{}", model.name), picture(bench.sizes(&[8], &[32])[0]));
    repeated(bench, &id, &engine, &request, |done| done.timings.vision + done.timings.prefill);
}

/// A checkpoint in a temporary folder: the demo's files with another config.json and weights.
fn checkpoint(model: &Decoder, small: bool) -> TempDir {
    let demo = Path::new(DEMO).join("model");
    let mut config: Value =
        serde_json::from_slice(&fs::read(demo.join("config.json")).unwrap()).unwrap();
    config["hidden_size"] = json!(model.hidden);
    config["intermediate_size"] = json!(model.feed_forward);
    config["num_hidden_layers"] = json!(model.layers);
    config["max_window_layers"] = json!(model.layers);
    config["num_attention_heads"] = json!(model.heads);
    config["num_key_value_heads"] = json!(model.kv_heads);
    config["vocab_size"] = json!(model.vocabulary);
    config["max_position_embeddings"] = json!(32_768);
    config["vision_config"]["hidden_size"] = json!(model.hidden);
    if !small {
        config["vision_config"]["depth"] = json!(32);
        config["vision_config"]["embed_dim"] = json!(VISION);
        config["vision_config"]["num_heads"] = json!(VISION_HEADS);
    }
    let folder = tempfile::tempdir().unwrap();
    let weights = json!({ "seed": 1, "dtype": "BF16" });
    write_model(&json!({ "config": config, "weights": weights }), folder.path());
    for file in FILES {
        fs::copy(demo.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// A prompt of so many tokens, template included.
fn words(tokens: usize) -> Request {
    // Of the template, with its system message.
    const TEMPLATE: usize = 19;
    let text = WORD.repeat(tokens - TEMPLATE);
    Request::chat([Message::user([Part::text(text)])]).sampling(Sampling::greedy())
}

/// One picture of `side` by `side` visual tokens and a question of 64 words.
fn picture(side: usize) -> Request {
    let mut pixels = RgbImage::new(pixel(side * MERGED), pixel(side * MERGED));
    for (x, y, value) in pixels.enumerate_pixels_mut() {
        let [low, ..] = (x * x + 3 * x * y).to_le_bytes();
        value.0 = [low, low.wrapping_mul(3), low.wrapping_mul(7)];
    }
    let mut png = Cursor::new(Vec::new());
    pixels.write_to(&mut png, ImageFormat::Png).unwrap();
    let parts = [Part::image_bytes(png.into_inner()), Part::text(WORD.repeat(64))];
    Request::chat([Message::user(parts)]).sampling(Sampling::greedy()).max_new_tokens(1)
}

fn pixel(n: usize) -> u32 {
    u32::try_from(n).unwrap()
}

/// Decode steps of the last of `batch` equal requests; the others decode beside it to its end.
fn decode(engine: &Engine, batch: usize, context: usize, steps: usize) -> Duration {
    let mut spent = Duration::ZERO;
    for start in (0..steps).step_by(STEPS) {
        let steps = (steps - start).min(STEPS);
        let submit = |new| engine.submit(words(context).max_new_tokens(new)).unwrap();
        // A request whose prompt came first is a step or more ahead.
        let others: Vec<_> = (1..batch).map(|_| submit(2 * STEPS)).collect();
        let done = submit(steps + 1).finish().unwrap();
        drop(others);
        assert_eq!(done.usage.completion_tokens, steps + 1, "an end token came too early");
        spent += done.timings.decode;
    }
    spent
}

fn repeated(
    bench: &mut Bench,
    id: &str,
    engine: &Engine,
    request: &Request,
    time: impl Fn(&Completion) -> Duration,
) {
    part(bench, id, |times| {
        let run = |_| time(&engine.submit(request.clone()).unwrap().finish().unwrap());
        (0..times).map(run).sum()
    });
}

fn part(bench: &mut Bench, id: &str, run: impl Fn(usize) -> Duration) {
    let (group, name) = bench.name(id);
    let mut group = bench.criterion.benchmark_group(group);
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|times| run(usize::try_from(times).unwrap()));
    });
    group.finish();
}
