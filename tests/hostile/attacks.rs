//! Conversations that try to write control tokens: `tests/data/attacks.json`.
//!
//! Each case says whether its texts hold whole control tokens (`control`; grounding tokens aside), alone or joined over the borders of parts (`joins`), or
//! a field that is no text does (`field`); `repeat` repeats a text, `composes` says that NFC joins a
//! token's last character with what follows where the token is text.

use std::{fs, path::Path, sync::LazyLock};

use qwen2vl::{
    prompt::{ControlText, Conversation, Conversations, ProcessOptions, Processor, PromptError},
    units::TokenId,
};
use serde_json::Value;

static PROCESSOR: LazyLock<Processor> = LazyLock::new(|| {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
    Processor::from_dir(&demo).unwrap()
});

/// A case of the corpus with its picture in place.
fn cases() -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/data/attacks.json")).unwrap();
    let picture = root.join("assets/demo/media/one_png.png").display().to_string();
    let mut cases: Vec<Value> =
        serde_json::from_str(&text.replace("\"IMAGE\"", &Value::from(picture).to_string()))
            .unwrap();
    for case in &mut cases {
        if let Some(times) = case["repeat"].as_u64() {
            let text = case["conversation"][0]["content"].as_str().unwrap();
            let text = text.repeat(usize::try_from(times).unwrap());
            case["conversation"][0]["content"] = text.into();
        }
    }
    cases
}

fn read(conversation: &Value) -> Conversation {
    let text = conversation.to_string();
    let mut list = Conversations::from_json(text.as_bytes(), Path::new("")).unwrap().list;
    list.remove(0)
}

/// The conversation with a harmless word in place of each text.
fn reworded(conversation: &Value) -> Value {
    let mut conversation = conversation.clone();
    for message in conversation.as_array_mut().unwrap() {
        match &mut message["content"] {
            Value::Array(parts) => {
                for part in parts.iter_mut().filter(|part| part["text"].is_string()) {
                    part["text"] = "words".into();
                }
            }
            text => *text = "words".into(),
        }
    }
    conversation
}

fn encode(conversation: &Conversation, policy: ControlText) -> Result<Vec<TokenId>, PromptError> {
    let options = ProcessOptions { control_text: policy, ..ProcessOptions::default() };
    let pieces = PROCESSOR.render(0, conversation, options)?;
    Ok(PROCESSOR.encode(&pieces, policy)?.ids)
}

/// Ids of tokens that end turns or bind media, in order.
fn structural(ids: &[TokenId]) -> Vec<TokenId> {
    let id = |token: &str| PROCESSOR.tokenizer().added_id(token).unwrap();
    let grounding = id("<|object_ref_start|>")..=id("<|quad_end|>");
    let first = id("<|endoftext|>");
    ids.iter().copied().filter(|id| *id >= first && !grounding.contains(id)).collect()
}

#[test]
fn no_attack_writes_a_control_token() {
    let (mut ran, mut dangerous) = (0, 0);
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let conversation = read(&case["conversation"]);
        let expected = structural(
            &encode(&read(&reworded(&case["conversation"])), ControlText::Trusted).unwrap(),
        );
        let (literal, refused) = (
            encode(&conversation, ControlText::Literal),
            encode(&conversation, ControlText::Refuse),
        );
        ran += 1;
        if case["field"] == true {
            for result in [literal, refused] {
                assert_eq!(result.unwrap_err().code(), "control_token", "{name}");
            }
            continue;
        }
        let (literal, trusted) =
            (literal.unwrap(), encode(&conversation, ControlText::Trusted).unwrap());
        assert_eq!(structural(&literal), expected, "{name}");
        let tokenizer = PROCESSOR.tokenizer();
        if case["composes"] != true {
            let text = |ids: &[TokenId]| tokenizer.decode(ids, false);
            assert_eq!(text(&literal), text(&trusted), "{name}: nothing of the text is lost");
        }
        if case["control"] == true {
            // What the reference makes of it is another prompt: the case is an attack.
            assert_ne!(structural(&trusted), expected, "{name}");
            let error = refused.unwrap_err();
            assert_eq!(error.code(), "control_token", "{name}");
            dangerous += 1;
        } else {
            assert_eq!(literal, trusted, "{name}");
            assert_eq!(refused.unwrap(), trusted, "{name}");
        }
    }
    println!("attacks: {ran} cases, {dangerous} of which the reference takes for control tokens");
    assert!(ran >= 85 && dangerous > 30);
}

#[test]
fn pictures_stay_bound_to_their_parts() {
    let image = PROCESSOR.tokenizer().added_id("<|image_pad|>").unwrap();
    let mut mismatched = 0;
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        if case["field"] == true {
            continue;
        }
        let conversation = read(&case["conversation"]);
        let options = ProcessOptions::default();
        let counted = PROCESSOR.count(0, &conversation, options).unwrap();
        let expected =
            PROCESSOR.count(0, &read(&reworded(&case["conversation"])), options).unwrap();
        let runs = |ids: &[TokenId]| -> Vec<usize> {
            ids.chunk_by(|a, b| a == b).filter(|run| run[0] == image).map(<[_]>::len).collect()
        };
        assert_eq!(runs(&counted.input_ids), runs(&expected.input_ids), "{name}");
        // A placeholder without a medium is an error where messages are trusted, never a wrong
        // binding and never a crash of the model (CVE-2026-44222).
        let trusted = ProcessOptions { control_text: ControlText::Trusted, ..options };
        let pads = case["conversation"].to_string().contains("_pad|>");
        let result = PROCESSOR.count(0, &conversation, trusted);
        if pads && case["control"] == true && !name.contains("vision_pad") {
            let error = result.unwrap_err();
            assert!(matches!(error, PromptError::Placeholders { .. }), "{name}: {error}");
            assert_eq!(error.code(), "prompt_invalid");
            mismatched += 1;
        } else {
            assert_eq!(result.unwrap().media.len(), counted.media.len(), "{name}");
        }
    }
    assert!(mismatched >= 10, "{mismatched}");
}
