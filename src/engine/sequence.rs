//! The state of one sequence between steps.

use super::{FinishReason, stopping::Stopping};
use crate::units::{PageId, RequestId, TokenId, Tokens};

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

/// One sequence: its tokens, positions and pages.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) family: RequestId,
    /// Which answer of the request, or which beam.
    pub(crate) choice: usize,
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
    pub(crate) phase: Phase,
}

impl Sequence {
    /// Tokens of the answer so far.
    pub(crate) fn new_tokens(&self) -> usize {
        self.ids.len() - self.prompt.0
    }

    /// Tokens that are in no page yet.
    pub(crate) fn pending(&self) -> usize {
        self.ids.len() - self.cached
    }

    /// Tokens of the answer.
    pub(crate) fn answer(&self) -> &[TokenId] {
        &self.ids[self.prompt.0..]
    }

    /// Appends a token of the answer and says whether it was the last.
    pub(crate) fn accept(&mut self, token: TokenId, stopping: &Stopping) -> Option<FinishReason> {
        let reason = stopping.reason(&self.ids, token, self.new_tokens());
        self.push(token);
        reason
    }

    /// Appends a token of the answer.
    pub(crate) fn push(&mut self, token: TokenId) {
        self.ids.push(token);
        for axis in &mut self.positions {
            axis.push(self.next_position);
        }
        self.next_position += 1;
    }

    /// Another sequence that goes on from here, over pages of its own.
    pub(crate) fn fork(&self, choice: usize, pages: Vec<PageId>) -> Self {
        Self {
            family: self.family,
            choice,
            ids: self.ids.clone(),
            prompt: self.prompt,
            cached: self.cached,
            positions: self.positions.clone(),
            next_position: self.next_position,
            visual: Vec::new(),
            visual_tokens: 0,
            image_row: None,
            pages,
            phase: Phase::Decode,
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

    pub(crate) fn sequence(prompt: usize) -> Sequence {
        let axis: Vec<i32> = (0..i32::try_from(prompt).unwrap()).collect();
        Sequence {
            family: RequestId(0),
            choice: 0,
            ids: vec![TokenId(1); prompt],
            prompt: Tokens(prompt),
            cached: 0,
            next_position: i32::try_from(prompt).unwrap(),
            positions: [axis.clone(), axis.clone(), axis],
            visual: vec![-1; prompt],
            visual_tokens: 0,
            image_row: None,
            pages: Vec::new(),
            phase: Phase::Waiting,
        }
    }

    #[test]
    fn a_fork_goes_on_where_its_sequence_stands() {
        let mut sequence = sequence(3);
        sequence.cached = 3;
        let mut fork = sequence.fork(1, vec![PageId(7)]);
        sequence.push(TokenId(4));
        fork.push(TokenId(8));
        assert_eq!([sequence.answer(), fork.answer()], [[TokenId(4)], [TokenId(8)]]);
        assert_eq!(fork.positions[2], [0, 1, 2, 3]);
        assert_eq!((fork.cached, fork.pending(), fork.choice), (3, 1, 1));
    }

    #[test]
    fn placeholders_read_the_rows_that_the_sequence_holds() {
        let mut sequence = sequence(5);
        sequence.visual = vec![-1, 0, 1, -1, 2];
        sequence.image_row = Some(40);
        sequence.push(TokenId(2));
        assert_eq!(sequence.source(1, 6), [40, 41, -1, 42, -1]);
    }
}
