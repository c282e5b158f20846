//! Conversations and their JSON form (docs/spec.md, sections 5.2 and 5.3).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{PromptError, Spot};
use crate::media::{MediaError, Rgb8, Source, VideoSource};

/// Types of parts that the reference documents.
const TYPES: [&str; 4] = ["text", "image", "image_url", "video"];
/// Roles of every conversation; a template may know more.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// Messages in order, and the folder that their paths are relative to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Paths of pictures are relative to this folder.
    pub folder: PathBuf,
    /// The prompt itself, control tokens and all, in place of what a template would make of the
    /// messages.
    pub(super) raw: Option<String>,
}

/// One conversation, or the list of them that makes a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversations {
    /// In order.
    pub list: Vec<Conversation>,
    /// Whether the document was a list of conversations: results are then a list too.
    pub batch: bool,
}

/// What one side says.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or another that the template knows.
    pub role: String,
    pub(super) content: Content,
    /// Keys beside role and content, for templates that read them.
    pub(super) extra: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A piece of a message: text, a picture, a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What the template sees.
    pub(super) json: Map<String, Value>,
    /// A medium that JSON does not name.
    pub(super) held: Option<Held>,
}

/// A medium that a part holds itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Held {
    Image(Source),
    Video(VideoSource),
}

/// What a part is by the rules of the official template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    Image,
    Video,
    Text,
    Other,
}

impl Message {
    /// A message of parts.
    pub fn new(role: impl Into<String>, parts: impl IntoIterator<Item = Part>) -> Self {
        let content = Content::Parts(parts.into_iter().collect());
        Self { role: role.into(), content, extra: Map::new() }
    }

    /// A message whose content is one string.
    pub fn text(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()), extra: Map::new() }
    }

    /// What a person says.
    pub fn user(parts: impl IntoIterator<Item = Part>) -> Self {
        Self::new("user", parts)
    }

    /// The instruction above all.
    pub fn system(text: impl Into<String>) -> Self {
        Self::text("system", text)
    }

    /// What the model said.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::text("assistant", text)
    }

    pub(super) fn parts(&self) -> &[Part] {
        match &self.content {
            Content::Text(_) => &[],
            Content::Parts(parts) => parts,
        }
    }

    /// Refuses what a template would pass over without a word: a role that nobody knows, a part of
    /// an unknown type. `template` is the template's source, which may name roles of its own.
    pub(super) fn check_known(&self, spot: Spot, template: &str) -> Result<(), PromptError> {
        let role = self.role.as_str();
        let named = |quote: char| template.contains(&format!("{quote}{role}{quote}"));
        if !ROLES.contains(&role) && !named('\'') && !named('"') {
            return Err(PromptError::UnknownRole { spot, role: shortened(role) });
        }
        for (part, value) in self.parts().iter().enumerate() {
            value.check_known(Spot { part: Some(part), ..spot })?;
        }
        Ok(())
    }
}

impl Part {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { json: object(json!({ "type": "text", "text": text.into() })), held: None }
    }

    /// A picture.
    pub fn image(source: Source) -> Self {
        Self { json: object(json!({ "type": "image" })), held: Some(Held::Image(source)) }
    }

    /// A picture in a file.
    pub fn image_file(path: impl Into<PathBuf>) -> Self {
        Self::image(Source::Path(path.into()))
    }

    /// An encoded picture.
    pub fn image_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::image(Source::Bytes(bytes.into()))
    }

    /// A picture that is decoded already.
    pub fn image_rgb(picture: &Rgb8) -> Self {
        Self::image_bytes(picture.to_pixmap())
    }

    /// A video: an animated picture, a folder of frames, or a list of them.
    pub fn video(source: VideoSource) -> Self {
        Self { json: object(json!({ "type": "video" })), held: Some(Held::Video(source)) }
    }

    /// A video in a file, or a folder of frames in the order of their names.
    pub fn video_file(path: impl Into<PathBuf>) -> Self {
        Self::video(VideoSource::File(Source::Path(path.into())))
    }

    /// A video as a list of pictures, one a frame.
    pub fn video_frames(frames: impl IntoIterator<Item = Source>) -> Self {
        Self::video(VideoSource::Frames(frames.into_iter().collect()))
    }

    /// Least pixels of this picture, or of a frame of this video, after the resize.
    #[must_use]
    pub fn min_pixels(self, pixels: u64) -> Self {
        self.with("min_pixels", pixels)
    }

    /// Most pixels of this picture, or of a frame of this video, after the resize.
    #[must_use]
    pub fn max_pixels(self, pixels: u64) -> Self {
        self.with("max_pixels", pixels)
    }

    /// The size to resize to, before it is rounded and brought into the budget.
    #[must_use]
    pub fn resized(self, height: usize, width: usize) -> Self {
        self.with("resized_height", height).with("resized_width", width)
    }

    /// Takes so many frames of a second of this video.
    #[must_use]
    pub fn fps(self, fps: f64) -> Self {
        self.with("fps", fps)
    }

    /// Takes so many frames of this video.
    #[must_use]
    pub fn num_frames(self, frames: u64) -> Self {
        self.with("num_frames", frames)
    }

    /// Least and most frames of this video where a rate decides.
    #[must_use]
    pub fn frame_limits(self, min: u64, max: u64) -> Self {
        self.with("min_frames", min).with("max_frames", max)
    }

    /// Takes frames between two moments of this video alone, in seconds.
    #[must_use]
    pub fn between(self, start: f64, end: f64) -> Self {
        self.with("start", start).with("end", end)
    }

    /// Frames a second of a list of frames.
    #[must_use]
    pub fn source_fps(self, fps: f64) -> Self {
        self.with("source_fps", fps)
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.json.insert(key.to_owned(), value.into());
        self
    }

    pub(super) fn kind(&self) -> PartKind {
        let is = |kind: &str| self.json.get("type").is_some_and(|value| value == kind);
        let has = |key: &str| self.json.contains_key(key);
        if is("image") || has("image") || has("image_url") {
            PartKind::Image
        } else if is("video") || has("video") {
            PartKind::Video
        } else if has("text") {
            PartKind::Text
        } else {
            PartKind::Other
        }
    }

    fn check_known(&self, spot: Spot) -> Result<(), PromptError> {
        let found = self.json.get("type");
        let known = match found {
            Some(value) => TYPES.into_iter().any(|name| value == name),
            None => true,
        };
        match found.filter(|_| !known) {
            Some(value) => {
                let found = shortened(&value.to_string());
                let near = near(&found, TYPES);
                Err(PromptError::UnknownPart { spot, found, near })
            }
            None if self.kind() == PartKind::Other => {
                let problem = "a part needs what its type names: text, an image, a video";
                Err(PromptError::Message { spot, problem })
            }
            None => Ok(()),
        }
    }
}

impl Conversation {
    /// Messages whose paths are relative to the working folder.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        let (messages, folder) = (messages.into_iter().collect(), PathBuf::new());
        Self { messages, folder, raw: None }
    }

    /// Whether each picture and video says where it is: a template needs no more than their places.
    pub fn has_all_sources(&self) -> bool {
        self.messages.iter().flat_map(Message::parts).all(Part::has_source)
    }
}

impl Conversations {
    /// Reads the reference's format: a list of `{role, content}`, or a list of such lists.
    ///
    /// # Errors
    /// [`PromptError::Json`], [`PromptError::Empty`], and [`PromptError::Message`] for another
    /// shape.
    pub fn from_json(bytes: &[u8], folder: &Path) -> Result<Self, PromptError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|source| PromptError::Json { source })?;
        let problem = "a conversation is a list of {role, content}";
        let Value::Array(list) = value else {
            return Err(PromptError::Message { spot: Spot::default(), problem });
        };
        let batch = list.first().is_some_and(Value::is_array);
        let conversations = if batch { list } else { vec![Value::Array(list)] };
        let read = |(index, value): (usize, Value)| match value {
            Value::Array(messages) => conversation(messages, index, folder),
            _ => {
                let spot = Spot { conversation: index, ..Spot::default() };
                Err(PromptError::Message { spot, problem })
            }
        };
        let list = conversations.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
        Ok(Self { list, batch })
    }
}

fn conversation(
    messages: Vec<Value>,
    index: usize,
    folder: &Path,
) -> Result<Conversation, PromptError> {
    if messages.is_empty() {
        return Err(PromptError::Empty);
    }
    let read =
        |(message, value)| read_message(value, Spot { conversation: index, message, part: None });
    let messages = messages.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
    Ok(Conversation { messages, folder: folder.to_owned(), raw: None })
}

fn read_message(value: Value, spot: Spot) -> Result<Message, PromptError> {
    let problem = |problem| PromptError::Message { spot, problem };
    let Value::Object(mut map) = value else {
        return Err(problem("a message is an object with role and content"));
    };
    let Some(Value::String(role)) = map.shift_remove("role") else {
        return Err(problem("a message needs a role, as a string"));
    };
    let content = match map.shift_remove("content") {
        Some(Value::String(text)) => Content::Text(text),
        Some(Value::Array(parts)) => {
            let read = |(part, value)| read_part(value, Spot { part: Some(part), ..spot });
            Content::Parts(parts.into_iter().enumerate().map(read).collect::<Result<_, _>>()?)
        }
        _ => return Err(problem("a message needs content: a string or a list of parts")),
    };
    Ok(Message { role, content, extra: map })
}

fn read_part(value: Value, spot: Spot) -> Result<Part, PromptError> {
    let problem = |problem| PromptError::Message { spot, problem };
    let Value::Object(json) = value else {
        return Err(problem("a part is an object with a type"));
    };
    let part = Part { json, held: None };
    if part.kind() == PartKind::Text && !part.json["text"].is_string() {
        return Err(problem("the text of a part must be a string"));
    }
    Ok(part)
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

/// The beginning of what a stranger wrote, for a message.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    text.chars().take(SHOWN).collect()
}

/// The name that was meant, if one is near.
pub(super) fn near(
    found: &str,
    names: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    let found = found.trim_matches('"');
    let nearest = names.into_iter().min_by_key(|name| distance(name, found));
    nearest.filter(|name| distance(name, found) <= found.len().div_ceil(2))
}

/// Edit distance, to name the key that was meant.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

/// Media of a conversation that cannot be read carry their place.
pub(super) fn at(spot: Spot) -> impl Fn(MediaError) -> PromptError {
    move |source| PromptError::Media { spot, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Conversations, PromptError> {
        Conversations::from_json(json.as_bytes(), Path::new("/x"))
    }

    /// (document, message)
    const BROKEN: &[(&str, &str)] = &[
        ("[", "the conversation is not valid JSON"),
        ("{}", "message 0: a conversation is a list of {role, content}"),
        ("[]", "the conversation has no messages"),
        ("[[]]", "the conversation has no messages"),
        ("[3]", "message 0: a message is an object with role and content"),
        (r#"[{"content": "a"}]"#, "message 0: a message needs a role, as a string"),
        (
            r#"[{"role": "user", "content": "a"}, {"role": "user", "content": null}]"#,
            "message 1: a message needs content: a string or a list of parts",
        ),
        (
            r#"[{"role": "user", "content": ["a"]}]"#,
            "message 0, part 0: a part is an object with a type",
        ),
        (
            r#"[[{"role": "u", "content": "a"}], [{"role": "u", "content": [{"text": 3}]}]]"#,
            "conversation 1, message 0, part 0: the text of a part must be a string",
        ),
        (
            r#"[[{"role": "u", "content": "a"}], {}]"#,
            "conversation 1, message 0: a conversation is a list of {role, content}",
        ),
    ];

    #[test]
    fn another_shape_is_named_with_its_place() {
        for (json, message) in BROKEN {
            assert_eq!(read(json).unwrap_err().to_string(), *message, "{json}");
        }
    }
}
