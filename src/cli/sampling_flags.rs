//! Flags that say how tokens are chosen; each goes over the checkpoint's generation_config.json.

use std::path::PathBuf;

use clap::Args;

use super::CliError;
use crate::{
    engine::{
        Request, Sampling,
        generation_config::{EarlyStopping, GenerationConfig},
    },
    units::TokenId,
};

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing tokens")]
pub(crate) struct SamplingArgs {
    /// Longest answer in tokens
    #[arg(short = 'n', long, value_name = "N", alias = "max-tokens")]
    max_new_tokens: Option<usize>,
    /// Longest sequence in tokens, prompt included; --max-new-tokens wins
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// No end token before so many new tokens
    #[arg(long, value_name = "N")]
    min_new_tokens: Option<usize>,
    /// End the answer with this text; repeat it for several
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Take the best token at each step; penalties of the checkpoint stay
    #[arg(long, conflicts_with = "do_sample")]
    greedy: bool,
    /// Draw tokens at random, also where the checkpoint does not
    #[arg(long)]
    do_sample: bool,
    /// Divides the scores before drawing
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Draw from so many best tokens; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the smallest set of best tokens with this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Remove tokens below this part of the best one's probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Draw from the tokens nearest to the entropy with this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,
    /// Remove tokens below this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    epsilon_cutoff: Option<f32>,
    /// Remove tokens below a probability that falls with the entropy
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    eta_cutoff: Option<f32>,
    /// Makes tokens that occurred less likely; 1 is off
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Taken off the scores of tokens that the answer has
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Taken off for each time that the answer has them
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// No so many tokens in a row occur twice; 0 is off
    #[arg(long, value_name = "N")]
    no_repeat_ngram_size: Option<usize>,
    /// Add to the score of a token; repeat it for several
    #[arg(long, value_name = "ID=S", value_parser = bias)]
    logit_bias: Vec<(TokenId, f32)>,
    /// Follow so many answers at once; above 1 is beam search
    #[arg(long, value_name = "N")]
    num_beams: Option<usize>,
    /// Beams are ranked by log probability over length to this power
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    length_penalty: Option<f32>,
    /// When a beam search ends: true, false or never
    #[arg(long, value_name = "WHEN", value_parser = early_stopping)]
    early_stopping: Option<EarlyStopping>,
    /// Answers that come back: drawn independently, or the best beams
    #[arg(long, value_name = "N")]
    num_return_sequences: Option<usize>,
    /// Key of the random numbers: the same seed, the same answer; without it one is drawn and named
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Log probabilities of tokens and of the K best in their place (--json, --jsonl)
    #[arg(long, value_name = "K")]
    logprobs: Option<usize>,
    /// The same of the prompt's tokens
    #[arg(long, value_name = "K")]
    prompt_logprobs: Option<usize>,
    /// Settings in place of the checkpoint's generation_config.json
    #[arg(long, value_name = "FILE")]
    generation_config: Option<PathBuf>,
}

impl SamplingArgs {
    /// The request with these settings.
    pub(crate) fn apply(&self, mut request: Request) -> Result<Request, CliError> {
        request = request.sampling(self.sampling()).stop(self.stop.clone());
        if let Some(file) = &self.generation_config {
            request = request.generation_config(GenerationConfig::open(file)?);
        }
        if let Some(tokens) = self.max_new_tokens {
            request = request.max_new_tokens(tokens);
        }
        if let Some(tokens) = self.max_length {
            request = request.max_length(tokens);
        }
        if let Some(tokens) = self.min_new_tokens {
            request = request.min_new_tokens(tokens);
        }
        if let Some(k) = self.logprobs {
            request = request.logprobs(k);
        }
        if let Some(k) = self.prompt_logprobs {
            request = request.prompt_logprobs(k);
        }
        Ok(request)
    }

    /// Sequences of one request, if flags or the file of settings say.
    pub(crate) fn sequences(&self) -> Result<Option<usize>, CliError> {
        let flags = self.num_beams.max(self.num_return_sequences);
        let Some(file) = &self.generation_config else { return Ok(flags) };
        let config = GenerationConfig::open(file)?;
        Ok(flags.max(Some(config.num_beams)).max(Some(config.num_return_sequences)))
    }

    fn sampling(&self) -> Sampling {
        let do_sample = match (self.greedy, self.do_sample) {
            (true, _) => Some(false),
            (false, true) => Some(true),
            (false, false) => None,
        };
        Sampling {
            do_sample,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            epsilon_cutoff: self.epsilon_cutoff,
            eta_cutoff: self.eta_cutoff,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            bad_words_ids: Vec::new(),
            logit_bias: self.logit_bias.clone(),
            num_beams: self.num_beams,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping,
            num_return_sequences: self.num_return_sequences,
            seed: self.seed,
        }
    }
}

/// `ID=S`.
fn bias(text: &str) -> Result<(TokenId, f32), String> {
    let (id, value) = text.split_once('=').ok_or("it must be ID=SCORE")?;
    let id = id.trim().parse().map_err(|error| format!("{id:?} is no token id: {error}"))?;
    let value: f32 =
        value.trim().parse().map_err(|error| format!("{value:?} is no number: {error}"))?;
    Ok((TokenId(id), value))
}

fn early_stopping(text: &str) -> Result<EarlyStopping, String> {
    match text {
        "true" => Ok(EarlyStopping::FirstFinished),
        "false" => Ok(EarlyStopping::Heuristic),
        "never" => Ok(EarlyStopping::Never),
        other => Err(format!("{other:?} is none of true, false, never")),
    }
}
