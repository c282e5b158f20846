//! The reference's logits processors (docs/spec.md, 13.2): from settings and a sequence's tokens to
//! the lists of the `score_edits` kernel and the settings of the sampler.
//!
//! What looks at the history is decided here, where the history is; what looks at scores runs on the
//! device. Generation, beams and `process-logits` share this file.

use std::collections::{BTreeMap, BTreeSet};

use super::EngineError;
use crate::{
    model::generation_config::GenerationConfig,
    ops::{
        sample::{RENORMALIZES, SampleSettings},
        score_edits::{Edit, ScoreEdit},
    },
    units::TokenId,
};

/// A sequence at the moment when its next token is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History<'a> {
    /// Prompt, then answer.
    pub(crate) ids: &'a [TokenId],
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Tokens of a sequence of full length, if it has one.
    pub(crate) max_length: usize,
}

/// Edits of the sequences of a launch.
#[derive(Debug)]
pub(crate) struct Program {
    /// First edit of each sequence, then their number.
    pub(crate) first: Vec<i32>,
    pub(crate) edits: Vec<ScoreEdit>,
    pub(crate) ids: Vec<i32>,
    pub(crate) values: Vec<f32>,
}

impl Program {
    /// No sequence.
    pub(crate) fn new() -> Self {
        Self { first: vec![0], edits: Vec::new(), ids: Vec::new(), values: Vec::new() }
    }

    /// Adds a sequence; says whether it has edits. Penalties alone are none: the sampler reads the
    /// history by itself.
    pub(crate) fn push(
        &mut self,
        config: &GenerationConfig,
        history: History<'_>,
        beams: bool,
    ) -> Result<bool, EngineError> {
        let start = self.edits.len();
        if beams {
            self.edit(Edit::LogSoftmax, 0.0, &[])?;
        }
        self.biases(config, history)?;
        self.penalties(config, history, beams)?;
        self.list(Edit::Set, f32::NEG_INFINITY, &banned(config, history))?;
        self.forced(config, history)?;
        if config.remove_invalid_values {
            self.edit(Edit::Clean, 0.0, &[])?;
        }
        self.decay(config, history)?;
        self.list(Edit::Set, f32::NEG_INFINITY, &suppressed(config, history))?;
        let penalties_alone = |edits: &[ScoreEdit]| matches!(edits, [edit] if edit.op.cast_unsigned() == Edit::History as u32);
        if penalties_alone(&self.edits[start..]) {
            self.edits.truncate(start);
        }
        self.first.push(int(self.edits.len())?);
        Ok(self.edits.len() > start)
    }

    /// 2: sequences of one token always, longer ones where their prefix stands at the end.
    fn biases(
        &mut self,
        config: &GenerationConfig,
        history: History<'_>,
    ) -> Result<(), EngineError> {
        let mut sums: Vec<(TokenId, f32)> = Vec::new();
        let single = config.sequence_bias.iter().filter(|(ids, _)| ids.len() == 1);
        let longer = config.sequence_bias.iter().filter(|(ids, _)| ids.len() > 1);
        for (ids, bias) in single.chain(longer) {
            let Some(last) = completed(ids, history) else { continue };
            match sums.iter_mut().find(|(id, _)| *id == last) {
                Some(sum) => sum.1 += bias,
                None => sums.push((last, *bias)),
            }
        }
        self.edit(Edit::Add, 0.0, &sums)?;
        self.edit(Edit::Add, 0.0, &config.logit_bias)
    }

    /// 3 and 4, and the penalties that are not the reference's. Beams change places, so that the
    /// sampler keeps no history of them: theirs is listed.
    fn penalties(
        &mut self,
        config: &GenerationConfig,
        history: History<'_>,
        beams: bool,
    ) -> Result<(), EngineError> {
        if !is_one(config.encoder_repetition_penalty) {
            let prompt: BTreeSet<TokenId> = history.ids[..history.prompt].iter().copied().collect();
            self.list(Edit::Penalty, config.encoder_repetition_penalty.recip(), &prompt)?;
        }
        if !reads_history(config) {
            return Ok(());
        }
        if !beams {
            return self.edit(Edit::History, 0.0, &[]);
        }
        if !is_one(config.repetition_penalty) {
            let seen: BTreeSet<TokenId> = history.ids.iter().copied().collect();
            self.list(Edit::Penalty, config.repetition_penalty, &seen)?;
        }
        let mut counts: BTreeMap<TokenId, f32> = BTreeMap::new();
        for id in &history.ids[history.prompt..] {
            *counts.entry(*id).or_default() += 1.0;
        }
        let taken = |count: f32| -(config.presence_penalty + config.frequency_penalty * count);
        let entries: Vec<(TokenId, f32)> =
            counts.into_iter().map(|(id, count)| (id, taken(count))).collect();
        if config.presence_penalty == 0.0 && config.frequency_penalty == 0.0 {
            return Ok(());
        }
        self.edit(Edit::Add, 0.0, &entries)
    }

    /// 11 and 12.
    fn forced(
        &mut self,
        config: &GenerationConfig,
        history: History<'_>,
    ) -> Result<(), EngineError> {
        let length = history.ids.len();
        if let Some(bos) = config.forced_bos.filter(|_| length == 1) {
            self.edit(Edit::Fill, f32::NEG_INFINITY, &[])?;
            self.list(Edit::Set, 0.0, &BTreeSet::from([bos]))?;
        }
        if !config.forced_eos.is_empty() && length + 1 == history.max_length {
            self.edit(Edit::Fill, f32::NEG_INFINITY, &[])?;
            self.list(Edit::Set, 0.0, &config.forced_eos.iter().copied().collect())?;
        }
        Ok(())
    }

    /// 14.
    fn decay(
        &mut self,
        config: &GenerationConfig,
        history: History<'_>,
    ) -> Result<(), EngineError> {
        let Some((start, factor)) = config.exponential_decay_length_penalty else { return Ok(()) };
        let new = history.ids.len() - history.prompt;
        let Some(past) = new.checked_sub(start).filter(|past| *past > 0) else { return Ok(()) };
        let power = factor.powi(i32::try_from(past).unwrap_or(i32::MAX)) - 1.0;
        #[expect(clippy::cast_possible_truncation, reason = "rounds to the scores' type")]
        let power = power as f32;
        self.list(Edit::Decay, power, &config.eos.iter().copied().collect())
    }

    /// An edit of the same value for each id; none for no id.
    fn list(&mut self, op: Edit, value: f32, ids: &BTreeSet<TokenId>) -> Result<(), EngineError> {
        if ids.is_empty() {
            return Ok(());
        }
        let entries: Vec<(TokenId, f32)> = ids.iter().map(|id| (*id, 0.0)).collect();
        self.edit(op, value, &entries)
    }

    /// An edit; one of listed ids that lists none is left out.
    fn edit(
        &mut self,
        op: Edit,
        value: f32,
        entries: &[(TokenId, f32)],
    ) -> Result<(), EngineError> {
        let listed = matches!(op, Edit::Add | Edit::Penalty | Edit::Set | Edit::Decay);
        if listed && entries.is_empty() {
            return Ok(());
        }
        let (first, count) = (int(self.ids.len())?, int(entries.len())?);
        let op = (op as u32).cast_signed();
        self.edits.push(ScoreEdit { op, first, count, value });
        // The kernel passes over ids that it does not have, as the reference's masks do.
        let ids = entries.iter().map(|(id, _)| i32::try_from(id.0).unwrap_or(i32::MAX));
        self.ids.extend(ids);
        self.values.extend(entries.iter().map(|(_, value)| *value));
        Ok(())
    }
}

/// Most ids that the edits of a sequence of at most `length` tokens list: once for the n-grams and
/// the prompt's penalty each, and what the settings list.
pub(crate) fn most_entries(config: &GenerationConfig, length: usize) -> usize {
    let lists = [
        config.sequence_bias.len(),
        config.logit_bias.len(),
        config.bad_words_ids.len(),
        config.suppress_tokens.len(),
        config.begin_suppress_tokens.len(),
        config.forced_eos.len() + 1,
        2 * config.eos.len(),
    ];
    // Of beams also the history's penalties.
    4 * length + lists.iter().sum::<usize>()
}

/// The last token of a sequence whose other tokens stand at the end of the history.
fn completed(ids: &[TokenId], history: History<'_>) -> Option<TokenId> {
    let (last, prefix) = ids.split_last()?;
    let fits = ids.len() == 1 || ids.len() <= history.ids.len();
    (fits && history.ids.ends_with(prefix)).then_some(*last)
}

/// 5 to 9: n-grams, bad words, and end tokens that would come too early.
fn banned(config: &GenerationConfig, history: History<'_>) -> BTreeSet<TokenId> {
    let mut banned = BTreeSet::new();
    let ids = history.ids;
    followers(config.no_repeat_ngram_size, ids, ids, &mut banned);
    let prompt = &ids[..history.prompt];
    followers(config.encoder_no_repeat_ngram_size, prompt, ids, &mut banned);
    for word in &config.bad_words_ids {
        let is_end = matches!(word.as_slice(), [id] if config.eos.contains(id));
        if !is_end {
            banned.extend(completed(word, history));
        }
    }
    let new = ids.len() - history.prompt;
    if ids.len() < config.min_length || new < config.min_new_tokens {
        banned.extend(&config.eos);
    }
    banned
}

/// Tokens that follow the last n - 1 tokens of `ids` somewhere in `text`.
fn followers(n: usize, text: &[TokenId], ids: &[TokenId], banned: &mut BTreeSet<TokenId>) {
    if n == 0 || ids.len() + 1 < n {
        return;
    }
    let end = &ids[ids.len() + 1 - n..];
    let grams = text.windows(n).filter_map(<[TokenId]>::split_last);
    banned.extend(grams.filter(|(_, prefix)| *prefix == end).map(|(last, _)| *last));
}

/// 15 and 16.
fn suppressed(config: &GenerationConfig, history: History<'_>) -> BTreeSet<TokenId> {
    let mut suppressed: BTreeSet<TokenId> = config.suppress_tokens.iter().copied().collect();
    let after_forced = history.prompt <= 1 && config.forced_bos.is_some();
    let begin = history.prompt + usize::from(after_forced);
    if history.ids.len() == begin {
        suppressed.extend(&config.begin_suppress_tokens);
    }
    suppressed
}

/// Whether the sampler reads the tokens of a sequence.
pub(crate) fn reads_history(config: &GenerationConfig) -> bool {
    let penalties = [config.presence_penalty, config.frequency_penalty];
    !is_one(config.repetition_penalty) || penalties.iter().any(|penalty| *penalty != 0.0)
}

/// What the sampler is told, but for row, slot, and the counter of its random numbers.
pub(crate) fn settings(config: &GenerationConfig, beams: bool) -> SampleSettings {
    let mut settings = SampleSettings {
        repetition_penalty: config.repetition_penalty,
        presence_penalty: config.presence_penalty,
        frequency_penalty: config.frequency_penalty,
        flags: if config.renormalize_logits { RENORMALIZES } else { 0 },
        ..SampleSettings::greedy(None)
    };
    if config.do_sample {
        settings.temperature = config.temperature;
        settings.top_k = config.top_k.map_or(0, |k| i32::try_from(k).unwrap_or(i32::MAX));
        settings.top_p = config.top_p;
        settings.min_p = config.min_p;
        settings.typical_p = config.typical_p;
        settings.epsilon = config.epsilon_cutoff;
        settings.eta = config.eta_cutoff;
        // Without an end token the reference keeps two.
        let ends = config.eos.len().max(1);
        settings.min_keep = if beams { i32::try_from(ends + 1).unwrap_or(i32::MAX) } else { 1 };
    }
    settings
}

fn is_one(value: f32) -> bool {
    value.to_bits() == 1.0f32.to_bits()
}

fn int(value: usize) -> Result<i32, EngineError> {
    let too_large = |_error| EngineError::internal(format!("{value} passes 2^31 in edits"));
    i32::try_from(value).map_err(too_large)
}
