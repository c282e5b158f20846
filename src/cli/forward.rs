//! `qwen2vl forward`: one forward pass, tensors in, tensors out.

use std::path::{Path, PathBuf};

use clap::Args;
use safetensors::{
    SafeTensors,
    tensor::{Dtype, TensorView, serialize},
};
use serde_json::json;

use super::{CliError, DeviceArgs, ModelArgs, Output, answers::DtypeArg, error::exit};
use crate::{
    engine::{ForwardInput, ForwardOutput, forward},
    units::{GridThw, TokenId},
};

/// Bytes of an inputs file.
const MAX_INPUTS: u64 = 4 << 30;

/// Arguments of `forward`.
#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// input_ids, attention_mask, pixel_values, image_grid_thw and the like, as `process` writes
    #[arg(long, value_name = "FILE.safetensors")]
    inputs: PathBuf,
    /// Where logits, position_ids, rope_deltas and the vision tower's tensors go
    #[arg(long, value_name = "FILE.safetensors")]
    output: PathBuf,
    /// Also write hidden_states/0 to hidden_states/L
    #[arg(long)]
    hidden_states: bool,
    /// Type of weights and activations
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: DtypeArg,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the pass and prints what was written.
pub(crate) fn run(arguments: &ForwardArgs, out: &mut Output) -> Result<u8, CliError> {
    arguments.dtype.check()?;
    let input = read(&arguments.inputs)?;
    let choice = arguments.device.choice()?;
    let output = forward(&arguments.model.model, choice, &input, arguments.hidden_states)?;
    for warning in &output.warnings {
        out.warn("checkpoint", warning);
    }
    let tensors = write(&arguments.output, &input, &output)?;
    let broken = output.tensors.iter().find(|t| t.values.iter().any(|value| !value.is_finite()));
    if let Some(tensor) = broken {
        out.warn("non_finite", &format!("{} holds values that are not finite", tensor.name));
    }
    if out.is_json() {
        let shapes: serde_json::Map<_, _> =
            tensors.into_iter().map(|(name, shape)| (name, json!(shape))).collect();
        out.document(&json!({
            "schema": "qwen2vl.forward/1",
            "output": arguments.output.display().to_string(),
            "tensors": shapes,
            "device": output.device,
        }))?;
    } else {
        for (name, shape) in tensors {
            out.line(&format!("{name:28}  {shape:?}"))?;
        }
    }
    Ok(exit::DONE)
}

/// Reads and checks the tensors of an inputs file; one that is not built is refused by name.
fn read(file: &Path) -> Result<ForwardInput, CliError> {
    let size = std::fs::metadata(file).map_err(|error| CliError::io(file, &error))?.len();
    if size > MAX_INPUTS {
        return Err(wrong(file, &format!("{size} bytes are more than {MAX_INPUTS}")));
    }
    let bytes = std::fs::read(file).map_err(|error| CliError::io(file, &error))?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| wrong(file, &format!("not a safetensors file: {error}")))?;
    let mut input = ForwardInput::default();
    let mut names = tensors.names();
    names.sort_unstable();
    for name in names {
        let tensor = tensors
            .tensor(name)
            .map_err(|error| wrong(file, &format!("tensor {name}: {error}")))?;
        match name {
            "input_ids" => {
                let [batch, length] = shape(file, name, &tensor)?;
                (input.batch, input.length) = (batch, length);
                input.input_ids = integers(file, name, &tensor)?
                    .into_iter()
                    .map(|id| u32::try_from(id).map(TokenId))
                    .collect::<Result<_, _>>()
                    .map_err(|_error| wrong(file, "input_ids has an id that is no token"))?;
            }
            "attention_mask" => {
                let mask = integers(file, name, &tensor)?;
                if mask.iter().any(|value| !(0..=1).contains(value)) {
                    return Err(wrong(file, "attention_mask has a value that is neither 0 nor 1"));
                }
                input.attention_mask = Some(mask.into_iter().map(|value| value == 1).collect());
            }
            "pixel_values" => {
                let _: [usize; 2] = shape(file, name, &tensor)?;
                input.pixel_values = Some(floats(file, name, &tensor)?);
            }
            "pixel_values_videos" => {
                let _: [usize; 2] = shape(file, name, &tensor)?;
                input.pixel_values_videos = Some(floats(file, name, &tensor)?);
            }
            "image_grid_thw" => input.image_grid_thw = Some(grids(file, name, &tensor)?),
            "video_grid_thw" => input.video_grid_thw = Some(grids(file, name, &tensor)?),
            _ => {
                let what = format!("{}: input {name:?} is not built", file.display());
                return Err(CliError::new("unsupported", exit::USAGE, what));
            }
        }
    }
    if input.batch == 0 {
        return Err(wrong(file, "input_ids is missing or empty"));
    }
    Ok(input)
}

fn shape<const N: usize>(
    file: &Path,
    name: &str,
    tensor: &TensorView<'_>,
) -> Result<[usize; N], CliError> {
    let found = tensor.shape();
    let what = || wrong(file, &format!("{name} has shape {found:?}, but needs {N} dimensions"));
    found.try_into().map_err(|_error| what())
}

fn integers(file: &Path, name: &str, tensor: &TensorView<'_>) -> Result<Vec<i64>, CliError> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::I64 => {
            let words = data.as_chunks::<8>().0;
            Ok(words.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
        }
        Dtype::I32 => {
            let words = data.as_chunks::<4>().0;
            Ok(words.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect())
        }
        other => Err(wrong(file, &format!("{name} is {other:?}, but must be I64 or I32"))),
    }
}

fn floats(file: &Path, name: &str, tensor: &TensorView<'_>) -> Result<Vec<f32>, CliError> {
    if tensor.dtype() != Dtype::F32 {
        let found = tensor.dtype();
        return Err(wrong(file, &format!("{name} is {found:?}, but must be F32")));
    }
    let words = tensor.data().as_chunks::<4>().0;
    let values: Vec<f32> = words.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(wrong(file, &format!("{name} holds {} at value {at}", values[at]))),
        None => Ok(values),
    }
}

fn grids(file: &Path, name: &str, tensor: &TensorView<'_>) -> Result<Vec<GridThw>, CliError> {
    let [_, three] = shape(file, name, tensor)?;
    let values = integers(file, name, tensor)?;
    let side = |value: i64| usize::try_from(value).ok().filter(|side| *side < 1 << 31);
    let rows = values
        .chunks_exact(3)
        .map(|row| Some(GridThw { t: side(row[0])?, h: side(row[1])?, w: side(row[2])? }));
    let rows: Option<Vec<GridThw>> = rows.collect();
    rows.filter(|_| three == 3)
        .ok_or_else(|| wrong(file, &format!("{name} must be [n, 3] of positive sides")))
}

/// Writes all outputs; names and shapes come back in order.
fn write(
    file: &Path,
    input: &ForwardInput,
    output: &ForwardOutput,
) -> Result<Vec<(String, Vec<usize>)>, CliError> {
    let long = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = output
        .tensors
        .iter()
        .map(|tensor| {
            let data = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (tensor.name.clone(), Dtype::F32, tensor.shape.clone(), data)
        })
        .collect();
    let slots = vec![3, input.batch, input.length];
    tensors.push(("position_ids".to_owned(), Dtype::I64, slots, long(&output.position_ids)));
    let deltas = vec![input.batch, 1];
    tensors.push(("rope_deltas".to_owned(), Dtype::I64, deltas, long(&output.rope_deltas)));
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, dtype, shape, data)| {
            TensorView::new(*dtype, shape.clone(), data).map(|view| (name.clone(), view))
        })
        .collect();
    let failed = |error: safetensors::SafeTensorError| {
        CliError::new("internal", exit::INTERNAL, Box::new(error))
    };
    let bytes = serialize(views.map_err(failed)?, None).map_err(failed)?;
    // In place, not by a rename: the path may be a device, a pipe or a link.
    std::fs::write(file, bytes).map_err(|error| CliError::io(file, &error))?;
    Ok(tensors.into_iter().map(|(name, _, shape, _)| (name, shape)).collect())
}

fn wrong(file: &Path, what: &str) -> CliError {
    CliError::new("invalid_request", exit::INPUT, format!("{}: {what}", file.display()))
}
