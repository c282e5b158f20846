//! `qwen2vl compare`: a forward pass against a dump of the reference.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    CliError, DeviceArgs, ModelArgs, Output,
    answers::DtypeArg,
    error::exit,
    forward_inputs::{self, Others},
    tensors::{self, Tensor},
};
use crate::engine::{
    Compared, Distance, FloatTensor, ForwardOptions, ReferenceDump, Tolerance, compare,
};

/// Names of outputs that a comparison knows.
const OUTPUTS: [&str; 8] = [
    "logits",
    "loss",
    "hidden_states/",
    "attentions/",
    "past/",
    "vision/",
    "image_features/",
    "video_features/",
];

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Inputs and outputs of a pass of the reference, as tools/dump_reference.py writes them
    #[arg(value_name = "DUMP.safetensors")]
    dump: PathBuf,
    /// Largest root mean square of the differences, over that of the values; by the type without it
    #[arg(long, value_name = "X")]
    rms: Option<f64>,
    /// Largest difference, over the largest value; by the type without it
    #[arg(long, value_name = "X")]
    max: Option<f64>,
    /// Settings over those of config.json; in its place if the file has a model_type
    #[arg(long, value_name = "FILE.json")]
    config: Option<PathBuf>,
    /// Type of weights and activations
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: DtypeArg,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Compares, prints a line for each tensor, and ends with 7 where one leaves tolerance.
pub(crate) fn run(arguments: &CompareArgs, out: &mut Output) -> Result<u8, CliError> {
    let dump = read(&arguments.dump)?;
    let options = ForwardOptions {
        device: arguments.device.choice()?,
        dtype: arguments.dtype.wish(),
        config: arguments.config.clone(),
        ..Default::default()
    };
    let limits = [arguments.rms, arguments.max].into_iter().flatten();
    if limits.into_iter().any(|limit| !(limit >= 0.0 && limit.is_finite())) {
        return Err(CliError::usage("--rms and --max must be numbers of at least 0"));
    }
    let comparison = compare(&arguments.model.model, &dump, &options, |default| Tolerance {
        rms: arguments.rms.unwrap_or(default.rms),
        max: arguments.max.unwrap_or(default.max),
    })?;
    let tolerance = comparison.tolerance;
    for warning in &comparison.warnings {
        out.warn("checkpoint", warning);
    }
    let first = comparison.first();
    if out.is_json() {
        out.document(&json!({
            "schema": "qwen2vl.compare/1",
            "within": first.is_none(),
            "first": first.map(|tensor| &tensor.name),
            "layer": first.and_then(|tensor| layer(&tensor.name)),
            "tolerance": {"rms": tolerance.rms, "max": tolerance.max},
            "tensors": comparison.tensors.iter().map(document).collect::<Vec<_>>(),
            "dtype": comparison.dtype.to_string(),
            "device": comparison.device,
        }))?;
    } else {
        out.line(&format!("{:28}  {:>17}  {:>17}  worst", "tensor", "end to end", "layer alone"))?;
        out.line(&format!("{:28}  {:>8} {:>8}  {:>8} {:>8}", "", "rms", "max", "rms", "max"))?;
        for tensor in &comparison.tensors {
            out.line(&line(tensor))?;
        }
        let limits =
            format!("{}: rms {:e}, max {:e}", comparison.dtype, tolerance.rms, tolerance.max);
        match first {
            None => out.line(&format!("all tensors are within tolerance ({limits})"))?,
            Some(tensor) => {
                let name = &tensor.name;
                let place = layer(name).map_or(String::new(), |layer| format!("{layer}, "));
                out.line(&format!("first out of tolerance ({limits}): {place}{name}"))?;
            }
        }
    }
    Ok(if first.is_none() { exit::DONE } else { exit::DIFFERS })
}

fn read(file: &Path) -> Result<ReferenceDump, CliError> {
    let bytes = tensors::load(file)?;
    let found = tensors::parse(file, &bytes)?;
    let mut dump = ReferenceDump {
        input: forward_inputs::read(file, &bytes, Others::Left)?,
        ..Default::default()
    };
    let mut names = found.names();
    names.sort_unstable();
    for name in names {
        let tensor = Tensor::of(file, &found, name)?;
        match name {
            "position_ids" => {
                let shape: [usize; 3] = tensor.shape()?;
                if shape != [3, dump.input.batch, dump.input.length] {
                    return Err(tensor.wrong("must be [3, B, S]"));
                }
                dump.position_ids = Some(tensor.integers()?);
            }
            "rope_deltas" => dump.rope_deltas = Some(tensor.integers()?),
            "past/mask" => {}
            _ if OUTPUTS.iter().any(|output| name.starts_with(output)) => {
                let (name, shape) = (name.to_owned(), tensor.view.shape().to_vec());
                dump.tensors.push(FloatTensor { name, shape, values: tensor.any_floats()? });
            }
            _ => {}
        }
    }
    Ok(dump)
}

/// In words, where a tensor is made.
fn layer(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        ["vision", kind, part] => Some(match part.strip_prefix("block_") {
            Some(block) => format!("vision block {block} ({kind})"),
            None => format!("vision tower ({kind})"),
        }),
        ["image_features" | "video_features", item] => Some(format!("vision item {item}")),
        ["hidden_states", "0"] => Some("embeddings".to_owned()),
        ["hidden_states", next] => {
            next.parse::<usize>().ok()?.checked_sub(1).map(|layer| format!("layer {layer}"))
        }
        ["attentions", layer] | ["past", layer, _] => Some(format!("layer {layer}")),
        ["logits" | "loss"] => Some("head".to_owned()),
        ["position_ids" | "rope_deltas"] => Some("positions".to_owned()),
        _ => None,
    }
}

fn line(tensor: &Compared) -> String {
    let pair = |distance: Option<Distance>, none: &str| match distance {
        Some(distance) => format!("{:>8.1e} {:>8.1e}", distance.rms, distance.max),
        None => format!("{none:>17}"),
    };
    let missing = format!("not {:?}", tensor.shape);
    let worst = tensor.alone.filter(|_| tensor.end_to_end.is_none()).or(tensor.end_to_end);
    let worst = worst.map_or(String::new(), |distance| {
        let index = index(&tensor.shape, distance.worst);
        format!("{index:?}: {} for {}", distance.got, distance.want)
    });
    let mark = if tensor.within { "" } else { "  OUT" };
    let (whole, alone) = (pair(tensor.end_to_end, &missing), pair(tensor.alone, "-"));
    format!("{:28}  {whole}  {alone}  {worst}{mark}", tensor.name)
}

fn document(tensor: &Compared) -> serde_json::Value {
    let distance = |distance: Option<Distance>| {
        distance.map(|distance| {
            let finite = |value: f64| value.is_finite().then_some(value);
            json!({
                "rms": finite(distance.rms),
                "max": finite(distance.max),
                "worst": index(&tensor.shape, distance.worst),
                "got": finite(distance.got),
                "want": finite(distance.want),
            })
        })
    };
    json!({
        "name": tensor.name,
        "shape": tensor.shape,
        "end_to_end": distance(tensor.end_to_end),
        "alone": distance(tensor.alone),
        "within": tensor.within,
    })
}

/// A flat index by dimensions.
fn index(shape: &[usize], mut flat: usize) -> Vec<usize> {
    let mut places = Vec::with_capacity(shape.len());
    for size in shape.iter().rev() {
        places.push(flat % size.max(&1));
        flat /= size.max(&1);
    }
    places.reverse();
    places
}
