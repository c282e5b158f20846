//! What becomes of a step's results: tokens of answers, forks of a prompt, beams.

use super::{
    EngineError,
    beams::{Candidate, Finished},
    family::TokenLogprobs,
    launch::{Brought, Lane, Top},
    processors,
    sequence::{Phase, Sequence},
    step::{Core, Outcome},
};
use crate::{
    ops::sample::{STATUS_NOT_FINITE, Sample, SampleResult},
    units::{RequestId, SequenceId, TokenId},
};

impl Core {
    /// Hands the results to the requests of the lanes, one after another.
    pub(super) fn deliver(&mut self, lanes: &[Lane], brought: Brought) -> Result<(), EngineError> {
        let mut rest = brought.results.into_iter().zip(brought.tops);
        for group in lanes.chunk_by(|a, b| a.family == b.family) {
            let results: Vec<(SampleResult, Top)> = rest.by_ref().take(group.len()).collect();
            let Some(lane) = group.first() else { continue };
            self.end_prompt(lane)?;
            if let Some(status) = results.iter().map(failed).find(|status| *status != 0) {
                self.fail(lane, status);
            } else if lane.searches {
                self.search(lane.family, results)?;
            } else {
                self.answer(group, results)?;
            }
        }
        Ok(())
    }

    /// A request whose logits are not finite ends.
    fn fail(&mut self, lane: &Lane, status: u32) {
        let position = self.sequences.get(&lane.sequence).map_or(0, |sequence| sequence.ids.len());
        self.release(lane.family);
        if let Some(family) = self.families.get_mut(&lane.family) {
            family.outbox.push_back(Err(EngineError::NonFinite { position, status }));
        }
    }

    /// The prompt has been read: its image rows are free, and answers part.
    fn end_prompt(&mut self, lane: &Lane) -> Result<(), EngineError> {
        let Some(leader) = self.sequences.get_mut(&lane.sequence) else { return Ok(()) };
        if leader.phase == Phase::Decode {
            return Ok(());
        }
        leader.phase = Phase::Decode;
        if let Some(row) = leader.image_row.take() {
            self.image_rows.give_back(row);
        }
        let Some(family) = self.families.get_mut(&lane.family) else { return Ok(()) };
        // Beams part when their tokens are known.
        if lane.searches {
            return Ok(());
        }
        let leader = &self.sequences[&lane.sequence];
        let mut forks = Vec::new();
        for (choice, member) in family.members.iter().enumerate().skip(1) {
            let mut copies = Vec::new();
            let pages = family.pages.fork(&leader.pages, leader.cached, true, &mut copies)?;
            self.copies.extend(copies.into_iter().map(|(from, to)| (lane.family, from, to)));
            forks.push((*member, leader.fork(choice, pages)));
        }
        self.sequences.extend(forks);
        Ok(())
    }

    /// A token for each answer of a group of lanes.
    fn answer(
        &mut self,
        lanes: &[Lane],
        results: Vec<(SampleResult, Top)>,
    ) -> Result<(), EngineError> {
        for (lane, (result, top)) in lanes.iter().zip(results) {
            let token = u32::try_from(result.token)
                .map_err(|_negative| EngineError::internal("a negative token".to_owned()))?;
            let token = TokenId(token);
            let Some(family) = self.families.get_mut(&lane.family) else { continue };
            let member = family.members[lane.choice];
            let Some(sequence) = self.sequences.get_mut(&member) else { continue };
            let finished = sequence.accept(token, &family.chosen.stopping);
            let wanted = family.chosen.logprobs.is_some();
            if finished.is_some() {
                family.left -= 1;
            }
            let spent = std::mem::take(&mut family.spent);
            family.outbox.push_back(Ok(Outcome {
                choice: lane.choice,
                token: Some(token),
                logprobs: wanted.then(|| top.logprobs(token, result.logprob)),
                finished,
                score: None,
                prompt_logprobs: std::mem::take(&mut family.prompt_logprobs),
                last: family.left == 0,
                vision: spent.0,
                decoder: spent.1,
            }));
            if processors::reads_history(&family.chosen.config) {
                let slot = family.slots[lane.choice];
                self.remember(slot, token);
            }
            if finished.is_some() {
                self.end_member(lane.family, member);
            }
        }
        Ok(())
    }

    /// The host's copy of what the sampler has entered.
    fn remember(&mut self, slot: usize, token: TokenId) {
        let vocabulary = self.model.widths().vocabulary;
        let (words, id) = (Sample::bitmap_words(vocabulary), token.0 as usize);
        self.bitmap[slot * words + id / 32] |= 1 << (id % 32);
        let count = &mut self.counts[slot * vocabulary + id];
        *count = count.saturating_add(1);
    }

    /// Takes back what an ended answer holds; with the last one, what the request holds.
    fn end_member(&mut self, id: RequestId, member: SequenceId) {
        let Some(family) = self.families.get_mut(&id) else { return };
        if family.left == 0 {
            self.release(id);
            return;
        }
        if let Some(sequence) = self.sequences.remove(&member) {
            // A page that the next step copies is whole then: copies run before anything is written.
            family.pages.release(&sequence.pages);
        }
        for slot in self.slots.iter_mut().filter(|slot| **slot == Some(member)) {
            *slot = None;
        }
    }

    /// A step of a beam search.
    fn search(
        &mut self,
        id: RequestId,
        results: Vec<(SampleResult, Top)>,
    ) -> Result<(), EngineError> {
        let Some(family) = self.families.get_mut(&id) else { return Ok(()) };
        let Some(search) = &mut family.search else { return Ok(()) };
        // Until they part, all beams are the sequence that read the prompt.
        let beams: Vec<(SequenceId, &Sequence)> = (0..family.members.len())
            .filter_map(|beam| {
                let own = self.sequences.get_key_value(&family.members[beam]);
                own.or_else(|| self.sequences.get_key_value(&family.members[0]))
            })
            .map(|(member, sequence)| (*member, sequence))
            .collect();
        let mut candidates = Vec::new();
        for (beam, ((_, top), (_, sequence))) in results.iter().zip(&beams).enumerate() {
            for &(token, score, rank) in &top.tokens {
                let (stopping, new) = (&family.chosen.stopping, sequence.new_tokens());
                let ends = stopping.reason(&sequence.ids, token, new);
                candidates.push(Candidate { beam, token, score, rank, ends });
            }
        }
        let answers: Vec<&[TokenId]> = beams.iter().map(|(_, beam)| beam.answer()).collect();
        let Some(next) = search.step(candidates, &answers) else {
            return self.end_search(id);
        };

        // Whoever goes on first from a beam takes over its last page, the others copy it.
        let (mut taken, mut copies, mut forks) = (Vec::new(), Vec::new(), Vec::new());
        for (choice, candidate) in next.iter().enumerate() {
            let (member, parent) = beams[candidate.beam];
            let copied = taken.contains(&member);
            taken.push(member);
            let pages = family.pages.fork(&parent.pages, parent.cached, copied, &mut copies)?;
            let mut fork = parent.fork(choice, pages);
            fork.push(candidate.token);
            forks.push((family.members[choice], fork));
        }
        self.copies.extend(copies.into_iter().map(|(from, to)| (id, from, to)));
        for member in &family.members {
            if let Some(old) = self.sequences.remove(member) {
                family.pages.release(&old.pages);
            }
        }
        self.sequences.extend(forks);
        Ok(())
    }

    /// The best answers of a search, as if they came token by token.
    fn end_search(&mut self, id: RequestId) -> Result<(), EngineError> {
        let Some(family) = self.families.get_mut(&id) else { return Ok(()) };
        let Some(search) = family.search.take() else { return Ok(()) };
        let count = family.chosen.config.num_return_sequences;
        let answers = search.answers(count);
        let mut spent = std::mem::take(&mut family.spent);
        let mut prompt: Vec<TokenLogprobs> = std::mem::take(&mut family.prompt_logprobs);
        for (choice, Finished { score, ids, reason }) in answers.into_iter().enumerate() {
            let last = ids.len().saturating_sub(1);
            // A place that no answer took ends without a token.
            let tokens: Vec<Option<TokenId>> = match ids.is_empty() {
                true => vec![None],
                false => ids.into_iter().map(Some).collect(),
            };
            for (place, token) in tokens.into_iter().enumerate() {
                let (vision, decoder) = std::mem::take(&mut spent);
                let ends = place == last;
                family.outbox.push_back(Ok(Outcome {
                    choice,
                    token,
                    logprobs: None,
                    finished: ends.then(|| reason.unwrap_or(super::FinishReason::Length)),
                    score: ends.then_some(score),
                    prompt_logprobs: std::mem::take(&mut prompt),
                    last: ends && choice + 1 == count,
                    vision,
                    decoder,
                }));
            }
        }
        self.release(id);
        Ok(())
    }
}

/// Status bits of a lane's result.
fn failed((result, top): &(SampleResult, Top)) -> u32 {
    let best = top.tokens.first().map_or(0.0, |(_, score, _)| *score);
    let endless = if best == f32::INFINITY { STATUS_NOT_FINITE } else { 0 };
    result.status | top.status | endless
}
