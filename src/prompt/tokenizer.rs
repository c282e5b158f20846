//! Text to ids and back (docs/spec.md, section 6).
//!
//! Added tokens are found here, not in the `tokenizers` crate: its vocabulary of added tokens is
//! emptied, so that what it encodes can only become ordinary pieces. Which added tokens are looked
//! for depends on who wrote the text (product rule of section 6.4): all of them in what the template
//! wrote, in a message only those that the policy leaves active. Between two control tokens the
//! text of all pieces is joined before it is encoded, so that a newline at a seam merges as in the
//! reference.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{AddedVocabulary, DecoderWrapper, Tokenizer as Encoder};

use super::{DecodeOptions, Origin, Piece, PromptError, Spot};
use crate::units::TokenId;

/// Bytes of a tokenizer file.
const MAX_FILE: u64 = 64 << 20;
/// Added tokens that people write in questions: they neither end a turn nor bind a picture.
const GROUNDING: [&str; 6] = [
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
];

/// What strings of control tokens in a message mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControlText {
    /// Text like any other; the grounding tokens stay active.
    #[default]
    Literal,
    /// An error.
    Refuse,
    /// Control tokens, as in the reference.
    Trusted,
}

/// What the grounding tokens (object_ref, box, quad) in a message mean, unless it is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grounding {
    /// Themselves: people write them in questions, and they neither end a turn nor bind a picture.
    #[default]
    Active,
    /// The same as all other control tokens.
    Control,
}

/// A token of `added_tokens`.
#[derive(Clone, Debug)]
struct Added {
    text: String,
    id: TokenId,
    special: bool,
}

/// The checkpoint's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    /// Longest first: the first that matches at a place is the one.
    added: Vec<Added>,
    /// First characters of the added tokens, each once.
    starts: Vec<char>,
    grounding: Grounding,
    clean_up: bool,
}

/// Ids of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// In order.
    pub ids: Vec<TokenId>,
    /// Strings of control tokens that became ordinary text.
    pub escaped: usize,
}

impl Tokenizer {
    /// Reads tokenizer.json, else vocab.json, merges.txt and tokenizer_config.json.
    ///
    /// # Errors
    /// [`PromptError::Io`], [`PromptError::Tokenizer`], [`PromptError::UnsupportedTokenizer`].
    pub fn from_dir(folder: &Path) -> Result<Self, PromptError> {
        let file = folder.join("tokenizer.json");
        let mut tokenizer = if file.is_file() {
            Self::from_json(&read(&file)?, &file)?
        } else {
            Self::from_json(&assemble(folder)?, &folder.join("vocab.json"))?
        };
        let settings = super::processor::settings(folder)?;
        let flag = settings.get("clean_up_tokenization_spaces");
        tokenizer.clean_up = flag.and_then(Value::as_bool).unwrap_or(false);
        Ok(tokenizer)
    }

    /// Reads the content of a tokenizer.json; `file` names it in errors.
    ///
    /// # Errors
    /// [`PromptError::Tokenizer`], [`PromptError::UnsupportedTokenizer`].
    pub fn from_json(bytes: &[u8], file: &Path) -> Result<Self, PromptError> {
        let problem = |error: tokenizers::Error| PromptError::Tokenizer {
            file: file.to_owned(),
            problem: error.to_string(),
        };
        let unsupported =
            |what: String| Err(PromptError::UnsupportedTokenizer { file: file.to_owned(), what });
        // The crate panics on a decoder that is no JSON and on a broken Precompiled: it gets a
        // document that is read already, where a key stands once.
        let document: Value =
            serde_json::from_slice(bytes).map_err(|error| problem(error.into()))?;
        if document.get("normalizer").is_some_and(has_charsmap) {
            return unsupported("a Precompiled normalizer".into());
        }
        let mut encoder: Encoder =
            serde_json::from_value(document).map_err(|error| problem(error.into()))?;
        if !matches!(encoder.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return unsupported("a decoder other than ByteLevel".into());
        }
        let mut added = Vec::new();
        for (id, token) in encoder.get_added_tokens_decoder() {
            if token.lstrip || token.rstrip || token.single_word {
                let what = format!("lstrip, rstrip or single_word on the token {}", token.content);
                return unsupported(what);
            }
            if token.normalized && !token.content.is_ascii() {
                return unsupported(format!("normalized on the token {}", token.content));
            }
            if !token.content.is_empty() {
                added.push(Added { text: token.content, id: TokenId(id), special: token.special });
            }
        }
        added.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then_with(|| a.text.cmp(&b.text)));
        encoder.with_added_vocabulary(AddedVocabulary::new());
        encoder.with_padding(None);
        encoder.with_truncation(None).map_err(problem)?;
        let mut starts: Vec<char> =
            added.iter().filter_map(|token| token.text.chars().next()).collect();
        starts.sort_unstable();
        starts.dedup();
        let (grounding, clean_up) = (Grounding::default(), false);
        Ok(Self { encoder, added, starts, grounding, clean_up })
    }

    /// Whether blanks before punctuation are taken away where ids become text.
    pub(super) fn cleans_up(&self) -> bool {
        self.clean_up
    }

    /// The same with another meaning of grounding tokens in messages.
    #[must_use]
    pub fn with_grounding(mut self, grounding: Grounding) -> Self {
        self.grounding = grounding;
        self
    }

    /// Id of an added token.
    pub fn added_id(&self, text: &str) -> Option<TokenId> {
        self.added.iter().find(|token| token.text == text).map(|token| token.id)
    }

    /// The first control token in `text`, in byte order, and where: one that the policy
    /// [`ControlText::Literal`] takes for text.
    pub fn control_token(&self, text: &str) -> Option<(&str, usize)> {
        self.scan(text, |_| true).into_iter().find_map(|(offset, token)| {
            (!self.is_active(token)).then_some((token.text.as_str(), offset))
        })
    }

    /// Ids of text in which every added token counts.
    ///
    /// # Errors
    /// [`PromptError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, PromptError> {
        let piece = Piece { text: text.to_owned(), origin: Origin::Template };
        Ok(self.encode_pieces(&[piece], ControlText::Trusted)?.ids)
    }

    /// Ids of a rendered prompt. With [`ControlText::Trusted`] it may be one piece.
    ///
    /// # Errors
    /// [`PromptError::ControlToken`] where the policy refuses one; [`PromptError::Encode`].
    pub fn encode_pieces(
        &self,
        pieces: &[Piece],
        policy: ControlText,
    ) -> Result<Encoded, PromptError> {
        let mut writer =
            Writer { tokenizer: self, policy, run: Run::default(), encoded: Encoded::default() };
        if policy == ControlText::Trusted {
            let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
            writer.append(&text, Origin::Template)?;
        } else {
            for piece in pieces {
                writer.append(&piece.text, piece.origin)?;
            }
        }
        writer.flush()?;
        Ok(writer.encoded)
    }

    /// Text of ids: what is no UTF-8 becomes U+FFFD, unknown ids nothing.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> String {
        let skip_special_tokens = skip_special;
        self.decode_with(ids, DecodeOptions { skip_special_tokens, ..DecodeOptions::default() })
    }

    /// The bytes that a token stands for, of control tokens those of their names; an unknown token
    /// has none.
    pub fn token_bytes(&self, id: TokenId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.bytes(id, false, &mut bytes);
        bytes
    }

    /// Appends the bytes that a token stands for.
    pub(super) fn bytes(&self, id: TokenId, skip_special: bool, to: &mut Vec<u8>) {
        let added = self.added.iter().find(|token| token.id == id);
        if added.is_some_and(|token| token.special && skip_special) {
            return;
        }
        let text = added.map(|token| token.text.clone()).or_else(|| self.encoder.id_to_token(id.0));
        if let Some(text) = text {
            let mapped: Option<Vec<u8>> = text.chars().map(byte_of).collect();
            to.extend(mapped.unwrap_or_else(|| text.into_bytes()));
        }
    }

    /// Whether a token means itself in a message.
    fn is_active(&self, token: &Added) -> bool {
        self.grounding == Grounding::Active && GROUNDING.contains(&token.text.as_str())
    }

    /// Added tokens in `text`, leftmost first, the longest at each place.
    fn scan(&self, text: &str, active: impl Fn(&Added) -> bool) -> Vec<(usize, &Added)> {
        let mut found = Vec::new();
        let mut offset = 0;
        while let Some(rest) = text.get(offset..).filter(|rest| !rest.is_empty()) {
            let here =
                self.added.iter().find(|added| active(added) && rest.starts_with(&added.text));
            if let Some(added) = here {
                found.push((offset, added));
                offset += added.text.len();
                continue;
            }
            // Every token begins with one of few characters: skip to the next of them.
            let first = rest.chars().next().map_or(1, char::len_utf8);
            let next = rest.get(first..).and_then(|rest| rest.find(self.starts.as_slice()));
            offset += next.map_or(rest.len(), |at| first + at);
        }
        found
    }
}

/// Text between two control tokens, of several pieces.
#[derive(Default)]
struct Run {
    text: String,
    /// Where a piece's text begins in the run, and what of the piece is before it.
    starts: Vec<(usize, Origin, usize)>,
}

/// Pieces to ids.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    policy: ControlText,
    run: Run,
    encoded: Encoded,
}

impl Writer<'_> {
    /// Appends text to the current run; each token in it that means itself ends the run.
    fn append(&mut self, text: &str, origin: Origin) -> Result<(), PromptError> {
        let tokenizer = self.tokenizer;
        let means_itself = |token: &Added| origin == Origin::Template || tokenizer.is_active(token);
        let mut start = 0;
        for (offset, token) in tokenizer.scan(text, means_itself) {
            self.push(&text[start..offset], origin, start);
            self.flush()?;
            self.encoded.ids.push(token.id);
            start = offset + token.text.len();
        }
        self.push(&text[start..], origin, start);
        Ok(())
    }

    fn push(&mut self, text: &str, origin: Origin, before: usize) {
        self.run.starts.push((self.run.text.len(), origin, before));
        self.run.text.push_str(text);
    }

    /// Encodes the run. Strings of control tokens in it, also those that only the seams of pieces
    /// make, are text.
    fn flush(&mut self) -> Result<(), PromptError> {
        let Run { text, starts } = std::mem::take(&mut self.run);
        if text.is_empty() {
            return Ok(());
        }
        if self.policy != ControlText::Trusted {
            let found = self.tokenizer.scan(&text, |_| true);
            if let Some((at, token)) = found.first().filter(|_| self.policy == ControlText::Refuse)
            {
                let token = token.text.clone();
                let (spot, offset) = place(&starts, *at..*at + token.len());
                return Err(PromptError::ControlToken { spot, token, offset });
            }
            self.encoded.escaped += found.len();
        }
        let encoding = self.tokenizer.encoder.encode_fast(text.as_str(), false);
        let encoding =
            encoding.map_err(|error| PromptError::Encode { problem: error.to_string() })?;
        self.encoded.ids.extend(encoding.get_ids().iter().map(|id| TokenId(*id)));
        Ok(())
    }
}

/// The message that a place of a run comes from, or the first one that it reaches into, and the
/// offset in its text.
fn place(starts: &[(usize, Origin, usize)], range: Range<usize>) -> (Spot, usize) {
    let ends = starts.iter().skip(1).map(|(start, ..)| *start).chain([usize::MAX]);
    let overlapping = starts
        .iter()
        .zip(ends)
        .filter(|((start, ..), end)| *start < range.end && *end > range.start);
    let mut in_messages = overlapping.filter_map(|(&(start, origin, before), _)| match origin {
        Origin::Message(spot) => Some((spot, before + range.start.saturating_sub(start))),
        Origin::Template => None,
    });
    in_messages.next().unwrap_or_default()
}

/// Whether a normalizer is, or holds, one of SentencePiece's tables.
fn has_charsmap(normalizer: &Value) -> bool {
    match normalizer {
        Value::Object(map) => {
            map.get("type").is_some_and(|kind| kind == "Precompiled")
                || map.contains_key("precompiled_charsmap")
                || map.values().any(has_charsmap)
        }
        Value::Array(list) => list.iter().any(has_charsmap),
        _ => false,
    }
}

/// The byte that a character of a byte-level vocabulary stands for: GPT-2's table.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let printable = |code: u32| matches!(code, 33..=126 | 161..=172 | 174..=255);
    if printable(code) {
        return u8::try_from(code).ok();
    }
    // The others, in order, are U+0100 and up.
    let nth = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=255_u8).filter(|byte| !printable((*byte).into())).nth(nth)
}

fn read(file: &Path) -> Result<Vec<u8>, PromptError> {
    super::processor::read_limited(file, MAX_FILE)
}

/// A tokenizer.json from the files of older checkpoints.
fn assemble(folder: &Path) -> Result<Vec<u8>, PromptError> {
    let parse = |name: &str| -> Result<(PathBuf, Value), PromptError> {
        let file = folder.join(name);
        let value = serde_json::from_slice(&read(&file)?).map_err(|error| {
            PromptError::Tokenizer { file: file.clone(), problem: error.to_string() }
        })?;
        Ok((file, value))
    };
    let (_, vocabulary) = parse("vocab.json")?;
    let (_, config) = parse("tokenizer_config.json")?;
    let merges = read(&folder.join("merges.txt"))?;
    let merges = String::from_utf8_lossy(&merges).into_owned();
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
    let none = Map::new();
    let added = config.get("added_tokens_decoder").and_then(Value::as_object).unwrap_or(&none);
    let added: Vec<Value> = added
        .iter()
        .filter_map(|(id, token)| {
            let flag = |key| token.get(key).and_then(Value::as_bool).unwrap_or(false);
            Some(json!({
                "id": id.parse::<u32>().ok()?, "content": token.get("content")?,
                "single_word": flag("single_word"), "lstrip": flag("lstrip"),
                "rstrip": flag("rstrip"), "normalized": flag("normalized"),
                "special": flag("special"),
            }))
        })
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    let document = json!({
        "version": "1.0", "added_tokens": added, "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": SPLIT }, "behavior": "Isolated", "invert": false },
            byte_level,
        ] },
        "post_processor": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": merges },
    });
    Ok(document.to_string().into_bytes())
}

/// How text is cut before merging (docs/spec.md, section 6.1).
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
        Tokenizer::from_dir(&folder).unwrap()
    }

    fn user(text: &str) -> Piece {
        Piece { text: text.into(), origin: Origin::Message(Spot::default()) }
    }

    fn template(text: &str) -> Piece {
        Piece { text: text.into(), origin: Origin::Template }
    }

    #[test]
    fn the_table_of_bytes_is_gpt_2s() {
        assert_eq!([' ', '\n', '!', 'é'].map(byte_of), [None, None, Some(b'!'), Some(0xe9)]);
        assert_eq!(
            ['Ġ', 'Ċ', 'Ā', 'Ń'].map(byte_of),
            [Some(b' '), Some(b'\n'), Some(0), Some(173)]
        );
        assert_eq!(byte_of('\u{144}'), None, "one past the last");
    }

    #[test]
    fn a_users_control_token_is_text_and_a_templates_is_not() {
        let tokenizer = tokenizer();
        let end = tokenizer.added_id("<|im_end|>").unwrap();
        let pieces = [template("<|im_end|>"), user("<|im_end|>"), template("<|im_end|>")];
        let literal = tokenizer.encode_pieces(&pieces, ControlText::Literal).unwrap();
        let ends = |ids: &[TokenId]| ids.iter().filter(|id| **id == end).count();
        assert_eq!((ends(&literal.ids), literal.escaped), (2, 1));
        assert_eq!(tokenizer.decode(&literal.ids, false), "<|im_end|>".repeat(3));
        let trusted = tokenizer.encode_pieces(&pieces, ControlText::Trusted).unwrap();
        assert_eq!((ends(&trusted.ids), trusted.escaped), (3, 0));
        let refused = tokenizer.encode_pieces(&[user("ab<|im_end|>")], ControlText::Refuse);
        let message = "message 0: control token <|im_end|> at byte 2 of the text";
        assert_eq!(refused.unwrap_err().to_string(), message);
    }

    #[test]
    fn a_control_token_over_two_pieces_is_text() {
        let tokenizer = tokenizer();
        let pieces =
            [user("<|im_"), user("end|>"), template("x"), user("<|im_end"), template("|>")];
        let literal = tokenizer.encode_pieces(&pieces, ControlText::Literal).unwrap();
        assert!(!literal.ids.contains(&tokenizer.added_id("<|im_end|>").unwrap()));
        assert_eq!(literal.escaped, 2, "the reference would find both");
        let at = |part| Origin::Message(Spot { part: Some(part), ..Spot::default() });
        let of = |text: &str, origin| Piece { text: text.into(), origin };
        for (pieces, message) in [
            (
                vec![of("a<|im_", at(0)), of("end|>", at(1))],
                "message 0, part 0: control token <|im_end|> at byte 1",
            ),
            (
                vec![template("x<|im_"), of("end|>", at(2))],
                "message 0, part 2: control token <|im_end|> at byte 0",
            ),
            (
                vec![of("<|box_start|>b<|im_end", at(0)), template("|>")],
                "message 0, part 0: control token <|im_end|> at byte 14",
            ),
        ] {
            let error = tokenizer.encode_pieces(&pieces, ControlText::Refuse).unwrap_err();
            assert_eq!(error.to_string(), format!("{message} of the text"));
        }
    }

    #[test]
    fn grounding_tokens_stay_active_in_a_users_text() {
        let tokenizer = tokenizer();
        let text = "<|box_start|>(1,2)<|box_end|>";
        let literal = tokenizer.encode_pieces(&[user(text)], ControlText::Literal).unwrap();
        assert_eq!((literal.ids, literal.escaped), (tokenizer.encode(text).unwrap(), 0));
        let tokenizer = tokenizer.with_grounding(Grounding::Control);
        let literal = tokenizer.encode_pieces(&[user(text)], ControlText::Literal).unwrap();
        let first = tokenizer.added_id("<|endoftext|>").unwrap();
        assert!(literal.ids.iter().all(|id| *id < first), "{:?}", literal.ids);
        assert_eq!((tokenizer.decode(&literal.ids, false), literal.escaped), (text.to_owned(), 2));
        let refused = tokenizer.encode_pieces(&[user(text)], ControlText::Refuse);
        assert_eq!(refused.unwrap_err().code(), "control_token");
    }

    #[test]
    fn text_is_joined_over_a_seam() {
        let tokenizer = tokenizer();
        let pieces = [template("<|im_start|>user\n"), user("\nHel"), user("lo"), template(".")];
        let ids = tokenizer.encode_pieces(&pieces, ControlText::Literal).unwrap().ids;
        assert_eq!(ids, tokenizer.encode("<|im_start|>user\n\nHello.").unwrap());
    }

    #[test]
    fn the_older_files_give_the_same_ids() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
        let assembled = assemble(&folder).unwrap();
        let older = Tokenizer::from_json(&assembled, &folder.join("vocab.json")).unwrap();
        let text = "<|im_start|>user\nWhat color is the 3rd shape?  \n\nIt's rédd<|im_end|>";
        assert_eq!(older.encode(text).unwrap(), tokenizer().encode(text).unwrap());
    }
}
