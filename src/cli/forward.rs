//! `qwen2vl forward`: one forward pass, tensors in, tensors out.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    CliError, DeviceArgs, ModelArgs, Output,
    answers::{DtypeArg, TimeArg},
    error::exit,
    forward_inputs::{self, Others},
    tensors::{self, Written},
};
use crate::engine::{ForwardInput, ForwardOptions, ForwardOutput, LogitsToKeep, forward};

/// Arguments of `forward`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one flag for each output")]
pub(crate) struct ForwardArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// input_ids or inputs_embeds, attention_mask, position_ids, pixel_values, image_grid_thw,
    /// labels, past/i/keys and the like, named as in the reference; docs/forward.md lists them
    #[arg(long, value_name = "FILE.safetensors")]
    inputs: PathBuf,
    /// Where logits, position_ids, rope_deltas and the vision tower's tensors go
    #[arg(long, value_name = "FILE.safetensors")]
    output: PathBuf,
    /// Also write hidden_states/0 to hidden_states/L
    #[arg(long)]
    hidden_states: bool,
    /// Also write attentions/0 to attentions/L-1, computed by kernels of their own
    #[arg(long)]
    attentions: bool,
    /// Also write the keys and values, past/i/keys and past/i/values, and past/mask
    #[arg(long)]
    kv: bool,
    /// Also write what the tower makes of each item: image_features/i, video_features/i
    #[arg(long)]
    vision_features: bool,
    /// Go on from the keys and values in the output of an earlier pass with --kv
    #[arg(long, value_name = "FILE.safetensors")]
    past: Option<PathBuf>,
    /// Logits of the last N slots of each row alone; 0 is all
    #[arg(long, value_name = "N")]
    logits_to_keep: Option<usize>,
    /// Settings over those of config.json; in its place if the file has a model_type
    #[arg(long, value_name = "FILE.json")]
    config: Option<PathBuf>,
    /// Let the longest row choose the state of dynamic and longrope rotations, as the reference does
    #[arg(long)]
    batch_rope_length: bool,
    /// How the seconds of videos become positions of Qwen2.5-VL
    #[arg(long, value_name = "RULE", default_value = "reference")]
    mrope_time: TimeArg,
    /// Type of weights and activations
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: DtypeArg,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the pass and prints what was written.
pub(crate) fn run(arguments: &ForwardArgs, out: &mut Output) -> Result<u8, CliError> {
    let input = input(arguments)?;
    let options = ForwardOptions {
        device: arguments.device.choice()?,
        dtype: arguments.dtype.wish(),
        time_rule: arguments.mrope_time.rule(),
        hidden_states: arguments.hidden_states,
        attentions: arguments.attentions,
        key_values: arguments.kv,
        vision_features: arguments.vision_features,
        config: arguments.config.clone(),
        batch_rope_length: arguments.batch_rope_length,
    };
    let output = forward(&arguments.model.model, &input, &options)?;
    for warning in &output.warnings {
        out.warn("checkpoint", warning);
    }
    let tensors = written(&input, &output, options.key_values);
    tensors::write(&arguments.output, &tensors)?;
    let broken = output.tensors.iter().find(|t| t.values.iter().any(|value| !value.is_finite()));
    if let Some(tensor) = broken {
        out.warn("non_finite", &format!("{} holds values that are not finite", tensor.name));
    }
    if out.is_json() {
        let shapes: serde_json::Map<_, _> =
            tensors.iter().map(|tensor| (tensor.name.clone(), json!(tensor.shape))).collect();
        out.document(&json!({
            "schema": "qwen2vl.forward/1",
            "output": arguments.output.display().to_string(),
            "tensors": shapes,
            "device": output.device,
        }))?;
    } else {
        for tensor in &tensors {
            out.line(&format!("{:28}  {:?}", tensor.name, tensor.shape))?;
        }
    }
    Ok(exit::DONE)
}

fn input(arguments: &ForwardArgs) -> Result<ForwardInput, CliError> {
    let file: &Path = &arguments.inputs;
    let mut input = forward_inputs::read(file, &tensors::load(file)?, Others::Refused)?;
    if let Some(past) = &arguments.past {
        forward_inputs::take_past(&mut input, past)?;
    }
    if let Some(count) = arguments.logits_to_keep {
        input.logits_to_keep = LogitsToKeep::Last(count);
    }
    Ok(input)
}

/// All outputs, in the order of the file.
fn written(input: &ForwardInput, output: &ForwardOutput, key_values: bool) -> Vec<Written> {
    let floats = output.tensors.iter();
    let mut tensors: Vec<Written> =
        floats.map(|tensor| Written::floats(&tensor.name, &tensor.shape, &tensor.values)).collect();
    let slots = [3, input.batch, input.length];
    tensors.push(Written::integers("position_ids", &slots, &output.position_ids));
    let deltas = [input.batch, 1];
    tensors.push(Written::integers("rope_deltas", &deltas, &output.rope_deltas));
    if key_values {
        let held: Vec<i64> = output.held.iter().map(|held| i64::from(*held)).collect();
        let shape = [input.batch, held.len() / input.batch];
        tensors.push(Written::integers("past/mask", &shape, &held));
    }
    tensors
}
