//! When an answer ends (docs/spec.md, 13.5 to 13.7).

use std::{sync::Arc, time::Duration};

use super::Clock;
use crate::{
    prompt::Processor,
    units::{TokenId, Tokens},
};

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token of the checkpoint.
    Stop,
    /// One of the request's stop strings, by its place among them.
    StopString(usize),
    /// As many new tokens as asked for.
    Length,
    /// The deadline came, or the time that the request may take.
    Deadline,
}

impl FinishReason {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::StopString(_) => "stop_string",
            Self::Length => "length",
            Self::Deadline => "deadline",
        }
    }
}

/// What ends the answers of a request.
#[derive(Debug)]
pub(crate) struct Stopping {
    pub(crate) eos: Vec<TokenId>,
    pub(crate) max_new: Tokens,
    pub(crate) strings: Vec<String>,
    pub(crate) max_time: Option<Duration>,
    pub(crate) clock: Clock,
    /// Knows the bytes of tokens.
    pub(crate) processor: Arc<Processor>,
}

impl Stopping {
    /// Whether a sequence ends with `token` behind `before`, of which `new` tokens are the answer.
    pub(crate) fn reason(
        &self,
        before: &[TokenId],
        token: TokenId,
        new: usize,
    ) -> Option<FinishReason> {
        if self.eos.contains(&token) {
            return Some(FinishReason::Stop);
        }
        if let Some(place) = self.stop_string(before, token) {
            return Some(FinishReason::StopString(place));
        }
        if new + 1 >= self.max_new.0 {
            return Some(FinishReason::Length);
        }
        let late = self.max_time.is_some_and(|most| self.clock.elapsed() >= most);
        late.then_some(FinishReason::Deadline)
    }

    /// The first stop string that ends inside the token's text. It may begin in the prompt.
    fn stop_string(&self, before: &[TokenId], token: TokenId) -> Option<usize> {
        let longest = self.strings.iter().map(String::len).max()?;
        let bytes_of = |id: TokenId| self.processor.tokenizer().token_bytes(id);
        // The text before the token, from behind, as far as a string can reach.
        let mut tail: Vec<Vec<u8>> = Vec::new();
        let mut length = 0;
        for id in before.iter().rev() {
            if length >= longest {
                break;
            }
            let bytes = bytes_of(*id);
            length += bytes.len();
            tail.push(bytes);
        }
        let mut text: Vec<u8> = tail.into_iter().rev().flatten().collect();
        let end = text.len();
        text.extend(bytes_of(token));
        self.strings.iter().position(|string| ends_after(&text, string.as_bytes(), end))
    }
}

/// Whether `string` occurs in `text` and ends after `end`.
fn ends_after(text: &[u8], string: &[u8], end: usize) -> bool {
    let first = (end + 1).saturating_sub(string.len());
    text.get(first..).is_some_and(|rest| rest.windows(string.len()).any(|window| window == string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_string_touches_the_last_token() {
        // The reference's examples: tokens and whether "stop" ends the text.
        for (tokens, stops) in [
            (&["st", "op"][..], true),
            (&["stop"], true),
            (&["st", "opera"], true),
            (&["sto", "pper"], true),
            (&["las", "topper"], true),
            (&["s", "to", "pped"], true),
            (&["st", "op", "at"], false),
            (&["stop", "at"], false),
            (&["sto", "p", ""], false),
            (&["st", "ocks"], false),
            (&[], false),
        ] {
            let text = tokens.concat();
            let end = text.len() - tokens.last().map_or(0, |last| last.len());
            assert_eq!(ends_after(text.as_bytes(), b"stop", end), stops, "{tokens:?}");
        }
    }
}
