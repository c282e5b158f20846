//! `qwen2vl process-logits`: the logits processors over given scores.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    CliError, DeviceArgs, Output,
    error::exit,
    tensors::{self, Tensor, Written},
};
use crate::{
    engine::{LogitsInput, generation_config::GenerationConfig, process_logits},
    units::TokenId,
};

/// Arguments of `process-logits`.
#[derive(Debug, Args)]
pub(crate) struct ProcessLogitsArgs {
    /// input_ids I64 [B, S], scores F32 [B, V], prompt_length I64 [1]
    #[arg(value_name = "SCORES.safetensors")]
    scores: PathBuf,
    /// Settings, as a generation_config.json
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where scores F32 [B, V] go; what the processors remove is -inf
    #[arg(long, value_name = "FILE.safetensors")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the processors and writes the scores.
pub(crate) fn run(arguments: &ProcessLogitsArgs, out: &mut Output) -> Result<u8, CliError> {
    let config = GenerationConfig::open(&arguments.config)?;
    let input = read(&arguments.scores)?;
    let scores = process_logits(arguments.device.choice()?, &config, &input)?;
    let shape = [input.batch, input.vocabulary];
    tensors::write(&arguments.output, &[Written::floats("scores", &shape, &scores)])?;
    let kept = scores.iter().filter(|score| **score > f32::NEG_INFINITY).count();
    if out.is_json() {
        out.document(&json!({
            "schema": "qwen2vl.process-logits/1",
            "output": arguments.output.display().to_string(),
            "tensors": { "scores": shape },
            "kept": kept,
        }))?;
    } else {
        out.line(&format!("scores  F32  {shape:?}  {kept} of {} kept", scores.len()))?;
    }
    Ok(exit::DONE)
}

fn read(file: &Path) -> Result<LogitsInput, CliError> {
    let bytes = tensors::load(file)?;
    let tensors = tensors::parse(file, &bytes)?;
    let known = ["input_ids", "scores", "prompt_length"];
    if let Some(name) = tensors.names().into_iter().find(|name| !known.contains(name)) {
        return Err(tensors::wrong(file, &format!("has a tensor {name:?}, which is no input")));
    }
    let [ids, scores, prompt] = known.map(|name| Tensor::of(file, &tensors, name));
    let (ids, scores, prompt) = (ids?, scores?, prompt?);
    let [batch, length] = ids.shape()?;
    let [rows, vocabulary] = scores.shape()?;
    if batch != rows {
        return Err(ids.wrong(&format!("has {batch} rows, scores have {rows}")));
    }
    let input_ids = ids
        .integers()?
        .into_iter()
        .map(|id| u32::try_from(id).map(TokenId))
        .collect::<Result<_, _>>()
        .map_err(|_error| ids.wrong("has an id that is no token"))?;
    let prompt_length = match prompt.integers()?.as_slice() {
        [length] => usize::try_from(*length).ok(),
        _ => None,
    };
    let prompt_length = prompt_length.ok_or_else(|| prompt.wrong("must be one count"))?;
    // NaN and infinities are for the processors to judge.
    let scores = scores.any_floats()?;
    Ok(LogitsInput { input_ids, batch, length, prompt_length, scores, vocabulary })
}
