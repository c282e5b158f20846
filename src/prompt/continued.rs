//! `continue_final_message`: a prompt that ends within its last message, for the model to go on
//! (docs/spec.md, section 5.3).

use super::message::Content;
use super::methods::{is_space, trimmed};
use super::{Conversation, Origin, Piece, PromptError, Spot};

/// The text to continue, and its place: the content, or of a list of parts the last that has text.
fn last_text(conversation: &Conversation, index: usize) -> Result<(Spot, &str), PromptError> {
    let message = conversation.messages.len().saturating_sub(1);
    let spot = Spot { conversation: index, message, part: None };
    let none = || PromptError::NothingToContinue { spot };
    match conversation.messages.last().map(|message| &message.content) {
        Some(Content::Text(text)) => Ok((spot, text)),
        Some(Content::Parts(parts)) => {
            let with_text = |(part, value): (usize, &super::Part)| {
                let text = value.json.get("text")?.as_str()?;
                Some((Spot { part: Some(part), ..spot }, text.len(), part))
            };
            let found = parts.iter().enumerate().rev().find_map(with_text);
            let (spot, _, part) = found.ok_or_else(none)?;
            let text = parts[part].json.get("text").and_then(|text| text.as_str());
            Ok((spot, text.ok_or_else(none)?))
        }
        None => Err(PromptError::Empty),
    }
}

/// Cuts a rendered prompt as the reference does, which looks for the text in the prompt.
pub(super) fn cut_text(
    mut prompt: String,
    conversation: &Conversation,
) -> Result<String, PromptError> {
    let (spot, text) = last_text(conversation, 0)?;
    let start = prompt.rfind(trimmed(text)).ok_or(PromptError::NothingToContinue { spot })?;
    let kept = start + text.trim_start_matches(is_space).len();
    // Blanks at the end are kept where the template kept them and there are none before.
    let kept =
        if prompt.get(start..kept) == Some(text) { kept } else { start + trimmed(text).len() };
    prompt.truncate(kept);
    Ok(prompt)
}

/// Cuts a prompt in pieces behind the piece that is the text.
pub(super) fn cut_pieces(
    mut pieces: Vec<Piece>,
    conversation: &Conversation,
    index: usize,
) -> Result<Vec<Piece>, PromptError> {
    let (spot, text) = last_text(conversation, index)?;
    if text.is_empty() {
        // The reference looks for nothing, finds it at the end, and cuts nothing.
        return Ok(pieces);
    }
    let found = pieces.iter().rposition(|piece| piece.origin == Origin::Message(spot));
    let found = found.ok_or(PromptError::NothingToContinue { spot })?;
    pieces.truncate(found + 1);
    if let Some(last) = pieces.last_mut().filter(|_| text.starts_with(is_space)) {
        last.text.truncate(text.trim_end_matches(is_space).len());
    }
    if pieces.last().is_some_and(|last| last.text.is_empty()) {
        pieces.pop();
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{ChatTemplate, Message, Part, RenderOptions};

    const CHAT: &str = "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}\
        {{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}\
        </>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

    fn options() -> RenderOptions {
        RenderOptions {
            add_generation_prompt: false,
            continue_final_message: true,
            ..RenderOptions::default()
        }
    }

    fn both(message: Message) -> (String, String) {
        let template = ChatTemplate::new(CHAT.into(), serde_json::Map::new()).unwrap();
        let conversation = Conversation::new([Message::text("user", "Hi"), message]);
        let pieces = template.pieces(0, &conversation, options()).unwrap();
        let joined = pieces.iter().map(|piece| piece.text.as_str()).collect();
        (template.render(&conversation, options()).unwrap(), joined)
    }

    /// (final text, what the prompt ends with): computed with the reference's function
    const ENDS: &[(&str, &str)] = &[
        ("a", "<assistant>a"),
        ("part  ", "<assistant>part  "),
        ("  both  ", "<assistant>  both"),
        ("\nlines\n", "<assistant>\nlines"),
        ("", "<assistant></>"),
    ];

    #[test]
    fn the_prompt_ends_with_the_final_text() {
        for (text, end) in ENDS {
            let (trusted, literal) = both(Message::assistant(*text));
            assert_eq!(trusted, format!("<user>Hi</>{end}"), "{text:?}");
            assert_eq!(literal, trusted, "{text:?}");
        }
        let parts = [Part::text("one"), Part::text("two"), Part::image_bytes([])];
        let (trusted, literal) = both(Message::new("assistant", parts));
        assert_eq!((trusted.as_str(), literal), ("<user>Hi</><assistant>onetwo", trusted.clone()));
    }

    #[test]
    fn a_text_that_ends_like_the_template_is_cut_at_its_own_end() {
        // The reference finds the last "/" in the template's "</>".
        let (trusted, literal) = both(Message::assistant("/"));
        assert_eq!(
            (trusted.as_str(), literal.as_str()),
            ("<user>Hi</><assistant>/</", "<user>Hi</><assistant>/")
        );
    }

    #[test]
    fn what_cannot_be_continued_is_refused() {
        let template = ChatTemplate::new(CHAT.into(), serde_json::Map::new()).unwrap();
        let picture = Conversation::new([Message::new("user", [Part::image_bytes([])])]);
        for error in [
            template.render(&picture, options()).unwrap_err(),
            template.pieces(0, &picture, options()).unwrap_err(),
        ] {
            assert!(matches!(error, PromptError::NothingToContinue { .. }), "{error}");
        }
        let both = RenderOptions { add_generation_prompt: true, ..options() };
        let text = Conversation::new([Message::text("user", "Hi")]);
        for error in [
            template.render(&text, both).unwrap_err(),
            template.pieces(0, &text, both).unwrap_err(),
        ] {
            assert!(matches!(error, PromptError::ContinueAndAnswer), "{error}");
            assert_eq!(error.code(), "invalid_request");
        }
    }
}
