//! Beam search (docs/spec.md, section 14): which candidates go on, which are answers, when it ends.
//!
//! The device ranks; what is here sees a few candidates a step. Arithmetic is f32 in the reference's
//! order, so that equal scores are equal here too; of equal scores the first stays first.

use crate::{
    model::generation_config::{EarlyStopping, GenerationConfig},
    units::TokenId,
};

use super::FinishReason;

/// Takes part in no maximum; the reference's number.
const NEVER: f32 = -1.0e9;

/// A way to go on: a running beam and its next token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) beam: usize,
    pub(crate) token: TokenId,
    /// Sum of log probabilities.
    pub(crate) score: f32,
    /// What it is ranked by: its score, or its score perturbed.
    pub(crate) rank: f32,
    /// Why it would end here.
    pub(crate) ends: Option<FinishReason>,
}

/// An answer: what it is ranked by, its tokens, why it ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finished {
    pub(crate) score: f32,
    pub(crate) ids: Vec<TokenId>,
    /// None for a place that no answer has taken.
    pub(crate) reason: Option<FinishReason>,
}

/// The state of one search.
#[derive(Debug)]
pub(crate) struct BeamSearch {
    /// Scores of the running beams.
    running: Vec<f32>,
    finished: Vec<Finished>,
    /// Whether a running beam may still become an answer.
    unsatisfied: bool,
    length_penalty: f32,
    early_stopping: EarlyStopping,
    /// Longest answer.
    max_new: usize,
    /// Candidates of a step.
    keep: usize,
}

impl BeamSearch {
    /// All beams stand at the end of the prompt; the first alone counts.
    pub(crate) fn new(config: &GenerationConfig, max_new: usize) -> Self {
        let beams = config.num_beams;
        let mut running = vec![NEVER; beams];
        running[0] = 0.0;
        let empty = Finished { score: NEVER, ids: Vec::new(), reason: None };
        Self {
            running,
            finished: vec![empty; beams],
            unsatisfied: true,
            length_penalty: config.length_penalty,
            early_stopping: config.early_stopping,
            max_new,
            keep: candidates(config),
        }
    }

    /// Scores of the running beams: what is added to their tokens' log probabilities.
    pub(crate) fn running(&self) -> &[f32] {
        &self.running
    }

    /// Candidates of a step; each beam must name so many, if it has them.
    pub(crate) fn keep(&self) -> usize {
        self.keep
    }

    /// Takes a step. `all` are candidates of every beam in the order of beam, rank and token;
    /// `answers` the new tokens of each beam so far. Returns the beams that go on, or nothing when
    /// the search has ended.
    pub(crate) fn step(
        &mut self,
        mut all: Vec<Candidate>,
        answers: &[&[TokenId]],
    ) -> Option<Vec<Candidate>> {
        let beams = self.running.len();
        all.sort_by(|a, b| b.rank.total_cmp(&a.rank));
        all.truncate(self.keep);
        let length = answers.first().map_or(0, |answer| answer.len());

        self.finish(&all, answers, length + 1);
        let mut next: Vec<(f32, Candidate)> = all
            .iter()
            .map(|c| (if c.ends.is_some() { c.score + NEVER } else { c.score }, *c))
            .collect();
        next.sort_by(|a, b| b.0.total_cmp(&a.0));
        next.truncate(beams);
        self.running = next.iter().map(|(score, _)| *score).collect();
        self.judge(length + 1);

        let full = self.finished.iter().all(|entry| entry.reason.is_some());
        let enough = self.early_stopping == EarlyStopping::FirstFinished && full;
        let all_end = all.iter().all(|c| c.ends.is_some());
        let goes_on = self.unsatisfied && !enough && !all_end && next.len() == beams;
        goes_on.then(|| next.into_iter().map(|(_, candidate)| candidate).collect())
    }

    /// The best answers, best first.
    pub(crate) fn answers(self, count: usize) -> Vec<Finished> {
        let mut finished = self.finished;
        finished.truncate(count);
        finished
    }

    /// Candidates that end among the first become answers if they rank high enough.
    fn finish(&mut self, all: &[Candidate], answers: &[&[TokenId]], length: usize) {
        let beams = self.running.len();
        let full = self.finished.iter().all(|entry| entry.reason.is_some());
        let closed = full && self.early_stopping == EarlyStopping::FirstFinished;
        let divisor = self.divisor(length);
        for (place, candidate) in all.iter().enumerate() {
            let reason = candidate.ends.filter(|_| place < beams);
            let mut score = candidate.score / divisor;
            for never in [closed, !self.unsatisfied, reason.is_none()] {
                score += if never { NEVER } else { 0.0 };
            }
            let answer = answers.get(candidate.beam).copied().unwrap_or_default();
            let ids = answer.iter().copied().chain([candidate.token]).collect();
            self.finished.push(Finished { score, ids, reason });
        }
        // Stable: of equal scores earlier answers stay first.
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(beams);
    }

    /// Whether the best running beam can beat the worst answer.
    fn judge(&mut self, length: usize) {
        let hopeful = self.early_stopping == EarlyStopping::Never && self.length_penalty > 0.0;
        let divisor = self.divisor(if hopeful { self.max_new } else { length });
        let best = self.running.first().map_or(NEVER, |score| score / divisor);
        let worst = self.finished.iter().map(|entry| entry.score).fold(f32::INFINITY, f32::min);
        let bars = self.finished.iter().map(|entry| match entry.reason {
            Some(_) => worst,
            None => NEVER,
        });
        self.unsatisfied &= bars.into_iter().any(|bar| best > bar);
    }

    fn divisor(&self, length: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^53")]
        let power = (length as f64).powf(f64::from(self.length_penalty));
        #[expect(clippy::cast_possible_truncation, reason = "rounds to the scores' type")]
        let power = power as f32;
        power
    }
}

/// Candidates of a step: enough that as many go on as there are beams.
pub(crate) fn candidates(config: &GenerationConfig) -> usize {
    config.num_beams.saturating_mul((1 + config.eos.len()).max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(num_beams: usize, early_stopping: EarlyStopping) -> GenerationConfig {
        let eos = vec![TokenId(9)];
        GenerationConfig { num_beams, early_stopping, eos, ..GenerationConfig::default() }
    }

    fn candidate(beam: usize, token: u32, score: f32) -> Candidate {
        let ends = (token == 9).then_some(FinishReason::Stop);
        Candidate { beam, token: TokenId(token), score, rank: score, ends }
    }

    fn ids(tokens: &[u32]) -> Vec<TokenId> {
        tokens.iter().map(|token| TokenId(*token)).collect()
    }

    fn places(next: &[Candidate]) -> Vec<(usize, u32)> {
        next.iter().map(|c| (c.beam, c.token.0)).collect()
    }

    #[test]
    fn the_best_that_do_not_end_go_on_and_ends_among_the_first_are_answers() {
        let mut search = BeamSearch::new(&config(2, EarlyStopping::Heuristic), 8);
        assert_eq!((search.running(), search.keep()), (&[0.0, NEVER][..], 4));
        let all = vec![
            candidate(0, 3, -1.0),
            candidate(0, 9, -1.5),
            candidate(0, 4, -2.0),
            candidate(0, 5, -3.0),
            candidate(1, 3, NEVER),
        ];
        let next = search.step(all, &[&[], &[]]).unwrap();
        assert_eq!(places(&next), [(0, 3), (0, 4)]);
        assert_eq!(search.running(), [-1.0, -2.0]);
        assert_eq!(search.finished[0].ids, ids(&[9]));
        assert_eq!(search.finished[0].score, -1.5);
        assert_eq!(search.finished[1].reason, None);

        // An end that ranks third of two beams is no answer.
        let all = vec![
            candidate(0, 6, -1.1),
            candidate(0, 7, -1.2),
            candidate(1, 9, -2.1),
            candidate(1, 6, -2.2),
        ];
        let (a, b) = (ids(&[3]), ids(&[4]));
        let next = search.step(all, &[&a, &b]).unwrap();
        assert_eq!(places(&next), [(0, 6), (0, 7)]);
        assert_eq!(search.finished[1].reason, None);
    }

    #[test]
    fn answers_are_ranked_by_score_over_length() {
        let longer = GenerationConfig { length_penalty: 2.0, ..config(1, EarlyStopping::Never) };
        let mut search = BeamSearch::new(&longer, 4);
        let next = search.step(vec![candidate(0, 3, -1.0), candidate(0, 9, -2.0)], &[&[]]);
        assert_eq!(places(&next.unwrap()), [(0, 3)]);
        assert_eq!(search.finished[0].reason, None, "place 1 of one beam");
        let answer = ids(&[3]);
        search.step(vec![candidate(0, 9, -2.0), candidate(0, 4, -5.0)], &[&answer]);
        assert_eq!(search.answers(1)[0].score, -2.0 / 4.0);
    }

    #[test]
    fn early_stopping_decides_when_to_end() {
        // There is an answer of -0.6; after two of four tokens the running beam has -0.9.
        for (early_stopping, length_penalty, goes_on) in [
            (EarlyStopping::FirstFinished, 1.0, false),
            (EarlyStopping::Heuristic, 1.0, true),
            (EarlyStopping::Heuristic, 0.0, false),
            (EarlyStopping::Never, 1.0, true),
            (EarlyStopping::Never, -1.0, false),
        ] {
            let config = GenerationConfig { length_penalty, ..config(1, early_stopping) };
            let mut search = BeamSearch::new(&config, 4);
            search.finished[0] =
                Finished { score: -0.6, ids: ids(&[9]), reason: Some(FinishReason::Stop) };
            let answer = ids(&[3]);
            let all = vec![candidate(0, 4, -0.9), candidate(0, 5, -1.3)];
            let next = search.step(all, &[&answer]);
            assert_eq!(next.is_some(), goes_on, "{early_stopping:?} {length_penalty}");
        }
    }

    #[test]
    fn a_search_whose_candidates_all_end_is_over() {
        let mut search = BeamSearch::new(&config(2, EarlyStopping::Heuristic), 1);
        let ending = |beam, token, score| Candidate {
            ends: Some(FinishReason::Length),
            ..candidate(beam, token, score)
        };
        let all =
            vec![ending(0, 3, -1.0), ending(0, 4, -1.5), ending(0, 5, -2.0), ending(0, 6, -3.0)];
        assert_eq!(search.step(all, &[&[], &[]]), None);
        let answers = search.answers(2);
        assert_eq!([&answers[0].ids, &answers[1].ids], [&ids(&[3]), &ids(&[4])]);
        assert_eq!(answers[1].reason, Some(FinishReason::Length));
    }
}
