//! Who takes part in the next step.
//!
//! Decoding sequences all take part. Then prompts, in the order of their arrival, share the rows
//! that are left of the step. By the numeric contract none of this shows in a sequence's bits.

use std::collections::BTreeMap;

use super::sequence::{Phase, Sequence};
use crate::units::{SequenceId, Tokens};

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) sequence: SequenceId,
    /// Its first token in this step.
    pub(crate) start: usize,
    pub(crate) rows: usize,
    /// Whether the step ends with its next token.
    pub(crate) sampled: bool,
}

/// Decoding sequences, then prompts within `chunk` rows. Sampled ones stand first, since at most
/// the last prompt is cut.
pub(crate) fn shares(sequences: &BTreeMap<SequenceId, Sequence>, chunk: Tokens) -> Vec<Share> {
    let mut shares = Vec::new();
    for (&id, sequence) in sequences {
        if sequence.phase == Phase::Decode {
            let (start, rows) = (sequence.cached, sequence.pending());
            shares.push(Share { sequence: id, start, rows, sampled: true });
        }
    }
    let mut left = chunk.0;
    for (&id, sequence) in sequences {
        if sequence.phase == Phase::Prefill && left > 0 {
            let rows = sequence.pending().min(left);
            let sampled = rows == sequence.pending();
            shares.push(Share { sequence: id, start: sequence.cached, rows, sampled });
            left -= rows;
        }
    }
    shares
}

/// First-fit ranges of a row buffer: who holds which image rows.
#[derive(Debug)]
pub(crate) struct RowRanges {
    /// (start, length), by start.
    held: BTreeMap<usize, usize>,
    capacity: usize,
}

impl RowRanges {
    /// No row is held.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { held: BTreeMap::new(), capacity }
    }

    /// The lowest start with `rows` free rows behind it; zero rows hold nothing.
    pub(crate) fn take(&mut self, rows: usize) -> Option<usize> {
        let mut start = 0;
        for (&held, &length) in &self.held {
            if held - start >= rows {
                break;
            }
            start = held + length;
        }
        if self.capacity - start < rows {
            return None;
        }
        if rows > 0 {
            self.held.insert(start, rows);
        }
        Some(start)
    }

    /// Ends the hold that begins at `start`.
    pub(crate) fn give_back(&mut self, start: usize) {
        self.held.remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sequence::tests::sequence, *};
    use crate::units::TokenId;

    #[test]
    fn decoders_come_first_and_only_the_last_prompt_is_cut() {
        let mut all = BTreeMap::new();
        for (id, prompt) in [(0, 300), (1, 20), (2, 500)] {
            let mut sequence = sequence(prompt);
            sequence.phase = Phase::Prefill;
            all.insert(SequenceId(id), sequence);
        }
        let decoding = all.get_mut(&SequenceId(1)).unwrap();
        decoding.cached = 20;
        decoding.push(TokenId(3));
        decoding.phase = Phase::Decode;
        let share =
            |id, start, rows, sampled| Share { sequence: SequenceId(id), start, rows, sampled };
        assert_eq!(
            shares(&all, Tokens(512)),
            [share(1, 20, 1, true), share(0, 0, 300, true), share(2, 0, 212, false)]
        );
    }

    #[test]
    fn row_ranges_fill_gaps_and_refuse_what_does_not_fit() {
        let mut ranges = RowRanges::new(10);
        assert_eq!([ranges.take(4), ranges.take(4), ranges.take(4)], [Some(0), Some(4), None]);
        ranges.give_back(0);
        assert_eq!([ranges.take(3), ranges.take(2), ranges.take(0)], [Some(0), Some(8), Some(0)]);
        ranges.give_back(4);
        assert_eq!(ranges.take(5), Some(3));
        assert_eq!(ranges.take(1), None);
    }
}
