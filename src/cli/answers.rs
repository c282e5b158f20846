//! What `run` and `generate` share: flags of generation, the engine, results as JSON.

use std::{path::Path, time::Duration};

use clap::Args;
use serde_json::{Map, Value, json};

use super::prompts::{self, PictureArgs, PromptArgs};
use super::{CliError, DeviceArgs, Output, error, sampling_flags::SamplingArgs, warnings};
use crate::{
    engine::{Choice, Clock, Completion, Engine, EngineError, FinishReason, TokenLogprobs},
    model::config::TimeRule,
    units::{FloatType, TokenId},
};

/// Sequences that an engine takes at once if it is not told.
const DEFAULT_BATCH: usize = 8;

/// How answers are made.
#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Type of weights and activations
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: DtypeArg,
    /// How the seconds of videos become positions of Qwen2.5-VL
    #[arg(long, value_name = "RULE", default_value = "reference")]
    mrope_time: TimeArg,
    /// Longest sequence in tokens, answer included
    #[arg(long, value_name = "N")]
    max_model_len: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Types of `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DtypeArg {
    /// The checkpoint's own
    Auto,
    Bf16,
    F16,
    /// Exact: without tensor cores, for comparisons
    F32,
}

impl DtypeArg {
    /// The type, if one is asked for.
    pub(crate) fn wish(self) -> Option<FloatType> {
        match self {
            Self::Auto => None,
            Self::Bf16 => Some(FloatType::Bf16),
            Self::F16 => Some(FloatType::F16),
            Self::F32 => Some(FloatType::F32),
        }
    }
}

/// Rules of `--mrope-time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TimeArg {
    /// Seconds are cut to whole ones first: videos of more than 2 frames a second stand still
    Reference,
    /// The product of seconds and rate is cut, as the model was trained
    Exact,
}

impl TimeArg {
    /// The rule.
    pub(crate) fn rule(self) -> TimeRule {
        match self {
            Self::Reference => TimeRule::Reference,
            Self::Exact => TimeRule::Exact,
        }
    }
}

impl AnswerArgs {
    /// Loads the checkpoint; says how long it took.
    pub(crate) fn engine(
        &self,
        model: &Path,
        (prompt, pictures): (&PromptArgs, &PictureArgs),
        out: &mut Output,
    ) -> Result<(Engine, Duration), CliError> {
        let clock = Clock::start();
        out.status("loading");
        let mut builder = Engine::builder(model).device(self.device.choice()?);
        builder = builder.time_rule(self.mrope_time.rule());
        if let Some(tokens) = self.max_model_len {
            builder = builder.max_model_len(tokens);
        }
        if let Some(sequences) = self.sampling.sequences()?.filter(|n| *n > DEFAULT_BATCH) {
            builder = builder.max_batch(sequences);
        }
        if let Some(dtype) = self.dtype.wish() {
            builder = builder.dtype(dtype);
        }
        let engine = prompt.configure(pictures.configure(builder))?.build()?;
        out.status("");
        for warning in engine.warnings() {
            out.warn("checkpoint", warning);
        }
        Ok((engine, clock.elapsed()))
    }
}

/// The answers of a request as JSON, each with what they share.
pub(crate) fn answers(
    schema: &str,
    completion: &Completion,
    engine: &Engine,
    load: Duration,
) -> Vec<Value> {
    let shared = answer(schema, completion, engine, load);
    let choices = completion.choices().into_iter().enumerate();
    let document = |(index, choice): (usize, Choice)| {
        let mut document = shared.clone();
        if let Value::Object(fields) = &mut document {
            fields.extend(choice_fields(index, &choice, engine));
        }
        document
    };
    choices.map(document).collect()
}

/// What is an answer's own.
fn choice_fields(index: usize, choice: &Choice, engine: &Engine) -> Map<String, Value> {
    let ids: Vec<u32> = choice.token_ids.iter().map(|id| id.0).collect();
    let mut fields = Map::new();
    fields.insert("choice".to_owned(), json!(index));
    fields.insert("text".to_owned(), json!(choice.text));
    fields.insert("token_ids".to_owned(), json!(ids));
    fields.insert("finish_reason".to_owned(), json!(choice.finish_reason.name()));
    if let FinishReason::StopString(place) = choice.finish_reason {
        fields.insert("stop_string_index".to_owned(), json!(place));
    }
    if let Some(score) = choice.score {
        fields.insert("score".to_owned(), json!(score));
    }
    if !choice.logprobs.is_empty() {
        let tokens = choice.logprobs.iter().map(|token| logprobs(token, engine));
        fields.insert("logprobs".to_owned(), tokens.collect());
    }
    fields
}

/// A token with its log probability and those of the best ones in its place.
pub(crate) fn logprobs(token: &TokenLogprobs, engine: &Engine) -> Value {
    let one = |id: TokenId, logprob: f32| {
        let bytes = engine.processor().tokenizer().token_bytes(id);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        json!({ "id": id.0, "text": text, "logprob": logprob })
    };
    let mut document = one(token.id, token.logprob);
    let top: Vec<Value> = token.top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
    document["top"] = json!(top);
    document
}

/// What the answers of a request share.
fn answer(schema: &str, completion: &Completion, engine: &Engine, load: Duration) -> Value {
    let usage = &completion.usage;
    let timings = &completion.timings;
    let mut document = json!({
        "schema": schema,
        "seed": completion.seed,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "text_tokens": usage.prompt_tokens - usage.image_tokens - usage.video_tokens,
            "image_tokens": usage.image_tokens,
            "video_tokens": usage.video_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "media": prompts::media(&usage.media),
        "timings_ms": {
            "load": milliseconds(load),
            "media": milliseconds(timings.media),
            "vision": milliseconds(timings.vision),
            "prefill": milliseconds(timings.prefill),
            "decode": milliseconds(timings.decode),
        },
        "device": engine.device(),
        "dtype": engine.dtype().to_string(),
        "warnings": warnings::document(&warnings::of(&usage.media, usage.escaped)),
    });
    if !completion.prompt_logprobs.is_empty() {
        let tokens = completion.prompt_logprobs.iter().map(|token| logprobs(token, engine));
        document["prompt_logprobs"] = tokens.collect();
    }
    document
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

impl From<EngineError> for CliError {
    fn from(error: EngineError) -> Self {
        let code = error.code();
        let help = help(&error);
        let mut failed = Self::new(code, error::status(code), error);
        failed.help = help;
        failed
    }
}

/// A way out that works.
fn help(error: &EngineError) -> Option<String> {
    match error {
        EngineError::ContextLength { prompt, image, max_new, limit } => {
            let text = prompt.0 - image.0;
            let room = limit.0.saturating_sub(text + max_new.0);
            let longer = format!("--max-model-len {}", prompt.0 + max_new.0);
            Some(if room > 0 && image.0 > 0 {
                format!(
                    "--max-pixels {} for one picture leaves {room} image tokens, or {longer}",
                    room * 28 * 28
                )
            } else {
                format!("a smaller --max-new-tokens, or {longer}")
            })
        }
        EngineError::PictureTooLarge { .. } => {
            Some("a larger --max-pixels plans for larger pictures".to_owned())
        }
        EngineError::Memory { largest: "weights", .. } => None,
        EngineError::Memory { .. } => Some("a smaller --max-model-len needs less".to_owned()),
        _ => None,
    }
}
