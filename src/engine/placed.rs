//! Where the tokens of a prompt stand (docs/spec.md, section 7.1).

use super::EngineError;
use crate::{
    model::{
        ModelError,
        config::ModelConfig,
        positions::{self, Grids, Positions},
    },
    prompt::{MediaInput, Processed},
    units::GridThw,
};

/// M-RoPE positions of a prompt as the model gets them: time, height and width of each token, and
/// the position of the token that follows.
///
/// # Errors
/// [`EngineError::Model`] for grids that do not fit the placeholders.
pub fn prompt_positions(
    config: &ModelConfig,
    processed: &Processed,
) -> Result<Positions, EngineError> {
    let grid = |medium: &MediaInput| medium.used.grid;
    let images: Vec<GridThw> = processed.images().map(grid).collect();
    let videos: Vec<GridThw> = processed.videos().map(grid).collect();
    let frames =
        |medium: &MediaInput| medium.used.frames.as_ref().map(|frames| frames.seconds_per_group);
    let seconds: Vec<f64> = processed.videos().filter_map(frames).collect();
    let grids = Grids { images: &images, videos: &videos, seconds: Some(&seconds) };
    Ok(positions::sequence(config, &processed.input_ids, grids).map_err(ModelError::from)?)
}
