//! From the keys of the file to the settings.

use std::time::Duration;

use serde_json::Value;

use super::{DEFAULT_MAX_LENGTH, EarlyStopping, GenerationConfig};
use crate::{
    model::config::{
        ConfigError,
        fields::{self, Fields},
    },
    units::{TokenId, Tokens},
};

/// Longest answer in seconds that a file may ask for: a year.
const MAX_SECONDS: f64 = 31_536_000.0;

/// What a key that is not built may hold without changing a result; null always may.
pub(super) enum Neutral {
    Null,
    False,
    Number(f64),
    Texts(&'static [&'static str]),
}

/// Keys of the reference that change results and are not built, with their neutral values.
///
/// Left out, because they cannot change a result here: `use_cache`, `prefill_chunk_size`,
/// `low_memory`, the `output_*` and `return_*` switches, and the settings of assistants.
pub(super) const NOT_BUILT: &[(&str, Neutral)] = &[
    ("num_beam_groups", Neutral::Number(1.0)),
    ("penalty_alpha", Neutral::Number(0.0)),
    ("dola_layers", Neutral::Null),
    ("cache_implementation", Neutral::Texts(&["dynamic", "static", "hybrid", "offloaded"])),
    ("top_h", Neutral::Null),
    ("diversity_penalty", Neutral::Number(0.0)),
    ("force_words_ids", Neutral::Null),
    ("constraints", Neutral::Null),
    ("forced_decoder_ids", Neutral::Null),
    ("token_healing", Neutral::False),
    ("guidance_scale", Neutral::Number(1.0)),
    ("watermarking_config", Neutral::Null),
    ("prompt_lookup_num_tokens", Neutral::Null),
];

const POSITIVE: &str = "it must be a positive number";
const SEQUENCES: &str = "a list of lists of token ids, none of them empty";

/// Reads every key.
pub(super) fn read(fields: &Fields<'_>) -> Result<GenerationConfig, ConfigError> {
    for (key, neutral) in NOT_BUILT {
        check_neutral(fields, key, neutral)?;
    }
    let do_sample = fields.flag("do_sample")?.unwrap_or(false);
    let top_k = match fields.raw("top_k") {
        None => Some(50),
        Some(_) => fields.count("top_k")?.filter(|k| *k > 0),
    };
    let part = "it must lie between 0 and 1";
    let max_length = limit(fields, "max_length")?;
    Ok(GenerationConfig {
        do_sample,
        temperature: temperature(fields, do_sample)?,
        top_k,
        top_p: number(fields, "top_p", 1.0, 0.0..=1.0, part)?,
        min_p: number(fields, "min_p", 0.0, 0.0..=1.0, part)?,
        typical_p: match number(fields, "typical_p", 1.0, 0.0..=1.0, part)? {
            0.0 => return Err(fields.invalid("typical_p", "it must be above 0 and at most 1")),
            typical_p => typical_p,
        },
        epsilon_cutoff: cutoff(fields, "epsilon_cutoff")?,
        eta_cutoff: cutoff(fields, "eta_cutoff")?,
        repetition_penalty: positive(fields, "repetition_penalty")?,
        encoder_repetition_penalty: positive(fields, "encoder_repetition_penalty")?,
        presence_penalty: signed(fields, "presence_penalty")?,
        frequency_penalty: signed(fields, "frequency_penalty")?,
        no_repeat_ngram_size: fields.count("no_repeat_ngram_size")?.unwrap_or(0),
        encoder_no_repeat_ngram_size: fields.count("encoder_no_repeat_ngram_size")?.unwrap_or(0),
        bad_words_ids: bad_words(fields)?,
        sequence_bias: sequence_bias(fields)?,
        logit_bias: logit_bias(fields)?,
        min_length: fields.count("min_length")?.unwrap_or(0),
        min_new_tokens: fields.count("min_new_tokens")?.unwrap_or(0),
        max_new_tokens: limit(fields, "max_new_tokens")?,
        max_length: max_length.filter(|tokens| tokens.0 != DEFAULT_MAX_LENGTH),
        eos: fields.tokens("eos_token_id")?,
        bos: fields.token("bos_token_id")?,
        pad: fields.token("pad_token_id")?,
        forced_bos: fields.token("forced_bos_token_id")?,
        forced_eos: fields.tokens("forced_eos_token_id")?,
        remove_invalid_values: fields.flag("remove_invalid_values")?.unwrap_or(false),
        exponential_decay_length_penalty: exponential_decay(fields)?,
        suppress_tokens: fields.tokens("suppress_tokens")?,
        begin_suppress_tokens: fields.tokens("begin_suppress_tokens")?,
        renormalize_logits: fields.flag("renormalize_logits")?.unwrap_or(false),
        stop_strings: stop_strings(fields)?,
        max_time: max_time(fields)?,
        num_beams: number_of(fields, "num_beams")?,
        num_return_sequences: number_of(fields, "num_return_sequences")?,
        length_penalty: finite(fields, "length_penalty", 1.0)?,
        early_stopping: early_stopping(fields)?,
    })
}

fn check_neutral(fields: &Fields<'_>, key: &str, neutral: &Neutral) -> Result<(), ConfigError> {
    let Some(value) = fields.set(key) else { return Ok(()) };
    let (is_neutral, have) = match neutral {
        Neutral::Null => (false, "null"),
        Neutral::False => (value == &Value::Bool(false), "false"),
        Neutral::Number(number) => {
            let have = if *number == 0.0 { "0" } else { "its default" };
            (value.as_f64() == Some(*number), have)
        }
        Neutral::Texts(texts) => {
            (value.as_str().is_some_and(|text| texts.contains(&text)), "dynamic")
        }
    };
    if is_neutral { Ok(()) } else { Err(fields.unsupported(key, have)) }
}

fn temperature(fields: &Fields<'_>, do_sample: bool) -> Result<f32, ConfigError> {
    let temperature = number(fields, "temperature", 1.0, 0.0..=f32::MAX, POSITIVE)?;
    if do_sample && temperature == 0.0 {
        return Err(fields.invalid("temperature", POSITIVE));
    }
    Ok(temperature)
}

/// A penalty that 1 switches off.
fn positive(fields: &Fields<'_>, key: &str) -> Result<f32, ConfigError> {
    match number(fields, key, 1.0, 0.0..=f32::MAX, POSITIVE)? {
        0.0 => Err(fields.invalid(key, POSITIVE)),
        penalty => Ok(penalty),
    }
}

fn signed(fields: &Fields<'_>, key: &str) -> Result<f32, ConfigError> {
    finite(fields, key, 0.0)
}

fn finite(fields: &Fields<'_>, key: &str, default: f32) -> Result<f32, ConfigError> {
    number(fields, key, default, f32::MIN..=f32::MAX, "it must be a finite f32")
}

/// 0 and 1 switch a cutoff off, as in the reference.
fn cutoff(fields: &Fields<'_>, key: &str) -> Result<f32, ConfigError> {
    let value = number(fields, key, 0.0, 0.0..=1.0, "it must lie between 0 and 1")?;
    Ok(if value < 1.0 { value } else { 0.0 })
}

/// A number within bounds; the default when absent or null.
fn number(
    fields: &Fields<'_>,
    key: &str,
    default: f32,
    bounds: std::ops::RangeInclusive<f32>,
    rule: &'static str,
) -> Result<f32, ConfigError> {
    let Some(value) = fields.number(key)? else { return Ok(default) };
    if !(f64::from(*bounds.start())..=f64::from(*bounds.end())).contains(&value) {
        return Err(fields.invalid(key, rule));
    }
    Ok(narrow(value))
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to the kernels' type")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// A length above 0, if it is given.
fn limit(fields: &Fields<'_>, key: &str) -> Result<Option<Tokens>, ConfigError> {
    match fields.count(key)? {
        Some(0) => Err(fields.invalid(key, "it must be greater than 0")),
        tokens => Ok(tokens.map(Tokens)),
    }
}

/// A number of beams or answers: 1 when absent; whole floats are read too.
fn number_of(fields: &Fields<'_>, key: &str) -> Result<usize, ConfigError> {
    if fields.set(key).and_then(Value::as_f64) == Some(1.0) {
        return Ok(1);
    }
    match fields.count(key)? {
        Some(0) => Err(fields.invalid(key, "it must be greater than 0")),
        number => Ok(number.unwrap_or(1)),
    }
}

fn early_stopping(fields: &Fields<'_>) -> Result<EarlyStopping, ConfigError> {
    match fields.set("early_stopping") {
        None | Some(Value::Bool(false)) => Ok(EarlyStopping::Heuristic),
        Some(Value::Bool(true)) => Ok(EarlyStopping::FirstFinished),
        Some(Value::String(text)) if text == "never" => Ok(EarlyStopping::Never),
        Some(_) => Err(fields.wrong_type("early_stopping", "true, false or \"never\"")),
    }
}

fn max_time(fields: &Fields<'_>) -> Result<Option<Duration>, ConfigError> {
    let Some(seconds) = fields.number("max_time")? else { return Ok(None) };
    if !(0.0..=MAX_SECONDS).contains(&seconds) {
        return Err(fields.invalid("max_time", "it must lie between 0 and 31536000 seconds"));
    }
    Ok(Some(Duration::from_secs_f64(seconds)))
}

fn stop_strings(fields: &Fields<'_>) -> Result<Vec<String>, ConfigError> {
    let expected = "a text or a list of texts, none of them empty";
    let texts: Option<Vec<String>> = match fields.set("stop_strings") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => Some(vec![text.clone()]),
        Some(Value::Array(texts)) => {
            texts.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        }
        Some(_) => None,
    };
    texts
        .filter(|texts| texts.iter().all(|text| !text.is_empty()))
        .ok_or_else(|| fields.wrong_type("stop_strings", expected))
}

fn sequence(value: &Value) -> Option<Vec<TokenId>> {
    let ids: Option<Vec<TokenId>> = value.as_array()?.iter().map(fields::token_of).collect();
    ids.filter(|ids| !ids.is_empty())
}

fn bad_words(fields: &Fields<'_>) -> Result<Vec<Vec<TokenId>>, ConfigError> {
    let Some(value) = fields.set("bad_words_ids") else { return Ok(Vec::new()) };
    let lists = value.as_array().and_then(|lists| lists.iter().map(sequence).collect());
    lists.ok_or_else(|| fields.wrong_type("bad_words_ids", SEQUENCES))
}

/// Pairs of a sequence and its bias; of equal sequences the last pair counts.
fn sequence_bias(fields: &Fields<'_>) -> Result<Vec<(Vec<TokenId>, f32)>, ConfigError> {
    let expected = "a list of pairs [[token ids], finite number]";
    let Some(value) = fields.set("sequence_bias") else { return Ok(Vec::new()) };
    let pair = |value: &Value| match value.as_array()?.as_slice() {
        [ids, bias] => Some((sequence(ids)?, finite_f32(bias)?)),
        _ => None,
    };
    let pairs: Option<Vec<_>> = value.as_array().and_then(|pairs| pairs.iter().map(pair).collect());
    let pairs = pairs.ok_or_else(|| fields.wrong_type("sequence_bias", expected))?;
    let mut biases: Vec<(Vec<TokenId>, f32)> = Vec::with_capacity(pairs.len());
    for (ids, bias) in pairs {
        match biases.iter_mut().find(|(known, _)| *known == ids) {
            Some(known) => known.1 = bias,
            None => biases.push((ids, bias)),
        }
    }
    Ok(biases)
}

/// An object of token ids and biases.
fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(TokenId, f32)>, ConfigError> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let pair = |(key, value): (&String, &Value)| {
        let id: u32 = key.parse().ok().filter(|id| *id <= 0x7fff_ffff)?;
        Some((TokenId(id), finite_f32(value)?))
    };
    let pairs: Option<Vec<_>> = object.iter().map(pair).collect();
    pairs.ok_or_else(|| fields.wrong_type("logit_bias", "token ids with finite numbers"))
}

fn finite_f32(value: &Value) -> Option<f32> {
    value.as_f64().map(narrow).filter(|bias| bias.is_finite())
}

fn exponential_decay(fields: &Fields<'_>) -> Result<Option<(usize, f64)>, ConfigError> {
    let key = "exponential_decay_length_penalty";
    let Some(value) = fields.set(key) else { return Ok(None) };
    let pair = value.as_array().map(Vec::as_slice);
    let read = match pair {
        Some([start, factor]) => fields::count_of(start).zip(factor.as_f64()),
        _ => None,
    };
    let read = read.filter(|(_, factor)| *factor > 0.0 && factor.is_finite());
    read.map(Some).ok_or_else(|| fields.wrong_type(key, "[new tokens, factor above 0]"))
}
