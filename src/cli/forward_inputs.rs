//! The tensors of an inputs file as the inputs of a forward pass (docs/forward.md).

use std::path::Path;

use super::{
    CliError,
    error::exit,
    tensors::{self, Tensor},
};
use crate::{
    engine::{ForwardInput, LayerKeyValues, LogitsToKeep, PastKeyValues, PositionIds},
    units::TokenId,
};

/// Names that a cache has in a file.
const PAST: &str = "past/";

/// What becomes of tensors that are no input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// They are refused by name.
    Refused,
    /// They are outputs of the same pass.
    Left,
}

/// Reads the inputs of a file.
pub(super) fn read(file: &Path, bytes: &[u8], others: Others) -> Result<ForwardInput, CliError> {
    let found = tensors::parse(file, bytes)?;
    let mut input = ForwardInput::default();
    let mut names: Vec<&str> = found.names().into_iter().collect();
    names.sort_unstable();
    // A dump has the positions and deltas that came out, not those that went in.
    let skipped = |name: &str| {
        let outputs = ["position_ids", "rope_deltas"];
        others == Others::Left && (outputs.contains(&name) || name.starts_with(PAST))
    };
    for name in names.into_iter().filter(|name| !skipped(name) && !name.starts_with(PAST)) {
        let tensor = Tensor::of(file, &found, name)?;
        if !take(&mut input, &tensor)? && others == Others::Refused {
            let what = format!("{}: {name:?} is no input of a forward pass", file.display());
            return Err(CliError::new("unsupported", exit::USAGE, what));
        }
    }
    if others == Others::Refused {
        input.past = past(file, bytes)?;
    }
    if input.batch == 0 {
        return Err(tensors::wrong(file, "input_ids (or inputs_embeds) is missing or empty"));
    }
    Ok(input)
}

/// Takes one tensor; false if it is no input.
fn take(input: &mut ForwardInput, tensor: &Tensor<'_>) -> Result<bool, CliError> {
    match tensor.name {
        "input_ids" => {
            let [batch, length] = tensor.shape()?;
            (input.batch, input.length) = (batch, length);
            input.input_ids = tensor
                .integers()?
                .into_iter()
                .map(|id| u32::try_from(id).map(TokenId))
                .collect::<Result<_, _>>()
                .map_err(|_error| tensor.wrong("has an id that is no token"))?;
        }
        "inputs_embeds" => {
            let [batch, length, _] = tensor.shape()?;
            (input.batch, input.length) = (batch, length);
            input.inputs_embeds = Some(tensor.floats()?);
        }
        "attention_mask" => {
            let _: [usize; 2] = tensor.shape()?;
            input.attention_mask = Some(tensor.mask()?);
        }
        "position_ids" => {
            let axes = match *tensor.view.shape() {
                [_, _] => 1,
                [axes, _, _] => axes,
                _ => return Err(tensor.wrong("must be [B, S], [3, B, S] or [4, B, S]")),
            };
            input.position_ids = Some(PositionIds { axes, values: tensor.integers()? });
        }
        "rope_deltas" => input.rope_deltas = Some(tensor.integers()?),
        "cache_position" => input.cache_position = Some(tensor.integers()?),
        "pixel_values" => {
            let _: [usize; 2] = tensor.shape()?;
            input.pixel_values = Some(tensor.floats()?);
        }
        "pixel_values_videos" => {
            let _: [usize; 2] = tensor.shape()?;
            input.pixel_values_videos = Some(tensor.floats()?);
        }
        "image_embeds" => {
            let _: [usize; 2] = tensor.shape()?;
            input.image_embeds = Some(tensor.floats()?);
        }
        "video_embeds" => {
            let _: [usize; 2] = tensor.shape()?;
            input.video_embeds = Some(tensor.floats()?);
        }
        "image_grid_thw" => input.image_grid_thw = Some(tensor.grids()?),
        "video_grid_thw" => input.video_grid_thw = Some(tensor.grids()?),
        "second_per_grid_ts" => {
            let _: [usize; 1] = tensor.shape()?;
            input.second_per_grid_ts = Some(tensor.floats()?);
        }
        "labels" => {
            let _: [usize; 2] = tensor.shape()?;
            input.labels = Some(tensor.integers()?);
        }
        "num_items_in_batch" => {
            let count = match tensor.integers()?.as_slice() {
                [count] => u64::try_from(*count).ok().filter(|count| *count > 0),
                _ => None,
            };
            let count = count.ok_or_else(|| tensor.wrong("must be one positive number"))?;
            input.num_items_in_batch = Some(count);
        }
        "logits_to_keep" => input.logits_to_keep = logits_to_keep(tensor, input.length)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A count without dimensions; slots with one, negative ones from the end.
fn logits_to_keep(tensor: &Tensor<'_>, length: usize) -> Result<LogitsToKeep, CliError> {
    let values = tensor.integers()?;
    let bad = || tensor.wrong("must be a count, or a list of slots");
    match (tensor.view.shape(), values.as_slice()) {
        ([], [count]) => Ok(LogitsToKeep::Last(usize::try_from(*count).map_err(|_e| bad())?)),
        ([_], slots) => {
            let length = i64::try_from(length).map_err(|_error| bad())?;
            let slot = |slot: &i64| {
                let from_start = if *slot < 0 { slot.checked_add(length)? } else { *slot };
                usize::try_from(from_start).ok()
            };
            let slots: Option<Vec<usize>> = slots.iter().map(slot).collect();
            slots.map(LogitsToKeep::Slots).ok_or_else(bad)
        }
        _ => Err(bad()),
    }
}

/// The cache in a file: `past/i/keys` and `past/i/values` `[B, G, P, D]` of every layer, and
/// `past/mask` `[B, P]`; `None` if there is none.
fn past(file: &Path, bytes: &[u8]) -> Result<Option<PastKeyValues>, CliError> {
    let found = tensors::parse(file, bytes)?;
    let names = found.names();
    if !names.iter().any(|name| name.starts_with(PAST)) {
        return Ok(None);
    }
    let mut past = PastKeyValues::default();
    let mut read = 0;
    loop {
        let [keys, values] =
            ["keys", "values"].map(|part| format!("{PAST}{}/{part}", past.layers.len()));
        if !names.contains(&keys.as_str()) && !names.contains(&values.as_str()) {
            break;
        }
        let (keys, values) = (Tensor::of(file, &found, &keys)?, Tensor::of(file, &found, &values)?);
        for tensor in [&keys, &values] {
            let shape = tensor.shape()?;
            if !past.layers.is_empty() && shape != past.shape || shape.contains(&0) {
                return Err(tensor.wrong("must have the shape of the first layer's, no side 0"));
            }
            past.shape = shape;
        }
        past.layers.push(LayerKeyValues { keys: keys.floats()?, values: values.floats()? });
        read += 2;
    }
    if names.contains(&"past/mask") {
        past.mask = Some(Tensor::of(file, &found, "past/mask")?.mask()?);
        read += 1;
    }
    match names.iter().filter(|name| name.starts_with(PAST)).count() == read {
        true => Ok(Some(past)),
        false => Err(tensors::wrong(file, "past/… must be past/i/keys, past/i/values, past/mask")),
    }
}

/// Takes the cache of an earlier pass's output file, with what it says of positions.
pub(super) fn take_past(input: &mut ForwardInput, file: &Path) -> Result<(), CliError> {
    let bytes = tensors::load(file)?;
    let past = past(file, &bytes)?;
    let past = past.ok_or_else(|| tensors::wrong(file, "holds no past/…: write it with --kv"))?;
    input.past = Some(past);
    if input.rope_deltas.is_none() {
        let found = tensors::parse(file, &bytes)?;
        let deltas = Tensor::of(file, &found, "rope_deltas")?;
        input.rope_deltas = Some(deltas.integers()?);
    }
    Ok(())
}
