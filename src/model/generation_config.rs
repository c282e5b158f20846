//! `generation_config.json`: how tokens are chosen when a request does not say
//! (docs/spec.md, sections 13.1 to 13.3).
//!
//! A setting that would change the result and is not built is refused by name, whatever the other
//! settings are: a request may switch sampling on later.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{
    CONFIG_FILE, ConfigError,
    fields::{self, Fields},
};
use crate::units::{TokenId, Tokens};

/// Name of the file inside a checkpoint folder.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// Defaults of a checkpoint for choosing tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Whether tokens are drawn at random; otherwise the best one is taken.
    pub do_sample: bool,
    /// Divides the scores before drawing; 1 leaves them.
    pub temperature: f32,
    /// Draws from so many best tokens; `None` is off.
    pub top_k: Option<usize>,
    /// Draws from the smallest set of best tokens with this probability; 1 is off.
    pub top_p: f32,
    /// Divides positive and multiplies negative scores of tokens that occurred; 1 is off.
    pub repetition_penalty: f32,
    /// Tokens that end an answer, themselves part of it; none if empty.
    pub eos: Vec<TokenId>,
    /// Token that begins a sequence; nothing here adds it.
    pub bos: Option<TokenId>,
    /// Token that fills padded rows.
    pub pad: Option<TokenId>,
    /// Longest answer, if the checkpoint limits it.
    pub max_new_tokens: Option<Tokens>,
}

/// The class defaults of the reference.
impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: Some(50),
            top_p: 1.0,
            repetition_penalty: 1.0,
            eos: Vec::new(),
            bos: None,
            pad: None,
            max_new_tokens: None,
        }
    }
}

/// What a key that is not built may hold without changing a result; null always may.
enum Neutral {
    Null,
    False,
    Number(f64),
    Texts(&'static [&'static str]),
}

/// Keys of the reference that change results and are not built, with their neutral values.
///
/// Left out, because they cannot change a result here: `use_cache`, `prefill_chunk_size`,
/// `low_memory`, the `output_*` and `return_*` switches, the settings of assistants, and those of
/// beams alone (`length_penalty`, `early_stopping`), which `num_beams` guards.
const NOT_BUILT: &[(&str, Neutral)] = &[
    ("max_length", Neutral::Number(20.0)),
    ("min_length", Neutral::Number(0.0)),
    ("min_new_tokens", Neutral::Number(0.0)),
    ("max_time", Neutral::Null),
    ("stop_strings", Neutral::Null),
    ("num_beams", Neutral::Number(1.0)),
    ("num_beam_groups", Neutral::Number(1.0)),
    ("penalty_alpha", Neutral::Number(0.0)),
    ("dola_layers", Neutral::Null),
    ("cache_implementation", Neutral::Texts(&["dynamic", "static", "hybrid", "offloaded"])),
    ("min_p", Neutral::Number(0.0)),
    ("top_h", Neutral::Null),
    ("typical_p", Neutral::Number(1.0)),
    ("epsilon_cutoff", Neutral::Number(0.0)),
    ("eta_cutoff", Neutral::Number(0.0)),
    ("diversity_penalty", Neutral::Number(0.0)),
    ("encoder_repetition_penalty", Neutral::Number(1.0)),
    ("no_repeat_ngram_size", Neutral::Number(0.0)),
    ("encoder_no_repeat_ngram_size", Neutral::Number(0.0)),
    ("bad_words_ids", Neutral::Null),
    ("force_words_ids", Neutral::Null),
    ("constraints", Neutral::Null),
    ("renormalize_logits", Neutral::False),
    ("forced_bos_token_id", Neutral::Null),
    ("forced_eos_token_id", Neutral::Null),
    ("forced_decoder_ids", Neutral::Null),
    ("remove_invalid_values", Neutral::False),
    ("exponential_decay_length_penalty", Neutral::Null),
    ("suppress_tokens", Neutral::Null),
    ("begin_suppress_tokens", Neutral::Null),
    ("sequence_bias", Neutral::Null),
    ("token_healing", Neutral::False),
    ("guidance_scale", Neutral::Number(1.0)),
    ("watermarking_config", Neutral::Null),
    ("num_return_sequences", Neutral::Number(1.0)),
    ("prompt_lookup_num_tokens", Neutral::Null),
];

impl GenerationConfig {
    /// Reads `generation_config.json` of a checkpoint folder. Where the folder has none, the same
    /// keys of `config.json` count, as in the reference, and class defaults for the rest.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file, and for a bad value its key and the value.
    pub fn load(folder: &Path) -> Result<Self, ConfigError> {
        let file = folder.join(GENERATION_CONFIG_FILE);
        match fields::read_object(&file) {
            Ok(object) => Self::read(&Fields::new(&file, &object)),
            Err(ConfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Self::from_model_config(&folder.join(CONFIG_FILE))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the content of a `generation_config.json`; `file` is the name that errors show.
    ///
    /// # Errors
    /// As [`GenerationConfig::load`].
    pub fn parse(json: &[u8], file: &Path) -> Result<Self, ConfigError> {
        Self::read(&Fields::new(file, &fields::parse_object(json, file)?))
    }

    fn from_model_config(file: &Path) -> Result<Self, ConfigError> {
        let top = fields::read_object(file)?;
        // The text settings give what the top level leaves open.
        let mut merged = match top.get("text_config") {
            Some(Value::Object(text)) => text.clone(),
            _ => Map::new(),
        };
        merged.extend(top.into_iter().filter(|(_, value)| !value.is_null()));
        Self::read(&Fields::new(file, &merged))
    }

    fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        for (key, neutral) in NOT_BUILT {
            check_neutral(fields, key, neutral)?;
        }
        let do_sample = fields.flag("do_sample")?.unwrap_or(false);
        let max_new_tokens = fields.count("max_new_tokens")?;
        if max_new_tokens == Some(0) {
            return Err(fields.invalid("max_new_tokens", "it must be greater than 0"));
        }
        let top_k = match fields.raw("top_k") {
            None => Some(50),
            Some(_) => fields.count("top_k")?.filter(|k| *k > 0),
        };
        Ok(Self {
            do_sample,
            temperature: temperature(fields, do_sample)?,
            top_k,
            top_p: number(fields, "top_p", 0.0, 1.0, "it must lie between 0 and 1")?,
            repetition_penalty: repetition_penalty(fields)?,
            eos: fields.tokens("eos_token_id")?,
            bos: fields.token("bos_token_id")?,
            pad: fields.token("pad_token_id")?,
            max_new_tokens: max_new_tokens.map(Tokens),
        })
    }
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
    let rule = "it must be a positive number";
    let temperature = number(fields, "temperature", 0.0, f32::MAX, rule)?;
    if do_sample && temperature == 0.0 {
        return Err(fields.invalid("temperature", rule));
    }
    Ok(temperature)
}

fn repetition_penalty(fields: &Fields<'_>) -> Result<f32, ConfigError> {
    let rule = "it must be a positive number";
    match number(fields, "repetition_penalty", 0.0, f32::MAX, rule)? {
        0.0 => Err(fields.invalid("repetition_penalty", rule)),
        penalty => Ok(penalty),
    }
}

/// A number between two bounds; 1, which switches each of these settings off, when absent or null.
fn number(
    fields: &Fields<'_>,
    key: &str,
    least: f32,
    most: f32,
    rule: &'static str,
) -> Result<f32, ConfigError> {
    let value = fields.number(key)?.unwrap_or(1.0);
    if !(f64::from(least)..=f64::from(most)).contains(&value) {
        return Err(fields.invalid(key, rule));
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounds to the kernels' type")]
    Ok(value as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<GenerationConfig, ConfigError> {
        GenerationConfig::parse(json.as_bytes(), Path::new("g.json"))
    }

    #[test]
    fn an_empty_file_has_the_class_defaults() {
        assert_eq!(parse("{}").unwrap(), GenerationConfig::default());
    }

    #[test]
    fn the_published_file_is_read() {
        let config = parse(
            r#"{"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": true,
                "eos_token_id": [151645, 151643], "repetition_penalty": 1.0, "temperature": 0.01,
                "top_p": 0.001, "top_k": 1, "transformers_version": "4.37.0"}"#,
        )
        .unwrap();
        let expected = GenerationConfig {
            do_sample: true,
            temperature: 0.01,
            top_k: Some(1),
            top_p: 0.001,
            eos: vec![TokenId(151_645), TokenId(151_643)],
            bos: Some(TokenId(151_643)),
            pad: Some(TokenId(151_643)),
            ..GenerationConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn null_switches_a_filter_off() {
        let off = r#"{"top_k": null, "top_p": null, "temperature": null, "stop_strings": null}"#;
        for json in [off, r#"{"top_k": 0, "eos_token_id": null, "num_beams": 1.0}"#] {
            let expected = GenerationConfig { top_k: None, ..GenerationConfig::default() };
            assert_eq!(parse(json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn every_key_that_is_not_built_is_refused_by_name() {
        for (key, _) in NOT_BUILT {
            let error = parse(&format!(r#"{{"{key}": [7]}}"#)).unwrap_err();
            assert_eq!(error.code(), "unsupported", "{key}");
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let cases = [
            (r#"{"top_p": 1.5}"#, "g.json: top_p = 1.5, but it must lie between 0 and 1"),
            (r#"{"top_k": -1}"#, "g.json: top_k = -1, but must be an integer from 0 to 2147483647"),
            (
                r#"{"temperature": 0, "do_sample": true}"#,
                "g.json: temperature = 0, but it must be a positive number",
            ),
            (
                r#"{"repetition_penalty": 0.0}"#,
                "g.json: repetition_penalty = 0.0, but it must be a positive number",
            ),
            (
                r#"{"max_new_tokens": 0}"#,
                "g.json: max_new_tokens = 0, but it must be greater than 0",
            ),
            (
                r#"{"eos_token_id": [1, "a"]}"#,
                "g.json: eos_token_id = [1,\"a\"], but must be a token id or a list of token ids",
            ),
            (r#"{"do_sample": 1}"#, "g.json: do_sample = 1, but must be true or false"),
        ];
        for (json, message) in cases {
            assert_eq!(parse(json).unwrap_err().to_string(), message);
        }
    }
}
