//! How tokens are chosen: settings of a request, over those of the checkpoint.

use std::hash::{BuildHasher, RandomState};

use super::{EngineError, stopping::Stopping};
use crate::{
    model::generation_config::{EarlyStopping, GenerationConfig},
    ops::top_scores::TOP_MAX,
    units::{TokenId, Tokens},
};

/// Most alternatives of a token.
pub const MAX_LOGPROBS: usize = 20;

/// Settings for choosing tokens, under the reference's names; what is `None` or empty comes from
/// `generation_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Draw at random, or take the best token.
    pub do_sample: Option<bool>,
    /// Divides the scores before drawing; above 0.
    pub temperature: Option<f32>,
    /// Draws from so many best tokens; 0 is off.
    pub top_k: Option<usize>,
    /// Draws from the smallest set of best tokens with this probability; 0 to 1.
    pub top_p: Option<f32>,
    /// Removes tokens below this part of the best one's probability; 0 to 1.
    pub min_p: Option<f32>,
    /// Draws from the tokens nearest to the entropy with this probability; above 0, at most 1.
    pub typical_p: Option<f32>,
    /// Removes tokens below this probability; 0 to 1, both off.
    pub epsilon_cutoff: Option<f32>,
    /// The same with a bound that falls with the entropy; 0 to 1, both off.
    pub eta_cutoff: Option<f32>,
    /// Divides positive and multiplies negative scores of tokens that occurred; above 0.
    pub repetition_penalty: Option<f32>,
    /// Taken off the scores of tokens that the answer has.
    pub presence_penalty: Option<f32>,
    /// The same for each time that the answer has them.
    pub frequency_penalty: Option<f32>,
    /// No so many tokens in a row occur twice; 0 is off.
    pub no_repeat_ngram_size: Option<usize>,
    /// Sequences of tokens that never come.
    pub bad_words_ids: Vec<Vec<TokenId>>,
    /// What is added to the scores of tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Answers that are followed at once; above 1 is beam search.
    pub num_beams: Option<usize>,
    /// Finished beams are ranked by their log probability over their length to this power.
    pub length_penalty: Option<f32>,
    /// When a beam search ends.
    pub early_stopping: Option<EarlyStopping>,
    /// Answers that come back: drawn independently, or the best beams.
    pub num_return_sequences: Option<usize>,
    /// Key of the random numbers. The same seed gives the same answers, whatever runs beside them;
    /// without one the system draws it, and the answer names it.
    pub seed: Option<u64>,
}

impl Sampling {
    /// The best token at each step; penalties of the checkpoint stay active, as in the reference.
    pub fn greedy() -> Self {
        Self { do_sample: Some(false), ..Self::default() }
    }

    /// The settings in force over a checkpoint's defaults, for a vocabulary of this size.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] for a value out of its range, or two that exclude one another.
    pub(crate) fn over(
        &self,
        defaults: &GenerationConfig,
        vocabulary: usize,
    ) -> Result<GenerationConfig, EngineError> {
        let mut config = defaults.clone();
        set(&mut config.do_sample, self.do_sample);
        set(&mut config.temperature, self.temperature);
        set(&mut config.top_k, self.top_k.map(|k| Some(k).filter(|k| *k > 0)));
        set(&mut config.top_p, self.top_p);
        set(&mut config.min_p, self.min_p);
        set(&mut config.typical_p, self.typical_p);
        set(&mut config.epsilon_cutoff, self.epsilon_cutoff.map(cutoff));
        set(&mut config.eta_cutoff, self.eta_cutoff.map(cutoff));
        set(&mut config.repetition_penalty, self.repetition_penalty);
        set(&mut config.presence_penalty, self.presence_penalty);
        set(&mut config.frequency_penalty, self.frequency_penalty);
        set(&mut config.no_repeat_ngram_size, self.no_repeat_ngram_size);
        set(&mut config.num_beams, self.num_beams);
        set(&mut config.length_penalty, self.length_penalty);
        set(&mut config.early_stopping, self.early_stopping);
        set(&mut config.num_return_sequences, self.num_return_sequences);
        config.bad_words_ids.extend(self.bad_words_ids.iter().cloned());
        for (id, bias) in &self.logit_bias {
            match config.logit_bias.iter_mut().find(|(known, _)| known == id) {
                Some(known) => known.1 = *bias,
                None => config.logit_bias.push((*id, *bias)),
            }
        }
        check_numbers(&config)?;
        check_lists(&config, vocabulary)?;
        check_answers(&config)?;
        Ok(config)
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// 1 switches a cutoff off, as 0 does.
fn cutoff(value: f32) -> f32 {
    if value.to_bits() == 1.0f32.to_bits() { 0.0 } else { value }
}

fn check_numbers(config: &GenerationConfig) -> Result<(), EngineError> {
    let part = |value: f32| (0.0..=1.0).contains(&value);
    for (field, value, holds, allowed) in [
        ("temperature", config.temperature, config.temperature > 0.0 || !config.do_sample, ABOVE),
        ("top_p", config.top_p, part(config.top_p), "0 to 1"),
        ("min_p", config.min_p, part(config.min_p), "0 to 1"),
        ("typical_p", config.typical_p, config.typical_p > 0.0 && part(config.typical_p), PART),
        ("epsilon_cutoff", config.epsilon_cutoff, part(config.epsilon_cutoff), "0 to 1"),
        ("eta_cutoff", config.eta_cutoff, part(config.eta_cutoff), "0 to 1"),
        ("repetition_penalty", config.repetition_penalty, config.repetition_penalty > 0.0, ABOVE),
        ("presence_penalty", config.presence_penalty, true, "a finite number"),
        ("frequency_penalty", config.frequency_penalty, true, "a finite number"),
        ("length_penalty", config.length_penalty, true, "a finite number"),
    ] {
        if !holds || !value.is_finite() || (field == "temperature" && value < 0.0) {
            return Err(invalid(field, value.to_string(), allowed));
        }
    }
    Ok(())
}

const ABOVE: &str = "a finite number above 0";
const PART: &str = "above 0 and at most 1";

fn check_lists(config: &GenerationConfig, vocabulary: usize) -> Result<(), EngineError> {
    if let Some((key, id)) = config.outside(vocabulary) {
        return Err(invalid(key, id.0.to_string(), "ids of the vocabulary"));
    }
    if config.bad_words_ids.iter().any(Vec::is_empty) {
        return Err(invalid("bad_words_ids", "[]".to_owned(), "sequences of at least one token"));
    }
    if let Some((_, bias)) = config.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
        return Err(invalid("logit_bias", bias.to_string(), "finite numbers"));
    }
    Ok(())
}

fn check_answers(config: &GenerationConfig) -> Result<(), EngineError> {
    let (beams, answers) = (config.num_beams, config.num_return_sequences);
    if beams == 0 || super::beams::candidates(config) > TOP_MAX {
        let allowed = "at least 1, and times the number of end tokens + 1 at most 1024";
        return Err(invalid("num_beams", beams.to_string(), allowed));
    }
    let (most, allowed) = match (beams, config.do_sample) {
        (1, false) => (1, "1 where the best token is taken: all answers would be equal"),
        (1, true) => (usize::MAX, "at least 1"),
        _ => (beams, "at most the number of beams"),
    };
    if answers == 0 || answers > most {
        return Err(invalid("num_return_sequences", answers.to_string(), allowed));
    }
    Ok(())
}

pub(super) fn invalid(field: &'static str, got: String, allowed: &'static str) -> EngineError {
    EngineError::InvalidRequest { field, got, allowed }
}

/// A seed that nobody has chosen: the keys of the standard library's maps, which the system draws.
pub(super) fn drawn_seed() -> u64 {
    RandomState::new().hash_one("seed")
}

/// Settings in force, every value in its range.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) config: GenerationConfig,
    pub(crate) stopping: Stopping,
    pub(crate) seed: u64,
    /// Alternatives of each token of the answer, if log probabilities are wanted.
    pub(crate) logprobs: Option<usize>,
    /// The same of the prompt's tokens.
    pub(crate) prompt_logprobs: Option<usize>,
}

impl Chosen {
    pub(crate) fn max_new(&self) -> Tokens {
        self.stopping.max_new
    }

    /// Whether answers are searched for rather than drawn.
    pub(crate) fn searches(&self) -> bool {
        self.config.num_beams > 1
    }

    /// Sequences of the request.
    pub(crate) fn members(&self) -> usize {
        self.config.num_beams.max(self.config.num_return_sequences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_wins_over_the_checkpoint() {
        let bias = vec![(TokenId(1), 1.0), (TokenId(2), 2.0)];
        let defaults = GenerationConfig {
            temperature: 0.5,
            do_sample: true,
            logit_bias: bias,
            ..Default::default()
        };
        let chosen = Sampling::greedy().over(&defaults, 100).unwrap();
        assert!(!chosen.do_sample);
        assert_eq!((chosen.temperature, chosen.top_k), (0.5, Some(50)));
        let request = Sampling {
            top_k: Some(0),
            eta_cutoff: Some(1.0),
            logit_bias: vec![(TokenId(2), -1.0), (TokenId(3), 3.0)],
            ..Sampling::default()
        };
        let chosen = request.over(&defaults, 100).unwrap();
        assert_eq!((chosen.top_k, chosen.eta_cutoff), (None, 0.0));
        let bias = [(TokenId(1), 1.0), (TokenId(2), -1.0), (TokenId(3), 3.0)];
        assert_eq!(chosen.logit_bias, bias);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let defaults = GenerationConfig { do_sample: true, ..GenerationConfig::default() };
        let off = Sampling::default;
        for (sampling, name) in [
            (Sampling { temperature: Some(0.0), ..off() }, "temperature"),
            (Sampling { temperature: Some(f32::NAN), ..off() }, "temperature"),
            (Sampling { top_p: Some(1.5), ..off() }, "top_p"),
            (Sampling { min_p: Some(-0.1), ..off() }, "min_p"),
            (Sampling { typical_p: Some(0.0), ..off() }, "typical_p"),
            (Sampling { epsilon_cutoff: Some(2.0), ..off() }, "epsilon_cutoff"),
            (Sampling { repetition_penalty: Some(-1.0), ..off() }, "repetition_penalty"),
            (Sampling { repetition_penalty: Some(f32::INFINITY), ..off() }, "repetition_penalty"),
            (Sampling { presence_penalty: Some(f32::NAN), ..off() }, "presence_penalty"),
            (Sampling { bad_words_ids: vec![vec![]], ..off() }, "bad_words_ids"),
            (Sampling { bad_words_ids: vec![vec![TokenId(100)]], ..off() }, "bad_words_ids"),
            (Sampling { logit_bias: vec![(TokenId(1), f32::NAN)], ..off() }, "logit_bias"),
            (Sampling { num_beams: Some(0), ..off() }, "num_beams"),
            (Sampling { num_beams: Some(600), ..off() }, "num_beams"),
            (Sampling { num_return_sequences: Some(0), ..off() }, "num_return_sequences"),
            (
                Sampling { num_beams: Some(2), num_return_sequences: Some(3), ..off() },
                "num_return_sequences",
            ),
            (
                Sampling { num_return_sequences: Some(2), ..Sampling::greedy() },
                "num_return_sequences",
            ),
        ] {
            let error = sampling.over(&defaults, 100).unwrap_err();
            assert!(
                matches!(error, EngineError::InvalidRequest { field, .. } if field == name),
                "{name}: {error}"
            );
        }
    }
}
