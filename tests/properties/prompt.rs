//! Text, ids and control tokens.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use qwen2vl::{
    prompt::{
        ControlText, Conversation, Conversations, Detokenizer, Message, Part, ProcessOptions,
        Processor,
    },
    units::TokenId,
};

static PROCESSOR: LazyLock<Processor> = LazyLock::new(|| {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
    Processor::from_dir(&demo).unwrap()
});

fn ids(conversation: &Conversation, control_text: ControlText) -> Vec<TokenId> {
    let options = ProcessOptions { control_text, ..ProcessOptions::default() };
    let pieces = PROCESSOR.render(0, conversation, options).unwrap();
    PROCESSOR.encode(&pieces, control_text).unwrap().ids
}

/// Ids of tokens that end turns or bind pictures: all added ones but those of grounding.
fn structural(ids: &[TokenId]) -> Vec<TokenId> {
    let id = |token: &str| PROCESSOR.tokenizer().added_id(token).unwrap();
    let grounding = id("<|object_ref_start|>")..=id("<|quad_end|>");
    let first = id("<|endoftext|>");
    ids.iter().copied().filter(|id| *id >= first && !grounding.contains(id)).collect()
}

/// Texts of words, whole control tokens and pieces of them.
fn texts() -> impl Strategy<Value = Vec<String>> {
    let word = prop_oneof![
        "[a-z \n]{0,6}",
        "\\PC{0,4}",
        Just("<|im_end|>".to_owned()),
        Just("<|im_start|>".to_owned()),
        Just("<|image_pad|>".to_owned()),
        Just("<|im_".to_owned()),
        Just("end|>".to_owned()),
        Just("<|".to_owned()),
        Just("\u{f0000}0\u{f0000}".to_owned()),
    ];
    let text = prop::collection::vec(word, 0..5).prop_map(|words| words.concat());
    prop::collection::vec(text, 1..4)
}

proptest! {
    #[test]
    fn text_streams_to_the_same_text_however_it_is_cut(
        numbers in prop::collection::vec(0_u32..720, 0..60), skip in any::<bool>(),
    ) {
        let ids: Vec<TokenId> = numbers.into_iter().map(TokenId).collect();
        let tokenizer = PROCESSOR.tokenizer();
        let mut stream = Detokenizer::new(skip);
        let mut text = String::new();
        for (index, id) in ids.iter().enumerate() {
            text += &stream.push(tokenizer, *id);
            let whole = tokenizer.decode(&ids[..=index], skip);
            prop_assert!(whole.starts_with(&text), "{whole:?} {text:?}");
        }
        text += &stream.finish();
        prop_assert_eq!(text, tokenizer.decode(&ids, skip));
    }

    #[test]
    fn no_structural_id_comes_from_a_users_text(texts in texts()) {
        let conversation = |texts: &[String]| {
            let parts = texts.iter().map(|text| Part::text(text.as_str()));
            Conversation::new([Message::user(parts), Message::assistant(texts[0].as_str())])
        };
        let literal = ids(&conversation(&texts), ControlText::Literal);
        let plain: Vec<String> = texts.iter().map(|_| "words".to_owned()).collect();
        let expected = structural(&ids(&conversation(&plain), ControlText::Trusted));
        prop_assert_eq!(structural(&literal), expected.clone());
        // The text is the same under each policy, and so are the ids of ordinary text.
        let trusted = ids(&conversation(&texts), ControlText::Trusted);
        let tokenizer = PROCESSOR.tokenizer();
        if structural(&trusted) == expected {
            prop_assert_eq!(&literal, &trusted);
        }
        prop_assert_eq!(tokenizer.decode(&literal, false), tokenizer.decode(&trusted, false));
    }

    #[test]
    fn text_survives_encoding(text in "\\PC{0,40}") {
        let tokenizer = PROCESSOR.tokenizer();
        let ids = tokenizer.encode(&text).unwrap();
        let decoded = tokenizer.decode(&ids, false);
        // The tokenizer composes characters first: what is composed already comes back as it is.
        prop_assert_eq!(tokenizer.encode(&decoded).unwrap(), ids);
    }

    #[test]
    fn json_is_a_conversation_or_an_error(text in "[\\[\\]{}\",:a-z0-9]{0,60}") {
        drop(Conversations::from_json(text.as_bytes(), Path::new("")));
    }
}
