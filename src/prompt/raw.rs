//! Prompts that are written with their control tokens, and their media: the reference's
//! `processor(text, images, videos)` (docs/spec.md, section 5.1).

use super::message::PartKind;
use super::processor::{IMAGE_PAD, VIDEO_PAD};
use super::{Conversation, Message, Part, PromptError};

/// Conversations that are such prompts. Pictures are bound to the placeholders of pictures and
/// videos to those of videos, left to right over all texts.
///
/// # Errors
/// [`PromptError::NoText`] without a text; [`PromptError::Placeholders`] for another number of
/// placeholders than of media of their kind.
pub fn raw_prompts(
    texts: impl IntoIterator<Item = impl Into<String>>,
    media: impl IntoIterator<Item = Part>,
) -> Result<Vec<Conversation>, PromptError> {
    let texts: Vec<String> = texts.into_iter().map(Into::into).collect();
    if texts.is_empty() {
        return Err(PromptError::NoText);
    }
    let (videos, images): (Vec<Part>, Vec<Part>) =
        media.into_iter().partition(|part| part.kind() == PartKind::Video);
    for (token, media) in [(IMAGE_PAD, images.len()), (VIDEO_PAD, videos.len())] {
        let placeholders = texts.iter().map(|text| text.matches(token).count()).sum();
        if placeholders != media {
            return Err(PromptError::Placeholders { token, placeholders, media });
        }
    }
    let (mut images, mut videos) = (images.into_iter(), videos.into_iter());
    let conversation = |text: String| {
        let mut parts: Vec<Part> = Vec::new();
        parts.extend(images.by_ref().take(text.matches(IMAGE_PAD).count()));
        parts.extend(videos.by_ref().take(text.matches(VIDEO_PAD).count()));
        Conversation { raw: Some(text), ..Conversation::new([Message::user(parts)]) }
    };
    Ok(texts.into_iter().map(conversation).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Part {
        Part::image_file(name)
    }

    #[test]
    fn media_are_bound_left_to_right_over_all_texts() {
        let texts = [
            format!("a{IMAGE_PAD}{VIDEO_PAD}"),
            "none".to_owned(),
            format!("{IMAGE_PAD}{IMAGE_PAD}"),
        ];
        let media = [image("1"), Part::video_file("v"), image("2"), image("3")];
        let found = raw_prompts(texts.clone(), media).unwrap();
        let parts: Vec<&[Part]> = found.iter().map(|one| one.messages[0].parts()).collect();
        assert_eq!(parts[0], [image("1"), Part::video_file("v")]);
        assert_eq!((parts[1].len(), parts[2]), (0, &[image("2"), image("3")][..]));
        assert_eq!(found[2].raw.as_ref(), Some(&texts[2]));
    }

    #[test]
    fn other_numbers_are_named() {
        let error = |texts: &[&str], media: Vec<Part>| {
            raw_prompts(texts.iter().copied(), media).unwrap_err().to_string()
        };
        assert_eq!(error(&[], vec![]), "text is required");
        let one = error(&["<|image_pad|>"], vec![]);
        assert!(one.contains("1 placeholder(s) <|image_pad|>, 0 given"), "{one}");
        let two = error(&["<|image_pad|>"], vec![image("a"), image("b")]);
        assert!(two.contains("1 placeholder(s) <|image_pad|>, 2 given"), "{two}");
        let video = error(&["<|image_pad|>"], vec![image("a"), Part::video_file("v")]);
        assert!(video.contains("0 placeholder(s) <|video_pad|>, 1 given"), "{video}");
    }
}
