//! The state of one sequence between steps.

use super::sampling::Chosen;
use crate::units::{PageId, Pages, TokenId, Tokens};

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not admitted: it holds no page.
    Waiting,
    /// Its prompt is not all in the pages.
    Prefill,
    /// It gets a token at each step.
    Decode,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token of the checkpoint.
    Stop,
    /// As many new tokens as asked for.
    Length,
    /// The deadline came.
    Deadline,
}

impl FinishReason {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Deadline => "deadline",
        }
    }
}

/// One sequence: its tokens, positions and pages.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Prompt, then answer.
    pub(crate) ids: Vec<TokenId>,
    pub(crate) prompt: Tokens,
    /// Tokens whose keys and values are in the pages.
    pub(crate) cached: usize,
    /// Positions, and once the sequence is admitted rows of the rotary table, of the prompt and then
    /// of the answer: time, height, width.
    pub(crate) positions: [Vec<i32>; 3],
    /// Position of the next token on all three axes.
    pub(crate) next_position: i32,
    /// For each prompt token its place among the sequence's visual tokens, or -1.
    pub(crate) visual: Vec<i32>,
    /// Number of its visual tokens.
    pub(crate) visual_tokens: usize,
    /// First of its rows among the image rows, while it holds them.
    pub(crate) image_row: Option<usize>,
    pub(crate) pages: Vec<PageId>,
    /// Row of the sampler's history, while it has one.
    pub(crate) slot: Option<usize>,
    pub(crate) phase: Phase,
    pub(crate) chosen: Chosen,
    pub(crate) max_new: Tokens,
    pub(crate) eos: Vec<TokenId>,
}

impl Sequence {
    /// Pages that hold the prompt and the longest answer.
    pub(crate) fn pages_needed(&self) -> Pages {
        Tokens(self.prompt.0 + self.max_new.0).pages()
    }

    /// Tokens of the answer so far.
    pub(crate) fn new_tokens(&self) -> usize {
        self.ids.len() - self.prompt.0
    }

    /// Tokens that are in no page yet.
    pub(crate) fn pending(&self) -> usize {
        self.ids.len() - self.cached
    }

    /// Appends a token of the answer and says whether it was the last.
    pub(crate) fn accept(&mut self, token: TokenId) -> Option<FinishReason> {
        self.ids.push(token);
        for axis in &mut self.positions {
            axis.push(self.next_position);
        }
        self.next_position += 1;
        if self.eos.contains(&token) {
            Some(FinishReason::Stop)
        } else if self.new_tokens() >= self.max_new.0 {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// The rows of the image rows for tokens `start..end`; -1 for text and for the answer.
    pub(crate) fn source(&self, start: usize, end: usize) -> Vec<i32> {
        let base = self.image_row.and_then(|row| i32::try_from(row).ok()).unwrap_or(0);
        let row = |token: usize| match self.visual.get(token) {
            Some(&visual) if visual >= 0 => base + visual,
            _ => -1,
        };
        (start..end).map(row).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sequence(prompt: usize, max_new: usize) -> Sequence {
        let axis: Vec<i32> = (0..i32::try_from(prompt).unwrap()).collect();
        Sequence {
            ids: vec![TokenId(1); prompt],
            prompt: Tokens(prompt),
            cached: 0,
            next_position: i32::try_from(prompt).unwrap(),
            positions: [axis.clone(), axis.clone(), axis],
            visual: vec![-1; prompt],
            visual_tokens: 0,
            image_row: None,
            pages: Vec::new(),
            slot: None,
            phase: Phase::Waiting,
            chosen: Chosen {
                do_sample: false,
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                repetition_penalty: 1.0,
                seed: 0,
            },
            max_new: Tokens(max_new),
            eos: vec![TokenId(9), TokenId(8)],
        }
    }

    #[test]
    fn any_end_token_ends_an_answer_and_is_part_of_it() {
        let mut sequence = sequence(3, 5);
        assert_eq!(sequence.accept(TokenId(4)), None);
        assert_eq!(sequence.accept(TokenId(8)), Some(FinishReason::Stop));
        assert_eq!(sequence.ids[3..], [TokenId(4), TokenId(8)]);
        assert_eq!(sequence.positions[2], [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_length_ends_an_answer() {
        let mut sequence = sequence(60, 5);
        let ends: Vec<_> = (0..5).map(|_| sequence.accept(TokenId(2))).collect();
        assert_eq!(ends, [None, None, None, None, Some(FinishReason::Length)]);
        assert_eq!(sequence.pages_needed(), Pages(2));
    }

    #[test]
    fn placeholders_read_the_rows_that_the_sequence_holds() {
        let mut sequence = sequence(5, 5);
        sequence.visual = vec![-1, 0, 1, -1, 2];
        sequence.image_row = Some(40);
        sequence.accept(TokenId(2));
        assert_eq!(sequence.source(1, 6), [40, 41, -1, 42, -1]);
    }
}
