//! The chat template: messages to text that knows where its pieces come from
//! (docs/spec.md, section 5.2).
//!
//! Templates come from checkpoints and are run by an interpreter that has neither files nor a
//! clock, with bounds on steps and output. To tell a user's text from the template's own, the
//! template is rendered twice: as it is, and with each text replaced by a private marker. Cutting
//! the second at the markers and putting the texts back must give the first; a template that looks
//! into a text or changes it fails this and is refused, and so is one that leaves a text out or
//! repeats it: what a user wrote stands in the prompt once.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value as Template};
use serde_json::{Map, Value, json};

use super::message::{Content, PartKind};
use super::{Conversation, PromptError, Spot, continued, methods};

/// Most steps of the interpreter; each byte that a template makes costs 1/64 of one.
const MAX_FUEL: u64 = 10_000_000;
/// Steps that every template has: 32 MB of strings, were it to make nothing else.
const BASE_FUEL: u64 = 500_000;
/// Bytes of a rendered prompt.
const MAX_OUTPUT: usize = 64 << 20;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// Special tokens by name, as templates read them.
    specials: Map<String, Value>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

/// What a template is told beside the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// End with the head of the answer.
    pub add_generation_prompt: bool,
    /// Number pictures and videos in the text.
    pub add_vision_id: bool,
    /// End within the last message, for the model to go on; not together with
    /// `add_generation_prompt`.
    pub continue_final_message: bool,
}

impl Default for RenderOptions {
    fn default() -> Self {
        let (add_vision_id, continue_final_message) = (false, false);
        Self { add_generation_prompt: true, add_vision_id, continue_final_message }
    }
}

/// Who wrote a piece of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The template: its control tokens are meant.
    Template,
    /// A message.
    Message(Spot),
}

/// A piece of a rendered prompt; the pieces in order are the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Not empty.
    pub text: String,
    /// Who wrote it.
    pub origin: Origin,
}

impl ChatTemplate {
    /// Compiles `source`; `specials` are the variables `bos_token`, `eos_token` and so on.
    ///
    /// # Errors
    /// [`PromptError::Template`] with line and construct.
    pub fn new(source: String, specials: Map<String, Value>) -> Result<Self, PromptError> {
        let failed = |source| PromptError::Template { source };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(failed)?);
        // Prompts are no HTML, whatever the template is called.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", methods::to_json);
        environment.set_unknown_method_callback(methods::call);
        environment.add_template_owned("chat_template", source.clone()).map_err(failed)?;
        Ok(Self { environment, source, specials })
    }

    /// Another template with the same special tokens.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn with_source(&self, source: String) -> Result<Self, PromptError> {
        Self::new(source, self.specials.clone())
    }

    /// The prompt as the reference renders it.
    ///
    /// # Errors
    /// [`PromptError::Template`], [`PromptError::Limit`]; [`PromptError::ContinueAndAnswer`],
    /// [`PromptError::NothingToContinue`].
    pub fn render(
        &self,
        conversation: &Conversation,
        options: RenderOptions,
    ) -> Result<String, PromptError> {
        let plain = messages(conversation, &mut |_, text| text.to_owned());
        let text = self.run(plain, options, fuel(conversation))?;
        match options.continue_final_message {
            true => continued::cut_text(text, conversation),
            false => Ok(text),
        }
    }

    /// What the checkpoint holds.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt in pieces by who wrote them.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`PromptError::TemplateChangesText`].
    pub fn pieces(
        &self,
        index: usize,
        conversation: &Conversation,
        options: RenderOptions,
    ) -> Result<Vec<Piece>, PromptError> {
        let mut texts: Vec<(Spot, String)> = Vec::new();
        let plain = messages(conversation, &mut |spot, text| {
            texts.push((Spot { conversation: index, ..spot }, text.to_owned()));
            text.to_owned()
        });
        let document = Value::Array(plain);
        let mark = mark(&[&self.source, &document.to_string(), &json!(self.specials).to_string()]);
        let Value::Array(plain) = document else { return Err(PromptError::TemplateChangesText) };
        let fuel = fuel(conversation);
        let expected = self.run(plain, options, fuel)?;
        let mut count = 0_usize;
        let marked = messages(conversation, &mut |_, text| {
            count += 1;
            // An empty text stays one: a template may ask whether there is any.
            if text.is_empty() { String::new() } else { format!("{mark}{}{mark}", count - 1) }
        });
        let pieces = cut(&self.run(marked, options, fuel)?, mark, &texts);
        let pieces = pieces.filter(|pieces| is_joined(pieces, &expected));
        let pieces = pieces.ok_or(PromptError::TemplateChangesText)?;
        for (spot, _) in texts.iter().filter(|(_, text)| !text.is_empty()) {
            let from_there = |piece: &&Piece| piece.origin == Origin::Message(*spot);
            let times = pieces.iter().filter(from_there).count();
            if times != 1 {
                return Err(PromptError::TemplateText { spot: *spot, times });
            }
        }
        match options.continue_final_message {
            true => continued::cut_pieces(pieces, conversation, index),
            false => Ok(pieces),
        }
    }

    fn run(
        &self,
        messages: Vec<Value>,
        options: RenderOptions,
        fuel: u64,
    ) -> Result<String, PromptError> {
        if options.continue_final_message && options.add_generation_prompt {
            return Err(PromptError::ContinueAndAnswer);
        }
        let mut context = self.specials.clone();
        context.insert("messages".into(), Value::Array(messages));
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        context.insert("add_vision_id".into(), options.add_vision_id.into());
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let template = environment.get_template("chat_template");
        let text = template
            .and_then(|template| template.render(Template::from(Serde(context))))
            .map_err(|source| PromptError::Template { source })?;
        if text.len() > MAX_OUTPUT {
            let limit = "rendered prompt in bytes";
            return Err(PromptError::Limit { limit, got: text.len(), max: MAX_OUTPUT });
        }
        Ok(text)
    }
}

fn raise_exception(message: String) -> Result<Template, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The messages as a template sees them, each text passed through `text`.
fn messages(conversation: &Conversation, text: &mut dyn FnMut(Spot, &str) -> String) -> Vec<Value> {
    let mut list = Vec::with_capacity(conversation.messages.len());
    for (index, message) in conversation.messages.iter().enumerate() {
        let spot = Spot { conversation: 0, message: index, part: None };
        let content = match &message.content {
            Content::Text(content) => Value::String(text(spot, content)),
            Content::Parts(parts) => {
                let part = |(part, value): (usize, &super::Part)| {
                    let mut json = value.json.clone();
                    if value.kind() == PartKind::Text
                        && let Some(Value::String(content)) = json.get_mut("text")
                    {
                        *content = text(Spot { part: Some(part), ..spot }, content);
                    }
                    Value::Object(json)
                };
                Value::Array(parts.iter().enumerate().map(part).collect())
            }
        };
        let mut map = Map::new();
        map.insert("role".into(), message.role.clone().into());
        map.insert("content".into(), content);
        map.extend(message.extra.clone());
        list.push(Value::Object(map));
    }
    list
}

/// Steps for a conversation: some copies of its texts and some hundred operations for each part, so
/// that a template cannot take memory out of proportion to what it is given.
fn fuel(conversation: &Conversation) -> u64 {
    let (mut bytes, mut parts) = (0_usize, 0_usize);
    for message in &conversation.messages {
        parts += 1 + message.parts().len();
        bytes += message.role.len() + json!(message.extra).to_string().len();
        bytes += match &message.content {
            Content::Text(text) => text.len(),
            Content::Parts(parts) => {
                let text = |part: &super::Part| part.json.get("text")?.as_str().map(str::len);
                parts.iter().filter_map(text).sum()
            }
        };
    }
    let wide = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let more = wide(bytes / 4).saturating_add(wide(parts).saturating_mul(1_000));
    BASE_FUEL.saturating_add(more).min(MAX_FUEL)
}

/// Whether the pieces are `text`.
fn is_joined(pieces: &[Piece], text: &str) -> bool {
    let rest = pieces.iter().try_fold(text, |rest, piece| rest.strip_prefix(piece.text.as_str()));
    rest == Some("")
}

/// A character for private use that occurs nowhere.
fn mark(texts: &[&str]) -> char {
    let free = |candidate: &char| !texts.iter().any(|text| text.contains(*candidate));
    // 65,534 candidates; a text that held them all would be over the limit on texts.
    ('\u{f0000}'..='\u{ffffd}').find(free).unwrap_or('\u{10fffd}')
}

/// Pieces of a marked rendering; none where a marker is broken.
fn cut(marked: &str, mark: char, texts: &[(Spot, String)]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    for (index, run) in marked.split(mark).enumerate() {
        // Between the two characters of a marker stands the number of its text.
        let (text, origin) = if index.is_multiple_of(2) {
            (run, Origin::Template)
        } else {
            let (spot, text) = texts.get(run.parse::<usize>().ok()?)?;
            (text.as_str(), Origin::Message(*spot))
        };
        if !text.is_empty() {
            pieces.push(Piece { text: text.to_owned(), origin });
        }
    }
    marked.matches(mark).count().is_multiple_of(2).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{Message, Part};

    const CHAT: &str = "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}\
        {{ part.text }}{% endfor %}{% endfor %}{% if add_generation_prompt %}!{% endif %}";

    fn conversation(texts: &[&str]) -> Conversation {
        Conversation::new([Message::user(texts.iter().map(|text| Part::text(*text)))])
    }

    fn pieces(source: &str, texts: &[&str]) -> Result<Vec<Piece>, PromptError> {
        let template = ChatTemplate::new(source.into(), Map::new()).unwrap();
        template.pieces(0, &conversation(texts), RenderOptions::default())
    }

    #[test]
    fn pieces_know_who_wrote_them() {
        let got = pieces(CHAT, &["a", "", "<user>"]).unwrap();
        let message =
            |part| Origin::Message(Spot { conversation: 0, message: 0, part: Some(part) });
        let expected = [
            ("<user>", Origin::Template),
            ("a", message(0)),
            ("<user>", message(2)),
            ("!", Origin::Template),
        ];
        let got: Vec<_> = got.iter().map(|piece| (piece.text.as_str(), piece.origin)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn texts_with_private_characters_get_another_marker() {
        let texts = ["\u{f0000}0\u{f0000}", "\u{f0001}"];
        let got = pieces(CHAT, &texts).unwrap();
        assert_eq!(got.iter().filter(|piece| piece.origin != Origin::Template).count(), 2);
        assert_eq!(got[1].text, texts[0]);
    }

    /// (template, what it does to a text)
    const MEDDLING: &[(&str, &str)] = &[
        ("{{ messages[0].content[0].text | upper }}", "changes it"),
        ("{{ messages[0].content[0].text | length }}", "measures it"),
        ("{% if 'x' in messages[0].content[0].text %}yes{% endif %}", "looks into it"),
        ("{{ messages[0].content[0].text[:2] }}", "cuts it"),
    ];

    #[test]
    fn a_template_that_meddles_with_text_is_refused() {
        for (source, what) in MEDDLING {
            let got = pieces(source, &["wxyz"]);
            assert!(matches!(got, Err(PromptError::TemplateChangesText)), "{what}: {got:?}");
            let template = ChatTemplate::new((*source).into(), Map::new()).unwrap();
            template.render(&conversation(&["wxyz"]), RenderOptions::default()).unwrap();
        }
    }

    /// (template, part, how often its text is in the prompt)
    const COUNTED: &[(&str, usize, usize)] = &[
        ("{{ messages[0].content[1].text }}", 0, 0),
        ("{{ messages[0].content[0].text }}{{ messages[0].content[1].text * 2 }}", 1, 2),
        ("{{ messages[0].role }}", 0, 0),
    ];

    #[test]
    fn a_text_that_is_left_out_or_repeated_is_refused() {
        for (source, part, count) in COUNTED {
            let error = pieces(source, &["a", "b"]).unwrap_err();
            let PromptError::TemplateText { spot, times } = error else { panic!("{error}") };
            assert_eq!((spot.part, times), (Some(*part), *count), "{source}");
            assert_eq!(error.code(), "template_invalid");
        }
        let empty = pieces("{{ messages[0].content[1].text }}", &["", "b"]).unwrap();
        assert_eq!(empty.len(), 1, "an empty text is nowhere");
    }

    #[test]
    fn a_template_may_be_long_where_the_conversation_is() {
        let texts = ["some words ".repeat(200_000)];
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(pieces(CHAT, &texts).unwrap().len(), 3);
        let parts = vec!["x"; 20_000];
        assert_eq!(pieces(CHAT, &parts).unwrap().len(), 20_002);
    }

    /// (template, what the chain of messages names)
    const BROKEN: &[(&str, &str)] = &[
        ("{% for x in messages %}", "unexpected end"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ strftime_now('%Y') }}", "strftime_now"),
        ("{{ messages[0].role.frobnicate() }}", "frobnicate"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "fuel"),
    ];

    #[test]
    fn a_template_that_cannot_run_names_line_and_construct() {
        for (source, names) in BROKEN {
            let render = |template: ChatTemplate| {
                template.render(&conversation(&["a"]), RenderOptions::default())
            };
            let error = ChatTemplate::new((*source).into(), Map::new()).and_then(render);
            let PromptError::Template { source: error } = error.unwrap_err() else { panic!() };
            let text = format!("{error} {:?}", error.line());
            assert!(text.contains(names) && text.contains("Some(1)"), "{source}: {text}");
        }
    }

    #[test]
    fn blocks_leave_no_lines_and_json_is_pythons() {
        let source = "{% if true %}\n  {% set x = {'b': ['<', \"'\", 'é'], 'a': none} %}\n\
                      {% endif %}\n{{ messages[0].role.strip('u') }}{{ {'b': ['<é'], 'a': 1.5} | tojson }}";
        let template = ChatTemplate::new(source.into(), Map::new()).unwrap();
        let text = template.render(&conversation(&["a"]), RenderOptions::default()).unwrap();
        assert_eq!(text, "ser{\"b\": [\"<é\"], \"a\": 1.5}");
    }
}
