//! The answers of one request: sequences that share the pages of their prompt.
//!
//! ```text
//! prompt of 150 tokens, three answers     pages  0  1  2     both full pages of the prompt are shared,
//!                                         answer 0: 0 1 2    the third is copied for the others before
//!                                         answer 1: 0 1 3    they write to it
//!                                         answer 2: 0 1 4
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{EngineError, beams::BeamSearch, sampling::Chosen, step::Outcome, visual::VisualInput};
use crate::units::{PAGE_TOKENS, PageId, Pages, SequenceId, TokenId, Tokens};

/// What the sequences of a request have in common.
#[derive(Debug)]
pub(crate) struct Family {
    /// One for each answer or beam; the first one reads the prompt for all.
    pub(crate) members: Vec<SequenceId>,
    pub(crate) chosen: Arc<Chosen>,
    pub(crate) prompt: Tokens,
    pub(crate) pages: SharedPages,
    /// Rows of the sampler's history, one for each member, while it is admitted.
    pub(crate) slots: Vec<usize>,
    pub(crate) search: Option<BeamSearch>,
    /// Media that the tower has not seen.
    pub(crate) items: Vec<VisualInput>,
    pub(crate) outbox: VecDeque<Result<Outcome, EngineError>>,
    /// Time of the steps since the last outcome: vision tower, decoder.
    pub(crate) spent: (Duration, Duration),
    /// Log probabilities of the prompt's tokens from the second on, if asked for.
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
    /// Answers that have not ended.
    pub(crate) left: usize,
}

/// The log probability of a token, and of the best tokens in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub id: TokenId,
    /// Its log probability under the unedited logits.
    pub logprob: f32,
    /// The best tokens, best first, with theirs.
    pub top: Vec<(TokenId, f32)>,
}

impl Family {
    /// Pages that hold the prompt and all answers at their longest.
    pub(crate) fn pages_needed(&self) -> Pages {
        let (members, longest) = (self.members.len(), self.prompt.0 + self.chosen.max_new().0);
        let shared = self.prompt.0 / PAGE_TOKENS;
        let own = Tokens(longest).pages().0 - shared;
        // While beams change places, a copy stands beside what it is copied from.
        let copies = if self.search.is_some() { members - 1 } else { 0 };
        Pages(shared + members * own + copies)
    }

    /// Its first sequence, which reads the prompt.
    pub(crate) fn leader(&self) -> Option<SequenceId> {
        self.members.first().copied()
    }
}

/// Pages of a family, and how many of its sequences read each.
#[derive(Debug, Default)]
pub(crate) struct SharedPages {
    free: Vec<PageId>,
    readers: BTreeMap<PageId, usize>,
}

impl SharedPages {
    /// Pages of the pool that are the family's now.
    pub(crate) fn new(mut pages: Vec<PageId>) -> Self {
        // The lowest page is taken first.
        pages.reverse();
        Self { free: pages, readers: BTreeMap::new() }
    }

    /// Adds pages to a sequence until it can hold `tokens`.
    ///
    /// # Errors
    /// [`EngineError::Internal`] if the family has none: it reserved too few.
    pub(crate) fn extend(
        &mut self,
        pages: &mut Vec<PageId>,
        tokens: usize,
    ) -> Result<(), EngineError> {
        while pages.len() < Tokens(tokens).pages().0 {
            pages.push(self.take()?);
        }
        Ok(())
    }

    /// The pages of a new sequence that goes on after the first `tokens` tokens of another one:
    /// whole pages are shared, of the last one a copy is made where `copied`.
    ///
    /// # Errors
    /// As [`SharedPages::extend`].
    pub(crate) fn fork(
        &mut self,
        pages: &[PageId],
        tokens: usize,
        copied: bool,
        copies: &mut Vec<(PageId, PageId)>,
    ) -> Result<Vec<PageId>, EngineError> {
        let whole = tokens / PAGE_TOKENS;
        let mut own = pages[..Tokens(tokens).pages().0].to_vec();
        let mut shared = own.len();
        if copied && own.len() > whole {
            let copy = self.take()?;
            copies.push((own[whole], copy));
            own[whole] = copy;
            shared = whole;
        }
        for page in &own[..shared] {
            *self.readers.entry(*page).or_default() += 1;
        }
        Ok(own)
    }

    /// A sequence reads its pages no more.
    pub(crate) fn release(&mut self, pages: &[PageId]) {
        for page in pages {
            let readers = self.readers.get_mut(page);
            let readers = readers.unwrap_or_else(|| unreachable!("a page of nobody is released"));
            *readers -= 1;
            if *readers == 0 {
                self.readers.remove(page);
                self.free.push(*page);
            }
        }
    }

    /// Everything that goes back to the pool.
    pub(crate) fn into_pages(self) -> Vec<PageId> {
        self.free.into_iter().chain(self.readers.into_keys()).collect()
    }

    fn take(&mut self) -> Result<PageId, EngineError> {
        let none = || EngineError::internal("a family without a free page".to_owned());
        let page = self.free.pop().ok_or_else(none)?;
        self.readers.insert(page, 1);
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(ids: &[u32]) -> Vec<PageId> {
        ids.iter().map(|id| PageId(*id)).collect()
    }

    #[test]
    fn whole_pages_are_shared_and_the_last_is_copied() {
        let mut shared = SharedPages::new(pages(&[4, 5, 6, 7]));
        let mut leader = Vec::new();
        shared.extend(&mut leader, 100).unwrap();
        assert_eq!(leader, pages(&[4, 5]));
        let mut copies = Vec::new();
        let copy = shared.fork(&leader, 100, true, &mut copies).unwrap();
        assert_eq!((copy.clone(), copies), (pages(&[4, 6]), vec![(PageId(5), PageId(6))]));
        shared.release(&leader);
        let mut more = copy.clone();
        shared.extend(&mut more, 129).unwrap();
        assert_eq!(more, pages(&[4, 6, 5]), "page 4 is read still, page 5 is free");
        assert_eq!(shared.into_pages().len(), 4);
    }

    #[test]
    fn a_fork_at_the_end_of_a_page_copies_nothing() {
        let mut shared = SharedPages::new(pages(&[1, 2]));
        let mut leader = Vec::new();
        shared.extend(&mut leader, 64).unwrap();
        let mut copies = Vec::new();
        assert_eq!(shared.fork(&leader, 64, true, &mut copies).unwrap(), leader);
        assert!(copies.is_empty());
        shared.release(&leader);
        shared.release(&leader);
        assert_eq!(shared.free.len(), 2);
    }

    #[test]
    fn a_family_that_reserved_too_few_is_a_bug_of_ours() {
        let mut shared = SharedPages::new(pages(&[1]));
        let error = shared.extend(&mut Vec::new(), 65).unwrap_err();
        assert_eq!(error.code(), "internal");
    }
}
