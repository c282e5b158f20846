//! Ids to text as they come, never half a character (docs/spec.md, section 6.3).

use super::Tokenizer;
use super::decoding::CleanUp;
use crate::units::TokenId;

/// Text of a stream of ids; all pieces together are what [`Tokenizer::decode`] gives for all ids.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    skip_special: bool,
    /// The beginning of a character whose end has not come: at most three bytes between calls.
    pending: Vec<u8>,
    /// Where the tokenizer takes blanks away.
    clean_up: Option<CleanUp>,
}

impl Detokenizer {
    /// A stream's beginning; with `skip_special` control tokens have no text.
    pub fn new(skip_special: bool) -> Self {
        Self { skip_special, pending: Vec::new(), clean_up: None }
    }

    /// Text that is complete with this id.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: TokenId) -> String {
        tokenizer.bytes(id, self.skip_special, &mut self.pending);
        let text = self.take();
        if tokenizer.cleans_up() {
            return self.clean_up.get_or_insert_default().push(&text);
        }
        text
    }

    /// What is left at the end: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned();
        match &mut self.clean_up {
            Some(clean_up) => clean_up.push(&text) + &clean_up.finish(),
            None => text,
        }
    }

    /// Bytes that can no longer change, as text.
    fn take(&mut self) -> String {
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    // Without a length the bytes may still become a character.
                    let Some(invalid) = error.error_len() else {
                        self.pending.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + invalid);
                }
            }
        }
    }
}
