//! Prompts: templates, ids of text, text of ids; the demo's questions.

use std::{fs, path::Path};

use qwen2vl::{
    media::{Ffmpeg, FrameWishes},
    prompt::{
        ControlText, Conversations, DecodeOptions, Detokenizer, Origin, Piece, ProcessOptions,
        Processor, RenderOptions, Spot, Tokenizer,
    },
    units::TokenId,
};
use serde_json::{Value, json};

use crate::support::{
    self, Rng,
    checkpoint::{golden_cases, goldens, model_folder},
};

fn rendered(
    processor: &Processor,
    conversation: &Value,
    case: &Value,
    policy: ControlText,
) -> (String, Vec<TokenId>) {
    let text = conversation.to_string();
    let conversations = Conversations::from_json(text.as_bytes(), Path::new("")).unwrap();
    let options = ProcessOptions {
        render: RenderOptions {
            add_generation_prompt: case["add_generation_prompt"] != false,
            add_vision_id: case["add_vision_id"] == true,
            ..RenderOptions::default()
        },
        control_text: policy,
    };
    let pieces = processor.render(0, &conversations.list[0], options).unwrap();
    let encoded = processor.encode(&pieces, policy).unwrap();
    (pieces.iter().map(|piece| piece.text.as_str()).collect(), encoded.ids)
}

/// The conversation with other words in place of each text.
fn reworded(conversation: &Value) -> Value {
    let mut conversation = conversation.clone();
    for message in conversation.as_array_mut().unwrap() {
        match &mut message["content"] {
            Value::String(text) => *text = "words".into(),
            Value::Array(parts) => {
                for part in parts.iter_mut().filter(|part| part["text"].is_string()) {
                    part["text"] = "words".into();
                }
            }
            _ => {}
        }
    }
    conversation
}

#[test]
fn prompts_and_ids_are_the_references() {
    let document = golden_cases("prompts");
    let folder = model_folder(&document["model"]);
    let processor = Processor::from_dir(folder.path()).unwrap();
    let tokenizer = processor.tokenizer();
    // Those between the first and the last of the grounding tokens stay active in a user's text.
    let id = |token: &str| tokenizer.added_id(token).unwrap();
    let (first, grounding) = (id("<|endoftext|>"), id("<|object_ref_start|>")..=id("<|quad_end|>"));
    let control = |ids: &[TokenId]| -> Vec<TokenId> {
        let structural = |id: &TokenId| *id >= first && !grounding.contains(id);
        ids.iter().copied().filter(structural).collect()
    };
    let (mut ran, mut with_control) = (0, 0);
    for case in document["cases"].as_array().unwrap() {
        let (name, conversation) = (&case["name"], &case["conversation"]);
        let (text, ids) = rendered(&processor, conversation, case, ControlText::Trusted);
        assert_eq!(json!(text), case["text"], "{name}");
        assert_eq!(json!(ids.iter().map(|id| id.0).collect::<Vec<_>>()), case["ids"], "{name}");
        ran += 1;
        if name == "unknown-type" {
            // The reference passes over it; by default it is refused.
            let text = conversation.to_string();
            let conversations = Conversations::from_json(text.as_bytes(), Path::new("")).unwrap();
            let options = ProcessOptions::default();
            let error = processor.render(0, &conversations.list[0], options).unwrap_err();
            assert_eq!(error.code(), "invalid_request", "{error}");
            continue;
        }
        let (literal_text, literal) =
            rendered(&processor, conversation, case, ControlText::Literal);
        assert_eq!(literal_text, text, "{name}: the text does not depend on the policy");
        let (_, plain) = rendered(&processor, &reworded(conversation), case, ControlText::Trusted);
        assert_eq!(control(&literal), control(&plain), "{name}: control ids of the template alone");
        if control(&ids) == control(&plain) {
            assert_eq!(literal, ids, "{name}: no control token in the texts");
        } else {
            with_control += 1;
        }
    }
    println!("prompts: {ran} cases run, {with_control} with control tokens in their texts");
    assert_eq!(ran, 136);
    assert!(with_control > 10);
}

#[test]
fn ids_and_text_of_strings_are_the_references() {
    let tokenizer = Tokenizer::from_dir(&goldens().join("tokenizer")).unwrap();
    let load = |name: &str| -> Vec<Value> {
        serde_json::from_slice(&fs::read(goldens().join("prompts").join(name)).unwrap()).unwrap()
    };
    let mut cases = load("strings.json");
    assert_eq!(cases.len(), 433);
    cases.extend(load("partial.json"));
    for case in &cases {
        let numbers: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let ids: Vec<TokenId> = numbers.into_iter().map(TokenId).collect();
        if let Some(text) = case["text"].as_str() {
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        }
        assert_eq!(json!(tokenizer.decode(&ids, false)), case["decoded"], "{case}");
        if case.get("decoded_skip").is_some() {
            assert_eq!(json!(tokenizer.decode(&ids, true)), case["decoded_skip"], "{case}");
        }
        let mut stream = Detokenizer::new(false);
        let mut streamed: String = ids.iter().map(|id| stream.push(&tokenizer, *id)).collect();
        streamed += &stream.finish();
        assert_eq!(json!(streamed), case["decoded"], "{case}");
    }
}

#[test]
fn benign_text_has_the_references_ids_under_each_policy() {
    let tokenizer = Tokenizer::from_dir(&goldens().join("tokenizer")).unwrap();
    let strings = fs::read(goldens().join("prompts/strings.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&strings).unwrap();
    let piece = |part: usize, text: &str| {
        let spot = Spot { part: Some(part), ..Spot::default() };
        Piece { text: text.to_owned(), origin: Origin::Message(spot) }
    };
    let (mut benign, mut rng) = (0, Rng::new("benign"));
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        if text.is_empty() || tokenizer.control_token(text).is_some() {
            continue;
        }
        let numbers: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let ids: Vec<TokenId> = numbers.into_iter().map(TokenId).collect();
        // As one part, and cut anywhere but within a grounding token, which is text over two parts.
        let from = if text.contains("<|") { text.len() } else { rng.below(text.len() + 1) };
        let cut = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap();
        let (first, second) = text.split_at(cut);
        for policy in [ControlText::Literal, ControlText::Refuse, ControlText::Trusted] {
            for pieces in [vec![piece(0, text)], vec![piece(0, first), piece(1, second)]] {
                let encoded = tokenizer.encode_pieces(&pieces, policy).unwrap();
                assert_eq!(encoded.ids, ids, "{text:?} {cut} {policy:?}");
                assert_eq!(encoded.escaped, 0, "{text:?}");
            }
        }
        benign += 1;
    }
    println!("prompts: {benign} of {} strings hold no control token", cases.len());
    assert!(benign > 350, "{benign}");
}

#[test]
fn the_processor_decodes_as_the_references_does() {
    let document = golden_cases("prompts");
    let folder = model_folder(&document["model"]);
    let processor = Processor::from_dir(folder.path()).unwrap();
    let strings = fs::read(goldens().join("prompts/strings.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&strings).unwrap();
    let rows: Vec<Vec<TokenId>> = cases
        .iter()
        .map(|case| {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            ids.into_iter().map(TokenId).collect()
        })
        .collect();
    let texts = |key: &str| cases.iter().map(|case| case[key].clone()).collect::<Vec<_>>();
    let (kept, skipped) = (texts("decoded"), texts("decoded_skip"));
    assert_ne!(kept, skipped);
    let skip = DecodeOptions { skip_special_tokens: true, ..DecodeOptions::default() };
    assert_eq!(json!(processor.batch_decode(&rows, DecodeOptions::default())), json!(kept));
    assert_eq!(json!(processor.batch_decode(&rows, skip)), json!(skipped));
    assert_eq!(json!(processor.post_process_image_text_to_text(&rows)), json!(skipped));
    assert_eq!(json!(processor.decode(&rows[9], skip)), skipped[9]);
}

#[test]
fn questions_of_the_demo_have_the_references_ids_and_grids() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let questions = fs::read(demo.join("questions.json")).unwrap();
    let questions: Vec<Value> = serde_json::from_slice(&questions).unwrap();
    let processor = Processor::from_dir(&demo.join("model")).unwrap();
    let ffmpeg = support::ffmpeg();
    let (mut ran, mut containers) = (0, 0);
    for case in &questions {
        let name = &case["name"];
        let text = case["messages"].to_string();
        let conversations = Conversations::from_json(text.as_bytes(), &demo).unwrap();
        let options = ProcessOptions {
            render: RenderOptions {
                add_generation_prompt: true,
                add_vision_id: case["options"]["add_vision_id"] == true,
                ..RenderOptions::default()
            },
            control_text: ControlText::Literal,
        };
        let conversation = &conversations.list[0];
        let pieces = processor.render(0, conversation, options).unwrap();
        let prompt: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(json!(prompt), case["prompt"], "{name}");
        if text.contains(".mp4") {
            containers += 1;
            if ffmpeg.is_none() {
                continue;
            }
        }
        let processor = with_options(&demo, ffmpeg.clone(), &case["options"]);
        let done = processor.process(0, conversation, options).unwrap();
        let ids: Vec<u32> = done.input_ids.iter().map(|id| id.0).collect();
        assert_eq!(json!(ids), case["input_ids"], "{name}");
        let images: Vec<_> =
            done.images().map(|i| [i.used.grid.t, i.used.grid.h, i.used.grid.w]).collect();
        let clips: Vec<_> =
            done.videos().map(|i| [i.used.grid.t, i.used.grid.h, i.used.grid.w]).collect();
        for (grids, key) in [(images, "image_grid_thw"), (clips, "video_grid_thw")] {
            let expected = case["grids"].get(key).cloned().unwrap_or_else(|| json!([]));
            assert_eq!(json!(grids), expected, "{name}");
        }
        let counted = processor.count(0, conversation, options).unwrap();
        assert_eq!(counted.input_ids, done.input_ids, "{name}: counted from headers");
        ran += 1;
    }
    println!("demo: {ran} questions, {containers} with a container");
    assert_eq!((ran, containers), (if ffmpeg.is_some() { 64 } else { 59 }, 5));
}

/// The demo's processor with the sampling that a question asks for.
fn with_options(demo: &Path, ffmpeg: Option<Ffmpeg>, options: &Value) -> Processor {
    let processor = Processor::from_dir(&demo.join("model")).unwrap();
    let (fps, num_frames) = (options["fps"].as_f64(), options["num_frames"].as_u64());
    let processor =
        processor.with_sampling(FrameWishes { fps, num_frames, ..FrameWishes::default() }).unwrap();
    processor.with_ffmpeg(ffmpeg.unwrap_or_default())
}
