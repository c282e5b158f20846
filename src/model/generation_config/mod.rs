//! `generation_config.json`: how tokens are chosen when a request does not say
//! (docs/spec.md, sections 13 and 14).
//!
//! A setting that would change the result and is not built is refused by name, whatever the other
//! settings are: a request may switch sampling on later.

mod read;
#[cfg(test)]
mod tests;

use std::{path::Path, time::Duration};

use serde_json::{Map, Value};

use super::config::{
    CONFIG_FILE, ConfigError,
    fields::{self, Fields},
};
use crate::units::{TokenId, Tokens};

/// Name of the file inside a checkpoint folder.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";
/// `max_length` of the class: stands for "not said".
pub const DEFAULT_MAX_LENGTH: usize = 20;

/// When a beam search stops looking for better answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `false`: when no running beam can become better, judged at its present length.
    #[default]
    Heuristic,
    /// `true`: as soon as there are as many finished answers as beams.
    FirstFinished,
    /// `"never"`: when no running beam can become better at the most favourable length.
    Never,
}

/// How tokens are chosen; the names are the reference's.
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
    /// Removes tokens below this part of the best one's probability; 0 is off.
    pub min_p: f32,
    /// Draws from the tokens whose information is nearest to the entropy, until they have this
    /// probability; 1 is off.
    pub typical_p: f32,
    /// Removes tokens below this probability; 0 is off.
    pub epsilon_cutoff: f32,
    /// The same with a bound that falls with the entropy; 0 is off.
    pub eta_cutoff: f32,
    /// Divides positive and multiplies negative scores of tokens that occurred; 1 is off.
    pub repetition_penalty: f32,
    /// The opposite for tokens of the prompt: above 1 they become more likely; 1 is off.
    pub encoder_repetition_penalty: f32,
    /// Taken off the scores of tokens that the answer has; 0 is off. Not of the reference.
    pub presence_penalty: f32,
    /// The same for each time that the answer has them; 0 is off. Not of the reference.
    pub frequency_penalty: f32,
    /// No so many tokens in a row occur twice; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// No so many tokens in a row of the prompt occur in the answer; 0 is off.
    pub encoder_no_repeat_ngram_size: usize,
    /// Sequences of tokens that never come; each has at least one token.
    pub bad_words_ids: Vec<Vec<TokenId>>,
    /// What is added to the score of a sequence's last token where the others precede it.
    pub sequence_bias: Vec<(Vec<TokenId>, f32)>,
    /// What is added to the score of a token. Not of the reference.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// No end token before so many tokens, the prompt included; 0 is off.
    pub min_length: usize,
    /// No end token before so many new tokens; 0 is off.
    pub min_new_tokens: usize,
    /// Longest answer, if it is limited.
    pub max_new_tokens: Option<Tokens>,
    /// Longest sequence, the prompt included, if it is limited; `max_new_tokens` wins.
    pub max_length: Option<Tokens>,
    /// Tokens that end an answer, themselves part of it; none if empty.
    pub eos: Vec<TokenId>,
    /// Token that begins a sequence; nothing here adds it.
    pub bos: Option<TokenId>,
    /// Token that fills padded rows.
    pub pad: Option<TokenId>,
    /// The second token of a sequence, whatever its score.
    pub forced_bos: Option<TokenId>,
    /// Tokens of which one is the last of a sequence of full length, whatever its score.
    pub forced_eos: Vec<TokenId>,
    /// Makes scores finite.
    pub remove_invalid_values: bool,
    /// From so many new tokens on, end tokens become more likely by this factor a token.
    pub exponential_decay_length_penalty: Option<(usize, f64)>,
    /// Tokens that never come.
    pub suppress_tokens: Vec<TokenId>,
    /// Tokens that do not come first.
    pub begin_suppress_tokens: Vec<TokenId>,
    /// Whether scores are log probabilities again after everything else.
    pub renormalize_logits: bool,
    /// Texts that end an answer, themselves part of it.
    pub stop_strings: Vec<String>,
    /// An answer ends with the first token after this time.
    pub max_time: Option<Duration>,
    /// Answers that are followed at once; above 1 is beam search.
    pub num_beams: usize,
    /// Answers that come back.
    pub num_return_sequences: usize,
    /// Finished beams are ranked by their log probability over their length to this power.
    pub length_penalty: f32,
    /// When a beam search ends.
    pub early_stopping: EarlyStopping,
}

/// The class defaults of the reference.
impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: Some(50),
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            repetition_penalty: 1.0,
            encoder_repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            no_repeat_ngram_size: 0,
            encoder_no_repeat_ngram_size: 0,
            bad_words_ids: Vec::new(),
            sequence_bias: Vec::new(),
            logit_bias: Vec::new(),
            min_length: 0,
            min_new_tokens: 0,
            max_new_tokens: None,
            max_length: None,
            eos: Vec::new(),
            bos: None,
            pad: None,
            forced_bos: None,
            forced_eos: Vec::new(),
            remove_invalid_values: false,
            exponential_decay_length_penalty: None,
            suppress_tokens: Vec::new(),
            begin_suppress_tokens: Vec::new(),
            renormalize_logits: false,
            stop_strings: Vec::new(),
            max_time: None,
            num_beams: 1,
            num_return_sequences: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
        }
    }
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a checkpoint folder. Where the folder has none, the same
    /// keys of `config.json` count, as in the reference, and class defaults for the rest.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file, and for a bad value its key and the value.
    pub fn load(folder: &Path) -> Result<Self, ConfigError> {
        match Self::open(&folder.join(GENERATION_CONFIG_FILE)) {
            Err(ConfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Self::from_model_config(&folder.join(CONFIG_FILE))
            }
            read => read,
        }
    }

    /// Reads a file of that kind.
    ///
    /// # Errors
    /// As [`GenerationConfig::load`].
    pub fn open(file: &Path) -> Result<Self, ConfigError> {
        read::read(&Fields::new(file, &fields::read_object(file)?))
    }

    /// Reads the content of a `generation_config.json`; `file` is the name that errors show.
    ///
    /// # Errors
    /// As [`GenerationConfig::load`].
    pub fn parse(json: &[u8], file: &Path) -> Result<Self, ConfigError> {
        read::read(&Fields::new(file, &fields::parse_object(json, file)?))
    }

    fn from_model_config(file: &Path) -> Result<Self, ConfigError> {
        let top = fields::read_object(file)?;
        // The text settings give what the top level leaves open.
        let mut merged = match top.get("text_config") {
            Some(Value::Object(text)) => text.clone(),
            _ => Map::new(),
        };
        merged.extend(top.into_iter().filter(|(_, value)| !value.is_null()));
        read::read(&Fields::new(file, &merged))
    }

    /// The first token that a vocabulary of this size does not have, with the key that names it;
    /// of the keys whose tokens are looked up by the reference.
    pub fn outside(&self, vocabulary: usize) -> Option<(&'static str, TokenId)> {
        let biased = self.sequence_bias.iter().flat_map(|(ids, _)| ids);
        let keys: [(&'static str, Vec<TokenId>); 5] = [
            ("sequence_bias", biased.copied().collect()),
            ("logit_bias", self.logit_bias.iter().map(|(id, _)| *id).collect()),
            ("bad_words_ids", self.bad_words_ids.concat()),
            ("forced_bos_token_id", self.forced_bos.iter().copied().collect()),
            ("forced_eos_token_id", self.forced_eos.clone()),
        ];
        let outside = |ids: Vec<TokenId>| ids.into_iter().find(|id| id.0 as usize >= vocabulary);
        keys.into_iter().find_map(|(key, ids)| outside(ids).map(|id| (key, id)))
    }
}
