//! What `run` and `generate` share: flags of generation, the engine, results as JSON.

use std::{path::Path, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::prompts::{self, PictureArgs, PromptArgs};
use super::{CliError, DeviceArgs, Output, error, warnings};
use crate::{
    engine::{Clock, Completion, Engine, EngineError, Sampling},
    model::config::TimeRule,
    units::FloatType,
};

/// How answers are made.
#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    /// Longest answer in tokens
    #[arg(short = 'n', long, value_name = "N", alias = "max-tokens")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Take the best token at each step; penalties of the checkpoint stay
    #[arg(long, conflicts_with = "do_sample")]
    greedy: bool,
    /// Draw tokens at random, also where the checkpoint does not
    #[arg(long)]
    do_sample: bool,
    /// Divides the scores before drawing
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw from so many best tokens; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the smallest set of best tokens with this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Makes tokens that occurred less likely; 1 is off
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,
    /// Key of the random numbers: the same seed, the same answer; without it 0
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
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
    /// Settings of a request.
    pub(crate) fn sampling(&self) -> Sampling {
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
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }

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

/// One answer as JSON.
pub(crate) fn answer(
    schema: &str,
    completion: &Completion,
    engine: &Engine,
    load: Duration,
) -> Value {
    let usage = &completion.usage;
    let timings = &completion.timings;
    json!({
        "schema": schema,
        "text": completion.text,
        "token_ids": completion.token_ids.iter().map(|id| id.0).collect::<Vec<_>>(),
        "finish_reason": completion.finish_reason.name(),
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
    })
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
