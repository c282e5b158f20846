//! Ids to text as the reference's processor offers it: `decode`, `batch_decode`,
//! `post_process_image_text_to_text` (docs/spec.md, sections 5.1 and 6.3).

use super::{Processor, Tokenizer};
use crate::units::TokenId;

/// How ids become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leaves out the tokens that are flagged special.
    pub skip_special_tokens: bool,
    /// Takes blanks before punctuation and English contractions away; without it as
    /// tokenizer_config.json says.
    pub clean_up_tokenization_spaces: Option<bool>,
}

impl Tokenizer {
    /// Text of ids: what is no UTF-8 becomes U+FFFD, unknown ids nothing.
    pub fn decode_with(&self, ids: &[TokenId], options: DecodeOptions) -> String {
        let mut bytes = Vec::new();
        for id in ids {
            self.bytes(*id, options.skip_special_tokens, &mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !options.clean_up_tokenization_spaces.unwrap_or(self.cleans_up()) {
            return text;
        }
        let mut clean_up = CleanUp::default();
        clean_up.push(&text) + &clean_up.finish()
    }
}

impl Processor {
    /// Text of one sequence; by default with control tokens.
    pub fn decode(&self, ids: &[TokenId], options: DecodeOptions) -> String {
        self.tokenizer().decode_with(ids, options)
    }

    /// Text of each sequence, in order.
    pub fn batch_decode(&self, rows: &[Vec<TokenId>], options: DecodeOptions) -> Vec<String> {
        rows.iter().map(|row| self.decode(row, options)).collect()
    }

    /// Text of what `generate` returned, without control tokens.
    pub fn post_process_image_text_to_text(&self, outputs: &[Vec<TokenId>]) -> Vec<String> {
        let options =
            DecodeOptions { skip_special_tokens: true, clean_up_tokenization_spaces: Some(false) };
        self.batch_decode(outputs, options)
    }
}

/// Replacements in the order in which the reference makes them, each over the whole text.
const REPLACEMENTS: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// The clean-up of a text that comes in pieces: the pieces that go out together are the clean-up of
/// the whole. Each replacement holds back what may be the beginning of a match.
#[derive(Clone, Debug, Default)]
pub(super) struct CleanUp {
    held: [String; REPLACEMENTS.len()],
}

impl CleanUp {
    /// Text that can no longer change.
    pub(super) fn push(&mut self, text: &str) -> String {
        let stages = self.held.iter_mut().zip(REPLACEMENTS);
        stages.fold(text.to_owned(), |text, (held, replacement)| replaced(held, &text, replacement))
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> String {
        let stages = self.held.iter_mut().zip(REPLACEMENTS);
        stages.fold(String::new(), |text, (held, replacement)| {
            let mut text = replaced(held, &text, replacement);
            text.push_str(&std::mem::take(held));
            text
        })
    }
}

/// One replacement: `held` is a beginning of its pattern, before and after.
fn replaced(held: &mut String, text: &str, (pattern, by): (&str, &str)) -> String {
    let mut done = String::with_capacity(text.len());
    for c in text.chars() {
        held.push(c);
        if held == pattern {
            done.push_str(by);
            held.clear();
        }
        while !pattern.starts_with(held.as_str()) {
            done.push(held.remove(0));
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference's own form.
    fn whole(text: &str) -> String {
        REPLACEMENTS.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    #[test]
    fn a_cleaned_stream_is_the_cleaned_text() {
        let words =
            [" ", " ", ".", "'", "n't", "'s", "'ve", " ' ", "?", ",", "!", "a", "'r", "e", "é"];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            let mut clean_up = CleanUp::default();
            let mut streamed = String::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = usize::try_from(state >> 40).unwrap() % words.len();
                text.push_str(words[at]);
                streamed.push_str(&clean_up.push(words[at]));
                assert!(whole(&text).starts_with(&streamed), "{text:?}: {streamed:?}");
            }
            streamed.push_str(&clean_up.finish());
            assert_eq!(streamed, whole(&text), "{text:?}");
        }
    }

    #[test]
    fn blanks_go_as_in_the_reference() {
        // tokenizer.clean_up_tokenization(text)
        let cases = [
            ("I do n't , it 's  . ' a ' ?", "I don't, it's .'a '?"),
            ("we 've we 're I 'm !", "we've we're I'm!"),
            ("a  .", "a ."),
        ];
        for (text, clean) in cases {
            assert_eq!(whole(text), clean, "{text}");
        }
    }
}
