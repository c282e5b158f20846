//! Which layers see all tokens and which a window of them (docs/spec.md, section 1.5).

use serde_json::Value;

use super::{ConfigError, fields::Fields};
use crate::units::Tokens;

/// The window where `use_sliding_window` is set and no number given.
const WINDOW: usize = 4096;
/// The first layer with a window where the file does not say.
const MAX_WINDOW_LAYERS: usize = 80;

/// For each layer the tokens that a row sees, itself included; `None`: all up to itself.
pub(super) fn windows(
    fields: &Fields<'_>,
    layers: usize,
) -> Result<Vec<Option<Tokens>>, ConfigError> {
    let window = window(fields)?;
    let Some(types) = fields.set("layer_types") else {
        let first = fields.count("max_window_layers")?.unwrap_or(MAX_WINDOW_LAYERS);
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    let Value::Array(types) = types else {
        return Err(fields.wrong_type("layer_types", "a list of texts"));
    };
    if types.len() != layers {
        let rule = "layer_types must have one entry for each layer";
        return Err(fields.conflict("layer_types", ("num_hidden_layers", layers), rule));
    }
    let of_type = |entry: &Value| match (entry.as_str(), window) {
        (Some("full_attention"), _) => Ok(None),
        (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
        (Some("sliding_attention"), None) => {
            let rule = "a sliding layer needs use_sliding_window and a sliding_window";
            Err(fields.invalid("layer_types", rule))
        }
        _ => Err(fields.invalid("layer_types", "it holds an unknown layer type")),
    };
    types.iter().map(of_type).collect()
}

/// The window, if windows are in use at all.
fn window(fields: &Fields<'_>) -> Result<Option<Tokens>, ConfigError> {
    if !fields.flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(None);
    }
    match fields.raw("sliding_window") {
        None => Ok(Some(Tokens(WINDOW))),
        Some(Value::Null) => Ok(None),
        Some(_) => match fields.count("sliding_window")? {
            Some(window) if window > 0 => Ok(Some(Tokens(window))),
            _ => Err(fields.invalid("sliding_window", "sliding_window must be positive")),
        },
    }
}
